//! Fused softmax cross-entropy on CPUs: loss and gradient of a row-major batch of logits in one pass of one kernel, with
//! stated error bounds and the same bits on every run.
//!
//! ```
//! use xent::{CrossEntropy, Matrix, MatrixMut, Request};
//!
//! let (rows, classes) = (2, 3);
//! let mut x = vec![1.0, 2.0, 3.0, 2.0, 1.0, 0.5];
//! let targets = [1_i64, 0];
//! let mut dx = vec![0.0; rows * classes];
//!
//! let ce = CrossEntropy::builder().label_smoothing(0.1).ignore_index(-100).build()?;
//! let logits = Matrix::new(&x, rows, classes)?;
//! let loss: f64 = ce.loss(logits, &targets)?;
//! let same: f64 = ce.loss_and_grad(logits, &targets, MatrixMut::new(&mut dx, rows, classes)?)?;
//! assert_eq!(loss, same);
//!
//! // Any set of outputs in one call.
//! let (mut losses, mut best) = (vec![0.0; rows], vec![0; rows]);
//! let request = Request::new().losses(&mut losses).argmax(&mut best);
//! assert_eq!(ce.run(logits, &targets, request)?.correct, 1);
//!
//! // The gradient in the place of the logits: the fewest bytes moved.
//! ce.loss_and_grad_in_place(MatrixMut::new(&mut x, rows, classes)?, &targets)?;
//! assert_eq!(x, dx);
//! # Ok::<(), xent::Error>(())
//! ```
//!
//! # What it promises
//!
//! * **Accuracy**: the bounds of [`contract`]. A confident row keeps its loss and its gradient.
//! * **The same bits**: over thread counts, batch splits, alignments, in or out of place, and instruction sets with fused
//!   multiply-add.
//! * **No panic, no partial result**: arguments are checked before the first write, and an [`Error`] names what is wrong
//!   and where.
//! * **No allocation**: in any call on a built [`CrossEntropy`], but for what rayon does when it starts its
//!   threads, and when it takes work from a thread outside its pool.
//!
//! # Input that is not a finite number
//!
//! | input | result |
//! |---|---|
//! | ignored row | loss 0, gradient exactly 0, whatever its logits are |
//! | logit -inf | probability and gradient exactly 0 (a masked class); finite loss if the target is finite |
//! | target's logit -inf | loss +inf, gradient finite (-1 at the target; 0 under a softcap, which has no slope there) |
//! | NaN or +inf in a row, or every logit -inf | loss and gradient of that row NaN, no other row touched |
//! | all rows ignored, mean | loss NaN, or 0 by [`EmptyMean::Zero`]; gradient 0 |
//! | label smoothing with -inf logits | loss +inf; finite by [`Smoothing::LiveClasses`] |
//! | 0 rows | sum 0; mean NaN, or 0 by [`EmptyMean::Zero`] |
//!
//! # Second order
//!
//! [`CrossEntropy::curvature`]: the Hessian times a direction, its diagonal, and the derivative along a direction, for
//! optimisers that want more than the gradient.
//!
//! # Distillation
//!
//! [`Distillation`]: a student's softmax against a teacher's, at a temperature, from the logits of both.
//!
//! # What it costs
//!
//! Bytes and operations of each call, and what is reached of the machine's limits: [`cost_model`].
//!
//! # Dtypes
//!
//! Logits and gradients are `f32`, `f64`, or with the feature `half` of 16 bits: see [`Element`].
//!
//! # Features
//!
//! * `rayon` (default): threads, in the pool that the call is made in. See [`Parallelism`].
//! * `half`: logits and gradients of 16 bits, `bf16` and `f16` of the crate `half`. See [`Element`].
//! * `ndarray`: `ArrayView2` and `ArrayViewMut2` of the crate `ndarray` become a [`Matrix`] and a [`MatrixMut`] by
//!   `TryFrom`, and some columns of an array by `from_columns`; without a copy.
//!
//! # The formulas
//!
//! [`mathematics`] goes from softmax through its Jacobian to the gradient of each loss;
//! [`reference`](mod@reference) from the formula to the fused kernel on three logits, by hand.

mod backend;
mod batch;
mod builder;
pub mod contract;
#[doc = include_str!("../docs/cost_model.md")]
pub mod cost_model {}
#[doc = include_str!("../docs/mathematics.md")]
pub mod mathematics {}
mod cross_entropy;
mod curvature;
mod distillation;
mod doubles;
mod element;
mod error;
mod grad;
#[cfg(feature = "half")]
mod halves;
mod kernel;
mod largest;
mod loss;
mod matrix;
#[cfg(feature = "ndarray")]
mod ndarray;
mod parallel;
mod passes;
mod planes;
pub mod reference;
mod request;
mod row_inputs;
mod row_logits;
mod row_outputs;
mod row_state;
mod row_state_f64;
mod rows;
mod scratch;
mod shard_doubles;
mod shard_rows;
mod shard_state;
mod shards;
mod simd;
mod softmax;
mod sum;
mod target_probabilities;
mod targets;
mod transformed;
mod tree;

pub use backend::{BUILD, Backend};
pub use builder::CrossEntropyBuilder;
pub use cross_entropy::{CrossEntropy, Summary};
pub use curvature::Curvature;
pub use distillation::{Distillation, DistillationBuilder};
pub use element::Element;
pub use error::Error;
pub use grad::GradElement;
pub use loss::{EmptyMean, Reduction, Smoothing};
pub use matrix::{Matrix, MatrixMut};
pub use parallel::Parallelism;
pub use planes::{Planes, PlanesMut, PlanesRequest};
pub use request::Request;
pub use row_state::RowState;
pub use row_state_f64::RowStateF64;
pub use shard_rows::ShardElement;
pub use shard_state::ShardState;
pub use shards::Shards;
pub use softmax::{
    Softmax, log_softmax, log_softmax_backward, log_softmax_backward_in_place, log_softmax_in_place, softmax,
    softmax_backward, softmax_backward_in_place, softmax_in_place,
};
pub use targets::Target;
