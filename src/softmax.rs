//! Softmax, log-softmax and their vector-Jacobian products, from the kernels of the loss.

mod jvp;

use crate::backend::Instructions;
use crate::batch::{Backward, Batch, Logits, Upstream, Wide};
use crate::kernel::backward::Output;
use crate::loss::Options;
use crate::parallel::Schedule;
use crate::request::check_shape;
use crate::rows::Job;
use crate::{Backend, Element, Error, Matrix, MatrixMut, Parallelism, Request};

/// Softmax functions with a choice of backend and threads. The free functions [`softmax`](crate::softmax()),
/// [`log_softmax`](crate::log_softmax()) and so on are those of `Softmax::default()`.
///
/// With m the largest logit of a row:
///
/// ```text
/// softmax      p_i = exp(x_i - m) / sum_c exp(x_c - m)
/// log_softmax  (x_i - m) - ln(sum_c exp(x_c - m))
/// ```
///
/// A logit of -inf has probability 0. A row with a NaN, with +inf, or with nothing but -inf becomes NaN.
///
/// ```
/// use xent::{Backend, Matrix, MatrixMut, Softmax};
///
/// let logits = [1.0_f32, 2.0, 3.0];
/// let mut p = [0.0; 3];
/// Softmax::default()
///     .backend(Backend::Portable)?
///     .softmax(Matrix::new(&logits, 1, 3)?, MatrixMut::new(&mut p, 1, 3)?)?;
/// assert!((p[2] - 0.665).abs() < 1e-3);
/// # Ok::<(), xent::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Softmax {
    schedule: Schedule,
}

impl Default for Softmax {
    fn default() -> Self {
        Self { schedule: Schedule::new(Instructions::detect(), Parallelism::default()) }
    }
}

/// What a softmax without a loss has for options.
const NO_OPTIONS: Options = Options::NONE;

impl Softmax {
    /// With this instruction set.
    ///
    /// # Errors
    /// [`Error::BackendUnavailable`].
    pub fn backend(mut self, backend: Backend) -> Result<Self, Error> {
        self.schedule.instructions = Instructions::of(backend)?;
        Ok(self)
    }

    /// With or without threads.
    pub fn parallelism(mut self, parallelism: Parallelism) -> Self {
        self.schedule.parallelism = parallelism;
        self
    }

    /// The softmax of each row of `logits`, in `probabilities`; both rows x C.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
    pub fn softmax<E: Element>(
        &self,
        logits: Matrix<'_, E>,
        probabilities: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        self.run(Logits::Keep(logits), Request::new().probabilities(probabilities))
    }

    /// The softmax of each row, in its place.
    ///
    /// # Errors
    /// [`Error::NoClasses`].
    pub fn softmax_in_place<E: Element>(&self, logits: MatrixMut<'_, E>) -> Result<(), Error> {
        self.run(Logits::Overwrite(logits, Wide::Probabilities), Request::new())
    }

    /// The logarithm of the softmax of each row of `logits`, in `log_probabilities`; both rows x C.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
    pub fn log_softmax<E: Element>(
        &self,
        logits: Matrix<'_, E>,
        log_probabilities: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        self.run(Logits::Keep(logits), Request::new().log_probabilities(log_probabilities))
    }

    /// The logarithm of the softmax of each row, in its place.
    ///
    /// # Errors
    /// [`Error::NoClasses`].
    pub fn log_softmax_in_place<E: Element>(&self, logits: MatrixMut<'_, E>) -> Result<(), Error> {
        self.run(Logits::Overwrite(logits, Wide::LogProbabilities), Request::new())
    }

    /// From the gradient with respect to softmax's output, `upstream`, to that with respect to its input, in `grad`:
    /// p_i (g_i - sum_c g_c p_c). All three are rows x C.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
    pub fn softmax_backward<E: Element>(
        &self,
        probabilities: Matrix<'_, E>,
        upstream: Matrix<'_, E>,
        grad: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        self.product(Output::Probabilities, probabilities, "upstream", Upstream::Keep(upstream, grad))
    }

    /// The same; the gradient replaces `upstream`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
    pub fn softmax_backward_in_place<E: Element>(
        &self,
        probabilities: Matrix<'_, E>,
        upstream: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        self.product(Output::Probabilities, probabilities, "upstream", Upstream::Overwrite(upstream))
    }

    /// From the gradient with respect to log-softmax's output, `upstream`, to that with respect to its input, in `grad`:
    /// g_i - p_i sum_c g_c, where the sum, but for `f64`, is no larger than the largest `f32`. All three are
    /// rows x C.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
    pub fn log_softmax_backward<E: Element>(
        &self,
        log_probabilities: Matrix<'_, E>,
        upstream: Matrix<'_, E>,
        grad: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        self.product(Output::LogProbabilities, log_probabilities, "upstream", Upstream::Keep(upstream, grad))
    }

    /// The same; the gradient replaces `upstream`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
    pub fn log_softmax_backward_in_place<E: Element>(
        &self,
        log_probabilities: Matrix<'_, E>,
        upstream: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        self.product(Output::LogProbabilities, log_probabilities, "upstream", Upstream::Overwrite(upstream))
    }

    fn run<E: Element>(&self, logits: Logits<'_, E>, request: Request<'_, E>) -> Result<(), Error> {
        let (rows, classes) = (logits.as_matrix().rows(), logits.as_matrix().cols());
        check_classes((rows, classes))?;
        request.check(rows, classes)?;
        let batch = Batch { logits, targets: None, target_probabilities: None, request };
        let terms = NO_OPTIONS.terms(classes);
        let job = Job {
            schedule: self.schedule,
            options: &NO_OPTIONS,
            terms,
            factor: 1.0,
            z_factor: 1.0,
            streaming: self.schedule.streams(&batch),
        };
        E::run(self.schedule, &job, batch);
        Ok(())
    }

    /// The product of a Jacobian with `vector`, which the caller knows by the name of `argument`.
    fn product<E: Element>(
        &self,
        output: Output,
        y: Matrix<'_, E>,
        argument: &'static str,
        vector: Upstream<'_, E>,
    ) -> Result<(), Error> {
        let expected = (y.rows(), y.cols());
        check_classes(expected)?;
        match &vector {
            Upstream::Keep(g, out) => {
                let name_of_out = if argument == "upstream" { "grad" } else { "out" };
                check_shape(argument, expected, (g.rows(), g.cols()))?;
                check_shape(name_of_out, expected, (out.rows(), out.cols()))?;
            }
            Upstream::Overwrite(g) => check_shape(argument, expected, (g.rows(), g.cols()))?,
        }
        E::run_backward(self.schedule, Backward { output, y, upstream: vector });
        Ok(())
    }
}

fn check_classes((rows, classes): (usize, usize)) -> Result<(), Error> {
    if rows > 0 && classes == 0 { Err(Error::NoClasses { rows }) } else { Ok(()) }
}

/// [`Softmax::softmax`] with the default backend and threads.
///
/// # Errors
/// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
pub fn softmax<E: Element>(logits: Matrix<'_, E>, probabilities: MatrixMut<'_, E>) -> Result<(), Error> {
    Softmax::default().softmax(logits, probabilities)
}

/// [`Softmax::softmax_in_place`] with the default backend and threads.
///
/// # Errors
/// [`Error::NoClasses`].
pub fn softmax_in_place<E: Element>(logits: MatrixMut<'_, E>) -> Result<(), Error> {
    Softmax::default().softmax_in_place(logits)
}

/// [`Softmax::log_softmax`] with the default backend and threads.
///
/// # Errors
/// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
pub fn log_softmax<E: Element>(
    logits: Matrix<'_, E>,
    log_probabilities: MatrixMut<'_, E>,
) -> Result<(), Error> {
    Softmax::default().log_softmax(logits, log_probabilities)
}

/// [`Softmax::log_softmax_in_place`] with the default backend and threads.
///
/// # Errors
/// [`Error::NoClasses`].
pub fn log_softmax_in_place<E: Element>(logits: MatrixMut<'_, E>) -> Result<(), Error> {
    Softmax::default().log_softmax_in_place(logits)
}

/// [`Softmax::softmax_backward`] with the default backend and threads.
///
/// # Errors
/// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
pub fn softmax_backward<E: Element>(
    probabilities: Matrix<'_, E>,
    upstream: Matrix<'_, E>,
    grad: MatrixMut<'_, E>,
) -> Result<(), Error> {
    Softmax::default().softmax_backward(probabilities, upstream, grad)
}

/// [`Softmax::log_softmax_backward`] with the default backend and threads.
///
/// # Errors
/// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
pub fn log_softmax_backward<E: Element>(
    log_probabilities: Matrix<'_, E>,
    upstream: Matrix<'_, E>,
    grad: MatrixMut<'_, E>,
) -> Result<(), Error> {
    Softmax::default().log_softmax_backward(log_probabilities, upstream, grad)
}

/// [`Softmax::softmax_backward_in_place`] with the default backend and threads.
///
/// # Errors
/// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
pub fn softmax_backward_in_place<E: Element>(
    probabilities: Matrix<'_, E>,
    upstream: MatrixMut<'_, E>,
) -> Result<(), Error> {
    Softmax::default().softmax_backward_in_place(probabilities, upstream)
}

/// [`Softmax::log_softmax_backward_in_place`] with the default backend and threads.
///
/// # Errors
/// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
pub fn log_softmax_backward_in_place<E: Element>(
    log_probabilities: Matrix<'_, E>,
    upstream: MatrixMut<'_, E>,
) -> Result<(), Error> {
    Softmax::default().log_softmax_backward_in_place(log_probabilities, upstream)
}
