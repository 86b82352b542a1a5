//! The second derivatives of the same variants, and the first along a direction.
//!
//! Every loss here is a sum of terms v_c (-ln p_c) and of z lse^2. All of -ln p_c = lse - x_c have the same second
//! derivatives, those of lse, so the Hessian of a row has two numbers, whatever the options; and one more where the loss is
//! focal, a function f of n = -ln p_y:
//!
//! ```text
//! gradient of lse     p
//! Hessian of lse      J = diag(p) - p p^T         the Jacobian of softmax
//! Hessian of lse^2    2 lse J + 2 p p^T
//! Hessian of f(n)     f' J + f'' (p - e_y) (p - e_y)^T
//! ```
//!
//! All with respect to the logits that the softmax is of. Where those are a function t of others, with a gradient g and a
//! Hessian H it is D H D + diag(g t''), D = diag(t').

use super::{Smoothing, Softmax, Terms};
use crate::kernel::real::Real;

/// `jacobian` (diag(p) - p p^T) + `outer` p p^T + `bend` (p - e_y) (p - e_y)^T.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Curvature {
    pub(crate) jacobian: f64,
    pub(crate) outer: f64,
    pub(crate) bend: f64,
}

/// How a row's loss rises along a direction v.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slope {
    /// p . v
    pub(crate) mean: f64,
    /// p . v - v_y for the target y.
    pub(crate) of_target: f64,
    /// v_t for the largest logit t, and v_t - p . v.
    pub(crate) along_largest: f64,
    pub(crate) rise_of_largest: f64,
    /// Whether t has most of the probability.
    pub(crate) has_majority: bool,
    /// The sum of w_c v_c over the other classes that smoothing spreads over, with the weights in the unit of the statistics.
    pub(crate) weighted_sum: f64,
}

/// What classes weigh, those of [`RowWeights::others`] and [`RowWeights::others_of_largest`] in the unit of the statistics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowWeights {
    /// The target.
    pub(crate) own: f64,
    /// All but the target.
    pub(crate) others: f64,
    /// The class with the largest logit, which the statistics leave out.
    pub(crate) largest: f64,
    /// All but that.
    pub(crate) others_of_largest: f64,
    pub(crate) target_is_largest: bool,
}

/// A class's place in the softmax of its row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClassSoftmax {
    pub(crate) probability: f64,
    /// 1 - probability, without cancellation.
    pub(crate) complement: f64,
    /// -ln p
    pub(crate) nll: f64,
}

/// What the loss of one row is made of: hard (-ln p_y) + each sum_c w_c (-ln p_c) + z lse^2, the sum over the classes that
/// smoothing spreads over; and of a focal loss what takes the place of `hard` in its derivatives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowTerms {
    /// Of the first derivative of -ln p_y.
    hard: f64,
    /// Of the product of that derivative with itself.
    bend: f64,
    each: f64,
    spread: Spread,
    z: f64,
}

/// What the classes weigh that smoothing spreads over: the one with the largest logit, and the others.
#[derive(Clone, Copy, Debug)]
struct Spread {
    largest: f64,
    others: f64,
    /// The unit of the statistics.
    unit: f64,
}

/// The gradient of a row's loss with respect to the logits that its softmax is of: [`Gradient::of_probability`] p_c -
/// [`Gradient::of_weight`] w_c, and `hard` less at the target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gradient {
    hard: f64,
    each: f64,
    spread: Spread,
    z: f64,
}

impl Spread {
    fn total(&self) -> f64 {
        self.largest + self.others
    }
}

impl Gradient {
    pub(crate) fn of_probability(&self) -> f64 {
        self.hard + self.each * self.spread.total() + self.z
    }

    /// With weights in the unit of the statistics.
    pub(crate) fn of_weight(&self) -> f64 {
        self.each * self.spread.unit
    }

    /// That of the class with the largest logit, without cancellation.
    pub(crate) fn at_largest(&self, class: ClassSoftmax, is_target: bool) -> f64 {
        self.at(class, (self.spread.largest, self.spread.others), is_target)
    }

    /// That of another class, which weighs this; its probability is not above 1/2.
    pub(crate) fn at_other(&self, class: ClassSoftmax, weight: f64, is_target: bool) -> f64 {
        self.at(class, (weight, self.spread.total() - weight), is_target)
    }

    fn at(&self, class: ClassSoftmax, (weight, others): (f64, f64), is_target: bool) -> f64 {
        let ClassSoftmax { probability: p, complement: q, .. } = class;
        let hard = if is_target { -self.hard * q } else { self.hard * p };
        hard + self.each * (others * p - weight * q) + self.z * p
    }
}

impl Terms {
    /// Those of a row. A focal loss needs the target's place in the softmax.
    #[inline(always)]
    pub(crate) fn of_point<L: Real>(
        &self,
        softmax: &Softmax<L>,
        focal: Option<ClassSoftmax>,
        weights: &RowWeights,
    ) -> RowTerms {
        let (slope, bend) = focal.map_or((1.0, 0.0), |target| {
            self.focal_derivatives::<L>(target.probability, target.complement, target.nll)
        });
        let (mut each, unit) = (self.smooth, self.unit);
        let RowWeights { own, largest, .. } = *weights;
        let others_of_largest = unit * weights.others_of_largest;
        let (largest, others) = match self.smoothing {
            Smoothing::AllClasses => (largest, others_of_largest),
            Smoothing::OtherClasses if weights.target_is_largest => (0.0, unit * weights.others),
            // What is left without both: the lesser of the two is taken away from a sum, so that more of it remains.
            Smoothing::OtherClasses if own < largest => (largest, others_of_largest - own),
            Smoothing::OtherClasses => (largest, unit * weights.others - largest),
            Smoothing::LiveClasses => {
                // The largest logit is live.
                each /= softmax.statistics.live + 1.0;
                (largest, unit * softmax.statistics.weight)
            }
        };
        let (hard, spread) = (self.hard * own, Spread { largest, others, unit });
        RowTerms { hard: hard * slope, bend: hard * bend, each, spread, z: self.z }
    }

    /// Whether smoothing leaves the target out.
    #[inline(always)]
    pub(crate) fn leaves_target_out(&self) -> bool {
        self.smoothing == Smoothing::OtherClasses
    }
}

impl RowTerms {
    /// The Hessian of the row's loss times `factor`, and that of its z-loss times `z_factor`.
    #[inline(always)]
    pub(crate) fn hessian(&self, lse: f64, factor: f64, z_factor: f64) -> Curvature {
        let Curvature { jacobian, outer, .. } = self.gauss_newton(factor, z_factor);
        Curvature { jacobian: jacobian + outer * lse, outer, bend: self.bend * factor }
    }

    /// The Gauss-Newton matrix: of z lse^2, a square, without the curvature of what is squared, and of a focal loss
    /// without the curvature of what it makes of -ln p.
    #[inline(always)]
    pub(crate) fn gauss_newton(&self, factor: f64, z_factor: f64) -> Curvature {
        let sum_of_terms = self.hard + self.each * self.spread.total();
        Curvature { jacobian: sum_of_terms * factor, outer: 2.0 * self.z * z_factor, bend: 0.0 }
    }

    /// The gradient of the row's loss times `factor`, and that of its z-loss times `z_factor`.
    #[inline(always)]
    pub(crate) fn gradient(&self, lse: f64, factor: f64, z_factor: f64) -> Gradient {
        let Self { hard, each, spread, z, .. } = *self;
        Gradient { hard: hard * factor, each: each * factor, spread, z: 2.0 * z * lse * z_factor }
    }

    /// How fast the row's loss rises, without its z-loss, before any reduction.
    #[inline(always)]
    pub(crate) fn derivative(&self, slope: &Slope) -> f64 {
        // W (p . v) - sum_c w_c v_c. Where p_t is near 1, W p_t - w_t would cancel: with all in terms of p_t - 1 nothing does.
        let Spread { largest, others, unit } = self.spread;
        let total = self.spread.total();
        let of_largest = if slope.has_majority {
            others * slope.along_largest - total * slope.rise_of_largest
        } else {
            total * slope.mean - largest * slope.along_largest
        };
        let spread = of_largest - unit * slope.weighted_sum;
        self.hard * slope.of_target + self.each * spread
    }

    /// How fast its z-loss rises.
    #[inline(always)]
    pub(crate) fn z_derivative(&self, slope: &Slope, lse: f64) -> f64 {
        2.0 * self.z * lse * slope.mean
    }
}
