//! The formula as it is written by hand on `ndarray`: whole arrays at a time, on one thread.

use std::error::Error;
use std::hint::black_box;

use ndarray::{Array2, Axis, ShapeError};

use super::{Outcome, Peer};

pub struct Ndarray {
    logits: Array2<f32>,
    targets: Vec<usize>,
}

impl Ndarray {
    pub fn new(x: &[f32], targets: &[i64]) -> Result<Self, ShapeError> {
        let shape = (targets.len(), x.len() / targets.len());
        let targets = targets.iter().map(|&target| target as usize).collect();
        Ok(Self { logits: Array2::from_shape_vec(shape, x.to_vec())?, targets })
    }

    fn loss_and_grad(&self) -> (f32, Array2<f32>) {
        let rows = self.targets.len() as f32;
        let max = self.logits.map_axis(Axis(1), |row| row.fold(f32::NEG_INFINITY, |max, &x| max.max(x)));
        let mut grad = &self.logits - &max.view().insert_axis(Axis(1));
        let target_gaps: f32 = self.targets.iter().enumerate().map(|(row, &class)| grad[[row, class]]).sum();
        grad.mapv_inplace(f32::exp);
        let sums = grad.sum_axis(Axis(1));
        let loss = (sums.mapv(f32::ln).sum() - target_gaps) / rows;
        grad /= &sums.insert_axis(Axis(1));
        for (row, &class) in self.targets.iter().enumerate() {
            grad[[row, class]] -= 1.0;
        }
        grad /= rows;
        (loss, grad)
    }
}

impl Peer for Ndarray {
    fn step(&self) -> Result<(), Box<dyn Error>> {
        black_box(self.loss_and_grad());
        Ok(())
    }

    fn outcome(&self) -> Result<Outcome, Box<dyn Error>> {
        let (loss, grad) = self.loss_and_grad();
        Ok(Outcome { loss: f64::from(loss), grad: grad.into_iter().collect() })
    }
}
