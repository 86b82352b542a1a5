//! Logits that are scaled and capped before the softmax.

use super::Options;

/// What happens to each logit before anything else; see [`CrossEntropy`](crate::CrossEntropy). In the numbers that the
/// kernels compute with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transform {
    /// scale x
    Scale(f32),
    /// cap tanh(factor x), where the factor is the scale divided by the cap.
    Softcap { factor: f32, cap: f32 },
}

impl Options {
    /// Nothing, where logits are taken as they are.
    #[inline]
    pub(crate) fn transform(&self) -> Option<Transform> {
        match self.softcap {
            Some(softcap) => {
                Some(Transform::Softcap { factor: (self.logit_scale / softcap) as f32, cap: softcap as f32 })
            }
            None if self.logit_scale == 1.0 => None,
            None => Some(Transform::Scale(self.logit_scale as f32)),
        }
    }

    /// The name of an option that transforms logits, if one does.
    pub(crate) fn transforming(&self) -> Option<&'static str> {
        match self.transform()? {
            Transform::Softcap { .. } => Some("softcap"),
            Transform::Scale(_) => Some("logit_scale"),
        }
    }
}

impl Transform {
    /// Whether its derivative, but for the scale, differs between logits.
    pub(crate) fn has_slopes(self) -> bool {
        matches!(self, Self::Softcap { .. })
    }
}

/// Whether a factor, rounded to `f32`, is a normal number above 0.
pub(crate) fn is_factor(factor: f64) -> bool {
    let rounded = factor as f32;
    rounded > 0.0 && rounded.is_normal()
}
