//! `candle`: tensor operations one after the other, and back through the graph they leave.

use std::error::Error;
use std::hint::black_box;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use super::{Outcome, Peer};

pub struct Candle {
    logits: Var,
    targets: Tensor,
}

impl Candle {
    pub fn new(x: &[f32], targets: &[i64]) -> candle_core::Result<Self> {
        let shape = (targets.len(), x.len() / targets.len());
        Ok(Self {
            logits: Var::from_slice(x, shape, &Device::Cpu)?,
            targets: Tensor::from_slice(targets, targets.len(), &Device::Cpu)?,
        })
    }

    fn loss_and_grad(&self) -> candle_core::Result<(Tensor, GradStore)> {
        let loss = candle_nn::loss::cross_entropy(&self.logits, &self.targets)?;
        let grads = loss.backward()?;
        Ok((loss, grads))
    }
}

impl Peer for Candle {
    fn step(&self) -> Result<(), Box<dyn Error>> {
        black_box(self.loss_and_grad()?);
        Ok(())
    }

    fn outcome(&self) -> Result<Outcome, Box<dyn Error>> {
        let (loss, grads) = self.loss_and_grad()?;
        let grad = grads.get(&self.logits).ok_or("there is no gradient")?;
        Ok(Outcome { loss: f64::from(loss.to_scalar::<f32>()?), grad: grad.flatten_all()?.to_vec1()? })
    }
}
