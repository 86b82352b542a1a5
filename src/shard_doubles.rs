//! Rows of `f64` in shards: the passes of whole rows, with states whose sums carry along what rounding took from them.

use core::f64::consts::E;
use core::ops::Range;

use crate::RowStateF64;
use crate::batch::Batch;
use crate::doubles::Doubles;
use crate::kernel::Entry;
use crate::kernel::double::pair::{Lifted, Pair};
use crate::kernel::double::search::FirstEqual;
use crate::kernel::double::statistics::{StatisticsTask, Summed, SummedTask};
use crate::kernel::gaps::Gaps;
use crate::kernel::lanes::RowLanes;
use crate::kernel::place::Columns;
use crate::loss::Transform;
use crate::passes::{Output, Passes};
use crate::row_state::TargetColumn;
use crate::rows::Job;
use crate::shard_rows::{FinishedRows, Summarise};

impl Summarise<'_> {
    pub(crate) fn row_of_doubles(&self, batch: &Batch<'_, f64>, row: usize, class: usize) -> RowStateF64 {
        let (x, transform) = (batch.logits.row(row), self.options.transform());
        let doubles = Doubles { keeps: None, transform, first_column: self.first_column };
        let (target, pivot) = match class.checked_sub(self.first_column) {
            None => (TargetColumn::Before, Entry::NONE),
            Some(column) if column < x.len() => {
                let logit = doubles.transformed(self.schedule, x[column]);
                (TargetColumn::Among(logit), Entry::new(column, logit))
            }
            Some(_) => (TargetColumn::Behind, Entry::NONE),
        };
        let gaps = self.options.gaps().from(self.first_column);
        let summed = self.summed(x, pivot, gaps);
        let rest = if has_dominant_other_near_zero(&summed, pivot) {
            self.sum_without_largest(x, pivot, summed.statistics.max)
        } else {
            rest_of(&summed)
        };
        RowStateF64::new(x.len(), &summed, rest, target)
    }

    fn summed(&self, x: &[f64], pivot: Entry<f64>, gaps: Gaps<'_, f64>) -> Summed {
        let (columns, transform) = (Columns::Read(x), self.options.transform());
        self.schedule.instructions.run(SummedTask(StatisticsTask { columns, transform, pivot, gaps }))
    }

    /// The sum of exp(x - max) without the pivot and without the first that is `max`.
    fn sum_without_largest(&self, x: &[f64], pivot: Entry<f64>, max: f64) -> Lifted {
        let transform: Option<Transform<f64>> = self.options.transform();
        let largest = self.schedule.instructions.run(FirstEqual { x, transform, value: max });
        let Some(largest) = largest else { return Lifted::ZERO };
        let state = |x: &[f64], pivot| {
            let summed = self.summed(x, pivot, Gaps::None);
            RowStateF64::new(x.len(), &summed, rest_of(&summed), TargetColumn::Before)
        };
        let (before, behind) = (&x[..largest], &x[largest + 1..]);
        state(before, pivot).merge(state(behind, pivot.from(largest + 1))).sum_below(max)
    }
}

/// The sum without its largest term, which is 1: what is left of it next to that.
fn rest_of(Summed { statistics, lost }: &Summed) -> Lifted {
    let one = if statistics.max == f64::NEG_INFINITY { 0.0 } else { 1.0 };
    // Exact.
    let rest = statistics.sum - one;
    Lifted::new(Pair::new(rest, 0.0).add(Pair::new(lost.sum, 0.0)))
}

/// As that of rows of `f32`.
fn has_dominant_other_near_zero(Summed { statistics, .. }: &Summed, pivot: Entry<f64>) -> bool {
    statistics.max.abs() < 1.0 && statistics.sum < E && pivot.value < statistics.max
}

impl Passes<f64> for FinishedRows<'_, RowStateF64> {
    fn statistics(
        &mut self,
        _: &Job<'_>,
        _: &mut Batch<'_, f64>,
        tile: Range<usize>,
        lanes: &mut RowLanes<f64>,
    ) {
        for (lane, state) in self.states[tile].iter().enumerate() {
            lanes.set_statistics(lane, &state.statistics(), state.target_logit());
        }
    }

    fn affine(
        &mut self,
        job: &Job<'_>,
        batch: &mut Batch<'_, f64>,
        tile: Range<usize>,
        output: &Output<'_, f64>,
    ) {
        let transform = job.options.transform();
        Doubles { keeps: None, transform, first_column: self.first_column }.affine(job, batch, tile, output);
    }
}
