//! The second pass over a row of `f64`: gradients and probabilities are affine functions of the exponentials. And the
//! log-probabilities.

use super::exp::{self, exp_of_four};
use super::place::Place;
use super::scalar::normal_or_zero;
use super::statistics::live_only;
use super::transform::{LEAST, SlopesTask};
use super::{GROUP, Load, Plain, group, group_without};
use crate::kernel::Entry;
use crate::kernel::gaps::Gaps;
use crate::kernel::place::{Adding, Between, Columns, InPlace};
use crate::loss::Transform;
use crate::simd::{LANES, Simd, Task};

/// scale exp(x - max) - shift w of all columns but the target's.
pub(crate) struct AffineTask<'a> {
    pub(crate) columns: Columns<'a, f64>,
    /// Of logits, not of exponentials.
    pub(crate) transform: Option<Transform<f64>>,
    /// Whether it is a gradient, which goes back through the transform.
    pub(crate) is_gradient: bool,
    pub(crate) affine: Affine<'a>,
    /// As it is written.
    pub(crate) target: Entry<f64>,
}

#[derive(Clone, Copy)]
pub(crate) struct Affine<'a> {
    /// The largest logit but the target's; where the columns hold exponentials, nothing.
    pub(crate) max: Option<f64>,
    pub(crate) scale: f64,
    /// Exponentials below it count as 0: their product with `scale` would be subnormal. NaN: all do.
    pub(crate) least: f64,
    /// What is subtracted, of classes that weigh something.
    pub(crate) shift: f64,
    pub(crate) weights: Gaps<'a>,
}

/// (x - max) - ln_sum of all columns but the target's.
pub(crate) struct LogProbabilitiesTask<'a> {
    pub(crate) columns: Columns<'a, f64>,
    pub(crate) transform: Option<Transform<f64>>,
    pub(crate) max: f64,
    pub(crate) ln_sum: f64,
    pub(crate) target: Entry<f64>,
}

/// [`Affine`]'s.
#[inline(always)]
pub(crate) fn scale_and_least(scale: f64) -> (f64, f64) {
    // Finite, so that its product with 0 is 0.
    let scale = normal_or_zero(scale.clamp(-f64::MAX, f64::MAX));
    // The least exponential whose product with the scale is a normal number. The factor keeps it one after rounding.
    const SMALLEST: f64 = f64::MIN_POSITIVE * (1.0 + 4.0 * f64::EPSILON);
    let least = SMALLEST / scale.abs();
    let least = if least < exp::LEAST { exp::LEAST } else { least };
    (scale, if scale == 0.0 { f64::NAN } else { least })
}

/// A function of neighbouring columns, four vectors at a time.
trait Map<S: Simd>: Copy {
    fn apply(self, s: S, x: [S::F64; 4], column: usize) -> [S::F64; 4];
}

impl<S: Simd> Map<S> for Affine<'_> {
    #[inline(always)]
    fn apply(self, s: S, x: [S::F64; 4], column: usize) -> [S::F64; 4] {
        let mut y = x;
        if let Some(max) = self.max {
            for i in 0..4 {
                y[i] = s.sub_f64(y[i], s.splat_f64(max));
            }
            y = exp_of_four(s, y);
        }
        for i in 0..4 {
            y[i] = s.mul_at_least_f64(y[i], s.splat_f64(self.scale), s.splat_f64(self.least));
        }
        if matches!(self.weights, Gaps::None) {
            return y;
        }
        for i in 0..4 {
            let weights = self.weights.load_f64(s, column + i * LANES);
            let difference = s.sub_f64(y[i], s.mul_f64(weights, s.splat_f64(self.shift)));
            let normal = s.zero_below_f64(difference, s.splat_f64(f64::MIN_POSITIVE));
            y[i] = if self.weights.is_live() { live_only(s, x[i], normal) } else { normal };
        }
        y
    }
}

#[derive(Clone, Copy)]
struct Difference {
    max: f64,
    ln_sum: f64,
}

impl<S: Simd> Map<S> for Difference {
    #[inline(always)]
    fn apply(self, s: S, mut x: [S::F64; 4], _: usize) -> [S::F64; 4] {
        for i in 0..4 {
            let difference = s.sub_f64(s.sub_f64(x[i], s.splat_f64(self.max)), s.splat_f64(self.ln_sum));
            x[i] = s.zero_below_f64(difference, s.splat_f64(f64::MIN_POSITIVE));
        }
        x
    }
}

impl Task for AffineTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { columns, transform, is_gradient, affine, target } = self;
        match transform {
            None => run(s, columns, Plain, None, affine, target),
            Some(transform) => {
                let slopes = match transform {
                    Transform::Softcap { factor, .. } if is_gradient => Some(factor),
                    _ => None,
                };
                s.vectorize(Transformed { columns, transform, slopes, affine, target });
            }
        }
    }
}

/// The same, of transformed logits: a function of its own, for the other to stay as it is without.
struct Transformed<'a> {
    columns: Columns<'a, f64>,
    transform: Transform<f64>,
    slopes: Option<f64>,
    affine: Affine<'a>,
    target: Entry<f64>,
}

impl Task for Transformed<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { columns, transform, slopes, affine, target } = self;
        run(s, columns, transform, slopes, affine, target);
    }
}

impl Task for LogProbabilitiesTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { columns, transform, max, ln_sum, target } = self;
        let difference = Difference { max, ln_sum };
        match transform {
            None => run(s, columns, Plain, None, difference, target),
            Some(transform) => run(s, columns, transform, None, difference, target),
        }
    }
}

/// Multiplied by the derivatives of up to a group of capped logits.
#[inline(always)]
fn times_slopes<S: Simd>(s: S, mut y: [S::F64; 4], from: &[f64], factor: f64) -> [S::F64; 4] {
    let mut slopes = [0.0; GROUP];
    s.vectorize(SlopesTask { factor, from, to: &mut slopes });
    let slopes = group(s, &slopes, 0, Plain);
    for i in 0..4 {
        y[i] = s.zero_below_f64(s.mul_f64(y[i], slopes[i]), s.splat_f64(LEAST));
    }
    y
}

/// All columns but the target's, which gets its own value afterwards.
#[inline(always)]
fn run<S: Simd, M: Map<S>>(
    s: S,
    columns: Columns<'_, f64>,
    load: impl Load,
    slopes: Option<f64>,
    map: M,
    target: Entry<f64>,
) {
    let column = target.index();
    match columns {
        Columns::Read(_) => {}
        Columns::Between(from, to) | Columns::Streaming(from, to) => {
            let from = &from[..to.len()];
            each_group(s, &mut Between::<false, _, _>(from, to), load, slopes, map);
            if let Some(out) = to.get_mut(column) {
                *out = target.value;
            }
        }
        Columns::Adding(from, to) => {
            let from = &from[..to.len()];
            let before = to.get(column).copied().unwrap_or_default();
            each_group(s, &mut Adding(from, to), load, slopes, map);
            if let Some(out) = to.get_mut(column) {
                *out = normal_or_zero(before + target.value);
            }
        }
        Columns::InPlace(x) => {
            each_group(s, &mut InPlace(x), load, slopes, map);
            if let Some(out) = x.get_mut(column) {
                *out = target.value;
            }
        }
    }
}

/// With `slopes`, the factor of the logits in the derivative that goes with them.
#[inline(always)]
fn each_group<S: Simd, M: Map<S>, P: Place>(
    s: S,
    place: &mut P,
    load: impl Load,
    slopes: Option<f64>,
    map: M,
) {
    let len = place.from().len();
    let whole = len / GROUP * GROUP;
    for at in (0..whole).step_by(GROUP) {
        let mut y = map.apply(s, group(s, place.from(), at, load), at);
        if let Some(factor) = slopes {
            y = times_slopes(s, y, &place.from()[at..at + GROUP], factor);
        }
        let out = place.to()[at..at + GROUP].as_chunks_mut::<LANES>().0;
        for i in 0..4 {
            P::store(s, y[i], &mut out[i]);
        }
    }
    if whole < len {
        let mut y = map.apply(s, group_without(s, place.from(), whole, load, Entry::NONE), whole);
        if let Some(factor) = slopes {
            y = times_slopes(s, y, &place.from()[whole..], factor);
        }
        let out = &mut place.to()[whole..];
        for i in 0..4 {
            let start = (i * LANES).min(out.len());
            P::store_partial(s, y[i], &mut out[start..]);
        }
    }
}
