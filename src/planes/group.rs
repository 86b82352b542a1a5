//! What 16 positions need besides their logits, and what comes of them.

use core::marker::PhantomData;
use core::ops::Range;

use super::batch::Positions;
use super::dtype::InPlanes;
use crate::batch::{Wide, look_up};
use crate::kernel::lanes::{NO_CLASS, RowLanes};
use crate::kernel::number::Rounded;
use crate::kernel::planes::{Fill, PlanesFrom};
use crate::kernel::real::Real;
use crate::kernel::results::{CoefficientLanes, CoefficientsTask, Results, ResultsTask};
use crate::loss::{Softmax, Transform};
use crate::row_outputs::NO_RANK;
use crate::rows::{Job, Totals};
use crate::simd::LANES;

/// The scalars of 16 positions.
#[derive(Clone, Debug)]
pub(super) struct Group<L = f32> {
    pub(super) rows: RowLanes<L>,
    results: Results<L>,
    /// The first class of the largest logits but the target's, where it was asked for.
    pub(super) largest: [usize; LANES],
}

/// Where lse would lose what the largest logit's rounding hides, the largest logit takes the target's place. Of
/// magnitudes from here on, the rounding of lse itself is as large.
const NEAR_0: f64 = 1.0;

impl<L: Real> Default for Group<L> {
    /// Not inlined: a copy on its way needs memory on the stack.
    #[inline(never)]
    fn default() -> Self {
        Self { rows: RowLanes::default(), results: Results::default(), largest: [0; LANES] }
    }
}

impl<L: Real> Group<L> {
    /// What the positions bring along.
    pub(super) fn look_up(
        &mut self,
        job: &Job<'_>,
        positions: &Positions<'_, L>,
        classes: usize,
        range: Range<usize>,
    ) {
        if range.len() < self.rows.len {
            self.clear();
        }
        look_up(Some(positions.targets), &positions.inputs, classes, range, job, &mut self.rows);
    }

    /// A function of its own, which alone takes the memory for a new one on the stack.
    #[inline(never)]
    fn clear(&mut self) {
        *self = Self::default();
    }

    /// From the statistics to everything but the outputs as wide as the classes.
    pub(super) fn finish(&mut self, job: &Job<'_>) -> Totals {
        let Self { rows, results, .. } = self;
        if rows.counts.contains(&false) {
            rows.leave_out_ignored();
        }
        job.schedule.instructions.run(ResultsTask { rows, terms: Some(&job.terms), results });
        Totals::of_tile(results)
    }

    /// The lanes whose lse wants the largest logit for a pivot, as rows with that for their target.
    #[inline(never)]
    pub(super) fn near_0(&self) -> Option<RowLanes<L>> {
        let mut again = RowLanes { len: self.rows.len, ..RowLanes::default() };
        for lane in 0..self.rows.len {
            let softmax = self.results.softmax(&self.rows, lane);
            if self.rows.counts[lane] && softmax.has_dominant_other() && softmax.max.into().abs() < NEAR_0 {
                again.class[lane] = self.argmax(lane);
            }
        }
        again.class.iter().any(|&class| class != NO_CLASS).then_some(again)
    }

    /// The first class of a row's largest logits.
    fn argmax(&self, lane: usize) -> usize {
        let (class, largest) = (self.rows.class[lane], self.largest[lane]);
        let (target_logit, max) = (self.rows.target_logit[lane], self.rows.max[lane]);
        if target_logit > max || target_logit == max && class < largest { class } else { largest }
    }

    /// One number of each position. `again` is [`Group::near_0`], its statistics made. Afterwards, positions without a
    /// softmax do not count.
    pub(super) fn write<T: InPlanes<PerRow = L>>(
        &mut self,
        job: &Job<'_>,
        positions: &mut Positions<'_, L>,
        range: Range<usize>,
        from: PlanesFrom<'_, '_, T>,
        classes: usize,
        again: Option<&RowLanes<L>>,
    ) {
        let outputs = &mut positions.outputs;
        outputs.write(range.clone(), &self.rows, &self.results);
        if self.results.has_nan {
            for lane in 0..LANES {
                self.rows.counts[lane] &= !self.results.softmax(&self.rows, lane).is_nan();
            }
        }
        for (lane, position) in range.enumerate() {
            let softmax = self.results.softmax(&self.rows, lane);
            let counts = self.rows.counts[lane];
            let is_ignored = self.rows.class[lane] == NO_CLASS;
            if let Some(lse) = &mut outputs.lse {
                let exact = match again {
                    Some(again) if again.class[lane] != NO_CLASS => {
                        Softmax::new(again.statistics(lane), again.target_logit[lane])
                    }
                    _ => softmax,
                };
                lse[position] = match (counts, is_ignored) {
                    (true, _) => L::round(exact.lse()),
                    (false, true) => L::default(),
                    (false, false) => f32::NAN.into(),
                };
            }
            if let Some(argmax) = &mut outputs.argmax {
                argmax[position] = match (counts, is_ignored) {
                    (true, _) => self.argmax(lane),
                    (false, true) => NO_RANK,
                    (false, false) => nan_argmax(job, from, position, classes),
                };
            }
        }
    }

    /// The coefficients of an output of this dtype, and what positions hold that have none.
    pub(super) fn coefficients<T: Rounded<Real = L>>(
        &self,
        job: &Job<'_>,
        wide: Wide,
        coefficients: &mut CoefficientLanes<L>,
    ) -> Option<Fill<L>> {
        let Self { rows, results, .. } = self;
        let terms = (wide == Wide::Gradient).then_some(&job.terms);
        let instructions = job.schedule.instructions;
        let task = CoefficientsTask { rows, terms, results, coefficients, dtype: PhantomData::<T> };
        if wide == Wide::Gradient && has_slopes::<L>(job) {
            // A product with the transform's derivative is still to come.
            instructions.run(task.rounding_to::<L>());
        } else {
            instructions.run(task);
        }
        // The gradient of ignored positions is 0 by itself.
        let has_ignored = wide == Wide::Probabilities && rows.class[..rows.len].contains(&NO_CLASS);
        if !results.has_nan && !has_ignored {
            return None;
        }
        let mut fill = Fill::default();
        for lane in 0..LANES {
            fill.is_filled[lane] = !rows.counts[lane];
            fill.value[lane] = if rows.class[lane] == NO_CLASS { L::default() } else { f32::NAN.into() };
        }
        Some(fill)
    }
}

impl<L: Real> Group<L> {
    /// The gradients at the targets with respect to the logits, from those with respect to the transformed ones. The
    /// first position of the group is at `start`.
    pub(super) fn back_at_targets<T: InPlanes<PerRow = L>>(
        &self,
        job: &Job<'_>,
        from: PlanesFrom<'_, '_, T>,
        start: usize,
        at_target: &mut [L; LANES],
    ) {
        if !has_slopes::<L>(job) {
            return;
        }
        let mut logits = [T::default(); LANES];
        for lane in (0..self.rows.len).filter(|&lane| self.rows.counts[lane]) {
            let position = start + lane;
            logits[lane] = from.plane(self.rows.class[lane], position..position + 1)[0];
        }
        T::back(job, &logits, at_target);
    }
}

/// Whether a gradient goes back through a derivative that differs between logits.
fn has_slopes<L: Real>(job: &Job<'_>) -> bool {
    job.options.transform().is_some_and(|it: Transform<L>| it.has_slopes())
}

/// The argmax of a position that has a NaN, +inf, or nothing but -inf. NaN counts as larger than everything.
fn nan_argmax<T: InPlanes>(
    job: &Job<'_>,
    from: PlanesFrom<'_, '_, T>,
    position: usize,
    classes: usize,
) -> usize {
    // A scale may make an infinite logit of a finite one.
    let logit = |class: usize| T::logit(job, from.plane(class, position..position + 1)[0]).into();
    let first_nan = (0..classes).find(|&class| logit(class).is_nan());
    let first_infinite = || (0..classes).find(|&class| logit(class) == f64::INFINITY);
    first_nan.or_else(first_infinite).unwrap_or(0)
}
