//! The scalar reference: the same losses in plain loops over `f64`, to check the kernels against and to learn from.
//!
//! It shares no code with the kernels. It is slow, and it allocates. Of logits of `f32` or 16 bits its results are exact to
//! many more bits than theirs have. Of logits of `f64` they are not: they have a relative error of some 2^-53 for each
//! operation and for each class that is added up, more than those of the kernels.
//!
//! # A worked example
//!
//! Three logits, 1, 2 and 3, and the second class is the true one.
//!
//! ```
//! use xent::reference;
//!
//! let logits = [1.0_f32, 2.0, 3.0];
//! let target = 1;
//!
//! // 1. Exponentials, and their sum.
//! let exponentials: Vec<f64> = logits.iter().map(|&x| f64::from(x).exp()).collect();
//! let sum: f64 = exponentials.iter().sum();
//! // 2.718, 7.389, 20.086; 30.193
//! assert!((sum - 30.193).abs() < 1e-3);
//!
//! // 2. Softmax divides by the sum.
//! let p = reference::softmax(&logits);
//! // 0.090, 0.245, 0.665
//! assert!((p[1] - 7.389 / 30.193).abs() < 1e-4);
//!
//! // 3. The loss is the negative logarithm of the true class's probability.
//! let loss = -p[target].ln();
//! assert!((loss - 1.407_6).abs() < 1e-4);
//!
//! // 4. Its derivative with respect to the probabilities: -1 / p for the true class, 0 for the others.
//! let upstream = reference::loss_gradient_wrt_probabilities(&p, target);
//! // 0, -4.086, 0
//! assert!((upstream[1] + 4.086).abs() < 1e-3);
//!
//! // 5. The Jacobian of softmax: dp_i / dx_j = p_i (delta_ij - p_j).
//! let jacobian = reference::softmax_jacobian(&p);
//! //  0.0819 -0.0220 -0.0599
//! // -0.0220  0.1848 -0.1628
//! // -0.0599 -0.1628  0.2227
//! assert!((jacobian[0][0] - 0.0819).abs() < 1e-4);
//!
//! // 6. The chain rule takes the derivative through it: dL / dx_j = sum_i dL / dp_i  dp_i / dx_j.
//! let gradient = reference::chain_rule(&jacobian, &upstream);
//! // 0.090, -0.755, 0.665
//!
//! // 7. Which is p - onehot: every term of the Jacobian but one cancels. This is what the fused kernel computes,
//! //    without ever forming the probabilities, the logarithm of a small one, or the Jacobian.
//! let mut fused = [0.0_f32; 3];
//! let ce = xent::CrossEntropy::default();
//! ce.loss_and_grad(
//!     xent::Matrix::new(&logits, 1, 3)?,
//!     &[target],
//!     xent::MatrixMut::new(&mut fused, 1, 3)?,
//! )?;
//! for i in 0..3 {
//!     assert!((gradient[i] - f64::from(fused[i])).abs() < 1e-7);
//! }
//! # Ok::<(), xent::Error>(())
//! ```

mod curvature;
mod distillation;
mod probability_targets;
mod rows;
mod transform;

pub use distillation::{run_distillation, tempered_softmax_row};
pub use probability_targets::run_probabilities;
use rows::Rows;

use crate::{CrossEntropy, Element, Error, Matrix, Request, Smoothing, Target};

pub use curvature::{CurvatureOutcome, curvature, hessian};
pub use transform::{transform_bends, transform_slopes, transformed};

/// What [`cross_entropy`] finds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The reduced loss.
    pub loss: f64,
    /// What the z-loss has in it.
    pub z_loss: f64,
    /// What the mean divides by.
    pub weight: f64,
    /// The row losses before the reduction, times the rows' weights; 0 for rows that do not count.
    pub losses: Vec<f64>,
    /// The softmax of each row; nothing for rows that do not count.
    pub softmax: Vec<SoftmaxRow>,
    /// The gradient with respect to the logits, row after row, without padding: of the reduced loss, or of what the
    /// upstream gradients are derivatives of.
    pub grad: Vec<f64>,
}

/// The softmax of one row.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SoftmaxRow {
    /// exp(x_i - lse).
    pub probabilities: Vec<f64>,
    /// x_i - lse.
    pub log_probabilities: Vec<f64>,
    /// 1 - p_i, as a sum of the others.
    pub complements: Vec<f64>,
    /// ln(sum_c exp(x_c)).
    pub lse: f64,
    /// sum_c p_c (lse - x_c), in nats.
    pub entropy: f64,
}

/// exp(x_i) / sum_c exp(x_c).
pub fn softmax<T: Copy + Into<f64>>(logits: &[T]) -> Vec<f64> {
    softmax_row(logits).probabilities
}

/// x_i - ln(sum_c exp(x_c)).
pub fn log_softmax<T: Copy + Into<f64>>(logits: &[T]) -> Vec<f64> {
    softmax_row(logits).log_probabilities
}

/// The softmax of a row and its logarithm, each without cancellation.
pub fn softmax_row<T: Copy + Into<f64>>(logits: &[T]) -> SoftmaxRow {
    softmax_of(&logits.iter().map(|&x| x.into()).collect::<Vec<_>>())
}

/// The same of logits in `f64`.
fn softmax_of(x: &[f64]) -> SoftmaxRow {
    let mut largest = 0;
    for i in 0..x.len() {
        if x[i] > x[largest] {
            largest = i;
        }
    }
    // The largest term is 1; what the others add to it is kept apart, because 1 + 1e-20 is 1.
    let Some(&max) = x.get(largest) else { return SoftmaxRow::default() };
    let exps: Vec<f64> = x.iter().map(|x| (x - max).exp()).collect();
    let sum_without = |left_out: usize| {
        let mut sum = 0.0;
        for (i, e) in exps.iter().enumerate() {
            if i != left_out {
                sum += e;
            }
        }
        sum
    };
    let rest = sum_without(largest);
    let ln_sum = rest.ln_1p();
    let sum = 1.0 + rest;
    // Leaving out one small term from a large sum needs no second pass; leaving out a large one does.
    let complement =
        |i: usize| if exps[i] >= 0.25 * sum { sum_without(i) / sum } else { (sum - exps[i]) / sum };
    let probabilities: Vec<f64> = exps.iter().map(|e| e / sum).collect();
    let log_probabilities: Vec<f64> = x.iter().map(|x| (x - max) - ln_sum).collect();
    let entropy = probabilities.iter().zip(&log_probabilities).map(|(&p, &ln_p)| product(p, -ln_p)).sum();
    let complements = (0..x.len()).map(complement).collect();
    SoftmaxRow { probabilities, log_probabilities, complements, lse: max + ln_sum, entropy }
}

/// How many classes have a larger logit than this one, or an equal one and come earlier: all, if it is no class.
pub fn rank<T: PartialOrd>(logits: &[T], class: usize) -> usize {
    let Some(own) = logits.get(class) else { return logits.len() };
    let comes_before = |i: usize| logits[i] > *own || logits[i] == *own && i < class;
    (0..logits.len()).filter(|&i| comes_before(i)).count()
}

/// The Jacobian of softmax at probabilities p: row i, column j is dp_i / dx_j = p_i (delta_ij - p_j).
pub fn softmax_jacobian(p: &[f64]) -> Vec<Vec<f64>> {
    let mut jacobian = vec![vec![0.0; p.len()]; p.len()];
    for i in 0..p.len() {
        for j in 0..p.len() {
            let delta = if i == j { 1.0 } else { 0.0 };
            jacobian[i][j] = p[i] * (delta - p[j]);
        }
    }
    jacobian
}

/// The derivative of -ln(p_target) with respect to each probability.
pub fn loss_gradient_wrt_probabilities(p: &[f64], target: usize) -> Vec<f64> {
    let mut gradient = vec![0.0; p.len()];
    for (i, g) in gradient.iter_mut().enumerate() {
        if i == target {
            *g = -1.0 / p[i];
        }
    }
    gradient
}

/// From a Jacobian dy_i / dx_j and an upstream gradient dL / dy_i to dL / dx_j = sum_i dL / dy_i dy_i / dx_j. What a row or
/// the upstream gradient lacks is 0.
pub fn chain_rule(jacobian: &[Vec<f64>], upstream: &[f64]) -> Vec<f64> {
    let columns = jacobian.iter().map(Vec::len).max().unwrap_or(0);
    let mut gradient = vec![0.0; columns];
    for (row, g) in jacobian.iter().zip(upstream) {
        for (j, derivative) in row.iter().enumerate() {
            gradient[j] += g * derivative;
        }
    }
    gradient
}

/// Everything that `ce` can compute, in `f64`.
///
/// # Errors
/// Those of [`CrossEntropy::loss`].
pub fn cross_entropy<E: Element + Into<f64>, T: Target>(
    ce: &CrossEntropy,
    logits: Matrix<'_, E>,
    targets: &[T],
) -> Result<Outcome, Error> {
    run(ce, logits, targets, &Request::new())
}

/// The same with the inputs of a request: mask, weights and upstream gradients of rows, and the denominator. Its outputs
/// are not written.
///
/// # Errors
/// Those of [`CrossEntropy::run`] that concern inputs.
pub fn run<E: Element + Into<f64>, T: Target>(
    ce: &CrossEntropy,
    logits: Matrix<'_, E>,
    targets: &[T],
    request: &Request<'_, E>,
) -> Result<Outcome, Error> {
    let (rows, classes) = (logits.rows(), logits.cols());
    let inputs = &request.inputs;
    let classes_of_rows = ce.classes_of_rows(rows, classes, targets, inputs)?;
    let weight_of = |class: usize| ce.weight().map_or(1.0, |weight| f64::from(weight[class]));
    let smoothing = ce.label_smoothing();

    let mut all = Rows::new(rows, classes);
    for (row, class) in classes_of_rows.iter().enumerate() {
        let Some(target) = *class else { continue };
        let x = logits.row(row).unwrap_or_default();
        let row_softmax = softmax_of(&transformed(ce, x));
        // The classes that smoothing spreads over.
        let is_among = |c: usize| match ce.smoothing() {
            Smoothing::AllClasses => true,
            Smoothing::OtherClasses => c != target,
            Smoothing::LiveClasses => x[c].into() > f64::NEG_INFINITY,
        };
        let among: Vec<usize> = (0..classes).filter(|&c| is_among(c)).collect();
        let each = if among.is_empty() { 0.0 } else { smoothing / among.len() as f64 };
        let weights: Vec<f64> = (0..classes).map(|c| if is_among(c) { weight_of(c) } else { 0.0 }).collect();
        let weights_of_others = sums_of_others(&weights);

        // The focal loss (1 - p)^gamma (-ln p) of the target, and what multiplies (p_i - [i = y]) in its gradient.
        let (gamma, p, q) =
            (ce.focal_gamma(), row_softmax.probabilities[target], row_softmax.complements[target]);
        let nll = -row_softmax.log_probabilities[target];
        let (mut power, mut slope) = (1.0, 1.0);
        if gamma > 0.0 {
            power = (gamma * if p < 0.5 { (-p).ln_1p() } else { q.ln() }).exp();
            slope = if q == 0.0 { 0.0 } else { power * (1.0 + gamma * product(p, nll) / q) };
        }
        let hard = (1.0 - smoothing) * weight_of(target);
        let mut loss = product(hard * power, nll);
        if smoothing > 0.0 {
            for &c in &among {
                loss += product(each * weight_of(c), -row_softmax.log_probabilities[c]);
            }
        }
        // The loss is a sum of terms v_c (-ln p_c), and d(-ln p_c) / dx_i = p_i - [i = c].
        let mut grad = vec![0.0; classes];
        for i in 0..classes {
            let mut g = 0.0;
            if smoothing > 0.0 {
                // W p_i - w_i
                g += each * weights_of_others[i] * row_softmax.probabilities[i];
                g -= each * weights[i] * row_softmax.complements[i];
            }
            let hard = hard * slope;
            if i == target {
                g -= hard * row_softmax.complements[i];
            } else {
                g += hard * row_softmax.probabilities[i];
            }
            grad[i] = g;
        }
        let slopes = transform_slopes(ce, x);
        all.add(ce, inputs.row_weight(row), row, row_softmax, (loss, grad, slopes), weight_of(target));
    }
    Ok(all.reduced(ce, inputs))
}

/// For each term the sum of all others: from both ends, because one may be so large that the others are lost in a sum with it.
fn sums_of_others(terms: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0; terms.len()];
    let mut before = 0.0;
    for i in 0..terms.len() {
        sums[i] += before;
        before += terms[i];
    }
    let mut after = 0.0;
    for i in (0..terms.len()).rev() {
        sums[i] += after;
        after += terms[i];
    }
    sums
}

/// A term of weight 0 is 0, also where its value is infinite.
fn product(weight: f64, term: f64) -> f64 {
    if weight == 0.0 && !term.is_nan() { 0.0 } else { weight * term }
}
