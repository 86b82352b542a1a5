//! Few rows of few classes: one after the other, with the bits that they have side by side.
//!
//! Side by side (`few_classes.rs`), one row takes as long as 16. Alone, it has its classes in the lanes: 16 at a time are
//! searched, and have their exponentials taken. But they are added in the order of the classes, four in `f32` and then in
//! `f64`, as they are side by side, by one addition after the other.

use super::Entry;
use super::affine::Shift;
use super::exp;
use super::few_classes::{self, AffineTask, StatisticsTask, add_to_row};
use super::gaps::{Gaps, half_gap, live_only};
use super::lanes::RowLanes;
use super::number::Number;
use super::place::Columns;
use super::short_rows::{affine_of_row, pivot_of};
use super::side_by_side::marked;
use crate::simd::{LANES, Simd, Task};

/// How many rows take less time one after the other than side by side.
#[inline(always)]
pub(super) const fn most(classes: usize) -> usize {
    4 + classes / 16
}

/// From one row to the next in a tile: whole vectors.
const WIDTH: usize = few_classes::MOST.next_multiple_of(LANES);
const _: () = assert!(most(few_classes::MOST) * WIDTH <= few_classes::MOST * LANES, "they fit a tile");

/// A row on its way through the first pass.
struct Row<'a> {
    logits: &'a [f32],
    /// Its logits but the pivot, then their exponentials.
    vectors: &'a mut [[f32; LANES]],
    pivot: Entry,
    gaps: Gaps<'a>,
}

/// [`StatisticsTask`] of few rows: what it leaves in the tile are rows.
pub(super) struct RowsTask<'a>(pub(super) StatisticsTask<'a>);

/// [`AffineTask`] of a tile that holds rows.
pub(super) struct AffineRowsTask<'a>(pub(super) AffineTask<'a>);

impl Task for RowsTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(StatisticsTask { tile, logits, gaps, rows }) = self;
        let (tile, _) = tile.columns.as_flattened_mut().as_chunks_mut::<WIDTH>();
        for row in 0..logits.count {
            if !rows.counts[row] {
                continue;
            }
            let x = &logits.data[logits.columns(row)];
            let vectors = &mut tile[row].as_chunks_mut().0[..x.len().div_ceil(LANES)];
            Row { logits: x, vectors, pivot: pivot_of(x, rows.class[row]), gaps }.statistics(s, rows, row);
        }
    }
}

impl Row<'_> {
    #[inline(always)]
    fn statistics<S: Simd>(mut self, s: S, rows: &mut RowLanes, row: usize) {
        let max = self.load(s);
        let reference = s.max(s.splat(f32::MIN), s.splat(max));
        rows.max[row] = max;
        rows.target_logit[row] = self.pivot.value;
        let before = &self.logits[..self.pivot.columns_before(self.logits.len())];
        let has_earlier_equal = max == self.pivot.value && Number::contains(before, max);
        rows.contender[row] = if has_earlier_equal { f32::NEG_INFINITY } else { self.pivot.value };
        if !matches!(self.gaps, Gaps::None) {
            self.add_gaps(s, reference, rows, row);
        }
        let sum = self.exponentials(s, reference);
        let is_empty = (max == f32::NEG_INFINITY) & !sum.is_nan();
        rows.sum[row] = if is_empty { 0.0 } else { sum };
    }

    /// Brings the logits to the vectors, -inf in the pivot's place and behind the last, and returns the largest.
    #[inline(always)]
    fn load<S: Simd>(&mut self, s: S) -> f32 {
        let mut max = s.splat(f32::NEG_INFINITY);
        for (index, vector) in self.vectors.iter_mut().enumerate() {
            let start = index * LANES;
            let x = s.load_partial(&self.logits[start..], f32::NEG_INFINITY);
            let x = s.with_lane(x, self.pivot.from(start).lane(), f32::NEG_INFINITY);
            max = s.max(max, x);
            s.store(x, vector);
        }
        s.max_lane(max)
    }

    /// As [`side_by_side::gaps`](super::side_by_side::gaps).
    #[inline(always)]
    fn add_gaps<S: Simd>(&self, s: S, reference: S::F32, rows: &mut RowLanes, row: usize) {
        let is_live = self.gaps.is_live();
        let (mut gap, mut weight, mut live) = (0.0, 0.0, 0.0);
        for (index, vector) in self.vectors.iter().enumerate() {
            let start = index * LANES;
            let count = (self.logits.len() - start).min(LANES);
            let mut x = s.load(vector);
            let mut weights = self.gaps.load(s, start);
            if is_live {
                weights = live_only(s, x, weights);
                weight = add_in_order(s, weight, weights, count);
                live = add_in_order(s, live, live_only(s, x, s.splat(1.0)), count);
                x = s.max(s.splat(f32::MIN), x);
            } else {
                // The pivot has none.
                weights = s.with_lane(weights, self.pivot.from(start).lane(), 0.0);
            }
            gap = add_in_order(s, gap, half_gap(s, x, reference, weights), count);
        }
        rows.gap[row] = 2.0 * gap;
        if is_live {
            (rows.weight[row], rows.live[row]) = (weight, live);
        }
    }

    /// Puts the exponentials in the place of the logits, and returns their sum. Where the gaps are those of live classes,
    /// NaN marks the others.
    #[inline(always)]
    fn exponentials<S: Simd>(&mut self, s: S, reference: S::F32) -> f64 {
        for vector in self.vectors.iter_mut() {
            let e = exp::exp(s, s.sub(s.load(vector), reference));
            s.store(e, vector);
        }
        let (quads, rest) = self.vectors.as_flattened()[..self.logits.len()].as_chunks::<4>();
        let mut sum = 0.0;
        for [a, b, c, d] in quads {
            sum += f64::from((a + b) + (c + d));
        }
        for &e in rest {
            sum += f64::from(e);
        }
        if self.gaps.is_live() {
            for (index, vector) in self.vectors.iter_mut().enumerate() {
                let x = s.load_partial(&self.logits[index * LANES..], 0.0);
                s.store(marked(s, s.load(vector), x), vector);
            }
        }
        sum
    }
}

/// `sum` and the first `count` lanes, one after the other.
#[inline(always)]
fn add_in_order<S: Simd>(s: S, mut sum: f64, terms: S::F32, count: usize) -> f64 {
    let mut lanes = [0.0; LANES];
    s.store(terms, &mut lanes);
    for &term in &lanes[..count] {
        sum += f64::from(term);
    }
    sum
}

impl Task for AffineRowsTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(task) = self;
        // Two loops, and not a choice in each step of one.
        match Shift::new(task.gaps, 0.0) {
            Shift::None => affine_of_rows(s, task, &Shift::None),
            shift => affine_of_rows(s, task, &shift),
        }
    }
}

#[inline(always)]
fn affine_of_rows<S: Simd>(s: S, task: AffineTask<'_>, shift: &Shift<'_>) {
    let AffineTask { tile, to, adds, coefficients, rows, .. } = task;
    let (tile, _) = tile.columns.as_flattened().as_chunks::<WIDTH>();
    for row in (0..to.count).filter(|&row| rows.counts[row]) {
        let columns = to.columns(row);
        let out = &mut to.data[columns];
        let exps = &tile[row][..out.len()];
        if adds {
            let mut gradient = [0.0; WIDTH];
            let gradient = &mut gradient[..out.len()];
            affine_of_row(s, Columns::Between(exps, &mut *gradient), shift, coefficients, rows, row);
            add_to_row(out, gradient);
        } else {
            affine_of_row(s, Columns::Between(exps, out), shift, coefficients, rows, row);
        }
    }
}
