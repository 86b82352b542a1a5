//! Softmax cross-entropy by hand: logits 1, 2, 3, of which the second is the true class. Every number of the example in
//! the documentation of `xent::reference`, and the fused kernel's agreement with it on every backend.

use approx::assert_abs_diff_eq;
use xent::contract::{LOSS, PROBABILITY, U};
use xent::{Backend, CrossEntropy, Matrix, MatrixMut, reference};

const LOGITS: [f32; 3] = [1.0, 2.0, 3.0];
const TARGET: usize = 1;

/// The digits that the example is written with.
const THREE_DIGITS: f64 = 0.000_5;
const FOUR_DIGITS: f64 = 0.000_05;

#[test]
fn softmax_divides_exponentials_by_their_sum() {
    let exponentials = LOGITS.map(|x| f64::from(x).exp());
    for (found, expected) in exponentials.iter().zip([core::f64::consts::E, 7.389, 20.086]) {
        assert_abs_diff_eq!(*found, expected, epsilon = THREE_DIGITS);
    }
    let sum: f64 = exponentials.iter().sum();
    assert_abs_diff_eq!(sum, 30.193, epsilon = THREE_DIGITS);

    let p = reference::softmax(&LOGITS);
    for ((p, exponential), expected) in p.iter().zip(exponentials).zip([0.090, 0.245, 0.665]) {
        assert_abs_diff_eq!(*p, exponential / sum, epsilon = f64::EPSILON);
        assert_abs_diff_eq!(*p, expected, epsilon = THREE_DIGITS);
    }
}

#[test]
fn the_loss_is_the_negative_logarithm_of_the_true_probability() {
    let p = reference::softmax(&LOGITS);
    assert_abs_diff_eq!(-p[TARGET].ln(), 1.4076, epsilon = FOUR_DIGITS);
    assert_abs_diff_eq!(
        -reference::log_softmax(&LOGITS)[TARGET],
        -p[TARGET].ln(),
        epsilon = 4.0 * f64::EPSILON
    );

    let upstream = reference::loss_gradient_wrt_probabilities(&p, TARGET);
    for (found, expected) in upstream.iter().zip([0.0, -4.086, 0.0]) {
        assert_abs_diff_eq!(*found, expected, epsilon = THREE_DIGITS);
    }
}

#[test]
fn the_jacobian_of_softmax_is_p_i_delta_ij_minus_p_j() {
    let jacobian = reference::softmax_jacobian(&reference::softmax(&LOGITS));
    let expected = [[0.0819, -0.0220, -0.0599], [-0.0220, 0.1848, -0.1628], [-0.0599, -0.1628, 0.2227]];
    for (row, expected) in jacobian.iter().zip(expected) {
        for (found, expected) in row.iter().zip(expected) {
            assert_abs_diff_eq!(*found, expected, epsilon = FOUR_DIGITS);
        }
        assert_abs_diff_eq!(row.iter().sum::<f64>(), 0.0, epsilon = f64::EPSILON);
    }
}

#[test]
fn the_fused_gradient_is_the_chain_rule_through_the_jacobian() {
    let p = reference::softmax(&LOGITS);
    let jacobian = reference::softmax_jacobian(&p);
    let upstream = reference::loss_gradient_wrt_probabilities(&p, TARGET);
    let by_chain_rule = reference::chain_rule(&jacobian, &upstream);
    for (i, expected) in [0.090, -0.755, 0.665].into_iter().enumerate() {
        assert_abs_diff_eq!(by_chain_rule[i], expected, epsilon = THREE_DIGITS);
        let onehot = if i == TARGET { 1.0 } else { 0.0 };
        assert_abs_diff_eq!(by_chain_rule[i], p[i] - onehot, epsilon = 4.0 * f64::EPSILON);
    }

    // No gap is above 2, so neither is the mean gap.
    let relative = (2.0 + 2.0 + PROBABILITY.max(LOSS)) * U;
    for backend in Backend::available() {
        let ce = CrossEntropy::builder().backend(backend).build().unwrap();
        let mut fused = [f32::NAN; 3];
        let logits = Matrix::new(&LOGITS, 1, 3).unwrap();
        let loss = ce.loss_and_grad(logits, &[TARGET], MatrixMut::new(&mut fused, 1, 3).unwrap()).unwrap();
        assert_abs_diff_eq!(loss, -p[TARGET].ln(), epsilon = relative * loss);
        for i in 0..3 {
            let bound = relative * by_chain_rule[i].abs();
            assert_abs_diff_eq!(f64::from(fused[i]), by_chain_rule[i], epsilon = bound);
        }
    }
}
