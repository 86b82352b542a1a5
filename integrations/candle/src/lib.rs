//! The fused softmax cross-entropy of [`xent`] for [candle](https://docs.rs/candle-core) on CPUs, with its gradient.
//!
//! [`cross_entropy`] takes the place of `candle_nn::loss::cross_entropy`: the same arguments, the same result, the same
//! `backward()`, but for what stands below. [`CrossEntropyLoss`] is the same with every option of a
//! [`xent::CrossEntropy`].
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//!
//! let logits = Var::new(&[[1.0_f32, 2.0, 3.0], [2.0, 1.0, 0.5]], &Device::Cpu)?;
//! let targets = Tensor::new(&[1_u32, 0], &Device::Cpu)?;
//!
//! let loss = xent_candle::cross_entropy(&logits, &targets)?;
//! let grads = loss.backward()?;
//! assert!((loss.to_scalar::<f32>()? - 0.936).abs() < 1e-3);
//! assert_eq!(grads.get(&logits).map(Tensor::dims), Some(&[2, 3][..]));
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! # What is computed when
//!
//! The loss of logits that no variable stands behind is computed alone: for an evaluation, `detach()` the logits.
//! Otherwise the gradient is computed in the same pass, and `backward()` takes it as it is; where the loss was multiplied
//! by something before `backward()`, a loss scale say, the gradient is computed again with that factor inside, so that it
//! is rounded once, which counts in `f16`. It is computed from the logits as they are then: a variable whose view they
//! are is not to be `set` before.
//!
//! The gradient is a constant of candle's graph. Where candle keeps the graph of gradients (`CANDLE_GRAD_DO_NOT_DETACH`),
//! second derivatives do not go through this loss.
//!
//! # What is copied
//!
//! Logits are read where candle has them: rows may lie further apart than they are long (a narrowed vocabulary, say), but
//! the classes of a row must be neighbours; other layouts are refused, with an error that says so, rather than copied in
//! silence. The gradient is written into memory that becomes candle's tensor; the one with a factor has a buffer of its
//! own. candle itself then adds it to a tensor of zeros, as it does with every gradient, which takes two more buffers of
//! its size. Targets that are not contiguous are copied.

mod dtype;
mod error;
mod operation;

use std::sync::{Arc, LazyLock};

use candle_core::{Result, Tensor};
use xent::CrossEntropy;

pub use error::xent_error;

use crate::operation::Operation;

/// Options by default, as [`cross_entropy`] has them.
static DEFAULT: LazyLock<CrossEntropyLoss> = LazyLock::new(|| CrossEntropyLoss::new(CrossEntropy::default()));

/// The mean over the rows of -ln(softmax(logits)) at each row's target, in the place of `candle_nn::loss::cross_entropy`.
///
/// `logits` is N x C, of `f32`, `f64`, `bf16` or `f16`; `targets` has N classes below C, as `u8`, `u32`, `i32` or `i64`.
/// The result is a scalar of the logits' dtype. Unlike candle's own, rows whose target is -100 are ignored, and a
/// confident row keeps its loss and its gradient, within the bounds of [`xent::contract`]; the largest number of the
/// targets' dtype is a class like any other, where candle's own counts such a row as a loss of 0; and the mean of no rows
/// is NaN, not an error.
///
/// # Errors
/// Those of [`CrossEntropyLoss::forward`].
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    DEFAULT.forward(logits, targets)
}

/// The loss with options: class weights, ignored targets, label smoothing, z-loss and the others of
/// [`xent::CrossEntropyBuilder`].
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use xent::CrossEntropy;
/// use xent_candle::CrossEntropyLoss;
///
/// let ce = CrossEntropy::builder().label_smoothing(0.1).ignore_index(0).build();
/// let loss = CrossEntropyLoss::new(ce.map_err(candle_core::Error::wrap)?);
///
/// let logits = Var::new(&[[1.0_f32, 2.0, 3.0], [2.0, 1.0, 0.5]], &Device::Cpu)?;
/// let grads = loss.forward(&logits, &Tensor::new(&[1_u32, 0], &Device::Cpu)?)?.backward()?;
/// let grad = grads.get(&logits).ok_or(candle_core::Error::UnwrapNone)?;
/// assert_eq!(grad.to_vec2::<f32>()?[1], [0.0; 3]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// A clone shares the options.
#[derive(Clone, Debug)]
pub struct CrossEntropyLoss {
    cross_entropy: Arc<CrossEntropy>,
}

impl CrossEntropyLoss {
    /// The loss with the options of `cross_entropy`, its reduction included.
    pub fn new(cross_entropy: CrossEntropy) -> Self {
        Self { cross_entropy: Arc::new(cross_entropy) }
    }

    /// The options.
    pub fn cross_entropy(&self) -> &CrossEntropy {
        &self.cross_entropy
    }

    /// The reduced loss, a scalar of the logits' dtype, with its gradient for `backward()`. `logits` is N x C, of `f32`,
    /// `f64`, `bf16` or `f16`; `targets` has N classes below C, or ignored targets, as `u8`, `u32`, `i32` or `i64`.
    ///
    /// # Errors
    /// candle's for another rank, dtype, layout or device; and what [`xent::CrossEntropy::loss`] refuses, which
    /// [`xent_error`] gives back as a [`xent::Error`] with the row and the value. `backward()` refuses a factor on the
    /// loss that is not finite.
    pub fn forward(&self, logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let operation = Operation::new(self.cross_entropy.clone(), logits, targets)?;
        logits.apply_op1(operation)
    }
}
