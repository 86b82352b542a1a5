//! 16 lanes of `f64` in two registers of AVX-512.

use core::arch::x86_64::*;

use super::{Avx512, mask_of};
use crate::simd::{Doubles, LANES};

/// Where the second register's lanes start in a slice of so many.
const HALF: usize = LANES / 2;

impl Doubles for Avx512 {
    #[inline(always)]
    fn splat_f64(self, x: f64) -> [__m512d; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { [_mm512_set1_pd(x); 2] }
    }

    #[inline(always)]
    fn load_f64(self, x: &[f64; LANES]) -> [__m512d; 2] {
        // SAFETY: `self` exists, so the instructions do; 16 doubles are the registers' bytes.
        unsafe { core::mem::transmute::<[f64; LANES], [__m512d; 2]>(*x) }
    }

    #[inline(always)]
    fn store_f64(self, v: [__m512d; 2], out: &mut [f64; LANES]) {
        // SAFETY: `self` exists, so the instructions do; `out` is 16 writable doubles, and no alignment is asked.
        unsafe {
            for i in 0..2 {
                _mm512_storeu_pd(out.as_mut_ptr().add(HALF * i), v[i]);
            }
        }
    }

    #[inline(always)]
    fn add_f64(self, a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] {
        let mut v = a;
        for i in 0..2 {
            // SAFETY: `self` exists, so the instructions do.
            v[i] = unsafe { _mm512_add_pd(a[i], b[i]) };
        }
        v
    }

    #[inline(always)]
    fn sub_f64(self, a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] {
        let mut v = a;
        for i in 0..2 {
            // SAFETY: `self` exists, so the instructions do.
            v[i] = unsafe { _mm512_sub_pd(a[i], b[i]) };
        }
        v
    }

    #[inline(always)]
    fn mul_f64(self, a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] {
        let mut v = a;
        for i in 0..2 {
            // SAFETY: `self` exists, so the instructions do.
            v[i] = unsafe { _mm512_mul_pd(a[i], b[i]) };
        }
        v
    }

    #[inline(always)]
    fn mul_add_f64(self, a: [__m512d; 2], b: [__m512d; 2], c: [__m512d; 2]) -> [__m512d; 2] {
        let mut v = a;
        for i in 0..2 {
            // SAFETY: `self` exists, so the instructions do.
            v[i] = unsafe { _mm512_fmadd_pd(a[i], b[i], c[i]) };
        }
        v
    }

    #[inline(always)]
    fn max_f64(self, a: [__m512d; 2], b: [__m512d; 2]) -> [__m512d; 2] {
        let mut v = a;
        for i in 0..2 {
            // SAFETY: `self` exists, so the instructions do.
            v[i] = unsafe { _mm512_max_pd(a[i], b[i]) };
        }
        v
    }

    #[inline(always)]
    fn load_partial_f64(self, x: &[f64], fill: f64) -> [__m512d; 2] {
        let mask = mask_of(x.len());
        // SAFETY: `self` exists, so the instructions do; the masks stop at the slice's end, and masked lanes are not
        // accessed.
        unsafe {
            let fill = _mm512_set1_pd(fill);
            let high = x.as_ptr().wrapping_add(HALF);
            [
                _mm512_mask_loadu_pd(fill, mask as __mmask8, x.as_ptr()),
                _mm512_mask_loadu_pd(fill, (mask >> HALF) as __mmask8, high),
            ]
        }
    }

    #[inline(always)]
    fn store_partial_f64(self, v: [__m512d; 2], out: &mut [f64]) {
        let mask = mask_of(out.len());
        // SAFETY: `self` exists, so the instructions do; the masks stop at the slice's end, and masked lanes are not
        // accessed.
        unsafe {
            let high = out.as_mut_ptr().wrapping_add(HALF);
            _mm512_mask_storeu_pd(out.as_mut_ptr(), mask as __mmask8, v[0]);
            _mm512_mask_storeu_pd(high, (mask >> HALF) as __mmask8, v[1]);
        }
    }

    #[inline(always)]
    fn low_bits_to_exponent_f64(self, mut v: [__m512d; 2]) -> [__m512d; 2] {
        for i in 0..2 {
            // SAFETY: `self` exists, so the instructions do.
            v[i] = unsafe { _mm512_castsi512_pd(_mm512_slli_epi64::<52>(_mm512_castpd_si512(v[i]))) };
        }
        v
    }

    #[inline(always)]
    fn mul_at_least_f64(self, mut a: [__m512d; 2], b: [__m512d; 2], least: [__m512d; 2]) -> [__m512d; 2] {
        for i in 0..2 {
            // SAFETY: `self` exists, so the instructions do.
            a[i] =
                unsafe { _mm512_maskz_mul_pd(_mm512_cmp_pd_mask::<_CMP_GE_OQ>(a[i], least[i]), a[i], b[i]) };
        }
        a
    }

    #[inline(always)]
    fn zero_below_f64(self, mut v: [__m512d; 2], least: [__m512d; 2]) -> [__m512d; 2] {
        for i in 0..2 {
            // SAFETY: `self` exists, so the instructions do.
            v[i] = unsafe {
                let keep = _mm512_cmp_pd_mask::<_CMP_NLT_UQ>(_mm512_abs_pd(v[i]), least[i]);
                _mm512_maskz_mov_pd(keep, v[i])
            };
        }
        v
    }

    #[inline(always)]
    fn with_lane_f64(self, mut v: [__m512d; 2], lane: usize, value: f64) -> [__m512d; 2] {
        let mask = (1_u32 << lane.min(LANES)) as __mmask16;
        for i in 0..2 {
            // SAFETY: `self` exists, so the instructions do.
            v[i] =
                unsafe { _mm512_mask_mov_pd(v[i], (mask >> (HALF * i)) as __mmask8, _mm512_set1_pd(value)) };
        }
        v
    }

    #[inline(always)]
    fn equal_bits_f64(self, v: [__m512d; 2], x: f64) -> u32 {
        let mut bits = 0;
        for i in 0..2 {
            // SAFETY: `self` exists, so the instructions do.
            let mask = unsafe {
                if x.is_nan() {
                    _mm512_cmp_pd_mask::<_CMP_UNORD_Q>(v[i], v[i])
                } else {
                    _mm512_cmp_pd_mask::<_CMP_EQ_OQ>(v[i], _mm512_set1_pd(x))
                }
            };
            bits |= u32::from(mask) << (HALF * i);
        }
        bits
    }
}
