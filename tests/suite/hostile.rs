//! Calls made of arbitrary bytes: what the fuzzing targets check, for everyone who has no fuzzer.

use crate::support::backends;
use crate::support::batch::Batch;
use crate::support::bounds::Expected;
use crate::support::double_bounds::{self, Shares};
use crate::support::doubles::{self, Doubles};
use crate::support::evaluation::Call;
use crate::support::hostile::dtype::DTYPES;
use crate::support::hostile::{self, CHECKS};
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use xent::{
    CrossEntropy, Distillation, EmptyMean, Error, Matrix, MatrixMut, Reduction, Request, RowState, Softmax,
};

/// Failing input is printed; there is no file of it beside integration tests.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..400)
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn any_valid_call_keeps_the_bounds_and_its_place(bytes in bytes()) {
        hostile::cross_entropy(&bytes);
    }

    #[test]
    fn any_cut_and_order_of_merges_keeps_the_bounds(bytes in bytes()) {
        hostile::shards(&bytes);
    }

    #[test]
    fn any_valid_call_on_planes_keeps_the_bounds(bytes in bytes()) {
        hostile::planes(&bytes);
    }

    #[test]
    fn any_call_gives_what_is_documented_or_an_error_and_writes_nothing_then(bytes in bytes()) {
        hostile::api::api(&bytes);
    }
}

/// The seeds that fuzzing starts from.
#[test]
fn every_seed_of_the_fuzzing_targets_passes() {
    for (name, check, case) in CHECKS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/hostile/seeds").join(name);
        let mut seeds = 0;
        for seed in folder.read_dir().expect("there are seeds") {
            let seed = seed.expect("the folder can be read").path();
            let bytes = std::fs::read(&seed).expect("the seed can be read");
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&bytes))) {
                println!("{}: {bytes:?}\n{:?}", seed.display(), case.map(|case| case(&bytes)));
                std::panic::resume_unwind(panic);
            }
            seeds += 1;
        }
        assert!(seeds > 0, "{name} has no seeds");
    }
}

// What fuzzing has found.

/// Of several NaN in a sum, which one the sum is depends on the instructions.
#[test]
fn the_loss_of_rows_without_a_softmax_is_the_same_nan_on_every_backend() {
    for classes in [2, 70, 100, 3000] {
        let mut logits = vec![0.5_f32; 20 * classes];
        for row in 0..20 {
            logits[row * classes + row % classes] =
                f32::from_bits([0x7fff_ffff, 0xffff_f001, 0x7f80_0001][row % 3]);
        }
        let logits = Matrix::new(&logits, 20, classes).expect("it fits");
        for backend in backends() {
            let ce = CrossEntropy::builder().backend(backend).z_loss(0.1).build().expect("it is available");
            let (mut losses, mut lse) = ([0.0; 20], [0.0; 20]);
            let request = Request::new().losses(&mut losses).lse(&mut lse);
            let summary = ce.run(logits, &[1_u8; 20], request).expect("the batch is valid");
            assert_eq!(summary.loss.to_bits(), f64::NAN.to_bits(), "{backend}, {classes} classes");
            assert_eq!(summary.z_loss.to_bits(), f64::NAN.to_bits(), "{backend}, {classes} classes");
            // Alone, where rows are not filled for the sake of another output.
            let mut alone = [0.0; 20];
            ce.run(logits, &[1_u8; 20], Request::new().losses(&mut alone)).expect("the batch is valid");
            for x in losses.iter().chain(&lse).chain(&alone) {
                assert_eq!(x.to_bits(), f32::NAN.to_bits(), "{backend}, {classes} classes");
            }
        }
    }
}

/// Not infinite, because its product with a probability of 0 would be NaN.
#[test]
fn a_gradient_above_the_largest_number_is_that_number_and_smaller_ones_are_in_proportion() {
    for classes in [4, 70, 100, 3000] {
        for backend in backends() {
            let mut x = vec![0.0_f32; classes];
            (x[0], x[3]) = (f32::NEG_INFINITY, -1.0);
            let ce = CrossEntropy::builder()
                .weight(vec![1e30; classes])
                .reduction(Reduction::Sum)
                .backend(backend);
            let request = Request::new().upstream_scalar(1e30);
            let logits = MatrixMut::new(&mut x, 1, classes).expect("it fits");
            ce.build()
                .expect("it is available")
                .run_in_place(logits, &[1_u8], request)
                .expect("the batch is valid");
            assert_eq!(x[..3], [0.0, f32::NEG_INFINITY, f32::MAX], "{backend}, {classes} classes");
            let share = f64::from(x[3]) / f64::from(f32::MAX) - (-1.0_f64).exp();
            assert!(share.abs() < 1e-6, "{:e}, {backend}, {classes} classes", x[3]);
        }
    }
}

/// It is a multiple of the target's probability, which has its error from rounding the gap.
#[test]
fn the_gradient_at_a_target_of_weight_0_has_the_error_of_a_probability() {
    let logits: Vec<f32> = [60.497_1, 11.137_3, 55.687_1].into();
    let batch = Batch { rows: 1, classes: 3, logits, targets: vec![1] };
    for backend in backends() {
        let ce = CrossEntropy::builder().weight([1.0, 0.0, 0.3]).label_smoothing(0.1).backend(backend);
        let ce = ce.reduction(Reduction::Sum).build().expect("it is available");
        let call = Call::default();
        let found = call.evaluate(&ce, &batch);
        Expected::of_call(&ce, &batch, call).check(&found, &format!("{backend}"));
        let doubles =
            Doubles { rows: 1, classes: 3, logits: vec![60.4971, 11.1373, 55.6871], targets: vec![1] };
        let found = doubles::evaluate(&call, &ce, &doubles);
        double_bounds::check(&ce, &doubles, &call, &found, false, &mut Shares::default(), "f64");
    }
}

/// Far below the largest logit the gradient is nothing but the target's part: here it was off by 4.16 units.
#[test]
fn the_gradient_of_weighted_and_smoothed_target_probabilities_has_few_roundings() {
    let logits = [
        -8.147_164,
        2.036_782_7,
        9.624_368,
        4.280_081_7,
        7.563_109_4,
        6.411_55,
        -8.122_036,
        9.412_359,
        -6.381_992_3,
        8.169_693,
        0.953_529,
        0.536_295_3,
    ];
    let probabilities = [
        3.705_824_8e-4,
        1.872_940_8e-4,
        8.489_986_6e-4,
        8.107_255e-4,
        6.420_764e-4,
        7.720_57e-4,
        2.490_296e-4,
        6.292_917_5e-4,
        8.793_999e-4,
        8.617_934e-4,
        8.295_345e-4,
        6.771_165_6e-4,
    ];
    let weight = [1.0, 0.0, 0.3, 2.5, 1e-3, 1e3, 7.0, 0.999, 0.0, 0.3, 2.5, 1e-3];
    let batch = Batch { rows: 1, classes: 12, logits: logits.to_vec(), targets: vec![0] };
    for backend in backends() {
        let ce = CrossEntropy::builder().weight(weight).label_smoothing(1e-3).backend(backend);
        let ce = ce.build().expect("it is available");
        let call =
            Call { target_probabilities: Some(&probabilities), denominator: Some(7.5), ..Call::default() };
        let found = call.evaluate(&ce, &batch);
        Expected::of_call(&ce, &batch, call).check(&found, &format!("{backend}"));
        let exact = -3.099_719_574_915_89e-4;
        let error = (f64::from(found.grad[6]) / exact - 1.0) / xent::contract::U;
        assert!(error.abs() < 4.0, "{error} units, {backend}");
    }
}

/// Each of them is valid, and their product is beyond the largest `f64`.
#[test]
fn factors_whose_product_is_infinite_make_no_nan() {
    let plain = CrossEntropy::builder();
    let calls = [
        (&plain, None, 1e-310),
        (&plain, Some(1e308), 0.5),
        (&plain.clone().logit_scale(1e30), Some(1e300), 1.0),
    ];
    for (builder, upstream_scalar, denominator) in calls {
        for backend in backends() {
            let ce = builder.clone().backend(backend).build().expect("it is available");
            for x in [vec![1.0_f32, 2.0], vec![5.0], vec![0.5; 3000]] {
                let classes = x.len();
                let mut grad = vec![f32::NAN; classes];
                let of_all = MatrixMut::new(&mut grad, 1, classes).expect("it fits");
                let mut request = Request::new().grad(of_all).denominator(denominator).row_weights(&[4.0]);
                if let Some(upstream_scalar) = upstream_scalar {
                    request = request.upstream_scalar(upstream_scalar);
                }
                let logits = Matrix::new(&x, 1, classes).expect("it fits");
                ce.run(logits, &[0_u8], request).expect("the batch is valid");
                let others_are_largest = grad[1..].iter().all(|&x| x == f32::MAX);
                let own = if classes == 1 { grad[0] == 0.0 } else { grad[0] <= -f32::MAX };
                assert!(own && others_are_largest, "{:?}, {classes}, {denominator}, {backend}", &grad[..1]);
            }
        }
    }
}

/// The same in distillation, second derivatives and backward passes.
#[test]
fn factors_beyond_the_largest_numbers_make_no_nan_elsewhere() {
    for backend in backends() {
        // The leader's column is as the others: a factor of 1e40 counts as the largest `f32`.
        let teacher_of = |temperature: f64, x: [f32; 2], y: [f32; 2], upstream_scalar: f64| {
            let distillation = Distillation::builder().temperature(temperature).backend(backend).build();
            let mut grad = [f32::NAN; 2];
            let request = Request::new()
                .grad(MatrixMut::new(&mut grad, 1, 2).expect("it fits"))
                .upstream_scalar(upstream_scalar);
            let (x, y) = (Matrix::new(&x, 1, 2).expect("it fits"), Matrix::new(&y, 1, 2).expect("it fits"));
            distillation.expect("it is available").run(x, y, request).expect("the batch is valid");
            grad
        };
        let [leader, other] = teacher_of(1.0, [20.0, 0.0], [10.0, 0.0], 1e40);
        assert!((leader / other + 1.0).abs() < 1e-5, "{leader} {other} {backend}");
        assert!((1e34..2e34).contains(&leader), "{leader} {backend}");
        assert_eq!(teacher_of(1e10, [1e12, 0.0], [1e12, 0.0], 1e300), [0.0; 2], "{backend}");

        let ce = CrossEntropy::builder().logit_scale(1e5).backend(backend).build().expect("it is available");
        let x = [1.0_f32, 0.0, f32::NEG_INFINITY];
        let request = Request::new().upstream_scalar(1e300);
        let logits = Matrix::new(&x, 1, 3).expect("it fits");
        let curvature = ce.curvature_with(logits, &[0_u8], &request).expect("the batch is valid");
        let mut out = [f32::NAN; 3];
        curvature.hessian_diagonal(MatrixMut::new(&mut out, 1, 3).expect("it fits")).expect("it fits");
        assert!(out.iter().all(|x| !x.is_nan()) && out[2] == 0.0, "{out:?} {backend}");
        let request = Request::new().denominator(5e-324);
        let ce = CrossEntropy::builder().logit_scale(2.0).backend(backend).build().expect("it is available");
        let curvature = ce.curvature_with(logits, &[0_u8], &request).expect("the batch is valid");
        let along = curvature.jvp(Matrix::new(&[1.0_f32, 2.0, 0.0], 1, 3).expect("it fits"));
        assert!(!along.expect("it fits").is_nan(), "{backend}");

        let softmax = Softmax::default().backend(backend).expect("it is available");
        let (y, upstream, mut grad) = ([0.0_f32, f32::NEG_INFINITY], [3e38_f32; 2], [f32::NAN; 2]);
        let (y, upstream) = (Matrix::new(&y, 1, 2), Matrix::new(&upstream, 1, 2));
        let to = MatrixMut::new(&mut grad, 1, 2).expect("it fits");
        softmax.log_softmax_backward(y.expect("it fits"), upstream.expect("it fits"), to).expect("it fits");
        assert!(grad[0].is_finite() && grad[1] == 3e38, "{grad:?} {backend}");
    }
}

/// What is multiplied by a class weight of 0, or by a softcap's derivative of 0, is not infinite.
#[test]
fn beyond_the_largest_number_no_gradient_is_nan() {
    for classes in [4, 70, 100, 3000] {
        let mut x = vec![0.0_f32; classes];
        x[1] = 1e30;
        let mut weight = vec![1e30_f32; classes];
        weight[3] = 0.0;
        let mut q = vec![0.0_f32; classes];
        q[0] = 1e9;
        let logits = Matrix::new(&x, 1, classes).expect("it fits");
        let q = Matrix::new(&q, 1, classes).expect("it fits");
        for backend in backends() {
            let weighted = CrossEntropy::builder().weight(weight.clone()).reduction(Reduction::Sum);
            let smoothed = weighted.clone().label_smoothing(0.5);
            for builder in [&weighted, &smoothed, &weighted.clone().softcap(30.0)] {
                let ce = builder.clone().backend(backend).build().expect("it is available");
                for target in [0_u8, 1] {
                    let mut grad = vec![f32::NAN; classes];
                    let of_all = MatrixMut::new(&mut grad, 1, classes).expect("it fits");
                    let request = Request::new().grad(of_all).upstream_scalar(1e30);
                    ce.run(logits, &[target], request).expect("the batch is valid");
                    assert!(grad.iter().all(|x| !x.is_nan()), "{grad:?}, {target}, {backend}");
                }
                let mut grad = vec![f32::NAN; classes];
                let of_all = MatrixMut::new(&mut grad, 1, classes).expect("it fits");
                let request = Request::new().grad(of_all).upstream_scalar(1e30);
                if ce.softcap().is_none() {
                    ce.run_probabilities(logits, q, request).expect("the batch is valid");
                    assert!(grad.iter().all(|x| !x.is_nan()), "{grad:?}, {backend}");
                }
            }
        }
    }
}

/// Exponentials that are no normal numbers are 0, and so is the loss that smoothing leaves of them.
#[test]
fn a_mean_over_weights_of_0_is_infinite_or_that_of_nothing() {
    for (gap, of_loss) in [(700.0, f64::INFINITY), (711.4, 0.0), (1000.0, 0.0)] {
        for (empty_mean, of_nothing) in [(EmptyMean::Nan, f64::NAN), (EmptyMean::Zero, 0.0)] {
            let wanted = if of_loss == 0.0 { of_nothing } else { of_loss };
            let builder = CrossEntropy::builder().weight(vec![1.0, 0.0]).label_smoothing(1.0);
            for backend in backends() {
                let ce =
                    builder.clone().empty_mean(empty_mean).backend(backend).build().expect("it is available");
                let x = [0.0, -gap];
                let of_doubles = ce.loss(Matrix::new(&x, 1, 2).expect("it fits"), &[1_u8]);
                let x = x.map(|x| x as f32);
                let of_singles = ce.loss(Matrix::new(&x, 1, 2).expect("it fits"), &[1_u8]);
                for found in [of_singles, of_doubles] {
                    let found = found.expect("the batch is valid");
                    assert_eq!(
                        found.to_bits(),
                        wanted.to_bits(),
                        "{found}, not {wanted}: gap {gap}, {backend}"
                    );
                }
            }
        }
    }
}

/// A bound as wide as that has infinity in it, on both sides of an exact 0.
#[test]
fn a_gradient_of_0_with_a_large_factor_may_round_to_infinity_in_16_bits() {
    let batch = Batch { rows: 1, classes: 3, logits: vec![-10.0; 3], targets: vec![0] };
    let call = Call {
        upstream: Some(&[1e4]),
        upstream_scalar: Some(65_536.0),
        row_weights: Some(&[1e3]),
        ..Call::default()
    };
    for backend in backends() {
        let ce = CrossEntropy::builder().weight([7.0; 3]).label_smoothing(1.0).logit_scale(0.5).softcap(1e12);
        let ce = ce.backend(backend).build().expect("it is available");
        let of_singles = call.evaluate(&ce, &batch);
        for dtype in DTYPES {
            let found = (dtype.evaluate)(&call, &ce, &batch);
            let expected = Expected::of_call(&ce, &batch, call).rounded(dtype.rounding);
            expected.check(&found, &format!("{}, {backend}", dtype.name));
            let rounded: Vec<f32> = of_singles.grad.iter().map(|&x| dtype.of_logits.round(x)).collect();
            assert_eq!(found.grad, rounded, "{}, {backend}", dtype.name);
        }
    }
}

/// As a `u64`, -100 is less than so many classes.
#[cfg(target_pointer_width = "64")]
#[test]
fn a_negative_target_is_no_class_however_many_there_are() {
    let ce = CrossEntropy::builder().ignore_index(None).build().expect("the options are valid");
    for classes in [1_usize << 63, usize::MAX] {
        for target in [-1, -100, i64::MIN] {
            let error = Error::TargetOutOfRange { row: 0, target: target.into(), classes };
            assert_eq!(ce.shards(&[target], classes).finish(&[RowState::EMPTY]), Err(error));
        }
        // Of these there is no state.
        for target in [0, i64::MAX] {
            let found = ce.shards(&[target], classes).finish(&[RowState::EMPTY]);
            assert!(matches!(found, Err(Error::IncompleteState { .. })), "{found:?}");
        }
    }
}
