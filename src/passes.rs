//! The two passes over a tile, for each kind of rows.

use core::ops::Range;
use core::slice;

use crate::Element;
use crate::batch::{Batch, Wide};
use crate::grad::OtherGrad;
use crate::kernel::affine::Shift;
use crate::kernel::alongside::KeptRow;
use crate::kernel::gaps::Gaps;
use crate::kernel::lanes::{NO_CLASS, RowLanes};
use crate::kernel::number::Number;
use crate::kernel::place::Columns;
use crate::kernel::real::Real;
use crate::kernel::results::{CoefficientLanes, CoefficientsTask};
use crate::kernel::scalar::to_f32;
use crate::kernel::statistics::{BLOCK, Statistics};
use crate::kernel::tasks::{Content, LogProbabilitiesTask, OverlappedTask, RowAffine, StatisticsTask};
use crate::kernel::{Entry, few_classes, short_rows};
use crate::parallel::SplitRows;
use crate::rows::{Dtype, Job, Totals, run_passes};
use crate::{target_probabilities, transformed};

/// Blocks of a row whose references are remembered. Longer rows are past the second-level cache, where reading logits
/// twice costs less than storing and reading exponentials.
pub(crate) const MOST_REFERENCES: usize = 256;

/// What the driver in `rows.rs` asks for. Rows that do not count are left alone, or written as anything.
pub(crate) trait Passes<T: Element = f32> {
    fn statistics(
        &mut self,
        job: &Job<'_>,
        batch: &mut Batch<'_, T>,
        tile: Range<usize>,
        lanes: &mut RowLanes<T::PerRow>,
    );

    /// An output that is an affine function of the exponentials.
    fn affine(
        &mut self,
        job: &Job<'_>,
        batch: &mut Batch<'_, T>,
        tile: Range<usize>,
        output: &Output<'_, T::PerRow>,
    );

    /// The output whose second pass over a tile waits for the first pass over the next, if one does.
    fn defers(&self, _tile: &Range<usize>) -> Option<Wide> {
        None
    }

    /// The second pass over a tile that waits, along with the first over the next.
    fn overlapped(
        &mut self,
        job: &Job<'_>,
        batch: &mut Batch<'_, T>,
        [tile, next]: [Range<usize>; 2],
        output: &Output<'_, T::PerRow>,
        lanes: &mut RowLanes<T::PerRow>,
    ) {
        self.affine(job, batch, tile, output);
        self.statistics(job, batch, next, lanes);
    }
}

/// Which passes the rows of a dtype take.
pub(crate) trait Kernels: Element<PerRow = f32> + Number {
    fn few_classes(job: &Job<'_>, batch: &Batch<'_, Self>) -> impl Passes<Self> + use<Self>;
    fn short_rows(job: &Job<'_>, batch: &Batch<'_, Self>) -> impl Passes<Self> + use<Self>;
    fn long_rows(job: &Job<'_>, batch: &Batch<'_, Self>) -> impl Passes<Self> + use<Self>;
}

impl Kernels for f32 {
    fn few_classes(_: &Job<'_>, _: &Batch<'_>) -> impl Passes + use<> {
        Transposed::new()
    }

    fn short_rows(job: &Job<'_>, batch: &Batch<'_>) -> impl Passes + use<> {
        ShortRows::new(job, batch)
    }

    fn long_rows(job: &Job<'_>, batch: &Batch<'_>) -> impl Passes + use<> {
        LongRows::new(job, batch)
    }
}

impl<T: Kernels> Dtype for T {
    fn run_piece(job: &Job<'_>, batch: Batch<'_, Self>, rows_per_piece: usize) -> Totals {
        let classes = batch.classes();
        if batch.target_probabilities.is_some() {
            target_probabilities::run(job, batch, rows_per_piece)
        } else if transformed::takes(job, &batch) {
            transformed::run(job, batch, rows_per_piece)
        } else if classes <= few_classes::MOST {
            run_passes(job, batch, T::few_classes, rows_per_piece)
        } else if classes <= BLOCK {
            run_passes(job, batch, T::short_rows, rows_per_piece)
        } else {
            run_passes(job, batch, T::long_rows, rows_per_piece)
        }
    }

    fn round_gradient(job: &Job<'_>, grad: Option<&OtherGrad<'_>>, task: CoefficientsTask<'_, Self>) {
        match grad {
            None => job.schedule.instructions.run(task),
            Some(grad) => grad.coefficients(job, task),
        }
    }

    fn first_equal(job: &Job<'_>, x: &[Self], value: f32) -> Option<usize> {
        job.logits(x).first_equal(value)
    }

    fn rank(job: &Job<'_>, x: &[Self], class: usize) -> usize {
        job.logits(x).rank(class)
    }

    fn statistics_without(job: &Job<'_>, x: &[Self], pivot: Entry) -> Statistics {
        job.logits(x).statistics(0, pivot, Gaps::None, &mut [])
    }

    fn spread(job: &Job<'_>, x: &[Self], max: f32, pivot: Entry) -> f64 {
        job.logits(x).spread(max, pivot)
    }

    fn log_probabilities(job: &Job<'_>, columns: Columns<'_, Self>, max: f32, ln_sum: f64, target: Entry) {
        let ln_sum = to_f32(ln_sum);
        job.log_probabilities(LogProbabilitiesTask { columns, max, ln_sum, target });
    }
}

/// An output that the second pass writes, and what it is for each row.
pub(crate) struct Output<'a, L = f32> {
    pub(crate) wide: Wide,
    pub(crate) lanes: &'a RowLanes<L>,
    pub(crate) coefficients: &'a CoefficientLanes<L>,
}

impl<L: Real> Output<'_, L> {
    pub(crate) fn gaps<'b>(&self, job: &Job<'b>) -> Gaps<'b, L> {
        if self.wide == Wide::Gradient { job.options.gaps() } else { Gaps::None }
    }
}

impl Output<'_> {
    /// The output of one row.
    pub(crate) fn of_row<'b>(&self, job: &Job<'b>, lane: usize, content: Content<'b>) -> RowAffine<'b> {
        let Self { lanes, coefficients, .. } = self;
        let (mut target, mut shift) = (Entry::NONE, Shift::None);
        if lanes.class[lane] != NO_CLASS {
            target = Entry::new(lanes.class[lane], coefficients.at_target[lane]);
            if self.wide == Wide::Gradient {
                shift = job.options.shift(coefficients.shift[lane]);
            }
        }
        let (max, scale) = (lanes.max[lane], coefficients.exact_scale[lane]);
        RowAffine { content, max, scale, shift, target }
    }
}

/// The gaps that the first pass sums up.
pub(crate) fn gaps_of<'a, T: Element>(job: &Job<'a>, batch: &Batch<'_, T>) -> Gaps<'a, T::PerRow> {
    if batch.targets.is_some() { job.options.gaps() } else { Gaps::None }
}

/// The output that keeps exponentials. Those of logits of -inf do not show that a gradient is 0 there.
pub(crate) fn keeps<T: Element>(job: &Job<'_>, batch: &Batch<'_, T>) -> Option<Wide> {
    let needs_logits = |wide| wide == Wide::Gradient && job.options.gaps::<T::PerRow>().is_live();
    batch.keeps_exponentials().filter(|&wide| !needs_logits(wide))
}

/// How many rows further down a tile's exponentials are kept: with stores past the caches, in the rows written last.
fn further_down(job: &Job<'_>, batch: &Batch<'_>, tile: &Range<usize>) -> usize {
    if job.streaming { batch.rows() - tile.end } else { 0 }
}

/// An affine output of rows of one block, from their logits.
pub(crate) fn affine_of_rows<T: Element + Number>(
    job: &Job<'_>,
    batch: &mut Batch<'_, T>,
    tile: Range<usize>,
    output: &Output<'_>,
) {
    let Output { wide, lanes, .. } = *output;
    for (lane, row) in tile.enumerate().filter(|&(lane, _)| lanes.counts[lane]) {
        // The maximum of the only block is its reference.
        let content = Content::Logits(slice::from_ref(&lanes.max[lane]));
        let Some(columns) = batch.columns(row, wide, job.streaming) else { return };
        job.schedule.affine(output.of_row(job, lane, content).of(columns));
    }
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
    }

    fn affine(&mut self, job: &Job<'_>, batch: &mut Batch<'_>, tile: Range<usize>, output: &Output<'_>) {
        let adds = batch.adds(output.wide);
        let Some(to) = batch.rows_of(output.wide, tile) else { return };
        job.schedule.instructions.run(few_classes::AffineTask {
            tile: &self.tile,
            to,
            adds,
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
    pub(crate) fn new(job: &Job<'_>, batch: &Batch<'_>) -> Self {
        Self { keeps: keeps(job, batch) }
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
        affine_of_rows(job, batch, tile, output);
    }
}

/// Longer rows, which go alone, in pieces for several threads.
///
/// Of batches that outgrow the caches, the second pass over a row goes along with the first over the next. With stores past
/// the caches, the last two rows keep the exponentials of rows in turn; in place, each row keeps its own.
pub(crate) struct LongRows {
    /// The output that keeps exponentials.
    keeps: Option<Wide>,
    streams: bool,
    in_place: bool,
    overlaps: bool,
    rows: usize,
    /// How many the row has; none, where there is no room for them.
    blocks: usize,
    /// Of rows in turn: the one that waits for its second pass, and the one after it.
    references: [[f32; MOST_REFERENCES]; 2],
}

impl LongRows {
    pub(crate) fn new(job: &Job<'_>, batch: &Batch<'_>) -> Self {
        let blocks = batch.classes().div_ceil(BLOCK);
        let blocks = if blocks <= MOST_REFERENCES { blocks } else { 0 };
        let keeps = keeps(job, batch).filter(|_| blocks > 0);
        let has_shift = |wide| wide == Wide::Gradient && !matches!(job.options.gaps::<f32>(), Gaps::None);
        let overlaps = job.streaming && keeps.is_some_and(|wide| !has_shift(wide));
        let in_place = keeps.is_some_and(|wide| batch.overwrites(wide));
        let references = [[0.0; MOST_REFERENCES]; 2];
        Self { keeps, streams: job.streaming, in_place, overlaps, rows: batch.rows(), blocks, references }
    }

    /// The row that keeps this row's exponentials: itself, or one that is written later.
    fn kept_at(&self, row: usize) -> usize {
        if !self.streams {
            row
        } else if self.overlaps && row + 2 <= self.rows {
            self.rows - 1 - row % 2
        } else {
            self.rows - 1
        }
    }

    /// The references of a row, and of the next.
    fn references_from(&mut self, row: usize) -> [&mut [f32]; 2] {
        let [even, odd] = &mut self.references;
        let (even, odd) = (&mut even[..self.blocks], &mut odd[..self.blocks]);
        if row.is_multiple_of(2) { [even, odd] } else { [odd, even] }
    }
}

impl Passes for LongRows {
    fn statistics(&mut self, job: &Job<'_>, batch: &mut Batch<'_>, tile: Range<usize>, lanes: &mut RowLanes) {
        let (row, class) = (tile.start, lanes.class[0]);
        if !lanes.counts[0] {
            return;
        }
        let pivot = batch.pivot(row, class);
        let gaps = if class == NO_CLASS { Gaps::None } else { job.options.gaps() };
        let following = batch.following(row);
        let columns = match self.keeps {
            Some(wide) => batch.source(row, wide, self.kept_at(row)),
            None => Columns::Read(batch.logits.row(row)),
        };
        let [references, _] = self.references_from(row);
        let task = StatisticsTask { columns, following, pivot, gaps, references };
        lanes.set_statistics(0, &job.schedule.statistics(task), pivot.value);
    }

    fn affine(&mut self, job: &Job<'_>, batch: &mut Batch<'_>, tile: Range<usize>, output: &Output<'_>) {
        let Output { wide, lanes, .. } = *output;
        if !lanes.counts[0] {
            return;
        }
        let row = tile.start;
        let (keeps, kept_at, blocks) = (self.keeps, self.kept_at(row), self.blocks);
        let [references, _] = self.references_from(row);
        let (content, columns) = if keeps == Some(wide) {
            (Content::Exps(references), batch.kept_columns(row, wide, kept_at))
        } else if blocks > 0 {
            (Content::Logits(references), batch.columns(row, wide, job.streaming))
        } else {
            let pivot = match lanes.class[0] {
                NO_CLASS => Entry::NONE,
                class => Entry::new(class, lanes.target_logit[0]),
            };
            (Content::ManyLogits(pivot), batch.columns(row, wide, job.streaming))
        };
        let Some(columns) = columns else { return };
        job.schedule.affine(output.of_row(job, 0, content).of(columns));
    }

    fn defers(&self, tile: &Range<usize>) -> Option<Wide> {
        // Unless in place, exponentials of both rows are kept further down than the first.
        let later = if self.in_place { 1 } else { 2 };
        self.keeps.filter(|_| self.overlaps && tile.end + later <= self.rows)
    }

    fn overlapped(
        &mut self,
        job: &Job<'_>,
        batch: &mut Batch<'_>,
        [tile, next]: [Range<usize>; 2],
        output: &Output<'_>,
        lanes: &mut RowLanes,
    ) {
        let Output { wide, lanes: before, coefficients } = *output;
        if !before.counts[0] || !lanes.counts[0] {
            self.affine(job, batch, tile, output);
            return self.statistics(job, batch, next, lanes);
        }
        let (row, next) = (tile.start, next.start);
        let kept_at = [self.kept_at(row), self.kept_at(next)];
        let [row_references, references] = self.references_from(row);
        let (following, pivot) = (batch.following(next), batch.pivot(next, lanes.class[0]));
        let Some(rows) = batch.overlapped_rows([row, next], wide, kept_at) else { return };
        let target = match before.class[0] {
            NO_CLASS => Entry::NONE,
            class => Entry::new(class, coefficients.at_target[0]),
        };
        let (max, scale) = (before.max[0], coefficients.exact_scale[0]);
        let row = KeptRow { references: row_references, max, scale, target };
        let task = OverlappedTask { row, rows, following, pivot, references };
        lanes.set_statistics(0, &job.schedule.overlapped(task), pivot.value);
    }
}
