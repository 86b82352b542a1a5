//! Classes in planes: neighbouring positions are neighbours in memory, and a position's logits lie a plane apart.
//!
//! So 16 positions are one vector in each plane, and lie side by side without a transposition. A tile of several times
//! 16 positions is taken at once, because what is next to each other in a plane shares its cache lines, its page and the
//! CPU's guess of what comes next:
//!
//! ```text
//! load            tile of 16 KiB: for each class, a run of positions
//! 16 positions    maximum, exponentials in the place of the logits, their sum; scalars; the output in their place
//! store           for each class, a run of positions
//! ```
//!
//! While a tile is loaded, the next one is fetched. The planes themselves are read once: they often are a power of two
//! apart, where all that is at one position falls into the same few lines of a cache, and what is read twice is read from
//! the tile.
//!
//! Exponentials of more than [`MOST`] classes do not fit a tile. These come in blocks of classes, and once more for the
//! output: see `planes/bands.rs`.

use core::ops::Range;

use super::gaps::Gaps;
use super::lanes::RowLanes;
use super::number::Number;
use super::results::CoefficientLanes;
use super::side_by_side::{self, Vectors, affine, marked};
use super::transform::{Capped, Plain, Transformation, with_transformation};
use super::{exp, vector_at};
use crate::loss::Transform;
use crate::simd::{LANES, Simd, Task};

/// Exponentials of so many classes are kept.
pub(crate) const MOST: usize = 128;

/// Vectors of a tile.
pub(crate) const TILE: usize = 256;

/// Positions of each of an image's planes, to write.
pub(crate) struct PlaneSlices<'a, T = f32> {
    planes: [&'a mut [T]; MOST],
    classes: usize,
}

/// Positions of each of an image's planes, to read.
#[derive(Clone, Copy)]
pub(crate) enum PlanesFrom<'a, 'b, T = f32> {
    /// From the first position of the first class on, and from class to class.
    Memory(&'a [T], usize),
    Slices(&'a PlaneSlices<'b, T>),
}

impl<'a, T> PlaneSlices<'a, T> {
    /// Planes that start `class_stride` apart.
    pub(crate) fn new(data: &'a mut [T], classes: usize, positions: usize, class_stride: usize) -> Self {
        let mut planes = no_planes();
        let mut rest = data;
        for (class, plane) in planes[..classes].iter_mut().enumerate() {
            let (first, others) = core::mem::take(&mut rest).split_at_mut(positions);
            *plane = first;
            // The last plane needs no padding behind it.
            let padding = if class + 1 < classes { class_stride - positions } else { 0 };
            rest = &mut others[padding..];
        }
        Self { planes, classes }
    }

    /// Keeps the positions before `at`, and returns the others.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let mut planes = no_planes();
        for class in 0..self.classes {
            let (first, rest) = core::mem::take(&mut self.planes[class]).split_at_mut(at);
            (self.planes[class], planes[class]) = (first, rest);
        }
        Self { planes, classes: self.classes }
    }
}

fn no_planes<'a, T>() -> [&'a mut [T]; MOST] {
    [(); MOST].map(|()| -> &mut [T] { &mut [] })
}

impl<'a, T> PlanesFrom<'a, '_, T> {
    /// The logits of one class at some positions.
    #[inline(always)]
    pub(crate) fn plane(self, class: usize, positions: Range<usize>) -> &'a [T] {
        match self {
            Self::Memory(data, class_stride) => &data[class * class_stride..][positions],
            Self::Slices(slices) => &slices.planes[class][positions],
        }
    }
}

/// Brings logits of some classes at some positions, transformed, to a tile: 16 positions after the other, a vector for each
/// class.
pub(crate) struct LoadTask<'a, 'b, T = f32> {
    pub(crate) tile: &'a mut Vectors,
    pub(crate) transform: Option<Transform>,
    pub(crate) from: PlanesFrom<'a, 'b, T>,
    pub(crate) classes: Range<usize>,
    pub(crate) positions: Range<usize>,
}

/// The statistics of 16 positions, as far as the classes of a block add to them.
pub(crate) struct StatisticsTask<'a> {
    /// The logits of a block of classes, which become exponentials.
    pub(crate) vectors: &'a mut Vectors,
    /// The block's first class.
    pub(crate) first: usize,
    /// Only of a block that is the only one: see [`GapsTask`].
    pub(crate) gaps: Gaps<'a>,
    pub(crate) rows: &'a mut RowLanes,
    /// The classes of the largest logits but the targets', where they are wanted.
    pub(crate) largest: Option<&'a mut [usize; LANES]>,
}

/// The gaps of a block of classes below the maximum of all.
pub(crate) struct GapsTask<'a> {
    pub(crate) vectors: &'a mut Vectors,
    pub(crate) first: usize,
    pub(crate) gaps: Gaps<'a>,
    pub(crate) rows: &'a mut RowLanes,
}

/// An affine function of the exponentials in their place, and the targets' own values.
pub(crate) struct AffineTask<'a> {
    pub(crate) vectors: &'a mut Vectors,
    /// Whether they hold logits, and not yet their exponentials.
    pub(crate) are_logits: bool,
    pub(crate) gaps: Gaps<'a>,
    pub(crate) coefficients: &'a CoefficientLanes,
    pub(crate) rows: &'a RowLanes,
    /// One value for all classes, where a position has no other.
    pub(crate) fill: Option<&'a Fill>,
}

/// What positions hold that do not count, or have no softmax.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fill<L = f32> {
    pub(crate) is_filled: [bool; LANES],
    pub(crate) value: [L; LANES],
}

/// The reverse of [`LoadTask`].
pub(crate) struct StoreTask<'a, 'b, T = f32> {
    pub(crate) tile: &'a Vectors,
    /// Of the logits, where the output is their gradient.
    pub(crate) transform: Option<Transform>,
    /// Them; none where the output is in their place.
    pub(crate) logits: Option<PlanesFrom<'a, 'a, T>>,
    pub(crate) to: &'a mut PlaneSlices<'b, T>,
    pub(crate) positions: Range<usize>,
    /// Whether to store past the caches.
    pub(crate) streaming: bool,
}

impl<T: Number> Task for LoadTask<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let transform = self.transform;
        with_transformation!(s, transform, f => self.load(s, f));
    }
}

impl<T: Number> LoadTask<'_, '_, T> {
    #[inline(always)]
    fn load<S: Simd>(self, s: S, f: impl Transformation<S>) {
        let Self { tile, from, classes, positions, .. } = self;
        let count = classes.len();
        for (index, class) in classes.enumerate() {
            let plane = from.plane(class, positions.clone());
            let (vectors, rest) = plane.as_chunks::<LANES>();
            for (group, x) in vectors.iter().enumerate() {
                s.prefetch(plane.as_ptr().wrapping_add(plane.len() + group * LANES));
                s.store(f.apply(s, T::load(s, x)), &mut tile[group * count + index]);
            }
            if !rest.is_empty() {
                let x = T::load_partial(s, rest, 0.0);
                s.store(f.apply(s, x), &mut tile[vectors.len() * count + index]);
            }
        }
    }
}

impl Task for StatisticsTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { vectors, first, gaps, rows, largest } = self;
        let before = rows.max;
        side_by_side::take_targets(vectors, first, rows);
        let reference = side_by_side::maximum(s, vectors, first, rows);
        if let Some(largest) = largest {
            let found = side_by_side::first_largest(vectors, rows);
            for lane in 0..LANES {
                if first == 0 || rows.max[lane] > before[lane] {
                    largest[lane] = first + found[lane] as usize;
                }
            }
        }
        side_by_side::gaps(s, vectors, first, gaps, reference, rows);
        side_by_side::exponentials(s, vectors, gaps, reference, rows);
    }
}

impl Task for GapsTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { vectors, first, gaps, rows } = self;
        let reference = s.max(s.splat(f32::MIN), s.load(&rows.max));
        side_by_side::gaps(s, vectors, first, gaps, reference, rows);
    }
}

impl Task for AffineTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { vectors, are_logits, gaps, coefficients, rows, fill } = self;
        if are_logits {
            let reference = s.max(s.splat(f32::MIN), s.load(&rows.max));
            for x in vectors.iter_mut() {
                let logits = s.load(x);
                let e = exp::exp(s, s.sub(logits, reference));
                s.store(if gaps.is_live() { marked(s, e, logits) } else { e }, x);
            }
        }
        for (class, x) in vectors.iter_mut().enumerate() {
            s.store(affine(s, s.load(x), class, gaps, coefficients), x);
        }
        side_by_side::set_targets(vectors, 0, rows, &coefficients.at_target);
        if let Some(fill) = fill {
            for x in vectors {
                for lane in 0..LANES {
                    x[lane] = if fill.is_filled[lane] { fill.value[lane] } else { x[lane] };
                }
            }
        }
    }
}

impl<T: Number> Task for StoreTask<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.transform {
            Some(Transform::Softcap { factor, cap }) => {
                self.store(s, Some(Capped { factor: s.splat(factor), cap: s.splat(cap) }));
            }
            _ => self.store(s, None::<Plain>),
        }
    }
}

impl<T: Number> StoreTask<'_, '_, T> {
    #[inline(always)]
    fn store<S: Simd>(self, s: S, back: Option<impl Transformation<S>>) {
        let Self { tile, logits, to, positions, streaming, .. } = self;
        let count = to.classes;
        for (class, plane) in to.planes[..count].iter_mut().enumerate() {
            let plane = &mut plane[positions.clone()];
            let logits = logits.filter(|_| back.is_some()).map(|from| from.plane(class, positions.clone()));
            let (vectors, rest) = plane.as_chunks_mut::<LANES>();
            let whole = vectors.len();
            for (group, out) in vectors.iter_mut().enumerate() {
                let mut y = s.load(&tile[group * count + class]);
                if let Some(back) = back {
                    let x = match logits {
                        Some(logits) => T::load(s, vector_at(logits, group * LANES)),
                        None => T::load(s, out),
                    };
                    y = back.back(s, x, y);
                }
                if streaming {
                    T::stream(s, y, out);
                } else {
                    T::store(s, y, out);
                }
            }
            if !rest.is_empty() {
                let mut y = s.load(&tile[whole * count + class]);
                if let Some(back) = back {
                    let x = logits.map_or(&*rest, |logits| &logits[whole * LANES..]);
                    y = back.back(s, T::load_partial(s, x, 0.0), y);
                }
                T::store_partial(s, y, rest);
            }
        }
    }
}
