//! What a call shall deliver.

use crate::batch::Wide;
use crate::grad::{Grad, GradElement, OtherGrad};
use crate::row_inputs::RowInputs;
use crate::row_outputs::RowOutputs;
use crate::{Element, Error, MatrixMut};

/// The outputs of one call, each of them optional, written to memory of the caller's. Each costs only itself.
///
/// For rows x C logits x of dtype `T`; what has one number for each row is of dtype [`Element::PerRow`]. Where logits are
/// scaled or capped, x is what they become, and the gradient alone is with respect to those given:
///
/// | output | shape | value for row r |
/// |---|---|---|
/// | [`grad`](Self::grad) | rows x C | derivative of the reduced loss with respect to the logits |
/// | [`losses`](Self::losses) | rows | the loss of the row, before the reduction |
/// | [`lse`](Self::lse) | rows | ln(sum_c exp(x_c)) |
/// | [`target_log_probabilities`](Self::target_log_probabilities) | rows | x_y - lse, for the target y |
/// | [`entropies`](Self::entropies) | rows | sum_c p_c (lse - x_c), in nats |
/// | [`argmax`](Self::argmax) | rows, `usize` | the first index of the largest logit |
/// | [`argmax_probabilities`](Self::argmax_probabilities) | rows | the largest probability |
/// | [`target_ranks`](Self::target_ranks) | rows, `usize` | how many classes come before the target |
/// | [`probabilities`](Self::probabilities) | rows x C | exp(x_i - lse) |
/// | [`log_probabilities`](Self::log_probabilities) | rows x C | x_i - lse |
///
/// An ignored row's logits are not read: its outputs are 0, and its argmax and rank `usize::MAX`. A row with a NaN, with
/// +inf, or with nothing but -inf has NaN in every output and no rank, `usize::MAX`; its argmax counts NaN as the largest.
///
/// ```
/// use xent::{CrossEntropy, Matrix, MatrixMut, Request};
///
/// let logits = [1.0, 2.0, 3.0, 0.5, 0.0, -0.5];
/// let (mut grad, mut losses, mut best) = ([0.0; 6], [0.0; 2], [0; 2]);
/// let request =
///     Request::new().grad(MatrixMut::new(&mut grad, 2, 3)?).losses(&mut losses).argmax(&mut best);
/// let summary = CrossEntropy::default().run(Matrix::new(&logits, 2, 3)?, &[1_u8, 0], request)?;
///
/// assert_eq!(best, [2, 0]);
/// assert_eq!(summary.correct, 1);
/// assert!((summary.loss - f64::from(losses[0] + losses[1]) / 2.0).abs() < 1e-6);
/// # Ok::<(), xent::Error>(())
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct Request<'a, T: Element = f32> {
    pub(crate) grad: Option<Grad<'a, T>>,
    /// Whether the gradient is added to what is there.
    pub(crate) accumulates: bool,
    pub(crate) inputs: RowInputs<'a, T::PerRow>,
    pub(crate) row_outputs: RowOutputs<'a, T::PerRow>,
    pub(crate) probabilities: Option<MatrixMut<'a, T>>,
    pub(crate) log_probabilities: Option<MatrixMut<'a, T>>,
}

impl<'a, T: Element> Request<'a, T> {
    /// Nothing but the reduced loss.
    pub fn new() -> Self {
        Self::default()
    }

    /// The gradient of the reduced loss, rows x C; with [`upstream`](Self::upstream), that of the losses before the
    /// reduction, each times its upstream gradient.
    pub fn grad(self, grad: MatrixMut<'a, T>) -> Self {
        Self { grad: Some(Grad::Own(grad)), accumulates: false, ..self }
    }

    /// The gradient in the same way, but added to what the matrix holds, as PyTorch's `backward` does. The
    /// gradient has been rounded to its dtype before, one of 16 bits to `f32`; the sum is rounded once more. Rows that do
    /// not count are left alone.
    ///
    /// It costs more than a gradient that is only written: exponentials have no place where sums are. Those of up to 2048
    /// classes go to scratch memory; longer rows, and those of `f64`, are read twice.
    ///
    /// ```
    /// use xent::{CrossEntropy, Matrix, MatrixMut, Request};
    ///
    /// let logits = Matrix::new(&[0.0, 0.0], 1, 2)?;
    /// let mut grad = [10.0, 20.0];
    /// let request = Request::new().accumulate(MatrixMut::new(&mut grad, 1, 2)?);
    /// CrossEntropy::default().run(logits, &[1_u8], request)?;
    /// assert_eq!(grad, [10.5, 19.5]);
    /// # Ok::<(), xent::Error>(())
    /// ```
    pub fn accumulate(self, grad: MatrixMut<'a, T>) -> Self {
        Self { grad: Some(Grad::Own(grad)), accumulates: true, ..self }
    }

    /// The gradient as [`grad`](Self::grad) has it, in another dtype than the logits: `f32` for logits of 16 bits, to be
    /// summed up or clipped before it is rounded; or 16 bits for logits of `f32`, half the bytes for a backward pass in
    /// mixed precision. It is rounded once; that of logits of `f64`, which is computed in `f64`, too. For the dtype of the
    /// logits themselves `grad` is faster. Logits of `f64` alone have a gradient of `f64`.
    ///
    /// ```
    /// # #[cfg(feature = "half")] {
    /// use half::bf16;
    /// use xent::{CrossEntropy, Matrix, MatrixMut, Request};
    ///
    /// let logits = [2.0, 0.5, -1.0].map(bf16::from_f32);
    /// let mut grad = [0.0_f32; 3];
    /// let request = Request::new().grad_as(MatrixMut::new(&mut grad, 1, 3)?);
    /// CrossEntropy::default().run(Matrix::new(&logits, 1, 3)?, &[0_u8], request)?;
    /// assert!((grad[0] + 0.214_402_5).abs() < 1e-6);
    /// # }
    /// # Ok::<(), xent::Error>(())
    /// ```
    pub fn grad_as<G: GradElement>(self, grad: MatrixMut<'a, G>) -> Self {
        Self { grad: Some(Grad::Other(G::gradient(grad))), accumulates: false, ..self }
    }

    /// The same, added to what the matrix holds, as [`accumulate`](Self::accumulate) does: gradients of `f32` for logits of
    /// 16 bits lose nothing that many small steps would add. That of logits of `f64` is added in `f64`, and the sum alone is
    /// rounded to the dtype of the gradient.
    pub fn accumulate_as<G: GradElement>(self, grad: MatrixMut<'a, G>) -> Self {
        Self { grad: Some(Grad::Other(G::gradient(grad))), accumulates: true, ..self }
    }

    /// The derivative of what the caller computes from [`losses`](Self::losses), one for each row. The gradient of row
    /// r is `upstream[r]` times that of its own loss, and no reduction enters: the backward pass of PyTorch's
    /// `reduction="none"`.
    pub fn upstream(mut self, upstream: &'a [T::PerRow]) -> Self {
        self.inputs.upstream = Some(upstream);
        self
    }

    /// The derivative of what the caller computes from the reduced loss: a loss scale, say. It multiplies the gradient,
    /// also that of [`upstream`](Self::upstream), and no loss. Finite.
    pub fn upstream_scalar(mut self, upstream_scalar: f64) -> Self {
        self.inputs.upstream_scalar = Some(upstream_scalar);
        self
    }

    /// One weight for each row, which multiplies its loss and its gradient, the z-loss's share included. The mean divides
    /// by the sum of each row's weight times the class weight of its target, over the rows that count; the z-loss's mean
    /// by the sum of the rows' weights. Finite and not negative. A row of weight 0 is not an ignored one: its logits are
    /// read, and a NaN among them stays one.
    ///
    /// ```
    /// use xent::{CrossEntropy, Matrix, Request};
    ///
    /// let logits = Matrix::new(&[1.0, 2.0, 3.0, 1.0], 2, 2)?;
    /// let ce = CrossEntropy::default();
    /// let summary = ce.run(logits, &[0_u8, 0], Request::new().row_weights(&[3.0, 1.0]))?;
    /// assert!((summary.loss - (3.0 * 1.313_26 + 0.126_93) / 4.0).abs() < 1e-4);
    /// assert_eq!(summary.weight, 4.0);
    /// # Ok::<(), xent::Error>(())
    /// ```
    pub fn row_weights(mut self, row_weights: &'a [f32]) -> Self {
        self.inputs.row_weights = Some(row_weights);
        self
    }

    /// Which rows count: those with `true`, as in the loss mask of Megatron-LM. The others are as rows with an ignored
    /// target, and their target may be anything.
    pub fn loss_mask(mut self, loss_mask: &'a [bool]) -> Self {
        self.inputs.loss_mask = Some(loss_mask);
        self
    }

    /// What the sum of the losses is divided by, and their gradient, in place of the reduction's own divisor. Steps that
    /// accumulate gradients over several batches need the tokens of all of them: a mean of means weighs a token more
    /// where its batch has fewer. Finite and above 0.
    ///
    /// ```
    /// use xent::{CrossEntropy, Matrix, Request};
    ///
    /// let ce = CrossEntropy::default();
    /// let (first, second) = ([1.0, 2.0, 0.5, 0.1], [0.3, 0.2]);
    /// let all_rows = Request::new().denominator(3.0);
    /// let loss = ce.run(Matrix::new(&first, 2, 2)?, &[0_u8, 1], all_rows)?.loss;
    /// let all_rows = Request::new().denominator(3.0);
    /// let loss = loss + ce.run(Matrix::new(&second, 1, 2)?, &[0_u8], all_rows)?.loss;
    ///
    /// let together = [1.0, 2.0, 0.5, 0.1, 0.3, 0.2];
    /// assert!((loss - ce.loss(Matrix::new(&together, 3, 2)?, &[0_u8, 1, 0])?).abs() < 1e-15);
    /// # Ok::<(), xent::Error>(())
    /// ```
    pub fn denominator(mut self, denominator: f64) -> Self {
        self.inputs.denominator = Some(denominator);
        self
    }

    /// The loss of each row before the reduction, its z-loss included, as PyTorch's `reduction="none"` returns it.
    pub fn losses(mut self, losses: &'a mut [T::PerRow]) -> Self {
        self.row_outputs.losses = Some(losses);
        self
    }

    /// The logarithm of the sum of exponentials of each row.
    pub fn lse(mut self, lse: &'a mut [T::PerRow]) -> Self {
        self.row_outputs.lse = Some(lse);
        self
    }

    /// The class with the largest logit of each row.
    pub fn argmax(mut self, argmax: &'a mut [usize]) -> Self {
        self.row_outputs.argmax = Some(argmax);
        self
    }

    /// The logarithm of each row's probability of its target, whatever the loss makes of it: no weight and no smoothing
    /// enters.
    pub fn target_log_probabilities(mut self, target_log_probabilities: &'a mut [T::PerRow]) -> Self {
        self.row_outputs.target_log_probabilities = Some(target_log_probabilities);
        self
    }

    /// The probability of the class with the largest logit of each row: how confident a prediction is.
    pub fn argmax_probabilities(mut self, argmax_probabilities: &'a mut [T::PerRow]) -> Self {
        self.row_outputs.argmax_probabilities = Some(argmax_probabilities);
        self
    }

    /// The entropy of each row's softmax, sum_c p_c (-ln p_c), in nats ([Shannon 1948](
    /// https://doi.org/10.1002/j.1538-7305.1948.tb01338.x)). A class of probability 0 adds nothing. It costs a pass over
    /// the row; two more, where one class dominates the row and is not the target.
    pub fn entropies(mut self, entropies: &'a mut [T::PerRow]) -> Self {
        self.row_outputs.entropies = Some(entropies);
        self
    }

    /// How many classes come before the target when classes are sorted by their logits, the largest and of equal ones the
    /// earliest first. A prediction is correct among the top k where the rank is below k: any top-k accuracy, from one
    /// pass over the row.
    ///
    /// ```
    /// use xent::{CrossEntropy, Matrix, Request};
    ///
    /// let logits = [0.1, 0.7, 0.2, 0.9, 0.0, 0.3];
    /// let mut ranks = [0; 2];
    /// let request = Request::new().target_ranks(&mut ranks);
    /// CrossEntropy::default().run(Matrix::new(&logits, 2, 3)?, &[2_u8, 1], request)?;
    /// assert_eq!(ranks, [1, 2]);
    /// let top_2 = ranks.iter().filter(|&&rank| rank < 2).count();
    /// assert_eq!(top_2, 1);
    /// # Ok::<(), xent::Error>(())
    /// ```
    pub fn target_ranks(mut self, target_ranks: &'a mut [usize]) -> Self {
        self.row_outputs.target_ranks = Some(target_ranks);
        self
    }

    /// The softmax, rows x C.
    pub fn probabilities(mut self, probabilities: MatrixMut<'a, T>) -> Self {
        self.probabilities = Some(probabilities);
        self
    }

    /// The logarithm of the softmax, rows x C.
    pub fn log_probabilities(mut self, log_probabilities: MatrixMut<'a, T>) -> Self {
        self.log_probabilities = Some(log_probabilities);
        self
    }

    pub(crate) fn writes(&self, wide: Wide) -> bool {
        if wide == Wide::Gradient { self.grad.is_some() } else { self.wide(wide).is_some() }
    }

    /// The gradient, if it is of another dtype than the logits.
    pub(crate) fn other_grad(&self) -> Option<&OtherGrad<'a>> {
        if let Some(Grad::Other(grad)) = &self.grad { Some(grad) } else { None }
    }

    pub(crate) fn other_grad_mut(&mut self) -> Option<&mut OtherGrad<'a>> {
        if let Some(Grad::Other(grad)) = &mut self.grad { Some(grad) } else { None }
    }

    /// An output of the dtype of the logits.
    pub(crate) fn wide(&self, wide: Wide) -> Option<&MatrixMut<'a, T>> {
        match wide {
            Wide::Gradient => match &self.grad {
                Some(Grad::Own(grad)) => Some(grad),
                _ => None,
            },
            Wide::Probabilities => self.probabilities.as_ref(),
            Wide::LogProbabilities => self.log_probabilities.as_ref(),
        }
    }

    pub(crate) fn wide_mut(&mut self, wide: Wide) -> Option<&mut MatrixMut<'a, T>> {
        match wide {
            Wide::Gradient => match &mut self.grad {
                Some(Grad::Own(grad)) => Some(grad),
                _ => None,
            },
            Wide::Probabilities => self.probabilities.as_mut(),
            Wide::LogProbabilities => self.log_probabilities.as_mut(),
        }
    }

    /// Every output has the shape that goes with rows x classes logits.
    pub(crate) fn check(&self, rows: usize, classes: usize) -> Result<(), Error> {
        let shape = |matrix: &MatrixMut<'_, T>| (matrix.rows(), matrix.cols());
        let wide = [
            ("grad", self.grad.as_ref().map(Grad::shape)),
            ("probabilities", self.probabilities.as_ref().map(shape)),
            ("log_probabilities", self.log_probabilities.as_ref().map(shape)),
        ];
        for (argument, actual) in wide {
            if let Some(actual) = actual {
                check_shape(argument, (rows, classes), actual)?;
            }
        }
        self.row_outputs.check(rows)
    }

    /// The outputs of the first `rows` rows, and of the others.
    pub(crate) fn split_at(self, rows: usize) -> (Self, Self) {
        let accumulates = self.accumulates;
        let (grad, grad_rest) = split(self.grad, |grad| grad.split_at(rows));
        let (inputs, inputs_rest) = self.inputs.split_at(rows);
        let (row_outputs, row_outputs_rest) = self.row_outputs.split_at(rows);
        let (probabilities, probabilities_rest) = split(self.probabilities, |matrix| matrix.split_at(rows));
        let (log_probabilities, log_probabilities_rest) =
            split(self.log_probabilities, |matrix| matrix.split_at(rows));
        (
            Self { grad, accumulates, inputs, row_outputs, probabilities, log_probabilities },
            Self {
                grad: grad_rest,
                accumulates,
                inputs: inputs_rest,
                row_outputs: row_outputs_rest,
                probabilities: probabilities_rest,
                log_probabilities: log_probabilities_rest,
            },
        )
    }
}

pub(crate) fn check_shape(
    argument: &'static str,
    expected: (usize, usize),
    actual: (usize, usize),
) -> Result<(), Error> {
    if actual == expected { Ok(()) } else { Err(Error::ShapeMismatch { argument, expected, actual }) }
}

pub(crate) fn split<T>(whole: Option<T>, split: impl FnOnce(T) -> (T, T)) -> (Option<T>, Option<T>) {
    whole.map(split).unzip()
}
