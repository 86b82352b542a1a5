//! Options in every combination, and every output, against the scalar reference; and the reference against definitions.

use crate::support::batch::{Batch, IGNORE_INDEX, Random};
use crate::support::bounds::{Expected, check_log_softmax, check_softmax};
use crate::support::evaluation::{Call, Evaluation, assert_same_bits, largest_weight};
use crate::support::{PARALLELISMS, backends};
use xent::contract::U;
use xent::{
    Backend, CrossEntropy, CrossEntropyBuilder, EmptyMean, Matrix, MatrixMut, Parallelism, Reduction,
    Request, Smoothing, Softmax, Target, log_softmax, log_softmax_backward, log_softmax_backward_in_place,
    log_softmax_in_place, reference, softmax, softmax_backward, softmax_backward_in_place, softmax_in_place,
};

/// Rows and classes: of every kernel, with whole and incomplete vectors of rows.
const SHAPES: [(usize, usize); 9] =
    [(21, 1), (37, 2), (33, 10), (20, 64), (21, 65), (11, 130), (10, 1000), (5, 2049), (2, 70_000)];

/// A batch whose rows all count, with 3 as one of the targets where there are so many classes.
fn counting_batch(rows: usize, classes: usize, seed: u64) -> Batch {
    let mut batch = Batch::random(rows, classes, seed);
    let mut random = Random::new(seed);
    for row in 0..rows {
        if batch.targets[row] == IGNORE_INDEX {
            batch.targets[row] = random.below(classes) as i64;
            batch.row_mut(row).fill_with(|| random.normal());
        }
    }
    batch.targets[rows / 2] = 3.min(classes as i64 - 1);
    // It may be a masked class in its row.
    batch.row_mut(rows / 2).fill_with(|| random.normal());
    batch
}

/// Class weights: none, some of them 0, all alike.
fn weights(kind: usize, classes: usize) -> Option<Vec<f32>> {
    let mut random = Random::new(classes as u64);
    match kind {
        0 => None,
        // The last is not 0: some row may count for something.
        1 => Some(
            (0..classes)
                .map(
                    |class| {
                        if class % 5 == 1 && class + 1 < classes { 0.0 } else { random.between(0.01, 4.0) }
                    },
                )
                .collect(),
        ),
        _ => Some(vec![0.3; classes]),
    }
}

fn with_weights(builder: CrossEntropyBuilder, kind: usize, classes: usize) -> CrossEntropyBuilder {
    match weights(kind, classes) {
        None => builder,
        Some(weight) => builder.weight(weight),
    }
}

#[test]
fn options_in_every_combination_keep_the_bounds() {
    let mut seed = 0;
    for (rows, classes) in SHAPES {
        for weight_kind in 0..3 {
            for label_smoothing in [0.0, 0.1, 0.75, 1.0] {
                for ignore_index in [Some(IGNORE_INDEX), Some(3), None] {
                    for (reduction, z_loss) in
                        [Reduction::Mean, Reduction::Sum].into_iter().flat_map(|r| [(r, 0.0), (r, 0.3)])
                    {
                        seed += 1;
                        let batch = match ignore_index {
                            Some(IGNORE_INDEX) => Batch::random(rows, classes, seed),
                            _ => counting_batch(rows, classes, seed),
                        };
                        let builder = with_weights(CrossEntropy::builder(), weight_kind, classes)
                            .label_smoothing(label_smoothing)
                            .z_loss(z_loss)
                            .ignore_index(ignore_index)
                            .reduction(reduction);
                        let name = format!(
                            "weights {weight_kind}, smoothing {label_smoothing}, z {z_loss}, ignored {ignore_index:?}, {reduction:?}"
                        );
                        check_on_every_backend(&builder, &batch, &name);
                    }
                }
            }
        }
    }
}

/// Checks calls with and without upstream gradients, in place and not.
fn check_on_every_backend(builder: &CrossEntropyBuilder, batch: &Batch, name: &str) {
    let mut random = Random::new(batch.classes as u64);
    let upstream: Vec<f32> = (0..batch.rows).map(|_| random.normal()).collect();
    let ce = builder.clone().build().expect("the options are valid");
    for upstream in [None, Some(&upstream[..])] {
        let expected = Expected::new(&ce, batch, upstream);
        for backend in backends() {
            for (turn, parallelism) in PARALLELISMS.into_iter().enumerate() {
                let ce = build(builder, backend, parallelism);
                let in_place = (turn + batch.classes).is_multiple_of(2);
                let call = Call { upstream, in_place, ..Call::default() };
                let context = format!("{name}, upstream {}, {backend}, {parallelism:?}", upstream.is_some());
                let found = call.evaluate(&ce, batch);
                found.assert_no_subnormal(&context);
                expected.check(&found, &context);
            }
        }
    }
}

fn build(builder: &CrossEntropyBuilder, backend: Backend, parallelism: Parallelism) -> CrossEntropy {
    builder.clone().backend(backend).parallelism(parallelism).build().expect("the backend is available")
}

#[test]
fn a_denominator_takes_the_place_of_the_reductions_divisor() {
    for backend in backends() {
        for (rows, classes) in SHAPES {
            let batch = Batch::random(rows, classes, 5);
            let sum = build(&CrossEntropy::builder().reduction(Reduction::Sum), backend, Parallelism::Rayon);
            let sum = Evaluation::of(&sum, &batch);
            for reduction in [Reduction::Mean, Reduction::Sum] {
                let ce = build(&CrossEntropy::builder().reduction(reduction), backend, Parallelism::Rayon);
                let mut grad = vec![f32::NAN; rows * classes];
                let request = Request::new().denominator(4.0).grad(matrix_mut(&mut grad, rows, classes));
                let logits = matrix(&batch.logits, rows, classes);
                let summary = ce.run(logits, &batch.targets, request).expect("the batch is valid");
                let context = format!("{backend}, {rows} x {classes}, {reduction:?}");
                assert_eq!(summary.loss.to_bits(), (sum.loss / 4.0).to_bits(), "{context}");
                assert_eq!(summary.weight.to_bits(), sum.weight.to_bits(), "{context}");
                // A power of two changes no digit, unless it makes a number that would be subnormal.
                for (quarter, whole) in grad.iter().zip(&sum.grad) {
                    if whole.abs() >= 8.0 * f32::MIN_POSITIVE {
                        assert_eq!(quarter.to_bits(), (whole / 4.0).to_bits(), "{context}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_z_loss_is_on_top_of_the_loss_and_returned_apart() {
    for backend in backends() {
        for (rows, classes) in SHAPES {
            let batch = Batch::random(rows, classes, 6);
            let logits = matrix(&batch.logits, rows, classes);
            for reduction in [Reduction::Mean, Reduction::Sum] {
                let weight: Vec<f32> = (0..classes).map(|class| 0.5 + (class % 3) as f32).collect();
                let builder = CrossEntropy::builder().weight(weight).reduction(reduction);
                let summary_of = |z_loss| {
                    let ce = build(&builder.clone().z_loss(z_loss), backend, Parallelism::Rayon);
                    let exact =
                        reference::cross_entropy(&ce, logits, &batch.targets).expect("the batch is valid");
                    (ce.run(logits, &batch.targets, Request::new()).expect("the batch is valid"), exact)
                };
                let (without, _) = summary_of(0.0);
                let (with, exact) = summary_of(0.01);
                let context = format!("{backend}, {rows} x {classes}, {reduction:?}");
                assert_eq!(without.z_loss, 0.0, "{context}");
                assert_eq!(with.loss.to_bits(), (without.loss + with.z_loss).to_bits(), "{context}");
                let counted = if reduction == Reduction::Mean { 1.0 } else { rows as f64 };
                // An error of some u in each lse, which is 100 at most.
                let bound = counted * 0.01 * 2.0 * 100.0 * 200.0 * U;
                assert!(
                    (with.z_loss - exact.z_loss).abs() <= bound,
                    "{} {}, {context}",
                    with.z_loss,
                    exact.z_loss
                );
            }
        }
    }
}

#[test]
fn the_mean_over_nothing_is_nan_or_0() {
    let weights = [0.0_f32, 1.0];
    for backend in backends() {
        for (empty_mean, reduction, expected) in [
            (EmptyMean::Nan, Reduction::Mean, f64::NAN),
            (EmptyMean::Zero, Reduction::Mean, 0.0),
            (EmptyMean::Nan, Reduction::Sum, 0.0),
            (EmptyMean::Zero, Reduction::Sum, 0.0),
        ] {
            let builder = CrossEntropy::builder().weight(weights).empty_mean(empty_mean).reduction(reduction);
            let ce = build(&builder, backend, Parallelism::Rayon);
            assert_eq!(ce.empty_mean(), empty_mean);
            // No rows, ignored rows, and rows whose class weighs nothing.
            for targets in [&[][..], &[-100, -100], &[0, -100]] {
                let logits = vec![0.5; 2 * targets.len()];
                let mut grad = vec![f32::NAN; logits.len()];
                let logits = matrix(&logits, targets.len(), 2);
                let loss = ce
                    .loss_and_grad(logits, targets, matrix_mut(&mut grad, targets.len(), 2))
                    .expect("the batch is valid");
                let exact = reference::cross_entropy(&ce, logits, targets).expect("the batch is valid").loss;
                let context = format!("{backend}, {empty_mean:?}, {reduction:?}, {targets:?}");
                assert!(loss == expected || loss.is_nan() && expected.is_nan(), "{loss}, {context}");
                assert!(exact == expected || exact.is_nan() && expected.is_nan(), "{exact}, {context}");
                assert!(grad.iter().all(|&g| g == 0.0), "{grad:?}, {context}");
            }
            // A row that counts and is NaN stays so.
            let loss = ce.loss(matrix(&[f32::NAN, 1.0], 1, 2), &[1_u8]).expect("the batch is valid");
            assert!(loss.is_nan(), "{backend}");
        }
    }
}

#[test]
fn options_are_what_they_were_set_to() {
    let ce = CrossEntropy::default();
    assert_eq!(ce.weight(), None);
    assert_eq!(ce.ignore_index(), Some(-100));
    assert_eq!(ce.label_smoothing(), 0.0);
    assert_eq!(ce.z_loss(), 0.0);
    assert_eq!(ce.smoothing(), Smoothing::AllClasses);
    assert_eq!(ce.focal_gamma(), 0.0);
    assert_eq!(ce.reduction(), Reduction::Mean);
    assert_eq!(ce.backend(), Backend::detect());

    for backend in backends() {
        let ce = CrossEntropy::builder()
            .weight([0.0, 1.5])
            .ignore_index(7)
            .label_smoothing(0.25)
            .z_loss(1e-4)
            .smoothing(Smoothing::OtherClasses)
            .focal_gamma(2.0)
            .reduction(Reduction::Sum)
            .backend(backend)
            .build()
            .expect("the backend is available");
        assert_eq!(ce.weight(), Some(&[0.0, 1.5][..]));
        assert_eq!(ce.ignore_index(), Some(7));
        assert_eq!(ce.label_smoothing(), 0.25);
        assert_eq!(ce.z_loss(), 1e-4);
        assert_eq!(ce.smoothing(), Smoothing::OtherClasses);
        assert_eq!(ce.focal_gamma(), 2.0);
        assert_eq!(ce.reduction(), Reduction::Sum);
        assert_eq!(ce.backend(), backend);
    }
    let ce = CrossEntropy::builder().ignore_index(None).build().expect("the options are valid");
    assert_eq!(ce.ignore_index(), None);
    assert_eq!(ce.ignore_indices(), []);
    let ce = CrossEntropy::builder().ignore_indices([5, -1]).build().expect("the options are valid");
    assert_eq!(ce.ignore_index(), Some(5));
    assert_eq!(ce.ignore_indices(), [5, -1]);
    let ce = CrossEntropy::builder().ignore_indices([5, -1]).ignore_index(2).build();
    assert_eq!(ce.expect("the options are valid").ignore_indices(), [2]);
}

#[test]
fn of_two_classes_the_other_gets_all_of_what_is_smoothed_over_the_others() {
    let (logits, eps) = ([0.5, -1.0], 0.3);
    let nll = f64::exp(-1.5).ln_1p();
    let expected = (1.0 - eps) * nll + eps * (nll + 1.5);
    for backend in backends() {
        let builder = CrossEntropy::builder().label_smoothing(eps).smoothing(Smoothing::OtherClasses);
        let ce = builder.backend(backend).build().expect("the backend is available");
        let loss = ce.loss(Matrix::new(&logits, 1, 2).expect("it fits"), &[0_u8]).expect("0 is a class");
        assert!((loss - expected).abs() <= 8.0 * U * expected, "{loss} instead of {expected}, {backend}");
    }
}

/// Targets of every type.
#[test]
fn any_of_several_ignored_indices_and_a_masked_row_are_as_the_one_ignored_index() {
    fn evaluate<T: Target>(
        ce: &CrossEntropy,
        batch: &Batch,
        target: impl Fn(i64) -> T,
        mask: &[bool],
    ) -> (Vec<f32>, f64) {
        let targets: Vec<T> = batch.targets.iter().map(|&t| target(t)).collect();
        let mut grad = vec![f32::NAN; batch.rows * batch.classes];
        let request = Request::new().loss_mask(mask).grad(matrix_mut(&mut grad, batch.rows, batch.classes));
        let logits = matrix(&batch.logits, batch.rows, batch.classes);
        let summary = ce.run(logits, &targets, request).expect("the batch is valid");
        (grad, summary.loss)
    }
    for (rows, classes) in [(37, 10), (21, 100), (5, 2049)] {
        let mut batch = counting_batch(rows, classes, 14);
        for row in 0..rows {
            // 7 and 9 stand in for padding.
            batch.targets[row] = [0, 7, 2, 9, 4, 7][row % 6];
        }
        let is_padding = |row: usize| row % 2 == 1;
        let all = vec![true; rows];
        let mask: Vec<bool> = (0..rows).map(|row| !is_padding(row)).collect();
        let ce = |ignored: &[i64]| {
            let builder = CrossEntropy::builder().ignore_indices(ignored.iter().copied());
            builder.build().expect("the options are valid")
        };
        let one_index = Batch {
            targets: (0..rows).map(|row| if is_padding(row) { 7 } else { batch.targets[row] }).collect(),
            ..batch.clone()
        };
        let expected = evaluate(&ce(&[7]), &one_index, |target| target, &all);
        let several = ce(&[-3, 9, 1 << 33, 7]);
        let found = [
            evaluate(&several, &batch, |target| target, &all),
            evaluate(&several, &batch, |target| target as i32, &all),
            evaluate(&several, &batch, |target| target as u8, &all),
            evaluate(&several, &batch, |target| target as usize, &all),
            evaluate(&ce(&[]), &batch, |target| target as u16, &mask),
            evaluate(&ce(&[9]), &batch, |target| target as u32, &mask),
            evaluate(&ce(&[-1, -2]), &batch, |target| target as u64, &mask),
        ];
        for (grad, loss) in found {
            assert_same_bits("grad", classes, &grad, &expected.0, "");
            assert_eq!(loss.to_bits(), expected.1.to_bits());
        }
    }
}

#[test]
fn the_default_and_the_builders_defaults_are_the_same() {
    let batch = Batch::random(20, 10, 1);
    let built = CrossEntropy::builder().build().expect("the options are valid");
    Evaluation::of(&built, &batch)
        .assert_equal(&Evaluation::of(&CrossEntropy::default(), &batch), "defaults");
}

#[test]
fn the_mean_is_the_sum_over_the_weight_and_its_gradient_scaled_alike() {
    for backend in backends() {
        for (rows, classes) in SHAPES {
            let batch = Batch::random(rows, classes, 2);
            for weight_kind in 0..3 {
                let builder =
                    with_weights(CrossEntropy::builder(), weight_kind, classes).label_smoothing(0.1);
                let evaluate = |reduction| {
                    let builder = builder.clone().reduction(reduction);
                    Evaluation::of(&build(&builder, backend, Parallelism::Rayon), &batch)
                };
                let (mean, sum) = (evaluate(Reduction::Mean), evaluate(Reduction::Sum));
                let context = format!("{backend}, {rows} x {classes}, weights {weight_kind}");
                assert_eq!(mean.weight.to_bits(), sum.weight.to_bits(), "{context}");
                assert_eq!(mean.loss.to_bits(), (sum.loss / sum.weight).to_bits(), "{context}");
                assert_same_bits("losses", 1, &mean.losses, &sum.losses, &context);
                // The gradient as the losses before the reduction have it, by an upstream gradient of 1 over the weight.
                let upstream = vec![(1.0 / mean.weight) as f32; rows];
                let ce = build(&builder, backend, Parallelism::Serial);
                let found = Call { upstream: Some(&upstream), ..Call::default() }.evaluate(&ce, &batch);
                // Where the reciprocal is exact, so is the agreement.
                if f64::from(upstream[0]) == 1.0 / mean.weight {
                    assert_same_bits("grad", classes, &found.grad, &mean.grad, &context);
                }
            }
        }
    }
}

#[test]
fn upstream_gradients_of_1_give_the_gradient_of_the_sum() {
    for backend in backends() {
        for (rows, classes) in SHAPES {
            let batch = Batch::random(rows, classes, 3);
            for weight_kind in 0..3 {
                let builder =
                    with_weights(CrossEntropy::builder(), weight_kind, classes).label_smoothing(0.1);
                let sum = build(&builder.clone().reduction(Reduction::Sum), backend, Parallelism::Serial);
                let sum = Evaluation::of(&sum, &batch);
                for reduction in [Reduction::Mean, Reduction::Sum] {
                    let ce = build(&builder.clone().reduction(reduction), backend, Parallelism::Serial);
                    let ones = vec![1.0; rows];
                    let found = Call { upstream: Some(&ones), ..Call::default() }.evaluate(&ce, &batch);
                    let context =
                        format!("{backend}, {rows} x {classes}, weights {weight_kind}, {reduction:?}");
                    assert_same_bits("grad", classes, &found.grad, &sum.grad, &context);

                    let zeros = vec![0.0; rows];
                    let found = Call { upstream: Some(&zeros), ..Call::default() }.evaluate(&ce, &batch);
                    assert_same_bits("grad", classes, &found.grad, &vec![0.0; rows * classes], &context);
                }
            }
        }
    }
}

/// Losses and gradient for targets of one integer type.
fn with_targets<T: Target + Copy>(
    ce: &CrossEntropy,
    batch: &Batch,
    convert: impl Fn(i64) -> T,
) -> (f64, Vec<f32>, Vec<f32>) {
    let (rows, classes) = (batch.rows, batch.classes);
    let targets: Vec<T> = batch.targets.iter().map(|&target| convert(target)).collect();
    let (mut losses, mut grad) = (vec![f32::NAN; rows], vec![f32::NAN; rows * classes]);
    let request = Request::new().losses(&mut losses).grad(matrix_mut(&mut grad, rows, classes));
    let summary =
        ce.run(matrix(&batch.logits, rows, classes), &targets, request).expect("the batch is valid");
    (summary.loss, losses, grad)
}

fn matrix(x: &[f32], rows: usize, classes: usize) -> Matrix<'_> {
    Matrix::new(x, rows, classes).expect("the slice is long enough")
}

fn matrix_mut(x: &mut [f32], rows: usize, classes: usize) -> MatrixMut<'_> {
    MatrixMut::new(x, rows, classes).expect("the slice is long enough")
}

#[test]
fn targets_of_every_integer_type_give_the_same() {
    for backend in backends() {
        for (rows, classes) in SHAPES.into_iter().filter(|&(_, classes)| classes < 3000) {
            // Whether a class, a number past the classes, or a negative one is ignored.
            for ignored in [3, 255, IGNORE_INDEX] {
                let mut batch = counting_batch(rows, classes, 4);
                let limit = if classes > 255 { 255 } else { classes as i64 };
                for target in &mut batch.targets {
                    *target = (*target).min(limit - 1);
                }
                batch.targets[0] = ignored;
                if ignored == 3 && classes <= 3 {
                    batch.targets[0] = 0;
                }
                batch.row_mut(0).fill(0.5);
                // Clamping may have chosen masked classes; what matters is that all types agree.
                let builder = CrossEntropy::builder().ignore_index(ignored).label_smoothing(0.1);
                let ce = build(&builder, backend, Parallelism::Rayon);
                let context = format!("{backend}, {rows} x {classes}, ignored {ignored}");
                let expected = with_targets(&ce, &batch, |target| target);
                let mut found = vec![("i32", with_targets(&ce, &batch, |target| target as i32))];
                if ignored >= 0 {
                    found.push(("u8", with_targets(&ce, &batch, |target| target as u8)));
                    found.push(("u16", with_targets(&ce, &batch, |target| target as u16)));
                    found.push(("u32", with_targets(&ce, &batch, |target| target as u32)));
                    found.push(("u64", with_targets(&ce, &batch, |target| target as u64)));
                    found.push(("usize", with_targets(&ce, &batch, |target| target as usize)));
                }
                for (name, (loss, losses, grad)) in found {
                    let context = format!("{name}, {context}");
                    assert_eq!(loss.to_bits(), expected.0.to_bits(), "loss, {context}");
                    assert_same_bits("losses", 1, &losses, &expected.1, &context);
                    assert_same_bits("grad", classes, &grad, &expected.2, &context);
                }
            }
        }
    }
}

#[test]
fn targets_reach_the_last_value_that_each_integer_type_has() {
    for backend in backends() {
        let ce = build(&CrossEntropy::builder(), backend, Parallelism::Serial);
        let mut batch = counting_batch(1, 256, 5);
        batch.targets[0] = 255;
        let expected = with_targets(&ce, &batch, |target| target);
        assert_eq!(with_targets(&ce, &batch, |_| u8::MAX), expected, "{backend}");
        let mut batch = counting_batch(1, 65_536, 6);
        batch.targets[0] = 65_535;
        let expected = with_targets(&ce, &batch, |target| target);
        assert_eq!(with_targets(&ce, &batch, |_| u16::MAX), expected, "{backend}");
    }
}

// The reference itself, in f64.

/// What a handful of roundings of an `f64` and of its `exp` and `ln` cost, with a factor of 10 to spare.
const REFERENCE_ERROR: f64 = 100.0 * f64::EPSILON;

/// Logits so near each other that nothing cancels in the plain definition.
fn moderate(rows: usize, classes: usize, seed: u64) -> Batch {
    let mut random = Random::new(seed);
    let mut batch = counting_batch(rows, classes, seed);
    batch.logits.fill_with(|| (random.below(257) as f32 - 128.0) / 64.0);
    batch
}

#[test]
fn the_reference_loss_is_the_definition() {
    for (rows, classes) in [(3, 1), (4, 2), (5, 7), (3, 40)] {
        let batch = moderate(rows, classes, 7);
        for weight_kind in 0..3 {
            for label_smoothing in [0.0, 0.2, 1.0] {
                let builder = with_weights(CrossEntropy::builder(), weight_kind, classes);
                let ce = builder.label_smoothing(label_smoothing).build().expect("the options are valid");
                let weight = |class: usize| ce.weight().map_or(1.0, |weight| f64::from(weight[class]));
                let outcome =
                    reference::cross_entropy(&ce, matrix(&batch.logits, rows, classes), &batch.targets)
                        .expect("the batch is valid");
                let (mut total, mut divisor) = (0.0, 0.0);
                for row in 0..rows {
                    let sum: f64 = batch.row(row).iter().map(|&x| f64::from(x).exp()).sum();
                    let nll = |class: usize| -(f64::from(batch.row(row)[class]).exp() / sum).ln();
                    let target = batch.targets[row] as usize;
                    let spread: f64 = (0..classes).map(|class| weight(class) * nll(class)).sum();
                    let loss = (1.0 - label_smoothing) * weight(target) * nll(target)
                        + label_smoothing / classes as f64 * spread;
                    let error = (outcome.losses[row] - loss).abs();
                    assert!(error <= REFERENCE_ERROR * (1.0 + loss), "{loss} and {}", outcome.losses[row]);
                    total += loss;
                    divisor += weight(target);
                }
                if divisor > 0.0 {
                    let error = (outcome.loss - total / divisor).abs();
                    assert!(error <= REFERENCE_ERROR * (1.0 + total / divisor));
                }
            }
        }
    }
}

#[test]
fn the_reference_gradient_is_the_derivative_of_the_reference_loss() {
    /// A step that logits on a grid of 2^-6, below 2, take exactly in `f32`.
    const STEP: f32 = 1.0 / 1024.0;
    /// The largest third derivative of ln(sum exp) by one logit, p (1 - p) (1 - 2 p), is 1 / (6 sqrt 3).
    const THIRD_DERIVATIVE: f64 = 0.0963;
    /// That of its square, 2 (l l''' + 3 l' l''), is below 2 where the logarithm l is below 5.7, that of 40 logits of 2.
    const THIRD_DERIVATIVE_OF_SQUARE: f64 = 2.0;
    let h = f64::from(STEP);
    for (rows, classes) in [(3, 1), (4, 2), (5, 7), (3, 40)] {
        let batch = moderate(rows, classes, 8);
        for weight_kind in 0..3 {
            for label_smoothing in [0.0, 0.2, 1.0] {
                for (reduction, z_loss) in
                    [Reduction::Mean, Reduction::Sum].into_iter().flat_map(|r| [(r, 0.0), (r, 0.5)])
                {
                    let ce = with_weights(CrossEntropy::builder(), weight_kind, classes)
                        .label_smoothing(label_smoothing)
                        .z_loss(z_loss)
                        .reduction(reduction)
                        .build()
                        .expect("the options are valid");
                    let outcome = |logits: &[f32]| {
                        reference::cross_entropy(&ce, matrix(logits, rows, classes), &batch.targets)
                            .expect("the batch is valid")
                    };
                    let exact = outcome(&batch.logits);
                    if exact.weight == 0.0 {
                        continue;
                    }
                    // The factor of ln(sum exp) in a row's loss, at most: w_y and the mean of the weights.
                    let divisor = if reduction == Reduction::Mean { exact.weight } else { 1.0 };
                    let third_derivative = THIRD_DERIVATIVE * largest_weight(&ce) / divisor
                        + z_loss * THIRD_DERIVATIVE_OF_SQUARE;
                    let truncation = h * h / 6.0 * third_derivative;
                    let rounding = REFERENCE_ERROR * (1.0 + exact.loss) / h;
                    for i in 0..rows * classes {
                        let at = |step: f32| {
                            let mut logits = batch.logits.clone();
                            logits[i] += step;
                            assert_eq!(logits[i] - batch.logits[i], step, "the step is exact");
                            outcome(&logits).loss
                        };
                        let difference = (at(STEP) - at(-STEP)) / (2.0 * h);
                        let error = (difference - exact.grad[i]).abs();
                        assert!(
                            error <= truncation + rounding,
                            "{} instead of {difference} at {i} of {rows} x {classes}, smoothing {label_smoothing}",
                            exact.grad[i]
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_reference_gradient_is_the_product_with_the_jacobian() {
    for classes in [1, 2, 7, 40] {
        let batch = moderate(1, classes, 9);
        let ce = CrossEntropy::default();
        let outcome = reference::cross_entropy(&ce, matrix(&batch.logits, 1, classes), &batch.targets)
            .expect("the batch is valid");
        let p = reference::softmax(&batch.logits);
        let upstream = reference::loss_gradient_wrt_probabilities(&p, batch.targets[0] as usize);
        let gradient = reference::chain_rule(&reference::softmax_jacobian(&p), &upstream);
        for (by_jacobian, grad) in gradient.iter().zip(&outcome.grad) {
            assert!((by_jacobian - grad).abs() <= REFERENCE_ERROR, "{by_jacobian} and {grad}");
        }
    }
}

// Softmax, log-softmax and their products with the Jacobian.

#[test]
fn softmax_functions_keep_the_bounds() {
    for backend in backends() {
        for (rows, classes) in SHAPES {
            let batch = counting_batch(rows, classes, 10);
            let (mut p, mut log_p) = (vec![f32::NAN; rows * classes], vec![f32::NAN; rows * classes]);
            for parallelism in PARALLELISMS {
                let of = Softmax::default().backend(backend).expect("the backend is available");
                let of = of.parallelism(parallelism);
                let x = matrix(&batch.logits, rows, classes);
                of.softmax(x, matrix_mut(&mut p, rows, classes)).expect("the shapes agree");
                of.log_softmax(x, matrix_mut(&mut log_p, rows, classes)).expect("the shapes agree");
                for row in 0..rows {
                    let context = format!("{backend}, {parallelism:?}, row {row} of {rows} x {classes}");
                    let columns = row * classes..(row + 1) * classes;
                    check_softmax(batch.row(row), &p[columns.clone()], &context);
                    check_log_softmax(batch.row(row), &log_p[columns], &context);
                }
            }
        }
    }
}

/// Roundings of p_j (g_j - sum_i g_i p_i) in `f32`. Of the magnitudes' sum S = sum_i |g_i p_i|: one for each product
/// within, one for its conversion, and for the difference and the last product one each of up to S. Of g_j: the last
/// two.
const SOFTMAX_BACKWARD: [f64; 2] = [4.0, 2.0];

/// Roundings of g_j - exp(y_j) sum_i g_i in `f32`. Of the product: two for the exponential (its polynomial's error
/// included), one for the sum's conversion, one for the product, one for the difference. Of g_j: one for the difference.
const LOG_SOFTMAX_BACKWARD: [f64; 2] = [5.0, 1.0];

#[test]
fn backward_functions_are_the_product_with_the_jacobian() {
    for backend in backends() {
        for (rows, classes) in [(5, 1), (20, 2), (19, 10), (17, 33), (5, 64), (4, 65), (3, 100), (2, 300)] {
            let batch = counting_batch(rows, classes, 11);
            let mut random = Random::new(12);
            let upstream: Vec<f32> =
                (0..rows * classes).map(|i| random.normal() * if i % 3 == 0 { 100.0 } else { 1.0 }).collect();
            for parallelism in PARALLELISMS {
                let of = Softmax::default().backend(backend).expect("the backend is available");
                let of = of.parallelism(parallelism);
                let mut buffers = [(); 4].map(|()| vec![f32::NAN; rows * classes]);
                let [p, log_p, by_softmax, by_log_softmax] = &mut buffers;
                let (x, g) = (matrix(&batch.logits, rows, classes), matrix(&upstream, rows, classes));
                of.softmax(x, matrix_mut(p, rows, classes)).expect("the shapes agree");
                of.log_softmax(x, matrix_mut(log_p, rows, classes)).expect("the shapes agree");
                let out = matrix_mut(by_softmax, rows, classes);
                of.softmax_backward(matrix(p, rows, classes), g, out).expect("the shapes agree");
                let out = matrix_mut(by_log_softmax, rows, classes);
                of.log_softmax_backward(matrix(log_p, rows, classes), g, out).expect("the shapes agree");
                for row in 0..rows {
                    let columns = row * classes..(row + 1) * classes;
                    let context = format!("{backend}, {parallelism:?}, row {row} of {rows} x {classes}");
                    let g = &upstream[columns.clone()];
                    check_softmax_backward(&p[columns.clone()], g, &by_softmax[columns.clone()], &context);
                    check_log_softmax_backward(
                        &log_p[columns.clone()],
                        g,
                        &by_log_softmax[columns],
                        &context,
                    );
                }
            }
        }
    }
}

const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn check_softmax_backward(p: &[f32], upstream: &[f32], found: &[f32], context: &str) {
    let (p, upstream) = (widen(p), widen(upstream));
    let exact = reference::chain_rule(&reference::softmax_jacobian(&p), &upstream);
    let magnitudes: f64 = p.iter().zip(&upstream).map(|(p, g)| (p * g).abs()).sum();
    let [of_sum, of_own] = SOFTMAX_BACKWARD;
    for (j, (&found, &exact)) in found.iter().zip(&exact).enumerate() {
        let bound = p[j] * (of_sum * magnitudes + of_own * upstream[j].abs()) * U + SMALLEST;
        let error = (f64::from(found) - exact).abs();
        assert!(
            error <= bound,
            "{found:e} instead of {exact:e}, {} of the bound, column {j}, {context}",
            error / bound
        );
    }
}

fn check_log_softmax_backward(log_p: &[f32], upstream: &[f32], found: &[f32], context: &str) {
    let (p, upstream): (Vec<f64>, _) = (widen(log_p).iter().map(|y| y.exp()).collect(), widen(upstream));
    // d log p_i = d p_i / p_i; a class without a probability has no part in the sum by way of p, only by itself.
    let sum: f64 = upstream.iter().sum();
    let jacobian = reference::softmax_jacobian(&p);
    let by_p: Vec<f64> = upstream.iter().zip(&p).map(|(g, &p)| if p == 0.0 { 0.0 } else { g / p }).collect();
    let of_masked: f64 = upstream.iter().zip(&p).filter(|(_, p)| **p == 0.0).map(|(g, _)| g).sum();
    let by_jacobian = reference::chain_rule(&jacobian, &by_p);
    let [of_product, of_own] = LOG_SOFTMAX_BACKWARD;
    for (j, &found) in found.iter().enumerate() {
        let exact = if p[j] == 0.0 { upstream[j] } else { by_jacobian[j] - p[j] * of_masked };
        // A probability below the normal numbers may count as 0.
        let bound =
            (of_product * (p[j] * sum).abs() + of_own * upstream[j].abs()) * U + SMALLEST * (1.0 + sum.abs());
        let error = (f64::from(found) - exact).abs();
        assert!(
            error <= bound,
            "{found:e} instead of {exact:e}, {} of the bound, column {j}, {context}",
            error / bound
        );
    }
}

#[test]
fn free_functions_are_those_of_the_default_softmax() {
    let (rows, classes) = (37, 20);
    let batch = counting_batch(rows, classes, 13);
    let of = Softmax::default();
    let x = matrix(&batch.logits, rows, classes);
    let new = || vec![f32::NAN; rows * classes];
    let (mut ours, mut theirs) = (new(), new());

    softmax(x, matrix_mut(&mut ours, rows, classes)).expect("the shapes agree");
    of.softmax(x, matrix_mut(&mut theirs, rows, classes)).expect("the shapes agree");
    assert_same_bits("softmax", classes, &ours, &theirs, "");
    let p = theirs.clone();
    log_softmax(x, matrix_mut(&mut ours, rows, classes)).expect("the shapes agree");
    of.log_softmax(x, matrix_mut(&mut theirs, rows, classes)).expect("the shapes agree");
    assert_same_bits("log_softmax", classes, &ours, &theirs, "");
    let log_p = theirs.clone();

    let mut in_place = batch.logits.clone();
    softmax_in_place(matrix_mut(&mut in_place, rows, classes)).expect("there are classes");
    assert_same_bits("softmax_in_place", classes, &in_place, &p, "");
    let mut in_place = batch.logits.clone();
    log_softmax_in_place(matrix_mut(&mut in_place, rows, classes)).expect("there are classes");
    assert_same_bits("log_softmax_in_place", classes, &in_place, &log_p, "");

    let (p, log_p) = (matrix(&p, rows, classes), matrix(&log_p, rows, classes));
    let upstream: Vec<f32> = (0..rows * classes).map(|i| i as f32 / 7.0 - 50.0).collect();
    let g = matrix(&upstream, rows, classes);
    softmax_backward(p, g, matrix_mut(&mut ours, rows, classes)).expect("the shapes agree");
    of.softmax_backward(p, g, matrix_mut(&mut theirs, rows, classes)).expect("the shapes agree");
    assert_same_bits("softmax_backward", classes, &ours, &theirs, "");
    log_softmax_backward(log_p, g, matrix_mut(&mut ours, rows, classes)).expect("the shapes agree");
    of.log_softmax_backward(log_p, g, matrix_mut(&mut theirs, rows, classes)).expect("the shapes agree");
    assert_same_bits("log_softmax_backward", classes, &ours, &theirs, "");
    let dx_of_log = theirs.clone();
    of.softmax_backward(p, g, matrix_mut(&mut theirs, rows, classes)).expect("the shapes agree");

    let mut in_place = upstream.clone();
    softmax_backward_in_place(p, matrix_mut(&mut in_place, rows, classes)).expect("the shapes agree");
    assert_same_bits("softmax_backward_in_place", classes, &in_place, &theirs, "");
    let mut in_place = upstream.clone();
    log_softmax_backward_in_place(log_p, matrix_mut(&mut in_place, rows, classes)).expect("the shapes agree");
    assert_same_bits("log_softmax_backward_in_place", classes, &in_place, &dx_of_log, "");
}
