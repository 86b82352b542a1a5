//! Rows of one block: the rows of a tile take each step together.
//!
//! A row's maximum ends in a reduction across lanes, and its sum begins with the result. Row by row, the CPU would wait
//! there: the loops over the columns are short, and all that follows depends on them. So all maxima come first, then all
//! sums; the steps of different rows do not depend on each other and overlap.

use super::Entry;
use super::few_classes::RowsOf;
use super::lanes::{CoefficientLanes, NO_CLASS, RowLanes};
use super::map::{self, Affine, Columns, Shift};
use super::statistics::{Gaps, Keep, Overwrite, Place, Read, gaps_of, max_of, sum_of};
use crate::simd::{Simd, Task};

/// Where the rows are read, and where their exponentials are kept.
pub(crate) enum Source<'a> {
    Read(RowsOf<&'a [f32]>),
    /// In other rows: those of the tile, or so many further down.
    Keep(RowsOf<&'a [f32]>, Kept<'a>),
    Overwrite(RowsOf<&'a mut [f32]>),
}

/// The tile's rows of an output, all other rows behind them, and how much further down there the exponentials are kept.
pub(crate) struct Kept<'a> {
    pub(crate) rows: RowsOf<&'a mut [f32]>,
    pub(crate) further_down: usize,
}

/// The statistics of a tile's rows.
pub(crate) struct StatisticsTask<'a> {
    pub(crate) source: Source<'a>,
    pub(crate) gaps: Gaps<'a>,
    pub(crate) rows: &'a mut RowLanes,
}

/// An affine function of a tile's exponentials, and the targets' own values.
pub(crate) struct AffineTask<'a> {
    pub(crate) kept: Kept<'a>,
    /// Its scale is that of each row.
    pub(crate) shift: Shift<'a>,
    pub(crate) coefficients: &'a CoefficientLanes,
    pub(crate) rows: &'a RowLanes,
}

/// [`Source`], one type each.
trait Places {
    type Row<'r>: Place
    where
        Self: 'r;

    fn count(&self) -> usize;
    fn row(&mut self, row: usize) -> Self::Row<'_>;
}

impl Places for RowsOf<&[f32]> {
    type Row<'r>
        = Read<'r>
    where
        Self: 'r;

    #[inline(always)]
    fn count(&self) -> usize {
        self.count
    }

    #[inline(always)]
    fn row(&mut self, row: usize) -> Read<'_> {
        let rest = &self.data[row * self.row_stride..];
        Read(&rest[..self.classes], rest.len() - self.classes)
    }
}

impl Places for (RowsOf<&[f32]>, Kept<'_>) {
    type Row<'r>
        = Keep<'r>
    where
        Self: 'r;

    #[inline(always)]
    fn count(&self) -> usize {
        self.0.count
    }

    #[inline(always)]
    fn row(&mut self, row: usize) -> Keep<'_> {
        let (logits, Kept { rows, further_down }) = self;
        let rest = &logits.data[row * logits.row_stride..];
        let x = &rest[..logits.classes];
        let exps = &mut rows.data[(row + *further_down) * rows.row_stride..][..x.len()];
        Keep(x, exps, rest.len() - x.len())
    }
}

impl Places for RowsOf<&mut [f32]> {
    type Row<'r>
        = Overwrite<'r>
    where
        Self: 'r;

    #[inline(always)]
    fn count(&self) -> usize {
        self.count
    }

    #[inline(always)]
    fn row(&mut self, row: usize) -> Overwrite<'_> {
        let rest = &mut self.data[row * self.row_stride..];
        let following = rest.len() - self.classes;
        Overwrite(&mut rest[..self.classes], following)
    }
}

impl Task for StatisticsTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.source {
            Source::Read(logits) => statistics(s, logits, self.gaps, self.rows),
            Source::Keep(logits, kept) => statistics(s, (logits, kept), self.gaps, self.rows),
            Source::Overwrite(logits) => statistics(s, logits, self.gaps, self.rows),
        }
    }
}

#[inline(always)]
fn statistics<S: Simd, P: Places>(s: S, mut places: P, gaps: Gaps<'_>, rows: &mut RowLanes) {
    for row in 0..places.count() {
        if !rows.counts[row] {
            continue;
        }
        let place = places.row(row);
        let x = place.logits();
        let class = rows.class[row];
        let pivot = if class == NO_CLASS { Entry::NONE } else { Entry::new(class, x[class]) };
        let max = max_of(s, &place, 0..x.len(), pivot);
        rows.target_logit[row] = pivot.value;
        rows.max[row] = max;
        let has_earlier_equal =
            max == pivot.value && x[..pivot.columns_before(x.len())].contains(&pivot.value);
        rows.contender[row] = if has_earlier_equal { f32::NEG_INFINITY } else { pivot.value };
        if class != NO_CLASS {
            let reference = s.splat(finite(max));
            (rows.gap[row], rows.weight[row]) = gaps_of(s, &place, 0..x.len(), pivot, gaps, reference);
        }
    }
    for row in 0..places.count() {
        if !rows.counts[row] {
            continue;
        }
        let mut place = places.row(row);
        let class = rows.class[row];
        let pivot = if class == NO_CLASS { Entry::NONE } else { Entry::new(class, f32::NEG_INFINITY) };
        let len = place.logits().len();
        let reference = s.splat(finite(rows.max[row]));
        let sum = s.sum_lanes(sum_of(s, &mut place, 0..len, pivot, reference, s.zero_sums()));
        let is_empty = (rows.max[row] == f32::NEG_INFINITY) & !sum.is_nan();
        rows.sum[row] = if is_empty { 0.0 } else { sum };
    }
}

/// Any finite number will do where all logits are -inf.
#[inline(always)]
fn finite(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}

impl Task for AffineTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { kept: Kept { rows: out, further_down }, shift, coefficients, rows } = self;
        for row in 0..out.count {
            if !rows.counts[row] {
                continue;
            }
            let shift = match shift {
                Shift::None => Shift::None,
                Shift::Equal(_) => Shift::Equal(coefficients.shift[row]),
                Shift::Weighted { weights, .. } => {
                    Shift::Weighted { weights, scale: coefficients.shift[row] }
                }
            };
            let affine = Affine { scale: coefficients.scale[row], least: coefficients.least[row], shift };
            let target = match rows.class[row] {
                NO_CLASS => Entry::NONE,
                class => Entry::new(class, coefficients.at_target[row]),
            };
            let start = row * out.row_stride;
            let columns = if further_down == 0 {
                Columns::InPlace(&mut out.data[start..][..out.classes])
            } else {
                let (to, from) = out.data.split_at_mut((row + further_down) * out.row_stride);
                Columns::Streaming(&from[..out.classes], &mut to[start..][..out.classes])
            };
            map::affine_of_exps(s, columns, affine, target);
        }
    }
}
