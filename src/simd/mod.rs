//! Instruction sets, as tokens.
//!
//! Holding a value that implements [`Simd`] proves that this CPU has the instruction set: the x86-64 tokens come only
//! from their `detect`. Vectors come only from a token's methods, so a kernel written over `S: Simd` is safe code and
//! can run nowhere but where its instructions exist.
//!
//! Every instruction set works on the same **16 virtual lanes**: one AVX-512 register, two AVX registers, four of SSE
//! or NEON. Lane `i` sees the same operations in the same order everywhere, so wherever there is a fused multiply-add,
//! the bits are the same.
//!
//! Each method is `#[inline(always)]` and is written without closures. A closure between a `#[target_feature]` entry
//! and an intrinsic does not inherit the features: every intrinsic behind it becomes a function call, at a 27th of the
//! speed and with correct results.

mod doubles;
#[cfg_attr(not(feature = "half"), allow(dead_code))]
pub(crate) mod halves;
mod memory;
mod portable;
#[cfg(xent_runtime_dispatch)]
mod x86_64;

pub(crate) use doubles::Doubles;
pub(crate) use halves::Halves;
pub(crate) use memory::Memory;
pub(crate) use portable::Portable;
#[cfg(xent_runtime_dispatch)]
pub(crate) use x86_64::{Avx2, Avx512, last_level_cache_share};

/// Virtual lanes of a vector, on every instruction set.
pub(crate) const LANES: usize = 16;

/// Something to do with vectors, whatever the instruction set.
pub(crate) trait Task {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// What an instruction set keeps lanes in.
pub(crate) trait Registers: Copy {
    /// 16 lanes of `f32`.
    type F32: Copy;
    /// 16 lanes of `f64`.
    type F64: Copy;
    /// 16 lanes of 16 bits: a `bf16` or an `f16` in memory.
    type Halves: Copy;
}

/// An instruction set that this CPU has, and the operations that the kernels need of it.
pub(crate) trait Simd: Memory + Doubles + Halves {
    /// Whether a vector of `f32` is a single register.
    const IS_ONE_REGISTER: bool;

    /// Runs `task` compiled for this instruction set.
    fn vectorize<T: Task>(self, task: T) -> T::Output;

    fn splat(self, x: f32) -> Self::F32;
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once where the CPU can.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// The magnitude of one, the sign of the other.
    fn copy_sign(self, magnitude: Self::F32, sign: Self::F32) -> Self::F32;
    /// The larger lane. Where `b` is NaN, NaN; where only `a` is, either.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The largest of the lanes; unspecified when one is NaN.
    fn max_lane(self, v: Self::F32) -> f32;
    /// The lane's low 9 bits moved to sign and exponent: 2^n for a lane that ends in the integer n + 127.
    fn low_bits_to_exponent(self, v: Self::F32) -> Self::F32;
    /// `a * b` where `a >= least`, else +0. `b` is finite.
    fn mul_at_least(self, a: Self::F32, b: Self::F32, least: Self::F32) -> Self::F32;
    /// `v`, with +0 in place of lanes whose magnitude is below `least`. NaN stays.
    fn zero_below(self, v: Self::F32, least: Self::F32) -> Self::F32;
    /// `below` where the magnitude of `v` is below `least`, else `otherwise`; that too where `v` is NaN.
    fn select_below(
        self,
        v: Self::F32,
        least: Self::F32,
        below: Self::F32,
        otherwise: Self::F32,
    ) -> Self::F32;
    /// Lane `lane` replaced by `value`; nothing is where `lane` is 16 or more.
    fn with_lane(self, v: Self::F32, lane: usize, value: f32) -> Self::F32;
    /// `equal` where the lanes of `a` and `b` are equal numbers, `other` elsewhere.
    fn select_equal(self, a: Self::F32, b: Self::F32, equal: Self::F32, other: Self::F32) -> Self::F32;
    /// Bit `i` says that lane `i` equals `x`, or that both are NaN.
    fn equal_bits(self, v: Self::F32, x: f32) -> u32;

    fn zero_sums(self) -> Self::F64;
    /// Adds each lane, widened, to its sum.
    fn accumulate(self, sums: Self::F64, v: Self::F32) -> Self::F64;
    /// The sum of the lanes, halves added to halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1.
    fn sum_lanes(self, sums: Self::F64) -> f64;
}
