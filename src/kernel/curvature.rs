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

mod passes;

use core::ops::Range;

use super::Entry;
use super::affine::{Affine, Shift};
use super::gaps::{Gaps, weighted_sum};
use super::place::Columns;
use super::scalar::{self, to_f32};
use super::statistics::{BLOCK, max, statistics};
use super::tasks::{AffineTask, Content, FirstEqual};
use super::transform::TransformTask;
use super::transformed::TransformedStatisticsTask;
use crate::loss::curvature::{ClassSoftmax, Curvature, Gradient, Slope};
use crate::loss::{Softmax, Transform};
use crate::simd::{Simd, Task};
use passes::{Back, Diagonal, PassTask, Product, sum_of_products, through};

/// A row of logits, and its softmax with the largest of them as the pivot.
#[derive(Clone, Copy)]
pub(crate) struct Point<'a> {
    /// Before the transform.
    x: &'a [f32],
    transform: Option<Transform>,
    largest: Column,
    pub(crate) softmax: Softmax,
}

/// A logit as the softmax sees it.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    pub(crate) class: usize,
    logit: f32,
    /// 1 - tanh^2 with a softcap, else 1.
    slope: f32,
}

/// Memory for a block of transformed logits, their derivatives, a direction and a gradient; nothing, where logits are not
/// transformed.
pub(crate) type Memory = [[f32; BLOCK]];

/// How many blocks there are in a [`Memory`].
pub(crate) const BLOCKS: usize = 4;

/// Some columns of a row, as the softmax sees them.
struct Block<'b> {
    x: &'b [f32],
    /// 1 - tanh^2, with a softcap; else nothing.
    slopes: &'b [f32],
    /// For a direction or a product, and for a gradient.
    product: &'b mut [f32],
    gradient: &'b mut [f32],
}

/// The target of a focal loss, which bends the loss in a way of its own.
#[derive(Clone, Copy)]
pub(crate) struct FocalTarget {
    pub(crate) column: Column,
    pub(crate) softmax: ClassSoftmax,
}

/// What the curvature of a softcap adds: a diagonal, the gradient times the softcap's second derivatives.
#[derive(Clone, Copy)]
pub(crate) struct Cap<'a> {
    pub(crate) gradient: Gradient,
    /// Of the gradient, whose scale is still to come.
    pub(crate) shift: Shift<'a>,
    /// 1 / cap.
    pub(crate) inverse: f64,
}

/// What a matrix of second derivatives is made of.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) curvature: Curvature,
    /// With a bend of the curvature.
    pub(crate) focal: Option<FocalTarget>,
    pub(crate) cap: Option<Cap<'a>>,
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
    pub(crate) fn new<S: Simd>(
        s: S,
        x: &'a [f32],
        transform: Option<Transform>,
        gaps: Gaps<'_>,
    ) -> Option<Self> {
        // A NaN may hide from the maximum, but not from the sum.
        let max = max(s, x, Entry::NONE);
        let largest = FirstEqual { x, value: max }.run(s)?;
        let largest = column(s, x, transform, largest);
        if largest.logit.is_infinite() {
            return None;
        }
        let pivot = Entry::new(largest.class, largest.logit);
        // What classes weigh is the same for all rows, unless some are masked.
        let gaps = if gaps.is_live() { gaps } else { Gaps::None };
        let others = match transform {
            None => statistics(s, Columns::Read(x), 0, pivot, gaps, &mut []),
            Some(transform) => s.vectorize(TransformedStatisticsTask { transform, x, pivot, gaps }),
        };
        let softmax = Softmax::new(others, pivot.value);
        if softmax.is_nan() { None } else { Some(Self { x, transform, largest, softmax }) }
    }

    #[inline(always)]
    pub(crate) fn largest(&self) -> Column {
        self.largest
    }

    #[inline(always)]
    pub(crate) fn column<S: Simd>(&self, s: S, class: usize) -> Column {
        column(s, self.x, self.transform, class)
    }

    /// A class's place in the softmax.
    pub(crate) fn class(&self, column: Column) -> ClassSoftmax {
        let Softmax { scale, target_probability, others_probability, max, ln_sum, .. } = self.softmax;
        if column.class == self.largest.class {
            let nll = self.softmax.nll();
            return ClassSoftmax { probability: target_probability, complement: others_probability, nll };
        }
        // Not above 1/2: nothing cancels.
        let x = f64::from(column.logit);
        let probability = scalar::exp(x - f64::from(self.reference())) * scale;
        ClassSoftmax { probability, complement: 1.0 - probability, nll: f64::from(max) - x + ln_sum }
    }

    #[inline(always)]
    fn pivot(&self) -> Entry {
        Entry::new(self.largest.class, self.largest.logit)
    }

    /// What exponentials are relative to: the largest of the other logits, or 0 where none is finite.
    #[inline(always)]
    fn reference(&self) -> f32 {
        let max = self.softmax.statistics.max;
        if max == f32::NEG_INFINITY { 0.0 } else { max }
    }

    /// The columns in blocks: all at once, where they are taken as they are.
    #[inline(always)]
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let (len, step) = (self.x.len(), if self.transform.is_some() { BLOCK } else { self.x.len().max(1) });
        (0..len).step_by(step).map(move |start| start..len.min(start + step))
    }

    #[inline(always)]
    fn block<'b, S: Simd>(&'b self, s: S, columns: Range<usize>, memory: &'b mut Memory) -> Block<'b> {
        let x = &self.x[columns];
        match (self.transform, memory) {
            (Some(transform), [logits, slopes, product, gradient]) => {
                let logits = &mut logits[..x.len()];
                let slopes = &mut slopes[..if transform.has_slopes() { x.len() } else { 0 }];
                s.vectorize(TransformTask::of_block(Some(transform), x, logits, slopes));
                let (product, gradient) = (&mut product[..x.len()], &mut gradient[..x.len()]);
                Block { x: logits, slopes, product, gradient }
            }
            _ => Block { x, slopes: &[], product: &mut [], gradient: &mut [] },
        }
    }

    /// `None` where the direction is not finite.
    #[inline(always)]
    pub(crate) fn along<S: Simd>(&self, s: S, v: &[f32], memory: &mut Memory) -> Option<Direction> {
        let Softmax { scale, target_probability: p, others_probability: q, .. } = self.softmax;
        let mut others = 0.0;
        for columns in self.blocks() {
            let Block { x, slopes, product, .. } = self.block(s, columns.clone(), memory);
            let pivot = self.pivot().from(columns.start);
            let v = through(s, &v[columns], slopes, product);
            others += sum_of_products(s, x, v, pivot, self.reference());
        }
        let (own, others) = (self.largest.times(v), scale * others);
        let mean = p * own + others;
        if mean.is_finite() { Some(Direction { mean, rise_of_largest: q * own - others }) } else { None }
    }

    /// u_c - p . u for some class.
    fn rise(&self, direction: Direction, v: &[f32], column: Column) -> f64 {
        if column.class == self.largest.class {
            direction.rise_of_largest
        } else {
            column.times(v) - direction.mean
        }
    }

    /// How the loss of a row with this target rises along the direction. The gaps weigh the classes, of which the target
    /// may be left out.
    #[inline(always)]
    pub(crate) fn slope<S: Simd>(
        &self,
        s: S,
        v: &[f32],
        direction: Direction,
        (target, is_left_out): (Column, bool),
        gaps: Gaps<'_>,
        memory: &mut Memory,
    ) -> Slope {
        let of_target = -self.rise(direction, v, target);
        let but = if is_left_out { Entry::new(target.class, 0.0) } else { Entry::NONE };
        let mut weighted = 0.0;
        if !matches!(gaps, Gaps::None) {
            for columns in self.blocks() {
                let start = columns.start;
                let Block { x, slopes, product, .. } = self.block(s, columns.clone(), memory);
                let v = through(s, &v[columns], slopes, product);
                weighted += weighted_sum(s, x, v, gaps.from(start), but.from(start));
            }
        }
        Slope { mean: direction.mean, of_target, weighted_sum: weighted }
    }

    /// An entry of [`Point::product`].
    pub(crate) fn product_at(
        &self,
        column: Column,
        v: &[f32],
        direction: Direction,
        parts: &Parts<'_>,
        of_cap: f64,
    ) -> f32 {
        let Parts { curvature: Curvature { jacobian, outer, bend }, focal, .. } = *parts;
        let probability = self.class(column).probability;
        let rest = jacobian * self.rise(direction, v, column) + outer * direction.mean;
        let of_bend = focal.map_or(0.0, |target| {
            // Where the class is the target, p - 1 is minus the complement.
            let factor =
                if column.class == target.column.class { -target.softmax.complement } else { probability };
            bend * (factor * self.rise(direction, v, target.column))
        });
        let slope = f64::from(column.slope);
        to_f32(slope * (probability * rest - of_bend + of_cap * f64::from(v[column.class])))
    }

    /// An entry of [`Point::diagonal`].
    pub(crate) fn diagonal_at(&self, column: Column, parts: &Parts<'_>, of_cap: f64) -> f32 {
        let Parts { curvature: Curvature { jacobian, outer, bend }, focal, .. } = *parts;
        let ClassSoftmax { probability: p, complement: q, .. } = self.class(column);
        let of_bend = focal.map_or(0.0, |target| {
            let factor = if column.class == target.column.class { q } else { p };
            bend * (factor * factor)
        });
        let slope = f64::from(column.slope);
        to_f32(slope * (slope * (p * (jacobian * q + outer * p) + of_bend) + of_cap))
    }

    /// What a softcap adds to an entry, but for its slope: -(2 / cap) t g, of a class that weighs this.
    pub(crate) fn of_cap(&self, column: Column, cap: &Cap<'_>, weight: f64, is_target: bool) -> f64 {
        // Infinite where the class is masked.
        let t = (f64::from(column.logit) * cap.inverse).max(-1.0);
        -2.0 * cap.inverse * t * cap.gradient.at(self.class(column), weight, is_target)
    }

    /// The matrix of second derivatives times the direction, which is what the columns hold before; but at the target of
    /// a focal loss and of capped logits, for which there is [`Point::product_at`], as there is for the largest logit.
    #[inline(always)]
    pub(crate) fn product<S: Simd>(
        &self,
        s: S,
        mut columns: Columns<'_>,
        direction: Direction,
        parts: Parts<'_>,
        at_largest: f32,
        memory: &mut Memory,
    ) {
        let Parts { curvature: Curvature { jacobian, outer, bend }, focal, cap } = parts;
        let (mean, v) = (direction.mean, columns.from());
        let rise_of_target = focal.map_or(0.0, |target| self.rise(direction, v, target.column));
        // As p_i (A v_i + (B - A) a - F r_y), in a unit in which the parenthesis cannot overflow.
        let unit = 2.0 * largest_magnitude(jacobian, outer - jacobian);
        let unit = if focal.is_some() { 2.0 * largest_magnitude(unit, bend) } else { unit };
        let scaled = Affine::new(self.softmax.scale * unit, Shift::None);
        let product = Product {
            x: &[],
            reference: self.reference(),
            scale: scaled.scale,
            least: scaled.least,
            of_direction: to_f32(jacobian / unit),
            constant: to_f32((outer - jacobian) / unit * mean - bend / unit * rise_of_target),
        };
        for range in self.blocks() {
            let (first, rest) = columns.split_at(range.len());
            columns = rest;
            let largest = Entry::new(self.largest.class, at_largest).from(range.start);
            let block = self.block(s, range.clone(), memory);
            let function = Product { x: block.x, ..product };
            if block.slopes.is_empty() {
                s.vectorize(PassTask { columns: first, function, largest });
                continue;
            }
            through(s, &first.from()[..range.len()], block.slopes, block.product);
            let columns = Columns::InPlace(&mut *block.product);
            s.vectorize(PassTask { columns, function, largest: Entry::NONE });
            self.back(s, first, block, cap, largest, (range.start, false));
        }
    }

    /// The diagonal of the matrix of second derivatives; but at the target of a focal loss and of capped logits, for which
    /// there is [`Point::diagonal_at`], as there is for the largest logit.
    #[inline(always)]
    pub(crate) fn diagonal<S: Simd>(
        &self,
        s: S,
        mut out: &mut [f32],
        parts: Parts<'_>,
        at_largest: f32,
        memory: &mut Memory,
    ) {
        let Parts { curvature: Curvature { jacobian, outer, bend }, cap, .. } = parts;
        // Away from the target that of a focal loss is F p_i p_j.
        let outer = outer + bend;
        // As p_i (A + (B - A) p_i).
        let unit = largest_magnitude(jacobian, outer - jacobian);
        let scale = self.softmax.scale;
        let (probability, scaled) = (Affine::new(scale, Shift::None), Affine::new(scale * unit, Shift::None));
        let function = Diagonal {
            reference: self.reference(),
            probability_scale: probability.scale,
            probability_least: probability.least,
            scale: scaled.scale,
            least: scaled.least,
            of_probability: to_f32((outer - jacobian) / unit),
            constant: to_f32(jacobian / unit),
        };
        for range in self.blocks() {
            let (first, rest) = out.split_at_mut(range.len());
            out = rest;
            let largest = Entry::new(self.largest.class, at_largest).from(range.start);
            let block = self.block(s, range.clone(), memory);
            if block.slopes.is_empty() {
                s.vectorize(PassTask { columns: Columns::Between(block.x, first), function, largest });
                continue;
            }
            let columns = Columns::Between(block.x, &mut *block.product);
            s.vectorize(PassTask { columns, function, largest: Entry::NONE });
            self.back(s, Columns::Between(block.slopes, first), block, cap, largest, (range.start, true));
        }
    }

    /// What goes back through a softcap: the product of a block, or its diagonal. The columns hold the direction before;
    /// for a diagonal the derivatives.
    #[inline(always)]
    fn back<S: Simd>(
        &self,
        s: S,
        columns: Columns<'_>,
        block: Block<'_>,
        cap: Option<Cap<'_>>,
        largest: Entry,
        (start, is_diagonal): (usize, bool),
    ) {
        let Block { x, slopes, product, gradient } = block;
        let inverse = cap.map_or(0.0, |cap| cap.inverse);
        if let Some(Cap { gradient: coefficients, shift, inverse }) = cap {
            s.vectorize(AffineTask {
                columns: Columns::Between(x, &mut *gradient),
                content: Content::LogitsOfShard,
                max: self.reference(),
                scale: -2.0 * inverse * coefficients.of_probability() * self.softmax.scale,
                shift: shift.starting_at(start),
                // The gradient there is another; and what is there now, no number.
                target: Entry::new(self.largest.class, 0.0).from(start),
            });
        } else {
            gradient.fill(0.0);
        }
        let function = Back { x, slopes, product, gradient, inverse: to_f32(inverse), is_diagonal };
        s.vectorize(PassTask { columns, function, largest });
    }
}

impl Column {
    /// The derivative in the direction, but for the scale.
    fn times(self, v: &[f32]) -> f64 {
        f64::from(v[self.class]) * f64::from(self.slope)
    }
}

/// What a logit becomes.
#[inline(always)]
fn column<S: Simd>(s: S, x: &[f32], transform: Option<Transform>, class: usize) -> Column {
    let (mut logit, mut slope) = ([x[class]], [1.0]);
    if let Some(transform) = transform {
        let slope = &mut slope[..usize::from(transform.has_slopes())];
        s.vectorize(TransformTask::of_block(Some(transform), &x[class..=class], &mut logit, slope));
    }
    Column { class, logit: logit[0], slope: slope[0] }
}

/// A unit for both: no 0, because they are divided by it.
#[inline(always)]
fn largest_magnitude(a: f64, b: f64) -> f64 {
    let (a, b) = (a.abs(), b.abs());
    let largest = if a > b { a } else { b };
    if largest == 0.0 { 1.0 } else { largest }
}
