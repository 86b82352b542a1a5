//! Arrays of the crate `ndarray` as matrices, without a copy.
//!
//! A [`Matrix`] is one slice, from its first element to its last. The view of some columns of a wider array owns only a
//! part of the memory between these two: the rest may be borrowed by others, mutably too. So a view becomes a matrix if
//! its rows are contiguous, and a matrix with a row stride is made of the whole wider array.

use core::ops::Range;

use ndarray::{ArrayBase, ArrayRef2, ArrayView2, ArrayViewMut2, Data, DataMut, Ix2};

use crate::{Error, Matrix, MatrixMut};

/// The array's rows, if they are contiguous.
///
/// ```
/// use ndarray::array;
/// use xent::{CrossEntropy, Matrix};
///
/// let logits = array![[1.0_f32, 2.0, 3.0], [2.0, 1.0, 0.5]];
/// let loss = CrossEntropy::default().loss(Matrix::try_from(logits.view())?, &[2_u8, 0])?;
/// assert!((loss - 0.436_0).abs() < 1e-4);
/// # Ok::<(), xent::Error>(())
/// ```
///
/// # Errors
/// [`Error::NotContiguous`] for a transposed array, for every other row, and for some columns of a wider array, which
/// [`Matrix::from_columns`] takes.
impl<'a, T> TryFrom<ArrayView2<'a, T>> for Matrix<'a, T> {
    type Error = Error;

    fn try_from(array: ArrayView2<'a, T>) -> Result<Self, Error> {
        let (rows, cols) = array.dim();
        let not_contiguous = not_contiguous(&array);
        Self::new(array.to_slice().ok_or(not_contiguous)?, rows, cols)
    }
}

/// As from an [`ArrayView2`].
impl<'a, T, S: Data<Elem = T>> TryFrom<&'a ArrayBase<S, Ix2>> for Matrix<'a, T> {
    type Error = Error;

    fn try_from(array: &'a ArrayBase<S, Ix2>) -> Result<Self, Error> {
        Self::try_from(array.view())
    }
}

/// The array's rows, to write, if they are contiguous.
///
/// ```
/// use ndarray::{Array2, array};
/// use xent::{CrossEntropy, Matrix, MatrixMut};
///
/// let logits = array![[1.0_f32, 2.0, 3.0], [2.0, 1.0, 0.5]];
/// let mut grad = Array2::zeros(logits.dim());
/// let (x, dx) = (Matrix::try_from(&logits)?, MatrixMut::try_from(&mut grad)?);
/// CrossEntropy::default().loss_and_grad(x, &[2_u8, 0], dx)?;
/// assert!((grad[[0, 2]] + 0.167_4).abs() < 1e-4);
/// # Ok::<(), xent::Error>(())
/// ```
///
/// # Errors
/// Those of [`Matrix`] from an [`ArrayView2`]; [`MatrixMut::from_columns`] takes some columns of a wider array.
impl<'a, T> TryFrom<ArrayViewMut2<'a, T>> for MatrixMut<'a, T> {
    type Error = Error;

    fn try_from(array: ArrayViewMut2<'a, T>) -> Result<Self, Error> {
        let (rows, cols) = array.dim();
        let not_contiguous = not_contiguous(&array);
        Self::new(array.into_slice().ok_or(not_contiguous)?, rows, cols)
    }
}

/// As from an [`ArrayViewMut2`].
impl<'a, T, S: DataMut<Elem = T>> TryFrom<&'a mut ArrayBase<S, Ix2>> for MatrixMut<'a, T> {
    type Error = Error;

    fn try_from(array: &'a mut ArrayBase<S, Ix2>) -> Result<Self, Error> {
        Self::try_from(array.view_mut())
    }
}

impl<'a, T> Matrix<'a, T> {
    /// Some columns of each row of an array whose rows are contiguous: its width becomes the row stride. With the feature
    /// `ndarray`.
    ///
    /// ```
    /// use ndarray::array;
    /// use xent::{CrossEntropy, Matrix};
    ///
    /// // Three classes, padded to four.
    /// let padded = array![[1.0_f32, 2.0, 3.0, f32::NAN], [2.0, 1.0, 0.5, f32::NAN]];
    /// let logits = Matrix::from_columns(padded.view(), 0..3)?;
    /// assert_eq!(logits.row_stride(), 4);
    /// let loss = CrossEntropy::default().loss(logits, &[2_u8, 0])?;
    /// assert!((loss - 0.436_0).abs() < 1e-4);
    /// # Ok::<(), xent::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotContiguous`], of the array; [`Error::ColumnsOutOfRange`].
    pub fn from_columns(array: ArrayView2<'a, T>, columns: Range<usize>) -> Result<Self, Error> {
        let (rows, width) = array.dim();
        check_columns(&columns, width)?;
        let not_contiguous = not_contiguous(&array);
        let data = array.to_slice().ok_or(not_contiguous)?;
        // Without rows, there are no columns in it.
        Self::with_row_stride(data.get(columns.start..).unwrap_or_default(), rows, columns.len(), width)
    }
}

impl<'a, T> MatrixMut<'a, T> {
    /// [`Matrix::from_columns`], to write. The other columns are left alone. With the feature `ndarray`.
    ///
    /// # Errors
    /// The same.
    pub fn from_columns(array: ArrayViewMut2<'a, T>, columns: Range<usize>) -> Result<Self, Error> {
        let (rows, width) = array.dim();
        check_columns(&columns, width)?;
        let not_contiguous = not_contiguous(&array);
        let data = array.into_slice().ok_or(not_contiguous)?;
        Self::with_row_stride(data.get_mut(columns.start..).unwrap_or_default(), rows, columns.len(), width)
    }
}

fn check_columns(columns: &Range<usize>, classes: usize) -> Result<(), Error> {
    if columns.start > classes || columns.end > classes {
        let (first_column, cols) = (columns.start, columns.len());
        return Err(Error::ColumnsOutOfRange { first_column, cols, classes });
    }
    Ok(())
}

fn not_contiguous<T>(array: &ArrayRef2<T>) -> Error {
    let strides = array.strides();
    Error::NotContiguous { shape: array.dim(), strides: (strides[0], strides[1]) }
}
