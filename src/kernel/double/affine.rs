//! The second pass over a row of `f64`: gradients and probabilities are affine functions of the exponentials. And the
//! log-probabilities.

use super::exp::{self, exp_of_four};
use super::place::Place;
use super::scalar::normal_or_zero;
use super::statistics::live_only;
use super::transform::{LEAST, TransformTask};
use super::{GROUP, Load, Plain, group, group_without};
use crate::kernel::Entry;
use crate::kernel::gaps::Gaps;
use crate::kernel::place::{Adding, Between, Columns, InPlace};
use crate::kernel::real::Real;
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
    pub(crate) weights: Gaps<'a, f64>,
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
    let scale = f64::round_to_finite(scale);
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
            None => run(s, columns, Loaded(Plain), affine, target),
            Some(transform) => s.vectorize(Transformed { columns, transform, is_gradient, affine, target }),
        }
    }
}

/// The same, of transformed logits: a function of its own, for the other to stay as it is without.
struct Transformed<'a> {
    columns: Columns<'a, f64>,
    transform: Transform<f64>,
    is_gradient: bool,
    affine: Affine<'a>,
    target: Entry<f64>,
}

impl Task for Transformed<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { columns, transform, is_gradient, affine, target } = self;
        if is_gradient && transform.has_slopes() {
            run(s, columns, WithSlopes(transform), affine, target);
        } else {
            run(s, columns, Loaded(transform), affine, target);
        }
    }
}

impl Task for LogProbabilitiesTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { columns, transform, max, ln_sum, target } = self;
        let difference = Difference { max, ln_sum };
        match transform {
            None => run(s, columns, Loaded(Plain), difference, target),
            Some(transform) => run(s, columns, Loaded(transform), difference, target),
        }
    }
}

/// What a function of the logits is applied to, and what becomes of its values.
trait Source: Copy {
    /// Of a whole group.
    fn apply<S: Simd, M: Map<S>>(self, s: S, map: M, x: &[f64], at: usize) -> [S::F64; 4];
    /// Of the columns from `at` on, less than a group.
    fn apply_to_rest<S: Simd, M: Map<S>>(self, s: S, map: M, x: &[f64], at: usize) -> [S::F64; 4];
}

/// The logits as they are read.
#[derive(Clone, Copy)]
struct Loaded<L>(L);

impl<L: Load> Source for Loaded<L> {
    #[inline(always)]
    fn apply<S: Simd, M: Map<S>>(self, s: S, map: M, x: &[f64], at: usize) -> [S::F64; 4] {
        map.apply(s, group(s, x, at, self.0), at)
    }

    #[inline(always)]
    fn apply_to_rest<S: Simd, M: Map<S>>(self, s: S, map: M, x: &[f64], at: usize) -> [S::F64; 4] {
        map.apply(s, group_without(s, x, at, self.0, Entry::NONE), at)
    }
}

/// The transformed logits; and the values go back, multiplied by the transform's derivatives.
#[derive(Clone, Copy)]
struct WithSlopes(Transform<f64>);

impl Source for WithSlopes {
    #[inline(always)]
    fn apply<S: Simd, M: Map<S>>(self, s: S, map: M, x: &[f64], at: usize) -> [S::F64; 4] {
        let from = &x[at..x.len().min(at + GROUP)];
        // Behind the columns, what nobody stores.
        let (mut to, mut slopes) = ([0.0; GROUP], [0.0; GROUP]);
        let (transformed, of_columns) = (&mut to[..from.len()], &mut slopes[..from.len()]);
        s.vectorize(TransformTask { transform: self.0, from, to: transformed, slopes: of_columns });
        let mut y = map.apply(s, group(s, &to, 0, Plain), at);
        let slopes = group(s, &slopes, 0, Plain);
        for i in 0..4 {
            y[i] = s.zero_below_f64(s.mul_f64(y[i], slopes[i]), s.splat_f64(LEAST));
        }
        y
    }

    #[inline(always)]
    fn apply_to_rest<S: Simd, M: Map<S>>(self, s: S, map: M, x: &[f64], at: usize) -> [S::F64; 4] {
        self.apply(s, map, x, at)
    }
}

/// All columns but the target's, which gets its own value afterwards.
#[inline(always)]
fn run<S: Simd, M: Map<S>>(s: S, columns: Columns<'_, f64>, source: impl Source, map: M, target: Entry<f64>) {
    let column = target.index();
    match columns {
        Columns::Read(_) => {}
        Columns::Between(from, to) | Columns::Streaming(from, to) => {
            let from = &from[..to.len()];
            each_group(s, &mut Between::<false, _, _>(from, to), source, map);
            if let Some(out) = to.get_mut(column) {
                *out = target.value;
            }
        }
        Columns::Adding(from, to) => {
            let from = &from[..to.len()];
            let before = to.get(column).copied().unwrap_or_default();
            each_group(s, &mut Adding(from, to), source, map);
            if let Some(out) = to.get_mut(column) {
                *out = normal_or_zero(before + target.value);
            }
        }
        Columns::InPlace(x) => {
            each_group(s, &mut InPlace(x), source, map);
            if let Some(out) = x.get_mut(column) {
                *out = target.value;
            }
        }
    }
}

#[inline(always)]
fn each_group<S: Simd, M: Map<S>, P: Place>(s: S, place: &mut P, source: impl Source, map: M) {
    let len = place.from().len();
    let whole = len / GROUP * GROUP;
    for at in (0..whole).step_by(GROUP) {
        let y = source.apply(s, map, place.from(), at);
        let out = place.to()[at..at + GROUP].as_chunks_mut::<LANES>().0;
        for i in 0..4 {
            P::store(s, y[i], &mut out[i]);
        }
    }
    if whole < len {
        let y = source.apply_to_rest(s, map, place.from(), whole);
        let out = &mut place.to()[whole..];
        for i in 0..4 {
            let start = (i * LANES).min(out.len());
            P::store_partial(s, y[i], &mut out[start..]);
        }
    }
}
