//! The softmax of a row, from its statistics.

use super::{Coefficients, weighted};
use crate::kernel::scalar::{exp, log1p_and_reciprocal};
use crate::kernel::statistics::Statistics;

/// A row's softmax, in the terms of the essay in `kernel`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax {
    pub(crate) statistics: Statistics,
    /// The target's logit; -inf where there is no target.
    pub(crate) target_logit: f32,
    /// The largest logit, the target's included.
    pub(crate) max: f32,
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

impl Softmax {
    /// From the statistics of all columns but the target, and the target's logit; without a target, from those of all
    /// columns and -inf.
    #[inline(always)]
    pub(crate) fn new(statistics: Statistics, target_logit: f32) -> Self {
        let Statistics { max: others_max, sum, .. } = statistics;
        let target_leads = target_logit >= others_max;
        let max = if target_leads { target_logit } else { others_max };
        let min = if target_leads { others_max } else { target_logit };
        let e = exp(f64::from(min) - f64::from(max));
        let scaled = sum * e;
        let y = select(target_leads, scaled, (sum - 1.0) + e);
        let (ln_sum, reciprocal) = log1p_and_reciprocal(y);
        let others = if target_leads { scaled } else { sum };
        let own = if target_leads { 1.0 } else { e };
        Self {
            statistics,
            target_logit,
            max,
            ln_sum,
            scale: if target_leads { e * reciprocal } else { reciprocal },
            target_probability: own * reciprocal,
            others_probability: others * reciprocal,
            target_gap: f64::from(max) - f64::from(target_logit),
        }
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
        f64::from(self.max) + self.ln_sum
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

    /// The entropy, where the target has the largest logit, from the sum of exp(x - m) (m - x) over the other classes
    /// with m their maximum.
    pub(crate) fn entropy(&self, spread: f64) -> f64 {
        let gap = f64::from(self.max) - f64::from(self.statistics.max);
        self.ln_sum + weighted(self.others_probability, gap) + self.scale * spread
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

/// `a` if `first`, else `b`, by their bits: of a branch, the compiler would make two logarithms, one in each arm, and
/// vectors would compute both.
#[inline(always)]
fn select(first: bool, a: f64, b: f64) -> f64 {
    let mask = u64::from(first).wrapping_neg();
    f64::from_bits((a.to_bits() & mask) | (b.to_bits() & !mask))
}
