//! Gradients in another dtype than the logits.

use crate::support::backends;
use crate::support::batch::{Batch, IGNORE_INDEX, Random};
use crate::support::bounds::Rounding;
use crate::support::buffer::Layout;
use crate::support::distillation::Pair;
use crate::support::doubles::{self, Doubles, Found};
use crate::support::evaluation::{Call, assert_same_bits};
#[cfg(feature = "half")]
use crate::support::halves::narrow;
use crate::support::other_grad::{
    Dtype, InShards, Number, distilled_as, gradient_as, gradient_of_doubles_as,
};
use core::ops::Range;
#[cfg(feature = "half")]
use half::{bf16, f16};
use xent::{
    CrossEntropy, CrossEntropyBuilder, Distillation, Error, Matrix, MatrixMut, Reduction, Request, RowState,
    ShardElement, Smoothing, Summary,
};

/// Of every kernel.
const SHAPES: [(usize, usize); 8] =
    [(19, 1), (37, 3), (20, 64), (21, 128), (11, 130), (5, 1000), (3, 2049), (2, 70_000)];

/// With each transform of logits and none.
fn losses() -> [CrossEntropyBuilder; 4] {
    [
        CrossEntropy::builder(),
        CrossEntropy::builder().reduction(Reduction::Sum).label_smoothing(0.1),
        CrossEntropy::builder().label_smoothing(0.1).smoothing(Smoothing::LiveClasses).logit_scale(0.5),
        CrossEntropy::builder().softcap(5.0).z_loss(0.1),
    ]
}

/// Logits that every dtype has, among them masked classes, an ignored row, and one without a softmax.
fn batch(rows: usize, classes: usize) -> Batch {
    let mut batch = Batch::random(rows, classes, (rows + classes) as u64);
    for x in &mut batch.logits {
        *x = if x.is_finite() { (x.clamp(-60.0, 60.0) * 4.0).round() / 4.0 } else { *x };
    }
    batch.targets[0] = IGNORE_INDEX;
    batch.row_mut(0).fill(f32::NAN);
    batch.targets[1] = 0;
    batch.row_mut(1).fill(f32::NEG_INFINITY);
    batch
}

#[test]
fn logits_of_any_dtype_that_has_them_give_the_same_bits_however_the_call_is_made() {
    for (rows, classes) in SHAPES {
        let batch = batch(rows, classes);
        for builder in losses() {
            for grad in Dtype::ALL {
                let mut before: Option<(Vec<f32>, Summary)> = None;
                for logits in Dtype::ALL {
                    for parallelism in [xent::Parallelism::Serial, xent::Parallelism::Rayon] {
                        let ce = builder.clone().parallelism(parallelism).build().expect("valid options");
                        let outputs = match parallelism {
                            xent::Parallelism::Serial => Layout::default(),
                            xent::Parallelism::Rayon => Layout { offset: 3, padding: 5 },
                        };
                        let call = Call { outputs, ..Call::default() };
                        let (found, summary) = gradient_as((logits, grad), &call, &ce, &batch, None);
                        let context = format!("{logits:?} to {grad:?}, {rows} x {classes}, {parallelism:?}");
                        assert!(found[..classes].iter().all(|g| g.to_bits() == 0), "ignored, {context}");
                        assert!(found[classes..2 * classes].iter().all(|g| g.is_nan()), "NaN, {context}");
                        if let Some((before, of_summary)) = &before {
                            // Which NaN it is depends on the dtype.
                            let from = 2 * classes;
                            assert_same_bits("grad", classes, &found[from..], &before[from..], &context);
                            assert_eq!(summary.counted, of_summary.counted, "{context}");
                        } else {
                            before = Some((found, summary));
                        }
                    }
                }
            }
        }
    }
}

/// Calls the check for every loss, shape, backend and pair of dtypes, with the gradient in `f32`.
fn each_case(check: impl Fn(&CrossEntropy, &Batch, (Dtype, Dtype), &[f32], &str)) {
    for backend in backends() {
        for (rows, classes) in SHAPES {
            let batch = batch(rows, classes);
            for builder in losses() {
                let ce = builder.backend(backend).build().expect("the backend is available");
                for logits in Dtype::ALL {
                    let (of_f32, _) = gradient_as((logits, Dtype::F32), &Call::default(), &ce, &batch, None);
                    for grad in Dtype::ALL {
                        let context = format!("{logits:?} to {grad:?}, {backend}, {rows} x {classes}");
                        check(&ce, &batch, (logits, grad), &of_f32, &context);
                    }
                }
            }
        }
    }
}

/// Checks the numbers of all rows with a softmax: away from the target they are `f32`s rounded, and at the target, which has
/// a rounding of its own, within `bound` units of the magnitude.
fn check_rounded(
    dtype: Dtype,
    batch: &Batch,
    found: &[f32],
    of_f32: impl Fn(usize) -> f32,
    magnitude: impl Fn(usize) -> f32,
    context: &str,
) {
    for i in 2 * batch.classes..found.len() {
        let (row, column) = (i / batch.classes, i % batch.classes);
        let (found, of_f32) = (found[i], of_f32(i));
        if column as i64 == batch.targets[row] {
            let Rounding { unit, half_of_smallest, .. } = dtype.rounding();
            let bound = unit * f64::from(magnitude(i)) * 1.01 + 2.0 * half_of_smallest;
            let error = f64::from(found - of_f32).abs();
            assert!(error <= bound, "{found:e} instead of {of_f32:e}, target of row {row}, {context}");
        } else {
            let expected = dtype.round(of_f32);
            assert_eq!(found.to_bits(), expected.to_bits(), "row {row}, column {column}, {context}");
        }
    }
}

#[test]
fn the_gradient_is_that_of_f32_rounded() {
    each_case(|ce, batch, dtypes, of_f32, context| {
        let (found, _) = gradient_as(dtypes, &Call::default(), ce, batch, None);
        check_rounded(dtypes.1, batch, &found, |i| of_f32[i], |i| of_f32[i].abs(), context);
    });
}

#[test]
fn what_is_added_is_the_gradient_of_f32_and_the_sum_is_rounded() {
    each_case(|ce, batch, dtypes, of_f32, context| {
        let mut random = Random::new(8);
        let before: Vec<f32> = of_f32.iter().map(|_| dtypes.1.round(0.1 * random.normal())).collect();
        let call = Call { outputs: Layout { offset: 1, padding: 2 }, ..Call::default() };
        let (found, _) = gradient_as(dtypes, &call, ce, batch, Some(&before));
        let ignored = ..batch.classes;
        assert_same_bits("ignored", batch.classes, &found[ignored], &before[ignored], context);
        let sum = |i: usize| before[i] + of_f32[i];
        // At the target what is added has been rounded to the dtype before.
        check_rounded(dtypes.1, batch, &found, sum, |i| sum(i).abs() + of_f32[i].abs(), context);
    });
}

/// For logits of `f64` the whole of the gradient is that of `f64`, and rounded once: at the target too, and with what it is
/// added to.
#[test]
fn the_gradient_of_f64_logits_is_that_of_f64_rounded_once() {
    for backend in backends() {
        for (rows, classes) in
            [(19, 1), (37, 3), (20, 64), (11, 130), (5, 511), (5, 512), (5, 513), (3, 2049)]
        {
            let narrow = batch(rows, classes);
            let mut random = Random::new(classes as u64);
            let mut doubles = Doubles::near(&narrow);
            // Gradients far below the normal numbers of every dtype are among these.
            for x in doubles.logits.iter_mut().filter(|x| x.is_finite()) {
                *x *= [1.0, 3.0, 6.0][random.below(3)];
            }
            for (index, builder) in losses().into_iter().enumerate() {
                let ce = builder.backend(backend).build().expect("the backend is available");
                let q = narrow.distributions(&mut random);
                for target_probabilities in [None, Some(&q[..])] {
                    if target_probabilities.is_some() && index == 2 {
                        // Live classes are of targets that are classes.
                        continue;
                    }
                    let call = Call { target_probabilities, ..Call::default() };
                    let context = format!("{backend}, {rows} x {classes}, loss {index}");
                    for grad in Dtype::ALL {
                        let context = format!("{grad:?}, {context}");
                        check_doubles(&ce, &doubles, &call, grad, &context);
                    }
                }
            }
        }
    }
}

fn check_doubles(ce: &CrossEntropy, doubles: &Doubles, call: &Call<'_>, dtype: Dtype, context: &str) {
    let Found { grad: exact, summary, .. } = doubles::evaluate(call, ce, doubles);
    let mut random = Random::new(8);
    let before: Vec<f32> = exact.iter().map(|_| dtype.round(0.1 * random.normal())).collect();
    for before in [None, Some(&before[..])] {
        let (found, of_other) = gradient_of_doubles_as(dtype, call, ce, doubles, before);
        assert_eq!(of_other.loss.to_bits(), summary.loss.to_bits(), "{context}");
        for (i, (&found, &exact)) in found.iter().zip(&exact).enumerate() {
            let counts = call.target_probabilities.is_some() || i >= doubles.classes;
            let expected = match before {
                None => dtype.round_once(exact),
                Some(before) if !counts => before[i],
                Some(before) => dtype.round_once(f64::from(before[i]) + exact),
            };
            let is_same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
            assert!(is_same, "{found:e} instead of {expected:e}, of {exact:e}, entry {i}, {context}");
        }
    }
}

/// As that of whole rows, whichever dtype the logits have.
#[test]
fn shards_have_the_gradient_of_their_dtype_rounded() {
    for backend in backends() {
        for (rows, classes) in SHAPES {
            let batch = batch(rows, classes);
            for builder in losses() {
                let ce = builder.backend(backend).build().expect("the backend is available");
                let context = format!("{backend}, {rows} x {classes}");
                check_shards(&ce, &batch, &batch.logits, &format!("f32, {context}"));
                #[cfg(feature = "half")]
                check_shards(&ce, &batch, &narrow::<bf16>(&batch.logits), &format!("bf16, {context}"));
                #[cfg(feature = "half")]
                check_shards(&ce, &batch, &narrow::<f16>(&batch.logits), &format!("f16, {context}"));
                check_shards_of_doubles(&ce, &batch, &context);
            }
        }
    }
}

/// Three shards, the first of which may have no columns.
fn ranges(classes: usize) -> [Range<usize>; 3] {
    let (first, second) = (classes / 3, classes.div_ceil(2));
    [0..first, first..second, second..classes]
}

/// What gradients are added to.
fn numbers(len: usize, dtype: Dtype) -> Vec<f32> {
    let mut random = Random::new(8);
    (0..len).map(|_| dtype.round(0.1 * random.normal())).collect()
}

fn check_shards<T: ShardElement<State = RowState> + Number>(
    ce: &CrossEntropy,
    batch: &Batch,
    logits: &[T],
    context: &str,
) {
    let Batch { classes, ref targets, .. } = *batch;
    let shards = InShards { ranges: &ranges(classes), logits, targets, classes };
    let of_f32 = shards.gradient_as(Dtype::F32, ce, None);
    for dtype in Dtype::ALL {
        let context = format!("to {dtype:?}, {context}");
        let found = shards.gradient_as(dtype, ce, None);
        if T::DTYPE == dtype {
            let own: Vec<f32> = shards.own_gradient(ce).into_iter().map(T::to_f32).collect();
            assert_same_bits("own", classes, &found, &own, &context);
        }
        assert!(found[..classes].iter().all(|g| g.to_bits() == 0), "ignored, {context}");
        assert!(found[classes..2 * classes].iter().all(|g| g.is_nan()), "NaN, {context}");
        check_rounded(dtype, batch, &found, |i| of_f32[i], |i| of_f32[i].abs(), &context);

        let before = numbers(of_f32.len(), dtype);
        let found = shards.gradient_as(dtype, ce, Some(&before));
        assert_same_bits("ignored", classes, &found[..classes], &before[..classes], &context);
        let sum = |i: usize| before[i] + of_f32[i];
        check_rounded(dtype, batch, &found, sum, |i| sum(i).abs() + of_f32[i].abs(), &context);
    }
}

fn check_shards_of_doubles(ce: &CrossEntropy, batch: &Batch, context: &str) {
    let Doubles { classes, logits, targets, .. } = &Doubles::near(batch);
    let shards = InShards { ranges: &ranges(*classes), logits, targets, classes: *classes };
    let exact = shards.own_gradient(ce);
    for dtype in Dtype::ALL {
        let numbers = numbers(exact.len(), dtype);
        for before in [None, Some(&numbers[..])] {
            let found = shards.gradient_as(dtype, ce, before);
            for (i, (&found, &exact)) in found.iter().zip(&exact).enumerate() {
                let expected = match before {
                    None => dtype.round_once(exact),
                    Some(before) if i < *classes => before[i],
                    Some(before) => dtype.round_once(f64::from(before[i]) + exact),
                };
                let is_same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
                assert!(
                    is_same,
                    "{found:e} instead of {expected:e}, of {exact:e}, entry {i}, {dtype:?}, {context}"
                );
            }
        }
    }
}

/// Where both rows are confident of a class, its gradient is rounded once to the dtype that it has.
#[test]
fn a_distillation_has_the_same_gradient_in_every_dtype() {
    for backend in backends() {
        let distillation = Distillation::builder().temperature(2.0).backend(backend);
        let distillation = distillation.build().expect("the backend is available");
        for (rows, classes) in SHAPES {
            let student = batch(rows, classes);
            let teacher = student.logits.iter().rev().copied().collect();
            let mut pair = Pair { student, teacher };
            // All but two rows have both softmaxes; some are confident of one class.
            for (row, x) in pair.teacher.chunks_exact_mut(classes).enumerate() {
                x[row % classes] = 40.0;
                x.iter_mut().filter(|x| x.is_nan()).for_each(|x| *x = 0.0);
            }
            for row in 2..rows {
                pair.student.row_mut(row)[row % classes] = [40.0, 1.0][row % 2];
            }
            let mask: Vec<bool> = (0..rows).map(|row| row != 0).collect();
            let call =
                Call { loss_mask: Some(&mask), outputs: Layout { offset: 2, padding: 3 }, ..Call::default() };
            let mut random = Random::new(9);
            let numbers: Vec<f32> = pair.teacher.iter().map(|_| random.normal()).collect();
            for logits in Dtype::ALL {
                let (of_f32, summary) = distilled_as((logits, Dtype::F32), &call, &distillation, &pair, None);
                for grad in Dtype::ALL {
                    let context = format!("{logits:?} to {grad:?}, {backend}, {rows} x {classes}");
                    let Rounding { unit, half_of_smallest, .. } = grad.rounding();
                    let before: Vec<f32> = numbers.iter().map(|&x| grad.round(x)).collect();
                    for before in [None, Some(&before[..])] {
                        let (found, same) = distilled_as((logits, grad), &call, &distillation, &pair, before);
                        assert_eq!(same.loss.to_bits(), summary.loss.to_bits(), "{context}");
                        let of_ignored =
                            before.map_or(vec![0.0; classes], |before| before[..classes].to_vec());
                        assert_same_bits("ignored", classes, &found[..classes], &of_ignored, &context);
                        assert!(found[classes..2 * classes].iter().all(|g| g.is_nan()), "NaN, {context}");
                        for i in 2 * classes..found.len() {
                            let sum = of_f32[i] + before.map_or(0.0, |before| before[i]);
                            let expected = grad.round(sum);
                            if found[i] == expected || found[i].is_nan() && expected.is_nan() {
                                continue;
                            }
                            let magnitude = f64::from(sum.abs()) + f64::from(of_f32[i].abs());
                            let is_once = i / classes % classes == i % classes;
                            let bound =
                                if is_once { unit * magnitude * 1.01 + half_of_smallest } else { 0.0 };
                            let error = (f64::from(found[i]) - f64::from(expected)).abs();
                            assert!(error <= bound, "{} instead of {sum}, entry {i}, {context}", found[i]);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_last_of_two_gradients_that_a_request_names_is_the_one() {
    let (x, ce) = ([1.0_f32, 2.0, 0.5], CrossEntropy::default());
    let x = Matrix::new(&x, 1, 3).expect("the shape fits");
    let (mut first, mut second) = ([9.0_f32; 3], [9.0_f32; 3]);
    let (a, b) = (
        MatrixMut::new(&mut first, 1, 3).expect("the shape fits"),
        MatrixMut::new(&mut second, 1, 3).expect("the shape fits"),
    );
    ce.run(x, &[0_u8], Request::new().grad(a).grad_as(b)).expect("the batch is valid");
    assert_eq!(first, [9.0; 3]);
    assert!(second[0] < 0.0);
    let (a, b) = (
        MatrixMut::new(&mut first, 1, 3).expect("the shape fits"),
        MatrixMut::new(&mut second, 1, 3).expect("the shape fits"),
    );
    let before = *b.as_matrix().row(0).expect("there is a row").first().expect("it has a column");
    ce.run(x, &[0_u8], Request::new().accumulate_as(b).grad(a)).expect("the batch is valid");
    assert_eq!(second[0], before);
    assert!(first[0] < 0.0);
    // Written, though the one before was to be added.
    let written = first;
    second = [9.0; 3];
    let (a, b) = (
        MatrixMut::new(&mut first, 1, 3).expect("the shape fits"),
        MatrixMut::new(&mut second, 1, 3).expect("the shape fits"),
    );
    ce.run(x, &[0_u8], Request::new().accumulate(a).grad_as(b)).expect("the batch is valid");
    assert_eq!(second, written);
}

#[test]
fn errors_are_those_of_any_gradient() {
    let ce = CrossEntropy::default();
    let (x, mut grad) = ([1.0_f32, 2.0, 0.5], [7.0_f32; 4]);
    let x = Matrix::new(&x, 1, 3).expect("the shape fits");
    let request = Request::new().grad_as(MatrixMut::new(&mut grad, 2, 2).expect("the shape fits"));
    let expected = Error::ShapeMismatch { argument: "grad", expected: (1, 3), actual: (2, 2) };
    assert_eq!(ce.run(x, &[0_u8], request), Err(expected));
    let mut logits = [1.0_f32, 2.0];
    let request = Request::new().grad_as(MatrixMut::new(&mut grad, 1, 2).expect("the shape fits"));
    let in_place =
        ce.run_in_place(MatrixMut::new(&mut logits, 1, 2).expect("the shape fits"), &[0_u8], request);
    assert_eq!(in_place, Err(Error::GradTwice));
    let doubles = Matrix::new(&[1.0_f64, 2.0, 0.5], 1, 3).expect("the shape fits");
    let request = Request::new().grad_as(MatrixMut::new(&mut grad, 2, 2).expect("the shape fits"));
    let expected = Error::ShapeMismatch { argument: "grad", expected: (1, 3), actual: (2, 2) };
    assert_eq!(ce.run(doubles, &[0_u8], request), Err(expected));
    assert_eq!(grad, [7.0; 4]);
}
