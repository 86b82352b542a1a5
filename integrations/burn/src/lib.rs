//! The fused softmax cross-entropy of [`xent`] for [burn](https://docs.rs/burn) on CPUs, with autodiff.
//!
//! [`CrossEntropyLossConfig`] and [`CrossEntropyLoss`] take the place of those of `burn::nn::loss`: the same options by the
//! same names, the same `forward`, the same gradients, on burn's own backend for CPUs, flex, with autodiff or without.
//!
//! ```
//! use burn::tensor::{Device, Int, Tensor};
//! use xent_burn::CrossEntropyLossConfig;
//!
//! let device = Device::flex().autodiff();
//! let loss = CrossEntropyLossConfig::new().with_smoothing(Some(0.1)).init(&device);
//!
//! let logits = Tensor::<2>::from_floats([[1.0, 2.0, 3.0], [2.0, 1.0, 0.5]], &device).require_grad();
//! let targets = Tensor::<1, Int>::from_ints([1, 0], &device);
//! let loss = loss.forward(logits.clone(), targets);
//! let grads = loss.backward();
//! assert!((loss.into_scalar::<f32>() - 0.978).abs() < 1e-3);
//! assert_eq!(logits.grad(&grads).map(|grad| grad.dims()), Some([2, 3]));
//! ```
//!
//! # What is computed when
//!
//! The loss of logits that need no gradient is computed alone. Otherwise the gradient is computed in the same pass, and
//! `backward()` takes it as it is. Where the loss was multiplied by something before `backward()`, a loss scale say, the
//! gradient is multiplied by that, after it was rounded to its dtype: in `f16`, whose smallest numbers a mean's gradient may
//! reach, scale by the reduction instead ([`xent::Reduction::Sum`]).
//!
//! # What is copied
//!
//! Nothing, where `forward` gets the only handle on contiguous logits, as from the last layer of a model: the gradient then
//! takes the logits' own memory. Logits that something else still needs are read where they are, their rows further apart
//! than they are long or not, and the gradient has memory of its own. Only logits whose classes are not neighbours (a
//! transposed tensor), or whose rows overlap or run backwards (an expanded or flipped one), are copied, and targets that
//! are not contiguous.

mod config;
mod error;
mod loss;
mod operation;
mod rows;

pub use config::CrossEntropyLossConfig;
pub use error::Error;
pub use loss::CrossEntropyLoss;
