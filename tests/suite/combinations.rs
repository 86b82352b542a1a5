//! Every option with every other: pairs of option values, all of them, against the scalar reference.
//!
//! An option is one row of [`AXES`], its number of values and how a case uses them; [`Case`] turns the values into a loss
//! and a call. The oracle and the bounds know all options by themselves.

use crate::support::backends;
use crate::support::batch::{Batch, IGNORE_INDEX, Random};
use crate::support::bounds::{Expected, Rounding};
use crate::support::covering::pairwise;
use crate::support::curvature::{CurvatureCall, Problem};
use crate::support::double_bounds::{self, Shares};
use crate::support::double_shards::evaluate_shards;
use crate::support::doubles::{self, Doubles};
use crate::support::evaluation::{Call, Evaluation, assert_same_bits};
#[cfg(feature = "half")]
use crate::support::half_curvature::check_halves;
#[cfg(feature = "half")]
use crate::support::halves::{self, Half};
use crate::support::other_grad::{self, assert_rounded_once, gradient_as};
use crate::support::shards::Split;
#[cfg(feature = "half")]
use xent::contract::U;
use xent::{
    Backend, CrossEntropy, CrossEntropyBuilder, EmptyMean, Matrix, MatrixMut, Parallelism, Reduction,
    Request, Smoothing, reference,
};

/// An option: its name, and how many values of it there are. Targets that are probabilities allow those that
/// [`counts`] says.
type Axis = (&'static str, fn() -> usize);

/// What targets are. Each kind meets every value that it allows, together with every value of any other option.
#[derive(Clone, Copy, Debug, PartialEq)]
enum TargetKind {
    Classes,
    Probabilities,
}

const TARGET_KINDS: [TargetKind; 2] = [TargetKind::Classes, TargetKind::Probabilities];

/// Add an option here, and what it means in [`Case`].
const AXES: [Axis; 18] = [
    ("shape", || SHAPES.len()),
    ("weight", || 3),
    ("row weights", || 2),
    ("label smoothing", || LABEL_SMOOTHING.len()),
    ("smoothing", || SMOOTHING.len()),
    ("focal", || FOCAL_GAMMA.len()),
    ("z-loss", || Z_LOSS.len()),
    ("logit scale", || LOGIT_SCALE.len()),
    ("softcap", || SOFTCAP.len()),
    ("reduction", || REDUCTIONS.len()),
    ("denominator", || DENOMINATORS.len()),
    ("upstream", || 4),
    ("rows that count", || 5),
    ("dtype", || DTYPES.len()),
    ("dtype of the gradient", || 1 + other_grad::Dtype::ALL.len()),
    ("backend", || backends().len()),
    ("threads", || PARALLELISMS.len()),
    ("place", || PLACES.len()),
];

/// Rows and classes: of every kernel, with whole and incomplete vectors of rows.
const SHAPES: [(usize, usize); 10] =
    [(21, 1), (37, 2), (19, 3), (33, 10), (20, 64), (21, 128), (11, 130), (10, 1000), (5, 2049), (2, 70_000)];
const LABEL_SMOOTHING: [f64; 4] = [0.0, 0.1, 0.75, 1.0];
const SMOOTHING: [Smoothing; 3] = [Smoothing::AllClasses, Smoothing::OtherClasses, Smoothing::LiveClasses];
const FOCAL_GAMMA: [f64; 4] = [0.0, 0.5, 2.0, 5.0];
const Z_LOSS: [f64; 2] = [0.0, 0.3];
const LOGIT_SCALE: [f64; 3] = [1.0, 0.5, 2.3];
const SOFTCAP: [Option<f64>; 3] = [None, Some(30.0), Some(2.6)];
const REDUCTIONS: [Reduction; 2] = [Reduction::Mean, Reduction::Sum];
const DENOMINATORS: [Option<f64>; 2] = [None, Some(7.5)];
const PARALLELISMS: [Parallelism; 2] = [Parallelism::Serial, Parallelism::Rayon];
const PLACES: [Place; 3] = [Place::Out, Place::In, Place::Added];

#[cfg(feature = "half")]
const DTYPES: [Dtype; 4] = [Dtype::F32, Dtype::F64, Dtype::Bf16, Dtype::F16];
#[cfg(not(feature = "half"))]
const DTYPES: [Dtype; 2] = [Dtype::F32, Dtype::F64];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Dtype {
    F32,
    /// Its outputs are compared with numbers of twice the precision.
    F64,
    #[cfg(feature = "half")]
    Bf16,
    #[cfg(feature = "half")]
    F16,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Out,
    In,
    /// Out of place, added to what is there.
    Added,
}

/// One value of each axis.
struct Case {
    name: String,
    batch: Batch,
    target_probabilities: Option<Vec<f32>>,
    builder: CrossEntropyBuilder,
    dtype: Dtype,
    /// If it is not that of the logits. A gradient in their place has no other.
    dtype_of_gradient: Option<other_grad::Dtype>,
    backend: Backend,
    parallelism: Parallelism,
    place: Place,
    upstream: Option<Vec<f32>>,
    upstream_scalar: Option<f64>,
    row_weights: Option<Vec<f32>>,
    loss_mask: Option<Vec<bool>>,
    denominator: Option<f64>,
}

/// How many values each option has that such targets allow: the first ones of all.
fn counts(kind: TargetKind) -> Vec<usize> {
    let allowed = |(name, count): &Axis| match (kind, *name) {
        // Smoothing of all classes, and no focal loss.
        (TargetKind::Probabilities, "smoothing" | "focal") => 1,
        _ => count(),
    };
    AXES.iter().map(allowed).collect()
}

/// All cases, of shapes with at most so many logits.
fn cases(most_logits: usize) -> impl Iterator<Item = Case> {
    TARGET_KINDS.into_iter().flat_map(move |kind| cases_of(kind, most_logits))
}

fn cases_of(kind: TargetKind, most_logits: usize) -> impl Iterator<Item = Case> {
    let shapes = SHAPES.iter().filter(|(rows, classes)| rows * classes <= most_logits).count();
    let cases = pairwise(&[&[shapes], &counts(kind)[1..]].concat());
    cases.into_iter().enumerate().map(move |(index, values)| Case::new(kind, index as u64, &values))
}

impl Case {
    fn new(kind: TargetKind, seed: u64, values: &[usize]) -> Self {
        let name: Vec<_> =
            AXES.iter().zip(values).map(|((name, _), value)| format!("{name} {value}")).collect();
        let value = |axis: &str| {
            let index = AXES.iter().position(|(name, _)| *name == axis).expect("there is such an axis");
            values[index]
        };
        let (rows, classes) = SHAPES[value("shape")];
        let mut batch = Batch::random(rows, classes, seed);
        let mut random = Random::new(seed + 1000);
        let mut builder = CrossEntropy::builder()
            .label_smoothing(LABEL_SMOOTHING[value("label smoothing")])
            .smoothing(SMOOTHING[value("smoothing")])
            .focal_gamma(FOCAL_GAMMA[value("focal")])
            .z_loss(Z_LOSS[value("z-loss")])
            .logit_scale(LOGIT_SCALE[value("logit scale")])
            .softcap(SOFTCAP[value("softcap")])
            .reduction(REDUCTIONS[value("reduction")]);
        match value("weight") {
            0 => {}
            1 => builder = builder.weight(with_zeros(classes, &mut random)),
            _ => builder = builder.weight(vec![0.3; classes]),
        }

        // Rows with IGNORE_INDEX are full of NaN.
        let is_padding: Vec<bool> = batch.targets.iter().map(|&target| target == IGNORE_INDEX).collect();
        let mut loss_mask = None;
        match value("rows that count") {
            0 => {}
            1 => builder = builder.ignore_indices([IGNORE_INDEX, 0, 1 << 40]),
            2 => {
                builder = builder.ignore_index(None);
                batch.make_rows_count(&mut random);
            }
            3 => {
                // The mask hides whatever stands there.
                builder = builder.ignore_index(None);
                loss_mask = Some(is_padding.iter().map(|is_padding| !is_padding).collect());
            }
            _ => {
                builder = builder.ignore_indices([IGNORE_INDEX, -1]);
                batch.targets[rows / 2] = -1;
                loss_mask = Some((0..rows).map(|row| row % 3 != 1).collect());
            }
        }
        let dtype = DTYPES[value("dtype")];
        if kind == TargetKind::Probabilities && value("rows that count") != 3 {
            // No index is ignored, whatever the options say.
            batch.make_rows_count(&mut random);
        }
        let batch = dtype.rounded(batch);
        let target_probabilities =
            (kind == TargetKind::Probabilities).then(|| batch.distributions(&mut random));
        let upstream: Vec<f32> = (0..rows).map(|_| random.normal()).collect();
        let (has_upstream, has_scalar) = (value("upstream") % 2 == 1, value("upstream") / 2 == 1);
        Self {
            name: format!("{kind:?}, {}", name.join(", ")),
            batch,
            target_probabilities,
            builder,
            dtype,
            dtype_of_gradient: value("dtype of the gradient")
                .checked_sub(1)
                .map(|i| other_grad::Dtype::ALL[i]),
            backend: backends()[value("backend")],
            parallelism: PARALLELISMS[value("threads")],
            place: PLACES[value("place")],
            upstream: has_upstream.then_some(upstream),
            upstream_scalar: has_scalar.then_some(-1.5),
            row_weights: (value("row weights") == 1).then(|| with_zeros(rows, &mut random)),
            loss_mask,
            denominator: DENOMINATORS[value("denominator")],
        }
    }

    fn cross_entropy(&self) -> CrossEntropy {
        let builder = self.builder.clone().backend(self.backend).parallelism(self.parallelism);
        builder.build().expect("the options are valid")
    }

    /// With a direction in each row.
    fn problem(&self, seed: u64) -> Problem {
        Problem {
            upstream: self.upstream.clone(),
            upstream_scalar: self.upstream_scalar,
            row_weights: self.row_weights.clone(),
            loss_mask: self.loss_mask.clone(),
            denominator: self.denominator,
            ..Problem::of_batch(self.batch.clone(), seed)
        }
    }

    fn call(&self) -> Call<'_> {
        Call {
            target_probabilities: self.target_probabilities.as_deref(),
            upstream: self.upstream.as_deref(),
            upstream_scalar: self.upstream_scalar,
            row_weights: self.row_weights.as_deref(),
            loss_mask: self.loss_mask.as_deref(),
            denominator: self.denominator,
            in_place: self.place == Place::In,
            ..Call::default()
        }
    }
}

impl Dtype {
    /// The batch with logits that this type has.
    fn rounded(self, batch: Batch) -> Batch {
        match self {
            Self::F32 | Self::F64 => batch,
            #[cfg(feature = "half")]
            Self::Bf16 => halves::rounded::<half::bf16>(&batch),
            #[cfg(feature = "half")]
            Self::F16 => halves::rounded::<half::f16>(&batch),
        }
    }

    /// As one of logits whose gradient may have another; that of `f64` has checks of its own.
    fn of_logits(self) -> other_grad::Dtype {
        match self {
            Self::F32 | Self::F64 => other_grad::Dtype::F32,
            #[cfg(feature = "half")]
            Self::Bf16 => other_grad::Dtype::Bf16,
            #[cfg(feature = "half")]
            Self::F16 => other_grad::Dtype::F16,
        }
    }

    /// Every output of a call on logits of this type, and how those as wide as the logits are rounded.
    fn evaluate(self, call: &Call<'_>, ce: &CrossEntropy, batch: &Batch) -> (Evaluation, Rounding) {
        match self {
            Self::F32 | Self::F64 => (call.evaluate(ce, batch), Rounding::F32),
            #[cfg(feature = "half")]
            Self::Bf16 => (halves::evaluate::<half::bf16>(call, ce, batch), half::bf16::ROUNDING),
            #[cfg(feature = "half")]
            Self::F16 => (halves::evaluate::<half::f16>(call, ce, batch), half::f16::ROUNDING),
        }
    }
}

/// Weights, every fifth of them 0, but for the last: something may count.
fn with_zeros(len: usize, random: &mut Random) -> Vec<f32> {
    let weight = |i: usize| if i % 5 == 1 && i + 1 < len { 0.0 } else { random.between(0.01, 4.0) };
    (0..len).map(weight).collect()
}

#[test]
fn every_pair_of_values_is_in_some_case() {
    for kind in TARGET_KINDS {
        let counts = counts(kind);
        let cases = pairwise(&counts);
        println!("{} cases of {kind:?}", cases.len());
        assert!(cases.iter().all(|case| case.iter().zip(&counts).all(|(value, count)| value < count)));
        for first in 0..counts.len() {
            for second in first + 1..counts.len() {
                for pair in 0..counts[first] * counts[second] {
                    let (a, b) = (pair / counts[second], pair % counts[second]);
                    assert!(
                        cases.iter().any(|case| case[first] == a && case[second] == b),
                        "{} {a} and {} {b} with {kind:?}",
                        AXES[first].0,
                        AXES[second].0
                    );
                }
            }
        }
    }
}

#[test]
fn every_pair_of_options_keeps_the_bounds() {
    let mut shares = Shares::default();
    for case in cases(usize::MAX) {
        let (ce, call) = (case.cross_entropy(), case.call());
        if case.dtype == Dtype::F64 {
            let batch = Doubles::near(&case.batch);
            let found = doubles::evaluate(&call, &ce, &batch);
            found.assert_no_subnormal(&case.name);
            double_bounds::check(&ce, &batch, &call, &found, false, &mut shares, &case.name);
            if let Some(grad) = case.dtype_of_gradient {
                assert_rounded_once(grad, &call, &ce, &batch, &found.grad, &case.name);
            }
            continue;
        }
        let (mut found, rounding) = case.dtype.evaluate(&call, &ce, &case.batch);
        found.assert_no_subnormal(&case.name);
        let expected = Expected::of_call(&ce, &case.batch, call).rounded(rounding);
        expected.check(&found, &case.name);
        if let Some(grad) = case.dtype_of_gradient {
            let summary;
            let dtypes = (case.dtype.of_logits(), grad);
            (found.grad, summary) = gradient_as(dtypes, &call, &ce, &case.batch, None);
            assert_eq!(summary.loss.to_bits(), found.loss.to_bits(), "{}", case.name);
            expected.with_gradient_rounded(grad.rounding()).check(&found, &case.name);
        }
    }
    shares.print();
}

#[test]
fn every_pair_of_options_keeps_the_bounds_in_shards() {
    let mut shares = Shares::default();
    for (seed, case) in cases_of(TargetKind::Classes, usize::MAX).enumerate() {
        let (ce, call) = (case.cross_entropy(), case.call());
        let expected = Expected::of_call(&ce, &case.batch, call);
        let mut random = Random::new(seed as u64);
        for most_shards in [1, 3, 9] {
            let split = Split::random(case.batch.classes, most_shards, &mut random);
            let context = format!("{split:?}, {}", case.name);
            if case.dtype == Dtype::F64 {
                let batch = Doubles::near(&case.batch);
                let found = evaluate_shards(&split, &call, &ce, &batch);
                found.assert_no_subnormal(&context);
                double_bounds::check(&ce, &batch, &call, &found, false, &mut shares, &context);
                continue;
            }
            let found = split.evaluate_call(&call, &ce, &case.batch);
            found.assert_no_subnormal(&context);
            expected.check(&found, &context);
        }
    }
    shares.print();
}

/// On logits of `f32`, which has the numbers of another dtype; and on those of 16 bits, which have what it has, rounded.
/// `tests/suite/curvature.rs` has all combinations of what the loss is made of, for more numbers of classes, and
/// `tests/suite/double_curvature.rs` those of `f64`.
#[test]
fn every_pair_of_options_keeps_the_bounds_of_second_derivatives_on_every_backend() {
    for (seed, mut case) in cases_of(TargetKind::Classes, usize::MAX).enumerate() {
        let problem = case.problem(seed as u64);
        let call = CurvatureCall { in_place: case.place == Place::In, ..CurvatureCall::default() };
        for backend in backends() {
            case.backend = backend;
            let ce = case.cross_entropy();
            let context = format!("{backend}, {}", case.name);
            call.evaluate(&ce, &problem).check(&ce, &problem, &context);
            #[cfg(feature = "half")]
            {
                check_halves::<half::bf16>(&ce, &problem, call.inputs, &context);
                check_halves::<half::f16>(&ce, &problem, call.inputs, &context);
            }
        }
    }
}

#[test]
fn every_pair_of_options_gives_the_same_bits_when_only_the_gradient_is_asked_for_or_added() {
    for case in cases(usize::MAX) {
        let (ce, call) = (case.cross_entropy(), case.call());
        let expected = call.evaluate(&ce, &case.batch);
        let Batch { rows, classes, ref logits, .. } = case.batch;
        let mut random = Random::new(2);
        // Numbers of both signs, and of the kind that must not be stored.
        let before: Vec<f32> = (0..rows * classes)
            .map(|i| if i % 7 == 3 { f32::from_bits(12_345) } else { random.normal() })
            .collect();
        let mut grad = before.clone();
        let x = Matrix::new(logits, rows, classes).expect("the shape fits");
        let summary = match case.place {
            Place::Out => {
                let request = call.request().grad(matrix_mut(&mut grad, rows, classes));
                call.run(&ce, x, &case.batch, request)
            }
            Place::Added => {
                let request = call.request().accumulate(matrix_mut(&mut grad, rows, classes));
                call.run(&ce, x, &case.batch, request)
            }
            Place::In => {
                grad.copy_from_slice(logits);
                call.run_in_place(&ce, matrix_mut(&mut grad, rows, classes), &case.batch, call.request())
            }
        };
        let summary = summary.expect("the batch is valid");
        let mut expected_grad = expected.grad.clone();
        if case.place == Place::Added {
            for (i, expected) in expected_grad.iter_mut().enumerate() {
                let sum = before[i] + *expected;
                let normal = if sum.is_subnormal() { 0.0 } else { sum };
                *expected = if call.counts(&ce, &case.batch, i / classes) { normal } else { before[i] };
            }
        }
        assert_same_bits("grad", classes, &grad, &expected_grad, &case.name);
        assert_eq!(summary.loss.to_bits(), expected.loss.to_bits(), "{}", case.name);
    }
}

/// Masked classes, masked targets, and rows with a single live class.
#[test]
fn smoothing_over_live_classes_keeps_the_bounds_whatever_is_masked() {
    for backend in backends() {
        for (rows, classes) in SHAPES {
            let mut batch = Batch::random(rows, classes, 4);
            let mut random = Random::new(5);
            batch.make_rows_count(&mut random);
            for row in 0..rows {
                let target = batch.targets[row] as usize;
                let is_live = |column: usize| match row % 4 {
                    0 => column.is_multiple_of(3) || column == target,
                    1 => column == target,
                    2 => column != target || classes == 1,
                    _ => true,
                };
                for (column, x) in batch.row_mut(row).iter_mut().enumerate() {
                    *x = if is_live(column) { 2.0 * random.normal() } else { f32::NEG_INFINITY };
                }
            }
            for (weight, label_smoothing) in [(false, 0.1), (true, 0.4), (true, 1.0)] {
                let mut builder = CrossEntropy::builder()
                    .backend(backend)
                    .smoothing(Smoothing::LiveClasses)
                    .label_smoothing(label_smoothing);
                if weight {
                    builder = builder.weight(with_zeros(classes, &mut random));
                }
                let ce = builder.build().expect("the options are valid");
                for in_place in [false, true] {
                    let call = Call { in_place, ..Call::default() };
                    let found = call.evaluate(&ce, &batch);
                    let context = format!("{backend}, eps {label_smoothing}, weights {weight}");
                    Expected::of_call(&ce, &batch, call).check(&found, &context);
                    for (row, &loss) in found.losses.iter().enumerate() {
                        let is_masked = row % 4 == 2 && classes > 1;
                        // A hard term of a masked target is infinite, unless it weighs nothing.
                        assert!(
                            loss.is_finite() || is_masked && label_smoothing < 1.0,
                            "row {row}, {context}"
                        );
                    }
                    for (g, x) in found.grad.iter().zip(&batch.logits) {
                        let is_masked = *x == f32::NEG_INFINITY;
                        assert!(g.is_finite() && (!is_masked || *g <= 0.0), "{g}, {context}");
                    }
                }
            }
        }
    }
}

#[test]
fn without_masked_classes_live_classes_are_all_classes() {
    for (rows, classes) in SHAPES {
        let mut batch = Batch::random(rows, classes, 6);
        let mut random = Random::new(7);
        batch.logits.fill_with(|| 3.0 * random.normal());
        let evaluate = |smoothing| {
            let builder = CrossEntropy::builder().smoothing(smoothing).label_smoothing(0.2);
            Call::default().evaluate(&builder.build().expect("the options are valid"), &batch)
        };
        evaluate(Smoothing::LiveClasses)
            .assert_equal(&evaluate(Smoothing::AllClasses), &format!("{rows} x {classes}"));
    }
}

/// The sum is taken of `f32` and rounded once; only the gradient at the target has been rounded before.
#[cfg(feature = "half")]
#[test]
fn a_gradient_of_16_bits_that_is_added_is_rounded_with_the_sum() {
    for case in cases(usize::MAX) {
        check_added_halves::<half::bf16>(&case);
        check_added_halves::<half::f16>(&case);
    }
}

#[cfg(feature = "half")]
fn check_added_halves<T: Half>(case: &Case) {
    let batch = halves::rounded::<T>(&case.batch);
    let (ce, call) = (case.cross_entropy(), case.call());
    let Batch { rows, classes, .. } = batch;
    let logits: Vec<T> = halves::narrow(&batch.logits);
    let x = Matrix::new(&logits, rows, classes).expect("the shape fits");
    let mut random = Random::new(3);
    let before: Vec<T> =
        (0..rows * classes).map(|i| T::from_f32(if i % 3 == 0 { 0.0 } else { random.normal() })).collect();
    let mut sums = before.clone();
    let grad = MatrixMut::new(&mut sums, rows, classes).expect("the shape fits");
    let request = call.request().accumulate(grad);
    call.run(&ce, x, &batch, request).expect("the batch is valid");
    let of_f32 = Call { in_place: false, ..call }.evaluate(&ce, &batch).grad;
    for i in 0..rows * classes {
        let (before, sum) = (before[i], sums[i]);
        let context = format!("{} {i} of {rows} x {classes}, {}", T::NAME, case.name);
        if !call.counts(&ce, &batch, i / classes) {
            assert_eq!(sum.bits(), before.bits(), "{context}");
            continue;
        }
        if of_f32[i].is_nan() {
            assert!(sum.to_f32().is_nan(), "{sum:?} instead of NaN, {context}");
            continue;
        }
        let (gradient, before) = (f64::from(of_f32[i]), f64::from(before.to_f32()));
        let exact = before + gradient;
        let Rounding { unit, half_of_smallest, .. } = T::ROUNDING;
        // Both sums have an f32 beneath them, whose last bits may differ.
        let bound = (unit + 4.0 * U) * (exact.abs() + gradient.abs())
            + 2.0 * half_of_smallest
            + f64::from(f32::MIN_POSITIVE);
        let error = (f64::from(sum.to_f32()) - exact).abs();
        assert!(error <= bound, "{sum:?} instead of {exact:e}, {} of the bound, {context}", error / bound);
    }
}

#[test]
fn a_gradient_that_is_added_leaves_padding_and_rows_that_do_not_count_alone() {
    for backend in backends() {
        for (rows, classes) in SHAPES {
            let mut batch = Batch::random(rows, classes, 3);
            batch.targets[0] = 0;
            batch.row_mut(0).fill(f32::NAN);
            let ce = CrossEntropy::builder().backend(backend).build().expect("the backend is available");
            let stride = classes + 3;
            // Canaries are between the rows, too.
            let mut buffer = vec![0.25; rows * stride];
            let grad =
                MatrixMut::with_row_stride(&mut buffer, rows, classes, stride).expect("the shape fits");
            let logits = Matrix::new(&batch.logits, rows, classes).expect("the shape fits");
            let request = Request::new().accumulate(grad);
            ce.run(logits, &batch.targets, request).expect("the batch is valid");
            for (row, out) in buffer.chunks(stride).enumerate() {
                let context = format!("row {row} of {rows} x {classes}, {backend}");
                let (out, padding) = out.split_at(classes);
                assert_eq!(padding, [0.25; 3], "{context}");
                if row == 0 {
                    assert!(out.iter().all(|g| g.is_nan()), "{context}");
                } else if batch.targets[row] == IGNORE_INDEX {
                    assert!(out.iter().all(|&g| g == 0.25), "{context}");
                } else {
                    let changed = out.iter().any(|&g| g != 0.25);
                    let is_confident = reference::softmax(batch.row(row))[batch.targets[row] as usize] > 0.99;
                    assert!(changed || is_confident, "{context}");
                }
            }
        }
    }
}

fn matrix_mut(x: &mut [f32], rows: usize, classes: usize) -> MatrixMut<'_> {
    MatrixMut::new(x, rows, classes).expect("the shape fits")
}

/// What a handful of roundings of an `f64` and of its `exp` and `ln` cost, with a factor of 10 to spare.
const REFERENCE_ERROR: f64 = 100.0 * f64::EPSILON;

/// What remains of a central difference's error when that of the second order is known from a step of twice the length:
/// the fourth power of the step times a fifth derivative's share, far above that of any loss here.
const FIFTH_DERIVATIVE: f64 = 100.0;

#[test]
fn every_pair_of_options_has_the_gradient_that_central_differences_have() {
    /// Steps that logits on a grid of 2^-6, below 2, take exactly in `f32`.
    const STEP: f32 = 1.0 / 1024.0;
    for mut case in cases(400) {
        // Differences want losses that are finite.
        let Batch { rows, classes, .. } = case.batch;
        let mut random = Random::new(1);
        case.batch.logits.fill_with(|| (random.below(257) as f32 - 128.0) / 64.0);
        case.builder = case.builder.empty_mean(EmptyMean::Zero);
        let (ce, call) = (case.cross_entropy(), case.call());
        let outcome = |logits: &[f32]| call.reference(&ce, logits, &case.batch);
        let exact = outcome(&case.batch.logits);
        // What the gradient is a derivative of.
        let objective = |logits: &[f32]| {
            let outcome = outcome(logits);
            let scalar = call.upstream_scalar.unwrap_or(1.0);
            scalar
                * match call.upstream {
                    Some(upstream) => {
                        upstream.iter().zip(&outcome.losses).map(|(&g, loss)| f64::from(g) * loss).sum()
                    }
                    None => outcome.loss,
                }
        };
        let magnitude: f64 = 1.0 + exact.losses.iter().sum::<f64>() * 10.0;
        for i in 0..rows * classes {
            let difference = |step: f32| {
                let at = |step: f32| {
                    let mut logits = case.batch.logits.clone();
                    logits[i] += step;
                    assert_eq!(logits[i] - case.batch.logits[i], step, "the step is exact");
                    objective(&logits)
                };
                (at(step) - at(-step)) / (2.0 * f64::from(step))
            };
            let (one, two) = (difference(STEP), difference(2.0 * STEP));
            let of_fourth_order =
                f64::from(STEP).powi(4) * FIFTH_DERIVATIVE * magnitude * ce.logit_scale().max(1.0).powi(5);
            let rounding = REFERENCE_ERROR * magnitude / f64::from(STEP);
            // The error of the shorter step is a third of this difference.
            let bound = (one - two).abs() + of_fourth_order + rounding;
            assert!(
                (one - exact.grad[i]).abs() <= bound,
                "{} instead of {one} at {i} of {rows} x {classes}, {}",
                exact.grad[i],
                case.name
            );
        }
    }
}
