//! exp and log1p of `f64`, for the one or two of each that a row needs.
//!
//! Written in plain multiplications and additions, which every CPU rounds alike: no platform's libm, whose last bits
//! differ, and no fused operations, which are library calls where the CPU lacks them. A row waits for these chains, and
//! its results are rounded to `f32`, at 6e-8: so they stop at a relative error of 1e-11.

use super::statistics::Statistics;
use crate::loss::Softmax;

/// Largest relative error of both.
#[cfg(test)]
const RELATIVE_ERROR: f64 = 1e-11;

const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1; // 32 bits: its product with an exponent is exact
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// exp(x) for x <= 0; 0 where that is below the normal numbers; NaN for NaN.
#[inline(always)]
pub(crate) fn exp(x: f64) -> f64 {
    const ROUND: f64 = 6_755_399_441_055_744.0 + 1023.0;
    const LOWEST: f64 = -708.39;
    let clamped = if x < LOWEST { LOWEST } else { x };
    let rounded = clamped * core::f64::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (clamped - n * LN_2_HIGH) - n * LN_2_LOW;
    // The Taylor series to degree 9, in pairs of pairs.
    let r2 = r * r;
    let c2 = (0.5 + r * (1.0 / 6.0)) + r2 * (1.0 / 24.0 + r * (1.0 / 120.0));
    let c6 = (1.0 / 720.0 + r * (1.0 / 5_040.0)) + r2 * (1.0 / 40_320.0 + r * (1.0 / 362_880.0));
    let p = 1.0 + (r + r2 * (c2 + (r2 * r2) * c6));
    let result = p * f64::from_bits(rounded.to_bits() << 52);
    if x < LOWEST { 0.0 } else { result }
}

/// ln(1 + y) and 1 / (1 + y) for y from 0 to 1e300, the first with a small relative error for small y too; NaN for NaN and
/// infinity.
#[inline(always)]
pub(crate) fn log1p_and_reciprocal(y: f64) -> (f64, f64) {
    const SQRT_HALF_BITS: u64 = 0x3fe6_a09e_667f_3bcd;
    let u = 1.0 + y;
    // What rounding 1 + y lost: exact, because one of the two dominates.
    let lost = if y < 1.0 { y - (u - 1.0) } else { 1.0 - (u - y) };
    // u = 2^k f with f between sqrt(1/2) and sqrt(2).
    let offset = u.to_bits().wrapping_sub(SQRT_HALF_BITS);
    // The exponent becomes a number by way of the bits of 2^52, where the last bit is worth 1.
    let k = f64::from_bits((offset >> 52) | 0x4330_0000_0000_0000) - 4_503_599_627_370_496.0;
    let f = f64::from_bits((offset & 0x000f_ffff_ffff_ffff) + SQRT_HALF_BITS);
    // Both quotients from one division.
    let both = 1.0 / ((f + 1.0) * u);
    let reciprocal = both * (f + 1.0);
    // ln f = 2 artanh z, by its series; |z| <= 0.172.
    let z = (f - 1.0) * (both * u);
    let z2 = z * z;
    let c3 = (1.0 / 3.0 + z2 * (1.0 / 5.0)) + (z2 * z2) * (1.0 / 7.0 + z2 * (1.0 / 9.0));
    let c11 = 1.0 / 11.0 + z2 * (1.0 / 13.0);
    let series = c3 + ((z2 * z2) * (z2 * z2)) * c11;
    let ln_f = 2.0 * z + (2.0 * z * z2) * series;
    (k * LN_2_HIGH + (ln_f + (k * LN_2_LOW + lost * reciprocal)), reciprocal)
}

/// A row's softmax, from the statistics of all columns but the target, and the target's logit.
#[inline(always)]
pub(crate) fn softmax(statistics: Statistics, target_logit: f32) -> Softmax {
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
    Softmax {
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

/// `a` if `first`, else `b`, by their bits: of a branch, the compiler would make two logarithms, one in each arm, and
/// vectors would compute both.
#[inline(always)]
pub(super) fn select(first: bool, a: f64, b: f64) -> f64 {
    let mask = u64::from(first).wrapping_neg();
    f64::from_bits((a.to_bits() & mask) | (b.to_bits() & !mask))
}

/// q^gamma for q = 1 - p, where both are given without cancellation and gamma >= 0 is finite; NaN for NaN. The relative
/// error grows with the logarithm of the result. Below 1e-300, q counts as 0.
#[inline(always)]
pub(crate) fn power_of_complement(q: f64, p: f64, gamma: f64) -> f64 {
    // ln(1 / q) = ln(1 + p / q) has a small relative error for q near 1 too.
    let (ln_inverse, _) = log1p_and_reciprocal(p / q);
    let power = exp(-(gamma * ln_inverse));
    if q < 1e-300 { 0.0 } else { power }
}

/// Rounds to `f32`; what would be subnormal there becomes 0, so that no result depends on how a thread treats
/// subnormals.
#[inline(always)]
pub(crate) fn to_f32(x: f64) -> f32 {
    let rounded = x as f32;
    if rounded.abs() < f32::MIN_POSITIVE { 0.0 } else { rounded }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    fn is_close(value: f64, exact: f64) -> bool {
        (value - exact).abs() <= RELATIVE_ERROR * exact.abs()
    }

    #[test]
    fn exp_keeps_its_bound_against_the_platforms() {
        for i in 0..=708_000 {
            let x = -f64::from(i) / 1000.0;
            assert!(is_close(exp(x), x.exp()), "exp({x}) = {} against {}", exp(x), x.exp());
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-709.0), 0.0);
        assert_eq!(exp(f64::NEG_INFINITY), 0.0);
        assert!(exp(f64::NAN).is_nan());
    }

    #[test]
    fn log1p_and_reciprocal_keep_their_bound_against_the_platforms() {
        let mut y = 1e-300;
        while y < 1e300 {
            let (ln, reciprocal) = log1p_and_reciprocal(y);
            assert!(is_close(ln, y.ln_1p()), "log1p({y:e}) = {ln:e} against {:e}", y.ln_1p());
            assert!(is_close(reciprocal, 1.0 / (1.0 + y)), "1 / (1 + {y:e}) = {reciprocal:e}");
            y *= 1.003;
        }
        assert_eq!(log1p_and_reciprocal(0.0), (0.0, 1.0));
        assert!(log1p_and_reciprocal(f64::NAN).0.is_nan());
    }

    /// The platform's functions are within 2 units in the last place, 2e-16: `tests/suite/oracle.rs` holds them to 60 digits.
    /// There is nothing to go through backends for: this code is the same on all.
    #[test]
    #[ignore = "130 million arguments of each function: 10 seconds on two cores"]
    fn exp_and_log1p_keep_their_bound_on_a_dense_sweep() {
        /// Of normal numbers, 2^16 for each power of 2.
        const STRIDE: u64 = 1 << 36;

        fn relative(found: f64, exact: f64) -> f64 {
            (found - exact).abs() / exact
        }

        type Error = fn(f64) -> f64;
        let sweeps: [(&str, f64, Error); 3] = [
            ("log1p", 1e300, |y| relative(log1p_and_reciprocal(y).0, y.ln_1p())),
            ("1 / (1 + y)", 1e300, |y| relative(log1p_and_reciprocal(y).1, 1.0 / (1.0 + y))),
            ("exp", 708.0, |x| relative(exp(-x), (-x).exp())),
        ];
        for (name, largest, error) in sweeps {
            let start = f64::MIN_POSITIVE.to_bits();
            let points = (largest.to_bits() - start) / STRIDE;
            let at = |i: u64| {
                // Other last bits at each point.
                let bits = start + i * STRIDE + i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % STRIDE;
                (error(f64::from_bits(bits)), f64::from_bits(bits))
            };
            let larger = |a: (f64, f64), b: (f64, f64)| if a.0 > b.0 { a } else { b };
            let (error, x) = (0..points).into_par_iter().map(at).reduce(|| (0.0, 0.0), larger);
            println!("{name}: {points} points, the largest relative error is {error:e}, at {x:e}");
            assert!(error <= RELATIVE_ERROR, "{name} at {x:e} is off by {error:e}");
        }
    }

    #[test]
    fn power_of_complement_keeps_its_bound_against_the_platforms() {
        for gamma in [1e-3, 0.5, 1.0, 2.0, 5.0, 30.0, 1e6] {
            let (mut small, mut powers) = (1e-299_f64, 0);
            while small < 0.5 {
                for (q, p) in [(small, 1.0 - small), (1.0 - small, small)] {
                    // q itself may be too near 1 for its logarithm.
                    let exact = (gamma * (-p).ln_1p()).exp();
                    let exact = if q == small { q.powf(gamma) } else { exact };
                    let power = power_of_complement(q, p, gamma);
                    // Twice the bound of the logarithm, times the logarithm of the result, and that of exp.
                    let bound = RELATIVE_ERROR * (1.0 + 2.0 * exact.ln().abs());
                    if exact > 1e-300 {
                        assert!((power - exact).abs() <= bound * exact, "({q:e})^{gamma} = {power:e}");
                        powers += 1;
                    } else {
                        assert!(power <= 2e-300, "({q:e})^{gamma} = {power:e}");
                    }
                }
                small *= 1.01;
            }
            assert!(powers > 1000);
        }
        assert_eq!(power_of_complement(0.0, 1.0, 2.0), 0.0);
        assert_eq!(power_of_complement(1.0, 0.0, 2.0), 1.0);
        assert_eq!(power_of_complement(0.5, 0.5, 1e308), 0.0);
        assert!(power_of_complement(f64::NAN, f64::NAN, 2.0).is_nan());
    }
}
