//! A row's softmax with its largest logit as the pivot, whose rounding would else drown the rest.

use crate::kernel::Entry;
use crate::kernel::lanes::NO_CLASS;
use crate::loss::Softmax;
use crate::rows::{Dtype, Job};

/// A softmax, and the pivot that was left out of its statistics: a class with the largest logit.
pub(crate) struct OfLargest<T: Dtype> {
    pub(crate) softmax: Softmax<T::PerRow>,
    pivot: Entry<T::PerRow>,
}

/// From the softmax of a row x with `class` as its pivot.
pub(crate) fn of_largest<T: Dtype>(
    job: &Job<'_>,
    x: &[T],
    class: usize,
    softmax: &Softmax<T::PerRow>,
) -> OfLargest<T> {
    if class != NO_CLASS && softmax.target_logit >= softmax.statistics.max {
        return OfLargest { softmax: *softmax, pivot: Entry::new(class, softmax.target_logit) };
    }
    let largest = T::first_equal(job, x, softmax.max).unwrap_or(0);
    let pivot = Entry::new(largest, softmax.max);
    OfLargest { softmax: Softmax::new(T::statistics_without(job, x, pivot), softmax.max), pivot }
}

impl<T: Dtype> OfLargest<T> {
    /// sum_c p_c (lse - x_c), as a sum of positive terms. With x_a the largest logit and m the largest of the others,
    ///
    /// ```text
    /// (lse - x_a) + (1 - p_a) (x_a - m) + exp(m - lse) sum_{c != a} exp(x_c - m) (m - x_c)
    /// ```
    pub(crate) fn entropy(&self, job: &Job<'_>, x: &[T]) -> f64 {
        self.softmax.entropy(T::spread(job, x, self.softmax.statistics.max, self.pivot))
    }
}
