//! What numbers are in memory. The kernels compute in `f32`, whatever they read and write.

use super::real::Real;
use crate::simd::{LANES, Simd};

/// A floating-point type that results of `f64` are rounded to.
pub(crate) trait Rounded: Copy + Default + PartialEq + Send + Sync + 'static {
    /// What the numbers of a row are computed in.
    type Real: Real;

    /// Rounds to this type, once. Where that would be a subnormal [`Real`], it is 0, so that no result depends on how a
    /// thread treats subnormals.
    fn round(x: f64) -> Self::Real;
    /// Rounded.
    fn from_real(x: Self::Real) -> Self;
}

/// A floating-point type as it lies in memory: how 16 of them become a vector of `f32`, and a vector 16 of them.
///
/// What is stored is rounded to the nearest, to the even one of two as near.
pub(crate) trait Number: Rounded<Real = f32> {
    /// Whether exponentials can be kept in memory of this type: whether it is `f32`.
    const KEEPS: bool = false;

    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::F32;
    /// As [`Memory::load_partial`](crate::simd::Memory::load_partial). `fill` is a number of this type.
    fn load_partial<S: Simd>(s: S, x: &[Self], fill: f32) -> S::F32;
    fn store<S: Simd>(s: S, v: S::F32, out: &mut [Self; LANES]);
    /// As [`Memory::store_partial`](crate::simd::Memory::store_partial).
    fn store_partial<S: Simd>(s: S, v: S::F32, out: &mut [Self]);
    /// As [`Memory::stream`](crate::simd::Memory::stream). All of the vectors in a line or none of them are aligned.
    fn stream<S: Simd>(s: S, v: S::F32, out: &mut [Self; LANES]);

    /// Exact.
    fn to_f32(self) -> f32;
    /// Rounded.
    fn from_f32(x: f32) -> Self;

    /// Whether one of `x` is equal to `value`.
    #[inline(always)]
    fn contains(x: &[Self], value: f32) -> bool {
        x.iter().any(|x| x.to_f32() == value)
    }
}

impl Number for f32 {
    const KEEPS: bool = true;

    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::F32 {
        s.load(x)
    }

    #[inline(always)]
    fn load_partial<S: Simd>(s: S, x: &[Self], fill: f32) -> S::F32 {
        s.load_partial(x, fill)
    }

    #[inline(always)]
    fn store<S: Simd>(s: S, v: S::F32, out: &mut [Self; LANES]) {
        s.store(v, out);
    }

    #[inline(always)]
    fn store_partial<S: Simd>(s: S, v: S::F32, out: &mut [Self]) {
        s.store_partial(v, out);
    }

    #[inline(always)]
    fn stream<S: Simd>(s: S, v: S::F32, out: &mut [Self; LANES]) {
        s.stream(v, out);
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
}

/// What rows are computed in is rounded to itself.
impl<R: Real> Rounded for R {
    type Real = Self;

    #[inline(always)]
    fn round(x: f64) -> Self {
        Real::round(x)
    }

    #[inline(always)]
    fn from_real(x: Self) -> Self {
        x
    }
}

#[cfg(feature = "half")]
mod halves {
    use bytemuck::{cast_slice, cast_slice_mut, must_cast_mut, must_cast_ref};
    use half::{bf16, f16};

    use super::{Number, Rounded};
    use crate::simd::{LANES, Simd, halves};

    macro_rules! halves {
        ($half:ident, $from_halves:ident, $to_halves:ident) => {
            impl Number for $half {
                #[inline(always)]
                fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::F32 {
                    s.$from_halves(s.load_halves(must_cast_ref(x)))
                }

                #[inline(always)]
                fn load_partial<S: Simd>(s: S, x: &[Self], fill: f32) -> S::F32 {
                    s.$from_halves(s.load_halves_partial(cast_slice(x), halves::$to_halves(fill)))
                }

                #[inline(always)]
                fn store<S: Simd>(s: S, v: S::F32, out: &mut [Self; LANES]) {
                    s.store_halves(s.$to_halves(v), must_cast_mut(out));
                }

                #[inline(always)]
                fn store_partial<S: Simd>(s: S, v: S::F32, out: &mut [Self]) {
                    s.store_halves_partial(s.$to_halves(v), cast_slice_mut(out));
                }

                #[inline(always)]
                fn stream<S: Simd>(s: S, v: S::F32, out: &mut [Self; LANES]) {
                    s.stream_halves(s.$to_halves(v), must_cast_mut(out));
                }

                #[inline(always)]
                fn to_f32(self) -> f32 {
                    halves::$from_halves(self.to_bits())
                }

                #[inline(always)]
                fn from_f32(x: f32) -> Self {
                    Self::from_bits(halves::$to_halves(x))
                }
            }

            impl Rounded for $half {
                type Real = f32;

                #[inline(always)]
                fn from_real(x: f32) -> Self {
                    Self::from_f32(x)
                }

                #[inline(always)]
                fn round(x: f64) -> f32 {
                    let rounded = halves::$from_halves(halves::$to_halves(halves::round_to_odd(x)));
                    if rounded.abs() < f32::MIN_POSITIVE { 0.0 } else { rounded }
                }
            }
        };
    }

    halves!(bf16, widen_bf16, narrow_bf16);
    halves!(f16, widen_f16, narrow_f16);
}

#[cfg(test)]
#[cfg(feature = "half")]
mod tests {
    use half::{bf16, f16};

    use super::Number;
    use crate::Backend;
    use crate::backend::Instructions;
    use crate::simd::halves::tests::around_every_half;
    use crate::simd::{LANES, Simd, Task};

    /// Through vectors and parts of vectors of every length.
    struct Store<'a, T>(&'a [f32], &'a mut [T]);
    struct Load<'a, T>(&'a [T], &'a mut [f32]);

    /// What a part of a vector leaves alone.
    const FILL: f32 = 0.5;

    impl<T: Number> Task for Store<'_, T> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Self(from, to) = self;
            let (from, _) = from.as_chunks::<LANES>();
            let (to, _) = to.as_chunks_mut::<LANES>();
            for (i, (from, to)) in from.iter().zip(to).enumerate() {
                match i % 3 {
                    0 => T::store(s, s.load(from), to),
                    1 => T::stream(s, s.load(from), to),
                    _ => {
                        let (head, tail) = to.split_at_mut(i % LANES);
                        T::store_partial(s, s.load(from), head);
                        T::store_partial(s, s.load_partial(&from[i % LANES..], FILL), tail);
                    }
                }
            }
        }
    }

    impl<T: Number> Task for Load<'_, T> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Self(from, to) = self;
            let (from, _) = from.as_chunks::<LANES>();
            let (to, _) = to.as_chunks_mut::<LANES>();
            for (i, (from, to)) in from.iter().zip(to).enumerate() {
                if i % 2 == 0 {
                    s.store(T::load(s, from), to);
                } else {
                    let (head, tail) = from.split_at(i % LANES);
                    s.store(T::load_partial(s, head, FILL), to);
                    assert!(to[head.len()..].iter().all(|&x| x == FILL));
                    s.store_partial(T::load_partial(s, tail, FILL), &mut to[head.len()..]);
                }
            }
        }
    }

    fn check<T: Number>(of_bits: fn(u16) -> T, bits_of: fn(T) -> u16, of_f32: fn(f32) -> T) {
        let mut values: Vec<f32> = around_every_half(|bits| of_bits(bits).to_f32()).collect();
        values.resize(values.len().next_multiple_of(LANES), 0.0);
        let every: Vec<T> = (0..=u16::MAX).map(of_bits).collect();
        for backend in Backend::available() {
            let instructions = Instructions::of(backend).expect("it is available");
            let mut stored = vec![T::default(); values.len()];
            instructions.run(Store(&values, &mut stored));
            for (x, stored) in values.iter().zip(stored) {
                assert_eq!(bits_of(stored), bits_of(of_f32(*x)), "{x:e}, {:#x}, {backend}", x.to_bits());
            }
            let mut loaded = vec![0.0; every.len()];
            instructions.run(Load(&every, &mut loaded));
            for (x, loaded) in every.iter().zip(loaded) {
                assert_eq!(loaded.to_bits(), x.to_f32().to_bits(), "{:#x}, {backend}", bits_of(*x));
            }
        }
    }

    #[test]
    fn every_backend_rounds_as_the_crate_half_does_and_reads_every_number() {
        check(bf16::from_bits, bf16::to_bits, bf16::from_f32_const);
        check(f16::from_bits, f16::to_bits, f16::from_f32_const);
    }
}
