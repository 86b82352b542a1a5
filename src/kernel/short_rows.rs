//! Rows of one block: the rows of a tile take each step together.
//!
//! A row's maximum ends in a reduction across lanes, and its sum begins with the result. Row by row, the CPU would wait
//! there: the loops over the columns are short, and all that follows depends on them. So all maxima come first, then all
//! sums; the steps of different rows do not depend on each other and overlap.

use super::Entry;
use super::affine::{self, Affine, Shift};
use super::alongside::Nothing;
use super::fetch::Fetch;
use super::gaps::{Gaps, gaps_of};
use super::lanes::{CoefficientLanes, NO_CLASS, RowLanes};
use super::number::Number;
use super::place::{Between, Columns, InPlace, Place, Read, RowsOf};
use super::statistics::{Search, max_of, sum_of};
use crate::simd::{Simd, Task};

/// Where the rows are read, and where their exponentials are kept.
pub(crate) enum Source<'a, T> {
    Read(RowsOf<&'a [T]>),
    /// In other rows: those of the tile, or so many further down.
    Keep(RowsOf<&'a [T]>, Kept<'a>),
    Overwrite(RowsOf<&'a mut [f32]>),
}

/// The tile's rows of an output, all other rows behind them, and how much further down there the exponentials are kept.
pub(crate) struct Kept<'a> {
    pub(crate) rows: RowsOf<&'a mut [f32]>,
    pub(crate) further_down: usize,
}

/// The statistics of a tile's rows.
pub(crate) struct StatisticsTask<'a, T> {
    pub(crate) source: Source<'a, T>,
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

/// [`AffineTask`] where the exponentials are no output's.
#[cfg_attr(not(feature = "half"), allow(dead_code))]
pub(crate) struct ScratchAffineTask<'a, T> {
    pub(crate) exps: RowsOf<&'a [f32]>,
    pub(crate) out: RowsOf<&'a mut [T]>,
    /// Whether stores go past the caches. [`Simd::fence`] must follow.
    pub(crate) streaming: bool,
    /// Its scale is that of each row.
    pub(crate) shift: Shift<'a>,
    pub(crate) coefficients: &'a CoefficientLanes,
    pub(crate) rows: &'a RowLanes,
}

impl<T> Source<'_, T> {
    /// How many numbers there are from the first row on, those of later tiles included, and from row to row.
    #[inline(always)]
    fn extent(&self) -> (usize, usize) {
        match self {
            Self::Read(logits) | Self::Keep(logits, _) => (logits.data.len(), logits.row_stride),
            Self::Overwrite(logits) => (logits.data.len(), logits.row_stride),
        }
    }
}

/// [`Source`], one type each.
trait Places {
    type Row<'r>: Place
    where
        Self: 'r;

    fn row(&mut self, row: usize) -> Self::Row<'_>;
}

impl<T: Number> Places for RowsOf<&[T]> {
    type Row<'r>
        = Read<'r, T>
    where
        Self: 'r;

    #[inline(always)]
    fn row(&mut self, row: usize) -> Read<'_, T> {
        Read(&self.data[self.columns(row)])
    }
}

impl<T: Number> Places for (RowsOf<&[T]>, Kept<'_>) {
    type Row<'r>
        = Between<'r, false, T, f32>
    where
        Self: 'r;

    #[inline(always)]
    fn row(&mut self, row: usize) -> Between<'_, false, T, f32> {
        let (logits, Kept { rows, further_down }) = self;
        let x = &logits.data[logits.columns(row)];
        let exps = rows.columns(row + *further_down);
        Between(x, &mut rows.data[exps][..x.len()])
    }
}

impl Places for RowsOf<&mut [f32]> {
    type Row<'r>
        = InPlace<'r, f32>
    where
        Self: 'r;

    #[inline(always)]
    fn row(&mut self, row: usize) -> InPlace<'_, f32> {
        let columns = self.columns(row);
        InPlace(&mut self.data[columns])
    }
}

impl<T: Number> Task for StatisticsTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { source, gaps, rows } = self;
        let extent = source.extent();
        match source {
            Source::Read(logits) => statistics(s, logits, extent, gaps, rows),
            Source::Keep(logits, kept) => statistics(s, (logits, kept), extent, gaps, rows),
            Source::Overwrite(logits) if T::KEEPS => statistics(s, logits, extent, gaps, rows),
            Source::Overwrite(_) => {}
        }
    }
}

/// The rows' statistics; the [extent](Source::extent) says what may be fetched ahead.
#[inline(always)]
fn statistics<S: Simd, P: Places>(
    s: S,
    mut places: P,
    (all, row_stride): (usize, usize),
    gaps: Gaps<'_>,
    rows: &mut RowLanes,
) {
    for row in 0..rows.len {
        if !rows.counts[row] {
            continue;
        }
        let place = places.row(row);
        let x = place.from();
        let class = rows.class[row];
        let pivot = if class == NO_CLASS { Entry::NONE } else { Entry::new(class, x[class].to_f32()) };
        let max = max_of(s, &place, 0..x.len(), pivot);
        rows.target_logit[row] = pivot.value;
        rows.max[row] = max;
        let has_earlier_equal =
            max == pivot.value && Number::contains(&x[..pivot.columns_before(x.len())], pivot.value);
        rows.contender[row] = if has_earlier_equal { f32::NEG_INFINITY } else { pivot.value };
        if class != NO_CLASS {
            let sums = gaps_of(s, &place, 0..x.len(), pivot, gaps, finite(max));
            (rows.gap[row], rows.weight[row], rows.live[row]) = (sums.gap, sums.weight, sums.live);
        }
    }
    for row in 0..rows.len {
        if !rows.counts[row] {
            continue;
        }
        let mut place = places.row(row);
        let class = rows.class[row];
        let pivot = if class == NO_CLASS { Entry::NONE } else { Entry::new(class, f32::NEG_INFINITY) };
        let len = place.from().len();
        let fetch = Fetch::near(all - row * row_stride);
        let reference = s.splat(finite(rows.max[row]));
        let sums = s.zero_sums();
        let beside = (&mut Nothing, &mut Search::new(s, 0..0, Entry::NONE));
        let sums = sum_of(s, &mut place, 0..len, pivot, reference, sums, fetch, beside);
        let sum = s.sum_lanes(sums);
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
            let start = row * out.row_stride;
            let columns = if further_down == 0 {
                Columns::InPlace(&mut out.data[start..][..out.classes])
            } else {
                let (to, from) = out.data.split_at_mut((row + further_down) * out.row_stride);
                Columns::Streaming(&from[..out.classes], &mut to[start..][..out.classes])
            };
            affine_of_row(s, columns, &shift, coefficients, rows, row);
        }
    }
}

impl<T: Number> Task for ScratchAffineTask<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { exps, out, streaming, shift, coefficients, rows } = self;
        for row in 0..out.count {
            if !rows.counts[row] {
                continue;
            }
            let (from, to) = (exps.columns(row), out.columns(row));
            let (from, to) = (&exps.data[from], &mut out.data[to]);
            let columns = if streaming { Columns::Streaming(from, to) } else { Columns::Between(from, to) };
            affine_of_row(s, columns, &shift, coefficients, rows, row);
        }
    }
}

#[inline(always)]
fn affine_of_row<S: Simd, F: Number, T: Number>(
    s: S,
    columns: Columns<'_, F, T>,
    shift: &Shift<'_>,
    coefficients: &CoefficientLanes,
    rows: &RowLanes,
    row: usize,
) {
    let target = match rows.class[row] {
        NO_CLASS => Entry::NONE,
        class => Entry::new(class, coefficients.at_target[row]),
    };
    let (scale, least) = (coefficients.scale[row], coefficients.least[row]);
    if matches!(shift, Shift::None) {
        affine::scaled_exps(s, columns, scale, least, target);
    } else {
        let shift = shift.with_scale(coefficients.shift[row]);
        affine::shifted_exps(s, columns, Affine { scale, least, shift }, target);
    }
}
