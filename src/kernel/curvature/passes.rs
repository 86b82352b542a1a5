//! What the passes over columns compute, each compiled once for an instruction set.

use super::lanes::{Lanes, Stored};
use crate::kernel::groups::{Groups, exp_of_group, group, group_without, rest_without};
use crate::kernel::map::{self, Map};
use crate::kernel::number::Number;
use crate::kernel::place::{Columns, Read};
use crate::kernel::{Entry, exp, vector_at};
use crate::simd::{LANES, Simd, Task};

/// A function of 16 neighbouring columns, on any instruction set.
pub(crate) trait Function<L: Lanes>: Copy {
    fn apply<S: Simd>(self, s: S, x: L::Vector<S>, column: usize) -> L::Vector<S>;
}

/// The function of all columns but the largest logit's, which gets its own value.
pub(super) struct PassTask<'a, F, T, G> {
    pub(super) columns: Columns<'a, F, T>,
    pub(super) function: On<G>,
    pub(super) largest: Entry,
}

/// Of a direction: exp(x - `reference`) `scale`, times `of_direction` v + `constant`.
#[derive(Clone, Copy)]
pub(super) struct Product<'a, L, X = L> {
    pub(super) x: &'a [X],
    pub(super) reference: L,
    pub(super) scale: L,
    pub(super) least: L,
    pub(super) of_direction: L,
    pub(super) constant: L,
}

/// Of logits: exp(x - `reference`) `scale`, times `of_probability` p + `constant`.
#[derive(Clone, Copy)]
pub(super) struct Diagonal<L> {
    pub(super) reference: L,
    pub(super) probability_scale: L,
    pub(super) probability_least: L,
    pub(super) scale: L,
    pub(super) least: L,
    pub(super) of_probability: L,
    pub(super) constant: L,
}

/// Of a direction: times derivatives.
#[derive(Clone, Copy)]
pub(super) struct Through<'a, L> {
    pub(super) slopes: &'a [L],
}

/// Of a direction: the same number, where it is computed with.
#[derive(Clone, Copy)]
pub(super) struct Same;

/// Of a direction, or of derivatives for a diagonal; see [`Point::back`](super::Point::back).
#[derive(Clone, Copy)]
pub(super) struct Back<'a, L> {
    pub(super) x: &'a [L],
    pub(super) slopes: &'a [L],
    pub(super) product: &'a [L],
    /// Times -2 / cap.
    pub(super) gradient: &'a [L],
    /// 1 / cap
    pub(super) inverse: L,
    pub(super) is_diagonal: bool,
}

/// A [`Function`] on one instruction set.
#[derive(Clone, Copy)]
pub(super) struct On<G>(pub(super) G);

impl<S: Simd, G: Function<f32>> Map<S> for On<G> {
    const TAKES_FOUR: bool = false;

    #[inline(always)]
    fn apply(self, s: S, x: S::F32, column: usize) -> S::F32 {
        self.0.apply(s, x, column)
    }
}

impl<F: Number, T: Number, G: Function<f32>> Task for PassTask<'_, F, T, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        map::run(s, self.columns, self.function, self.largest);
    }
}

/// Sum of exp(x - reference) v over all columns but the pivot's.
pub(super) struct SumOfProducts<'a, T> {
    pub(super) x: &'a [T],
    pub(super) v: &'a [T],
    pub(super) pivot: Entry,
    pub(super) reference: f32,
}

impl<T: Number> Task for SumOfProducts<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let Self { x, v, pivot, reference } = self;
        let (x, v) = (Read(x), Read(&v[..x.len()]));
        let reference = s.splat(reference);
        let groups = Groups::new(0..x.0.len(), pivot);
        let mut sums = s.zero_sums();
        for index in 0..groups.len {
            let at = groups.at(index);
            let e = exp_of_group(s, group(s, &x, at), reference);
            sums = accumulate_products(s, sums, e, group(s, &v, at));
        }
        if groups.has_pivot() {
            let at = groups.pivot_group;
            let e = exp_of_group(s, group_without(s, &x, at, pivot), reference);
            sums = accumulate_products(s, sums, e, group(s, &v, at));
        }
        let (x, v) = (&x.0[groups.rest..], &v.0[groups.rest..]);
        if !x.is_empty() {
            let e = exp_of_group(s, rest_without(s, x, pivot.from(groups.rest)), reference);
            let mut last = [s.splat(0.0); 4];
            for i in 0..4 {
                last[i] = <T as Number>::load_partial(s, &v[(i * LANES).min(v.len())..], 0.0);
            }
            sums = accumulate_products(s, sums, e, last);
        }
        s.sum_lanes(sums)
    }
}

/// The products go to the `f64` lanes one by one: of both signs, they may be larger than what they add up to.
#[inline(always)]
fn accumulate_products<S: Simd>(s: S, mut sums: S::F64, e: [S::F32; 4], v: [S::F32; 4]) -> S::F64 {
    for i in 0..4 {
        let e = s.zero_below(e[i], s.splat(exp::LEAST));
        sums = s.accumulate(sums, s.mul(e, v[i]));
    }
    sums
}

/// 16 columns; what is past the last is this.
#[inline(always)]
fn load<S: Simd, L: Lanes, T: Stored<L>>(s: S, x: &[T], column: usize, filler: L) -> L::Vector<S> {
    if column + LANES <= x.len() {
        T::load(s, vector_at(x, column))
    } else {
        T::load_partial(s, &x[column..], filler)
    }
}

/// Derivatives of tanh, which rounding may have put above 1: their product with the largest number shall be finite.
#[inline(always)]
fn load_slopes<S: Simd, L: Lanes>(s: S, slopes: &[L], column: usize) -> L::Vector<S> {
    let zero = L::splat(s, L::default());
    L::sub(
        s,
        zero,
        L::max(s, L::splat(s, (-1.0).into()), L::sub(s, zero, load(s, slopes, column, L::default()))),
    )
}

impl<L: Lanes, X: Stored<L>> Function<L> for Product<'_, L, X> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, v: L::Vector<S>, column: usize) -> L::Vector<S> {
        let x = load(s, self.x, column, L::NEG_INFINITY);
        let e = L::exp(s, L::sub(s, x, L::splat(s, self.reference)));
        let p = L::mul_at_least(s, e, L::splat(s, self.scale), L::splat(s, self.least));
        let factor = L::mul_add(s, v, L::splat(s, self.of_direction), L::splat(s, self.constant));
        L::zero_below(s, L::mul(s, p, factor), L::splat(s, L::MIN_POSITIVE))
    }
}

impl<L: Lanes> Function<L> for Diagonal<L> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: L::Vector<S>, _: usize) -> L::Vector<S> {
        let e = L::exp(s, L::sub(s, x, L::splat(s, self.reference)));
        let p =
            L::mul_at_least(s, e, L::splat(s, self.probability_scale), L::splat(s, self.probability_least));
        let factor = L::mul_add(s, p, L::splat(s, self.of_probability), L::splat(s, self.constant));
        let scaled = L::mul_at_least(s, e, L::splat(s, self.scale), L::splat(s, self.least));
        L::zero_below(s, L::mul(s, scaled, factor), L::splat(s, L::MIN_POSITIVE))
    }
}

impl<L: Lanes> Function<L> for Through<'_, L> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, v: L::Vector<S>, column: usize) -> L::Vector<S> {
        L::product(s, v, load_slopes(s, self.slopes, column))
    }
}

impl<L: Lanes> Function<L> for Same {
    #[inline(always)]
    fn apply<S: Simd>(self, _: S, v: L::Vector<S>, _: usize) -> L::Vector<S> {
        v
    }
}

impl<L: Lanes> Function<L> for Back<'_, L> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, v: L::Vector<S>, column: usize) -> L::Vector<S> {
        let slope = load_slopes(s, self.slopes, column);
        let product = load(s, self.product, column, L::default());
        let gradient = load(s, self.gradient, column, L::default());
        // Infinite where the class is masked.
        let x = L::max(s, L::splat(s, L::MIN), load(s, self.x, column, L::default()));
        let t = L::max(s, L::splat(s, (-1.0).into()), L::product(s, x, L::splat(s, self.inverse)));
        let turned = L::product(s, t, gradient);
        // The derivative first, which is at most 1: no step on the way overflows.
        let (product, turned) = if self.is_diagonal {
            (L::product(s, L::product(s, slope, product), v), L::product(s, slope, turned))
        } else {
            (L::product(s, slope, product), L::product(s, L::product(s, slope, v), turned))
        };
        L::zero_below(s, L::add(s, product, turned), L::splat(s, L::MIN_POSITIVE))
    }
}
