//! Rows of `f64`.
//!
//! The algorithm is that of the essay in `kernel`, one row after the other. Where the row of `f32` has `f64` for what must
//! not be lost, a row of `f64` has nothing wider, so what is added up carries its rounding error along:
//!
//! ```text
//! exp      within 1.25 ulp, from the same few steps with a longer polynomial      exp.rs
//! sums     pairwise groups of four, then lanes with an error term each            sums.rs
//! pass 1   maximum of the whole row, then exponentials relative to it, kept       statistics.rs
//! scalars  exp, log1p and 1 / (1 + y) as sums of two numbers, rounded once        scalar.rs
//! shards   sums of two numbers that merge                                         pair.rs
//! pass 2   as that of f32                                                         affine.rs
//! logits   scaled and capped, in each pass anew                                   transform.rs
//! two      a student's row against a teacher's, at a temperature                  distillation.rs
//! planes   all of it for 16 positions at a time                                   planes.rs
//! ```
//!
//! The first pass reads a row twice, from the caches the second time, and so every exponential is relative to the row's
//! maximum. There are no references of blocks, and no stores past the caches.

pub(crate) mod affine;
pub(crate) mod backward;
mod curvature;
pub(crate) mod distillation;
pub(crate) mod exp;
pub(crate) mod pair;
mod place;
pub(crate) mod planes;
pub(crate) mod scalar;
pub(crate) mod search;
pub(crate) mod statistics;
mod sums;
pub(crate) mod transform;

use super::{Entry, vector_at};
use crate::loss::Transform;
use crate::simd::{LANES, Simd};
use transform::TransformTask;

/// Four vectors. Their loads, stores and sums are taken together.
const GROUP: usize = 4 * LANES;

/// What logits are as they are read.
trait Load: Copy {
    /// Some of them; transformed, in `to`, which has as many or more.
    fn load<'a, S: Simd>(self, s: S, from: &'a [f64], to: &'a mut [f64]) -> &'a [f64];
    fn transform(self) -> Option<Transform<f64>>;
}

/// What they are in memory.
#[derive(Clone, Copy)]
struct Plain;

impl Load for Plain {
    #[inline(always)]
    fn load<'a, S: Simd>(self, _: S, from: &'a [f64], _: &'a mut [f64]) -> &'a [f64] {
        from
    }

    #[inline(always)]
    fn transform(self) -> Option<Transform<f64>> {
        None
    }
}

impl Load for Transform<f64> {
    #[inline(always)]
    fn load<'a, S: Simd>(self, s: S, from: &'a [f64], to: &'a mut [f64]) -> &'a [f64] {
        let to = &mut to[..from.len()];
        s.vectorize(TransformTask { transform: self, from, to, slopes: &mut [] });
        to
    }

    #[inline(always)]
    fn transform(self) -> Option<Transform<f64>> {
        Some(self)
    }
}

/// A whole group.
#[inline(always)]
fn group<S: Simd>(s: S, x: &[f64], at: usize, load: impl Load) -> [S::F64; 4] {
    let mut to = [0.0; GROUP];
    let x = load.load(s, &x[at..at + GROUP], &mut to);
    [
        s.load_f64(vector_at(x, 0)),
        s.load_f64(vector_at(x, LANES)),
        s.load_f64(vector_at(x, 2 * LANES)),
        s.load_f64(vector_at(x, 3 * LANES)),
    ]
}

/// A group that holds the pivot, or ends behind the columns: -inf in those places.
#[inline(always)]
fn group_without<S: Simd>(s: S, x: &[f64], at: usize, load: impl Load, pivot: Entry<f64>) -> [S::F64; 4] {
    let mut to = [0.0; GROUP];
    let x = load.load(s, &x[at..x.len().min(at + GROUP)], &mut to);
    let mut group = [s.splat_f64(f64::NEG_INFINITY); 4];
    for i in 0..4 {
        let start = i * LANES;
        let lanes = s.load_partial_f64(&x[start.min(x.len())..], f64::NEG_INFINITY);
        group[i] = s.with_lane_f64(lanes, pivot.from(at + start).lane(), f64::NEG_INFINITY);
    }
    group
}

/// Up to 16 logits from `at` on, and `fill` behind them.
#[inline(always)]
fn vector<S: Simd>(s: S, x: &[f64], at: usize, load: impl Load, fill: f64) -> S::F64 {
    let mut to = [0.0; LANES];
    s.load_partial_f64(load.load(s, &x[at..x.len().min(at + LANES)], &mut to), fill)
}
