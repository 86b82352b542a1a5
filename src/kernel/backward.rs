//! The vector-Jacobian products of softmax and log-softmax, from an upstream gradient g of the outputs to that of the
//! logits; and their Jacobian-vector products, from a direction g of the logits to that of the outputs.
//!
//! ```text
//! softmax       dx_i = y_i (g_i - sum_c g_c y_c)          y the probabilities; the same both ways
//! log-softmax   dx_i = g_i - exp(y_i) sum_c g_c           y the log-probabilities
//!               dy_i = g_i - sum_c g_c exp(y_c)
//! ```

use super::number::Number;
use super::{exp, scalar};
use crate::simd::{LANES, Simd};

/// Which output's Jacobian.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Output {
    Probabilities,
    LogProbabilities,
    /// From the logits to the log-probabilities, not back.
    LogProbabilitiesForward,
}

/// Where the upstream gradient, or direction, is read and the product written.
pub(crate) enum Upstream<'a, T> {
    Keep(&'a [T], &'a mut [T]),
    Overwrite(&'a mut [T]),
}

trait Jacobian<S: Simd>: Copy {
    /// What is summed over the row.
    fn term(s: S, y: S::F32, g: S::F32) -> S::F32;
    fn product(s: S, y: S::F32, g: S::F32, sum: S::F32) -> S::F32;
}

#[derive(Clone, Copy)]
struct OfSoftmax;

#[derive(Clone, Copy)]
struct OfLogSoftmax;

#[derive(Clone, Copy)]
struct OfLogSoftmaxForward;

impl<S: Simd> Jacobian<S> for OfSoftmax {
    #[inline(always)]
    fn term(s: S, y: S::F32, g: S::F32) -> S::F32 {
        s.mul(y, g)
    }

    #[inline(always)]
    fn product(s: S, y: S::F32, g: S::F32, sum: S::F32) -> S::F32 {
        s.mul(y, s.sub(g, sum))
    }
}

impl<S: Simd> Jacobian<S> for OfLogSoftmax {
    #[inline(always)]
    fn term(_: S, _: S::F32, g: S::F32) -> S::F32 {
        g
    }

    #[inline(always)]
    fn product(s: S, y: S::F32, g: S::F32, sum: S::F32) -> S::F32 {
        // Where exp(y) would be subnormal, nothing is taken away.
        s.sub(g, s.mul(probability(s, y), sum))
    }
}

impl<S: Simd> Jacobian<S> for OfLogSoftmaxForward {
    #[inline(always)]
    fn term(s: S, y: S::F32, g: S::F32) -> S::F32 {
        s.mul(probability(s, y), g)
    }

    #[inline(always)]
    fn product(s: S, _: S::F32, g: S::F32, sum: S::F32) -> S::F32 {
        s.sub(g, sum)
    }
}

/// exp(y), 0 where it would be subnormal; NaN for NaN.
#[inline(always)]
fn probability<S: Simd>(s: S, y: S::F32) -> S::F32 {
    s.zero_below(exp::exp(s, y), s.splat(exp::LEAST))
}

/// One row, whose outputs were `y`.
#[inline(always)]
pub(crate) fn row<S: Simd, T: Number>(s: S, output: Output, y: &[T], upstream: Upstream<'_, T>) {
    match output {
        Output::Probabilities => run::<_, T, OfSoftmax>(s, y, upstream),
        Output::LogProbabilities => run::<_, T, OfLogSoftmax>(s, y, upstream),
        Output::LogProbabilitiesForward => run::<_, T, OfLogSoftmaxForward>(s, y, upstream),
    }
}

#[inline(always)]
fn run<S: Simd, T: Number, J: Jacobian<S>>(s: S, y: &[T], upstream: Upstream<'_, T>) {
    match upstream {
        Upstream::Keep(g, dx) => {
            let sum = sum::<_, T, J>(s, y, g);
            let (y_vectors, y_rest) = y.as_chunks::<LANES>();
            let (g_vectors, g_rest) = g.as_chunks::<LANES>();
            let (dx_vectors, dx_rest) = dx.as_chunks_mut::<LANES>();
            for ((y, g), dx) in y_vectors.iter().zip(g_vectors).zip(dx_vectors) {
                T::store(s, gradient::<_, J>(s, T::load(s, y), T::load(s, g), sum), dx);
            }
            if !dx_rest.is_empty() {
                let (y, g) = (T::load_partial(s, y_rest, 0.0), T::load_partial(s, g_rest, 0.0));
                T::store_partial(s, gradient::<_, J>(s, y, g, sum), dx_rest);
            }
        }
        Upstream::Overwrite(g) => {
            let sum = sum::<_, T, J>(s, y, g);
            let (y_vectors, y_rest) = y.as_chunks::<LANES>();
            let (g_vectors, g_rest) = g.as_chunks_mut::<LANES>();
            for (y, g) in y_vectors.iter().zip(g_vectors) {
                T::store(s, gradient::<_, J>(s, T::load(s, y), T::load(s, g), sum), g);
            }
            if !g_rest.is_empty() {
                let (y, g) = (T::load_partial(s, y_rest, 0.0), T::load_partial(s, g_rest, 0.0));
                T::store_partial(s, gradient::<_, J>(s, y, g, sum), g_rest);
            }
        }
    }
}

/// The product, 0 where it would be subnormal, and one NaN for all: which of several it was depends on the instructions.
#[inline(always)]
fn gradient<S: Simd, J: Jacobian<S>>(s: S, y: S::F32, g: S::F32, sum: S::F32) -> S::F32 {
    let product = s.zero_below(J::product(s, y, g, sum), s.splat(f32::MIN_POSITIVE));
    s.select_equal(product, product, product, s.splat(f32::NAN))
}

#[inline(always)]
fn sum<S: Simd, T: Number, J: Jacobian<S>>(s: S, y: &[T], g: &[T]) -> S::F32 {
    let (y_vectors, y_rest) = y.as_chunks::<LANES>();
    let (g_vectors, g_rest) = g.as_chunks::<LANES>();
    let mut sums = s.zero_sums();
    for (y, g) in y_vectors.iter().zip(g_vectors) {
        sums = s.accumulate(sums, J::term(s, T::load(s, y), T::load(s, g)));
    }
    let last = J::term(s, T::load_partial(s, y_rest, 0.0), T::load_partial(s, g_rest, 0.0));
    let sum = s.sum_lanes(s.accumulate(sums, last));
    // That of finite numbers is finite: an infinite one, times a probability of 0, would be NaN.
    let largest = f64::from(f32::MAX);
    s.splat(scalar::to_f32(if sum.is_finite() { sum.clamp(-largest, largest) } else { sum }))
}
