//! A row's softmax with a pivot whose rounding does not drown the rest: the target, or else the largest logit.

use crate::kernel::Entry;
use crate::kernel::lanes::NO_CLASS;
use crate::loss::Softmax;
use crate::rows::{Dtype, Job};

/// A softmax, and the pivot that was left out of its statistics.
pub(crate) struct Pivoted<T: Dtype> {
    pub(crate) softmax: Softmax<T::PerRow>,
    pivot: Entry<T::PerRow>,
}

/// From the softmax of a row x with `class` as its pivot, or without one.
pub(crate) fn pivoted<T: Dtype>(
    job: &Job<'_>,
    x: &[T],
    class: usize,
    softmax: &Softmax<T::PerRow>,
) -> Pivoted<T> {
    if !softmax.has_dominant_other() {
        let pivot = if class == NO_CLASS { Entry::NONE } else { Entry::new(class, softmax.target_logit) };
        return Pivoted { softmax: *softmax, pivot };
    }
    let largest = T::first_equal(job, x, softmax.max).unwrap_or(0);
    let pivot = Entry::new(largest, softmax.max);
    Pivoted { softmax: Softmax::new(T::statistics_without(job, x, pivot), softmax.max), pivot }
}

impl<T: Dtype> Pivoted<T> {
    /// sum_c p_c (lse - x_c), as a sum of terms that are not negative. With x_a the pivot, m the largest of the others and x_b
    /// the largest of all,
    ///
    /// ```text
    /// (lse - x_b) + p_a (x_b - x_a) + (1 - p_a) (x_b - m) + exp(m - lse) sum_{c != a} exp(x_c - m) (m - x_c)
    /// ```
    ///
    /// where one of the two products is 0.
    pub(crate) fn entropy(&self, job: &Job<'_>, x: &[T]) -> f64 {
        self.softmax.entropy(T::spread(job, x, self.softmax.statistics.max, self.pivot))
    }
}
