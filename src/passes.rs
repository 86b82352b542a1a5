//! The two passes over a tile, for each kind of rows.

use core::ops::Range;
use core::slice;

use crate::batch::{Batch, Wide};
use crate::kernel::gaps::Gaps;
use crate::kernel::lanes::{CoefficientLanes, NO_CLASS, RowLanes};
use crate::kernel::map::Shift;
use crate::kernel::place::Columns;
use crate::kernel::statistics::BLOCK;
use crate::kernel::tasks::{AffineTask, Content, StatisticsTask};
use crate::kernel::{Entry, few_classes, short_rows};
use crate::parallel::SplitRows;
use crate::rows::Job;

/// Blocks of a row whose references are remembered. Longer rows are past the second-level cache, where reading logits
/// twice costs less than storing and reading exponentials.
const MOST_REFERENCES: usize = 256;

/// What the driver in `rows.rs` asks for. Rows that do not count are left alone, or written as anything.
pub(crate) trait Passes {
    fn statistics(&mut self, job: &Job<'_>, batch: &mut Batch<'_>, tile: Range<usize>, lanes: &mut RowLanes);

    /// An output that is an affine function of the exponentials.
    fn affine(&mut self, job: &Job<'_>, batch: &mut Batch<'_>, tile: Range<usize>, output: &Output<'_>);
}

/// An output that the second pass writes, and what it is for each row.
pub(crate) struct Output<'a> {
    pub(crate) wide: Wide,
    pub(crate) lanes: &'a RowLanes,
    pub(crate) coefficients: &'a CoefficientLanes,
}

impl<'a> Output<'a> {
    fn gaps<'b>(&self, job: &Job<'b>) -> Gaps<'b> {
        if self.wide == Wide::Gradient { job.options.gaps() } else { Gaps::None }
    }

    /// The task of one row.
    fn task<'b>(
        &self,
        job: &Job<'b>,
        lane: usize,
        columns: Columns<'b>,
        content: Content<'b>,
    ) -> AffineTask<'b> {
        let Self { lanes, coefficients, .. } = self;
        let (mut target, mut shift) = (Entry::NONE, Shift::None);
        if lanes.class[lane] != NO_CLASS {
            target = Entry::new(lanes.class[lane], coefficients.at_target[lane]);
            if self.wide == Wide::Gradient {
                shift = job.options.shift(coefficients.shift[lane]);
            }
        }
        let (max, scale) = (lanes.max[lane], coefficients.exact_scale[lane]);
        AffineTask { columns, content, max, scale, shift, target }
    }
}

/// The gaps that the first pass sums up.
fn gaps_of<'a>(job: &Job<'a>, batch: &Batch<'_>) -> Gaps<'a> {
    if batch.targets.is_some() { job.options.gaps() } else { Gaps::None }
}

/// How many rows further down a tile's exponentials are kept: with stores past the caches, in the rows written last.
fn further_down(job: &Job<'_>, batch: &Batch<'_>, tile: &Range<usize>) -> usize {
    if job.streaming { batch.rows() - tile.end } else { 0 }
}

/// Few classes: all rows of a tile side by side.
pub(crate) struct Transposed {
    tile: few_classes::Tile,
}

impl Transposed {
    pub(crate) fn new() -> Self {
        Self { tile: few_classes::Tile::new() }
    }
}

impl Passes for Transposed {
    fn statistics(&mut self, job: &Job<'_>, batch: &mut Batch<'_>, tile: Range<usize>, lanes: &mut RowLanes) {
        let task = few_classes::StatisticsTask {
            tile: &mut self.tile,
            logits: batch.rows_of_logits(tile),
            gaps: gaps_of(job, batch),
            rows: lanes,
        };
        job.schedule.instructions.run(task);
        // The lanes of an incomplete tile hold what no row is.
        if !lanes.is_full() {
            lanes.leave_out_ignored();
        }
    }

    fn affine(&mut self, job: &Job<'_>, batch: &mut Batch<'_>, tile: Range<usize>, output: &Output<'_>) {
        let Some(to) = batch.rows_of(output.wide, tile) else { return };
        job.schedule.instructions.run(few_classes::AffineTask {
            tile: &self.tile,
            to,
            gaps: output.gaps(job),
            coefficients: output.coefficients,
            rows: output.lanes,
        });
    }
}

/// Rows of one block: each step for all rows of a tile.
pub(crate) struct ShortRows {
    /// The output that keeps exponentials.
    keeps: Option<Wide>,
}

impl ShortRows {
    pub(crate) fn new(batch: &Batch<'_>) -> Self {
        Self { keeps: batch.keeps_exponentials() }
    }
}

impl Passes for ShortRows {
    fn statistics(&mut self, job: &Job<'_>, batch: &mut Batch<'_>, tile: Range<usize>, lanes: &mut RowLanes) {
        let (gaps, further_down) = (gaps_of(job, batch), further_down(job, batch, &tile));
        let source = batch.short_source(tile, self.keeps, further_down);
        job.schedule.instructions.run(short_rows::StatisticsTask { source, gaps, rows: lanes });
    }

    fn affine(&mut self, job: &Job<'_>, batch: &mut Batch<'_>, tile: Range<usize>, output: &Output<'_>) {
        let Output { wide, lanes, coefficients } = *output;
        if self.keeps == Some(wide) {
            let further_down = further_down(job, batch, &tile);
            let Some(kept) = batch.short_kept(tile, wide, further_down) else { return };
            let shift = if wide == Wide::Gradient { job.options.shift(0.0) } else { Shift::None };
            let task = short_rows::AffineTask { kept, shift, coefficients, rows: lanes };
            return job.schedule.instructions.run(task);
        }
        for (lane, row) in tile.enumerate().filter(|&(lane, _)| lanes.counts[lane]) {
            // The maximum of the only block is its reference.
            let content = Content::Logits(slice::from_ref(&lanes.max[lane]));
            let Some(columns) = batch.columns(row, wide, job.streaming) else { return };
            job.schedule.affine(output.task(job, lane, columns, content));
        }
    }
}

/// Longer rows, which go alone, in pieces for several threads.
pub(crate) struct LongRows {
    /// The output that keeps exponentials.
    keeps: Option<Wide>,
    /// How many the row has; none, where there is no room for them.
    blocks: usize,
    references: [f32; MOST_REFERENCES],
}

impl LongRows {
    pub(crate) fn new(batch: &Batch<'_>) -> Self {
        let blocks = batch.classes().div_ceil(BLOCK);
        let has_references = blocks <= MOST_REFERENCES;
        Self {
            keeps: batch.keeps_exponentials().filter(|_| has_references),
            blocks: if has_references { blocks } else { 0 },
            references: [0.0; MOST_REFERENCES],
        }
    }
}

impl Passes for LongRows {
    fn statistics(&mut self, job: &Job<'_>, batch: &mut Batch<'_>, tile: Range<usize>, lanes: &mut RowLanes) {
        let (row, class) = (tile.start, lanes.class[0]);
        if !lanes.counts[0] {
            return;
        }
        let (mut pivot, mut gaps) = (Entry::NONE, Gaps::None);
        if class != NO_CLASS {
            pivot = Entry::new(class, batch.logits.row(row)[class]);
            gaps = job.options.gaps();
        }
        let following = batch.following(row);
        let kept = row + further_down(job, batch, &tile);
        let columns = match self.keeps {
            Some(wide) => batch.source(row, wide, kept),
            None => Columns::Read(batch.logits.row(row)),
        };
        let references = &mut self.references[..self.blocks];
        let task = StatisticsTask { columns, following, pivot, gaps, references };
        lanes.set_statistics(0, &job.schedule.statistics(task), pivot.value);
    }

    fn affine(&mut self, job: &Job<'_>, batch: &mut Batch<'_>, tile: Range<usize>, output: &Output<'_>) {
        let Output { wide, lanes, .. } = *output;
        let (row, references) = (tile.start, &self.references[..self.blocks]);
        if !lanes.counts[0] {
            return;
        }
        let (content, columns) = if self.keeps == Some(wide) {
            let kept = row + further_down(job, batch, &tile);
            (Content::Exps(references), batch.kept_columns(row, wide, kept))
        } else if self.blocks > 0 {
            (Content::Logits(references), batch.columns(row, wide, job.streaming))
        } else {
            let pivot = match lanes.class[0] {
                NO_CLASS => Entry::NONE,
                class => Entry::new(class, lanes.target_logit[0]),
            };
            (Content::ManyLogits(pivot), batch.columns(row, wide, job.streaming))
        };
        let Some(columns) = columns else { return };
        job.schedule.affine(output.task(job, 0, columns, content));
    }
}
