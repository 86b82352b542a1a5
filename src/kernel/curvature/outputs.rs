//! What is as wide as a row: the product with a direction, and the diagonal. Through a softcap both go back in blocks.

use super::lanes::{Lanes, Stored};
use super::passes::{Back, Diagonal, Product};
use super::{Block, Cap, Direction, Memory, Parts, Point, through};
use crate::kernel::Entry;
use crate::kernel::place::Columns;
use crate::kernel::real::Real;
use crate::loss::curvature::Curvature;
use crate::simd::Simd;

impl<L: Lanes, T: Stored<L>> Point<'_, T, L> {
    /// The matrix of second derivatives times the direction, which is what the columns hold before; but at the target of
    /// a focal loss and of capped logits, for which there is [`Point::product_at`], as there is for the largest logit.
    #[inline(always)]
    pub(crate) fn product<S: Simd>(
        &self,
        s: S,
        mut columns: Columns<'_, T>,
        direction: Direction,
        parts: Parts<'_, L>,
        at_largest: L,
        memory: &mut Memory<L>,
    ) {
        let Parts { curvature: Curvature { jacobian, outer, bend }, focal, cap } = parts;
        let (mean, v) = (direction.mean, columns.from());
        let rise_of_target = focal.map_or(0.0, |target| self.rise(direction, v, target.column));
        // As p_i (A v_i + (B - A) a - F r_y), in a unit in which the parenthesis cannot overflow.
        let unit = 2.0 * largest_magnitude(jacobian, outer - jacobian);
        let unit = if focal.is_some() { 2.0 * largest_magnitude(unit, bend) } else { unit };
        let (scale, least) = L::scale_and_least(self.softmax.scale * unit);
        let reference = self.reference();
        let of_direction = Real::round(jacobian / unit);
        let constant = Real::round((outer - jacobian) / unit * mean - bend / unit * rise_of_target);
        let largest = Entry::new(self.largest.class, at_largest);
        let Some(transform) = self.transform else {
            let x = self.x;
            let function = Product { x, reference, scale, least, of_direction, constant };
            return T::pass(s, columns, function, largest);
        };
        for range in self.blocks() {
            let (first, rest) = columns.split_at(range.len());
            columns = rest;
            let largest = largest.from(range.start);
            let block = self.block(s, transform, range.clone(), memory);
            let function = Product { x: block.x, reference, scale, least, of_direction, constant };
            if block.slopes.is_empty() {
                T::pass(s, first, function, largest);
                continue;
            }
            through(s, &first.from()[..range.len()], block.slopes, &mut *block.product);
            L::pass(s, Columns::InPlace(&mut *block.product), function, Entry::NONE);
            let back = self.back(s, block, cap, range.start, false);
            T::pass(s, first, back, largest);
        }
    }

    /// The diagonal of the matrix of second derivatives; but at the target of a focal loss and of capped logits, for which
    /// there is [`Point::diagonal_at`], as there is for the largest logit.
    #[inline(always)]
    pub(crate) fn diagonal<S: Simd>(
        &self,
        s: S,
        mut out: &mut [T],
        parts: Parts<'_, L>,
        at_largest: L,
        memory: &mut Memory<L>,
    ) {
        let Parts { curvature: Curvature { jacobian, outer, bend }, cap, .. } = parts;
        // Away from the target that of a focal loss is F p_i p_j.
        let outer = outer + bend;
        // As p_i (A + (B - A) p_i).
        let unit = largest_magnitude(jacobian, outer - jacobian);
        let (probability_scale, probability_least) = L::scale_and_least(self.softmax.scale);
        let (scale, least) = L::scale_and_least(self.softmax.scale * unit);
        let function = Diagonal {
            reference: self.reference(),
            probability_scale,
            probability_least,
            scale,
            least,
            of_probability: Real::round((outer - jacobian) / unit),
            constant: Real::round(jacobian / unit),
        };
        let largest = Entry::new(self.largest.class, at_largest);
        let Some(transform) = self.transform else {
            return T::pass(s, Columns::Between(self.x, out), function, largest);
        };
        for range in self.blocks() {
            let (first, rest) = out.split_at_mut(range.len());
            out = rest;
            let largest = largest.from(range.start);
            let block = self.block(s, transform, range.clone(), memory);
            if block.slopes.is_empty() {
                T::pass_from(s, Columns::Between(block.x, first), function, largest);
                continue;
            }
            L::pass(s, Columns::Between(block.x, &mut *block.product), function, Entry::NONE);
            let slopes = block.slopes;
            let back = self.back(s, block, cap, range.start, true);
            T::pass_from(s, Columns::Between(slopes, first), back, largest);
        }
    }

    /// What goes back through a softcap: the product of a block, or its diagonal. It is a function of the direction; for a
    /// diagonal of the derivatives.
    #[inline(always)]
    fn back<'b, S: Simd>(
        &self,
        s: S,
        block: Block<'b, L>,
        cap: Option<Cap<'_, L>>,
        start: usize,
        is_diagonal: bool,
    ) -> Back<'b, L> {
        let Block { x, slopes, product, gradient } = block;
        let inverse = cap.map_or(0.0, |cap| cap.inverse);
        if let Some(Cap { gradient: coefficients, shift, gaps, inverse }) = cap {
            let scale = -2.0 * inverse * coefficients.of_probability() * self.softmax.scale;
            // The gradient at the largest logit is another; and what is there now, no number.
            let but = self.pivot().from(start);
            L::gradient(s, x, &mut *gradient, self.reference(), scale, shift, gaps.from(start), but);
        } else {
            gradient.fill(L::default());
        }
        Back { x, slopes, product, gradient, inverse: Real::round(inverse), is_diagonal }
    }
}

/// A unit for both: no 0, because they are divided by it.
#[inline(always)]
fn largest_magnitude(a: f64, b: f64) -> f64 {
    let (a, b) = (a.abs(), b.abs());
    let largest = if a > b { a } else { b };
    if largest == 0.0 { 1.0 } else { largest }
}
