//! A student against a teacher: the bounds of the contract on every backend, and what a row's result depends on.

use crate::support::batch::{Batch, Random};
use crate::support::buffer::Layout;
use crate::support::distillation::{Pair, Shares, check, find};
use crate::support::evaluation::{Call, assert_same_bits};
use crate::support::{PARALLELISMS, backends, fused_backends};
use xent::contract::{DISTILLATION, U};
use xent::reference::{self, SoftmaxRow};
use xent::{
    Backend, Distillation, DistillationBuilder, EmptyMean, Error, Matrix, MatrixMut, Reduction, Request,
};

const TEMPERATURES: [f64; 6] = [1.0, 2.0, 0.5, 3.0, 20.0, 0.07];

/// Rows and classes, on both sides of what the kernel does otherwise.
fn shapes() -> Vec<(usize, usize)> {
    let mut shapes: Vec<_> = (1..=40).chain([63, 64, 65, 127, 128]).map(|classes| (21, classes)).collect();
    shapes.extend([(20, 1000), (20, 2048), (20, 2049), (20, 5000), (11, 70_000)]);
    shapes
}

fn build(builder: &DistillationBuilder, backend: Backend) -> Distillation {
    builder.clone().backend(backend).build().unwrap()
}

#[test]
fn loss_and_gradient_keep_the_bounds() {
    let mut most = Shares::default();
    for (seed, (rows, classes)) in shapes().into_iter().enumerate() {
        let pair = Pair::random(rows, classes, seed as u64);
        let mut random = Random::new(5);
        let upstream: Vec<f32> = (0..rows).map(|_| random.normal()).collect();
        let row_weights: Vec<f32> = (0..rows).map(|row| (row % 3) as f32 * 0.5).collect();
        let loss_mask: Vec<bool> = (0..rows).map(|row| row % 4 != 1).collect();
        let plain = Call::default();
        let calls = [
            plain,
            Call { upstream: Some(&upstream), upstream_scalar: Some(-1.5), in_place: true, ..plain },
            Call { row_weights: Some(&row_weights), loss_mask: Some(&loss_mask), ..plain },
            Call { denominator: Some(7.5), loss_mask: Some(&loss_mask), in_place: true, ..plain },
        ];
        for (turn, temperature) in TEMPERATURES.into_iter().enumerate() {
            let reduction = [Reduction::Mean, Reduction::Sum][turn % 2];
            let builder = Distillation::builder().temperature(temperature).reduction(reduction);
            for (number, backend) in backends().into_iter().enumerate() {
                let parallelism = PARALLELISMS[(seed + turn + number) % PARALLELISMS.len()];
                let distillation = build(&builder.clone().parallelism(parallelism), backend);
                let layout = Layout { offset: (seed + turn) % 16, padding: [0, 3, 16][turn % 3] };
                let call = calls[(seed + turn + number) % calls.len()];
                let call = Call { logits: layout, outputs: Layout { offset: 5, ..layout }, ..call };
                let context = format!("T {temperature}, {backend}, {parallelism:?}, {call:?}");
                let found = find(&distillation, &pair, &call);
                let shares = check(&distillation, &pair, &call, &found, &context);
                most.loss = most.loss.max(shares.loss);
                most.grad = most.grad.max(shares.grad);
            }
        }
    }
    println!("{:.2} of the bound on the loss, {:.2} of that on the gradient", most.loss, most.grad);
}

#[test]
fn a_student_that_equals_its_teacher_has_loss_and_gradient_0_in_all_bits() {
    for (rows, classes) in shapes() {
        let mut pair = Pair::random(rows, classes, 1);
        pair.teacher.copy_from_slice(&pair.student.logits);
        for backend in backends() {
            for temperature in TEMPERATURES {
                let found = find(
                    &build(&Distillation::builder().temperature(temperature), backend),
                    &pair,
                    &Call::default(),
                );
                let context = format!("{rows} x {classes}, T {temperature}, {backend}");
                assert_eq!(found.loss.to_bits(), 0, "{context}");
                assert!(found.losses.iter().chain(&found.grad).all(|x| x.to_bits() == 0), "{context}");
            }
        }
    }
}

/// Gaps that f32 holds exactly: what remains is what the kernel adds.
#[test]
fn rows_that_agree_in_a_confident_class_keep_the_digits_of_loss_and_gradient() {
    for gap in [4.0_f32, 10.0, 20.0, 40.0, 60.0] {
        for (student, teacher) in [
            ([0.0, gap, -1.0, 0.5], [0.0, gap, -1.5, 1.0]),
            ([0.0, gap, -1.0, 0.5], [0.0, gap + 1.0, -1.0, 0.5]),
            ([0.0, gap, 0.0, 0.0], [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, f32::NEG_INFINITY]),
        ] {
            for backend in backends() {
                let [x, y] = [&student, &teacher].map(|x| Matrix::new(x, 1, 4).unwrap());
                let distillation = build(&Distillation::builder(), backend);
                let exact = reference::run_distillation(&distillation, x, y, &Request::<f32>::new()).unwrap();
                let mut grad = [0.0; 4];
                let loss =
                    distillation.loss_and_grad(x, y, MatrixMut::new(&mut grad, 1, 4).unwrap()).unwrap();
                let relative = 2.0 * DISTILLATION * U;
                let context = format!("gap {gap}, {backend}: {loss:e} instead of {:e}", exact.loss);
                assert!((loss - exact.loss).abs() <= relative * exact.loss, "{context}");
                let softmaxes = [&student, &teacher].map(|x| reference::tempered_softmax_row(x, 1.0));
                for (c, (g, exact)) in grad.into_iter().zip(&exact.grad).enumerate() {
                    // Relative to what the class has, and for the confident one to what the others have.
                    let of = |softmax: &SoftmaxRow| match c {
                        1 => softmax.complements[c],
                        _ => softmax.probabilities[c],
                    };
                    let bound = relative * of(&softmaxes[0]).max(of(&softmaxes[1]));
                    let error = (f64::from(g) - exact).abs();
                    assert!(error <= bound, "{g:e} instead of {exact:e}, {context}");
                }
            }
        }
    }
}

/// Of a student and a teacher of three classes, at T = 2.
fn of_three(backend: Backend, student: [f32; 3], teacher: [f32; 3]) -> (f64, [f32; 3]) {
    let mut grad = [7.0; 3];
    let distillation = build(&Distillation::builder().temperature(2.0), backend);
    let [x, y] = [&student, &teacher].map(|x| Matrix::new(x, 1, 3).unwrap());
    let loss = distillation.loss_and_grad(x, y, MatrixMut::new(&mut grad, 1, 3).unwrap()).unwrap();
    (loss, grad)
}

#[test]
fn masked_classes_are_0_where_both_have_them_infinite_where_only_the_student_has_and_t_p_where_only_the_teacher()
 {
    const MASKED: f32 = f32::NEG_INFINITY;
    for backend in backends() {
        let (loss, grad) = of_three(backend, [1.0, MASKED, 2.0], [0.0, MASKED, 3.0]);
        assert!(loss.is_finite() && loss > 0.0 && grad[1].to_bits() == 0, "{loss} {grad:?}");

        let (loss, grad) = of_three(backend, [1.0, MASKED, 2.0], [0.0, 0.0, 0.0]);
        assert_eq!(loss, f64::INFINITY);
        assert!((grad[1] + 2.0 / 3.0).abs() < 1e-6 && grad.iter().all(|g| g.is_finite()), "{grad:?}");

        // A teacher's probability below the normal numbers is 0.
        let (loss, grad) = of_three(backend, [1.0, MASKED, 2.0], [0.0, -1000.0, 0.0]);
        assert!(loss.is_finite() && grad[1].to_bits() == 0, "{loss} {grad:?}");

        let (loss, grad) = of_three(backend, [0.0, 0.0, 0.0], [0.0, MASKED, 0.0]);
        assert!((loss - 4.0 * 1.5_f64.ln()).abs() < 1e-6, "{loss}");
        assert!((grad[1] - 2.0 / 3.0).abs() < 1e-6, "{grad:?}");

        // One class each: another, and the same.
        let (loss, grad) = of_three(backend, [MASKED, 5.0, MASKED], [0.0, MASKED, MASKED]);
        assert_eq!((loss, grad), (f64::INFINITY, [-2.0, 2.0, 0.0]));
        let (loss, grad) = of_three(backend, [MASKED, 5.0, MASKED], [MASKED, -3.0, MASKED]);
        assert_eq!((loss, grad), (0.0, [0.0; 3]));

        // As PyTorch masks: with the least number.
        let (loss, grad) = of_three(backend, [1.0, f32::MIN, 2.0], [0.0, f32::MIN, 3.0]);
        assert!(loss.is_finite() && loss > 0.0 && grad[1].to_bits() == 0, "{loss} {grad:?}");
    }
}

#[test]
fn a_row_without_a_softmax_in_either_matrix_is_nan_and_harms_no_other() {
    for backend in backends() {
        for classes in [2, 3, 20, 100, 3000] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for of_teacher in [false, true] {
                    for at in [0, classes / 2, classes - 1] {
                        let mut pair = Pair { student: Batch::random(4, classes, 3), teacher: Vec::new() };
                        pair.student.logits.fill(0.5);
                        pair.teacher = vec![0.25; 4 * classes];
                        let x = if of_teacher { &mut pair.teacher } else { &mut pair.student.logits };
                        if bad == f32::NEG_INFINITY {
                            x[classes..2 * classes].fill(bad);
                        }
                        x[classes + at] = bad;
                        let found = find(&build(&Distillation::builder(), backend), &pair, &Call::default());
                        let context = format!("{bad} at {at} of {classes}, {of_teacher}, {backend}");
                        assert!(found.loss.is_nan(), "{context}");
                        for row in 0..4 {
                            let is_nan = row == 1;
                            let grad = &found.grad[row * classes..][..classes];
                            assert_eq!(found.losses[row].is_nan(), is_nan, "row {row}, {context}");
                            assert_eq!(found.lse[row].is_nan(), is_nan, "row {row}, {context}");
                            assert!(grad.iter().all(|g| g.is_nan() == is_nan), "row {row}, {context}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn magnitudes_at_the_ends_of_f32_give_no_subnormal_and_no_nan() {
    let x = [3e38, -3e38, 1e-40, -1e30, 88.0, 0.0, f32::MAX, f32::MIN];
    let mut random = Random::new(8);
    for temperature in [1e-37, 1e-20, 1e-3, 1.0, 1e3, 1e20, 1e37] {
        for classes in [1, 2, 7, 40] {
            let mut pair = Pair { student: Batch::random(30, classes, 3), teacher: Vec::new() };
            pair.student.logits.fill_with(|| x[random.below(x.len())]);
            pair.teacher = (0..30 * classes).map(|_| x[random.below(x.len())]).collect();
            for backend in backends() {
                let distillation = build(&Distillation::builder().temperature(temperature), backend);
                let found = find(&distillation, &pair, &Call::default());
                let context = format!("T {temperature:e}, {classes} classes, {backend}");
                assert!(!found.losses.iter().chain(&found.grad).any(|x| x.is_subnormal()), "{context}");
                assert!(found.losses.iter().all(|&loss| loss >= 0.0), "{:?}, {context}", found.losses);
                assert!(!found.grad.iter().any(|g| g.is_nan()), "{context}");
            }
        }
    }
}

#[test]
fn threads_places_positions_and_fused_backends_change_no_bit() {
    for (rows, classes) in [(300, 10), (90, 100), (60, 2500), (3, 140_000)] {
        let pair = Pair::random(rows, classes, 3);
        let reversed: Vec<usize> = (0..rows).rev().collect();
        let backwards = pair.select(&reversed);
        let builder = Distillation::builder().temperature(2.5).reduction(Reduction::Sum);
        let expected = find(&build(&builder, fused_backends()[0]), &pair, &Call::default());
        for backend in fused_backends() {
            for parallelism in PARALLELISMS {
                let distillation = build(&builder.clone().parallelism(parallelism), backend);
                for in_place in [false, true] {
                    let call = Call { in_place, ..Call::default() };
                    let context = format!("{rows} x {classes}, {backend}, {parallelism:?}, {in_place}");
                    let found = find(&distillation, &pair, &call);
                    assert_eq!(found.loss.to_bits(), expected.loss.to_bits(), "{context}");
                    assert_same_bits("grad", classes, &found.grad, &expected.grad, &context);
                    assert_same_bits("losses", 1, &found.losses, &expected.losses, &context);
                    assert_same_bits("lse", 1, &found.lse, &expected.lse, &context);

                    let found = find(&distillation, &backwards, &call);
                    for (row, &of) in reversed.iter().enumerate() {
                        let [ours, theirs] = [&found.grad[row * classes..], &expected.grad[of * classes..]];
                        assert_same_bits("grad", classes, &ours[..classes], &theirs[..classes], &context);
                    }
                }
                let [student, teacher] = pair.matrices();
                let alone = distillation.loss(student, teacher).unwrap();
                assert_eq!(alone.to_bits(), expected.loss.to_bits(), "the loss alone");
            }
        }
    }
}

#[test]
fn a_gradient_that_is_added_is_the_sum_and_leaves_masked_rows_and_padding_alone() {
    for (rows, classes) in [(19, 3), (19, 17), (19, 200), (5, 3000)] {
        let mut pair = Pair::random(rows, classes, 9);
        pair.student.row_mut(1).fill(f32::NAN);
        let loss_mask: Vec<bool> = (0..rows).map(|row| row % 4 != 2).collect();
        let call = Call { loss_mask: Some(&loss_mask), ..Call::default() };
        let stride = classes + 3;
        for backend in backends() {
            let distillation = build(&Distillation::builder().temperature(3.0), backend);
            let expected = find(&distillation, &pair, &call).grad;
            let mut sums = vec![0.25; rows * stride];
            let grad = MatrixMut::with_row_stride(&mut sums, rows, classes, stride).unwrap();
            let [student, teacher] = pair.matrices();
            distillation.run(student, teacher, call.request().accumulate(grad)).unwrap();
            for (row, sums) in sums.chunks(stride).enumerate() {
                let (sums, padding) = sums.split_at(classes);
                assert_eq!(padding, [0.25; 3]);
                for (&sum, g) in sums.iter().zip(&expected[row * classes..]) {
                    let wanted = if loss_mask[row] { 0.25 + g } else { 0.25 };
                    assert!(
                        sum == wanted || sum.is_nan() && row == 1,
                        "{sum} instead of {wanted}, {backend}"
                    );
                }
            }
        }
    }
}

/// Steps that logits on a grid of 2^-6, below 2, take exactly in `f32`.
const STEP: f32 = 1.0 / 1024.0;

#[test]
fn the_reference_has_the_gradient_that_central_differences_have_and_the_loss_as_it_is_defined() {
    let mut random = Random::new(4);
    for (classes, temperature) in [(1, 1.0), (2, 3.0), (5, 0.5), (17, 2.0), (40, 10.0)] {
        let mut on_grid =
            || -> Vec<f32> { (0..2 * classes).map(|_| (random.below(257) as f32 - 128.0) / 64.0).collect() };
        let (student, teacher) = (on_grid(), on_grid());
        let y = Matrix::new(&teacher, 2, classes).unwrap();
        let distillation = Distillation::builder().temperature(temperature).build().unwrap();
        let outcome = |student: &[f32]| {
            let x = Matrix::new(student, 2, classes).unwrap();
            reference::run_distillation(&distillation, x, y, &Request::<f32>::new()).unwrap()
        };
        let exact = outcome(&student);
        for row in 0..2 {
            let columns = row * classes..(row + 1) * classes;
            let [p, q] = [&student, &teacher]
                .map(|x| reference::tempered_softmax_row(&x[columns.clone()], temperature));
            let defined: f64 = (0..classes)
                .map(|c| q.probabilities[c] * (q.log_probabilities[c] - p.log_probabilities[c]))
                .sum();
            let defined = temperature * temperature * defined;
            assert!((exact.losses[row] - defined).abs() <= 1e-13 * temperature * temperature);
        }
        for i in 0..2 * classes {
            let difference = |step: f32| {
                let at = |step: f32| {
                    let mut moved = student.clone();
                    moved[i] += step;
                    assert_eq!(moved[i] - student[i], step, "the step is exact");
                    outcome(&moved).loss
                };
                (at(step) - at(-step)) / (2.0 * f64::from(step))
            };
            let (one, two) = (difference(STEP), difference(2.0 * STEP));
            // The error of the shorter step is a third of this difference; and what f64 loses.
            let bound = (one - two).abs() + 1e-11 * temperature * temperature;
            assert!((one - exact.grad[i]).abs() <= bound, "{} instead of {one}", exact.grad[i]);
        }
    }
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_written() {
    for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-38, 1e38] {
        let error = Distillation::builder().temperature(temperature).build().unwrap_err();
        let Error::InvalidTemperature { temperature: found } = error else { panic!("{error:?}") };
        assert_eq!(found.to_bits(), temperature.to_bits());
        assert_eq!(
            error.to_string(),
            format!("temperature is {temperature}; it lies between 1e-37 and 1e37")
        );
    }
    let x = [0.5; 6];
    let [student, other] = [Matrix::new(&x, 2, 3).unwrap(), Matrix::new(&x, 3, 2).unwrap()];
    let distillation = Distillation::default();

    let refuse = |teacher: Matrix<'_>, change: &dyn Fn(Request<'_>) -> Request<'_>, error: Error| {
        let (mut grad, mut losses) = ([7.0; 6], [7.0; 2]);
        let request = Request::new().losses(&mut losses).grad(MatrixMut::new(&mut grad, 2, 3).unwrap());
        assert_eq!(distillation.run(student, teacher, change(request)).unwrap_err(), error);
        assert_eq!((grad, losses), ([7.0; 6], [7.0; 2]), "{error}");
    };
    let argument = "teacher";
    refuse(other, &|request| request, Error::ShapeMismatch { argument, expected: (2, 3), actual: (3, 2) });
    let length = |argument| Error::LengthMismatch { argument, expected: 2, actual: 1 };
    refuse(student, &|request| request.row_weights(&[1.0]), length("row_weights"));
    refuse(student, &|request| request.upstream(&[1.0]), length("upstream"));
    refuse(student, &|request| request.loss_mask(&[true]), length("loss_mask"));
    let error = Error::InvalidRowWeight { row: 1, weight: -1.0 };
    refuse(student, &|request| request.row_weights(&[1.0, -1.0]), error);
    refuse(student, &|request| request.denominator(0.0), Error::InvalidDenominator { denominator: 0.0 });
    let upstream_scalar = f64::INFINITY;
    let error = Error::InvalidUpstreamScalar { upstream_scalar };
    refuse(student, &|request| request.upstream_scalar(f64::INFINITY), error);

    let (mut wide, mut narrow, mut ranks) = ([7.0; 6], [7.0; 2], [7; 2]);
    fn matrix(x: &mut [f32]) -> MatrixMut<'_> {
        MatrixMut::new(x, 2, 3).unwrap()
    }
    let refuse = |request: Request<'_>, argument| {
        let error = distillation.run(student, student, request).unwrap_err();
        assert_eq!(error, Error::NotOfDistillation { argument });
    };
    refuse(Request::new().probabilities(matrix(&mut wide)), "probabilities");
    refuse(Request::new().log_probabilities(matrix(&mut wide)), "log_probabilities");
    refuse(Request::new().target_log_probabilities(&mut narrow), "target_log_probabilities");
    refuse(Request::new().argmax_probabilities(&mut narrow), "argmax_probabilities");
    refuse(Request::new().entropies(&mut narrow), "entropies");
    refuse(Request::new().argmax(&mut ranks), "argmax");
    refuse(Request::new().target_ranks(&mut ranks), "target_ranks");
    assert_eq!((wide, narrow, ranks), ([7.0; 6], [7.0; 2], [7; 2]));

    let (mut x, mut grad) = ([0.5; 6], [7.0; 6]);
    let request = Request::new().grad(matrix(&mut grad));
    assert_eq!(distillation.run_in_place(matrix(&mut x), student, request), Err(Error::GradTwice));
    assert_eq!((x, grad), ([0.5; 6], [7.0; 6]));
    let empty = Matrix::new(&x, 2, 0).unwrap();
    assert_eq!(distillation.loss(empty, empty), Err(Error::NoClasses { rows: 2 }));
}

#[test]
fn the_mean_over_no_rows_is_nan_or_0_and_counts_are_those_of_rows() {
    let x = [1.0, 2.0, 3.0, 4.0];
    let (student, none) = (Matrix::new(&x, 2, 2).unwrap(), Matrix::new(&x, 0, 2).unwrap());
    let plain = Distillation::default();
    assert!(plain.loss(none, none).unwrap().is_nan());
    assert_eq!(Distillation::builder().reduction(Reduction::Sum).build().unwrap().loss(none, none), Ok(0.0));
    let zero = Distillation::builder().empty_mean(EmptyMean::Zero).build().unwrap();
    let mut grad = [7.0; 4];
    let request = Request::new().loss_mask(&[false; 2]).grad(MatrixMut::new(&mut grad, 2, 2).unwrap());
    let summary = zero.run(student, student, request).unwrap();
    assert_eq!((summary.loss, summary.counted, summary.correct, grad), (0.0, 0, 0, [0.0; 4]));
    let request = Request::new().row_weights(&[0.5, 2.0]);
    let summary = plain.run(student, student, request).unwrap();
    assert_eq!((summary.loss, summary.counted, summary.weight), (0.0, 2, 2.5));
}

#[test]
fn options_are_what_they_were_set_to() {
    let plain = Distillation::default();
    assert_eq!((plain.temperature(), plain.reduction()), (1.0, Reduction::Mean));
    assert_eq!((plain.empty_mean(), plain.backend()), (EmptyMean::Nan, Backend::detect()));
    for backend in backends() {
        let builder = Distillation::builder().temperature(2.5).reduction(Reduction::Sum);
        let built = builder.empty_mean(EmptyMean::Zero).backend(backend).build().unwrap();
        assert_eq!((built.temperature(), built.reduction()), (2.5, Reduction::Sum));
        assert_eq!((built.empty_mean(), built.backend()), (EmptyMean::Zero, backend));
    }
}

/// Logits of 16 bits are widened, and gradients rounded once.
#[cfg(feature = "half")]
mod halves {
    use super::*;
    use crate::support::distillation::check_halves;
    use crate::support::halves::{Half, narrow, widen};

    fn check<T: Half>() {
        for (rows, classes) in [(19, 1), (19, 3), (19, 16), (19, 37), (19, 1000), (7, 5000)] {
            let mut pair = Pair::random(rows, classes, 12);
            let round = |x: &[f32]| widen(&narrow::<T>(x));
            pair.student.logits = round(&pair.student.logits);
            pair.teacher = round(&pair.teacher);
            for backend in backends() {
                let distillation = build(&Distillation::builder().temperature(4.0), backend);
                let call = Call::default();
                let wanted = find(&distillation, &pair, &call);
                check_halves::<T>(&distillation, &pair, &call, &wanted, &format!("{backend}"));
            }
        }
    }

    #[test]
    fn results_of_16_bits_are_those_of_f32_rounded() {
        check::<half::bf16>();
        check::<half::f16>();
    }
}
