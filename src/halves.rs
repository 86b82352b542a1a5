//! The passes over rows of 16-bit numbers, whose memory has no room for exponentials.
//!
//! Few classes become a tile of `f32`, as transformed logits do, and go the way of `f32`. Rows of one block keep their
//! exponentials in memory of their own, which stays in the first-level cache. Longer rows are read twice, and their
//! exponentials computed twice: to keep them would cost twice the memory of the row itself.

use core::ops::Range;

use half::{bf16, f16};

use crate::batch::{Batch, Wide};
use crate::kernel::affine::Shift;
use crate::kernel::gaps::Gaps;
use crate::kernel::lanes::{NO_CLASS, RowLanes};
use crate::kernel::place::{Columns, RowsOf};
use crate::kernel::statistics::BLOCK;
use crate::kernel::tasks::{Content, StatisticsTask};
use crate::kernel::{Entry, short_rows};
use crate::passes::{Kernels, MOST_REFERENCES, Output, Passes, affine_of_rows, gaps_of};
use crate::rows::Job;
use crate::scratch::Scratch;
use crate::transformed::FewClasses;

macro_rules! kernels {
    ($($half:ty),+) => {
        $(impl Kernels for $half {
            fn few_classes(job: &Job<'_>, batch: &Batch<'_, Self>) -> impl Passes<Self> + use<> {
                FewClasses::new(job, batch)
            }

            fn short_rows(_: &Job<'_>, batch: &Batch<'_, Self>) -> impl Passes<Self> + use<> {
                WithScratch::new(batch)
            }

            fn long_rows(_: &Job<'_>, batch: &Batch<'_, Self>) -> impl Passes<Self> + use<> {
                ReadTwice::new(batch)
            }
        })+
    };
}

kernels!(bf16, f16);

/// Rows of one block.
struct WithScratch {
    keeps: bool,
    /// The exponentials of a tile.
    exps: Scratch,
}

impl WithScratch {
    fn new<T: Kernels>(batch: &Batch<'_, T>) -> Self {
        let keeps = batch.writes(Wide::Gradient) || batch.writes(Wide::Probabilities);
        Self { keeps, exps: Scratch::new() }
    }
}

impl<T: Kernels> Passes<T> for WithScratch {
    fn statistics(
        &mut self,
        job: &Job<'_>,
        batch: &mut Batch<'_, T>,
        tile: Range<usize>,
        lanes: &mut RowLanes,
    ) {
        let gaps = gaps_of(job, batch);
        let logits = batch.rows_of_logits(tile);
        let RowsOf { classes, count, .. } = logits;
        let source = if self.keeps {
            let row_stride = Scratch::row_stride(classes, count);
            let rows = RowsOf { data: self.exps.0.as_mut_slice(), row_stride, classes, count };
            short_rows::Source::Keep(logits, short_rows::Kept { rows, further_down: 0 })
        } else {
            short_rows::Source::Read(logits)
        };
        job.schedule.instructions.run(short_rows::StatisticsTask { source, gaps, rows: lanes });
    }

    fn affine(&mut self, job: &Job<'_>, batch: &mut Batch<'_, T>, tile: Range<usize>, output: &Output<'_>) {
        let Output { wide, lanes, coefficients } = *output;
        // Exponentials do not show which classes are live.
        if output.gaps(job).is_live() {
            return affine_of_rows(job, batch, tile, output);
        }
        let streaming = job.streaming && !batch.overwrites(wide);
        let Some(out) = batch.rows_of(wide, tile) else { return };
        let RowsOf { classes, count, .. } = out;
        let row_stride = Scratch::row_stride(classes, count);
        job.schedule.instructions.run(short_rows::ScratchAffineTask {
            exps: RowsOf { data: &self.exps.0, row_stride, classes, count },
            out,
            streaming,
            shift: if wide == Wide::Gradient { job.options.shift(0.0) } else { Shift::None },
            coefficients,
            rows: lanes,
        });
    }
}

/// Longer rows, which go alone, in pieces for several threads.
struct ReadTwice {
    /// How many the row has; none, where there is no room for their references.
    blocks: usize,
    references: [f32; MOST_REFERENCES],
}

impl ReadTwice {
    fn new<T: Kernels>(batch: &Batch<'_, T>) -> Self {
        let blocks = batch.classes().div_ceil(BLOCK);
        Self {
            blocks: if blocks <= MOST_REFERENCES { blocks } else { 0 },
            references: [0.0; MOST_REFERENCES],
        }
    }
}

impl<T: Kernels> Passes<T> for ReadTwice {
    fn statistics(
        &mut self,
        job: &Job<'_>,
        batch: &mut Batch<'_, T>,
        tile: Range<usize>,
        lanes: &mut RowLanes,
    ) {
        let (row, class) = (tile.start, lanes.class[0]);
        if !lanes.counts[0] {
            return;
        }
        let x = batch.logits.row(row);
        let pivot = batch.pivot(row, class);
        let gaps = if class == NO_CLASS { Gaps::None } else { job.options.gaps() };
        let task = StatisticsTask {
            columns: Columns::Read(x),
            following: batch.following(row),
            pivot,
            gaps,
            references: &mut self.references[..self.blocks],
        };
        lanes.set_statistics(0, &job.schedule.statistics(task), pivot.value);
    }

    fn affine(&mut self, job: &Job<'_>, batch: &mut Batch<'_, T>, tile: Range<usize>, output: &Output<'_>) {
        let Output { wide, lanes, .. } = *output;
        if !lanes.counts[0] {
            return;
        }
        let content = if self.blocks > 0 {
            Content::Logits(&self.references[..self.blocks])
        } else {
            let pivot = match lanes.class[0] {
                NO_CLASS => Entry::NONE,
                class => Entry::new(class, lanes.target_logit[0]),
            };
            Content::ManyLogits(pivot)
        };
        let Some(columns) = batch.columns(tile.start, wide, job.streaming) else { return };
        job.schedule.affine(output.of_row(job, 0, content).of(columns));
    }
}
