//! How a call goes through the planes of each dtype.

use super::batch::Batch;
use super::{calls, doubles};
use crate::kernel::double::transform::{self as double, product};
use crate::kernel::place::RowsOf;
use crate::kernel::transform::{Outgoing, TransformTask, WriteTask};
use crate::passes::Kernels;
use crate::rows::{Dtype, Job, Totals};
use crate::simd::LANES;

/// What a call on planes needs of a dtype.
pub(crate) trait InPlanes: Dtype {
    /// All images. There are rows, and so there are classes.
    fn run(job: &Job<'_>, batch: Batch<'_, Self>) -> Totals;

    /// A logit as the loss sees it.
    fn logit(job: &Job<'_>, x: Self) -> Self::PerRow;

    /// The gradients with respect to logits, from those with respect to what a softcap makes of them; but for the scale.
    fn back(job: &Job<'_>, logits: &[Self; LANES], gradients: &mut [Self::PerRow; LANES]);
}

impl<T: Kernels> InPlanes for T {
    fn run(job: &Job<'_>, batch: Batch<'_, Self>) -> Totals {
        calls::run(job, batch)
    }

    fn logit(job: &Job<'_>, x: Self) -> f32 {
        job.logits(&[x]).entry(0).value
    }

    fn back(job: &Job<'_>, logits: &[Self; LANES], gradients: &mut [f32; LANES]) {
        let (transform, instructions) = (job.options.transform(), job.schedule.instructions);
        let (mut transformed, mut slopes, from) = ([0.0; LANES], [0.0; LANES], *gradients);
        instructions.run(TransformTask::of_block(transform, logits, &mut transformed, &mut slopes));
        let outgoing = Outgoing {
            from: &from,
            slopes: &slopes,
            row_stride: LANES,
            counts: None,
            adds: false,
            streaming: false,
        };
        instructions.run(WriteTask { outgoing, rows: RowsOf::one(&mut gradients[..]) });
    }
}

impl InPlanes for f64 {
    fn run(job: &Job<'_>, batch: Batch<'_, Self>) -> Totals {
        doubles::run(job, batch)
    }

    fn logit(job: &Job<'_>, x: Self) -> f64 {
        let Some(transform) = job.options.transform() else { return x };
        let mut to = [0.0];
        let task = double::TransformTask { transform, from: &[x], to: &mut to, slopes: &mut [] };
        job.schedule.instructions.run(task);
        to[0]
    }

    fn back(job: &Job<'_>, logits: &[Self; LANES], gradients: &mut [f64; LANES]) {
        let Some(transform) = job.options.transform() else { return };
        let (mut to, mut slopes) = ([0.0; LANES], [0.0; LANES]);
        let task = double::TransformTask { transform, from: logits, to: &mut to, slopes: &mut slopes };
        job.schedule.instructions.run(task);
        for (gradient, slope) in gradients.iter_mut().zip(slopes) {
            *gradient = product(*gradient, slope);
        }
    }
}
