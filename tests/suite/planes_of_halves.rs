//! Planes of 16 bits: what planes of `f32` make of the same numbers, rounded once.
#![cfg(feature = "half")]

use crate::support::batch::{Batch, Random};
use crate::support::bounds::Expected;
use crate::support::evaluation::{Call, Evaluation};
use crate::support::halves::{Half, rounded};
use crate::support::planes::{Planar, PlanesBuffer, PlanesCall, PlanesLayout};
use crate::support::{PARALLELISMS, backends, fused_backends};
use xent::{Backend, CrossEntropy, CrossEntropyBuilder, Parallelism, PlanesRequest, Reduction, Smoothing};

/// Kept exponentials, and blocks of classes.
const CLASSES: [usize; 9] = [1, 2, 5, 21, 64, 128, 129, 193, 1000];

const POSITIONS: [usize; 7] = [1, 15, 16, 33, 64, 100, 300];

const PADDED: PlanesLayout = PlanesLayout { offset: 3, class_padding: 5, image_padding: 7 };

/// Each test is of both types.
macro_rules! of_both_types {
    ($($name:ident => $check:ident),+ $(,)?) => {
        mod of_bf16 {
            $(#[test] fn $name() { super::$check::<half::bf16>(); })+
        }
        mod of_f16 {
            $(#[test] fn $name() { super::$check::<half::f16>(); })+
        }
    };
}

of_both_types! {
    results_are_those_of_f32_rounded_once => check_against_f32,
    every_output_keeps_the_bounds => check_bounds,
    inputs_for_each_position_keep_the_bounds => check_inputs,
    positions_without_a_softmax_are_nan_and_touch_no_other => check_nan_positions,
    bits_do_not_depend_on_layout_threads_place_or_fused_backend => check_bits,
    small_stacks_are_enough => check_small_stack,
}

/// Options that take ways of their own.
fn variants(classes: usize) -> Vec<CrossEntropyBuilder> {
    let plain = || CrossEntropy::builder().reduction(Reduction::Sum);
    let weight: Vec<f32> = (0..classes).map(|class| (class % 4) as f32 * 0.7).collect();
    vec![
        plain(),
        CrossEntropy::builder().z_loss(1e-3).focal_gamma(2.0),
        plain().label_smoothing(0.1),
        plain().label_smoothing(0.2).weight(weight).logit_scale(0.7),
        plain().label_smoothing(0.1).smoothing(Smoothing::LiveClasses).softcap(20.0),
        plain().softcap(5.0).logit_scale(1.3),
    ]
}

fn build(builder: &CrossEntropyBuilder, backend: Backend) -> CrossEntropy {
    let builder = builder.clone().backend(backend).parallelism(Parallelism::Serial);
    builder.build().expect("the options are valid")
}

/// Rows of every kind, and some without a softmax.
fn batch_with_nan<T: Half>(rows: usize, classes: usize, seed: u64) -> Batch {
    let mut batch = Batch::random(rows, classes, seed);
    let mut random = Random::new(seed + 1);
    for row in 0..rows {
        let column = random.below(classes);
        match random.below(12) {
            0 => batch.row_mut(row)[column] = f32::NAN,
            1 => batch.row_mut(row)[column] = f32::INFINITY,
            2 => batch.row_mut(row).fill(f32::NEG_INFINITY),
            _ => {}
        }
    }
    rounded::<T>(&batch)
}

fn check_against_f32<T: Half + Planar>() {
    for (index, classes) in CLASSES.into_iter().enumerate() {
        for positions in POSITIONS {
            if classes * positions > 100_000 {
                continue;
            }
            let images = 1 + (classes + positions) % 3;
            let batch = batch_with_nan::<T>(images * positions, classes, (positions + index) as u64);
            for builder in variants(classes) {
                for backend in backends() {
                    let ce = build(&builder, backend);
                    for in_place in [false, true] {
                        let call = PlanesCall { in_place, outputs: PADDED, ..PlanesCall::default() };
                        let found = call.evaluate_as::<T>(&ce, &batch, images);
                        let wide = call.evaluate(&ce, &batch, images);
                        let context =
                            format!("{classes} classes, {positions} positions, {backend}, {in_place}");
                        assert_rounded_once::<T>(&found, &wide, &batch, &context);
                    }
                }
            }
        }
    }
}

/// Every number is that of `f32`, rounded where it is as wide as the logits. At targets it has been rounded from what `f32`
/// has been rounded from: beside the middle between two numbers, that may be another, and what is 0 has no sign.
fn assert_rounded_once<T: Half>(found: &Evaluation, wide: &Evaluation, batch: &Batch, context: &str) {
    for (name, found, wide) in
        [("grad", &found.grad, &wide.grad), ("probabilities", &found.probabilities, &wide.probabilities)]
    {
        for (at, (found, wide)) in found.iter().zip(wide).enumerate() {
            let rounded = <T as Half>::from_f32(*wide).to_f32();
            let (row, class) = (at / batch.classes, at % batch.classes);
            let is_target = usize::try_from(batch.targets[row]) == Ok(class);
            let beside = |x: f32| <T as Half>::from_f32(x).to_f32().to_bits() == found.to_bits();
            let is_same = found.to_bits() == rounded.to_bits()
                || found.is_nan() && wide.is_nan()
                || is_target && *found == 0.0 && rounded == 0.0
                || is_target && (beside(wide.next_up()) || beside(wide.next_down()));
            assert!(is_same, "{name} of class {class} of row {row}: {found:e} and {wide:e}, {context}");
        }
    }
    let of_f32 = Evaluation {
        grad: found.grad.clone(),
        probabilities: found.probabilities.clone(),
        entropies: found.entropies.clone(),
        log_probabilities: found.log_probabilities.clone(),
        ..wide.clone()
    };
    found.assert_rows_equal(&of_f32, 0..batch.rows, context);
    assert_eq!((found.counted, found.correct), (wide.counted, wide.correct), "{context}");
    let is_nan = found.loss.is_nan() && wide.loss.is_nan();
    assert!(is_nan || found.loss.to_bits() == wide.loss.to_bits(), "{context}");
}

fn check_bounds<T: Half + Planar>() {
    for classes in (1..=40).chain([64, 127, 128, 129, 300, 1000]) {
        let batch = rounded::<T>(&Batch::random(70, classes, classes as u64));
        for builder in variants(classes) {
            for backend in backends() {
                let ce = build(&builder, backend);
                let call = PlanesCall { in_place: classes % 2 == 0, logits: PADDED, ..PlanesCall::default() };
                let found = call.evaluate_as::<T>(&ce, &batch, 2);
                let expected = Expected::new(&ce, &batch, None).rounded(T::ROUNDING);
                expected.check(&found, &format!("{} of {classes} classes, {backend}", T::NAME));
            }
        }
    }
}

fn check_inputs<T: Half + Planar>() {
    for classes in [5, 21, 128, 129, 300] {
        let rows = 90;
        let batch = rounded::<T>(&Batch::random(rows, classes, classes as u64));
        let mut random = Random::new(7);
        // Down to where products are subnormal in f16, and up to where they overflow.
        let upstream: Vec<f32> =
            (0..rows).map(|row| random.normal() * 10_f32.powi(row as i32 % 13 - 6)).collect();
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
            let builder = &variants(classes)[given % 6];
            for backend in backends() {
                let ce = build(builder, backend);
                let call =
                    PlanesCall { inputs, in_place: gives(0), outputs: PADDED, ..PlanesCall::default() };
                let found = call.evaluate_as::<T>(&ce, &batch, 2);
                let expected = Expected::of_call(&ce, &batch, inputs).rounded(T::ROUNDING);
                expected.check(&found, &format!("{} of {classes} classes, {given:#b}, {backend}", T::NAME));
            }
        }
    }
}

fn check_nan_positions<T: Half + Planar>() {
    for classes in [1, 5, 21, 128, 129, 300] {
        for positions in [1, 16, 70] {
            let batch = batch_with_nan::<T>(3 * positions, classes, classes as u64);
            for builder in variants(classes) {
                for backend in backends() {
                    let ce = build(&builder, backend);
                    let found = PlanesCall::default().evaluate_as::<T>(&ce, &batch, 3);
                    let expected = Expected::new(&ce, &batch, None).rounded(T::ROUNDING);
                    expected.check(&found, &format!("{} at {positions} positions, {backend}", T::NAME));
                }
            }
        }
    }
}

fn check_bits<T: Half + Planar>() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads can be started");
    for (classes, images, positions) in
        [(2, 3, 50_000), (21, 1, 9000), (21, 40, 300), (128, 2, 1700), (130, 1, 1500), (1000, 2, 300)]
    {
        let batch = rounded::<T>(&Batch::random(images * positions, classes, 8));
        let builder = &variants(classes)[(classes + positions) % 6];
        let mut first: Option<Evaluation> = None;
        for backend in fused_backends() {
            for parallelism in PARALLELISMS {
                let ce = builder.clone().backend(backend).parallelism(parallelism).build();
                let ce = ce.expect("the backend is available");
                for (layout, in_place) in
                    [(PlanesLayout::default(), false), (PADDED, false), (PlanesLayout::default(), true)]
                {
                    let call =
                        PlanesCall { logits: layout, outputs: layout, in_place, ..PlanesCall::default() };
                    let found = pool.install(|| call.evaluate_as::<T>(&ce, &batch, images));
                    let context = format!("{backend}, {parallelism:?}, {layout:?}, in place: {in_place}");
                    match &first {
                        None => first = Some(found),
                        Some(first) => first.assert_equal(&found, &context),
                    }
                }
            }
        }
    }
}

fn check_small_stack<T: Half + Planar>() {
    for classes in [1, 21, 128, 129, 1000] {
        let thread = std::thread::Builder::new().stack_size(64 << 10);
        let check = thread.spawn(move || {
            let batch = Batch::random(2000, classes, 15);
            let sizes = (1, classes, 2000);
            let elements: Vec<T> = batch.logits.iter().map(|&x| T::of_f32(x)).collect();
            let mut x = PlanesBuffer::holding(&elements, sizes, PlanesLayout::default());
            let mut probabilities = PlanesBuffer::unwritten(sizes, PlanesLayout::default());
            let mut lse = vec![0.0; 2000];
            let request = PlanesRequest::new().probabilities(probabilities.planes_mut()).lse(&mut lse);
            let ce = build(&CrossEntropy::builder(), Backend::detect());
            ce.run_planes_in_place(x.planes_mut(), &batch.targets, request).map(drop)
        });
        let result = check.expect("a thread can be started").join().expect("the stack is large enough");
        assert_eq!(result, Ok(()));
    }
}
