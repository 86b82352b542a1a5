//! Logits of `f64` that are scaled and capped before the softmax: tanh, and its derivative.
//!
//! ```text
//! scale       x' = scale x
//! softcap     x' = cap tanh(factor x)        dx'/dx = scale (1 - tanh^2)
//!
//! E = exp(-2|v|) - 1          2^n (r + r^2 q(r)) + (2^n - 1), with n = round(-2|v| / ln 2) and r the rest
//! tanh(v)      = -E / (2 + E)                 with the sign of v
//! 1 - tanh^2   = (1 + E) (2 / (2 + E))^2
//! ```
//!
//! The derivative's scale is not applied here, as in `kernel::transform`. Every pass over a row transforms its logits anew,
//! a group at a time, by way of memory: plain multiplications and additions, which every CPU rounds alike, in loops that
//! compile to vectors.

use super::scalar::{EXP_Q, LN_2_HIGH, LN_2_LOW, normal_or_zero};
use crate::loss::Transform;
use crate::simd::{Simd, Task};

/// Products below count as 0, as in `kernel::transform`: a CPU that makes zeros of subnormals may make one of a product that
/// would round up to the smallest normal number.
pub(super) const LEAST: f64 = f64::from_bits(f64::MIN_POSITIVE.to_bits() + 2);

/// Transforms neighbouring logits.
pub(crate) struct TransformTask<'a> {
    pub(crate) transform: Transform<f64>,
    pub(crate) from: &'a [f64],
    /// As many.
    pub(crate) to: &'a mut [f64],
    /// Where 1 - tanh^2 goes, with a softcap; empty, where it is not wanted.
    pub(crate) slopes: &'a mut [f64],
}

impl Task for TransformTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { transform, from, to, slopes } = self;
        match transform {
            Transform::Scale(scale) => {
                for (from, to) in from.iter().zip(to) {
                    *to = product(scale, normal_or_zero(*from));
                }
            }
            Transform::Softcap { factor, cap } if slopes.is_empty() => {
                for (from, to) in from.iter().zip(to) {
                    (*to, _) = capped(*from, factor, cap);
                }
            }
            Transform::Softcap { factor, cap } => {
                for (from, (to, slope)) in from.iter().zip(to.iter_mut().zip(slopes)) {
                    (*to, *slope) = capped(*from, factor, cap);
                }
            }
        }
    }
}

/// A capped logit, and its derivative but for the scale.
#[inline(always)]
fn capped(x: f64, factor: f64, cap: f64) -> (f64, f64) {
    let x = normal_or_zero(x);
    let (tanh, slope) = tanh_and_slope(product(factor, x));
    let capped = product(cap, tanh);
    // A mask is a mask.
    (if x.is_infinite() { x } else { capped }, slope)
}

/// a b; 0 where it may be subnormal.
#[inline(always)]
pub(crate) fn product(a: f64, b: f64) -> f64 {
    let product = a * b;
    if product.abs() < LEAST { 0.0 } else { product }
}

/// tanh(v) and 1 - tanh(v)^2, within [`TANH_F64`](crate::contract::TANH_F64) and
/// [`TANH_SLOPE_F64`](crate::contract::TANH_SLOPE_F64) units; the second is 0 where exp(-2|v|) is below the normal numbers.
/// NaN for NaN.
#[inline(always)]
fn tanh_and_slope(v: f64) -> (f64, f64) {
    const ROUND: f64 = 6_755_399_441_055_744.0 + 1023.0;
    const LOWEST: f64 = -708.39;
    let exact = -2.0 * v.abs();
    let d = if exact < LOWEST { LOWEST } else { exact };
    let rounded = d * core::f64::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (d - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut q = EXP_Q[10];
    for i in (0..10).rev() {
        q = q * r + EXP_Q[i];
    }
    let p = r + (r * r) * q;
    let power = f64::from_bits(rounded.to_bits() << 52);
    let minus = power * p + (power - 1.0);
    let exp = power * p + power;
    let denominator = 2.0 + minus;
    let reciprocal = 2.0 / denominator;
    let slope = exp * (reciprocal * reciprocal);
    ((-minus / denominator).copysign(v), if exact < LOWEST { 0.0 } else { slope })
}

#[cfg(test)]
mod tests {
    use super::super::exp::double_double::DoubleDouble;
    use super::*;
    use crate::contract::{TANH_F64, TANH_SLOPE_F64, U_F64};

    #[test]
    fn tanh_and_its_derivative_keep_their_bounds() {
        let steps = (1..200_000).map(|i| f64::from(i) * 0.001_770_123_7);
        let small = (1..200_000).map(|i| f64::from(i) * 5.3e-6);
        let tiny = (0..20_000).map(|i| 2.0_f64.powf(-f64::from(i) * 0.05));
        let mut worst = [(0.0, 0.0); 2];
        for v in steps.chain(small).chain(tiny).filter(|&v| v < 354.0 && v > 1e-300) {
            let (found, exact) = (tanh_and_slope(v), DoubleDouble::from(v).tanh_and_slope());
            for (worst, (found, exact)) in worst.iter_mut().zip([(found.0, exact.0), (found.1, exact.1)]) {
                let error = ((DoubleDouble::from(found) - exact) / exact).high.abs() / U_F64;
                if error > worst.0 {
                    *worst = (error, v);
                }
            }
            assert_eq!(tanh_and_slope(-v), (-found.0, found.1));
        }
        println!("largest errors in units, and where: {worst:?}");
        assert!(worst[0].0 <= TANH_F64, "tanh: {:?}", worst[0]);
        assert!(worst[1].0 <= TANH_SLOPE_F64, "its derivative: {:?}", worst[1]);
    }

    #[test]
    fn special_numbers_have_special_values() {
        assert_eq!(tanh_and_slope(f64::INFINITY), (1.0, 0.0));
        assert_eq!(tanh_and_slope(f64::NEG_INFINITY), (-1.0, 0.0));
        assert_eq!(tanh_and_slope(1e300), (1.0, 0.0));
        let (zero, slope) = tanh_and_slope(-0.0);
        assert!(zero == 0.0 && zero.is_sign_negative() && slope == 1.0);
        assert!(tanh_and_slope(f64::NAN).0.is_nan());
        for v in [353.9, 354.0, 354.19, 354.195, 354.2, 355.0, 400.0] {
            assert!(!tanh_and_slope(v).1.is_subnormal(), "{v}");
        }
    }
}
