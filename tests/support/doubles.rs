//! Calls on logits of `f64`, in memory that is watched, and what they should give, from numbers of twice the precision.

use super::batch::Batch;
use super::double_double::DoubleDouble;
use super::evaluation::Call;
use xent::contract::{U_F64, transformed_logit_f64};
use xent::{CrossEntropy, EmptyMean, Matrix, MatrixMut, Reduction, Request, Smoothing, Summary};

/// A batch whose logits are `f64`.
#[derive(Clone, Debug)]
pub struct Doubles {
    pub rows: usize,
    pub classes: usize,
    pub logits: Vec<f64>,
    pub targets: Vec<i64>,
}

impl Doubles {
    /// Logits close to those of a batch, of 53 bits; equal ones stay equal.
    pub fn near(batch: &Batch) -> Self {
        let (rows, classes) = (batch.rows, batch.classes);
        Self { rows, classes, logits: near(&batch.logits), targets: batch.targets.clone() }
    }

    pub fn row(&self, row: usize) -> &[f64] {
        &self.logits[row * self.classes..][..self.classes]
    }
}

/// Every output of a call.
#[derive(Clone, Debug)]
pub struct Found {
    pub summary: Summary,
    pub grad: Vec<f64>,
    pub losses: Vec<f64>,
    pub lse: Vec<f64>,
    pub target_log_probabilities: Vec<f64>,
    pub argmax_probabilities: Vec<f64>,
    pub entropies: Vec<f64>,
    pub argmax: Vec<usize>,
    pub target_ranks: Vec<usize>,
    pub probabilities: Vec<f64>,
    pub log_probabilities: Vec<f64>,
}

/// A NaN that no computation makes.
const CANARY: u64 = 0x7ff8_ca7a_ca7a_ca7a;
/// Canaries between rows, and before the first.
const PADDING: usize = 3;

/// A matrix of canaries, with as many before it and between its rows.
pub struct Watched {
    memory: Vec<f64>,
    rows: usize,
    classes: usize,
}

impl Watched {
    pub fn new(rows: usize, classes: usize) -> Self {
        let memory = vec![f64::from_bits(CANARY); PADDING + rows * (classes + PADDING)];
        Self { memory, rows, classes }
    }

    pub fn holding(x: &[f64], rows: usize, classes: usize) -> Self {
        let mut watched = Self::new(rows, classes);
        for row in 0..rows {
            let start = PADDING + row * (classes + PADDING);
            watched.memory[start..start + classes].copy_from_slice(&x[row * classes..][..classes]);
        }
        watched
    }

    pub fn matrix(&self) -> Matrix<'_, f64> {
        let Self { rows, classes, .. } = *self;
        Matrix::with_row_stride(&self.memory[PADDING..], rows, classes, classes + PADDING)
            .expect("there is room")
    }

    pub fn matrix_mut(&mut self) -> MatrixMut<'_, f64> {
        let Self { rows, classes, .. } = *self;
        MatrixMut::with_row_stride(&mut self.memory[PADDING..], rows, classes, classes + PADDING)
            .expect("there is room")
    }

    /// The elements; every canary around them must have lived.
    pub fn elements(&self, name: &str) -> Vec<f64> {
        let mut elements = Vec::with_capacity(self.rows * self.classes);
        for (at, x) in self.memory.iter().enumerate() {
            let is_padding = at < PADDING || (at - PADDING) % (self.classes + PADDING) >= self.classes;
            if is_padding {
                assert_eq!(x.to_bits(), CANARY, "{name}: the canary at {at}");
            } else {
                elements.push(*x);
            }
        }
        elements
    }
}

/// The inputs of a call. Upstream gradients are widened.
pub fn request<'a>(call: &Call<'a>, upstream: Option<&'a [f64]>) -> Request<'a, f64> {
    let mut request = Request::new();
    if let Some(upstream) = upstream {
        request = request.upstream(upstream);
    }
    if let Some(upstream_scalar) = call.upstream_scalar {
        request = request.upstream_scalar(upstream_scalar);
    }
    if let Some(row_weights) = call.row_weights {
        request = request.row_weights(row_weights);
    }
    if let Some(loss_mask) = call.loss_mask {
        request = request.loss_mask(loss_mask);
    }
    if let Some(denominator) = call.denominator {
        request = request.denominator(denominator);
    }
    request
}

/// Numbers close to these, of 53 bits; 0 stays 0.
pub fn near(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x) * (1.0 + 1.234_567e-9)).collect()
}

pub fn widened(upstream: Option<&[f32]>) -> Option<Vec<f64>> {
    upstream.map(|upstream| upstream.iter().map(|&g| f64::from(g)).collect())
}

/// Asks for every output. Target probabilities are [`near`] those of the call.
pub fn evaluate(call: &Call<'_>, ce: &CrossEntropy, batch: &Doubles) -> Found {
    let Doubles { rows, classes, .. } = *batch;
    let mut logits = Watched::holding(&batch.logits, rows, classes);
    let mut grad = Watched::new(rows, classes);
    let mut probabilities = Watched::new(rows, classes);
    let mut log_probabilities = Watched::new(rows, classes);
    let column = || vec![f64::from_bits(CANARY); rows];
    let (mut losses, mut lse, mut target_log_probabilities) = (column(), column(), column());
    let (mut argmax_probabilities, mut entropies) = (column(), column());
    let (mut argmax, mut target_ranks) = (vec![usize::MAX - 1; rows], vec![usize::MAX - 1; rows]);
    let upstream = widened(call.upstream);
    let request = request(call, upstream.as_deref())
        .losses(&mut losses)
        .lse(&mut lse)
        .argmax_probabilities(&mut argmax_probabilities)
        .entropies(&mut entropies)
        .argmax(&mut argmax)
        .probabilities(probabilities.matrix_mut())
        .log_probabilities(log_probabilities.matrix_mut());
    let summary = if let Some(q) = call.target_probabilities.map(near) {
        let log_probabilities = call.without_classes(rows).0;
        target_log_probabilities = log_probabilities.into_iter().map(f64::from).collect();
        target_ranks.fill(usize::MAX);
        let q = Matrix::new(&q, rows, classes).expect("the shape fits");
        if call.in_place {
            ce.run_probabilities_in_place(logits.matrix_mut(), q, request)
        } else {
            ce.run_probabilities(logits.matrix(), q, request.grad(grad.matrix_mut()))
        }
    } else {
        let request =
            request.target_log_probabilities(&mut target_log_probabilities).target_ranks(&mut target_ranks);
        if call.in_place {
            ce.run_in_place(logits.matrix_mut(), &batch.targets, request)
        } else {
            ce.run(logits.matrix(), &batch.targets, request.grad(grad.matrix_mut()))
        }
    };
    let summary = summary.expect("the batch is valid");
    if call.in_place {
        core::mem::swap(&mut grad, &mut logits);
        let untouched = logits.elements("the unused gradient");
        assert!(untouched.iter().all(|x| x.to_bits() == CANARY), "the unused gradient");
    } else {
        let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits();
        assert!(logits.elements("logits").iter().zip(&batch.logits).all(same), "logits");
    }
    Found {
        summary,
        grad: grad.elements("grad"),
        losses,
        lse,
        target_log_probabilities,
        argmax_probabilities,
        entropies,
        argmax,
        target_ranks,
        probabilities: probabilities.elements("probabilities"),
        log_probabilities: log_probabilities.elements("log_probabilities"),
    }
}

impl Found {
    /// The bits of everything.
    pub fn bits(&self) -> Vec<u64> {
        let numbers = [
            &self.grad,
            &self.losses,
            &self.lse,
            &self.target_log_probabilities,
            &self.argmax_probabilities,
            &self.entropies,
            &self.probabilities,
            &self.log_probabilities,
        ];
        let bits = numbers.into_iter().flatten().map(|x| x.to_bits());
        let indices = self.argmax.iter().chain(&self.target_ranks).map(|&index| index as u64);
        let of_summary = [self.summary.loss.to_bits(), self.summary.correct as u64];
        bits.chain(indices).chain(of_summary).collect()
    }

    pub fn assert_no_subnormal(&self, context: &str) {
        let numbers = [
            &self.grad,
            &self.losses,
            &self.lse,
            &self.target_log_probabilities,
            &self.argmax_probabilities,
            &self.entropies,
            &self.probabilities,
            &self.log_probabilities,
        ];
        let mut numbers = numbers.into_iter().flatten().chain([&self.summary.loss, &self.summary.z_loss]);
        assert!(numbers.all(|x| !x.is_subnormal()), "{context}");
    }
}

/// The softmax of a row.
#[derive(Clone, Debug)]
pub struct ExactRow {
    pub probabilities: Vec<DoubleDouble>,
    /// 1 - p_i.
    pub complements: Vec<DoubleDouble>,
    pub log_probabilities: Vec<DoubleDouble>,
    pub lse: DoubleDouble,
    pub entropy: DoubleDouble,
    pub max: f64,
    pub ln_sum: f64,
    /// |d_i|.
    pub gaps: Vec<f64>,
    /// D.
    pub mean_gap: f64,
    pub transformed: Vec<DoubleDouble>,
    /// How far these may be from what the kernels have, in the unit of the bounds.
    pub errors: Vec<f64>,
    /// What these come to in ln S.
    pub mean_error: f64,
}

impl ExactRow {
    pub fn new(x: &[f64]) -> Self {
        Self::transformed(&CrossEntropy::default(), x)
    }

    /// Of scaled and capped logits. What their errors are goes into the gaps, in the unit of the bounds.
    pub fn transformed(ce: &CrossEntropy, logits: &[f64]) -> Self {
        let x: Vec<DoubleDouble> = logits.iter().map(|&x| transformed(ce, x)).collect();
        let error = |x: &DoubleDouble| transformed_logit_f64(ce.logit_scale(), ce.softcap(), x.high) / U_F64;
        let errors: Vec<f64> = x.iter().map(error).collect();
        let is_larger = |i: usize, j: usize| (x[i] - x[j]).high > 0.0;
        let largest = (0..x.len()).fold(0, |largest, i| if is_larger(i, largest) { i } else { largest });
        let max = x[largest];
        let d: Vec<DoubleDouble> = x.iter().map(|&x| x - max).collect();
        let exps: Vec<DoubleDouble> = d.iter().map(|d| d.exp()).collect();
        let rest: DoubleDouble = (0..x.len()).filter(|&i| i != largest).map(|i| exps[i]).sum();
        let (sum, ln_sum) = (rest + 1.0.into(), rest.ln_1p());
        let probabilities: Vec<DoubleDouble> = exps.iter().map(|&e| e / sum).collect();
        let complement = |i: usize| if i == largest { rest / sum } else { (sum - exps[i]) / sum };
        let complements = (0..x.len()).map(complement).collect();
        let log_probabilities: Vec<DoubleDouble> = d.iter().map(|&d| d - ln_sum).collect();
        let part = |i: usize| weighted(probabilities[i], -log_probabilities[i]);
        let entropy = (0..x.len()).map(part).sum();
        let gaps: Vec<f64> = d.iter().zip(&errors).map(|(d, error)| error - d.high).collect();
        let mean = |of_class: &[f64]| {
            (0..x.len()).map(|i| weighted(probabilities[i], of_class[i].into()).high).sum::<f64>()
        };
        let (mean_gap, mean_error) = (mean(&gaps), mean(&errors));
        let (lse, ln_sum, max) = (ln_sum + max, ln_sum.high, max.high);
        let transformed = x;
        Self {
            probabilities,
            complements,
            log_probabilities,
            lse,
            entropy,
            max,
            ln_sum,
            gaps,
            mean_gap,
            transformed,
            errors,
            mean_error,
        }
    }

    /// D'.
    pub fn others_mean_gap(&self, target: usize) -> f64 {
        let others = (0..self.gaps.len()).filter(|&i| i != target);
        let part = |i: usize| weighted(self.probabilities[i], self.gaps[i].into()).high;
        let sum: f64 = others.map(part).sum();
        self.errors[target] + if sum == 0.0 { 0.0 } else { sum / self.complements[target].high }
    }

    /// Whether a transformed logit is below another by more than their errors.
    pub fn is_below(&self, i: usize, j: usize) -> bool {
        let errors = (self.errors[i] + self.errors[j]) * U_F64;
        let difference = (self.transformed[j] - self.transformed[i]).high;
        // Two infinities are equal.
        difference > errors
    }

    /// Whether logits are taken as they are.
    pub fn is_plain(&self) -> bool {
        self.errors.iter().all(|&error| error == 0.0)
    }
}

fn transformed(ce: &CrossEntropy, x: f64) -> DoubleDouble {
    let scaled = DoubleDouble::product(ce.logit_scale(), x);
    match ce.softcap() {
        Some(cap) if x.is_finite() => (scaled / cap.into()).tanh_and_slope().0 * cap.into(),
        _ => scaled,
    }
}

/// The derivative of a transformed logit, but for the scale.
pub fn transform_slope(ce: &CrossEntropy, x: f64) -> DoubleDouble {
    let slope = |cap: f64| (DoubleDouble::product(ce.logit_scale(), x) / cap.into()).tanh_and_slope().1;
    ce.softcap().map_or(1.0.into(), slope)
}

/// A term of weight 0 is 0, also where its value is infinite.
fn weighted(weight: DoubleDouble, term: DoubleDouble) -> DoubleDouble {
    if weight.high == 0.0 || !term.high.is_finite() && weight.high < f64::MIN_POSITIVE {
        DoubleDouble::default()
    } else {
        weight * term
    }
}

/// A row's loss and gradient, without its z-loss, before any reduction, and what its bounds need.
#[derive(Clone, Debug)]
pub struct ExactLoss {
    pub loss: DoubleDouble,
    pub grad: Vec<DoubleDouble>,
    pub z_loss: DoubleDouble,
    pub z_grad: Vec<DoubleDouble>,
    /// Those of the gradient's two terms, and of the loss's factors.
    pub hard: f64,
    pub slope: f64,
    pub each: f64,
    pub total: f64,
    pub among: Vec<bool>,
    /// What all other classes weigh that smoothing spreads over.
    pub weights_of_others: Vec<f64>,
}

/// The formulas of `reference::run`.
pub fn exact_loss(ce: &CrossEntropy, softmax: &ExactRow, target: usize) -> ExactLoss {
    let classes = softmax.gaps.len();
    let weight_of = |class: usize| ce.weight().map_or(1.0, |weight| f64::from(weight[class]));
    let is_among = |c: usize| match ce.smoothing() {
        Smoothing::AllClasses => true,
        Smoothing::OtherClasses => c != target,
        Smoothing::LiveClasses => softmax.gaps[c] < f64::INFINITY,
        other => panic!("{other:?} has no oracle"),
    };
    let among: Vec<bool> = (0..classes).map(is_among).collect();
    let count = among.iter().filter(|&&is_among| is_among).count();
    let eps = DoubleDouble::from(ce.label_smoothing());
    let each = if count == 0 { 0.0.into() } else { eps / (count as f64).into() };
    let weights: Vec<DoubleDouble> =
        (0..classes).map(|c| if among[c] { weight_of(c).into() } else { 0.0.into() }).collect();
    let of_others = sums_of_others(&weights);
    let (p, q) = (softmax.probabilities[target], softmax.complements[target]);
    let nll = -softmax.log_probabilities[target];
    let (mut power, mut slope) = (DoubleDouble::from(1.0), DoubleDouble::from(1.0));
    let gamma = DoubleDouble::from(ce.focal_gamma());
    if gamma.high > 0.0 {
        // A probability that is no normal number is 0. Others are lifted, so that no quotient is too large.
        let is_0 = q.high < f64::MIN_POSITIVE;
        let lift = DoubleDouble::from(if q.high < 1e-200 { 2.0_f64.powi(512) } else { 1.0 });
        let ln_lift = if lift.high > 1.0 { lift.ln_1p() } else { 0.0.into() };
        let ln_q = -((p / (q * lift)).ln_1p() + ln_lift);
        power = if is_0 { 0.0.into() } else { (gamma * ln_q).exp() };
        let share = if is_0 { 0.0.into() } else { gamma * weighted(p, nll * lift) / (q * lift) };
        slope = power * (share + 1.0.into());
    }
    let hard = (DoubleDouble::from(1.0) - eps) * weight_of(target).into();
    let mut loss = weighted(hard * power, nll);
    for c in (0..classes).filter(|&c| among[c] && eps.high > 0.0) {
        loss = loss + weighted(each * weight_of(c).into(), -softmax.log_probabilities[c]);
    }
    let slope = hard * slope;
    let mut grad = Vec::with_capacity(classes);
    for i in 0..classes {
        let (p, q) = (softmax.probabilities[i], softmax.complements[i]);
        let spread = each * (of_others[i] * p - weights[i] * q);
        let hard = if i == target { -(slope * q) } else { slope * p };
        grad.push(spread + hard);
    }
    let z = DoubleDouble::from(ce.z_loss());
    let z_grad = softmax.probabilities.iter().map(|&p| z * 2.0.into() * softmax.lse * p).collect();
    ExactLoss {
        loss,
        grad,
        z_loss: z * softmax.lse * softmax.lse,
        z_grad,
        hard: (hard * power).high,
        slope: slope.high,
        each: each.high,
        total: weights.iter().copied().sum::<DoubleDouble>().high,
        among,
        weights_of_others: of_others.iter().map(|sum| sum.high).collect(),
    }
}

/// For each term the sum of all others: from both ends, because even twice the digits may be too few for a term and a sum with
/// it.
fn sums_of_others(terms: &[DoubleDouble]) -> Vec<DoubleDouble> {
    let (mut before, mut after) = (DoubleDouble::default(), DoubleDouble::default());
    let mut sums = Vec::with_capacity(terms.len());
    for &term in terms {
        sums.push(before);
        before = before + term;
    }
    for (sum, &term) in sums.iter_mut().zip(terms).rev() {
        *sum = *sum + after;
        after = after + term;
    }
    sums
}

/// The same where targets are probabilities.
#[derive(Clone, Debug)]
pub struct ExactDistribution {
    /// What each class weighs.
    pub v: Vec<DoubleDouble>,
    /// Their sum.
    pub total: DoubleDouble,
    pub loss: DoubleDouble,
    pub grad: Vec<DoubleDouble>,
}

/// The formulas of `reference::run_probabilities`.
pub fn exact_distribution(ce: &CrossEntropy, softmax: &ExactRow, q: &[f64]) -> ExactDistribution {
    let classes = q.len();
    let weight_of = |class: usize| ce.weight().map_or(1.0, |weight| f64::from(weight[class]));
    let eps = DoubleDouble::from(ce.label_smoothing());
    let (keep, spread) = (DoubleDouble::from(1.0) - eps, eps / (classes as f64).into());
    let v_of = |c: usize| (keep * q[c].into() + spread) * weight_of(c).into();
    let v: Vec<DoubleDouble> = (0..classes).map(v_of).collect();
    let total: DoubleDouble = v.iter().copied().sum();
    let loss = (0..classes).map(|c| weighted(v[c], -softmax.log_probabilities[c])).sum();
    let of_others = sums_of_others(&v);
    let gradient_of = |i: usize| of_others[i] * softmax.probabilities[i] - v[i] * softmax.complements[i];
    let grad = (0..classes).map(gradient_of).collect();
    ExactDistribution { v, total, loss, grad }
}

/// What the losses of rows are divided by, which have these class weights and row weights, and their z-losses.
pub fn divisors(
    ce: &CrossEntropy,
    call: &Call<'_>,
    weights: impl Iterator<Item = (f64, f64)> + Clone,
) -> (DoubleDouble, DoubleDouble) {
    match (call.denominator, ce.reduction()) {
        (Some(denominator), _) => (denominator.into(), denominator.into()),
        (None, Reduction::Mean) => (
            weights.clone().map(|(weight, row_weight)| DoubleDouble::product(weight, row_weight)).sum(),
            weights.map(|(_, row_weight)| DoubleDouble::from(row_weight)).sum(),
        ),
        (None, Reduction::Sum) => (1.0.into(), 1.0.into()),
    }
}

/// What rows add up to, and their mean.
pub fn reduced(ce: &CrossEntropy, call: &Call<'_>, losses: &[(DoubleDouble, DoubleDouble, f64, f64)]) -> f64 {
    let (mut loss, mut z_loss) = Default::default();
    for &(of_row, z_of_row, _, row_weight) in losses {
        loss = loss + weighted(row_weight.into(), of_row);
        z_loss = z_loss + weighted(row_weight.into(), z_of_row);
    }
    let weights = losses.iter().map(|&(_, _, weight, row_weight)| (weight, row_weight));
    let (divisor, z_divisor) = divisors(ce, call, weights);
    let mean = |total: DoubleDouble, divisor: DoubleDouble| {
        let is_empty = divisor.high == 0.0 && total.high == 0.0;
        let is_0 = is_empty && ce.empty_mean() == EmptyMean::Zero;
        if is_0 { 0.0 } else { (total / divisor).to_f64() }
    };
    mean(loss, divisor) + if ce.z_loss() == 0.0 { 0.0 } else { mean(z_loss, z_divisor) }
}
