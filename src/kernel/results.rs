//! Between the passes: what each row needs besides its columns, 16 rows at a time.
//!
//! An exponential, a logarithm and two divisions in `f64` take as long as some hundred columns when they are done row by
//! row, because each step waits for the one before. Here every step is a loop over 16 rows, which compiles to vectors.

use core::marker::PhantomData;

use super::lanes::RowLanes;
use super::number::Rounded;
use super::real::Real;
use crate::loss::{Coefficients, Softmax, TermLanes, Terms, weighted};
use crate::simd::{LANES, Simd, Task};

/// What comes of the rows, by fields: [`Softmax`] and the loss of each.
#[derive(Clone, Debug)]
pub(crate) struct Results<L = f32> {
    /// The largest logit, the target's included.
    max: [L; LANES],
    ln_sum: [f64; LANES],
    scale: [f64; LANES],
    target_probability: [f64; LANES],
    others_probability: [f64; LANES],
    target_gap: [f64; LANES],
    /// Whether there is a row with a NaN, +inf, or nothing but -inf.
    pub(crate) has_nan: bool,
    /// Before the reduction; 0 where the row does not count or has no target.
    pub(crate) loss: [f64; LANES],
    /// Of all rows together, without their z-loss.
    pub(crate) total_loss: f64,
    pub(crate) total_z_loss: f64,
    /// How many targets are the first of the largest logits.
    pub(crate) correct: usize,
    /// What the loss is made of, where that differs between rows.
    terms: TermLanes,
}

/// [`Coefficients`] by fields, their scale as the second pass takes it.
#[derive(Clone, Debug)]
pub(crate) struct CoefficientLanes<L = f32> {
    pub(crate) exact_scale: [f64; LANES],
    pub(crate) scale: [L; LANES],
    pub(crate) least: [L; LANES],
    pub(crate) shift: [L; LANES],
    pub(crate) at_target: [L; LANES],
}

/// From the statistics to softmax and loss. Without terms, the rows have no targets.
pub(crate) struct ResultsTask<'a, L = f32> {
    pub(crate) rows: &'a RowLanes<L>,
    pub(crate) terms: Option<&'a Terms>,
    pub(crate) results: &'a mut Results<L>,
}

/// From the results to the coefficients of the gradient; without terms, of the probabilities.
pub(crate) struct CoefficientsTask<'a, T: Rounded> {
    pub(crate) rows: &'a RowLanes<T::Real>,
    pub(crate) terms: Option<&'a Terms>,
    pub(crate) results: &'a Results<T::Real>,
    pub(crate) coefficients: &'a mut CoefficientLanes<T::Real>,
    /// What the targets' own values are rounded to.
    pub(crate) dtype: PhantomData<T>,
}

impl<L: Real> Default for Results<L> {
    fn default() -> Self {
        Self {
            max: [L::default(); LANES],
            ln_sum: [0.0; LANES],
            scale: [0.0; LANES],
            target_probability: [0.0; LANES],
            others_probability: [0.0; LANES],
            target_gap: [0.0; LANES],
            has_nan: false,
            loss: [0.0; LANES],
            total_loss: 0.0,
            total_z_loss: 0.0,
            correct: 0,
            terms: TermLanes::default(),
        }
    }
}

impl<L: Real> Default for CoefficientLanes<L> {
    fn default() -> Self {
        Self {
            exact_scale: [0.0; LANES],
            scale: [L::default(); LANES],
            least: [L::default(); LANES],
            shift: [L::default(); LANES],
            at_target: [L::default(); LANES],
        }
    }
}

impl<L: Real> Results<L> {
    #[inline(always)]
    pub(crate) fn softmax(&self, rows: &RowLanes<L>, lane: usize) -> Softmax<L> {
        Softmax {
            statistics: rows.statistics(lane),
            target_logit: rows.target_logit[lane],
            max: self.max[lane],
            ln_sum: self.ln_sum[lane],
            scale: self.scale[lane],
            target_probability: self.target_probability[lane],
            others_probability: self.others_probability[lane],
            target_gap: self.target_gap[lane],
        }
    }
}

impl<L: Real> Task for ResultsTask<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { rows, terms, results } = self;
        match terms {
            None => each_result(rows, results, |_, _| 0.0),
            Some(terms) if terms.differ_by_row() => {
                each_result(rows, results, |_, _| 0.0);
                results.add_loss(rows, terms);
            }
            Some(terms) if terms.is_smooth() => {
                each_result(rows, results, |softmax, own| terms.smooth_loss(softmax, own));
            }
            Some(terms) => each_result(rows, results, |softmax, own| terms.hard_loss(softmax, own)),
        }
        if rows.has_row_weights {
            results.weigh_rows(rows);
        }
        if let Some(terms) = terms.filter(|terms| terms.has_z_loss()) {
            results.add_z_loss(rows, terms);
        }
    }
}

impl<L: Real> Results<L> {
    /// The loss, of terms that differ between rows.
    #[inline(always)]
    fn add_loss(&mut self, rows: &RowLanes<L>, terms: &Terms) {
        self.terms.set(terms, rows);
        if terms.has_focal() {
            for lane in 0..LANES {
                let factors = terms.focal(&self.softmax(rows, lane));
                self.terms.modulate(lane, factors);
            }
        }
        for lane in 0..LANES {
            self.loss[lane] = self.terms.loss(terms, &self.softmax(rows, lane), lane);
        }
        self.total_loss = sum(self.loss);
    }

    #[inline(always)]
    fn weigh_rows(&mut self, rows: &RowLanes<L>) {
        for lane in 0..LANES {
            self.loss[lane] = weighted(rows.row_weight[lane], self.loss[lane]);
        }
        self.total_loss = sum(self.loss);
    }

    #[inline(always)]
    fn add_z_loss(&mut self, rows: &RowLanes<L>, terms: &Terms) {
        let mut z_loss = [0.0; LANES];
        for lane in 0..LANES {
            if rows.counts[lane] {
                z_loss[lane] = terms.z_loss(&self.softmax(rows, lane));
            }
            if rows.has_row_weights {
                z_loss[lane] = weighted(rows.row_weight[lane], z_loss[lane]);
            }
            self.loss[lane] += z_loss[lane];
        }
        self.total_z_loss = sum(z_loss);
    }
}

/// One loop for all: a short one would be unrolled before it could become vectors. And the function's own arguments,
/// which the compiler knows not to overlap.
#[inline(always)]
fn each_result<L: Real>(
    rows: &RowLanes<L>,
    results: &mut Results<L>,
    loss: impl Fn(&Softmax<L>, f64) -> f64,
) {
    let mut probes = [0.0; LANES];
    let mut correct = 0;
    for lane in 0..LANES {
        let softmax = Softmax::new(rows.statistics(lane), rows.target_logit[lane]);
        results.max[lane] = softmax.max;
        results.ln_sum[lane] = softmax.ln_sum;
        results.scale[lane] = softmax.scale;
        results.target_probability[lane] = softmax.target_probability;
        results.others_probability[lane] = softmax.others_probability;
        results.target_gap[lane] = softmax.target_gap;
        results.loss[lane] = loss(&softmax, rows.own[lane]);
        // NaN where the maximum is infinite.
        probes[lane] = softmax.ln_sum + softmax.max.into() * 0.0;
        correct += u64::from(rows.contender[lane] >= rows.max[lane]);
    }
    results.has_nan = sum(probes).is_nan();
    results.total_loss = sum(results.loss);
    if results.has_nan {
        for lane in 0..LANES {
            let is_nan = results.softmax(rows, lane).is_nan();
            correct -= u64::from(is_nan && rows.contender[lane] >= rows.max[lane]);
        }
    }
    results.correct = correct as usize;
}

impl<'a, T: Rounded> CoefficientsTask<'a, T> {
    /// The same with the targets' own values rounded to another dtype.
    pub(crate) fn rounding_to<U: Rounded<Real = T::Real>>(self) -> CoefficientsTask<'a, U> {
        let Self { rows, terms, results, coefficients, .. } = self;
        CoefficientsTask { rows, terms, results, coefficients, dtype: PhantomData }
    }
}

impl<T: Rounded> Task for CoefficientsTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { rows, terms, results, coefficients, .. } = self;
        match terms {
            None => each_coefficient::<T>(rows, results, coefficients, |softmax, _| softmax.probabilities()),
            Some(terms) if terms.differ_by_row() => {
                let gradient = |softmax: &_, lane: usize| {
                    let shares = results.terms.shares(lane, terms.unit() * rows.weight[lane]);
                    terms.gradient(softmax, shares, rows.factor[lane], rows.z_factor[lane])
                };
                each_coefficient::<T>(rows, results, coefficients, gradient);
            }
            Some(terms) => {
                // The weights from `rows`: by way of the softmax they cost 16 rows 650 instructions more (AVX2).
                let gradient = |softmax: &_, lane: usize| {
                    let shares = terms.shares(rows.own[lane], terms.unit() * rows.weight[lane]);
                    terms.gradient(softmax, shares, rows.factor[lane], rows.z_factor[lane])
                };
                each_coefficient::<T>(rows, results, coefficients, gradient);
            }
        }
        // What weights, or derivatives, of 0 multiply.
        if let Some(terms) = terms {
            if terms.is_smooth() {
                make_finite(&mut coefficients.shift);
            }
            if terms.has_slopes() {
                make_finite(&mut coefficients.at_target);
            }
        }
    }
}

#[inline(always)]
fn make_finite<L: Real>(lanes: &mut [L; LANES]) {
    for x in lanes {
        *x = Real::round_to_finite((*x).into());
    }
}

/// Also one loop for all.
#[inline(always)]
fn each_coefficient<T: Rounded>(
    rows: &RowLanes<T::Real>,
    results: &Results<T::Real>,
    lanes: &mut CoefficientLanes<T::Real>,
    coefficients: impl Fn(&Softmax<T::Real>, usize) -> Coefficients,
) {
    for lane in 0..LANES {
        let Coefficients { scale, shift, at_target } = coefficients(&results.softmax(rows, lane), lane);
        lanes.exact_scale[lane] = scale;
        lanes.shift[lane] = Real::round(shift);
        lanes.at_target[lane] = T::round(at_target);
        (lanes.scale[lane], lanes.least[lane]) = T::Real::scale_and_least(scale);
    }
}

/// Halves added to halves: in lengths that are constants, which compile to vectors.
#[inline(always)]
fn sum(lanes: [f64; LANES]) -> f64 {
    let (mut eight, mut four) = ([0.0; 8], [0.0; 4]);
    for lane in 0..8 {
        eight[lane] = lanes[lane] + lanes[lane + 8];
    }
    for lane in 0..4 {
        four[lane] = eight[lane] + eight[lane + 4];
    }
    (four[0] + four[2]) + (four[1] + four[3])
}
