//! Weights of very different sizes, and many of them: what a plain sum of them, or a difference of two, would lose.

use crate::support::backends;
use crate::support::batch::{Batch, Random};
use crate::support::bounds::Expected;
use crate::support::curvature::{CurvatureCall, Problem};
use crate::support::double_bounds::{Shares, check};
use crate::support::double_curvature::{self, Factors};
use crate::support::doubles::{self, Doubles};
use crate::support::evaluation::Call;
use crate::support::planes::PlanesCall;
use xent::{Backend, CrossEntropy, CrossEntropyBuilder, Reduction, Request, Smoothing};

const SMOOTHINGS: [Smoothing; 3] = [Smoothing::AllClasses, Smoothing::OtherClasses, Smoothing::LiveClasses];

/// Of one class and of all others.
const WEIGHTS: [(f32, f32); 5] = [(1e6, 0.3), (1e12, 0.3), (1e18, 0.3), (0.3, 1e12), (1e30, 1e-3)];

/// Losses whose smoothing is the larger or the smaller part, or all.
fn losses(classes: usize, backend: Backend) -> Vec<(CrossEntropy, String)> {
    let mut losses = Vec::new();
    for (one, others) in WEIGHTS {
        let mut weights = vec![others; classes];
        weights[classes / 2] = one;
        for smoothing in SMOOTHINGS {
            for label_smoothing in [0.1, 0.9] {
                for softcap in [None, Some(60.0)] {
                    let builder = CrossEntropy::builder()
                        .backend(backend)
                        .reduction(Reduction::Sum)
                        .weight(&weights[..])
                        .smoothing(smoothing)
                        .label_smoothing(label_smoothing)
                        .softcap(softcap);
                    let context = format!(
                        "weights {one:e} and {others:e}, {smoothing:?} {label_smoothing}, cap {softcap:?}, {backend}"
                    );
                    losses.push((builder.build().expect("the options are valid"), context));
                }
            }
        }
    }
    losses
}

/// Rows in which the heavy class leads, another does, or none, by gaps that a confident row may have; the targets are each
/// of these.
fn rows(classes: usize) -> Batch {
    let mut random = Random::new(classes as u64);
    let mut batch = Batch { rows: 0, classes, logits: Vec::new(), targets: Vec::new() };
    for gap in [0.0, 1.0, 20.25, 40.0, 79.5] {
        for leader in [classes / 2, 0] {
            for target in [classes / 2, 0, classes - 1] {
                let mut row: Vec<f32> = (0..classes).map(|_| random.between(-0.5, 0.0)).collect();
                row[leader] += gap;
                batch.logits.extend(row);
                batch.targets.push(target as i64);
                batch.rows += 1;
            }
        }
    }
    batch
}

const CLASSES: [usize; 5] = [2, 3, 17, 70, 200];

#[test]
fn smoothing_keeps_its_bounds_beside_a_class_that_weighs_nearly_all() {
    let mut shares = Shares::default();
    for classes in CLASSES {
        let batch = rows(classes);
        let doubles = Doubles::near(&batch);
        for (ce, context) in backends().into_iter().flat_map(|backend| losses(classes, backend)) {
            let found = Call::default().evaluate(&ce, &batch);
            Expected::new(&ce, &batch, None).check(&found, &context);
            let call = Call::default();
            let found = doubles::evaluate(&call, &ce, &doubles);
            check(&ce, &doubles, &call, &found, false, &mut shares, &context);
            let call = PlanesCall::default();
            let found = call.evaluate_doubles(&ce, &doubles, 1);
            check(&ce, &doubles, &call.inputs, &found, false, &mut shares, &format!("planes, {context}"));
        }
    }
    shares.print();
}

#[test]
fn second_derivatives_keep_their_bounds_there_too() {
    let mut shares = Shares::default();
    for classes in CLASSES {
        let batch = rows(classes);
        let doubles = Doubles::near(&batch);
        let mut problem = Problem::of_batch(batch, 5);
        for v in problem.direction.iter_mut().filter(|v| v.abs() > 1e5) {
            // Times these weights it would be too large for the products.
            *v *= 1e-30;
        }
        let direction: Vec<f64> = problem.direction.iter().map(|&v| f64::from(v)).collect();
        for (ce, context) in backends().into_iter().flat_map(|backend| losses(classes, backend)) {
            CurvatureCall::default().evaluate(&ce, &problem).check(&ce, &problem, &context);
            let found = double_curvature::evaluate(&ce, &doubles, &direction, &Request::new());
            let factors = Factors { of_loss: 1.0, of_z_loss: 1.0, row_weight: 1.0 };
            for row in 0..doubles.rows {
                let of_row = (doubles.row(row), doubles.targets[row] as usize);
                let v = &direction[row * classes..][..classes];
                let context = format!("row {row}, {context}");
                double_curvature::check_row(&ce, of_row, v, &factors, (&found, row), &mut shares, &context);
            }
        }
    }
    shares.print();
}

/// A class that leads by a wide gap and weighs nearly all: what its loss rises along its own logit is in the others' weights
/// alone.
#[test]
fn the_derivative_at_a_confident_class_is_no_difference_of_large_numbers() {
    for backend in backends() {
        let builder = CrossEntropy::builder().backend(backend).weight([1e12, 0.5]).label_smoothing(1.0);
        let ce = builder.reduction(Reduction::Sum).build().expect("the options are valid");
        let x = xent::Matrix::new(&[700.0_f64, 0.0], 1, 2).expect("a row");
        let v = xent::Matrix::new(&[1.0_f64, 0.0], 1, 2).expect("a row");
        let mut grad = [0.0; 2];
        let out = xent::MatrixMut::new(&mut grad, 1, 2).expect("a row");
        ce.loss_and_grad(x, &[0_u8], out).expect("the batch is valid");
        let derivative = ce.jvp(x, &[0_u8], v).expect("the shapes agree");
        assert_eq!((grad[0], grad[1], derivative), (0.25, -0.25, 0.25), "{backend}");
    }
}

/// Some of 9 orders of magnitude.
fn random_weights(len: usize, random: &mut Random) -> Vec<f32> {
    (0..len).map(|_| 10.0_f32.powi(random.below(10) as i32 - 6) * random.between(1.0, 2.0)).collect()
}

fn build(builder: CrossEntropyBuilder, backend: Backend) -> CrossEntropy {
    builder.backend(backend).build().expect("the options are valid")
}

#[test]
fn the_mean_over_many_weighted_rows_keeps_the_bound_of_few() {
    let mut random = Random::new(9);
    let batch = Batch::random(100_003, 2, 9);
    let row_weights = random_weights(batch.rows, &mut random);
    let batch = Doubles::near(&batch);
    let mut shares = Shares::default();
    for backend in backends() {
        let weighted = || CrossEntropy::builder().weight([0.1, 3.7]).z_loss(0.3).ignore_index(-100);
        let call = Call { row_weights: Some(&row_weights), ..Call::default() };
        let ce = build(weighted(), backend);
        let found = doubles::evaluate(&call, &ce, &batch);
        check(&ce, &batch, &call, &found, false, &mut shares, &format!("{backend}"));
    }
    shares.print();
}

#[test]
fn many_planes_keep_the_bound_of_the_z_loss() {
    let batch = Doubles::near(&Batch::random(200_003, 2, 10));
    let mut shares = Shares::default();
    for backend in backends() {
        let ce = build(CrossEntropy::builder().z_loss(1.0).ignore_index(-100), backend);
        let call = PlanesCall::default();
        let found = call.evaluate_doubles(&ce, &batch, 1);
        check(&ce, &batch, &call.inputs, &found, false, &mut shares, &format!("{backend}"));
        let z_loss: f64 = found.losses.iter().sum::<f64>() / found.summary.counted as f64;
        assert!(found.summary.z_loss > 0.0 && found.summary.z_loss < 2.0 * z_loss);
    }
    shares.print();
}

#[test]
fn many_weighted_classes_keep_the_bounds_of_few() {
    let classes = 100_003;
    let mut random = Random::new(11);
    let weights = random_weights(classes, &mut random);
    let batch = Doubles::near(&Batch::random(4, classes, 11));
    let mut shares = Shares::default();
    for backend in backends() {
        for smoothing in SMOOTHINGS {
            let builder = CrossEntropy::builder().weight(&weights[..]).ignore_index(-100);
            let ce = build(builder.label_smoothing(0.4).smoothing(smoothing), backend);
            let found = doubles::evaluate(&Call::default(), &ce, &batch);
            let context = format!("{smoothing:?}, {backend}");
            check(&ce, &batch, &Call::default(), &found, false, &mut shares, &context);
        }
    }
    shares.print();
}

/// The contract says where weights count as 0.
#[test]
fn a_weight_that_is_no_normal_number_beside_the_largest_counts_as_0_in_smoothing() {
    let (largest, smallest) = (1.5 * 2.0_f32.powi(100), 2.0_f32.powi(-25));
    for backend in backends() {
        for classes in [2, 20, 200] {
            let batch = rows(classes);
            let bits = |of_others: f32, smoothing: Smoothing| {
                let mut weights = vec![of_others; classes];
                weights[classes / 2] = largest;
                let builder = CrossEntropy::builder().weight(weights).smoothing(smoothing);
                let ce = build(builder.label_smoothing(0.5), backend);
                // The target's own weight is exact.
                let of_heavy: Vec<usize> =
                    (0..batch.rows).filter(|&row| batch.targets[row] == (classes / 2) as i64).collect();
                Call::default().evaluate(&ce, &batch.select(of_heavy))
            };
            for smoothing in SMOOTHINGS {
                let (tiny, none) = (bits(0.75 * smallest, smoothing), bits(0.0, smoothing));
                assert!(tiny.has_bits_of(&none), "{classes} classes, {smoothing:?}, {backend}");
                let some = bits(smallest, smoothing);
                assert!(!some.has_bits_of(&none), "{classes} classes, {smoothing:?}, {backend}");
            }
        }
    }
}
