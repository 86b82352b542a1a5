//! A student's softmax against a teacher's.

use super::{Outcome, Rows, SoftmaxRow, softmax_of};
use crate::{Distillation, Error, Matrix, Request};

/// What [`Distillation::run`] computes, in `f64`, with the inputs of a request. Its outputs are not written. The softmax is
/// the student's at the temperature.
///
/// # Errors
/// Those of [`Distillation::run`] that concern inputs.
pub fn run_distillation(
    distillation: &Distillation,
    student: Matrix<'_>,
    teacher: Matrix<'_>,
    request: &Request<'_>,
) -> Result<Outcome, Error> {
    let (rows, classes) = (student.rows(), student.cols());
    distillation.check((rows, classes), teacher, request)?;
    let temperature = distillation.temperature();

    let mut all = Rows::new(rows, classes);
    for row in (0..rows).filter(|&row| request.inputs.may_count(row)) {
        let softmax =
            |logits: Matrix<'_>| tempered_softmax_row(logits.row(row).unwrap_or_default(), temperature);
        let (of_student, of_teacher) = (softmax(student), softmax(teacher));
        let (p, q) = (&of_student.probabilities, &of_teacher.probabilities);
        let mut divergence = 0.0;
        let mut grad = vec![0.0; classes];
        for c in 0..classes {
            divergence += term(q[c], of_teacher.log_probabilities[c], p[c], of_student.log_probabilities[c]);
            // Near 1, what they lack is known better than they are.
            let are_near_1 = p[c] > 0.5 && q[c] > 0.5;
            let difference = of_teacher.complements[c] - of_student.complements[c];
            grad[c] = temperature * if are_near_1 { difference } else { p[c] - q[c] };
        }
        let loss = temperature * temperature * divergence;
        all.add(
            &distillation.ce,
            request.inputs.row_weight(row),
            row,
            of_student,
            (loss, grad, vec![1.0; classes]),
            1.0,
        );
    }
    Ok(all.reduced(&distillation.ce, &request.inputs))
}

/// The softmax of logits that are divided by a temperature, and its logarithm.
pub fn tempered_softmax_row(logits: &[f32], temperature: f64) -> SoftmaxRow {
    let max = logits.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(f64::from(x)));
    let gaps: Vec<f64> = logits.iter().map(|&x| (f64::from(x) - max) / temperature).collect();
    let softmax = softmax_of(&gaps);
    SoftmaxRow { lse: max / temperature + softmax.lse, ..softmax }
}

/// q (ln q - ln p), and p - q, which adds up to 0: so no term is negative, and none is larger than their sum.
fn term(q: f64, ln_q: f64, p: f64, ln_p: f64) -> f64 {
    let is_masked = ln_p == f64::NEG_INFINITY && q < f64::from(f32::MIN_POSITIVE);
    if q == 0.0 || is_masked {
        return p;
    }
    let r = ln_p - ln_q;
    if r.abs() > 0.01 {
        return p - q - q * r;
    }
    // exp(r) - 1 - r = r^2 / 2 (1 + r / 3 (1 + r / 4 (...)))
    let mut series = 1.0;
    for n in (3..=8).rev() {
        series = 1.0 + r / f64::from(n) * series;
    }
    q * r * r / 2.0 * series
}
