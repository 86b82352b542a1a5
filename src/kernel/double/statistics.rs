//! The first pass over a row of `f64`: its maximum, then the sum of its exponentials, kept where the second pass will want
//! them; and for label smoothing its gaps below the maximum.

use super::exp::{LEAST, LOWEST, exp_of_four};
use super::place::Place;
use super::search::FirstEqual;
use super::sums::Sums;
use super::{GROUP, Load, Plain, group, group_without, vector};
use crate::kernel::Entry;
use crate::kernel::gaps::{GapSums, Gaps};
use crate::kernel::groups::Groups;
use crate::kernel::place::{Between, Columns, InPlace, Read};
use crate::kernel::statistics::Statistics;
use crate::loss::Transform;
use crate::simd::{LANES, Simd, Task};

/// The statistics of all columns but the pivot. The exponentials that are written are relative to the largest; the pivot's
/// own is unspecified.
pub(crate) struct StatisticsTask<'a> {
    pub(crate) columns: Columns<'a, f64>,
    pub(crate) transform: Option<Transform<f64>>,
    /// Transformed.
    pub(crate) pivot: Entry<f64>,
    pub(crate) gaps: Gaps<'a, f64>,
}

/// The same, and what rounding took from the sums.
pub(crate) struct SummedTask<'a>(pub(crate) StatisticsTask<'a>);

/// What [`SummedTask`] finds.
pub(crate) struct Summed {
    pub(crate) statistics: Statistics<f64>,
    pub(crate) lost: Lost,
}

/// What rounding took from sums: no more than half a unit in their last place.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lost {
    pub(crate) sum: f64,
    pub(crate) gap: f64,
    pub(crate) weight: f64,
}

/// The sum of exp(x - max) (max - x) of all columns but the pivot.
pub(crate) struct SpreadTask<'a> {
    pub(crate) x: &'a [f64],
    pub(crate) transform: Option<Transform<f64>>,
    pub(crate) max: f64,
    pub(crate) pivot: Entry<f64>,
}

impl Task for StatisticsTask<'_> {
    type Output = Statistics<f64>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Statistics<f64> {
        SummedTask(self).run(s).statistics
    }
}

impl Task for SummedTask<'_> {
    type Output = Summed;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Summed {
        match self.0.transform {
            None => self.0.run_with(s, Plain),
            Some(transform) => s.vectorize(Transformed(self.0, transform)),
        }
    }
}

/// The same, of transformed logits: a function of its own, for the other to stay as it is without.
struct Transformed<'a>(StatisticsTask<'a>, Transform<f64>);

impl Task for Transformed<'_> {
    type Output = Summed;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Summed {
        self.0.run_with(s, self.1)
    }
}

impl StatisticsTask<'_> {
    #[inline(always)]
    fn run_with<S: Simd>(self, s: S, load: impl Load) -> Summed {
        let Self { columns, pivot, gaps, .. } = self;
        match columns {
            Columns::Read(x) => statistics(s, Read(x), load, pivot, gaps),
            Columns::Between(x, exps) | Columns::Streaming(x, exps) | Columns::Adding(x, exps) => {
                let exps = &mut exps[..x.len()];
                statistics(s, Between::<false, _, _>(x, exps), load, pivot, gaps)
            }
            Columns::InPlace(x) => statistics(s, InPlace(x), load, pivot, gaps),
        }
    }
}

#[inline(always)]
fn statistics<S: Simd, P: Place>(
    s: S,
    mut place: P,
    load: impl Load,
    pivot: Entry<f64>,
    gaps: Gaps<'_, f64>,
) -> Summed {
    let x = place.from();
    let max = max_of(s, x, load, pivot);
    let before = &x[..pivot.columns_before(x.len())];
    let has_earlier_equal = max == pivot.value
        && s.vectorize(FirstEqual { x: before, transform: load.transform(), value: max }).is_some();
    // Without a finite maximum x - max would be NaN, and the gaps are 0 or infinite.
    let finite = if max == f64::NEG_INFINITY { 0.0 } else { max };
    let (of_gaps, lost) = match gaps {
        Gaps::None => Default::default(),
        gaps => s.vectorize(GapsTask { x, load, pivot, gaps, max: finite }),
    };
    let (sum, lost_of_sum) = sum_of(s, &mut place, load, pivot, finite);
    let is_nothing = max == f64::NEG_INFINITY && !sum.is_nan();
    let (sum, lost_of_sum) = if is_nothing { (0.0, 0.0) } else { (sum, lost_of_sum) };
    let GapSums { gap, weight, live } = of_gaps;
    Summed {
        statistics: Statistics { max, sum, gap, weight, live, has_earlier_equal },
        lost: Lost { sum: lost_of_sum, ..lost },
    }
}

/// The largest logit.
#[inline(always)]
pub(super) fn max_of<S: Simd>(s: S, x: &[f64], load: impl Load, pivot: Entry<f64>) -> f64 {
    let groups = Groups::new(0..x.len(), pivot);
    let mut max = [s.splat_f64(f64::NEG_INFINITY); 4];
    for index in 0..groups.len {
        let group = group(s, x, groups.at(index), load);
        for i in 0..4 {
            max[i] = s.max_f64(max[i], group[i]);
        }
    }
    for at in [groups.pivot_group, groups.rest] {
        if at < groups.end {
            let end = groups.end.min(at + GROUP);
            let group = group_without(s, &x[..end], at, load, pivot);
            for i in 0..4 {
                max[i] = s.max_f64(max[i], group[i]);
            }
        }
    }
    s.max_lane_f64(s.max_f64(s.max_f64(max[0], max[1]), s.max_f64(max[2], max[3])))
}

/// The sum of the exponentials, which are written on the way, and what rounding took from it.
#[inline(always)]
fn sum_of<S: Simd, P: Place>(
    s: S,
    place: &mut P,
    load: impl Load,
    pivot: Entry<f64>,
    max: f64,
) -> (f64, f64) {
    let len = place.from().len();
    let reference = s.splat_f64(max);
    let groups = Groups::new(0..len, pivot);
    let mut sums = Sums::zero(s);
    for index in 0..groups.len {
        let at = groups.at(index);
        let e = exps_of(s, group(s, place.from(), at, load), reference);
        sums = sums.add_four(s, e);
        if P::WRITES {
            let out = place.to()[at..at + GROUP].as_chunks_mut::<LANES>().0;
            for i in 0..4 {
                P::store(s, e[i], &mut out[i]);
            }
        }
    }
    for at in [groups.pivot_group, groups.rest] {
        if at < groups.end {
            let end = groups.end.min(at + GROUP);
            let e = exps_of(s, group_without(s, &place.from()[..end], at, load, pivot), reference);
            sums = sums.add_four(s, e);
            if P::WRITES {
                let out = &mut place.to()[at..end];
                for i in 0..4 {
                    let start = (i * LANES).min(out.len());
                    P::store_partial(s, e[i], &mut out[start..]);
                }
            }
        }
    }
    sums.total_and_lost(s)
}

#[inline(always)]
fn exps_of<S: Simd>(s: S, mut x: [S::F64; 4], reference: S::F64) -> [S::F64; 4] {
    for i in 0..4 {
        x[i] = s.sub_f64(x[i], reference);
    }
    exp_of_four(s, x)
}

/// The sums of a row's gaps. What weighs the classes is decided anew for each vector: one loop for all.
struct GapsTask<'a, L> {
    x: &'a [f64],
    load: L,
    pivot: Entry<f64>,
    gaps: Gaps<'a, f64>,
    max: f64,
}

impl<L: Load> Task for GapsTask<'_, L> {
    type Output = (GapSums, Lost);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (GapSums, Lost) {
        let Self { x, load, pivot, gaps, max } = self;
        let (zero, half) = (s.splat_f64(0.0), s.splat_f64(0.5));
        let (half_max, is_live) = (s.splat_f64(max * 0.5), gaps.is_live());
        let (mut gap_sums, mut weight_sums, mut live_sums) = (Sums::zero(s), Sums::zero(s), s.zero_sums());
        for start in (0..x.len()).step_by(LANES) {
            let mut weights = gaps.load_f64(s, start);
            if x.len() - start < LANES {
                // Lanes past the end weigh nothing.
                let mut lanes = [0.0; LANES];
                s.store_f64(weights, &mut lanes);
                weights = s.load_partial_f64(&lanes[..x.len() - start], 0.0);
            }
            // Nor does the pivot.
            let lane = pivot.from(start).lane();
            weights = s.with_lane_f64(weights, lane, 0.0);
            let fill = if is_live { f64::NEG_INFINITY } else { 0.0 };
            let mut logits = vector(s, x, start, load, fill);
            if is_live {
                let ones = s.with_lane_f64(live_only(s, logits, s.splat_f64(1.0)), lane, 0.0);
                live_sums = s.add_f64(live_sums, ones);
                weights = live_only(s, logits, weights);
                logits = s.max_f64(s.splat_f64(f64::MIN), logits);
            }
            // Half of the gap, because the whole of it may overflow; 0 for a class of weight 0, where the product may be
            // NaN.
            let gap = s.sub_f64(half_max, s.mul_f64(logits, half));
            gap_sums = gap_sums.add(s, s.max_f64(s.mul_f64(gap, weights), zero));
            weight_sums = weight_sums.add(s, weights);
        }
        let ((gap, lost_of_gap), (weight, lost_of_weight)) =
            (gap_sums.total_and_lost(s), weight_sums.total_and_lost(s));
        (
            GapSums { gap: 2.0 * gap, weight, live: s.sum_lanes(live_sums) },
            Lost { sum: 0.0, gap: 2.0 * lost_of_gap, weight: lost_of_weight },
        )
    }
}

/// `v` where the logit is finite, else +0.
#[inline(always)]
pub(super) fn live_only<S: Simd>(s: S, x: S::F64, v: S::F64) -> S::F64 {
    // 1 where it is finite, else NaN, which is not above a half.
    let one = s.add_f64(s.mul_f64(x, s.splat_f64(0.0)), s.splat_f64(1.0));
    s.mul_at_least_f64(one, v, s.splat_f64(0.5))
}

impl Task for SpreadTask<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        match self.transform {
            None => self.run_with(s, Plain),
            Some(transform) => self.run_with(s, transform),
        }
    }
}

impl SpreadTask<'_> {
    #[inline(always)]
    fn run_with<S: Simd>(self, s: S, load: impl Load) -> f64 {
        let Self { x, max, pivot, .. } = self;
        let reference = s.splat_f64(if max == f64::NEG_INFINITY { 0.0 } else { max });
        let mut sums = Sums::zero(s);
        for at in (0..x.len()).step_by(GROUP) {
            let mut d = group_without(s, x, at, load, pivot);
            for i in 0..4 {
                d[i] = s.sub_f64(d[i], reference);
            }
            let mut terms = exp_of_four(s, d);
            for i in 0..4 {
                // Finite, so that its product with 0 is 0.
                let gap = s.sub_f64(s.splat_f64(0.0), s.max_f64(s.splat_f64(LOWEST), d[i]));
                terms[i] = s.mul_at_least_f64(terms[i], gap, s.splat_f64(LEAST));
            }
            sums = sums.add_four(s, terms);
        }
        sums.total(s)
    }
}
