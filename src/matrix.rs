//! Borrowed row-major matrices with a row stride.

use crate::Error;

/// A row-major matrix that is only read: `rows` rows of `cols` neighbouring elements each, the rows `row_stride`
/// elements apart.
///
/// What lies between one row's last column and the next row's first, a padded vocabulary say, is never read.
///
/// ```
/// use xent::Matrix;
///
/// let padded = [1.0, 2.0, 3.0, -1.0, 4.0, 5.0, 6.0, -1.0];
/// let matrix = Matrix::with_row_stride(&padded, 2, 3, 4)?;
/// assert_eq!(matrix.row(1), Some(&[4.0, 5.0, 6.0][..]));
/// # Ok::<(), xent::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T = f32> {
    data: &'a [T],
    shape: Shape,
}

/// A row-major matrix that is written; otherwise as [`Matrix`]. What lies past a row's columns is never written.
#[derive(Debug)]
pub struct MatrixMut<'a, T = f32> {
    data: &'a mut [T],
    shape: Shape,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl Shape {
    fn new(len: usize, rows: usize, cols: usize, row_stride: usize) -> Result<Self, Error> {
        if row_stride < cols {
            return Err(Error::StrideTooSmall { row_stride, cols });
        }
        let required = match rows.checked_sub(1) {
            None => 0,
            Some(before_last) => before_last
                .checked_mul(row_stride)
                .and_then(|elements| elements.checked_add(cols))
                .ok_or(Error::SizeOverflow { rows, row_stride })?,
        };
        if len < required {
            return Err(Error::BufferTooShort { required, actual: len });
        }
        Ok(Self { rows, cols, row_stride })
    }

    fn with_rows(self, rows: usize) -> Self {
        Self { rows, ..self }
    }

    /// Where row `row` starts in `len` elements: their end for the row after the last, which may lack its padding.
    fn start(&self, row: usize, len: usize) -> usize {
        (row * self.row_stride).min(len)
    }
}

impl<'a, T> Matrix<'a, T> {
    /// `rows x cols` elements without padding.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`] and [`Error::SizeOverflow`].
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Result<Self, Error> {
        Self::with_row_stride(data, rows, cols, cols)
    }

    /// Rows that start `row_stride` elements apart. The last row needs no padding behind it.
    ///
    /// # Errors
    /// [`Error::StrideTooSmall`], [`Error::BufferTooShort`] and [`Error::SizeOverflow`].
    pub fn with_row_stride(
        data: &'a [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self, Error> {
        let shape = Shape::new(data.len(), rows, cols, row_stride)?;
        Ok(Self { data, shape })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.shape.rows
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.shape.cols
    }

    /// Elements from the start of one row to the start of the next.
    pub fn row_stride(&self) -> usize {
        self.shape.row_stride
    }

    /// The columns of one row.
    pub fn row(&self, row: usize) -> Option<&'a [T]> {
        (row < self.shape.rows).then(|| {
            let start = row * self.shape.row_stride;
            &self.data[start..start + self.shape.cols]
        })
    }

    /// The rows from `row` on, with their padding, and their stride.
    pub(crate) fn rows_from(self, row: usize) -> (&'a [T], usize) {
        (&self.data[self.shape.start(row, self.data.len())..], self.shape.row_stride)
    }

    /// The first `rows` rows, and the others.
    pub(crate) fn split_at(self, rows: usize) -> (Self, Self) {
        let (first, second) = self.data.split_at(self.shape.start(rows, self.data.len()));
        (
            Self { data: first, shape: self.shape.with_rows(rows) },
            Self { data: second, shape: self.shape.with_rows(self.shape.rows - rows) },
        )
    }
}

impl<'a, T> MatrixMut<'a, T> {
    /// `rows x cols` elements without padding.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`] and [`Error::SizeOverflow`].
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Result<Self, Error> {
        Self::with_row_stride(data, rows, cols, cols)
    }

    /// Rows that start `row_stride` elements apart. The last row needs no padding behind it.
    ///
    /// # Errors
    /// [`Error::StrideTooSmall`], [`Error::BufferTooShort`] and [`Error::SizeOverflow`].
    pub fn with_row_stride(
        data: &'a mut [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self, Error> {
        let shape = Shape::new(data.len(), rows, cols, row_stride)?;
        Ok(Self { data, shape })
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.shape.rows
    }

    /// The number of columns.
    pub fn cols(&self) -> usize {
        self.shape.cols
    }

    /// Elements from the start of one row to the start of the next.
    pub fn row_stride(&self) -> usize {
        self.shape.row_stride
    }

    /// The columns of one row.
    pub fn row(&self, row: usize) -> Option<&[T]> {
        self.as_matrix().row(row)
    }

    /// The columns of one row, to write.
    pub fn row_mut(&mut self, row: usize) -> Option<&mut [T]> {
        (row < self.shape.rows).then(|| {
            let start = row * self.shape.row_stride;
            &mut self.data[start..start + self.shape.cols]
        })
    }

    /// The same matrix, only read.
    pub fn as_matrix(&self) -> Matrix<'_, T> {
        Matrix { data: self.data, shape: self.shape }
    }

    /// All rows, with the padding between them.
    pub(crate) fn data(&self) -> &[T] {
        self.data
    }

    /// The same matrix for a shorter time, so that it can be used again after a call.
    pub fn reborrow(&mut self) -> MatrixMut<'_, T> {
        MatrixMut { data: self.data, shape: self.shape }
    }

    /// Two rows, the second further down, to write one and read the other.
    pub(crate) fn row_and_later_row(&mut self, row: usize, later: usize) -> Option<(&mut [T], &[T])> {
        let Shape { rows, cols, row_stride } = self.shape;
        (row < later && later < rows).then(|| {
            let (first, second) = self.data.split_at_mut(later * row_stride);
            (&mut first[row * row_stride..][..cols], &second[..cols])
        })
    }

    /// Two rows, the second further down, to write both.
    pub(crate) fn two_rows(&mut self, first: usize, second: usize) -> Option<[&mut [T]; 2]> {
        let Shape { rows, cols, row_stride } = self.shape;
        (first < second && second < rows).then(|| {
            let (before, second) = self.data.split_at_mut(second * row_stride);
            [&mut before[first * row_stride..][..cols], &mut second[..cols]]
        })
    }

    /// Three rows, each further down than the one before, to write all of them.
    pub(crate) fn row_and_later_rows(
        &mut self,
        row: usize,
        [second, third]: [usize; 2],
    ) -> Option<[&mut [T]; 3]> {
        let Shape { rows, cols, row_stride } = self.shape;
        (row < second && second < third && third < rows).then(|| {
            let (before, third) = self.data.split_at_mut(third * row_stride);
            let (before, second) = before.split_at_mut(second * row_stride);
            [&mut before[row * row_stride..][..cols], &mut second[..cols], &mut third[..cols]]
        })
    }

    /// The rows from `row` on, with their padding, and their stride.
    pub(crate) fn rows_from_mut(&mut self, row: usize) -> (&mut [T], usize) {
        let start = self.shape.start(row, self.data.len());
        (&mut self.data[start..], self.shape.row_stride)
    }

    /// The first `rows` rows, and the others.
    pub(crate) fn split_at(self, rows: usize) -> (Self, Self) {
        let start = self.shape.start(rows, self.data.len());
        let (first, second) = self.data.split_at_mut(start);
        (
            Self { data: first, shape: self.shape.with_rows(rows) },
            Self { data: second, shape: self.shape.with_rows(self.shape.rows - rows) },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four rows of two columns and one of padding; the last lacks it. Each number says where it is.
    fn numbers() -> Vec<i32> {
        vec![0, 1, -1, 10, 11, -1, 20, 21, -1, 30, 31]
    }

    fn row_of(row: usize) -> [i32; 2] {
        [row as i32 * 10, row as i32 * 10 + 1]
    }

    #[test]
    fn rows_are_those_asked_for_and_none_where_they_are_out_of_order() {
        let mut data = numbers();
        let mut matrix = MatrixMut::with_row_stride(&mut data, 4, 2, 3).unwrap();
        assert_eq!((matrix.rows(), matrix.cols(), matrix.row_stride()), (4, 2, 3));
        let shared = matrix.as_matrix();
        assert_eq!((shared.rows(), shared.cols(), shared.row_stride()), (4, 2, 3));
        for row in 0..4 {
            assert_eq!(matrix.row(row), Some(&row_of(row)[..]));
            assert_eq!(matrix.row_mut(row), Some(&mut row_of(row)[..]));
        }
        assert_eq!(matrix.row(4), None);
        assert_eq!(matrix.row_mut(4), None);
        for (row, later) in [(0, 1), (0, 3), (1, 2), (2, 3)] {
            let (to, from) = matrix.row_and_later_row(row, later).unwrap();
            assert_eq!((&to[..], from), (&row_of(row)[..], &row_of(later)[..]));
            let two = matrix.two_rows(row, later).unwrap();
            assert_eq!(two.map(|row| row.to_vec()), [row, later].map(|row| row_of(row).to_vec()));
        }
        for (row, later) in [(0, 0), (1, 0), (3, 3), (0, 4), (3, 4)] {
            assert!(matrix.row_and_later_row(row, later).is_none(), "{row} and {later}");
            assert!(matrix.two_rows(row, later).is_none(), "{row} and {later}");
        }
        for rows @ [row, second, third] in [[0, 1, 2], [1, 2, 3], [0, 2, 3]] {
            let found = matrix.row_and_later_rows(row, [second, third]).unwrap();
            assert_eq!(found.map(|row| row.to_vec()), rows.map(|row| row_of(row).to_vec()));
        }
        for (row, later) in [(0, [0, 2]), (0, [2, 1]), (1, [1, 2]), (0, [1, 1]), (0, [1, 4])] {
            assert!(matrix.row_and_later_rows(row, later).is_none(), "{row} and {later:?}");
        }
    }

    #[test]
    fn halves_have_the_rows_before_and_from_the_cut_on_also_without_the_last_padding() {
        for cut in 0..=4 {
            let (mut data, mut all) = (numbers(), numbers());
            let mut matrix = MatrixMut::with_row_stride(&mut data, 4, 2, 3).unwrap();
            let from = (3 * cut).min(all.len());
            assert_eq!(matrix.rows_from_mut(cut), (&mut all[from..], 3));
            let whole = matrix.as_matrix();
            assert_eq!(whole.rows_from(cut), (&all[from..], 3));
            let (first, second) = whole.split_at(cut);
            let rows = |part: Matrix<'_, i32>| -> Vec<i32> {
                (0..part.rows()).flat_map(|row| part.row(row).unwrap().to_vec()).collect()
            };
            assert_eq!((first.rows(), second.rows(), first.row(cut)), (cut, 4 - cut, None));
            assert_eq!([rows(first), rows(second)].concat(), rows(whole));
            let shared = (rows(first), rows(second));
            let (mut first, mut second) = matrix.split_at(cut);
            assert_eq!((rows(first.as_matrix()), rows(second.as_matrix())), shared);
            assert_eq!((first.row_mut(cut), second.row_mut(4 - cut)), (None, None));
        }
    }
}
