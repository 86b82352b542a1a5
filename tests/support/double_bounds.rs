//! The bounds of `xent::contract` for every output of a call on logits of `f64`.

mod distributions;

use super::double_double::DoubleDouble;
use super::doubles::{
    Doubles, ExactLoss, ExactRow, Found, divisors, exact_distribution, exact_loss, near, reduced,
    transform_slope, widened,
};
use super::evaluation::{Call, largest_weight};
use xent::contract::{
    ENTROPY, LOG_PROBABILITY, LOSS, LSE, PROBABILITY, REDUCED_F64, SCALARS_F64, TARGET_GRADIENT, U_F64 as U,
    transform_slope_f64,
};
use xent::{CrossEntropy, EmptyMean};

/// The largest share of a bound that was used, of each output.
#[derive(Default)]
pub struct Shares(Vec<(&'static str, f64, String)>);

impl Shares {
    /// `found` against an exact value and an absolute bound; exactly 0, where that is no normal number.
    pub fn note(&mut self, name: &'static str, found: f64, exact: DoubleDouble, bound: f64, context: &str) {
        assert!(!found.is_subnormal(), "{name}: {found:e} is subnormal, {context}");
        let magnitude = exact.high.abs();
        if !exact.high.is_finite() {
            assert_eq!(found, exact.high, "{name}, {context}");
            return;
        }
        if magnitude < f64::MIN_POSITIVE * (1.0 - 1e-12) {
            assert_eq!(found, 0.0, "{name}: exact {magnitude:e}, {context}");
            return;
        }
        if found == 0.0 && magnitude < f64::MIN_POSITIVE * (1.0 + 1e-12) {
            return;
        }
        let error = (DoubleDouble::from(found) - exact).high.abs();
        let share = if error == 0.0 { 0.0 } else { error / bound };
        assert!(
            share <= 1.0,
            "{name}: {found:e} instead of {:e}, {share} of the bound, {context}",
            exact.high
        );
        match self.0.iter_mut().find(|(known, ..)| *known == name) {
            Some(known) if share > known.1 => (known.1, known.2) = (share, context.to_owned()),
            Some(_) => {}
            None => self.0.push((name, share, context.to_owned())),
        }
    }

    /// The same of a difference of two terms, which may cancel. Below `smallest`, what is no normal number may be 0 in either
    /// of them.
    fn note_difference(
        &mut self,
        name: &'static str,
        found: f64,
        exact: DoubleDouble,
        bound: f64,
        smallest: f64,
        context: &str,
    ) {
        if exact.high.abs() > smallest {
            self.note(name, found, exact, bound + smallest, context);
        } else if found.abs() > 2.0 * smallest {
            let error = (DoubleDouble::from(found) - exact).high.abs();
            assert!(error <= bound + smallest, "{name}: {found:e} instead of {:e}, {context}", exact.high);
        }
    }

    pub fn print(&self) {
        for (name, share, context) in &self.0 {
            println!("{name:<24} {share:.3} of the bound  {context}");
        }
    }
}

/// What multiplies the gradient of a row's loss, and that of its z-loss.
struct Factors {
    of_loss: DoubleDouble,
    of_z_loss: DoubleDouble,
}

/// Checks every output of a call. Plain calls, with neither options nor a divisor, have no steps that multiply.
pub fn check(
    ce: &CrossEntropy,
    batch: &Doubles,
    call: &Call<'_>,
    found: &Found,
    is_plain: bool,
    shares: &mut Shares,
    context: &str,
) {
    let scalars = if is_plain { 0.0 } else { SCALARS_F64 };
    let upstream = widened(call.upstream);
    let target_probabilities = call.target_probabilities.map(near);
    let counts = |row: usize| {
        let has_class = !ce.ignore_indices().contains(&batch.targets[row]);
        (has_class || target_probabilities.is_some()) && call.loss_mask.is_none_or(|mask| mask[row])
    };
    let weight_of = |class: usize| ce.weight().map_or(1.0, |weight| f64::from(weight[class]));
    // What the mean counts a row as.
    let weight_of_row = |row: usize| match target_probabilities {
        Some(_) => 1.0,
        None => weight_of(batch.targets[row] as usize),
    };
    let weights = (0..batch.rows).filter(|&row| counts(row));
    let weights = weights.map(|row| (weight_of_row(row), call.row_weight(row)));
    let (divisor, z_divisor) = divisors(ce, call, weights);
    let mut losses = Vec::new();
    let mut loss_bounds = 0.0;
    let (mut counted, mut correct, mut has_nan) = (0, 0, false);
    for row in 0..batch.rows {
        let context = format!("row {row} of {} x {}, {context}", batch.rows, batch.classes);
        let columns = row * batch.classes..(row + 1) * batch.classes;
        if !counts(row) {
            let zeros = [&found.grad, &found.probabilities, &found.log_probabilities];
            assert!(
                zeros.iter().all(|out| out[columns.clone()].iter().all(|x| x.to_bits() == 0)),
                "{context}"
            );
            assert_eq!([found.losses[row], found.lse[row], found.entropies[row]], [0.0; 3], "{context}");
            continue;
        }
        counted += 1;
        let x = batch.row(row);
        if is_nan_row(x) {
            has_nan = true;
            assert_nan(found, row, batch.classes, &context);
            continue;
        }
        let softmax = ExactRow::transformed(ce, x);
        let row_weight = call.row_weight(row);
        let scalar = DoubleDouble::product(call.upstream_scalar.unwrap_or(1.0), ce.logit_scale());
        let scale = DoubleDouble::from(row_weight) * scalar;
        let factor_of = |divisor: DoubleDouble| match &upstream {
            Some(upstream) => scale * upstream[row].into(),
            None if divisor.high == 0.0 => 0.0.into(),
            None => scale / divisor,
        };
        let factors = Factors { of_loss: factor_of(divisor), of_z_loss: factor_of(z_divisor) };
        let z_loss = DoubleDouble::from(ce.z_loss()) * softmax.lse * softmax.lse;
        let mut note_loss =
            |name, bounds: &Bounds<'_>, shares: &mut Shares, exact: DoubleDouble, bound: f64| {
                // A row of weight 0 adds nothing, even where its loss is infinite.
                let loss_bound = if row_weight == 0.0 { 0.0 } else { row_weight * bound };
                let of_square = 2.0 * softmax.lse.high.abs() * bounds.lse_error()
                    + scalars * U * softmax.lse.high.powi(2);
                let z_bound = product(row_weight * ce.z_loss(), of_square);
                let sum = DoubleDouble::from(row_weight) * (exact + z_loss);
                let sum = if row_weight == 0.0 { 0.0.into() } else { sum };
                shares.note(
                    name,
                    found.losses[row],
                    sum,
                    loss_bound + z_bound + scalars * U * sum.high,
                    &context,
                );
                // The divisors' own shares.
                loss_bounds += quotient(loss_bound, divisor.high) + quotient(z_bound, z_divisor.high);
                losses.push((exact, z_loss, weight_of_row(row), row_weight));
            };
        if let Some(q) = &target_probabilities {
            let exact = exact_distribution(ce, &softmax, &q[columns]);
            let bounds = Bounds { softmax: &softmax, target: None, scalars };
            bounds.check_softmax(x, found, row, shares, &context);
            let bound = bounds.distribution_loss(&exact, found.argmax[row]);
            note_loss("loss, probabilities", &bounds, shares, exact.loss, bound);
            bounds.check_distribution_gradient(ce, (x, &exact), &factors, (found, row), shares, &context);
            continue;
        }
        let target = batch.targets[row] as usize;
        let exact = exact_loss(ce, &softmax, target);
        correct += usize::from(found.argmax[row] == target);
        let bounds = Bounds { softmax: &softmax, target: Some(target), scalars };
        bounds.check_softmax(x, found, row, shares, &context);

        let focal = bounds.focal(target, ce.focal_gamma());
        let of_ln_sum = exact.each * exact.total * (softmax.mean_gap + LOSS + scalars) * U;
        let nll = -softmax.log_probabilities[target].high;
        let of_focal = product(focal.0 * exact.hard, nll);
        let of_transform = |i: usize| product(exact.each * weight_of(i), softmax.errors[i] * U);
        let of_transforms: f64 = (0..x.len()).filter(|&i| exact.among[i]).map(of_transform).sum();
        let loss_bound = (softmax.others_mean_gap(target) + LOSS + scalars) * U * exact.loss.high
            + of_ln_sum
            + of_transforms
            + of_focal;
        // Before weights, a loss that is no normal number is 0.
        let smallest = f64::MIN_POSITIVE * (weight_of(target) + exact.each * exact.total);
        let loss_bound = if is_plain { loss_bound } else { loss_bound + smallest };
        note_loss("loss", &bounds, shares, exact.loss, loss_bound);

        for (i, &g) in found.grad[columns].iter().enumerate() {
            let bound = bounds.gradient(ce, (&exact, target), i, &factors, focal.1);
            let slope = transform_slope(ce, x[i]);
            let g_exact = (exact.grad[i] * factors.of_loss + exact.z_grad[i] * factors.of_z_loss) * slope;
            let of_slope = transform_slope_f64(ce.logit_scale(), ce.softcap(), x[i]) * g_exact.high.abs();
            let bound = bound * slope.high + of_slope;
            let context = format!("column {i}, target {target}, {context}");
            let name = if i == target { "gradient at the target" } else { "gradient" };
            // What may vanish: terms or factors that are no normal numbers.
            let z_slope = product(2.0 * ce.z_loss(), softmax.lse.high.abs());
            let z_magnitude = product(1.0 + z_slope, factors.of_z_loss.high.abs());
            let coefficient = 1.0 + exact.slope.abs() + exact.each * exact.total;
            let magnitude = product(coefficient, factors.of_loss.high.abs());
            let smallest = f64::MIN_POSITIVE * 4.0 * (1.0 + magnitude + z_magnitude);
            if is_plain {
                shares.note(name, g, g_exact, bound, &context);
            } else {
                shares.note_difference(name, g, g_exact, bound, smallest, &context);
            }
        }
    }
    assert_eq!(found.summary.counted, counted, "{context}");
    assert_eq!(found.summary.correct, correct, "{context}");
    let exact = reduced(ce, call, &losses);
    // Before the weight, and after it.
    let largest_weight = largest_weight(ce).max(1.0);
    let may_be_0 = |&(loss, _, _, row_weight): &(DoubleDouble, _, _, f64)| {
        product(row_weight, loss.high) <= row_weight * largest_weight * f64::MIN_POSITIVE
    };
    if has_nan || exact.is_nan() {
        assert!(found.summary.loss.is_nan(), "{context}");
    } else if exact.is_infinite() && divisor.high == 0.0 && losses.iter().all(may_be_0) {
        // What is divided by 0 may be 0 as well.
        let z_loss = found.summary.z_loss;
        let of_nothing = if ce.empty_mean() == EmptyMean::Zero { z_loss } else { f64::NAN };
        let wanted = [exact, of_nothing].map(f64::to_bits);
        assert!(
            wanted.contains(&found.summary.loss.to_bits()),
            "{} of nothing, {context}",
            found.summary.loss
        );
    } else {
        let bound = loss_bounds + REDUCED_F64 * U * exact.abs() + f64::MIN_POSITIVE;
        shares.note("reduced loss", found.summary.loss, exact.into(), bound, context);
    }
}

/// 0 times anything is 0.
fn product(factor: f64, x: f64) -> f64 {
    if factor == 0.0 { 0.0 } else { factor * x }
}

/// Nothing counts where a divisor is 0.
fn quotient(x: f64, divisor: f64) -> f64 {
    if x == 0.0 || divisor == 0.0 { 0.0 } else { x / divisor }
}

/// Whether a row has NaN for a softmax.
fn is_nan_row(x: &[f64]) -> bool {
    x.iter().any(|x| x.is_nan() || *x == f64::INFINITY) || x.iter().all(|&x| x == f64::NEG_INFINITY)
}

fn assert_nan(found: &Found, row: usize, classes: usize, context: &str) {
    let columns = row * classes..(row + 1) * classes;
    let wide = [&found.grad, &found.probabilities, &found.log_probabilities];
    assert!(wide.iter().all(|out| out[columns.clone()].iter().all(|x| x.is_nan())), "{context}");
    let narrow = [
        &found.losses,
        &found.lse,
        &found.target_log_probabilities,
        &found.argmax_probabilities,
        &found.entropies,
    ];
    assert!(narrow.iter().all(|out| out[row].is_nan()), "{context}");
    assert_eq!(found.target_ranks[row], usize::MAX, "{context}");
}

struct Bounds<'a> {
    softmax: &'a ExactRow,
    /// Not of probabilities.
    target: Option<usize>,
    scalars: f64,
}

impl Bounds<'_> {
    /// Relative.
    fn probability(&self, i: usize) -> f64 {
        let gap = self.softmax.gaps[i];
        if gap == f64::INFINITY { 0.0 } else { (gap + self.softmax.mean_gap + PROBABILITY) * U }
    }

    fn lse_bound(&self) -> f64 {
        (LSE * (self.softmax.max.abs() + self.softmax.ln_sum) + self.softmax.mean_gap) * U
    }

    /// Of the lse in a z-loss.
    fn lse_error(&self) -> f64 {
        self.lse_bound().max((self.softmax.mean_gap + LSE) * U)
    }

    fn check_softmax(&self, x: &[f64], found: &Found, row: usize, shares: &mut Shares, context: &str) {
        let Self { softmax, target, .. } = *self;
        let start = row * x.len();
        for i in 0..x.len() {
            let (p, ln_p) = (softmax.probabilities[i], softmax.log_probabilities[i]);
            let bound = self.probability(i) * p.high;
            shares.note("probability", found.probabilities[start + i], p, bound, context);
            let bound = (LOG_PROBABILITY * (softmax.gaps[i] + softmax.ln_sum) + softmax.mean_gap) * U;
            shares.note("log-probability", found.log_probabilities[start + i], ln_p, bound, context);
        }
        shares.note("lse", found.lse[row], softmax.lse, self.lse_bound(), context);
        self.check_argmax(x, found, row, shares, context);
        if let Some(target) = target {
            self.check_target(x, target, found, row, shares, context);
        }
        let part = |i: usize| {
            let (p, ln_p) = (softmax.probabilities[i].high, softmax.log_probabilities[i].high);
            let relative = (3.0 * softmax.gaps[i] + softmax.mean_gap + ENTROPY) * U;
            // A class of probability 0 has no part, and one below the normal numbers may be 0: in its own term, and in
            // those of the others, whose ln p it is a part of.
            if p < f64::MIN_POSITIVE * (1.0 + relative) {
                return if p == 0.0 { 0.0 } else { p * (1.0 - ln_p) * (1.0 + relative) };
            }
            p * -ln_p * relative
        };
        let bound = (0..x.len()).map(part).sum();
        shares.note("entropy", found.entropies[row], softmax.entropy, bound, context);
    }

    fn check_target(
        &self,
        x: &[f64],
        target: usize,
        found: &Found,
        row: usize,
        shares: &mut Shares,
        context: &str,
    ) {
        let softmax = self.softmax;
        let ln_p = softmax.log_probabilities[target];
        let bound = (softmax.others_mean_gap(target) + LOSS) * U * ln_p.high.abs();
        let name = "target log-probability";
        shares.note(name, found.target_log_probabilities[row], ln_p, bound, context);
        let before = |i: &usize| x[*i] > x[target] || x[*i] == x[target] && *i < target;
        let rank = found.target_ranks[row];
        if softmax.is_plain() {
            assert_eq!(rank, (0..x.len()).filter(before).count(), "rank, {context}");
        }
        let least = (0..x.len()).filter(|&i| softmax.is_below(target, i)).count();
        let most = (0..x.len()).filter(|&i| i != target && !softmax.is_below(i, target)).count();
        assert!((least..=most).contains(&rank), "rank {rank}, {least} to {most}, {context}");
    }

    fn check_argmax(&self, x: &[f64], found: &Found, row: usize, shares: &mut Shares, context: &str) {
        let softmax = self.softmax;
        let best = found.argmax[row];
        if softmax.is_plain() {
            assert!(x.iter().all(|x| *x <= softmax.max) && x[best] == softmax.max, "argmax, {context}");
            assert!(!x[..best].contains(&softmax.max), "argmax, {context}");
        }
        assert!((0..x.len()).all(|i| !softmax.is_below(best, i)), "argmax, {context}");
        let p = softmax.probabilities[best];
        let bound = self.probability(best) * p.high;
        shares.note("argmax probability", found.argmax_probabilities[row], p, bound, context);
    }

    /// Relative errors of the focal loss's factor, and of its gradient's.
    fn focal(&self, target: usize, gamma: f64) -> (f64, f64) {
        if gamma == 0.0 {
            return (0.0, 0.0);
        }
        let (p, q) = (self.softmax.probabilities[target].high, self.softmax.complements[target].high);
        let nll = -self.softmax.log_probabilities[target].high;
        let others = self.softmax.others_mean_gap(target);
        let of_q = (others + TARGET_GRADIENT) * U;
        let of_nll = (others + LOSS) * U;
        let g = if p == 0.0 || q == 0.0 { 0.0 } else { gamma * p * nll / q };
        let share = g / (1.0 + g) * (self.probability(target) + of_nll + of_q);
        (gamma * of_q, gamma * of_q + share)
    }

    fn gradient(
        &self,
        ce: &CrossEntropy,
        (exact, target): (&ExactLoss, usize),
        i: usize,
        factors: &Factors,
        slope_error: f64,
    ) -> f64 {
        let softmax = self.softmax;
        let (factor, z_factor) = (factors.of_loss.high, factors.of_z_loss.high);
        let (p, q) = (softmax.probabilities[i].high, softmax.complements[i].high);
        let z_slope = 2.0 * ce.z_loss() * z_factor;
        let z_coefficient = (z_slope * softmax.lse.high).abs();
        // That of lse is relative to its terms.
        let z_error = product((z_slope * p).abs(), self.lse_error());
        let (hard, each) = ((exact.slope * factor).abs(), (exact.each * factor).abs());
        let own = match ce.weight() {
            _ if !exact.among[i] => 0.0,
            None => 1.0,
            Some(weight) => f64::from(weight[i]),
        };
        let scalars = self.scalars * U;
        if i == target {
            let (rise, fall) = (each * exact.weights_of_others[i] * p, (hard + each * own) * q);
            let relative = (softmax.others_mean_gap(i) + TARGET_GRADIENT) * U + scalars;
            let z_relative = self.probability(i) + TARGET_GRADIENT * U + scalars;
            let of_rise = relative.max(self.probability(i) + scalars);
            return of_rise * rise
                + relative * fall
                + z_relative * (z_coefficient * p)
                + z_error
                + slope_error * hard * q;
        }
        let relative = self.probability(i).max(PROBABILITY * U) + scalars;
        let magnitude = hard + each * exact.total + z_coefficient;
        relative * (magnitude * p + each * own) + z_error + slope_error * hard * p
    }
}
