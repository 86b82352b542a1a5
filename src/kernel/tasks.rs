//! The passes over some columns of a row, as tasks: each is compiled once for every instruction set.

use super::affine::{self, Affine, Shift};
use super::alongside::{KeptRow, TwoRows};
use super::gaps::Gaps;
use super::map;
use super::number::Number;
use super::place::Columns;
use super::statistics::{self, BLOCK, Statistics};
use super::{Entry, scalar};
use crate::simd::{LANES, Simd, Task};

/// The statistics of some columns.
pub(crate) struct StatisticsTask<'a, T> {
    /// What they write is exponentials.
    pub(crate) columns: Columns<'a, T, f32>,
    /// How many numbers follow the columns and will be read next.
    pub(crate) following: usize,
    pub(crate) pivot: Entry,
    pub(crate) gaps: Gaps<'a>,
    pub(crate) references: &'a mut [f32],
}

/// `scale` exp(x - max) - shift of some columns, all but the target's.
pub(crate) struct AffineTask<'a, F, T = F> {
    pub(crate) columns: Columns<'a, F, T>,
    /// What the columns hold.
    pub(crate) content: Content<'a>,
    /// The row's largest logit but the pivot's.
    pub(crate) max: f32,
    pub(crate) scale: f64,
    pub(crate) shift: Shift<'a>,
    pub(crate) target: Entry,
}

/// [`AffineTask`] of a row, wherever its columns are.
#[derive(Clone, Copy)]
pub(crate) struct RowAffine<'a> {
    pub(crate) content: Content<'a>,
    pub(crate) max: f32,
    pub(crate) scale: f64,
    pub(crate) shift: Shift<'a>,
    pub(crate) target: Entry,
}

/// [`RowAffine`] of exponentials that are no output's, relative to the row's largest logit but the pivot's.
pub(crate) struct KeptTask<'a, T> {
    pub(crate) columns: Columns<'a, f32, T>,
    pub(crate) affine: RowAffine<'a>,
}

/// What the second pass starts from. The references are those of the first.
#[derive(Clone, Copy)]
pub(crate) enum Content<'a> {
    /// Exponentials, relative to the references; in columns of `f32` alone.
    Exps(&'a [f32]),
    Logits(&'a [f32]),
    /// Logits, more of them than there was room for references: they are found once more.
    ManyLogits(Entry),
    /// Logits, none of them above the row's largest, which is the reference of all.
    LogitsOfShard,
}

/// The second pass over some columns of a row, along with the first over the same columns of the next.
pub(crate) struct OverlappedTask<'a> {
    pub(crate) row: KeptRow<'a>,
    pub(crate) rows: TwoRows<'a>,
    /// As those of [`StatisticsTask`].
    pub(crate) following: usize,
    pub(crate) pivot: Entry,
    pub(crate) references: &'a mut [f32],
}

/// What must follow stores past the caches, on the thread that made them.
pub(crate) struct Fence;

/// (x - max) - ln_sum of some columns, all but the target's.
pub(crate) struct LogProbabilitiesTask<'a, T> {
    pub(crate) columns: Columns<'a, T>,
    pub(crate) max: f32,
    pub(crate) ln_sum: f32,
    pub(crate) target: Entry,
}

/// The first index that holds `value`; the first NaN, for NaN.
pub(crate) struct FirstEqual<'a, T> {
    pub(crate) x: &'a [T],
    pub(crate) value: f32,
}

/// How many of some columns come before a class: those with a larger logit, or with an equal one and earlier.
pub(crate) struct Rank<'a, T> {
    pub(crate) x: &'a [T],
    pub(crate) class: Entry,
}

/// The sum of exp(x - max) (max - x) of all columns but the pivot.
pub(crate) struct SpreadTask<'a, T> {
    pub(crate) x: &'a [T],
    pub(crate) max: f32,
    pub(crate) pivot: Entry,
}

impl<T: Number> StatisticsTask<'_, T> {
    /// The first `columns` columns, a whole number of blocks, and the others.
    pub(crate) fn split_at(self, columns: usize) -> (Self, Self) {
        let (first, second) = self.columns.split_at(columns);
        let blocks = self.references.len().min(columns / BLOCK);
        let (references, references_rest) = self.references.split_at_mut(blocks);
        let (pivot, gaps) = (self.pivot.from(columns), self.gaps.from(columns));
        let following = second.len() + self.following;
        (
            Self { columns: first, following, pivot: self.pivot, gaps: self.gaps, references },
            Self { columns: second, pivot, gaps, references: references_rest, ..self },
        )
    }
}

impl<T: Number> Task for StatisticsTask<'_, T> {
    type Output = Statistics;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Statistics {
        statistics::statistics(simd, self.columns, self.following, self.pivot, self.gaps, self.references)
    }
}

impl Content<'_> {
    /// The same of the columns from `column` on, a whole number of blocks.
    pub(crate) fn starting_at(self, column: usize) -> Self {
        match self {
            Self::Exps(references) => Self::Exps(&references[column / BLOCK..]),
            Self::Logits(references) => Self::Logits(&references[column / BLOCK..]),
            Self::ManyLogits(pivot) => Self::ManyLogits(pivot.from(column)),
            Self::LogitsOfShard => self,
        }
    }
}

impl<'a> RowAffine<'a> {
    pub(crate) fn of<F, T>(self, columns: Columns<'a, F, T>) -> AffineTask<'a, F, T> {
        let Self { content, max, scale, shift, target } = self;
        AffineTask { columns, content, max, scale, shift, target }
    }
}

impl<T: Number> AffineTask<'_, T> {
    /// The first `columns` columns, a whole number of blocks, and the others.
    pub(crate) fn split_at(self, columns: usize) -> (Self, Self) {
        let (first, second) = self.columns.split_at(columns);
        let (content, shift, target) =
            (self.content.starting_at(columns), self.shift.starting_at(columns), self.target.from(columns));
        (Self { columns: first, ..self }, Self { columns: second, content, shift, target, ..self })
    }

    /// Columns that share a reference.
    #[inline(always)]
    fn one_reference<S: Simd>(self, s: S, reference: f32) {
        let drop = f64::from(reference) - f64::from(self.max);
        let factor = if reference == self.max { 1.0 } else { scalar::exp(drop) };
        let affine = Affine::new(self.scale * factor, self.shift);
        match self.content {
            Content::Exps(_) if T::KEEPS => affine::affine_of_exps(s, self.columns, affine, self.target),
            _ => {
                affine::affine_of_logits(s, self.columns, reference, affine, self.target);
            }
        }
    }

    /// The reference of the first columns, after that of those before them, and how many columns share it.
    #[inline(always)]
    fn first_reference<S: Simd>(&self, s: S, before: f32) -> (f32, usize) {
        match self.content {
            Content::Exps(references) | Content::Logits(references) => {
                let (first, rest) = (references[0], &references[1..]);
                let same = 1 + rest.iter().take_while(|&&reference| reference == first).count();
                (first, same.saturating_mul(BLOCK))
            }
            Content::LogitsOfShard => (self.max, usize::MAX),
            Content::ManyLogits(_) if before == self.max => (before, usize::MAX),
            Content::ManyLogits(pivot) => {
                let x = self.columns.from();
                let max = statistics::max(s, &x[..x.len().min(BLOCK)], pivot);
                (if max > before { max } else { before }, BLOCK)
            }
        }
    }
}

impl<T: Number> Task for AffineTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let mut reference = f32::NEG_INFINITY;
        while self.columns.len() > 0 {
            let shared;
            (reference, shared) = self.first_reference(simd, reference);
            let len = self.columns.len().min(shared);
            let (first, rest) = self.split_at(len);
            first.one_reference(simd, reference);
            self = rest;
        }
    }
}

impl<T: Number> Task for KeptTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { columns, affine: RowAffine { scale, shift, target, .. } } = self;
        affine::affine_of_exps(s, columns, Affine::new(scale, shift), target);
    }
}

impl OverlappedTask<'_> {
    /// The first `columns` columns, a whole number of blocks, and the others.
    pub(crate) fn split_at(self, columns: usize) -> (Self, Self) {
        let (row, row_rest) = self.row.split_at(columns);
        let (rows, rows_rest) = self.rows.split_at(columns);
        let (references, references_rest) = self.references.split_at_mut(columns / BLOCK);
        let (following, pivot) = (rows_rest.len() + self.following, self.pivot.from(columns));
        (
            Self { row, rows, following, pivot: self.pivot, references },
            Self {
                row: row_rest,
                rows: rows_rest,
                following: self.following,
                pivot,
                references: references_rest,
            },
        )
    }
}

impl Task for OverlappedTask<'_> {
    type Output = Statistics;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Statistics {
        let Self { row, rows, following, pivot, references } = self;
        statistics::statistics_alongside(s, rows, following, pivot, references, row)
    }
}

impl Task for Fence {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        simd.fence();
    }
}

impl<T> LogProbabilitiesTask<'_, T> {
    /// The first `columns` columns, and the others.
    pub(crate) fn split_at(self, columns: usize) -> (Self, Self) {
        let (first, second) = self.columns.split_at(columns);
        let target = self.target.from(columns);
        (Self { columns: first, ..self }, Self { columns: second, target, ..self })
    }
}

impl<T: Number> Task for LogProbabilitiesTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        map::log_probabilities(simd, self.columns, self.max, self.ln_sum, self.target);
    }
}

impl<T: Number> Task for FirstEqual<'_, T> {
    type Output = Option<usize>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Option<usize> {
        let (vectors, rest) = self.x.as_chunks::<LANES>();
        for (index, x) in vectors.iter().enumerate() {
            let equal = s.equal_bits(T::load(s, x), self.value);
            if equal != 0 {
                return Some(index * LANES + equal.trailing_zeros() as usize);
            }
        }
        let equal = s.equal_bits(T::load_partial(s, rest, 0.0), self.value) & ((1 << rest.len()) - 1);
        (equal != 0).then(|| vectors.len() * LANES + equal.trailing_zeros() as usize)
    }
}

impl<T: Number> Task for Rank<'_, T> {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> usize {
        let Self { x, class } = self;
        let (before, rest) = x.split_at(class.columns_before(x.len()));
        before.len() - count::<_, _, false>(s, before, class.value)
            + count::<_, _, true>(s, rest, class.value)
    }
}

/// How many of some numbers are larger than `value`, or how many are smaller.
#[inline(always)]
fn count<S: Simd, T: Number, const LARGER: bool>(s: S, x: &[T], value: f32) -> usize {
    let mut total = 0;
    // `f32` counts to 2^24 in each lane.
    for x in x.chunks(LANES << 20) {
        let mut counts = s.splat(0.0);
        let (groups, rest) = x.as_chunks::<{ 4 * LANES }>();
        for group in groups {
            let x = group.as_chunks::<LANES>().0;
            let [a, b] = [T::load(s, &x[0]), T::load(s, &x[1])];
            let [c, d] = [T::load(s, &x[2]), T::load(s, &x[3])];
            let first = s.add(ones::<S, LARGER>(s, a, value), ones::<S, LARGER>(s, b, value));
            let second = s.add(ones::<S, LARGER>(s, c, value), ones::<S, LARGER>(s, d, value));
            counts = s.add(counts, s.add(first, second));
        }
        for x in rest.chunks(LANES) {
            counts = s.add(counts, ones::<S, LARGER>(s, T::load_partial(s, x, value), value));
        }
        total += s.sum_lanes(s.accumulate(s.zero_sums(), counts)) as usize;
    }
    total
}

/// 1 in lanes that are larger than `value`, or in those that are smaller, else 0.
#[inline(always)]
fn ones<S: Simd, const LARGER: bool>(s: S, x: S::F32, value: f32) -> S::F32 {
    let value = s.splat(value);
    let other = if LARGER { value } else { x };
    s.select_equal(s.max(x, value), other, s.splat(0.0), s.splat(1.0))
}

impl<T> SpreadTask<'_, T> {
    /// The first `columns` columns, and the others.
    pub(crate) fn split_at(self, columns: usize) -> (Self, Self) {
        let (first, second) = self.x.split_at(columns);
        let pivot = self.pivot.from(columns);
        (Self { x: first, ..self }, Self { x: second, pivot, ..self })
    }
}

impl<T: Number> Task for SpreadTask<'_, T> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        statistics::spread(s, self.x, self.max, self.pivot)
    }
}
