//! The second pass: every output as wide as a row is a function of one logit and a few numbers of its row.

use super::{exp, vector_at};
use crate::simd::{LANES, Simd};

/// scale exp(x - max) - shift: the gradient of every loss, away from the target; without a shift, the probabilities.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Affine<'a> {
    pub(crate) scale: f32,
    /// Exponentials below it count as 0: their product with `scale` would be subnormal. NaN: all do.
    pub(crate) least: f32,
    pub(crate) shift: Shift<'a>,
}

/// What [`Affine`] subtracts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shift<'a> {
    None,
    Equal(f32),
    /// `scale * weights[c]` for class c. At least [`LANES`] zeros follow the last.
    Weighted {
        weights: &'a [f32],
        scale: f32,
    },
}

/// Where a pass reads and writes.
pub(crate) enum Columns<'a> {
    Between(&'a [f32], &'a mut [f32]),
    /// The same, with stores past the caches.
    Streaming(&'a [f32], &'a mut [f32]),
    InPlace(&'a mut [f32]),
}

/// A function of 16 neighbouring columns.
trait Map<S: Simd>: Copy {
    fn apply(self, s: S, x: S::F32, column: usize) -> S::F32;
}

impl Affine<'_> {
    /// The same function of the columns from `column` on.
    pub(crate) fn starting_at(self, column: usize) -> Self {
        let shift = match self.shift {
            Shift::Weighted { weights, scale } => Shift::Weighted { weights: &weights[column..], scale },
            shift => shift,
        };
        Self { shift, ..self }
    }
}

impl Columns<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Between(_, to) | Self::Streaming(_, to) | Self::InPlace(to) => to.len(),
        }
    }

    /// The first `columns` columns, and the others.
    pub(crate) fn split_at(self, columns: usize) -> (Self, Self) {
        match self {
            Self::Between(from, to) => {
                let ((from, from_rest), (to, to_rest)) = (from.split_at(columns), to.split_at_mut(columns));
                (Self::Between(from, to), Self::Between(from_rest, to_rest))
            }
            Self::Streaming(from, to) => {
                let ((from, from_rest), (to, to_rest)) = (from.split_at(columns), to.split_at_mut(columns));
                (Self::Streaming(from, to), Self::Streaming(from_rest, to_rest))
            }
            Self::InPlace(x) => {
                let (x, rest) = x.split_at_mut(columns);
                (Self::InPlace(x), Self::InPlace(rest))
            }
        }
    }
}

/// [`Affine`] of logits.
#[inline(always)]
pub(crate) fn affine_of_logits<S: Simd>(s: S, columns: Columns<'_>, max: f32, affine: Affine<'_>) {
    affine_of(s, columns, Exp { max: s.splat(max) }, affine);
}

/// [`Affine`] where the exponentials are there already.
#[inline(always)]
pub(crate) fn affine_of_exps<S: Simd>(s: S, columns: Columns<'_>, affine: Affine<'_>) {
    affine_of(s, columns, Identity, affine);
}

/// (x - max) - ln_sum: log-probabilities.
#[inline(always)]
pub(crate) fn log_probabilities<S: Simd>(s: S, columns: Columns<'_>, max: f32, ln_sum: f32) {
    run(s, columns, Difference { max: s.splat(max), ln_sum: s.splat(ln_sum) });
}

#[inline(always)]
fn affine_of<S: Simd, M: Map<S>>(s: S, columns: Columns<'_>, exp: M, affine: Affine<'_>) {
    let scaled = Scaled { exp, scale: s.splat(affine.scale), least: s.splat(affine.least) };
    match affine.shift {
        Shift::None => run(s, columns, scaled),
        Shift::Equal(shift) => run(s, columns, Shifted { scaled, shift: s.splat(shift) }),
        Shift::Weighted { weights, scale } => {
            let shift_scale = s.splat(scale);
            run(s, columns, ShiftedByWeights { scaled, weights, shift_scale });
        }
    }
}

#[derive(Clone, Copy)]
struct Identity;

#[derive(Clone, Copy)]
struct Exp<V> {
    max: V,
}

#[derive(Clone, Copy)]
struct Difference<V> {
    max: V,
    ln_sum: V,
}

#[derive(Clone, Copy)]
struct Scaled<M, V> {
    exp: M,
    scale: V,
    least: V,
}

#[derive(Clone, Copy)]
struct Shifted<M, V> {
    scaled: M,
    shift: V,
}

#[derive(Clone, Copy)]
struct ShiftedByWeights<'a, M, V> {
    scaled: M,
    weights: &'a [f32],
    shift_scale: V,
}

impl<S: Simd> Map<S> for Identity {
    #[inline(always)]
    fn apply(self, _: S, x: S::F32, _: usize) -> S::F32 {
        x
    }
}

impl<S: Simd> Map<S> for Exp<S::F32> {
    #[inline(always)]
    fn apply(self, s: S, x: S::F32, _: usize) -> S::F32 {
        exp::exp(s, s.sub(x, self.max))
    }
}

impl<S: Simd> Map<S> for Difference<S::F32> {
    #[inline(always)]
    fn apply(self, s: S, x: S::F32, _: usize) -> S::F32 {
        s.zero_below(s.sub(s.sub(x, self.max), self.ln_sum), s.splat(f32::MIN_POSITIVE))
    }
}

impl<S: Simd, M: Map<S>> Map<S> for Scaled<M, S::F32> {
    #[inline(always)]
    fn apply(self, s: S, x: S::F32, column: usize) -> S::F32 {
        s.mul_at_least(self.exp.apply(s, x, column), self.scale, self.least)
    }
}

impl<S: Simd, M: Map<S>> Map<S> for Shifted<M, S::F32> {
    #[inline(always)]
    fn apply(self, s: S, x: S::F32, column: usize) -> S::F32 {
        let difference = s.sub(self.scaled.apply(s, x, column), self.shift);
        s.zero_below(difference, s.splat(f32::MIN_POSITIVE))
    }
}

impl<S: Simd, M: Map<S>> Map<S> for ShiftedByWeights<'_, M, S::F32> {
    #[inline(always)]
    fn apply(self, s: S, x: S::F32, column: usize) -> S::F32 {
        let shift = s.mul(s.load(vector_at(self.weights, column)), self.shift_scale);
        let difference = s.sub(self.scaled.apply(s, x, column), shift);
        s.zero_below(difference, s.splat(f32::MIN_POSITIVE))
    }
}

#[inline(always)]
fn run<S: Simd, M: Map<S>>(s: S, columns: Columns<'_>, map: M) {
    match columns {
        Columns::Between(from, to) => between::<_, _, false>(s, from, to, 0, map),
        Columns::Streaming(from, to) => {
            // Whole cache lines from the first line boundary on.
            let ahead = to.as_ptr().addr().wrapping_neg() % 64 / size_of::<f32>();
            let ahead = ahead.min(to.len());
            let (from_head, from_rest) = from.split_at(ahead);
            let (to_head, to_rest) = to.split_at_mut(ahead);
            between::<_, _, false>(s, from_head, to_head, 0, map);
            between::<_, _, true>(s, from_rest, to_rest, ahead, map);
            s.fence();
        }
        Columns::InPlace(x) => {
            let (vectors, rest) = x.as_chunks_mut::<LANES>();
            let rest_start = vectors.len() * LANES;
            for (index, x) in vectors.iter_mut().enumerate() {
                s.store(map.apply(s, s.load(x), index * LANES), x);
            }
            if !rest.is_empty() {
                s.store_partial(map.apply(s, s.load_partial(rest, 0.0), rest_start), rest);
            }
        }
    }
}

#[inline(always)]
fn between<S: Simd, M: Map<S>, const STREAM: bool>(s: S, from: &[f32], to: &mut [f32], start: usize, map: M) {
    let (vectors, rest) = from.as_chunks::<LANES>();
    let (vectors_out, rest_out) = to.as_chunks_mut::<LANES>();
    for (index, (x, out)) in vectors.iter().zip(vectors_out).enumerate() {
        let y = map.apply(s, s.load(x), start + index * LANES);
        if STREAM { s.stream(y, out) } else { s.store(y, out) }
    }
    if !rest.is_empty() {
        let y = map.apply(s, s.load_partial(rest, 0.0), start + vectors.len() * LANES);
        s.store_partial(y, rest_out);
    }
}
