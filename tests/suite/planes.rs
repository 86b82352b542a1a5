//! Logits whose classes are not last keep every promise that rows have.
//!
//! The oracle sees the transposed copy: positions as rows.

use crate::support::batch::{Batch, IGNORE_INDEX, Random};
use crate::support::bounds::Expected;
use crate::support::evaluation::{Call, Evaluation, assert_same_bits};
use crate::support::planes::{PlanesBuffer, PlanesCall, PlanesLayout};
use crate::support::{PARALLELISMS, backends, fused_backends};
use xent::{
    Backend, CrossEntropy, CrossEntropyBuilder, Error, Matrix, MatrixMut, Parallelism, Planes, PlanesMut,
    PlanesRequest, Reduction, Smoothing,
};

/// On both sides of every number of classes at which the passes do something else.
fn class_counts() -> impl Iterator<Item = usize> {
    (1..=40).chain([64, 81, 127, 128, 129, 130, 193, 1000, 5000])
}

const POSITIONS: [usize; 10] = [1, 2, 15, 16, 17, 63, 64, 65, 100, 1000];

/// Class counts of every kind of pass: kept exponentials, and blocks of classes.
const FEW_AND_MANY: [usize; 6] = [1, 5, 21, 128, 129, 300];

const SMOOTHINGS: [Smoothing; 3] = [Smoothing::AllClasses, Smoothing::OtherClasses, Smoothing::LiveClasses];

const PADDED: PlanesLayout = PlanesLayout { offset: 3, class_padding: 5, image_padding: 7 };

fn build(builder: CrossEntropyBuilder, backend: Backend) -> CrossEntropy {
    builder.backend(backend).parallelism(Parallelism::Serial).build().expect("the options are valid")
}

fn plain(backend: Backend) -> CrossEntropy {
    build(CrossEntropy::builder(), backend)
}

/// Logits as they are, and transformed.
const TRANSFORMS: [(f64, Option<f64>); 4] = [(1.0, None), (0.7, None), (1.0, Some(5.0)), (2.3, Some(30.0))];

fn transformed(builder: CrossEntropyBuilder, (scale, softcap): (f64, Option<f64>)) -> CrossEntropyBuilder {
    builder.logit_scale(scale).softcap(softcap)
}

/// Rows of every kind, and some without a softmax.
fn batch_with_nan(rows: usize, classes: usize, seed: u64) -> Batch {
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
    batch
}

#[test]
fn every_output_keeps_the_bounds_of_rows() {
    for classes in class_counts() {
        for positions in POSITIONS {
            let images = 1 + (classes + positions) % 3;
            if classes * positions > 150_000 {
                continue;
            }
            let rows = images * positions;
            let batch = Batch::random(rows, classes, (classes * 1000 + positions) as u64);
            let builder = transformed(CrossEntropy::builder(), TRANSFORMS[(classes + positions) % 4]);
            let ce = builder.clone().build().expect("the options are valid");
            let expected = Expected::new(&ce, &batch, None);
            for backend in backends() {
                for in_place in [false, true] {
                    let call = PlanesCall { in_place, logits: PADDED, ..PlanesCall::default() };
                    let found = call.evaluate(&build(builder.clone(), backend), &batch, images);
                    expected.check(&found, &format!("{images} images, {backend}, in place: {in_place}"));
                }
            }
        }
    }
}

/// Every combination of the options, and with each the inputs in turn, so that each pair meets.
#[test]
fn options_in_combination_keep_the_bounds() {
    for classes in FEW_AND_MANY {
        let (images, positions) = (2, 45);
        let rows = images * positions;
        let mut random = Random::new(7);
        let upstream: Vec<f32> = (0..rows).map(|_| random.normal()).collect();
        let row_weights: Vec<f32> =
            (0..rows).map(|row| if row % 5 == 0 { 0.0 } else { random.between(0.1, 2.0) }).collect();
        let loss_mask: Vec<bool> = (0..rows).map(|_| random.below(3) > 0).collect();
        let weight: Vec<f32> =
            (0..classes).map(|class| if class % 4 == 3 { 0.0 } else { random.between(0.1, 3.0) }).collect();
        for options in 0..96 {
            let smoothing = SMOOTHINGS[options as usize / 32];
            let has = |option: u32| options >> option & 1 == 1;
            let mut builder = CrossEntropy::builder();
            if has(0) {
                builder = builder.weight(weight.clone());
            }
            if has(1) {
                builder = builder.label_smoothing(0.1).smoothing(smoothing);
            } else if options >= 32 {
                // The focal loss differs from row to row as well.
                builder = builder.focal_gamma(2.0);
            }
            if has(2) {
                builder = builder.z_loss(1e-3);
            }
            if has(3) {
                builder = builder.reduction(Reduction::Sum);
            }
            let mut batch = Batch::random(rows, classes, classes as u64);
            if has(4) {
                // The rows that would have been ignored have NaN for logits, and a class for a target.
                builder = builder.ignore_index(0);
                for target in batch.targets.iter_mut().filter(|target| **target == IGNORE_INDEX) {
                    *target = 0;
                }
            }
            for given in 0..8 {
                let builder = transformed(builder.clone(), TRANSFORMS[(options + given) as usize % 4]);
                let gives = |input: u32| given >> input & 1 == 1;
                let inputs = Call {
                    upstream: gives(0).then_some(&upstream[..]),
                    row_weights: gives(1).then_some(&row_weights[..]),
                    loss_mask: gives(2).then_some(&loss_mask[..]),
                    upstream_scalar: gives(0).then_some(-3.0),
                    denominator: gives(1).then_some(17.0),
                    ..Call::default()
                };
                let ce = builder.clone().build().expect("the options are valid");
                let expected = Expected::of_call(&ce, &batch, inputs);
                for backend in backends() {
                    let in_place = (options + given) % 2 == 0;
                    let call = PlanesCall { in_place, inputs, outputs: PADDED, ..PlanesCall::default() };
                    let found = call.evaluate(&build(builder.clone(), backend), &batch, images);
                    let context = format!("options {options:#b}, inputs {given:#b}, {backend}, {in_place}");
                    expected.check(&found, &context);
                }
            }
        }
    }
}

#[test]
fn a_denominator_takes_the_divisors_place() {
    let (x, targets) = ([1.0_f32, 2.0, 0.5, 0.0, -1.0, 1.0], [0_u8, 1]);
    let ce = CrossEntropy::default();
    let planes = Planes::new(&x, 1, 3, 2).expect("the slice is long enough");
    let mut grads = [[0.0; 6]; 2];
    let [mean, eighth] = grads.each_mut().map(|grad| PlanesMut::new(grad, 1, 3, 2).expect("long enough"));
    let of_mean = ce.loss_and_grad_planes(planes, &targets, mean).expect("valid");
    let request = PlanesRequest::new().denominator(8.0).grad(eighth);
    let of_eighth = ce.run_planes(planes, &targets, request).expect("valid").loss;
    assert_eq!(of_mean / 4.0, of_eighth);
    assert_eq!(grads[0].map(|g| g / 4.0), grads[1]);
}

#[test]
fn positions_without_a_softmax_are_nan_and_touch_no_other() {
    for classes in FEW_AND_MANY {
        for positions in [1, 16, 70] {
            let batch = batch_with_nan(3 * positions, classes, classes as u64);
            let smooth = CrossEntropy::builder().label_smoothing(0.2);
            let transforms = TRANSFORMS.map(|transform| transformed(CrossEntropy::builder(), transform));
            for builder in transforms.into_iter().chain([smooth]) {
                let ce = builder.clone().build().expect("the options are valid");
                let expected = Expected::new(&ce, &batch, None);
                for backend in backends() {
                    let found = PlanesCall::default().evaluate(&build(builder.clone(), backend), &batch, 3);
                    expected.check(&found, &format!("{positions} positions, {backend}"));
                }
            }
        }
    }
}

#[test]
fn logits_that_a_scale_makes_infinite_are_what_they_are_in_rows() {
    let ce = CrossEntropy::builder().logit_scale(1e37).build().expect("the options are valid");
    for classes in FEW_AND_MANY {
        let batch = batch_with_nan(70, classes, classes as u64);
        let rows = Call::default().evaluate(&ce, &batch);
        let planes = PlanesCall::default().evaluate(&ce, &batch, 2);
        assert_eq!(planes.argmax, rows.argmax, "{classes} classes");
        let is_nan = |x: &[f32]| x.iter().map(|x| x.is_nan()).collect::<Vec<_>>();
        assert_eq!(is_nan(&planes.grad), is_nan(&rows.grad), "{classes} classes");
        assert_eq!(is_nan(&planes.losses), is_nan(&rows.losses), "{classes} classes");
        assert!(planes.losses.iter().any(|loss| loss.is_nan()), "{classes} classes");
    }
}

#[test]
fn a_target_of_minus_infinity_has_an_infinite_loss_and_a_finite_gradient() {
    for classes in [5, 300] {
        let mut batch = Batch::random(40, classes, 5);
        for row in 0..40 {
            if let Ok(target) = usize::try_from(batch.targets[row]) {
                let other = (target + 1) % classes;
                batch.row_mut(row)[other] = 1.0;
                batch.row_mut(row)[target] = f32::NEG_INFINITY;
            }
        }
        let ce = CrossEntropy::default();
        let expected = Expected::new(&ce, &batch, None);
        for backend in backends() {
            let found = PlanesCall::default().evaluate(&plain(backend), &batch, 2);
            expected.check(&found, &format!("{backend}"));
            assert_eq!(found.loss, f64::INFINITY);
        }
    }
}

/// Where the largest logit is 0 and no target, lse is what little the others add.
#[test]
fn lse_near_0_keeps_its_digits() {
    for classes in [2, 3, 21, 128, 129, 300] {
        let mut random = Random::new(classes as u64);
        let mut batch = Batch::random(100, classes, 6);
        for row in 0..batch.rows {
            let leader = random.below(classes);
            let depth = random.between(10.0, 80.0);
            for x in batch.row_mut(row) {
                *x = -depth - random.between(0.0, 5.0);
            }
            batch.row_mut(row)[leader] = random.below(2) as f32 * 0.01;
            batch.targets[row] = random.below(classes) as i64;
        }
        let ce = CrossEntropy::default();
        let expected = Expected::new(&ce, &batch, None);
        for backend in backends() {
            for in_place in [false, true] {
                let call = PlanesCall { in_place, ..PlanesCall::default() };
                expected.check(&call.evaluate(&plain(backend), &batch, 1), &format!("{backend}"));
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_layout_threads_place_or_fused_backend() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads can be started");
    for (classes, images, positions) in
        [(2, 3, 50_000), (21, 1, 9000), (21, 40, 300), (128, 2, 1700), (130, 1, 1500), (1000, 2, 300)]
    {
        let batch = batch_with_nan(images * positions, classes, 8);
        let builder = CrossEntropy::builder().label_smoothing(0.1).z_loss(1e-4);
        let builder = transformed(builder, TRANSFORMS[(classes + positions) % 4]);
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
                    let found = pool.install(|| call.evaluate(&ce, &batch, images));
                    let context = format!("{backend}, {parallelism:?}, {layout:?}, in place: {in_place}");
                    match &first {
                        None => first = Some(found),
                        Some(first) => assert_same_evaluation(first, &found, &context),
                    }
                }
            }
        }
    }
}

/// NaN losses have no bits to compare.
fn assert_same_evaluation(first: &Evaluation, second: &Evaluation, context: &str) {
    first.assert_rows_equal(second, 0..first.losses.len(), context);
    assert!(first.loss.to_bits() == second.loss.to_bits() || first.loss.is_nan() && second.loss.is_nan());
    assert_eq!((first.counted, first.correct), (second.counted, second.correct), "{context}");
}

#[test]
fn the_reduced_loss_has_the_same_bits_over_threads() {
    for (classes, images, positions) in [(3, 1, 200_000), (21, 5, 9000), (300, 1, 2000), (40, 3000, 3)] {
        let batch = Batch::random(images * positions, classes, 9);
        let x = PlanesBuffer::holding(&batch.logits, (images, classes, positions), PlanesLayout::default());
        let mut losses = Vec::new();
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.expect("threads can be started");
            for parallelism in PARALLELISMS {
                let ce = CrossEntropy::builder().parallelism(parallelism).build().expect("valid");
                let loss = pool.install(|| ce.loss_planes(x.planes(), &batch.targets)).expect("valid");
                losses.push(loss.to_bits());
            }
        }
        assert!(losses.iter().all(|&loss| loss == losses[0]), "{classes} x {positions}: {losses:?}");
    }
}

/// Neither its neighbours, nor where it is, nor the other outputs of the call change a bit of a position.
#[test]
fn bits_of_a_position_depend_on_it_alone() {
    for classes in FEW_AND_MANY {
        for (backend, transform) in backends().into_iter().flat_map(|it| TRANSFORMS.map(|with| (it, with))) {
            let builder = CrossEntropy::builder().reduction(Reduction::Sum).label_smoothing(0.1);
            let ce = build(transformed(builder, transform), backend);
            let batch = Batch::random(210, classes, 10);
            let whole = PlanesCall::default().evaluate(&ce, &batch, 1);
            for images in [2, 3, 10, 210] {
                let found = PlanesCall::default().evaluate(&ce, &batch, images);
                found.assert_rows_equal(&whole, 0..210, &format!("{images} images, {backend}"));
            }
            for range in [0..1, 3..20, 37..210] {
                let part = PlanesCall::default().evaluate(&ce, &batch.select(range.clone()), 1);
                part.assert_rows_equal(&whole, range, &format!("a part, {backend}"));
            }
            assert_outputs_alone(&ce, &batch, &whole);
        }
    }
}

fn assert_outputs_alone(ce: &CrossEntropy, batch: &Batch, whole: &Evaluation) {
    let sizes = (3, batch.classes, batch.rows / 3);
    let mut x = PlanesBuffer::holding(&batch.logits, sizes, PlanesLayout::default());
    let mut grad = PlanesBuffer::unwritten(sizes, PADDED);
    let targets = &batch.targets;
    ce.loss_and_grad_planes(x.planes(), targets, grad.planes_mut()).expect("the batch is valid");
    assert_same_bits("grad alone", batch.classes, &grad.rows(), &whole.grad, "");
    let mut probabilities = PlanesBuffer::unwritten(sizes, PADDED);
    let request = PlanesRequest::new().probabilities(probabilities.planes_mut());
    ce.run_planes(x.planes(), targets, request).expect("the batch is valid");
    assert_same_bits("probabilities alone", batch.classes, &probabilities.rows(), &whole.probabilities, "");
    let mut lse = vec![0.0; batch.rows];
    ce.run_planes(x.planes(), targets, PlanesRequest::new().lse(&mut lse)).expect("the batch is valid");
    assert_same_bits("lse alone", 1, &lse, &whole.lse, "");
    ce.loss_and_grad_planes_in_place(x.planes_mut(), targets).expect("the batch is valid");
    assert_same_bits("grad in place", batch.classes, &x.rows(), &whole.grad, "");
}

/// The same rows, transposed: the same within twice the bounds of rounding, which other tests hold to the oracle.
#[test]
fn planes_agree_with_their_transposition() {
    let (images, classes, positions) = (2, 21, 333);
    let batch = Batch::random(images * positions, classes, 12);
    for transform in TRANSFORMS {
        let ce = transformed(CrossEntropy::builder(), transform).build().expect("the options are valid");
        let mut grad = vec![0.0; batch.logits.len()];
        let rows = Matrix::new(&batch.logits, batch.rows, classes).expect("valid");
        let grad_rows = MatrixMut::new(&mut grad, batch.rows, classes).expect("valid");
        ce.loss_and_grad(rows, &batch.targets, grad_rows).expect("valid");
        let found = PlanesCall::default().evaluate(&ce, &batch, images);
        // Few classes take the same steps in the same order, transposed or not.
        assert_same_bits("grad", classes, &found.grad, &grad, "transposed");
    }
}

#[test]
fn strides_of_a_read_view_may_be_in_any_order() {
    let (images, classes, positions) = (3, 4, 20);
    let batch = Batch::random(images * positions, classes, 13);
    let ce = CrossEntropy::default();
    let whole = PlanesCall::default().evaluate(&ce, &batch, images);
    let mut class_first = vec![0.0; batch.logits.len()];
    for row in 0..batch.rows {
        for class in 0..classes {
            class_first[class * batch.rows + row] = batch.row(row)[class];
        }
    }
    let planes = Planes::with_strides(&class_first, (images, classes, positions), positions, batch.rows);
    let planes = planes.expect("the slice is long enough");
    let mut grad = PlanesBuffer::unwritten((images, classes, positions), PADDED);
    let loss = ce.loss_and_grad_planes(planes, &batch.targets, grad.planes_mut()).expect("valid");
    assert_eq!(loss.to_bits(), whole.loss.to_bits());
    assert_same_bits("grad", classes, &grad.rows(), &whole.grad, "(C, N, P)");
}

#[test]
fn every_target_type_counts_alike() {
    let x = [0.5_f32, 1.0, 1.5, -1.0, 0.0, 1.0];
    let planes = Planes::new(&x, 1, 2, 3).expect("the slice is long enough");
    let ce = CrossEntropy::builder().ignore_index(7).build().expect("valid");
    let loss = ce.loss_planes(planes, &[0_u8, 7, 1]).expect("valid");
    assert_eq!(loss, ce.loss_planes(planes, &[0_u16, 7, 1]).expect("valid"));
    assert_eq!(loss, ce.loss_planes(planes, &[0_u32, 7, 1]).expect("valid"));
    assert_eq!(loss, ce.loss_planes(planes, &[0_u64, 7, 1]).expect("valid"));
    assert_eq!(loss, ce.loss_planes(planes, &[0_usize, 7, 1]).expect("valid"));
    assert_eq!(loss, ce.loss_planes(planes, &[0_i32, 7, 1]).expect("valid"));
    assert_eq!(loss, ce.loss_planes(planes, &[0_i64, 7, 1]).expect("valid"));
}

#[test]
fn nothing_to_count_is_no_error() {
    let ce = CrossEntropy::default();
    let none: [i64; 0] = [];
    for (images, classes, positions) in [(0, 3, 4), (2, 3, 0), (0, 0, 0), (3, 0, 0)] {
        let planes = Planes::<f32>::new(&[], images, classes, positions).expect("there are no elements");
        assert!(ce.loss_planes(planes, &none).expect("valid").is_nan());
        let planes =
            PlanesMut::<f32>::new(&mut [], images, classes, positions).expect("there are no elements");
        assert!(ce.loss_and_grad_planes_in_place(planes, &none).expect("valid").is_nan());
    }
}

#[test]
fn views_refuse_what_does_not_fit_or_overlaps() {
    let x = [0.0; 24];
    let short = Error::BufferTooShort { required: 24, actual: 23 };
    assert_eq!(Planes::new(&x[..23], 2, 3, 4).unwrap_err(), short);
    assert!(Planes::with_strides(&x, (2, 3, 4), 12, 4).is_ok());
    // The last image needs no padding behind it.
    assert!(Planes::with_strides(&x[..23], (2, 2, 3), 16, 4).is_ok());
    let short = Error::BufferTooShort { required: 23, actual: 22 };
    assert_eq!(Planes::with_strides(&x[..22], (2, 2, 3), 16, 4).unwrap_err(), short);
    for sizes in [(usize::MAX, 2, 1), (2, usize::MAX, 2), (usize::MAX, 0, 2)] {
        let (images, classes, positions) = sizes;
        let overflow = Error::PlanesOverflow { images, classes, positions };
        assert_eq!(Planes::new(&x, images, classes, positions).unwrap_err(), overflow);
        assert_eq!(PlanesMut::new(&mut x.clone(), images, classes, positions).unwrap_err(), overflow);
    }
    let overflow = Error::PlanesOverflow { images: 2, classes: 3, positions: 4 };
    assert_eq!(Planes::with_strides(&x, (2, 3, 4), usize::MAX, 4).unwrap_err(), overflow);
    assert_eq!(Planes::with_strides(&x, (2, 3, 4), 4, usize::MAX).unwrap_err(), overflow);

    // Read, the planes may overlap, of as many elements as there are places; written, they may not.
    assert!(Planes::with_strides(&x, (2, 3, 4), 0, 0).is_ok());
    let short = Error::BufferTooShort { required: 24, actual: 23 };
    assert_eq!(Planes::with_strides(&x[..23], (2, 3, 4), 0, 0).unwrap_err(), short);
    let short = Error::BufferTooShort { required: 1 << 59, actual: 1 };
    assert_eq!(Planes::with_strides(&x[..1], (1, 1 << 59, 1), 1, 0).unwrap_err(), short);
    for (image_stride, class_stride) in [(12, 3), (11, 4), (0, 4), (12, 0), (4, 8)] {
        let overlap = Error::PlanesOverlap { classes: 3, positions: 4, image_stride, class_stride };
        let view = PlanesMut::with_strides(&mut x.clone(), (2, 3, 4), image_stride, class_stride).map(drop);
        assert_eq!(view.unwrap_err(), overlap);
    }
    assert!(PlanesMut::with_strides(&mut x.clone(), (1, 3, 4), 0, 4).is_ok());
    assert!(PlanesMut::with_strides(&mut x.clone(), (2, 1, 4), 4, 0).is_ok());
}

#[test]
fn views_give_their_planes() {
    let x: Vec<f32> = (0..24_u8).map(f32::from).collect();
    let planes = Planes::with_strides(&x, (2, 2, 3), 12, 5).expect("the slice is long enough");
    assert_eq!(planes.plane(1, 1), Some(&[17.0, 18.0, 19.0][..]));
    assert_eq!((planes.plane(2, 0), planes.plane(0, 2)), (None, None));
    assert_eq!((planes.images(), planes.classes(), planes.positions()), (2, 2, 3));
    assert_eq!((planes.image_stride(), planes.class_stride()), (12, 5));
    let mut copy = x.clone();
    let mut planes = PlanesMut::with_strides(&mut copy, (2, 2, 3), 12, 5).expect("long enough");
    assert_eq!((planes.image_stride(), planes.class_stride()), (12, 5));
    planes.reborrow().plane_mut(0, 1).expect("there is one").fill(-1.0);
    assert_eq!(planes.as_planes().plane(0, 1), Some(&[-1.0; 3][..]));
    assert_eq!(planes.plane_mut(0, 2), None);
    assert_eq!(copy[4..9], [4.0, -1.0, -1.0, -1.0, 8.0]);
}

/// One wrong argument each, and nothing is written.
#[test]
fn errors_leave_every_output_untouched() {
    let (images, classes, positions) = (2, 3, 5);
    let sizes = (images, classes, positions);
    let rows = images * positions;
    let batch = Batch::random(rows, classes, 14);
    let mut wrong_target = batch.targets.clone();
    wrong_target[7] = 3;
    // What is wrong, the targets, what is longer than it should be, the denominator, and the error.
    type Case<'a> = (&'a str, &'a [i64], [usize; 5], f64, Error);
    let cases: [Case<'_>; 8] = [
        ("targets", &batch.targets[1..], [0; 5], 1.0, mismatch("targets", rows, rows - 1)),
        ("target", &wrong_target, [0; 5], 1.0, Error::TargetOutOfRange { row: 7, target: 3, classes: 3 }),
        ("losses", &batch.targets, [1, 0, 0, 0, 0], 1.0, mismatch("losses", rows, rows + 1)),
        ("lse", &batch.targets, [0, 1, 0, 0, 0], 1.0, mismatch("lse", rows, rows + 1)),
        ("argmax", &batch.targets, [0, 0, 1, 0, 0], 1.0, mismatch("argmax", rows, rows + 1)),
        ("upstream", &batch.targets, [0, 0, 0, 1, 0], 1.0, mismatch("upstream", rows, rows + 1)),
        (
            "probabilities",
            &batch.targets,
            [0, 0, 0, 0, 1],
            1.0,
            Error::PlanesMismatch { argument: "probabilities", expected: sizes, actual: (2, 3, 6) },
        ),
        ("denominator", &batch.targets, [0; 5], 0.0, Error::InvalidDenominator { denominator: 0.0 }),
    ];
    let weighted = CrossEntropy::builder().weight([1.0; 4]).build().expect("valid");
    for (name, targets, extra, denominator, expected) in cases {
        for in_place in [false, true] {
            let error =
                failing_call(&CrossEntropy::default(), &batch, sizes, targets, extra, denominator, in_place);
            assert_eq!(error, expected, "{name}");
        }
    }
    let error = failing_call(&weighted, &batch, sizes, &batch.targets, [0; 5], 1.0, false);
    assert_eq!(error, mismatch("weight", 3, 4));
    let planes = Planes::<f32>::new(&[], 2, 0, 5).expect("there are no elements");
    let error = CrossEntropy::default().loss_planes(planes, &[0; 10]).unwrap_err();
    assert_eq!(error, Error::NoClasses { rows: 10 });

    let mut grad = PlanesBuffer::unwritten((2, 3, 4), PADDED);
    let mut x = PlanesBuffer::holding(&batch.logits, sizes, PADDED);
    let error = CrossEntropy::default().loss_and_grad_planes(x.planes(), &batch.targets, grad.planes_mut());
    let expected = Error::PlanesMismatch { argument: "grad", expected: sizes, actual: (2, 3, 4) };
    assert_eq!(error.unwrap_err(), expected);
    let request = PlanesRequest::new().grad(grad.planes_mut());
    let error = CrossEntropy::default().run_planes_in_place(x.planes_mut(), &batch.targets, request);
    assert_eq!(error.unwrap_err(), Error::GradTwice);
    grad.assert_unwritten("grad");
}

fn mismatch(argument: &'static str, expected: usize, actual: usize) -> Error {
    Error::LengthMismatch { argument, expected, actual }
}

/// Every output is asked for; so much longer than they should be are losses, lse, argmax, upstream and probabilities.
fn failing_call(
    ce: &CrossEntropy,
    batch: &Batch,
    sizes: (usize, usize, usize),
    targets: &[i64],
    extra: [usize; 5],
    denominator: f64,
    in_place: bool,
) -> Error {
    let (images, classes, positions) = sizes;
    let mut x = PlanesBuffer::holding(&batch.logits, sizes, PADDED);
    let mut grad = PlanesBuffer::unwritten(sizes, PADDED);
    let mut probabilities = PlanesBuffer::unwritten((images, classes, positions + extra[4]), PADDED);
    let mut losses = vec![5.0; batch.rows + extra[0]];
    let mut lse = vec![5.0; batch.rows + extra[1]];
    let mut argmax = vec![5; batch.rows + extra[2]];
    let upstream = vec![1.0; batch.rows + extra[3]];
    let request = PlanesRequest::new()
        .losses(&mut losses)
        .lse(&mut lse)
        .argmax(&mut argmax)
        .upstream(&upstream)
        .denominator(denominator)
        .probabilities(probabilities.planes_mut());
    let result = if in_place {
        ce.run_planes_in_place(x.planes_mut(), targets, request)
    } else {
        ce.run_planes(x.planes(), targets, request.grad(grad.planes_mut()))
    };
    assert_same_bits("logits", classes, &x.rows(), &batch.logits, "after an error");
    grad.assert_unwritten("grad");
    probabilities.assert_unwritten("probabilities");
    assert!(losses.iter().chain(&lse).all(|&x| x == 5.0) && argmax.iter().all(|&class| class == 5));
    result.expect_err("an argument is wrong")
}

#[test]
fn a_stack_of_64_kilobytes_will_do() {
    for classes in [1, 21, 128, 129, 1000] {
        let thread = std::thread::Builder::new().stack_size(64 << 10);
        let check = thread.spawn(move || {
            let batch = Batch::random(2000, classes, 15);
            let sizes = (1, classes, 2000);
            let mut x = PlanesBuffer::holding(&batch.logits, sizes, PlanesLayout::default());
            let mut probabilities = PlanesBuffer::unwritten(sizes, PlanesLayout::default());
            let mut lse = vec![0.0; 2000];
            let request = PlanesRequest::new().probabilities(probabilities.planes_mut()).lse(&mut lse);
            plain(Backend::detect()).run_planes_in_place(x.planes_mut(), &batch.targets, request).map(drop)
        });
        let result = check.expect("a thread can be started").join().expect("the stack is large enough");
        assert_eq!(result, Ok(()));
    }
}
