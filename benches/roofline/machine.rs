//! Loops that do nothing but move memory, or nothing but take exponentials: the limits that a kernel has a share of.
//!
//! What a machine can move depends on how it is asked. So each loop comes in variants, by
//!
//! * how many vectors an iteration takes,
//! * how many pages it walks side by side: the hardware's prefetchers stop at the end of a page,
//! * how far ahead it prefetches by itself,
//!
//! and the best of them on the day counts as the limit.
#![allow(unsafe_code)]

use std::hint::black_box;

use rayon::prelude::*;
use xent::Parallelism;

use crate::buffers::Buffers;
use crate::rounds::{Contestant, Work};
#[cfg(target_arch = "x86_64")]
use crate::x86_64;

/// What a loop moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Motion {
    /// Reads, and writes nothing.
    Sum,
    /// Reads one buffer, writes another one. The caches read what is written as well.
    Copy,
    /// The same with stores past the caches, where the machine has them.
    StreamingCopy,
    /// Reads and writes the same buffer.
    Scale,
}

/// One way to move memory.
#[derive(Clone, Copy)]
pub struct MemoryLoop {
    pub motion: Motion,
    pub variant: &'static str,
    /// From the first slice to the second, which are equally long. A [`Motion::Sum`] ignores the second, and returns the
    /// sum; a [`Motion::Scale`] ignores the first. It may be called where its instructions exist.
    pub run: unsafe fn(&[f32], &mut [f32]) -> f32,
}

/// One way to sum the exponentials of numbers that are not positive.
#[derive(Clone, Copy)]
pub struct ExpLoop {
    pub variant: &'static str,
    /// It may be called where its instructions exist.
    pub run: unsafe fn(&[f32]) -> f32,
}

/// Elements that a thread takes at a time, as the kernel does.
const PIECE: usize = 1 << 16;

/// What [`Motion::Scale`] multiplies by.
pub const SCALE: f32 = 0.999;

impl MemoryLoop {
    /// The variants for the widest vectors of this CPU.
    pub fn available() -> &'static [Self] {
        match Vectors::detect() {
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx512 => x86_64::avx512::MEMORY_LOOPS,
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2 => x86_64::avx2::MEMORY_LOOPS,
            Vectors::OfCompiler => portable::MEMORY_LOOPS,
        }
    }

    pub fn contestant(self, threads: Parallelism) -> Contestant<'static> {
        let run = move |x: &[f32], out: &mut [f32]| {
            black_box(self.run(x, out, threads));
        };
        Contestant {
            work: Work::Memory(self.motion, self.variant),
            in_place: self.motion == Motion::Scale,
            run: Box::new(run),
        }
    }

    fn run(self, x: &[f32], out: &mut [f32], threads: Parallelism) -> f32 {
        // SAFETY: a loop is one of those in `available`, whose instructions were detected.
        let piece = |x: &[f32], out: &mut [f32]| unsafe { (self.run)(x, out) };
        match threads {
            Parallelism::Serial => piece(x, out),
            Parallelism::Rayon => {
                x.par_chunks(PIECE).zip(out.par_chunks_mut(PIECE)).map(|(x, out)| piece(x, out)).sum()
            }
        }
    }
}

impl ExpLoop {
    /// The variants for the widest vectors of this CPU.
    pub fn available() -> &'static [Self] {
        match Vectors::detect() {
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx512 => x86_64::avx512::EXP_LOOPS,
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2 => x86_64::avx2::EXP_LOOPS,
            Vectors::OfCompiler => portable::EXP_LOOPS,
        }
    }

    /// As many exponentials as there are elements, but of `arguments`, over and over: they stay in the first-level
    /// cache.
    pub fn contestant(self, arguments: &[f32], threads: Parallelism) -> Contestant<'_> {
        let piece = move |x: &[f32]| {
            for piece in x.chunks(arguments.len()) {
                black_box(self.run(black_box(&arguments[..piece.len()])));
            }
        };
        let run = move |x: &[f32], _: &mut [f32]| match threads {
            Parallelism::Serial => piece(x),
            Parallelism::Rayon => x.par_chunks(PIECE).for_each(piece),
        };
        Contestant { work: Work::Exp(self.variant), in_place: false, run: Box::new(run) }
    }

    fn run(self, x: &[f32]) -> f32 {
        // SAFETY: a loop is one of those in `available`, whose instructions were detected.
        unsafe { (self.run)(x) }
    }
}

/// What the loops are written in.
enum Vectors {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    OfCompiler,
}

impl Vectors {
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        Self::OfCompiler
    }
}

/// Arguments for [`ExpLoop::contestant`]: 8 KiB of them.
pub fn exp_arguments() -> Vec<f32> {
    (0..2048).map(|i| i as f32 * -0.01).collect()
}

/// Every loop against the plainest one.
///
/// # Panics
/// If a result is wrong.
pub fn check() {
    // Several pieces, and a rest that fills no block and no vector.
    let elements = 3 * PIECE + 5001;
    let mut buffers = Buffers::new(1, elements, 1);
    let (x, out) = buffers.set(0);
    let sum: f64 = x.iter().map(|&x| f64::from(x)).sum();
    for memory_loop in MemoryLoop::available() {
        for threads in [Parallelism::Serial, Parallelism::Rayon] {
            match memory_loop.motion {
                Motion::Scale => out.copy_from_slice(x),
                Motion::Sum | Motion::Copy | Motion::StreamingCopy => out.fill(f32::NAN),
            }
            let returned = f64::from(memory_loop.run(x, out, threads));
            let variant = memory_loop.variant;
            match memory_loop.motion {
                Motion::Sum => assert!((returned - sum).abs() < 1e-3 * elements as f64, "sum, {variant}"),
                Motion::Copy | Motion::StreamingCopy => assert!(x == out, "copy, {variant}"),
                Motion::Scale => {
                    assert!(x.iter().zip(&*out).all(|(x, out)| x * SCALE == *out), "scale, {variant}");
                }
            }
        }
    }

    let arguments = exp_arguments();
    let sum: f64 = arguments.iter().map(|&x| f64::from(x).exp()).sum();
    for exp_loop in ExpLoop::available() {
        let error = f64::from(exp_loop.run(&arguments)) - sum;
        assert!(error.abs() < 1e-5 * sum, "exp, {}: {error}", exp_loop.variant);
    }
}

/// The exponential as the crate takes it, the same 13 operations: rounding by a magic number, two steps of reduction, a
/// polynomial of degree 6, and 2^n from the bits of the rounding.
pub mod exp {
    pub const LOWEST: f32 = -87.336_54;
    pub const LOG2_E: f32 = core::f32::consts::LOG2_E;
    pub const ROUND: f32 = 12_582_912.0 + 127.0;
    pub const MINUS_LN_2_HIGH: f32 = -core::f32::consts::LN_2;
    pub const MINUS_LN_2_LOW: f32 = 1.904_654_2e-9;
    pub const Q: [f32; 7] = [0.001_382_5, 0.008_368_1, 0.041_668_2, 0.166_665_2, 0.499_999_94, 1.0, 1.0];
}

mod portable {
    use super::{ExpLoop, MemoryLoop, Motion, SCALE, exp};

    pub(super) const MEMORY_LOOPS: &[MemoryLoop] = &[
        MemoryLoop { motion: Motion::Sum, variant: "compiler", run: sum },
        MemoryLoop { motion: Motion::Copy, variant: "libc", run: copy },
        MemoryLoop { motion: Motion::StreamingCopy, variant: "libc", run: copy },
        MemoryLoop { motion: Motion::Scale, variant: "compiler", run: scale },
    ];

    pub(super) const EXP_LOOPS: &[ExpLoop] = &[ExpLoop { variant: "compiler", run: exp_sum }];

    const LANES: usize = 32;

    fn sum(x: &[f32], _: &mut [f32]) -> f32 {
        let mut sums = [0.0; LANES];
        let (groups, rest) = x.as_chunks::<LANES>();
        for group in groups {
            for i in 0..LANES {
                sums[i] += group[i];
            }
        }
        sums.iter().chain(rest).sum()
    }

    fn copy(x: &[f32], out: &mut [f32]) -> f32 {
        out.copy_from_slice(x);
        0.0
    }

    fn scale(_: &[f32], out: &mut [f32]) -> f32 {
        for x in out {
            *x *= SCALE;
        }
        0.0
    }

    fn exp_sum(x: &[f32]) -> f32 {
        let mut sums = [0.0; LANES];
        for group in x.as_chunks::<LANES>().0 {
            for i in 0..LANES {
                let mut d = group[i].max(exp::LOWEST);
                let rounded = mul_add(d, exp::LOG2_E, exp::ROUND);
                let n = rounded - exp::ROUND;
                d = mul_add(n, exp::MINUS_LN_2_HIGH, d);
                d = mul_add(n, exp::MINUS_LN_2_LOW, d);
                let mut p = exp::Q[0];
                for coefficient in &exp::Q[1..] {
                    p = mul_add(p, d, *coefficient);
                }
                sums[i] += p * f32::from_bits(rounded.to_bits() << 23);
            }
        }
        sums.iter().sum()
    }

    /// In one rounding where that is one instruction; elsewhere it would be a function call.
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
    }
}
