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
//!
//! Where logits are transformed, x' = cap tanh(f x), all this is of x', along u with u_i = (1 - t_i^2) v_i, and there is a
//! block of both at a time in memory that stays in the first-level cache. On the way out, with g the gradient with respect
//! to x' and t = x' / cap,
//!
//! ```text
//! (1 - t_i^2) ((H' u)_i - (2 / cap) t_i g_i v_i)
//! ```
//!
//! times what is the same for all, the square of the scale, which is in the coefficients.
//!
//! Written once, for rows that are computed in `f32` and in `f64`: see `lanes.rs`. What is as wide as the row is in
//! `outputs.rs`.

pub(crate) mod lanes;
mod outputs;
mod passes;

use core::ops::Range;

use super::Entry;
use super::gaps::Gaps;
use super::place::Columns;
use super::real::Real;
use crate::loss::curvature::{ClassSoftmax, Curvature, Gradient, Slope};
use crate::loss::{Softmax, Transform};
use crate::simd::Simd;
use lanes::{Lanes, Stored};
pub(crate) use passes::Function;
use passes::{Same, Through};

/// A row of logits, and its softmax with the largest of them as the pivot.
#[derive(Clone, Copy)]
pub(crate) struct Point<'a, T, L> {
    /// Before the transform.
    x: &'a [T],
    transform: Option<Transform<L>>,
    largest: Column<L>,
    pub(crate) softmax: Softmax<L>,
}

/// A logit as the softmax sees it.
#[derive(Clone, Copy)]
pub(crate) struct Column<L> {
    pub(crate) class: usize,
    logit: L,
    /// 1 - tanh^2 with a softcap, else 1.
    slope: L,
}

/// Memory for a block of transformed logits, their derivatives, a direction and a gradient, [`Lanes::BLOCK`] of each; nothing,
/// where logits are not transformed.
pub(crate) type Memory<L> = [L];

/// How many blocks there are in a [`Memory`].
pub(crate) const BLOCKS: usize = 4;

/// Some columns of a row, transformed.
struct Block<'b, L> {
    x: &'b [L],
    /// 1 - tanh^2, with a softcap; else nothing.
    slopes: &'b [L],
    /// For a direction or a product, and for a gradient.
    product: &'b mut [L],
    gradient: &'b mut [L],
}

/// The target of a focal loss, which bends the loss in a way of its own.
#[derive(Clone, Copy)]
pub(crate) struct FocalTarget<L> {
    pub(crate) column: Column<L>,
    pub(crate) softmax: ClassSoftmax,
}

/// What the curvature of a softcap adds: a diagonal, the gradient times the softcap's second derivatives.
#[derive(Clone, Copy)]
pub(crate) struct Cap<'a, L> {
    pub(crate) gradient: Gradient,
    /// Of the gradient, whose scale is still to come, and of which classes.
    pub(crate) shift: L,
    pub(crate) gaps: Gaps<'a, L>,
    /// 1 / cap.
    pub(crate) inverse: f64,
}

/// What a matrix of second derivatives is made of.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a, L> {
    pub(crate) curvature: Curvature,
    /// With a bend of the curvature.
    pub(crate) focal: Option<FocalTarget<L>>,
    pub(crate) cap: Option<Cap<'a, L>>,
}

/// What a direction v amounts to at a point.
#[derive(Clone, Copy)]
pub(crate) struct Direction {
    /// p . v
    mean: f64,
    /// v_t - p . v, for the largest logit.
    rise_of_largest: f64,
}

impl<'a, L: Lanes, T: Stored<L>> Point<'a, T, L> {
    /// `None` where the row has a NaN, +inf, or nothing but -inf.
    #[inline(always)]
    pub(crate) fn new<S: Simd>(
        s: S,
        x: &'a [T],
        transform: Option<Transform<L>>,
        gaps: Gaps<'_, L>,
    ) -> Option<Self> {
        // A NaN may hide from the maximum, but not from the sum.
        let largest = T::largest(s, x)?;
        let largest = column(s, x, transform, largest);
        if largest.logit.into().is_infinite() {
            return None;
        }
        let pivot = Entry::new(largest.class, largest.logit);
        // What classes weigh is the same for all rows, unless some are masked.
        let gaps = if gaps.is_live() { gaps } else { Gaps::None };
        let softmax = Softmax::new(T::statistics(s, x, transform, pivot, gaps), pivot.value);
        if softmax.is_nan() { None } else { Some(Self { x, transform, largest, softmax }) }
    }

    #[inline(always)]
    pub(crate) fn largest(&self) -> Column<L> {
        self.largest
    }

    #[inline(always)]
    pub(crate) fn column<S: Simd>(&self, s: S, class: usize) -> Column<L> {
        column(s, self.x, self.transform, class)
    }

    /// A class's place in the softmax.
    pub(crate) fn class(&self, column: Column<L>) -> ClassSoftmax {
        let Softmax { scale, target_probability, others_probability, max, ln_sum, .. } = self.softmax;
        if column.class == self.largest.class {
            let nll = self.softmax.nll();
            return ClassSoftmax { probability: target_probability, complement: others_probability, nll };
        }
        // Not above 1/2: nothing cancels.
        let x: f64 = column.logit.into();
        let probability = L::exp_of_gap(x - self.reference().into()) * scale;
        ClassSoftmax { probability, complement: 1.0 - probability, nll: max.into() - x + ln_sum }
    }

    #[inline(always)]
    fn pivot(&self) -> Entry<L> {
        Entry::new(self.largest.class, self.largest.logit)
    }

    /// What exponentials are relative to: the largest of the other logits, or 0 where none is finite.
    #[inline(always)]
    fn reference(&self) -> L {
        let max = self.softmax.statistics.max;
        if max == L::NEG_INFINITY { L::default() } else { max }
    }

    /// The columns that are transformed at a time.
    #[inline(always)]
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<T, L> {
        let len = self.x.len();
        (0..len).step_by(L::BLOCK).map(move |start| start..len.min(start + L::BLOCK))
    }

    #[inline(always)]
    fn block<'b, S: Simd>(
        &self,
        s: S,
        transform: Transform<L>,
        columns: Range<usize>,
        memory: &'b mut Memory<L>,
    ) -> Block<'b, L> {
        let x = &self.x[columns];
        let mut parts = memory.chunks_exact_mut(L::BLOCK);
        let [Some(logits), Some(slopes), Some(product), Some(gradient)] = [(); BLOCKS].map(|()| parts.next())
        else {
            // No caller has transformed logits and no memory.
            return Block { x: &[], slopes: &[], product: &mut [], gradient: &mut [] };
        };
        let logits = &mut logits[..x.len()];
        let slopes = &mut slopes[..if transform.has_slopes() { x.len() } else { 0 }];
        T::transform(s, transform, x, logits, slopes);
        let (product, gradient) = (&mut product[..x.len()], &mut gradient[..x.len()]);
        Block { x: logits, slopes, product, gradient }
    }

    /// `None` where the direction is not finite.
    #[inline(always)]
    pub(crate) fn along<S: Simd>(&self, s: S, v: &[T], memory: &mut Memory<L>) -> Option<Direction> {
        let Softmax { scale, target_probability: p, others_probability: q, .. } = self.softmax;
        let mut others = 0.0;
        match self.transform {
            None => others += T::sum_of_products(s, self.x, v, self.pivot(), self.reference()),
            Some(transform) => {
                for columns in self.blocks() {
                    let block = self.block(s, transform, columns.clone(), memory);
                    let pivot = self.pivot().from(columns.start);
                    let v = through(s, &v[columns], block.slopes, block.product);
                    others += L::sum_of_products(s, block.x, v, pivot, self.reference());
                }
            }
        }
        let (own, others) = (self.largest.times(v), scale * others);
        let mean = p * own + others;
        if mean.is_finite() { Some(Direction { mean, rise_of_largest: q * own - others }) } else { None }
    }

    /// u_c - p . u for some class.
    fn rise(&self, direction: Direction, v: &[T], column: Column<L>) -> f64 {
        if column.class == self.largest.class {
            direction.rise_of_largest
        } else {
            column.times(v) - direction.mean
        }
    }

    /// How the loss of a row with this target rises along the direction. The gaps weigh the classes, of which the target
    /// may be left out, and the largest logit's is.
    #[inline(always)]
    pub(crate) fn slope<S: Simd>(
        &self,
        s: S,
        v: &[T],
        direction: Direction,
        (target, is_left_out): (Column<L>, bool),
        gaps: Gaps<'_, L>,
        memory: &mut Memory<L>,
    ) -> Slope {
        let of_target = -self.rise(direction, v, target);
        let left_out = if is_left_out { Entry::new(target.class, L::default()) } else { Entry::NONE };
        let but = [self.pivot(), left_out];
        let mut weighted = 0.0;
        match self.transform {
            _ if matches!(gaps, Gaps::None) => {}
            None => weighted += T::weighted_sum(s, self.x, v, gaps, but),
            Some(transform) => {
                for columns in self.blocks() {
                    let start = columns.start;
                    let block = self.block(s, transform, columns.clone(), memory);
                    let v = through(s, &v[columns], block.slopes, block.product);
                    weighted +=
                        L::weighted_sum(s, block.x, v, gaps.from(start), but.map(|but| but.from(start)));
                }
            }
        }
        Slope {
            mean: direction.mean,
            of_target,
            along_largest: self.largest.times(v),
            rise_of_largest: direction.rise_of_largest,
            has_majority: self.softmax.target_probability > 0.5,
            weighted_sum: weighted,
        }
    }

    /// An entry of [`Point::product`].
    pub(crate) fn product_at(
        &self,
        column: Column<L>,
        v: &[T],
        direction: Direction,
        parts: &Parts<'_, L>,
        of_cap: f64,
    ) -> L {
        let Parts { curvature: Curvature { jacobian, outer, bend }, focal, .. } = *parts;
        let probability = self.class(column).probability;
        let rest = jacobian * self.rise(direction, v, column) + outer * direction.mean;
        let of_bend = focal.map_or(0.0, |target| {
            // Where the class is the target, p - 1 is minus the complement.
            let factor =
                if column.class == target.column.class { -target.softmax.complement } else { probability };
            bend * (factor * self.rise(direction, v, target.column))
        });
        let slope: f64 = column.slope.into();
        Real::round(slope * (probability * rest - of_bend + of_cap * v[column.class].to_real().into()))
    }

    /// An entry of [`Point::diagonal`].
    pub(crate) fn diagonal_at(&self, column: Column<L>, parts: &Parts<'_, L>, of_cap: f64) -> L {
        let Parts { curvature: Curvature { jacobian, outer, bend }, focal, .. } = *parts;
        let ClassSoftmax { probability: p, complement: q, .. } = self.class(column);
        let of_bend = focal.map_or(0.0, |target| {
            let factor = if column.class == target.column.class { q } else { p };
            bend * (factor * factor)
        });
        let slope: f64 = column.slope.into();
        Real::round(slope * (slope * (p * (jacobian * q + outer * p) + of_bend) + of_cap))
    }

    /// What a softcap adds to an entry, but for its slope: -(2 / cap) t g, of a class that weighs this.
    pub(crate) fn of_cap(&self, column: Column<L>, cap: &Cap<'_, L>, weight: f64, is_target: bool) -> f64 {
        // Infinite where the class is masked.
        let t = (column.logit.into() * cap.inverse).max(-1.0);
        let softmax = self.class(column);
        let gradient = if column.class == self.largest.class {
            cap.gradient.at_largest(softmax, is_target)
        } else {
            cap.gradient.at_other(softmax, weight, is_target)
        };
        -2.0 * cap.inverse * t * gradient
    }
}

/// The direction, times the derivatives where there are any, where it is computed with.
#[inline(always)]
fn through<'b, S: Simd, L: Lanes, T: Stored<L>>(s: S, v: &[T], slopes: &[L], to: &'b mut [L]) -> &'b [L] {
    let columns = Columns::Between(v, &mut *to);
    if slopes.is_empty() {
        T::pass_to(s, columns, Same, Entry::NONE);
    } else {
        T::pass_to(s, columns, Through { slopes }, Entry::NONE);
    }
    to
}

impl<L: Lanes> Column<L> {
    /// The derivative in the direction, but for the scale.
    fn times<T: Stored<L>>(self, v: &[T]) -> f64 {
        v[self.class].to_real().into() * self.slope.into()
    }
}

/// What a logit becomes.
#[inline(always)]
fn column<S: Simd, L: Lanes, T: Stored<L>>(
    s: S,
    x: &[T],
    transform: Option<Transform<L>>,
    class: usize,
) -> Column<L> {
    let (mut logit, mut slope) = ([x[class].to_real()], [1.0.into()]);
    if let Some(transform) = transform {
        let slope = &mut slope[..usize::from(transform.has_slopes())];
        T::transform(s, transform, &x[class..=class], &mut logit, slope);
    }
    Column { class, logit: logit[0], slope: slope[0] }
}
