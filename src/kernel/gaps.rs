//! What label smoothing adds to the first pass: the weighted gaps of the logits below the maximum.

use core::ops::Range;

use super::number::Number;
use super::place::Place;
use super::real::Real;
use super::{Entry, vector_at};
use crate::simd::{LANES, Simd, Task};

/// Which gaps below the maximum a loss sums up, in a row of this type.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Gaps<'a, L = f32> {
    None,
    /// Every class weighs 1.
    Equal,
    /// Class c weighs `weights[c]`, at most 1. Whole vectors are read: at least 64 zeros follow the last.
    Weighted(&'a [f32]),
    /// As [`Gaps::Equal`] and [`Gaps::Weighted`], but classes with a logit of -inf weigh nothing.
    LiveEqual,
    LiveWeighted(&'a [f32]),
    Distribution(Distribution<'a, L>),
}

/// What the classes of a loss add up to, the pivot left out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GapSums {
    /// Sum of w (max - x).
    pub(crate) gap: f64,
    /// Sum of w.
    pub(crate) weight: f64,
    /// How many classes have a logit above -inf, where it matters.
    pub(crate) live: f64,
}

/// What classes weigh whose targets are probabilities q: class c `weights[c] (keep q_c + spread)`, or without weights what is in
/// brackets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weighing<'a> {
    /// As those of [`Gaps::Weighted`].
    pub(crate) weights: Option<&'a [f32]>,
    /// Rounded where they are used: so what is made of them is rounded once.
    pub(crate) keep: f64,
    pub(crate) spread: f64,
}

/// What the classes of one row weigh: both numbers rounded before any loop, for a choice of what is subtracted in the loop
/// would read them even where there are none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Distribution<'a, L = f32> {
    pub(crate) probabilities: &'a [L],
    weights: Option<&'a [f32]>,
    keep: L,
    spread: L,
}

impl<'a> Weighing<'a> {
    /// Each class weighs `factor` times as much.
    #[inline(always)]
    pub(crate) fn scaled(self, factor: f64) -> Self {
        Self { keep: self.keep * factor, spread: self.spread * factor, ..self }
    }

    /// Of a row with these probabilities.
    #[inline(always)]
    pub(crate) fn of<L: Real>(self, probabilities: &'a [L]) -> Distribution<'a, L> {
        let (keep, spread) = (Real::round_to_finite(self.keep), Real::round_to_finite(self.spread));
        Distribution { probabilities, weights: self.weights, keep, spread }
    }
}

impl<L: Real> Distribution<'_, L> {
    /// What a class weighs.
    pub(crate) fn weight(&self, class: usize) -> f64 {
        let smoothed = self.probabilities[class].into() * self.keep.into() + self.spread.into();
        smoothed * self.weights.map_or(1.0, |weights| f64::from(weights[class]))
    }

    /// Those of the classes from `class` on.
    #[inline(always)]
    pub(crate) fn from(self, class: usize) -> Self {
        let weights = self.weights.map(|weights| &weights[class..]);
        Self { probabilities: &self.probabilities[class..], weights, ..self }
    }
}

impl Distribution<'_> {
    /// What 16 classes from `class` on weigh. What is past the last is unspecified.
    #[inline(always)]
    pub(super) fn load<S: Simd>(self, s: S, class: usize) -> S::F32 {
        let rest = &self.probabilities[class..];
        let mut probabilities = match rest.first_chunk() {
            Some(whole) => s.load(whole),
            None => s.load_partial(rest, 0.0),
        };
        let mut spread = s.splat(self.spread);
        // Those first, because what a class of weight 0 weighs is 0, however large the rest is.
        if let Some(weights) = self.weights {
            let weights = s.load(vector_at(weights, class));
            (probabilities, spread) = (s.mul(probabilities, weights), s.mul(spread, weights));
        }
        s.mul_add(probabilities, s.splat(self.keep), spread)
    }
}

impl Distribution<'_, f64> {
    /// [`Distribution::load`] of a row of `f64`. The first class may be past the last.
    #[inline(always)]
    fn load_f64<S: Simd>(self, s: S, class: usize) -> S::F64 {
        let rest = &self.probabilities[class.min(self.probabilities.len())..];
        let probabilities = s.load_partial_f64(rest, 0.0);
        let smoothed = s.mul_add_f64(probabilities, s.splat_f64(self.keep), s.splat_f64(self.spread));
        match self.weights {
            Some(weights) => s.mul_f64(smoothed, widened(s, s.load(vector_at(weights, class)))),
            None => smoothed,
        }
    }
}

impl<L> Gaps<'_, L> {
    /// Whether classes with a logit of -inf weigh nothing.
    #[inline(always)]
    pub(crate) fn is_live(&self) -> bool {
        matches!(self, Gaps::LiveEqual | Gaps::LiveWeighted(_))
    }
}

impl<L: Real> Gaps<'_, L> {
    /// What the gap of a class weighs.
    #[inline(always)]
    pub(super) fn weight(&self, class: usize) -> f32 {
        match self {
            Gaps::None => 0.0,
            Gaps::Equal | Gaps::LiveEqual => 1.0,
            Gaps::Weighted(weights) | Gaps::LiveWeighted(weights) => weights[class],
            // Side by side, rows with such targets have no gaps but those of `few_distributions.rs`.
            Gaps::Distribution(_) => f32::NAN,
        }
    }

    /// Those of the classes from `class` on.
    #[inline(always)]
    pub(crate) fn from(self, class: usize) -> Self {
        match self {
            Gaps::Weighted(weights) => Gaps::Weighted(&weights[class..]),
            Gaps::LiveWeighted(weights) => Gaps::LiveWeighted(&weights[class..]),
            Gaps::Distribution(distribution) => Gaps::Distribution(distribution.from(class)),
            gaps => gaps,
        }
    }
}

impl Gaps<'_, f64> {
    /// [`Gaps::load`] for a row of `f64`.
    #[inline(always)]
    pub(super) fn load_f64<S: Simd>(&self, s: S, class: usize) -> S::F64 {
        match self {
            Gaps::None => s.splat_f64(0.0),
            Gaps::Equal | Gaps::LiveEqual => s.splat_f64(1.0),
            Gaps::Weighted(weights) | Gaps::LiveWeighted(weights) => {
                widened(s, s.load(vector_at(weights, class)))
            }
            Gaps::Distribution(distribution) => distribution.load_f64(s, class),
        }
    }
}

#[inline(always)]
fn widened<S: Simd>(s: S, v: S::F32) -> S::F64 {
    s.accumulate(s.zero_sums(), v)
}

impl Gaps<'_> {
    /// What the gaps of 16 classes from `class` on weigh. What is past the last is unspecified.
    #[inline(always)]
    pub(super) fn load<S: Simd>(&self, s: S, class: usize) -> S::F32 {
        match self {
            Gaps::None => s.splat(0.0),
            Gaps::Equal | Gaps::LiveEqual => s.splat(1.0),
            Gaps::Weighted(weights) | Gaps::LiveWeighted(weights) => s.load(vector_at(weights, class)),
            Gaps::Distribution(distribution) => distribution.load(s, class),
        }
    }
}

/// Sum of w v over all columns of the logits `x` but two.
#[inline(always)]
pub(super) fn weighted_sum<S: Simd, T: Number>(
    s: S,
    x: &[T],
    v: &[T],
    gaps: Gaps<'_>,
    but: [Entry; 2],
) -> f64 {
    let mut sums = s.zero_sums();
    for start in (0..v.len()).step_by(LANES) {
        let rest = &v[start..];
        let v = match rest.first_chunk() {
            Some(whole) => T::load(s, whole),
            None => T::load_partial(s, rest, 0.0),
        };
        let mut weights = gaps.load(s, start);
        for but in but {
            weights = s.with_lane(weights, but.from(start).lane(), 0.0);
        }
        if gaps.is_live() {
            let logits = T::load_partial(s, &x[start..x.len().min(start + LANES)], 0.0);
            weights = live_only(s, logits, weights);
        }
        // In f64, where the product is exact: a small weight of a small number would be subnormal.
        sums = s.add_f64(sums, s.mul_f64(widened(s, weights), widened(s, v)));
    }
    s.sum_lanes(sums)
}

/// The sums over some columns but the pivot.
#[inline(always)]
pub(super) fn gaps_of<S: Simd, P: Place>(
    s: S,
    place: &P,
    columns: Range<usize>,
    pivot: Entry,
    gaps: Gaps<'_>,
    max: f32,
) -> GapSums {
    if matches!(gaps, Gaps::None) {
        return GapSums::default();
    }
    let (pivot, gaps) = (pivot.from(columns.start), gaps.from(columns.start));
    s.vectorize(GapsTask { x: &place.from()[columns], pivot, gaps, max })
}

/// The sums of a block's gaps. A task is a function of its own, inlined nowhere, and but for the plainest smoothing what
/// weighs the classes is decided anew for each vector: with a loop for each, the kernels would take minutes to compile.
struct GapsTask<'a, F> {
    x: &'a [F],
    pivot: Entry,
    gaps: Gaps<'a>,
    max: f32,
}

impl<F: Number> Task for GapsTask<'_, F> {
    type Output = GapSums;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> GapSums {
        match self.gaps {
            Gaps::Equal => self.equal(s),
            Gaps::LiveEqual | Gaps::LiveWeighted(_) => self.weighted::<S, true>(s),
            _ => self.weighted::<S, false>(s),
        }
    }
}

impl<F: Number> GapsTask<'_, F> {
    /// Where each class has its weight, or those have whose logits are above -inf.
    #[inline(always)]
    fn weighted<S: Simd, const LIVE: bool>(self, s: S) -> GapSums {
        let Self { x, pivot, gaps, max } = self;
        let max = s.splat(max);
        let (mut gap_sums, mut weight_sums, mut live_sums) = (s.zero_sums(), s.zero_sums(), s.zero_sums());
        for start in (0..x.len()).step_by(LANES) {
            let mut weights = gaps.load(s, start);
            let mut logits = if start + LANES <= x.len() {
                F::load(s, vector_at(x, start))
            } else {
                // Lanes past the end weigh nothing.
                let rest = &x[start..];
                let mut lanes = [0.0; LANES];
                s.store(weights, &mut lanes);
                weights = s.load_partial(&lanes[..rest.len()], 0.0);
                F::load_partial(s, rest, if LIVE { f32::NEG_INFINITY } else { 0.0 })
            };
            // Nor does the pivot.
            let lane = pivot.from(start).lane();
            weights = s.with_lane(weights, lane, 0.0);
            if LIVE {
                let ones = s.with_lane(live_only(s, logits, s.splat(1.0)), lane, 0.0);
                live_sums = s.accumulate(live_sums, ones);
                weights = live_only(s, logits, weights);
                logits = s.max(s.splat(f32::MIN), logits);
            }
            gap_sums = s.accumulate(gap_sums, half_gap(s, logits, max, weights));
            weight_sums = s.accumulate(weight_sums, weights);
        }
        GapSums {
            gap: 2.0 * s.sum_lanes(gap_sums),
            weight: s.sum_lanes(weight_sums),
            live: s.sum_lanes(live_sums),
        }
    }

    /// Where every class weighs 1, and all of them their number.
    #[inline(always)]
    fn equal<S: Simd>(self, s: S) -> GapSums {
        let Self { x, pivot, max, .. } = self;
        let (max, ones, mut sums) = (s.splat(max), s.splat(1.0), s.zero_sums());
        let (vectors, rest) = x.as_chunks::<LANES>();
        let pivot_vector = pivot.index() / LANES;
        for (index, x) in vectors.iter().enumerate() {
            let mut gaps = half_gap(s, F::load(s, x), max, ones);
            if index == pivot_vector {
                gaps = s.with_lane(gaps, pivot.index() % LANES, 0.0);
            }
            sums = s.accumulate(sums, gaps);
        }
        if !rest.is_empty() {
            let mut lanes = [0.0; LANES];
            lanes[..rest.len()].fill(1.0);
            let start = vectors.len() * LANES;
            let ones = s.with_lane(s.load(&lanes), pivot.from(start).lane(), 0.0);
            sums = s.accumulate(sums, half_gap(s, F::load_partial(s, rest, 0.0), max, ones));
        }
        let weight = x.len() - usize::from(pivot.index() < x.len());
        GapSums { gap: 2.0 * s.sum_lanes(sums), weight: weight as f64, live: 0.0 }
    }
}

/// `v` where the logit is finite, else +0.
#[inline(always)]
pub(super) fn live_only<S: Simd>(s: S, x: S::F32, v: S::F32) -> S::F32 {
    // 1 where it is finite, else NaN, which is not above a half.
    let one = s.add(s.mul(x, s.splat(0.0)), s.splat(1.0));
    s.mul_at_least(one, v, s.splat(0.5))
}

/// Half of w (max - x), because the whole of it may overflow; 0 for a class of weight 0, where the product may be NaN.
#[inline(always)]
pub(super) fn half_gap<S: Simd>(s: S, x: S::F32, max: S::F32, weights: S::F32) -> S::F32 {
    let half = s.splat(0.5);
    let gap = s.sub(s.mul(max, half), s.mul(x, half));
    s.max(s.mul(gap, weights), s.splat(0.0))
}
