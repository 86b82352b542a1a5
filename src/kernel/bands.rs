//! The output of many classes in planes: one plane after the other, over a band of positions whose scalars are known.
//!
//! Exponentials are computed once more, from logits that are in the caches still. That the classes come one by one, and
//! not the positions, lets several threads take some planes each: an output's planes are apart in memory, its positions
//! are not.

use core::ops::Range;

use super::exp;
use super::gaps::Gaps;
use super::lanes::NO_CLASS;
use super::number::Number;
use super::place::{Between, InPlace, Place};
use super::planes::Fill;
use super::results::CoefficientLanes;
use super::side_by_side::{affine, marked};
use super::transform::{Transformation, with_transformation};
use crate::loss::Transform;
use crate::simd::{LANES, Simd, Task};

/// What an output needs of 16 positions.
#[derive(Clone, Debug)]
pub(crate) struct Scalars {
    pub(crate) class: [usize; LANES],
    /// What exponentials are relative to.
    pub(crate) reference: [f32; LANES],
    pub(crate) coefficients: CoefficientLanes,
    pub(crate) fill: Option<Fill>,
}

/// Planes from the first one's first position on.
pub(crate) enum BandPlanes<'a, T = f32> {
    Between { from: &'a [T], from_stride: usize, to: &'a mut [T], to_stride: usize },
    InPlace { x: &'a mut [T], stride: usize },
}

/// An affine function of the exponentials, and the targets' own values.
pub(crate) struct BandTask<'a, T = f32> {
    pub(crate) planes: BandPlanes<'a, T>,
    pub(crate) transform: Option<Transform>,
    /// Whether the output is a gradient, which goes back through the transform.
    pub(crate) is_gradient: bool,
    pub(crate) classes: Range<usize>,
    pub(crate) positions: Range<usize>,
    pub(crate) scalars: &'a [Scalars],
    pub(crate) gaps: Gaps<'a>,
    /// Whether to store past the caches.
    pub(crate) streaming: bool,
}

impl Default for Scalars {
    fn default() -> Self {
        Self {
            class: [NO_CLASS; LANES],
            reference: [0.0; LANES],
            coefficients: CoefficientLanes::default(),
            fill: None,
        }
    }
}

impl<T> BandPlanes<'_, T> {
    /// The first `classes` planes, and the others; there are some.
    fn split_at(self, classes: usize) -> (Self, Self) {
        match self {
            Self::Between { from, from_stride, to, to_stride } => {
                let rest = &from[classes * from_stride..];
                let (to, to_rest) = to.split_at_mut(classes * to_stride);
                (
                    Self::Between { from, from_stride, to, to_stride },
                    Self::Between { from: rest, from_stride, to: to_rest, to_stride },
                )
            }
            Self::InPlace { x, stride } => {
                let (x, rest) = x.split_at_mut(classes * stride);
                (Self::InPlace { x, stride }, Self::InPlace { x: rest, stride })
            }
        }
    }

    /// What is read, and from plane to plane.
    #[inline(always)]
    pub(super) fn from(&self) -> (&[T], usize) {
        match self {
            Self::Between { from, from_stride, .. } => (from, *from_stride),
            Self::InPlace { x, stride } => (x, *stride),
        }
    }

    /// What is written, and from plane to plane.
    #[inline(always)]
    pub(super) fn to(&mut self) -> (&mut [T], usize) {
        match self {
            Self::Between { to, to_stride, .. } => (to, *to_stride),
            Self::InPlace { x, stride } => (x, *stride),
        }
    }
}

impl<T> BandTask<'_, T> {
    /// The first `classes` classes, and the others; there are some.
    pub(crate) fn split_at(self, classes: usize) -> (Self, Self) {
        let (planes, rest) = self.planes.split_at(classes);
        let middle = self.classes.start + classes;
        let positions = self.positions.clone();
        (
            Self { planes, classes: self.classes.start..middle, positions, ..self },
            Self { planes: rest, classes: middle..self.classes.end, ..self },
        )
    }
}

impl<T: Number> Task for BandTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let transform = self.transform;
        with_transformation!(s, transform, f => self.write(s, f));
    }
}

impl<T: Number> BandTask<'_, T> {
    #[inline(always)]
    fn write<S: Simd>(self, s: S, f: impl Transformation<S>) {
        let Self { mut planes, is_gradient, classes, positions, scalars, gaps, streaming, .. } = self;
        for (index, class) in classes.clone().enumerate() {
            match &mut planes {
                BandPlanes::Between { from, from_stride, to, to_stride } => {
                    let from = &from[index * *from_stride..][positions.clone()];
                    let to = &mut to[index * *to_stride..][positions.clone()];
                    if streaming {
                        let place = &mut Between::<true, _, _>(from, to);
                        plane(s, place, class, scalars, gaps, f, is_gradient);
                    } else {
                        let place = &mut Between::<false, _, _>(from, to);
                        plane(s, place, class, scalars, gaps, f, is_gradient);
                    }
                }
                BandPlanes::InPlace { x, stride } => {
                    let x = &mut x[index * *stride..][positions.clone()];
                    plane(s, &mut InPlace(x), class, scalars, gaps, f, is_gradient);
                }
            }
        }
        let (to, stride) = planes.to();
        for (group, scalars) in scalars.iter().enumerate() {
            for lane in 0..LANES.min(positions.len() - group * LANES) {
                let at = positions.start + group * LANES + lane;
                let class = scalars.class[lane];
                if classes.contains(&class) {
                    to[(class - classes.start) * stride + at] =
                        T::from_f32(scalars.coefficients.at_target[lane]);
                }
                if let Some(fill) = &scalars.fill
                    && fill.is_filled[lane]
                {
                    for index in 0..classes.len() {
                        to[index * stride + at] = T::from_f32(fill.value[lane]);
                    }
                }
            }
        }
        if streaming {
            s.fence();
        }
    }
}

/// One plane, four vectors at a time.
#[inline(always)]
fn plane<S: Simd, P: Place>(
    s: S,
    place: &mut P,
    class: usize,
    scalars: &[Scalars],
    gaps: Gaps<'_>,
    f: impl Transformation<S>,
    is_gradient: bool,
) {
    let len = place.from().len();
    let whole = len / LANES;
    let mut group = 0;
    while group + 4 <= whole {
        let from = place.from()[group * LANES..][..4 * LANES].as_chunks::<LANES>().0;
        let four = &scalars[group..group + 4];
        let (mut x, mut d) = ([s.splat(0.0); 4], [s.splat(0.0); 4]);
        for i in 0..4 {
            x[i] = P::From::load(s, &from[i]);
            d[i] = s.sub(f.apply(s, x[i]), s.load(&four[i].reference));
        }
        let mut e = exp::exp_of_each(s, d);
        if gaps.is_live() {
            for i in 0..4 {
                e[i] = marked(s, e[i], d[i]);
            }
        }
        let out = place.to()[group * LANES..][..4 * LANES].as_chunks_mut::<LANES>().0;
        for i in 0..4 {
            let y = affine(s, e[i], class, gaps, &four[i].coefficients);
            P::store(s, if is_gradient { f.back(s, x[i], y) } else { y }, &mut out[i]);
        }
        group += 4;
    }
    while group * LANES < len {
        let one = &scalars[group];
        let end = len.min((group + 1) * LANES);
        let x = P::From::load_partial(s, &place.from()[group * LANES..end], 0.0);
        let transformed = f.apply(s, x);
        let mut e = exp::exp(s, s.sub(transformed, s.load(&one.reference)));
        if gaps.is_live() {
            e = marked(s, e, transformed);
        }
        let y = affine(s, e, class, gaps, &one.coefficients);
        let y = if is_gradient { f.back(s, x, y) } else { y };
        P::To::store_partial(s, y, &mut place.to()[group * LANES..end]);
        group += 1;
    }
}
