//! Sums of many numbers that are as good as one rounding of the exact sum.

/// A sum, and what its roundings lost ([Neumaier 1974](https://doi.org/10.1002/zamm.19740540106)): where no term is negative,
/// within two roundings of the exact sum, however many there are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    /// As if nothing had been lost.
    pub(crate) rounded: f64,
    lost: f64,
}

impl Sum {
    #[inline(always)]
    pub(crate) fn add(self, x: f64) -> Self {
        self.merge(Self::from(x))
    }

    #[inline(always)]
    pub(crate) fn merge(self, other: Self) -> Self {
        let (rounded, lost) = two_sum(self.rounded, other.rounded);
        Self { rounded, lost: self.lost + other.lost + lost }
    }

    /// With what was lost; an infinite sum stays so, though what is lost of it is NaN.
    #[inline(always)]
    pub(crate) fn total(self) -> f64 {
        if self.rounded.is_finite() { self.rounded + self.lost } else { self.rounded }
    }
}

impl From<f64> for Sum {
    #[inline(always)]
    fn from(x: f64) -> Self {
        Self { rounded: x, lost: 0.0 }
    }
}

impl FromIterator<f64> for Sum {
    fn from_iter<I: IntoIterator<Item = f64>>(terms: I) -> Self {
        terms.into_iter().fold(Self::default(), Self::add)
    }
}

/// a + b, and what rounding it lost.
#[inline(always)]
pub(crate) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let part = sum - a;
    (sum, (a - (sum - part)) + (b - part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_keeps_what_rounding_takes() {
        let terms = [1.0].into_iter().chain((0..1_000_000).map(|_| f64::EPSILON / 4.0));
        let sum = terms.collect::<Sum>();
        assert_eq!(sum.rounded, 1.0);
        assert_eq!(sum.total(), 1.0 + 250_000.0 * f64::EPSILON);
        assert_eq!(Sum::from(1e308).add(1e308).add(1.0).total(), f64::INFINITY);
    }
}
