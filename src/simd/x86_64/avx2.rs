//! AVX2 with FMA: a vector is two registers.

mod doubles;
mod halves;
mod memory;

use core::arch::x86_64::*;

use crate::simd::{LANES, Registers, Simd, Task};

const HALF: usize = LANES / 2;

/// Proof that this CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        let present = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        present.then_some(Self(()))
    }
}

// Never inlined: the check on the disassembly finds it by its name.
#[inline(never)]
#[target_feature(enable = "avx2,fma,f16c")]
fn run<T: Task>(token: Avx2, task: T) -> T::Output {
    task.run(token)
}

impl Avx2 {
    /// All bits set in the lanes below `len`.
    #[inline(always)]
    fn mask_of(self, len: usize) -> [__m256i; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let len = _mm256_set1_epi32(len.min(LANES) as i32);
            let low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let high = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
            [_mm256_cmpgt_epi32(len, low), _mm256_cmpgt_epi32(len, high)]
        }
    }
}

impl Registers for Avx2 {
    type F32 = [__m256; 2];
    type F64 = [__m256d; 4];
    type Halves = __m256i;
}

impl Simd for Avx2 {
    const IS_ONE_REGISTER: bool = false;

    #[inline(always)]
    fn vectorize<T: Task>(self, task: T) -> T::Output {
        // SAFETY: `self` exists, so `detect` found the features that `run` enables.
        unsafe { run(self, task) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> [__m256; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { [_mm256_set1_ps(x), _mm256_set1_ps(x)] }
    }

    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn div(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn copy_sign(self, magnitude: [__m256; 2], sign: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let negative = _mm256_set1_ps(-0.0);
            [
                _mm256_or_ps(_mm256_andnot_ps(negative, magnitude[0]), _mm256_and_ps(negative, sign[0])),
                _mm256_or_ps(_mm256_andnot_ps(negative, magnitude[1]), _mm256_and_ps(negative, sign[1])),
            ]
        }
    }

    #[inline(always)]
    fn max(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn max_lane(self, v: [__m256; 2]) -> f32 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let eight = _mm256_max_ps(v[0], v[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn low_bits_to_exponent(self, v: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(v[0]))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(v[1]))),
            ]
        }
    }

    #[inline(always)]
    fn mul_at_least(self, a: [__m256; 2], b: [__m256; 2], least: [__m256; 2]) -> [__m256; 2] {
        // Zero before the product, not after: a subnormal product costs more than a hundred cycles. Adding +0 makes -0,
        // the product with a negative `b`, +0.
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let low = _mm256_and_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a[0], least[0]), a[0]);
            let high = _mm256_and_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a[1], least[1]), a[1]);
            let zero = _mm256_setzero_ps();
            [_mm256_fmadd_ps(low, b[0], zero), _mm256_fmadd_ps(high, b[1], zero)]
        }
    }

    #[inline(always)]
    fn zero_below(self, v: [__m256; 2], least: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            let keep = [
                _mm256_cmp_ps::<_CMP_NLT_UQ>(_mm256_andnot_ps(sign, v[0]), least[0]),
                _mm256_cmp_ps::<_CMP_NLT_UQ>(_mm256_andnot_ps(sign, v[1]), least[1]),
            ];
            [_mm256_and_ps(keep[0], v[0]), _mm256_and_ps(keep[1], v[1])]
        }
    }

    #[inline(always)]
    fn select_below(
        self,
        v: [__m256; 2],
        least: [__m256; 2],
        below: [__m256; 2],
        otherwise: [__m256; 2],
    ) -> [__m256; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            let low = _mm256_cmp_ps::<_CMP_LT_OQ>(_mm256_andnot_ps(sign, v[0]), least[0]);
            let high = _mm256_cmp_ps::<_CMP_LT_OQ>(_mm256_andnot_ps(sign, v[1]), least[1]);
            [_mm256_blendv_ps(otherwise[0], below[0], low), _mm256_blendv_ps(otherwise[1], below[1], high)]
        }
    }

    #[inline(always)]
    fn with_lane(self, v: [__m256; 2], lane: usize, value: f32) -> [__m256; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let lane = _mm256_set1_epi32(lane.min(LANES) as i32);
            let low = _mm256_cmpeq_epi32(lane, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
            let high = _mm256_cmpeq_epi32(lane, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15));
            let value = _mm256_set1_ps(value);
            [
                _mm256_blendv_ps(v[0], value, _mm256_castsi256_ps(low)),
                _mm256_blendv_ps(v[1], value, _mm256_castsi256_ps(high)),
            ]
        }
    }

    #[inline(always)]
    fn select_equal(
        self,
        a: [__m256; 2],
        b: [__m256; 2],
        equal: [__m256; 2],
        other: [__m256; 2],
    ) -> [__m256; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            [
                _mm256_blendv_ps(other[0], equal[0], _mm256_cmp_ps::<_CMP_EQ_OQ>(a[0], b[0])),
                _mm256_blendv_ps(other[1], equal[1], _mm256_cmp_ps::<_CMP_EQ_OQ>(a[1], b[1])),
            ]
        }
    }

    #[inline(always)]
    fn equal_bits(self, v: [__m256; 2], x: f32) -> u32 {
        // SAFETY: `self` exists, so the instructions do.
        let [low, high] = unsafe {
            let x_lanes = _mm256_set1_ps(x);
            if x.is_nan() {
                [
                    _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(v[0], v[0])),
                    _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(v[1], v[1])),
                ]
            } else {
                [
                    _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(v[0], x_lanes)),
                    _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(v[1], x_lanes)),
                ]
            }
        };
        low as u32 | (high as u32) << HALF
    }

    #[inline(always)]
    fn zero_sums(self) -> [__m256d; 4] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { [_mm256_setzero_pd(); 4] }
    }

    #[inline(always)]
    fn accumulate(self, sums: [__m256d; 4], v: [__m256; 2]) -> [__m256d; 4] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            [
                _mm256_add_pd(sums[0], _mm256_cvtps_pd(_mm256_castps256_ps128(v[0]))),
                _mm256_add_pd(sums[1], _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(v[0]))),
                _mm256_add_pd(sums[2], _mm256_cvtps_pd(_mm256_castps256_ps128(v[1]))),
                _mm256_add_pd(sums[3], _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(v[1]))),
            ]
        }
    }

    #[inline(always)]
    fn sum_lanes(self, sums: [__m256d; 4]) -> f64 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let low = _mm256_add_pd(sums[0], sums[2]);
            let high = _mm256_add_pd(sums[1], sums[3]);
            let four = _mm256_add_pd(low, high);
            let two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd::<1>(four));
            _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)))
        }
    }
}
