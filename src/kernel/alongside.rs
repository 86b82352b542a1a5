//! Work that a loop over logits does on the way, so that memory and arithmetic are busy at the same time.
//!
//! Stores past the caches go out at the rate of memory, and a CPU that does nothing else waits for them; the
//! exponentials of the first pass, on the other hand, leave memory idle. So where outputs go past the caches, the second
//! pass over one row goes along with the first over the next: a few vectors of one, a few of the other.

use core::ops::Range;

use super::affine::scale_and_least;
use super::statistics::BLOCK;
use super::{Entry, scalar};
use crate::simd::{LANES, Simd};

/// Vectors of a step: as many as the sum takes in one turn of its loop.
const STEP: usize = 8 * LANES;

/// The same columns of another row, a block at a time and within it a step at a time.
pub(super) trait Alongside<S: Simd> {
    fn begin(&mut self, s: S, columns: Range<usize>);
    fn step(&mut self, s: S);
    /// The rest of the block.
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

/// A row whose exponentials have been kept, and what is to become of them: `scale` exp(x - max), stored past the caches,
/// and the target's own value.
pub(crate) struct KeptRow<'a> {
    pub(crate) exps: &'a [f32],
    pub(crate) out: &'a mut [f32],
    /// What the exponentials of each block are relative to.
    pub(crate) references: &'a [f32],
    /// The row's largest logit but the pivot's.
    pub(crate) max: f32,
    pub(crate) scale: f64,
    pub(crate) target: Entry,
}

impl KeptRow<'_> {
    /// The first `columns` columns, a whole number of blocks, and the others.
    pub(crate) fn split_at(self, columns: usize) -> (Self, Self) {
        let (exps, exps_rest) = self.exps.split_at(columns);
        let (out, out_rest) = self.out.split_at_mut(columns);
        let (references, references_rest) = self.references.split_at(columns / BLOCK);
        let target = self.target.from(columns);
        (
            Self { exps, out, references, ..self },
            Self { exps: exps_rest, out: out_rest, references: references_rest, target, ..self },
        )
    }
}

/// The second pass over a [`KeptRow`].
pub(super) struct Scaling<'a, V> {
    row: KeptRow<'a>,
    /// Of the block: the columns that are left, and the factors of [`Affine`](super::affine::Affine).
    columns: Range<usize>,
    scale: V,
    least: V,
}

impl<'a, V: Copy> Scaling<'a, V> {
    #[inline(always)]
    pub(super) fn new<S: Simd<F32 = V>>(s: S, row: KeptRow<'a>) -> Self {
        // One length for both, which the compiler can see.
        let row = KeptRow { exps: &row.exps[..row.out.len()], ..row };
        Self { row, columns: 0..0, scale: s.splat(0.0), least: s.splat(0.0) }
    }

    /// Some columns, fewer than a vector or just one.
    #[inline(always)]
    fn partial<S: Simd<F32 = V>>(&mut self, s: S, end: usize) {
        let start = self.columns.start;
        let y = s.mul_at_least(s.load_partial(&self.row.exps[start..end], 0.0), self.scale, self.least);
        let y = s.with_lane(y, self.row.target.from(start).lane(), self.row.target.value);
        s.store_partial(y, &mut self.row.out[start..end]);
        self.columns.start = end;
    }

    /// Whole vectors.
    #[inline(always)]
    fn whole<S: Simd<F32 = V>, const COLUMNS: usize>(&mut self, s: S) {
        let start = self.columns.start;
        let exps = self.row.exps[start..start + COLUMNS].as_chunks::<LANES>().0;
        let out = self.row.out[start..start + COLUMNS].as_chunks_mut::<LANES>().0;
        let target = self.row.target.from(start);
        if target.index() < COLUMNS {
            for (i, (exps, out)) in exps.iter().zip(out).enumerate() {
                let y = s.mul_at_least(s.load(exps), self.scale, self.least);
                s.stream(s.with_lane(y, target.from(i * LANES).lane(), target.value), out);
            }
        } else {
            for (exps, out) in exps.iter().zip(out) {
                s.stream(s.mul_at_least(s.load(exps), self.scale, self.least), out);
            }
        }
        self.columns.start += COLUMNS;
    }
}

impl<S: Simd> Alongside<S> for Scaling<'_, S::F32> {
    #[inline(always)]
    fn begin(&mut self, s: S, columns: Range<usize>) {
        let reference = self.row.references[columns.start / BLOCK];
        let drop = f64::from(reference) - f64::from(self.row.max);
        let factor = if reference == self.row.max { 1.0 } else { scalar::exp(drop) };
        let (scale, least) = scale_and_least(self.row.scale * factor);
        (self.scale, self.least) = (s.splat(scale), s.splat(least));
        // Whole cache lines from the first line boundary on.
        let ahead = self.row.out[columns.start..].as_ptr().addr().wrapping_neg() % 64 / size_of::<f32>();
        let first_line = columns.end.min(columns.start + ahead);
        self.columns = columns;
        if first_line > self.columns.start {
            self.partial(s, first_line);
        }
    }

    #[inline(always)]
    fn step(&mut self, s: S) {
        if self.columns.len() >= STEP {
            self.whole::<S, STEP>(s);
        }
    }

    #[inline(always)]
    fn end(&mut self, s: S) {
        while self.columns.len() >= LANES {
            self.whole::<S, LANES>(s);
        }
        if !self.columns.is_empty() {
            self.partial(s, self.columns.end);
        }
    }
}
