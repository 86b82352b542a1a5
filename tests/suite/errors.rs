//! Every error: its value, its message, and that no output has been written.

use crate::support::backends;
use core::fmt::Debug;
use xent::{
    Backend, CrossEntropy, CrossEntropyBuilder, Error, Matrix, MatrixMut, Parallelism, Reduction, Request,
    Smoothing, Softmax, Target, log_softmax, log_softmax_backward, log_softmax_in_place, reference, softmax,
    softmax_backward, softmax_in_place,
};

/// What outputs hold before a call: a NaN that no computation makes.
const SENTINEL: f32 = f32::from_bits(0x7fc0_5e57);
const ARGMAX_SENTINEL: usize = 0x5e57;

/// Checks value and message of an error.
#[track_caller]
fn assert_error<T: Debug>(result: Result<T, Error>, error: Error, message: &str) {
    assert_eq!(result.expect_err("the call is wrong"), error);
    assert_eq!(error.to_string(), message);
    // It can be boxed and sent to where it is reported.
    let boxed: Box<dyn core::error::Error + Send + Sync> = error.into();
    assert_eq!(boxed.to_string(), message);
}

/// Every output, and how many elements each has.
struct Outputs {
    grad: Vec<f32>,
    losses: Vec<f32>,
    lse: Vec<f32>,
    others: [Vec<f32>; 3],
    argmax: Vec<usize>,
    target_ranks: Vec<usize>,
    probabilities: Vec<f32>,
    log_probabilities: Vec<f32>,
}

impl Outputs {
    fn new(rows: usize, classes: usize) -> Self {
        let wide = vec![SENTINEL; rows * classes];
        Self {
            grad: wide.clone(),
            losses: vec![SENTINEL; rows],
            lse: vec![SENTINEL; rows],
            others: [(); 3].map(|()| vec![SENTINEL; rows]),
            argmax: vec![ARGMAX_SENTINEL; rows],
            target_ranks: vec![ARGMAX_SENTINEL; rows],
            probabilities: wide.clone(),
            log_probabilities: wide,
        }
    }

    /// Everything but the gradient, each with the shape of its memory.
    fn request(&mut self, rows: usize, classes: usize) -> Request<'_> {
        let (request, _) = self.request_and_grad(rows, classes);
        request
    }

    fn request_with_grad(&mut self, rows: usize, classes: usize) -> Request<'_> {
        let (request, grad) = self.request_and_grad(rows, classes);
        request.grad(matrix_mut(grad, rows, classes))
    }

    fn request_and_grad(&mut self, rows: usize, classes: usize) -> (Request<'_>, &mut [f32]) {
        let Self { grad, losses, lse, others, argmax, target_ranks, probabilities, log_probabilities } = self;
        let [target_log_probabilities, argmax_probabilities, entropies] = others;
        let request = Request::new()
            .losses(losses)
            .lse(lse)
            .target_log_probabilities(target_log_probabilities)
            .argmax_probabilities(argmax_probabilities)
            .entropies(entropies)
            .argmax(argmax)
            .target_ranks(target_ranks)
            .probabilities(matrix_mut(probabilities, rows, classes))
            .log_probabilities(matrix_mut(log_probabilities, rows, classes));
        (request, grad)
    }

    #[track_caller]
    fn assert_untouched(&self) {
        for (name, values) in [
            ("grad", &self.grad),
            ("losses", &self.losses),
            ("lse", &self.lse),
            ("target_log_probabilities", &self.others[0]),
            ("argmax_probabilities", &self.others[1]),
            ("entropies", &self.others[2]),
            ("probabilities", &self.probabilities),
            ("log_probabilities", &self.log_probabilities),
        ] {
            assert_untouched(name, values);
        }
        for (name, values) in [("argmax", &self.argmax), ("target_ranks", &self.target_ranks)] {
            assert!(values.iter().all(|&class| class == ARGMAX_SENTINEL), "{name} was written");
        }
    }
}

#[track_caller]
fn assert_untouched(name: &str, values: &[f32]) {
    let is_sentinel = |x: &f32| x.to_bits() == SENTINEL.to_bits();
    assert!(values.iter().all(is_sentinel), "{name} was written: {values:?}");
}

fn matrix(x: &[f32], rows: usize, classes: usize) -> Matrix<'_> {
    Matrix::new(x, rows, classes).expect("the slice is long enough")
}

fn matrix_mut(x: &mut [f32], rows: usize, classes: usize) -> MatrixMut<'_> {
    MatrixMut::new(x, rows, classes).expect("the slice is long enough")
}

/// Makes every call there is with these logits and targets, on every backend; each gives the error and writes nothing.
#[track_caller]
fn assert_every_call_fails<T: Target>(
    builder: &xent::CrossEntropyBuilder,
    (rows, classes): (usize, usize),
    targets: &[T],
    error: &Error,
    message: &str,
) {
    for backend in backends() {
        for parallelism in [Parallelism::Serial, Parallelism::Rayon] {
            let ce = builder.clone().backend(backend).parallelism(parallelism);
            let ce = ce.build().expect("the options are valid");
            let x = vec![0.5; rows * classes];
            let logits = matrix(&x, rows, classes);
            let assert_error = |result: Result<f64, Error>| assert_error(result, error.clone(), message);
            assert_error(ce.loss(logits, targets));

            let mut outputs = Outputs::new(rows, classes);
            let grad = matrix_mut(&mut outputs.grad, rows, classes);
            assert_error(ce.loss_and_grad(logits, targets, grad));
            let request = outputs.request_with_grad(rows, classes);
            assert_error(ce.run(logits, targets, request).map(|summary| summary.loss));
            outputs.assert_untouched();

            // In place, the logits are an output.
            let mut x = vec![SENTINEL; rows * classes];
            assert_error(ce.loss_and_grad_in_place(matrix_mut(&mut x, rows, classes), targets));
            let request = outputs.request(rows, classes);
            let summary = ce.run_in_place(matrix_mut(&mut x, rows, classes), targets, request);
            assert_error(summary.map(|summary| summary.loss));
            outputs.assert_untouched();
            assert_untouched("logits", &x);

            assert_error(reference::cross_entropy(&ce, logits, targets).map(|outcome| outcome.loss));
        }
    }
}

#[test]
fn rows_without_classes() {
    for rows in [1, 2, 40] {
        let message = format!("the logits have {rows} rows but no classes");
        let builder = CrossEntropy::builder();
        assert_every_call_fails(&builder, (rows, 0), &vec![0_u8; rows], &Error::NoClasses { rows }, &message);
        // Not even rows that are ignored.
        let builder = CrossEntropy::builder().reduction(Reduction::Sum);
        assert_every_call_fails(
            &builder,
            (rows, 0),
            &vec![-100_i64; rows],
            &Error::NoClasses { rows },
            &message,
        );
    }
}

#[test]
fn softmax_of_rows_without_classes() {
    let error = Error::NoClasses { rows: 3 };
    let message = "the logits have 3 rows but no classes";
    assert_error(softmax(matrix(&[], 3, 0), matrix_mut(&mut [], 3, 0)), error.clone(), message);
    assert_error(log_softmax(matrix(&[], 3, 0), matrix_mut(&mut [], 3, 0)), error.clone(), message);
    assert_error(softmax_in_place(matrix_mut(&mut [], 3, 0)), error.clone(), message);
    assert_error(log_softmax_in_place(matrix_mut(&mut [], 3, 0)), error.clone(), message);
    let (nothing, softmax) = (matrix(&[], 3, 0), Softmax::default());
    let mut memory: [f32; 0] = [];
    let mut out = matrix_mut(&mut memory, 3, 0);
    assert_error(softmax_backward(nothing, nothing, out.reborrow()), error.clone(), message);
    assert_error(log_softmax_backward(nothing, nothing, out.reborrow()), error.clone(), message);
    assert_error(softmax.softmax_backward_in_place(nothing, out.reborrow()), error.clone(), message);
    assert_error(softmax.log_softmax_backward_in_place(nothing, out.reborrow()), error.clone(), message);
    assert_error(softmax.softmax_jvp(nothing, nothing, out.reborrow()), error.clone(), message);
    assert_error(softmax.log_softmax_jvp(nothing, nothing, out), error, message);
}

/// One target that is no class, in the first, a middle and the last row.
#[track_caller]
fn assert_out_of_range<T: Target + Copy>(valid: T, invalid: T, value: i128) {
    for classes in [1, 2, 10, 100, 3000] {
        for (rows, row) in [(1, 0), (3, 1), (37, 20), (37, 36)] {
            let mut targets = vec![valid; rows];
            targets[row] = invalid;
            let error = Error::TargetOutOfRange { row, target: value, classes };
            let message = format!("the target of row {row} is {value}, but there are {classes} classes");
            assert_every_call_fails(&CrossEntropy::builder(), (rows, classes), &targets, &error, &message);
        }
    }
}

#[test]
fn targets_out_of_range_in_every_integer_type() {
    assert_out_of_range(0_u16, u16::MAX, 65_535);
    assert_out_of_range(0_u32, 3000, 3000);
    assert_out_of_range(0_u32, u32::MAX, 4_294_967_295);
    assert_out_of_range(0_u64, u64::MAX, 18_446_744_073_709_551_615);
    // As many as there are classes below 2^32.
    assert_out_of_range(0_u64, 1 << 32, 4_294_967_296);
    assert_out_of_range(0_usize, usize::MAX, usize::MAX as i128);
    assert_out_of_range(0_i32, -1, -1);
    assert_out_of_range(0_i32, i32::MIN, -2_147_483_648);
    assert_out_of_range(0_i32, i32::MAX, 2_147_483_647);
    assert_out_of_range(0_i64, -1, -1);
    assert_out_of_range(0_i64, i64::MIN, -9_223_372_036_854_775_808);
    assert_out_of_range(0_i64, i64::MAX, 9_223_372_036_854_775_807);
    // Minus 100 as unsigned integers have it is not the ignored index.
    assert_out_of_range(0_u64, -100_i64 as u64, 18_446_744_073_709_551_516);
    assert_out_of_range(0_u32, -100_i32 as u32, 4_294_967_196);
    assert_out_of_range(0_u16, -100_i16 as u16, 65_436);
}

#[test]
fn u8_targets_out_of_range() {
    for (classes, target) in [(1, 1), (10, 10), (10, 255), (156, 156), (255, 255)] {
        let error = Error::TargetOutOfRange { row: 2, target: target.into(), classes };
        let message = format!("the target of row 2 is {target}, but there are {classes} classes");
        let builder = CrossEntropy::builder();
        assert_every_call_fails(&builder, (4, classes), &[0, 0, target, 0_u8], &error, &message);
    }
}

#[test]
fn the_number_of_classes_is_no_class() {
    for classes in [1, 2, 10, 64, 65, 3000] {
        let error = Error::TargetOutOfRange { row: 1, target: classes as i128, classes };
        let message = format!("the target of row 1 is {classes}, but there are {classes} classes");
        let builder = CrossEntropy::builder();
        assert_every_call_fails(&builder, (2, classes), &[classes - 1, classes], &error, &message);
    }
}

#[test]
fn the_first_of_several_wrong_targets_is_named() {
    let error = Error::TargetOutOfRange { row: 1, target: -7, classes: 3 };
    let message = "the target of row 1 is -7, but there are 3 classes";
    assert_every_call_fails(&CrossEntropy::builder(), (5, 3), &[2, -7, 3, -100, -8], &error, message);
}

#[test]
fn only_the_ignored_index_is_excepted_from_the_range() {
    let out_of_range = |row, target| {
        let message = format!("the target of row {row} is {target}, but there are 3 classes");
        (Error::TargetOutOfRange { row, target, classes: 3 }, message)
    };
    // By default -100 is.
    let (error, message) = out_of_range(1, -99);
    assert_every_call_fails(&CrossEntropy::builder(), (3, 3), &[-100, -99, 0], &error, &message);

    // Another index takes its place.
    let builder = CrossEntropy::builder().ignore_index(-99);
    let (error, message) = out_of_range(0, -100);
    assert_every_call_fails(&builder, (3, 3), &[-100, -99, 0], &error, &message);
    let x = [0.5; 9];
    let ce = builder.build().expect("the options are valid");
    assert!(ce.loss(matrix(&x, 3, 3), &[-99, -99, 0]).is_ok());

    // Without one there is no exception.
    let builder = CrossEntropy::builder().ignore_index(None);
    for index in [-100, -99] {
        let (error, message) = out_of_range(2, index);
        assert_every_call_fails(&builder, (3, 3), &[0, 1, index as i64], &error, &message);
    }

    // An index past the classes, in a type that has no negative ones.
    let builder = CrossEntropy::builder().ignore_index(255);
    let ce = builder.clone().build().expect("the options are valid");
    assert!(ce.loss(matrix(&x, 3, 3), &[255_u8, 2, 0]).is_ok());
    let (error, message) = out_of_range(1, 254);
    assert_every_call_fails(&builder, (3, 3), &[255_u8, 254, 0], &error, &message);

    // An index that the type cannot hold excepts none of its values: 300 is 44 as a u8.
    let builder = CrossEntropy::builder().ignore_index(300);
    let (error, message) = out_of_range(0, 44);
    assert_every_call_fails(&builder, (3, 3), &[44_u8, 2, 0], &error, &message);
    let builder = CrossEntropy::builder().ignore_index((1_i64 << 32) + 7);
    let (error, message) = out_of_range(0, 7);
    assert_every_call_fails(&builder, (3, 3), &[7_i32, 2, 0], &error, &message);
    let builder = CrossEntropy::builder().ignore_index(-1);
    let (error, message) = out_of_range(0, u64::MAX.into());
    assert_every_call_fails(&builder, (3, 3), &[u64::MAX, 2, 0], &error, &message);
}

#[test]
fn targets_of_another_length() {
    for (rows, actual) in [(3, 2), (3, 4), (1, 0), (0, 1), (37, 36)] {
        for classes in [1, 10, 3000] {
            let error = Error::LengthMismatch { argument: "targets", expected: rows, actual };
            let message = format!("targets has {actual} elements instead of {rows}");
            let builder = CrossEntropy::builder();
            assert_every_call_fails(&builder, (rows, classes), &vec![0_u8; actual], &error, &message);
        }
    }
}

#[test]
fn weights_that_are_no_weights() {
    for (weight, shown) in [
        (-1.0, "-1"),
        (-1e-45, "-0.000000000000000000000000000000000000000000001"),
        (f32::NAN, "NaN"),
        (f32::INFINITY, "inf"),
        (f32::NEG_INFINITY, "-inf"),
    ] {
        for class in [0, 1, 4] {
            let mut weights = vec![1.0; 5];
            weights[class] = weight;
            let error = CrossEntropy::builder().weight(weights).build().expect_err("the weight is wrong");
            let message =
                format!("the weight of class {class} is {shown}; weights are finite and not negative");
            assert_eq!(error.to_string(), message);
            // NaN is not equal to itself.
            let Error::InvalidWeight { class: found_class, weight: found_weight } = error else {
                panic!("{error:?}");
            };
            assert_eq!((found_class, found_weight.to_bits()), (class, weight.to_bits()));
        }
    }
    // A zero of either sign is a weight.
    assert!(CrossEntropy::builder().weight([0.0, -0.0, f32::MAX, 1e-45]).build().is_ok());
}

#[test]
fn weights_of_another_number_than_the_classes() {
    for (classes, actual) in [(3, 2), (3, 4), (3, 0), (1, 2), (100, 99), (3000, 3001)] {
        for smoothing in [0.0, 0.1] {
            let error = Error::LengthMismatch { argument: "weight", expected: classes, actual };
            let message = format!("weight has {actual} elements instead of {classes}");
            let builder = CrossEntropy::builder().weight(vec![1.0; actual]).label_smoothing(smoothing);
            assert_every_call_fails(&builder, (2, classes), &[0_u8; 2], &error, &message);
        }
        // Without rows no class has a weight.
        let ce = CrossEntropy::builder().weight(vec![1.0; actual]).reduction(Reduction::Sum).build().unwrap();
        assert_eq!(ce.loss(matrix(&[], 0, classes), &[] as &[u8]), Ok(0.0));
    }
}

#[test]
fn smoothing_outside_0_to_1() {
    for (label_smoothing, shown) in [
        (-0.1, "-0.1"),
        (1.1, "1.1"),
        (1.0 + f64::EPSILON, "1.0000000000000002"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
    ] {
        let result = CrossEntropy::builder().label_smoothing(label_smoothing).build();
        let error = result.expect_err("the smoothing is wrong");
        assert_eq!(error.to_string(), format!("label_smoothing is {shown}; it lies between 0 and 1"));
        let Error::InvalidLabelSmoothing { label_smoothing: found } = error else { panic!("{error:?}") };
        assert_eq!(found.to_bits(), label_smoothing.to_bits());
    }
    for label_smoothing in [0.0, -0.0, 5e-324, 1.0] {
        assert!(CrossEntropy::builder().label_smoothing(label_smoothing).build().is_ok());
    }
}

#[test]
fn z_losses_that_are_negative_or_not_finite() {
    for (z_loss, shown) in [(-1e-9, "-0.000000001"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
        let error = CrossEntropy::builder().z_loss(z_loss).build().expect_err("the z-loss is wrong");
        assert_eq!(error.to_string(), format!("z_loss is {shown}; it is finite and not negative"));
        let Error::InvalidZLoss { z_loss: found } = error else { panic!("{error:?}") };
        assert_eq!(found.to_bits(), z_loss.to_bits());
    }
}

#[test]
fn focal_gammas_that_are_negative_or_not_finite() {
    for (focal_gamma, shown) in [(-0.5, "-0.5"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
        let error = CrossEntropy::builder().focal_gamma(focal_gamma).build().expect_err("gamma is wrong");
        assert_eq!(error.to_string(), format!("focal_gamma is {shown}; it is finite and not negative"));
        let Error::InvalidFocalGamma { focal_gamma: found } = error else { panic!("{error:?}") };
        assert_eq!(found.to_bits(), focal_gamma.to_bits());
    }
}

#[test]
fn denominators_that_are_not_above_0() {
    for (denominator, shown) in
        [(0.0, "0"), (-0.0, "-0"), (-1.5, "-1.5"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")]
    {
        let (logits, mut grad, mut losses) = ([0.5, 1.0], [SENTINEL; 2], [SENTINEL; 1]);
        let request = Request::new()
            .denominator(denominator)
            .grad(MatrixMut::new(&mut grad, 1, 2).expect("the shape fits"))
            .losses(&mut losses);
        let logits = Matrix::new(&logits, 1, 2).expect("the shape fits");
        let error =
            CrossEntropy::default().run(logits, &[0_u8], request).expect_err("the denominator is wrong");
        assert_eq!(error.to_string(), format!("denominator is {shown}; it is finite and above 0"));
        let Error::InvalidDenominator { denominator: found } = error else { panic!("{error:?}") };
        assert_eq!(found.to_bits(), denominator.to_bits());
        assert_untouched("grad", &grad);
        assert_untouched("losses", &losses);
    }
}

/// A call on one row with these inputs: its error, and no output written.
fn error_of(request: Request<'_>) -> Error {
    let (mut grad, mut losses) = ([SENTINEL; 4], [SENTINEL; 2]);
    let request = request.grad(matrix_mut(&mut grad, 2, 2)).losses(&mut losses);
    let result = CrossEntropy::default().run(matrix(&[0.5; 4], 2, 2), &[0_u8, 1], request);
    assert_untouched("grad", &grad);
    assert_untouched("losses", &losses);
    result.expect_err("the request is wrong")
}

#[test]
fn row_weights_that_are_negative_or_not_finite() {
    for (weight, shown) in [(-0.5, "-0.5"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let error = error_of(Request::new().row_weights(&[1.0, weight]));
        let message = format!("the weight of row 1 is {shown}; weights are finite and not negative");
        assert_eq!(error.to_string(), message);
        let Error::InvalidRowWeight { row: 1, weight: found } = error else { panic!("{error:?}") };
        assert_eq!(found.to_bits(), weight.to_bits());
    }
}

#[test]
fn upstream_scalars_that_are_not_finite() {
    for (scalar, shown) in [(f64::NAN, "NaN"), (f64::NEG_INFINITY, "-inf")] {
        let error = error_of(Request::new().upstream_scalar(scalar));
        assert_eq!(error.to_string(), format!("upstream_scalar is {shown}; it is finite"));
        let Error::InvalidUpstreamScalar { upstream_scalar: found } = error else { panic!("{error:?}") };
        assert_eq!(found.to_bits(), scalar.to_bits());
    }
}

#[test]
fn inputs_of_rows_that_are_too_many_or_too_few() {
    for len in [0, 1, 3] {
        let (weights, mask) = (vec![1.0; len], vec![true; len]);
        for (argument, request) in [
            ("row_weights", Request::new().row_weights(&weights)),
            ("loss_mask", Request::new().loss_mask(&mask)),
            ("upstream", Request::new().upstream(&weights)),
        ] {
            let error = Error::LengthMismatch { argument, expected: 2, actual: len };
            assert_error::<()>(
                Err(error_of(request)),
                error,
                &format!("{argument} has {len} elements instead of 2"),
            );
        }
    }
}

#[test]
fn targets_out_of_range_in_rows_that_count_beside_a_mask_or_several_ignored_indices() {
    let x = [0.5; 6];
    let logits = matrix(&x, 3, 2);
    let error = Error::TargetOutOfRange { row: 2, target: -7, classes: 2 };
    let message = "the target of row 2 is -7, but there are 2 classes";
    let masked = Request::new().loss_mask(&[false, true, true]);
    assert_error(CrossEntropy::default().run(logits, &[-7, 0, -7], masked), error.clone(), message);
    let ce = CrossEntropy::builder().ignore_indices([-1, -2]).build().expect("the options are valid");
    assert_error(ce.loss(logits, &[-1, -2, -7]), error, message);
}

/// Makes a matrix of every kind.
#[track_caller]
fn assert_no_matrix(shape: (usize, usize, usize, usize), error: &Error, message: &str) {
    let (len, rows, cols, row_stride) = shape;
    let mut floats = vec![SENTINEL; len];
    assert_error(Matrix::with_row_stride(&floats, rows, cols, row_stride), error.clone(), message);
    assert_error(MatrixMut::with_row_stride(&mut floats, rows, cols, row_stride), error.clone(), message);
    // Elements of no size overflow as well.
    let units = vec![(); len];
    assert_error(Matrix::with_row_stride(&units, rows, cols, row_stride), error.clone(), message);
    if row_stride == cols {
        assert_error(Matrix::new(&floats, rows, cols), error.clone(), message);
        assert_error(MatrixMut::new(&mut floats, rows, cols), error.clone(), message);
    }
    assert_untouched("memory", &floats);
}

#[test]
fn rows_that_overlap() {
    for (rows, cols, row_stride) in [(2, 3, 2), (1, 3, 2), (0, 1, 0), (2, usize::MAX, usize::MAX - 1)] {
        let error = Error::StrideTooSmall { row_stride, cols };
        let message = format!("row_stride is {row_stride}, less than the {cols} columns");
        assert_no_matrix((100, rows, cols, row_stride), &error, &message);
    }
}

#[test]
fn buffers_that_are_too_short() {
    for (len, rows, cols, row_stride, required) in [
        (5, 2, 3, 3, 6),
        (0, 1, 1, 1, 1),
        // The last row needs no padding.
        (6, 2, 3, 4, 7),
        (0, 1, 3, usize::MAX, 3),
        (10, 1, usize::MAX, usize::MAX, usize::MAX),
        (10, 2, 1, usize::MAX - 1, usize::MAX),
        (10, usize::MAX, 1, 1, usize::MAX),
    ] {
        let error = Error::BufferTooShort { required, actual: len };
        let message = format!("the matrix needs {required} elements, the slice has {len}");
        assert_no_matrix((len, rows, cols, row_stride), &error, &message);
    }
    assert!(Matrix::with_row_stride(&[0.0; 7], 2, 3, 4).is_ok());
    assert!(Matrix::with_row_stride(&[0.0; 3], 1, 3, usize::MAX).is_ok());
    assert!(Matrix::<f32>::with_row_stride(&[], 0, 3, usize::MAX).is_ok());
    assert!(Matrix::<f32>::new(&[], usize::MAX, 0).is_ok());
}

#[test]
fn sizes_that_no_usize_counts() {
    const HALF: usize = usize::MAX / 2 + 1;
    for (rows, cols, row_stride) in [
        (3, HALF, HALF),
        (usize::MAX, 2, 2),
        (usize::MAX, usize::MAX, usize::MAX),
        (2, 2, usize::MAX - 1),
        (2, usize::MAX, usize::MAX),
        // The product fits, the last row behind it does not.
        (3, HALF - 1, HALF - 1),
        (HALF + 1, 2, 2),
    ] {
        let error = Error::SizeOverflow { rows, row_stride };
        let message = format!("{rows} rows of stride {row_stride} are more elements than a usize can count");
        assert_no_matrix((100, rows, cols, row_stride), &error, &message);
    }
}

#[test]
fn matrices_of_another_shape() {
    const ROWS: usize = 3;
    const CLASSES: usize = 5;
    for backend in backends() {
        let ce = CrossEntropy::builder().backend(backend).build().expect("the backend is available");
        for (rows, classes) in [(2, 5), (4, 5), (3, 4), (3, 6), (5, 3), (0, 0)] {
            for argument in ["grad", "probabilities", "log_probabilities"] {
                let error =
                    Error::ShapeMismatch { argument, expected: (ROWS, CLASSES), actual: (rows, classes) };
                let message = format!("{argument} is {rows} x {classes}, but the logits are 3 x 5");
                let mut wrong = vec![SENTINEL; rows * classes];
                let mut outputs = Outputs::new(ROWS, CLASSES);
                let request = outputs.request_with_grad(ROWS, CLASSES);
                let matrix_of_wrong = matrix_mut(&mut wrong, rows, classes);
                let request = match argument {
                    "grad" => request.grad(matrix_of_wrong),
                    "probabilities" => request.probabilities(matrix_of_wrong),
                    _ => request.log_probabilities(matrix_of_wrong),
                };
                let x = [0.5; ROWS * CLASSES];
                let result = ce.run(matrix(&x, ROWS, CLASSES), &[0_u8; ROWS], request);
                assert_error(result, error.clone(), &message);
                outputs.assert_untouched();
                assert_untouched(argument, &wrong);

                if argument == "grad" {
                    let grad = matrix_mut(&mut wrong, rows, classes);
                    let result = ce.loss_and_grad(matrix(&x, ROWS, CLASSES), &[0_u8; ROWS], grad);
                    assert_error(result, error, &message);
                } else {
                    let mut x = [SENTINEL; ROWS * CLASSES];
                    let request = outputs.request(ROWS, CLASSES);
                    let matrix_of_wrong = matrix_mut(&mut wrong, rows, classes);
                    let request = match argument {
                        "probabilities" => request.probabilities(matrix_of_wrong),
                        _ => request.log_probabilities(matrix_of_wrong),
                    };
                    let result = ce.run_in_place(matrix_mut(&mut x, ROWS, CLASSES), &[0_u8; ROWS], request);
                    assert_error(result, error, &message);
                    assert_untouched("logits", &x);
                }
                outputs.assert_untouched();
                assert_untouched(argument, &wrong);
            }
        }
    }
}

#[test]
fn slices_of_another_length() {
    const ROWS: usize = 3;
    const CLASSES: usize = 5;
    for backend in backends() {
        let ce = CrossEntropy::builder().backend(backend).build().expect("the backend is available");
        for actual in [0, 2, 4, 15] {
            for argument in [
                "upstream",
                "losses",
                "lse",
                "target_log_probabilities",
                "argmax_probabilities",
                "entropies",
                "argmax",
                "target_ranks",
            ] {
                let error = Error::LengthMismatch { argument, expected: ROWS, actual };
                let message = format!("{argument} has {actual} elements instead of 3");
                for in_place in [false, true] {
                    let mut wrong = vec![SENTINEL; actual];
                    let mut wrong_argmax = vec![ARGMAX_SENTINEL; actual];
                    let upstream = vec![1.0; actual];
                    let mut outputs = Outputs::new(ROWS, CLASSES);
                    let mut x = [SENTINEL; ROWS * CLASSES];
                    let request = if in_place {
                        outputs.request(ROWS, CLASSES)
                    } else {
                        outputs.request_with_grad(ROWS, CLASSES)
                    };
                    let request = match argument {
                        "upstream" => request.upstream(&upstream),
                        "losses" => request.losses(&mut wrong),
                        "lse" => request.lse(&mut wrong),
                        "target_log_probabilities" => request.target_log_probabilities(&mut wrong),
                        "argmax_probabilities" => request.argmax_probabilities(&mut wrong),
                        "entropies" => request.entropies(&mut wrong),
                        "argmax" => request.argmax(&mut wrong_argmax),
                        _ => request.target_ranks(&mut wrong_argmax),
                    };
                    let result = if in_place {
                        ce.run_in_place(matrix_mut(&mut x, ROWS, CLASSES), &[0_u8; ROWS], request)
                    } else {
                        ce.run(matrix(&x, ROWS, CLASSES), &[0_u8; ROWS], request)
                    };
                    assert_error(result, error.clone(), &message);
                    outputs.assert_untouched();
                    assert_untouched(argument, &wrong);
                    assert_untouched("logits", &x);
                    assert!(wrong_argmax.iter().all(|&class| class == ARGMAX_SENTINEL));
                }
            }
        }
    }
}

#[test]
fn a_gradient_besides_the_one_in_place() {
    const MESSAGE: &str = "grad is requested of a call in place, whose gradient replaces the logits";
    for backend in backends() {
        let ce = CrossEntropy::builder().backend(backend).build().expect("the backend is available");
        let mut x = [SENTINEL; 6];
        let mut outputs = Outputs::new(2, 3);
        let request = outputs.request_with_grad(2, 3);
        let result = ce.run_in_place(matrix_mut(&mut x, 2, 3), &[0_u8; 2], request);
        assert_error(result, Error::GradTwice, MESSAGE);
        outputs.assert_untouched();
        assert_untouched("logits", &x);
    }
}

/// Where these errors come from is tested with the calls that give them.
#[test]
fn messages_name_the_argument_the_place_and_the_value() {
    let check = |error: Error, message: &str| assert_eq!(error.to_string(), message);
    check(
        Error::NotContiguous { shape: (6, 4), strides: (1, -6) },
        "the array is 6 x 4 with strides 1 and -6, but rows are to be contiguous, one behind the other",
    );
    check(
        Error::PlanesMismatch { argument: "grad", expected: (2, 3, 5), actual: (7, 8, 9) },
        "grad is 7 x 8 x 9, but the logits are 2 x 3 x 5",
    );
    check(
        Error::InvalidTargetProbability { row: 4, column: 17, probability: -0.5 },
        "the target's probability in row 4, column 17 is -0.5; probabilities are not negative, and at most f32::MAX",
    );
    check(
        Error::NeedsClasses { argument: "target_ranks" },
        "target_ranks needs the class of each row, but targets are probabilities",
    );
    check(
        Error::NotOfDistillation { argument: "entropies" },
        "entropies is not an output of distillation, which has grad, losses and lse",
    );
}

#[test]
fn a_gradient_besides_the_one_in_place_of_probabilities() {
    let q = [0.5; 6];
    let mut x = [SENTINEL; 6];
    let mut outputs = Outputs::new(2, 3);
    let request = outputs.request_with_grad(2, 3);
    let ce = CrossEntropy::default();
    let result = ce.run_probabilities_in_place(matrix_mut(&mut x, 2, 3), matrix(&q, 2, 3), request);
    assert_eq!(result, Err(Error::GradTwice));
    outputs.assert_untouched();
    assert_untouched("logits", &x);
}

#[test]
fn what_logits_of_f64_refuse_with_probabilities_as_targets() {
    fn of(x: &[f64; 6]) -> Matrix<'_, f64> {
        Matrix::new(x, 2, 3).expect("the slice is long enough")
    }

    let (x, q) = ([0.5; 6], [0.25; 6]);
    let plain = CrossEntropy::builder();
    let refuse = |builder: &CrossEntropyBuilder, q: Matrix<'_, f64>, in_place: bool, error: Error| {
        let ce = builder.clone().build().expect("the options are valid");
        let (mut logits, mut grad, mut losses) = (x, [7.0; 6], [7.0; 2]);
        let request = Request::new().losses(&mut losses);
        let out = MatrixMut::new(&mut grad, 2, 3).expect("the slice is long enough");
        let result = if in_place {
            let logits = MatrixMut::new(&mut logits, 2, 3).expect("the slice is long enough");
            ce.run_probabilities_in_place(logits, q, request.grad(out))
        } else {
            ce.run_probabilities(of(&x), q, request.grad(out))
        };
        assert_eq!(result, Err(error));
        assert_eq!((logits, grad, losses), (x, [7.0; 6], [7.0; 2]));
    };
    refuse(&plain, of(&q), true, Error::GradTwice);
    for probability in [-0.5, 2.0 * f64::from(f32::MAX), f64::INFINITY] {
        let mut q = q;
        q[4] = probability;
        let error = Error::InvalidTargetProbability { row: 1, column: 1, probability };
        refuse(&plain, of(&q), false, error);
    }
    let narrow = Matrix::with_row_stride(&q, 2, 2, 3).expect("the slice is long enough");
    let argument = "target_probabilities";
    refuse(&plain, narrow, false, Error::ShapeMismatch { argument, expected: (2, 3), actual: (2, 2) });
    let live = plain.clone().label_smoothing(0.1).smoothing(Smoothing::LiveClasses);
    refuse(&live, of(&q), false, Error::NeedsClasses { argument: "smoothing" });
    refuse(&plain.clone().focal_gamma(1.0), of(&q), false, Error::NeedsClasses { argument: "focal_gamma" });
    let (argument, expected, actual) = ("weight", 3, 2);
    let error = Error::LengthMismatch { argument, expected, actual };
    refuse(&plain.clone().weight([1.0; 2]), of(&q), false, error);

    let mut grad = [SENTINEL; 6];
    let request = Request::new().grad_as(matrix_mut(&mut grad, 3, 2));
    let result = CrossEntropy::default().run_probabilities(of(&x), of(&q), request);
    let error = Error::ShapeMismatch { argument: "grad", expected: (2, 3), actual: (3, 2) };
    assert_eq!(result, Err(error));
    assert_untouched("grad", &grad);
}

#[test]
fn backends_that_this_cpu_lacks() {
    let names = [(Backend::Portable, "portable"), (Backend::Avx2, "AVX2"), (Backend::Avx512, "AVX-512")];
    assert_eq!(&names.map(|(backend, _)| backend), Backend::ALL);
    for (backend, name) in names {
        assert_eq!(backend.to_string(), name);
        let built = CrossEntropy::builder().backend(backend).build();
        let softmax = Softmax::default().backend(backend);
        if backend.is_available() {
            assert_eq!(built.expect("the backend is available").backend(), backend);
            assert!(softmax.is_ok());
        } else {
            println!("{backend} is not available here");
            let message = format!("this CPU cannot run the {name} backend");
            assert_error(built, Error::BackendUnavailable { backend }, &message);
            assert_error(softmax, Error::BackendUnavailable { backend }, &message);
        }
    }
    assert!(Backend::Portable.is_available());
    assert_eq!(Backend::available().collect::<Vec<_>>(), {
        let mut all = Backend::ALL.to_vec();
        all.retain(|backend| backend.is_available());
        all
    });
    assert_eq!(CrossEntropy::default().backend(), Backend::detect());
    // The message exists also where every backend does.
    let error = Error::BackendUnavailable { backend: Backend::Avx512 };
    assert_eq!(error.to_string(), "this CPU cannot run the AVX-512 backend");
}

#[test]
fn softmax_outputs_of_another_shape() {
    let x = [0.5; 6];
    let error = |argument| Error::ShapeMismatch { argument, expected: (2, 3), actual: (3, 2) };
    let message = |argument| format!("{argument} is 3 x 2, but the logits are 2 x 3");
    for backend in backends() {
        let softmax = Softmax::default().backend(backend).expect("the backend is available");
        let mut wrong = [SENTINEL; 6];
        let result = softmax.softmax(matrix(&x, 2, 3), matrix_mut(&mut wrong, 3, 2));
        assert_error(result, error("probabilities"), &message("probabilities"));
        let result = softmax.log_softmax(matrix(&x, 2, 3), matrix_mut(&mut wrong, 3, 2));
        assert_error(result, error("log_probabilities"), &message("log_probabilities"));

        let (y, g) = (matrix(&x, 2, 3), matrix(&x, 2, 3));
        let result = softmax.softmax_backward(y, g, matrix_mut(&mut wrong, 3, 2));
        assert_error(result, error("grad"), &message("grad"));
        let result = softmax.log_softmax_backward(y, g, matrix_mut(&mut wrong, 3, 2));
        assert_error(result, error("grad"), &message("grad"));
        let g = matrix(&x, 3, 2);
        let result = softmax.softmax_backward(y, g, matrix_mut(&mut wrong, 2, 3));
        assert_error(result, error("upstream"), &message("upstream"));
        let result = softmax.log_softmax_backward(y, g, matrix_mut(&mut wrong, 2, 3));
        assert_error(result, error("upstream"), &message("upstream"));
        let result = softmax.softmax_backward_in_place(y, matrix_mut(&mut wrong, 3, 2));
        assert_error(result, error("upstream"), &message("upstream"));
        let result = softmax.log_softmax_backward_in_place(y, matrix_mut(&mut wrong, 3, 2));
        assert_error(result, error("upstream"), &message("upstream"));
        assert_untouched("wrong", &wrong);
    }
    // The free functions are the same.
    let mut wrong = [SENTINEL; 6];
    let result = softmax(matrix(&x, 2, 3), matrix_mut(&mut wrong, 3, 2));
    assert_error(result, error("probabilities"), &message("probabilities"));
    let result = log_softmax(matrix(&x, 2, 3), matrix_mut(&mut wrong, 3, 2));
    assert_error(result, error("log_probabilities"), &message("log_probabilities"));
    let result = softmax_backward(matrix(&x, 2, 3), matrix(&x, 3, 2), matrix_mut(&mut wrong, 2, 3));
    assert_error(result, error("upstream"), &message("upstream"));
    let result = log_softmax_backward(matrix(&x, 2, 3), matrix(&x, 2, 3), matrix_mut(&mut wrong, 3, 2));
    assert_error(result, error("grad"), &message("grad"));
    assert_untouched("wrong", &wrong);
}

/// Errors of calls come before what the batch's size would make slow or impossible.
#[test]
fn a_wrong_call_with_huge_shapes_fails_at_once() {
    let ce = CrossEntropy::default();
    let logits = Matrix::new(&[], usize::MAX, 0).expect("no columns take no memory");
    let error = Error::LengthMismatch { argument: "targets", expected: usize::MAX, actual: 1 };
    let message = format!("targets has 1 elements instead of {}", usize::MAX);
    assert_error(ce.loss(logits, &[0_u8]), error, &message);
    let error = Error::NoClasses { rows: usize::MAX };
    let message = format!("the logits have {} rows but no classes", usize::MAX);
    let mut nothing: [f32; 0] = [];
    let mut output = MatrixMut::new(&mut nothing, usize::MAX, 0).expect("no columns take no memory");
    assert_error(softmax(logits, output.reborrow()), error.clone(), &message);
    // This one once walked through all of the rows.
    assert_error(softmax_backward(logits, logits, output), error, &message);
}

#[test]
fn parts_of_the_reference_take_what_does_not_fit() {
    assert_eq!(reference::rank(&[1.0, 3.0, 2.0], 3), 3);
    assert_eq!(reference::rank::<f32>(&[], 0), 0);
    assert_eq!(reference::loss_gradient_wrt_probabilities(&[0.5, 0.5], 2), [0.0, 0.0]);
    let ragged = [vec![1.0], vec![2.0, 3.0, 4.0], vec![5.0]];
    assert_eq!(reference::chain_rule(&ragged, &[10.0, 1.0]), [12.0, 3.0, 4.0]);
    assert_eq!(reference::chain_rule(&ragged, &[10.0, 1.0, 1.0, 1.0]), [17.0, 3.0, 4.0]);
    assert!(reference::softmax::<f32>(&[]).is_empty());

    let ce =
        CrossEntropy::builder().weight([1.0, 2.0]).ignore_index(7).build().expect("the options are valid");
    let out_of_range = Error::TargetOutOfRange { row: 0, target: 2, classes: 2 };
    assert_eq!(reference::hessian(&ce, &[1.0, 2.0], 2), Err(out_of_range));
    let wrong_length = Error::LengthMismatch { argument: "weight", expected: 3, actual: 2 };
    assert_eq!(reference::hessian(&ce, &[1.0, 2.0, 3.0], 0), Err(wrong_length));
    assert_eq!(reference::hessian(&ce, &[], 0), Err(Error::NoClasses { rows: 1 }));
    assert_eq!(reference::hessian(&ce, &[1.0, 2.0], 7), Ok(vec![vec![0.0; 2]; 2]));
}
