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

use super::Entry;
use super::affine::Shift;
use super::gaps::Gaps;
use super::number::Number;
use super::place::{Columns, RowsOf};
use super::statistics::{BLOCK, Statistics, add_spread};
use super::tanh::{tanh, tanh_and_slope};
use super::tasks::{AffineTask, Content, LogProbabilitiesTask, StatisticsTask};
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
    /// Whether stores go past the caches. [`Simd::fence`] must follow.
    pub(crate) streaming: bool,
}

/// The statistics of some columns of a row, transformed.
pub(crate) struct TransformedStatisticsTask<'a, T> {
    pub(crate) transform: Transform,
    pub(crate) x: &'a [T],
    /// Transformed.
    pub(crate) pivot: Entry,
    pub(crate) gaps: Gaps<'a>,
}

/// [`SpreadTask`](super::tasks::SpreadTask) of a row, transformed.
pub(crate) struct TransformedSpreadTask<'a, T> {
    pub(crate) transform: Transform,
    pub(crate) x: &'a [T],
    pub(crate) max: f32,
    /// Transformed.
    pub(crate) pivot: Entry,
}

/// An output as wide as the row, of some columns, by way of the transformed logits.
pub(crate) struct TransformedTask<'a, F, T = F> {
    pub(crate) transform: Option<Transform>,
    pub(crate) columns: Columns<'a, F, T>,
    pub(crate) function: Function<'a>,
    pub(crate) target: Entry,
    /// Whether it is a gradient, which goes back through the transform.
    pub(crate) is_gradient: bool,
}

/// What such an output is; see [`AffineTask`] and [`LogProbabilitiesTask`].
#[derive(Clone, Copy)]
pub(crate) enum Function<'a> {
    Affine { max: f32, scale: f64, shift: Shift<'a> },
    LogProbabilities { max: f32, ln_sum: f32 },
}

/// Columns that are transformed, become an output, and go where it belongs. Few, because they are on the stack: no sum
/// depends on how many they are.
pub(crate) const PART: usize = 512;

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

impl<T> TransformedStatisticsTask<'_, T> {
    /// The first `columns` columns, and the others.
    pub(crate) fn split_at(self, columns: usize) -> (Self, Self) {
        let (first, second) = self.x.split_at(columns);
        let (pivot, gaps) = (self.pivot.from(columns), self.gaps.from(columns));
        (Self { x: first, ..self }, Self { x: second, pivot, gaps, ..self })
    }
}

impl<T: Number> Task for TransformedStatisticsTask<'_, T> {
    type Output = Statistics;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Statistics {
        let Self { transform, x, pivot, gaps } = self;
        let mut block = [0.0; BLOCK];
        let mut whole = Statistics::NOTHING;
        for start in (0..x.len()).step_by(BLOCK) {
            let x = &x[start..x.len().min(start + BLOCK)];
            let block = &mut block[..x.len()];
            s.vectorize(TransformTask::of_block(Some(transform), x, block, &mut []));
            whole = whole.merge(s.vectorize(StatisticsTask {
                columns: Columns::Read(block),
                following: 0,
                pivot: pivot.from(start),
                gaps: gaps.from(start),
                references: &mut [],
            }));
        }
        whole
    }
}

impl<T: Number> Task for TransformedSpreadTask<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let Self { transform, x, max, pivot } = self;
        let mut part = [0.0; PART];
        let mut whole = 0.0;
        for start in (0..x.len()).step_by(BLOCK) {
            let end = x.len().min(start + BLOCK);
            let mut sums = s.zero_sums();
            for start in (start..end).step_by(PART) {
                let x = &x[start..end.min(start + PART)];
                let part = &mut part[..x.len()];
                s.vectorize(TransformTask::of_block(Some(transform), x, part, &mut []));
                sums = add_spread(s, part, max, pivot.from(start), sums);
            }
            whole += s.sum_lanes(sums);
        }
        whole
    }
}

impl<F, T> TransformedTask<'_, F, T> {
    /// The first `columns` columns, and the others.
    pub(crate) fn split_at(self, columns: usize) -> (Self, Self) {
        let (first, second) = self.columns.split_at(columns);
        let (function, target) = (self.function.starting_at(columns), self.target.from(columns));
        (Self { columns: first, ..self }, Self { columns: second, function, target, ..self })
    }
}

impl Function<'_> {
    /// The same of the columns from `column` on.
    fn starting_at(self, column: usize) -> Self {
        match self {
            Self::Affine { max, scale, shift } => {
                Self::Affine { max, scale, shift: shift.starting_at(column) }
            }
            Self::LogProbabilities { .. } => self,
        }
    }
}

impl<F: Number, T: Number> Task for TransformedTask<'_, F, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (mut block, mut slopes) = ([0.0; PART], [0.0; PART]);
        let has_slopes = self.is_gradient && self.transform.is_some_and(|it| it.has_slopes());
        while self.columns.len() > 0 {
            let len = self.columns.len().min(PART);
            let (first, rest) = self.split_at(len);
            let Self { transform, columns, function, target, .. } = first;
            let (block, slopes) = (&mut block[..len], &mut slopes[..if has_slopes { len } else { 0 }]);
            let x = columns.from();
            s.vectorize(TransformTask::of_block(transform, &x[..len], block, slopes));
            let (content, in_place) = (Content::LogitsOfShard, Columns::InPlace(&mut *block));
            match function {
                Function::Affine { max, scale, shift } => {
                    s.vectorize(AffineTask { columns: in_place, content, max, scale, shift, target });
                }
                Function::LogProbabilities { max, ln_sum } => {
                    s.vectorize(LogProbabilitiesTask { columns: in_place, max, ln_sum, target });
                }
            }
            let adds = matches!(columns, Columns::Adding(..));
            let streaming = matches!(columns, Columns::Streaming(..));
            let outgoing = Outgoing { from: block, slopes, row_stride: len, counts: None, adds, streaming };
            match columns {
                Columns::Read(_) => {}
                Columns::Between(_, to) | Columns::Streaming(_, to) | Columns::Adding(_, to) => {
                    s.vectorize(WriteTask { outgoing, rows: RowsOf::one(to) });
                }
                Columns::InPlace(x) => s.vectorize(WriteTask { outgoing, rows: RowsOf::one(x) }),
            }
            self = rest;
        }
    }
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
