//! AVX-512: a vector is one register.

mod doubles;
mod halves;

use core::arch::x86_64::*;

use crate::simd::{LANES, Registers, Simd, Task, holds_columns};

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
        // SAFETY: `self` exists, so the instructions do; the mask stops at the slice's end, and masked lanes are not
        // accessed.
        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask_of(out.len()), v) }
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
