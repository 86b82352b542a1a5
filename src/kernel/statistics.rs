//! The first pass: a row's maximum and sum of exponentials, and for label smoothing its gaps below the maximum.
//!
//! ```text
//! for each block of 2048 columns, which stay in the first-level cache
//!     m = max(m, the block's maximum)        where m rises by D, the sum so far shrinks by exp(-D)
//!     e = exp(x - m)                         kept, where the second pass will want it
//!     s = s + e                              four vectors in f32, and then in f64
//! ```
//!
//! So every exponential is relative to a maximum of what precedes it, its **reference**, one for each block. They rise a
//! few times at a row's start and then no more. The second pass scales a block by exp(reference - lse), computed in
//! `f64`: an exponential costs the same few roundings, whatever it is relative to.

use core::ops::Range;

use super::alongside::{Alongside, KeptRow, Nothing, Scaling};
use super::gaps::{Gaps, gaps_of};
use super::number::Number;
use super::place::{Between, Columns, InPlace, Place, Read};
use super::{Entry, exp, scalar};
use crate::simd::{LANES, Simd};

/// Columns that have one reference. Maximum and sum read them one after the other, from the first-level cache.
pub(crate) const BLOCK: usize = 2048;

/// How far ahead of the sum the logits are fetched: it computes while memory would idle.
const FETCH_AHEAD: usize = 2 * BLOCK;

/// Four vectors, whose exponentials are added pairwise in `f32` before their sum goes to the `f64` lanes: two roundings
/// in all, whatever the row's length.
const GROUP: usize = 4 * LANES;

/// What a range of a row's columns amounts to, the pivot left out of everything.
///
/// Ranges of one row combine with [`Statistics::merge`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statistics {
    /// The largest logit; -inf where there is none.
    pub(crate) max: f32,
    /// Sum of exp(x - max).
    pub(crate) sum: f64,
    /// Sum of w (max - x), where gaps were asked for.
    pub(crate) gap: f64,
    /// Sum of w, where gaps were asked for.
    pub(crate) weight: f64,
    /// How many logits are above -inf, where only their gaps were asked for.
    pub(crate) live: f64,
    /// Whether a column before the pivot equals the pivot and no column exceeds it; unspecified where one does.
    pub(crate) has_earlier_equal: bool,
}

impl Statistics {
    pub(crate) const NOTHING: Self =
        Self { max: f32::NEG_INFINITY, sum: 0.0, gap: 0.0, weight: 0.0, live: 0.0, has_earlier_equal: false };

    /// The statistics of both ranges together. NaN in either gives NaN.
    #[inline(always)]
    pub(crate) fn merge(self, other: Self) -> Self {
        let (low, high) = if self.max > other.max { (other, self) } else { (self, other) };
        let drop = f64::from(high.max) - f64::from(low.max);
        let low_sum = if low.sum == 0.0 { 0.0 } else { low.sum * scalar::exp(-drop) };
        let low_raise = if low.weight == 0.0 { 0.0 } else { low.weight * drop };
        let low_gap = if low.max == high.max { low.gap } else { low.gap + low_raise };
        Self {
            max: high.max,
            sum: low_sum + high.sum,
            gap: low_gap + high.gap,
            weight: low.weight + high.weight,
            live: low.live + high.live,
            has_earlier_equal: low.has_earlier_equal | high.has_earlier_equal,
        }
    }
}

/// The statistics of all columns but the pivot. The exponentials that are written are relative to `references`, one for
/// each [`BLOCK`], as far as there is room for them; the pivot's own is unspecified. So many numbers as are `following`
/// the columns belong to rows that come next.
#[inline(always)]
pub(crate) fn statistics<S: Simd, T: Number>(
    s: S,
    columns: Columns<'_, T, f32>,
    following: usize,
    pivot: Entry,
    gaps: Gaps<'_>,
    references: &mut [f32],
) -> Statistics {
    if !T::KEEPS {
        return by_blocks(s, Read(columns.from()), following, pivot, gaps, references, Nothing);
    }
    match columns {
        Columns::Read(x) => by_blocks(s, Read(x), following, pivot, gaps, references, Nothing),
        // The second pass will want the exponentials: they are never stored past the caches.
        Columns::Between(x, exps) | Columns::Streaming(x, exps) | Columns::Adding(x, exps) => {
            // One length for both, which the compiler can see.
            let exps = &mut exps[..x.len()];
            by_blocks(s, Between::<false, _, _>(x, exps), following, pivot, gaps, references, Nothing)
        }
        Columns::InPlace(x) => by_blocks(s, InPlace(x), following, pivot, gaps, references, Nothing),
    }
}

/// [`statistics`] of logits whose exponentials are kept, and on the way the second pass over the same columns of
/// another row.
#[inline(always)]
pub(crate) fn statistics_alongside<S: Simd>(
    s: S,
    (x, exps): (&[f32], &mut [f32]),
    following: usize,
    pivot: Entry,
    references: &mut [f32],
    row: KeptRow<'_>,
) -> Statistics {
    let exps = &mut exps[..x.len()];
    let place = Between::<false, _, _>(x, exps);
    by_blocks(s, place, following, pivot, Gaps::None, references, Scaling::new(s, row))
}

/// The largest of a block's logits but the pivot's.
#[inline(always)]
pub(crate) fn max<S: Simd, T: Number>(s: S, x: &[T], pivot: Entry) -> f32 {
    max_of(s, &Read(x), 0..x.len(), pivot)
}

#[inline(always)]
fn by_blocks<S: Simd, P: Place, A: Alongside<S>>(
    s: S,
    mut place: P,
    following: usize,
    pivot: Entry,
    gaps: Gaps<'_>,
    references: &mut [f32],
    mut alongside: A,
) -> Statistics {
    let mut whole = Statistics::NOTHING;
    let mut sums = s.zero_sums();
    let len = place.from().len();
    for (index, start) in (0..len).step_by(BLOCK).enumerate() {
        let end = len.min(start + BLOCK);
        let max = max_of(s, &place, start..end, pivot);
        if max > whole.max {
            if start > 0 {
                let rise = f64::from(max) - f64::from(whole.max);
                whole.sum = (whole.sum + s.sum_lanes(sums)) * scalar::exp(-rise);
                whole.gap = if whole.weight == 0.0 { whole.gap } else { whole.gap + whole.weight * rise };
                sums = s.zero_sums();
            }
            whole.max = max;
        }
        if max == pivot.value {
            let before = &place.from()[start..end][..pivot.from(start).columns_before(end - start)];
            whole.has_earlier_equal |= P::From::contains(before, max);
        }
        if let Some(reference) = references.get_mut(index) {
            *reference = whole.max;
        }
        // Without a finite maximum x - max would be NaN, and the gaps are 0 or infinite.
        let finite = if whole.max == f32::NEG_INFINITY { 0.0 } else { whole.max };
        let sums_of_gaps = gaps_of(s, &place, start..end, pivot, gaps, finite);
        let reference = s.splat(finite);
        whole.gap += sums_of_gaps.gap;
        whole.weight += sums_of_gaps.weight;
        whole.live += sums_of_gaps.live;
        let readable = len + following;
        sums = sum_of(s, &mut place, start..end, readable, pivot, reference, sums, &mut alongside);
    }
    whole.sum += s.sum_lanes(sums);
    if whole.max == f32::NEG_INFINITY && !whole.sum.is_nan() {
        whole.sum = 0.0;
    }
    whole
}

/// The largest logit of some columns.
#[inline(always)]
pub(super) fn max_of<S: Simd, P: Place>(s: S, place: &P, columns: Range<usize>, pivot: Entry) -> f32 {
    let groups = Groups::new(columns, pivot);
    let mut max = [s.splat(f32::NEG_INFINITY); 8];
    for pair in 0..groups.len / 2 {
        let x = group(s, place, groups.at(2 * pair));
        let y = group(s, place, groups.at(2 * pair + 1));
        for i in 0..4 {
            max[i] = s.max(max[i], x[i]);
            max[i + 4] = s.max(max[i + 4], y[i]);
        }
    }
    if groups.len % 2 == 1 {
        let x = group(s, place, groups.at(groups.len - 1));
        for i in 0..4 {
            max[i] = s.max(max[i], x[i]);
        }
    }
    if groups.has_pivot() {
        let x = group_without(s, place, groups.pivot_group, pivot);
        for i in 0..4 {
            max[i] = s.max(max[i], x[i]);
        }
    }
    if groups.rest < groups.end {
        let x = rest_without(s, &place.from()[groups.rest..groups.end], pivot.from(groups.rest));
        for i in 0..4 {
            max[i] = s.max(max[i], x[i]);
        }
    }
    for half in [4, 2, 1] {
        for i in 0..half {
            max[i] = s.max(max[i], max[i + half]);
        }
    }
    s.max_lane(max[0])
}

/// The exponentials of some columns, added to the sums. So many numbers are `readable` from the first column on, those
/// of later rows included.
#[inline(always)]
#[expect(clippy::too_many_arguments)]
pub(super) fn sum_of<S: Simd, P: Place, A: Alongside<S>>(
    s: S,
    place: &mut P,
    columns: Range<usize>,
    readable: usize,
    pivot: Entry,
    reference: S::F32,
    mut sums: S::F64,
    alongside: &mut A,
) -> S::F64 {
    alongside.begin(s, columns.clone());
    let groups = Groups::new(columns, pivot);
    for pair in 0..groups.len / 2 {
        let (first, second) = (groups.at(2 * pair), groups.at(2 * pair + 1));
        fetch(s, place, first, readable);
        fetch(s, place, second, readable);
        let (x, y) = (group(s, place, first), group(s, place, second));
        let [e, f] = exp_of_pair(s, x, y, reference);
        sums = s.accumulate(sums, sum_of_four(s, e));
        sums = s.accumulate(sums, sum_of_four(s, f));
        keep(s, place, first, e);
        keep(s, place, second, f);
        alongside.step(s);
    }
    if groups.len % 2 == 1 {
        let at = groups.at(groups.len - 1);
        fetch(s, place, at, readable);
        let e = exp_of_group(s, group(s, place, at), reference);
        sums = s.accumulate(sums, sum_of_four(s, e));
        keep(s, place, at, e);
    }
    if groups.has_pivot() {
        let at = groups.pivot_group;
        fetch(s, place, at, readable);
        let e = exp_of_group(s, group_without(s, place, at, pivot), reference);
        sums = s.accumulate(sums, sum_of_four(s, e));
        keep(s, place, at, e);
    }
    if groups.rest < groups.end {
        fetch(s, place, groups.rest, readable);
        let x = rest_without(s, &place.from()[groups.rest..groups.end], pivot.from(groups.rest));
        let e = exp_of_group(s, x, reference);
        sums = s.accumulate(sums, sum_of_four(s, e));
        keep_rest(s, place, groups.rest..groups.end, e);
    }
    alongside.end(s);
    sums
}

/// In which order groups are taken: whole ones without the pivot first, then the pivot's, then the rest behind the last
/// whole one. So the loop over the many is the same for every row of the same length, wherever its pivot is: a branch
/// there would be mispredicted, and to choose between two places for each vector costs more than to step over one.
pub(super) struct Groups {
    start: usize,
    /// Whole groups without the pivot.
    pub(super) len: usize,
    /// Where the pivot's group is; past all columns, if it is not a whole one of these.
    pub(super) pivot_group: usize,
    /// Where the last columns are, which make no group.
    pub(super) rest: usize,
    end: usize,
}

impl Groups {
    #[inline(always)]
    pub(super) fn new(columns: Range<usize>, pivot: Entry) -> Self {
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

/// Starts to bring a group from memory, ahead of the one at `at`. To fetch what is not readable costs more than it gains:
/// there may be no memory.
#[inline(always)]
fn fetch<S: Simd, P: Place>(s: S, place: &P, at: usize, readable: usize) {
    if at + FETCH_AHEAD < readable {
        for line in 0..GROUP / P::From::PER_LINE {
            s.prefetch(place.from(), at + FETCH_AHEAD + line * P::From::PER_LINE);
        }
    }
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
fn keep<S: Simd, P: Place>(s: S, place: &mut P, at: usize, e: [S::F32; 4]) {
    if P::WRITES {
        let (group, _) = place.to()[at..at + GROUP].as_chunks_mut::<LANES>();
        for i in 0..4 {
            P::To::store(s, e[i], &mut group[i]);
        }
    }
}

/// [`keep`] of up to a group.
#[inline(always)]
fn keep_rest<S: Simd, P: Place>(s: S, place: &mut P, columns: Range<usize>, e: [S::F32; 4]) {
    if P::WRITES {
        let to = &mut place.to()[columns];
        for i in 0..4 {
            let start = (i * LANES).min(to.len());
            P::To::store_partial(s, e[i], &mut to[start..]);
        }
    }
}

/// exp(x - reference) of a group. Two registers hold a vector of the narrower instruction sets, so that fewer vectors at
/// a time fill the pipelines and the register file.
#[inline(always)]
pub(super) fn exp_of_group<S: Simd>(s: S, x: [S::F32; 4], reference: S::F32) -> [S::F32; 4] {
    exp_of_four(s, differences(s, x, reference))
}

/// exp(d) of a group.
#[inline(always)]
pub(super) fn exp_of_four<S: Simd>(s: S, d: [S::F32; 4]) -> [S::F32; 4] {
    if S::IS_ONE_REGISTER {
        exp::exp_of_each(s, d)
    } else {
        let [a, b] = exp::exp_of_each(s, [d[0], d[1]]);
        let [c, d] = exp::exp_of_each(s, [d[2], d[3]]);
        [a, b, c, d]
    }
}

/// [`exp_of_group`] of two groups.
#[inline(always)]
fn exp_of_pair<S: Simd>(s: S, x: [S::F32; 4], y: [S::F32; 4], reference: S::F32) -> [[S::F32; 4]; 2] {
    if S::IS_ONE_REGISTER {
        let (d, f) = (differences(s, x, reference), differences(s, y, reference));
        let e = exp::exp_of_each(s, [d[0], d[1], d[2], d[3], f[0], f[1], f[2], f[3]]);
        [[e[0], e[1], e[2], e[3]], [e[4], e[5], e[6], e[7]]]
    } else {
        [exp_of_group(s, x, reference), exp_of_group(s, y, reference)]
    }
}

#[inline(always)]
fn differences<S: Simd>(s: S, mut x: [S::F32; 4], reference: S::F32) -> [S::F32; 4] {
    for i in 0..4 {
        x[i] = s.sub(x[i], reference);
    }
    x
}

#[inline(always)]
pub(super) fn sum_of_four<S: Simd>(s: S, e: [S::F32; 4]) -> S::F32 {
    s.add(s.add(e[0], e[1]), s.add(e[2], e[3]))
}

/// The sum of exp(x - max) (max - x) of all columns but the pivot.
#[inline(always)]
pub(crate) fn spread<S: Simd, T: Number>(s: S, x: &[T], max: f32, pivot: Entry) -> f64 {
    let reference = s.splat(if max == f32::NEG_INFINITY { 0.0 } else { max });
    let mut sums = s.zero_sums();
    for start in (0..x.len()).step_by(GROUP) {
        let group = rest_without(s, &x[start..x.len().min(start + GROUP)], pivot.from(start));
        let d = differences(s, group, reference);
        let mut terms = exp::exp_of_each(s, d);
        for i in 0..4 {
            // Finite, so that its product with 0 is 0.
            let gap = s.sub(s.splat(0.0), s.max(s.splat(exp::LOWEST), d[i]));
            terms[i] = s.mul_at_least(terms[i], gap, s.splat(exp::LEAST));
        }
        sums = s.accumulate(sums, sum_of_four(s, terms));
    }
    s.sum_lanes(sums)
}
