//! Fused softmax cross-entropy on CPUs.

mod backend;
mod batch;
pub mod contract;
mod cross_entropy;
mod error;
mod kernel;
mod loss;
mod matrix;
mod parallel;
pub mod reference;
mod request;
mod simd;
mod softmax;
mod targets;

pub use backend::Backend;
pub use cross_entropy::{CrossEntropy, CrossEntropyBuilder, Summary};
pub use error::Error;
pub use loss::Reduction;
pub use matrix::{Matrix, MatrixMut};
pub use parallel::Parallelism;
pub use request::Request;
pub use softmax::{
    Softmax, log_softmax, log_softmax_backward, log_softmax_in_place, softmax, softmax_backward,
    softmax_in_place,
};
pub use targets::Target;
