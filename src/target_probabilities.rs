//! Targets that are probabilities: the calls, and the passes of such rows.

use core::ops::Range;
use core::slice;

use crate::batch::{Batch, Logits, Wide};
use crate::cross_entropy::Census;
use crate::kernel::Entry;
use crate::kernel::affine::Shift;
use crate::kernel::few_classes::{self, AffineTask};
use crate::kernel::few_distributions::{self, GradientTask};
use crate::kernel::gaps::{Distribution, Gaps};
use crate::kernel::lanes::RowLanes;
use crate::kernel::place::Columns;
use crate::kernel::real::Real;
use crate::kernel::statistics::{BLOCK, Statistics};
use crate::kernel::tasks::{Content, KeptTask, StatisticsTask};
use crate::passes::{Kernels, MOST_REFERENCES, Output, Passes};
use crate::request::check_shape;
use crate::row_inputs::RowInputs;
use crate::rows::{Dtype, Job, Totals, run_passes};
use crate::scratch::Scratch;
use crate::transformed::FewRows;
use crate::{CrossEntropy, Element, Error, Matrix, MatrixMut, Request, Smoothing, Summary};

impl CrossEntropy {
    /// As [`CrossEntropy::run`], with a probability q of each class as the target of a row: soft labels, mixed samples, a
    /// teacher's predictions.
    ///
    /// `logits`, of any dtype, and `target_probabilities`, in `f64` where logits are and else in `f32`, are rows x C. With
    /// v_c = w_c ((1 - eps) q_c + eps / C) the loss of a row is sum_c v_c (-ln p_c), and its gradient S p_i - v_i with
    /// S = sum_c v_c: as PyTorch's `cross_entropy` has it. The probabilities of a row need not add up to 1. A class whose v
    /// is 0 adds nothing, also where its logit is -inf. The mean divides by the number of rows that count; no index is
    /// ignored, but a row may be [masked](Request::loss_mask). [`Summary::correct`] is 0. No probability is negative, and
    /// none above `f32::MAX`.
    ///
    /// ```
    /// use xent::{CrossEntropy, Matrix, MatrixMut, Request};
    ///
    /// let (logits, q) = ([1.0_f32, 2.0, 3.0], [0.1, 0.2, 0.7]);
    /// let mut grad = [0.0; 3];
    /// let request = Request::new().grad(MatrixMut::new(&mut grad, 1, 3)?);
    /// let ce = CrossEntropy::default();
    /// let summary = ce.run_probabilities(Matrix::new(&logits, 1, 3)?, Matrix::new(&q, 1, 3)?, request)?;
    /// assert!((summary.loss - 0.807_6).abs() < 1e-4);
    /// assert!((grad[2] - (0.665_2 - 0.7)).abs() < 1e-4);
    /// # Ok::<(), xent::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`CrossEntropy::run`]; [`Error::InvalidTargetProbability`]; and [`Error::NeedsClasses`] for an output that
    /// is about the one class of a row, for another [`Smoothing`] than that of all classes, and for the focal loss. No
    /// output has then been written.
    pub fn run_probabilities<E: Element>(
        &self,
        logits: Matrix<'_, E>,
        target_probabilities: Matrix<'_, E::PerRow>,
        request: Request<'_, E>,
    ) -> Result<Summary, Error> {
        self.run_distributions(Logits::Keep(logits), target_probabilities, request)
    }

    /// [`CrossEntropy::run_probabilities`]; the gradient replaces the logits.
    ///
    /// # Errors
    /// The same, and [`Error::GradTwice`] if the request names a gradient of its own.
    pub fn run_probabilities_in_place<E: Element>(
        &self,
        logits: MatrixMut<'_, E>,
        target_probabilities: Matrix<'_, E::PerRow>,
        request: Request<'_, E>,
    ) -> Result<Summary, Error> {
        if request.writes(Wide::Gradient) {
            return Err(Error::GradTwice);
        }
        self.run_distributions(Logits::Overwrite(logits, Wide::Gradient), target_probabilities, request)
    }

    fn run_distributions<E: Element>(
        &self,
        logits: Logits<'_, E>,
        target_probabilities: Matrix<'_, E::PerRow>,
        request: Request<'_, E>,
    ) -> Result<Summary, Error> {
        let (rows, classes) = (logits.as_matrix().rows(), logits.as_matrix().cols());
        let census = self.check_distributions(rows, classes, target_probabilities, &request.inputs)?;
        request.check(rows, classes)?;
        request.row_outputs.check_without_classes()?;
        let target_probabilities = Some(target_probabilities);
        let batch = Batch { logits, targets: None, target_probabilities, request };
        Ok(self.reduce(self.options.terms_of_distributions(classes), census, batch))
    }

    /// Checks all but the outputs, and counts.
    pub(crate) fn check_distributions<R: Real>(
        &self,
        rows: usize,
        classes: usize,
        target_probabilities: Matrix<'_, R>,
        inputs: &RowInputs<'_, R>,
    ) -> Result<Census, Error> {
        let shape = (target_probabilities.rows(), target_probabilities.cols());
        check_shape("target_probabilities", (rows, classes), shape)?;
        self.check_classes(rows, classes)?;
        inputs.check(rows)?;
        if self.options.label_smoothing > 0.0 && self.options.smoothing != Smoothing::AllClasses {
            return Err(Error::NeedsClasses { argument: "smoothing" });
        }
        if self.options.focal_gamma > 0.0 {
            return Err(Error::NeedsClasses { argument: "focal_gamma" });
        }
        for row in (0..rows).filter(|&row| inputs.may_count(row)) {
            check_probabilities(row, target_probabilities.row(row).unwrap_or_default())?;
        }
        Ok(Census::without_classes(rows, inputs))
    }
}

fn check_probabilities<R: Real>(row: usize, probabilities: &[R]) -> Result<(), Error> {
    // Sums of any number of them are finite in `f64`.
    let valid = R::default()..=R::from(f32::MAX);
    let is_invalid = |probability: R| !valid.contains(&probability);
    // Without a branch on the data; only when something is wrong, a look for where.
    if probabilities.iter().fold(false, |found, &probability| found | is_invalid(probability))
        && let Some(column) = probabilities.iter().position(|&probability| is_invalid(probability))
    {
        let probability = probabilities[column].into();
        return Err(Error::InvalidTargetProbability { row, column, probability });
    }
    Ok(())
}

/// All rows of a batch, as [`Dtype::run_piece`].
pub(crate) fn run<T: Kernels>(job: &Job<'_>, batch: Batch<'_, T>, rows_per_piece: usize) -> Totals {
    if batch.classes() <= few_classes::MOST {
        run_passes(job, batch, FewClasses::new, rows_per_piece)
    } else {
        run_passes(job, batch, Distributions::new, rows_per_piece)
    }
}

/// More classes: one row after the other. The weights of a distribution are those of label smoothing, but each row has its
/// own; and no class is the pivot, unless one has nearly all of the probability.
struct Distributions {
    /// Of a row longer than a block; none, where there is no room for their references.
    blocks: usize,
    references: [f32; MOST_REFERENCES],
    /// Whether rows of one block keep their exponentials.
    keeps: bool,
    /// Those of a tile.
    exps: Scratch,
}

impl Distributions {
    fn new<E: Kernels>(job: &Job<'_>, batch: &Batch<'_, E>) -> Self {
        let classes = batch.classes();
        let blocks = if classes <= BLOCK { 0 } else { classes.div_ceil(BLOCK) };
        let has_output = batch.writes(Wide::Gradient) || batch.writes(Wide::Probabilities);
        let is_plain = job.options.transform::<f32>().is_none() && batch.request.other_grad().is_none();
        Self {
            blocks: if blocks <= MOST_REFERENCES { blocks } else { 0 },
            references: [0.0; MOST_REFERENCES],
            // A pass over 16 bits keeps none.
            keeps: E::KEEPS && has_output && is_plain && classes <= BLOCK && !batch.adds(Wide::Gradient),
            exps: Scratch::new(),
        }
    }
}

impl<E: Kernels> Passes<E> for Distributions {
    fn statistics(
        &mut self,
        job: &Job<'_>,
        batch: &mut Batch<'_, E>,
        tile: Range<usize>,
        lanes: &mut RowLanes,
    ) {
        let row_stride = Scratch::row_stride(batch.classes(), tile.len());
        for (lane, row) in tile.enumerate() {
            if !lanes.counts[lane] {
                continue;
            }
            let (logits, references) = (batch.logits.row(row), &mut self.references[..self.blocks]);
            let distribution = job.options.distribution(batch.distribution(row));
            let (following, gaps) = (batch.following(row), Gaps::Distribution(distribution));
            let (keeps, exps) = (self.keeps, &mut self.exps.0);
            let statistics_without = |pivot| {
                if !keeps {
                    return job.logits(logits).statistics(following, pivot, gaps, references);
                }
                let columns = Columns::Between(logits, &mut exps[lane * row_stride..][..logits.len()]);
                let task = StatisticsTask { columns, following, pivot, gaps, references };
                job.schedule.instructions.run(task)
            };
            set_statistics(job, logits, distribution, lanes, lane, statistics_without);
        }
    }

    fn affine(&mut self, job: &Job<'_>, batch: &mut Batch<'_, E>, tile: Range<usize>, output: &Output<'_>) {
        let Output { wide, lanes, .. } = *output;
        let target_probabilities = batch.target_probabilities;
        let row_stride = Scratch::row_stride(batch.classes(), tile.len());
        for (lane, row) in tile.enumerate().filter(|&(lane, _)| lanes.counts[lane]) {
            let content = if batch.classes() <= BLOCK {
                Content::Logits(slice::from_ref(&lanes.max[lane]))
            } else if self.blocks > 0 {
                Content::Logits(&self.references[..self.blocks])
            } else {
                Content::ManyLogits(lanes.pivot(lane))
            };
            let mut affine = output.of_row(job, lane, content);
            if wide == Wide::Gradient {
                let probabilities = target_probabilities.and_then(|matrix| matrix.row(row));
                let scale = job.terms.unit() * lanes.factor[lane];
                let weighing = job.options.weighing(batch.classes()).scaled(scale);
                affine.shift = Shift::Distribution(weighing.of(probabilities.unwrap_or_default()));
            }
            // A constant first, so that the rest is not compiled for 16 bits.
            if !(E::KEEPS && self.keeps) {
                batch.affine(job, row, wide, affine);
                continue;
            }
            let streaming = job.streaming && !batch.overwrites(wide);
            let Some(to) = batch.wide_row(row, wide) else { return };
            let exps = &self.exps.0[lane * row_stride..][..to.len()];
            let columns = if streaming { Columns::Streaming(exps, to) } else { Columns::Between(exps, to) };
            job.schedule.instructions.run(KeptTask { columns, affine });
        }
    }
}

/// Few classes: all rows of a tile side by side, the largest logit of each its pivot.
struct FewClasses {
    rows: FewRows,
    tiles: few_distributions::Tiles,
}

impl FewClasses {
    fn new<T: Kernels>(job: &Job<'_>, batch: &Batch<'_, T>) -> Self {
        Self { rows: FewRows::new(job, batch), tiles: few_distributions::Tiles::new() }
    }
}

impl<T: Kernels> Passes<T> for FewClasses {
    fn statistics(
        &mut self,
        job: &Job<'_>,
        batch: &mut Batch<'_, T>,
        tile: Range<usize>,
        lanes: &mut RowLanes,
    ) {
        let weighing = job.options.weighing(batch.classes());
        job.schedule.instructions.run(few_distributions::StatisticsTask {
            tiles: &mut self.tiles,
            logits: self.rows.read(job, batch, tile.clone()),
            probabilities: batch.rows_of_target_probabilities(tile.clone()),
            weighing,
            rows: lanes,
        });
        for (lane, row) in tile.enumerate().filter(|&(lane, _)| lanes.counts[lane]) {
            let weight = weighing.of(batch.distribution(row)).weight(lanes.class[lane]);
            lanes.own[lane] = job.terms.unit() * weight;
        }
        // The lanes of an incomplete tile hold what no row is.
        if !lanes.is_full() {
            lanes.leave_out_ignored();
        }
    }

    fn affine(&mut self, job: &Job<'_>, batch: &mut Batch<'_, T>, tile: Range<usize>, output: &Output<'_>) {
        let Self { rows, tiles } = self;
        let Output { wide, lanes, coefficients } = *output;
        let to = rows.rows_mut(batch.classes(), tile.len());
        let instructions = job.schedule.instructions;
        if wide == Wide::Gradient {
            let weighing = job.options.weighing(batch.classes());
            let factors = &lanes.factor.map(|factor| job.terms.unit() * factor);
            instructions.run(GradientTask { tiles, to, weighing, factors, coefficients, rows: lanes });
        } else {
            let (tile, gaps) = (tiles.exponentials(), Gaps::None);
            instructions.run(AffineTask { tile, to, adds: false, gaps, coefficients, rows: lanes });
        }
        rows.write(job, batch, tile, output);
    }
}

/// If the terms of a row but the largest add up to less than this part of it, what rounding a sum with the largest in it costs
/// would show in the loss, and the largest becomes the pivot. So the logarithm of such a sum is 1 or more.
const LEAST_REST: f64 = core::f64::consts::E - 1.0;

/// The first pass over a row, whatever its dtype: twice, if the largest logit becomes the pivot, and so without what would
/// overwrite the logits.
pub(crate) fn set_statistics<T: Dtype>(
    job: &Job<'_>,
    logits: &[T],
    distribution: Distribution<'_, T::PerRow>,
    lanes: &mut RowLanes<T::PerRow>,
    lane: usize,
    mut statistics_without: impl FnMut(Entry<T::PerRow>) -> Statistics<T::PerRow>,
) {
    let (mut pivot, mut statistics) = (Entry::NONE, statistics_without(Entry::NONE));
    if statistics.sum - 1.0 < LEAST_REST
        && let Some(largest) = T::first_equal(job, logits, statistics.max)
    {
        pivot = Entry::new(largest, statistics.max);
        statistics = statistics_without(pivot);
        lanes.class[lane] = largest;
        lanes.own[lane] = job.terms.unit() * distribution.weight(largest);
    }
    lanes.set_statistics(lane, &statistics, pivot.value);
    // It is nobody's target.
    lanes.contender[lane] = f32::NAN.into();
}
