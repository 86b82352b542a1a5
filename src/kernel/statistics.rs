//! The first pass: a row's maximum and sum of exponentials, and for label smoothing its gaps below the maximum.

use core::hint::select_unpredictable;

use super::scalar;
use super::{exp, vector_at};
use crate::simd::{LANES, Simd};

/// Columns that a pass takes at a time: they are still in the first-level cache when the sum follows the maximum.
pub(crate) const BLOCK: usize = 2048;

/// Four vectors, whose exponentials are added pairwise in `f32` before their sum goes to the `f64` lanes: two roundings
/// in all, whatever the row's length.
const GROUP: usize = 4 * LANES;
pub(super) type Group = [[f32; LANES]; 4];

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
}

impl Statistics {
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
        }
    }
}

/// Which gaps below the maximum a loss sums up.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Gaps<'a> {
    None,
    /// Every class weighs 1.
    Equal,
    /// Class c weighs `weights[c]`. At least [`GROUP`] zeros follow the last.
    Weighted(&'a [f32]),
}

impl Gaps<'_> {
    /// What the gap of a class weighs.
    #[inline(always)]
    pub(super) fn weight(&self, class: usize) -> f32 {
        match self {
            Gaps::None => 0.0,
            Gaps::Equal => 1.0,
            Gaps::Weighted(weights) => weights[class],
        }
    }
}

/// [`Gaps`], one type each, so that a pass without them has no trace of them.
trait Weigh<S: Simd>: Copy {
    const PRESENT: bool;
    /// The weights of 16 columns from `column` on.
    fn weights(self, s: S, column: usize) -> S::F32;
}

#[derive(Clone, Copy)]
struct NoGaps;

#[derive(Clone, Copy)]
struct EqualGaps;

#[derive(Clone, Copy)]
struct WeightedGaps<'a>(&'a [f32]);

impl<S: Simd> Weigh<S> for NoGaps {
    const PRESENT: bool = false;

    #[inline(always)]
    fn weights(self, s: S, _: usize) -> S::F32 {
        s.splat(0.0)
    }
}

impl<S: Simd> Weigh<S> for EqualGaps {
    const PRESENT: bool = true;

    #[inline(always)]
    fn weights(self, s: S, _: usize) -> S::F32 {
        s.splat(1.0)
    }
}

impl<S: Simd> Weigh<S> for WeightedGaps<'_> {
    const PRESENT: bool = true;

    #[inline(always)]
    fn weights(self, s: S, column: usize) -> S::F32 {
        s.load(vector_at(self.0, column))
    }
}

/// The statistics of the columns `x`, all but the pivot. With `exps`, of at least `x`'s length, x must fit a
/// [`BLOCK`], and exp(x - max) is left there; the pivot's is unspecified.
#[inline(always)]
pub(crate) fn statistics<S: Simd>(
    s: S,
    x: &[f32],
    pivot: Option<usize>,
    gaps: Gaps<'_>,
    exps: Option<&mut [f32; BLOCK]>,
) -> Statistics {
    let pivot = pivot.unwrap_or(usize::MAX);
    match (gaps, exps) {
        (Gaps::None, None) => by_blocks(s, x, pivot, NoGaps),
        (Gaps::None, Some(exps)) => block::<_, _, true>(s, x, 0, pivot, NoGaps, exps),
        (Gaps::Equal, None) => by_blocks(s, x, pivot, EqualGaps),
        (Gaps::Equal, Some(exps)) => block::<_, _, true>(s, x, 0, pivot, EqualGaps, exps),
        (Gaps::Weighted(weights), None) => by_blocks(s, x, pivot, WeightedGaps(weights)),
        (Gaps::Weighted(weights), Some(exps)) => {
            block::<_, _, true>(s, x, 0, pivot, WeightedGaps(weights), exps)
        }
    }
}

#[inline(always)]
fn by_blocks<S: Simd, W: Weigh<S>>(s: S, x: &[f32], pivot: usize, weigh: W) -> Statistics {
    let (first, rest) = x.split_at(x.len().min(BLOCK));
    let mut statistics = block::<_, _, false>(s, first, 0, pivot, weigh, &mut []);
    for (index, columns) in rest.chunks(BLOCK).enumerate() {
        let start = (index + 1) * BLOCK;
        let pivot = pivot.wrapping_sub(start);
        statistics = statistics.merge(block::<_, _, false>(s, columns, start, pivot, weigh, &mut []));
    }
    statistics
}

/// One block: its maximum, then its sum of exponentials. `start` is its first column's index in the weights, `pivot`
/// an index into `x`, past the end for none.
#[inline(always)]
fn block<S: Simd, W: Weigh<S>, const KEEP: bool>(
    s: S,
    x: &[f32],
    start: usize,
    pivot: usize,
    weigh: W,
    exps: &mut [f32],
) -> Statistics {
    let (vectors, rest_lanes) = x.as_chunks::<LANES>();
    let (groups, rest_vectors) = vectors.as_chunks::<4>();
    let rest_start = groups.len() * GROUP;
    let lanes_start = vectors.len() * LANES;
    let masked = f32::NEG_INFINITY;

    // The group with the pivot is read from a copy without it. Choosing the pointer costs less than a branch that is
    // taken at another place in each row.
    let pivot_group = pivot / GROUP;
    let mut without_pivot = [[masked; LANES]; 4];
    if let Some(group) = groups.get(pivot_group) {
        for (i, (from, to)) in group.iter().zip(&mut without_pivot).enumerate() {
            s.store(s.with_lane(s.load(from), (pivot % GROUP).wrapping_sub(i * LANES), masked), to);
        }
    }

    let mut max = [s.splat(masked); 8];
    let (pairs, odd) = groups.as_chunks::<2>();
    for (index, pair) in pairs.iter().enumerate() {
        let first = select_unpredictable(2 * index == pivot_group, &without_pivot, &pair[0]);
        let second = select_unpredictable(2 * index + 1 == pivot_group, &without_pivot, &pair[1]);
        for i in 0..4 {
            max[i] = s.max(max[i], s.load(&first[i]));
            max[i + 4] = s.max(max[i + 4], s.load(&second[i]));
        }
    }
    if let [group] = odd {
        let group = select_unpredictable(2 * pairs.len() == pivot_group, &without_pivot, group);
        for i in 0..4 {
            max[i] = s.max(max[i], s.load(&group[i]));
        }
    }
    for (index, x) in rest_vectors.iter().enumerate() {
        let x = s.with_lane(s.load(x), pivot.wrapping_sub(rest_start + index * LANES), masked);
        max[0] = s.max(max[0], x);
    }
    let last = s.with_lane(s.load_partial(rest_lanes, masked), pivot.wrapping_sub(lanes_start), masked);
    for half in [4, 2, 1] {
        for i in 0..half {
            max[i] = s.max(max[i], max[i + half]);
        }
    }
    let max = s.max_lane(s.max(max[0], last));

    let mut sums = s.zero_sums();
    let mut gap_sums = s.zero_sums();
    let mut weight_sums = s.zero_sums();
    // Without a finite maximum x - max would be NaN; the sum is then 0, and the gaps are 0 or infinite.
    let all_masked = max == masked;
    let reference = s.splat(if all_masked { 0.0 } else { max });

    for (index, pair) in pairs.iter().enumerate() {
        let index = 2 * index;
        let first = select_unpredictable(index == pivot_group, &without_pivot, &pair[0]);
        let second = select_unpredictable(index + 1 == pivot_group, &without_pivot, &pair[1]);
        let [e, f] = exp_of_pair(s, first, second, reference);
        sums = s.accumulate(sums, sum_of_four(s, e));
        sums = s.accumulate(sums, sum_of_four(s, f));
        if KEEP {
            keep(s, e, &mut exps[index * GROUP..]);
            keep(s, f, &mut exps[(index + 1) * GROUP..]);
        }
    }
    if let [group] = odd {
        let index = 2 * pairs.len();
        let group = select_unpredictable(index == pivot_group, &without_pivot, group);
        let e = exp_of_group(s, group, reference);
        sums = s.accumulate(sums, sum_of_four(s, e));
        if KEEP {
            keep(s, e, &mut exps[index * GROUP..]);
        }
    }
    if W::PRESENT {
        for (index, group) in groups.iter().enumerate() {
            for (i, x) in group.iter().enumerate() {
                let at = index * GROUP + i * LANES;
                let lane = pivot.wrapping_sub(at);
                let weights = weigh.weights(s, start + at);
                let gap = s.sub(reference, s.load(x));
                gap_sums = s.accumulate(gap_sums, weigh_gap(s, gap, weights, lane));
                weight_sums = s.accumulate(weight_sums, s.with_lane(weights, lane, 0.0));
            }
        }
    }
    for (index, x) in rest_vectors.iter().enumerate() {
        let at = rest_start + index * LANES;
        let lane = pivot.wrapping_sub(at);
        let x = s.with_lane(s.load(x), lane, masked);
        let e = exp::exp(s, s.sub(x, reference));
        sums = s.accumulate(sums, e);
        if KEEP {
            s.store(e, &mut exps[at..][..LANES].as_chunks_mut().0[0]);
        }
        if W::PRESENT {
            let weights = weigh.weights(s, start + at);
            gap_sums = s.accumulate(gap_sums, weigh_gap(s, s.sub(reference, x), weights, lane));
            weight_sums = s.accumulate(weight_sums, s.with_lane(weights, lane, 0.0));
        }
    }
    if !rest_lanes.is_empty() {
        let lane = pivot.wrapping_sub(lanes_start);
        let e = exp::exp(s, s.sub(last, reference));
        sums = s.accumulate(sums, e);
        if KEEP {
            s.store_partial(e, &mut exps[lanes_start..][..rest_lanes.len()]);
        }
        if W::PRESENT {
            // Lanes past the end weigh nothing.
            let mut ones = [0.0; LANES];
            s.store(weigh.weights(s, start + lanes_start), &mut ones);
            let weights = s.load_partial(&ones[..rest_lanes.len()], 0.0);
            gap_sums = s.accumulate(gap_sums, weigh_gap(s, s.sub(reference, last), weights, lane));
            weight_sums = s.accumulate(weight_sums, s.with_lane(weights, lane, 0.0));
        }
    }

    let sum = s.sum_lanes(sums);
    Statistics {
        max,
        sum: if all_masked && !sum.is_nan() { 0.0 } else { sum },
        gap: if W::PRESENT { s.sum_lanes(gap_sums) } else { 0.0 },
        weight: if W::PRESENT { s.sum_lanes(weight_sums) } else { 0.0 },
    }
}

/// exp(x - max) of a group. Two registers hold a vector of the narrower instruction sets, so that fewer vectors at a
/// time fill the pipelines and the register file.
#[inline(always)]
pub(super) fn exp_of_group<S: Simd>(s: S, x: &Group, max: S::F32) -> [S::F32; 4] {
    let d = differences(s, x, max);
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
fn exp_of_pair<S: Simd>(s: S, x: &Group, y: &Group, max: S::F32) -> [[S::F32; 4]; 2] {
    if S::IS_ONE_REGISTER {
        let (d, f) = (differences(s, x, max), differences(s, y, max));
        let e = exp::exp_of_each(s, [d[0], d[1], d[2], d[3], f[0], f[1], f[2], f[3]]);
        [[e[0], e[1], e[2], e[3]], [e[4], e[5], e[6], e[7]]]
    } else {
        [exp_of_group(s, x, max), exp_of_group(s, y, max)]
    }
}

#[inline(always)]
fn differences<S: Simd>(s: S, x: &Group, max: S::F32) -> [S::F32; 4] {
    let mut d = [max; 4];
    for i in 0..4 {
        d[i] = s.sub(s.load(&x[i]), max);
    }
    d
}

#[inline(always)]
pub(super) fn sum_of_four<S: Simd>(s: S, e: [S::F32; 4]) -> S::F32 {
    s.add(s.add(e[0], e[1]), s.add(e[2], e[3]))
}

#[inline(always)]
fn keep<S: Simd>(s: S, e: [S::F32; 4], exps: &mut [f32]) {
    let (kept, _) = exps[..GROUP].as_chunks_mut::<LANES>();
    for i in 0..4 {
        s.store(e[i], &mut kept[i]);
    }
}

/// w (max - x), and 0 for the pivot and for a masked class of weight 0, where the product is NaN.
#[inline(always)]
pub(super) fn weigh_gap<S: Simd>(s: S, gap: S::F32, weights: S::F32, pivot_lane: usize) -> S::F32 {
    s.with_lane(s.max(s.mul(gap, weights), s.splat(0.0)), pivot_lane, 0.0)
}
