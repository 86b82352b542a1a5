//! Logits that are scaled and capped before the softmax.

use crate::CrossEntropy;

/// The logits that the softmax is of: with the logit scale a and the softcap s of `ce`, a x, and with a softcap
/// s tanh(a x / s). Infinite ones stay as they are.
pub fn transformed(ce: &CrossEntropy, logits: &[f32]) -> Vec<f64> {
    let transformed = |&x: &f32| {
        let scaled = ce.logit_scale() * f64::from(x);
        match ce.softcap() {
            Some(cap) if x.is_finite() => cap * (scaled / cap).tanh(),
            _ => scaled,
        }
    };
    logits.iter().map(transformed).collect()
}

/// The derivative of each of them with respect to its logit: a, or a (1 - tanh(a x / s)^2) = a / cosh(a x / s)^2.
pub fn transform_slopes(ce: &CrossEntropy, logits: &[f32]) -> Vec<f64> {
    let slope = |&x: &f32| {
        let cosh = ce.softcap().map_or(1.0, |cap| (ce.logit_scale() * f64::from(x) / cap).cosh());
        ce.logit_scale() / (cosh * cosh)
    };
    logits.iter().map(slope).collect()
}
