//! One row after the other: what to compute, in which order, for the outputs that were asked for.
//!
//! The order matters in place: whatever reads the logits comes before the pass that overwrites them.

use super::map::{self, Affine, Columns};
use super::statistics::{self, BLOCK, Gaps, Statistics};
use super::tasks::{FirstEqual, MapTask, StatisticsTask, WideMap};
use super::{few_classes, scalar};
use crate::batch::{Batch, Wide};
use crate::loss::{Options, Softmax, Terms};
use crate::parallel::SplitRows;
use crate::request::IGNORED;
use crate::simd::{Simd, Task};

/// What is the same for all rows of a call.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) options: &'a Options,
    pub(crate) terms: Terms,
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
    /// [`Passes::statistics`] without gaps, of a row that needs them once more.
    fn statistics_again(&mut self, x: &[f32], pivot: Option<usize>) -> Statistics;
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
        if self.batch.classes() <= few_classes::MOST {
            let mut passes = Whole { simd, exps: None };
            few_classes::run(simd, &mut passes, self.job, self.batch)
        } else {
            let mut exps = [0.0; BLOCK];
            run(
                &mut Whole { simd, exps: Some(Exps { values: &mut exps, kept: false }) },
                self.job,
                self.batch,
            )
        }
    }
}

struct Whole<'a, S> {
    simd: S,
    exps: Option<Exps<'a>>,
}

/// Room for the exponentials of a row, and whether they are there.
struct Exps<'a> {
    values: &'a mut [f32; BLOCK],
    kept: bool,
}

impl<S: Simd> Passes for Whole<'_, S> {
    #[inline(always)]
    fn statistics(&mut self, x: &[f32], pivot: Option<usize>, gaps: Gaps<'_>, keep: bool) -> Statistics {
        let mut values = None;
        if let Some(exps) = &mut self.exps {
            exps.kept = keep && x.len() <= BLOCK;
            if exps.kept {
                values = Some(&mut *exps.values);
            }
        }
        statistics::statistics(self.simd, x, pivot, gaps, values)
    }

    #[inline(always)]
    fn affine(&mut self, columns: Columns<'_>, max: f32, affine: Affine<'_>) {
        let Some(Exps { values, kept: true }) = &self.exps else {
            return map::affine_of_logits(self.simd, columns, max, affine);
        };
        let columns = match columns {
            Columns::Between(_, to) | Columns::InPlace(to) => Columns::Between(&values[..to.len()], to),
            Columns::Streaming(_, to) => Columns::Streaming(&values[..to.len()], to),
        };
        map::affine_of_exps(self.simd, columns, affine);
    }

    // What few calls need is compiled once, not into every loop that may need it.

    fn statistics_again(&mut self, x: &[f32], pivot: Option<usize>) -> Statistics {
        self.simd.vectorize(StatisticsTask { x, pivot, gaps: Gaps::None })
    }

    fn log_probabilities(&mut self, columns: Columns<'_>, max: f32, ln_sum: f32) {
        self.simd.vectorize(MapTask { columns, map: WideMap::LogProbabilities { max, ln_sum } });
    }

    fn first_equal(&mut self, x: &[f32], value: f32) -> Option<usize> {
        self.simd.vectorize(FirstEqual { x, value })
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
    let class = batch.class(row, options);
    if batch.targets.is_some() && class.is_none() {
        batch.fill_row(row, 0.0, IGNORED);
        return Totals::default();
    }
    let x = batch.logits.row(row);
    let target_logit = class.map_or(f32::NEG_INFINITY, |class| x[class]);
    let gaps = if class.is_some() { options.gaps() } else { Gaps::None };
    let softmax = Softmax::new(passes.statistics(x, class, gaps, batch.writes_affine()), target_logit);
    if softmax.is_nan() {
        let best = nan_argmax(passes, batch, row);
        batch.fill_row(row, f32::NAN, best);
        return Totals { loss: if class.is_some() { f64::NAN } else { 0.0 }, correct: 0 };
    }

    let own = class.map_or(0.0, |class| options.weight_of(class));
    let loss = if class.is_some() { job.terms.row_loss(&softmax, own) } else { 0.0 };
    let totals = finish_row(passes, batch, row, class, &softmax, loss);
    for wide in [Wide::Probabilities, Wide::Gradient] {
        let factor = batch.factor(row, job.factor);
        let Some(columns) = batch.columns(row, wide, job.streaming) else { continue };
        let (coefficients, affine) = match wide {
            Wide::Gradient if class.is_some() => {
                let coefficients = job.terms.gradient(&softmax, own, factor);
                (coefficients, options.affine(&coefficients))
            }
            _ => (softmax.probabilities(), softmax.probabilities().affine()),
        };
        passes.affine(columns, softmax.others_max(), affine);
        if let (Some(class), Some(out)) = (class, batch.wide_row(row, wide)) {
            out[class] = coefficients.at_target;
        }
    }
    totals
}

/// The argmax of a row that has a NaN, +inf, or nothing but -inf. NaN counts as larger than everything.
#[inline(always)]
pub(crate) fn nan_argmax<P: Passes>(passes: &mut P, batch: &Batch<'_>, row: usize) -> usize {
    let x = batch.logits.row(row);
    [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
        .into_iter()
        .find_map(|value| passes.first_equal(x, value))
        .unwrap_or(0)
}

/// All outputs of a row but the affine ones, which may overwrite its logits.
#[inline(always)]
pub(crate) fn finish_row<P: Passes>(
    passes: &mut P,
    batch: &mut Batch<'_>,
    row: usize,
    class: Option<usize>,
    softmax: &Softmax,
    loss: f64,
) -> Totals {
    let x = batch.logits.row(row);
    let mut correct = 0;
    if let Some(class) = class
        && softmax.target_logit() == softmax.max
    {
        // The first of equally large logits is the answer.
        let alone = softmax.others_max() < softmax.max;
        correct = usize::from(alone || passes.first_equal(x, softmax.max) == Some(class));
    }
    if let Some(losses) = &mut batch.request.losses {
        losses[row] = scalar::to_f32(loss);
    }
    if let Some(argmax) = &mut batch.request.argmax {
        argmax[row] = passes.first_equal(x, softmax.max).unwrap_or(0);
    }
    if batch.writes_lse() {
        finish_lse(passes, batch, row, class, softmax);
    }
    Totals { loss, correct }
}

/// The outputs that are made of the logarithm of the sum.
#[inline(always)]
fn finish_lse<P: Passes>(
    passes: &mut P,
    batch: &mut Batch<'_>,
    row: usize,
    class: Option<usize>,
    softmax: &Softmax,
) {
    let x = batch.logits.row(row);
    let mut log_softmax = *softmax;
    if softmax.has_dominant_other()
        && let Some(largest) = passes.first_equal(x, softmax.max)
    {
        // Once more with the largest logit as the pivot, whose rounding would else drown the rest.
        log_softmax = Softmax::new(passes.statistics_again(x, Some(largest)), softmax.max);
    }
    if let Some(lse) = &mut batch.request.lse {
        lse[row] = scalar::to_f32(log_softmax.lse());
    }
    if let Some(columns) = batch.columns(row, Wide::LogProbabilities, false) {
        passes.log_probabilities(columns, log_softmax.max, scalar::to_f32(log_softmax.ln_sum));
        if let (Some(class), Some(out)) = (class, batch.wide_row(row, Wide::LogProbabilities)) {
            out[class] = scalar::to_f32(-softmax.nll());
        }
    }
}
