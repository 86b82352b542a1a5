//! Second derivatives of the same losses, in plain loops.

use super::{SoftmaxRow, softmax_jacobian, softmax_row};
use crate::request::check_shape;
use crate::{CrossEntropy, Error, Matrix, Reduction, Request, Target};

/// What [`curvature`] finds. Matrices are row after row, without padding; ignored rows are 0.
#[derive(Clone, Debug)]
pub struct CurvatureOutcome {
    /// The Hessian of the reduced loss times the direction.
    pub hessian_vector_product: Vec<f64>,
    /// Its diagonal.
    pub hessian_diagonal: Vec<f64>,
    /// The diagonal of the Gauss-Newton matrix.
    pub gauss_newton_diagonal: Vec<f64>,
    /// The derivative of each row's loss along the direction, before the reduction.
    pub derivatives: Vec<f64>,
    /// That of the reduced loss.
    pub jvp: f64,
}

/// The Hessian of one row's loss with respect to its logits, before the reduction: (S + 2 z lse) J + 2 z p p^T, with J
/// the Jacobian of softmax and S the sum of what the terms -ln p_c are multiplied by.
///
/// ```
/// use xent::{CrossEntropy, reference};
///
/// let hessian = reference::hessian(&CrossEntropy::default(), &[1.0, 2.0, 3.0], 1);
/// //  0.0819 -0.0220 -0.0599
/// // -0.0220  0.1848 -0.1628
/// // -0.0599 -0.1628  0.2227
/// assert!((hessian[0][0] - 0.0819).abs() < 1e-4);
/// ```
pub fn hessian(ce: &CrossEntropy, logits: &[f32], target: usize) -> Vec<Vec<f64>> {
    let SoftmaxRow { probabilities: p, lse, .. } = softmax_row(logits);
    let mut hessian = softmax_jacobian(&p);
    // Where p is near 1, 1 - p cancels. The rows of the Jacobian add up to 0.
    for i in 0..p.len() {
        let mut others = 0.0;
        for j in 0..p.len() {
            if i != j {
                others += hessian[i][j];
            }
        }
        hessian[i][i] = -others;
    }
    let sum_of_terms: f64 = multipliers(ce, target, p.len()).iter().sum();
    for i in 0..p.len() {
        for j in 0..p.len() {
            hessian[i][j] *= sum_of_terms + 2.0 * ce.z_loss() * lse;
            hessian[i][j] += 2.0 * ce.z_loss() * p[i] * p[j];
        }
    }
    hessian
}

/// Everything that [`Curvature`](crate::Curvature) can compute, in `f64`, with the inputs of a request, in a time
/// that grows with the number of logits.
///
/// # Errors
/// Those of [`run`](super::run), and [`Error::ShapeMismatch`].
pub fn curvature<T: Target>(
    ce: &CrossEntropy,
    logits: Matrix<'_>,
    targets: &[T],
    direction: Matrix<'_>,
    request: &Request<'_>,
) -> Result<CurvatureOutcome, Error> {
    let (rows, classes) = (logits.rows(), logits.cols());
    let inputs = &request.inputs;
    let classes_of_rows = ce.classes_of_rows(rows, classes, targets, inputs)?;
    check_shape("direction", (rows, classes), (direction.rows(), direction.cols()))?;
    let (mut weight, mut counted) = (0.0, 0.0);
    for (row, class) in classes_of_rows.iter().enumerate() {
        let Some(target) = *class else { continue };
        weight += inputs.row_weight(row) * weight_of(ce, target);
        counted += inputs.row_weight(row);
    }
    let (divisor, z_divisor) = match (inputs.denominator, ce.reduction()) {
        (Some(denominator), _) => (denominator, denominator),
        (None, Reduction::Mean) => (weight, counted),
        (None, Reduction::Sum) => (1.0, 1.0),
    };

    let mut outcome = CurvatureOutcome {
        hessian_vector_product: vec![0.0; rows * classes],
        hessian_diagonal: vec![0.0; rows * classes],
        gauss_newton_diagonal: vec![0.0; rows * classes],
        derivatives: vec![0.0; rows],
        jvp: 0.0,
    };
    for (row, class) in classes_of_rows.iter().enumerate() {
        let Some(target) = *class else { continue };
        let v: Vec<f64> = direction.row(row).unwrap_or_default().iter().map(|&v| f64::from(v)).collect();
        let softmax = softmax_row(logits.row(row).unwrap_or_default());
        let (p, lse) = (&softmax.probabilities, softmax.lse);
        let mut mean = 0.0;
        for i in 0..classes {
            mean += p[i] * v[i];
        }
        let multipliers = multipliers(ce, target, classes);
        let sum_of_terms: f64 = multipliers.iter().sum();

        // -ln p_c rises by p . v - v_c, and lse by p . v.
        let mut loss_slope = 0.0;
        for c in 0..classes {
            if multipliers[c] != 0.0 {
                loss_slope -= multipliers[c] * rise(&softmax, &v, mean, c);
            }
        }
        let z_slope = 2.0 * ce.z_loss() * lse * mean;
        let row_weight = inputs.row_weight(row);
        outcome.derivatives[row] = row_weight * (loss_slope + z_slope);

        let inverse = |divisor: f64| if divisor == 0.0 { 0.0 } else { 1.0 / divisor };
        let (mut factor, mut z_factor) = match inputs.upstream {
            Some(upstream) => (f64::from(upstream[row]), f64::from(upstream[row])),
            None => (inverse(divisor), inverse(z_divisor)),
        };
        factor *= row_weight * inputs.upstream_scalar.unwrap_or(1.0);
        z_factor *= row_weight * inputs.upstream_scalar.unwrap_or(1.0);
        outcome.jvp += factor * loss_slope + z_factor * z_slope;
        let outer = 2.0 * ce.z_loss() * z_factor;
        let gauss_newton = sum_of_terms * factor;
        let jacobian = gauss_newton + outer * lse;
        for i in 0..classes {
            let at = row * classes + i;
            let q = softmax.complements[i];
            outcome.hessian_vector_product[at] =
                p[i] * (jacobian * rise(&softmax, &v, mean, i) + outer * mean);
            outcome.hessian_diagonal[at] = p[i] * (jacobian * q + outer * p[i]);
            outcome.gauss_newton_diagonal[at] = p[i] * (gauss_newton * q + outer * p[i]);
        }
    }
    Ok(outcome)
}

fn weight_of(ce: &CrossEntropy, class: usize) -> f64 {
    ce.weight().map_or(1.0, |weight| f64::from(weight[class]))
}

/// What the loss multiplies each -ln p_c by.
fn multipliers(ce: &CrossEntropy, target: usize, classes: usize) -> Vec<f64> {
    let mut multipliers = vec![0.0; classes];
    for (c, multiplier) in multipliers.iter_mut().enumerate() {
        *multiplier = ce.label_smoothing() / classes as f64 * weight_of(ce, c);
    }
    multipliers[target] += (1.0 - ce.label_smoothing()) * weight_of(ce, target);
    multipliers
}

/// v_i - p . v, without cancellation beyond that of its terms (1 - p_i) v_i and p_c v_c.
fn rise(softmax: &SoftmaxRow, v: &[f64], mean: f64, i: usize) -> f64 {
    let p = &softmax.probabilities;
    let mut others = mean - p[i] * v[i];
    if p[i] > 0.25 {
        others = 0.0;
        for c in 0..v.len() {
            if c != i {
                others += p[c] * v[c];
            }
        }
    }
    softmax.complements[i] * v[i] - others
}
