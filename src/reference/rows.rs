//! From the losses of rows to the reduced loss.

use super::{Outcome, SoftmaxRow, product};
use crate::kernel::real::Real;
use crate::row_inputs::RowInputs;
use crate::{CrossEntropy, EmptyMean, Reduction};

/// Rows with their losses and gradients, and what they add up to.
pub(super) struct Rows {
    classes: usize,
    total: f64,
    z_total: f64,
    weight: f64,
    row_weight: f64,
    losses: Vec<f64>,
    softmax: Vec<SoftmaxRow>,
    grad: Vec<f64>,
    z_grad: Vec<f64>,
}

impl Rows {
    pub(super) fn new(rows: usize, classes: usize) -> Self {
        Self {
            classes,
            total: 0.0,
            z_total: 0.0,
            weight: 0.0,
            row_weight: 0.0,
            losses: vec![0.0; rows],
            softmax: vec![SoftmaxRow::default(); rows],
            grad: vec![0.0; rows * classes],
            z_grad: vec![0.0; rows * classes],
        }
    }

    /// A row that counts: its loss without the z-loss, the gradient of that with respect to the transformed logits, and
    /// their derivatives; and its weight in the mean.
    pub(super) fn add(
        &mut self,
        ce: &CrossEntropy,
        row_weight: f64,
        row: usize,
        softmax: SoftmaxRow,
        (loss, grad, slopes): (f64, Vec<f64>, Vec<f64>),
        weight: f64,
    ) {
        // z lse^2, and d(lse) / dx_i = p_i.
        let lse = softmax.lse;
        for i in 0..self.classes {
            let z_grad = 2.0 * ce.z_loss() * lse * softmax.probabilities[i];
            // The chain rule.
            self.grad[row * self.classes + i] = grad[i] * slopes[i];
            self.z_grad[row * self.classes + i] = z_grad * slopes[i];
        }
        let z_loss = ce.z_loss() * lse * lse;
        // The weight of the row multiplies all of it.
        let loss = product(row_weight, loss);
        let z_loss = row_weight * z_loss;
        self.losses[row] = loss + z_loss;
        self.softmax[row] = softmax;
        self.total += loss;
        self.z_total += z_loss;
        self.weight += row_weight * weight;
        self.row_weight += row_weight;
    }

    pub(super) fn reduced<R: Real>(mut self, ce: &CrossEntropy, inputs: &RowInputs<'_, R>) -> Outcome {
        let (divisor, z_divisor) = match (inputs.denominator, ce.reduction()) {
            (Some(denominator), _) => (denominator, denominator),
            (None, Reduction::Mean) => (self.weight, self.row_weight),
            (None, Reduction::Sum) => (1.0, 1.0),
        };
        for row in 0..self.losses.len() {
            let columns = row * self.classes..(row + 1) * self.classes;
            for (g, z_g) in self.grad[columns.clone()].iter_mut().zip(&self.z_grad[columns]) {
                // With an upstream gradient for each row there is no reduction.
                let reduced = match inputs.upstream {
                    Some(upstream) => upstream[row].into() * (*g + z_g),
                    None => quotient(*g, divisor) + quotient(*z_g, z_divisor),
                };
                *g = inputs.upstream_scalar.unwrap_or(1.0) * inputs.row_weight(row) * reduced;
            }
        }
        let mean = |total: f64, divisor: f64| {
            let is_empty = divisor == 0.0 && total == 0.0;
            if is_empty && ce.empty_mean() == EmptyMean::Zero { 0.0 } else { total / divisor }
        };
        let z_loss = if ce.z_loss() == 0.0 { 0.0 } else { mean(self.z_total, z_divisor) };
        let loss = mean(self.total, divisor) + z_loss;
        let Self { weight, losses, softmax, grad, .. } = self;
        Outcome { loss, z_loss, weight, losses, softmax, grad }
    }
}

/// Where the divisor is 0 no row counts, and no gradient flows.
fn quotient(gradient: f64, divisor: f64) -> f64 {
    if divisor == 0.0 { 0.0 } else { gradient / divisor }
}
