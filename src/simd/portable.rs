//! The portable instruction set: `wide`, in the registers that the crate was compiled for.
//!
//! What takes a loop over the lanes is not inlined: it would make up most of the kernels.

mod doubles;
mod halves;
mod memory;

use wide::{f32x16, f64x8, u32x16};

use super::{LANES, Registers, Simd, Task};

/// What every target has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

impl Registers for Portable {
    type F32 = f32x16;
    type F64 = [f64x8; 2];
    type Halves = [u16; LANES];
}

impl Simd for Portable {
    const IS_ONE_REGISTER: bool = cfg!(target_feature = "avx512f");

    #[inline(never)]
    fn vectorize<T: Task>(self, task: T) -> T::Output {
        task.run(self)
    }

    #[inline(always)]
    fn splat(self, x: f32) -> f32x16 {
        f32x16::splat(x)
    }

    #[inline(always)]
    fn add(self, a: f32x16, b: f32x16) -> f32x16 {
        a + b
    }

    #[inline(always)]
    fn sub(self, a: f32x16, b: f32x16) -> f32x16 {
        a - b
    }

    #[inline(always)]
    fn mul(self, a: f32x16, b: f32x16) -> f32x16 {
        a * b
    }

    #[inline(always)]
    fn div(self, a: f32x16, b: f32x16) -> f32x16 {
        a / b
    }

    #[inline(always)]
    fn mul_add(self, a: f32x16, b: f32x16, c: f32x16) -> f32x16 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn copy_sign(self, magnitude: f32x16, sign: f32x16) -> f32x16 {
        let negative: u32x16 = bytemuck::cast(f32x16::splat(-0.0));
        let (magnitude, sign): (u32x16, u32x16) = (bytemuck::cast(magnitude), bytemuck::cast(sign));
        bytemuck::cast((magnitude & !negative) | (sign & negative))
    }

    #[inline(always)]
    fn max(self, a: f32x16, b: f32x16) -> f32x16 {
        if cfg!(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")) {
            // On x86 the second operand where either is NaN, on aarch64 NaN.
            a.fast_max(b)
        } else {
            a.simd_gt(b).select(a, b)
        }
    }

    #[inline(always)]
    fn max_lane(self, v: f32x16) -> f32 {
        let mut lanes = v.to_array();
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] = if lanes[i] > lanes[i + half] { lanes[i] } else { lanes[i + half] };
            }
            half /= 2;
        }
        lanes[0]
    }

    #[inline(always)]
    fn low_bits_to_exponent(self, v: f32x16) -> f32x16 {
        let bits: u32x16 = bytemuck::cast(v);
        bytemuck::cast(bits << 23_u32)
    }

    #[inline(always)]
    fn mul_at_least(self, a: f32x16, b: f32x16, least: f32x16) -> f32x16 {
        // Zero before the product, not after: a subnormal product costs more than a hundred cycles on some CPUs. Adding
        // +0 makes -0, the product with a negative `b`, +0.
        (a.simd_ge(least) & a).mul_add(b, f32x16::splat(0.0))
    }

    #[inline(always)]
    fn zero_below(self, v: f32x16, least: f32x16) -> f32x16 {
        v.abs().simd_lt(least).select(f32x16::splat(0.0), v)
    }

    #[inline(always)]
    fn select_below(self, v: f32x16, least: f32x16, below: f32x16, otherwise: f32x16) -> f32x16 {
        v.abs().simd_lt(least).select(below, otherwise)
    }

    #[inline(never)]
    fn with_lane(self, v: f32x16, lane: usize, value: f32) -> f32x16 {
        const INDICES: f32x16 =
            f32x16::new([0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.]);
        let here = INDICES.simd_eq(f32x16::splat(lane.min(LANES) as f32));
        here.select(f32x16::splat(value), v)
    }

    #[inline(always)]
    fn select_equal(self, a: f32x16, b: f32x16, equal: f32x16, other: f32x16) -> f32x16 {
        a.simd_eq(b).select(equal, other)
    }

    #[inline(always)]
    fn equal_bits(self, v: f32x16, x: f32) -> u32 {
        if x.is_nan() { v.is_nan().to_bitmask() } else { v.simd_eq(f32x16::splat(x)).to_bitmask() }
    }

    #[inline(always)]
    fn zero_sums(self) -> [f64x8; 2] {
        [f64x8::splat(0.0); 2]
    }

    #[inline(always)]
    fn accumulate(self, sums: [f64x8; 2], v: f32x16) -> [f64x8; 2] {
        let lanes = v.to_array();
        let mut low = [0.0; 8];
        let mut high = [0.0; 8];
        for i in 0..8 {
            low[i] = f64::from(lanes[i]);
            high[i] = f64::from(lanes[i + 8]);
        }
        [sums[0] + f64x8::new(low), sums[1] + f64x8::new(high)]
    }

    #[inline(always)]
    fn sum_lanes(self, sums: [f64x8; 2]) -> f64 {
        let mut lanes = (sums[0] + sums[1]).to_array();
        let mut half = 4;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }
}
