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
        let gamma = self.focal_gamma;
        let (p, q) = (softmax.target_probability, softmax.others_probability);
        let power = L::power_of_complement(q, p, gamma);
        // -ln p is infinite where p is 0, and q may be 0.
        let share = if p == 0.0 { 0.0 } else { gamma * (p * softmax.nll() / q) };
        (power, if power == 0.0 { 0.0 } else { power * (1.0 + share) })
    }
}
