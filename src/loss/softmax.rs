//! The softmax of a row, from its statistics.

use super::{Coefficients, weighted};
use crate::kernel::real::Real;
use crate::kernel::statistics::Statistics;

/// A row's softmax, in the terms of the essay in `kernel`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax<L = f32> {
    pub(crate) statistics: Statistics<L>,
    /// The target's logit; -inf where there is no target.
    pub(crate) target_logit: L,
    /// The largest logit, the target's included.
    pub(crate) max: L,
    /// ln of the sum relative to `max`.
    pub(crate) ln_sum: f64,
    /// exp(x - statistics.max) times this is a probability.
    pub(crate) scale: f64,
    pub(crate) target_probability: f64,
    /// 1 - target_probability, without cancellation.
    pub(crate) others_probability: f64,
    /// max - target_logit.
    pub(crate) target_gap: f64,
}

impl<L: Real> Softmax<L> {
    /// From the statistics of all columns but the target, and the target's logit; without a target, from those of all
    /// columns and -inf.
    #[inline(always)]
    pub(crate) fn new(statistics: Statistics<L>, target_logit: L) -> Self {
        L::softmax(statistics, target_logit)
    }

    /// -ln p of the target.
    #[inline(always)]
    pub(crate) fn nll(&self) -> f64 {
        self.target_gap + self.ln_sum
    }

    /// Whether the row has a NaN, +inf, or nothing but -inf.
    #[inline(always)]
    pub(crate) fn is_nan(&self) -> bool {
        self.nll().is_nan()
    }

    /// ln of the sum of exp(x).
    #[inline(always)]
    pub(crate) fn lse(&self) -> f64 {
        self.max.into() + self.ln_sum
    }

    /// The largest of the probabilities.
    #[inline(always)]
    pub(crate) fn largest_probability(&self) -> f64 {
        if self.is_nan() {
            f64::NAN
        } else if self.target_logit >= self.statistics.max {
            self.target_probability
        } else {
            self.scale
        }
    }

    /// The entropy, from the sum of exp(x - m) (m - x) over the other classes with m their maximum.
    pub(crate) fn entropy(&self, spread: f64) -> f64 {
        let others_gap = self.max.into() - self.statistics.max.into();
        let pivot = weighted(self.target_probability, self.target_gap);
        self.ln_sum + pivot + weighted(self.others_probability, others_gap) + self.scale * spread
    }

    /// Whether the small sum next to the largest term may have been lost to the rounding of that term: the largest
    /// logit is not the target, and the rest is little beside it.
    pub(crate) fn has_dominant_other(&self) -> bool {
        self.ln_sum < 1.0 && self.target_logit < self.statistics.max
    }

    /// The probabilities.
    #[inline(always)]
    pub(crate) fn probabilities(&self) -> Coefficients {
        Coefficients { scale: self.scale, shift: 0.0, at_target: self.target_probability }
    }
}
