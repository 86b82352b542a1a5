//! A row's logits as the loss sees them: as they are, or transformed on the way, a block at a time.

use crate::batch::Wide;
use crate::kernel::Entry;
use crate::kernel::gaps::Gaps;
use crate::kernel::number::Number;
use crate::kernel::place::Columns;
use crate::kernel::statistics::Statistics;
use crate::kernel::tasks::{AffineTask, FirstEqual, LogProbabilitiesTask, Rank, SpreadTask, StatisticsTask};
use crate::kernel::transform::TransformTask;
use crate::kernel::transformed::{
    Function, PART, TransformedSpreadTask, TransformedStatisticsTask, TransformedTask,
};
use crate::loss::{Options, Transform};
use crate::parallel::Schedule;
use crate::rows::Job;

/// A row, or some columns of one.
#[derive(Clone, Copy)]
pub(crate) struct RowLogits<'a, T> {
    schedule: Schedule,
    transform: Option<Transform>,
    x: &'a [T],
}

impl<'a, T: Number> RowLogits<'a, T> {
    pub(crate) fn new(schedule: Schedule, options: &Options, x: &'a [T]) -> Self {
        Self { schedule, transform: options.transform(), x }
    }

    /// Some of the columns.
    pub(crate) fn of(self, x: &'a [T]) -> Self {
        Self { x, ..self }
    }

    pub(crate) fn columns(&self) -> &'a [T] {
        self.x
    }

    /// A class and its logit.
    pub(crate) fn entry(&self, class: usize) -> Entry {
        let mut logit = [self.x[class].to_f32()];
        if let Some(transform) = self.transform {
            let task = TransformTask::of_block(Some(transform), &self.x[class..=class], &mut logit, &mut []);
            self.schedule.instructions.run(task);
        }
        Entry::new(class, logit[0])
    }

    /// The first pass. Blocks of transformed logits have no references.
    pub(crate) fn statistics(
        &self,
        following: usize,
        pivot: Entry,
        gaps: Gaps<'_>,
        references: &mut [f32],
    ) -> Statistics {
        let Self { schedule, transform, x } = *self;
        match transform {
            None => {
                let columns = Columns::Read(x);
                schedule.statistics(StatisticsTask { columns, following, pivot, gaps, references })
            }
            Some(transform) => {
                schedule.transformed_statistics(TransformedStatisticsTask { transform, x, pivot, gaps })
            }
        }
    }

    /// The first class with this logit.
    pub(crate) fn first_equal(&self, value: f32) -> Option<usize> {
        let instructions = self.schedule.instructions;
        let Some(transform) = self.transform else {
            return instructions.run(FirstEqual { x: self.x, value });
        };
        let mut found = None;
        self.each_part(transform, |start, x| {
            found = instructions.run(FirstEqual { x, value }).map(|index| start + index);
            found.is_none()
        });
        found
    }

    /// How many classes come before this one.
    pub(crate) fn rank(&self, class: usize) -> usize {
        let (instructions, class) = (self.schedule.instructions, self.entry(class));
        let Some(transform) = self.transform else { return instructions.run(Rank { x: self.x, class }) };
        let mut rank = 0;
        self.each_part(transform, |start, x| {
            rank += instructions.run(Rank { x, class: class.from(start) });
            true
        });
        rank
    }

    /// The sum of exp(x - max) (max - x) of all columns but the pivot.
    pub(crate) fn spread(&self, max: f32, pivot: Entry) -> f64 {
        let Self { schedule, transform, x } = *self;
        match transform {
            None => schedule.spread(SpreadTask { x, max, pivot }),
            Some(transform) => schedule.instructions.run(TransformedSpreadTask { transform, x, max, pivot }),
        }
    }

    /// Hands transformed columns over, with the first of them, as long as `next` returns true.
    fn each_part(&self, transform: Transform, mut next: impl FnMut(usize, &[f32]) -> bool) {
        let mut part = [0.0; PART];
        for (index, x) in self.x.chunks(PART).enumerate() {
            let part = &mut part[..x.len()];
            self.schedule.instructions.run(TransformTask::of_block(Some(transform), x, part, &mut []));
            if !next(index * PART, part) {
                return;
            }
        }
    }
}

impl Job<'_> {
    /// A row as the loss sees it.
    pub(crate) fn logits<'a, T: Number>(&self, x: &'a [T]) -> RowLogits<'a, T> {
        RowLogits::new(self.schedule, self.options, x)
    }

    /// The second pass over a row's logits. Where they are transformed, what it reads is relative to the row's maximum.
    pub(crate) fn affine<T: Number>(&self, task: AffineTask<'_, T>, wide: Wide) {
        match self.options.transform::<f32>() {
            None => self.schedule.affine(task),
            Some(_) => self.affine_by_f32(task, wide),
        }
    }

    /// The same by way of `f32` in memory of its own, to any dtype.
    pub(crate) fn affine_by_f32<F: Number, T: Number>(&self, task: AffineTask<'_, F, T>, wide: Wide) {
        let AffineTask { columns, max, scale, shift, target, .. } = task;
        let (transform, function) = (self.options.transform(), Function::Affine { max, scale, shift });
        let is_gradient = wide == Wide::Gradient;
        self.schedule.transformed(TransformedTask { transform, columns, function, target, is_gradient });
    }

    pub(crate) fn log_probabilities<T: Number>(&self, task: LogProbabilitiesTask<'_, T>) {
        let Some(transform) = self.options.transform() else { return self.schedule.log_probabilities(task) };
        let LogProbabilitiesTask { columns, max, ln_sum, target } = task;
        let function = Function::LogProbabilities { max, ln_sum };
        self.schedule.transformed(TransformedTask {
            transform: Some(transform),
            columns,
            function,
            target,
            is_gradient: false,
        });
    }
}
