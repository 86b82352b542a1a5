//! The exponential, of arguments that are never positive.
//!
//! ```text
//! n = round(d / ln 2)            by adding and subtracting a number whose last bit is worth 1
//! r = d - n ln 2                 ln 2 as a sum of two f32, the first step exact; |r| <= ln(2) / 2
//! p = 1 + r + r^2 q(r)           degree 6, minimax with the first two coefficients kept at 1
//! e = p 2^n                      2^n made from the bits of the rounding; the product is exact
//! ```
//!
//! Its error is at most [`contract::EXPONENTIAL`](crate::contract::EXPONENTIAL), by trying every argument.
//!
//! Arguments below -127.5 ln 2, those of masked classes among them, count as [`LOWEST`], whose 2^n is the zero that its
//! bits are: so a subnormal result comes of few arguments, and of none that a batch is full of. Whoever stores results
//! compares them with [`LEAST`], which costs nothing there because the comparison is needed for other reasons as well.

use crate::simd::Simd;

/// The smallest argument that is told from smaller ones. Its exponential comes out as 0: n = -127.
pub(crate) const LOWEST: f32 = -88.0;

/// Results below this are no normal numbers, and count as 0.
pub(crate) const LEAST: f32 = f32::MIN_POSITIVE;

/// Adding it rounds to an integer and leaves that integer plus 127 in the low bits.
pub(super) const ROUND: f32 = 12_582_912.0 + 127.0;
/// 9 bits: its product with n is exact, where there is no fused multiply-add as well.
pub(super) const LN_2_HIGH: f32 = 355.0 / 512.0;
pub(super) const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Largest relative error 0.053 u before rounding.
pub(super) const Q: [f32; 5] = [
    f32::from_bits(0x3eff_fffe),
    f32::from_bits(0x3e2a_aa49),
    f32::from_bits(0x3d2a_ac55),
    f32::from_bits(0x3c09_1cb7),
    f32::from_bits(0x3ab5_2927),
];

/// exp(d) for d <= 0; any number below [`LEAST`] where it is; NaN for NaN. 13 operations.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, d: S::F32) -> S::F32 {
    let [e] = exp_of_each(s, [d]);
    e
}

/// [`exp`] of several vectors, one operation on all of them after the other. A step waits four cycles for the one
/// before; neighbours fill them.
#[inline(always)]
pub(crate) fn exp_of_each<S: Simd, const N: usize>(s: S, d: [S::F32; N]) -> [S::F32; N] {
    let (mut d, mut rounded, mut r, mut p) = (d, d, d, d);
    for i in 0..N {
        d[i] = s.max(s.splat(LOWEST), d[i]);
    }
    for i in 0..N {
        rounded[i] = s.mul_add(d[i], s.splat(core::f32::consts::LOG2_E), s.splat(ROUND));
    }
    for i in 0..N {
        r[i] = s.sub(rounded[i], s.splat(ROUND));
    }
    for i in 0..N {
        d[i] = s.mul_add(r[i], s.splat(-LN_2_HIGH), d[i]);
    }
    for i in 0..N {
        r[i] = s.mul_add(r[i], s.splat(-LN_2_LOW), d[i]);
    }
    for i in 0..N {
        p[i] = s.mul_add(s.splat(Q[4]), r[i], s.splat(Q[3]));
    }
    for coefficient in [Q[2], Q[1], Q[0], 1.0, 1.0] {
        for i in 0..N {
            p[i] = s.mul_add(p[i], r[i], s.splat(coefficient));
        }
    }
    for i in 0..N {
        p[i] = s.mul(p[i], s.low_bits_to_exponent(rounded[i]));
    }
    p
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;
    use crate::Backend;
    use crate::backend::Instructions;
    use crate::contract::{EXPONENTIAL, U};
    use crate::simd::{LANES, Task};

    /// The exponential of each.
    struct ExpTask<'a>(&'a [f32], &'a mut [f32]);

    impl Task for ExpTask<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let Self(from, to) = self;
            let (from, _) = from.as_chunks::<LANES>();
            let (to, _) = to.as_chunks_mut::<LANES>();
            for (from, to) in from.iter().zip(to) {
                s.store(exp(s, s.load(from)), to);
            }
        }
    }

    const BLOCK: usize = 1 << 12;
    /// Of numbers from -0 down to -inf.
    const BITS: core::ops::RangeInclusive<u32> = 0x8000_0000..=0xff80_0000;

    /// The largest error in u on a backend, and where, over blocks of neighbouring arguments.
    fn worst(backend: Backend, blocks: impl ParallelIterator<Item = u32>) -> (f64, f32) {
        let instructions = Instructions::of(backend).expect("it is available");
        let of_one = |x: f32| {
            let mut e = [0.0; LANES];
            instructions.run(ExpTask(&[x; LANES], &mut e));
            e[0]
        };
        let of_block = |first: u32| {
            let mut arguments = [0.0; BLOCK];
            for (i, x) in arguments.iter_mut().enumerate() {
                // The last block ends with -inf, many times.
                *x = f32::from_bits((first + i as u32).min(*BITS.end()));
            }
            let mut exps = [0.0; BLOCK];
            instructions.run(ExpTask(&arguments, &mut exps));
            let mut worst = (0.0, 0.0);
            for (&x, &e) in arguments.iter().zip(&exps) {
                let exact = f64::from(x).exp();
                if exact < f64::from(LEAST) {
                    assert!((0.0..LEAST).contains(&e), "exp({x:e}) = {e:e}, {backend}");
                    continue;
                }
                assert!(e >= LEAST, "exp({x:e}) = {e:e}, {backend}");
                let error = (f64::from(e) - exact).abs() / (exact * U);
                if error > worst.0 {
                    worst = (error, x);
                }
            }
            worst
        };
        assert!(of_one(LOWEST) == 0.0 && of_one(f32::NEG_INFINITY) == 0.0);
        assert!(of_one(0.0) == 1.0 && of_one(f32::NAN).is_nan());
        blocks.map(of_block).reduce(|| (0.0, 0.0), |a, b| if a.0 > b.0 { a } else { b })
    }

    fn check(blocks: impl ParallelIterator<Item = u32> + Clone) {
        for backend in Backend::available() {
            let (error, x) = worst(backend, blocks.clone());
            println!("{backend}: the largest error is {error:.4} u, of exp({x:e})");
            assert!(error <= EXPONENTIAL, "{backend}: exp({x:e}) is {error} u off");
        }
    }

    fn blocks() -> rayon::range_inclusive::Iter<u32> {
        (0..=(BITS.end() - BITS.start()) / BLOCK as u32).into_par_iter()
    }

    #[test]
    fn exp_keeps_its_bound_on_one_argument_of_a_thousand() {
        check(blocks().filter(|block| block % 1009 == 0).map(|block| BITS.start() + block * BLOCK as u32));
    }

    #[test]
    #[ignore = "2,139,095,041 arguments on each backend: a minute on two cores"]
    fn exp_keeps_its_bound_on_every_argument() {
        check(blocks().map(|block| BITS.start() + block * BLOCK as u32));
    }
}
