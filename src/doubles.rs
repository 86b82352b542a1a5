//! The passes over rows of `f64`: one kind, one row after the other.

use core::ops::Range;

use crate::batch::{Batch, Wide};
use crate::grad::OtherGrad;
use crate::kernel::Entry;
use crate::kernel::double::affine::{Affine, AffineTask, LogProbabilitiesTask};
use crate::kernel::double::search::{FirstEqual, Rank};
use crate::kernel::double::statistics::{SpreadTask, StatisticsTask};
use crate::kernel::double::transform::{TransformTask, product};
use crate::kernel::gaps::Gaps;
use crate::kernel::lanes::{NO_CLASS, RowLanes};
use crate::kernel::place::Columns;
use crate::kernel::results::CoefficientsTask;
use crate::kernel::statistics::Statistics;
use crate::loss::Transform;
use crate::parallel::Schedule;
use crate::passes::{Output, Passes, gaps_of, keeps};
use crate::rows::{Dtype, Job, Totals, run_passes};
use crate::target_probabilities::set_statistics;

impl Dtype for f64 {
    fn run_piece(job: &Job<'_>, batch: Batch<'_, Self>, rows_per_piece: usize) -> Totals {
        let transform = job.options.transform();
        // What is multiplied by a transform's derivative needs the logits once more; and so does what may take another
        // pivot.
        let has_slopes = transform.is_some_and(|it: Transform<f64>| it.has_slopes());
        let is_distribution = batch.target_probabilities.is_some();
        let has_room = batch.request.other_grad().is_none();
        let needs_logits = |wide| is_distribution || wide == Wide::Gradient && (has_slopes || !has_room);
        let keeps = keeps(job, &batch).filter(|&wide| !needs_logits(wide));
        run_passes(job, batch, |_, _| Doubles { keeps, transform, first_column: 0 }, rows_per_piece)
    }

    fn round_gradient(job: &Job<'_>, _: Option<&OtherGrad<'_>>, task: CoefficientsTask<'_, Self>) {
        job.schedule.instructions.run(task);
    }

    fn first_equal(job: &Job<'_>, x: &[Self], value: Self) -> Option<usize> {
        job.schedule.instructions.run(FirstEqual { x, transform: job.options.transform(), value })
    }

    fn rank(job: &Job<'_>, x: &[Self], class: usize) -> usize {
        job.schedule.instructions.run(Rank { x, transform: job.options.transform(), class })
    }

    fn statistics_without(job: &Job<'_>, x: &[Self], pivot: Entry<Self>) -> Statistics<Self> {
        let (columns, transform) = (Columns::Read(x), job.options.transform());
        job.schedule.instructions.run(StatisticsTask { columns, transform, pivot, gaps: Gaps::None })
    }

    fn spread(job: &Job<'_>, x: &[Self], max: Self, pivot: Entry<Self>) -> f64 {
        job.schedule.instructions.run(SpreadTask { x, transform: job.options.transform(), max, pivot })
    }

    fn log_probabilities(
        job: &Job<'_>,
        columns: Columns<'_, Self>,
        max: Self,
        ln_sum: f64,
        target: Entry<Self>,
    ) {
        job.schedule.instructions.run(LogProbabilitiesTask {
            columns,
            transform: job.options.transform(),
            max,
            ln_sum,
            target,
        });
    }
}

/// Exponentials are kept in the row that they become, where an output has room for them.
pub(crate) struct Doubles {
    pub(crate) keeps: Option<Wide>,
    pub(crate) transform: Option<Transform<f64>>,
    /// The class of the first column: not 0, where the columns are those of a shard.
    pub(crate) first_column: usize,
}

impl Doubles {
    pub(crate) fn transformed(&self, schedule: Schedule, x: f64) -> f64 {
        let mut to = [x];
        if let Some(transform) = self.transform {
            schedule.instructions.run(TransformTask { transform, from: &[x], to: &mut to, slopes: &mut [] });
        }
        to[0]
    }

    /// The gradient with respect to a logit, from that with respect to the transformed one; but for the scale.
    fn gradient(&self, job: &Job<'_>, x: f64, of_transformed: f64) -> f64 {
        let Some(transform) = self.transform.filter(Transform::has_slopes) else { return of_transformed };
        let (mut to, mut slopes) = ([0.0], [0.0]);
        let task = TransformTask { transform, from: &[x], to: &mut to, slopes: &mut slopes };
        job.schedule.instructions.run(task);
        product(of_transformed, slopes[0])
    }
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
        let (transform, instructions) = (self.transform, job.schedule.instructions);
        for (lane, row) in tile.enumerate() {
            if !lanes.counts[lane] {
                continue;
            }
            let x = batch.logits.row(row);
            if batch.target_probabilities.is_some() {
                let distribution = job.options.distribution(batch.distribution(row));
                let gaps = Gaps::Distribution(distribution);
                let statistics_without = |pivot| {
                    let columns = Columns::Read(x);
                    instructions.run(StatisticsTask { columns, transform, pivot, gaps })
                };
                set_statistics(job, x, distribution, lanes, lane, statistics_without);
                continue;
            }
            let pivot = match lanes.class[lane] {
                NO_CLASS => Entry::NONE,
                class => Entry::new(class, self.transformed(job.schedule, x[class])),
            };
            let gaps = if lanes.class[lane] == NO_CLASS { Gaps::None } else { gaps };
            let columns = match self.keeps {
                Some(wide) => batch.columns(row, wide, false),
                None => Some(Columns::Read(x)),
            };
            let Some(columns) = columns else { continue };
            let task = StatisticsTask { columns, transform, pivot, gaps };
            lanes.set_statistics(lane, &instructions.run(task), pivot.value);
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
        let target_probabilities = batch.target_probabilities;
        for (lane, row) in tile.enumerate().filter(|&(lane, _)| lanes.counts[lane]) {
            let (is_kept, is_gradient) = (self.keeps == Some(wide), wide == Wide::Gradient);
            let distribution =
                target_probabilities.filter(|_| is_gradient).and_then(|matrix| matrix.row(row));
            let weights = match distribution {
                Some(probabilities) => Gaps::Distribution(job.options.distribution(probabilities)),
                None if lanes.class[lane] == NO_CLASS => Gaps::None,
                None => output.gaps(job).from(self.first_column),
            };
            let mut target = Entry::NONE;
            if lanes.class[lane] != NO_CLASS {
                target = Entry::new(lanes.class[lane], coefficients.at_target[lane]).from(self.first_column);
                let column = lanes.class[lane].checked_sub(self.first_column);
                if is_gradient && let Some(x) = column.and_then(|column| batch.logits.row(row).get(column)) {
                    target.value = self.gradient(job, *x, target.value);
                }
            }
            let affine = Affine {
                max: (!is_kept).then_some(lanes.max[lane]),
                scale: coefficients.scale[lane],
                least: coefficients.least[lane],
                shift: coefficients.shift[lane],
                weights,
            };
            let transform = self.transform.filter(|_| !is_kept);
            let adds = batch.adds(wide);
            if let Some((grad, x)) = batch.other_grad(row, wide) {
                let to = |first: usize, grad_of_columns: &[f64]| {
                    grad.write_doubles(row, first, grad_of_columns, adds);
                };
                by_way_of_doubles(job, x, transform, affine, target, to);
                continue;
            }
            let columns = if is_kept {
                batch.wide_row(row, wide).map(Columns::InPlace)
            } else {
                batch.columns(row, wide, false)
            };
            let Some(columns) = columns else { return };
            job.schedule.instructions.run(AffineTask { columns, transform, is_gradient, affine, target });
        }
    }
}

/// The columns of a part of a row whose gradient is written in another dtype: 4 KiB of `f64`.
pub(crate) const COLUMNS: usize = 512;

/// A row in parts, each with its first column.
pub(crate) fn parts(x: &[f64]) -> impl Iterator<Item = (usize, &[f64])> {
    x.chunks(COLUMNS).enumerate().map(|(index, part)| (index * COLUMNS, part))
}

/// The gradient of a row, some columns at a time in memory of its own, from where `write` takes it with the first of them.
fn by_way_of_doubles(
    job: &Job<'_>,
    x: &[f64],
    transform: Option<Transform<f64>>,
    affine: Affine<'_>,
    target: Entry<f64>,
    mut write: impl FnMut(usize, &[f64]),
) {
    let mut grad = [0.0; COLUMNS];
    for (first, x) in parts(x) {
        let grad = &mut grad[..x.len()];
        let columns = Columns::Between(x, &mut *grad);
        let affine = Affine { weights: affine.weights.from(first), ..affine };
        let target = target.from(first);
        job.schedule.instructions.run(AffineTask { columns, transform, is_gradient: true, affine, target });
        write(first, grad);
    }
}
