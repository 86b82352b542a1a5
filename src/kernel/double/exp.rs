//! The exponential of `f64`, of arguments that are never positive: the steps of that of `f32`.
//!
//! ```text
//! n = round(d / ln 2)            by adding and subtracting a number whose last bit is worth 1
//! r = d - n ln 2                 ln 2 as a sum of two f64, the first step exact; |r| <= ln(2) / 2
//! p = 1 + r + r^2 q(r)           degree 11, minimax with the first two coefficients kept at 1
//! e = p 2^n                      2^n made from the bits of the rounding; the product is exact
//! ```
//!
//! Arguments below [`LOWEST`], where the result would be subnormal, give `exp(LOWEST)`. Whoever needs the zero compares
//! the result with [`LEAST`].

use crate::simd::Simd;

/// The smallest argument whose exponential is a normal number.
pub(crate) const LOWEST: f64 = -708.396_418_532_264_1;

/// Results below this stand for arguments at or below [`LOWEST`]: it lies between `exp(LOWEST)` and the exponential
/// of the next larger number.
pub(crate) const LEAST: f64 = f64::MIN_POSITIVE * (1.0 + 8e-14);

/// Adding it rounds to an integer and leaves that integer plus 1023 in the low bits.
const ROUND: f64 = 6_755_399_441_055_744.0 + 1023.0;
/// 32 bits: its product with n is exact, where there is no fused multiply-add as well.
const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
/// Largest relative error 0.1 u before rounding.
const Q: [f64; 10] = [
    f64::from_bits(0x3fe0_0000_0000_000a),
    f64::from_bits(0x3fc5_5555_5555_54fa),
    f64::from_bits(0x3fa5_5555_5555_088c),
    f64::from_bits(0x3f81_1111_1112_7b9c),
    f64::from_bits(0x3f56_c16c_1842_66af),
    f64::from_bits(0x3f2a_01a0_12a6_996c),
    f64::from_bits(0x3efa_0199_a16e_6c59),
    f64::from_bits(0x3ec7_1df2_53a8_7f97),
    f64::from_bits(0x3e92_8ad6_89ed_4c1f),
    f64::from_bits(0x3e5a_d7f7_a4a4_f53c),
];

/// exp(d) for d <= 0, at least exp([`LOWEST`]); NaN for NaN. Within
/// [`contract::EXP_F64`](crate::contract::EXP_F64) units in the last place.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, d: S::F64) -> S::F64 {
    let [e] = exp_of_each(s, [d]);
    e
}

/// [`exp`] of four vectors: all of them at once fill the pipelines of a CPU with wide registers, and would overflow the
/// register file of one without.
#[inline(always)]
pub(crate) fn exp_of_four<S: Simd>(s: S, d: [S::F64; 4]) -> [S::F64; 4] {
    if S::IS_ONE_REGISTER {
        exp_of_each(s, d)
    } else {
        let [a, b, c, d] = d;
        [exp(s, a), exp(s, b), exp(s, c), exp(s, d)]
    }
}

/// [`exp`] of several vectors, one operation on all of them after the other.
#[inline(always)]
fn exp_of_each<S: Simd, const N: usize>(s: S, d: [S::F64; N]) -> [S::F64; N] {
    let (mut d, mut rounded, mut r, mut p) = (d, d, d, d);
    for i in 0..N {
        d[i] = s.max_f64(s.splat_f64(LOWEST), d[i]);
    }
    for i in 0..N {
        rounded[i] = s.mul_add_f64(d[i], s.splat_f64(core::f64::consts::LOG2_E), s.splat_f64(ROUND));
    }
    for i in 0..N {
        r[i] = s.sub_f64(rounded[i], s.splat_f64(ROUND));
    }
    for i in 0..N {
        d[i] = s.mul_add_f64(r[i], s.splat_f64(-LN_2_HIGH), d[i]);
    }
    for i in 0..N {
        r[i] = s.mul_add_f64(r[i], s.splat_f64(-LN_2_LOW), d[i]);
    }
    for i in 0..N {
        p[i] = s.mul_add_f64(s.splat_f64(Q[9]), r[i], s.splat_f64(Q[8]));
    }
    for coefficient in [Q[7], Q[6], Q[5], Q[4], Q[3], Q[2], Q[1], Q[0], 1.0, 1.0] {
        for i in 0..N {
            p[i] = s.mul_add_f64(p[i], r[i], s.splat_f64(coefficient));
        }
    }
    for i in 0..N {
        p[i] = s.mul_f64(p[i], s.low_bits_to_exponent_f64(rounded[i]));
    }
    p
}

#[cfg(test)]
#[path = "../../../tests/support/double_double.rs"]
pub(super) mod double_double;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Backend;
    use crate::backend::Instructions;
    use crate::contract::EXP_F64;
    use crate::simd::{LANES, Task};
    use double_double::DoubleDouble;

    struct ExpTask<'a>(&'a mut [f64]);

    impl Task for ExpTask<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for four in self.0.chunks_exact_mut(4 * LANES) {
                let four = four.as_chunks_mut::<LANES>().0;
                let e = exp_of_four(
                    s,
                    [s.load_f64(&four[0]), s.load_f64(&four[1]), s.load_f64(&four[2]), s.load_f64(&four[3])],
                );
                for i in 0..4 {
                    s.store_f64(e[i], &mut four[i]);
                }
            }
        }
    }

    /// Units in the last place between a result and the exact one.
    fn ulps(found: f64, exact: DoubleDouble) -> f64 {
        let unit = 2.0_f64.powi(exact.high.log2().floor() as i32) * f64::EPSILON;
        let difference = DoubleDouble::from(found) - exact;
        // Two steps, because the unit may be subnormal.
        difference.high / (unit * 2.0_f64.powi(60)) * 2.0_f64.powi(60)
    }

    #[test]
    fn exp_keeps_its_bound_on_every_backend() {
        // Steps that are no fraction of ln 2, over the whole range; and close to 0.
        let steps = (0..200_000).map(|i| -f64::from(i) * 0.003_500_123_7);
        let small = (0..200_000).map(|i| -f64::from(i) * 5.3e-6);
        let tiny = (0..4096).map(|i| -2.0_f64.powf(-f64::from(i) * 0.03));
        let mut x: Vec<f64> = steps.chain(small).chain(tiny).filter(|&x| x >= -690.0).collect();
        x.resize(x.len().next_multiple_of(4 * LANES), -1.0);
        let exact: Vec<DoubleDouble> = x.iter().map(|&x| DoubleDouble::from(x).exp()).collect();
        for backend in Backend::available() {
            let mut found = x.clone();
            Instructions::of(backend).expect("it is available").run(ExpTask(&mut found));
            let (mut worst, mut worst_x) = (0.0, 0.0);
            for i in 0..x.len() {
                let error = ulps(found[i], exact[i]).abs();
                if error > worst {
                    (worst, worst_x) = (error, x[i]);
                }
            }
            println!("{backend}: {worst:.4} ulp at {worst_x:e}");
            assert!(worst <= EXP_F64, "{backend}: {worst} ulp at {worst_x:e}");
        }
    }

    #[test]
    fn exp_ends_where_normal_numbers_do() {
        let below = LOWEST.next_down();
        for backend in Backend::available() {
            let mut x = [0.0; 4 * LANES];
            let special = [0.0, LOWEST, LOWEST.next_up(), below, -1e300, f64::NEG_INFINITY, f64::NAN, -700.0];
            x[..special.len()].copy_from_slice(&special);
            Instructions::of(backend).expect("it is available").run(ExpTask(&mut x));
            assert_eq!(x[0], 1.0);
            assert!(x[1] >= f64::MIN_POSITIVE && x[1] < LEAST, "{:e}", x[1]);
            assert!(x[2] >= LEAST, "{:e}", x[2]);
            assert_eq!(x[3..6], [x[1]; 3]);
            assert!(x[6].is_nan());
            assert!((x[7] / 9.859_676_543_759_77e-305 - 1.0).abs() < 4.0 * f64::EPSILON);
        }
    }
}
