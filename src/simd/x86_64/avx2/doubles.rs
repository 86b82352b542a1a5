//! 16 lanes of `f64` in four registers of AVX.

use core::arch::x86_64::*;

use super::Avx2;
use crate::simd::{Doubles, LANES};

/// Lanes of a register.
const QUARTER: usize = LANES / 4;

impl Avx2 {
    /// All bits set in the lanes below `len`.
    #[inline(always)]
    fn mask_of_f64(self, len: usize) -> [__m256i; 4] {
        let len = len.min(LANES) as i64;
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let mut masks = [_mm256_setzero_si256(); 4];
            for i in 0..4 {
                let lanes = _mm256_setr_epi64x(0, 1, 2, 3);
                let rest = _mm256_set1_epi64x(len - (QUARTER * i) as i64);
                masks[i] = _mm256_cmpgt_epi64(rest, lanes);
            }
            masks
        }
    }
}

impl Doubles for Avx2 {
    #[inline(always)]
    fn splat_f64(self, x: f64) -> [__m256d; 4] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { [_mm256_set1_pd(x); 4] }
    }

    #[inline(always)]
    fn load_f64(self, x: &[f64; LANES]) -> [__m256d; 4] {
        // SAFETY: `self` exists, so the instructions do; 16 doubles are the registers' bytes.
        unsafe { core::mem::transmute::<[f64; LANES], [__m256d; 4]>(*x) }
    }

    #[inline(always)]
    fn store_f64(self, v: [__m256d; 4], out: &mut [f64; LANES]) {
        // SAFETY: `self` exists, so the instructions do; `out` is 16 writable doubles, and no alignment is asked.
        unsafe {
            for i in 0..4 {
                _mm256_storeu_pd(out.as_mut_ptr().add(QUARTER * i), v[i]);
            }
        }
    }

    #[inline(always)]
    fn add_f64(self, a: [__m256d; 4], b: [__m256d; 4]) -> [__m256d; 4] {
        let mut v = a;
        for i in 0..4 {
            // SAFETY: `self` exists, so the instructions do.
            v[i] = unsafe { _mm256_add_pd(a[i], b[i]) };
        }
        v
    }

    #[inline(always)]
    fn sub_f64(self, a: [__m256d; 4], b: [__m256d; 4]) -> [__m256d; 4] {
        let mut v = a;
        for i in 0..4 {
            // SAFETY: `self` exists, so the instructions do.
            v[i] = unsafe { _mm256_sub_pd(a[i], b[i]) };
        }
        v
    }

    #[inline(always)]
    fn mul_f64(self, a: [__m256d; 4], b: [__m256d; 4]) -> [__m256d; 4] {
        let mut v = a;
        for i in 0..4 {
            // SAFETY: `self` exists, so the instructions do.
            v[i] = unsafe { _mm256_mul_pd(a[i], b[i]) };
        }
        v
    }

    #[inline(always)]
    fn mul_add_f64(self, a: [__m256d; 4], b: [__m256d; 4], c: [__m256d; 4]) -> [__m256d; 4] {
        let mut v = a;
        for i in 0..4 {
            // SAFETY: `self` exists, so the instructions do.
            v[i] = unsafe { _mm256_fmadd_pd(a[i], b[i], c[i]) };
        }
        v
    }

    #[inline(always)]
    fn max_f64(self, a: [__m256d; 4], b: [__m256d; 4]) -> [__m256d; 4] {
        let mut v = a;
        for i in 0..4 {
            // SAFETY: `self` exists, so the instructions do.
            v[i] = unsafe { _mm256_max_pd(a[i], b[i]) };
        }
        v
    }

    #[inline(always)]
    fn load_partial_f64(self, x: &[f64], fill: f64) -> [__m256d; 4] {
        let masks = self.mask_of_f64(x.len());
        let mut v = self.splat_f64(fill);
        for i in 0..4 {
            // SAFETY: `self` exists, so the instructions do; the masks stop at the slice's end, and masked lanes are not
            // accessed.
            v[i] = unsafe {
                let start = x.as_ptr().wrapping_add(QUARTER * i);
                let lanes = _mm256_maskload_pd(start, masks[i]);
                _mm256_blendv_pd(v[i], lanes, _mm256_castsi256_pd(masks[i]))
            };
        }
        v
    }

    #[inline(always)]
    fn store_partial_f64(self, v: [__m256d; 4], out: &mut [f64]) {
        let masks = self.mask_of_f64(out.len());
        for i in 0..4 {
            let start = out.as_mut_ptr().wrapping_add(QUARTER * i);
            // SAFETY: `self` exists, so the instructions do; the masks stop at the slice's end, and masked lanes are not
            // accessed.
            unsafe { _mm256_maskstore_pd(start, masks[i], v[i]) }
        }
    }

    #[inline(always)]
    fn low_bits_to_exponent_f64(self, mut v: [__m256d; 4]) -> [__m256d; 4] {
        for i in 0..4 {
            // SAFETY: `self` exists, so the instructions do.
            v[i] = unsafe { _mm256_castsi256_pd(_mm256_slli_epi64::<52>(_mm256_castpd_si256(v[i]))) };
        }
        v
    }

    #[inline(always)]
    fn mul_at_least_f64(self, mut a: [__m256d; 4], b: [__m256d; 4], least: [__m256d; 4]) -> [__m256d; 4] {
        for i in 0..4 {
            // As that of `f32`.
            // SAFETY: `self` exists, so the instructions do.
            a[i] = unsafe {
                let kept = _mm256_and_pd(_mm256_cmp_pd::<_CMP_GE_OQ>(a[i], least[i]), a[i]);
                _mm256_fmadd_pd(kept, b[i], _mm256_setzero_pd())
            };
        }
        a
    }

    #[inline(always)]
    fn zero_below_f64(self, mut v: [__m256d; 4], least: [__m256d; 4]) -> [__m256d; 4] {
        for i in 0..4 {
            // SAFETY: `self` exists, so the instructions do.
            v[i] = unsafe {
                let magnitude = _mm256_andnot_pd(_mm256_set1_pd(-0.0), v[i]);
                _mm256_and_pd(_mm256_cmp_pd::<_CMP_NLT_UQ>(magnitude, least[i]), v[i])
            };
        }
        v
    }

    #[inline(always)]
    fn equal_bits_f64(self, v: [__m256d; 4], x: f64) -> u32 {
        let mut bits = 0;
        for i in 0..4 {
            // SAFETY: `self` exists, so the instructions do.
            let mask = unsafe {
                if x.is_nan() {
                    _mm256_movemask_pd(_mm256_cmp_pd::<_CMP_UNORD_Q>(v[i], v[i]))
                } else {
                    _mm256_movemask_pd(_mm256_cmp_pd::<_CMP_EQ_OQ>(v[i], _mm256_set1_pd(x)))
                }
            };
            bits |= (mask as u32) << (QUARTER * i);
        }
        bits
    }
}
