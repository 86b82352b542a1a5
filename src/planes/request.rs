//! What a call on planes shall deliver.

use crate::row_inputs::RowInputs;
use crate::row_outputs::RowOutputs;
use crate::{Element, Error, PlanesMut};

/// The outputs of one call on logits of shape (N, C, P), each of them optional, written to memory of the caller's: what
/// [`Request`](crate::Request) is for a matrix of rows. Each costs only itself. Planes are of the logits' dtype `T`, what
/// has one number for each position is of dtype [`Element::PerRow`].
///
/// | output | shape | value for position p of image n |
/// |---|---|---|
/// | [`grad`](Self::grad) | (N, C, P) | derivative of the reduced loss with respect to the logits |
/// | [`losses`](Self::losses) | N P | its loss, before the reduction |
/// | [`lse`](Self::lse) | N P | ln(sum_c exp(x_c)) |
/// | [`target_log_probabilities`](Self::target_log_probabilities) | N P | x_y - lse, for the target y |
/// | [`argmax`](Self::argmax) | N P, `usize` | the first class with the largest logit |
/// | [`argmax_probabilities`](Self::argmax_probabilities) | N P | the largest probability |
/// | [`probabilities`](Self::probabilities) | (N, C, P) | exp(x_c - lse) |
///
/// What is one number for each position is at `n * P + p`. Ignored positions, and those with a NaN, are treated as rows
/// of a [`Request`](crate::Request).
///
/// ```
/// use xent::{CrossEntropy, Planes, PlanesMut, PlanesRequest};
///
/// // One image of 1 x 2 pixels, three classes.
/// let logits = [2.0_f32, 0.0, 1.0, 3.0, 0.0, 0.5];
/// let (mut probabilities, mut losses, mut map) = ([0.0; 6], [0.0; 2], [0; 2]);
/// let request = PlanesRequest::new()
///     .probabilities(PlanesMut::new(&mut probabilities, 1, 3, 2)?)
///     .losses(&mut losses)
///     .argmax(&mut map);
/// let summary = CrossEntropy::default().run_planes(Planes::new(&logits, 1, 3, 2)?, &[0_u8, 2], request)?;
///
/// assert_eq!(map, [0, 1]);
/// assert_eq!(summary.correct, 1);
/// assert!((losses[0] + probabilities[0].ln()).abs() < 1e-6);
/// # Ok::<(), xent::Error>(())
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct PlanesRequest<'a, T: Element = f32> {
    pub(crate) grad: Option<PlanesMut<'a, T>>,
    pub(crate) inputs: RowInputs<'a, T::PerRow>,
    pub(crate) row_outputs: RowOutputs<'a, T::PerRow>,
    pub(crate) probabilities: Option<PlanesMut<'a, T>>,
}

impl<'a, T: Element> PlanesRequest<'a, T> {
    /// Nothing but the reduced loss.
    pub fn new() -> Self {
        Self::default()
    }

    /// The gradient of the reduced loss, (N, C, P); with [`upstream`](Self::upstream), that of the losses before the
    /// reduction, each times its upstream gradient.
    pub fn grad(mut self, grad: PlanesMut<'a, T>) -> Self {
        self.grad = Some(grad);
        self
    }

    /// The derivative of what the caller computes from [`losses`](Self::losses), one for each position of each image. No
    /// reduction enters: the backward pass of PyTorch's `reduction="none"`.
    pub fn upstream(mut self, upstream: &'a [T::PerRow]) -> Self {
        self.inputs.upstream = Some(upstream);
        self
    }

    /// What the sum of the losses is divided by, and their gradient, in place of the reduction's own divisor; see
    /// [`Request::denominator`](crate::Request::denominator). Finite and above 0.
    pub fn denominator(mut self, denominator: f64) -> Self {
        self.inputs.denominator = Some(denominator);
        self
    }

    /// The derivative of what the caller computes from the reduced loss: a loss scale, say. See
    /// [`Request::upstream_scalar`](crate::Request::upstream_scalar). Finite.
    pub fn upstream_scalar(mut self, upstream_scalar: f64) -> Self {
        self.inputs.upstream_scalar = Some(upstream_scalar);
        self
    }

    /// One weight for each position of each image, which multiplies its loss and its gradient: see
    /// [`Request::row_weights`](crate::Request::row_weights). Finite and not negative.
    pub fn row_weights(mut self, row_weights: &'a [f32]) -> Self {
        self.inputs.row_weights = Some(row_weights);
        self
    }

    /// Which positions count: those with `true`. The others are as those with an ignored target.
    pub fn loss_mask(mut self, loss_mask: &'a [bool]) -> Self {
        self.inputs.loss_mask = Some(loss_mask);
        self
    }

    /// The loss of each position before the reduction, its z-loss included.
    pub fn losses(mut self, losses: &'a mut [T::PerRow]) -> Self {
        self.row_outputs.losses = Some(losses);
        self
    }

    /// The logarithm of the sum of exponentials of each position.
    pub fn lse(mut self, lse: &'a mut [T::PerRow]) -> Self {
        self.row_outputs.lse = Some(lse);
        self
    }

    /// The logarithm of the target's probability of each position.
    pub fn target_log_probabilities(mut self, target_log_probabilities: &'a mut [T::PerRow]) -> Self {
        self.row_outputs.target_log_probabilities = Some(target_log_probabilities);
        self
    }

    /// The largest probability of each position: the confidence of the segmentation map.
    pub fn argmax_probabilities(mut self, argmax_probabilities: &'a mut [T::PerRow]) -> Self {
        self.row_outputs.argmax_probabilities = Some(argmax_probabilities);
        self
    }

    /// The class with the largest logit of each position: the segmentation map. `usize::MAX` where it is ignored.
    pub fn argmax(mut self, argmax: &'a mut [usize]) -> Self {
        self.row_outputs.argmax = Some(argmax);
        self
    }

    /// The softmax, (N, C, P).
    pub fn probabilities(mut self, probabilities: PlanesMut<'a, T>) -> Self {
        self.probabilities = Some(probabilities);
        self
    }

    /// Every output has the shape that goes with the logits'.
    pub(crate) fn check(&self, sizes: (usize, usize, usize), rows: usize) -> Result<(), Error> {
        for (argument, planes) in [("grad", &self.grad), ("probabilities", &self.probabilities)] {
            if let Some(actual) = planes.as_ref().map(|planes| planes.shape().sizes())
                && actual != sizes
            {
                return Err(Error::PlanesMismatch { argument, expected: sizes, actual });
            }
        }
        self.row_outputs.check(rows)
    }
}
