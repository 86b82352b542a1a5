//! Logits that are scaled and capped before the softmax.

use crate::CrossEntropy;

/// The logits that the softmax is of: with the logit scale a and the softcap s of `ce`, a x, and with a softcap
/// s tanh(a x / s). Infinite ones stay as they are.
pub fn transformed<E: Copy + Into<f64>>(ce: &CrossEntropy, logits: &[E]) -> Vec<f64> {
    let transformed = |&x: &E| {
        let x: f64 = x.into();
        let scaled = ce.logit_scale() * x;
        match ce.softcap() {
            Some(cap) if x.is_finite() => cap * (scaled / cap).tanh(),
            _ => scaled,
        }
    };
    logits.iter().map(transformed).collect()
}

/// The derivative of each of them with respect to its logit: a, or a (1 - tanh(a x / s)^2) = a / cosh(a x / s)^2.
pub fn transform_slopes<E: Copy + Into<f64>>(ce: &CrossEntropy, logits: &[E]) -> Vec<f64> {
    let slope = |&x: &E| {
        let cosh = ce.softcap().map_or(1.0, |cap| (ce.logit_scale() * x.into() / cap).cosh());
        ce.logit_scale() / (cosh * cosh)
    };
    logits.iter().map(slope).collect()
}

/// The second derivative of each of them: 0, or with a softcap -2 (a^2 / s) tanh(a x / s) / cosh(a x / s)^2.
pub fn transform_bends<E: Copy + Into<f64>>(ce: &CrossEntropy, logits: &[E]) -> Vec<f64> {
    let bend = |(&x, slope): (&E, f64)| {
        ce.softcap().map_or(0.0, |cap| {
            let factor = ce.logit_scale() / cap;
            -2.0 * factor * (factor * x.into()).tanh() * slope
        })
    };
    logits.iter().zip(transform_slopes(ce, logits)).map(bend).collect()
}
