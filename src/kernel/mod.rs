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
//! A row that fits one block keeps its exponentials between the passes; pass 2 is then a multiplication. A longer row
//! computes them twice, which costs less than storing and loading them.
//!
//! What a loss does with a row beyond this is a handful of scalars: see `loss.rs`.

pub(crate) mod backward;
pub(crate) mod exp;
pub(crate) mod few_classes;
pub(crate) mod map;
pub(crate) mod row;
pub(crate) mod scalar;
pub(crate) mod statistics;
pub(crate) mod tasks;

use crate::simd::LANES;

/// The 16 numbers from `start` on.
#[inline(always)]
fn vector_at(x: &[f32], start: usize) -> &[f32; LANES] {
    &x[start..start + LANES].as_chunks().0[0]
}
