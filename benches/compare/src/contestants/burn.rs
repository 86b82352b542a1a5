//! `burn` on its CPU backend, flex: tensor operations one after the other, and back through the graph they leave.

use std::error::Error;
use std::hint::black_box;

use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{Outcome, Peer};

pub struct Burn {
    cross_entropy: CrossEntropyLoss,
    logits: Tensor<2>,
    targets: Tensor<1, Int>,
}

impl Burn {
    pub fn new(x: &[f32], targets: &[i64]) -> Self {
        let device = Device::flex().autodiff();
        let (rows, classes) = (targets.len(), x.len() / targets.len());
        let logits = TensorData::new(x.to_vec(), [rows, classes]);
        let targets = TensorData::new(targets.to_vec(), [rows]);
        Self {
            cross_entropy: CrossEntropyLossConfig::new().init(&device),
            logits: Tensor::from_data(logits, &device).require_grad(),
            targets: Tensor::from_data(targets, &device),
        }
    }

    fn loss_and_grad(&self) -> (Tensor<1>, Option<Tensor<2>>) {
        let loss = self.cross_entropy.forward(self.logits.clone(), self.targets.clone());
        let grad = self.logits.grad(&loss.backward());
        (loss, grad)
    }
}

impl Peer for Burn {
    fn step(&self) -> Result<(), Box<dyn Error>> {
        black_box(self.loss_and_grad());
        Ok(())
    }

    fn outcome(&self) -> Result<Outcome, Box<dyn Error>> {
        let (loss, grad) = self.loss_and_grad();
        let grad = grad.ok_or("there is no gradient")?.into_data().iter::<f32>().collect();
        Ok(Outcome { loss: f64::from(loss.into_scalar::<f32>()), grad })
    }
}
