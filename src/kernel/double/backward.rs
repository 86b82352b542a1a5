//! The vector-Jacobian products of softmax and log-softmax over rows of `f64`: the formulas of `kernel::backward`.

use super::exp::{LEAST, exp};
use super::scalar::normal_or_zero;
use super::sums::Sums;
use crate::batch::{Backward, Upstream};
use crate::kernel::backward::Output;
use crate::simd::{LANES, Simd, Task};

impl Task for Backward<'_, f64> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for row in 0..self.y.rows() {
            let y = self.y.row(row).unwrap_or_default();
            let (g, out) = match &mut self.upstream {
                Upstream::Keep(g, dx) => {
                    (Some(g.row(row).unwrap_or_default()), dx.row_mut(row).unwrap_or_default())
                }
                Upstream::Overwrite(g) => (None, g.row_mut(row).unwrap_or_default()),
            };
            run(s, self.output, y, g, out);
        }
    }
}

/// One row; the upstream gradient is in `out`, where it is not apart.
#[inline(always)]
fn run<S: Simd>(s: S, output: Output, y: &[f64], g: Option<&[f64]>, out: &mut [f64]) {
    let mut sums = Sums::zero(s);
    for start in (0..y.len()).step_by(LANES) {
        let g = s.load_partial_f64(&g.unwrap_or(out)[start..], 0.0);
        let term = match output {
            Output::Probabilities => s.mul_f64(s.load_partial_f64(&y[start..], 0.0), g),
            Output::LogProbabilities => g,
            Output::LogProbabilitiesForward => s.mul_f64(probability(s, &y[start..]), g),
        };
        sums = sums.add(s, term);
    }
    let sum = s.splat_f64(sums.total(s));
    for start in (0..y.len()).step_by(LANES) {
        let g = s.load_partial_f64(&g.unwrap_or(out)[start..], 0.0);
        let product = match output {
            Output::Probabilities => s.mul_f64(s.load_partial_f64(&y[start..], 0.0), s.sub_f64(g, sum)),
            Output::LogProbabilities => s.sub_f64(g, s.mul_f64(probability(s, &y[start..]), sum)),
            Output::LogProbabilitiesForward => s.sub_f64(g, sum),
        };
        // One NaN for all: which of several it was depends on the instructions.
        let mut normal = [0.0; LANES];
        s.store_f64(product, &mut normal);
        for x in &mut normal {
            *x = normal_or_zero(*x);
        }
        s.store_partial_f64(s.load_f64(&normal), &mut out[start..]);
    }
}

/// exp(y) of up to 16 numbers, 0 where it would be subnormal; NaN for NaN.
#[inline(always)]
fn probability<S: Simd>(s: S, y: &[f64]) -> S::F64 {
    s.zero_below_f64(exp(s, s.load_partial_f64(y, 0.0)), s.splat_f64(LEAST))
}
