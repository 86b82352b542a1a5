//! Numbers that carry along what rounding took from them, for what is merged any number of times.
//!
//! All operations are those of 53 bits, which every CPU rounds alike, and no number here is subnormal.

use super::scalar::{Exp, LEAST_SPLIT, exp, log1p_and_reciprocal, normal_or_zero, two_product};
use crate::sum::two_sum;

/// `high` + `low`, the second at most half a unit in the last place of the first. It is 0 beside what is not finite, and
/// beside what is so small that it may be subnormal.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
#[repr(C)]
pub(crate) struct Pair {
    pub(crate) high: f64,
    pub(crate) low: f64,
}

impl Pair {
    pub(crate) const ZERO: Self = Self { high: 0.0, low: 0.0 };

    /// high + low, |high| >= |low|.
    pub(crate) fn new(high: f64, low: f64) -> Self {
        if !high.is_finite() {
            return Self { high: normal_or_zero(high), low: 0.0 };
        }
        let (high, low) = two_sum(high, low);
        Self { high: normal_or_zero(high), low: if high.abs() > LEAST_SPLIT { low } else { 0.0 } }
    }

    /// (a - b) / 2: the whole of it may be too large.
    pub(crate) fn half_difference(a: f64, b: f64) -> Self {
        let (high, low) = two_sum(normal_or_zero(a * 0.5), -normal_or_zero(b * 0.5));
        Self::new(high, low)
    }

    /// Of two numbers that do not cancel.
    pub(crate) fn add(self, other: Self) -> Self {
        let (high, lost) = two_sum(self.high, other.high);
        Self::new(high, lost + (self.low + other.low))
    }

    pub(crate) fn multiply(self, other: Self) -> Self {
        /// Splits of larger ones would overflow.
        const MOST: f64 = 1e300;
        let product = self.high * other.high;
        let is_split = self.high.abs() < MOST && other.high.abs() < MOST && product.abs() < MOST;
        if !is_split {
            return Self::new(product, 0.0);
        }
        let (product, lost) = two_product(self.high, other.high);
        Self::new(product, lost + (self.high * other.low + self.low * other.high))
    }

    /// Times a power of two.
    pub(crate) fn scaled(self, power: f64) -> Self {
        Self::new(self.high * power, self.low * power)
    }
}

/// A number times [`Lifted::POWER`]: between the smallest normal number and any number of columns, it is far from both
/// ends of the range, and what rounding takes from it is a normal number too.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
#[repr(transparent)]
pub(crate) struct Lifted(pub(crate) Pair);

impl Lifted {
    pub(crate) const ZERO: Self = Self(Pair::ZERO);
    /// 2^512.
    pub(crate) const POWER: f64 = 1.340_780_792_994_259_7e154;

    pub(crate) fn new(number: Pair) -> Self {
        Self(number.scaled(Self::POWER))
    }

    /// v exp(-drop) for a v of 1 or more, or 0, and twice `half_drop`, which is not below 0. An exponential below exp(-800)
    /// counts as that, which is nothing beside any other.
    pub(crate) fn product_with_exp(v: Pair, half_drop: Pair) -> Self {
        if v.high == 0.0 {
            // Where there is nothing, the drop may be infinite or NaN.
            return Self::ZERO;
        }
        let Exp { high, low, exponent } = exp(-2.0 * half_drop.high, -2.0 * half_drop.low);
        Self(v.multiply(Pair { high, low }).scaled(lifted_power(exponent)))
    }

    pub(crate) fn add(self, other: Self) -> Self {
        Self(self.0.add(other.0))
    }

    /// The number itself.
    pub(crate) fn get(self) -> Pair {
        self.0.scaled(1.0 / Self::POWER)
    }
}

/// 2^exponent, lifted.
fn lifted_power(exponent: f64) -> f64 {
    const LIFT: f64 = 512.0;
    // 2^52, whose last bit is worth 1, and the bias of exponents.
    const INTEGER: f64 = 4_503_599_627_370_496.0 + 1023.0;
    f64::from_bits((exponent + LIFT + INTEGER).to_bits() << 52)
}

/// x + ln(1 + y), rounded once.
pub(crate) fn plus_log1p(x: f64, y: Pair) -> f64 {
    let ((ln, ln_low), _) = log1p_and_reciprocal(y.high, y.low);
    let (sum, lost) = two_sum(x, ln);
    sum + (lost + ln_low)
}

#[cfg(test)]
mod tests {
    use super::super::exp::double_double::DoubleDouble;
    use super::*;
    use crate::contract::{MERGE_F64, U_F64};

    fn exact(Pair { high, low }: Pair) -> DoubleDouble {
        DoubleDouble::sum(high, low)
    }

    /// The bounds of states that are merged any number of times rest on it.
    #[test]
    fn an_exponential_costs_no_more_than_the_rounding_of_its_argument_would() {
        let mut worst: (f64, f64) = (0.0, 0.0);
        let mut drop = 1e-18;
        while drop < 690.0 {
            let found = Lifted::product_with_exp(Pair::new(1.0, 0.0), Pair::half_difference(drop, 0.0));
            let lift = DoubleDouble::from(Lifted::POWER);
            let e = DoubleDouble::from(-drop).exp() * lift;
            let share = ((exact(found.0) - e) / e).high.abs() / (drop.min(MERGE_F64) * U_F64 + 1e-30);
            if share > worst.0 {
                worst = (share, drop);
            }
            drop *= 1.000_7;
        }
        println!("largest share, and where: {worst:?}");
        assert!(worst.0 <= 1.0, "{worst:?}");
    }

    #[test]
    fn merging_what_is_not_finite_keeps_it() {
        let (zero, infinite) = (Pair::ZERO, Pair::new(f64::INFINITY, 0.0));
        assert_eq!(infinite.add(zero), infinite);
        assert_eq!(infinite.add(infinite), infinite);
        assert_eq!(infinite.multiply(Pair::new(2.0, 0.0)), infinite);
        assert!(Pair::new(f64::NAN, 1.0).add(zero).high.is_nan());
        assert_eq!(
            Lifted::product_with_exp(zero, Pair::half_difference(f64::NEG_INFINITY, f64::NEG_INFINITY)).0,
            zero
        );
        let far = Pair::half_difference(0.0, f64::NEG_INFINITY);
        assert_eq!(Lifted::product_with_exp(Pair::new(7.0, 0.0), far).get(), zero);
    }
}
