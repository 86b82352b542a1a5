//! The passes over rows of `f64`: one kind, one row after the other.

use core::ops::Range;

use crate::batch::{Batch, Wide};
use crate::kernel::Entry;
use crate::kernel::double::affine::{Affine, AffineTask, LogProbabilitiesTask};
use crate::kernel::double::search::{FirstEqual, Rank};
use crate::kernel::double::statistics::{SpreadTask, StatisticsTask};
use crate::kernel::gaps::Gaps;
use crate::kernel::lanes::{NO_CLASS, RowLanes};
use crate::kernel::place::Columns;
use crate::kernel::statistics::Statistics;
use crate::passes::{Output, Passes, gaps_of, keeps};
use crate::rows::{Dtype, Job, Totals, run_passes};

impl Dtype for f64 {
    fn run_piece(job: &Job<'_>, batch: Batch<'_, Self>, rows_per_piece: usize) -> Totals {
        let mut passes = Doubles { keeps: keeps(job, &batch) };
        run_passes(job, batch, &mut passes, rows_per_piece)
    }

    fn first_equal(job: &Job<'_>, x: &[Self], value: Self) -> Option<usize> {
        job.schedule.instructions.run(FirstEqual { x, value })
    }

    fn rank(job: &Job<'_>, x: &[Self], class: usize) -> usize {
        job.schedule.instructions.run(Rank { x, class })
    }

    fn statistics_without(job: &Job<'_>, x: &[Self], pivot: Entry<Self>) -> Statistics<Self> {
        job.schedule.instructions.run(StatisticsTask { columns: Columns::Read(x), pivot, gaps: Gaps::None })
    }

    fn spread(job: &Job<'_>, x: &[Self], max: Self, pivot: Entry<Self>) -> f64 {
        job.schedule.instructions.run(SpreadTask { x, max, pivot })
    }

    fn log_probabilities(
        job: &Job<'_>,
        columns: Columns<'_, Self>,
        max: Self,
        ln_sum: f64,
        target: Entry<Self>,
    ) {
        job.schedule.instructions.run(LogProbabilitiesTask { columns, max, ln_sum, target });
    }
}

/// Exponentials are kept in the row that they become, where an output has room for them.
struct Doubles {
    keeps: Option<Wide>,
}

impl Passes<f64> for Doubles {
    fn statistics(
        &mut self,
        job: &Job<'_>,
        batch: &mut Batch<'_, f64>,
        tile: Range<usize>,
        lanes: &mut RowLanes<f64>,
    ) {
        let gaps = gaps_of(job, batch);
        for (lane, row) in tile.enumerate() {
            if !lanes.counts[lane] && batch.targets.is_some() {
                continue;
            }
            let x = batch.logits.row(row);
            let pivot = match lanes.class[lane] {
                NO_CLASS => Entry::NONE,
                class => Entry::new(class, x[class]),
            };
            let gaps = if lanes.class[lane] == NO_CLASS { Gaps::None } else { gaps };
            let columns = match self.keeps {
                Some(wide) => batch.columns(row, wide, false),
                None => Some(Columns::Read(x)),
            };
            let Some(columns) = columns else { continue };
            let task = StatisticsTask { columns, pivot, gaps };
            lanes.set_statistics(lane, &job.schedule.instructions.run(task), pivot.value);
        }
    }

    fn affine(
        &mut self,
        job: &Job<'_>,
        batch: &mut Batch<'_, f64>,
        tile: Range<usize>,
        output: &Output<'_, f64>,
    ) {
        let Output { wide, lanes, coefficients } = *output;
        for (lane, row) in tile.enumerate().filter(|&(lane, _)| lanes.counts[lane]) {
            let mut target = Entry::NONE;
            let mut weights = Gaps::None;
            if lanes.class[lane] != NO_CLASS {
                target = Entry::new(lanes.class[lane], coefficients.at_target[lane]);
                weights = output.gaps(job);
            }
            let is_kept = self.keeps == Some(wide);
            let columns = if is_kept {
                batch.wide_row(row, wide).map(Columns::InPlace)
            } else {
                batch.columns(row, wide, false)
            };
            let Some(columns) = columns else { return };
            let affine = Affine {
                max: (!is_kept).then_some(lanes.max[lane]),
                scale: coefficients.scale[lane],
                least: coefficients.least[lane],
                shift: coefficients.shift[lane],
                weights,
            };
            job.schedule.instructions.run(AffineTask { columns, affine, target });
        }
    }
}
