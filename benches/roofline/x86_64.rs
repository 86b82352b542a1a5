//! The loops of [`machine`](super::machine) in two instruction sets of x86-64.
#![allow(unsafe_code)]

use crate::machine::{ExpLoop, MemoryLoop, Motion, SCALE, exp};

/// The loops, for the vectors and operations in scope. A target feature reaches plain functions and `for` loops, but no
/// closure: hence the loops by index.
macro_rules! loops {
    ($features:literal) => {
        const LANES: usize = size_of::<Vector>() / size_of::<f32>();
        const PAGE: usize = 4096 / size_of::<f32>();

        pub const MEMORY_LOOPS: &[MemoryLoop] = &[
            MemoryLoop { motion: Motion::Sum, variant: "4 vectors", run: sum::<4, 1, 0> },
            MemoryLoop { motion: Motion::Sum, variant: "4 pages", run: sum::<2, 4, 0> },
            MemoryLoop { motion: Motion::Sum, variant: "prefetch 8 KiB", run: sum::<4, 1, 8192> },
            MemoryLoop { motion: Motion::Copy, variant: "libc", run: copy_by_libc },
            MemoryLoop { motion: Motion::Copy, variant: "4 vectors", run: copy::<4, 1, 0, false> },
            MemoryLoop { motion: Motion::Copy, variant: "4 pages", run: copy::<2, 4, 0, false> },
            MemoryLoop { motion: Motion::StreamingCopy, variant: "4 vectors", run: copy::<4, 1, 0, true> },
            MemoryLoop { motion: Motion::StreamingCopy, variant: "16 vectors", run: copy::<16, 1, 0, true> },
            MemoryLoop { motion: Motion::StreamingCopy, variant: "4 pages", run: copy::<4, 4, 0, true> },
            MemoryLoop { motion: Motion::Scale, variant: "4 vectors", run: scale::<4, 1, 0> },
            MemoryLoop { motion: Motion::Scale, variant: "4 pages", run: scale::<2, 4, 0> },
            MemoryLoop { motion: Motion::Scale, variant: "prefetch 4 KiB", run: scale::<4, 1, 4096> },
        ];

        pub const EXP_LOOPS: &[ExpLoop] = &[
            ExpLoop { variant: "4 vectors", run: exp_sum::<4> },
            ExpLoop { variant: "8 vectors", run: exp_sum::<8> },
        ];

        #[target_feature(enable = $features)]
        fn sum<const VECTORS: usize, const PAGES: usize, const AHEAD: usize>(
            x: &[f32],
            _: &mut [f32],
        ) -> f32 {
            let mut sums = [[zero(); VECTORS]; PAGES];
            let blocks = x.chunks_exact(PAGES * PAGE);
            let mut rest = 0.0;
            for x in blocks.remainder() {
                rest += x;
            }
            for block in blocks {
                for start in (0..PAGE).step_by(VECTORS * LANES) {
                    for page in 0..PAGES {
                        for i in 0..VECTORS {
                            let from = block[page * PAGE + start + i * LANES..][..LANES].as_ptr();
                            prefetch::<AHEAD>(from);
                            // SAFETY: the slice has as many elements as the vector.
                            sums[page][i] = add(sums[page][i], unsafe { load(from) });
                        }
                    }
                }
            }
            rest + sum_of_lanes(sums.as_flattened())
        }

        #[target_feature(enable = $features)]
        fn copy<const VECTORS: usize, const PAGES: usize, const AHEAD: usize, const STREAM: bool>(
            x: &[f32],
            out: &mut [f32],
        ) -> f32 {
            assert!(!STREAM || out.as_ptr().addr().is_multiple_of(64));
            let blocks = x.chunks_exact(PAGES * PAGE);
            let rest = blocks.remainder();
            let mut blocks_out = out[..x.len()].chunks_exact_mut(PAGES * PAGE);
            for (block, block_out) in blocks.zip(&mut blocks_out) {
                for start in (0..PAGE).step_by(VECTORS * LANES) {
                    for page in 0..PAGES {
                        for i in 0..VECTORS {
                            let at = page * PAGE + start + i * LANES;
                            let from = block[at..][..LANES].as_ptr();
                            let to = block_out[at..][..LANES].as_mut_ptr();
                            prefetch::<AHEAD>(from);
                            // SAFETY: both slices have as many elements as the vector. The first vector's alignment
                            // was checked where streaming needs it, and the others follow without gaps.
                            unsafe { if STREAM { stream(to, load(from)) } else { store(to, load(from)) } }
                        }
                    }
                }
            }
            blocks_out.into_remainder().copy_from_slice(rest);
            if STREAM {
                _mm_sfence();
            }
            0.0
        }

        fn copy_by_libc(x: &[f32], out: &mut [f32]) -> f32 {
            out.copy_from_slice(x);
            0.0
        }

        #[target_feature(enable = $features)]
        fn scale<const VECTORS: usize, const PAGES: usize, const AHEAD: usize>(
            _: &[f32],
            out: &mut [f32],
        ) -> f32 {
            let factor = splat(SCALE);
            let mut blocks = out.chunks_exact_mut(PAGES * PAGE);
            for block in &mut blocks {
                for start in (0..PAGE).step_by(VECTORS * LANES) {
                    for page in 0..PAGES {
                        for i in 0..VECTORS {
                            let at = block[page * PAGE + start + i * LANES..][..LANES].as_mut_ptr();
                            prefetch::<AHEAD>(at);
                            // SAFETY: the slice has as many elements as the vector.
                            unsafe { store(at, mul(load(at), factor)) }
                        }
                    }
                }
            }
            for x in blocks.into_remainder() {
                *x *= SCALE;
            }
            0.0
        }

        /// What is `AHEAD` bytes after `from`, whatever that is; nothing if it is 0.
        #[target_feature(enable = $features)]
        fn prefetch<const AHEAD: usize>(from: *const f32) {
            if AHEAD > 0 {
                _mm_prefetch::<_MM_HINT_T0>(from.wrapping_byte_add(AHEAD).cast());
            }
        }

        /// One operation on all vectors after the other: in a single one each would wait for the one before.
        #[target_feature(enable = $features)]
        fn exp_sum<const VECTORS: usize>(x: &[f32]) -> f32 {
            let round = splat(exp::ROUND);
            let mut sums = [zero(); VECTORS];
            for group in x.chunks_exact(VECTORS * LANES) {
                let (mut d, mut rounded, mut p) = (sums, sums, [splat(exp::Q[0]); VECTORS]);
                for i in 0..VECTORS {
                    // SAFETY: the slice has as many elements as the vector.
                    d[i] = unsafe { load(group[i * LANES..][..LANES].as_ptr()) };
                }
                for i in 0..VECTORS {
                    d[i] = max(splat(exp::LOWEST), d[i]);
                }
                for i in 0..VECTORS {
                    rounded[i] = mul_add(d[i], splat(exp::LOG2_E), round);
                }
                for i in 0..VECTORS {
                    let n = sub(rounded[i], round);
                    d[i] = mul_add(n, splat(exp::MINUS_LN_2_HIGH), d[i]);
                    d[i] = mul_add(n, splat(exp::MINUS_LN_2_LOW), d[i]);
                }
                for coefficient in 1..exp::Q.len() {
                    for i in 0..VECTORS {
                        p[i] = mul_add(p[i], d[i], splat(exp::Q[coefficient]));
                    }
                }
                for i in 0..VECTORS {
                    let power = of_bits(shift_left::<23>(to_bits(rounded[i])));
                    sums[i] = mul_add(p[i], power, sums[i]);
                }
            }
            sum_of_lanes(&sums)
        }

        #[target_feature(enable = $features)]
        fn sum_of_lanes(vectors: &[Vector]) -> f32 {
            let mut sum = zero();
            for &vector in vectors {
                sum = add(sum, vector);
            }
            let mut lanes = [0.0; LANES];
            // SAFETY: the array has as many elements as the vector.
            unsafe { store(lanes.as_mut_ptr(), sum) };
            lanes.iter().sum()
        }
    };
}

pub mod avx512 {
    use core::arch::x86_64::{
        __m512 as Vector, _MM_HINT_T0, _mm_prefetch, _mm_sfence, _mm512_add_ps as add,
        _mm512_castps_si512 as to_bits, _mm512_castsi512_ps as of_bits, _mm512_fmadd_ps as mul_add,
        _mm512_loadu_ps as load, _mm512_max_ps as max, _mm512_mul_ps as mul, _mm512_set1_ps as splat,
        _mm512_setzero_ps as zero, _mm512_slli_epi32 as shift_left, _mm512_storeu_ps as store,
        _mm512_stream_ps as stream, _mm512_sub_ps as sub,
    };

    use super::{ExpLoop, MemoryLoop, Motion, SCALE, exp};

    loops!("avx512f");
}

pub mod avx2 {
    use core::arch::x86_64::{
        __m256 as Vector, _MM_HINT_T0, _mm_prefetch, _mm_sfence, _mm256_add_ps as add,
        _mm256_castps_si256 as to_bits, _mm256_castsi256_ps as of_bits, _mm256_fmadd_ps as mul_add,
        _mm256_loadu_ps as load, _mm256_max_ps as max, _mm256_mul_ps as mul, _mm256_set1_ps as splat,
        _mm256_setzero_ps as zero, _mm256_slli_epi32 as shift_left, _mm256_storeu_ps as store,
        _mm256_stream_ps as stream, _mm256_sub_ps as sub,
    };

    use super::{ExpLoop, MemoryLoop, Motion, SCALE, exp};

    loops!("avx2,fma");
}
