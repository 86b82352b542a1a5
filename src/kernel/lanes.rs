//! 16 rows on their way through the passes, a lane each.

use super::Entry;
use super::real::Real;
use super::statistics::Statistics;
use crate::simd::LANES;

/// Rows on their way through the passes, by fields.
#[derive(Clone, Debug)]
pub(crate) struct RowLanes<L = f32> {
    /// How many rows there are.
    pub(crate) len: usize,
    /// [`NO_CLASS`] where a row has none.
    pub(crate) class: [usize; LANES],
    /// Whether there is such a row and it is not ignored.
    pub(crate) counts: [bool; LANES],
    /// The class weight of the target.
    pub(crate) own: [f64; LANES],
    /// What the gradient of the row's loss is multiplied by, and what that of its z-loss is.
    pub(crate) factor: [f64; LANES],
    pub(crate) z_factor: [f64; LANES],
    /// What the row's loss is multiplied by, if rows have weights.
    pub(crate) row_weight: [f64; LANES],
    pub(crate) has_row_weights: bool,
    pub(crate) target_logit: [L; LANES],
    pub(crate) max: [L; LANES],
    pub(crate) sum: [f64; LANES],
    pub(crate) gap: [f64; LANES],
    pub(crate) weight: [f64; LANES],
    pub(crate) live: [f64; LANES],
    /// The target's logit; -inf where an earlier class has an equal one.
    pub(crate) contender: [L; LANES],
}

/// The class of a row without one. No matrix has so many columns.
pub(crate) const NO_CLASS: usize = usize::MAX;

impl<L: Real> Default for RowLanes<L> {
    fn default() -> Self {
        Self {
            len: 0,
            class: [NO_CLASS; LANES],
            counts: [false; LANES],
            own: [0.0; LANES],
            factor: [0.0; LANES],
            z_factor: [0.0; LANES],
            row_weight: [1.0; LANES],
            has_row_weights: false,
            target_logit: [L::NEG_INFINITY; LANES],
            // Rows that do not count keep these, and come out as zeros.
            max: [L::default(); LANES],
            sum: [1.0; LANES],
            gap: [0.0; LANES],
            weight: [0.0; LANES],
            live: [0.0; LANES],
            contender: [L::NEG_INFINITY; LANES],
        }
    }
}

impl<L: Real> RowLanes<L> {
    #[inline(always)]
    pub(crate) fn statistics(&self, lane: usize) -> Statistics<L> {
        Statistics {
            max: self.max[lane],
            sum: self.sum[lane],
            gap: self.gap[lane],
            weight: self.weight[lane],
            live: self.live[lane],
            has_earlier_equal: false,
        }
    }

    /// The pivot of a row.
    pub(crate) fn pivot(&self, lane: usize) -> Entry<L> {
        match self.class[lane] {
            NO_CLASS => Entry::NONE,
            class => Entry::new(class, self.target_logit[lane]),
        }
    }

    /// Whether every lane has a row.
    pub(crate) fn is_full(&self) -> bool {
        self.len == LANES
    }

    /// Gives rows that do not count what makes zeros, whatever the first pass found there.
    pub(crate) fn leave_out_ignored(&mut self) {
        let nothing = Self::default();
        for lane in 0..LANES {
            if !self.counts[lane] {
                self.own[lane] = 0.0;
                self.factor[lane] = 0.0;
                self.z_factor[lane] = 0.0;
                self.set_statistics(lane, &nothing.statistics(lane), L::NEG_INFINITY);
            }
        }
    }

    /// The statistics of a row but its target, and the target's logit.
    pub(crate) fn set_statistics(&mut self, lane: usize, statistics: &Statistics<L>, target_logit: L) {
        self.target_logit[lane] = target_logit;
        self.max[lane] = statistics.max;
        self.sum[lane] = statistics.sum;
        self.gap[lane] = statistics.gap;
        self.weight[lane] = statistics.weight;
        self.live[lane] = statistics.live;
        self.contender[lane] = if statistics.has_earlier_equal { L::NEG_INFINITY } else { target_logit };
    }
}
