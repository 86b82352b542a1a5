//! The crate's scalar reference: `f64`, one number at a time, in memory that it allocates.

use std::error::Error;
use std::hint::black_box;

use xent::{CrossEntropy, Matrix, reference};

use super::{Outcome, Peer};

/// It takes part where a call stays below a second or so.
pub const MOST_ELEMENTS: usize = 1 << 24;

pub struct Reference {
    ce: CrossEntropy,
    logits: Vec<f32>,
    targets: Vec<i64>,
}

impl Reference {
    pub fn new(x: &[f32], targets: &[i64]) -> Self {
        Self { ce: CrossEntropy::default(), logits: x.to_vec(), targets: targets.to_vec() }
    }

    fn loss_and_grad(&self) -> Result<reference::Outcome, xent::Error> {
        let rows = self.targets.len();
        let logits = Matrix::new(&self.logits, rows, self.logits.len() / rows)?;
        reference::cross_entropy(&self.ce, logits, &self.targets)
    }
}

impl Peer for Reference {
    fn step(&self) -> Result<(), Box<dyn Error>> {
        black_box(self.loss_and_grad()?);
        Ok(())
    }

    fn outcome(&self) -> Result<Outcome, Box<dyn Error>> {
        let outcome = self.loss_and_grad()?;
        Ok(Outcome { loss: outcome.loss, grad: outcome.grad.iter().map(|&g| g as f32).collect() })
    }
}
