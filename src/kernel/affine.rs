//! The second pass: gradients and probabilities are affine functions of the exponentials.

use super::gaps::{Distribution, Gaps, live_only};
use super::map::{Exp, Identity, Map, Scaled, each_vector, run};
use super::number::Number;
use super::place::{Adding, Columns};
use super::real::Real;
use super::{Entry, exp, vector_at};
use crate::simd::{Simd, Task};

/// scale exp(x - reference) - shift: the gradient of every loss, away from the target; without a shift, the probabilities.
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
    /// `scale * weights[c]` for class c. At least 16 zeros follow the last.
    Weighted {
        weights: &'a [f32],
        scale: f32,
    },
    /// As [`Shift::Equal`] and [`Shift::Weighted`], but all is 0 where the logit is -inf. Exponentials do not tell: only
    /// from logits.
    LiveEqual(f32),
    LiveWeighted {
        weights: &'a [f32],
        scale: f32,
    },
    /// What the classes of a [scaled](super::gaps::Weighing::scaled) distribution weigh; only from logits as well.
    Distribution(Distribution<'a>),
}

impl<'a> Affine<'a> {
    #[inline(always)]
    pub(crate) fn new(scale: f64, shift: Shift<'a>) -> Self {
        let (scale, least) = scale_and_least(scale);
        Self { scale, least, shift }
    }

    #[inline(always)]
    fn scaled<S: Simd, M>(&self, s: S, exp: M) -> Scaled<M, S::F32> {
        Scaled { exp, scale: s.splat(self.scale), least: s.splat(self.least) }
    }
}

/// [`Affine`]'s, for a scale that `f32` may not hold.
#[inline(always)]
pub(crate) fn scale_and_least(scale: f64) -> (f32, f32) {
    let scale = f32::round_to_finite(scale);
    // The least exponential whose product with the scale is a normal number. The factor keeps it one after rounding.
    const SMALLEST: f64 = f32::MIN_POSITIVE as f64 * (1.0 + 1.0 / 4_194_304.0);
    let least = (SMALLEST / f64::from(scale.abs())) as f32;
    let least = if least < exp::LEAST { exp::LEAST } else { least };
    (scale, if scale == 0.0 { f32::NAN } else { least })
}

impl<'a> Shift<'a> {
    /// What is subtracted of the classes that have such gaps.
    #[inline(always)]
    pub(crate) fn new(gaps: Gaps<'a>, shift: f32) -> Self {
        match gaps {
            Gaps::None => Self::None,
            Gaps::Equal => Self::Equal(shift),
            Gaps::Weighted(weights) => Self::Weighted { weights, scale: shift },
            Gaps::LiveEqual => Self::LiveEqual(shift),
            Gaps::LiveWeighted(weights) => Self::LiveWeighted { weights, scale: shift },
            // Those are scaled before they are rounded, by `Weighing::scaled`.
            Gaps::Distribution(_) => Self::Equal(f32::NAN),
        }
    }
}

impl Shift<'_> {
    /// The same with another scale. A distribution has its own.
    #[inline(always)]
    pub(crate) fn with_scale(self, scale: f32) -> Self {
        match self {
            Self::None => Self::None,
            Self::Equal(_) => Self::Equal(scale),
            Self::Weighted { weights, .. } => Self::Weighted { weights, scale },
            Self::LiveEqual(_) => Self::LiveEqual(scale),
            Self::LiveWeighted { weights, .. } => Self::LiveWeighted { weights, scale },
            Self::Distribution(_) => self,
        }
    }

    /// The same of the columns from `column` on.
    pub(crate) fn starting_at(self, column: usize) -> Self {
        match self {
            Self::Weighted { weights, scale } => Self::Weighted { weights: &weights[column..], scale },
            Self::LiveWeighted { weights, scale } => {
                Self::LiveWeighted { weights: &weights[column..], scale }
            }
            Self::Distribution(distribution) => Self::Distribution(distribution.from(column)),
            shift => shift,
        }
    }
}

/// [`Affine`] of logits.
#[inline(always)]
pub(crate) fn affine_of_logits<S: Simd, F: Number, T: Number>(
    s: S,
    columns: Columns<'_, F, T>,
    reference: f32,
    affine: Affine<'_>,
    target: Entry,
) {
    match (columns, affine.shift) {
        (Columns::Adding(from, to), _) => s.vectorize(AddTask { from, to, reference, affine, target }),
        (columns, Shift::None) => run(s, columns, affine.scaled(s, Exp::new(s, reference)), target),
        (columns, _) => s.vectorize(ShiftTask { columns, reference: Some(reference), affine, target }),
    }
}

/// [`Affine`] where the exponentials are there already.
#[inline(always)]
pub(crate) fn affine_of_exps<S: Simd, F: Number, T: Number>(
    s: S,
    columns: Columns<'_, F, T>,
    affine: Affine<'_>,
    target: Entry,
) {
    match affine.shift {
        Shift::None => scaled_exps(s, columns, affine.scale, affine.least, target),
        _ => s.vectorize(ShiftTask { columns, reference: None, affine, target }),
    }
}

/// The same without a shift.
#[inline(always)]
pub(crate) fn scaled_exps<S: Simd, F: Number, T: Number>(
    s: S,
    columns: Columns<'_, F, T>,
    scale: f32,
    least: f32,
    target: Entry,
) {
    run(s, columns, Scaled { exp: Identity, scale: s.splat(scale), least: s.splat(least) }, target);
}

/// The same with a shift.
#[inline(always)]
pub(crate) fn shifted_exps<S: Simd, F: Number, T: Number>(
    s: S,
    columns: Columns<'_, F, T>,
    affine: Affine<'_>,
    target: Entry,
) {
    s.vectorize(ShiftTask { columns, reference: None, affine, target });
}

/// [`affine_of_logits`], added to what is there. Tasks are functions of their own: with all that is rare in one function,
/// it would take minutes to compile.
struct AddTask<'a, F, T> {
    from: &'a [F],
    to: &'a mut [T],
    reference: f32,
    affine: Affine<'a>,
    target: Entry,
}

/// [`Affine`] with a shift, of logits where they have a reference, else of exponentials.
struct ShiftTask<'a, F, T> {
    columns: Columns<'a, F, T>,
    reference: Option<f32>,
    affine: Affine<'a>,
    target: Entry,
}

impl<F: Number, T: Number> Task for AddTask<'_, F, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { from, to, reference, affine, target } = self;
        let place = &mut Adding(&from[..to.len()], to);
        let scaled = affine.scaled(s, Exp::new(s, reference));
        each_vector(s, place, 0, AnyShift { scaled, shift: affine.shift }, target);
    }
}

impl<F: Number, T: Number> Task for ShiftTask<'_, F, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { columns, reference, affine, target } = self;
        let shift = affine.shift;
        match reference {
            Some(reference) => {
                let scaled = affine.scaled(s, Exp::new(s, reference));
                run(s, columns, AnyShift { scaled, shift }, target);
            }
            None => {
                let scaled = affine.scaled(s, Identity);
                match shift {
                    Shift::Equal(shift) => {
                        run(s, columns, EqualShift { scaled, shift: s.splat(shift) }, target)
                    }
                    shift => run(s, columns, AnyShift { scaled, shift }, target),
                }
            }
        }
    }
}

/// [`Shift::Equal`], of which there is most.
#[derive(Clone, Copy)]
struct EqualShift<M, V> {
    scaled: M,
    shift: V,
}

impl<S: Simd, M: Map<S>> Map<S> for EqualShift<M, S::F32> {
    const TAKES_FOUR: bool = M::TAKES_FOUR;

    #[inline(always)]
    fn apply(self, s: S, x: S::F32, column: usize) -> S::F32 {
        let difference = s.sub(self.scaled.apply(s, x, column), self.shift);
        s.zero_below(difference, s.splat(f32::MIN_POSITIVE))
    }
}

/// Whatever is subtracted, decided anew for each vector: one loop to compile instead of one for each shift.
#[derive(Clone, Copy)]
struct AnyShift<'a, M> {
    scaled: M,
    shift: Shift<'a>,
}

impl<S: Simd, M: Map<S>> Map<S> for AnyShift<'_, M> {
    const TAKES_FOUR: bool = false;

    #[inline(always)]
    fn apply(self, s: S, x: S::F32, column: usize) -> S::F32 {
        let scaled = self.scaled.apply(s, x, column);
        let shift = match self.shift {
            Shift::None => return scaled,
            Shift::Equal(shift) | Shift::LiveEqual(shift) => s.splat(shift),
            Shift::Weighted { weights, scale } | Shift::LiveWeighted { weights, scale } => {
                s.mul(s.load(vector_at(weights, column)), s.splat(scale))
            }
            Shift::Distribution(distribution) => distribution.load(s, column),
        };
        let difference = s.zero_below(s.sub(scaled, shift), s.splat(f32::MIN_POSITIVE));
        let is_live = matches!(self.shift, Shift::LiveEqual(_) | Shift::LiveWeighted { .. });
        if is_live { live_only(s, x, difference) } else { difference }
    }
}
