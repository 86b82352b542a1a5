//! The row algorithm.
//!
//! A row of logits x with target t asks for
//!
//! ```text
//! loss       = ln(sum_c exp(x_c)) - x_t
//! gradient_i = exp(x_i) / sum_c exp(x_c) - [i = t]
//! ```
//!
//! and neither formula may be taken as it stands. The exponentials overflow, so everything is relative to a maximum.
//! And where the row is confident, p_t near 1, both subtractions cancel: with a gap of 20 between the target and the
//! rest the loss is 2e-9, less than the last bit of the two logarithmic terms. So the target, the **pivot** of the row,
//! stays out of the maximum and out of the sum:
//!
//! ```text
//! pass 1   m = max_{c != t} x_c                      a block of columns at a time: maximum first,
//!          s = sum_{c != t} exp(x_c - m)             sum while the block is in the first-level cache
//!
//! scalar   e = exp(-|m - x_t|)
//!          y = s e          if x_t >= m              S = 1 + y is the sum relative to the larger of m and x_t
//!              (s - 1) + e  otherwise
//!          loss          = max(m - x_t, 0) + log1p(y)
//!          gradient_t    = -(the others' part of S) / S
//!          k             = exp(m - lse)
//!
//! pass 2   gradient_i    = k exp(x_i - m)            for i != t
//! ```
//!
//! No term is the difference of two larger ones, in any row. Sums of more than four exponentials are kept in `f64`.
//!
//! The maximum is not known before the sum has to begin, so each block of columns is relative to a maximum of what
//! precedes it (`statistics.rs`). The first pass keeps the exponentials where the gradient will be, and the second is then
//! a multiplication.
//!
//! Three kinds of rows: few classes go 16 rows at a time, one lane each (`few_classes.rs`, `few_distributions.rs`), but for
//! the last few rows of a batch (`few_rows.rs`); rows of
//! one block take each step together with their neighbours (`short_rows.rs`); longer ones go alone, in pieces for several
//! threads (`tasks.rs`), and where outputs go past the caches, the second pass over one along with the first over the next
//! (`alongside.rs`). Rows whose classes lie in planes go 16 at a time as well (`planes.rs`, `bands.rs`). The scalars are
//! those of 16 rows at a time for all of them (`lanes.rs`, `results.rs`). Outside, `rows.rs` has the order and `passes.rs`
//! the kinds.
//!
//! Numbers in memory may have 16 bits (`number.rs`), and logits may be scaled or capped on their way to the first pass
//! (`transform.rs`); all arithmetic is in `f32`. Rows of `f64` have passes of their own (`double`). What a loss does
//! with a row beyond this is a handful of scalars: see `loss`.

pub(crate) mod affine;
pub(crate) mod alongside;
pub(crate) mod backward;
pub(crate) mod bands;
pub(crate) mod curvature;
pub(crate) mod distillation;
pub(crate) mod double;
pub(crate) mod exp;
mod fetch;
pub(crate) mod few_classes;
pub(crate) mod few_distributions;
mod few_rows;
pub(crate) mod gaps;
pub(crate) mod groups;
pub(crate) mod lanes;
pub(crate) mod map;
pub(crate) mod number;
pub(crate) mod place;
pub(crate) mod planes;
pub(crate) mod real;
pub(crate) mod results;
pub(crate) mod scalar;
pub(crate) mod short_rows;
mod side_by_side;
pub(crate) mod statistics;
mod tanh;
pub(crate) mod tasks;
pub(crate) mod transform;
pub(crate) mod transformed;

use self::real::Real;
use crate::simd::LANES;

/// One entry of a row: the pivot and its logit, or the target and its gradient.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<L = f32> {
    /// Where it is from the start of some columns. It may lie before them, or behind them.
    column: isize,
    pub(crate) value: L,
}

impl<L: Real> Entry<L> {
    /// Before all columns.
    pub(crate) const NONE: Self = Self { column: isize::MIN, value: L::NEG_INFINITY };

    pub(crate) fn new(column: usize, value: L) -> Self {
        // No slice is longer than isize::MAX bytes.
        Self { column: column as isize, value }
    }

    /// The same entry, counted from another start.
    #[inline(always)]
    pub(crate) fn from(self, start: usize) -> Self {
        Self { column: self.column.saturating_sub_unsigned(start), ..self }
    }

    /// Its index; past the end of any slice, where it lies before the columns.
    #[inline(always)]
    fn index(self) -> usize {
        // Without a branch: targets are at another place in each row.
        self.column as usize
    }

    /// Its lane in the first vector; [`LANES`], where it is not there.
    #[inline(always)]
    fn lane(self) -> usize {
        self.index().min(LANES)
    }

    /// How many of so many columns lie before it.
    #[inline(always)]
    fn columns_before(self, len: usize) -> usize {
        if self.column < 0 { 0 } else { self.index().min(len) }
    }
}

/// The 16 numbers from `start` on.
#[inline(always)]
fn vector_at<T>(x: &[T], start: usize) -> &[T; LANES] {
    &x[start..start + LANES].as_chunks().0[0]
}
