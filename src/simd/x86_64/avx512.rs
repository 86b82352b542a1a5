//! AVX-512: a vector is one register.

mod doubles;
mod halves;
mod memory;

use core::arch::x86_64::*;

use crate::simd::{LANES, Registers, Simd, Task};

/// Proof that this CPU has AVX-512 F, VL and BW, AVX2 and FMA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let present = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma");
        present.then_some(Self(()))
    }
}

// Never inlined: the check on the disassembly finds it by its name.
#[inline(never)]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx2,fma")]
fn run<T: Task>(token: Avx512, task: T) -> T::Output {
    task.run(token)
}

#[inline(always)]
fn mask_of(len: usize) -> __mmask16 {
    ((1_u32 << len.min(LANES)) - 1) as __mmask16
}

impl Registers for Avx512 {
    type F32 = __m512;
    type F64 = [__m512d; 2];
    type Halves = __m256i;
}

impl Simd for Avx512 {
    const IS_ONE_REGISTER: bool = true;

    #[inline(always)]
    fn vectorize<T: Task>(self, task: T) -> T::Output {
        // SAFETY: `self` exists, so `detect` found the features that `run` enables.
        unsafe { run(self, task) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn copy_sign(self, magnitude: __m512, sign: __m512) -> __m512 {
        /// Bit by bit the second where the first is set, else the third.
        const SELECT: i32 = 0b1100_1010;
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let negative = _mm512_castps_si512(_mm512_set1_ps(-0.0));
            let (magnitude, sign) = (_mm512_castps_si512(magnitude), _mm512_castps_si512(sign));
            _mm512_castsi512_ps(_mm512_ternarylogic_epi32::<SELECT>(negative, sign, magnitude))
        }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn max_lane(self, v: __m512) -> f32 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { _mm512_reduce_max_ps(v) }
    }

    #[inline(always)]
    fn low_bits_to_exponent(self, v: __m512) -> __m512 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(v))) }
    }

    #[inline(always)]
    fn mul_at_least(self, a: __m512, b: __m512, least: __m512) -> __m512 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { _mm512_maskz_mul_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, least), a, b) }
    }

    #[inline(always)]
    fn zero_below(self, v: __m512, least: __m512) -> __m512 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let keep = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(_mm512_abs_ps(v), least);
            _mm512_maskz_mov_ps(keep, v)
        }
    }

    #[inline(always)]
    fn select_below(self, v: __m512, least: __m512, below: __m512, otherwise: __m512) -> __m512 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let is_below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(v), least);
            _mm512_mask_mov_ps(otherwise, is_below, below)
        }
    }

    #[inline(always)]
    fn with_lane(self, v: __m512, lane: usize, value: f32) -> __m512 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { _mm512_mask_mov_ps(v, (1_u32 << lane.min(LANES)) as __mmask16, _mm512_set1_ps(value)) }
    }

    #[inline(always)]
    fn select_equal(self, a: __m512, b: __m512, equal: __m512, other: __m512) -> __m512 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { _mm512_mask_mov_ps(other, _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b), equal) }
    }

    #[inline(always)]
    fn equal_bits(self, v: __m512, x: f32) -> u32 {
        // SAFETY: `self` exists, so the instructions do.
        let mask = unsafe {
            if x.is_nan() {
                _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v)
            } else {
                _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(v, _mm512_set1_ps(x))
            }
        };
        u32::from(mask)
    }

    #[inline(always)]
    fn zero_sums(self) -> [__m512d; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { [_mm512_setzero_pd(), _mm512_setzero_pd()] }
    }

    #[inline(always)]
    fn accumulate(self, sums: [__m512d; 2], v: __m512) -> [__m512d; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let low = _mm512_castps512_ps256(v);
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)));
            [_mm512_add_pd(sums[0], _mm512_cvtps_pd(low)), _mm512_add_pd(sums[1], _mm512_cvtps_pd(high))]
        }
    }

    #[inline(always)]
    fn sum_lanes(self, sums: [__m512d; 2]) -> f64 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let eight = _mm512_add_pd(sums[0], sums[1]);
            let four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd::<1>(eight));
            let two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd::<1>(four));
            _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)))
        }
    }
}
