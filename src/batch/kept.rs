//! Where the exponentials of a row, or of a tile, are kept between the passes: where an output will be.

use core::ops::Range;

use super::{Batch, Logits, Wide};
use crate::kernel::alongside::TwoRows;
use crate::kernel::place::{Columns, RowsOf};
use crate::kernel::short_rows;

impl Batch<'_> {
    /// Where the first pass reads a row, and keeps its exponentials: in the row `kept` of `wide`.
    pub(crate) fn source(&mut self, row: usize, wide: Wide, kept: usize) -> Columns<'_> {
        if self.overwrites(wide) {
            return self.wide_row(row, wide).map_or(Columns::Read(&[]), Columns::InPlace);
        }
        let x = self.logits.row(row);
        match self.request.wide_mut(wide).and_then(|matrix| matrix.row_mut(kept)) {
            Some(exps) => Columns::Between(x, exps),
            None => Columns::Read(x),
        }
    }

    /// Where the second pass reads a row's exponentials, and writes.
    pub(crate) fn kept_columns(&mut self, row: usize, wide: Wide, kept: usize) -> Option<Columns<'_>> {
        if self.overwrites(wide) || kept == row {
            return self.wide_row(row, wide).map(Columns::InPlace);
        }
        let (to, from) = self.request.wide_mut(wide)?.row_and_later_row(row, kept)?;
        Some(Columns::Streaming(from, to))
    }

    /// [`Batch::source`] of a tile of short rows, which keeps exponentials so many rows further down.
    pub(crate) fn short_source(
        &mut self,
        tile: Range<usize>,
        keeps: Option<Wide>,
        further_down: usize,
    ) -> short_rows::Source<'_, f32> {
        let Some(wide) = keeps else { return short_rows::Source::Read(self.rows_of_logits(tile)) };
        if self.overwrites(wide) {
            return match self.rows_of(wide, tile) {
                Some(rows) => short_rows::Source::Overwrite(rows),
                None => short_rows::Source::Read(RowsOf { data: &[], row_stride: 0, classes: 0, count: 0 }),
            };
        }
        let (classes, count) = (self.classes(), tile.len());
        let (data, row_stride) = self.logits.as_matrix().rows_from(tile.start);
        let logits = RowsOf { data, row_stride, classes, count };
        match self.request.wide_mut(wide) {
            None => short_rows::Source::Read(logits),
            Some(matrix) => {
                let (data, row_stride) = matrix.rows_from_mut(tile.start);
                let rows = RowsOf { data, row_stride, classes, count };
                short_rows::Source::Keep(logits, short_rows::Kept { rows, further_down })
            }
        }
    }

    /// [`Batch::kept_columns`] of a tile of short rows.
    pub(crate) fn short_kept(
        &mut self,
        tile: Range<usize>,
        wide: Wide,
        further_down: usize,
    ) -> Option<short_rows::Kept<'_>> {
        let further_down = if self.overwrites(wide) { 0 } else { further_down };
        self.rows_of(wide, tile).map(|rows| short_rows::Kept { rows, further_down })
    }

    /// For the second pass over one row along with the first over the next. Unless in place, the rows of `wide` that keep
    /// their exponentials are further down than the first.
    pub(crate) fn overlapped_rows(
        &mut self,
        [row, next]: [usize; 2],
        wide: Wide,
        [kept_at, next_kept_at]: [usize; 2],
    ) -> Option<TwoRows<'_>> {
        if self.overwrites(wide) {
            let Logits::Overwrite(matrix, _) = &mut self.logits else { return None };
            return matrix.two_rows(row, next).map(|[row, next]| TwoRows::InPlace { row, next });
        }
        let logits = self.logits.row(next);
        let later = [kept_at.min(next_kept_at), kept_at.max(next_kept_at)];
        let [out, first, last] = self.request.wide_mut(wide)?.row_and_later_rows(row, later)?;
        let (exps, kept) = if kept_at < next_kept_at { (first, last) } else { (last, first) };
        Some(TwoRows::Apart { exps, out, logits, kept })
    }
}
