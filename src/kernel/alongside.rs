//! Work that a loop over logits does on the way, so that memory and arithmetic are busy at the same time.
//!
//! Stores past the caches go out at the rate of memory, and a CPU that does nothing else waits for them; the
//! exponentials of the first pass, on the other hand, leave memory idle, and a second pass in place, over exponentials that
//! are in the caches, does so too. So where outputs outgrow the caches, the second pass over one row goes along with the
//! first over the next: a few vectors of one, a few of the other.

use core::ops::Range;

use super::affine::scale_and_least;
use super::place::Place;
use super::statistics::BLOCK;
use super::{Entry, scalar};
use crate::simd::{LANES, Simd};

/// Vectors of a step: as many as the sum takes in one turn of its loop.
const STEP: usize = 8;

/// The same columns of another row, a block at a time and within it a step at a time.
pub(super) trait Alongside<S: Simd> {
    fn begin(&mut self, s: S, columns: Range<usize>);
    fn step(&mut self, s: S);
    /// The rest of the block, as far as it need not wait for the next one.
    fn end(&mut self, s: S);
}

/// No other row.
pub(super) struct Nothing;

impl<S: Simd> Alongside<S> for Nothing {
    #[inline(always)]
    fn begin(&mut self, _: S, _: Range<usize>) {}

    #[inline(always)]
    fn step(&mut self, _: S) {}

    #[inline(always)]
    fn end(&mut self, _: S) {}
}

/// A row whose exponentials have been kept, and what is to become of them: `scale` exp(x - max), and the target's own value.
pub(crate) struct KeptRow<'a> {
    /// What the exponentials of each block are relative to.
    pub(crate) references: &'a [f32],
    /// The row's largest logit but the pivot's.
    pub(crate) max: f32,
    pub(crate) scale: f64,
    pub(crate) target: Entry,
}

/// The columns of that row, and the same ones of the next, which the first pass takes.
pub(crate) enum TwoRows<'a> {
    /// From kept exponentials to stores past the caches; the next row's exponentials are kept elsewhere as well.
    Apart {
        exps: &'a [f32],
        out: &'a mut [f32],
        logits: &'a [f32],
        kept: &'a mut [f32],
    },
    InPlace {
        row: &'a mut [f32],
        next: &'a mut [f32],
    },
}

impl KeptRow<'_> {
    /// The first `columns` columns, a whole number of blocks, and the others.
    pub(crate) fn split_at(self, columns: usize) -> (Self, Self) {
        let (references, references_rest) = self.references.split_at(columns / BLOCK);
        let target = self.target.from(columns);
        (Self { references, ..self }, Self { references: references_rest, target, ..self })
    }
}

impl TwoRows<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Apart { logits, .. } => logits.len(),
            Self::InPlace { next, .. } => next.len(),
        }
    }

    /// The first `columns` columns, and the others.
    pub(crate) fn split_at(self, columns: usize) -> (Self, Self) {
        match self {
            Self::Apart { exps, out, logits, kept } => {
                let ((exps, exps_rest), (out, out_rest)) =
                    (exps.split_at(columns), out.split_at_mut(columns));
                let (logits, logits_rest) = logits.split_at(columns);
                let (kept, kept_rest) = kept.split_at_mut(columns);
                (
                    Self::Apart { exps, out, logits, kept },
                    Self::Apart { exps: exps_rest, out: out_rest, logits: logits_rest, kept: kept_rest },
                )
            }
            Self::InPlace { row, next } => {
                let ((row, row_rest), (next, next_rest)) =
                    (row.split_at_mut(columns), next.split_at_mut(columns));
                (Self::InPlace { row, next }, Self::InPlace { row: row_rest, next: next_rest })
            }
        }
    }
}

/// The second pass over a [`KeptRow`].
pub(super) struct Scaling<'a, P, V> {
    place: P,
    row: KeptRow<'a>,
    /// The columns that are left of this block, and those of the one before that begin a cache line: to store a part of a
    /// line reads it from memory first.
    columns: Range<usize>,
    /// What their exponentials are relative to, and the factors of [`Affine`](super::affine::Affine).
    reference: f32,
    scale: V,
    least: V,
}

impl<'a, P: Place<From = f32, To = f32>, V: Copy> Scaling<'a, P, V> {
    #[inline(always)]
    pub(super) fn new<S: Simd<F32 = V>>(s: S, place: P, row: KeptRow<'a>) -> Self {
        Self { place, row, columns: 0..0, reference: f32::NAN, scale: s.splat(0.0), least: s.splat(0.0) }
    }

    /// All that are left, if any are: fewer than a vector, or just one.
    #[inline(always)]
    fn rest<S: Simd<F32 = V>>(&mut self, s: S) {
        let Range { start, end } = self.columns;
        if start == end {
            return;
        }
        let e = s.load_partial(&self.place.from()[start..end], 0.0);
        let y = s.mul_at_least(e, self.scale, self.least);
        let y = s.with_lane(y, self.row.target.from(start).lane(), self.row.target.value);
        s.store_partial(y, &mut self.place.to()[start..end]);
        self.columns.start = end;
    }

    /// Whole vectors.
    #[inline(always)]
    fn whole<S: Simd<F32 = V>, const VECTORS: usize>(&mut self, s: S) {
        let (start, end) = (self.columns.start, self.columns.start + VECTORS * LANES);
        let exps = self.place.from()[start..end].as_chunks::<LANES>().0;
        let mut y = [self.scale; VECTORS];
        for i in 0..VECTORS {
            y[i] = s.mul_at_least(s.load(&exps[i]), self.scale, self.least);
        }
        let target = self.row.target.from(start);
        if target.index() < end - start {
            for i in 0..VECTORS {
                y[i] = s.with_lane(y[i], target.from(i * LANES).lane(), target.value);
            }
        }
        let out = self.place.to()[start..end].as_chunks_mut::<LANES>().0;
        for i in 0..VECTORS {
            P::store(s, y[i], &mut out[i]);
        }
        self.columns.start = end;
    }
}

impl<S: Simd, P: Place<From = f32, To = f32>> Alongside<S> for Scaling<'_, P, S::F32> {
    #[inline(always)]
    fn begin(&mut self, s: S, columns: Range<usize>) {
        let reference = self.row.references[columns.start / BLOCK];
        if reference != self.reference {
            self.rest(s);
            let drop = f64::from(reference) - f64::from(self.row.max);
            let factor = if reference == self.row.max { 1.0 } else { scalar::exp(drop) };
            let (scale, least) = scale_and_least(self.row.scale * factor);
            (self.scale, self.least) = (s.splat(scale), s.splat(least));
            self.reference = reference;
            // Whole cache lines from the first line boundary on.
            let first = self.place.to()[columns.start..].as_ptr();
            let ahead = first.addr().wrapping_neg() % 64 / size_of::<f32>();
            self.columns = columns.start..columns.end.min(columns.start + ahead);
            self.rest(s);
        }
        self.columns.end = columns.end;
    }

    #[inline(always)]
    fn step(&mut self, s: S) {
        if self.columns.len() >= STEP * LANES {
            self.whole::<S, STEP>(s);
        }
    }

    #[inline(always)]
    fn end(&mut self, s: S) {
        while self.columns.len() >= LANES {
            self.whole::<S, 1>(s);
        }
        if self.columns.end == self.place.to().len() {
            self.rest(s);
        }
    }
}
