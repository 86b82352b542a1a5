//! What the training examples of the integrations share: data, random numbers, and the comparison of two trainings, one
//! with a framework's own loss and one with `xent`.

mod comparison;
mod digits;
mod random;
mod text;
mod turns;

pub use comparison::{Comparison, Side, TOLERANCE};
pub use digits::{CLASSES, Digits, PIXELS};
pub use random::SplitMix64;
pub use text::{VOCABULARY, hash, text, words};
pub use turns::Turns;
