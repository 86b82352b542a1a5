//! Second order of logits of `f64`, in memory that is watched, and what it should be, from numbers of twice the precision.

use super::double_bounds::Shares;
use super::double_double::DoubleDouble;
use super::doubles::{Doubles, ExactRow, Watched, exact_loss, transform_slope};
use xent::contract::{
    CAPPED, DIRECTIONAL_DERIVATIVE, HESSIAN, LOSS, LSE, PROBABILITY, SCALARS_F64, TARGET_GRADIENT,
    U_F64 as U, transform_slope_f64,
};
use xent::{CrossEntropy, Request};

const SMALLEST: f64 = f64::MIN_POSITIVE;

/// Every output of second order.
#[derive(Clone, Debug)]
pub struct Found {
    pub product: Vec<f64>,
    pub hessian_diagonal: Vec<f64>,
    pub gauss_newton_diagonal: Vec<f64>,
    pub derivatives: Vec<f64>,
    pub jvp: f64,
}

impl Found {
    /// The bits of everything.
    pub fn bits(&self) -> Vec<u64> {
        let wide = [&self.product, &self.hessian_diagonal, &self.gauss_newton_diagonal, &self.derivatives];
        wide.into_iter().flatten().chain([&self.jvp]).map(|x| x.to_bits()).collect()
    }

    /// Those of a row, but for the derivative of all.
    pub fn bits_of_row(&self, row: usize, classes: usize) -> Vec<u64> {
        let columns = row * classes..(row + 1) * classes;
        let wide = [&self.product, &self.hessian_diagonal, &self.gauss_newton_diagonal];
        let wide = wide.into_iter().flat_map(|out| &out[columns.clone()]);
        wide.chain([&self.derivatives[row]]).map(|x| x.to_bits()).collect()
    }
}

/// Asks for every output; the product in place as well, which must be the same.
pub fn evaluate(ce: &CrossEntropy, batch: &Doubles, v: &[f64], request: &Request<'_, f64>) -> Found {
    let Doubles { rows, classes, .. } = *batch;
    let logits = Watched::holding(&batch.logits, rows, classes);
    let mut directions = Watched::holding(v, rows, classes);
    let [mut product, mut hessian, mut gauss_newton] = [(); 3].map(|()| Watched::new(rows, classes));
    let mut derivatives = vec![f64::from_bits(0x7ff8_ca7a_ca7a_ca7a); rows];
    let curvature = ce.curvature_with(logits.matrix(), &batch.targets, request).expect("it is valid");
    const FITS: &str = "the shapes agree";
    curvature.hessian_vector_product(directions.matrix(), product.matrix_mut()).expect(FITS);
    curvature.hessian_diagonal(hessian.matrix_mut()).expect(FITS);
    curvature.gauss_newton_diagonal(gauss_newton.matrix_mut()).expect(FITS);
    let jvp = curvature.jvp_of_rows(directions.matrix(), &mut derivatives).expect(FITS);
    assert_eq!(curvature.jvp(directions.matrix()).expect(FITS).to_bits(), jvp.to_bits(), "jvp alone");
    curvature.hessian_vector_product_in_place(directions.matrix_mut()).expect(FITS);
    let product = product.elements("product");
    let same = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
    assert!(same(&directions.elements("direction"), &product), "in place");
    assert!(same(&logits.elements("logits"), &batch.logits), "logits");
    Found {
        product,
        hessian_diagonal: hessian.elements("hessian diagonal"),
        gauss_newton_diagonal: gauss_newton.elements("Gauss-Newton diagonal"),
        derivatives,
        jvp,
    }
}

/// One row: its exact second derivatives, and magnitudes and errors of the terms of each entry.
struct Row {
    softmax: ExactRow,
    /// With the errors of the transform and of its derivatives.
    gaps: Vec<f64>,
    mean_gap: f64,
    own_errors: Vec<f64>,
    largest: usize,
    target: usize,
    slopes: Vec<DoubleDouble>,
    bends: Vec<DoubleDouble>,
    /// S, 2 z lse, 2 z and F, all exact.
    sum: DoubleDouble,
    z_jacobian: DoubleDouble,
    outer: DoubleDouble,
    bend: DoubleDouble,
    hard: f64,
    hard_error: f64,
    bend_error: f64,
    /// Of the transformed logits, without and with the z-loss.
    gradient: Vec<DoubleDouble>,
    z_gradient: Vec<DoubleDouble>,
    spread: Vec<f64>,
    total_spread: f64,
    spread_of_others: Vec<f64>,
    scale: f64,
    inverse_cap: f64,
}

impl Row {
    fn new(ce: &CrossEntropy, x: &[f64], target: usize) -> Self {
        let softmax = ExactRow::transformed(ce, x);
        let loss = exact_loss(ce, &softmax, target);
        let (scale, softcap) = (ce.logit_scale(), ce.softcap());
        let classes = x.len();
        let own_errors: Vec<f64> =
            (0..classes).map(|i| softmax.errors[i] + transform_slope_f64(scale, softcap, x[i]) / U).collect();
        let is_masked = |i: usize| softmax.probabilities[i].high == 0.0 && !softmax.gaps[i].is_finite();
        let gap =
            |i: usize| if is_masked(i) { 0.0 } else { softmax.gaps[i] - softmax.errors[i] + own_errors[i] };
        let gaps: Vec<f64> = (0..classes).map(gap).collect();
        let mean_gap = (0..classes).map(|i| softmax.probabilities[i].high * gaps[i]).sum();
        let is_larger = |i: usize, j: usize| x[i] > x[j];
        let largest = (0..classes).fold(0, |largest, i| if is_larger(i, largest) { i } else { largest });
        let slope_of = |&x: &f64| {
            let is_flat = softcap.is_some() && !x.is_finite();
            if is_flat { 0.0.into() } else { transform_slope(ce, x) * scale.into() }
        };
        let slopes: Vec<DoubleDouble> = x.iter().map(slope_of).collect();
        // t'' = -2 tanh t' scale / cap
        let bend_of = |&x: &f64| match softcap {
            None => 0.0.into(),
            Some(_) if !x.is_finite() => 0.0.into(),
            Some(cap) => {
                let (t, slope) = (DoubleDouble::product(scale, x) / cap.into()).tanh_and_slope();
                t * slope * DoubleDouble::product(scale, scale) * (-2.0).into() / cap.into()
            }
        };
        let bends = x.iter().map(bend_of).collect();
        let spread: Vec<f64> = (0..classes)
            .map(|i| {
                let weight = ce.weight().map_or(1.0, |weight| f64::from(weight[i]));
                if loss.among[i] { weight } else { 0.0 }
            })
            .collect();
        let z = DoubleDouble::from(2.0 * ce.z_loss());
        let weight = ce.weight().map_or(1.0, |weight| f64::from(weight[target]));
        let one = DoubleDouble::from(1.0);
        let eps = DoubleDouble::from(ce.label_smoothing());
        let count = loss.among.iter().filter(|&&among| among).count();
        let each = if count == 0 { 0.0.into() } else { eps / (count as f64).into() };
        let (p, q) = (softmax.probabilities[target], softmax.complements[target]);
        let nll = -softmax.log_probabilities[target];
        let plain = (one - eps) * weight.into();
        let (mut slope, mut bend, mut hard_error, mut bend_error) = (one, 0.0.into(), 0.0, 0.0);
        let gamma = ce.focal_gamma();
        if gamma > 0.0 && (q.high < 1e-200 || p.high == 0.0) {
            slope = if p.high == 0.0 { one } else { 0.0.into() };
        } else if gamma > 0.0 {
            let others = Self::others_mean_gap_of(&softmax, &gaps, &own_errors, target);
            let (of_q, of_nll) = ((others + TARGET_GRADIENT) * U, (others + LOSS) * U);
            let of_p = (gaps[target] + mean_gap + PROBABILITY) * U;
            let gamma = DoubleDouble::from(gamma);
            let power = (-(gamma * (p / q).ln_1p())).exp();
            let share = gamma * p * nll / q;
            slope = power * (one + share);
            let rest = one - gamma * p;
            let common = plain * gamma * p * power / q;
            bend = common * (DoubleDouble::from(2.0) - nll * rest / q);
            let g = share.high;
            hard_error = gamma.high * of_q + g / (1.0 + g) * (of_p + of_nll + of_q) + SCALARS_F64 * U;
            let of_rest = rest.high.abs() * (of_nll + of_q) + gamma.high * p.high * of_p;
            bend_error = bend.high.abs() * (of_p + gamma.high * of_q + SCALARS_F64 * U)
                + common.high
                    * (2.0 * of_q
                        + nll.high / q.high * of_rest
                        + SCALARS_F64 * U * (2.0 + nll.high / q.high * (1.0 + gamma.high * p.high)));
        }
        let sum = plain * slope + each * loss.total.into();
        let spread: Vec<f64> = spread.iter().map(|weight| weight * each.high).collect();
        Self {
            hard: (plain * slope).high,
            hard_error,
            bend,
            bend_error,
            sum,
            z_jacobian: z * softmax.lse,
            outer: z,
            gradient: loss.grad,
            z_gradient: loss.z_grad,
            total_spread: loss.total * each.high,
            spread_of_others: loss.weights_of_others.iter().map(|weight| weight * each.high).collect(),
            spread,
            scale: scale.max(1.0),
            inverse_cap: softcap.map_or(0.0, |cap| 1.0 / cap),
            softmax,
            gaps,
            mean_gap,
            own_errors,
            largest,
            target,
            slopes,
            bends,
        }
    }

    fn others_mean_gap_of(softmax: &ExactRow, gaps: &[f64], own_errors: &[f64], class: usize) -> f64 {
        let others = (0..gaps.len()).filter(|&i| i != class);
        let sum: f64 = others.map(|i| softmax.probabilities[i].high * gaps[i]).sum();
        own_errors[class] + if sum == 0.0 { 0.0 } else { sum / softmax.complements[class].high }
    }

    fn others_mean_gap(&self, class: usize) -> f64 {
        let p = self.softmax.probabilities[class].high;
        if p >= 0.25 {
            return Self::others_mean_gap_of(&self.softmax, &self.gaps, &self.own_errors, class);
        }
        // A small part may be taken away again; in a time that does not grow with the number of classes.
        let sum = self.mean_gap - p * self.gaps[class];
        self.own_errors[class] + sum / self.softmax.complements[class].high
    }

    /// h_ij.
    fn relative(&self, i: usize, j: usize) -> f64 {
        let of_own = if i == j && i == self.largest {
            self.others_mean_gap(i) + self.own_errors[i]
        } else {
            self.gaps[i] + self.gaps[j]
        };
        of_own + 2.0 * self.mean_gap + HESSIAN + SCALARS_F64
    }

    fn lse_error(&self) -> f64 {
        let softmax = &self.softmax;
        let of_lse = (LSE * (softmax.max.abs() + softmax.ln_sum) + self.mean_gap) * U;
        of_lse.max((self.mean_gap + LSE) * U) + softmax.mean_error * U
    }

    /// The derivative of -ln p_y by a logit, and its relative error.
    fn of_target(&self, i: usize) -> (DoubleDouble, f64) {
        if i == self.target {
            let error = self.others_mean_gap(i) + TARGET_GRADIENT + SCALARS_F64;
            (-self.softmax.complements[i], error * U)
        } else {
            let error = self.gaps[i] + self.mean_gap + PROBABILITY + SCALARS_F64;
            (self.softmax.probabilities[i], error * U)
        }
    }

    /// An entry of the Hessian, or of the Gauss-Newton matrix, and its bound, but for what a softcap bends.
    fn entry(&self, i: usize, j: usize, factors: (f64, f64), is_gauss_newton: bool) -> (DoubleDouble, f64) {
        let (factor, z_factor) = factors;
        let (p, q) = (&self.softmax.probabilities, &self.softmax.complements);
        let jacobian = if i == j { p[i] * q[i] } else { -(p[i] * p[j]) };
        let product = p[i] * p[j];
        let keep = if is_gauss_newton { 0.0 } else { 1.0 };
        let z_jacobian = self.z_jacobian * (z_factor * keep).into();
        let outer = self.outer * z_factor.into();
        let ((t_i, e_i), (t_j, e_j)) = (self.of_target(i), self.of_target(j));
        let bend = self.bend * (factor * keep).into();
        let exact = jacobian * (self.sum * factor.into() + z_jacobian) + outer * product + bend * t_i * t_j;
        let (size, relative) = (jacobian.high.abs(), self.relative(i, j) * U);
        let common = (self.gaps[i] + self.gaps[j] + 2.0 * self.mean_gap + HESSIAN + SCALARS_F64) * U;
        let mut bound = ((self.sum.high * factor).abs() + z_jacobian.high.abs()) * size * relative
            + (self.outer.high * z_factor * keep).abs() * self.lse_error() * size
            + (self.hard * factor).abs() * self.hard_error * size
            + outer.high.abs() * product.high * common;
        let of_bend = self.bend.high.abs() * (e_i + e_j + (HESSIAN + SCALARS_F64) * U) + self.bend_error;
        bound += keep * factor.abs() * (t_i.high * t_j.high).abs() * of_bend;
        let slopes = self.slopes[i] * self.slopes[j];
        (exact * slopes, bound * slopes.high.abs())
    }

    /// What a softcap bends, and its bound.
    fn of_cap(&self, i: usize, (factor, z_factor): (f64, f64)) -> (DoubleDouble, f64) {
        if self.bends[i].high == 0.0 {
            return (0.0.into(), 0.0);
        }
        let (p, q) = (self.softmax.probabilities[i].high, self.softmax.complements[i].high);
        let hard = (self.hard * factor).abs() * if i == self.target { q } else { p };
        let spread = factor.abs() * (self.spread_of_others[i] * p + self.spread[i]);
        let z = (self.outer.high * z_factor).abs() * p;
        let magnitude = hard + spread + z * self.softmax.lse.high.abs();
        let relative = (self.relative(i, i) + self.others_mean_gap(i) + CAPPED) * U;
        let bound = magnitude * relative + hard * self.hard_error + z * self.lse_error();
        let gradient = self.gradient[i] * factor.into() + self.z_gradient[i] * z_factor.into();
        (self.bends[i] * gradient, self.bends[i].high.abs() * bound)
    }

    fn smallest(&self, (factor, z_factor): (f64, f64), sum_of_v: f64) -> f64 {
        let bend = (self.bend.high * factor).abs();
        let coefficients = (self.sum.high * factor).abs()
            + (self.z_jacobian.high * z_factor).abs()
            + (self.outer.high * z_factor).abs()
            + bend;
        let of_transform = self.scale * self.scale * (1.0 + 2.0 * self.inverse_cap);
        SMALLEST * (3.0 + 4.0 * coefficients.max(1.0) * of_transform * (1.0 + sum_of_v))
    }
}

/// What multiplies a row's loss and its z-loss in the reduced one, and its weight.
pub struct Factors {
    pub of_loss: f64,
    pub of_z_loss: f64,
    pub row_weight: f64,
}

/// Rows of more classes are checked at some of them.
const LONG: usize = 200;

/// Checks every output of a row that counts and has a softmax. Returns its part of the reduced derivative, and the bound.
pub fn check_row(
    ce: &CrossEntropy,
    (x, target): (&[f64], usize),
    v: &[f64],
    factors: &Factors,
    (found, row): (&Found, usize),
    shares: &mut Shares,
    context: &str,
) -> (DoubleDouble, f64) {
    let of_row = Row::new(ce, x, target);
    let classes = x.len();
    let both = (factors.of_loss, factors.of_z_loss);
    let sum_of_v: f64 = v.iter().map(|v| v.abs()).sum();
    // A product takes all classes for each: of a long row, some and the target.
    let step = if classes > LONG { classes / 8 } else { 1 };
    for i in (0..classes).step_by(step).chain((step > 1).then_some(target)) {
        let context = format!("class {i}, target {target}, {context}");
        let at = row * classes + i;
        if x[i] == f64::NEG_INFINITY {
            for found in [found.product[at], found.hessian_diagonal[at], found.gauss_newton_diagonal[at]] {
                assert_eq!(found.to_bits(), 0, "a masked class, {context}");
            }
            continue;
        }
        let cap = of_row.of_cap(i, both);
        let (mut exact, mut bound) = (cap.0 * v[i].into(), cap.1 * v[i].abs());
        for (j, &v) in v.iter().enumerate().filter(|&(j, _)| x[j] > f64::NEG_INFINITY) {
            let (entry, entry_bound) = of_row.entry(i, j, both, false);
            (exact, bound) = (exact + entry * v.into(), bound + entry_bound * v.abs());
        }
        note(shares, "product", found.product[at], exact, (bound, of_row.smallest(both, sum_of_v)), &context);
        let tiny = of_row.smallest(both, 1.0);
        let (entry, bound) = of_row.entry(i, i, both, false);
        let found_diagonal = found.hessian_diagonal[at];
        note(shares, "diagonal", found_diagonal, entry + cap.0, (bound + cap.1, tiny), &context);
        let (entry, bound) = of_row.entry(i, i, both, true);
        note(shares, "Gauss-Newton", found.gauss_newton_diagonal[at], entry, (bound, tiny), &context);
    }
    let (mut of_loss, mut of_z, mut loss_bound, mut z_bound) =
        (DoubleDouble::default(), DoubleDouble::default(), 0.0, 0.0);
    let total = of_row.total_spread;
    // Masked classes too: smoothing gives them a share.
    for i in 0..classes {
        let (p, q) = (of_row.softmax.probabilities[i].high, of_row.softmax.complements[i].high);
        let u = of_row.slopes[i] * v[i].into();
        of_loss = of_loss + of_row.gradient[i] * u;
        of_z = of_z + of_row.z_gradient[i] * u;
        let relative = of_row.gaps[i] + of_row.mean_gap + DIRECTIONAL_DERIVATIVE + SCALARS_F64;
        let (mut own, mut of_hard) = (p * relative, p);
        if i == target {
            (own, of_hard) = (q * (relative + of_row.others_mean_gap(i)), q);
        }
        own += of_hard * of_row.hard_error / U;
        let size = u.high.abs() * U;
        loss_bound += size * (of_row.hard * own + (total * p + of_row.spread[i]) * relative);
        let lse = of_row.softmax.lse.high.abs() * relative + of_row.lse_error() / U;
        z_bound += size * of_row.outer.high * p * lse;
    }
    let tiny = of_row.smallest((1.0, 1.0), sum_of_v);
    let Factors { of_loss: factor, of_z_loss: z_factor, row_weight } = *factors;
    let exact = (of_loss + of_z) * row_weight.into();
    let bound = row_weight * (loss_bound + z_bound);
    note(shares, "derivative", found.derivatives[row], exact, (bound, row_weight * tiny + SMALLEST), context);
    let of_all = of_loss * factor.into() + of_z * z_factor.into();
    (of_all, factor.abs() * (loss_bound + tiny) + z_factor.abs() * (z_bound + tiny))
}

/// Below `tiny` of the exact value, nothing but that is left.
fn note(
    shares: &mut Shares,
    name: &'static str,
    found: f64,
    exact: DoubleDouble,
    (bound, tiny): (f64, f64),
    context: &str,
) {
    assert!(!found.is_subnormal(), "{name}: {found:e} is subnormal, {context}");
    let error = (DoubleDouble::from(found) - exact).high.abs();
    assert!(
        error <= bound + tiny,
        "{name}: {found:e} instead of {:e}, {} of the bound, {context}",
        exact.high,
        error / (bound + tiny)
    );
    if exact.high.abs() > 4.0 * tiny && exact.high.abs() > 2.0 * f64::MIN_POSITIVE {
        shares.note(name, found, exact, bound + tiny, context);
    }
}
