//! The scalars of a row of `f64`, in sums of two numbers: a high one, and what its rounding lost.
//!
//! As in `kernel::scalar`, all is written in plain multiplications and additions, which every CPU rounds alike, and without
//! branches, so that 16 rows at a time compile to vectors. Products are split ([Dekker 1971](
//! https://doi.org/10.1007/BF01397083)), because fused operations are library calls where the CPU lacks them.

use crate::kernel::scalar::select;
use crate::kernel::statistics::Statistics;
use crate::loss::Softmax;
use crate::sum::two_sum;

/// Of the sums of two numbers that [`exp`] and [`log1p_and_reciprocal`] give, relative: a quarter of the unit that they are
/// rounded to afterwards.
#[cfg(test)]
const RELATIVE_ERROR: f64 = crate::contract::U_F64 / 4.0;

pub(super) const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1; // 32 bits: its product with an exponent is exact
pub(super) const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// exp(r) = 1 + r + r^2 q(r) for |r| <= ln(2) / 2, minimax of degree 12; 0.007 u.
pub(super) const EXP_Q: [f64; 11] = [
    f64::from_bits(0x3fe0_0000_0000_0000),
    f64::from_bits(0x3fc5_5555_5555_555b),
    f64::from_bits(0x3fa5_5555_5555_5503),
    f64::from_bits(0x3f81_1111_1110_ec65),
    f64::from_bits(0x3f56_c16c_16c3_0438),
    f64::from_bits(0x3f2a_01a0_1b37_b415),
    f64::from_bits(0x3efa_01a0_1369_fc42),
    f64::from_bits(0x3ec7_1ddf_0285_e98a),
    f64::from_bits(0x3e92_7e5b_4333_d07f),
    f64::from_bits(0x3e5a_f6bd_a727_b1b0),
    f64::from_bits(0x3e21_e3d3_6352_bf3e),
];

/// Below this, nothing is known of what rounding lost: it may be subnormal.
pub(super) const LEAST_SPLIT: f64 = 1e-250;

/// `x`; 0 where that is subnormal, and of all that is NaN the same.
#[inline(always)]
pub(crate) fn normal_or_zero(x: f64) -> f64 {
    let normal = if x.abs() < f64::MIN_POSITIVE { 0.0 } else { x };
    if x.is_nan() { f64::NAN } else { normal }
}

/// a + b, and what rounding it lost, where |a| >= |b|.
#[inline(always)]
pub(super) fn fast_two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    (sum, b - (sum - a))
}

/// a b, and what rounding it lost. Neither is above 1e300.
#[inline(always)]
pub(super) fn two_product(a: f64, b: f64) -> (f64, f64) {
    let ((a_high, a_low), (b_high, b_low)) = (split(a), split(b));
    let product = a * b;
    let lost = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
    (product, lost)
}

/// Two halves of 26 bits.
#[inline(always)]
fn split(x: f64) -> (f64, f64) {
    let scaled = x * 134_217_729.0;
    let high = scaled - (scaled - x);
    (high, x - high)
}

/// (high + low) 2^exponent, high + low between 0.7 and 1.5.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exp {
    pub(super) high: f64,
    pub(super) low: f64,
    pub(super) exponent: f64,
}

/// exp(x + x_low) for x <= 0 and a small `x_low`; about exp(`FURTHEST`) below that; NaN for NaN.
#[inline(always)]
pub(super) fn exp(x: f64, x_low: f64) -> Exp {
    /// 2^53 times the exponential of this is no normal number.
    const FURTHEST: f64 = -800.0;
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let x = if x < FURTHEST { FURTHEST } else { x };
    let n = (x * core::f64::consts::LOG2_E + ROUND) - ROUND;
    let (r, r_low) = two_sum(x - n * LN_2_HIGH, -(n * LN_2_LOW));
    let r_low = r_low + x_low;
    let mut q = EXP_Q[10];
    for i in (0..10).rev() {
        q = q * r + EXP_Q[i];
    }
    let (rest, rest_low) = two_sum(r, (r * r) * q);
    let (high, low) = fast_two_sum(1.0, rest);
    let (high, low) = fast_two_sum(high, low + (rest_low + r_low * (1.0 + r)));
    Exp { high, low, exponent: n }
}

/// exp(d) for d <= 0; 0 where that is no normal number; NaN for NaN.
pub(super) fn exp_of_gap(d: f64) -> f64 {
    let e = exp(d, 0.0);
    e.scale(e.high)
}

impl Exp {
    /// v 2^exponent for v between 0.5 and 2^60 or so; 0 where that is no normal number.
    #[inline(always)]
    fn scale(self, v: f64) -> f64 {
        const LIFT: f64 = 64.0;
        const TWO_TO_LIFT: f64 = 18_446_744_073_709_551_616.0;
        // 2^52, whose last bit is worth 1, and the bias of exponents.
        const INTEGER: f64 = 4_503_599_627_370_496.0 + 1023.0;
        // Lifted, so that what is no normal number shows before it is computed.
        let lifted = if self.exponent < -1022.0 - LIFT { -1022.0 } else { self.exponent + LIFT };
        let lifted = v * f64::from_bits((lifted + INTEGER).to_bits() << 52);
        let is_small = lifted < f64::MIN_POSITIVE * TWO_TO_LIFT;
        (if is_small { 0.0 } else { lifted }) * (1.0 / TWO_TO_LIFT)
    }

    /// v + v_low, scaled: the low part with less care, and 0 where it may be subnormal.
    #[inline(always)]
    fn scale_both(self, (v, v_low): (f64, f64)) -> (f64, f64) {
        let scaled = self.scale(v);
        let lost = v_low / v * scaled;
        (scaled, if scaled > LEAST_SPLIT { lost } else { 0.0 })
    }
}

/// ln(1 + y) as a sum of two numbers, and 1 / (1 + y), for finite y >= 0 as a sum of two numbers; NaN for NaN.
#[inline(always)]
pub(super) fn log1p_and_reciprocal(y: f64, y_low: f64) -> ((f64, f64), f64) {
    const SQRT_HALF_BITS: u64 = 0x3fe6_a09e_667f_3bcd;
    let (u, u_low) = two_sum(1.0, y);
    let u_low = u_low + y_low;
    let reciprocal = 1.0 / u;
    let (product, lost) = two_product(u, reciprocal);
    let reciprocal = reciprocal + reciprocal * (((1.0 - product) - lost) - u_low * reciprocal);
    // u = 2^k f with f between sqrt(1/2) and sqrt(2).
    let offset = u.to_bits().wrapping_sub(SQRT_HALF_BITS);
    let k = f64::from_bits((offset >> 52) | 0x4330_0000_0000_0000) - 4_503_599_627_370_496.0;
    let f = f64::from_bits((offset & 0x000f_ffff_ffff_ffff) + SQRT_HALF_BITS);
    // z = (f - 1) / (f + 1), its numerator exact, as a sum of two numbers.
    let (denominator, denominator_low) = two_sum(f, 1.0);
    let quotient = 1.0 / denominator;
    let z = (f - 1.0) * quotient;
    let (product, lost) = two_product(z, denominator);
    let z_low = ((((f - 1.0) - product) - lost) - z * denominator_low) * quotient;
    // ln f = 2 artanh z, by its series; |z| <= 0.172.
    let z2 = z * z;
    let mut series = 1.0 / 23.0;
    for odd in [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        series = series * z2 + 1.0 / odd;
    }
    let (high, low) = two_sum(k * LN_2_HIGH, 2.0 * z);
    let rest = 2.0 * (z_low + z * (z2 * series)) + (k * LN_2_LOW + u_low * reciprocal);
    let (high, low) = two_sum(high, low + rest);
    // Where 1 + y would have to carry all of y in what its rounding lost: y - y^2 / 2 + y^3 / 3 - y^4 / 4.
    let is_small = y < 1.0 / 1_048_576.0;
    let below = y_low - (y * y) * (0.5 - y * (1.0 / 3.0 - y * 0.25));
    ((if is_small { y } else { high }, if is_small { below } else { low }), reciprocal)
}

/// A row's softmax, from the statistics of all columns but the target, and the target's logit.
#[inline(always)]
pub(crate) fn softmax(statistics: Statistics<f64>, target_logit: f64) -> Softmax<f64> {
    let Statistics { max: others_max, sum, .. } = statistics;
    let target_leads = target_logit >= others_max;
    let max = if target_leads { target_logit } else { others_max };
    let min = if target_leads { others_max } else { target_logit };
    let e = exp(min - max, 0.0);
    let exp_of_gap = e.scale(e.high);
    let (scaled, scaled_low) = two_product(sum, e.high);
    let scaled = e.scale_both((scaled, scaled_low + sum * e.low));
    // sum - 1 is exact.
    let added = two_sum(sum - 1.0, exp_of_gap);
    let y = select(target_leads, scaled.0, added.0);
    let y_low = select(target_leads, scaled.1, added.1);
    let ((ln_sum, ln_low), reciprocal) = log1p_and_reciprocal(y, y_low);
    let others = if target_leads { scaled.0 } else { sum };
    let own = if target_leads { 1.0 } else { exp_of_gap };
    Softmax {
        statistics,
        target_logit,
        max,
        ln_sum: ln_sum + ln_low,
        scale: normal_or_zero(if target_leads { exp_of_gap * reciprocal } else { reciprocal }),
        target_probability: own * reciprocal,
        others_probability: others * reciprocal,
        target_gap: max - target_logit,
    }
}

/// q^gamma for q = 1 - p, where both are given without cancellation and gamma >= 0 is finite; NaN for NaN. Below the normal
/// numbers, q counts as 0.
#[inline(always)]
pub(crate) fn power_of_complement(q: f64, p: f64, gamma: f64) -> f64 {
    /// Splits of larger ones would overflow.
    const MOST: f64 = 1e200;
    /// Quotients by smaller ones would be too large.
    const LEAST: f64 = 1e-200;
    const LIFT: f64 = 512.0;
    const TWO_TO_LIFT: f64 = 1.340_780_792_994_259_7e154;
    let is_lifted = q < LEAST;
    let (lift, factor) = if is_lifted { (LIFT, TWO_TO_LIFT) } else { (0.0, 1.0) };
    // ln(1 / q) = ln(1 + p / q) has a small relative error for q near 1 too; and beside a large quotient, 1 is nothing.
    let ((ln, ln_low), _) = log1p_and_reciprocal(p / (q * factor), 0.0);
    let (ln, rest) = two_sum(lift * LN_2_HIGH, ln);
    let (ln, ln_low) = two_sum(ln, ln_low + (rest + lift * LN_2_LOW));
    let (product, lost) = two_product(gamma, ln);
    let lost = if gamma < MOST && product < MOST { lost + gamma * ln_low } else { 0.0 };
    let power = exp(-product, -lost);
    let power = power.scale(power.high);
    if q < f64::MIN_POSITIVE { 0.0 } else { power }
}

#[cfg(test)]
mod tests {
    use super::super::exp::double_double::DoubleDouble;
    use super::*;

    fn is_close(found: (f64, f64), exact: DoubleDouble, relative: f64) -> bool {
        let error = DoubleDouble::sum(found.0, found.1) - exact;
        error.high.abs() <= relative * exact.high.abs()
    }

    #[test]
    fn exp_and_log1p_keep_their_bounds() {
        let mut gap = 1e-12;
        while gap < 690.0 {
            let e = exp(-gap, 0.0);
            let power = 2.0_f64.powi(e.exponent as i32);
            let exact = DoubleDouble::from(-gap).exp();
            assert!(is_close((e.high * power, e.low * power), exact, RELATIVE_ERROR), "exp(-{gap:e})");
            gap *= 1.003;
        }
        let mut y = 1e-200;
        while y < 1e15 {
            for low in [-0.4, 0.0, 0.3] {
                let low = low * y * f64::EPSILON;
                let exact = DoubleDouble::sum(y, low);
                let (ln, reciprocal) = log1p_and_reciprocal(y, low);
                assert!(is_close(ln, exact.ln_1p(), RELATIVE_ERROR), "log1p({y:e})");
                let inverse = DoubleDouble::from(1.0) / (exact + 1.0.into());
                // Rounded to one number.
                let bound = crate::contract::U_F64 + RELATIVE_ERROR;
                assert!(is_close((reciprocal, 0.0), inverse, bound), "1 / (1 + {y:e})");
            }
            y *= 1.03;
        }
        assert_eq!(log1p_and_reciprocal(0.0, 0.0), ((0.0, 0.0), 1.0));
        assert!(log1p_and_reciprocal(f64::NAN, 0.0).0.0.is_nan());
        let of_nan = exp(f64::NAN, 0.0);
        assert!(of_nan.scale(of_nan.high).is_nan());
    }

    #[test]
    fn what_is_no_normal_number_after_scaling_is_0() {
        let of = |x: f64| exp(x, 0.0);
        assert_eq!(of(-708.5).scale(of(-708.5).high), 0.0);
        let scaled = of(-710.0).scale(of(-710.0).high * 1024.0);
        let exact = DoubleDouble::from(-610.0).exp() * DoubleDouble::from(-100.0).exp() * 1024.0.into();
        assert!((scaled / exact.high - 1.0).abs() < 4.0 * f64::EPSILON, "{scaled:e}");
        assert_eq!(of(f64::NEG_INFINITY).scale(1e15), 0.0);
        assert_eq!(of(0.0).scale(1.0), 1.0);
    }

    #[test]
    fn power_of_complement_is_close_to_the_exact_one() {
        // In two parts, so that no quotient is too large.
        let lift = 2.0_f64.powi(512);
        let ln_lift = DoubleDouble::from(lift).ln_1p();
        let of_tiny = |q: f64| (DoubleDouble::from(1.0) / (q * lift).into()).ln_1p() + ln_lift;
        for gamma in [1e-3, 0.5, 1.0, 2.0, 5.0, 30.0] {
            let mut small = f64::MIN_POSITIVE;
            while small < 0.5 {
                for (q, p) in [(small, 1.0 - small), (1.0 - small, small)] {
                    let is_tiny = q < 1e-200;
                    let ln = if is_tiny { of_tiny(q) } else { (DoubleDouble::from(p) / q.into()).ln_1p() };
                    let exact = (-(ln * gamma.into())).exp();
                    let found = power_of_complement(q, p, gamma);
                    if exact.high < 1e-300 {
                        assert!(found < 2e-300 && !found.is_subnormal(), "({q:e})^{gamma} = {found:e}");
                        continue;
                    }
                    // That p / q is rounded, and the result; and of the logarithm, its size.
                    let of_ln = gamma * ln.high * RELATIVE_ERROR;
                    let bound = (gamma + 1.5) * crate::contract::U_F64 + of_ln;
                    assert!(is_close((found, 0.0), exact, bound), "({q:e})^{gamma} = {found:e}");
                }
                small *= 1.3;
            }
        }
        assert_eq!(power_of_complement(0.0, 1.0, 2.0), 0.0);
        assert_eq!(power_of_complement(1.0, 0.0, 2.0), 1.0);
        assert_eq!(power_of_complement(0.5, 0.5, 1e308), 0.0);
        assert!(power_of_complement(f64::NAN, f64::NAN, 2.0).is_nan());
    }
}
