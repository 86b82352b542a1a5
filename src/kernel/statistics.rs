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
use super::groups::{
    GROUP, Groups, differences, exp_of_group, exp_of_pair, fetch, group, group_without, keep, keep_rest,
    rest_without, sum_of_four,
};
use super::number::Number;
use super::place::{Between, Columns, InPlace, Place, Read};
use super::{Entry, exp, scalar};
use crate::simd::Simd;

/// Columns that have one reference. Maximum and sum read them one after the other, from the first-level cache.
pub(crate) const BLOCK: usize = 2048;

/// What a range of a row's columns amounts to, the pivot left out of everything.
///
/// Ranges of one row combine with [`Statistics::merge`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statistics<L = f32> {
    /// The largest logit; -inf where there is none.
    pub(crate) max: L,
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
