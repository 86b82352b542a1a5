//! The hyperbolic tangent, and its derivative.
//!
//! ```text
//! E = exp(-2|v|) - 1             as in exp.rs, with what is near 1 left out: n = round(-2|v| / ln 2), r the rest,
//!                                E = 2^n (r + r^2 q(r)) + (2^n - 1)
//! tanh(v)      = -E / (2 + E)    with the sign of v
//! 1 - tanh^2   = (1 + E) (2 / (2 + E))^2
//! ```
//!
//! Near 0 the first term of E is all of it, so small results keep their relative accuracy. Nowhere is a number taken from 1.

use super::exp::{LEAST, LN_2_HIGH, LN_2_LOW, LOWEST, Q, ROUND};
use crate::simd::Simd;

/// What tanh and its derivative are made of.
struct Parts<V> {
    /// exp(-2|v|) - 1, from -1 to 0.
    minus: V,
    /// exp(-2|v|), any number below the normal ones where it is.
    exp: V,
    /// 1 + exp(-2|v|).
    denominator: V,
}

#[inline(always)]
fn parts<S: Simd>(s: S, v: S::F32) -> Parts<S::F32> {
    let magnitude = s.copy_sign(v, s.splat(0.0));
    let d = s.max(s.splat(LOWEST), s.mul(magnitude, s.splat(-2.0)));
    let rounded = s.mul_add(d, s.splat(core::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(rounded, s.splat(ROUND));
    let r = s.mul_add(n, s.splat(-LN_2_HIGH), d);
    let r = s.mul_add(n, s.splat(-LN_2_LOW), r);
    let mut q = s.mul_add(s.splat(Q[4]), r, s.splat(Q[3]));
    for coefficient in [Q[2], Q[1], Q[0]] {
        q = s.mul_add(q, r, s.splat(coefficient));
    }
    let p = s.mul_add(s.mul(r, r), q, r);
    let power = s.low_bits_to_exponent(rounded);
    let minus = s.mul_add(power, p, s.sub(power, s.splat(1.0)));
    let exp = s.mul_add(power, p, power);
    Parts { minus, exp, denominator: s.add(s.splat(2.0), minus) }
}

/// tanh(v), within [`TANH`](crate::contract::TANH) units; NaN for NaN. 19 operations.
#[inline(always)]
pub(super) fn tanh<S: Simd>(s: S, v: S::F32) -> S::F32 {
    let Parts { minus, denominator, .. } = parts(s, v);
    s.copy_sign(s.div(minus, denominator), v)
}

/// tanh(v), the same bits, and its derivative 1 - tanh(v)^2, within [`TANH_SLOPE`](crate::contract::TANH_SLOPE) units where
/// exp(-2|v|) is not below the normal numbers, and else 0; unspecified for NaN.
#[inline(always)]
pub(super) fn tanh_and_slope<S: Simd>(s: S, v: S::F32) -> (S::F32, S::F32) {
    let Parts { minus, exp, denominator } = parts(s, v);
    let reciprocal = s.div(s.splat(2.0), denominator);
    let slope = s.mul_at_least(exp, s.mul(reciprocal, reciprocal), s.splat(LEAST));
    (s.copy_sign(s.div(minus, denominator), v), slope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Backend;
    use crate::backend::Instructions;
    use crate::contract::{TANH, TANH_SLOPE, U};
    use crate::simd::{LANES, Task};

    /// tanh and its derivative of 16 numbers.
    struct Of([f32; LANES]);

    impl Task for Of {
        type Output = [[f32; LANES]; 3];

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> [[f32; LANES]; 3] {
            let mut found = [[0.0; LANES]; 3];
            let v = s.load(&self.0);
            let (t, slope) = tanh_and_slope(s, v);
            s.store(tanh(s, v), &mut found[0]);
            s.store(t, &mut found[1]);
            s.store(slope, &mut found[2]);
            found
        }
    }

    /// Below so many times the smallest normal number, the derivative is 0.
    const SMALLEST: [f64; 2] = [1.0, 4.0];

    /// Largest errors in units of `U`, of tanh and of its derivative.
    #[derive(Clone, Copy, Debug, Default)]
    struct Worst([(f64, f32); 2]);

    impl Worst {
        fn note(&mut self, which: usize, v: f32, found: f32, exact: f64) {
            // On the border of what the derivative has for 0, either will do.
            let least = SMALLEST[which] * f64::from(f32::MIN_POSITIVE);
            if exact.abs() < least * (1.0 + 1e-5) {
                let is_near = exact.abs() > least * (1.0 - 1e-5);
                assert!(found == 0.0 || is_near, "{found:e} of {v:e} instead of {exact:e}");
                return;
            }
            let error = (f64::from(found) - exact).abs() / (exact.abs() * U);
            if error.is_nan() || error > self.0[which].0 {
                self.0[which] = (error, v);
            }
        }

        /// Checks 16 numbers, on all backends. Both signs of each.
        fn check(&mut self, backends: &[(Backend, Instructions)], v: [f32; LANES]) {
            let exact = v.map(|v| (f64::from(v).tanh(), f64::from(v).cosh().powi(-2)));
            for &(backend, instructions) in backends {
                let [found, same, slopes] = instructions.run(Of(v));
                let [negative, _, of_negative] = instructions.run(Of(v.map(|v| -v)));
                for i in 0..LANES {
                    let context = (v[i], backend);
                    assert_eq!(found[i].to_bits(), same[i].to_bits(), "{context:?}");
                    assert_eq!((-found[i]).to_bits(), negative[i].to_bits(), "{context:?}");
                    assert_eq!(slopes[i].to_bits(), of_negative[i].to_bits(), "{context:?}");
                    assert!(!slopes[i].is_subnormal(), "{context:?}");
                    self.note(0, v[i], found[i], exact[i].0);
                    self.note(1, v[i], slopes[i], exact[i].1);
                }
            }
        }

        fn assert_within_the_contract(self) {
            println!("largest errors in units, and where: {self:?}");
            assert!(self.0[0].0 <= TANH, "tanh: {:?}", self.0[0]);
            assert!(self.0[1].0 <= TANH_SLOPE, "its derivative: {:?}", self.0[1]);
        }
    }

    fn backends() -> Vec<(Backend, Instructions)> {
        Backend::available().map(|backend| (backend, Instructions::of(backend).expect("available"))).collect()
    }

    /// Every `step`-th of the numbers that are not negative and not below the normal ones.
    fn sweep(backends: &[(Backend, Instructions)], step: u32) {
        let mut worst = Worst::default();
        let mut bits = f32::MIN_POSITIVE.to_bits();
        while bits <= f32::INFINITY.to_bits() {
            let mut v = [f32::INFINITY; LANES];
            for v in &mut v {
                *v = f32::from_bits(bits.min(f32::INFINITY.to_bits()));
                bits += step;
            }
            worst.check(backends, v);
        }
        worst.assert_within_the_contract();
    }

    #[test]
    fn tanh_and_its_derivative_keep_their_bounds_on_a_dense_sweep() {
        sweep(&backends(), 997);
    }

    #[test]
    #[ignore = "some minutes: every f32, on every backend"]
    fn tanh_and_its_derivative_keep_their_bounds_for_every_number() {
        sweep(&backends(), 1);
    }

    #[test]
    fn special_numbers_have_special_values() {
        for (backend, instructions) in backends() {
            let mut v = [0.0; LANES];
            v[..5].copy_from_slice(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e30]);
            let [found, _, slopes] = instructions.run(Of(v));
            assert!(found[0].is_nan(), "{backend}");
            assert_eq!(found[1..6], [1.0, -1.0, 0.0, 1.0, 0.0], "{backend}");
            assert!(found[3].is_sign_negative(), "{backend}");
            assert_eq!(slopes[1..6], [0.0, 0.0, 1.0, 0.0, 1.0], "{backend}");
        }
    }
}
