//! The first pass: a row's maximum and sum of exponentials, and for label smoothing its gaps below the maximum.
//!
//! ```text
//! for each block of 2048 columns, which stay in the first-level cache
//!     m = max(m, the block's maximum)        where m rises by D, the sum so far shrinks by exp(-D)
//!     e = exp(x - m)                         kept, where the second pass will want it
//!     s = s + e                              four vectors in f32, and then in f64
//! ```
//!
//! On AVX-512 the next block's maximum is searched along with this one's sum: the search waits for memory, and the
//! exponentials fill the time.
//!
//! So every exponential is relative to a maximum of what precedes it, its **reference**, one for each block. They rise a
//! few times at a row's start and then no more. The second pass scales a block by exp(reference - lse), computed in
//! `f64`: an exponential costs the same few roundings, whatever it is relative to.

use core::ops::Range;

use super::alongside::{Alongside, KeptRow, Nothing, Scaling, TwoRows};
use super::fetch::Fetch;
use super::gaps::{Gaps, gaps_of};
use super::groups::{
    GROUP, Groups, differences, exp_of_group, exp_of_pair, exp_of_rest, group, group_without, keep,
    keep_rest, rest_without, sum_of_four,
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

/// [`statistics`] of a row whose exponentials are kept, and on the way the second pass over the row before.
#[inline(always)]
pub(crate) fn statistics_alongside<S: Simd>(
    s: S,
    rows: TwoRows<'_>,
    following: usize,
    pivot: Entry,
    references: &mut [f32],
    row: KeptRow<'_>,
) -> Statistics {
    match rows {
        TwoRows::Apart { exps, out, logits, kept } => {
            // One length for each two, which the compiler can see.
            let place = Between::<false, _, _>(logits, &mut kept[..logits.len()]);
            let scaling = Scaling::new(s, Between::<true, _, _>(&exps[..out.len()], out), row);
            by_blocks(s, place, following, pivot, Gaps::None, references, scaling)
        }
        TwoRows::InPlace { row: exps, next } => {
            let scaling = Scaling::new(s, InPlace(exps), row);
            by_blocks(s, InPlace(next), following, pivot, Gaps::None, references, scaling)
        }
    }
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
    let mut search = Search::new(s, 0..len.min(BLOCK), pivot);
    for (index, start) in (0..len).step_by(BLOCK).enumerate() {
        let end = len.min(start + BLOCK);
        let max = search.finish(s, &place, pivot);
        search = Search::new(s, end..len.min(end + BLOCK), pivot);
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
        let fetch = if S::IS_ONE_REGISTER { Fetch::far(readable) } else { Fetch::near(readable) };
        let beside = Beside { alongside: &mut alongside, search: &mut search, other_row: None };
        sums = sum_of(s, &mut place, start..end, pivot, reference, sums, fetch, beside);
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
    Search::new(s, columns, pivot).finish(s, place, pivot)
}

/// The largest logit of some columns but the pivot's, found a pair of groups at a time.
pub(super) struct Search<V> {
    groups: Groups,
    /// How many pairs it has gone through.
    pairs: usize,
    max: [V; 4],
}

impl<V: Copy> Search<V> {
    #[inline(always)]
    pub(super) fn new<S: Simd<F32 = V>>(s: S, columns: Range<usize>, pivot: Entry) -> Self {
        Self { groups: Groups::new(columns, pivot), pairs: 0, max: [s.splat(f32::NEG_INFINITY); 4] }
    }

    /// A pair, if one is left.
    #[inline(always)]
    fn step<S: Simd<F32 = V>, P: Place>(&mut self, s: S, place: &P) {
        if self.pairs < self.groups.len / 2 {
            let x = group(s, place, self.groups.at(2 * self.pairs));
            let y = group(s, place, self.groups.at(2 * self.pairs + 1));
            self.take(s, x);
            self.take(s, y);
            self.pairs += 1;
        }
    }

    /// What is left.
    #[inline(always)]
    pub(super) fn finish<S: Simd<F32 = V>, P: Place>(mut self, s: S, place: &P, pivot: Entry) -> f32 {
        let Groups { len, pivot_group, rest, end, .. } = self.groups;
        while self.pairs < len / 2 {
            self.step(s, place);
        }
        if len % 2 == 1 {
            self.take(s, group(s, place, self.groups.at(len - 1)));
        }
        if self.groups.has_pivot() {
            self.take(s, group_without(s, place, pivot_group, pivot));
        }
        if rest < end {
            self.take(s, rest_without(s, &place.from()[rest..end], pivot.from(rest)));
        }
        let [a, b, c, d] = self.max;
        s.max_lane(s.max(s.max(a, b), s.max(c, d)))
    }

    #[inline(always)]
    fn take<S: Simd<F32 = V>>(&mut self, s: S, x: [V; 4]) {
        for i in 0..4 {
            self.max[i] = s.max(self.max[i], x[i]);
        }
    }
}

/// What goes along with a sum, a step each time.
pub(super) struct Beside<'a, A, T, V> {
    /// Another row's second pass.
    pub(super) alongside: &'a mut A,
    /// For the maximum of columns to come.
    pub(super) search: &'a mut Search<V>,
    /// Where they are, if not in the same row.
    pub(super) other_row: Option<&'a [T]>,
}

/// The exponentials of some columns, added to the sums.
#[inline(always)]
#[expect(clippy::too_many_arguments)]
pub(super) fn sum_of<S: Simd, P: Place, A: Alongside<S>>(
    s: S,
    place: &mut P,
    columns: Range<usize>,
    pivot: Entry,
    reference: S::F32,
    mut sums: S::F64,
    fetch: Fetch,
    Beside { alongside, search, other_row }: Beside<'_, A, P::From, S::F32>,
) -> S::F64 {
    alongside.begin(s, columns.clone());
    let groups = Groups::new(columns, pivot);
    for pair in 0..groups.len / 2 {
        let (first, second) = (groups.at(2 * pair), groups.at(2 * pair + 1));
        fetch.pair(s, place, first);
        // Narrower instruction sets have no registers to spare.
        if S::IS_ONE_REGISTER {
            match other_row {
                Some(x) => search.step(s, &Read(x)),
                None => search.step(s, place),
            }
        }
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
        fetch.pair(s, place, at);
        let e = exp_of_group(s, group(s, place, at), reference);
        sums = s.accumulate(sums, sum_of_four(s, e));
        keep(s, place, at, e);
    }
    if groups.has_pivot() {
        let at = groups.pivot_group;
        let e = exp_of_group(s, group_without(s, place, at, pivot), reference);
        sums = s.accumulate(sums, sum_of_four(s, e));
        keep(s, place, at, e);
    }
    if groups.rest < groups.end {
        fetch.pair(s, place, groups.rest);
        let x = rest_without(s, &place.from()[groups.rest..groups.end], pivot.from(groups.rest));
        let e = exp_of_rest(s, x, groups.end - groups.rest, reference);
        sums = s.accumulate(sums, sum_of_four(s, e));
        keep_rest(s, place, groups.rest..groups.end, e);
    }
    alongside.end(s);
    sums
}

/// The sum of exp(x - max) (max - x) of all columns but the pivot.
#[inline(always)]
pub(crate) fn spread<S: Simd, T: Number>(s: S, x: &[T], max: f32, pivot: Entry) -> f64 {
    s.sum_lanes(add_spread(s, x, max, pivot, s.zero_sums()))
}

/// The same on top of sums. Where columns are cut at whole groups, it is the same sum.
#[inline(always)]
pub(super) fn add_spread<S: Simd, T: Number>(
    s: S,
    x: &[T],
    max: f32,
    pivot: Entry,
    mut sums: S::F64,
) -> S::F64 {
    let reference = s.splat(if max == f32::NEG_INFINITY { 0.0 } else { max });
    let pivot_group = pivot.index() / GROUP * GROUP;
    for start in (0..x.len()).step_by(GROUP) {
        let is_whole = x.len() - start >= GROUP && start != pivot_group;
        let group = if is_whole {
            group(s, &Read(x), start)
        } else {
            rest_without(s, &x[start..x.len().min(start + GROUP)], pivot.from(start))
        };
        let d = differences(s, group, reference);
        let mut terms = exp::exp_of_each(s, d);
        for i in 0..4 {
            // Finite, so that its product with 0 is 0.
            let gap = s.sub(s.splat(0.0), s.max(s.splat(exp::LOWEST), d[i]));
            terms[i] = s.mul_at_least(terms[i], gap, s.splat(exp::LEAST));
        }
        sums = s.accumulate(sums, sum_of_four(s, terms));
    }
    sums
}
