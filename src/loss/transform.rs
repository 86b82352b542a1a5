//! Logits that are scaled and capped before the softmax.

use super::Options;
use crate::kernel::real::Real;

/// What happens to each logit before anything else; see [`CrossEntropy`](crate::CrossEntropy). In the numbers that the
/// kernels compute with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transform<L = f32> {
    /// scale x
    Scale(L),
    /// cap tanh(factor x), where the factor is the scale divided by the cap.
    Softcap { factor: L, cap: L },
}

impl Options {
    /// Nothing, where logits are taken as they are.
    #[inline]
    pub(crate) fn transform<L: Real>(&self) -> Option<Transform<L>> {
        match self.softcap {
            Some(softcap) => {
                let factor = Real::round(self.logit_scale / softcap);
                Some(Transform::Softcap { factor, cap: Real::round(softcap) })
            }
            None if self.logit_scale == 1.0 => None,
            None => Some(Transform::Scale(Real::round(self.logit_scale))),
        }
    }
}

impl<L> Transform<L> {
    /// Whether its derivative, but for the scale, differs between logits.
    pub(crate) fn has_slopes(&self) -> bool {
        matches!(self, Self::Softcap { .. })
    }
}

/// Whether a factor, rounded to `f32`, is a normal number above 0.
pub(crate) fn is_factor(factor: f64) -> bool {
    let rounded = factor as f32;
    rounded > 0.0 && rounded.is_normal()
}
