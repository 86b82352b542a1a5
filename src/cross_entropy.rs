//! The loss: its options, its calls, and all validation.

use crate::backend::Instructions;
use crate::batch::{Batch, Logits, Wide};
use crate::kernel::double::scalar::normal_or_zero;
use crate::kernel::real::Real;
use crate::loss::{ClassWeights, EmptyMean, Options, Terms};
use crate::parallel::Schedule;
use crate::row_inputs::{RowInputs, product};
use crate::rows::{Job, Totals};
use crate::sum::Sum;
use crate::targets::Targets;
use crate::{
    Backend, CrossEntropyBuilder, Element, Error, Matrix, MatrixMut, Parallelism, Reduction, Request,
    Smoothing, Target,
};

/// Softmax cross-entropy between a batch of logits and one target class for each row.
///
/// With p the softmax of a row x of C logits, y its target and w the class weights (1 without), the loss of the row is
///
/// ```text
/// (1 - eps) w_y (-ln p_y) + (eps / C) sum_c w_c (-ln p_c)
/// ```
///
/// and its gradient (1 - eps) w_y (p_i - [i = y]) + (eps / C) (W p_i - w_i) with W = sum_c w_c, where eps is the label
/// smoothing of [Szegedy et al. 2015](https://arxiv.org/abs/1512.00567), section 7, in PyTorch's convention; [`Smoothing`] has
/// others. The mean divides by the sum of w_y over the rows that are not ignored.
///
/// The z-loss of [PaLM](https://arxiv.org/abs/2204.02311), section 5, adds z lse^2 with lse = ln(sum_c exp(x_c)), and
/// 2 z lse p_i to the gradient; its mean divides by the number of rows that are not ignored.
///
/// Logits may be scaled and capped before all this: [`logit_scale`](CrossEntropyBuilder::logit_scale) and
/// [`softcap`](CrossEntropyBuilder::softcap).
///
/// Options are named and behave as those of `torch.nn.functional.cross_entropy`. A `CrossEntropy` is built once and used
/// from any number of threads; its calls allocate nothing.
///
/// ```
/// use xent::{CrossEntropy, Matrix, MatrixMut};
///
/// let ce = CrossEntropy::builder().label_smoothing(0.1).ignore_index(-100).build()?;
/// let logits = [2.0, 0.5, -1.0, 0.1, 0.2, 0.3];
/// let targets = [0_i64, -100];
/// let mut grad = [0.0; 6];
/// let loss =
///     ce.loss_and_grad(Matrix::new(&logits, 2, 3)?, &targets, MatrixMut::new(&mut grad, 2, 3)?)?;
/// assert!((loss - 0.391_3).abs() < 1e-4);
/// assert_eq!(grad[3..], [0.0; 3]);
/// # Ok::<(), xent::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    pub(crate) options: Options,
    pub(crate) schedule: Schedule,
}

/// The numbers that every call has at hand when it is done.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Summary {
    /// The reduced loss.
    pub loss: f64,
    /// What the z-loss has in it.
    pub z_loss: f64,
    /// What the mean divides by, unless the request has a denominator: the sum of the class weights of the targets that
    /// count, each times its row's weight; where targets are no classes, the sum of the rows' weights.
    pub weight: f64,
    /// Rows that are not ignored.
    pub counted: usize,
    /// Rows among them whose target is the first of their largest logits.
    pub correct: usize,
}

/// The rows that count, in sum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Census {
    pub(crate) counted: usize,
    /// Row weights times class weights; row weights alone, where targets are probabilities.
    pub(crate) weight: f64,
    /// Row weights.
    pub(crate) row_weight: f64,
}

impl Census {
    /// Of rows whose targets are no classes: all but those that the mask leaves out.
    pub(crate) fn without_classes<R: Real>(rows: usize, inputs: &RowInputs<'_, R>) -> Self {
        let counted = (0..rows).filter(|&row| inputs.may_count(row));
        let weight = counted.clone().map(|row| inputs.row_weight(row)).collect::<Sum>().total();
        Self { counted: counted.count(), weight, row_weight: weight }
    }
}

impl Default for CrossEntropy {
    /// No weights, no smoothing, the mean, and -100 as the ignored index.
    fn default() -> Self {
        Self {
            options: Options::default(),
            schedule: Schedule::new(Instructions::detect(), Parallelism::default()),
        }
    }
}

impl CrossEntropy {
    /// The default options, to change some.
    pub fn builder() -> CrossEntropyBuilder {
        CrossEntropyBuilder::default()
    }

    /// The reduced loss.
    ///
    /// `logits` is rows x C, `targets` has one class below C, or the ignored index, for each row.
    ///
    /// # Errors
    /// [`Error::NoClasses`], [`Error::LengthMismatch`] (targets, class weights), and
    /// [`Error::TargetOutOfRange`].
    pub fn loss<E: Element, T: Target>(&self, logits: Matrix<'_, E>, targets: &[T]) -> Result<f64, Error> {
        self.run(logits, targets, Request::new()).map(|summary| summary.loss)
    }

    /// The reduced loss, and in `grad`, rows x C, its derivative with respect to the logits.
    ///
    /// # Errors
    /// Those of [`CrossEntropy::loss`], and [`Error::ShapeMismatch`].
    pub fn loss_and_grad<E: Element, T: Target>(
        &self,
        logits: Matrix<'_, E>,
        targets: &[T],
        grad: MatrixMut<'_, E>,
    ) -> Result<f64, Error> {
        self.run(logits, targets, Request::new().grad(grad)).map(|summary| summary.loss)
    }

    /// The reduced loss; its gradient replaces the logits. This moves the fewest bytes.
    ///
    /// # Errors
    /// Those of [`CrossEntropy::loss`].
    pub fn loss_and_grad_in_place<E: Element, T: Target>(
        &self,
        logits: MatrixMut<'_, E>,
        targets: &[T],
    ) -> Result<f64, Error> {
        self.run_in_place(logits, targets, Request::new()).map(|summary| summary.loss)
    }

    /// Any set of outputs in one call. Nothing is allocated.
    ///
    /// # Errors
    /// Those of [`CrossEntropy::loss`]; [`Error::ShapeMismatch`] and [`Error::LengthMismatch`] for an output that does
    /// not fit the logits; [`Error::InvalidRowWeight`], [`Error::InvalidUpstreamScalar`] and
    /// [`Error::InvalidDenominator`]. No output has then been written.
    pub fn run<E: Element, T: Target>(
        &self,
        logits: Matrix<'_, E>,
        targets: &[T],
        request: Request<'_, E>,
    ) -> Result<Summary, Error> {
        self.run_batch(Logits::Keep(logits), Targets::new(targets), request)
    }

    /// Any set of outputs in one call; the gradient replaces the logits.
    ///
    /// # Errors
    /// Those of [`CrossEntropy::run`], and [`Error::GradTwice`] if the request names a gradient of its own.
    pub fn run_in_place<E: Element, T: Target>(
        &self,
        logits: MatrixMut<'_, E>,
        targets: &[T],
        request: Request<'_, E>,
    ) -> Result<Summary, Error> {
        if request.writes(Wide::Gradient) {
            return Err(Error::GradTwice);
        }
        self.run_batch(Logits::Overwrite(logits, Wide::Gradient), Targets::new(targets), request)
    }

    /// The backend that calls use.
    pub fn backend(&self) -> Backend {
        self.schedule.instructions.backend()
    }

    /// Whether calls may use several threads.
    pub fn parallelism(&self) -> Parallelism {
        self.schedule.parallelism
    }

    /// The class weights, if there are any.
    pub fn weight(&self) -> Option<&[f32]> {
        self.options.weight.as_ref().map(ClassWeights::as_slice)
    }

    /// The first of the ignored targets, if there are any.
    pub fn ignore_index(&self) -> Option<i64> {
        self.options.ignore_indices.first().copied()
    }

    /// The ignored targets.
    pub fn ignore_indices(&self) -> &[i64] {
        &self.options.ignore_indices
    }

    /// The share of the target distribution that is spread over classes.
    pub fn label_smoothing(&self) -> f64 {
        self.options.label_smoothing
    }

    /// Which classes label smoothing spreads over.
    pub fn smoothing(&self) -> Smoothing {
        self.options.smoothing
    }

    /// The coefficient of the z-loss.
    pub fn z_loss(&self) -> f64 {
        self.options.z_loss
    }

    /// The focusing parameter of the focal loss.
    pub fn focal_gamma(&self) -> f64 {
        self.options.focal_gamma
    }

    /// What logits are multiplied by before the softmax.
    pub fn logit_scale(&self) -> f64 {
        self.options.logit_scale
    }

    /// The cap of scaled logits, if they have one.
    pub fn softcap(&self) -> Option<f64> {
        self.options.softcap
    }

    /// How the rows' losses become one.
    pub fn reduction(&self) -> Reduction {
        self.options.reduction
    }

    /// What the mean is where no row counts.
    pub fn empty_mean(&self) -> EmptyMean {
        self.options.empty_mean
    }

    /// The class of each row, `None` where it does not count; all checked.
    pub(crate) fn classes_of_rows<T: Target, R: Real>(
        &self,
        rows: usize,
        classes: usize,
        targets: &[T],
        inputs: &RowInputs<'_, R>,
    ) -> Result<Vec<Option<usize>>, Error> {
        let targets = Targets::new(targets);
        self.check(rows, classes, targets, inputs)?;
        let class = |row| targets.class(row, &self.options.ignore_indices);
        Ok((0..rows).map(|row| class(row).filter(|_| inputs.may_count(row))).collect())
    }

    fn run_batch<E: Element>(
        &self,
        logits: Logits<'_, E>,
        targets: Targets<'_>,
        request: Request<'_, E>,
    ) -> Result<Summary, Error> {
        let (rows, classes) = (logits.as_matrix().rows(), logits.as_matrix().cols());
        let census = self.check(rows, classes, targets, &request.inputs)?;
        request.check(rows, classes)?;
        let batch = Batch { logits, targets: Some(targets), target_probabilities: None, request };
        Ok(self.reduce(self.options.terms(classes), census, batch))
    }

    /// What has been checked.
    pub(crate) fn reduce<E: Element>(
        &self,
        terms: Terms,
        census: Census,
        mut batch: Batch<'_, E>,
    ) -> Summary {
        batch.request.inputs.multiply_upstream(self.options.logit_scale);
        let inputs = batch.request.inputs;
        let job = self.job(terms, &census, &inputs, self.schedule.streams(&batch));
        let totals = E::run(self.schedule, &job, batch);
        self.summary(totals, &census, &inputs)
    }

    /// What rows whose loss has these terms are computed with.
    pub(crate) fn job<R>(
        &self,
        terms: Terms,
        census: &Census,
        inputs: &RowInputs<'_, R>,
        streaming: bool,
    ) -> Job<'_> {
        let (divisor, z_divisor) = self.divisors(census, inputs);
        let upstream = inputs.upstream_scalar.unwrap_or(1.0);
        Job {
            schedule: self.schedule,
            options: &self.options,
            terms,
            factor: product(upstream, reciprocal(divisor)),
            z_factor: product(upstream, reciprocal(z_divisor)),
            streaming,
        }
    }

    /// What the rows' totals come to.
    pub(crate) fn summary<R>(&self, totals: Totals, census: &Census, inputs: &RowInputs<'_, R>) -> Summary {
        let (divisor, z_divisor) = self.divisors(census, inputs);
        let mean = |total: f64, divisor: f64| {
            let is_empty = divisor == 0.0 && total == 0.0;
            let mean =
                if is_empty && self.options.empty_mean == EmptyMean::Zero { 0.0 } else { total / divisor };
            // Which NaN it was among several depends on the instructions; and whether a subnormal is 0, on the thread.
            normal_or_zero(mean)
        };
        let z_loss = if self.options.z_loss == 0.0 { 0.0 } else { mean(totals.z_loss.rounded, z_divisor) };
        let loss = normal_or_zero(mean(totals.loss.rounded, divisor) + z_loss);
        Summary { loss, z_loss, weight: census.weight, counted: census.counted, correct: totals.correct }
    }

    /// What the sum of the rows' losses is divided by, and that of their z-losses.
    pub(crate) fn divisors<R>(&self, census: &Census, inputs: &RowInputs<'_, R>) -> (f64, f64) {
        match (inputs.denominator, self.options.reduction) {
            (Some(denominator), _) => (denominator, denominator),
            (None, Reduction::Mean) => (census.weight, census.row_weight),
            (None, Reduction::Sum) => (1.0, 1.0),
        }
    }

    /// Checks all but the outputs, and counts.
    pub(crate) fn check<R: Real>(
        &self,
        rows: usize,
        classes: usize,
        targets: Targets<'_>,
        inputs: &RowInputs<'_, R>,
    ) -> Result<Census, Error> {
        if targets.len() != rows {
            return Err(Error::LengthMismatch { argument: "targets", expected: rows, actual: targets.len() });
        }
        self.check_classes(rows, classes)?;
        inputs.check(rows)?;
        let ignore_indices = &self.options.ignore_indices;
        let counted = targets
            .census(classes, ignore_indices, inputs.loss_mask)
            .map_err(|row| Error::TargetOutOfRange { row, target: targets.get(row), classes })?;
        if self.options.weight.is_none() && inputs.row_weights.is_none() {
            return Ok(Census { counted, weight: counted as f64, row_weight: counted as f64 });
        }
        let (mut weight, mut row_weight) = (Sum::default(), Sum::default());
        for row in (0..rows).filter(|&row| inputs.may_count(row)) {
            if let Some(class) = targets.class(row, ignore_indices) {
                weight = weight.add(inputs.row_weight(row) * self.options.weight_of(class));
                row_weight = row_weight.add(inputs.row_weight(row));
            }
        }
        Ok(Census { counted, weight: weight.total(), row_weight: row_weight.total() })
    }

    /// There are classes, and a weight for each if there are weights.
    pub(crate) fn check_classes(&self, rows: usize, classes: usize) -> Result<(), Error> {
        if rows > 0 && classes == 0 {
            return Err(Error::NoClasses { rows });
        }
        if let Some(weight) = self.weight()
            && weight.len() != classes
            && rows > 0
        {
            return Err(Error::LengthMismatch {
                argument: "weight",
                expected: classes,
                actual: weight.len(),
            });
        }
        Ok(())
    }
}

/// Where the divisor is 0 no row counts, and no gradient flows.
pub(crate) fn reciprocal(divisor: f64) -> f64 {
    // That of a subnormal number may be infinite.
    if divisor == 0.0 { 0.0 } else { (1.0 / divisor).clamp(-f64::MAX, f64::MAX) }
}
