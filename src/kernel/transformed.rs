//! The passes over rows by way of transformed logits: some columns at a time, each transformed once in every pass, on the
//! stack.

use super::Entry;
use super::affine::Shift;
use super::gaps::Gaps;
use super::number::Number;
use super::place::{Columns, RowsOf};
use super::statistics::{BLOCK, Statistics, add_spread};
use super::tasks::{AffineTask, Content, LogProbabilitiesTask, StatisticsTask};
use super::transform::{Outgoing, TransformTask, WriteTask};
use crate::loss::Transform;
use crate::simd::{Simd, Task};

/// The statistics of some columns of a row, transformed.
pub(crate) struct TransformedStatisticsTask<'a, T> {
    pub(crate) transform: Transform,
    pub(crate) x: &'a [T],
    /// Transformed.
    pub(crate) pivot: Entry,
    pub(crate) gaps: Gaps<'a>,
}

/// [`SpreadTask`](super::tasks::SpreadTask) of a row, transformed.
pub(crate) struct TransformedSpreadTask<'a, T> {
    pub(crate) transform: Transform,
    pub(crate) x: &'a [T],
    pub(crate) max: f32,
    /// Transformed.
    pub(crate) pivot: Entry,
}

/// An output as wide as the row, of some columns, by way of the transformed logits.
pub(crate) struct TransformedTask<'a, F, T = F> {
    pub(crate) transform: Option<Transform>,
    pub(crate) columns: Columns<'a, F, T>,
    pub(crate) function: Function<'a>,
    pub(crate) target: Entry,
    /// Whether it is a gradient, which goes back through the transform.
    pub(crate) is_gradient: bool,
}

/// What such an output is; see [`AffineTask`] and [`LogProbabilitiesTask`].
#[derive(Clone, Copy)]
pub(crate) enum Function<'a> {
    Affine { max: f32, scale: f64, shift: Shift<'a> },
    LogProbabilities { max: f32, ln_sum: f32 },
}

/// Columns that are transformed, become an output, and go where it belongs. Few, because they are on the stack: no sum
/// depends on how many they are.
pub(crate) const PART: usize = 512;

impl<T> TransformedStatisticsTask<'_, T> {
    /// The first `columns` columns, and the others.
    pub(crate) fn split_at(self, columns: usize) -> (Self, Self) {
        let (first, second) = self.x.split_at(columns);
        let (pivot, gaps) = (self.pivot.from(columns), self.gaps.from(columns));
        (Self { x: first, ..self }, Self { x: second, pivot, gaps, ..self })
    }
}

impl<T: Number> Task for TransformedStatisticsTask<'_, T> {
    type Output = Statistics;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Statistics {
        let Self { transform, x, pivot, gaps } = self;
        let mut block = [0.0; BLOCK];
        let mut whole = Statistics::NOTHING;
        for start in (0..x.len()).step_by(BLOCK) {
            let x = &x[start..x.len().min(start + BLOCK)];
            let block = &mut block[..x.len()];
            s.vectorize(TransformTask::of_block(Some(transform), x, block, &mut []));
            whole = whole.merge(s.vectorize(StatisticsTask {
                columns: Columns::Read(block),
                following: 0,
                pivot: pivot.from(start),
                gaps: gaps.from(start),
                references: &mut [],
            }));
        }
        whole
    }
}

impl<T: Number> Task for TransformedSpreadTask<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let Self { transform, x, max, pivot } = self;
        let mut part = [0.0; PART];
        let mut whole = 0.0;
        for start in (0..x.len()).step_by(BLOCK) {
            let end = x.len().min(start + BLOCK);
            let mut sums = s.zero_sums();
            for start in (start..end).step_by(PART) {
                let x = &x[start..end.min(start + PART)];
                let part = &mut part[..x.len()];
                s.vectorize(TransformTask::of_block(Some(transform), x, part, &mut []));
                sums = add_spread(s, part, max, pivot.from(start), sums);
            }
            whole += s.sum_lanes(sums);
        }
        whole
    }
}

impl<F, T> TransformedTask<'_, F, T> {
    /// The first `columns` columns, and the others.
    pub(crate) fn split_at(self, columns: usize) -> (Self, Self) {
        let (first, second) = self.columns.split_at(columns);
        let (function, target) = (self.function.starting_at(columns), self.target.from(columns));
        (Self { columns: first, ..self }, Self { columns: second, function, target, ..self })
    }
}

impl Function<'_> {
    /// The same of the columns from `column` on.
    fn starting_at(self, column: usize) -> Self {
        match self {
            Self::Affine { max, scale, shift } => {
                Self::Affine { max, scale, shift: shift.starting_at(column) }
            }
            Self::LogProbabilities { .. } => self,
        }
    }
}

impl<F: Number, T: Number> Task for TransformedTask<'_, F, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let (mut block, mut slopes) = ([0.0; PART], [0.0; PART]);
        let has_slopes = self.is_gradient && self.transform.is_some_and(|it| it.has_slopes());
        while self.columns.len() > 0 {
            let len = self.columns.len().min(PART);
            let (first, rest) = self.split_at(len);
            let Self { transform, columns, function, target, .. } = first;
            let (block, slopes) = (&mut block[..len], &mut slopes[..if has_slopes { len } else { 0 }]);
            let x = columns.from();
            s.vectorize(TransformTask::of_block(transform, &x[..len], block, slopes));
            let (content, in_place) = (Content::LogitsOfShard, Columns::InPlace(&mut *block));
            match function {
                Function::Affine { max, scale, shift } => {
                    s.vectorize(AffineTask { columns: in_place, content, max, scale, shift, target });
                }
                Function::LogProbabilities { max, ln_sum } => {
                    s.vectorize(LogProbabilitiesTask { columns: in_place, max, ln_sum, target });
                }
            }
            let adds = matches!(columns, Columns::Adding(..));
            let streaming = matches!(columns, Columns::Streaming(..));
            let outgoing = Outgoing { from: block, slopes, row_stride: len, counts: None, adds, streaming };
            match columns {
                Columns::Read(_) => {}
                Columns::Between(_, to) | Columns::Streaming(_, to) | Columns::Adding(_, to) => {
                    s.vectorize(WriteTask { outgoing, rows: RowsOf::one(to) });
                }
                Columns::InPlace(x) => s.vectorize(WriteTask { outgoing, rows: RowsOf::one(x) }),
            }
            self = rest;
        }
    }
}
