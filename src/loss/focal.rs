//! The focal loss: easy rows count less.

use super::{Softmax, Terms};
use crate::kernel::real::Real;

impl Terms {
    #[inline(always)]
    pub(crate) fn has_focal(&self) -> bool {
        self.focal_gamma != 0.0
    }

    /// What the focal loss multiplies -ln p by, and what its gradient (p_i - [i = y]): with q = 1 - p of the target,
    ///
    /// ```text
    /// q^gamma                       q^gamma (1 + gamma p (-ln p) / q)
    /// ```
    ///
    /// because d(q) = p d(-ln p). Nothing cancels: p, q and -ln p are all known to a small relative error.
    #[inline(always)]
    pub(crate) fn focal<L: Real>(&self, softmax: &Softmax<L>) -> (f64, f64) {
        self.focal_of::<L>(softmax.target_probability, softmax.others_probability, softmax.nll())
    }

    /// The same, from p, q and -ln p.
    #[inline(always)]
    fn focal_of<L: Real>(&self, p: f64, q: f64, nll: f64) -> (f64, f64) {
        let gamma = self.focal_gamma;
        let power = L::power_of_complement(q, p, gamma);
        // -ln p is infinite where p is 0, and q may be 0.
        let share = if p == 0.0 { 0.0 } else { gamma * (p * nll / q) };
        (power, if power == 0.0 { 0.0 } else { power * (1.0 + share) })
    }

    /// The first and the second derivative of the focal loss with respect to n = -ln p,
    ///
    /// ```text
    /// q^gamma (1 + gamma p n / q)      gamma p q^(gamma - 2) (2 q - n (1 - gamma p))
    /// ```
    ///
    /// The second has both signs: in rows that are all but lost the loss bends down.
    #[inline(always)]
    pub(crate) fn focal_derivatives<L: Real>(&self, p: f64, q: f64, nll: f64) -> (f64, f64) {
        let gamma = self.focal_gamma;
        let (power, slope) = self.focal_of::<L>(p, q, nll);
        if p == 0.0 || power == 0.0 {
            return (slope, 0.0);
        }
        let (share, rest) = (nll / q, 1.0 - gamma * p);
        (slope, gamma * p * (power * ((2.0 - share * rest) / q)))
    }
}
