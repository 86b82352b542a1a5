//! Targets that are probabilities.

use super::{Outcome, Rows, product, softmax_of, sums_of_others, transform_slopes, transformed};
use crate::{CrossEntropy, Element, Error, Matrix, Request};

/// What [`CrossEntropy::run_probabilities`] computes, in `f64`, with the inputs of a request. Its outputs are not written.
///
/// # Errors
/// Those of [`CrossEntropy::run_probabilities`] that concern inputs.
pub fn run_probabilities<E: Element + Into<f64>>(
    ce: &CrossEntropy,
    logits: Matrix<'_, E>,
    target_probabilities: Matrix<'_, E::PerRow>,
    request: &Request<'_, E>,
) -> Result<Outcome, Error> {
    let (rows, classes) = (logits.rows(), logits.cols());
    let inputs = &request.inputs;
    ce.check_distributions(rows, classes, target_probabilities, inputs)?;
    let weight_of = |class: usize| ce.weight().map_or(1.0, |weight| f64::from(weight[class]));
    let smoothing = ce.label_smoothing();

    let mut all = Rows::new(rows, classes);
    for row in (0..rows).filter(|&row| inputs.may_count(row)) {
        let x = logits.row(row).unwrap_or_default();
        let softmax = softmax_of(&transformed(ce, x));
        let q = target_probabilities.row(row).unwrap_or_default();
        let q: Vec<f64> = q.iter().map(|&q| q.into()).collect();
        // v_c = w_c ((1 - eps) q_c + eps / C)
        let v: Vec<f64> = (0..classes)
            .map(|c| weight_of(c) * ((1.0 - smoothing) * q[c] + smoothing / classes as f64))
            .collect();
        let loss = (0..classes).map(|c| product(v[c], -softmax.log_probabilities[c])).sum();
        // d(-ln p_c) / dx_i = p_i - [i = c], and so S p_i - v_i with S = sum_c v_c.
        let of_others = sums_of_others(&v);
        let mut grad = vec![0.0; classes];
        for i in 0..classes {
            grad[i] = of_others[i] * softmax.probabilities[i] - v[i] * softmax.complements[i];
        }
        let slopes = transform_slopes(ce, x);
        all.add(ce, inputs.row_weight(row), row, softmax, (loss, grad, slopes), 1.0);
    }
    Ok(all.reduced(ce, inputs))
}
