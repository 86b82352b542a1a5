//! Rows of one block: the rows of a tile take each step together.
//!
//! A row's maximum ends in a reduction across lanes, and its sum begins with the result. Row by row, the CPU would wait
//! there: the loops over the columns are short, and all that follows depends on them. So all maxima come first, then all
//! sums; the steps of different rows do not depend on each other and overlap. Where there are registers for both, a longer
//! row's sum goes along with the search for the next one's maximum: the search waits for memory, and the exponentials fill
//! the time.

use super::Entry;
use super::affine::{self, Affine, Shift};
use super::alongside::Nothing;
use super::fetch::Fetch;
use super::gaps::{Gaps, gaps_of};
use super::lanes::{NO_CLASS, RowLanes};
use super::number::Number;
use super::place::{Between, Columns, InPlace, Place, Read, RowsOf};
use super::results::CoefficientLanes;
use super::statistics::{Beside, Search, sum_of};
use crate::simd::{Simd, Task};

/// From how many classes on a row's sum and the search in the next row go along with each other: fewer are soon searched,
/// and the sum would wait for the search to end.
const LEAST_ALONG: usize = 256;

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
    /// Whether stores go past the caches. [`Memory::fence`](crate::simd::Memory::fence) must follow.
    pub(crate) streaming: bool,
    /// Its scale is that of each row.
    pub(crate) shift: Shift<'a>,
    pub(crate) coefficients: &'a CoefficientLanes,
    pub(crate) rows: &'a RowLanes,
}

impl<T> Source<'_, T> {
    #[inline(always)]
    fn extent(&self) -> Extent {
        let (readable, row_stride, classes) = match self {
            Self::Read(x) | Self::Keep(x, _) => (x.data.len(), x.row_stride, x.classes),
            Self::Overwrite(x) => (x.data.len(), x.row_stride, x.classes),
        };
        Extent { readable, row_stride, classes }
    }
}

/// Of a tile's logits.
#[derive(Clone, Copy)]
struct Extent {
    /// How many numbers there are from the first row on, those of later tiles included.
    readable: usize,
    row_stride: usize,
    classes: usize,
}

/// [`Source`], one type each.
trait Places {
    type From: Number;
    type Row<'r>: Place<From = Self::From>
    where
        Self: 'r;

    /// A row that is not overwritten yet.
    fn logits(&self, row: usize) -> &[Self::From];

    /// A row, and the logits of a later one; none, where there is none.
    fn row_and_later(&mut self, row: usize, later: Option<usize>) -> (Self::Row<'_>, &[Self::From]);
}

impl<T: Number> Places for RowsOf<&[T]> {
    type From = T;
    type Row<'r>
        = Read<'r, T>
    where
        Self: 'r;

    #[inline(always)]
    fn logits(&self, row: usize) -> &[T] {
        &self.data[self.columns(row)]
    }

    #[inline(always)]
    fn row_and_later(&mut self, row: usize, later: Option<usize>) -> (Read<'_, T>, &[T]) {
        (Read(self.logits(row)), later.map_or(&[], |later| self.logits(later)))
    }
}

impl<T: Number> Places for (RowsOf<&[T]>, Kept<'_>) {
    type From = T;
    type Row<'r>
        = Between<'r, false, T, f32>
    where
        Self: 'r;

    #[inline(always)]
    fn logits(&self, row: usize) -> &[T] {
        self.0.logits(row)
    }

    #[inline(always)]
    fn row_and_later(&mut self, row: usize, later: Option<usize>) -> (Between<'_, false, T, f32>, &[T]) {
        let (logits, Kept { rows, further_down }) = self;
        let x = logits.logits(row);
        let exps = rows.columns(row + *further_down);
        let later = later.map_or(&[][..], |later| logits.logits(later));
        (Between(x, &mut rows.data[exps][..x.len()]), later)
    }
}

impl Places for RowsOf<&mut [f32]> {
    type From = f32;
    type Row<'r>
        = InPlace<'r, f32>
    where
        Self: 'r;

    #[inline(always)]
    fn logits(&self, row: usize) -> &[f32] {
        &self.data[self.columns(row)]
    }

    #[inline(always)]
    fn row_and_later(&mut self, row: usize, later: Option<usize>) -> (InPlace<'_, f32>, &[f32]) {
        let columns = self.columns(row);
        let Some(later) = later else { return (InPlace(&mut self.data[columns]), &[]) };
        let later = self.columns(later);
        let (before, after) = self.data.split_at_mut(later.start);
        (InPlace(&mut before[columns]), &after[..later.len()])
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

#[inline(always)]
fn statistics<S: Simd, P: Places>(s: S, mut places: P, extent: Extent, gaps: Gaps<'_>, rows: &mut RowLanes) {
    if S::IS_ONE_REGISTER && extent.classes >= LEAST_ALONG {
        let mut search = search_of(s, &places, rows, 0);
        for row in 0..rows.len {
            finish_search(s, &places, search, gaps, rows, row);
            search = search_of(s, &places, rows, row + 1);
            sum_row(s, &mut places, extent, rows, row, Some(&mut search));
        }
    } else {
        for row in 0..rows.len {
            let search = search_of(s, &places, rows, row);
            finish_search(s, &places, search, gaps, rows, row);
        }
        for row in 0..rows.len {
            sum_row(s, &mut places, extent, rows, row, None);
        }
    }
}

/// The search for a row's maximum, before its first step; in no row, where there is none that counts.
#[inline(always)]
fn search_of<S: Simd, P: Places>(s: S, places: &P, rows: &RowLanes, row: usize) -> Search<S::F32> {
    if !is_counted(rows, row) {
        return Search::new(s, 0..0, Entry::NONE);
    }
    let x = places.logits(row);
    Search::new(s, 0..x.len(), pivot_of(x, rows.class[row]))
}

#[inline(always)]
fn is_counted(rows: &RowLanes, row: usize) -> bool {
    row < rows.len && rows.counts[row]
}

#[inline(always)]
pub(super) fn pivot_of<T: Number>(x: &[T], class: usize) -> Entry {
    if class == NO_CLASS { Entry::NONE } else { Entry::new(class, x[class].to_f32()) }
}

/// What a row has besides its sum.
#[inline(always)]
fn finish_search<S: Simd, P: Places>(
    s: S,
    places: &P,
    search: Search<S::F32>,
    gaps: Gaps<'_>,
    rows: &mut RowLanes,
    row: usize,
) {
    if !is_counted(rows, row) {
        return;
    }
    let (x, class) = (places.logits(row), rows.class[row]);
    let (place, pivot) = (Read(x), pivot_of(x, class));
    let max = search.finish(s, &place, pivot);
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

/// A row's sum, along with the search in the next, if that has one.
#[inline(always)]
fn sum_row<S: Simd, P: Places>(
    s: S,
    places: &mut P,
    extent: Extent,
    rows: &mut RowLanes,
    row: usize,
    search: Option<&mut Search<S::F32>>,
) {
    if !is_counted(rows, row) {
        return;
    }
    let later = (search.is_some() && is_counted(rows, row + 1)).then_some(row + 1);
    let (mut place, later) = places.row_and_later(row, later);
    let pivot = match rows.class[row] {
        NO_CLASS => Entry::NONE,
        class => Entry::new(class, f32::NEG_INFINITY),
    };
    let len = place.from().len();
    let fetch = Fetch::near(extent.readable - row * extent.row_stride);
    let (reference, sums) = (s.splat(finite(rows.max[row])), s.zero_sums());
    let mut nowhere = Search::new(s, 0..0, Entry::NONE);
    let search = search.unwrap_or(&mut nowhere);
    let beside = Beside { alongside: &mut Nothing, search, other_row: Some(later) };
    let sums = sum_of(s, &mut place, 0..len, pivot, reference, sums, fetch, beside);
    let sum = s.sum_lanes(sums);
    let is_empty = (rows.max[row] == f32::NEG_INFINITY) & !sum.is_nan();
    rows.sum[row] = if is_empty { 0.0 } else { sum };
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
pub(super) fn affine_of_row<S: Simd, F: Number, T: Number>(
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
