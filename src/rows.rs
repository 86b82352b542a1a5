//! One tile of rows after the other: what to compute, in which order, for the outputs that were asked for.
//!
//! A tile is as many rows as fit the first-level cache, 16 at most. It takes the first pass row by row, then all its
//! scalars at once, then the second pass row by row:
//!
//! ```text
//! pass 1      max, sum                 exponentials kept, where the second pass will want them
//! lanes       softmax, loss, factors   16 rows at a time
//! pass 2      scale                    the exponentials; or the logits, where they were not kept
//! ```
//!
//! Exponentials are kept where an output will be: in place, or in the output's own memory. Outputs that outgrow the
//! caches are stored past them, and nothing may be kept there; so the exponentials of every tile are kept in the rows
//! that will be written **last**, which stay in the caches meanwhile. There the second pass over a long row waits, and
//! goes along with the first over the next: memory takes the stores of the one while the other computes.
//!
//! What reads the logits comes before what overwrites them.

use core::marker::PhantomData;
use core::mem;
use core::ops::Range;

use crate::Element;
use crate::batch::{Batch, Wide};
use crate::grad::OtherGrad;
use crate::kernel::lanes::{NO_CLASS, RowLanes};
use crate::kernel::number::Rounded;
use crate::kernel::place::Columns;
use crate::kernel::real::Real;
use crate::kernel::results::{CoefficientLanes, CoefficientsTask, Results, ResultsTask};
use crate::kernel::statistics::{BLOCK, Statistics};
use crate::kernel::tasks::Fence;
use crate::kernel::{Entry, few_classes};
use crate::largest::pivoted;
use crate::loss::{Options, Softmax, Terms};
use crate::parallel::{Schedule, SplitRows, middle};
use crate::passes::{Output, Passes};
use crate::row_outputs::NO_RANK;
use crate::simd::LANES;
use crate::sum::Sum;

/// Elements of a tile: 16 KiB, so that logits and exponentials fit the first-level cache together.
pub(crate) const TILE: usize = 4096;
const _: () = assert!(TILE / (BLOCK + 1) <= 1, "long rows go alone");

/// What is the same for all rows of a call.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) schedule: Schedule,
    pub(crate) options: &'a Options,
    pub(crate) terms: Terms,
    /// What the gradient of each row's loss is multiplied by, where rows bring no upstream gradients: one over the
    /// reduction's divisor.
    pub(crate) factor: f64,
    /// The same for their z-loss.
    pub(crate) z_factor: f64,
    /// Whether the outputs outgrow the caches, so that those out of place go past them.
    pub(crate) streaming: bool,
}

/// What rows add up to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) loss: Sum,
    pub(crate) z_loss: Sum,
    pub(crate) correct: usize,
}

impl Totals {
    pub(crate) fn of_tile<L>(results: &Results<L>) -> Self {
        let Results { total_loss: loss, total_z_loss: z_loss, correct, .. } = *results;
        Self { loss: loss.into(), z_loss: z_loss.into(), correct }
    }

    /// Of a loss, or what takes its place.
    pub(crate) fn of_loss(loss: f64) -> Self {
        Self { loss: loss.into(), ..Self::default() }
    }

    pub(crate) fn add(self, other: Self) -> Self {
        Self {
            loss: self.loss.merge(other.loss),
            z_loss: self.z_loss.merge(other.z_loss),
            correct: self.correct + other.correct,
        }
    }

    /// With what rounding took from the sums: many rows of `f64` would show it.
    pub(crate) fn with_lost(self) -> Self {
        Self { loss: self.loss.total().into(), z_loss: self.z_loss.total().into(), ..self }
    }
}

/// How many rows a tile has.
pub(crate) fn rows_per_tile(classes: usize) -> usize {
    if classes <= few_classes::MOST { LANES } else { (TILE / classes).clamp(1, LANES) }
}

/// What the driver needs of a dtype.
pub(crate) trait Dtype: Element + Rounded<Real = Self::PerRow> {
    /// All rows of a batch, on one thread but for long rows: [`run_passes`] with the passes of such rows.
    fn run_piece(job: &Job<'_>, batch: Batch<'_, Self>, rows_per_piece: usize) -> Totals;

    /// Runs the task of a gradient, whose values at the targets are rounded to its own dtype.
    fn round_gradient(job: &Job<'_>, grad: Option<&OtherGrad<'_>>, task: CoefficientsTask<'_, Self>);

    /// The first index that holds `value`; the first NaN, for NaN.
    fn first_equal(job: &Job<'_>, x: &[Self], value: Self::PerRow) -> Option<usize>;
    /// How many classes come before this one.
    fn rank(job: &Job<'_>, x: &[Self], class: usize) -> usize;
    /// The statistics of a row but its pivot.
    fn statistics_without(job: &Job<'_>, x: &[Self], pivot: Entry<Self::PerRow>) -> Statistics<Self::PerRow>;
    /// The sum of exp(x - max) (max - x) of all columns but the pivot.
    fn spread(job: &Job<'_>, x: &[Self], max: Self::PerRow, pivot: Entry<Self::PerRow>) -> f64;
    /// (x - max) - ln_sum of all columns but the target's, which gets its own value.
    fn log_probabilities(
        job: &Job<'_>,
        columns: Columns<'_, Self>,
        max: Self::PerRow,
        ln_sum: f64,
        target: Entry<Self::PerRow>,
    );
}

/// All rows of a batch. The losses add up along the tree that would have cut the rows into pieces of `rows_per_piece`.
///
/// A function of its own for each kind of passes, which alone takes their memory on the stack.
#[inline(never)]
pub(crate) fn run_passes<'b, T: Dtype, P: Passes<T>>(
    job: &Job<'_>,
    mut batch: Batch<'b, T>,
    passes: impl FnOnce(&Job<'_>, &Batch<'b, T>) -> P,
    rows_per_piece: usize,
) -> Totals {
    let mut passes = passes(job, &batch);
    let rows = 0..batch.rows();
    let mut scalars = Scalars::default();
    let first_tile = 0..rows_per_tile(batch.classes());
    let mut previous = passes.defers(&first_tile).map(|_| Scalars::default());
    let (scalars, previous, batch, passes) = (&mut scalars, previous.as_mut(), &mut batch, &mut passes);
    let totals = Tiles { job, batch, passes, rows_per_piece, scalars, previous, deferred: None }.pieces(rows);
    if job.streaming {
        job.schedule.instructions.run(Fence);
    }
    totals
}

struct Tiles<'a, 'b, T: Dtype, P> {
    job: &'a Job<'a>,
    batch: &'a mut Batch<'b, T>,
    passes: &'a mut P,
    rows_per_piece: usize,
    scalars: &'a mut Scalars<T::PerRow>,
    /// Of the tile before, where tiles may be deferred.
    previous: Option<&'a mut Scalars<T::PerRow>>,
    /// The tile whose second pass waits for the next tile, and the output that it writes.
    deferred: Option<(Range<usize>, Wide)>,
}

/// What a tile's rows need besides their columns. Cleared once, not for each tile: every tile has as many rows, but for
/// the last.
#[derive(Clone, Debug)]
struct Scalars<L = f32> {
    lanes: RowLanes<L>,
    results: Results<L>,
    coefficients: CoefficientLanes<L>,
    ignores: bool,
}

impl<L: Real> Default for Scalars<L> {
    fn default() -> Self {
        Self {
            lanes: RowLanes::default(),
            results: Results::default(),
            coefficients: CoefficientLanes::default(),
            ignores: false,
        }
    }
}

impl<L: Real> Scalars<L> {
    /// For a tile of fewer rows. A function of its own, which alone takes the memory for new ones on the stack.
    #[inline(never)]
    fn clear(&mut self) {
        self.lanes = RowLanes::default();
        self.results = Results::default();
    }

    fn output(&self, wide: Wide) -> Output<'_, L> {
        Output { wide, lanes: &self.lanes, coefficients: &self.coefficients }
    }
}

impl<T: Dtype, P: Passes<T>> Tiles<'_, '_, T, P> {
    fn pieces(&mut self, rows: Range<usize>) -> Totals {
        if let Some(middle) = middle(rows.len(), self.rows_per_piece) {
            let middle = rows.start + middle;
            let first = self.pieces(rows.start..middle);
            return first.add(self.pieces(middle..rows.end));
        }
        let rows_per_tile = rows_per_tile(self.batch.classes());
        let mut totals = Totals::default();
        for start in rows.clone().step_by(rows_per_tile) {
            totals = totals.add(self.tile(start..rows.end.min(start + rows_per_tile)));
        }
        totals
    }

    fn tile(&mut self, tile: Range<usize>) -> Totals {
        let Self { job, batch, passes, scalars, previous, deferred, .. } = self;
        let instructions = job.schedule.instructions;
        let deferred = deferred.take().zip(previous.as_mut());
        let deferred = deferred.map(|(deferred, previous)| {
            mem::swap(scalars, previous);
            (deferred, &**previous)
        });
        if tile.len() < scalars.lanes.len {
            scalars.clear();
        }
        let Scalars { lanes, ignores, .. } = &mut **scalars;
        batch.look_up(tile.clone(), job, lanes);
        match deferred {
            Some(((before, wide), previous)) => {
                let tiles = [before.clone(), tile.clone()];
                passes.overlapped(job, batch, tiles, &previous.output(wide), lanes);
                fill_uncounted(batch, before, wide, previous);
            }
            None => passes.statistics(job, batch, tile.clone(), lanes),
        }
        *ignores = lanes.counts[..tile.len()].contains(&false);
        if *ignores {
            lanes.leave_out_ignored();
        }

        let terms = batch.has_targets().then_some(&job.terms);
        let Scalars { lanes, results, .. } = &mut **scalars;
        instructions.run(ResultsTask { rows: lanes, terms, results });
        self.narrow(tile.clone());

        let Scalars { lanes, results, .. } = &mut *self.scalars;
        if results.has_nan {
            // What the second pass would make of these rows is unspecified.
            for lane in 0..LANES {
                lanes.counts[lane] &= !results.softmax(lanes, lane).is_nan();
            }
        }
        let totals = Totals::of_tile(results);
        self.affine(tile);
        totals
    }

    /// All outputs that the second pass writes.
    fn affine(&mut self, tile: Range<usize>) {
        let Self { job, batch, passes, scalars, .. } = self;
        for wide in [Wide::Probabilities, Wide::Gradient] {
            if batch.writes(wide) {
                let terms = (batch.has_targets() && wide == Wide::Gradient).then_some(&job.terms);
                let instructions = job.schedule.instructions;
                let Scalars { lanes: rows, results, coefficients, .. } = &mut **scalars;
                let dtype = PhantomData::<T>;
                let task = CoefficientsTask { rows, terms, results, coefficients, dtype };
                let transform = job.options.transform::<T::PerRow>();
                if wide != Wide::Gradient {
                    instructions.run(task);
                } else if transform.is_some_and(|it| it.has_slopes()) {
                    // A product with the transform's derivative is still to come.
                    instructions.run(task.rounding_to::<T::PerRow>());
                } else {
                    T::round_gradient(job, batch.request.other_grad(), task);
                }
                if passes.defers(&tile) == Some(wide) {
                    self.deferred = Some((tile.clone(), wide));
                } else {
                    passes.affine(job, batch, tile.clone(), &scalars.output(wide));
                    fill_uncounted(batch, tile.clone(), wide, scalars);
                }
            }
        }
    }

    /// All outputs but the affine ones, which may overwrite the logits.
    fn narrow(&mut self, tile: Range<usize>) {
        let Scalars { lanes, results, .. } = &*self.scalars;
        self.batch.request.row_outputs.write(tile.clone(), lanes, results);
        if !self.batch.reads_logits_again() {
            return;
        }
        for (lane, row) in tile.enumerate() {
            if !self.scalars.lanes.counts[lane] {
                self.batch.fill_but_affine(row, 0.0, NO_RANK);
                continue;
            }
            let Scalars { lanes, results, .. } = &*self.scalars;
            let softmax = results.softmax(lanes, lane);
            if softmax.is_nan() {
                let best = self.nan_argmax(row);
                self.batch.fill_but_affine(row, f32::NAN, best);
            } else {
                self.narrow_row(row, lanes.class[lane], &softmax);
            }
        }
    }

    fn narrow_row(&mut self, row: usize, class: usize, softmax: &Softmax<T::PerRow>) {
        let Self { job, batch, .. } = self;
        let x = batch.logits.row(row);
        let outputs = &mut batch.request.row_outputs;
        if let Some(argmax) = &mut outputs.argmax {
            argmax[row] = T::first_equal(job, x, softmax.max).unwrap_or(0);
        }
        if let Some(ranks) = &mut outputs.target_ranks {
            ranks[row] = if class == NO_CLASS { NO_RANK } else { T::rank(job, x, class) };
        }
        if outputs.entropies.is_none() && !batch.writes_lse() {
            return;
        }
        let pivoted = pivoted(job, x, class, softmax);
        if let Some(entropies) = &mut batch.request.row_outputs.entropies {
            entropies[row] = Real::round(pivoted.entropy(job, x));
        }
        let log_softmax = pivoted.softmax;
        if let Some(lse) = &mut batch.request.row_outputs.lse {
            lse[row] = Real::round(log_softmax.lse());
        }
        if let Some(columns) = batch.columns(row, Wide::LogProbabilities, false) {
            let target =
                if class == NO_CLASS { Entry::NONE } else { Entry::new(class, T::round(-softmax.nll())) };
            T::log_probabilities(job, columns, log_softmax.max, log_softmax.ln_sum, target);
        }
    }

    /// The argmax of a row that has a NaN, +inf, or nothing but -inf. NaN counts as larger than everything.
    fn nan_argmax(&self, row: usize) -> usize {
        let x = self.batch.logits.row(row);
        [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
            .into_iter()
            .find_map(|value| T::first_equal(self.job, x, value.into()))
            .unwrap_or(0)
    }
}

/// Rows that are ignored or have no softmax.
fn fill_uncounted<T: Dtype>(
    batch: &mut Batch<'_, T>,
    tile: Range<usize>,
    wide: Wide,
    scalars: &Scalars<T::PerRow>,
) {
    let Scalars { lanes, results, ignores, .. } = scalars;
    if !results.has_nan && !ignores {
        return;
    }
    let adds = batch.adds(wide);
    for (lane, row) in tile.enumerate() {
        if !lanes.counts[lane] {
            if results.softmax(lanes, lane).is_nan() {
                batch.fill(row, wide, f32::NAN);
            } else if !adds {
                batch.fill(row, wide, 0.0);
            }
        }
    }
}
