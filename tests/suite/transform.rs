//! Logits that are scaled and capped before the softmax: what only they can get wrong. The pairs of all options are in
//! `combinations.rs`.

use crate::support::batch::{Batch, IGNORE_INDEX, Random};
use crate::support::bounds::Expected;
use crate::support::buffer::Layout;
use crate::support::evaluation::{Call, assert_same_bits};
#[cfg(feature = "half")]
use crate::support::halves;
use crate::support::{PARALLELISMS, backends, fused_backends};
use xent::contract::{CAPPED, DISTRIBUTION_LOSS, DISTRIBUTION_TARGET, U, transform_slope};
use xent::{CrossEntropy, CrossEntropyBuilder, Error, Matrix, MatrixMut, Parallelism, Request, reference};

/// Rows and classes: of every kernel, with whole and incomplete vectors of rows, and rows of several pieces.
const SHAPES: [(usize, usize); 10] = [
    (5, 1),
    (17, 2),
    (33, 10),
    (20, 80),
    (21, 128),
    (10, 1000),
    (3, 2048),
    (3, 2049),
    (2, 5000),
    (2, 140_000),
];

fn softcap() -> CrossEntropyBuilder {
    CrossEntropy::builder().softcap(15.0)
}

fn variants() -> [(&'static str, CrossEntropyBuilder); 4] {
    [
        ("scale", CrossEntropy::builder().logit_scale(0.7)),
        ("softcap", softcap()),
        ("both", softcap().logit_scale(1.7).z_loss(0.1)),
        ("both, smoothed", softcap().logit_scale(0.3).label_smoothing(0.1)),
    ]
}

fn build(builder: CrossEntropyBuilder) -> CrossEntropy {
    builder.build().expect("the options are valid")
}

fn matrix(x: &[f32], rows: usize, classes: usize) -> Matrix<'_> {
    Matrix::new(x, rows, classes).expect("the shape fits")
}

fn matrix_mut(x: &mut [f32], rows: usize, classes: usize) -> MatrixMut<'_> {
    MatrixMut::new(x, rows, classes).expect("the shape fits")
}

/// The contract's own bounds, without those of the transform: every output, and order, is that of the products.
#[test]
fn scaled_logits_keep_the_bounds_of_the_products_that_they_become() {
    for backend in backends() {
        for scale in [0.5, 0.7, 3.0, 100.0, 1e-3] {
            let ce = build(CrossEntropy::builder().backend(backend).logit_scale(scale).label_smoothing(0.2));
            let plain = build(CrossEntropy::builder().backend(backend).label_smoothing(0.2));
            for (rows, classes) in SHAPES {
                let batch = Batch::random(rows, classes, 8);
                let mut scaled = batch.clone();
                scaled.logits.iter_mut().for_each(|x| *x *= scale as f32);
                let found = Call::default().evaluate(&ce, &batch);
                let call = Call { upstream_scalar: Some(scale), ..Call::default() };
                let context = format!("scale {scale}, {backend}");
                Expected::of_call(&plain, &scaled, call).check(&found, &context);
            }
        }
    }
}

#[test]
fn a_temperature_is_the_inverse_of_a_scale() {
    let ce = build(CrossEntropy::builder().temperature(4.0));
    assert_eq!((ce.logit_scale(), ce.softcap()), (0.25, None));
    assert_eq!(build(softcap()).softcap(), Some(15.0));
    assert_eq!(build(softcap().softcap(None)).softcap(), None);
}

#[test]
fn fused_backends_threads_places_and_layouts_give_the_same_bits() {
    let fused = fused_backends();
    for (name, builder) in variants() {
        for (rows, classes) in SHAPES {
            let batch = Batch::random(rows, classes, 9);
            let context = format!("{name}, {rows} x {classes}");
            let expected = Call::default().evaluate(&build(builder.clone().backend(fused[0])), &batch);
            expected.assert_no_subnormal(&context);
            for &backend in &fused {
                for parallelism in PARALLELISMS {
                    let ce = build(builder.clone().backend(backend).parallelism(parallelism));
                    let layout = Layout { offset: 3, padding: 5 };
                    for (logits, outputs) in [(Layout::default(), layout), (layout, Layout::default())] {
                        for in_place in [false, true] {
                            let call = Call { logits, outputs, in_place, ..Call::default() };
                            call.evaluate(&ce, &batch).assert_equal(&expected, &context);
                        }
                    }
                }
            }
            // Each row alone.
            let ce = build(builder.clone().backend(fused[0]));
            for row in 0..rows {
                let alone = Call { upstream: Some(&[0.5]), ..Call::default() };
                let upstream = vec![0.5; rows];
                let together = Call { upstream: Some(&upstream), ..Call::default() };
                let alone = alone.evaluate(&ce, &batch.select([row]));
                alone.assert_rows_equal(&together.evaluate(&ce, &batch), row..row + 1, &context);
                if classes > 2048 {
                    break;
                }
            }
        }
    }
}

#[test]
fn other_outputs_change_no_bit() {
    for backend in backends() {
        for (name, builder) in variants() {
            let ce = build(builder.backend(backend));
            for (rows, classes) in SHAPES {
                let batch = Batch::random(rows, classes, 10);
                let context = format!("{name}, {rows} x {classes}, {backend}");
                let all = Call::default().evaluate(&ce, &batch);
                let x = matrix(&batch.logits, rows, classes);
                let mut out = vec![f32::NAN; rows * classes];
                ce.loss_and_grad(x, &batch.targets, matrix_mut(&mut out, rows, classes)).unwrap();
                assert_same_bits("grad", classes, &out, &all.grad, &context);
                let request = Request::new().probabilities(matrix_mut(&mut out, rows, classes));
                ce.run(x, &batch.targets, request).unwrap();
                assert_same_bits("probabilities", classes, &out, &all.probabilities, &context);
                assert_eq!(ce.loss(x, &batch.targets).unwrap().to_bits(), all.loss.to_bits(), "{context}");
            }
        }
    }
}

#[test]
fn stores_past_the_caches_change_no_bit() {
    // Logits and gradient are past the last cache that the crate counts on.
    for (rows, classes) in [(40_000, 80), (3000, 1000), (12, 260_000)] {
        let mut random = Random::new(11);
        let logits: Vec<f32> = (0..rows * classes).map(|_| random.between(-9.0, 9.0)).collect();
        let targets: Vec<usize> = (0..rows).map(|_| random.below(classes)).collect();
        let mut grad = vec![f32::NAN; rows * classes];
        let ce = build(softcap().reduction(xent::Reduction::Sum));
        let x = matrix(&logits, rows, classes);
        ce.loss_and_grad(x, &targets, matrix_mut(&mut grad, rows, classes)).unwrap();
        let mut part = vec![f32::NAN; 2 * classes];
        for row in [0, rows / 2, rows - 2] {
            let columns = row * classes..(row + 2) * classes;
            let x = matrix(&logits[columns.clone()], 2, classes);
            ce.loss_and_grad(x, &targets[row..row + 2], matrix_mut(&mut part, 2, classes)).unwrap();
            assert_same_bits(
                "grad",
                classes,
                &part,
                &grad[columns],
                &format!("{rows} x {classes}, row {row}"),
            );
        }
    }
}

#[test]
fn a_masked_class_stays_masked_under_a_softcap() {
    for backend in backends() {
        for parallelism in PARALLELISMS {
            let ce = build(softcap().backend(backend).parallelism(parallelism));
            for (rows, classes) in SHAPES.into_iter().filter(|&(_, classes)| classes > 2) {
                let mut batch = Batch::random(rows, classes, 12);
                let mut random = Random::new(13);
                batch.make_rows_count(&mut random);
                // A mask for every third class, and in the last row for the target.
                for row in 0..rows {
                    let target = batch.targets[row] as usize;
                    for (class, x) in batch.row_mut(row).iter_mut().enumerate() {
                        let is_masked = class % 3 == 1 && class != target;
                        *x = if is_masked { f32::NEG_INFINITY } else { random.normal() };
                    }
                }
                let last = batch.targets[rows - 1] as usize;
                batch.row_mut(rows - 1)[last] = f32::NEG_INFINITY;
                for in_place in [false, true] {
                    let call = Call { in_place, ..Call::default() };
                    let found = call.evaluate(&ce, &batch);
                    let context = format!("{rows} x {classes}, {backend}");
                    Expected::of_call(&ce, &batch, call).check(&found, &context);
                    for (i, &x) in batch.logits.iter().enumerate() {
                        if x == f32::NEG_INFINITY {
                            // The target's too: a cap has no slope there.
                            assert_eq!(found.grad[i].to_bits(), 0, "{context}");
                            assert_eq!(found.probabilities[i].to_bits(), 0, "{context}");
                            assert_eq!(found.log_probabilities[i], f32::NEG_INFINITY, "{context}");
                        }
                    }
                    assert_eq!(found.losses[rows - 1], f32::INFINITY, "{context}");
                    assert!(found.losses[..rows - 1].iter().all(|loss| loss.is_finite()), "{context}");
                }
            }
        }
    }
}

#[test]
fn rows_of_nan_inf_or_masks_alone_are_nan_and_no_other_row_changes() {
    for backend in backends() {
        for (name, builder) in variants() {
            let ce = build(builder.backend(backend));
            for (rows, classes) in SHAPES {
                let batch = Batch::random(rows, classes, 14);
                let context = format!("{name}, {rows} x {classes}, {backend}");
                let row = rows / 2;
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut batch = batch.clone();
                    batch.targets[row] = 0;
                    batch.row_mut(row).fill(if bad == f32::NEG_INFINITY { bad } else { 0.5 });
                    batch.row_mut(row)[classes / 2] = bad;
                    for in_place in [false, true] {
                        let call = Call { in_place, ..Call::default() };
                        let found = call.evaluate(&ce, &batch);
                        Expected::of_call(&ce, &batch, call).check(&found, &context);
                        assert!(found.losses[row].is_nan(), "{context}");
                        assert!(
                            found.grad[row * classes..][..classes].iter().all(|g| g.is_nan()),
                            "{context}"
                        );
                    }
                }
            }
        }
    }
}

/// Far past the cap all logits are equal, the slope is exactly 0, and nothing overflows on the way.
#[test]
fn logits_past_the_cap_are_the_cap_whatever_their_size() {
    for backend in backends() {
        for scale in [1.0, 1e30] {
            let ce = build(softcap().backend(backend).logit_scale(scale));
            for (rows, classes) in SHAPES {
                let mut batch = Batch::random(rows, classes, 15);
                for row in 0..rows {
                    batch.targets[row] = (classes - 1) as i64;
                    for (class, x) in batch.row_mut(row).iter_mut().enumerate() {
                        *x = [1e4, -1e4, f32::MAX, f32::MIN][(class + row) % 4];
                    }
                }
                let found = Call::default().evaluate(&ce, &batch);
                let context = format!("scale {scale}, {rows} x {classes}, {backend}");
                assert!(found.grad.iter().all(|g| g.to_bits() == 0), "{context}");
                for row in 0..rows {
                    let positive = (0..classes).filter(|&class| batch.row(row)[class] > 0.0).count();
                    let first = batch.row(row).iter().position(|&x| x > 0.0).unwrap_or(0);
                    assert_eq!(found.argmax[row], first, "{context}");
                    let probability = found.probabilities[row * classes + first];
                    let others =
                        (classes - positive) as f64 * if positive == 0 { 1.0 } else { (-30.0_f64).exp() };
                    let exact = 1.0 / (positive as f64 + others);
                    let bound = (2.0 * 30.0 + 2.0 * CAPPED * 15.0 + 4.0) * U;
                    assert!(
                        (f64::from(probability) - exact).abs() <= bound * exact,
                        "{probability:e}, {context}"
                    );
                }
            }
        }
    }
}

#[test]
fn logits_of_every_magnitude_leave_no_subnormal_number() {
    for backend in backends() {
        for (name, builder) in variants() {
            for scale in [1e-30, 1.0, 1e20] {
                let ce = build(builder.clone().backend(backend).logit_scale(scale));
                for (rows, classes) in SHAPES {
                    let mut batch = Batch::random(rows, classes, 16);
                    let mut random = Random::new(17);
                    for x in &mut batch.logits {
                        *x = random.normal() * 10.0_f32.powi(random.below(76) as i32 - 43);
                    }
                    let context = format!("{name}, scale {scale}, {rows} x {classes}, {backend}");
                    let found = Call::default().evaluate(&ce, &batch);
                    found.assert_no_subnormal(&context);
                }
            }
        }
    }
}

#[test]
fn a_softcap_far_above_the_logits_changes_nothing() {
    // tanh(v) is v for v this small, and a cap that is a power of two makes exact products.
    let (rows, classes) = (20, 1000);
    let mut batch = Batch::random(rows, classes, 18);
    let mut random = Random::new(19);
    batch.logits.fill_with(|| random.between(-4.0, 4.0));
    let capped = build(CrossEntropy::builder().softcap(2.0_f64.powi(40)));
    let found = Call::default().evaluate(&capped, &batch);
    Call::default().evaluate(&CrossEntropy::default(), &batch).assert_equal(&found, "a cap of 2^40");
}

#[test]
fn probabilities_as_targets_take_scaled_logits_as_they_take_the_products() {
    for backend in backends() {
        for (rows, classes) in SHAPES.into_iter().filter(|&(_, classes)| classes <= 2048) {
            let (batch, q) = with_probabilities(rows, classes);
            let mut scaled = batch.logits.clone();
            scaled.iter_mut().for_each(|x| *x *= 0.5);
            let builder = CrossEntropy::builder().backend(backend).z_loss(0.1);
            let run = |builder: CrossEntropyBuilder, x: &[f32], upstream_scalar: f64| {
                let (mut losses, mut grad) = (vec![f32::NAN; rows], vec![f32::NAN; rows * classes]);
                let grad_of_all = matrix_mut(&mut grad, rows, classes);
                let request =
                    Request::new().losses(&mut losses).grad(grad_of_all).upstream_scalar(upstream_scalar);
                let (x, q) = (matrix(x, rows, classes), matrix(&q, rows, classes));
                build(builder).run_probabilities(x, q, request).expect("the batch is valid");
                (losses, grad)
            };
            let (losses, grad) = run(builder.clone().logit_scale(0.5), &batch.logits, 1.0);
            let (same_losses, same_grad) = run(builder, &scaled, 0.5);
            let context = format!("{rows} x {classes}, {backend}");
            assert_same_bits("losses", 1, &losses, &same_losses, &context);
            assert_same_bits("grad", classes, &grad, &same_grad, &context);
        }
    }
}

#[test]
fn probabilities_as_targets_keep_their_bounds_under_a_softcap() {
    const CAP: f64 = 8.0;
    for backend in backends() {
        for parallelism in [Parallelism::Serial, Parallelism::Rayon] {
            for (rows, classes) in SHAPES {
                let (batch, q) = with_probabilities(rows, classes);
                let builder = CrossEntropy::builder().softcap(CAP).logit_scale(1.5);
                let ce = build(builder.backend(backend).parallelism(parallelism));
                let (x, q) = (matrix(&batch.logits, rows, classes), matrix(&q, rows, classes));
                let exact = reference::run_probabilities(&ce, x, q, &Request::new()).unwrap();
                let (mut losses, mut grad) = (vec![f32::NAN; rows], vec![f32::NAN; rows * classes]);
                let request = Request::new().losses(&mut losses).grad(matrix_mut(&mut grad, rows, classes));
                ce.run_probabilities(x, q, request).unwrap();
                // No gap is above twice the cap, and no transformed logit above the cap.
                let relative = (2.0 * 2.0 * CAP + 2.0 * CAPPED * CAP) * U;
                for row in 0..rows {
                    let context = format!("row {row} of {rows} x {classes}, {backend}");
                    let total: f64 = q.row(row).unwrap().iter().map(|&q| f64::from(q)).sum();
                    let loss = exact.losses[row];
                    let bound = (relative + DISTRIBUTION_LOSS * U) * (loss + total);
                    assert!(
                        (f64::from(losses[row]) - loss).abs() <= bound,
                        "{}, {loss}, {context}",
                        losses[row]
                    );
                    for i in 0..classes {
                        let (at, x) = (row * classes + i, f64::from(batch.row(row)[i]));
                        let slope = reference::transform_slopes(&ce, &batch.row(row)[i..=i])[0];
                        let p = exact.softmax[row].probabilities[i];
                        let magnitude = (total * p + f64::from(q.row(row).unwrap()[i])) * slope / rows as f64;
                        let of_slope = transform_slope(1.5, Some(CAP), x);
                        let relative = relative + (4.0 + DISTRIBUTION_TARGET) * U + of_slope;
                        let error = (f64::from(grad[at]) - exact.grad[at]).abs();
                        let bound = relative * magnitude + 8.0 * f64::from(f32::MIN_POSITIVE);
                        assert!(error <= bound, "{} of {i}, {}, {context}", grad[at], exact.grad[at]);
                    }
                }
            }
        }
    }
}

/// Logits without masks, and the softmax of others as targets.
fn with_probabilities(rows: usize, classes: usize) -> (Batch, Vec<f32>) {
    let mut batch = Batch::random(rows, classes, 20);
    let mut random = Random::new(21);
    batch.logits.fill_with(|| 3.0 * random.normal());
    let logits: Vec<f32> = (0..rows * classes).map(|_| 2.0 * random.normal()).collect();
    let mut q = vec![0.0; rows * classes];
    xent::softmax(matrix(&logits, rows, classes), matrix_mut(&mut q, rows, classes)).unwrap();
    (batch, q)
}

#[cfg(feature = "half")]
#[test]
fn halves_have_the_losses_of_the_numbers_they_are_and_the_same_bits_everywhere() {
    check_halves::<half::bf16>();
    check_halves::<half::f16>();
}

#[cfg(feature = "half")]
fn check_halves<T: halves::Half>() {
    let fused = fused_backends();
    for (name, builder) in variants() {
        for (rows, classes) in SHAPES {
            let batch = halves::rounded::<T>(&Batch::random(rows, classes, 22));
            let context = format!("{name}, {rows} x {classes}, {}", T::NAME);
            let widened = Call::default().evaluate(&build(builder.clone().backend(fused[0])), &batch);
            let mut first = None;
            for &backend in &fused {
                for parallelism in PARALLELISMS {
                    let ce = build(builder.clone().backend(backend).parallelism(parallelism));
                    for in_place in [false, true] {
                        let call = Call { in_place, ..Call::default() };
                        let found = halves::evaluate::<T>(&call, &ce, &batch);
                        Expected::of_call(&ce, &batch, call).rounded(T::ROUNDING).check(&found, &context);
                        assert_same_bits("losses", 1, &found.losses, &widened.losses, &context);
                        assert_eq!(found.argmax, widened.argmax, "{context}");
                        first.get_or_insert_with(|| found.clone()).assert_equal(&found, &context);
                    }
                }
            }
        }
    }
}

#[test]
fn scales_and_caps_that_no_f32_holds_are_errors() {
    for (logit_scale, shown) in [(0.0, "0"), (-1.0, "-1"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
        let error = CrossEntropy::builder().logit_scale(logit_scale).build().expect_err("the scale is wrong");
        let message =
            format!("logit_scale is {shown}; it, or 1 / temperature, is above 0, and a normal number of f32");
        assert_eq!(error.to_string(), message);
        let Error::InvalidLogitScale { logit_scale: found } = error else { panic!("{error:?}") };
        assert_eq!(found.to_bits(), logit_scale.to_bits());
        let error = softcap().softcap(logit_scale).build().expect_err("the cap is wrong");
        let message = format!(
            "softcap is {shown}; it is above 0, and it and logit_scale / softcap are normal numbers of f32"
        );
        assert_eq!(error.to_string(), message);
        let Error::InvalidSoftcap { softcap: found } = error else { panic!("{error:?}") };
        assert_eq!(found.to_bits(), logit_scale.to_bits());
    }
    for out_of_range in [1e39, 1e-39] {
        let error = CrossEntropy::builder().logit_scale(out_of_range).build().unwrap_err();
        assert_eq!(error, Error::InvalidLogitScale { logit_scale: out_of_range });
        assert_eq!(
            softcap().softcap(out_of_range).build().unwrap_err(),
            Error::InvalidSoftcap { softcap: out_of_range }
        );
    }
    // Each is one, but not their quotient.
    let error = CrossEntropy::builder().logit_scale(1e30).softcap(1e-30).build().unwrap_err();
    assert_eq!(error, Error::InvalidSoftcap { softcap: 1e-30 });
    let error = CrossEntropy::builder().temperature(0.0).build().unwrap_err();
    assert_eq!(error, Error::InvalidLogitScale { logit_scale: f64::INFINITY });
    for fine in [1e-30, 1e30] {
        assert!(CrossEntropy::builder().logit_scale(fine).build().is_ok());
        assert!(CrossEntropy::builder().softcap(fine).build().is_ok());
    }
}

#[test]
fn ignored_rows_have_zeros_whatever_they_hold() {
    for backend in backends() {
        for (name, builder) in variants() {
            let ce = build(builder.backend(backend));
            for (rows, classes) in SHAPES {
                let mut batch = Batch::random(rows, classes, 23);
                for row in (0..rows).step_by(2) {
                    batch.targets[row] = IGNORE_INDEX;
                    batch.row_mut(row).fill(if row % 4 == 0 { f32::NAN } else { f32::INFINITY });
                }
                let found = Call::default().evaluate(&ce, &batch);
                Expected::of_call(&ce, &batch, Call::default())
                    .check(&found, &format!("{name}, {rows} x {classes}, {backend}"));
            }
        }
    }
}
