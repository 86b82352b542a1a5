//! Between memory of 16-bit numbers and rows of `f32`.

use super::number::Number;
use super::place::RowsOf;
use crate::simd::{LANES, Simd, Task};

/// Rows become rows of `f32`, one behind the other.
pub(crate) struct WidenTask<'a, T> {
    pub(crate) rows: RowsOf<&'a [T]>,
    pub(crate) to: &'a mut [f32],
}

/// The reverse of [`WidenTask`], rounded.
pub(crate) struct NarrowTask<'a, T> {
    pub(crate) from: &'a [f32],
    pub(crate) rows: RowsOf<&'a mut [T]>,
}

impl<T> RowsOf<T> {
    /// What can be done in one go: length and number of runs, which are rows where there is something between them.
    #[inline(always)]
    fn runs(&self) -> (usize, usize) {
        let Self { row_stride, classes, count, .. } = *self;
        if row_stride == classes { (count * classes, 1) } else { (classes, count) }
    }
}

impl<T: Number> Task for WidenTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { rows, to } = self;
        let (len, count) = rows.runs();
        for run in 0..count {
            let (from, from_rest) = rows.data[run * rows.row_stride..][..len].as_chunks::<LANES>();
            let (to, to_rest) = to[run * len..][..len].as_chunks_mut::<LANES>();
            for (from, to) in from.iter().zip(to) {
                s.store(T::load(s, from), to);
            }
            s.store_partial(T::load_partial(s, from_rest, 0.0), to_rest);
        }
    }
}

impl<T: Number> Task for NarrowTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { from, rows } = self;
        let (len, count) = rows.runs();
        for run in 0..count {
            let (from, from_rest) = from[run * len..][..len].as_chunks::<LANES>();
            let (to, to_rest) = rows.data[run * rows.row_stride..][..len].as_chunks_mut::<LANES>();
            for (from, to) in from.iter().zip(to) {
                T::store(s, s.load(from), to);
            }
            T::store_partial(s, s.load_partial(from_rest, 0.0), to_rest);
        }
    }
}
