//! Where a pass reads, and where it writes: some columns of a row, or rows of a tile.

use core::ops::{Deref, Range};

use super::number::Number;
use crate::simd::{LANES, Simd};

/// Where a pass reads `F`, and writes `T`.
pub(crate) enum Columns<'a, F = f32, T = F> {
    /// Nothing is written.
    Read(&'a [F]),
    Between(&'a [F], &'a mut [T]),
    /// The same, with stores past the caches. [`Memory::fence`](crate::simd::Memory::fence) must follow the last of them.
    Streaming(&'a [F], &'a mut [T]),
    /// What is written is added to what is there.
    Adding(&'a [F], &'a mut [T]),
    InPlace(&'a mut [F]),
}

/// Consecutive rows in memory, and whatever lies behind them.
pub(crate) struct RowsOf<T> {
    pub(crate) data: T,
    pub(crate) row_stride: usize,
    pub(crate) classes: usize,
    /// Up to 16.
    pub(crate) count: usize,
}

impl<F, T> Columns<'_, F, T> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Read(from) => from.len(),
            Self::Between(_, to) | Self::Streaming(_, to) | Self::Adding(_, to) => to.len(),
            Self::InPlace(x) => x.len(),
        }
    }

    /// What the pass reads.
    pub(crate) fn from(&self) -> &[F] {
        match self {
            Self::Read(from) | Self::Between(from, _) | Self::Streaming(from, _) | Self::Adding(from, _) => {
                from
            }
            Self::InPlace(x) => x,
        }
    }

    /// The first `columns` columns, and the others.
    pub(crate) fn split_at(self, columns: usize) -> (Self, Self) {
        match self {
            Self::Read(from) => {
                let (from, rest) = from.split_at(columns);
                (Self::Read(from), Self::Read(rest))
            }
            Self::Between(from, to) => {
                let ((from, from_rest), (to, to_rest)) = (from.split_at(columns), to.split_at_mut(columns));
                (Self::Between(from, to), Self::Between(from_rest, to_rest))
            }
            Self::Streaming(from, to) => {
                let ((from, from_rest), (to, to_rest)) = (from.split_at(columns), to.split_at_mut(columns));
                (Self::Streaming(from, to), Self::Streaming(from_rest, to_rest))
            }
            Self::Adding(from, to) => {
                let ((from, from_rest), (to, to_rest)) = (from.split_at(columns), to.split_at_mut(columns));
                (Self::Adding(from, to), Self::Adding(from_rest, to_rest))
            }
            Self::InPlace(x) => {
                let (x, rest) = x.split_at_mut(columns);
                (Self::InPlace(x), Self::InPlace(rest))
            }
        }
    }
}

impl<D: Deref<Target = [T]>, T> RowsOf<D> {
    /// All of a slice.
    pub(crate) fn one(data: D) -> Self {
        let classes = data.len();
        Self { data, row_stride: classes, classes, count: 1 }
    }
}

impl<T> RowsOf<T> {
    /// Where a row is.
    #[inline(always)]
    pub(super) fn columns(&self, row: usize) -> Range<usize> {
        let start = row * self.row_stride;
        start..start + self.classes
    }
}

/// [`Columns`], one type each, so that a pass that writes nothing has no trace of it.
pub(super) trait Place {
    type From: Number;
    type To: Number;

    const WRITES: bool = true;

    /// What has been written in place is no longer what was to be read.
    fn from(&self) -> &[Self::From];
    /// Nothing, where nothing is written.
    fn to(&mut self) -> &mut [Self::To];

    #[inline(always)]
    fn store<S: Simd>(s: S, y: S::F32, out: &mut [Self::To; LANES]) {
        Self::To::store(s, y, out);
    }

    /// [`Place::store`] of up to 16 lanes.
    #[inline(always)]
    fn store_partial<S: Simd>(s: S, y: S::F32, out: &mut [Self::To]) {
        Self::To::store_partial(s, y, out);
    }
}

pub(super) struct Read<'a, F>(pub(super) &'a [F]);
/// With stores past the caches, or without.
pub(super) struct Between<'a, const STREAMING: bool, F, T>(pub(super) &'a [F], pub(super) &'a mut [T]);
pub(super) struct Adding<'a, F, T>(pub(super) &'a [F], pub(super) &'a mut [T]);
pub(super) struct InPlace<'a, F>(pub(super) &'a mut [F]);

impl<F: Number> Place for Read<'_, F> {
    type From = F;
    type To = F;

    const WRITES: bool = false;

    #[inline(always)]
    fn from(&self) -> &[F] {
        self.0
    }

    #[inline(always)]
    fn to(&mut self) -> &mut [F] {
        &mut []
    }
}

impl<const STREAMING: bool, F: Number, T: Number> Place for Between<'_, STREAMING, F, T> {
    type From = F;
    type To = T;

    #[inline(always)]
    fn from(&self) -> &[F] {
        self.0
    }

    #[inline(always)]
    fn to(&mut self) -> &mut [T] {
        self.1
    }

    #[inline(always)]
    fn store<S: Simd>(s: S, y: S::F32, out: &mut [T; LANES]) {
        if STREAMING { T::stream(s, y, out) } else { T::store(s, y, out) }
    }
}

impl<F: Number, T: Number> Place for Adding<'_, F, T> {
    type From = F;
    type To = T;

    #[inline(always)]
    fn from(&self) -> &[F] {
        self.0
    }

    #[inline(always)]
    fn to(&mut self) -> &mut [T] {
        self.1
    }

    #[inline(always)]
    fn store<S: Simd>(s: S, y: S::F32, out: &mut [T; LANES]) {
        let sum = s.add(T::load(s, out), y);
        T::store(s, s.zero_below(sum, s.splat(f32::MIN_POSITIVE)), out);
    }

    #[inline(always)]
    fn store_partial<S: Simd>(s: S, y: S::F32, out: &mut [T]) {
        let sum = s.add(T::load_partial(s, out, 0.0), y);
        T::store_partial(s, s.zero_below(sum, s.splat(f32::MIN_POSITIVE)), out);
    }
}

impl<F: Number> Place for InPlace<'_, F> {
    type From = F;
    type To = F;

    #[inline(always)]
    fn from(&self) -> &[F] {
        self.0
    }

    #[inline(always)]
    fn to(&mut self) -> &mut [F] {
        self.0
    }
}
