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
        let (first, second) = (exponent / 2, exponent - exponent / 2);
        let scale = |x: f64| x * 2.0_f64.powi(first) * 2.0_f64.powi(second);
        Self { high: scale(self.high), low: scale(self.low) }
    }

    /// Relative error about 2^-97.
    pub fn exp(self) -> Self {
        if self.high < -745.0 {
            return Self::default();
        }
        let n = (self.high / LN_2.high).round();
        /// Halvings of the argument, and squarings of the result.
        const HALVINGS: i32 = 6;
        let r = (self - LN_2 * n.into()).scaled(-HALVINGS);
        // exp(r) - 1, so that the squarings lose nothing: (1 + e)^2 - 1 = e (2 + e).
        let mut e = Self::default();
        for k in (1..=16).rev() {
            e = r * (e + 1.0.into()) / f64::from(k).into();
        }
        for _ in 0..HALVINGS {
            e = e * (e + 2.0.into());
        }
        (e + 1.0.into()).scaled(n as i32)
    }

    /// tanh(v) and 1 - tanh(v)^2, both with a small relative error.
    pub fn tanh_and_slope(self) -> (Self, Self) {
        let one = Self::from(1.0);
        let v = self.abs();
        let small = (v * Self::from(-2.0)).exp();
        let reciprocal = Self::from(2.0) / (one + small);
        let tanh = if v.high < 0.5 {
            // Near 0, 1 - exp(-2v) would cancel: by the series of sinh and cosh.
            let (mut sinh, mut cosh, square) = (Self::default(), Self::default(), v * v);
            for k in (0..16).rev() {
                let k = 2.0 * f64::from(k);
                sinh = one + sinh * square / ((k + 2.0) * (k + 3.0)).into();
                cosh = one + cosh * square / ((k + 1.0) * (k + 2.0)).into();
            }
            sinh * v / cosh
        } else {
            (one - small) / (one + small)
        };
        (if self.high < 0.0 { -tanh } else { tanh }, small * reciprocal * reciprocal)
    }

    /// ln(1 + y) for y > -0.5, with a small relative error for small y too.
    pub fn ln_1p(self) -> Self {
        if self.high.abs() < 0.5 {
            // 2 artanh(y / (2 + y))
            let z = self / (self + 2.0.into());
            let z2 = z * z;
            let mut series = Self::default();
            for k in (0..=40).rev() {
                series = series * z2 + Self::from(1.0) / f64::from(2 * k + 1).into();
            }
            return (z * series).scaled(1);
        }
        // Newton's method doubles the bits.
        let x = self + 1.0.into();
        let mut ln = Self::from(x.high.ln());
        for _ in 0..2 {
            ln = ln + (x * (-ln).exp() - 1.0.into());
        }
        ln
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
        let rest = self - other * first.into();
        let second = rest.high / other.high;
        let rest = rest - other * second.into();
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
