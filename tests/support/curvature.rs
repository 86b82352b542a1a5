//! Every output of second order of a call, and the bounds of `xent::contract` for it.

use super::batch::{Batch, Random};
use super::bounds::is_nan_row;
use super::buffer::{Buffer, Layout};
use super::evaluation::assert_same_bits;
use core::fmt;
use xent::contract::{
    CAPPED, DIRECTIONAL_DERIVATIVE, HESSIAN, LOSS, LSE, PROBABILITY, TARGET_GRADIENT, U, transform_slope,
    transformed_logit,
};
use xent::reference::{self, CurvatureOutcome, SoftmaxRow};
use xent::{CrossEntropy, Element, Matrix, Reduction, Request, Smoothing};

const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

/// A batch, and a direction of its logits.
#[derive(Clone, Debug)]
pub struct Problem {
    pub batch: Batch,
    pub direction: Vec<f32>,
    pub loss_mask: Option<Vec<bool>>,
    pub row_weights: Option<Vec<f32>>,
    pub upstream: Option<Vec<f32>>,
    pub upstream_scalar: Option<f64>,
    pub denominator: Option<f64>,
}

/// Each input of a request with and without others, by number.
pub const INPUTS: usize = 6;

/// How calls are made.
#[derive(Clone, Copy, Debug, Default)]
pub struct CurvatureCall {
    pub inputs: Layout,
    pub outputs: Layout,
    pub in_place: bool,
}

/// Every output of second order.
#[derive(Clone, Debug)]
pub struct Found {
    classes: usize,
    pub product: Vec<f32>,
    pub hessian_diagonal: Vec<f32>,
    pub gauss_newton_diagonal: Vec<f32>,
    pub derivatives: Vec<f32>,
    pub jvp: f64,
}

/// Kinds of directions, row after row.
const DIRECTION_KINDS: usize = 7;

impl Problem {
    /// Rows of every kind, along directions of every kind. The directions of ignored rows are NaN.
    pub fn random(rows: usize, classes: usize, seed: u64) -> Self {
        Self::of_batch(Batch::random(rows, classes, seed), seed)
    }

    /// The same of these rows.
    pub fn of_batch(batch: Batch, seed: u64) -> Self {
        let Batch { rows, classes, .. } = batch;
        let mut random = Random::new(seed ^ 0xd1ec);
        let mut direction = Vec::with_capacity(rows * classes);
        for row in 0..rows {
            let kind = random.below(DIRECTION_KINDS);
            let one = random.below(classes);
            let is_ignored = batch.targets[row] < 0;
            direction.extend((0..classes).map(|class| match kind {
                _ if is_ignored => f32::NAN,
                // Every product is 0 but for rounding: a shift of all logits changes no softmax.
                0 => 1.0,
                // The derivative at one class.
                1 if class == one => 1.0,
                1 => 0.0,
                // Of Hutchinson's estimator of the trace.
                2 => [-1.0, 1.0][random.below(2)],
                3 => 1e30 * random.normal(),
                4 => 1e-30 * random.normal(),
                // A great common part, which cancels.
                5 => 1e4 + random.normal(),
                _ => random.normal(),
            }));
        }
        Self::new(batch, direction)
    }

    /// Without any other inputs.
    pub fn new(batch: Batch, direction: Vec<f32>) -> Self {
        let (loss_mask, row_weights, upstream, upstream_scalar, denominator) = Default::default();
        Self { batch, direction, loss_mask, row_weights, upstream, upstream_scalar, denominator }
    }

    /// The same with some of the inputs that a request may have.
    pub fn with_inputs(mut self, inputs: usize) -> Self {
        let rows = self.batch.rows;
        let mut random = Random::new(inputs as u64);
        if matches!(inputs, 1 | 5) {
            self.denominator = Some(7.5);
        }
        if matches!(inputs, 2 | 4) {
            self.upstream = Some((0..rows).map(|row| [random.normal(), 0.0, -30.0][row % 3]).collect());
        }
        if matches!(inputs, 3..=5) {
            self.row_weights = Some((0..rows).map(|_| [0.0, 0.25, 1.0, 40.0][random.below(4)]).collect());
        }
        if matches!(inputs, 3 | 4) {
            let mask: Vec<bool> = (0..rows).map(|row| row % 4 != 1).collect();
            for row in (0..rows).filter(|&row| !mask[row]) {
                // The target may then be anything, and nothing of the row is read.
                self.batch.targets[row] = i64::MAX;
                self.batch.row_mut(row).fill(f32::NAN);
                let classes = self.batch.classes;
                self.direction[row * classes..][..classes].fill(f32::INFINITY);
            }
            self.loss_mask = Some(mask);
        }
        if matches!(inputs, 4 | 5) {
            self.upstream_scalar = Some(-1.5);
        }
        self
    }

    /// The inputs, without any outputs.
    pub fn request(&self) -> Request<'_> {
        self.request_of()
    }

    /// The same for logits of another dtype that is computed in `f32`.
    pub fn request_of<E: Element<PerRow = f32>>(&self) -> Request<'_, E> {
        let mut request = Request::new();
        if let Some(loss_mask) = &self.loss_mask {
            request = request.loss_mask(loss_mask);
        }
        if let Some(row_weights) = &self.row_weights {
            request = request.row_weights(row_weights);
        }
        if let Some(upstream) = &self.upstream {
            request = request.upstream(upstream);
        }
        if let Some(upstream_scalar) = self.upstream_scalar {
            request = request.upstream_scalar(upstream_scalar);
        }
        if let Some(denominator) = self.denominator {
            request = request.denominator(denominator);
        }
        request
    }

    fn counts(&self, ce: &CrossEntropy, row: usize) -> bool {
        let is_masked = self.loss_mask.as_ref().is_some_and(|mask| !mask[row]);
        !is_masked && !ce.ignore_indices().contains(&self.batch.targets[row])
    }

    fn row_weight(&self, row: usize) -> f64 {
        self.row_weights.as_ref().map_or(1.0, |weights| f64::from(weights[row]))
    }

    /// One of its rows alone, without other inputs.
    pub fn row(&self, row: usize) -> Self {
        Self::new(self.batch.select([row]), self.direction_of(row).to_vec())
    }

    fn direction_of(&self, row: usize) -> &[f32] {
        &self.direction[row * self.batch.classes..][..self.batch.classes]
    }

    /// Whether a row has no second derivatives, or none along its direction.
    fn is_nan(&self, row: usize, along_direction: bool) -> bool {
        is_nan_row(self.batch.row(row))
            || along_direction && self.direction_of(row).iter().any(|v| !v.is_finite())
    }
}

impl CurvatureCall {
    /// Asks for every output. Outputs hold canaries before; canaries around them, and around the inputs, live on.
    pub fn evaluate(&self, ce: &CrossEntropy, problem: &Problem) -> Found {
        let Problem { batch, direction, .. } = problem;
        let (rows, classes) = (batch.rows, batch.classes);
        let logits = Buffer::holding(&batch.logits, rows, classes, self.inputs);
        let mut directions = Buffer::holding(direction, rows, classes, self.inputs);
        let wide = || Buffer::unwritten(rows, classes, self.outputs);
        let (mut product, mut hessian, mut gauss_newton) = (wide(), wide(), wide());
        let mut derivatives = Buffer::unwritten(rows, 1, Layout { padding: 0, ..self.outputs });

        let curvature = ce.curvature_with(logits.matrix(), &batch.targets, &problem.request());
        let curvature = curvature.expect("the problem is valid");
        const FITS: &str = "the shapes agree";
        curvature.hessian_diagonal(hessian.matrix_mut()).expect(FITS);
        curvature.gauss_newton_diagonal(gauss_newton.matrix_mut()).expect(FITS);
        let jvp = curvature.jvp_of_rows(directions.matrix(), derivatives.column_mut()).expect(FITS);
        let alone = curvature.jvp(directions.matrix()).expect(FITS);
        assert_eq!(jvp.to_bits(), alone.to_bits(), "the derivative alone is {alone:e}, else {jvp:e}");
        if self.in_place {
            curvature.hessian_vector_product_in_place(directions.matrix_mut()).expect(FITS);
            product.assert_unwritten("the unused product");
            core::mem::swap(&mut product, &mut directions);
        } else {
            curvature.hessian_vector_product(directions.matrix(), product.matrix_mut()).expect(FITS);
            let after = directions.elements();
            assert_same_bits("direction", classes, &after, direction, "before and after the calls");
        }
        assert_same_bits("logits", classes, &logits.elements(), &batch.logits, "before and after the calls");
        for (name, buffer) in [
            ("logits", &logits),
            ("direction", &directions),
            ("product", &product),
            ("hessian_diagonal", &hessian),
            ("gauss_newton_diagonal", &gauss_newton),
            ("derivatives", &derivatives),
        ] {
            buffer.assert_canaries_live(name);
        }
        Found {
            classes,
            product: product.elements(),
            hessian_diagonal: hessian.elements(),
            gauss_newton_diagonal: gauss_newton.elements(),
            derivatives: derivatives.elements(),
            jvp,
        }
    }
}

impl Found {
    fn by_row(&self) -> [(&'static str, usize, &[f32]); 4] {
        [
            ("product", self.classes, &self.product),
            ("hessian_diagonal", self.classes, &self.hessian_diagonal),
            ("gauss_newton_diagonal", self.classes, &self.gauss_newton_diagonal),
            ("derivatives", 1, &self.derivatives),
        ]
    }

    /// Checks that these rows have the same bits as those of `other` from `first` on.
    pub fn assert_rows_equal(&self, other: &Self, first: usize, context: &str) {
        for ((name, width, ours), (_, _, theirs)) in self.by_row().into_iter().zip(other.by_row()) {
            let theirs = &theirs[first * width..][..ours.len()];
            assert_same_bits(name, width, ours, theirs, context);
        }
    }

    pub fn assert_equal(&self, other: &Self, context: &str) {
        self.assert_rows_equal(other, 0, context);
        let bits = (self.jvp.to_bits(), other.jvp.to_bits());
        assert_eq!(bits.0, bits.1, "jvp {:e} and {:e}, {context}", self.jvp, other.jvp);
    }

    /// Checks every output against the reference.
    pub fn check(&self, ce: &CrossEntropy, problem: &Problem, context: &str) {
        let (rows, classes) = (problem.batch.rows, problem.batch.classes);
        let expected = Expected::new(ce, problem);
        let (mut jvp_bound, mut has_nan) = (0.0, false);
        for row in 0..rows {
            let context = format_args!("row {row} of {rows} x {classes}, {context}");
            let columns = row * classes..(row + 1) * classes;
            let diagonals =
                [&self.hessian_diagonal[columns.clone()], &self.gauss_newton_diagonal[columns.clone()]];
            let product = &self.product[columns];
            let derivative = core::slice::from_ref(&self.derivatives[row]);
            if !problem.counts(ce, row) {
                for output in [diagonals[0], diagonals[1], product, derivative] {
                    assert!(output.iter().all(|x| x.to_bits() == 0), "an ignored row is not 0, {context}");
                }
                continue;
            }
            let all_nan = |x: &[f32]| x.iter().all(|x| x.is_nan());
            if problem.is_nan(row, false) {
                assert!(diagonals.iter().all(|diagonal| all_nan(diagonal)), "diagonal, {context}");
            } else {
                expected.check_diagonals(row, diagonals, context);
            }
            if problem.is_nan(row, true) {
                assert!(all_nan(product) && all_nan(derivative), "along the direction, {context}");
                has_nan = true;
            } else {
                expected.check_product(row, product, context);
                jvp_bound += expected.check_derivative(row, derivative[0], context);
            }
        }
        if has_nan {
            assert!(self.jvp.is_nan(), "{} with a row of NaN, {context}", self.jvp);
        } else {
            close("jvp", self.jvp, expected.exact.jvp, jvp_bound, format_args!("{context}"));
        }
    }
}

/// What the calls should give, by the reference.
struct Expected<'a> {
    ce: &'a CrossEntropy,
    problem: &'a Problem,
    exact: CurvatureOutcome,
    divisors: (f64, f64),
}

impl<'a> Expected<'a> {
    fn new(ce: &'a CrossEntropy, problem: &'a Problem) -> Self {
        let Problem { batch, denominator, .. } = problem;
        let (rows, classes) = (batch.rows, batch.classes);
        // Rows of NaN have no exact value; the reference is spared them.
        let (mut logits, mut direction) = (batch.logits.clone(), problem.direction.clone());
        for row in 0..rows {
            let columns = row * classes..(row + 1) * classes;
            if problem.is_nan(row, false) {
                logits[columns.clone()].fill(0.0);
            }
            if problem.is_nan(row, true) {
                direction[columns].fill(0.0);
            }
        }
        let matrix = |x| Matrix::new(x, rows, classes).expect("the slice is long enough");
        let (logits, direction) = (matrix(&logits), matrix(&direction));
        let exact = reference::curvature(ce, logits, &batch.targets, direction, &problem.request());
        let divisors = match (denominator, ce.reduction()) {
            (Some(denominator), _) => (*denominator, *denominator),
            (None, Reduction::Sum) => (1.0, 1.0),
            (None, Reduction::Mean) => {
                let (mut weight, mut row_weight) = (0.0, 0.0);
                for row in (0..rows).filter(|&row| problem.counts(ce, row)) {
                    let class_weight = |w: &[f32]| f64::from(w[batch.targets[row] as usize]);
                    weight += problem.row_weight(row) * ce.weight().map_or(1.0, class_weight);
                    row_weight += problem.row_weight(row);
                }
                (weight, row_weight)
            }
        };
        Self { ce, problem, exact: exact.expect("the problem is valid"), divisors }
    }

    /// What multiplies a row's loss, and its z-loss.
    fn factors(&self, row: usize) -> (f64, f64) {
        let inverse = |divisor: f64| if divisor == 0.0 { 0.0 } else { 1.0 / divisor };
        let (factor, z_factor) = match &self.problem.upstream {
            Some(upstream) => (f64::from(upstream[row]), f64::from(upstream[row])),
            None => (inverse(self.divisors.0), inverse(self.divisors.1)),
        };
        let both = self.problem.row_weight(row) * self.problem.upstream_scalar.unwrap_or(1.0);
        (factor * both, z_factor * both)
    }

    fn row(&self, row: usize) -> Row {
        let x = self.problem.batch.row(row);
        let transformed = reference::transformed(self.ce, x);
        let softmax = reference::softmax_row(&transformed);
        let mut largest = 0;
        for i in 0..x.len() {
            if x[i] > x[largest] {
                largest = i;
            }
        }
        let (scale, softcap) = (self.ce.logit_scale(), self.ce.softcap());
        let error_of = |(&x, &transformed): (&f32, &f64)| {
            transformed_logit(scale, softcap, transformed) + transform_slope(scale, softcap, f64::from(x))
        };
        let errors: Vec<f64> = x.iter().zip(&transformed).map(error_of).collect();
        // Masked classes have no gap to speak of.
        let gap = |(&x, error): (&f64, &f64)| {
            if x == f64::NEG_INFINITY { 0.0 } else { transformed[largest] - x + error / U }
        };
        let gaps: Vec<f64> = transformed.iter().zip(&errors).map(gap).collect();
        let mean_gap = softmax.probabilities.iter().zip(&gaps).map(|(p, gap)| p * gap).sum();
        let weight_of = |class: usize| self.ce.weight().map_or(1.0, |w| f64::from(w[class]));
        let target = self.problem.batch.targets[row] as usize;
        let is_among = |class: usize| match self.ce.smoothing() {
            Smoothing::AllClasses => true,
            Smoothing::OtherClasses => class != target,
            Smoothing::LiveClasses => x[class] > f32::NEG_INFINITY,
            other => panic!("{other:?} has no bounds"),
        };
        let among: Vec<bool> = (0..x.len()).map(is_among).collect();
        let count = among.iter().filter(|&&is_among| is_among).count();
        let weights: Vec<f64> =
            (0..x.len()).map(|class| if among[class] { weight_of(class) } else { 0.0 }).collect();
        let mut of_row = Row {
            softmax,
            largest,
            errors,
            largest_slope: scale.max(1.0),
            slopes: reference::transform_slopes(self.ce, x),
            bends: reference::transform_bends(self.ce, x),
            inverse_cap: softcap.map_or(0.0, |cap| 1.0 / cap),
            gaps,
            mean_gap,
            target,
            smooth: if count == 0 { 0.0 } else { self.ce.label_smoothing() / count as f64 },
            hard: (1.0 - self.ce.label_smoothing()) * weight_of(target),
            hard_error: 0.0,
            bend: 0.0,
            bend_error: 0.0,
            total_weight: weights.iter().sum(),
            weights,
            z_slope: 2.0 * self.ce.z_loss(),
        };
        of_row.set_focal(self.ce.focal_gamma());
        of_row
    }

    fn check_diagonals(&self, row: usize, found: [&[f32]; 2], context: fmt::Arguments<'_>) {
        let (of_row, (factor, z_factor)) = (self.row(row), self.factors(row));
        let first = row * self.problem.batch.classes;
        let exact = [&self.exact.hessian_diagonal, &self.exact.gauss_newton_diagonal];
        for (is_gauss_newton, (found, exact)) in found.into_iter().zip(exact).enumerate() {
            let z_jacobian = if is_gauss_newton == 1 { 0.0 } else { of_row.z_slope * z_factor };
            for (i, &found) in found.iter().enumerate() {
                let (p, q) = (of_row.softmax.probabilities[i], of_row.softmax.complements[i]);
                let magnitude = of_row.magnitude(factor, z_jacobian) * p * q + of_row.outer(z_factor) * p * p;
                let of_lse = z_jacobian.abs() * of_row.lse_error() * p * q;
                let tiny = of_row.smallest(of_row.coefficients(factor, z_factor), 1.0);
                let mut bound = magnitude * of_row.relative(i, i) * U + of_lse;
                bound += (of_row.hard * factor).abs() * of_row.hard_error * p * q;
                if is_gauss_newton == 0 {
                    let (of_target, error) = of_row.of_target(i);
                    let square = of_target * of_target;
                    let (bend, bend_error) = (of_row.bend.abs(), of_row.bend_error);
                    bound += factor.abs() * square * (bend * (2.0 * error + HESSIAN * U) + bend_error);
                }
                bound = bound * of_row.slopes[i] * of_row.slopes[i] + tiny;
                if is_gauss_newton == 0 {
                    bound += of_row.of_cap(i, (factor, z_factor));
                }
                of_row.check("diagonal", i, found, exact[first + i], bound, context);
            }
        }
    }

    fn check_product(&self, row: usize, found: &[f32], context: fmt::Arguments<'_>) {
        let (of_row, (factor, z_factor)) = (self.row(row), self.factors(row));
        let direction = self.problem.direction_of(row).iter();
        let v: Vec<f64> =
            direction.zip(&of_row.slopes).map(|(&v, slope)| f64::from(v).abs() * slope).collect();
        let p = &of_row.softmax.probabilities;
        let terms = |range: &mut dyn Iterator<Item = usize>| {
            range.fold((0.0, 0.0), |(sum, by_gap), j| {
                let term = p[j] * v[j];
                (sum + term, by_gap + term * of_row.gaps[j])
            })
        };
        let all = terms(&mut (0..v.len()));
        let sum_of_v: f64 = self.problem.direction_of(row).iter().map(|&v| f64::from(v).abs()).sum();
        let z_jacobian = of_row.z_slope * z_factor;
        let coefficient = of_row.magnitude(factor, z_jacobian);
        let tiny = of_row.smallest(of_row.coefficients(factor, z_factor), sum_of_v);
        let first = row * v.len();
        // |p . v - v_y| of the target, its terms by themselves, and its error.
        let (mut rise, mut rise_error) = (0.0, 0.0);
        for (j, v) in v.iter().enumerate() {
            let (of_target, error) = of_row.of_target(j);
            rise += of_target.abs() * v;
            rise_error += of_target.abs() * v * (error + DIRECTIONAL_DERIVATIVE * U);
        }
        for (i, &found) in found.iter().enumerate() {
            let own = p[i] * v[i];
            // What is left is not a difference of large numbers where p_i is not large.
            let others = if p[i] > 0.25 {
                terms(&mut (0..v.len()).filter(|&j| j != i))
            } else {
                (all.0 - own, all.1 - own * of_row.gaps[i])
            };
            let common = of_row.gaps[i] + 2.0 * of_row.mean_gap + HESSIAN;
            let diagonal = of_row.softmax.complements[i] * v[i];
            // |J_ij v_j| and p_i p_j |v_j|, each with its relative error.
            let by_jacobian = p[i] * (diagonal * of_row.relative(i, i) + others.0 * common + others.1);
            let by_outer = p[i] * (all.0 * common + all.1);
            let of_lse = z_jacobian.abs() * of_row.lse_error() * p[i] * (diagonal + others.0);
            let mut bound = U * (coefficient * by_jacobian + of_row.outer(z_factor) * by_outer) + of_lse;
            bound += (of_row.hard * factor).abs() * of_row.hard_error * p[i] * (diagonal + others.0);
            let (of_target, error) = of_row.of_target(i);
            let (bend, bend_error) = (of_row.bend.abs(), of_row.bend_error);
            let by_bend = bend * (rise * (error + HESSIAN * U) + rise_error) + bend_error * rise;
            bound += factor.abs() * of_target.abs() * by_bend;
            let own = f64::from(self.problem.direction_of(row)[i]).abs();
            bound = bound * of_row.slopes[i] + of_row.of_cap(i, (factor, z_factor)) * own + tiny;
            let exact = self.exact.hessian_vector_product[first + i];
            of_row.check("product", i, found, exact, bound, context);
        }
    }

    /// Returns the bound on what the row adds to the reduced derivative.
    fn check_derivative(&self, row: usize, found: f32, context: fmt::Arguments<'_>) -> f64 {
        let (of_row, (factor, z_factor)) = (self.row(row), self.factors(row));
        let v = self.problem.direction_of(row);
        let (mut of_loss, mut of_z) = (0.0, 0.0);
        for (i, &v) in v.iter().enumerate() {
            let v = f64::from(v).abs() * of_row.slopes[i];
            let (p, q) = (of_row.softmax.probabilities[i], of_row.softmax.complements[i]);
            let relative = of_row.gaps[i] + of_row.mean_gap + DIRECTIONAL_DERIVATIVE;
            let (mut own, mut of_hard) = (p * relative, p);
            if i == of_row.target {
                (own, of_hard) = (q * (relative + of_row.others_mean_gap(i)), q);
            }
            own += of_hard * of_row.hard_error / U;
            let spread = of_row.smooth * (of_row.total_weight * p + of_row.weights[i]);
            of_loss += v * (of_row.hard * own + spread * relative);
            let lse = of_row.softmax.lse.abs();
            of_z += of_row.z_slope * v * p * (lse * relative + of_row.mean_gap + LSE);
        }
        let sum_of_v: f64 = v.iter().map(|&v| f64::from(v).abs()).sum();
        let tiny = of_row.smallest(of_row.coefficients(1.0, 1.0), sum_of_v);
        let row_weight = self.problem.row_weight(row);
        let bound = row_weight * (U * (of_loss + of_z) + tiny) + SMALLEST;
        let exact = self.exact.derivatives[row];
        if found.is_infinite() && exact.abs() + bound > f64::from(f32::MAX) {
            assert!(f64::from(found) * exact > 0.0, "{found} instead of {exact:e}, {context}");
        } else {
            close("derivative", f64::from(found), exact, bound, context);
        }
        assert!(!found.is_subnormal(), "{found:e}, {context}");
        factor.abs() * (U * of_loss + tiny) + z_factor.abs() * (U * of_z + tiny)
    }
}

/// A row in the terms of the contract.
struct Row {
    softmax: SoftmaxRow,
    largest: usize,
    /// With what the transform's errors and those of its derivatives make of them.
    gaps: Vec<f64>,
    mean_gap: f64,
    /// Those errors.
    errors: Vec<f64>,
    slopes: Vec<f64>,
    bends: Vec<f64>,
    /// The logit scale, or 1.
    largest_slope: f64,
    inverse_cap: f64,
    target: usize,
    smooth: f64,
    /// What multiplies the target's gradient, and its relative error where the loss is focal.
    hard: f64,
    hard_error: f64,
    /// What multiplies that gradient times itself, and its error.
    bend: f64,
    bend_error: f64,
    /// Of the classes that smoothing spreads over.
    weights: Vec<f64>,
    total_weight: f64,
    /// 2 z
    z_slope: f64,
}

impl Row {
    /// h_ij.
    fn relative(&self, i: usize, j: usize) -> f64 {
        let of_own = if i == j && i == self.largest {
            self.others_mean_gap(i) + self.errors[i] / U
        } else {
            self.gaps[i] + self.gaps[j]
        };
        of_own + 2.0 * self.mean_gap + HESSIAN
    }

    /// D' of a class.
    fn others_mean_gap(&self, class: usize) -> f64 {
        let part = |i: usize| self.softmax.probabilities[i] * self.gaps[i];
        // A small part may be taken away again; in a time that does not grow with the number of classes.
        let sum: f64 = if self.softmax.probabilities[class] < 0.25 {
            self.mean_gap - part(class)
        } else {
            (0..self.gaps.len()).filter(|&i| i != class).map(part).sum()
        };
        let mean = if sum == 0.0 { 0.0 } else { sum / self.softmax.complements[class] };
        mean + self.errors[class] / U
    }

    /// What smoothing spreads over but one class.
    fn weight_of_others(&self, class: usize) -> f64 {
        // Small beside that of the class, it would be lost in a difference.
        if self.weights[class] > 0.5 * self.total_weight {
            (0..self.weights.len()).filter(|&i| i != class).map(|i| self.weights[i]).sum()
        } else {
            self.total_weight - self.weights[class]
        }
    }

    /// The bound on what a softcap's second derivative adds to an entry of a diagonal.
    fn of_cap(&self, i: usize, (factor, z_factor): (f64, f64)) -> f64 {
        let (p, q) = (self.softmax.probabilities[i], self.softmax.complements[i]);
        let hard = (self.hard * factor).abs() * if i == self.target { q } else { p };
        let spread = (self.smooth * factor).abs()
            * (self.weight_of_others(i) * p
                + self.weights[i]
                    * if self.softmax.log_probabilities[i] == f64::NEG_INFINITY { 1.0 } else { q });
        let z = (self.z_slope * z_factor).abs() * p;
        let z_error = z * self.lse_error();
        let magnitude = hard + spread + z * self.softmax.lse.abs();
        let relative = (self.relative(i, i) + self.others_mean_gap(i) + CAPPED) * U;
        self.bends[i].abs() * (magnitude * relative + hard * self.hard_error + z_error)
    }

    /// What numbers below the normal ones may cost.
    fn smallest(&self, coefficients: f64, sum_of_v: f64) -> f64 {
        if self.inverse_cap == 0.0 && self.largest_slope == 1.0 {
            return SMALLEST * (1.0 + 4.0 * coefficients * sum_of_v);
        }
        let of_transform = self.largest_slope * self.largest_slope * (1.0 + 2.0 * self.inverse_cap);
        SMALLEST * (3.0 + 4.0 * coefficients * of_transform * (1.0 + sum_of_v))
    }

    /// The contract's bounds on the derivatives of a focal loss.
    fn set_focal(&mut self, gamma: f64) {
        let y = self.target;
        let (p, q) = (self.softmax.probabilities[y], self.softmax.complements[y]);
        if gamma == 0.0 || p == 0.0 || q == 0.0 {
            if gamma > 0.0 && q == 0.0 {
                self.hard = 0.0;
            }
            return;
        }
        let nll = -self.softmax.log_probabilities[y];
        let of_others = self.others_mean_gap(y);
        let of_q = (of_others + TARGET_GRADIENT) * U;
        let of_nll = (of_others + LOSS) * U;
        let of_p = (self.gaps[y] + self.mean_gap + PROBABILITY) * U;
        let power = |exponent: f64| (exponent * if p < 0.5 { (-p).ln_1p() } else { q.ln() }).exp();
        let (g, hard) = (gamma * p * nll / q, self.hard);
        self.hard *= power(gamma) * (1.0 + g);
        self.hard_error = gamma * of_q + g / (1.0 + g) * (of_p + of_nll + of_q);
        let common = hard * gamma * p * power(gamma - 2.0);
        let rest = 1.0 - gamma * p;
        self.bend = common * (2.0 * q - nll * rest);
        self.bend_error = self.bend.abs() * (of_p + gamma * of_q)
            + common * (2.0 * q * of_q + nll * (rest.abs() * (of_nll + of_q) + gamma * p * of_p));
    }

    /// The derivative of -ln p_y by a logit, and its relative error.
    fn of_target(&self, i: usize) -> (f64, f64) {
        if i == self.target {
            (-self.softmax.complements[i], (self.others_mean_gap(i) + TARGET_GRADIENT) * U)
        } else {
            (self.softmax.probabilities[i], (self.gaps[i] + self.mean_gap + PROBABILITY) * U)
        }
    }

    /// The magnitudes of the terms of A.
    fn magnitude(&self, factor: f64, z_jacobian: f64) -> f64 {
        ((self.hard + self.smooth * self.total_weight) * factor).abs() + (z_jacobian * self.softmax.lse).abs()
    }

    /// The magnitude of B.
    fn outer(&self, z_factor: f64) -> f64 {
        (self.z_slope * z_factor).abs()
    }

    /// max(1, A').
    fn coefficients(&self, factor: f64, z_factor: f64) -> f64 {
        let bend = (self.bend * factor).abs();
        let sum = self.magnitude(factor, self.z_slope * z_factor) + self.outer(z_factor) + bend;
        sum.max(1.0)
    }

    fn lse_error(&self) -> f64 {
        (self.mean_gap + LSE) * U
    }

    /// Exactly 0 where the class is masked, else within the bound.
    fn check(
        &self,
        name: &str,
        class: usize,
        found: f32,
        exact: f64,
        bound: f64,
        context: fmt::Arguments<'_>,
    ) {
        let context = format_args!("class {class}, target {}, {context}", self.target);
        if self.softmax.log_probabilities[class] == f64::NEG_INFINITY {
            assert_eq!(found.to_bits(), 0, "{name} of a masked class is {found:e}, {context}");
        }
        assert!(!found.is_subnormal(), "{name} is {found:e}, {context}");
        close(name, f64::from(found), exact, bound, context);
    }
}

fn close(name: &str, found: f64, exact: f64, bound: f64, context: fmt::Arguments<'_>) {
    let error = (found - exact).abs();
    assert!(
        error <= bound,
        "{name}: {found:e} instead of {exact:e}, {} of the bound {bound:e}, {context}",
        error / bound
    );
}
