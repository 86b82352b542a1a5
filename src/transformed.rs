//! The passes over rows whose logits are transformed before the softmax, or whose gradient is of another dtype; and over rows
//! of one block whose gradient is added to what is there, which has no room for exponentials.
//!
//! Transformed logits are `f32`, whatever the logits are, in memory of the passes' own that stays in the first-level cache; so
//! all else is what happens to `f32`. Few classes and rows of one block become tiles, and the gradient finds the transform's
//! derivatives beside them. Longer rows are transformed block by block, once in each pass. Where there is no transform the
//! logits only become `f32`, and the gradient the dtype that it has on its way out.

use core::ops::Range;

use crate::batch::{Batch, Wide};
use crate::kernel::affine::Shift;
use crate::kernel::gaps::Gaps;
use crate::kernel::lanes::{NO_CLASS, RowLanes};
use crate::kernel::place::RowsOf;
use crate::kernel::statistics::BLOCK;
use crate::kernel::tasks::{Content, RowAffine};
use crate::kernel::transform::{Outgoing, TransformTask, WriteTask};
use crate::kernel::{Entry, few_classes, short_rows};
use crate::loss::Transform;
use crate::passes::{Kernels, Output, Passes, gaps_of};
use crate::rows::{Job, Totals, run_passes};
use crate::scratch::Scratch;
use crate::simd::LANES;

/// Whether the rows of a batch go this way.
pub(crate) fn takes<T: Kernels>(job: &Job<'_>, batch: &Batch<'_, T>) -> bool {
    let is_one_block = (few_classes::MOST + 1..=BLOCK).contains(&batch.classes());
    job.options.transform::<f32>().is_some()
        || batch.request.other_grad().is_some()
        || is_one_block && batch.adds(Wide::Gradient)
}

/// All rows of a batch, as [`Dtype::run_piece`](crate::rows::Dtype::run_piece).
pub(crate) fn run<T: Kernels>(job: &Job<'_>, batch: Batch<'_, T>, rows_per_piece: usize) -> Totals {
    let classes = batch.classes();
    if classes <= few_classes::MOST {
        run_passes(job, batch, FewClasses::new, rows_per_piece)
    } else if classes <= BLOCK {
        run_passes(job, batch, ShortRows::new, rows_per_piece)
    } else {
        run_passes(job, batch, |_, _| LongRows, rows_per_piece)
    }
}

/// Few classes: all rows of a tile side by side.
pub(crate) struct FewClasses {
    rows: FewRows,
    transposed: few_classes::Tile,
}

/// The rows of a tile of few classes, one behind the other: logits as `f32`, and then outputs.
pub(crate) struct FewRows {
    transform: Option<Transform>,
    /// Whether a gradient goes back through a derivative that differs between logits.
    has_slopes: bool,
    rows: [f32; LANES * few_classes::MOST],
    slopes: [f32; LANES * few_classes::MOST],
}

fn has_slopes<T: Kernels>(transform: Option<Transform>, batch: &Batch<'_, T>) -> bool {
    transform.is_some_and(|it| it.has_slopes()) && batch.writes(Wide::Gradient)
}

impl FewClasses {
    #[inline(always)]
    pub(crate) fn new<T: Kernels>(job: &Job<'_>, batch: &Batch<'_, T>) -> Self {
        Self { rows: FewRows::new(job, batch), transposed: few_classes::Tile::new() }
    }
}

impl FewRows {
    #[inline(always)]
    pub(crate) fn new<T: Kernels>(job: &Job<'_>, batch: &Batch<'_, T>) -> Self {
        let transform = job.options.transform();
        let has_slopes = has_slopes(transform, batch);
        Self {
            transform,
            has_slopes,
            rows: [0.0; LANES * few_classes::MOST],
            slopes: [0.0; LANES * few_classes::MOST],
        }
    }

    /// Reads and transforms a tile's logits.
    pub(crate) fn read<T: Kernels>(
        &mut self,
        job: &Job<'_>,
        batch: &Batch<'_, T>,
        tile: Range<usize>,
    ) -> RowsOf<&[f32]> {
        let logits = batch.rows_of_logits(tile);
        let RowsOf { classes, count, .. } = logits;
        job.schedule.instructions.run(TransformTask {
            transform: self.transform,
            rows: logits,
            counts: None,
            to: &mut self.rows,
            slopes: if self.has_slopes { &mut self.slopes } else { &mut [] },
            to_stride: classes,
        });
        RowsOf { data: &self.rows, row_stride: classes, classes, count }
    }

    /// In the place of the logits, an output that is then [written](FewRows::write).
    pub(crate) fn rows_mut(&mut self, classes: usize, count: usize) -> RowsOf<&mut [f32]> {
        RowsOf { data: &mut self.rows, row_stride: classes, classes, count }
    }

    /// Writes an output, back through the transform where it is a gradient.
    pub(crate) fn write<T: Kernels>(
        &self,
        job: &Job<'_>,
        batch: &mut Batch<'_, T>,
        tile: Range<usize>,
        output: &Output<'_>,
    ) {
        let (wide, adds, row_stride) = (output.wide, batch.adds(output.wide), batch.classes());
        let outgoing = Outgoing {
            from: &self.rows,
            slopes: if self.has_slopes && wide == Wide::Gradient { &self.slopes } else { &[] },
            row_stride,
            counts: adds.then_some(&output.lanes.counts),
            adds,
            streaming: job.streaming && !batch.overwrites(wide),
        };
        batch.write(job, wide, tile, outgoing);
    }
}

impl<T: Kernels> Passes<T> for FewClasses {
    fn statistics(
        &mut self,
        job: &Job<'_>,
        batch: &mut Batch<'_, T>,
        tile: Range<usize>,
        lanes: &mut RowLanes,
    ) {
        job.schedule.instructions.run(few_classes::StatisticsTask {
            tile: &mut self.transposed,
            logits: self.rows.read(job, batch, tile),
            gaps: gaps_of(job, batch),
            rows: lanes,
        });
    }

    fn affine(&mut self, job: &Job<'_>, batch: &mut Batch<'_, T>, tile: Range<usize>, output: &Output<'_>) {
        job.schedule.instructions.run(few_classes::AffineTask {
            tile: &self.transposed,
            to: self.rows.rows_mut(batch.classes(), tile.len()),
            adds: false,
            gaps: output.gaps(job),
            coefficients: output.coefficients,
            rows: output.lanes,
        });
        self.rows.write(job, batch, tile, output);
    }
}

/// Rows of one block: each step for all rows of a tile.
struct ShortRows {
    transform: Option<Transform>,
    has_slopes: bool,
    /// The last output to be made of the exponentials, which may take their place.
    keeps: Option<Wide>,
    /// Transformed logits, and then their exponentials where they are kept.
    rows: Scratch,
    slopes: Scratch,
}

impl ShortRows {
    #[inline(always)]
    fn new<T: Kernels>(job: &Job<'_>, batch: &Batch<'_, T>) -> Self {
        let transform = job.options.transform();
        let keeps = if !batch.writes(Wide::Gradient) {
            batch.writes(Wide::Probabilities).then_some(Wide::Probabilities)
        } else {
            // Exponentials do not show which classes are live.
            (!job.options.gaps::<f32>().is_live()).then_some(Wide::Gradient)
        };
        let has_slopes = has_slopes(transform, batch) && keeps.is_some();
        Self { transform, has_slopes, keeps, rows: Scratch::new(), slopes: Scratch::new() }
    }
}

impl<T: Kernels> Passes<T> for ShortRows {
    fn statistics(
        &mut self,
        job: &Job<'_>,
        batch: &mut Batch<'_, T>,
        tile: Range<usize>,
        lanes: &mut RowLanes,
    ) {
        let Self { transform, has_slopes, keeps, rows: Scratch(rows), slopes: Scratch(slopes) } = self;
        let logits = batch.rows_of_logits(tile);
        let RowsOf { classes, count, .. } = logits;
        let row_stride = Scratch::row_stride(classes, count);
        job.schedule.instructions.run(TransformTask {
            transform: *transform,
            rows: logits,
            counts: Some(&lanes.counts),
            to: rows,
            slopes: if *has_slopes { slopes } else { &mut [] },
            to_stride: row_stride,
        });
        let source = if keeps.is_some() {
            short_rows::Source::Overwrite(RowsOf { data: rows, row_stride, classes, count })
        } else {
            short_rows::Source::<f32>::Read(RowsOf { data: rows, row_stride, classes, count })
        };
        let gaps = gaps_of(job, batch);
        job.schedule.instructions.run(short_rows::StatisticsTask { source, gaps, rows: lanes });
    }

    fn affine(&mut self, job: &Job<'_>, batch: &mut Batch<'_, T>, tile: Range<usize>, output: &Output<'_>) {
        let Output { wide, lanes, coefficients } = *output;
        if self.keeps != Some(wide) {
            return affine_of_rows(job, batch, tile, output);
        }
        let Self { has_slopes, rows: Scratch(rows), slopes: Scratch(slopes), .. } = self;
        let (classes, count) = (batch.classes(), tile.len());
        let row_stride = Scratch::row_stride(classes, count);
        let kept = RowsOf { data: rows.as_mut_slice(), row_stride, classes, count };
        job.schedule.instructions.run(short_rows::AffineTask {
            kept: short_rows::Kept { rows: kept, further_down: 0 },
            shift: if wide == Wide::Gradient { job.options.shift(0.0) } else { Shift::None },
            coefficients,
            rows: lanes,
        });
        let outgoing = Outgoing {
            from: rows,
            slopes: if *has_slopes { slopes } else { &[] },
            row_stride,
            counts: Some(&lanes.counts),
            adds: batch.adds(wide),
            streaming: job.streaming && !batch.overwrites(wide),
        };
        batch.write(job, wide, tile, outgoing);
    }
}

/// Longer rows, which go alone, in pieces for several threads.
struct LongRows;

impl<T: Kernels> Passes<T> for LongRows {
    fn statistics(
        &mut self,
        job: &Job<'_>,
        batch: &mut Batch<'_, T>,
        tile: Range<usize>,
        lanes: &mut RowLanes,
    ) {
        if !lanes.counts[0] {
            return;
        }
        let row = tile.start;
        let logits = job.logits(batch.logits.row(row));
        let (pivot, gaps) = match lanes.class[0] {
            NO_CLASS => (Entry::NONE, Gaps::None),
            class => (logits.entry(class), job.options.gaps()),
        };
        let statistics = logits.statistics(batch.following(row), pivot, gaps, &mut []);
        lanes.set_statistics(0, &statistics, pivot.value);
    }

    fn affine(&mut self, job: &Job<'_>, batch: &mut Batch<'_, T>, tile: Range<usize>, output: &Output<'_>) {
        affine_of_rows(job, batch, tile, output);
    }
}

/// An affine output from the logits.
fn affine_of_rows<T: Kernels>(
    job: &Job<'_>,
    batch: &mut Batch<'_, T>,
    tile: Range<usize>,
    output: &Output<'_>,
) {
    let Output { wide, lanes, .. } = *output;
    for (lane, row) in tile.enumerate().filter(|&(lane, _)| lanes.counts[lane]) {
        batch.affine(job, row, wide, output.of_row(job, lane, Content::LogitsOfShard));
    }
}

impl<T: Kernels> Batch<'_, T> {
    /// An affine output of a row from its logits, of whatever dtype it is.
    pub(crate) fn affine(&mut self, job: &Job<'_>, row: usize, wide: Wide, affine: RowAffine<'_>) {
        let adds = self.adds(wide);
        if let Some((grad, x)) = self.other_grad(row, wide) {
            grad.affine(job, row, x, adds, affine);
        } else if let Some(columns) = self.columns(row, wide, job.streaming) {
            job.affine(affine.of(columns), wide);
        }
    }

    /// A tile of an output that was computed in `f32`.
    fn write(&mut self, job: &Job<'_>, wide: Wide, tile: Range<usize>, outgoing: Outgoing<'_>) {
        if let Some((grad, _)) = self.other_grad(tile.start, wide) {
            grad.write(job, tile, outgoing);
        } else if let Some(rows) = self.rows_of(wide, tile) {
            job.schedule.instructions.run(WriteTask { outgoing, rows });
        }
    }
}
