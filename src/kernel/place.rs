//! Where a pass reads, and where it writes: some columns of a row, or rows of a tile.

use core::ops::Range;

use crate::simd::{LANES, Simd};

/// Where a pass reads and writes.
pub(crate) enum Columns<'a> {
    /// Nothing is written.
    Read(&'a [f32]),
    Between(&'a [f32], &'a mut [f32]),
    /// The same, with stores past the caches. [`Simd::fence`] must follow the last of them.
    Streaming(&'a [f32], &'a mut [f32]),
    InPlace(&'a mut [f32]),
}

/// Consecutive rows in memory, and whatever lies behind them.
pub(crate) struct RowsOf<T> {
    pub(crate) data: T,
    pub(crate) row_stride: usize,
    pub(crate) classes: usize,
    /// Up to 16.
    pub(crate) count: usize,
}

impl Columns<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Read(from) => from.len(),
            Self::Between(_, to) | Self::Streaming(_, to) | Self::InPlace(to) => to.len(),
        }
    }

    /// What the pass reads.
    pub(crate) fn from(&self) -> &[f32] {
        match self {
            Self::Read(from) | Self::Between(from, _) | Self::Streaming(from, _) => from,
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
            Self::InPlace(x) => {
                let (x, rest) = x.split_at_mut(columns);
                (Self::InPlace(x), Self::InPlace(rest))
            }
        }
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
    const WRITES: bool = true;

    /// What has been written in place is no longer what was to be read.
    fn from(&self) -> &[f32];
    /// Nothing, where nothing is written.
    fn to(&mut self) -> &mut [f32];

    #[inline(always)]
    fn store<S: Simd>(s: S, y: S::F32, out: &mut [f32; LANES]) {
        s.store(y, out);
    }
}

pub(super) struct Read<'a>(pub(super) &'a [f32]);
/// With stores past the caches, or without.
pub(super) struct Between<'a, const STREAMING: bool>(pub(super) &'a [f32], pub(super) &'a mut [f32]);
pub(super) struct InPlace<'a>(pub(super) &'a mut [f32]);

impl Place for Read<'_> {
    const WRITES: bool = false;

    #[inline(always)]
    fn from(&self) -> &[f32] {
        self.0
    }

    #[inline(always)]
    fn to(&mut self) -> &mut [f32] {
        &mut []
    }
}

impl<const STREAMING: bool> Place for Between<'_, STREAMING> {
    #[inline(always)]
    fn from(&self) -> &[f32] {
        self.0
    }

    #[inline(always)]
    fn to(&mut self) -> &mut [f32] {
        self.1
    }

    #[inline(always)]
    fn store<S: Simd>(s: S, y: S::F32, out: &mut [f32; LANES]) {
        if STREAMING { s.stream(y, out) } else { s.store(y, out) }
    }
}

impl Place for InPlace<'_> {
    #[inline(always)]
    fn from(&self) -> &[f32] {
        self.0
    }

    #[inline(always)]
    fn to(&mut self) -> &mut [f32] {
        self.0
    }
}
