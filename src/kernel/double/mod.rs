//! Rows of `f64`.
//!
//! The algorithm is that of the essay in `kernel`, one row after the other. Where the row of `f32` has `f64` for what must
//! not be lost, a row of `f64` has nothing wider, so what is added up carries its rounding error along:
//!
//! ```text
//! exp      within 2 ulp, from the same few steps with a longer polynomial         exp.rs
//! sums     pairwise groups of four, then lanes with an error term each            sums.rs
//! pass 1   maximum of the whole row, then exponentials relative to it, kept       statistics.rs
//! scalars  exp, log1p and 1 / (1 + y) as sums of two numbers, rounded once        scalar.rs
//! pass 2   as that of f32                                                         affine.rs
//! ```
//!
//! The first pass reads a row twice, from the caches the second time, and so every exponential is relative to the row's
//! maximum. There are no references of blocks, and no stores past the caches.

pub(crate) mod affine;
pub(crate) mod backward;
pub(crate) mod exp;
mod place;
pub(crate) mod scalar;
pub(crate) mod search;
pub(crate) mod statistics;
mod sums;

use super::{Entry, vector_at};
use crate::simd::{LANES, Simd};

/// Four vectors. Their loads, stores and sums are taken together.
const GROUP: usize = 4 * LANES;

/// A whole group.
#[inline(always)]
fn group<S: Simd>(s: S, x: &[f64], at: usize) -> [S::F64; 4] {
    let x = &x[at..at + GROUP];
    [
        s.load_f64(vector_at(x, 0)),
        s.load_f64(vector_at(x, LANES)),
        s.load_f64(vector_at(x, 2 * LANES)),
        s.load_f64(vector_at(x, 3 * LANES)),
    ]
}

/// A group that holds the pivot, or ends behind the columns: -inf in those places.
#[inline(always)]
fn group_without<S: Simd>(s: S, x: &[f64], at: usize, pivot: Entry<f64>) -> [S::F64; 4] {
    let mut group = [s.splat_f64(f64::NEG_INFINITY); 4];
    for i in 0..4 {
        let start = at + i * LANES;
        let lanes = s.load_partial_f64(&x[start.min(x.len())..], f64::NEG_INFINITY);
        group[i] = s.with_lane_f64(lanes, pivot.from(start).lane(), f64::NEG_INFINITY);
    }
    group
}
