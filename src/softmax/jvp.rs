//! How softmax and log-softmax change along a direction of their logits.

use super::Softmax;
use crate::batch::Upstream;
use crate::kernel::backward::Output;
use crate::{Element, Error, Matrix, MatrixMut};

impl Softmax {
    /// The derivative of the softmax along `direction` (a Jacobian-vector product), in `out`: p_i (v_i - sum_c p_c v_c),
    /// from the softmax itself. All three are rows x C. It is [`Softmax::softmax_backward`]: the Jacobian of softmax is
    /// symmetric.
    ///
    /// ```
    /// use xent::{Matrix, MatrixMut, Softmax};
    ///
    /// let softmax = Softmax::default();
    /// let (mut p, mut moved, mut slope) = ([0.0_f32; 3], [0.0; 3], [0.0; 3]);
    /// softmax.softmax(Matrix::new(&[1.0, 2.0, 3.0], 1, 3)?, MatrixMut::new(&mut p, 1, 3)?)?;
    /// softmax.softmax(Matrix::new(&[1.01, 2.0, 2.99], 1, 3)?, MatrixMut::new(&mut moved, 1, 3)?)?;
    /// let direction = Matrix::new(&[0.01, 0.0, -0.01], 1, 3)?;
    /// softmax.softmax_jvp(Matrix::new(&p, 1, 3)?, direction, MatrixMut::new(&mut slope, 1, 3)?)?;
    /// assert!((moved[0] - p[0] - slope[0]).abs() < 1e-4);
    /// # Ok::<(), xent::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
    pub fn softmax_jvp<E: Element>(
        &self,
        probabilities: Matrix<'_, E>,
        direction: Matrix<'_, E>,
        out: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        self.product(Output::Probabilities, probabilities, "direction", Upstream::Keep(direction, out))
    }

    /// The same; the derivative replaces `direction`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
    pub fn softmax_jvp_in_place<E: Element>(
        &self,
        probabilities: Matrix<'_, E>,
        direction: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        self.product(Output::Probabilities, probabilities, "direction", Upstream::Overwrite(direction))
    }

    /// The derivative of the log-softmax along `direction`, in `out`: v_i - sum_c p_c v_c, from the log-softmax itself,
    /// whose exponentials the p are. All three are rows x C.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
    pub fn log_softmax_jvp<E: Element>(
        &self,
        log_probabilities: Matrix<'_, E>,
        direction: Matrix<'_, E>,
        out: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        let direction = Upstream::Keep(direction, out);
        self.product(Output::LogProbabilitiesForward, log_probabilities, "direction", direction)
    }

    /// The same; the derivative replaces `direction`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::NoClasses`].
    pub fn log_softmax_jvp_in_place<E: Element>(
        &self,
        log_probabilities: Matrix<'_, E>,
        direction: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        let direction = Upstream::Overwrite(direction);
        self.product(Output::LogProbabilitiesForward, log_probabilities, "direction", direction)
    }
}
