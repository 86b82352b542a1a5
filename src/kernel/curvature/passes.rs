//! What the passes over columns compute, each compiled once for an instruction set.

use crate::kernel::groups::{Groups, exp_of_group, group, group_without, rest_without};
use crate::kernel::map::{self, Map};
use crate::kernel::place::{Columns, Read};
use crate::kernel::transform::product as normal_product;
use crate::kernel::{Entry, exp, vector_at};
use crate::simd::{LANES, Simd, Task};

/// A function of 16 neighbouring columns, on any instruction set.
pub(super) trait Function: Copy {
    fn apply<S: Simd>(self, s: S, x: S::F32, column: usize) -> S::F32;
}

/// The function of all columns but the largest logit's, which gets its own value.
pub(super) struct PassTask<'a, F> {
    pub(super) columns: Columns<'a>,
    pub(super) function: F,
    pub(super) largest: Entry,
}

/// Of a direction: exp(x - `reference`) `scale`, times `of_direction` v + `constant`.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) x: &'a [f32],
    pub(super) reference: f32,
    pub(super) scale: f32,
    pub(super) least: f32,
    pub(super) of_direction: f32,
    pub(super) constant: f32,
}

/// Of logits: exp(x - `reference`) `scale`, times `of_probability` p + `constant`.
#[derive(Clone, Copy)]
pub(super) struct Diagonal {
    pub(super) reference: f32,
    pub(super) probability_scale: f32,
    pub(super) probability_least: f32,
    pub(super) scale: f32,
    pub(super) least: f32,
    pub(super) of_probability: f32,
    pub(super) constant: f32,
}

/// Of a direction: times derivatives.
#[derive(Clone, Copy)]
struct Through<'a> {
    slopes: &'a [f32],
}

/// Of a direction, or of derivatives for a diagonal; see [`Point::back`](super::Point::back).
#[derive(Clone, Copy)]
pub(super) struct Back<'a> {
    pub(super) x: &'a [f32],
    pub(super) slopes: &'a [f32],
    pub(super) product: &'a [f32],
    /// Times -2 / cap.
    pub(super) gradient: &'a [f32],
    /// 1 / cap
    pub(super) inverse: f32,
    pub(super) is_diagonal: bool,
}

/// A [`Function`] on one instruction set.
#[derive(Clone, Copy)]
struct On<F>(F);

impl<S: Simd, F: Function> Map<S> for On<F> {
    const TAKES_FOUR: bool = false;

    #[inline(always)]
    fn apply(self, s: S, x: S::F32, column: usize) -> S::F32 {
        self.0.apply(s, x, column)
    }
}

impl<F: Function> Task for PassTask<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        map::run(s, self.columns, On(self.function), self.largest);
    }
}

/// The direction times the derivatives, where there are any.
#[inline(always)]
pub(super) fn through<'a, S: Simd>(s: S, v: &'a [f32], slopes: &[f32], to: &'a mut [f32]) -> &'a [f32] {
    if slopes.is_empty() {
        return v;
    }
    let columns = Columns::Between(v, &mut *to);
    s.vectorize(PassTask { columns, function: Through { slopes }, largest: Entry::NONE });
    to
}

/// Sum of exp(x - reference) v over all columns but the pivot's.
#[inline(always)]
pub(super) fn sum_of_products<S: Simd>(s: S, x: &[f32], v: &[f32], pivot: Entry, reference: f32) -> f64 {
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
            last[i] = s.load_partial(&v[(i * LANES).min(v.len())..], 0.0);
        }
        sums = accumulate_products(s, sums, e, last);
    }
    s.sum_lanes(sums)
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
fn load<S: Simd>(s: S, x: &[f32], column: usize, filler: f32) -> S::F32 {
    if column + LANES <= x.len() {
        s.load(vector_at(x, column))
    } else {
        s.load_partial(&x[column..], filler)
    }
}

/// Derivatives of tanh, which rounding may have put above 1: their product with the largest number shall be finite.
#[inline(always)]
fn load_slopes<S: Simd>(s: S, slopes: &[f32], column: usize) -> S::F32 {
    let zero = s.splat(0.0);
    s.sub(zero, s.max(s.splat(-1.0), s.sub(zero, load(s, slopes, column, 0.0))))
}

impl Function for Product<'_> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, v: S::F32, column: usize) -> S::F32 {
        let x = load(s, self.x, column, f32::NEG_INFINITY);
        let e = exp::exp(s, s.sub(x, s.splat(self.reference)));
        let p = s.mul_at_least(e, s.splat(self.scale), s.splat(self.least));
        let factor = s.mul_add(v, s.splat(self.of_direction), s.splat(self.constant));
        s.zero_below(s.mul(p, factor), s.splat(f32::MIN_POSITIVE))
    }
}

impl Function for Diagonal {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F32, _: usize) -> S::F32 {
        let e = exp::exp(s, s.sub(x, s.splat(self.reference)));
        let p = s.mul_at_least(e, s.splat(self.probability_scale), s.splat(self.probability_least));
        let factor = s.mul_add(p, s.splat(self.of_probability), s.splat(self.constant));
        let product = s.mul(s.mul_at_least(e, s.splat(self.scale), s.splat(self.least)), factor);
        s.zero_below(product, s.splat(f32::MIN_POSITIVE))
    }
}

impl Function for Through<'_> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, v: S::F32, column: usize) -> S::F32 {
        normal_product(s, v, load_slopes(s, self.slopes, column))
    }
}

impl Function for Back<'_> {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, v: S::F32, column: usize) -> S::F32 {
        let slope = load_slopes(s, self.slopes, column);
        let product = load(s, self.product, column, 0.0);
        let gradient = load(s, self.gradient, column, 0.0);
        // Infinite where the class is masked.
        let x = s.max(s.splat(f32::MIN), load(s, self.x, column, 0.0));
        let t = s.max(s.splat(-1.0), normal_product(s, x, s.splat(self.inverse)));
        let turned = normal_product(s, t, gradient);
        // The derivative first, which is at most 1: no step on the way overflows.
        let (product, turned) = if self.is_diagonal {
            (normal_product(s, normal_product(s, slope, product), v), normal_product(s, slope, turned))
        } else {
            (normal_product(s, slope, product), normal_product(s, normal_product(s, slope, v), turned))
        };
        s.zero_below(s.add(product, turned), s.splat(f32::MIN_POSITIVE))
    }
}
