//! Second order: the loss's Hessian times a direction, its diagonal, and the derivative along a direction.

mod rows;

use crate::batch::Upstream;
use crate::cross_entropy::{Census, reciprocal};
use crate::kernel::double::scalar::normal_or_zero;
use crate::request::check_shape;
use crate::row_inputs::{RowInputs, product};
use crate::targets::Targets;
use crate::{CrossEntropy, Element, Error, Matrix, MatrixMut, Request, Target};
pub(crate) use rows::Rows;
use rows::{Diagonal, Output, Settings};

/// The reduced loss near some logits, to second order: [`CrossEntropy::curvature`] makes it. Targets are checked once, and
/// it can be asked along any number of directions, as an optimiser by conjugate gradients does.
///
/// With p the softmax of a row x, y its target, w the class weights (W their sum), eps the label smoothing and z the
/// coefficient of the z-loss, the row's loss has
///
/// ```text
/// gradient      g = S p - q + 2 z lse p
/// Hessian       H = (S + 2 z lse) (diag(p) - p p^T) + 2 z p p^T
/// Gauss-Newton  G = S (diag(p) - p p^T) + 2 z p p^T
///
/// with q_i = (1 - eps) w_y [i = y] + (eps / C) w_i, and S = sum_i q_i = (1 - eps) w_y + (eps / C) W
/// ```
///
/// and with another [`Smoothing`](crate::Smoothing) q as that has it. The focal loss multiplies the hard part of q, and of S,
/// by f', and adds F (p - e_y) (p - e_y)^T to `H`, with f = (1 - p_y)^gamma n of n = -ln p_y:
///
/// ```text
/// f' = (1 - p_y)^gamma (1 + gamma p_y n / (1 - p_y))
/// F  = (1 - eps) w_y f'',   f'' = gamma p_y (1 - p_y)^(gamma - 2) (2 (1 - p_y) - n (1 - gamma p_y))
/// ```
///
/// With a logit scale and a softcap all of the above is of the transformed logits x' = t(x); with their gradient g, what is
/// computed is that of the logits themselves,
///
/// ```text
/// D H D + diag(g t''),  D G D,   D = diag(t')
/// ```
///
/// All is times what the reduction multiplies the row's loss by, and its z-loss (see [`CrossEntropy`]). Rows have no second
/// derivatives with each other. No matrix is ever formed, and no softmax stored: each call reads the logits, and costs
/// a few exponentials for each.
///
/// `H` depends on the target through its weight alone, unless the loss is focal. Without a z-loss it is positive
/// semi-definite, equal to `G`, and for S = 1 the Fisher information of the row
/// ([Martens 2014](https://arxiv.org/abs/1412.1193), section 9). With one, G leaves out the curvature of lse in z lse^2, as
/// the Gauss-Newton matrix of a sum of squares does, and of a focal loss it leaves out F; so it stays positive
/// semi-definite where lse, f'' or g t'' is negative and `H` may not be. For the parameters of a network, with J the derivative
/// of the logits, `J^T H J` is the generalized Gauss-Newton matrix of
/// [Schraudolph 2002](https://doi.org/10.1162/08997660260028683).
///
/// Rows that do not count give 0, whatever their logits and directions are; those are not read. A logit of -inf has
/// exactly 0 in every product and diagonal. A row with a NaN or +inf, with nothing but -inf, or whose direction is not
/// finite gives NaN, and no other row does. Bounds are in [`contract`](crate::contract). Threads take whole rows.
///
/// Logits may have any dtype of [`Element`]; directions, products and diagonals have that of the logits, and derivatives of
/// rows are [`Element::PerRow`]. Those of 16 bits are what `f32` has for the same numbers, rounded once.
///
/// ```
/// use xent::{CrossEntropy, Matrix, MatrixMut};
///
/// let (x, v) = ([1.0_f32, 2.0, 3.0], [1.0, 0.0, -1.0]);
/// let ce = CrossEntropy::default();
/// let curvature = ce.curvature(Matrix::new(&x, 1, 3)?, &[1_u8])?;
/// let direction = Matrix::new(&v, 1, 3)?;
/// let (mut product, mut diagonal) = ([0.0; 3], [0.0; 3]);
/// curvature.hessian_vector_product(direction, MatrixMut::new(&mut product, 1, 3)?)?;
/// curvature.gauss_newton_diagonal(MatrixMut::new(&mut diagonal, 1, 3)?)?;
///
/// // The loss after a small step, to second order.
/// let step = 0.01_f64;
/// let bend: f64 = product.iter().zip(&v).map(|(hv, v)| f64::from(hv * v)).sum();
/// let predicted = ce.loss(Matrix::new(&x, 1, 3)?, &[1_u8])?
///     + step * curvature.jvp(direction)?
///     + 0.5 * step * step * bend;
/// let moved = [1.01, 2.0, 2.99];
/// assert!((ce.loss(Matrix::new(&moved, 1, 3)?, &[1_u8])? - predicted).abs() < 1e-6);
///
/// // p (1 - p)
/// assert!((diagonal[2] - 0.665 * 0.335).abs() < 1e-3);
/// # Ok::<(), xent::Error>(())
/// ```
#[derive(Clone, Copy)]
#[must_use]
pub struct Curvature<'a, E: Element = f32> {
    ce: &'a CrossEntropy,
    logits: Matrix<'a, E>,
    targets: Targets<'a>,
    census: Census,
    inputs: RowInputs<'a, E::PerRow>,
}

impl<E: Element> core::fmt::Debug for Curvature<'_, E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { ce, logits, inputs, .. } = self;
        f.debug_struct("Curvature")
            .field("ce", ce)
            .field("logits", logits)
            .field("inputs", inputs)
            .finish_non_exhaustive()
    }
}

impl CrossEntropy {
    /// The reduced loss near rows x C `logits`, to second order: see [`Curvature`]. `targets` are as in
    /// [`CrossEntropy::loss`].
    ///
    /// # Errors
    /// Those of [`CrossEntropy::loss`].
    pub fn curvature<'a, E: Element, T: Target>(
        &'a self,
        logits: Matrix<'a, E>,
        targets: &'a [T],
    ) -> Result<Curvature<'a, E>, Error> {
        self.curvature_with(logits, targets, &Request::new())
    }

    /// The same with the inputs of a request, which mean what they mean there: [`Request::loss_mask`],
    /// [`Request::row_weights`], [`Request::upstream`], [`Request::upstream_scalar`] and [`Request::denominator`]. Its
    /// outputs are not written.
    ///
    /// # Errors
    /// Those of [`CrossEntropy::run`] that concern inputs.
    pub fn curvature_with<'a, E: Element, T: Target>(
        &'a self,
        logits: Matrix<'a, E>,
        targets: &'a [T],
        request: &Request<'a, E>,
    ) -> Result<Curvature<'a, E>, Error> {
        let (targets, inputs) = (Targets::new(targets), request.inputs);
        let census = self.check(logits.rows(), logits.cols(), targets, &inputs)?;
        Ok(Curvature { ce: self, logits, targets, census, inputs })
    }

    /// [`Curvature::hessian_vector_product`] in one call.
    ///
    /// # Errors
    /// Those of [`CrossEntropy::loss`], and [`Error::ShapeMismatch`].
    pub fn hessian_vector_product<E: Element, T: Target>(
        &self,
        logits: Matrix<'_, E>,
        targets: &[T],
        direction: Matrix<'_, E>,
        out: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        self.curvature(logits, targets)?.hessian_vector_product(direction, out)
    }

    /// [`Curvature::jvp`] in one call.
    ///
    /// # Errors
    /// Those of [`CrossEntropy::loss`], and [`Error::ShapeMismatch`].
    pub fn jvp<E: Element, T: Target>(
        &self,
        logits: Matrix<'_, E>,
        targets: &[T],
        direction: Matrix<'_, E>,
    ) -> Result<f64, Error> {
        self.curvature(logits, targets)?.jvp(direction)
    }

    /// [`Curvature::hessian_diagonal`] in one call.
    ///
    /// # Errors
    /// Those of [`CrossEntropy::loss`], and [`Error::ShapeMismatch`].
    pub fn hessian_diagonal<E: Element, T: Target>(
        &self,
        logits: Matrix<'_, E>,
        targets: &[T],
        out: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        self.curvature(logits, targets)?.hessian_diagonal(out)
    }

    /// [`Curvature::gauss_newton_diagonal`] in one call.
    ///
    /// # Errors
    /// Those of [`CrossEntropy::loss`], and [`Error::ShapeMismatch`].
    pub fn gauss_newton_diagonal<E: Element, T: Target>(
        &self,
        logits: Matrix<'_, E>,
        targets: &[T],
        out: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        self.curvature(logits, targets)?.gauss_newton_diagonal(out)
    }
}

impl<'a, E: Element> Curvature<'a, E> {
    /// The Hessian of the reduced loss times `direction`, in `out`; both rows x C. With v a row of the direction, its
    /// row is
    ///
    /// ```text
    /// H v = (S + 2 z lse) (p_i v_i - p_i (p . v)) + 2 z p_i (p . v)
    /// ```
    ///
    /// and what [`Curvature`] adds to it for a focal loss and for transformed logits; after
    /// [Pearlmutter 1994](https://doi.org/10.1162/neco.1994.6.1.147).
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    pub fn hessian_vector_product(
        &self,
        direction: Matrix<'_, E>,
        out: MatrixMut<'_, E>,
    ) -> Result<(), Error> {
        self.check_shape("direction", direction)?;
        self.check_shape("out", out.as_matrix())?;
        self.run(Output::HessianVectorProduct(Upstream::Keep(direction, out)));
        Ok(())
    }

    /// The same; the product replaces `direction`.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    pub fn hessian_vector_product_in_place(&self, direction: MatrixMut<'_, E>) -> Result<(), Error> {
        self.check_shape("direction", direction.as_matrix())?;
        self.run(Output::HessianVectorProduct(Upstream::Overwrite(direction)));
        Ok(())
    }

    /// The derivative of the reduced loss along `direction`, rows x C: the sum of its gradient times the direction, the
    /// gradient never formed. Where no row counts it is 0.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    pub fn jvp(&self, direction: Matrix<'_, E>) -> Result<f64, Error> {
        self.check_shape("direction", direction)?;
        Ok(self.run(Output::Jvp(direction, None)))
    }

    /// The same, and in `derivatives` that of each row's loss before the reduction, as [`Request::losses`] has the loss:
    /// its row's weight in it, and no upstream gradient.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::LengthMismatch`].
    pub fn jvp_of_rows(&self, direction: Matrix<'_, E>, derivatives: &mut [E::PerRow]) -> Result<f64, Error> {
        self.check_shape("direction", direction)?;
        let (expected, actual) = (self.logits.rows(), derivatives.len());
        if actual != expected {
            return Err(Error::LengthMismatch { argument: "derivatives", expected, actual });
        }
        Ok(self.run(Output::Jvp(direction, Some(derivatives))))
    }

    /// The diagonal of the Gauss-Newton matrix of the reduced loss, in `out`, rows x C: S p_i (1 - p_i) + 2 z p_i^2. It
    /// is never negative, unless an upstream gradient is; 1 - p_i is the sum of the others, which does not cancel.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    pub fn gauss_newton_diagonal(&self, out: MatrixMut<'_, E>) -> Result<(), Error> {
        self.diagonal(Diagonal::GaussNewton, out)
    }

    /// The diagonal of the Hessian of the reduced loss, in `out`, rows x C: (S + 2 z lse) p_i (1 - p_i) + 2 z p_i^2, and
    /// with a focal loss F (p_i - [i = y])^2 more; of transformed logits D H D + diag(g t''). It is that of the Gauss-Newton
    /// matrix but for a z-loss, a focal loss and a softcap.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`].
    pub fn hessian_diagonal(&self, out: MatrixMut<'_, E>) -> Result<(), Error> {
        self.diagonal(Diagonal::Hessian, out)
    }

    fn diagonal(&self, diagonal: Diagonal, out: MatrixMut<'_, E>) -> Result<(), Error> {
        self.check_shape("out", out.as_matrix())?;
        self.run(Output::Diagonal(diagonal, out));
        Ok(())
    }

    fn check_shape(&self, argument: &'static str, matrix: Matrix<'_, E>) -> Result<(), Error> {
        let expected = (self.logits.rows(), self.logits.cols());
        check_shape(argument, expected, (matrix.rows(), matrix.cols()))
    }

    fn run(&self, output: Output<'_, E>) -> f64 {
        let Self { ce, logits, targets, census, inputs } = *self;
        let (divisor, z_divisor) = ce.divisors(&census, &inputs);
        let (classes, upstream) = (logits.cols(), inputs.upstream_scalar.unwrap_or(1.0));
        let settings = Settings {
            options: &ce.options,
            terms: ce.options.terms(classes),
            transform: ce.options.transform(),
            factor: product(upstream, reciprocal(divisor)),
            z_factor: product(upstream, reciprocal(z_divisor)),
        };
        let rows = Rows { settings, logits, targets, inputs, output };
        normal_or_zero(E::run_curvature(ce.schedule, rows).loss.rounded)
    }
}
