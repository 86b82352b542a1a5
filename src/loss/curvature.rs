//! The second derivatives of the same variants, and the first along a direction.
//!
//! Every loss here is a sum of terms v_c (-ln p_c) and of z lse^2. All of -ln p_c = lse - x_c have the same second
//! derivatives, those of lse, so the Hessian of a row has two numbers, whatever the options:
//!
//! ```text
//! gradient of lse     p
//! Hessian of lse      J = diag(p) - p p^T         the Jacobian of softmax
//! Hessian of lse^2    2 lse J + 2 p p^T
//! ```

use super::Terms;

/// `jacobian` (diag(p) - p p^T) + `outer` p p^T.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Curvature {
    pub(crate) jacobian: f64,
    pub(crate) outer: f64,
}

/// How a row's loss rises along a direction v.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slope {
    /// p . v
    pub(crate) mean: f64,
    /// p . v - v_y for the target y.
    pub(crate) of_target: f64,
    /// The sum of w_c v_c, with the weights in the unit of the statistics.
    pub(crate) weighted_sum: f64,
}

impl Terms {
    /// The Hessian of a row's loss times `factor`, and that of its z-loss times `z_factor`.
    #[inline(always)]
    pub(crate) fn hessian(&self, lse: f64, own: f64, factor: f64, z_factor: f64) -> Curvature {
        let Curvature { jacobian, outer } = self.gauss_newton(own, factor, z_factor);
        Curvature { jacobian: jacobian + outer * lse, outer }
    }

    /// The Gauss-Newton matrix: of z lse^2, a square, without the curvature of what is squared.
    #[inline(always)]
    pub(crate) fn gauss_newton(&self, own: f64, factor: f64, z_factor: f64) -> Curvature {
        let sum_of_terms = self.hard * own + self.smooth * self.total_weight;
        Curvature { jacobian: sum_of_terms * factor, outer: 2.0 * self.z * z_factor }
    }

    /// How fast a row's loss rises, without its z-loss, before any reduction.
    #[inline(always)]
    pub(crate) fn derivative(&self, slope: &Slope, own: f64) -> f64 {
        let spread = self.total_weight * slope.mean - self.unit * slope.weighted_sum;
        self.hard * own * slope.of_target + self.smooth * spread
    }

    /// How fast its z-loss rises.
    #[inline(always)]
    pub(crate) fn z_derivative(&self, slope: &Slope, lse: f64) -> f64 {
        2.0 * self.z * lse * slope.mean
    }
}
