//! A student's softmax against a teacher's.

mod doubles;
mod rows;

use crate::batch::{Batch, Logits, Wide};
use crate::cross_entropy::{Census, reciprocal};
use crate::request::check_shape;
use crate::row_inputs::product;
use crate::{
    Backend, CrossEntropy, CrossEntropyBuilder, Element, EmptyMean, Error, Matrix, MatrixMut, Parallelism,
    Reduction, Request, Summary,
};
pub(crate) use rows::Rows;
use rows::Settings;

/// The Kullback-Leibler divergence of a student's softmax from a teacher's at a temperature T, from the logits of both, in
/// one call: the soft part of the loss of [Hinton, Vinyals and Dean 2015](https://arxiv.org/abs/1503.02531), section 2.
///
/// With q the softmax of the teacher's row divided by T and p that of the student's, the loss of the row and its gradient
/// with respect to the student's logits are
///
/// ```text
/// T^2 sum_c q_c (ln q_c - ln p_c)          T (p_i - q_i)
/// ```
///
/// The T^2 is the paper's: gradients keep their magnitude when T is changed, so the share of hard targets beside it need
/// not. The mean divides by the number of rows that count, each times its row's weight. In PyTorch it is
/// `KLDivLoss(reduction="batchmean")(log_softmax(student / T), softmax(teacher / T)) * T * T`, where four matrices as
/// large as the logits are made on the way; here none is, nothing is allocated, and the teacher gets no gradient.
///
/// | input | result |
/// |---|---|
/// | equal rows | loss and gradient exactly 0 |
/// | logit -inf in both | no part in the loss, gradient exactly 0 (a masked class) |
/// | the teacher's logit -inf | no part in the loss, gradient T p |
/// | the student's logit -inf, where q is a normal number | loss +inf, gradient finite, -T q |
/// | NaN or +inf in a row of either, or every logit -inf | loss and gradient of that row NaN, no other row touched |
///
/// A quotient (x - m) / T beyond the numbers of `f32` (of `f64`, for logits of `f64`), with m the row's maximum, is that of
/// a logit of -inf. No loss is negative, and rows that are nearly equal have one with digits, though it is as small as the
/// square of their distance: see [`contract`](crate::contract). Threads take whole rows.
///
/// ```
/// use xent::{CrossEntropy, Distillation, Matrix, MatrixMut, Request};
///
/// let (student, teacher) = ([1.0, 2.0, 0.5, 0.0, 0.0, 0.0], [0.0, 3.0, 1.0, 0.5, -0.5, 0.0]);
/// let (student, teacher) = (Matrix::new(&student, 2, 3)?, Matrix::new(&teacher, 2, 3)?);
/// let mut grad = [0.0; 6];
///
/// let distillation = Distillation::builder().temperature(2.0).build()?;
/// let soft = distillation.loss_and_grad(student, teacher, MatrixMut::new(&mut grad, 2, 3)?)?;
/// assert!((soft - 0.179_9).abs() < 1e-4);
///
/// // Half of it, and half of the loss of hard targets, added up in one gradient.
/// let half = || Request::new().upstream_scalar(0.5);
/// let soft = distillation.run(student, teacher, half().grad(MatrixMut::new(&mut grad, 2, 3)?))?.loss;
/// let request = half().accumulate(MatrixMut::new(&mut grad, 2, 3)?);
/// let hard = CrossEntropy::default().run(student, &[1_u8, 0], request)?.loss;
/// assert!((0.5 * soft + 0.5 * hard - 0.480_7).abs() < 1e-4);
/// # Ok::<(), xent::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Distillation {
    /// Its reduction, its backend and its threads.
    pub(crate) ce: CrossEntropy,
    temperature: f64,
}

/// Options of a [`Distillation`] on their way to being checked.
#[derive(Clone, Debug)]
#[must_use]
pub struct DistillationBuilder {
    ce: CrossEntropyBuilder,
    temperature: f64,
}

impl Default for DistillationBuilder {
    fn default() -> Self {
        Self { ce: CrossEntropy::builder(), temperature: 1.0 }
    }
}

impl Default for Distillation {
    /// A temperature of 1, and the mean.
    fn default() -> Self {
        Self { ce: CrossEntropy::default(), temperature: 1.0 }
    }
}

impl DistillationBuilder {
    /// What both logits are divided by, from 1e-37 to 1e37. Above 1, classes that the teacher thinks little of weigh more.
    /// Default: 1.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.temperature = temperature;
        self
    }

    /// How the rows' losses become one. Default: the mean over the rows, PyTorch's `"batchmean"`.
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.ce = self.ce.reduction(reduction);
        self
    }

    /// What the mean is where no row counts. Default: NaN. The gradient is 0 either way.
    pub fn empty_mean(mut self, empty_mean: EmptyMean) -> Self {
        self.ce = self.ce.empty_mean(empty_mean);
        self
    }

    /// The instruction set. Default: the fastest that this CPU has.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.ce = self.ce.backend(backend);
        self
    }

    /// Whether calls may use several threads. Default: [`Parallelism::Rayon`].
    pub fn parallelism(mut self, parallelism: Parallelism) -> Self {
        self.ce = self.ce.parallelism(parallelism);
        self
    }

    /// The loss with these options.
    ///
    /// # Errors
    /// [`Error::InvalidTemperature`] and [`Error::BackendUnavailable`].
    pub fn build(self) -> Result<Distillation, Error> {
        let Self { ce, temperature } = self;
        if !(1e-37..=1e37).contains(&temperature) {
            return Err(Error::InvalidTemperature { temperature });
        }
        Ok(Distillation { ce: ce.build()?, temperature })
    }
}

impl Distillation {
    /// The default options, to change some.
    pub fn builder() -> DistillationBuilder {
        DistillationBuilder::default()
    }

    /// The reduced loss. `student` and `teacher` are rows x C.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
    pub fn loss<E: Element>(&self, student: Matrix<'_, E>, teacher: Matrix<'_, E>) -> Result<f64, Error> {
        self.run(student, teacher, Request::new()).map(|summary| summary.loss)
    }

    /// The reduced loss, and in `grad`, rows x C, its derivative with respect to the student's logits.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
    pub fn loss_and_grad<E: Element>(
        &self,
        student: Matrix<'_, E>,
        teacher: Matrix<'_, E>,
        grad: MatrixMut<'_, E>,
    ) -> Result<f64, Error> {
        self.run(student, teacher, Request::new().grad(grad)).map(|summary| summary.loss)
    }

    /// The reduced loss; its gradient replaces the student's logits.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
    pub fn loss_and_grad_in_place<E: Element>(
        &self,
        student: MatrixMut<'_, E>,
        teacher: Matrix<'_, E>,
    ) -> Result<f64, Error> {
        self.run_in_place(student, teacher, Request::new()).map(|summary| summary.loss)
    }

    /// The same with what a request brings and asks for. Its inputs mean what they mean for a [`CrossEntropy`]; its outputs
    /// are [`Request::grad`] or [`Request::accumulate`], also in another dtype, [`Request::losses`], and [`Request::lse`],
    /// which is that of the student at the temperature, ln(sum_c exp(x_c / T)). A row that is [masked](Request::loss_mask) is
    /// read in neither matrix. [`Summary::correct`] is 0.
    ///
    /// # Errors
    /// Those of [`Distillation::loss`]; those of [`CrossEntropy::run`] that concern the request; and
    /// [`Error::NotOfDistillation`] for any other output. No output has then been written.
    pub fn run<E: Element>(
        &self,
        student: Matrix<'_, E>,
        teacher: Matrix<'_, E>,
        request: Request<'_, E>,
    ) -> Result<Summary, Error> {
        self.run_logits(Logits::Keep(student), teacher, request)
    }

    /// [`Distillation::run`]; the gradient replaces the student's logits.
    ///
    /// # Errors
    /// The same, and [`Error::GradTwice`] if the request names a gradient of its own.
    pub fn run_in_place<E: Element>(
        &self,
        student: MatrixMut<'_, E>,
        teacher: Matrix<'_, E>,
        request: Request<'_, E>,
    ) -> Result<Summary, Error> {
        if request.writes(Wide::Gradient) {
            return Err(Error::GradTwice);
        }
        self.run_logits(Logits::Overwrite(student, Wide::Gradient), teacher, request)
    }

    /// What both logits are divided by.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// How the rows' losses become one.
    pub fn reduction(&self) -> Reduction {
        self.ce.reduction()
    }

    /// What the mean is where no row counts.
    pub fn empty_mean(&self) -> EmptyMean {
        self.ce.empty_mean()
    }

    /// The backend that calls use.
    pub fn backend(&self) -> Backend {
        self.ce.backend()
    }

    /// Whether calls may use several threads.
    pub fn parallelism(&self) -> Parallelism {
        self.ce.parallelism()
    }

    fn run_logits<E: Element>(
        &self,
        student: Logits<'_, E>,
        teacher: Matrix<'_, E>,
        request: Request<'_, E>,
    ) -> Result<Summary, Error> {
        let shape = (student.as_matrix().rows(), student.as_matrix().cols());
        let census = self.check(shape, teacher, &request)?;
        request.check(shape.0, shape.1)?;
        check_outputs(&request)?;
        let inputs = request.inputs;
        let (divisor, _) = self.ce.divisors(&census, &inputs);
        let settings = Settings {
            temperature: self.temperature,
            factor: product(inputs.upstream_scalar.unwrap_or(1.0), reciprocal(divisor)),
        };
        let student = Batch { logits: student, targets: None, target_probabilities: None, request };
        let totals = E::run_distillation(self.ce.schedule, Rows { settings, student, teacher });
        Ok(self.ce.summary(totals, &census, &inputs))
    }

    /// Checks all but the outputs, and counts.
    pub(crate) fn check<E: Element>(
        &self,
        (rows, classes): (usize, usize),
        teacher: Matrix<'_, E>,
        request: &Request<'_, E>,
    ) -> Result<Census, Error> {
        check_shape("teacher", (rows, classes), (teacher.rows(), teacher.cols()))?;
        self.ce.check_classes(rows, classes)?;
        let inputs = &request.inputs;
        inputs.check(rows)?;
        Ok(Census::without_classes(rows, inputs))
    }
}

/// None but those that there are.
fn check_outputs<E: Element>(request: &Request<'_, E>) -> Result<(), Error> {
    let outputs = &request.row_outputs;
    let asked = [
        ("probabilities", request.probabilities.is_some()),
        ("log_probabilities", request.log_probabilities.is_some()),
        ("target_log_probabilities", outputs.target_log_probabilities.is_some()),
        ("argmax_probabilities", outputs.argmax_probabilities.is_some()),
        ("entropies", outputs.entropies.is_some()),
        ("argmax", outputs.argmax.is_some()),
        ("target_ranks", outputs.target_ranks.is_some()),
    ];
    match asked.into_iter().find(|&(_, is_asked)| is_asked) {
        Some((argument, _)) => Err(Error::NotOfDistillation { argument }),
        None => Ok(()),
    }
}
