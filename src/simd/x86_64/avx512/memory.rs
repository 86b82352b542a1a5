//! How 16 lanes of `f32` come to a register of AVX-512, and back into memory.

use core::arch::x86_64::*;

use super::{Avx512, mask_of};
use crate::simd::memory::holds_columns;
use crate::simd::x86_64::memory::store_few;
use crate::simd::{LANES, Memory};

impl Avx512 {
    /// Transposes each 4 x 4 block that the 128-bit parts of four registers make. Its own reverse.
    #[inline(always)]
    fn transpose_parts(self, [a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let (ab_low, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            [
                _mm512_shuffle_ps::<0x44>(ab_low, cd_low),
                _mm512_shuffle_ps::<0xee>(ab_low, cd_low),
                _mm512_shuffle_ps::<0x44>(ab_high, cd_high),
                _mm512_shuffle_ps::<0xee>(ab_high, cd_high),
            ]
        }
    }
}

impl Memory for Avx512 {
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        // A transmutation, because a function, intrinsics included, may not be inlined into a kernel's large functions.
        // SAFETY: `self` exists, so the instructions do; 16 floats are a register's bytes.
        unsafe { core::mem::transmute::<[f32; LANES], __m512>(*x) }
    }

    #[inline(always)]
    fn load_partial(self, x: &[f32], fill: f32) -> __m512 {
        // SAFETY: `self` exists, so the instructions do; the mask stops at the slice's end, and masked lanes are not
        // accessed.
        unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), mask_of(x.len()), x.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: __m512, out: &mut [f32; LANES]) {
        // SAFETY: `self` exists, so the instructions do; a register's bytes are 16 floats.
        *out = unsafe { core::mem::transmute::<__m512, [f32; LANES]>(v) };
    }

    #[inline(always)]
    fn store_partial(self, v: __m512, out: &mut [f32]) {
        // SAFETY: `self` exists, so the instructions do; registers' bytes are as many floats.
        unsafe {
            if let Some((all, _)) = out.split_first_chunk_mut() {
                *all = core::mem::transmute::<__m512, [f32; LANES]>(v);
                return;
            }
            let mut lanes = _mm512_castps512_ps256(v);
            let (eight, rest) = out.as_chunks_mut();
            if let [eight] = eight {
                *eight = core::mem::transmute::<__m256, [f32; 8]>(lanes);
                lanes = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)));
            }
            store_few(lanes, rest);
        }
    }

    #[inline(always)]
    fn stream(self, v: __m512, out: &mut [f32; LANES]) {
        if out.as_ptr().addr().is_multiple_of(64) {
            // SAFETY: `self` exists, so the instructions do; `out` is 16 writable floats, aligned to 64 bytes.
            unsafe { _mm512_stream_ps(out.as_mut_ptr(), v) }
        } else {
            self.store(v, out);
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, line: *const T) {
        // SAFETY: SSE is part of x86-64; a prefetch of any address is allowed and accesses nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
    }

    #[inline(always)]
    fn prefetch_to_second_level<T>(self, line: *const T) {
        // SAFETY: SSE is part of x86-64; a prefetch of any address is allowed and accesses nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }

    #[inline(always)]
    fn fence(self) {
        // SAFETY: SSE is part of x86-64.
        unsafe { _mm_sfence() }
    }

    #[inline(always)]
    fn load_columns(self, rows: &[f32], row_stride: usize, column: usize) -> [__m512; 4] {
        assert!(holds_columns(rows.len(), row_stride, column));
        // SAFETY: `self` exists, so the instructions do; four floats at `column` of each of 16 rows are within `rows`.
        let parts = unsafe {
            let start = rows.as_ptr().add(column);
            let mut parts = [_mm512_setzero_ps(); 4];
            for i in 0..4 {
                let part = _mm512_castps128_ps512(_mm_loadu_ps(start.add(i * row_stride)));
                let part = _mm512_insertf32x4::<1>(part, _mm_loadu_ps(start.add((4 + i) * row_stride)));
                let part = _mm512_insertf32x4::<2>(part, _mm_loadu_ps(start.add((8 + i) * row_stride)));
                parts[i] = _mm512_insertf32x4::<3>(part, _mm_loadu_ps(start.add((12 + i) * row_stride)));
            }
            parts
        };
        self.transpose_parts(parts)
    }

    #[inline(always)]
    fn store_columns(self, columns: [__m512; 4], rows: &mut [f32], row_stride: usize, column: usize) {
        assert!(holds_columns(rows.len(), row_stride, column));
        let parts = self.transpose_parts(columns);
        // SAFETY: `self` exists, so the instructions do; four floats at `column` of each of 16 rows are within `rows`.
        unsafe {
            let start = rows.as_mut_ptr().add(column);
            for i in 0..4 {
                _mm_storeu_ps(start.add(i * row_stride), _mm512_castps512_ps128(parts[i]));
                _mm_storeu_ps(start.add((4 + i) * row_stride), _mm512_extractf32x4_ps::<1>(parts[i]));
                _mm_storeu_ps(start.add((8 + i) * row_stride), _mm512_extractf32x4_ps::<2>(parts[i]));
                _mm_storeu_ps(start.add((12 + i) * row_stride), _mm512_extractf32x4_ps::<3>(parts[i]));
            }
        }
    }
}
