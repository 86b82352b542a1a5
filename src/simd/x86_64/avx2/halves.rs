//! 16 lanes of 16 bits in one register of AVX.

use core::arch::x86_64::*;

use super::Avx2;
use crate::simd::x86_64::memory::store_few_halves;
use crate::simd::{Halves, LANES};

impl Avx2 {
    /// All bits set in the 16-bit lanes below `len`, and in lane `len - 1`.
    #[inline(always)]
    fn before_and_at_end(self, len: usize) -> [__m256i; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let lanes = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let len = len as i16;
            [
                _mm256_cmpgt_epi16(_mm256_set1_epi16(len), lanes),
                _mm256_cmpeq_epi16(_mm256_set1_epi16(len - 1), lanes),
            ]
        }
    }

    /// As [`halves::narrow_bf16`](crate::simd::halves::narrow_bf16), in the lower half of each lane.
    #[inline(always)]
    fn eight_to_bf16(self, v: __m256) -> __m256i {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let bits = _mm256_castps_si256(v);
            let upper = _mm256_srli_epi32::<16>(bits);
            let is_odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
            let rounding = _mm256_add_epi32(is_odd, _mm256_set1_epi32(0x7fff));
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, rounding));
            let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
            let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            _mm256_blendv_epi8(rounded, quiet, is_nan)
        }
    }
}

impl Halves for Avx2 {
    #[inline(always)]
    fn load_halves(self, x: &[u16; LANES]) -> __m256i {
        // SAFETY: `self` exists, so the instructions do; 16 numbers of 16 bits are a register's bytes.
        unsafe { core::mem::transmute::<[u16; LANES], __m256i>(*x) }
    }

    #[inline(always)]
    fn load_halves_partial(self, x: &[u16], fill: u16) -> __m256i {
        let len = x.len().min(LANES);
        let last = if len == 0 { fill } else { x[len - 1] };
        // SAFETY: `self` exists, so the instructions do; the mask of whole pairs stops before the slice's end, and masked
        // lanes are not accessed.
        unsafe {
            let pairs = _mm256_maskload_epi32(x.as_ptr().cast(), self.mask_of(len / 2)[0]);
            let [before_end, at_end] = self.before_and_at_end(len);
            let filled = _mm256_blendv_epi8(_mm256_set1_epi16(fill as i16), pairs, before_end);
            _mm256_blendv_epi8(filled, _mm256_set1_epi16(last as i16), at_end)
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
    fn widen_bf16(self, v: __m256i) -> [__m256; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(v));
            let high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(v));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        }
    }

    #[inline(always)]
    fn narrow_bf16(self, v: [__m256; 2]) -> __m256i {
        let (low, high) = (self.eight_to_bf16(v[0]), self.eight_to_bf16(v[1]));
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            // Packing leaves the 64-bit parts of both in turn.
            _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high))
        }
    }

    #[inline(always)]
    fn widen_f16(self, v: __m256i) -> [__m256; 2] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            [_mm256_cvtph_ps(_mm256_castsi256_si128(v)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(v))]
        }
    }

    #[inline(always)]
    fn narrow_f16(self, v: [__m256; 2]) -> __m256i {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT;
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let low = _mm256_castsi128_si256(_mm256_cvtps_ph::<NEAREST>(v[0]));
            _mm256_inserti128_si256::<1>(low, _mm256_cvtps_ph::<NEAREST>(v[1]))
        }
    }
}
