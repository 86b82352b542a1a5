//! Second order of logits of `f64`: the contract with its own unit, against numbers of twice the precision.

use crate::support::batch::{Batch, IGNORE_INDEX, Random};
use crate::support::double_bounds::Shares;
use crate::support::double_curvature::{Factors, check_row, evaluate};
use crate::support::double_double::DoubleDouble;
use crate::support::double_rows::{KINDS, batch_of_all_kinds};
use crate::support::doubles::Doubles;
use crate::support::{PARALLELISMS, backends, fused_backends};
use xent::contract::REDUCED_F64;
use xent::contract::U_F64;
use xent::{CrossEntropy, CrossEntropyBuilder, Error, Matrix, MatrixMut, Reduction, Request, Smoothing};

/// Every option on its own and with others.
const OPTIONS: usize = 13;

/// Both with a softcap, one with a scale.
const TRANSFORMS: [usize; 2] = [9, 12];

fn builder(options: usize, classes: usize) -> CrossEntropyBuilder {
    let mut random = Random::new(classes as u64);
    let weights = (0..classes).map(|_| [0.0, 0.5, 1.0, 3.75, 100.0][random.below(5)]);
    let weights: Vec<f32> = weights.collect();
    let builder = CrossEntropy::builder();
    match options {
        0 => builder.reduction(Reduction::Sum),
        1 => builder,
        2 => builder.label_smoothing(0.1).weight(weights),
        3 => builder.z_loss(0.01).label_smoothing(0.1).smoothing(Smoothing::OtherClasses),
        4 => builder.label_smoothing(0.2).smoothing(Smoothing::LiveClasses).weight(weights),
        5 => builder.focal_gamma(2.0),
        6 => builder.focal_gamma(0.5).z_loss(0.01).weight(weights),
        7 => builder.logit_scale(0.7),
        8 => builder.softcap(15.0),
        9 => builder.softcap(30.0).logit_scale(1.7).label_smoothing(0.1),
        10 => builder.softcap(15.0).focal_gamma(2.0).label_smoothing(0.1).weight(weights),
        11 => builder.logit_scale(2.5).label_smoothing(0.1).smoothing(Smoothing::LiveClasses),
        _ => builder.softcap(50.0).smoothing(Smoothing::LiveClasses).label_smoothing(0.3).z_loss(0.1),
    }
}

/// A direction of another kind for each row.
fn direction(rows: usize, classes: usize, random: &mut Random) -> Vec<f64> {
    let mut v = Vec::with_capacity(rows * classes);
    for _ in 0..rows {
        let (kind, one) = (random.below(6), random.below(classes));
        v.extend((0..classes).map(|class| match kind {
            0 => 1.0,
            1 => f64::from(u8::from(class == one)),
            2 => [-1.0, 1.0][random.below(2)],
            3 => 1e200 * f64::from(random.normal()),
            4 => 1e4 + f64::from(random.normal()) * 0.123_456_789_012,
            _ => f64::from(random.normal()) * 1.000_000_012_3,
        }));
    }
    v
}

/// The inputs of a request, in turn.
struct Inputs {
    mask: Option<Vec<bool>>,
    row_weights: Option<Vec<f32>>,
    upstream: Option<Vec<f64>>,
    denominator: Option<f64>,
}

impl Inputs {
    fn new(turn: usize, rows: usize) -> Self {
        let when = |is: bool| is.then_some(());
        Self {
            mask: when(turn % 5 == 1).map(|()| (0..rows).map(|row| row % 4 != 1).collect()),
            row_weights: when(turn % 5 >= 3)
                .map(|()| (0..rows).map(|row| [0.25, 1.0, 40.0, 0.0][row % 4]).collect()),
            upstream: when(matches!(turn % 5, 2 | 4))
                .map(|()| (0..rows).map(|row| [0.731_000_1, 0.0, -30.3][row % 3]).collect()),
            denominator: when(turn % 5 == 3).map(|()| 7.5),
        }
    }

    fn request(&self) -> Request<'_, f64> {
        let mut request = Request::new();
        if let Some(mask) = &self.mask {
            request = request.loss_mask(mask);
        }
        if let Some(row_weights) = &self.row_weights {
            request = request.row_weights(row_weights);
        }
        if let Some(upstream) = &self.upstream {
            request = request.upstream(upstream).upstream_scalar(-1.5);
        }
        if let Some(denominator) = self.denominator {
            request = request.denominator(denominator);
        }
        request
    }

    fn counts(&self, row: usize) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask[row])
    }

    fn row_weight(&self, row: usize) -> f64 {
        self.row_weights.as_ref().map_or(1.0, |weights| f64::from(weights[row]))
    }

    fn factors(&self, ce: &CrossEntropy, batch: &Doubles, row: usize) -> Factors {
        let (mut weight, mut weight_of_rows) = (0.0, 0.0);
        for row in (0..batch.rows).filter(|&row| self.counts(row)) {
            let of_class = ce.weight().map_or(1.0, |weight| f64::from(weight[batch.targets[row] as usize]));
            weight += of_class * self.row_weight(row);
            weight_of_rows += self.row_weight(row);
        }
        let (divisor, z_divisor) = match (self.denominator, ce.reduction()) {
            (Some(denominator), _) => (denominator, denominator),
            (None, Reduction::Mean) => (weight, weight_of_rows),
            (None, Reduction::Sum) => (1.0, 1.0),
        };
        let inverse = |divisor: f64| if divisor == 0.0 { 0.0 } else { 1.0 / divisor };
        let row_weight = self.row_weight(row);
        let (of_loss, of_z_loss) = match &self.upstream {
            Some(upstream) => (upstream[row] * -1.5, upstream[row] * -1.5),
            None => (inverse(divisor), inverse(z_divisor)),
        };
        Factors { of_loss: of_loss * row_weight, of_z_loss: of_z_loss * row_weight, row_weight }
    }
}

#[test]
fn every_option_keeps_the_contract_with_the_unit_of_f64() {
    let mut shares = Shares::default();
    // Transformed logits come in blocks of 1024.
    for (turn, classes) in [1, 2, 3, 5, 16, 17, 33, 64, 65, 100, 129, 2051].into_iter().enumerate() {
        let batch = batch_of_all_kinds(classes, 61 + classes as u64);
        let v = direction(KINDS, classes, &mut Random::new(62 + classes as u64));
        for options in (0..OPTIONS).filter(|options| classes < 2048 || TRANSFORMS.contains(options)) {
            let inputs = Inputs::new(if options < 2 { 0 } else { turn + options }, KINDS);
            let mut bits = None;
            for backend in backends() {
                let ce = builder(options, classes).backend(backend).build().expect("it is available");
                let found = evaluate(&ce, &batch, &v, &inputs.request());
                let context = format!("options {options}, {classes} classes, {backend}");
                if fused_backends().contains(&backend) {
                    assert!(*bits.get_or_insert_with(|| found.bits()) == found.bits(), "bits, {context}");
                }
                let (mut jvp, mut bound, mut size) = (DoubleDouble::default(), 0.0, 0.0);
                for row in 0..KINDS {
                    let context = format!("row {row}, {context}");
                    if !inputs.counts(row) {
                        assert!(found.bits_of_row(row, classes).iter().all(|&bits| bits == 0), "{context}");
                        continue;
                    }
                    let of_row = (batch.row(row), batch.targets[row] as usize);
                    let v = &v[row * classes..][..classes];
                    let factors = inputs.factors(&ce, &batch, row);
                    let (derivative, of_derivative) =
                        check_row(&ce, of_row, v, &factors, (&found, row), &mut shares, &context);
                    jvp = jvp + derivative;
                    (bound, size) = (bound + of_derivative, size + derivative.high.abs());
                }
                let error = (DoubleDouble::from(found.jvp) - jvp).high.abs();
                assert!(error <= bound + REDUCED_F64 * U_F64 * size, "jvp {:e}, {context}", found.jvp);
            }
        }
    }
    shares.print();
}

/// Gaps that are exact: nothing but the constants of the contract is left, where 1 - p would have nothing.
#[test]
fn the_dominant_class_keeps_all_bits_of_its_curvature() {
    for backend in backends() {
        let ce = CrossEntropy::builder().reduction(Reduction::Sum).backend(backend).build().unwrap();
        for classes in [2, 5, 16, 17, 100, 3000] {
            for gap in 1..=600 {
                let mut x = vec![0.0; classes];
                let dominant = gap % classes;
                x[dominant] = gap as f64;
                let mut diagonal = vec![f64::NAN; classes];
                let out = MatrixMut::new(&mut diagonal, 1, classes).unwrap();
                ce.gauss_newton_diagonal(Matrix::new(&x, 1, classes).unwrap(), &[0_u8], out).unwrap();
                let others = DoubleDouble::from(-(gap as f64)).exp() * ((classes - 1) as f64).into();
                let sum = others + 1.0.into();
                let exact = others / sum / sum;
                let error = ((DoubleDouble::from(diagonal[dominant]) - exact) / exact).high.abs();
                assert!(error <= 8.0 * U_F64, "gap {gap}, {classes} classes, {backend}: {}", error / U_F64);
            }
        }
    }
}

#[test]
fn hostile_rows_and_directions_give_nan_and_keep_it_to_themselves() {
    const INF: f64 = f64::INFINITY;
    for classes in [2, 5, 17, 65, 130, 2049] {
        for place in [0, classes / 2, classes - 1] {
            let batch = Doubles::near(&Batch::random(16, classes, 63));
            let mut v = direction(16, classes, &mut Random::new(64));
            let (mut hostile, mut hostile_v) = (batch.clone(), v.clone());
            let is_hostile = |row: usize| batch.targets[row] >= 0 && row.is_multiple_of(2);
            for row in (0..16).filter(|&row| is_hostile(row)) {
                let at = row * classes + place;
                match row / 2 % 6 {
                    0 => hostile.logits[at] = f64::NAN,
                    1 => hostile.logits[at] = INF,
                    2 => hostile.logits[row * classes..][..classes].fill(-INF),
                    3 => hostile_v[at] = f64::NAN,
                    4 => hostile_v[at] = INF,
                    _ => hostile_v[at] = -INF,
                }
            }
            for row in (0..16).filter(|&row| batch.targets[row] < 0) {
                v[row * classes..][..classes].fill(f64::NAN);
                hostile_v[row * classes..][..classes].fill(f64::NAN);
            }
            for backend in backends() {
                for options in [0, 4, 10] {
                    let builder = builder(options, classes).reduction(Reduction::Sum);
                    let ce = builder.ignore_index(IGNORE_INDEX).backend(backend).build().unwrap();
                    let clean = evaluate(&ce, &batch, &v, &Request::new());
                    let found = evaluate(&ce, &hostile, &hostile_v, &Request::new());
                    for row in 0..16 {
                        let context = format!("row {row}, {classes} classes, options {options}, {backend}");
                        if batch.targets[row] < 0 {
                            assert!(found.bits_of_row(row, classes).iter().all(|&b| b == 0), "{context}");
                        } else if is_hostile(row) {
                            let product = &found.product[row * classes..][..classes];
                            assert!(product.iter().all(|x| x.is_nan()), "{context}");
                            assert!(found.derivatives[row].is_nan(), "{context}");
                        } else {
                            let same = found.bits_of_row(row, classes) == clean.bits_of_row(row, classes);
                            assert!(same, "{context}");
                        }
                    }
                    assert!(found.jvp.is_nan());
                }
            }
        }
    }
}

#[test]
fn threads_and_batches_change_no_bit() {
    for (rows, classes) in [(40, 3), (37, 64), (21, 130), (70, 1000), (3, 30_001)] {
        let batch = Doubles::near(&Batch::random(rows, classes, 65));
        let v = direction(rows, classes, &mut Random::new(66));
        for options in [0, 4, 6, 9] {
            let mut expected = None;
            for backend in fused_backends() {
                for parallelism in PARALLELISMS {
                    let builder =
                        builder(options, classes).ignore_index(IGNORE_INDEX).reduction(Reduction::Sum);
                    let ce = builder.backend(backend).parallelism(parallelism).build().unwrap();
                    let found = evaluate(&ce, &batch, &v, &Request::new());
                    let expected = expected.get_or_insert_with(|| found.bits());
                    let context = format!("{rows} x {classes}, options {options}, {backend}");
                    assert!(*expected == found.bits(), "{context}");
                    for row in (0..rows).step_by(7) {
                        let alone = Doubles {
                            rows: 1,
                            classes,
                            logits: batch.row(row).to_vec(),
                            targets: vec![batch.targets[row]],
                        };
                        let of_row = &v[row * classes..][..classes];
                        let alone = evaluate(&ce, &alone, of_row, &Request::new());
                        let same = alone.bits_of_row(0, classes) == found.bits_of_row(row, classes);
                        assert!(same, "row {row} alone, {context}");
                    }
                }
            }
        }
    }
}

#[test]
fn an_error_leaves_every_output_untouched() {
    let ce = CrossEntropy::default();
    let x = [0.5_f64; 6];
    let mut out = [7.0; 6];
    let curvature = ce.curvature(Matrix::new(&x, 2, 3).unwrap(), &[0_u8, 2]).unwrap();
    let wrong = Matrix::new(&x, 3, 2).unwrap();
    let mismatch = |argument| Error::ShapeMismatch { argument, expected: (2, 3), actual: (3, 2) };
    let result = curvature.hessian_vector_product(wrong, MatrixMut::new(&mut out, 2, 3).unwrap());
    assert_eq!(result, Err(mismatch("direction")));
    let result = curvature.hessian_diagonal(MatrixMut::new(&mut out, 3, 2).unwrap());
    assert_eq!(result, Err(mismatch("out")));
    let expected = Error::LengthMismatch { argument: "derivatives", expected: 2, actual: 3 };
    let right = Matrix::new(&x, 2, 3).unwrap();
    assert_eq!(curvature.jvp_of_rows(right, &mut out[..3]), Err(expected));
    assert_eq!(out, [7.0; 6]);
}
