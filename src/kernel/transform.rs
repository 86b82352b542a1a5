//! Logits that are transformed before the softmax, on their way to memory of `f32` and gradients on their way back.
//!
//! A block of logits is transformed into memory that stays in the first-level cache, and all that follows is what happens
//! to logits of `f32`. The gradient with respect to the transformed logits appears in the same place; on its way to where
//! it belongs it is multiplied by the transform's derivative.
//!
//! ```text
//! scale       x' = scale x
//! softcap     x' = cap tanh(factor x)        dx'/dx = scale (1 - tanh^2)
//! ```
//!
//! The derivative's scale is not applied here: it is the same for all, and in the coefficients.

use super::number::Number;
use super::place::RowsOf;
use super::tanh::{tanh, tanh_and_slope};
use crate::loss::Transform;
use crate::simd::{LANES, Simd, Task};

/// Transforms rows.
pub(crate) struct TransformTask<'a, T> {
    /// Nothing, where logits of another dtype become `f32` and are taken as they are.
    pub(crate) transform: Option<Transform>,
    pub(crate) rows: RowsOf<&'a [T]>,
    /// The rows that matter, if not all do.
    pub(crate) counts: Option<&'a [bool]>,
    pub(crate) to: &'a mut [f32],
    /// Where 1 - tanh^2 goes, with a softcap; empty, where it is not wanted.
    pub(crate) slopes: &'a mut [f32],
    /// From row to row in these.
    pub(crate) to_stride: usize,
}

/// Rows of `f32` go to where they belong; rounded.
pub(crate) struct WriteTask<'a, T> {
    pub(crate) outgoing: Outgoing<'a>,
    pub(crate) rows: RowsOf<&'a mut [T]>,
}

/// What [`WriteTask`] writes, and how.
pub(crate) struct Outgoing<'a> {
    pub(crate) from: &'a [f32],
    /// What they are multiplied by; empty for nothing.
    pub(crate) slopes: &'a [f32],
    /// From row to row in these.
    pub(crate) row_stride: usize,
    /// The rows that matter, if not all do.
    pub(crate) counts: Option<&'a [bool]>,
    /// Whether they are added to what is there.
    pub(crate) adds: bool,
    /// Whether stores go past the caches. [`Memory::fence`](crate::simd::Memory::fence) must follow.
    pub(crate) streaming: bool,
}

/// Products below count as 0. A CPU that makes zeros of subnormals may make one of a product that would round up to the
/// smallest normal number: so that is below, and the next.
const LEAST: f32 = f32::from_bits(f32::MIN_POSITIVE.to_bits() + 2);

impl<'a, T> TransformTask<'a, T> {
    /// Of some columns of one row.
    pub(crate) fn of_block(
        transform: Option<Transform>,
        x: &'a [T],
        to: &'a mut [f32],
        slopes: &'a mut [f32],
    ) -> Self {
        Self { transform, rows: RowsOf::one(x), counts: None, to, slopes, to_stride: x.len() }
    }
}

impl<T> RowsOf<T> {
    /// What can be done in one go, with rows of this stride on the other side, of which these count.
    #[inline(always)]
    fn runs_beside(&self, other_stride: usize, counts: Option<&[bool]>) -> (usize, usize) {
        let Self { row_stride, classes, count, .. } = *self;
        let is_one = row_stride == classes && other_stride == classes && counts.is_none();
        if is_one { (count * classes, 1) } else { (classes, count) }
    }
}

impl<T: Number> Task for TransformTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { transform, rows, counts, to, slopes, to_stride } = self;
        let (len, count) = rows.runs_beside(to_stride, counts);
        for run in 0..count {
            if counts.is_some_and(|counts| !counts[run]) {
                continue;
            }
            let from = &rows.data[run * rows.row_stride..][..len];
            let columns = run * to_stride..run * to_stride + len;
            let to = &mut to[columns.clone()];
            match transform {
                Some(Transform::Softcap { factor, cap }) if !slopes.is_empty() => {
                    cap_row_with_slopes(s, from, to, &mut slopes[columns], factor, cap);
                }
                _ => with_transformation!(s, transform, f => transform_row(s, from, to, f)),
            }
        }
    }
}

/// What becomes of logits, and of the gradient with respect to what they become.
pub(super) trait Transformation<S: Simd>: Copy {
    fn apply(self, s: S, x: S::F32) -> S::F32;

    /// The gradient with respect to these logits, but for the scale. Where a logit is NaN a gradient of 0 stays one.
    #[inline(always)]
    fn back(self, _: S, _: S::F32, gradient: S::F32) -> S::F32 {
        gradient
    }
}

/// Logits that are taken as they are.
#[derive(Clone, Copy)]
pub(super) struct Plain;

#[derive(Clone, Copy)]
pub(super) struct Scaled<V> {
    pub(super) scale: V,
}

#[derive(Clone, Copy)]
pub(super) struct Capped<V> {
    pub(super) factor: V,
    pub(super) cap: V,
}

/// Calculates with the [`Transformation`] of a transform, each in code of its own.
macro_rules! with_transformation {
    ($s:expr, $transform:expr, $f:ident => $result:expr) => {
        match $transform {
            None => {
                let $f = $crate::kernel::transform::Plain;
                $result
            }
            Some($crate::loss::Transform::Scale(scale)) => {
                let $f = $crate::kernel::transform::Scaled { scale: $s.splat(scale) };
                $result
            }
            Some($crate::loss::Transform::Softcap { factor, cap }) => {
                let (factor, cap) = ($s.splat(factor), $s.splat(cap));
                let $f = $crate::kernel::transform::Capped { factor, cap };
                $result
            }
        }
    };
}
pub(super) use with_transformation;

impl<S: Simd> Transformation<S> for Plain {
    #[inline(always)]
    fn apply(self, _: S, x: S::F32) -> S::F32 {
        x
    }
}

impl<S: Simd> Transformation<S> for Scaled<S::F32> {
    #[inline(always)]
    fn apply(self, s: S, x: S::F32) -> S::F32 {
        product(s, normal(s, x), self.scale)
    }
}

impl<S: Simd> Transformation<S> for Capped<S::F32> {
    #[inline(always)]
    fn apply(self, s: S, x: S::F32) -> S::F32 {
        let x = normal(s, x);
        capped(s, x, tanh(s, product(s, x, self.factor)), self.cap)
    }

    #[inline(always)]
    fn back(self, s: S, x: S::F32, gradient: S::F32) -> S::F32 {
        let (_, slope) = tanh_and_slope(s, product(s, normal(s, x), self.factor));
        let slope = s.mul_at_least(slope, s.splat(1.0), s.splat(f32::MIN_POSITIVE));
        product(s, gradient, slope)
    }
}

#[inline(always)]
fn transform_row<S: Simd, T: Number>(s: S, from: &[T], to: &mut [f32], f: impl Transformation<S>) {
    let (from, from_rest) = from.as_chunks::<LANES>();
    let (to, to_rest) = to.as_chunks_mut::<LANES>();
    for (from, to) in from.iter().zip(to) {
        s.store(f.apply(s, T::load(s, from)), to);
    }
    s.store_partial(f.apply(s, T::load_partial(s, from_rest, 0.0)), to_rest);
}

#[inline(always)]
fn cap_row_with_slopes<S: Simd, T: Number>(
    s: S,
    from: &[T],
    to: &mut [f32],
    slopes: &mut [f32],
    factor: f32,
    cap: f32,
) {
    let (factor, cap) = (s.splat(factor), s.splat(cap));
    let (from, from_rest) = from.as_chunks::<LANES>();
    let (to, to_rest) = to.as_chunks_mut::<LANES>();
    let (slopes, slopes_rest) = slopes.as_chunks_mut::<LANES>();
    for ((from, to), slopes) in from.iter().zip(to).zip(slopes) {
        let x = normal(s, T::load(s, from));
        let (t, slope) = tanh_and_slope(s, product(s, x, factor));
        s.store(capped(s, x, t, cap), to);
        s.store(slope, slopes);
    }
    let x = normal(s, T::load_partial(s, from_rest, 0.0));
    let (t, slope) = tanh_and_slope(s, product(s, x, factor));
    s.store_partial(capped(s, x, t, cap), to_rest);
    s.store_partial(slope, slopes_rest);
}

/// Without subnormal numbers, so that no result depends on how a thread treats them.
#[inline(always)]
fn normal<S: Simd>(s: S, x: S::F32) -> S::F32 {
    s.zero_below(x, s.splat(f32::MIN_POSITIVE))
}

/// cap t; but infinite where x is. A mask is a mask.
#[inline(always)]
fn capped<S: Simd>(s: S, x: S::F32, t: S::F32, cap: S::F32) -> S::F32 {
    let zero = s.splat(0.0);
    let above_lowest = s.max(s.splat(f32::MIN), x);
    let finite = s.sub(zero, s.max(s.splat(f32::MIN), s.sub(zero, above_lowest)));
    let infinite_or_0 = s.sub(x, finite);
    s.add(product(s, t, cap), infinite_or_0)
}

impl<T: Number> Task for WriteTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { outgoing: Outgoing { from, slopes, row_stride, counts, adds, streaming }, rows } = self;
        let (len, count) = rows.runs_beside(row_stride, counts);
        for run in 0..count {
            if counts.is_some_and(|counts| !counts[run]) {
                continue;
            }
            let columns = run * row_stride..run * row_stride + len;
            let slopes = if slopes.is_empty() { slopes } else { &slopes[columns.clone()] };
            let (slopes, slopes_rest) = slopes.as_chunks::<LANES>();
            let (from, from_rest) = from[columns].as_chunks::<LANES>();
            let to = &mut rows.data[run * rows.row_stride..][..len];
            let (to, to_rest) = to.as_chunks_mut::<LANES>();
            for (index, (from, to)) in from.iter().zip(to).enumerate() {
                let mut y = s.load(from);
                if let Some(slopes) = slopes.get(index) {
                    y = product(s, y, s.load(slopes));
                }
                if adds {
                    y = normal(s, s.add(T::load(s, to), y));
                }
                if streaming { T::stream(s, y, to) } else { T::store(s, y, to) }
            }
            let mut y = s.load_partial(from_rest, 0.0);
            if !slopes_rest.is_empty() {
                y = product(s, y, s.load_partial(slopes_rest, 0.0));
            }
            if adds {
                y = normal(s, s.add(T::load_partial(s, to_rest, 0.0), y));
            }
            T::store_partial(s, y, to_rest);
        }
    }
}

/// 0 where it may be subnormal.
#[inline(always)]
pub(super) fn product<S: Simd>(s: S, a: S::F32, b: S::F32) -> S::F32 {
    s.zero_below(s.mul(a, b), s.splat(LEAST))
}
