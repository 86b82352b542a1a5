//! Rows whose targets are probabilities.

use super::{Bounds, Factors, Shares, product};
use crate::support::doubles::{ExactDistribution, Found, transform_slope};
use xent::CrossEntropy;
use xent::contract::{DISTRIBUTION_LOSS, DISTRIBUTION_TARGET, U_F64 as U, transform_slope_f64};

impl Bounds<'_> {
    /// Of a row's loss without its z-loss, and before its weight.
    pub(super) fn distribution_loss(&self, exact: &ExactDistribution, argmax: usize) -> f64 {
        let softmax = self.softmax;
        let relative = softmax.others_mean_gap(argmax) + DISTRIBUTION_LOSS + self.scalars;
        let of_transform = |c: usize| product(exact.v[c].high, softmax.errors[c] + softmax.mean_error);
        let of_transforms: f64 = (0..exact.v.len()).map(of_transform).sum();
        // Before weights, what is no normal number is 0; and products of a weight and a gap may be subnormal.
        let smallest = f64::MIN_POSITIVE * (1.0 + exact.total.high);
        (relative * exact.loss.high + of_transforms) * U + smallest
    }

    /// Checks the gradient of a row.
    pub(super) fn check_distribution_gradient(
        &self,
        ce: &CrossEntropy,
        (x, exact): (&[f64], &ExactDistribution),
        factors: &Factors,
        (found, row): (&Found, usize),
        shares: &mut Shares,
        context: &str,
    ) {
        let softmax = self.softmax;
        let (factor, z_factor) = (factors.of_loss.high, factors.of_z_loss.high);
        let z_slope = (2.0 * ce.z_loss() * z_factor).abs();
        let z_coefficient = product(z_slope, softmax.lse.high.abs());
        let coefficient = (exact.total.high * factor).abs() + z_coefficient;
        let of_target = (DISTRIBUTION_TARGET + self.scalars) * U;
        for (i, &logit) in x.iter().enumerate() {
            let (p, v) = (softmax.probabilities[i], exact.v[i]);
            // S p_i - v_i; the exact one without cancellation.
            let g = (exact.grad[i] * factors.of_loss
                + softmax.lse * (2.0 * ce.z_loss()).into() * p * factors.of_z_loss)
                * transform_slope(ce, logit);
            let of_p = (self.probability(i) + of_target) * coefficient * p.high;
            let of_v = of_target * (v.high * factor).abs();
            let of_lse = product(z_slope * p.high, self.lse_error());
            let of_slope = transform_slope_f64(ce.logit_scale(), ce.softcap(), logit) * g.high.abs();
            let bound = (of_p + of_v + of_lse) * transform_slope(ce, logit).high + of_slope;
            // What is no normal number is 0: p, v, the terms and the slope.
            let smallest = f64::MIN_POSITIVE * 4.0 * (2.0 + coefficient + factor.abs());
            let context = format!("column {i}, {context}");
            let name = "gradient, probabilities";
            shares.note_difference(name, found.grad[row * x.len() + i], g, bound, smallest, &context);
        }
    }
}
