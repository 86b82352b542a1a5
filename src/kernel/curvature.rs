//! Second derivatives, and first ones along a direction v: A (p_i v_i - p_i (p . v)) + B p_i (p . v), and the diagonal
//! A p_i (1 - p_i) + B p_i^2. A focal loss adds F (p_i - [i = y]) (p . v - v_y), and F (p_i - [i = y])^2, for its target y:
//! away from the target one constant more, and there a value of its own.
//!
//! Where the row is confident in a class t, v_t - p . v and 1 - p_t cancel. So the row's **largest** logit is the pivot
//! here, whatever the target is, and stays out of every sum:
//!
//! ```text
//! pass 1   m = max_{c != t} x_c,  s = sum_{c != t} exp(x_c - m)          as for the loss
//! scalar   p_t,  q = 1 - p_t = the others' part of the sum,  k = exp(m - lse)
//! pass 2   o = k sum_{c != t} exp(x_c - m) v_c
//! scalar   a = p . v = p_t v_t + o
//! pass 3   p_i (A (v_i - a) + B a)                                       for i != t
//!          p_t (A (q v_t - o) + B a)                                     at t
//! ```
//!
//! No other class has a probability above 1/2, so v_i - a loses no more than the sum of the magnitudes of what it is
//! made of, q_i v_i and the p_c v_c of the others, has lost before.

use super::affine::{Affine, Shift};
use super::gaps::{Gaps, weighted_sum};
use super::groups::{Groups, exp_of_group, group, group_without, rest_without};
use super::map::{self, Map};
use super::place::{Columns, Read};
use super::scalar::{self, to_f32};
use super::statistics::{max, statistics};
use super::tasks::FirstEqual;
use super::{Entry, exp, vector_at};
use crate::loss::Softmax;
use crate::loss::curvature::{ClassSoftmax, Curvature, Slope};
use crate::simd::{LANES, Simd, Task};

/// A row of logits, and its softmax with the largest of them as the pivot.
#[derive(Clone, Copy)]
pub(crate) struct Point<'a> {
    x: &'a [f32],
    largest: usize,
    pub(crate) softmax: Softmax,
}

/// The target of a focal loss, which bends the loss in a way of its own.
#[derive(Clone, Copy)]
pub(crate) struct FocalTarget {
    pub(crate) class: usize,
    pub(crate) softmax: ClassSoftmax,
}

/// What a direction v amounts to at a point.
#[derive(Clone, Copy)]
pub(crate) struct Direction {
    /// p . v
    mean: f64,
    /// v_t - p . v, for the largest logit.
    rise_of_largest: f64,
}

impl<'a> Point<'a> {
    /// `None` where the row has a NaN, +inf, or nothing but -inf.
    #[inline(always)]
    pub(crate) fn new<S: Simd>(s: S, x: &'a [f32], gaps: Gaps<'_>) -> Option<Self> {
        // A NaN may hide from the maximum, but not from the sum.
        let max = max(s, x, Entry::NONE);
        let largest = FirstEqual { x, value: max }.run(s)?;
        let pivot = Entry::new(largest, x[largest]);
        // What classes weigh is the same for all rows, unless some are masked.
        let gaps = if gaps.is_live() { gaps } else { Gaps::None };
        let others = statistics(s, Columns::Read(x), 0, pivot, gaps, &mut []);
        let softmax = Softmax::new(others, pivot.value);
        if softmax.is_nan() { None } else { Some(Self { x, largest, softmax }) }
    }

    #[inline(always)]
    pub(crate) fn largest(&self) -> usize {
        self.largest
    }

    /// A class's place in the softmax.
    pub(crate) fn class(&self, class: usize) -> ClassSoftmax {
        let Softmax { scale, target_probability, others_probability, max, ln_sum, .. } = self.softmax;
        if class == self.largest {
            let nll = self.softmax.nll();
            return ClassSoftmax { probability: target_probability, complement: others_probability, nll };
        }
        // Not above 1/2: nothing cancels.
        let x = f64::from(self.x[class]);
        let probability = scalar::exp(x - f64::from(self.reference())) * scale;
        ClassSoftmax { probability, complement: 1.0 - probability, nll: f64::from(max) - x + ln_sum }
    }

    #[inline(always)]
    fn pivot(&self) -> Entry {
        Entry::new(self.largest, self.softmax.max)
    }

    /// What exponentials are relative to: the largest of the other logits, or 0 where none is finite.
    #[inline(always)]
    fn reference(&self) -> f32 {
        let max = self.softmax.statistics.max;
        if max == f32::NEG_INFINITY { 0.0 } else { max }
    }

    /// `None` where the direction is not finite.
    #[inline(always)]
    pub(crate) fn along<S: Simd>(&self, s: S, v: &[f32]) -> Option<Direction> {
        let Softmax { scale, target_probability: p, others_probability: q, .. } = self.softmax;
        let others = scale * self.sum_of_others(s, v);
        let own = f64::from(v[self.largest]);
        let mean = p * own + others;
        if mean.is_finite() { Some(Direction { mean, rise_of_largest: q * own - others }) } else { None }
    }

    /// Sum of exp(x - reference) v over all classes but the largest.
    #[inline(always)]
    fn sum_of_others<S: Simd>(&self, s: S, v: &[f32]) -> f64 {
        let (x, v) = (Read(self.x), Read(&v[..self.x.len()]));
        let (pivot, reference) = (self.pivot(), s.splat(self.reference()));
        let groups = Groups::new(0..self.x.len(), pivot);
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
        let (x, v) = (&self.x[groups.rest..], &v.0[groups.rest..]);
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

    /// v_c - p . v for some class.
    fn rise(&self, direction: Direction, v: &[f32], class: usize) -> f64 {
        if class == self.largest { direction.rise_of_largest } else { f64::from(v[class]) - direction.mean }
    }

    /// How the loss of a row with this target rises along the direction. The gaps weigh the classes, of which the target
    /// may be left out.
    #[inline(always)]
    pub(crate) fn slope<S: Simd>(
        &self,
        s: S,
        v: &[f32],
        direction: Direction,
        (target, is_left_out): (usize, bool),
        gaps: Gaps<'_>,
    ) -> Slope {
        let of_target = -self.rise(direction, v, target);
        let but = if is_left_out { Entry::new(target, 0.0) } else { Entry::NONE };
        let weighted_sum = weighted_sum(s, self.x, v, gaps, but);
        Slope { mean: direction.mean, of_target, weighted_sum }
    }

    /// An entry of [`Point::product`].
    pub(crate) fn product_at(
        &self,
        class: usize,
        focal: Option<FocalTarget>,
        v: &[f32],
        direction: Direction,
        curvature: Curvature,
    ) -> f32 {
        let Curvature { jacobian, outer, bend } = curvature;
        let probability = self.class(class).probability;
        let rest = jacobian * self.rise(direction, v, class) + outer * direction.mean;
        let of_bend = focal.map_or(0.0, |target| {
            // Where the class is the target, p - 1 is minus the complement.
            let factor = if class == target.class { -target.softmax.complement } else { probability };
            bend * (factor * self.rise(direction, v, target.class))
        });
        to_f32(probability * rest - of_bend)
    }

    /// An entry of [`Point::diagonal`].
    pub(crate) fn diagonal_at(&self, class: usize, focal: Option<FocalTarget>, curvature: Curvature) -> f32 {
        let Curvature { jacobian, outer, bend } = curvature;
        let ClassSoftmax { probability: p, complement: q, .. } = self.class(class);
        let of_bend = focal.map_or(0.0, |target| {
            let factor = if class == target.class { q } else { p };
            bend * (factor * factor)
        });
        to_f32(p * (jacobian * q + outer * p) + of_bend)
    }

    /// The matrix of second derivatives times the direction, which is what the columns hold before; but at the target of
    /// a focal loss, for which there is [`Point::product_at`].
    #[inline(always)]
    pub(crate) fn product<S: Simd>(
        &self,
        s: S,
        columns: Columns<'_>,
        direction: Direction,
        focal: Option<FocalTarget>,
        curvature: Curvature,
    ) {
        let Curvature { jacobian, outer, bend } = curvature;
        let (mean, v) = (direction.mean, columns.from());
        let rise_of_target = focal.map_or(0.0, |target| self.rise(direction, v, target.class));
        let at_largest = self.product_at(self.largest, focal, v, direction, curvature);
        // As p_i (A v_i + (B - A) a - F r_y), in a unit in which the parenthesis cannot overflow.
        let unit = 2.0 * largest_magnitude(jacobian, outer - jacobian);
        let unit = if focal.is_some() { 2.0 * largest_magnitude(unit, bend) } else { unit };
        let scaled = Affine::new(self.softmax.scale * unit, Shift::None);
        let product = Product {
            x: self.x,
            reference: s.splat(self.reference()),
            scale: s.splat(scaled.scale),
            least: s.splat(scaled.least),
            of_direction: s.splat(to_f32(jacobian / unit)),
            constant: s.splat(to_f32((outer - jacobian) / unit * mean - bend / unit * rise_of_target)),
        };
        map::run(s, columns, product, Entry::new(self.largest, at_largest));
    }

    /// The diagonal of the matrix of second derivatives; but at the target of a focal loss, for which there is
    /// [`Point::diagonal_at`].
    #[inline(always)]
    pub(crate) fn diagonal<S: Simd>(
        &self,
        s: S,
        out: &mut [f32],
        focal: Option<FocalTarget>,
        curvature: Curvature,
    ) {
        let at_largest = self.diagonal_at(self.largest, focal, curvature);
        let (jacobian, outer) = (curvature.jacobian, curvature.outer + curvature.bend);
        let scale = self.softmax.scale;
        // As p_i (A + (B - A) p_i).
        let unit = largest_magnitude(jacobian, outer - jacobian);
        let (probability, scaled) = (Affine::new(scale, Shift::None), Affine::new(scale * unit, Shift::None));
        let diagonal = Diagonal {
            reference: s.splat(self.reference()),
            probability_scale: s.splat(probability.scale),
            probability_least: s.splat(probability.least),
            scale: s.splat(scaled.scale),
            least: s.splat(scaled.least),
            of_probability: s.splat(to_f32((outer - jacobian) / unit)),
            constant: s.splat(to_f32(jacobian / unit)),
        };
        map::run(s, Columns::Between(self.x, out), diagonal, Entry::new(self.largest, at_largest));
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

/// A unit for both: no 0, because they are divided by it.
#[inline(always)]
fn largest_magnitude(a: f64, b: f64) -> f64 {
    let (a, b) = (a.abs(), b.abs());
    let largest = if a > b { a } else { b };
    if largest == 0.0 { 1.0 } else { largest }
}

#[derive(Clone, Copy)]
struct Product<'a, V> {
    x: &'a [f32],
    reference: V,
    scale: V,
    least: V,
    of_direction: V,
    constant: V,
}

#[derive(Clone, Copy)]
struct Diagonal<V> {
    reference: V,
    probability_scale: V,
    probability_least: V,
    scale: V,
    least: V,
    of_probability: V,
    constant: V,
}

impl<S: Simd> Map<S> for Product<'_, S::F32> {
    const TAKES_FOUR: bool = false;

    #[inline(always)]
    fn apply(self, s: S, v: S::F32, column: usize) -> S::F32 {
        let x = if column + LANES <= self.x.len() {
            s.load(vector_at(self.x, column))
        } else {
            s.load_partial(&self.x[column..], f32::NEG_INFINITY)
        };
        let e = exp::exp(s, s.sub(x, self.reference));
        let p = s.mul_at_least(e, self.scale, self.least);
        let factor = s.mul_add(v, self.of_direction, self.constant);
        s.zero_below(s.mul(p, factor), s.splat(f32::MIN_POSITIVE))
    }
}

impl<S: Simd> Map<S> for Diagonal<S::F32> {
    const TAKES_FOUR: bool = false;

    #[inline(always)]
    fn apply(self, s: S, x: S::F32, _: usize) -> S::F32 {
        let e = exp::exp(s, s.sub(x, self.reference));
        let p = s.mul_at_least(e, self.probability_scale, self.probability_least);
        let factor = s.mul_add(p, self.of_probability, self.constant);
        let product = s.mul(s.mul_at_least(e, self.scale, self.least), factor);
        s.zero_below(product, s.splat(f32::MIN_POSITIVE))
    }
}
