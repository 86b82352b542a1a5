//! What a row's own numbers are: its maximum, its target's logit, its coefficients.

use core::fmt::Debug;

use super::double;
use super::scalar;
use super::statistics::Statistics;
use crate::loss::Softmax;

/// `f32`; for logits of `f64`, `f64`.
///
/// For `f32` the scalars between the passes are computed in `f64`, with nothing to lose. For `f64` there is no wider type,
/// and those steps that the bounds rest on carry the rounding error of each operation along.
#[allow(private_interfaces)]
pub trait Real: Copy + Debug + Default + PartialOrd + From<f32> + Into<f64> + Send + Sync + 'static {
    #[doc(hidden)]
    const MAX: Self;
    #[doc(hidden)]
    const NEG_INFINITY: Self;
    /// Whether the sum of the rows' losses needs what rounding took from it.
    #[doc(hidden)]
    const NEEDS_LOST: bool;

    /// Rounds to this type. What would be subnormal becomes 0, so that no result depends on how a thread treats
    /// subnormals.
    #[doc(hidden)]
    fn round(x: f64) -> Self;

    /// The same, and finite, so that its product with 0 is 0.
    #[doc(hidden)]
    #[inline(always)]
    fn round_to_finite(x: f64) -> Self {
        Self::round(x.clamp(-Self::MAX.into(), Self::MAX.into()))
    }

    /// From the statistics of all columns but the target, and the target's logit; without a target, from those of all
    /// columns and -inf.
    #[doc(hidden)]
    fn softmax(statistics: Statistics<Self>, target_logit: Self) -> Softmax<Self>;

    /// As [`scalar::power_of_complement`].
    #[doc(hidden)]
    fn power_of_complement(q: f64, p: f64, gamma: f64) -> f64;

    /// What the second pass multiplies exponentials with, and below which of them the product would be no normal number.
    #[doc(hidden)]
    fn scale_and_least(scale: f64) -> (Self, Self);
}

#[allow(private_interfaces)]
impl Real for f32 {
    const MAX: Self = Self::MAX;
    const NEG_INFINITY: Self = Self::NEG_INFINITY;
    const NEEDS_LOST: bool = false;

    #[inline(always)]
    fn round(x: f64) -> Self {
        scalar::to_f32(x)
    }

    #[inline(always)]
    fn softmax(statistics: Statistics<Self>, target_logit: Self) -> Softmax<Self> {
        scalar::softmax(statistics, target_logit)
    }

    #[inline(always)]
    fn power_of_complement(q: f64, p: f64, gamma: f64) -> f64 {
        scalar::power_of_complement(q, p, gamma)
    }

    #[inline(always)]
    fn scale_and_least(scale: f64) -> (Self, Self) {
        super::affine::scale_and_least(scale)
    }
}

#[allow(private_interfaces)]
impl Real for f64 {
    const MAX: Self = Self::MAX;
    const NEG_INFINITY: Self = Self::NEG_INFINITY;
    const NEEDS_LOST: bool = true;

    #[inline(always)]
    fn round(x: f64) -> Self {
        double::scalar::normal_or_zero(x)
    }

    #[inline(always)]
    fn softmax(statistics: Statistics<Self>, target_logit: Self) -> Softmax<Self> {
        double::scalar::softmax(statistics, target_logit)
    }

    #[inline(always)]
    fn power_of_complement(q: f64, p: f64, gamma: f64) -> f64 {
        double::scalar::power_of_complement(q, p, gamma)
    }

    #[inline(always)]
    fn scale_and_least(scale: f64) -> (Self, Self) {
        double::affine::scale_and_least(scale)
    }
}
