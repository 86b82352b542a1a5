//! Planes of `f64`: the contract with the unit of `f64`, against numbers of twice the precision.

use crate::support::batch::{Batch, Random};
use crate::support::double_bounds::{Shares, check};
use crate::support::double_rows::{KINDS, batch_of_all_kinds};
use crate::support::doubles::{self, Doubles, Found};
use crate::support::evaluation::Call;
use crate::support::planes::{PlanesBuffer, PlanesCall, PlanesLayout};
use crate::support::{PARALLELISMS, backends, fused_backends};
use xent::{
    Backend, CrossEntropy, CrossEntropyBuilder, Error, Parallelism, PlanesRequest, Reduction, Smoothing,
};

/// Both sides of the boundaries of groups and of blocks.
fn class_counts() -> impl Iterator<Item = usize> {
    (1..=20).chain([31, 32, 33, 63, 64, 65, 127, 128, 129, 1000])
}

const PADDED: PlanesLayout = PlanesLayout { offset: 3, class_padding: 5, image_padding: 7 };

fn build(builder: &CrossEntropyBuilder, backend: Backend) -> CrossEntropy {
    let builder = builder.clone().backend(backend).parallelism(Parallelism::Serial);
    builder.build().expect("the options are valid")
}

/// Every combination of options that take ways of their own.
fn variants(classes: usize) -> Vec<CrossEntropyBuilder> {
    let plain = || CrossEntropy::builder().reduction(Reduction::Sum);
    let weight: Vec<f32> = (0..classes).map(|class| [1.0, 0.0, 2.5][class % 3]).collect();
    let smooth = |smoothing| plain().label_smoothing(0.1).smoothing(smoothing);
    vec![
        plain().weight(weight.clone()),
        CrossEntropy::builder().z_loss(0.1).focal_gamma(2.0),
        smooth(Smoothing::AllClasses).weight(weight.clone()).logit_scale(0.7),
        smooth(Smoothing::OtherClasses).z_loss(1e-3),
        smooth(Smoothing::LiveClasses).weight(weight),
        smooth(Smoothing::LiveClasses).softcap(30.0),
        plain().softcap(15.0).logit_scale(1.7),
        smooth(Smoothing::AllClasses),
    ]
}

/// Rows of every kind, and some without a softmax.
fn batch_with_nan(rows: usize, classes: usize, seed: u64) -> Doubles {
    let mut batch = Doubles::near(&Batch::random(rows, classes, seed));
    let mut random = Random::new(seed + 1);
    for row in batch.logits.chunks_mut(classes) {
        match random.below(12) {
            0 => row[random.below(classes)] = f64::NAN,
            1 => row[random.below(classes)] = f64::INFINITY,
            2 => row.fill(f64::NEG_INFINITY),
            _ => {}
        }
    }
    batch
}

#[test]
fn plain_losses_keep_the_contract() {
    let mut shares = Shares::default();
    for classes in class_counts() {
        let batch = batch_of_all_kinds(classes, classes as u64);
        assert!(batch.rows.is_multiple_of(KINDS));
        for backend in backends() {
            for in_place in [false, true] {
                let ce = build(&CrossEntropy::builder().reduction(Reduction::Sum), backend);
                let call = PlanesCall { in_place, logits: PADDED, ..PlanesCall::default() };
                for images in [1, batch.rows] {
                    let found = call.evaluate_doubles(&ce, &batch, images);
                    let context = format!("{images} images, {backend}, in place {in_place}");
                    found.assert_no_subnormal(&context);
                    check(&ce, &batch, &call.inputs, &found, true, &mut shares, &context);
                }
            }
        }
    }
    shares.print();
}

#[test]
fn options_and_inputs_keep_the_bounds() {
    let mut shares = Shares::default();
    for classes in [1, 2, 5, 21, 33, 64, 129, 300] {
        let rows = 38;
        let batch = Doubles::near(&Batch::random(rows, classes, classes as u64));
        let mut random = Random::new(7);
        let upstream: Vec<f32> = (0..rows).map(|_| random.normal()).collect();
        let row_weights: Vec<f32> =
            (0..rows).map(|row| if row % 5 == 0 { 0.0 } else { random.between(0.1, 2.0) }).collect();
        let loss_mask: Vec<bool> = (0..rows).map(|_| random.below(3) > 0).collect();
        for given in 0..8 {
            let gives = |input: u32| given >> input & 1 == 1;
            let inputs = Call {
                upstream: gives(0).then_some(&upstream[..]),
                row_weights: gives(1).then_some(&row_weights[..]),
                loss_mask: gives(2).then_some(&loss_mask[..]),
                upstream_scalar: gives(0).then_some(-3.0),
                denominator: gives(1).then_some(17.0),
                ..Call::default()
            };
            for builder in variants(classes) {
                for backend in backends() {
                    let ce = build(&builder, backend);
                    let call =
                        PlanesCall { inputs, in_place: gives(0), outputs: PADDED, ..PlanesCall::default() };
                    let found = call.evaluate_doubles(&ce, &batch, 2);
                    let context = format!("{builder:?}, inputs {given:#b}, {backend}");
                    check(&ce, &batch, &inputs, &found, false, &mut shares, &context);
                }
            }
        }
    }
    shares.print();
}

#[test]
fn positions_without_a_softmax_are_nan_and_touch_no_other() {
    for classes in [1, 5, 21, 33, 128, 300] {
        for positions in [1, 16, 70] {
            let batch = batch_with_nan(3 * positions, classes, classes as u64);
            for builder in variants(classes) {
                for backend in backends() {
                    let ce = build(&builder, backend);
                    let found = PlanesCall::default().evaluate_doubles(&ce, &batch, 3);
                    let context = format!("{positions} positions, {backend}");
                    check(&ce, &batch, &Call::default(), &found, false, &mut Shares::default(), &context);
                    let rows = doubles::evaluate(&Call::default(), &ce, &batch);
                    assert_eq!(found.argmax, rows.argmax, "{context}");
                }
            }
        }
    }
}

/// Where the largest logit is 0 and no target, lse is what little the others add.
#[test]
fn lse_near_0_keeps_its_digits() {
    let mut shares = Shares::default();
    for classes in [2, 3, 21, 33, 129] {
        let mut random = Random::new(classes as u64);
        let mut batch = Doubles::near(&Batch::random(100, classes, 6));
        for row in 0..batch.rows {
            let (leader, depth) = (random.below(classes), random.between(10.0, 500.0));
            let logits = &mut batch.logits[row * classes..][..classes];
            for x in logits.iter_mut() {
                *x = f64::from(-depth - random.between(0.0, 5.0));
            }
            logits[leader] = random.below(2) as f64 * 0.01;
            batch.targets[row] = random.below(classes) as i64;
        }
        for backend in backends() {
            let ce = build(&CrossEntropy::builder().reduction(Reduction::Sum), backend);
            let found = PlanesCall::default().evaluate_doubles(&ce, &batch, 2);
            check(&ce, &batch, &Call::default(), &found, true, &mut shares, &format!("{backend}"));
        }
    }
    shares.print();
}

#[test]
fn bits_do_not_depend_on_layout_threads_place_or_fused_backend() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads can be started");
    for (classes, images, positions) in [(2, 3, 20_000), (21, 40, 300), (130, 3, 500), (1000, 2, 100)] {
        let batch = batch_with_nan(images * positions, classes, 8);
        let builder = &variants(classes)[(classes + positions) % 8];
        let mut first: Option<Found> = None;
        for backend in fused_backends() {
            for parallelism in PARALLELISMS {
                let ce = builder.clone().backend(backend).parallelism(parallelism).build();
                let ce = ce.expect("the backend is available");
                for (layout, in_place) in
                    [(PlanesLayout::default(), false), (PADDED, false), (PlanesLayout::default(), true)]
                {
                    let call =
                        PlanesCall { logits: layout, outputs: layout, in_place, ..PlanesCall::default() };
                    let found = pool.install(|| call.evaluate_doubles(&ce, &batch, images));
                    let first = first.get_or_insert_with(|| found.clone());
                    assert!(
                        found.bits() == first.bits(),
                        "{backend}, {parallelism:?}, {layout:?}, {in_place}"
                    );
                }
            }
        }
    }
}

#[test]
fn bits_of_a_position_depend_on_it_alone() {
    for classes in [1, 5, 33, 129] {
        for backend in backends() {
            let batch = Doubles::near(&Batch::random(210, classes, 10));
            for builder in variants(classes) {
                let ce = build(&builder.reduction(Reduction::Sum), backend);
                let whole = PlanesCall::default().evaluate_doubles(&ce, &batch, 1);
                for images in [2, 10, 210] {
                    let found = PlanesCall::default().evaluate_doubles(&ce, &batch, images);
                    // But for the sum of the losses.
                    let found = Found { summary: whole.summary, ..found };
                    assert!(found.bits() == whole.bits(), "{images} images of {classes} classes, {backend}");
                }
            }
        }
    }
}

#[test]
fn positions_that_do_not_count_are_zero_whatever_their_logits_are() {
    for classes in [3, 40] {
        for builder in variants(classes) {
            let mut batch = Doubles::near(&Batch::random(40, classes, 3));
            batch.targets[7..20].fill(-100);
            batch.logits[7 * classes..20 * classes].fill(f64::NAN);
            for backend in backends() {
                let found = PlanesCall::default().evaluate_doubles(&build(&builder, backend), &batch, 1);
                for out in [&found.grad, &found.probabilities] {
                    assert!(out[7 * classes..20 * classes].iter().all(|x| x.to_bits() == 0), "{backend}");
                }
                assert!(found.losses[7..20].iter().chain(&found.lse[7..20]).all(|x| x.to_bits() == 0));
            }
        }
    }
}

#[test]
fn errors_leave_every_output_untouched() {
    let sizes = (2, 3, 5);
    let batch = Doubles::near(&Batch::random(10, 3, 14));
    let mut x = PlanesBuffer::holding(&batch.logits, sizes, PADDED);
    let mut grad = PlanesBuffer::unwritten(sizes, PADDED);
    let mut losses = [5.0; 9];
    let request = PlanesRequest::new().grad(grad.planes_mut()).losses(&mut losses);
    let ce = CrossEntropy::default();
    let error = ce.run_planes(x.planes(), &batch.targets, request).unwrap_err();
    assert_eq!(error, Error::LengthMismatch { argument: "losses", expected: 10, actual: 9 });
    let request = PlanesRequest::new().grad(grad.planes_mut());
    let error = ce.run_planes_in_place(x.planes_mut(), &batch.targets, request).unwrap_err();
    assert_eq!(error, Error::GradTwice);
    grad.assert_unwritten("grad");
    assert_eq!(losses, [5.0; 9]);
}

#[test]
fn a_stack_of_64_kilobytes_will_do() {
    for classes in [1, 21, 128, 1000] {
        let thread = std::thread::Builder::new().stack_size(64 << 10);
        let check = thread.spawn(move || {
            let batch = Doubles::near(&Batch::random(2000, classes, 15));
            let sizes = (1, classes, 2000);
            let mut x = PlanesBuffer::holding(&batch.logits, sizes, PlanesLayout::default());
            let mut probabilities = PlanesBuffer::unwritten(sizes, PlanesLayout::default());
            let mut lse = vec![0.0; 2000];
            let request = PlanesRequest::new().probabilities(probabilities.planes_mut()).lse(&mut lse);
            let ce = build(&CrossEntropy::builder().softcap(30.0).label_smoothing(0.1), Backend::detect());
            ce.run_planes_in_place(x.planes_mut(), &batch.targets, request).map(drop)
        });
        let result = check.expect("a thread can be started").join().expect("the stack is large enough");
        assert_eq!(result, Ok(()));
    }
}
