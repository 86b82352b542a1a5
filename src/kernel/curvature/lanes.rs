//! What second derivatives are computed in: `f32`, or for rows of `f64` that (`kernel::double::curvature`). And what the
//! numbers are in memory.

use super::passes::{Function, On, PassTask, SumOfProducts};
use super::{BLOCKS, Memory};
use crate::kernel::affine::Shift;
use crate::kernel::gaps::{Gaps, weighted_sum};
use crate::kernel::number::{Number, Rounded};
use crate::kernel::place::Columns;
use crate::kernel::real::Real;
use crate::kernel::statistics::{self, Statistics};
use crate::kernel::tasks::{AffineTask, Content, FirstEqual};
use crate::kernel::transform::TransformTask;
use crate::kernel::transformed::TransformedStatisticsTask;
use crate::kernel::{Entry, exp, scalar};
use crate::loss::Transform;
use crate::simd::{LANES, Simd, Task};

/// The arithmetic of a row, on 16 lanes; the methods are those of [`Simd`] and
/// [`Doubles`](crate::simd::Doubles) by the same names.
pub(crate) trait Lanes: Real + Stored<Self> {
    type Vector<S: Simd>: Copy;
    /// The smallest normal number, and the lowest finite one.
    const MIN_POSITIVE: Self;
    const MIN: Self;
    /// Columns that are transformed at a time: 8 KiB of them.
    const BLOCK: usize;

    /// Runs with memory for [`BLOCKS`] blocks, on the stack.
    fn with_memory<R>(run: impl FnOnce(&mut Memory<Self>) -> R) -> R;

    fn splat<S: Simd>(s: S, x: Self) -> Self::Vector<S>;
    fn add<S: Simd>(s: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn sub<S: Simd>(s: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn mul<S: Simd>(s: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn mul_add<S: Simd>(s: S, a: Self::Vector<S>, b: Self::Vector<S>, c: Self::Vector<S>) -> Self::Vector<S>;
    fn max<S: Simd>(s: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;
    fn mul_at_least<S: Simd>(
        s: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        least: Self::Vector<S>,
    ) -> Self::Vector<S>;
    fn zero_below<S: Simd>(s: S, v: Self::Vector<S>, least: Self::Vector<S>) -> Self::Vector<S>;
    /// exp(d) for d <= 0; whoever scales it by [`Lanes::mul_at_least`] has 0 where it is no normal number.
    fn exp<S: Simd>(s: S, d: Self::Vector<S>) -> Self::Vector<S>;
    /// a b; 0 where it may be subnormal.
    fn product<S: Simd>(s: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;

    /// exp(d) for d <= 0, in the precision that a row's scalars have; 0 where it is no normal number.
    fn exp_of_gap(d: f64) -> f64;

    /// `scale` exp(x - max) - `shift` times what classes weigh by the gaps; 0 for the class of `but`.
    #[expect(clippy::too_many_arguments)]
    fn gradient<S: Simd>(
        s: S,
        x: &[Self],
        out: &mut [Self],
        max: Self,
        scale: f64,
        shift: Self,
        gaps: Gaps<'_, Self>,
        but: Entry<Self>,
    );
}

/// Numbers in memory which are computed with as `L`.
pub(crate) trait Stored<L: Lanes>: Rounded<Real = L> {
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> L::Vector<S>;
    /// `fill` is a number of this type.
    fn load_partial<S: Simd>(s: S, x: &[Self], fill: L) -> L::Vector<S>;
    /// Exact.
    fn to_real(self) -> L;

    /// The first of the largest; none, where it is not equal to itself.
    fn largest<S: Simd>(s: S, x: &[Self]) -> Option<usize>;
    /// The statistics of all columns but the pivot, whose logit is the transformed one.
    fn statistics<S: Simd>(
        s: S,
        x: &[Self],
        transform: Option<Transform<L>>,
        pivot: Entry<L>,
        gaps: Gaps<'_, L>,
    ) -> Statistics<L>;
    fn transform<S: Simd>(s: S, transform: Transform<L>, x: &[Self], to: &mut [L], slopes: &mut [L]);
    /// Sum of exp(x - reference) v over all columns but the pivot's.
    fn sum_of_products<S: Simd>(s: S, x: &[Self], v: &[Self], pivot: Entry<L>, reference: L) -> f64;
    /// Sum of w v over all columns of the logits `x` but two.
    fn weighted_sum<S: Simd>(s: S, x: &[Self], v: &[Self], gaps: Gaps<'_, L>, but: [Entry<L>; 2]) -> f64;

    /// The function of all columns but the largest logit's, which gets its own value.
    fn pass<S: Simd>(s: S, columns: Columns<'_, Self>, function: impl Function<L>, largest: Entry<L>);
    /// The same, written to where it is computed with.
    fn pass_to<S: Simd>(s: S, columns: Columns<'_, Self, L>, function: impl Function<L>, largest: Entry<L>);
    /// The same, read from there.
    fn pass_from<S: Simd>(s: S, columns: Columns<'_, L, Self>, function: impl Function<L>, largest: Entry<L>);
}

/// Methods on vectors of one kind, by a method of [`Simd`] each.
macro_rules! forward {
    ($vector:ident: $($name:ident($($argument:ident),+) to $method:ident;)+) => {
        $(
            #[inline(always)]
            fn $name<S: Simd>(s: S, $($argument: S::$vector),+) -> S::$vector {
                s.$method($($argument),+)
            }
        )+
    };
}

pub(crate) use forward;

impl Lanes for f32 {
    type Vector<S: Simd> = S::F32;
    const MIN_POSITIVE: Self = Self::MIN_POSITIVE;
    const MIN: Self = Self::MIN;
    const BLOCK: usize = statistics::BLOCK;

    #[inline(always)]
    fn with_memory<R>(run: impl FnOnce(&mut Memory<Self>) -> R) -> R {
        run(&mut [0.0; BLOCKS * Self::BLOCK])
    }

    #[inline(always)]
    fn splat<S: Simd>(s: S, x: Self) -> S::F32 {
        s.splat(x)
    }

    forward! {
        F32:
        add(a, b) to add;
        sub(a, b) to sub;
        mul(a, b) to mul;
        mul_add(a, b, c) to mul_add;
        max(a, b) to max;
        mul_at_least(a, b, least) to mul_at_least;
        zero_below(v, least) to zero_below;
    }

    #[inline(always)]
    fn exp<S: Simd>(s: S, d: S::F32) -> S::F32 {
        exp::exp(s, d)
    }

    #[inline(always)]
    fn product<S: Simd>(s: S, a: S::F32, b: S::F32) -> S::F32 {
        crate::kernel::transform::product(s, a, b)
    }

    #[inline(always)]
    fn exp_of_gap(d: f64) -> f64 {
        scalar::exp(d)
    }

    #[inline(always)]
    fn gradient<S: Simd>(
        s: S,
        x: &[Self],
        out: &mut [Self],
        max: Self,
        scale: f64,
        shift: Self,
        gaps: Gaps<'_>,
        but: Entry,
    ) {
        s.vectorize(AffineTask {
            columns: Columns::Between(x, out),
            content: Content::LogitsOfShard,
            max,
            scale,
            shift: Shift::new(gaps, shift),
            target: Entry { value: 0.0, ..but },
        });
    }
}

impl<T: Number> Stored<f32> for T {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self; LANES]) -> S::F32 {
        <T as Number>::load(s, x)
    }

    #[inline(always)]
    fn load_partial<S: Simd>(s: S, x: &[Self], fill: f32) -> S::F32 {
        <T as Number>::load_partial(s, x, fill)
    }

    #[inline(always)]
    fn to_real(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn largest<S: Simd>(s: S, x: &[Self]) -> Option<usize> {
        FirstEqual { x, value: statistics::max(s, x, Entry::NONE) }.run(s)
    }

    #[inline(always)]
    fn statistics<S: Simd>(
        s: S,
        x: &[Self],
        transform: Option<Transform>,
        pivot: Entry,
        gaps: Gaps<'_>,
    ) -> Statistics {
        match transform {
            None => statistics::statistics(s, Columns::Read(x), 0, pivot, gaps, &mut []),
            Some(transform) => s.vectorize(TransformedStatisticsTask { transform, x, pivot, gaps }),
        }
    }

    #[inline(always)]
    fn transform<S: Simd>(s: S, transform: Transform, x: &[Self], to: &mut [f32], slopes: &mut [f32]) {
        s.vectorize(TransformTask::of_block(Some(transform), x, to, slopes));
    }

    #[inline(always)]
    fn sum_of_products<S: Simd>(s: S, x: &[Self], v: &[Self], pivot: Entry, reference: f32) -> f64 {
        // A function of its own: among the rest of a row, the loop would lack registers.
        s.vectorize(SumOfProducts { x, v, pivot, reference })
    }

    #[inline(always)]
    fn weighted_sum<S: Simd>(s: S, x: &[Self], v: &[Self], gaps: Gaps<'_>, but: [Entry; 2]) -> f64 {
        weighted_sum(s, x, v, gaps, but)
    }

    #[inline(always)]
    fn pass<S: Simd>(s: S, columns: Columns<'_, Self>, function: impl Function<f32>, largest: Entry) {
        s.vectorize(PassTask { columns, function: On(function), largest });
    }

    #[inline(always)]
    fn pass_to<S: Simd>(s: S, columns: Columns<'_, Self, f32>, function: impl Function<f32>, largest: Entry) {
        s.vectorize(PassTask { columns, function: On(function), largest });
    }

    #[inline(always)]
    fn pass_from<S: Simd>(
        s: S,
        columns: Columns<'_, f32, Self>,
        function: impl Function<f32>,
        largest: Entry,
    ) {
        s.vectorize(PassTask { columns, function: On(function), largest });
    }
}
