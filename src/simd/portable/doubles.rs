//! 16 lanes of `f64` in `wide`.

use wide::{f64x8, u64x8};

use super::Portable;
use crate::simd::{Doubles, LANES};

impl Doubles for Portable {
    #[inline(always)]
    fn splat_f64(self, x: f64) -> [f64x8; 2] {
        [f64x8::splat(x); 2]
    }

    #[inline(always)]
    fn load_f64(self, x: &[f64; LANES]) -> [f64x8; 2] {
        let [low, high] = halves_of(x);
        [f64x8::new(low), f64x8::new(high)]
    }

    #[inline(never)]
    fn load_partial_f64(self, x: &[f64], fill: f64) -> [f64x8; 2] {
        let mut lanes = [fill; LANES];
        let count = x.len().min(LANES);
        lanes[..count].copy_from_slice(&x[..count]);
        self.load_f64(&lanes)
    }

    #[inline(always)]
    fn store_f64(self, v: [f64x8; 2], out: &mut [f64; LANES]) {
        out[..8].copy_from_slice(&v[0].to_array());
        out[8..].copy_from_slice(&v[1].to_array());
    }

    #[inline(never)]
    fn store_partial_f64(self, v: [f64x8; 2], out: &mut [f64]) {
        let mut lanes = [0.0; LANES];
        self.store_f64(v, &mut lanes);
        let count = out.len().min(LANES);
        out[..count].copy_from_slice(&lanes[..count]);
    }

    #[inline(always)]
    fn add_f64(self, a: [f64x8; 2], b: [f64x8; 2]) -> [f64x8; 2] {
        [a[0] + b[0], a[1] + b[1]]
    }

    #[inline(always)]
    fn sub_f64(self, a: [f64x8; 2], b: [f64x8; 2]) -> [f64x8; 2] {
        [a[0] - b[0], a[1] - b[1]]
    }

    #[inline(always)]
    fn mul_f64(self, a: [f64x8; 2], b: [f64x8; 2]) -> [f64x8; 2] {
        [a[0] * b[0], a[1] * b[1]]
    }

    #[inline(always)]
    fn mul_add_f64(self, a: [f64x8; 2], b: [f64x8; 2], c: [f64x8; 2]) -> [f64x8; 2] {
        [a[0].mul_add(b[0], c[0]), a[1].mul_add(b[1], c[1])]
    }

    #[inline(always)]
    fn max_f64(self, a: [f64x8; 2], b: [f64x8; 2]) -> [f64x8; 2] {
        [a[0].simd_gt(b[0]).select(a[0], b[0]), a[1].simd_gt(b[1]).select(a[1], b[1])]
    }

    #[inline(always)]
    fn low_bits_to_exponent_f64(self, v: [f64x8; 2]) -> [f64x8; 2] {
        let (low, high): (u64x8, u64x8) = (bytemuck::cast(v[0]), bytemuck::cast(v[1]));
        [bytemuck::cast(low << 52_u32), bytemuck::cast(high << 52_u32)]
    }

    #[inline(always)]
    fn mul_at_least_f64(self, a: [f64x8; 2], b: [f64x8; 2], least: [f64x8; 2]) -> [f64x8; 2] {
        // As that of `f32`.
        let zero = f64x8::splat(0.0);
        [
            (a[0].simd_ge(least[0]) & a[0]).mul_add(b[0], zero),
            (a[1].simd_ge(least[1]) & a[1]).mul_add(b[1], zero),
        ]
    }

    #[inline(always)]
    fn zero_below_f64(self, v: [f64x8; 2], least: [f64x8; 2]) -> [f64x8; 2] {
        let zero = f64x8::splat(0.0);
        [v[0].abs().simd_lt(least[0]).select(zero, v[0]), v[1].abs().simd_lt(least[1]).select(zero, v[1])]
    }

    #[inline(never)]
    fn equal_bits_f64(self, v: [f64x8; 2], x: f64) -> u32 {
        let mut lanes = [0.0; LANES];
        self.store_f64(v, &mut lanes);
        let mut bits = 0;
        for i in 0..LANES {
            let is_equal = lanes[i] == x || lanes[i].is_nan() && x.is_nan();
            bits |= u32::from(is_equal) << i;
        }
        bits
    }
}

#[inline(always)]
fn halves_of(x: &[f64; LANES]) -> [[f64; 8]; 2] {
    let (mut low, mut high) = ([0.0; 8], [0.0; 8]);
    low.copy_from_slice(&x[..8]);
    high.copy_from_slice(&x[8..]);
    [low, high]
}
