//! 16 lanes of 16 bits in one register of AVX.

use core::arch::x86_64::*;

use super::{Avx512, mask_of};
use crate::simd::x86_64::memory::store_few_halves;
use crate::simd::{Halves, LANES};

impl Halves for Avx512 {
    #[inline(always)]
    fn load_halves(self, x: &[u16; LANES]) -> __m256i {
        // SAFETY: `self` exists, so the instructions do; 16 numbers of 16 bits are a register's bytes.
        unsafe { core::mem::transmute::<[u16; LANES], __m256i>(*x) }
    }

    #[inline(always)]
    fn load_halves_partial(self, x: &[u16], fill: u16) -> __m256i {
        // SAFETY: `self` exists, so the instructions do; the mask stops at the slice's end, and masked lanes are not
        // accessed.
        unsafe {
            _mm256_mask_loadu_epi16(_mm256_set1_epi16(fill as i16), mask_of(x.len()), x.as_ptr().cast())
        }
    }

    #[inline(always)]
    fn store_halves(self, v: __m256i, out: &mut [u16; LANES]) {
        // SAFETY: `self` exists, so the instructions do; a register's bytes are 16 numbers of 16 bits.
        *out = unsafe { core::mem::transmute::<__m256i, [u16; LANES]>(v) };
    }

    #[inline(always)]
    fn store_halves_partial(self, v: __m256i, out: &mut [u16]) {
        store_few_halves(v, out);
    }

    #[inline(always)]
    fn stream_halves(self, v: __m256i, out: &mut [u16; LANES]) {
        if out.as_ptr().addr().is_multiple_of(32) {
            // SAFETY: `self` exists, so the instructions do; `out` is a register's bytes, aligned to as many.
            unsafe { _mm256_stream_si256(out.as_mut_ptr().cast(), v) }
        } else {
            self.store_halves(v, out);
        }
    }

    #[inline(always)]
    fn widen_bf16(self, v: __m256i) -> __m512 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v))) }
    }

    #[inline(always)]
    fn narrow_bf16(self, v: __m512) -> __m256i {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let bits = _mm512_castps_si512(v);
            let is_odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x1_0000));
            let rounded = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
            let rounded = _mm512_mask_add_epi32(rounded, is_odd, rounded, _mm512_set1_epi32(1));
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let lanes = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x40_0000));
            // The upper half of each lane.
            let odd = _mm512_castsi256_si512(_mm256_setr_epi16(
                1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
            ));
            _mm512_castsi512_si256(_mm512_permutexvar_epi16(odd, lanes))
        }
    }

    #[inline(always)]
    fn widen_f16(self, v: __m256i) -> __m512 {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { _mm512_cvtph_ps(v) }
    }

    #[inline(always)]
    fn narrow_f16(self, v: __m512) -> __m256i {
        // SAFETY: `self` exists, so the instructions do.
        unsafe { _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v) }
    }
}
