//! Where a row of `f64` has some value, and how many are larger.

use super::{Load, Plain, vector};
use crate::loss::Transform;
use crate::simd::{LANES, Simd, Task};

/// The first index that holds `value`; the first NaN, for NaN.
pub(crate) struct FirstEqual<'a> {
    pub(crate) x: &'a [f64],
    pub(crate) transform: Option<Transform<f64>>,
    pub(crate) value: f64,
}

/// How many classes come before one: those with a larger logit, or with an equal one and earlier.
pub(crate) struct Rank<'a> {
    pub(crate) x: &'a [f64],
    pub(crate) transform: Option<Transform<f64>>,
    pub(crate) class: usize,
}

impl Task for FirstEqual<'_> {
    type Output = Option<usize>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Option<usize> {
        match self.transform {
            None => self.run_with(s, Plain),
            Some(transform) => self.run_with(s, transform),
        }
    }
}

impl FirstEqual<'_> {
    #[inline(always)]
    fn run_with<S: Simd>(self, s: S, load: impl Load) -> Option<usize> {
        let Self { x, value, .. } = self;
        for start in (0..x.len()).step_by(LANES) {
            let equal = equal_bits(s, x, start, load, value);
            if equal != 0 {
                return Some(start + equal.trailing_zeros() as usize);
            }
        }
        None
    }
}

impl Task for Rank<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        match self.transform {
            None => self.run_with(s, Plain),
            Some(transform) => self.run_with(s, transform),
        }
    }
}

impl Rank<'_> {
    #[inline(always)]
    fn run_with<S: Simd>(self, s: S, load: impl Load) -> usize {
        let Self { x, class, .. } = self;
        let value = load.load(s, &x[class..=class], &mut [0.0])[0];
        let mut rank = 0;
        for start in (0..x.len()).step_by(LANES) {
            let lanes = vector(s, x, start, load, f64::NEG_INFINITY);
            // The lanes that are not larger are equal to it after this.
            let at_least = s.max_f64(lanes, s.splat_f64(value));
            rank += LANES - s.equal_bits_f64(at_least, value).count_ones() as usize;
        }
        for start in (0..class).step_by(LANES) {
            rank += equal_bits(s, &x[..class], start, load, value).count_ones() as usize;
        }
        rank
    }
}

/// As [`Doubles::equal_bits_f64`](crate::simd::Doubles::equal_bits_f64), of 16 numbers from `start` on, or as many as there
/// are.
#[inline(always)]
fn equal_bits<S: Simd>(s: S, x: &[f64], start: usize, load: impl Load, value: f64) -> u32 {
    let in_row = (1 << (x.len() - start).min(LANES)) - 1;
    s.equal_bits_f64(vector(s, x, start, load, 0.0), value) & in_row
}
