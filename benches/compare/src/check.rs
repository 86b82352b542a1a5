//! Whether a peer computes the same as the scalar reference.

use std::error::Error;

use xent::{CrossEntropy, Matrix, reference};

use crate::contestants::Outcome;

/// Relative, for few classes. Far above what `f32` sums in any order differ by, and far below any mistake.
const TOLERANCE: f64 = 1e-4;

/// What each class adds to it: a rounding error. Some peers sum exponentials in `f32`, one after the other, and get
/// 0.2% off at 128,256 classes.
const TOLERANCE_PER_CLASS: f64 = 1.0 / (1 << 24) as f64;

/// What is always allowed, in the loss and in the gradient of a row's own loss: peers subtract numbers close to each
/// other, and are left with the rounding errors of the larger ones.
const FLOOR: f64 = 2e-6;

/// Elements that the reference is asked for, which is slow.
const CHECKED_ELEMENTS: usize = 1 << 16;

/// The loss is `xent`'s, whose row losses were checked before; the gradient is the reference's, on some rows from the
/// first to the last.
pub fn check(
    actual: &Outcome,
    loss: f64,
    x: &[f32],
    targets: &[i64],
    classes: usize,
) -> Result<(), Box<dyn Error>> {
    let tolerance = TOLERANCE + TOLERANCE_PER_CLASS * classes as f64;
    if !is_close(actual.loss, loss, tolerance) {
        return Err(format!("the loss is {} instead of {loss}", actual.loss).into());
    }
    let rows = targets.len();
    if actual.grad.len() != x.len() {
        return Err(format!("the gradient has {} elements instead of {}", actual.grad.len(), x.len()).into());
    }
    let ce = CrossEntropy::default();
    for row in (0..rows).step_by(rows.div_ceil((CHECKED_ELEMENTS / classes).max(1))) {
        let elements = row * classes..(row + 1) * classes;
        let logits = Matrix::new(&x[elements.clone()], 1, classes)?;
        let expected = reference::cross_entropy(&ce, logits, &targets[row..=row])?;
        for (class, (grad, expected)) in actual.grad[elements].iter().zip(expected.grad).enumerate() {
            let grad = f64::from(*grad) * rows as f64;
            if !is_close(grad, expected, tolerance) {
                return Err(
                    format!("the gradient at row {row}, class {class} is {grad}, not {expected}").into()
                );
            }
        }
    }
    Ok(())
}

/// False for NaN.
fn is_close(actual: f64, expected: f64, tolerance: f64) -> bool {
    (actual - expected).abs() <= tolerance * expected.abs() + FLOOR
}
