//! Variants whose terms differ from row to row: smoothing over some of the classes, and the focal loss.

use super::{Shares, Smoothing, Softmax, Terms, weighted};
use crate::kernel::lanes::RowLanes;
use crate::kernel::real::Real;
use crate::simd::LANES;

/// What a row's loss is made of, 16 rows at a time, by fields:
///
/// ```text
/// hard (-ln p_y) + each sum_{c in M} w_c (-ln p_c)
/// ```
///
/// with M the classes that smoothing spreads over.
#[derive(Clone, Debug, Default)]
pub(crate) struct TermLanes {
    hard: [f64; LANES],
    /// What takes the place of `hard` in the gradient.
    slope: [f64; LANES],
    each: [f64; LANES],
    /// The target's weight, if it is in M.
    own: [f64; LANES],
}

impl TermLanes {
    /// Sets the terms of all rows. Each variant has its loop, for the choice to be made once.
    #[inline(always)]
    pub(crate) fn set<L: Real>(&mut self, terms: &Terms, rows: &RowLanes<L>) {
        let own = &rows.own;
        for lane in 0..LANES {
            self.hard[lane] = terms.hard * own[lane];
        }
        self.slope = self.hard;
        self.each = [terms.smooth; LANES];
        match terms.smoothing {
            Smoothing::AllClasses => self.own = *own,
            Smoothing::OtherClasses => self.own = [0.0; LANES],
            Smoothing::LiveClasses => {
                for lane in 0..LANES {
                    let is_live = rows.target_logit[lane] > L::NEG_INFINITY;
                    let live = rows.live[lane] + f64::from(u8::from(is_live));
                    // Rows without a live class are NaN.
                    self.each[lane] = terms.smooth / if live < 1.0 { 1.0 } else { live };
                    self.own[lane] = if is_live { own[lane] } else { 0.0 };
                }
            }
        }
    }

    /// Multiplies the hard term of a row, and its gradient.
    #[inline(always)]
    pub(crate) fn modulate(&mut self, lane: usize, (of_loss, of_gradient): (f64, f64)) {
        self.hard[lane] *= of_loss;
        self.slope[lane] *= of_gradient;
    }

    /// The loss of a row, before any reduction.
    #[inline(always)]
    pub(crate) fn loss<L: Real>(&self, terms: &Terms, softmax: &Softmax<L>, lane: usize) -> f64 {
        let nll = softmax.nll();
        let spread = terms.spread(softmax, self.own[lane]);
        let loss = weighted(self.hard[lane], nll) + weighted(self.each[lane], spread);
        if nll.is_nan() { nll } else { loss }
    }

    /// Those of a row in which the other classes that smoothing spreads over weigh `others`.
    #[inline(always)]
    pub(crate) fn shares(&self, lane: usize, others: f64) -> Shares {
        Shares { hard: self.slope[lane], each: self.each[lane], own: self.own[lane], others }
    }
}
