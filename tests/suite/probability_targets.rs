//! Targets that are probabilities, with every option, against the scalar reference.

use crate::support::batch::{Batch, Random};
use crate::support::bounds::Expected;
use crate::support::double_bounds::{self, Shares};
use crate::support::doubles::{self, Doubles};
use crate::support::evaluation::Call;
#[cfg(feature = "half")]
use crate::support::halves::{self, Half};
use crate::support::{PARALLELISMS, backends, fused_backends};
use xent::contract::{DISTRIBUTION_LOSS, DISTRIBUTION_TARGET, SCALARS_F64, U, U_F64};
use xent::{
    Backend, CrossEntropy, CrossEntropyBuilder, Error, Matrix, MatrixMut, Parallelism, Reduction, Request,
    Smoothing, reference,
};

/// Rows and classes, on both sides of what the kernels do otherwise.
fn shapes() -> Vec<(usize, usize)> {
    let mut shapes: Vec<_> = (1..=40).map(|classes| (7, classes)).collect();
    shapes.extend([(37, 10), (20, 64), (21, 128), (33, 100), (11, 130), (10, 1000), (5, 2047), (5, 2048)]);
    shapes.extend([(5, 2049), (3, 5000), (2, 70_000)]);
    shapes
}

/// A batch without rows of NaN, and its targets.
fn batch(rows: usize, classes: usize, seed: u64) -> (Batch, Vec<f32>) {
    let mut random = Random::new(seed);
    let mut batch = Batch::random(rows, classes, seed);
    batch.make_rows_count(&mut random);
    let q = batch.distributions(&mut random);
    (batch, q)
}

fn build(builder: &CrossEntropyBuilder, backend: Backend, parallelism: Parallelism) -> CrossEntropy {
    builder.clone().backend(backend).parallelism(parallelism).build().unwrap()
}

fn builders(classes: usize) -> Vec<(&'static str, CrossEntropyBuilder)> {
    let mut random = Random::new(classes as u64);
    let weight: Vec<f32> =
        (0..classes).map(|c| if c % 5 == 1 { 0.0 } else { random.between(0.01, 4.0) }).collect();
    let plain = CrossEntropy::builder();
    vec![
        ("plain", plain.clone()),
        ("smooth", plain.clone().label_smoothing(0.2)),
        ("weights, sum", plain.clone().weight(weight.clone()).reduction(Reduction::Sum)),
        ("all", plain.weight(weight).label_smoothing(0.1).z_loss(0.01)),
    ]
}

/// The calls that a batch of so many rows is made with.
fn check_calls(
    rows: usize,
    in_place: bool,
    q: &[f32],
    mut check: impl FnMut(&Call<'_>, &dyn core::fmt::Display),
) {
    let mut random = Random::new(5);
    let upstream: Vec<f32> = (0..rows).map(|_| random.normal()).collect();
    let row_weights: Vec<f32> = (0..rows).map(|row| (row % 3) as f32 * 0.5).collect();
    let loss_mask: Vec<bool> = (0..rows).map(|row| row % 4 != 1).collect();
    let plain = Call { target_probabilities: Some(q), in_place, ..Call::default() };
    let calls = [
        plain,
        Call { upstream: Some(&upstream), upstream_scalar: Some(-1.5), ..plain },
        Call { row_weights: Some(&row_weights), loss_mask: Some(&loss_mask), ..plain },
        Call { denominator: Some(7.5), loss_mask: Some(&loss_mask), ..plain },
    ];
    for (number, call) in calls.iter().enumerate() {
        check(call, &format_args!("call {number}, in place {in_place}"));
    }
}

#[test]
fn probabilities_as_targets_keep_the_bounds() {
    for (seed, (rows, classes)) in shapes().into_iter().enumerate() {
        let (batch, q) = batch(rows, classes, seed as u64);
        for (name, builder) in builders(classes) {
            for backend in backends() {
                for (turn, parallelism) in PARALLELISMS.into_iter().enumerate() {
                    let ce = build(&builder, backend, parallelism);
                    check_calls(rows, (turn + classes).is_multiple_of(2), &q, |call, context| {
                        let context = format!("{name}, {context}, {backend}, {parallelism:?}");
                        let found = call.evaluate(&ce, &batch);
                        found.assert_no_subnormal(&context);
                        Expected::of_call(&ce, &batch, *call).check(&found, &context);
                    });
                }
            }
        }
    }
}

/// So many blocks of columns that their references are not remembered.
#[test]
fn rows_of_very_many_classes_keep_the_bounds() {
    let (batch, q) = batch(1, 530_000, 3);
    for backend in backends() {
        for (parallelism, in_place) in [(Parallelism::Serial, false), (Parallelism::Rayon, true)] {
            let ce = build(&CrossEntropy::builder().label_smoothing(0.2), backend, parallelism);
            let context = format!("{backend}, {parallelism:?}, in place {in_place}");
            let call = Call { target_probabilities: Some(&q), in_place, ..Call::default() };
            let found = call.evaluate(&ce, &batch);
            found.assert_no_subnormal(&context);
            Expected::of_call(&ce, &batch, call).check(&found, &context);
        }
    }
}

#[cfg(feature = "half")]
#[test]
fn logits_of_16_bits_keep_the_bounds() {
    check_halves::<half::bf16>();
    check_halves::<half::f16>();
}

#[cfg(feature = "half")]
fn check_halves<T: Half>() {
    for (seed, (rows, classes)) in shapes().into_iter().enumerate() {
        let (batch, q) = batch(rows, classes, seed as u64);
        let batch = halves::rounded::<T>(&batch);
        for (turn, (name, builder)) in builders(classes).into_iter().enumerate() {
            for backend in backends() {
                let parallelism = PARALLELISMS[(turn + seed) % PARALLELISMS.len()];
                let ce = build(&builder, backend, parallelism);
                check_calls(rows, (turn + classes).is_multiple_of(2), &q, |call, context| {
                    let context = format!("{}, {name}, {context}, {backend}, {parallelism:?}", T::NAME);
                    let found = halves::evaluate::<T>(call, &ce, &batch);
                    let expected = Expected::of_call(&ce, &batch, *call).rounded(T::ROUNDING);
                    expected.check(&found, &context);
                });
            }
        }
    }
}

/// `tests/suite/double.rs` has rows of more kinds.
#[test]
fn logits_of_f64_keep_the_bounds() {
    let mut shares = Shares::default();
    for (seed, (rows, classes)) in
        shapes().into_iter().enumerate().filter(|(_, (_, classes))| *classes <= 5000)
    {
        let (batch, q) = batch(rows, classes, seed as u64);
        let batch = Doubles::near(&batch);
        for (turn, (name, builder)) in builders(classes).into_iter().enumerate() {
            for backend in backends() {
                let parallelism = PARALLELISMS[(turn + seed) % PARALLELISMS.len()];
                let ce = build(&builder, backend, parallelism);
                check_calls(rows, (turn + classes).is_multiple_of(2), &q, |call, context| {
                    let context = format!("{name}, {context}, {backend}, {parallelism:?}");
                    let found = doubles::evaluate(call, &ce, &batch);
                    found.assert_no_subnormal(&context);
                    double_bounds::check(&ce, &batch, call, &found, false, &mut shares, &context);
                });
            }
        }
    }
    shares.print();
}

#[test]
fn rows_of_f64_have_the_same_bits_on_fused_backends_for_all_threads_and_places() {
    for (rows, classes) in [(300, 10), (50, 100), (40, 2500), (2, 140_000)] {
        let (batch, q) = batch(rows, classes, 3);
        let batch = Doubles::near(&batch);
        for (name, builder) in builders(classes) {
            let mut expected = None;
            for backend in fused_backends() {
                for parallelism in PARALLELISMS {
                    for in_place in [false, true] {
                        let ce = build(&builder, backend, parallelism);
                        let call = Call { in_place, target_probabilities: Some(&q), ..Call::default() };
                        let bits = doubles::evaluate(&call, &ce, &batch).bits();
                        let context = format!("{name}, {backend}, {parallelism:?}, in place {in_place}");
                        assert!(*expected.get_or_insert_with(|| bits.clone()) == bits, "{context}");
                    }
                }
            }
        }
    }
}

/// Also where nothing is asked for but the gradient, and where that is added to what is there.
#[test]
fn the_gradient_of_f64_alone_or_added_has_the_same_bits() {
    for (rows, classes) in [(20, 10), (11, 130), (3, 2500)] {
        let (batch, q) = batch(rows, classes, 4);
        let (batch, q_of_f64) = (Doubles::near(&batch), doubles::near(&q));
        let matrix = |x| Matrix::new(x, rows, classes).unwrap();
        for (name, builder) in builders(classes) {
            for backend in backends() {
                let ce = build(&builder, backend, Parallelism::Serial);
                let call = Call { target_probabilities: Some(&q), ..Call::default() };
                let expected = doubles::evaluate(&call, &ce, &batch);
                let run = |request| ce.run_probabilities(matrix(&batch.logits), matrix(&q_of_f64), request);
                let before: Vec<f64> = (0..rows * classes).map(|i| 0.1 * i as f64).collect();
                let (mut alone, mut sums) = (vec![f64::NAN; rows * classes], before.clone());
                let grad = MatrixMut::new(&mut alone, rows, classes).unwrap();
                let summary = run(Request::new().grad(grad)).unwrap();
                let grad = MatrixMut::new(&mut sums, rows, classes).unwrap();
                let added = run(Request::new().accumulate(grad)).unwrap();
                let same = |a: f64, b: f64| assert_eq!(a.to_bits(), b.to_bits(), "{name}, {backend}");
                same(summary.loss, expected.summary.loss);
                same(added.loss, expected.summary.loss);
                for (i, &g) in expected.grad.iter().enumerate() {
                    same(alone[i], g);
                    same(sums[i], before[i] + g);
                }
            }
        }
    }
}

#[test]
fn the_reference_takes_probabilities_of_f64() {
    let (batch, q) = batch(12, 50, 6);
    let (batch, q) = (Doubles::near(&batch), doubles::near(&q));
    let ce = CrossEntropy::builder().label_smoothing(0.1).z_loss(0.1).build().unwrap();
    let matrix = |x| Matrix::new(x, 12, 50).unwrap();
    let (mut grad, mut losses) = (vec![0.0; 600], vec![0.0; 12]);
    let request = Request::new().losses(&mut losses).grad(MatrixMut::new(&mut grad, 12, 50).unwrap());
    ce.run_probabilities(matrix(&batch.logits), matrix(&q), request).unwrap();
    let outcome =
        reference::run_probabilities(&ce, matrix(&batch.logits), matrix(&q), &Request::new()).unwrap();
    // A few units for each operation and each class.
    let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * (1.0 + a.abs()) || a == b;
    assert!(losses.iter().zip(&outcome.losses).all(|(&a, &b)| close(a, b)));
    assert!(grad.iter().zip(&outcome.grad).all(|(&a, &b)| close(a, b)));
}

#[test]
fn threads_places_and_fused_backends_give_the_same_bits() {
    for (rows, classes) in [(300, 10), (50, 100), (40, 2500), (2, 140_000)] {
        let (batch, q) = batch(rows, classes, 3);
        let call = Call { target_probabilities: Some(&q), ..Call::default() };
        for (name, builder) in builders(classes) {
            let first = build(&builder, fused_backends()[0], Parallelism::Serial);
            let expected = call.evaluate(&first, &batch);
            for backend in fused_backends() {
                for parallelism in PARALLELISMS {
                    for in_place in [false, true] {
                        let ce = build(&builder, backend, parallelism);
                        let found = Call { in_place, ..call }.evaluate(&ce, &batch);
                        let context = format!("{name}, {backend}, {parallelism:?}, in place {in_place}");
                        found.assert_equal(&expected, &context);
                    }
                }
            }
        }
    }
}

#[test]
fn one_class_of_probability_1_is_that_class_as_target_even_in_confident_rows() {
    for gap in [0.0_f32, 1.0, 20.0, 60.0] {
        for (label_smoothing, z_loss) in [(0.0, 0.0), (0.1, 0.5)] {
            let logits = [0.0, gap, 0.0, -1.0];
            let q = [0.0, 1.0, 0.0, 0.0];
            for backend in backends() {
                let builder = CrossEntropy::builder().label_smoothing(label_smoothing).z_loss(z_loss);
                let ce = build(&builder, backend, Parallelism::Serial);
                let (mut of_class, mut of_probabilities) = ([0.0; 4], [0.0; 4]);
                let x = Matrix::new(&logits, 1, 4).unwrap();
                let loss = ce.loss_and_grad(x, &[1], MatrixMut::new(&mut of_class, 1, 4).unwrap()).unwrap();
                let request = Request::new().grad(MatrixMut::new(&mut of_probabilities, 1, 4).unwrap());
                let same = ce.run_probabilities(x, Matrix::new(&q, 1, 4).unwrap(), request).unwrap().loss;
                // Both have their own error.
                assert!((loss - same).abs() <= 2.0 * DISTRIBUTION_LOSS * U * loss, "{loss:e} {same:e} {gap}");
                for (a, b) in of_class.into_iter().zip(of_probabilities) {
                    let (a, b) = (f64::from(a), f64::from(b));
                    let bound = if label_smoothing == 0.0 { a.abs() } else { 1.0 };
                    let bound = (gap.abs() as f64 + 4.0 * DISTRIBUTION_TARGET) * U * bound;
                    assert!((a - b).abs() <= bound, "{a:e} {b:e} at a gap of {gap}, {backend}");
                }
            }
        }
    }
}

/// Exponentials are added in `f32` before they are added in `f64`: a largest one among them would show in the loss.
#[test]
fn two_classes_that_have_everything_keep_the_bounds_at_any_gap() {
    for classes in [2, 5, 16, 32, 64, 100, 128, 200, 3000] {
        for backend in backends() {
            let ce = build(&CrossEntropy::builder(), backend, Parallelism::Serial);
            let rows = 200;
            let (mut logits, mut q) = (vec![-200.0; rows * classes], vec![0.0; rows * classes]);
            for row in 0..rows {
                logits[row * classes] = 0.0;
                logits[row * classes + classes / 2] = -0.0317 * row as f32;
                q[row * classes] = 1.0;
            }
            let batch = Batch { rows, classes, logits, targets: vec![0; rows] };
            let call = Call { target_probabilities: Some(&q), ..Call::default() };
            let found = call.evaluate(&ce, &batch);
            Expected::of_call(&ce, &batch, call).check(&found, &format!("{classes} classes, {backend}"));
        }
    }
}

#[test]
fn one_class_of_probability_1_is_that_class_as_target_in_f64_too() {
    let error = 2.0 * (DISTRIBUTION_LOSS + SCALARS_F64) * U_F64;
    // Around 4, the rounding of a sum with the largest term in it would be 64 times as large beside the loss.
    for gap in [0.0, 0.4, 0.7, 3.3, 3.7, 3.9, 4.01, 4.1, 4.13, 20.0, 36.0, 60.0, 700.0] {
        for backend in backends() {
            let ce = build(&CrossEntropy::builder(), backend, Parallelism::Serial);
            let (logits, q) = ([0.0, gap, -f64::INFINITY, -1000.0], [0.0, 1.0, 0.0, 0.0]);
            let (mut of_class, mut of_probabilities) = ([0.0; 4], [0.0; 4]);
            let x = Matrix::new(&logits, 1, 4).unwrap();
            let loss = ce.loss_and_grad(x, &[1], MatrixMut::new(&mut of_class, 1, 4).unwrap()).unwrap();
            let request = Request::new().grad(MatrixMut::new(&mut of_probabilities, 1, 4).unwrap());
            let same = ce.run_probabilities(x, Matrix::new(&q, 1, 4).unwrap(), request).unwrap().loss;
            assert!((loss - same).abs() <= error * loss && loss > 0.0, "{loss:e} {same:e} {gap}");
            for (a, b) in of_class.into_iter().zip(of_probabilities) {
                assert!((a - b).abs() <= error * a.abs(), "{a:e} {b:e} at a gap of {gap}, {backend}");
            }
        }
    }
}

#[test]
fn a_masked_class_without_probability_leaves_the_loss_finite_and_one_with_it_does_not() {
    let logits = [1.0, f32::NEG_INFINITY, 2.0];
    let of = |q: [f32; 3]| {
        let mut grad = [f32::NAN; 3];
        let request = Request::new().grad(MatrixMut::new(&mut grad, 1, 3).unwrap());
        let (x, q) = (Matrix::new(&logits, 1, 3).unwrap(), Matrix::new(&q, 1, 3).unwrap());
        let loss = CrossEntropy::default().run_probabilities(x, q, request).unwrap().loss;
        (loss, grad)
    };
    let (loss, grad) = of([0.5, 0.0, 0.5]);
    assert!(loss.is_finite() && grad[1] == 0.0, "{loss} {grad:?}");
    let (loss, grad) = of([0.5, 0.25, 0.25]);
    assert_eq!((loss, grad[1]), (f64::INFINITY, -0.25));
    assert!(grad.iter().all(|g| g.is_finite()));
}

#[test]
fn a_masked_class_of_f64_without_probability_leaves_the_loss_finite_and_one_with_it_does_not() {
    for backend in backends() {
        for softcap in [None, Some(30.0)] {
            let of = |q: [f64; 20]| {
                let mut logits = [1.0; 20];
                logits[1] = f64::NEG_INFINITY;
                let mut grad = [f64::NAN; 20];
                let request = Request::new().grad(MatrixMut::new(&mut grad, 1, 20).unwrap());
                let (x, q) = (Matrix::new(&logits, 1, 20).unwrap(), Matrix::new(&q, 1, 20).unwrap());
                let ce = CrossEntropy::builder().backend(backend).softcap(softcap).build().unwrap();
                (ce.run_probabilities(x, q, request).unwrap().loss, grad)
            };
            let mut q = [0.05; 20];
            q[1] = 0.0;
            let (loss, grad) = of(q);
            assert!(loss.is_finite() && grad[1].to_bits() == 0, "{loss} {grad:?}, {backend}");
            q[1] = 0.25;
            let (loss, grad) = of(q);
            // A softcap has no slope there.
            let of_masked = if softcap.is_some() { 0.0 } else { -0.25 };
            assert_eq!((loss, grad[1]), (f64::INFINITY, of_masked), "{backend}");
            assert!(grad.iter().all(|g| g.is_finite()), "{backend}");
        }
    }
}

#[test]
fn rows_without_a_softmax_are_nan_and_harm_no_other() {
    let logits = [f32::NAN, 1.0, f32::NEG_INFINITY, f32::NEG_INFINITY, 1.0, 2.0];
    let q = [0.5_f32; 6];
    let (mut losses, mut grad) = ([0.0; 3], [0.0; 6]);
    let request = Request::new().losses(&mut losses).grad(MatrixMut::new(&mut grad, 3, 2).unwrap());
    let (x, q) = (Matrix::new(&logits, 3, 2).unwrap(), Matrix::new(&q, 3, 2).unwrap());
    let summary = CrossEntropy::default().run_probabilities(x, q, request).unwrap();
    assert!(summary.loss.is_nan() && losses[0].is_nan() && losses[1].is_nan() && losses[2].is_finite());
    assert!(grad[..4].iter().all(|g| g.is_nan()) && grad[4..].iter().all(|g| g.is_finite()));

    let (logits, q) = (logits.map(f64::from), [0.5; 6]);
    let (mut losses, mut grad) = ([0.0_f64; 3], [0.0_f64; 6]);
    let request = Request::new().losses(&mut losses).grad(MatrixMut::new(&mut grad, 3, 2).unwrap());
    let (x, q) = (Matrix::new(&logits, 3, 2).unwrap(), Matrix::new(&q, 3, 2).unwrap());
    let summary = CrossEntropy::default().run_probabilities(x, q, request).unwrap();
    assert!(summary.loss.is_nan() && losses[0].is_nan() && losses[1].is_nan() && losses[2].is_finite());
    assert!(grad[..4].iter().all(|g| g.is_nan()) && grad[4..].iter().all(|g| g.is_finite()));
}

/// The sum of their weights is finite, and so is what becomes of it.
#[test]
fn the_largest_probabilities_of_f64_make_no_nan() {
    let q = [f64::from(f32::MAX); 3];
    for logits in [[1.0, 2.0, 3.0], [0.0, 700.0, -f64::MAX], [f64::MAX, -f64::MAX, 0.0]] {
        for builder in builders(3).into_iter().map(|(_, builder)| builder.weight([f32::MAX; 3])) {
            let (mut grad, mut losses) = ([f64::NAN; 3], [f64::NAN]);
            let request = Request::new().losses(&mut losses).grad(MatrixMut::new(&mut grad, 1, 3).unwrap());
            let (x, q) = (Matrix::new(&logits, 1, 3).unwrap(), Matrix::new(&q, 1, 3).unwrap());
            builder.z_loss(0.0).build().unwrap().run_probabilities(x, q, request).unwrap();
            assert!(losses[0] > 0.0 && grad.iter().all(|g| g.is_finite()), "{losses:?} {grad:?} {logits:?}");
        }
    }
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_written() {
    let logits = [0.0_f32; 6];
    let x = Matrix::new(&logits, 2, 3).unwrap();
    let plain = CrossEntropy::builder();
    let refuse = |builder: &CrossEntropyBuilder, q: Matrix<'_>, error: Error| {
        let (mut grad, mut losses) = ([7.0; 6], [7.0; 2]);
        let request = Request::new().losses(&mut losses).grad(MatrixMut::new(&mut grad, 2, 3).unwrap());
        let ce = builder.clone().build().unwrap();
        assert_eq!(ce.run_probabilities(x, q, request).unwrap_err(), error, "{error}");
        assert_eq!((grad, losses), ([7.0; 6], [7.0; 2]), "{error}");
    };
    for probability in [-0.1, f32::INFINITY, -f32::MIN_POSITIVE] {
        let q = [0.5, 0.5, 0.0, 0.2, probability, 0.3];
        let error = Error::InvalidTargetProbability { row: 1, column: 1, probability: probability.into() };
        refuse(&plain, Matrix::new(&q, 2, 3).unwrap(), error);
    }
    // However many there are, the first is named.
    let [q, of_two_rows] = [[-1.0, -2.0, 0.5, 0.5, 0.5, 0.5], [0.5, -1.0, 0.5, -2.0, 0.5, 0.5]];
    let error = |column| Error::InvalidTargetProbability { row: 0, column, probability: -1.0 };
    refuse(&plain, Matrix::new(&q, 2, 3).unwrap(), error(0));
    refuse(&plain, Matrix::new(&of_two_rows, 2, 3).unwrap(), error(1));
    for probability in [-0.1, f64::INFINITY, -f64::MIN_POSITIVE, -5e-324, 1e39, f64::NAN] {
        let logits = [0.0; 6];
        let (mut grad, mut losses) = ([7.0; 6], [7.0; 2]);
        let request = Request::new().losses(&mut losses).grad(MatrixMut::new(&mut grad, 2, 3).unwrap());
        let q = [0.5, 0.5, 0.0, 0.2, probability, 0.3];
        let [x, q] = [&logits, &q].map(|x| Matrix::new(x, 2, 3).unwrap());
        let Err(error) = CrossEntropy::default().run_probabilities(x, q, request) else {
            panic!("{probability}")
        };
        let Error::InvalidTargetProbability { row: 1, column: 1, probability: found } = error else {
            panic!("{error}")
        };
        assert_eq!(found.to_bits(), probability.to_bits());
        assert_eq!((grad, losses), ([7.0; 6], [7.0; 2]), "{error}");
    }
    let q = [0.5; 6];
    let [of_two, good] = [Matrix::new(&q, 2, 2).unwrap(), Matrix::new(&q, 2, 3).unwrap()];
    let argument = "target_probabilities";
    refuse(&plain, of_two, Error::ShapeMismatch { argument, expected: (2, 3), actual: (2, 2) });
    let others = plain.clone().label_smoothing(0.1).smoothing(Smoothing::OtherClasses);
    refuse(&others, good, Error::NeedsClasses { argument: "smoothing" });
    refuse(&plain.clone().focal_gamma(2.0), good, Error::NeedsClasses { argument: "focal_gamma" });
    // Over which classes nothing is spread does not matter.
    let nothing = plain.smoothing(Smoothing::OtherClasses).build().unwrap();
    let of_all = CrossEntropy::default().run_probabilities(x, good, Request::new());
    assert_eq!(nothing.run_probabilities(x, good, Request::new()), of_all);

    let mut ranks = [7; 2];
    let request = Request::new().target_ranks(&mut ranks);
    let error = CrossEntropy::default().run_probabilities(x, good, request).unwrap_err();
    assert_eq!(error, Error::NeedsClasses { argument: "target_ranks" });
    assert_eq!(ranks, [7; 2]);
}
