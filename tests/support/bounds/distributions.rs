//! Rows whose targets are probabilities.

use super::{Chain, Expected, Outputs, Rounding, RowOfSoftmax, SMALLEST, SUBNORMAL_ROUNDING, close};
use core::fmt;
use xent::contract::{DISTRIBUTION_LOSS, DISTRIBUTION_TARGET, LSE, U};

impl Expected<'_> {
    /// Checks a row that counts and has a softmax. Returns the bounds on its loss without the z-loss, and on that.
    pub(super) fn check_distribution(
        &self,
        row: usize,
        q: &[f32],
        outputs: &Outputs<'_>,
        context: fmt::Arguments<'_>,
    ) -> (f64, f64) {
        let (ce, classes) = (self.ce, self.batch.classes);
        let x = self.batch.row(row);
        let softmax = RowOfSoftmax::of_row(ce, x, &self.exact.softmax[row], self.rounding);
        softmax.check(outputs, context);
        softmax.check_argmax(x, outputs.argmax, context);

        let q = &q[row * classes..][..classes];
        let (eps, row_weight) = (ce.label_smoothing(), self.call.row_weight(row));
        let v = |c: usize| {
            let weight = ce.weight().map_or(1.0, |weight| f64::from(weight[c]));
            weight * ((1.0 - eps) * f64::from(q[c]) + eps / classes as f64)
        };
        let total: f64 = (0..classes).map(v).sum();

        let lse = softmax.exact.lse;
        let exact_loss = self.exact.losses[row];
        let loss = exact_loss - row_weight * ce.z_loss() * lse * lse;
        let of_lse = (softmax.mean_gap + LSE) * U;
        // Products of a weight and a gap may be subnormal.
        let of_products = row_weight * classes as f64 * SUBNORMAL_ROUNDING;
        // What is no normal number may count as 0: here v, whose gap may be large.
        let vanishing = (0..classes).filter(|&c| v(c) < SMALLEST && softmax.gaps[c].is_finite());
        let gap_to_lse = |c: usize| softmax.gaps[c] + (classes as f64).ln();
        let of_vanishing = row_weight * vanishing.map(|c| v(c) * gap_to_lse(c)).sum::<f64>();
        let of_transform = |c: usize| v(c) * (softmax.errors[c] + softmax.mean_error);
        let of_transforms = row_weight * (0..classes).map(of_transform).sum::<f64>();
        let bound = (softmax.others_mean_gap(outputs.argmax) + DISTRIBUTION_LOSS) * U * loss;
        let bound = bound + of_products + of_vanishing + of_transforms;
        let z_bound = row_weight * ce.z_loss() * (2.0 * lse.abs() * of_lse + U * lse * lse);
        let sum_bound = if ce.z_loss() == 0.0 { 0.0 } else { U * exact_loss };
        let most = f64::from(f32::MAX) * (1.0 - 4.0 * U);
        let overflows = |c: usize| v(c) > 0.0 && v(c).max(1.0) * softmax.gaps[c] > most;
        let may_overflow = (0..classes).any(|c| softmax.gaps[c].is_finite() && overflows(c));
        // Infinite, so that the reduced loss may be, too.
        let bound = if may_overflow && outputs.loss == f32::INFINITY { f64::INFINITY } else { bound };
        if bound.is_finite() {
            close("loss", outputs.loss, exact_loss, bound + z_bound + sum_bound, Rounding::F32)
                .unwrap_or_else(|error| panic!("{error}, {context}"));
        }

        let (factor, z_factor) = self.factors(row);
        let (of_total, slope) = ((factor * total).abs(), 2.0 * ce.z_loss() * z_factor.abs());
        let coefficient = of_total + slope * lse.abs();
        let exact = &self.exact.grad[row * classes..][..classes];
        for (c, (&found, &exact)) in outputs.grad.iter().zip(exact).enumerate() {
            let p = softmax.exact.probabilities[c];
            if coefficient > f64::from(f32::MAX) {
                // It counts as the largest number.
                assert!(!found.is_nan(), "gradient: {found} instead of {exact:e}, column {c}, {context}");
                continue;
            }
            let of_p = (softmax.probability_bound(c) + DISTRIBUTION_TARGET * U) * coefficient * p;
            let of_v = DISTRIBUTION_TARGET * U * (factor * v(c)).abs();
            // What is no normal number is 0: p, the terms, and v itself.
            let of_zeros = (2.0 + coefficient + factor.abs()) * SMALLEST;
            let chain = Chain::new(ce, x[c]);
            let of_slope = chain.error * (coefficient * p + (factor * v(c)).abs());
            // The slope is 0 below four of the smallest.
            let bound = (of_p + of_v + slope * p * of_lse + of_slope) * chain.slope
                + 4.0 * of_zeros * ce.logit_scale().max(1.0);
            close("gradient", found, exact, bound, self.gradient_rounding)
                .unwrap_or_else(|error| panic!("{error}, factor {factor:e}, column {c}, {context}"));
        }
        (bound, z_bound)
    }
}
