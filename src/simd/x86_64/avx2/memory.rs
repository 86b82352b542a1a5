//! How 16 lanes of `f32` come to two registers of AVX, and back into memory.

use core::arch::x86_64::*;

use super::{Avx2, HALF};
use crate::simd::memory::holds_columns;
use crate::simd::x86_64::memory::store_few;
use crate::simd::{LANES, Memory, Simd};

impl Avx2 {
    /// Transposes each 4 x 4 block that the 128-bit parts of four registers make. Its own reverse.
    #[inline(always)]
    fn transpose_parts(self, [a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            [
                _mm256_shuffle_ps::<0x44>(ab_low, cd_low),
                _mm256_shuffle_ps::<0xee>(ab_low, cd_low),
                _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
                _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
            ]
        }
    }
}

/// Where the second half of a slice starts; its end, where the slice is shorter than that.
#[inline(always)]
fn second_half(len: usize) -> usize {
    if len < HALF { len } else { HALF }
}

impl Memory for Avx2 {
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> [__m256; 2] {
        // A transmutation, because a function, intrinsics included, may not be inlined into a kernel's large functions.
        // SAFETY: `self` exists, so the instructions do; 16 floats are two registers' bytes.
        unsafe { core::mem::transmute::<[f32; LANES], [__m256; 2]>(*x) }
    }

    #[inline(always)]
    fn load_partial(self, x: &[f32], fill: f32) -> [__m256; 2] {
        let [low, high] = self.mask_of(x.len());
        let high_start = x[second_half(x.len())..].as_ptr();
        // SAFETY: `self` exists, so the instructions do; the masks stop at the slice's end, and masked lanes are not
        // accessed.
        unsafe {
            let fill = _mm256_set1_ps(fill);
            [
                _mm256_blendv_ps(fill, _mm256_maskload_ps(x.as_ptr(), low), _mm256_castsi256_ps(low)),
                _mm256_blendv_ps(fill, _mm256_maskload_ps(high_start, high), _mm256_castsi256_ps(high)),
            ]
        }
    }

    #[inline(always)]
    fn store(self, v: [__m256; 2], out: &mut [f32; LANES]) {
        // SAFETY: `self` exists, so the instructions do; two registers' bytes are 16 floats.
        *out = unsafe { core::mem::transmute::<[__m256; 2], [f32; LANES]>(v) };
    }

    #[inline(always)]
    fn store_partial(self, [low, high]: [__m256; 2], out: &mut [f32]) {
        let Some((first, rest)) = out.split_first_chunk_mut::<HALF>() else {
            return store_few(low, out);
        };
        // SAFETY: a register's bytes are 8 floats.
        *first = unsafe { core::mem::transmute::<__m256, [f32; HALF]>(low) };
        store_few(high, rest);
    }

    #[inline(always)]
    fn stream(self, v: [__m256; 2], out: &mut [f32; LANES]) {
        if out.as_ptr().addr().is_multiple_of(64) {
            // SAFETY: `self` exists, so the instructions do; `out` is 16 writable floats, aligned to 64 bytes.
            unsafe {
                _mm256_stream_ps(out.as_mut_ptr(), v[0]);
                _mm256_stream_ps(out.as_mut_ptr().add(HALF), v[1]);
            }
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
    fn load_columns(self, rows: &[f32], row_stride: usize, column: usize) -> [[__m256; 2]; 4] {
        assert!(holds_columns(rows.len(), row_stride, column));
        let mut columns = [self.splat(0.0); 4];
        for half in 0..2 {
            let mut parts = [self.splat(0.0)[0]; 4];
            for i in 0..4 {
                let row = half * HALF + i;
                // SAFETY: `self` exists, so the instructions do; four floats at `column` of each of 16 rows are within
                // `rows`.
                parts[i] = unsafe {
                    let start = rows.as_ptr().add(column);
                    let low = _mm256_castps128_ps256(_mm_loadu_ps(start.add(row * row_stride)));
                    _mm256_insertf128_ps::<1>(low, _mm_loadu_ps(start.add((row + 4) * row_stride)))
                };
            }
            let parts = self.transpose_parts(parts);
            for i in 0..4 {
                columns[i][half] = parts[i];
            }
        }
        columns
    }

    #[inline(always)]
    fn store_columns(self, columns: [[__m256; 2]; 4], rows: &mut [f32], row_stride: usize, column: usize) {
        assert!(holds_columns(rows.len(), row_stride, column));
        for half in 0..2 {
            let [a, b, c, d] = columns;
            let parts = self.transpose_parts([a[half], b[half], c[half], d[half]]);
            for i in 0..4 {
                let row = half * HALF + i;
                // SAFETY: `self` exists, so the instructions do; four floats at `column` of each of 16 rows are within
                // `rows`.
                unsafe {
                    let start = rows.as_mut_ptr().add(column);
                    _mm_storeu_ps(start.add(row * row_stride), _mm256_castps256_ps128(parts[i]));
                    _mm_storeu_ps(start.add((row + 4) * row_stride), _mm256_extractf128_ps::<1>(parts[i]));
                }
            }
        }
    }
}
