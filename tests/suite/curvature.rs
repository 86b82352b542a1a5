//! Second order: the Hessian-vector product, the diagonals and the directional derivative.

use crate::support::batch::{Batch, IGNORE_INDEX, Random};
use crate::support::buffer::Layout;
use crate::support::curvature::{CurvatureCall, INPUTS, Problem};
use crate::support::{backends, fused_backends};
use xent::contract::{CONFIDENT, U};
use xent::{
    CrossEntropy, CrossEntropyBuilder, Error, Matrix, MatrixMut, Parallelism, Reduction, Request, Smoothing,
    reference,
};

/// Both sides of every boundary at which the kernels do something else.
fn class_counts() -> impl Iterator<Item = usize> {
    (1..=40).chain(64..=130).chain([1000]).chain(2047..=2050).chain([70_000])
}

/// Each cell of weight x label smoothing x z-loss x reduction, by number.
const PLAIN_OPTIONS: usize = 24;

const SMOOTHINGS: [Smoothing; 3] = [Smoothing::AllClasses, Smoothing::OtherClasses, Smoothing::LiveClasses];
const FOCAL_GAMMAS: [f64; 4] = [0.0, 0.5, 2.0, 5.0];

/// Logit scales and softcaps.
const TRANSFORMS: [(f64, Option<f64>); 4] = [(1.0, None), (0.5, None), (1.0, Some(15.0)), (3.0, Some(4.0))];

/// Those times smoothing's classes x focal loss.
const UNTRANSFORMED: usize = PLAIN_OPTIONS * SMOOTHINGS.len() * FOCAL_GAMMAS.len();

/// Those times transforms.
const OPTIONS: usize = UNTRANSFORMED * TRANSFORMS.len();

/// All without a transform, and of the others enough for every pair of values.
fn many_options() -> impl Iterator<Item = usize> {
    (0..UNTRANSFORMED).chain((UNTRANSFORMED..OPTIONS).step_by(7))
}

fn builder(options: usize, classes: usize) -> CrossEntropyBuilder {
    let mut random = Random::new(classes as u64);
    let mut builder = CrossEntropy::builder()
        .ignore_index(IGNORE_INDEX)
        .reduction([Reduction::Mean, Reduction::Sum][options % 2])
        .z_loss([0.0, 0.01][options / 2 % 2])
        .label_smoothing([0.0, 0.1, 1.0][options / 4 % 3])
        .smoothing(SMOOTHINGS[options / PLAIN_OPTIONS % 3])
        .focal_gamma(FOCAL_GAMMAS[options / PLAIN_OPTIONS / 3 % 4])
        .logit_scale(TRANSFORMS[options / PLAIN_OPTIONS / 12].0)
        .softcap(TRANSFORMS[options / PLAIN_OPTIONS / 12].1);
    if options / 12 % 2 == 1 {
        let weights = (0..classes).map(|_| [0.0, 0.5, 1.0, 3.75, 100.0][random.below(5)]);
        builder = builder.weight(weights.collect::<Vec<f32>>());
    }
    builder
}

fn matrix(x: &[f32], rows: usize, cols: usize) -> Matrix<'_> {
    Matrix::new(x, rows, cols).expect("the slice is long enough")
}

fn matrix_mut(x: &mut [f32], rows: usize, cols: usize) -> MatrixMut<'_> {
    MatrixMut::new(x, rows, cols).expect("the slice is long enough")
}

fn built(builder: &CrossEntropyBuilder, backend: xent::Backend, parallelism: Parallelism) -> CrossEntropy {
    let builder = builder.clone().backend(backend).parallelism(parallelism);
    builder.build().expect("the backend is available")
}

#[test]
fn every_combination_of_options_keeps_its_bounds() {
    for classes in [1, 2, 3, 15, 16, 17, 33, 64, 80, 127, 128, 130, 1000] {
        let problem = Problem::random(if classes < 100 { 40 } else { 12 }, classes, 31);
        for options in many_options() {
            let all_inputs =
                if options < PLAIN_OPTIONS { 0..INPUTS } else { options % INPUTS..options % INPUTS + 1 };
            for inputs in all_inputs {
                let problem = problem.clone().with_inputs(inputs);
                for backend in backends() {
                    let ce = built(&builder(options, classes), backend, Parallelism::Serial);
                    let found = CurvatureCall::default().evaluate(&ce, &problem);
                    found.check(&ce, &problem, &format!("options {options}, inputs {inputs}, {backend}"));
                }
            }
        }
    }
}

#[test]
fn every_number_of_classes_keeps_its_bounds_in_strided_memory() {
    for (turn, classes) in class_counts().enumerate() {
        let problem = Problem::random(if classes > 2000 { 10 } else { 21 }, classes, 32 + turn as u64);
        let problem = problem.with_inputs(turn % INPUTS);
        for options in [turn % OPTIONS, (turn * 7 + 5) % OPTIONS] {
            for backend in backends() {
                for parallelism in [Parallelism::Serial, Parallelism::Rayon] {
                    let ce = built(&builder(options, classes), backend, parallelism);
                    let call = CurvatureCall {
                        inputs: Layout { offset: turn % 16, padding: turn % 3 },
                        outputs: Layout { offset: (turn + 7) % 16, padding: (turn + 1) % 5 },
                        in_place: parallelism == Parallelism::Rayon,
                    };
                    let found = call.evaluate(&ce, &problem);
                    found.check(&ce, &problem, &format!("options {options}, {backend}, {call:?}"));
                }
            }
        }
    }
}

/// Gaps that are exact in `f32`: nothing but the constants of the contract is left.
#[test]
fn the_dominant_class_keeps_all_bits_of_its_curvature() {
    for backend in backends() {
        let ce = built(&CrossEntropy::builder().reduction(Reduction::Sum), backend, Parallelism::Serial);
        for classes in [2, 5, 16, 17, 100, 3000] {
            for gap in 1..=80 {
                let mut x = vec![0.0; classes];
                let dominant = gap % classes;
                x[dominant] = gap as f32;
                let mut diagonal = vec![f32::NAN; classes];
                for target in [dominant, (dominant + 1) % classes] {
                    let out = matrix_mut(&mut diagonal, 1, classes);
                    ce.gauss_newton_diagonal(matrix(&x, 1, classes), &[target], out).expect("it is valid");
                    let others = (classes - 1) as f64 * (-(gap as f64)).exp();
                    let exact = others / (1.0 + others) / (1.0 + others);
                    let error = (f64::from(diagonal[dominant]) - exact).abs() / exact;
                    assert!(
                        error <= CONFIDENT * U,
                        "gap {gap}, {classes} classes, {backend}: {} U",
                        error / U
                    );
                }
            }
        }
    }
}

#[test]
fn the_hessian_depends_on_the_target_through_its_weight_alone() {
    for backend in backends() {
        for classes in [2, 9, 50, 300] {
            let mut problem = Problem::random(30, classes, 33);
            let ce = built(&CrossEntropy::builder().label_smoothing(0.2), backend, Parallelism::Serial);
            let before = CurvatureCall::default().evaluate(&ce, &problem);
            for target in problem.batch.targets.iter_mut().filter(|target| **target >= 0) {
                *target = (*target + 1) % classes as i64;
            }
            let after = CurvatureCall::default().evaluate(&ce, &problem);
            assert_eq!(before.product, after.product);
            assert_eq!(before.hessian_diagonal, after.hessian_diagonal);
        }
    }
}

#[test]
fn instruction_sets_threads_layouts_and_places_change_no_bit() {
    for (turn, classes) in [1, 2, 16, 33, 80, 127, 128, 100, 1000, 2049, 70_000].into_iter().enumerate() {
        let rows = (300_000 / classes).clamp(5, 1500);
        let problem = Problem::random(rows, classes, 34).with_inputs(turn % INPUTS);
        let options = (turn * 173 + 2) % OPTIONS;
        let builder = builder(options, classes);
        let mut of_fused = None;
        for backend in backends() {
            let serial = built(&builder, backend, Parallelism::Serial);
            let expected = CurvatureCall::default().evaluate(&serial, &problem);
            if fused_backends().contains(&backend) {
                let first = of_fused.get_or_insert_with(|| expected.clone());
                expected.assert_equal(first, &format!("{classes} classes, {backend}"));
            }
            for threads in 1..=3 {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let ce = built(&builder, backend, Parallelism::Rayon);
                let call = CurvatureCall {
                    inputs: Layout { offset: threads, padding: threads },
                    outputs: Layout { offset: 3 * threads, padding: 1 },
                    in_place: threads != 2,
                };
                let found = pool.expect("threads can be started").install(|| call.evaluate(&ce, &problem));
                found.assert_equal(&expected, &format!("{classes} classes, {backend}, {threads} threads"));
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_as_in_a_batch() {
    for backend in backends() {
        for (options, classes) in [(1, 7), (3, 16), (15, 70), (23, 90), (9, 3000), (601, 40), (889, 5000)] {
            let rows = 25;
            let ce = built(&builder(options | 1, classes), backend, Parallelism::Rayon);
            let problem = Problem::random(rows, classes, 35);
            let whole = CurvatureCall::default().evaluate(&ce, &problem);
            for row in 0..rows {
                let alone = CurvatureCall::default().evaluate(&ce, &problem.row(row));
                alone.assert_rows_equal(&whole, row, &format!("row {row}, {classes} classes, {backend}"));
            }
        }
    }
}

#[test]
fn hostile_rows_and_directions_give_nan_and_keep_it_to_themselves() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for classes in [1, 2, 5, 16, 17, 64, 65, 100, 130, 2049] {
        for place in [0, classes / 2, classes - 1] {
            let mut problem = Problem::random(30, classes, 36);
            let clean = problem.clone();
            for (turn, row) in (0..30).filter(|&row| clean.batch.targets[row] >= 0).enumerate() {
                let at = row * classes + place;
                match turn % 8 {
                    0 => problem.batch.logits[at] = nan,
                    1 => problem.batch.logits[at] = inf,
                    2 => problem.batch.row_mut(row).fill(-inf),
                    3 => problem.direction[at] = nan,
                    4 => problem.direction[at] = inf,
                    5 => problem.direction[at] = -inf,
                    // A direction that is not finite counts where the class is masked, too.
                    6 if classes > 1 => {
                        problem.batch.logits[at] = -inf;
                        problem.direction[at] = inf;
                        let target = (place + 1) % classes;
                        problem.batch.targets[row] = target as i64;
                        problem.batch.logits[row * classes + target] = 0.5;
                    }
                    _ => {}
                }
            }
            for backend in backends() {
                for options in [0, 1, 2, 23, PLAIN_OPTIONS * 12 + 3, PLAIN_OPTIONS * 24 + 23] {
                    let ce = built(&builder(options, classes), backend, Parallelism::Serial);
                    let context = format!("place {place}, options {options}, {backend}");
                    let found = CurvatureCall::default().evaluate(&ce, &problem);
                    found.check(&ce, &problem, &context);
                    let in_place = CurvatureCall { in_place: true, ..CurvatureCall::default() };
                    in_place.evaluate(&ce, &problem).assert_rows_equal(&found, 0, &context);
                }
            }
        }
    }
}

/// Directions as large as `f32` has, some where there is no probability: no step on the way overflows.
#[test]
fn the_largest_directions_give_finite_products() {
    for classes in [2, 16, 40, 100, 2049] {
        let mut problem = Problem::random(27, classes, 37);
        for (i, v) in problem.direction.iter_mut().enumerate().filter(|(_, v)| !v.is_nan()) {
            *v = if i % 3 == 0 { f32::MIN } else { f32::MAX };
        }
        for backend in backends() {
            for options in [0, 6, PLAIN_OPTIONS * 24 + 4, PLAIN_OPTIONS * 36 + 14] {
                let ce = built(&builder(options, classes), backend, Parallelism::Serial);
                let found = CurvatureCall::default().evaluate(&ce, &problem);
                found.check(&ce, &problem, &format!("options {options}, {backend}"));
                assert!(found.product.iter().all(|product| product.is_finite()));
            }
        }
    }
}

/// Nor does the exponential that stands for 0 count, where the largest direction could make something of it.
#[test]
fn masked_classes_take_no_part_whatever_their_direction() {
    for classes in [3, 16, 17, 65, 100, 2049] {
        let mut problem = Problem::random(20, classes, 42);
        for row in 0..20 {
            let target = problem.batch.targets[row];
            for class in (0..classes).filter(|&class| target >= 0 && class % 3 == 0 && class as i64 != target)
            {
                problem.batch.row_mut(row)[class] = f32::NEG_INFINITY;
                problem.direction[row * classes + class] = 0.0;
            }
        }
        let mut other = problem.clone();
        for (x, v) in problem.batch.logits.iter().zip(&mut other.direction) {
            *v = if *x == f32::NEG_INFINITY { f32::MAX } else { *v };
        }
        for backend in backends() {
            for options in [0, 2, 14, PLAIN_OPTIONS * 24 + 2] {
                let ce = built(&builder(options, classes), backend, Parallelism::Serial);
                let found = CurvatureCall::default().evaluate(&ce, &problem);
                found.check(&ce, &problem, &format!("options {options}, {backend}"));
                let of_other = CurvatureCall::default().evaluate(&ce, &other);
                of_other.assert_equal(&found, &format!("{classes} classes, options {options}, {backend}"));
            }
        }
    }
}

#[test]
fn rows_that_do_not_count_have_no_curvature() {
    let (rows, classes) = (4, 6);
    let nan = vec![f32::NAN; rows * classes];
    let batch = Batch { rows, classes, logits: nan.clone(), targets: vec![IGNORE_INDEX; rows] };
    let problem = Problem::new(batch, nan);
    for backend in backends() {
        for options in 0..OPTIONS {
            let ce = built(&builder(options, classes), backend, Parallelism::Serial);
            let found = CurvatureCall::default().evaluate(&ce, &problem);
            found.check(&ce, &problem, "all ignored");
            assert_eq!(found.jvp, 0.0);
        }
    }
    // Nor have no rows at all.
    let empty = matrix(&[], 0, 3);
    assert_eq!(CrossEntropy::default().jvp(empty, &[] as &[u8], empty), Ok(0.0));
}

/// Steps of the central differences: exact in `f32` for logits and directions on a grid.
const STEP: f32 = 1.0 / 4096.0;

/// The fourth derivative of lse along a direction with |v_i| <= 2 is a fourth cumulant of v: at most 2 * 2^4. That of
/// z lse^2 has products of the lower ones besides. The gradient's third derivative bounds its central difference's error
/// by a sixth of it times the step's square.
const FOURTH_DERIVATIVE: f64 = 400.0;

/// The reference's own second derivatives, by the definition.
#[test]
fn the_oracle_is_the_derivative_of_the_references_gradient() {
    for classes in 1..=12 {
        let (rows, mut random) = (6, Random::new(38 + classes as u64));
        let grid = |random: &mut Random| (random.below(129) as f32 - 64.0) / 16.0;
        let logits: Vec<f32> = (0..rows * classes).map(|_| grid(&mut random)).collect();
        let direction: Vec<f32> = (0..rows * classes).map(|_| grid(&mut random) / 2.0).collect();
        let mut targets: Vec<i64> = (0..rows).map(|_| random.below(classes) as i64).collect();
        targets[rows / 2] = IGNORE_INDEX;
        let matrix = |x| matrix(x, rows, classes);
        for options in 0..OPTIONS {
            let ce = builder(options, classes).build().expect("the options are valid");
            let exact =
                reference::curvature(&ce, matrix(&logits), &targets, matrix(&direction), &Request::new())
                    .expect("the batch is valid");
            let at = |step: f32| {
                let moved: Vec<f32> = logits.iter().zip(&direction).map(|(x, v)| x + step * v).collect();
                let moved = Matrix::new(&moved, rows, classes).expect("the slice is long enough");
                reference::cross_entropy(&ce, moved, &targets).expect("the batch is valid")
            };
            let (before, after) = (at(-STEP), at(STEP));
            let step = f64::from(STEP);
            // The largest weight is 100, and a mean may divide by the smallest, 0.5.
            let bound = 200.0 * FOURTH_DERIVATIVE * step * step / 6.0;
            for i in 0..rows * classes {
                let difference = (after.grad[i] - before.grad[i]) / (2.0 * step);
                let error = (exact.hessian_vector_product[i] - difference).abs();
                assert!(error <= bound, "{error:e}, options {options}, {classes} classes");
            }
            let slopes: f64 = at(0.0).grad.iter().zip(&direction).map(|(g, &v)| g * f64::from(v)).sum();
            let sizes: f64 =
                at(0.0).grad.iter().zip(&direction).map(|(g, &v)| (g * f64::from(v)).abs()).sum();
            let rounding = (rows * classes + 20) as f64 * f64::EPSILON * (1.0 + sizes) * 200.0;
            assert!((exact.jvp - slopes).abs() <= rounding, "options {options}, {classes} classes");
        }
    }
}

/// The reference in linear time is the one with a matrix.
#[test]
fn the_oracle_is_the_hessian_made_of_the_jacobian_of_softmax() {
    for classes in [1, 2, 3, 10, 40] {
        let problem = Problem::random(40, classes, 39);
        let Problem { batch, direction, .. } = &problem;
        for options in (0..OPTIONS).filter(|options| options % 2 == 1) {
            let ce = builder(options, classes).build().expect("the options are valid");
            for row in (0..batch.rows).filter(|&row| batch.targets[row] >= 0) {
                let (x, v) = (batch.row(row), &direction[row * classes..][..classes]);
                let hessian = reference::hessian(&ce, x, batch.targets[row]).expect("the target is a class");
                let (x, v_matrix) = (matrix(x, 1, classes), matrix(v, 1, classes));
                let exact =
                    reference::curvature(&ce, x, &batch.targets[row..=row], v_matrix, &Request::new());
                let exact = exact.expect("the batch is valid");
                let has_differences = ce.z_loss() > 0.0 || ce.focal_gamma() > 0.0 || ce.softcap().is_some();
                for i in 0..classes {
                    let (mut product, mut magnitude) = (0.0, 0.0);
                    for j in 0..classes {
                        product += hessian[i][j] * f64::from(v[j]);
                        magnitude += (hessian[i][j] * f64::from(v[j])).abs();
                    }
                    // Of larger numbers.
                    let rounding =
                        (classes + 20) as f64 * f64::EPSILON * if has_differences { 1e4 } else { 1.0 };
                    let error = (exact.hessian_vector_product[i] - product).abs();
                    assert!(
                        error <= rounding * magnitude,
                        "{error:e} of {magnitude:e}, row {row}, options {options}"
                    );
                    let error = (exact.hessian_diagonal[i] - hessian[i][i]).abs();
                    assert!(
                        error <= rounding * hessian[i][i].abs(),
                        "diagonal, row {row}, options {options}"
                    );
                }
            }
        }
    }
}

#[test]
fn short_forms_are_the_long_ones() {
    let (rows, classes) = (20, 30);
    let Problem { batch, direction, .. } = Problem::random(rows, classes, 40);
    let ce = CrossEntropy::builder().label_smoothing(0.1).z_loss(0.01).build().expect("they are valid");
    let (x, v) = (matrix(&batch.logits, rows, classes), matrix(&direction, rows, classes));
    let curvature = ce.curvature(x, &batch.targets).expect("the batch is valid");
    let mut results = [(); 4].map(|()| vec![f32::NAN; rows * classes]);
    let [short, long, short_diagonal, long_diagonal] =
        results.each_mut().map(|out| matrix_mut(out, rows, classes));
    ce.hessian_vector_product(x, &batch.targets, v, short).expect("the shapes agree");
    curvature.hessian_vector_product(v, long).expect("the shapes agree");
    ce.gauss_newton_diagonal(x, &batch.targets, short_diagonal).expect("the shapes agree");
    curvature.gauss_newton_diagonal(long_diagonal).expect("the shapes agree");
    assert_eq!(ce.jvp(x, &batch.targets, v), curvature.jvp(v));
    assert_eq!(results[0], results[1]);
    assert_eq!(results[2], results[3]);
}

#[test]
fn its_debug_form_names_the_options_the_shape_and_the_inputs() {
    let ce = CrossEntropy::builder().z_loss(0.25).build().expect("they are valid");
    let curvature = ce.curvature(matrix(&[0.5; 14], 2, 7), &[1_u8, 6]).expect("the batch is valid");
    let shown = format!("{curvature:?}");
    assert!(shown.starts_with("Curvature {"), "{shown}");
    for part in ["z_loss: 0.25", "rows: 2", "cols: 7", "row_weights: None"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
}

const SENTINEL: f32 = f32::from_bits(0x7fc0_5e57);

#[test]
fn errors_name_the_argument_and_leave_outputs_untouched() {
    let ce = CrossEntropy::default();
    let (x, v) = (vec![0.5; 6], vec![1.0; 6]);
    let mut out = vec![SENTINEL; 6];
    let (logits, targets) = (matrix(&x, 2, 3), [0_i64, 2]);
    let mismatch = |argument| Error::ShapeMismatch { argument, expected: (2, 3), actual: (3, 2) };

    let wrong = [0_i64, 3];
    let expected = Error::TargetOutOfRange { row: 1, target: 3, classes: 3 };
    assert_eq!(ce.curvature(logits, &wrong).map(drop), Err(expected.clone()));
    let result = ce.hessian_vector_product(logits, &wrong, matrix(&v, 2, 3), matrix_mut(&mut out, 2, 3));
    assert_eq!(result, Err(expected.clone()));
    let result = ce.gauss_newton_diagonal(logits, &wrong, matrix_mut(&mut out, 2, 3));
    assert_eq!(result, Err(expected.clone()));
    assert_eq!(ce.jvp(logits, &wrong, matrix(&v, 2, 3)), Err(expected));
    let expected = Error::LengthMismatch { argument: "targets", expected: 2, actual: 1 };
    assert_eq!(ce.curvature(logits, &[0_u8]).map(drop), Err(expected));
    assert_eq!(ce.curvature(matrix(&[], 2, 0), &[0_u8, 0]).map(drop), Err(Error::NoClasses { rows: 2 }));

    let curvature = ce.curvature(logits, &targets).expect("the batch is valid");
    let result = curvature.hessian_vector_product(matrix(&v, 3, 2), matrix_mut(&mut out, 2, 3));
    assert_eq!(result, Err(mismatch("direction")));
    let result = curvature.hessian_vector_product(matrix(&v, 2, 3), matrix_mut(&mut out, 3, 2));
    assert_eq!(result, Err(mismatch("out")));
    let result = curvature.hessian_vector_product_in_place(matrix_mut(&mut out, 3, 2));
    assert_eq!(result, Err(mismatch("direction")));
    assert_eq!(curvature.gauss_newton_diagonal(matrix_mut(&mut out, 3, 2)), Err(mismatch("out")));
    assert_eq!(curvature.hessian_diagonal(matrix_mut(&mut out, 3, 2)), Err(mismatch("out")));
    assert_eq!(curvature.jvp(matrix(&v, 3, 2)), Err(mismatch("direction")));
    assert_eq!(curvature.jvp_of_rows(matrix(&v, 3, 2), &mut out[..2]), Err(mismatch("direction")));
    let expected = Error::LengthMismatch { argument: "derivatives", expected: 2, actual: 3 };
    assert_eq!(curvature.jvp_of_rows(matrix(&v, 2, 3), &mut out[..3]), Err(expected));
    let expected = Error::LengthMismatch { argument: "upstream", expected: 2, actual: 3 };
    let with = |request: Request<'_>| ce.curvature_with(logits, &targets, &request).map(drop);
    assert_eq!(with(Request::new().upstream(&[1.0; 3])), Err(expected));
    let expected = Error::InvalidDenominator { denominator: 0.0 };
    assert_eq!(with(Request::new().denominator(0.0)), Err(expected));
    let expected = Error::InvalidRowWeight { row: 1, weight: -1.0 };
    assert_eq!(with(Request::new().row_weights(&[1.0, -1.0])), Err(expected));

    assert!(out.iter().all(|x| x.to_bits() == SENTINEL.to_bits()), "an output was written");
}
