//! Stores of parts of a register: of halves of what is left to store, again and again, because a masked store takes AMD's
//! CPUs as long as some twenty of others.

use core::arch::x86_64::*;

/// Stores the first lanes of a register, all of them at most.
#[inline(always)]
pub(super) fn store_few(v: __m256, out: &mut [f32]) {
    // SAFETY: `v` exists, so AVX does; registers' bytes are as many floats.
    unsafe {
        if let Some((all, _)) = out.split_first_chunk_mut() {
            *all = core::mem::transmute::<__m256, [f32; 8]>(v);
            return;
        }
        let mut lanes = _mm256_castps256_ps128(v);
        let (four, rest) = out.as_chunks_mut();
        if let [four] = four {
            *four = core::mem::transmute::<__m128, [f32; 4]>(lanes);
            lanes = _mm256_extractf128_ps::<1>(v);
        }
        let (two, one) = rest.as_chunks_mut();
        if let [two] = two {
            [*two, _] = core::mem::transmute::<__m128, [[f32; 2]; 2]>(lanes);
            lanes = _mm_movehl_ps(lanes, lanes);
        }
        if let [one] = one {
            *one = _mm_cvtss_f32(lanes);
        }
    }
}

/// The same of numbers of 16 bits.
#[inline(always)]
pub(super) fn store_few_halves(v: __m256i, out: &mut [u16]) {
    // SAFETY: `v` exists, so AVX2 does; registers' bytes are as many numbers of 16 bits.
    unsafe {
        if let Some((all, _)) = out.split_first_chunk_mut() {
            *all = core::mem::transmute::<__m256i, [u16; 16]>(v);
            return;
        }
        let mut lanes = _mm256_castsi256_si128(v);
        let (eight, rest) = out.as_chunks_mut();
        if let [eight] = eight {
            *eight = core::mem::transmute::<__m128i, [u16; 8]>(lanes);
            lanes = _mm256_extracti128_si256::<1>(v);
        }
        let (four, rest) = rest.as_chunks_mut();
        if let [four] = four {
            [*four, _] = core::mem::transmute::<__m128i, [[u16; 4]; 2]>(lanes);
            lanes = _mm_srli_si128::<8>(lanes);
        }
        let (two, one) = rest.as_chunks_mut();
        if let [two] = two {
            [*two, ..] = core::mem::transmute::<__m128i, [[u16; 2]; 4]>(lanes);
            lanes = _mm_srli_si128::<4>(lanes);
        }
        if let [one] = one {
            [*one, ..] = core::mem::transmute::<__m128i, [u16; 8]>(lanes);
        }
    }
}
