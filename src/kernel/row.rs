//! One row after the other: what to compute, in which order, for the outputs that were asked for.
//!
//! The order matters in place: whatever reads the logits comes before the pass that overwrites them.

use super::map::{self, Affine, Columns};
use super::statistics::{self, BLOCK, Gaps, Statistics};
use super::{first_equal, scalar};
use crate::batch::{Batch, Wide};
use crate::loss::{Options, Softmax, Target};
use crate::parallel::SplitRows;
use crate::request::IGNORED;
use crate::simd::{Simd, Task};

/// What is the same for all rows of a call.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) options: &'a Options,
    /// What the gradient of each row's loss is multiplied by, where rows bring no upstream gradients: one over the
    /// reduction's divisor.
    pub(crate) factor: f64,
    /// Whether outputs go past the caches.
    pub(crate) streaming: bool,
}

/// What rows add up to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) loss: f64,
    pub(crate) correct: usize,
}

impl Totals {
    pub(crate) fn add(self, other: Self) -> Self {
        Self { loss: self.loss + other.loss, correct: self.correct + other.correct }
    }
}

/// The passes over a row's columns. A short row takes them in one go; a long one cuts them into pieces for several
/// threads.
pub(crate) trait Passes {
    /// With `keep`, a row that fits a block may keep its exponentials for the next [`Passes::affine`]s.
    fn statistics(&mut self, x: &[f32], pivot: Option<usize>, gaps: Gaps<'_>, keep: bool) -> Statistics;
    fn affine(&mut self, columns: Columns<'_>, max: f32, affine: Affine<'_>);
    fn log_probabilities(&mut self, columns: Columns<'_>, max: f32, ln_sum: f32);
    fn first_equal(&mut self, x: &[f32], value: f32) -> Option<usize>;
}

/// Rows that are taken whole, on one thread.
pub(crate) struct Rows<'a, 'b> {
    pub(crate) job: &'a Job<'a>,
    pub(crate) batch: Batch<'b>,
}

impl Task for Rows<'_, '_> {
    type Output = Totals;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Totals {
        let mut exps = [0.0; BLOCK];
        run(&mut Whole { simd, exps: &mut exps, kept: false }, self.job, self.batch)
    }
}

struct Whole<'a, S> {
    simd: S,
    exps: &'a mut [f32; BLOCK],
    kept: bool,
}

impl<S: Simd> Passes for Whole<'_, S> {
    #[inline(always)]
    fn statistics(&mut self, x: &[f32], pivot: Option<usize>, gaps: Gaps<'_>, keep: bool) -> Statistics {
        self.kept = keep && x.len() <= BLOCK;
        let exps = if self.kept { Some(&mut *self.exps) } else { None };
        statistics::statistics(self.simd, x, pivot, gaps, exps)
    }

    #[inline(always)]
    fn affine(&mut self, columns: Columns<'_>, max: f32, affine: Affine<'_>) {
        if !self.kept {
            return map::affine_of_logits(self.simd, columns, max, affine);
        }
        let columns = match columns {
            Columns::Between(_, to) | Columns::InPlace(to) => Columns::Between(&self.exps[..to.len()], to),
            Columns::Streaming(_, to) => Columns::Streaming(&self.exps[..to.len()], to),
        };
        map::affine_of_exps(self.simd, columns, affine);
    }

    #[inline(always)]
    fn log_probabilities(&mut self, columns: Columns<'_>, max: f32, ln_sum: f32) {
        map::log_probabilities(self.simd, columns, max, ln_sum);
    }

    #[inline(always)]
    fn first_equal(&mut self, x: &[f32], value: f32) -> Option<usize> {
        first_equal(self.simd, x, value)
    }
}

/// All rows of a batch.
#[inline(always)]
pub(crate) fn run<P: Passes>(passes: &mut P, job: &Job<'_>, mut batch: Batch<'_>) -> Totals {
    let mut totals = Totals::default();
    for row in 0..batch.rows() {
        totals = totals.add(run_row(passes, job, &mut batch, row));
    }
    totals
}

#[inline(always)]
fn run_row<P: Passes>(passes: &mut P, job: &Job<'_>, batch: &mut Batch<'_>, row: usize) -> Totals {
    let options = job.options;
    let class = match batch.targets {
        None => None,
        Some(targets) => match targets.class(row, options.ignore_index) {
            None => {
                batch.fill_row(row, 0.0, IGNORED);
                return Totals::default();
            }
            class => class,
        },
    };

    let x = batch.logits.row(row);
    let classes = x.len();
    let target = class.map(|class| Target { class, logit: x[class] });
    let gaps = if target.is_some() { options.gaps() } else { Gaps::None };
    let softmax = Softmax::new(passes.statistics(x, class, gaps, batch.writes_affine()), target);
    let largest = if softmax.is_nan() { f32::NAN } else { softmax.max };
    if softmax.is_nan() {
        let best = if batch.request.argmax.is_some() { first_nan_or_largest(passes, x) } else { 0 };
        batch.fill_row(row, f32::NAN, best);
        return Totals { loss: if class.is_some() { f64::NAN } else { 0.0 }, correct: 0 };
    }

    let mut totals = Totals::default();
    if let Some(target) = target {
        totals.loss = options.row_loss(&softmax, target, classes);
        if let Some(losses) = &mut batch.request.losses {
            losses[row] = scalar::to_f32(totals.loss);
        }
        // The first of equally large logits is the answer.
        let is_largest = target.logit == largest;
        let is_first = is_largest
            && (softmax.others_max() < largest || passes.first_equal(x, largest) == Some(target.class));
        totals.correct = usize::from(is_first);
    }
    if let Some(argmax) = &mut batch.request.argmax {
        argmax[row] = passes.first_equal(x, largest).unwrap_or(0);
    }

    let mut log_softmax = softmax;
    if batch.writes_lse() && softmax.has_dominant_other() {
        // Once more with the largest logit as the pivot, whose rounding would else drown the rest.
        if let Some(class) = passes.first_equal(x, softmax.max) {
            let pivot = Target { class, logit: softmax.max };
            log_softmax = Softmax::new(passes.statistics(x, Some(class), Gaps::None, false), Some(pivot));
        }
    }
    if let Some(lse) = &mut batch.request.lse {
        lse[row] = scalar::to_f32(log_softmax.lse());
    }

    for wide in [Wide::LogProbabilities, Wide::Probabilities, Wide::Gradient] {
        let factor = match batch.request.upstream {
            Some(upstream) => f64::from(upstream[row]),
            None => job.factor,
        };
        let Some(columns) = batch.columns(row, wide, job.streaming) else { continue };
        let at_target = match (wide, target) {
            (Wide::LogProbabilities, _) => {
                passes.log_probabilities(columns, log_softmax.max, log_softmax.ln_sum as f32);
                scalar::to_f32(softmax.target_log_probability())
            }
            (Wide::Gradient, Some(target)) => {
                let (affine, at_target) = options.gradient(&softmax, target, classes, factor);
                passes.affine(columns, softmax.others_max(), affine);
                at_target
            }
            _ => {
                passes.affine(columns, softmax.others_max(), softmax.probabilities());
                softmax.target_probability()
            }
        };
        if let (Some(class), Some(out)) = (class, batch.wide_row(row, wide)) {
            out[class] = at_target;
        }
    }
    totals
}

/// NaN counts as larger than everything.
#[inline(always)]
fn first_nan_or_largest<P: Passes>(passes: &mut P, x: &[f32]) -> usize {
    let largest = if x.contains(&f32::INFINITY) { f32::INFINITY } else { f32::NEG_INFINITY };
    passes.first_equal(x, f32::NAN).or_else(|| passes.first_equal(x, largest)).unwrap_or(0)
}
