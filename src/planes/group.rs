//! What 16 positions need besides their logits, and what comes of them.

use core::marker::PhantomData;
use core::ops::Range;

use super::batch::Positions;
use crate::batch::{Wide, look_up};
use crate::kernel::lanes::{CoefficientLanes, CoefficientsTask, NO_CLASS, Results, ResultsTask, RowLanes};
use crate::kernel::number::{Number, Rounded};
use crate::kernel::place::RowsOf;
use crate::kernel::planes::{Fill, PlanesFrom};
use crate::kernel::scalar::to_f32;
use crate::kernel::transform::{Outgoing, TransformTask, WriteTask};
use crate::loss::{Softmax, Transform};
use crate::row_outputs::NO_RANK;
use crate::rows::{Job, Totals};
use crate::simd::LANES;

/// The scalars of 16 positions.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    pub(super) rows: RowLanes,
    results: Results,
    /// The first class of the largest logits but the target's, where it was asked for.
    pub(super) largest: [usize; LANES],
}

/// Where lse would lose what the largest logit's rounding hides, the largest logit takes the target's place. Of
/// magnitudes from here on, the rounding of lse itself is as large.
const NEAR_0: f32 = 1.0;

impl Group {
    /// What the positions bring along.
    pub(super) fn look_up(
        &mut self,
        job: &Job<'_>,
        positions: &Positions<'_>,
        classes: usize,
        range: Range<usize>,
    ) {
        if range.len() < self.rows.len {
            *self = Self::default();
        }
        look_up(Some(positions.targets), &positions.inputs, classes, range, job, &mut self.rows);
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
    pub(super) fn near_0(&self) -> Option<RowLanes> {
        let mut again = RowLanes { len: self.rows.len, ..RowLanes::default() };
        for lane in 0..self.rows.len {
            let softmax = self.results.softmax(&self.rows, lane);
            if self.rows.counts[lane] && softmax.has_dominant_other() && softmax.max.abs() < NEAR_0 {
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
    pub(super) fn write<T: Number>(
        &mut self,
        job: &Job<'_>,
        positions: &mut Positions<'_>,
        range: Range<usize>,
        from: PlanesFrom<'_, '_, T>,
        classes: usize,
        again: Option<&RowLanes>,
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
                    (true, _) => to_f32(exact.lse()),
                    (false, true) => 0.0,
                    (false, false) => f32::NAN,
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
    pub(super) fn coefficients<T: Rounded<Real = f32>>(
        &self,
        job: &Job<'_>,
        wide: Wide,
        coefficients: &mut CoefficientLanes,
    ) -> Option<Fill> {
        let Self { rows, results, .. } = self;
        let terms = (wide == Wide::Gradient).then_some(&job.terms);
        let instructions = job.schedule.instructions;
        let task = CoefficientsTask { rows, terms, results, coefficients, dtype: PhantomData::<T> };
        let has_slopes = job.options.transform().is_some_and(|it: Transform| it.has_slopes());
        if wide == Wide::Gradient && has_slopes {
            // A product with the transform's derivative is still to come.
            instructions.run(task.rounding_to::<f32>());
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
            fill.value[lane] = if rows.class[lane] == NO_CLASS { 0.0 } else { f32::NAN };
        }
        Some(fill)
    }
}

impl Group {
    /// The gradients at the targets with respect to the logits, from those with respect to the transformed ones. The
    /// first position of the group is at `start`.
    pub(super) fn back_at_targets<T: Number>(
        &self,
        job: &Job<'_>,
        from: PlanesFrom<'_, '_, T>,
        start: usize,
        at_target: &mut [f32; LANES],
    ) {
        let Some(transform) = job.options.transform().filter(Transform::has_slopes) else { return };
        let (mut logits, mut transformed, mut slopes) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for lane in (0..self.rows.len).filter(|&lane| self.rows.counts[lane]) {
            let position = start + lane;
            logits[lane] = from.plane(self.rows.class[lane], position..position + 1)[0].to_f32();
        }
        let (transform, gradients) = (Some(transform), *at_target);
        let instructions = job.schedule.instructions;
        instructions.run(TransformTask::of_block(transform, &logits, &mut transformed, &mut slopes));
        let outgoing = Outgoing {
            from: &gradients,
            slopes: &slopes,
            row_stride: LANES,
            counts: None,
            adds: false,
            streaming: false,
        };
        instructions.run(WriteTask { outgoing, rows: RowsOf::one(&mut at_target[..]) });
    }
}

/// The argmax of a position that has a NaN, +inf, or nothing but -inf. NaN counts as larger than everything.
fn nan_argmax<T: Number>(
    job: &Job<'_>,
    from: PlanesFrom<'_, '_, T>,
    position: usize,
    classes: usize,
) -> usize {
    // A scale may make an infinite logit of a finite one.
    let logit = |class: usize| job.logits(from.plane(class, position..position + 1)).entry(0).value;
    let first_nan = (0..classes).find(|&class| logit(class).is_nan());
    let first_infinite = || (0..classes).find(|&class| logit(class) == f32::INFINITY);
    first_nan.or_else(first_infinite).unwrap_or(0)
}
