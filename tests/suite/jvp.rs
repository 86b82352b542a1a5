//! How softmax and log-softmax change along a direction.

use crate::support::batch::{Batch, IGNORE_INDEX, Random};
use crate::support::{PARALLELISMS, backends};
use xent::contract::U;
use xent::{Error, Matrix, MatrixMut, Softmax};

fn matrix(x: &[f32], rows: usize, cols: usize) -> Matrix<'_> {
    Matrix::new(x, rows, cols).expect("the slice is long enough")
}

fn matrix_mut(x: &mut [f32], rows: usize, cols: usize) -> MatrixMut<'_> {
    MatrixMut::new(x, rows, cols).expect("the slice is long enough")
}

/// Roundings of v_i - sum_c exp(y_c) v_c in `f32`. Of each term of the sum: two for the exponential (its polynomial's
/// error included), one for the product, one for the sum's conversion, one for the difference. Of v_i: one for the
/// difference.
const LOG_SOFTMAX_JVP: [f64; 2] = [5.0, 1.0];

#[test]
fn the_jvp_of_softmax_is_its_vjp_and_that_of_log_softmax_keeps_its_bound() {
    for classes in (1..=40).chain([64, 65, 100, 2049]) {
        let rows = 20;
        let mut batch = Batch::random(rows, classes, 41);
        for row in (0..rows).filter(|&row| batch.targets[row] == IGNORE_INDEX).collect::<Vec<_>>() {
            batch.row_mut(row).fill(0.25);
        }
        let logits = &batch.logits;
        let mut random = Random::new(42);
        let direction: Vec<f32> =
            (0..rows * classes).map(|i| random.normal() * [1.0, 1e30, 1e-30, 1e4][i / classes % 4]).collect();
        for (backend, parallelism) in backends().into_iter().flat_map(|b| PARALLELISMS.map(|p| (b, p))) {
            let softmax = Softmax::default().backend(backend).expect("the backend is available");
            let softmax = softmax.parallelism(parallelism);
            let v = matrix(&direction, rows, classes);
            let new = || vec![f32::NAN; rows * classes];
            let (mut p, mut log_p) = (new(), new());
            softmax
                .softmax(matrix(logits, rows, classes), matrix_mut(&mut p, rows, classes))
                .expect("same shape");
            let log_out = matrix_mut(&mut log_p, rows, classes);
            softmax.log_softmax(matrix(logits, rows, classes), log_out).expect("same shape");
            let (p, log_p) = (matrix(&p, rows, classes), matrix(&log_p, rows, classes));

            let (mut by_p, mut backward, mut in_place) = (new(), new(), direction.clone());
            softmax.softmax_jvp(p, v, matrix_mut(&mut by_p, rows, classes)).expect("same shape");
            softmax.softmax_backward(p, v, matrix_mut(&mut backward, rows, classes)).expect("same shape");
            softmax.softmax_jvp_in_place(p, matrix_mut(&mut in_place, rows, classes)).expect("same shape");
            assert_eq!(by_p, backward, "{classes} classes, {backend}");
            assert_eq!(by_p, in_place, "{classes} classes, {backend}");

            let (mut by_log_p, mut in_place) = (new(), direction.clone());
            softmax.log_softmax_jvp(log_p, v, matrix_mut(&mut by_log_p, rows, classes)).expect("same shape");
            let out = matrix_mut(&mut in_place, rows, classes);
            softmax.log_softmax_jvp_in_place(log_p, out).expect("same shape");
            assert_eq!(by_log_p, in_place, "{classes} classes, {backend}");
            for row in 0..rows {
                let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| f64::from(x)).collect() };
                let (y, v) = (wide(log_p.row(row).unwrap()), wide(v.row(row).unwrap()));
                let sum: f64 = y.iter().zip(&v).map(|(y, v)| y.exp() * v).sum();
                let magnitudes: f64 = y.iter().zip(&v).map(|(y, v)| y.exp() * v.abs()).sum();
                let sum_of_v: f64 = v.iter().map(|v| v.abs()).sum();
                let [of_sum, of_own] = LOG_SOFTMAX_JVP;
                for (i, &found) in by_log_p[row * classes..][..classes].iter().enumerate() {
                    // Products below the normal numbers may count as 0.
                    let tiny = f64::from(f32::MIN_POSITIVE) * (1.0 + sum_of_v);
                    let bound = (of_sum * magnitudes + of_own * v[i].abs()) * U + tiny;
                    let error = (f64::from(found) - (v[i] - sum)).abs();
                    assert!(error <= bound, "{} of the bound, {classes} classes, {backend}", error / bound);
                    assert!(!found.is_subnormal());
                }
            }
        }
    }
}

#[test]
fn a_row_of_nan_log_probabilities_gives_nan_forward_and_backward() {
    for backend in backends() {
        for classes in [1, 15, 16, 40] {
            let softmax = Softmax::default().backend(backend).expect("the backend is available");
            let mut y = vec![-(classes as f32).ln(); 3 * classes];
            y[classes..2 * classes].fill(f32::NAN);
            let v = vec![1.0; 3 * classes];
            let (y, v) = (matrix(&y, 3, classes), matrix(&v, 3, classes));
            let mut results = [(); 2].map(|()| vec![0.0; 3 * classes]);
            softmax.log_softmax_jvp(y, v, matrix_mut(&mut results[0], 3, classes)).expect("same shape");
            softmax.log_softmax_backward(y, v, matrix_mut(&mut results[1], 3, classes)).expect("same shape");
            for result in &results {
                for (row, out) in result.chunks(classes).enumerate() {
                    assert!(out.iter().all(|x| x.is_nan() == (row == 1)), "row {row}, {backend}");
                }
            }
        }
    }
}

const SENTINEL: f32 = f32::from_bits(0x7fc0_5e57);

#[test]
fn errors_name_the_argument_and_leave_outputs_untouched() {
    let (x, v) = (vec![0.5; 6], vec![1.0; 6]);
    let mut out = vec![SENTINEL; 6];
    let logits = matrix(&x, 2, 3);
    let mismatch = |argument| Error::ShapeMismatch { argument, expected: (2, 3), actual: (3, 2) };
    let softmax = Softmax::default();
    let result = softmax.softmax_jvp(logits, matrix(&v, 3, 2), matrix_mut(&mut out, 2, 3));
    assert_eq!(result, Err(mismatch("direction")));
    let result = softmax.log_softmax_jvp(logits, matrix(&v, 2, 3), matrix_mut(&mut out, 3, 2));
    assert_eq!(result, Err(mismatch("out")));
    let result = softmax.softmax_jvp_in_place(logits, matrix_mut(&mut out, 3, 2));
    assert_eq!(result, Err(mismatch("direction")));
    let result = softmax.log_softmax_jvp_in_place(logits, matrix_mut(&mut out, 3, 2));
    assert_eq!(result, Err(mismatch("direction")));

    assert!(out.iter().all(|x| x.to_bits() == SENTINEL.to_bits()), "an output was written");
}

/// Half-precision functions compute in `f32`, and round once.
#[cfg(feature = "half")]
#[test]
fn half_precision_is_that_of_f32_rounded() {
    use half::bf16;
    let mut random = Random::new(43);
    for classes in [1, 15, 16, 17, 100] {
        let new = |low, random: &mut Random| -> Vec<bf16> {
            (0..3 * classes).map(|_| bf16::from_f32(random.between(low, 0.0))).collect()
        };
        let (y, v) = (new(-9.0, &mut random), new(-2.0, &mut random));
        let wide = |x: &[bf16]| -> Vec<f32> { x.iter().map(|x| x.to_f32()).collect() };
        let (wide_y, wide_v) = (wide(&y), wide(&v));
        for backend in backends() {
            let softmax = Softmax::default().backend(backend).expect("the backend is available");
            let (mut half, mut in_place) = (vec![bf16::NAN; 3 * classes], v.clone());
            let mut full = vec![f32::NAN; 3 * classes];
            let y = Matrix::new(&y, 3, classes).expect("the slice is long enough");
            let v = Matrix::new(&v, 3, classes).expect("the slice is long enough");
            let out = MatrixMut::new(&mut half, 3, classes).expect("the slice is long enough");
            softmax.log_softmax_jvp(y, v, out).expect("same shape");
            let out = MatrixMut::new(&mut in_place, 3, classes).expect("the slice is long enough");
            softmax.log_softmax_jvp_in_place(y, out).expect("same shape");
            let (y, v) = (matrix(&wide_y, 3, classes), matrix(&wide_v, 3, classes));
            softmax.log_softmax_jvp(y, v, matrix_mut(&mut full, 3, classes)).expect("same shape");
            let rounded: Vec<bf16> = full.iter().map(|&x| bf16::from_f32(x)).collect();
            assert_eq!(half, rounded, "{classes} classes, {backend}");
            assert_eq!(in_place, rounded, "{classes} classes, {backend}");
        }
    }
}
