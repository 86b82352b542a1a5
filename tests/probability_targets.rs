//! Targets that are probabilities, with every option, against the scalar reference.

mod support;

use support::batch::{Batch, Random};
use support::evaluation::{Call, assert_same_bits};
use support::{PARALLELISMS, backends, fused_backends};
use xent::contract::{DISTRIBUTION_LOSS, DISTRIBUTION_TARGET, LSE, PROBABILITY, U};
use xent::reference::{self, Outcome, SoftmaxRow};
use xent::{
    Backend, CrossEntropy, CrossEntropyBuilder, Error, Matrix, MatrixMut, Parallelism, Reduction, Request,
    Smoothing,
};

const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

/// Rows and classes, on both sides of what the kernels do otherwise.
fn shapes() -> Vec<(usize, usize)> {
    let mut shapes: Vec<_> = (1..=40).map(|classes| (7, classes)).collect();
    shapes.extend([(37, 10), (20, 64), (21, 81), (33, 100), (11, 130), (10, 1000), (5, 2047), (5, 2048)]);
    shapes.extend([(5, 2049), (3, 5000), (2, 70_000)]);
    shapes
}

/// Probabilities of every kind in turn: one class alone, some of few, of all, none; and sums other than 1.
fn distributions(batch: &Batch, random: &mut Random) -> Vec<f32> {
    let mut all = Vec::new();
    for row in 0..batch.rows {
        let x = batch.row(row);
        let one = random.below(batch.classes);
        let largest = (0..batch.classes).fold(0, |best, i| if x[i] > x[best] { i } else { best });
        let scale = 1.0 / batch.classes as f32;
        all.extend((0..batch.classes).map(|class| match row % 6 {
            0 => f32::from(class == one),
            1 => 2.0 * scale * random.between(0.0, 1.0),
            2 if random.below(3) == 0 => random.between(0.0, 3.0),
            // Where the logits have their maximum.
            3 => f32::from(class == largest),
            4 if x[class] == f32::NEG_INFINITY => 0.0,
            4 => scale,
            _ => 0.0,
        }));
    }
    all
}

/// A batch without rows of NaN, and its targets.
fn batch(rows: usize, classes: usize, seed: u64) -> (Batch, Vec<f32>) {
    let mut random = Random::new(seed);
    let mut batch = Batch::random(rows, classes, seed);
    batch.make_rows_count(&mut random);
    let q = distributions(&batch, &mut random);
    (batch, q)
}

struct Found {
    loss: f64,
    losses: Vec<f32>,
    grad: Vec<f32>,
}

fn find(ce: &CrossEntropy, batch: &Batch, q: &[f32], call: &Call<'_>) -> Found {
    let (rows, classes) = (batch.rows, batch.classes);
    let q = Matrix::new(q, rows, classes).unwrap();
    let mut losses = vec![f32::NAN; rows];
    let mut grad = vec![f32::NAN; rows * classes];
    let request = call.request().losses(&mut losses);
    let summary = if call.in_place {
        grad.copy_from_slice(&batch.logits);
        ce.run_probabilities_in_place(MatrixMut::new(&mut grad, rows, classes).unwrap(), q, request)
    } else {
        let request = request.grad(MatrixMut::new(&mut grad, rows, classes).unwrap());
        ce.run_probabilities(Matrix::new(&batch.logits, rows, classes).unwrap(), q, request)
    };
    Found { loss: summary.unwrap().loss, losses, grad }
}

/// What multiplies the loss of a row in the gradient, its z-loss apart.
fn factors(ce: &CrossEntropy, call: &Call<'_>, rows: usize, row: usize) -> f64 {
    let counts = |row: usize| call.loss_mask.is_none_or(|mask| mask[row]);
    let total: f64 = (0..rows).filter(|&row| counts(row)).map(|row| call.row_weight(row)).sum();
    let divisor = match (call.denominator, ce.reduction()) {
        (Some(denominator), _) => denominator,
        (None, Reduction::Mean) => total,
        (None, Reduction::Sum) => 1.0,
    };
    let reduced = match call.upstream {
        Some(upstream) => f64::from(upstream[row]),
        None if divisor == 0.0 => 0.0,
        None => 1.0 / divisor,
    };
    reduced.abs() * call.row_weight(row) * call.upstream_scalar.unwrap_or(1.0).abs()
}

fn check(ce: &CrossEntropy, batch: &Batch, q: &[f32], call: &Call<'_>, found: &Found, context: &str) {
    let (rows, classes) = (batch.rows, batch.classes);
    let x = Matrix::new(&batch.logits, rows, classes).unwrap();
    let matrix = Matrix::new(q, rows, classes).unwrap();
    let exact: Outcome = reference::run_probabilities(ce, x, matrix, &call.request()).unwrap();
    for row in 0..rows {
        let columns = row * classes..(row + 1) * classes;
        let softmax = &exact.softmax[row];
        if call.loss_mask.is_some_and(|mask| !mask[row]) {
            assert_eq!(found.losses[row], 0.0, "row {row}, {context}");
            assert!(found.grad[columns].iter().all(|&g| g == 0.0), "row {row}, {context}");
            continue;
        }
        let max = batch.row(row).iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let gaps: Vec<f64> = batch.row(row).iter().map(|&x| f64::from(max) - f64::from(x)).collect();
        let mean_gap = mean_gap(softmax, &gaps);
        let largest = gaps.iter().position(|&gap| gap == 0.0).unwrap();
        let others_gap = mean_gap / softmax.complements[largest].max(SMALLEST);

        let z = ce.z_loss() * call.row_weight(row);
        let (lse, loss) = (softmax.lse, exact.losses[row]);
        let z_bound = z * (2.0 * lse.abs() * (mean_gap + LSE) * (f64::from(max).abs() + 12.0) + lse * lse);
        let bound = ((others_gap + DISTRIBUTION_LOSS) * loss + z_bound) * U + SMALLEST;
        close("loss", f64::from(found.losses[row]), loss, bound, || {
            format!("row {row} x {classes}, {context}")
        });

        let factor = factors(ce, call, rows, row);
        let eps = ce.label_smoothing();
        let weight = |c: usize| ce.weight().map_or(1.0, |weight| f64::from(weight[c]));
        let v = |c: usize| weight(c) * ((1.0 - eps) * f64::from(q[row * classes + c]) + eps / classes as f64);
        let total: f64 = (0..classes).map(v).sum();
        // The z-loss is divided as the loss is.
        let slope = 2.0 * ce.z_loss() * lse.abs();
        for (i, column) in columns.enumerate() {
            let p = softmax.probabilities[i];
            let of_p = (gaps[i] + mean_gap + DISTRIBUTION_TARGET + PROBABILITY) * (total + slope) * p;
            let of_slope = 2.0 * ce.z_loss() * p * (mean_gap + LSE) * (f64::from(max).abs() + 12.0);
            let of_v = if p == 0.0 && gaps[i] == f64::INFINITY { 0.0 } else { DISTRIBUTION_TARGET * v(i) };
            let of_v = if gaps[i] == f64::INFINITY { DISTRIBUTION_TARGET * v(i) } else { of_v };
            let of_p = if of_p.is_nan() { 0.0 } else { of_p };
            let bound = factor * (of_p + of_slope + of_v) * U + (2.0 + factor * (total + slope)) * SMALLEST;
            let (g, wanted) = (f64::from(found.grad[column]), exact.grad[column]);
            close("grad", g, wanted, bound, || format!("row {row}, column {i} of {classes}, {context}"));
        }
    }
    let bound: f64 = exact.losses.iter().filter(|loss| loss.is_finite()).sum::<f64>();
    let bound = bound.max(exact.loss) * 200.0 * U;
    close("reduced loss", found.loss, exact.loss, bound, || context.to_owned());
}

/// sum_c p_c (m - x_c)
fn mean_gap(softmax: &SoftmaxRow, gaps: &[f64]) -> f64 {
    softmax.probabilities.iter().zip(gaps).filter(|(p, _)| **p > 0.0).map(|(p, gap)| p * gap).sum()
}

fn close(name: &str, found: f64, exact: f64, bound: f64, context: impl Fn() -> String) {
    let error = (found - exact).abs();
    let is_close = error <= bound || found == exact || (found.is_nan() && exact.is_nan());
    assert!(is_close, "{name} {found:e} instead of {exact:e}, {} of the bound, {}", error / bound, context());
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

#[test]
fn probabilities_as_targets_keep_the_bounds() {
    for (seed, (rows, classes)) in shapes().into_iter().enumerate() {
        let (batch, q) = batch(rows, classes, seed as u64);
        let mut random = Random::new(5);
        let upstream: Vec<f32> = (0..rows).map(|_| random.normal()).collect();
        let row_weights: Vec<f32> = (0..rows).map(|row| (row % 3) as f32 * 0.5).collect();
        let loss_mask: Vec<bool> = (0..rows).map(|row| row % 4 != 1).collect();
        for (name, builder) in builders(classes) {
            for backend in backends() {
                for (turn, parallelism) in PARALLELISMS.into_iter().enumerate() {
                    let ce = build(&builder, backend, parallelism);
                    let in_place = (turn + classes).is_multiple_of(2);
                    let plain = Call { in_place, ..Call::default() };
                    let calls = [
                        plain,
                        Call { upstream: Some(&upstream), upstream_scalar: Some(-1.5), ..plain },
                        Call { row_weights: Some(&row_weights), loss_mask: Some(&loss_mask), ..plain },
                        Call { denominator: Some(7.5), loss_mask: Some(&loss_mask), ..plain },
                    ];
                    for (number, call) in calls.iter().enumerate() {
                        let context =
                            format!("{name}, call {number}, {backend}, {parallelism:?}, in place {in_place}");
                        check(&ce, &batch, &q, call, &find(&ce, &batch, &q, call), &context);
                    }
                }
            }
        }
    }
}

#[test]
fn threads_places_and_fused_backends_give_the_same_bits() {
    for (rows, classes) in [(300, 10), (50, 100), (40, 2500), (2, 140_000)] {
        let (batch, q) = batch(rows, classes, 3);
        for (name, builder) in builders(classes) {
            let mut expected: Option<Found> = None;
            for backend in fused_backends() {
                for parallelism in PARALLELISMS {
                    for in_place in [false, true] {
                        let ce = build(&builder, backend, parallelism);
                        let found = find(&ce, &batch, &q, &Call { in_place, ..Call::default() });
                        let context = format!("{name}, {backend}, {parallelism:?}, in place {in_place}");
                        let expected =
                            expected.get_or_insert_with(|| find(&ce, &batch, &q, &Call::default()));
                        assert_eq!(found.loss.to_bits(), expected.loss.to_bits(), "{context}");
                        assert_same_bits("grad", classes, &found.grad, &expected.grad, &context);
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
fn rows_without_a_softmax_are_nan_and_harm_no_other() {
    let logits = [f32::NAN, 1.0, f32::NEG_INFINITY, f32::NEG_INFINITY, 1.0, 2.0];
    let q = [0.5_f32; 6];
    let (mut losses, mut grad) = ([0.0; 3], [0.0; 6]);
    let request = Request::new().losses(&mut losses).grad(MatrixMut::new(&mut grad, 3, 2).unwrap());
    let (x, q) = (Matrix::new(&logits, 3, 2).unwrap(), Matrix::new(&q, 3, 2).unwrap());
    let summary = CrossEntropy::default().run_probabilities(x, q, request).unwrap();
    assert!(summary.loss.is_nan() && losses[0].is_nan() && losses[1].is_nan() && losses[2].is_finite());
    assert!(grad[..4].iter().all(|g| g.is_nan()) && grad[4..].iter().all(|g| g.is_finite()));
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_written() {
    let logits = [0.0; 6];
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
        let error = Error::InvalidTargetProbability { row: 1, column: 1, probability };
        refuse(&plain, Matrix::new(&q, 2, 3).unwrap(), error);
    }
    let q = [0.5; 6];
    let [of_two, good] = [Matrix::new(&q, 2, 2).unwrap(), Matrix::new(&q, 2, 3).unwrap()];
    let argument = "target_probabilities";
    refuse(&plain, of_two, Error::ShapeMismatch { argument, expected: (2, 3), actual: (2, 2) });
    let others = plain.clone().label_smoothing(0.1).smoothing(Smoothing::OtherClasses);
    refuse(&others, good, Error::NeedsClasses { argument: "smoothing" });
    refuse(&plain.clone().focal_gamma(2.0), good, Error::NeedsClasses { argument: "focal_gamma" });

    let mut ranks = [7; 2];
    let request = Request::new().target_ranks(&mut ranks);
    let error = CrossEntropy::default().run_probabilities(x, good, request).unwrap_err();
    assert_eq!(error, Error::NeedsClasses { argument: "target_ranks" });
    assert_eq!(ranks, [7; 2]);
}
