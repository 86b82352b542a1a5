//! Second derivatives of the same losses, in plain loops.

use super::{
    SoftmaxRow, softmax_jacobian, softmax_row, sums_of_others, transform_bends, transform_slopes, transformed,
};
use crate::request::check_shape;
use crate::row_inputs::RowInputs;
use crate::{CrossEntropy, Error, Matrix, Reduction, Request, Smoothing, Target};

/// What [`curvature`] finds. Matrices are row after row, without padding; ignored rows are 0.
#[derive(Clone, Debug)]
#[non_exhaustive]
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
/// the Jacobian of softmax and S the sum of what the gradients of the terms -ln p_c are multiplied by; and of a focal loss
/// F (p - e_y) (p - e_y)^T. Where logits are transformed, that is H' of the transformed ones, and this D H' D + diag(g t''),
/// with t' and t'' the derivatives of the transform, D = diag(t'), and g the gradient with respect to transformed logits.
///
/// ```
/// use xent::{CrossEntropy, reference};
///
/// let hessian = reference::hessian(&CrossEntropy::default(), &[1.0, 2.0, 3.0], 1)?;
/// //  0.0819 -0.0220 -0.0599
/// // -0.0220  0.1848 -0.1628
/// // -0.0599 -0.1628  0.2227
/// assert!((hessian[0][0] - 0.0819).abs() < 1e-4);
/// # Ok::<(), xent::Error>(())
/// ```
///
/// It is 0 where the target is an ignored index.
///
/// # Errors
/// Those of [`CrossEntropy::loss`].
pub fn hessian<T: Target>(ce: &CrossEntropy, logits: &[f32], target: T) -> Result<Vec<Vec<f64>>, Error> {
    let inputs = RowInputs::<f32>::default();
    let class = ce.classes_of_rows(1, logits.len(), &[target], &inputs)?.first().copied();
    let Some(target) = class.flatten() else { return Ok(vec![vec![0.0; logits.len()]; logits.len()]) };
    let softmax = softmax_row(&transformed(ce, logits));
    let Multipliers { of_gradients, of_square } = multipliers(ce, logits, &softmax, target);
    let (slopes, bends) = (transform_slopes(ce, logits), transform_bends(ce, logits));
    let gradient = gradient(2.0 * ce.z_loss() * softmax.lse, &softmax, &of_gradients);
    let SoftmaxRow { probabilities: p, complements: q, lse, .. } = softmax;
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
    let sum_of_terms: f64 = of_gradients.iter().sum();
    let of_target = |i: usize| if i == target { -q[i] } else { p[i] };
    for i in 0..p.len() {
        for j in 0..p.len() {
            hessian[i][j] *= sum_of_terms + 2.0 * ce.z_loss() * lse;
            hessian[i][j] += 2.0 * ce.z_loss() * p[i] * p[j];
            hessian[i][j] += of_square * of_target(i) * of_target(j);
            hessian[i][j] *= slopes[i] * slopes[j];
        }
        hessian[i][i] += bends[i] * gradient[i];
    }
    Ok(hessian)
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
        let x = logits.row(row).unwrap_or_default();
        let (slopes, bends) = (transform_slopes(ce, x), transform_bends(ce, x));
        let u: Vec<f64> = v.iter().zip(&slopes).map(|(v, slope)| v * slope).collect();
        let softmax = softmax_row(&transformed(ce, x));
        let (p, lse) = (&softmax.probabilities, softmax.lse);
        let mut mean = 0.0;
        for i in 0..classes {
            mean += p[i] * u[i];
        }
        let Multipliers { of_gradients, of_square } = multipliers(ce, x, &softmax, target);
        let sum_of_terms: f64 = of_gradients.iter().sum();

        // -ln p_c rises by p . u - u_c, and lse by p . u.
        let mut loss_slope = 0.0;
        for c in 0..classes {
            if of_gradients[c] != 0.0 {
                loss_slope -= of_gradients[c] * rise(&softmax, &u, mean, c);
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
        let (gauss_newton, square) = (sum_of_terms * factor, of_square * factor);
        let rise_of_target = rise(&softmax, &u, mean, target);
        let jacobian = gauss_newton + outer * lse;
        let of_gradients: Vec<f64> = of_gradients.iter().map(|of_gradient| of_gradient * factor).collect();
        let gradient = gradient(z_factor * 2.0 * ce.z_loss() * lse, &softmax, &of_gradients);
        for i in 0..classes {
            let at = row * classes + i;
            let q = softmax.complements[i];
            // d(-ln p_y) / dx_i
            let of_target = if i == target { -q } else { p[i] };
            let product = p[i] * (jacobian * rise(&softmax, &u, mean, i) + outer * mean)
                - square * of_target * rise_of_target;
            let diagonal = p[i] * (jacobian * q + outer * p[i]) + square * of_target * of_target;
            let turned = bends[i] * gradient[i];
            outcome.hessian_vector_product[at] = slopes[i] * product + turned * v[i];
            outcome.hessian_diagonal[at] = slopes[i] * slopes[i] * diagonal + turned;
            outcome.gauss_newton_diagonal[at] =
                slopes[i] * slopes[i] * (p[i] * (gauss_newton * q + outer * p[i]));
        }
    }
    Ok(outcome)
}

fn weight_of(ce: &CrossEntropy, class: usize) -> f64 {
    ce.weight().map_or(1.0, |weight| f64::from(weight[class]))
}

/// What the loss makes of the derivatives of each -ln p_c.
struct Multipliers {
    /// Of the gradients, and so of the second derivatives.
    of_gradients: Vec<f64>,
    /// Of the target's gradient times itself.
    of_square: f64,
}

fn multipliers(ce: &CrossEntropy, x: &[f32], softmax: &SoftmaxRow, target: usize) -> Multipliers {
    let is_among = |c: usize| match ce.smoothing() {
        Smoothing::AllClasses => true,
        Smoothing::OtherClasses => c != target,
        Smoothing::LiveClasses => x[c] > f32::NEG_INFINITY,
    };
    let among = (0..x.len()).filter(|&c| is_among(c)).count();
    let mut of_gradients = vec![0.0; x.len()];
    for c in (0..x.len()).filter(|&c| is_among(c)) {
        of_gradients[c] = ce.label_smoothing() / among as f64 * weight_of(ce, c);
    }
    let hard = (1.0 - ce.label_smoothing()) * weight_of(ce, target);
    let (mut first, mut second) = (1.0, 0.0);
    let (p, q) = (softmax.probabilities[target], softmax.complements[target]);
    let (gamma, nll) = (ce.focal_gamma(), -softmax.log_probabilities[target]);
    if gamma > 0.0 && q == 0.0 {
        first = 0.0;
    } else if gamma > 0.0 && p > 0.0 {
        // f = q^gamma n, with dq/dn = p and dp/dn = -p, by the product rule.
        let power = |exponent: f64| (exponent * if p < 0.5 { (-p).ln_1p() } else { q.ln() }).exp();
        first = power(gamma) + gamma * power(gamma - 1.0) * p * nll;
        second = 2.0 * gamma * power(gamma - 1.0) * p
            + gamma * (gamma - 1.0) * power(gamma - 2.0) * p * p * nll
            - gamma * power(gamma - 1.0) * p * nll;
    }
    of_gradients[target] += hard * first;
    Multipliers { of_gradients, of_square: hard * second }
}

/// The gradient with respect to the logits of the softmax: the sum of these multiples of the gradients of each -ln p_c, and
/// of that of lse.
fn gradient(of_lse: f64, softmax: &SoftmaxRow, of_gradients: &[f64]) -> Vec<f64> {
    let SoftmaxRow { probabilities: p, complements: q, .. } = softmax;
    let mut gradient = Vec::with_capacity(p.len());
    let of_others = sums_of_others(of_gradients);
    for i in 0..p.len() {
        gradient.push(of_others[i] * p[i] - of_gradients[i] * q[i] + of_lse * p[i]);
    }
    gradient
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
