//! The exponential, of arguments that are never positive.
//!
//! ```text
//! n = round(d / ln 2)            by adding and subtracting a number whose last bit is worth 1
//! r = d - n ln 2                 ln 2 as a sum of two f32, the first step exact; |r| <= ln(2) / 2
//! p = 1 + r + r^2 q(r)           degree 6, minimax with the first two coefficients kept at 1
//! e = p 2^n                      2^n made from the bits of the rounding; the product is exact
//! ```
//!
//! Arguments below [`LOWEST`], where the result would be subnormal, give `exp(LOWEST)`. Whoever needs the zero compares
//! the result with [`LEAST`], which costs nothing there because the comparison is needed for other reasons as well.

use crate::simd::Simd;

/// The smallest argument whose exponential is a normal number.
pub(crate) const LOWEST: f32 = -87.336_54;

/// Results below this stand for arguments at or below [`LOWEST`]: it lies between `exp(LOWEST)` and the exponential
/// of the next larger number.
pub(crate) const LEAST: f32 = f32::MIN_POSITIVE * 1.000_008;

/// Adding it rounds to an integer and leaves that integer plus 127 in the low bits.
const ROUND: f32 = 12_582_912.0 + 127.0;
/// 9 bits: its product with n is exact, where there is no fused multiply-add as well.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Largest relative error 0.053 u before rounding.
const Q: [f32; 5] = [
    f32::from_bits(0x3eff_fffe),
    f32::from_bits(0x3e2a_aa49),
    f32::from_bits(0x3d2a_ac55),
    f32::from_bits(0x3c09_1cb7),
    f32::from_bits(0x3ab5_2927),
];

/// exp(d) for d <= 0, at least exp([`LOWEST`]); NaN for NaN. 13 operations.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, d: S::F32) -> S::F32 {
    let [e] = exp_of_each(s, [d]);
    e
}

/// [`exp`] of several vectors, one operation on all of them after the other. A step waits four cycles for the one
/// before; neighbours fill them.
#[inline(always)]
pub(crate) fn exp_of_each<S: Simd, const N: usize>(s: S, d: [S::F32; N]) -> [S::F32; N] {
    let (mut d, mut rounded, mut r, mut p) = (d, d, d, d);
    for i in 0..N {
        d[i] = s.max(s.splat(LOWEST), d[i]);
    }
    for i in 0..N {
        rounded[i] = s.mul_add(d[i], s.splat(core::f32::consts::LOG2_E), s.splat(ROUND));
    }
    for i in 0..N {
        r[i] = s.sub(rounded[i], s.splat(ROUND));
    }
    for i in 0..N {
        d[i] = s.mul_add(r[i], s.splat(-LN_2_HIGH), d[i]);
    }
    for i in 0..N {
        r[i] = s.mul_add(r[i], s.splat(-LN_2_LOW), d[i]);
    }
    for i in 0..N {
        p[i] = s.mul_add(s.splat(Q[4]), r[i], s.splat(Q[3]));
    }
    for coefficient in [Q[2], Q[1], Q[0], 1.0, 1.0] {
        for i in 0..N {
            p[i] = s.mul_add(p[i], r[i], s.splat(coefficient));
        }
    }
    for i in 0..N {
        p[i] = s.mul(p[i], s.low_bits_to_exponent(rounded[i]));
    }
    p
}
