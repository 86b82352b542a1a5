//! Four vectors at a time: how the first pass walks a row around its pivot, and what it does with each group.

use core::ops::Range;

use super::number::Number;
use super::place::Place;
use super::real::Real;
use super::{Entry, exp};
use crate::simd::{LANES, Simd};

/// Four vectors, whose exponentials are added pairwise in `f32` before their sum goes to the `f64` lanes: two roundings
/// in all, whatever the row's length.
pub(super) const GROUP: usize = 4 * LANES;

/// In which order groups are taken: whole ones without the pivot first, then the pivot's, then the rest behind the last
/// whole one. So the loop over the many is the same for every row of the same length, wherever its pivot is: a branch
/// there would be mispredicted, and to choose between two places for each vector costs more than to step over one.
pub(super) struct Groups {
    pub(super) start: usize,
    /// Whole groups without the pivot.
    pub(super) len: usize,
    /// Where the pivot's group is; past all columns, if it is not a whole one of these.
    pub(super) pivot_group: usize,
    /// Where the last columns are, which make no group.
    pub(super) rest: usize,
    pub(super) end: usize,
}

impl Groups {
    #[inline(always)]
    pub(super) fn new<L: Real>(columns: Range<usize>, pivot: Entry<L>) -> Self {
        let Range { start, end } = columns;
        let whole = (end - start) / GROUP;
        let group = pivot.from(start).index() / GROUP;
        let is_here = group < whole;
        let pivot_group = if is_here { start + group * GROUP } else { usize::MAX };
        Self { start, len: whole - usize::from(is_here), pivot_group, rest: start + whole * GROUP, end }
    }

    #[inline(always)]
    pub(super) fn at(&self, index: usize) -> usize {
        let at = self.start + index * GROUP;
        at + if at >= self.pivot_group { GROUP } else { 0 }
    }

    #[inline(always)]
    pub(super) fn has_pivot(&self) -> bool {
        self.pivot_group < self.end
    }
}

/// Columns that make no group, and may hold the pivot: -inf in its place, and behind the end.
#[inline(always)]
pub(super) fn rest_without<S: Simd, T: Number>(s: S, x: &[T], pivot: Entry) -> [S::F32; 4] {
    let mut group = [s.splat(f32::NEG_INFINITY); 4];
    for i in 0..4 {
        let at = i * LANES;
        let x = T::load_partial(s, &x[at.min(x.len())..], f32::NEG_INFINITY);
        group[i] = s.with_lane(x, pivot.from(at).lane(), f32::NEG_INFINITY);
    }
    group
}

#[inline(always)]
pub(super) fn group<S: Simd, P: Place>(s: S, place: &P, at: usize) -> [S::F32; 4] {
    let [a, b, c, d] = &place.from()[at..at + GROUP].as_chunks().0.as_chunks().0[0];
    [P::From::load(s, a), P::From::load(s, b), P::From::load(s, c), P::From::load(s, d)]
}

/// The group that holds the pivot, with -inf in its place.
#[inline(always)]
pub(super) fn group_without<S: Simd, P: Place>(s: S, place: &P, at: usize, pivot: Entry) -> [S::F32; 4] {
    let mut group = group(s, place, at);
    for i in 0..4 {
        group[i] = s.with_lane(group[i], pivot.from(at + i * LANES).lane(), f32::NEG_INFINITY);
    }
    group
}

#[inline(always)]
pub(super) fn keep<S: Simd, P: Place>(s: S, place: &mut P, at: usize, e: [S::F32; 4]) {
    if P::WRITES {
        let (group, _) = place.to()[at..at + GROUP].as_chunks_mut::<LANES>();
        for i in 0..4 {
            P::To::store(s, e[i], &mut group[i]);
        }
    }
}

/// [`keep`] of up to a group.
#[inline(always)]
pub(super) fn keep_rest<S: Simd, P: Place>(s: S, place: &mut P, columns: Range<usize>, e: [S::F32; 4]) {
    if P::WRITES {
        let to = &mut place.to()[columns];
        for i in 0..4 {
            let start = (i * LANES).min(to.len());
            P::To::store_partial(s, e[i], &mut to[start..]);
        }
    }
}

/// exp(x - reference) of a group.
#[inline(always)]
pub(super) fn exp_of_group<S: Simd>(s: S, x: [S::F32; 4], reference: S::F32) -> [S::F32; 4] {
    exp::exp_of_each(s, differences(s, x, reference))
}

/// [`exp_of_group`] where only the first `len` columns are there: of the others, which are -inf, it is 0, and vectors that
/// have no column are not computed.
#[inline(always)]
pub(super) fn exp_of_rest<S: Simd>(s: S, x: [S::F32; 4], len: usize, reference: S::F32) -> [S::F32; 4] {
    if len <= 2 * LANES {
        let [a, b] = exp::exp_of_each(s, [s.sub(x[0], reference), s.sub(x[1], reference)]);
        let zero = s.splat(0.0);
        [a, b, zero, zero]
    } else {
        exp_of_group(s, x, reference)
    }
}

/// [`exp_of_group`] of two groups: at once where their vectors fit the registers.
#[inline(always)]
pub(super) fn exp_of_pair<S: Simd>(
    s: S,
    x: [S::F32; 4],
    y: [S::F32; 4],
    reference: S::F32,
) -> [[S::F32; 4]; 2] {
    if S::IS_ONE_REGISTER {
        let (d, f) = (differences(s, x, reference), differences(s, y, reference));
        let e = exp::exp_of_each(s, [d[0], d[1], d[2], d[3], f[0], f[1], f[2], f[3]]);
        [[e[0], e[1], e[2], e[3]], [e[4], e[5], e[6], e[7]]]
    } else {
        [exp_of_group(s, x, reference), exp_of_group(s, y, reference)]
    }
}

#[inline(always)]
pub(super) fn differences<S: Simd>(s: S, mut x: [S::F32; 4], reference: S::F32) -> [S::F32; 4] {
    for i in 0..4 {
        x[i] = s.sub(x[i], reference);
    }
    x
}

#[inline(always)]
pub(super) fn sum_of_four<S: Simd>(s: S, e: [S::F32; 4]) -> S::F32 {
    s.add(s.add(e[0], e[1]), s.add(e[2], e[3]))
}
