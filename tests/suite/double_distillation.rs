//! Distillation of logits of `f64`: the bounds of the contract against numbers of twice the precision, on every backend,
//! and what a row's result depends on.

use crate::support::batch::Random;
use crate::support::double_distillation::{DoublePair, Expected, Shares, find};
use crate::support::evaluation::Call;
use crate::support::other_grad::Dtype;
use crate::support::{PARALLELISMS, backends, fused_backends};
#[cfg(feature = "half")]
use half::{bf16, f16};
use xent::contract::U_F64;
use xent::{
    Backend, Distillation, DistillationBuilder, Error, GradElement, Matrix, MatrixMut, Reduction, Request,
};

const TEMPERATURES: [f64; 6] = [1.0, 2.0, 0.5, 3.0, 20.0, 0.07];
const MASKED: f64 = f64::NEG_INFINITY;

fn build(builder: &DistillationBuilder, backend: Backend) -> Distillation {
    builder.clone().backend(backend).build().unwrap()
}

/// Rows and classes, on both sides of vectors and of groups of them.
fn shapes() -> Vec<(usize, usize)> {
    let classes = [1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129];
    let mut shapes: Vec<_> = classes.into_iter().map(|classes| (21, classes)).collect();
    shapes.extend([(11, 1000), (11, 2049), (3, 70_000)]);
    shapes
}

#[test]
fn loss_and_gradient_keep_the_bounds_and_in_place_has_the_same_bits() {
    let mut shares = Shares::default();
    for (seed, (rows, classes)) in shapes().into_iter().enumerate() {
        let pair = DoublePair::random(rows, classes, seed as u64);
        let mut random = Random::new(5);
        let upstream: Vec<f32> = (0..rows).map(|_| random.normal()).collect();
        let row_weights: Vec<f32> = (0..rows).map(|row| (row % 3) as f32 * 0.5).collect();
        let loss_mask: Vec<bool> = (0..rows).map(|row| row % 4 != 1).collect();
        let plain = Call::default();
        let calls = [
            plain,
            Call { upstream: Some(&upstream), upstream_scalar: Some(-1.5), ..plain },
            Call { row_weights: Some(&row_weights), loss_mask: Some(&loss_mask), ..plain },
            Call { denominator: Some(7.5), loss_mask: Some(&loss_mask), ..plain },
        ];
        let temperatures = if rows * classes > 50_000 { &TEMPERATURES[1..2] } else { &TEMPERATURES[..] };
        for (turn, &temperature) in temperatures.iter().enumerate() {
            let expected = Expected::new(&pair, temperature);
            let reduction = [Reduction::Mean, Reduction::Sum][turn % 2];
            let builder = Distillation::builder().temperature(temperature).reduction(reduction);
            for backend in backends() {
                for (number, call) in calls.iter().enumerate() {
                    let parallelism = PARALLELISMS[(seed + turn + number) % PARALLELISMS.len()];
                    let distillation = build(&builder.clone().parallelism(parallelism), backend);
                    let found = find(&distillation, &pair, call);
                    let context = format!("T {temperature}, {backend}, {parallelism:?}, call {number}");
                    expected.check(&distillation, call, &found, &mut shares, &context);
                    let in_place = find(&distillation, &pair, &Call { in_place: true, ..*call });
                    assert!(in_place.bits() == found.bits(), "{rows} x {classes}, {context}");
                }
            }
        }
    }
    println!("{shares:.2?} of the bounds");
}

#[test]
fn a_student_that_equals_its_teacher_has_loss_and_gradient_0_in_all_bits() {
    for (rows, classes) in shapes() {
        let mut pair = DoublePair::random(rows, classes, 1);
        pair.teacher.clone_from(&pair.student);
        for backend in backends() {
            for temperature in TEMPERATURES {
                let distillation = build(&Distillation::builder().temperature(temperature), backend);
                let found = find(&distillation, &pair, &Call::default());
                let context = format!("{rows} x {classes}, T {temperature}, {backend}");
                assert_eq!(found.loss.to_bits(), 0, "{context}");
                assert!(found.losses.iter().chain(&found.grad).all(|x| x.to_bits() == 0), "{context}");
            }
        }
    }
}

/// Of a student and a teacher of three classes.
fn of_three(backend: Backend, temperature: f64, student: [f64; 3], teacher: [f64; 3]) -> (f64, [f64; 3]) {
    let mut grad = [7.0; 3];
    let distillation = build(&Distillation::builder().temperature(temperature), backend);
    let [x, y] = [&student, &teacher].map(|x| Matrix::new(x, 1, 3).unwrap());
    let loss = distillation.loss_and_grad(x, y, MatrixMut::new(&mut grad, 1, 3).unwrap()).unwrap();
    assert_eq!(distillation.loss(x, y).unwrap().to_bits(), loss.to_bits(), "the loss alone");
    let mut in_place = student;
    let x = MatrixMut::new(&mut in_place, 1, 3).unwrap();
    let same = distillation.loss_and_grad_in_place(x, y).unwrap();
    assert_eq!((same.to_bits(), in_place.map(f64::to_bits)), (loss.to_bits(), grad.map(f64::to_bits)));
    (loss, grad)
}

#[test]
fn gaps_of_700_keep_the_digits_of_loss_and_gradient() {
    for gap in [40.0, 300.0, 690.0, 700.0] {
        for (student, teacher) in [
            ([0.0, gap, -1.0], [0.0, gap, -1.5]),
            ([0.0, gap, -1.0], [-0.25, gap, -1.0]),
            ([0.0, gap, 0.0], [MASKED, 0.0, MASKED]),
            ([0.0, gap, 0.0], [gap, 0.0, 0.0]),
        ] {
            let pair = DoublePair { rows: 1, classes: 3, student: student.into(), teacher: teacher.into() };
            let expected = Expected::new(&pair, 1.0);
            for backend in backends() {
                let distillation = build(&Distillation::builder(), backend);
                let found = find(&distillation, &pair, &Call::default());
                let context = format!("gap {gap}, {backend}");
                let mut shares = Shares::default();
                expected.check(&distillation, &Call::default(), &found, &mut shares, &context);
                assert!(found.loss >= f64::MIN_POSITIVE, "{:e}, {context}", found.loss);
                assert!(found.grad.iter().any(|&g| g != 0.0), "{:?}, {context}", found.grad);
            }
        }
    }
    // The teacher has one class, and what the student's others have is all that there is: 2 exp(-700).
    for backend in backends() {
        let (loss, grad) = of_three(backend, 1.0, [0.0, 700.0, 0.0], [MASKED, 0.0, MASKED]);
        let e = 9.859_676_543_759_77e-305;
        for (found, exact) in [(loss, 2.0 * e), (grad[0], e), (grad[1], -2.0 * e), (grad[2], e)] {
            assert!((found / exact - 1.0).abs() < 8.0 * U_F64, "{found:e} instead of {exact:e}, {backend}");
        }
    }
}

#[test]
fn masked_classes_are_0_where_both_have_them_infinite_where_only_the_student_has_and_t_p_where_only_the_teacher()
 {
    for backend in backends() {
        let of_three = |student, teacher| of_three(backend, 2.0, student, teacher);
        let (loss, grad) = of_three([1.0, MASKED, 2.0], [0.0, MASKED, 3.0]);
        assert!(loss.is_finite() && loss > 0.0 && grad[1].to_bits() == 0, "{loss} {grad:?}");

        let (loss, grad) = of_three([1.0, MASKED, 2.0], [0.0, 0.0, 0.0]);
        assert_eq!(loss, f64::INFINITY);
        assert!((grad[1] + 2.0 / 3.0).abs() < 1e-14 && grad.iter().all(|g| g.is_finite()), "{grad:?}");

        // A teacher's probability below the normal numbers is 0.
        let (loss, grad) = of_three([1.0, MASKED, 2.0], [0.0, -2000.0, 0.0]);
        assert!(loss.is_finite() && grad[1].to_bits() == 0, "{loss} {grad:?}");

        let (loss, grad) = of_three([0.0, 0.0, 0.0], [0.0, MASKED, 0.0]);
        assert!((loss - 4.0 * 1.5_f64.ln()).abs() < 1e-14, "{loss}");
        assert!((grad[1] - 2.0 / 3.0).abs() < 1e-14, "{grad:?}");

        // One class each: another, and the same.
        let (loss, grad) = of_three([MASKED, 5.0, MASKED], [0.0, MASKED, MASKED]);
        assert_eq!((loss, grad), (f64::INFINITY, [-2.0, 2.0, 0.0]));
        let (loss, grad) = of_three([MASKED, 5.0, MASKED], [MASKED, -3.0, MASKED]);
        assert_eq!((loss, grad), (0.0, [0.0; 3]));

        // As PyTorch masks: with the least number.
        let (loss, grad) = of_three([1.0, f64::MIN, 2.0], [0.0, f64::MIN, 3.0]);
        assert!(loss.is_finite() && loss > 0.0 && grad[1].to_bits() == 0, "{loss} {grad:?}");
    }
}

#[test]
fn a_row_without_a_softmax_in_either_matrix_is_nan_and_harms_no_other() {
    for backend in backends() {
        for classes in [1, 2, 3, 20, 100, 300] {
            for bad in [f64::NAN, f64::INFINITY, MASKED] {
                for of_teacher in [false, true] {
                    for at in [0, classes / 2, classes - 1] {
                        let of = |x: f64| vec![x; 4 * classes];
                        let mut pair = DoublePair { rows: 4, classes, student: of(0.5), teacher: of(0.25) };
                        let x = if of_teacher { &mut pair.teacher } else { &mut pair.student };
                        if bad == MASKED {
                            x[classes..2 * classes].fill(bad);
                        }
                        x[classes + at] = bad;
                        for in_place in [false, true] {
                            let call = Call { in_place, ..Call::default() };
                            let found = find(&build(&Distillation::builder(), backend), &pair, &call);
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
}

#[test]
fn magnitudes_at_the_ends_of_f64_give_no_subnormal_and_no_nan() {
    let x = [1e308, -1e308, 1e-310, -1e300, 708.0, 0.0, f64::MAX, f64::MIN];
    let mut random = Random::new(8);
    for temperature in [1e-37, 1e-20, 1e-3, 1.0, 1e3, 1e20, 1e37] {
        for classes in [1, 2, 7, 40] {
            let mut of = || (0..30 * classes).map(|_| x[random.below(x.len())]).collect();
            let pair = DoublePair { rows: 30, classes, student: of(), teacher: of() };
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
        let pair = DoublePair::random(rows, classes, 3);
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
                    assert!(found.bits() == expected.bits(), "{context}");
                    let found = find(&distillation, &backwards, &call);
                    for (row, &of) in reversed.iter().enumerate() {
                        let [ours, theirs] = [&found.grad[row * classes..], &expected.grad[of * classes..]];
                        let mut both = ours[..classes].iter().zip(&theirs[..classes]);
                        let is_same =
                            |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                        assert!(both.all(is_same), "row {row}, {context}");
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
fn a_gradient_that_is_added_is_the_sum_and_leaves_masked_rows_alone() {
    for (rows, classes) in [(19, 3), (19, 17), (19, 200)] {
        let pair = DoublePair::random(rows, classes, 9);
        let loss_mask: Vec<bool> = (0..rows).map(|row| row % 4 != 2).collect();
        let call = Call { loss_mask: Some(&loss_mask), ..Call::default() };
        for backend in backends() {
            let distillation = build(&Distillation::builder().temperature(3.0), backend);
            let expected = find(&distillation, &pair, &call).grad;
            let mut sums = vec![0.25; rows * classes];
            let grad = MatrixMut::new(&mut sums, rows, classes).unwrap();
            let [student, teacher] = pair.matrices();
            let request = Request::new().loss_mask(&loss_mask).accumulate(grad);
            distillation.run(student, teacher, request).unwrap();
            for (i, (sum, g)) in sums.iter().zip(&expected).enumerate() {
                let wanted = if loss_mask[i / classes] { 0.25 + g } else { 0.25 };
                assert!(*sum == wanted || g.is_nan() && sum.is_nan(), "{sum} not {wanted}, {backend}");
            }
        }
    }
}

/// The gradient in a dtype by name, written where nothing is `before`, and what each of its numbers is in `f32`.
fn gradient_as<G: GradElement + Clone>(
    distillation: &Distillation,
    pair: &DoublePair,
    before: Option<f32>,
    of_f32: fn(f32) -> G,
    to_f32: fn(G) -> f32,
) -> (f64, Vec<f32>) {
    let mut numbers = vec![of_f32(before.unwrap_or(7.0)); pair.rows * pair.classes];
    let grad = MatrixMut::new(&mut numbers, pair.rows, pair.classes).unwrap();
    let request = Request::new();
    let request = if before.is_some() { request.accumulate_as(grad) } else { request.grad_as(grad) };
    let [student, teacher] = pair.matrices();
    let loss = distillation.run(student, teacher, request).unwrap().loss;
    (loss, numbers.into_iter().map(to_f32).collect())
}

#[test]
fn a_gradient_in_another_dtype_is_that_of_f64_rounded_once_and_the_loss_is_the_same() {
    for (rows, classes) in [(19, 3), (19, 17), (11, 512), (11, 1300)] {
        let mut pair = DoublePair::random(rows, classes, 12);
        // A class that has nearly everything in both, in the last part of the row.
        for x in [&mut pair.student, &mut pair.teacher] {
            x[classes - 1] = 60.0;
        }
        for backend in backends() {
            let distillation = build(&Distillation::builder().temperature(1.5), backend);
            let expected = find(&distillation, &pair, &Call::default());
            for dtype in Dtype::ALL {
                for before in [None, Some(0.25)] {
                    let (loss, found) = match dtype {
                        Dtype::F32 => gradient_as(&distillation, &pair, before, |x| x, |x| x),
                        #[cfg(feature = "half")]
                        Dtype::Bf16 => {
                            gradient_as(&distillation, &pair, before, bf16::from_f32, bf16::to_f32)
                        }
                        #[cfg(feature = "half")]
                        Dtype::F16 => gradient_as(&distillation, &pair, before, f16::from_f32, f16::to_f32),
                    };
                    let context = format!("{dtype:?}, {before:?}, {rows} x {classes}, {backend}");
                    let is_same = loss.to_bits() == expected.loss.to_bits();
                    assert!(is_same || loss.is_nan() && expected.loss.is_nan(), "{context}");
                    for (i, (&found, &exact)) in found.iter().zip(&expected.grad).enumerate() {
                        let rounded = dtype.round_once(f64::from(before.unwrap_or(0.0)) + exact);
                        let is_same =
                            found.to_bits() == rounded.to_bits() || found.is_nan() && exact.is_nan();
                        assert!(is_same, "{found:e} instead of {rounded:e}, entry {i}, {context}");
                    }
                }
            }
        }
    }
}

#[test]
fn an_error_leaves_every_output_untouched() {
    let x = [0.5_f64; 6];
    let [student, other] = [Matrix::new(&x, 2, 3).unwrap(), Matrix::new(&x, 3, 2).unwrap()];
    let distillation = Distillation::default();
    type Change<'a> = &'a dyn Fn(Request<'static, f64>) -> Request<'static, f64>;
    let refuse = |teacher: Matrix<'_, f64>, change: Change<'_>, error: Error| {
        let (mut grad, mut losses, mut lse) = ([7.0; 6], [7.0; 2], [7.0; 2]);
        {
            let request = change(Request::new());
            let request = request.losses(&mut losses).lse(&mut lse);
            let request = request.grad(MatrixMut::new(&mut grad, 2, 3).unwrap());
            assert_eq!(distillation.run(student, teacher, request).unwrap_err(), error);
        }
        assert_eq!((grad, losses, lse), ([7.0; 6], [7.0; 2], [7.0; 2]), "{error}");
    };
    let argument = "teacher";
    refuse(other, &|request| request, Error::ShapeMismatch { argument, expected: (2, 3), actual: (3, 2) });
    let length = |argument| Error::LengthMismatch { argument, expected: 2, actual: 1 };
    refuse(student, &|request| request.upstream(&[1.0]), length("upstream"));
    refuse(student, &|request| request.loss_mask(&[true]), length("loss_mask"));
    refuse(student, &|request| request.denominator(0.0), Error::InvalidDenominator { denominator: 0.0 });
    let mut entropies = [7.0; 2];
    let error = distillation.run(student, student, Request::new().entropies(&mut entropies)).unwrap_err();
    assert_eq!((error, entropies), (Error::NotOfDistillation { argument: "entropies" }, [7.0; 2]));
    let (mut x, mut grad) = ([0.5; 6], [7.0; 6]);
    let request = Request::new().grad(MatrixMut::new(&mut grad, 2, 3).unwrap());
    let in_place = distillation.run_in_place(MatrixMut::new(&mut x, 2, 3).unwrap(), student, request);
    assert_eq!((in_place, x, grad), (Err(Error::GradTwice), [0.5; 6], [7.0; 6]));
}
