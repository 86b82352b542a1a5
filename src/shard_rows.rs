//! Rows of shards on their way to a kernel: from columns to states, and from finished states to a gradient.
//!
//! A finished state is what the first pass over a whole row would have found. So the second pass goes the way of whole
//! rows, with the states in place of a first pass, and what belongs to classes counted from the shard's first column.

use core::f64::consts::E;
use core::ops::Range;

use crate::Element;
use crate::batch::Batch;
use crate::kernel::Entry;
use crate::kernel::gaps::Gaps;
use crate::kernel::lanes::RowLanes;
use crate::kernel::statistics::Statistics;
use crate::kernel::tasks::Content;
use crate::loss::Options;
use crate::parallel::{Schedule, SplitRows};
use crate::passes::{Kernels, Output, Passes};
use crate::row_logits::RowLogits;
use crate::row_state::{RowState, TargetColumn};
use crate::rows::{self, Job, Totals};

/// Columns of rows, and the states that they are merged into.
pub(crate) struct Unsummarised<'a, T: Element> {
    pub(crate) batch: Batch<'a, T>,
    pub(crate) states: &'a mut [RowState],
}

/// Columns of rows whose states are complete.
pub(crate) struct Finished<'a, T: Element> {
    pub(crate) batch: Batch<'a, T>,
    pub(crate) states: &'a [RowState],
}

/// The dtypes that logits of shards may have, those that are computed in `f32`: `f32` itself, and with the feature `half`
/// `half::bf16` and `half::f16`.
pub trait ShardElement: Element<PerRow = f32> + sealed::ShardElement {}

mod sealed {
    use super::{Finished, Job, Summarise, Totals, Unsummarised};

    #[allow(private_interfaces)]
    pub trait ShardElement: crate::Element {
        #[doc(hidden)]
        fn summarise(summarise: Summarise<'_>, rows: Unsummarised<'_, Self>);

        #[doc(hidden)]
        fn finish(job: &Job<'_>, first_column: usize, rows: Finished<'_, Self>) -> Totals;
    }
}

/// What it takes to summarise columns.
#[derive(Clone, Copy)]
pub(crate) struct Summarise<'a> {
    pub(crate) schedule: Schedule,
    pub(crate) options: &'a Options,
    /// The class of the first column.
    pub(crate) first_column: usize,
}

/// The passes over columns of rows whose states are complete.
pub(crate) struct FinishedRows<'a> {
    pub(crate) states: &'a [RowState],
    pub(crate) first_column: usize,
}

impl<T: Element> SplitRows for Unsummarised<'_, T> {
    fn rows(&self) -> usize {
        self.batch.rows()
    }

    fn split_at(self, rows: usize) -> (Self, Self) {
        let (batch, batch_rest) = self.batch.split_at(rows);
        let (states, states_rest) = self.states.split_at_mut(rows);
        (Self { batch, states }, Self { batch: batch_rest, states: states_rest })
    }
}

impl<T: Element> SplitRows for Finished<'_, T> {
    fn rows(&self) -> usize {
        self.batch.rows()
    }

    fn split_at(self, rows: usize) -> (Self, Self) {
        let (batch, batch_rest) = self.batch.split_at(rows);
        let (states, states_rest) = self.states.split_at(rows);
        (Self { batch, states }, Self { batch: batch_rest, states: states_rest })
    }
}

/// Functions of one type each, so that the kernels are compiled with this crate and not with its users.
macro_rules! shard_elements {
    ($($element:ty),+) => {
        $(
            impl ShardElement for $element {}

            #[allow(private_interfaces)]
            impl sealed::ShardElement for $element {
                fn summarise(summarise: Summarise<'_>, rows: Unsummarised<'_, Self>) {
                    let columns = rows.batch.classes();
                    let pieces = |rows: Unsummarised<'_, Self>, _| summarise.run(rows);
                    summarise.schedule.run_pieces(rows, columns, false, &pieces, |(), ()| ());
                }

                fn finish(job: &Job<'_>, first_column: usize, rows: Finished<'_, Self>) -> Totals {
                    let columns = rows.batch.classes();
                    let pieces = |rows: Finished<'_, Self>, rows_per_piece| {
                        let mut passes = FinishedRows { states: rows.states, first_column };
                        rows::run_passes(job, rows.batch, &mut passes, rows_per_piece)
                    };
                    job.schedule.run_pieces(rows, columns, job.streaming, &pieces, Totals::add)
                }
            }
        )+
    };
}

shard_elements!(f32);
#[cfg(feature = "half")]
shard_elements!(half::bf16, half::f16);

impl Summarise<'_> {
    /// Merges every row's columns into its state.
    fn run<T: Kernels>(&self, rows: Unsummarised<'_, T>) {
        let Unsummarised { batch, states } = rows;
        let Some(targets) = batch.targets else { return };
        for (row, state) in states.iter_mut().enumerate() {
            let class = targets.class(row, &self.options.ignore_indices);
            *state = state.merge(match class.filter(|_| batch.request.inputs.may_count(row)) {
                Some(class) => {
                    let logits = RowLogits::new(self.schedule, self.options, batch.logits.row(row));
                    self.row(logits, batch.following(row), class)
                }
                None => RowState::unread(batch.classes()),
            });
        }
    }

    fn row<T: Kernels>(&self, logits: RowLogits<'_, T>, following: usize, class: usize) -> RowState {
        let x = logits.columns();
        let (target, pivot) = match class.checked_sub(self.first_column) {
            None => (TargetColumn::Before, Entry::NONE),
            Some(column) if column < x.len() => {
                let pivot = logits.entry(column);
                (TargetColumn::Among(pivot.value), pivot)
            }
            Some(_) => (TargetColumn::Behind, Entry::NONE),
        };
        let gaps = self.options.gaps().from(self.first_column);
        let statistics = logits.statistics(following, pivot, gaps, &mut []);
        let rest = if has_dominant_other_near_zero(&statistics, pivot) {
            sum_without_largest(logits, pivot, statistics.max)
        } else if statistics.max == f32::NEG_INFINITY {
            statistics.sum
        } else {
            statistics.sum - 1.0
        };
        RowState::new(x.len(), &statistics, rest, target)
    }
}

/// The sum of exp(x - max) without the pivot and without the first that is `max`.
fn sum_without_largest<T: Kernels>(logits: RowLogits<'_, T>, pivot: Entry, max: f32) -> f64 {
    let Some(largest) = logits.first_equal(max) else { return 0.0 };
    let (before, behind) = (&logits.columns()[..largest], &logits.columns()[largest + 1..]);
    let before = logits.of(before).statistics(0, pivot, Gaps::None, &mut []);
    let behind = logits.of(behind).statistics(0, pivot.from(largest + 1), Gaps::None, &mut []);
    // Relative to `max`, which no other exceeds.
    before.merge(behind).merge(Statistics { max, ..Statistics::NOTHING }).sum
}

/// Whether the sum next to its largest term may have been lost to the rounding of that term, and be missed: in the lse of
/// rows whose maximum is near 0.
fn has_dominant_other_near_zero(statistics: &Statistics, pivot: Entry) -> bool {
    statistics.max.abs() < 1.0 && statistics.sum < E && pivot.value < statistics.max
}

impl<T: Kernels> Passes<T> for FinishedRows<'_> {
    fn statistics(&mut self, _: &Job<'_>, _: &mut Batch<'_, T>, tile: Range<usize>, lanes: &mut RowLanes) {
        for (lane, state) in self.states[tile].iter().enumerate() {
            lanes.set_statistics(lane, &state.statistics(), state.target_logit());
        }
    }

    fn affine(&mut self, job: &Job<'_>, batch: &mut Batch<'_, T>, tile: Range<usize>, output: &Output<'_>) {
        let Output { wide, lanes, .. } = *output;
        for (lane, row) in tile.enumerate() {
            if !lanes.counts[lane] {
                continue;
            }
            let mut affine = output.of_row(job, lane, Content::LogitsOfShard);
            affine.target = affine.target.from(self.first_column);
            affine.shift = affine.shift.starting_at(self.first_column);
            batch.affine(job, row, wide, affine);
        }
    }
}
