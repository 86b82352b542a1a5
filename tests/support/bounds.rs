//! The bounds of `xent::contract` for every output of a call, with all options.

mod distributions;

use super::batch::Batch;
use super::evaluation::{Call, Evaluation, largest_weight};
use core::cell::RefCell;
use core::fmt;
use xent::contract::{
    ENTROPY, LOG_PROBABILITY, LOSS, LSE, PROBABILITY, TARGET_GRADIENT, U, transform_slope, transformed_logit,
};
use xent::reference::{self, Outcome, SoftmaxRow};
use xent::{CrossEntropy, EmptyMean, Reduction, Smoothing};

const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

/// What storing a result in another dtype than `f32` adds to its bound.
#[derive(Clone, Copy, Debug)]
pub struct Rounding {
    /// Relative.
    pub unit: f64,
    /// Half the smallest number, where that is subnormal.
    pub half_of_smallest: f64,
    pub largest: f64,
}

impl Rounding {
    /// Its own rounding is in the contract's bounds.
    pub const F32: Self = Self { unit: 0.0, half_of_smallest: 0.0, largest: f32::MAX as f64 };
}

/// Half the distance between subnormal `f32`s, 2^-150.
const SUBNORMAL_ROUNDING: f64 = SMALLEST * U;

/// What a result is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    Loss,
    Gradient,
    TargetGradient,
    Lse,
}

/// How far a result is from the exact one, within its bound.
#[derive(Clone, Copy, Debug)]
pub struct Deviation {
    /// Both absolute. Where a result may as well be 0 or infinite and is, the error is 0.
    pub error: f64,
    pub bound: f64,
    /// What a relative error is relative to: the exact result, or the magnitudes of the terms it is a sum of.
    pub scale: f64,
}

impl Deviation {
    /// In [`U`], relative.
    pub fn in_u(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { self.error / (self.scale * U) }
    }

    pub fn share_of_bound(&self) -> f64 {
        if self.error == 0.0 { 0.0 } else { self.error / self.bound }
    }

    fn relative_to(self, scale: f64) -> Self {
        Self { scale, ..self }
    }
}

/// Takes the row that a result is of, and its deviation.
pub type Note<'a> = dyn FnMut(usize, Quantity, Deviation) + 'a;

/// What a call should give, by the reference.
pub struct Expected<'a> {
    ce: &'a CrossEntropy,
    batch: &'a Batch,
    call: Call<'a>,
    exact: Outcome,
    rounding: Rounding,
    /// Of the gradient.
    gradient_rounding: Rounding,
    divisor: f64,
    z_divisor: f64,
    /// What kept the bounds. Most calls of a test differ in what must change no bit.
    kept: RefCell<Vec<Evaluation>>,
}

impl<'a> Expected<'a> {
    /// Of a call with the options of `ce`. Without `upstream`, the gradient is that of the reduced loss.
    pub fn new(ce: &'a CrossEntropy, batch: &'a Batch, upstream: Option<&'a [f32]>) -> Self {
        Self::of_call(ce, batch, Call { upstream, ..Call::default() })
    }

    /// Of a call with the options of `ce`, and the inputs of `call`.
    pub fn of_call(ce: &'a CrossEntropy, batch: &'a Batch, call: Call<'a>) -> Self {
        // Rows of NaN have no exact value; the reference is spared them.
        let mut logits = batch.logits.clone();
        for x in logits.chunks_mut(batch.classes.max(1)).filter(|x| is_nan_row(x)) {
            x.fill(0.0);
        }
        let exact = call.reference(ce, &logits, batch);
        let counted = (0..batch.rows).filter(|&row| call.counts(ce, batch, row));
        let (divisor, z_divisor) = match (call.denominator, ce.reduction()) {
            (Some(denominator), _) => (denominator, denominator),
            (None, Reduction::Mean) => (exact.weight, counted.map(|row| call.row_weight(row)).sum()),
            (None, Reduction::Sum) => (1.0, 1.0),
        };
        let rounding = Rounding::F32;
        Self {
            ce,
            batch,
            call,
            exact,
            rounding,
            gradient_rounding: rounding,
            divisor,
            z_divisor,
            kept: RefCell::default(),
        }
    }

    /// The same of a call whose outputs as wide as the logits are of another dtype.
    pub fn rounded(self, rounding: Rounding) -> Self {
        Self { rounding, gradient_rounding: rounding, ..self }
    }

    /// The same where the gradient is of another one.
    pub fn with_gradient_rounded(self, gradient_rounding: Rounding) -> Self {
        Self { gradient_rounding, ..self }
    }

    /// Checks every output.
    pub fn check(&self, found: &Evaluation, context: &str) {
        if self.kept.borrow().iter().any(|kept| kept.has_bits_of(found)) {
            return;
        }
        self.check_and_note(found, context, &mut |_, _, _| {});
        self.kept.borrow_mut().push(found.clone());
    }

    /// Whether all losses but the z-loss may count as 0, as exponentials do that are no normal numbers, in `f64` too.
    fn may_add_up_to_0(&self) -> bool {
        // Before the weight, and after it.
        let largest_weight = largest_weight(self.ce).max(1.0);
        (0..self.batch.rows).filter(|&row| self.call.counts(self.ce, self.batch, row)).all(|row| {
            let (row_weight, lse) = (self.call.row_weight(row), self.exact.softmax[row].lse);
            let with_z_loss = self.exact.losses[row];
            let loss = with_z_loss - row_weight * self.ce.z_loss() * lse * lse;
            loss <= 4.0 * f64::EPSILON * (with_z_loss - loss)
                + row_weight * largest_weight * f64::MIN_POSITIVE
        })
    }

    /// Whether this is what the options say of a mean over nothing, and the z-loss.
    fn is_loss_of_nothing(&self, found: f64, z_bound: f64) -> bool {
        let z_loss = self.exact.z_loss;
        match self.ce.empty_mean() {
            EmptyMean::Zero => {
                (found - z_loss).abs() <= z_bound / self.z_divisor.max(f64::MIN_POSITIVE) + U * z_loss
            }
            _ => found.is_nan(),
        }
    }

    /// The same, and tells how far loss, gradient and lse are from the exact ones.
    pub fn check_and_note(&self, found: &Evaluation, context: &str, note: &mut Note<'_>) {
        let rows = self.batch.rows;
        let (mut counted, mut correct, mut loss_bound, mut z_bound) = (0, 0, 0.0, 0.0);
        let mut has_nan = false;
        for row in 0..rows {
            let context = format_args!("row {row} of {rows} x {}, {context}", self.batch.classes);
            let outputs = Outputs::of_row(found, row);
            if !self.call.counts(self.ce, self.batch, row) {
                outputs.assert_all(0.0, context);
                assert_eq!(outputs.argmax, usize::MAX, "argmax, {context}");
                assert_eq!(outputs.target_rank, usize::MAX, "rank, {context}");
                continue;
            }
            let x = self.batch.row(row);
            counted += 1;
            if is_nan_row(x) {
                assert_eq!(outputs.argmax, first_largest_or_nan(x), "argmax, {context}");
                outputs.assert_all(f32::NAN, context);
                assert_eq!(outputs.target_rank, usize::MAX, "rank, {context}");
                has_nan = true;
                continue;
            }
            let (of_loss, of_z_loss) = if let Some(q) = self.call.target_probabilities {
                self.check_distribution(row, q, &outputs, context)
            } else {
                correct += usize::from(outputs.argmax == self.batch.targets[row] as usize);
                self.check_row(row, &outputs, context, note)
            };
            loss_bound += of_loss;
            z_bound += of_z_loss;
        }

        assert_eq!(found.counted, counted, "counted, {context}");
        assert_eq!(found.correct, correct, "correct, {context}");
        // Sums of the same numbers in two orders.
        let order = rows as f64 * f64::EPSILON;
        assert!((found.weight - self.exact.weight).abs() <= order * self.exact.weight, "weight, {context}");
        if has_nan || self.exact.loss.is_nan() {
            // The latter is 0 / 0.
            assert!(found.loss.is_nan(), "loss {}, {context}", found.loss);
        } else if self.exact.loss == f64::INFINITY {
            let is_infinite = found.loss == f64::INFINITY;
            // What is divided by 0 may be 0 as well.
            let is_empty = self.divisor == 0.0 && self.may_add_up_to_0();
            assert!(
                is_infinite || is_empty && self.is_loss_of_nothing(found.loss, z_bound),
                "loss, {context}"
            );
        } else {
            // Nothing counts where a divisor is 0.
            let mean =
                |bound: f64, divisor: f64| if bound == 0.0 || divisor == 0.0 { 0.0 } else { bound / divisor };
            let bound = mean(loss_bound, self.divisor) + mean(z_bound, self.z_divisor) + U * self.exact.loss;
            // An exponential that is no normal number is 0, in f64 too.
            let of_weights = mean(f64::MIN_POSITIVE * self.exact.weight, self.divisor);
            let bound = bound + of_weights + f64::MIN_POSITIVE;
            let error = (found.loss - self.exact.loss).abs();
            assert!(
                error <= bound,
                "loss {:e} instead of {:e}: {} of the bound, {context}",
                found.loss,
                self.exact.loss,
                error / bound
            );
        }
    }

    /// What multiplies the gradient of a row's loss, and that of its z-loss.
    fn factors(&self, row: usize) -> (f64, f64) {
        let scale = self.call.row_weight(row) * self.call.upstream_scalar.unwrap_or(1.0);
        let factor_of = |divisor: f64| match self.call.upstream {
            Some(upstream) => scale * f64::from(upstream[row]),
            None if divisor == 0.0 => 0.0,
            None => scale / divisor,
        };
        (factor_of(self.divisor), factor_of(self.z_divisor))
    }

    /// Checks a row that counts and has a softmax. Returns the bounds on its loss without the z-loss, and on that.
    fn check_row(
        &self,
        row: usize,
        outputs: &Outputs<'_>,
        context: fmt::Arguments<'_>,
        note: &mut Note<'_>,
    ) -> (f64, f64) {
        let target = self.batch.targets[row] as usize;
        let x = self.batch.row(row);
        let softmax = RowOfSoftmax::of_row(self.ce, x, &self.exact.softmax[row], self.rounding);
        let lse = softmax.check(outputs, context);
        note(row, Quantity::Lse, lse.relative_to(softmax.max.abs() + softmax.ln_sum));
        softmax.check_argmax(x, outputs.argmax, context);
        softmax.check_target(outputs, target, context);
        softmax.check_rank(x, outputs, target, context);

        let terms = Terms { rounding: self.gradient_rounding, ..Terms::new(self.ce, &softmax, target) };
        let exact_loss = self.exact.losses[row];
        let row_weight = self.call.row_weight(row);
        let z_loss = row_weight * terms.z * terms.softmax.exact.lse * terms.softmax.exact.lse;
        // Beside a large z-loss nothing may be left of the rest, or less.
        let loss_bound = terms.loss_bound((exact_loss - z_loss).max(0.0), row_weight);
        let z_bound = row_weight * terms.z_bound();
        let sum_bound = if z_loss == 0.0 { 0.0 } else { U * exact_loss };
        let loss = close("loss", outputs.loss, exact_loss, loss_bound + z_bound + sum_bound, Rounding::F32);
        let loss = loss.unwrap_or_else(|error| panic!("{error}, target {target}, {context}"));
        note(row, Quantity::Loss, loss);

        let (factor, z_factor) = self.factors(row);
        let exact = &self.exact.grad[row * self.batch.classes..];
        for (i, (&found, &exact)) in outputs.grad.iter().zip(exact).enumerate() {
            let chain = Chain::new(self.ce, x[i]);
            let gradient = terms.check_gradient(i, factor, z_factor, chain, found, exact);
            let gradient = gradient.unwrap_or_else(|error| {
                panic!("{error}, factor {factor:e}, column {i}, target {target}, {context}")
            });
            let quantity = if i == target { Quantity::TargetGradient } else { Quantity::Gradient };
            note(row, quantity, gradient);
        }
        (loss_bound, z_bound)
    }
}

/// Checks the softmax of a row.
pub fn check_softmax(x: &[f32], probabilities: &[f32], context: &str) {
    check_rounded_softmax(x, probabilities, Rounding::F32, context);
}

/// Checks the softmax of a row in another dtype.
pub fn check_rounded_softmax(x: &[f32], probabilities: &[f32], rounding: Rounding, context: &str) {
    if is_nan_row(x) {
        assert!(probabilities.iter().all(|p| p.is_nan()), "{context}");
    } else {
        RowOfSoftmax::new(x, &reference::softmax_row(x), rounding)
            .check_probabilities(probabilities, format_args!("{context}"));
    }
}

/// Checks the log-softmax of a row.
pub fn check_log_softmax(x: &[f32], log_probabilities: &[f32], context: &str) {
    check_rounded_log_softmax(x, log_probabilities, Rounding::F32, context);
}

/// Checks the log-softmax of a row in another dtype.
pub fn check_rounded_log_softmax(x: &[f32], log_probabilities: &[f32], rounding: Rounding, context: &str) {
    if is_nan_row(x) {
        assert!(log_probabilities.iter().all(|p| p.is_nan()), "{context}");
    } else {
        RowOfSoftmax::new(x, &reference::softmax_row(x), rounding)
            .check_log_probabilities(log_probabilities, format_args!("{context}"));
    }
}

/// Whether a row has NaN for a softmax.
pub fn is_nan_row(x: &[f32]) -> bool {
    x.iter().any(|x| x.is_nan() || *x == f32::INFINITY) || x.iter().all(|&x| x == f32::NEG_INFINITY)
}

/// The first index of the largest number, NaN being the largest of all.
fn first_largest_or_nan(x: &[f32]) -> usize {
    let nan = x.iter().position(|x| x.is_nan());
    nan.unwrap_or_else(|| {
        let mut largest = 0;
        for i in 0..x.len() {
            if x[i] > x[largest] {
                largest = i;
            }
        }
        largest
    })
}

/// What a call gave for one row.
struct Outputs<'a> {
    grad: &'a [f32],
    loss: f32,
    lse: f32,
    target_log_probability: f32,
    argmax_probability: f32,
    entropy: f32,
    argmax: usize,
    target_rank: usize,
    probabilities: &'a [f32],
    log_probabilities: &'a [f32],
}

impl<'a> Outputs<'a> {
    fn of_row(found: &'a Evaluation, row: usize) -> Self {
        let columns = row * found.classes..(row + 1) * found.classes;
        Self {
            grad: &found.grad[columns.clone()],
            loss: found.losses[row],
            lse: found.lse[row],
            target_log_probability: found.target_log_probabilities[row],
            argmax_probability: found.argmax_probabilities[row],
            entropy: found.entropies[row],
            argmax: found.argmax[row],
            target_rank: found.target_ranks[row],
            probabilities: &found.probabilities[columns.clone()],
            log_probabilities: &found.log_probabilities[columns],
        }
    }

    /// Checks that everything but the argmax is `value`: a positive zero for 0, any NaN for NaN.
    fn assert_all(&self, value: f32, context: fmt::Arguments<'_>) {
        let named = [
            ("grad", self.grad),
            ("loss", &[self.loss]),
            ("lse", &[self.lse]),
            ("target_log_probability", &[self.target_log_probability]),
            ("argmax_probability", &[self.argmax_probability]),
            ("entropy", &[self.entropy]),
            ("probabilities", self.probabilities),
            ("log_probabilities", self.log_probabilities),
        ];
        for (name, values) in named {
            let same = |x: &f32| x.to_bits() == value.to_bits() || x.is_nan() && value.is_nan();
            if let Some(column) = values.iter().position(|x| !same(x)) {
                panic!("{name}, column {column}: {:e} instead of {value}, {context}", values[column]);
            }
        }
    }
}

/// A row in the terms of the contract.
struct RowOfSoftmax<'a> {
    exact: &'a SoftmaxRow,
    max: f64,
    ln_sum: f64,
    /// What the softmax is of.
    transformed: Vec<f64>,
    /// How far that may be from what the kernels make of it, e_i.
    errors: Vec<f64>,
    /// sum_c p_c e_c.
    mean_error: f64,
    /// |d_i| + e_i / u.
    gaps: Vec<f64>,
    /// D, of these.
    mean_gap: f64,
    /// Of outputs as wide as the row.
    rounding: Rounding,
}

impl<'a> RowOfSoftmax<'a> {
    fn new(x: &[f32], exact: &'a SoftmaxRow, rounding: Rounding) -> Self {
        Self::of_row(&CrossEntropy::default(), x, exact, rounding)
    }

    fn of_row(ce: &CrossEntropy, x: &[f32], exact: &'a SoftmaxRow, rounding: Rounding) -> Self {
        let transformed = reference::transformed(ce, x);
        let error = |&x: &f64| transformed_logit(ce.logit_scale(), ce.softcap(), x);
        let errors: Vec<f64> = transformed.iter().map(error).collect();
        let max = transformed.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(x));
        let gaps: Vec<f64> = transformed.iter().zip(&errors).map(|(x, error)| max - x + error / U).collect();
        let ln_sum = -exact.log_probabilities.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(x));
        let mean_error = exact.probabilities.iter().zip(&errors).map(|(p, error)| p * error).sum();
        let mut row =
            Self { exact, max, ln_sum, transformed, errors, mean_error, gaps, mean_gap: 0.0, rounding };
        row.mean_gap = (0..x.len()).map(|i| row.part_of_mean_gap(i)).sum();
        row
    }

    /// Whether the logits are taken as they are.
    fn is_plain(&self) -> bool {
        self.errors.iter().all(|&error| error == 0.0)
    }

    /// Whether a transformed logit is below another by more than their errors.
    fn is_below(&self, i: usize, j: usize) -> bool {
        self.transformed[i] + self.errors[i] < self.transformed[j] - self.errors[j]
    }

    /// Checks the argmax, which is exact where logits are taken as they are, and else as good as the transformed ones.
    fn check_argmax(&self, x: &[f32], argmax: usize, context: fmt::Arguments<'_>) {
        if self.is_plain() {
            assert_eq!(argmax, first_largest_or_nan(x), "argmax, {context}");
        }
        assert!((0..x.len()).all(|i| !self.is_below(argmax, i)), "argmax {argmax}, {context}");
    }

    /// Checks the target's rank in the same way.
    fn check_rank(&self, x: &[f32], outputs: &Outputs<'_>, target: usize, context: fmt::Arguments<'_>) {
        let (argmax, rank) = (outputs.argmax, outputs.target_rank);
        if self.is_plain() {
            assert_eq!(rank, reference::rank(x, target), "rank of {target}, {context}");
        }
        let least = (0..x.len()).filter(|&i| self.is_below(target, i)).count();
        let most = (0..x.len()).filter(|&i| i != target && !self.is_below(i, target)).count();
        assert!((least..=most).contains(&rank), "rank {rank} of {target}, {least} to {most}, {context}");
        assert_eq!(
            rank == 0,
            argmax == target,
            "rank {rank} of {target}, but the argmax is {argmax}, {context}"
        );
    }

    /// p |d|; a masked class has no part.
    fn part_of_mean_gap(&self, i: usize) -> f64 {
        let p = self.exact.probabilities[i];
        if p == 0.0 { 0.0 } else { p * self.gaps[i] }
    }

    /// D'.
    fn others_mean_gap(&self, target: usize) -> f64 {
        let others = (0..self.gaps.len()).filter(|&i| i != target);
        let sum: f64 = others.map(|i| self.part_of_mean_gap(i)).sum();
        let of_others = if sum == 0.0 { 0.0 } else { sum / self.exact.complements[target] };
        of_others + self.errors[target] / U
    }

    /// Relative, of a probability.
    fn probability_bound(&self, i: usize) -> f64 {
        if self.gaps[i] == f64::INFINITY { 0.0 } else { (self.gaps[i] + self.mean_gap + PROBABILITY) * U }
    }

    fn lse_bound(&self) -> f64 {
        (self.mean_gap + LSE) * U * (self.max.abs() + self.ln_sum) + self.mean_error
    }

    /// The outputs that follow from the softmax alone. Returns how far lse is from the exact one.
    fn check(&self, outputs: &Outputs<'_>, context: fmt::Arguments<'_>) -> Deviation {
        self.check_probabilities(outputs.probabilities, context);
        self.check_log_probabilities(outputs.log_probabilities, context);
        let p = self.exact.probabilities[outputs.argmax];
        let of_p = self.probability_bound(outputs.argmax) * p;
        for (name, found, exact, bound) in [
            ("argmax_probability", outputs.argmax_probability, p, of_p),
            ("entropy", outputs.entropy, self.exact.entropy, self.entropy_bound()),
        ] {
            close(name, found, exact, bound, Rounding::F32)
                .unwrap_or_else(|error| panic!("{error}, {context}"));
        }
        close("lse", outputs.lse, self.exact.lse, self.lse_bound(), Rounding::F32)
            .unwrap_or_else(|error| panic!("{error}, {context}"))
    }

    fn check_target(&self, outputs: &Outputs<'_>, target: usize, context: fmt::Arguments<'_>) {
        let ln_p = self.exact.log_probabilities[target];
        let bound = (self.others_mean_gap(target) + LOSS) * U * ln_p.abs();
        close("target_log_probability", outputs.target_log_probability, ln_p, bound, Rounding::F32)
            .unwrap_or_else(|error| panic!("{error}, {context}"));
    }

    fn entropy_bound(&self) -> f64 {
        let part = |i: usize| {
            let (p, ln_p) = (self.exact.probabilities[i], self.exact.log_probabilities[i]);
            if p == 0.0 { 0.0 } else { p * -ln_p * (3.0 * self.gaps[i] + self.mean_gap + ENTROPY) * U }
        };
        (0..self.gaps.len()).map(part).sum()
    }

    fn check_probabilities(&self, found: &[f32], context: fmt::Arguments<'_>) {
        for (i, (&found, &exact)) in found.iter().zip(&self.exact.probabilities).enumerate() {
            close("probability", found, exact, self.probability_bound(i) * exact, self.rounding)
                .unwrap_or_else(|error| panic!("{error}, column {i}, {context}"));
        }
    }

    fn check_log_probabilities(&self, found: &[f32], context: fmt::Arguments<'_>) {
        for (i, (&found, &exact)) in found.iter().zip(&self.exact.log_probabilities).enumerate() {
            let gap = self.gaps[i] - self.errors[i] / U;
            let bound = (LOG_PROBABILITY * (gap + self.ln_sum) + self.mean_gap) * U;
            let bound = bound + self.errors[i] + self.mean_error;
            close("log-probability", found, exact, bound, self.rounding)
                .unwrap_or_else(|error| panic!("{error}, column {i}, {context}"));
        }
    }
}

/// The terms of a loss: hard (-ln p_y) + sum_{c in M} smooth w_c (-ln p_c) + z lse^2, with M the classes that label
/// smoothing spreads over.
struct Terms<'a> {
    softmax: &'a RowOfSoftmax<'a>,
    target: usize,
    others_mean_gap: f64,
    weight: Option<&'a [f32]>,
    smoothing: Smoothing,
    /// The sum of the class weights in M, and of those but the target's.
    total: f64,
    others: f64,
    hard: f64,
    /// What takes the place of `hard` in the gradient: more of it, with a focal loss.
    slope: f64,
    /// Relative errors of both, where the loss is focal.
    hard_error: f64,
    slope_error: f64,
    smooth: f64,
    z: f64,
    /// Of the gradient.
    rounding: Rounding,
}

impl<'a> Terms<'a> {
    fn new(ce: &'a CrossEntropy, softmax: &'a RowOfSoftmax<'a>, target: usize) -> Self {
        let mut terms = Self {
            softmax,
            target,
            others_mean_gap: softmax.others_mean_gap(target),
            weight: ce.weight(),
            smoothing: ce.smoothing(),
            total: 0.0,
            others: 0.0,
            hard: 1.0 - ce.label_smoothing(),
            slope: 0.0,
            hard_error: 0.0,
            slope_error: 0.0,
            smooth: 0.0,
            z: ce.z_loss(),
            rounding: softmax.rounding,
        };
        terms.hard *= terms.weight_of(target);
        terms.slope = terms.hard;
        terms.set_focal(ce.focal_gamma());
        let among: Vec<usize> = (0..softmax.gaps.len()).filter(|&c| terms.is_among(c)).collect();
        terms.total = among.iter().map(|&c| terms.weight_of(c)).sum();
        terms.others = among.iter().filter(|&&c| c != target).map(|&c| terms.weight_of(c)).sum();
        terms.smooth = if among.is_empty() { 0.0 } else { ce.label_smoothing() / among.len() as f64 };
        terms
    }

    /// The contract's bounds on a focal loss.
    fn set_focal(&mut self, gamma: f64) {
        if gamma == 0.0 {
            return;
        }
        let (target, exact) = (self.target, self.softmax.exact);
        let (p, q, ln_p) =
            (exact.probabilities[target], exact.complements[target], exact.log_probabilities[target]);
        let of_q = (self.others_mean_gap + TARGET_GRADIENT) * U;
        let of_nll = (self.others_mean_gap + LOSS) * U;
        let power = if q == 0.0 { 0.0 } else { (gamma * if p < 0.5 { (-p).ln_1p() } else { q.ln() }).exp() };
        let g = if p == 0.0 || q == 0.0 { 0.0 } else { gamma * p * -ln_p / q };
        self.hard *= power;
        self.slope *= power * (1.0 + g);
        self.hard_error = gamma * of_q;
        let of_p = self.softmax.probability_bound(target);
        self.slope_error = gamma * of_q + g / (1.0 + g) * (of_p + of_nll + of_q);
    }

    /// Whether a class is in M.
    fn is_among(&self, class: usize) -> bool {
        match self.smoothing {
            Smoothing::AllClasses => true,
            Smoothing::OtherClasses => class != self.target,
            Smoothing::LiveClasses => self.softmax.gaps[class] < f64::INFINITY,
            other => panic!("{other:?} has no bounds"),
        }
    }

    /// The weight of a class in M, 0 of another.
    fn weight_among(&self, class: usize) -> f64 {
        if self.is_among(class) { self.weight_of(class) } else { 0.0 }
    }

    fn weight_of(&self, class: usize) -> f64 {
        self.weight.map_or(1.0, |weight| f64::from(weight[class]))
    }

    /// The contract's bound; where smoothing counts ln S once for each class, the error of ln S, which is that of S
    /// relative to S; and what products of a weight and a gap lose that are subnormal.
    fn loss_bound(&self, loss: f64, row_weight: f64) -> f64 {
        let of_ln_sum = self.smooth * self.total * (self.softmax.mean_gap + LOSS) * U;
        let of_gaps = self.smooth * self.softmax.gaps.len() as f64 * SUBNORMAL_ROUNDING;
        let nll = -self.softmax.exact.log_probabilities[self.target];
        let of_focal =
            if self.hard_error * self.hard == 0.0 { 0.0 } else { self.hard_error * self.hard * nll };
        let of_transform =
            |c: usize| self.weight_among(c) * (self.softmax.errors[c] + self.softmax.mean_error);
        let of_transforms = self.smooth * (0..self.softmax.gaps.len()).map(of_transform).sum::<f64>();
        let of_terms = of_ln_sum + of_gaps + of_focal + of_transforms;
        let of_terms = if row_weight == 0.0 { 0.0 } else { row_weight * of_terms };
        (self.others_mean_gap + LOSS) * U * loss + of_terms
    }

    /// The error of ln S is that of S relative to S. Rounding the loss is in its own bound.
    fn lse_error(&self) -> f64 {
        (self.softmax.mean_gap + LSE) * U
    }

    /// Of z lse^2.
    fn z_bound(&self) -> f64 {
        let lse = self.softmax.exact.lse;
        self.z * (2.0 * lse.abs() * self.lse_error() + U * lse * lse)
    }

    /// The contract's bounds: relative to the gradient where it has one term, to the sum of its terms' magnitudes where
    /// it has two.
    fn check_gradient(
        &self,
        i: usize,
        factor: f64,
        z_factor: f64,
        chain: Chain,
        found: f32,
        exact: f64,
    ) -> Result<Deviation, String> {
        if chain.may_vanish && found == 0.0 {
            return Ok(Deviation { error: 0.0, bound: 0.0, scale: 0.0 });
        }
        let (factor, z_factor) = (factor * chain.slope, z_factor * chain.slope);
        let p = self.softmax.exact.probabilities[i];
        let z_slope = 2.0 * self.z * z_factor;
        let z_coefficient = z_slope * self.softmax.exact.lse;
        let z_error = (z_slope * p).abs() * self.lse_error();
        let (hard, smooth) = (self.slope * factor, self.smooth * factor);
        if i == self.target {
            let own = self.weight_among(i);
            let rise = smooth * self.others * p;
            let fall = (hard + smooth * own) * self.softmax.exact.complements[i];
            let relative = (self.others_mean_gap + TARGET_GRADIENT) * U;
            let of_rise = relative.max(self.softmax.probability_bound(i));
            let bound = of_rise * rise.abs() + relative * fall.abs();
            let z_relative = self.softmax.probability_bound(i) + TARGET_GRADIENT * U;
            let of_focal = (self.slope_error * hard * self.softmax.exact.complements[i]).abs();
            let bound = bound + z_relative * (z_coefficient * p).abs() + z_error + of_focal;
            let bound = bound + chain.error * (rise.abs() + fall.abs() + (z_coefficient * p).abs());
            let scale = rise.abs() + fall.abs() + (z_coefficient * p).abs() + (z_slope * p).abs();
            let gradient = close("gradient at the target", found, exact, bound, self.rounding);
            return gradient.map(|gradient| gradient.relative_to(scale));
        }
        let coefficient = hard + smooth * self.total + z_coefficient;
        let magnitude = (hard + smooth * self.total).abs() + z_coefficient.abs();
        let (rise, fall) = (coefficient * p, smooth * self.weight_among(i));
        if coefficient.abs() > f64::from(f32::MAX) {
            // It counts as the largest number.
            return if found.is_nan() {
                Err(format!("gradient: {found} instead of {exact:e}"))
            } else {
                Ok(Deviation { error: 0.0, bound: magnitude, scale: magnitude })
            };
        }
        // A masked class has but the second term, and no gap to speak of.
        let relative = self.softmax.probability_bound(i).max(PROBABILITY * U);
        let of_focal = (self.slope_error * hard * p).abs();
        let bound = (relative + chain.error) * (magnitude * p + fall.abs()) + z_error + of_focal;
        // A term is 0 where the term or one of its factors is no normal number, unless the other factors make up for it.
        let may_vanish = |factors: [f64; 3]| factors.iter().any(|x| x.abs() < SMALLEST * (1.0 + relative));
        let rises = if may_vanish([p, coefficient, rise]) { [rise, 0.0] } else { [rise; 2] };
        let falls = if may_vanish([smooth, fall, 1.0]) { [fall, 0.0] } else { [fall; 2] };
        let mut error = close("gradient", found, exact, bound, self.rounding);
        for rise_or_0 in rises {
            for fall_or_0 in falls {
                let exact = exact - (rise - rise_or_0) + (fall - fall_or_0);
                error = error.or_else(|error| {
                    close("gradient", found, exact, bound, self.rounding).map_err(|_| error)
                });
            }
        }
        error.map(|gradient| gradient.relative_to(magnitude * p + fall.abs() + (z_slope * p).abs()))
    }
}

/// How a gradient goes back through the transform of a logit.
#[derive(Clone, Copy)]
struct Chain {
    slope: f64,
    /// Relative.
    error: f64,
    /// Whether the kernel's slope may be 0.
    may_vanish: bool,
}

impl Chain {
    fn new(ce: &CrossEntropy, x: f32) -> Self {
        let slope = reference::transform_slopes(ce, &[x])[0];
        let error = transform_slope(ce.logit_scale(), ce.softcap(), f64::from(x));
        let may_vanish =
            ce.softcap().is_some() && slope / ce.logit_scale() < 4.0 * SMALLEST * (1.0 + 2.0 * error);
        Self { slope, error, may_vanish }
    }
}

/// Whether `found` is within an absolute `bound` of `exact`: 0 where that is no normal number, infinite where that is too
/// large for one. On the borders, either will do.
fn close(name: &str, found: f32, exact: f64, bound: f64, rounding: Rounding) -> Result<Deviation, String> {
    if found.is_subnormal() {
        return Err(format!("{name}: {found:e} is subnormal"));
    }
    let (value, magnitude) = (f64::from(found), exact.abs());
    let bound = bound + rounding.unit * (magnitude + bound) + rounding.half_of_smallest;
    let error = (value - exact).abs();
    let is_near = error <= bound && magnitude + bound >= SMALLEST && magnitude < f64::INFINITY;
    let may_be_zero = value == 0.0 && magnitude - bound <= SMALLEST;
    let may_be_infinite =
        value == exact || value.is_infinite() && value.signum() * exact + bound > rounding.largest;
    if may_be_zero || may_be_infinite {
        return Ok(Deviation { error: 0.0, bound, scale: magnitude });
    }
    if is_near {
        return Ok(Deviation { error, bound, scale: magnitude });
    }
    let share = error / bound;
    Err(format!("{name}: {found:e} instead of {exact:e}, {share} of the bound {bound:e}"))
}
