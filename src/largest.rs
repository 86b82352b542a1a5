//! A row's softmax with its largest logit as the pivot, whose rounding would else drown the rest.

use crate::kernel::Entry;
use crate::kernel::gaps::Gaps;
use crate::kernel::lanes::NO_CLASS;
use crate::kernel::number::Number;
use crate::loss::Softmax;
use crate::row_logits::RowLogits;

/// A softmax, and the pivot that was left out of its statistics: a class with the largest logit.
pub(crate) struct OfLargest {
    pub(crate) softmax: Softmax,
    pivot: Entry,
}

/// From the softmax of a row x with `class` as its pivot.
pub(crate) fn of_largest<T: Number>(logits: &RowLogits<'_, T>, class: usize, softmax: &Softmax) -> OfLargest {
    if class != NO_CLASS && softmax.target_logit >= softmax.statistics.max {
        return OfLargest { softmax: *softmax, pivot: Entry::new(class, softmax.target_logit) };
    }
    let largest = logits.first_equal(softmax.max).unwrap_or(0);
    let pivot = Entry::new(largest, softmax.max);
    let statistics = logits.statistics(0, pivot, Gaps::None, &mut []);
    OfLargest { softmax: Softmax::new(statistics, softmax.max), pivot }
}

impl OfLargest {
    /// sum_c p_c (lse - x_c), as a sum of positive terms. With x_a the largest logit and m the largest of the others,
    ///
    /// ```text
    /// (lse - x_a) + (1 - p_a) (x_a - m) + exp(m - lse) sum_{c != a} exp(x_c - m) (m - x_c)
    /// ```
    pub(crate) fn entropy<T: Number>(&self, logits: &RowLogits<'_, T>) -> f64 {
        let softmax = &self.softmax;
        let max = softmax.statistics.max;
        softmax.entropy(logits.spread(max, self.pivot))
    }
}
