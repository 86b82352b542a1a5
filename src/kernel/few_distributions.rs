//! Rows of few classes whose targets are probabilities: 16 rows side by side, as in `few_classes.rs`, and a second tile of what
//! the classes weigh in each of them.
//!
//! The largest of a row's logits becomes its target: it is kept apart like any other. Of what the classes weigh the product
//! w q is computed once, and the rest in each pass: in the second, `keep` and `spread` are multiplied by the factor of the row's
//! gradient before they are rounded.

use super::few_classes::{TargetLanes, Tile, Transposed};
use super::gaps::{Gaps, Weighing, half_gap};
use super::lanes::RowLanes;
use super::place::RowsOf;
use super::real::Real;
use super::results::CoefficientLanes;
use super::side_by_side;
use crate::simd::{LANES, Simd, Task};

/// Both tiles: logits, and then their exponentials; probabilities q, and then w q.
pub(crate) struct Tiles {
    logits: Tile,
    probabilities: Tile,
}

/// The statistics of a tile's rows, each without its largest logit, which becomes its target.
pub(crate) struct StatisticsTask<'a> {
    pub(crate) tiles: &'a mut Tiles,
    pub(crate) logits: RowsOf<&'a [f32]>,
    pub(crate) probabilities: RowsOf<&'a [f32]>,
    pub(crate) weighing: Weighing<'a>,
    pub(crate) rows: &'a mut RowLanes,
}

/// The gradient, from a tile's exponentials.
pub(crate) struct GradientTask<'a> {
    pub(crate) tiles: &'a Tiles,
    pub(crate) to: RowsOf<&'a mut [f32]>,
    pub(crate) weighing: Weighing<'a>,
    /// What the weights of each row are multiplied by.
    pub(crate) factors: &'a [f64; LANES],
    pub(crate) coefficients: &'a CoefficientLanes,
    pub(crate) rows: &'a RowLanes,
}

impl Tiles {
    pub(crate) fn new() -> Self {
        Self { logits: Tile::new(), probabilities: Tile::new() }
    }

    pub(crate) fn exponentials(&self) -> &Tile {
        &self.logits
    }
}

/// What multiplies w q, and what multiplies w.
struct Factors<S: Simd> {
    keep: S::F32,
    spread: S::F32,
}

impl<S: Simd> Factors<S> {
    #[inline(always)]
    fn new(s: S, weighing: Weighing<'_>, of_rows: &[f64; LANES]) -> Self {
        let (mut keep, mut spread) = ([0.0; LANES], [0.0; LANES]);
        for lane in 0..LANES {
            keep[lane] = Real::round_to_finite(weighing.keep * of_rows[lane]);
            spread[lane] = Real::round_to_finite(weighing.spread * of_rows[lane]);
        }
        Self { keep: s.load(&keep), spread: s.load(&spread) }
    }

    /// What a class weighs in each row.
    #[inline(always)]
    fn weights(&self, s: S, weighted: S::F32, class: usize, weighing: Weighing<'_>) -> S::F32 {
        let mut spread = self.spread;
        if let Some(weights) = weighing.weights {
            spread = s.mul(spread, s.splat(weights[class]));
        }
        s.mul_add(weighted, self.keep, spread)
    }
}

impl Task for StatisticsTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { tiles, logits, probabilities, weighing, rows } = self;
        let classes = logits.classes;
        let mut targets = TargetLanes::of_nobody(s);
        tiles.logits.load(s, &logits, &mut targets);
        tiles.probabilities.load(s, &probabilities, &mut targets);
        let vectors = &mut tiles.logits.columns[..classes];
        side_by_side::take_largest(s, vectors, rows);
        let reference = side_by_side::maximum(s, vectors, 0, rows);
        // It is nobody's target.
        rows.contender = [f32::NAN; LANES];

        let factors = Factors::new(s, weighing, &[1.0; LANES]);
        let (mut gaps, mut weights) = (s.zero_sums(), s.zero_sums());
        let pivots = TargetLanes::new(s, rows, &[0.0; LANES]);
        for (class, (x, q)) in vectors.iter().zip(&mut tiles.probabilities.columns).enumerate() {
            let mut weighted = s.load(q);
            if let Some(weights) = weighing.weights {
                weighted = s.mul(weighted, s.splat(weights[class]));
                s.store(weighted, q);
            }
            let weight = pivots.put(s, class, factors.weights(s, weighted, class, weighing));
            gaps = s.accumulate(gaps, half_gap(s, s.load(x), reference, weight));
            weights = s.accumulate(weights, weight);
        }
        side_by_side::add(s, gaps, 2.0, 0, &mut rows.gap);
        side_by_side::add(s, weights, 1.0, 0, &mut rows.weight);
        side_by_side::exponentials(s, vectors, Gaps::None, reference, rows);
    }
}

impl Task for GradientTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { tiles, to, weighing, factors, coefficients, rows } = self;
        let factors = Factors::new(s, weighing, factors);
        let targets = TargetLanes::new(s, rows, &coefficients.at_target);
        to.write(s, &Gradient { tiles, weighing, factors, coefficients, targets });
    }
}

/// The gradient's columns.
struct Gradient<'a, S: Simd> {
    tiles: &'a Tiles,
    weighing: Weighing<'a>,
    factors: Factors<S>,
    coefficients: &'a CoefficientLanes,
    targets: TargetLanes<S>,
}

impl<S: Simd> Transposed<S> for Gradient<'_, S> {
    #[inline(always)]
    fn column(&self, s: S, class: usize) -> S::F32 {
        let Self { tiles, weighing, factors, coefficients, targets } = self;
        let exps = s.load(&tiles.logits.columns[class]);
        let gradient = side_by_side::affine(s, exps, class, Gaps::None, coefficients);
        let weighted = s.load(&tiles.probabilities.columns[class]);
        let gradient = s.sub(gradient, factors.weights(s, weighted, class, *weighing));
        targets.put(s, class, s.zero_below(gradient, s.splat(f32::MIN_POSITIVE)))
    }
}
