//! What numbers are in memory. The kernels compute in `f32`, whatever they read and write.

use crate::simd::{LANES, Simd};

/// A floating-point type as it lies in memory: how 16 of them become a vector of `f32`, and a vector 16 of them.
///
/// What is stored is rounded to the nearest, to the even one of two as near.
pub(crate) trait Number: Copy + Default + PartialEq + Send + Sync + 'static {
    /// Whether exponentials can be kept in memory of this type: whether it is `f32`.
    const KEEPS: bool = false;
    /// Numbers in a cache line.
    const PER_LINE: usize = 64 / size_of::<Self>();

    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::F32;
    /// As [`Simd::load_partial`]. `fill` is a number of this type.
    fn load_partial<S: Simd>(s: S, x: &[Self], fill: f32) -> S::F32;
    fn store<S: Simd>(s: S, v: S::F32, out: &mut [Self; LANES]);
    /// As [`Simd::store_partial`].
    fn store_partial<S: Simd>(s: S, v: S::F32, out: &mut [Self]);
    /// As [`Simd::stream`]. All of the vectors in a line or none of them are aligned.
    fn stream<S: Simd>(s: S, v: S::F32, out: &mut [Self; LANES]);

    /// Exact.
    fn to_f32(self) -> f32;
    /// Rounded.
    fn from_f32(x: f32) -> Self;
    /// Rounds to this type, once. Where that would be a subnormal `f32`, it is 0, so that no result depends on how a
    /// thread treats subnormals.
    fn round(x: f64) -> f32;

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

    #[inline(always)]
    fn round(x: f64) -> f32 {
        super::scalar::to_f32(x)
    }
}

#[cfg(feature = "half")]
mod halves {
    use bytemuck::{cast_slice, cast_slice_mut, must_cast_mut, must_cast_ref};
    use half::{bf16, f16};

    use super::Number;
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
