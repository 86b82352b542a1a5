//! `bf16` and `f16` by their bits, in integer operations: what the instructions for them do, where a CPU has them, in
//! every bit. Without branches, so that a loop over lanes becomes vectors.
//!
//! Both round to the nearest number, to the even one of two as near; numbers beyond the largest become infinite, by the
//! same rule; NaN stays NaN, quiet, with the upper bits of its payload. Numbers too small for a normal `f16` become
//! subnormal ones. The x86-64 instruction for `bf16` would make zeros of `f32` that are subnormal: it is not used.

use super::{LANES, Registers};

/// What an instruction set does with them, 16 lanes at a time.
#[cfg_attr(not(feature = "half"), allow(dead_code))]
pub(crate) trait Halves: Registers {
    fn load_halves(self, x: &[u16; LANES]) -> Self::Halves;
    /// As [`Memory::load_partial`](super::Memory::load_partial).
    fn load_halves_partial(self, x: &[u16], fill: u16) -> Self::Halves;
    fn store_halves(self, v: Self::Halves, out: &mut [u16; LANES]);
    /// As [`Memory::store_partial`](super::Memory::store_partial).
    fn store_halves_partial(self, v: Self::Halves, out: &mut [u16]);
    /// As [`Memory::stream`](super::Memory::stream), where `out` is aligned to 32 bytes.
    fn stream_halves(self, v: Self::Halves, out: &mut [u16; LANES]);
    /// Exact.
    fn widen_bf16(self, v: Self::Halves) -> Self::F32;
    /// As [`narrow_bf16`].
    fn narrow_bf16(self, v: Self::F32) -> Self::Halves;
    /// Exact.
    fn widen_f16(self, v: Self::Halves) -> Self::F32;
    /// As [`narrow_f16`].
    fn narrow_f16(self, v: Self::F32) -> Self::Halves;
}

/// What divides a NaN from infinity.
const F32_INFINITY: u32 = 0x7f80_0000;
const F32_SIGN: u32 = 0x8000_0000;

#[inline(always)]
pub(crate) fn widen_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[inline(always)]
pub(crate) fn narrow_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let is_odd = bits >> 16 & 1;
    let rounded = bits.wrapping_add(0x7fff + is_odd) >> 16;
    let quiet = bits >> 16 | 0x40;
    (if bits & !F32_SIGN > F32_INFINITY { quiet } else { rounded }) as u16
}

#[inline(always)]
pub(crate) fn widen_f16(bits: u16) -> f32 {
    /// The difference of the exponents' biases, 127 - 15.
    const BIAS: u32 = 112 << 23;
    const SMALLEST: f32 = 1.0 / 16_777_216.0;
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let normal = (magnitude << 13) + BIAS;
    let infinite_or_nan = (magnitude << 13) + 2 * BIAS;
    let quiet = infinite_or_nan | 0x40_0000;
    // A multiple of the smallest.
    let subnormal = (magnitude as i32 as f32 * SMALLEST).to_bits();
    let finite = if magnitude < 0x400 { subnormal } else { normal };
    let special = if magnitude > 0x7c00 { quiet } else { infinite_or_nan };
    f32::from_bits(sign | if magnitude < 0x7c00 { finite } else { special })
}

#[inline(always)]
pub(crate) fn narrow_f16(x: f32) -> u16 {
    /// The exponent of `f32` becomes that of `f16`.
    const REBIAS: u32 = 112 << 23;
    /// The smallest normal `f16`, 2^-14.
    const NORMAL: u32 = 113 << 23;
    /// Halfway from the largest `f16` to what would come next, 65520.
    const OVERFLOW: u32 = 0x477f_f000;
    let bits = x.to_bits();
    let magnitude = bits & !F32_SIGN;
    let is_odd = magnitude >> 13 & 1;
    let normal = magnitude.wrapping_sub(REBIAS).wrapping_add(0xfff + is_odd) >> 13;
    // The last bit of a number just above 1/2 is worth the smallest f16: adding 1/2 rounds to a multiple of it.
    let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5_f32.to_bits());
    let quiet = 0x7e00 | magnitude >> 13 & 0x3ff;
    let finite = if magnitude < NORMAL { subnormal } else { normal };
    let finite_or_infinite = if magnitude < OVERFLOW { finite } else { 0x7c00 };
    let rounded = if magnitude > F32_INFINITY { quiet } else { finite_or_infinite };
    (bits >> 16 & 0x8000 | rounded) as u16
}

/// The `f32` next to `x` which rounds to the 16-bit number that `x` itself rounds to. Where `f32` cannot hold `x`, that
/// is the odd one of its neighbours: it is on the same side of every boundary of the coarser rounding.
#[inline(always)]
pub(crate) fn round_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    let bits = nearest.to_bits();
    // Away from zero, where rounding went towards it; else towards zero.
    let neighbour = if back.abs() < x.abs() { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    let is_exact = back == x || x.is_nan();
    f32::from_bits(if is_exact || bits & 1 == 1 { bits } else { neighbour })
}

#[cfg(test)]
#[cfg(feature = "half")]
pub(crate) mod tests {
    use super::*;
    use half::{bf16, f16};

    /// Every 16-bit number, those halfway to the next, and the numbers beside each of these.
    pub(crate) fn around_every_half(from: impl Fn(u16) -> f32) -> impl Iterator<Item = f32> {
        (0..=u16::MAX).flat_map(move |bits| {
            let this = from(bits).to_bits();
            let next = from(bits.wrapping_add(1)).to_bits();
            let halfway = this.wrapping_add(next.wrapping_sub(this) / 2);
            [this, halfway].into_iter().flat_map(|bits| {
                (-2..=2).map(move |step: i32| f32::from_bits(bits.wrapping_add_signed(step)))
            })
        })
    }

    #[test]
    fn both_types_are_those_of_the_crate_half_in_every_bit() {
        for bits in 0..=u16::MAX {
            assert_eq!(widen_bf16(bits).to_bits(), f32::from_bits(u32::from(bits) << 16).to_bits());
            assert_eq!(widen_f16(bits).to_bits(), f16::from_bits(bits).to_f32_const().to_bits(), "{bits:#x}");
        }
        for x in around_every_half(widen_bf16).chain(around_every_half(widen_f16)) {
            assert_eq!(narrow_bf16(x), bf16::from_f32_const(x).to_bits(), "{x:e}, {:#x}", x.to_bits());
            assert_eq!(narrow_f16(x), f16::from_f32_const(x).to_bits(), "{x:e}, {:#x}", x.to_bits());
        }
    }

    #[test]
    fn f64_is_rounded_once() {
        // Just above and below the middle between two 16-bit numbers, nearer to it than f32 can tell.
        for bits in 1..0x7bff_u16 {
            let (this, next) = (f64::from(widen_f16(bits)), f64::from(widen_f16(bits + 1)));
            let middle = (this + next) / 2.0;
            for sign in [1.0, -1.0] {
                let of = |x: f64| narrow_f16(round_to_odd(sign * x)) & 0x7fff;
                assert_eq!(of(middle * (1.0 + f64::EPSILON)), bits + 1);
                assert_eq!(of(middle * (1.0 - f64::EPSILON)), bits);
                assert_eq!(of(middle), bits + bits % 2);
                assert_eq!(of(this), bits);
            }
        }
        assert_eq!(round_to_odd(0.0), 0.0);
        assert_eq!(round_to_odd(f64::INFINITY), f32::INFINITY);
        assert!(round_to_odd(f64::NAN).is_nan());
    }
}
