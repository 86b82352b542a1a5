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

use crate::batch::{Batch, Wide};
use crate::kernel::lanes::{CoefficientLanes, CoefficientsTask, NO_CLASS, Results, ResultsTask, RowLanes};
use crate::kernel::scalar::to_f32;
use crate::kernel::statistics::BLOCK;
use crate::kernel::tasks::{Fence, LogProbabilitiesTask};
use crate::kernel::{Entry, few_classes};
use crate::largest::of_largest;
use crate::loss::{Options, Softmax, Terms, Transform};
use crate::parallel::{Schedule, SplitRows, middle};
use crate::passes::{Kernels, Output, Passes};
use crate::row_outputs::NO_RANK;
use crate::simd::LANES;
use crate::target_probabilities::Distributions;
use crate::transformed;

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
    /// Whether outputs go past the caches.
    pub(crate) streaming: bool,
}

/// What rows add up to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) loss: f64,
    pub(crate) z_loss: f64,
    pub(crate) correct: usize,
}

impl Totals {
    pub(crate) fn add(self, other: Self) -> Self {
        Self {
            loss: self.loss + other.loss,
            z_loss: self.z_loss + other.z_loss,
            correct: self.correct + other.correct,
        }
    }
}

/// How many rows a tile has.
pub(crate) fn rows_per_tile(classes: usize) -> usize {
    if classes <= few_classes::MOST { LANES } else { (TILE / classes).clamp(1, LANES) }
}

/// All rows of a batch, on one thread but for long rows. The losses add up along the tree that would have cut the rows
/// into pieces of `rows_per_piece`.
pub(crate) fn run<T: Kernels>(job: &Job<'_>, batch: Batch<'_, T>, rows_per_piece: usize) -> Totals {
    let classes = batch.classes();
    if batch.target_probabilities.is_some() {
        let passes = Distributions::new(&batch);
        run_passes(job, batch, passes, rows_per_piece)
    } else if let Some(transform) = job.options.transform() {
        transformed::run(transform, job, batch, rows_per_piece)
    } else if classes <= few_classes::MOST {
        run_passes(job, batch, T::few_classes(), rows_per_piece)
    } else if classes <= BLOCK {
        let passes = T::short_rows(job, &batch);
        run_passes(job, batch, passes, rows_per_piece)
    } else {
        let passes = T::long_rows(job, &batch);
        run_passes(job, batch, passes, rows_per_piece)
    }
}

/// The same with these passes.
pub(crate) fn run_passes<T: Kernels, P: Passes<T>>(
    job: &Job<'_>,
    mut batch: Batch<'_, T>,
    passes: P,
    rows_per_piece: usize,
) -> Totals {
    let rows = 0..batch.rows();
    let mut scalars = Scalars::default();
    let first_tile = 0..rows_per_tile(batch.classes());
    let mut previous = passes.defers(&first_tile).map(|_| Scalars::default());
    let (scalars, previous, batch) = (&mut scalars, previous.as_mut(), &mut batch);
    let totals = Tiles { job, batch, passes, rows_per_piece, scalars, previous, deferred: None }.pieces(rows);
    if job.streaming {
        job.schedule.instructions.run(Fence);
    }
    totals
}

struct Tiles<'a, 'b, T: Kernels, P> {
    job: &'a Job<'a>,
    batch: &'a mut Batch<'b, T>,
    passes: P,
    rows_per_piece: usize,
    scalars: &'a mut Scalars,
    /// Of the tile before, where tiles may be deferred.
    previous: Option<&'a mut Scalars>,
    /// The tile whose second pass waits for the next tile, and the output that it writes.
    deferred: Option<(Range<usize>, Wide)>,
}

/// What a tile's rows need besides their columns. Cleared once, not for each tile: every tile has as many rows, but for
/// the last.
#[derive(Clone, Debug, Default)]
struct Scalars {
    lanes: RowLanes,
    results: Results,
    coefficients: CoefficientLanes,
    ignores: bool,
}

impl Scalars {
    fn output(&self, wide: Wide) -> Output<'_> {
        Output { wide, lanes: &self.lanes, coefficients: &self.coefficients }
    }
}

impl<T: Kernels, P: Passes<T>> Tiles<'_, '_, T, P> {
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
        let Scalars { lanes, results, ignores, .. } = &mut **scalars;
        if tile.len() < lanes.len {
            (*lanes, *results) = Default::default();
        }
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
        instructions.run(ResultsTask { rows: lanes, terms, results });
        self.narrow(tile.clone());

        let Scalars { lanes, results, .. } = &mut *self.scalars;
        if results.has_nan {
            // What the second pass would make of these rows is unspecified.
            for lane in 0..LANES {
                lanes.counts[lane] &= !results.softmax(lanes, lane).is_nan();
            }
        }
        let totals =
            Totals { loss: results.total_loss, z_loss: results.total_z_loss, correct: results.correct };
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
                let is_final =
                    wide != Wide::Gradient || !job.options.transform().is_some_and(Transform::has_slopes);
                if is_final {
                    let dtype = PhantomData::<T>;
                    instructions.run(CoefficientsTask { rows, terms, results, coefficients, dtype });
                } else {
                    let dtype = PhantomData::<f32>;
                    instructions.run(CoefficientsTask { rows, terms, results, coefficients, dtype });
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

    fn narrow_row(&mut self, row: usize, class: usize, softmax: &Softmax) {
        let Self { job, batch, .. } = self;
        let logits = job.logits(batch.logits.row(row));
        let outputs = &mut batch.request.row_outputs;
        if let Some(argmax) = &mut outputs.argmax {
            argmax[row] = logits.first_equal(softmax.max).unwrap_or(0);
        }
        if let Some(ranks) = &mut outputs.target_ranks {
            ranks[row] = if class == NO_CLASS { NO_RANK } else { logits.rank(class) };
        }
        if let Some(entropies) = &mut outputs.entropies {
            entropies[row] = to_f32(of_largest(&logits, class, softmax).entropy(&logits));
        }
        if !batch.writes_lse() {
            return;
        }
        let mut log_softmax = *softmax;
        if softmax.has_dominant_other() {
            log_softmax = of_largest(&logits, class, softmax).softmax;
        }
        if let Some(lse) = &mut batch.request.row_outputs.lse {
            lse[row] = to_f32(log_softmax.lse());
        }
        if let Some(columns) = batch.columns(row, Wide::LogProbabilities, false) {
            let target =
                if class == NO_CLASS { Entry::NONE } else { Entry::new(class, T::round(-softmax.nll())) };
            let ln_sum = to_f32(log_softmax.ln_sum);
            let max = log_softmax.max;
            job.log_probabilities(LogProbabilitiesTask { columns, max, ln_sum, target });
        }
    }

    /// The argmax of a row that has a NaN, +inf, or nothing but -inf. NaN counts as larger than everything.
    fn nan_argmax(&self, row: usize) -> usize {
        let logits = self.job.logits(self.batch.logits.row(row));
        [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
            .into_iter()
            .find_map(|value| logits.first_equal(value))
            .unwrap_or(0)
    }
}

/// Rows that are ignored or have no softmax.
fn fill_uncounted<T: Kernels>(batch: &mut Batch<'_, T>, tile: Range<usize>, wide: Wide, scalars: &Scalars) {
    let Scalars { lanes, results, ignores, .. } = scalars;
    if !results.has_nan && !ignores {
        return;
    }
    let adds = batch.adds(wide);
    for (lane, row) in tile.enumerate() {
        if !lanes.counts[lane]
            && let Some(out) = batch.wide_row(row, wide)
        {
            if results.softmax(lanes, lane).is_nan() {
                out.fill(T::from_f32(f32::NAN));
            } else if !adds {
                out.fill(T::from_f32(0.0));
            }
        }
    }
}
