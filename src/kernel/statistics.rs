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
    /// Class c weighs `weights[c]`, at most 1. At least [`GROUP`] zeros follow the last.
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
    let groups = Groups::new(s, x, pivot);
    let masked = f32::NEG_INFINITY;

    let mut max = [s.splat(masked); 8];
    for pair in 0..groups.len / 2 {
        let (first, second) = (groups.get(2 * pair), groups.get(2 * pair + 1));
        for i in 0..4 {
            max[i] = s.max(max[i], s.load(&first[i]));
            max[i + 4] = s.max(max[i + 4], s.load(&second[i]));
        }
    }
    if groups.len % 2 == 1 {
        let group = groups.get(groups.len - 1);
        for i in 0..4 {
            max[i] = s.max(max[i], s.load(&group[i]));
        }
    }
    for half in [4, 2, 1] {
        for i in 0..half {
            max[i] = s.max(max[i], max[i + half]);
        }
    }
    let max = s.max_lane(max[0]);

    // Without a finite maximum x - max would be NaN; the sum is then 0, and the gaps are 0 or infinite.
    let all_masked = max == masked;
    let reference = s.splat(if all_masked { 0.0 } else { max });
    let mut sums = s.zero_sums();
    for pair in 0..groups.len / 2 {
        let index = 2 * pair;
        // This loop computes while memory would idle: it fetches what the next block will need.
        for line in 0..8 {
            s.prefetch(x, index * GROUP + line * LANES + BLOCK);
        }
        let [e, f] = exp_of_pair(s, groups.get(index), groups.get(index + 1), reference);
        sums = s.accumulate(sums, sum_of_four(s, e));
        sums = s.accumulate(sums, sum_of_four(s, f));
        if KEEP {
            keep(s, e, &mut exps[index * GROUP..]);
            keep(s, f, &mut exps[(index + 1) * GROUP..]);
        }
    }
    if groups.len % 2 == 1 {
        let index = groups.len - 1;
        let e = exp_of_group(s, groups.get(index), reference);
        sums = s.accumulate(sums, sum_of_four(s, e));
        if KEEP {
            keep(s, e, &mut exps[index * GROUP..]);
        }
    }
    let sum = s.sum_lanes(sums);
    let (gap, weight) = if W::PRESENT {
        weighted_gaps(s, &groups, x.len(), start, pivot, weigh, reference)
    } else {
        (0.0, 0.0)
    };
    Statistics { max, sum: if all_masked && !sum.is_nan() { 0.0 } else { sum }, gap, weight }
}

/// Sum of w (max - x) and of w over the columns of a block but the pivot.
#[inline(always)]
fn weighted_gaps<S: Simd, W: Weigh<S>>(
    s: S,
    groups: &Groups<'_>,
    columns: usize,
    start: usize,
    pivot: usize,
    weigh: W,
    max: S::F32,
) -> (f64, f64) {
    let (mut gap_sums, mut weight_sums) = (s.zero_sums(), s.zero_sums());
    for index in 0..groups.len {
        for (i, x) in groups.get(index).iter().enumerate() {
            let at = index * GROUP + i * LANES;
            // Lanes past the end, and the pivot, weigh nothing.
            let mut weights = weigh.weights(s, start + at);
            if at + LANES > columns {
                let mut lanes = [0.0; LANES];
                s.store(weights, &mut lanes);
                weights = s.load_partial(&lanes[..columns.saturating_sub(at)], 0.0);
            }
            let weights = s.with_lane(weights, pivot.wrapping_sub(at), 0.0);
            gap_sums = s.accumulate(gap_sums, half_gap(s, s.load(x), max, weights));
            weight_sums = s.accumulate(weight_sums, weights);
        }
    }
    (2.0 * s.sum_lanes(gap_sums), s.sum_lanes(weight_sums))
}

/// The columns of a block in whole groups: -inf behind the last column, and in place of the pivot.
struct Groups<'a> {
    whole: &'a [Group],
    last: Group,
    len: usize,
    pivot_group: usize,
    without_pivot: Group,
}

impl<'a> Groups<'a> {
    #[inline(always)]
    fn new<S: Simd>(s: S, x: &'a [f32], pivot: usize) -> Self {
        let masked = f32::NEG_INFINITY;
        let (whole, rest) = x.as_chunks::<LANES>().0.as_chunks::<4>();
        let rest_start = whole.len() * GROUP;
        let mut last = [[masked; LANES]; 4];
        for i in 0..rest.len() {
            s.store(s.load(&rest[i]), &mut last[i]);
        }
        let partial = &x[rest_start + rest.len() * LANES..];
        if !partial.is_empty() {
            s.store(s.load_partial(partial, masked), &mut last[rest.len() % 4]);
        }
        let pivot_group = pivot / GROUP;
        let mut without_pivot = [[masked; LANES]; 4];
        let with_pivot = whole.get(pivot_group).unwrap_or(&last);
        for i in 0..4 {
            let x = s.with_lane(s.load(&with_pivot[i]), (pivot % GROUP).wrapping_sub(i * LANES), masked);
            s.store(x, &mut without_pivot[i]);
        }
        Self { whole, last, len: x.len().div_ceil(GROUP), pivot_group, without_pivot }
    }

    /// Choosing the pointer costs less than a branch that is taken at another place in each row.
    #[inline(always)]
    fn get(&self, index: usize) -> &Group {
        let group = self.whole.get(index).unwrap_or(&self.last);
        select_unpredictable(index == self.pivot_group, &self.without_pivot, group)
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

/// Half of w (max - x), because the whole of it may overflow; 0 for a class of weight 0, where the product may be NaN.
#[inline(always)]
pub(super) fn half_gap<S: Simd>(s: S, x: S::F32, max: S::F32, weights: S::F32) -> S::F32 {
    let half = s.splat(0.5);
    let gap = s.sub(s.mul(max, half), s.mul(x, half));
    s.max(s.mul(gap, weights), s.splat(0.0))
}
