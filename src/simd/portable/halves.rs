//! 16 lanes of 16 bits as an array, a loop over them for each operation.

use wide::f32x16;

use super::Portable;
use crate::simd::{Halves, LANES, halves};

impl Halves for Portable {
    #[inline(always)]
    fn load_halves(self, x: &[u16; LANES]) -> [u16; LANES] {
        *x
    }

    #[inline(always)]
    fn load_halves_partial(self, x: &[u16], fill: u16) -> [u16; LANES] {
        let mut lanes = [fill; LANES];
        let count = x.len().min(LANES);
        lanes[..count].copy_from_slice(&x[..count]);
        lanes
    }

    #[inline(always)]
    fn store_halves(self, v: [u16; LANES], out: &mut [u16; LANES]) {
        *out = v;
    }

    #[inline(always)]
    fn store_halves_partial(self, v: [u16; LANES], out: &mut [u16]) {
        let count = out.len().min(LANES);
        out[..count].copy_from_slice(&v[..count]);
    }

    #[inline(always)]
    fn stream_halves(self, v: [u16; LANES], out: &mut [u16; LANES]) {
        *out = v;
    }

    #[inline(always)]
    fn widen_bf16(self, v: [u16; LANES]) -> f32x16 {
        let mut lanes = [0.0; LANES];
        for i in 0..LANES {
            lanes[i] = halves::widen_bf16(v[i]);
        }
        f32x16::new(lanes)
    }

    #[inline(never)]
    fn narrow_bf16(self, v: f32x16) -> [u16; LANES] {
        let (lanes, mut halves) = (v.to_array(), [0; LANES]);
        for i in 0..LANES {
            halves[i] = halves::narrow_bf16(lanes[i]);
        }
        halves
    }

    #[inline(never)]
    fn widen_f16(self, v: [u16; LANES]) -> f32x16 {
        let mut lanes = [0.0; LANES];
        for i in 0..LANES {
            lanes[i] = halves::widen_f16(v[i]);
        }
        f32x16::new(lanes)
    }

    #[inline(never)]
    fn narrow_f16(self, v: f32x16) -> [u16; LANES] {
        let (lanes, mut halves) = (v.to_array(), [0; LANES]);
        for i in 0..LANES {
            halves[i] = halves::narrow_f16(lanes[i]);
        }
        halves
    }
}
