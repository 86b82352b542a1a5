//! Numbers of about 106 bits, as the sum of two `f64` ([Dekker 1971](https://doi.org/10.1007/BF01397083)): what results of
//! `f64` are compared with.

#![allow(dead_code)]

use core::cmp::Ordering;
use core::iter::Sum;
use core::ops::{Add, Div, Mul, Neg, Sub};

/// `high` + `low`, the second at most half a unit in the last place of the first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DoubleDouble {
    pub high: f64,
    pub low: f64,
}

pub const LN_2: DoubleDouble =
    DoubleDouble { high: core::f64::consts::LN_2, low: 2.319_046_813_846_299_6e-17 };

impl DoubleDouble {
    /// a + b, for |a| >= |b|.
    fn normalised(a: f64, b: f64) -> Self {
        let high = a + b;
        // Of infinity, and of what follows it, nothing is lost.
        let low = if high.is_finite() { b - (high - a) } else { 0.0 };
        Self { high, low }
    }

    /// a + b.
    pub fn sum(a: f64, b: f64) -> Self {
        let high = a + b;
        let part = high - a;
        let low = (a - (high - part)) + (b - part);
        Self { high, low: if high.is_finite() { low } else { 0.0 } }
    }

    /// a b.
    pub fn product(a: f64, b: f64) -> Self {
        let high = a * b;
        Self { high, low: if high.is_finite() { a.mul_add(b, -high) } else { 0.0 } }
    }

    /// Rounded.
    pub fn to_f64(self) -> f64 {
        self.high + self.low
    }

    pub fn abs(self) -> Self {
        if self.high < 0.0 { -self } else { self }
    }

    /// Times a power of two.
    fn scaled(self, exponent: i32) -> Self {
        // In two steps, none of which overflows.
        let power = |exponent: i32| f64::from_bits(((1023 + exponent) as u64) << 52);
        let (first, second) = (power(exponent / 2), power(exponent - exponent / 2));
        Self { high: self.high * first * second, low: self.low * first * second }
    }

    /// 1 / k, for a whole number of few bits.
    const fn reciprocal(k: f64) -> Self {
        let high = 1.0 / k;
        // Halves of 26 bits (Veltkamp's), whose products with k are exact: a constant cannot fuse.
        let shifted = high * 134_217_729.0;
        let upper = shifted - (shifted - high);
        Self { high, low: (1.0 - k * upper - k * (high - upper)) / k }
    }

    /// Relative error about 2^-97.
    pub fn exp(self) -> Self {
        if self.high < -745.0 {
            return Self::default();
        }
        let n = (self.high / LN_2.high).round();
        ((self - LN_2 * Self::from(n)).small_exp_m1() + 1.0.into()).scaled(n as i32)
    }

    /// exp - 1, with a small relative error.
    pub fn exp_m1(self) -> Self {
        self.exp_and_exp_m1().1
    }

    /// Both.
    fn exp_and_exp_m1(self) -> (Self, Self) {
        if self.high.abs() < 0.25 {
            let exp_m1 = self.small_exp_m1();
            (exp_m1 + 1.0.into(), exp_m1)
        } else {
            let exp = self.exp();
            (exp, exp - 1.0.into())
        }
    }

    /// The same, of at most ln(2) / 2.
    fn small_exp_m1(self) -> Self {
        /// Halvings of the argument, and squarings of the result.
        const HALVINGS: i32 = 6;
        /// 1 / k!, for the terms that need twice the precision: the others are less than 2^-54 of the first.
        const COEFFICIENTS: [DoubleDouble; 6] = [
            DoubleDouble::reciprocal(1.0),
            DoubleDouble::reciprocal(2.0),
            DoubleDouble::reciprocal(6.0),
            DoubleDouble::reciprocal(24.0),
            DoubleDouble::reciprocal(120.0),
            DoubleDouble::reciprocal(720.0),
        ];
        if self.high.abs() < 1e-40 {
            // A subnormal number has no halves.
            return self;
        }
        let r = self.scaled(-HALVINGS);
        let rest = (8..=13).rev().fold(1.0, |sum, k| 1.0 + r.high / f64::from(k) * sum) / 5040.0;
        let series = COEFFICIENTS.iter().rev().fold(rest.into(), |sum, &c| c + r * sum);
        // (1 + e)^2 - 1 = e (2 + e): so the squarings lose nothing.
        (0..HALVINGS).fold(r * series, |e, _| e * (e + 2.0.into()))
    }

    /// tanh(v) and 1 - tanh(v)^2, both with a small relative error.
    pub fn tanh_and_slope(self) -> (Self, Self) {
        let x = self.abs() * Self::from(-2.0);
        let (exp, exp_m1) = x.exp_and_exp_m1();
        let reciprocal = Self::from(2.0) / (exp + 1.0.into());
        let tanh = (exp_m1 * reciprocal) * Self::from(-0.5);
        (if self.high < 0.0 { -tanh } else { tanh }, exp * reciprocal * reciprocal)
    }

    /// ln(1 + y) for y > -0.5, with a small relative error for small y too.
    pub fn ln_1p(self) -> Self {
        // A step of Newton's method doubles the bits: ln + (1 + y) exp(-ln) - 1.
        let ln = Self::from(self.high.ln_1p());
        let step = if self.high < 0.5 {
            let e = (-ln).exp_m1();
            self + e + self * e
        } else {
            (self + 1.0.into()) * (-ln).exp() - 1.0.into()
        };
        ln + step
    }
}

impl From<f64> for DoubleDouble {
    fn from(high: f64) -> Self {
        Self { high, low: 0.0 }
    }
}

impl Neg for DoubleDouble {
    type Output = Self;

    fn neg(self) -> Self {
        Self { high: -self.high, low: -self.low }
    }
}

impl Add for DoubleDouble {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (high, low) = (Self::sum(self.high, other.high), Self::sum(self.low, other.low));
        let sum = Self::normalised(high.high, high.low + low.high);
        Self::normalised(sum.high, sum.low + low.low)
    }
}

impl Sub for DoubleDouble {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Mul for DoubleDouble {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        let product = Self::product(self.high, other.high);
        if !product.high.is_finite() {
            return product;
        }
        Self::normalised(product.high, product.low + (self.high * other.low + self.low * other.high))
    }
}

impl Div for DoubleDouble {
    type Output = Self;

    fn div(self, other: Self) -> Self {
        let first = self.high / other.high;
        if !first.is_finite() {
            return first.into();
        }
        let rest = self - other * Self::from(first);
        let second = rest.high / other.high;
        let rest = rest - other * Self::from(second);
        Self::normalised(first, second) + (rest.high / other.high).into()
    }
}

impl Sum for DoubleDouble {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), |sum, x| sum + x)
    }
}

impl PartialOrd for DoubleDouble {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let order = self.high.partial_cmp(&other.high)?;
        Some(order.then(self.low.partial_cmp(&other.low)?))
    }
}
