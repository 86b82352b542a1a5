//! Where the rows of logits are in an array: side by side, or across planes.

use pyo3::PyResult;
use xent::{Matrix, MatrixMut, Planes, PlanesMut};

use crate::array::Array;
use crate::dtypes::Scalar;
use crate::errors::{exception, value_error};

/// The place of logits of shape (C), (N, C) or (N, C, d1, d2, ...).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Layout {
    /// The classes of a row are neighbours, and rows are equally far apart. So are those of "channels last" images.
    Rows { rows: usize, classes: usize, row_stride: usize },
    /// The positions d1 x d2 x ... of a plane are neighbours, and each class has a plane.
    Planes { sizes: (usize, usize, usize), image_stride: usize, class_stride: usize },
}

impl Layout {
    /// That of logits whose classes are dimension 1, as PyTorch has it, or the only one.
    pub(crate) fn of_logits(array: &Array<'_>) -> PyResult<Self> {
        let classes = match array.shape.len() {
            0 => return Err(value_error(format!("{} has no dimension of classes", array.argument))),
            1 => 0,
            _ => 1,
        };
        match Self::rows(array, classes).or_else(|| Self::planes(array)) {
            Some(layout) => Ok(layout),
            None => Err(not_contiguous(array)),
        }
    }

    /// That of rows along the last dimension.
    pub(crate) fn of_last(array: &Array<'_>) -> PyResult<Self> {
        let last = array.shape.len().checked_sub(1);
        let last = last.ok_or_else(|| value_error(format!("{} has no dimensions", array.argument)))?;
        Self::rows(array, last).ok_or_else(|| not_contiguous(array))
    }

    /// That of an array which goes with logits of this layout: the same shape, and the same order in memory.
    pub(crate) fn of_companion(self, input: &Array<'_>, array: &Array<'_>, classes: usize) -> PyResult<Self> {
        check_shape(array, &input.shape)?;
        let layout = match self {
            Self::Rows { .. } => Self::rows(array, classes),
            Self::Planes { .. } => Self::planes(array),
        };
        layout.ok_or_else(|| {
            let (argument, strides) = (array.argument, shape_text(&array.strides));
            value_error(format!(
                "{argument} has not the memory order of {}: strides {strides}",
                input.argument
            ))
        })
    }

    fn rows(array: &Array<'_>, classes: usize) -> Option<Self> {
        let (shape, strides) = (&array.shape, &array.strides);
        let others = || (0..shape.len()).filter(|&dimension| dimension != classes);
        let count = product(others().map(|dimension| shape[dimension]))?;
        let cols = shape[classes];
        if array.len() == 0 {
            return Some(Self::Rows { rows: count, classes: cols, row_stride: cols });
        }
        if cols > 1 && strides[classes] != 1 {
            return None;
        }
        let stride = collapse(others().map(|dimension| (shape[dimension], strides[dimension])))?;
        let row_stride = stride.unwrap_or(cols);
        (row_stride >= cols).then_some(Self::Rows { rows: count, classes: cols, row_stride })
    }

    /// Only where there are positions: a transposed matrix is none.
    fn planes(array: &Array<'_>) -> Option<Self> {
        let (shape, strides) = (&array.shape, &array.strides);
        if shape.len() < 3 {
            return None;
        }
        let positions = product(shape[2..].iter().copied())?;
        let stride = collapse(shape[2..].iter().copied().zip(strides[2..].iter().copied()))?;
        if stride.is_some_and(|stride| stride != 1) {
            return None;
        }
        let class_stride = if shape[1] > 1 { strides[1] } else { positions };
        let image_stride = if shape[0] > 1 { strides[0] } else { class_stride.saturating_mul(shape[1]) };
        Some(Self::Planes { sizes: (shape[0], shape[1], positions), image_stride, class_stride })
    }

    pub(crate) fn matrix<T: Scalar>(self, data: &[T]) -> PyResult<Matrix<'_, T>> {
        let Self::Rows { rows, classes, row_stride } = self else { return Err(needs_rows()) };
        Matrix::with_row_stride(data, rows, classes, row_stride).map_err(exception)
    }

    pub(crate) fn matrix_mut<T: Scalar>(self, data: &mut [T]) -> PyResult<MatrixMut<'_, T>> {
        let Self::Rows { rows, classes, row_stride } = self else { return Err(needs_rows()) };
        MatrixMut::with_row_stride(data, rows, classes, row_stride).map_err(exception)
    }

    pub(crate) fn planes_of<T: Scalar>(self, data: &[T]) -> PyResult<Planes<'_, T>> {
        let Self::Planes { sizes, image_stride, class_stride } = self else { return Err(needs_rows()) };
        Planes::with_strides(data, sizes, image_stride, class_stride).map_err(exception)
    }

    pub(crate) fn planes_mut<T: Scalar>(self, data: &mut [T]) -> PyResult<PlanesMut<'_, T>> {
        let Self::Planes { sizes, image_stride, class_stride } = self else { return Err(needs_rows()) };
        PlanesMut::with_strides(data, sizes, image_stride, class_stride).map_err(exception)
    }
}

/// Sizes of an array without elements may be as large as they like.
fn product(mut sizes: impl Iterator<Item = usize>) -> Option<usize> {
    sizes.try_fold(1_usize, usize::checked_mul)
}

/// Dimensions as one, their elements in order: its stride, which is none for a single element; `None` where it has none.
fn collapse(dimensions: impl DoubleEndedIterator<Item = (usize, usize)>) -> Option<Option<usize>> {
    let mut inner: Option<(usize, usize)> = None;
    for (size, stride) in dimensions.rev().filter(|&(size, _)| size > 1) {
        inner = match inner {
            None => Some((size, stride)),
            Some((count, step)) if count.checked_mul(step) == Some(stride) => Some((count * size, step)),
            Some(_) => return None,
        };
    }
    Some(inner.map(|(_, step)| step))
}

pub(crate) fn check_shape(array: &Array<'_>, expected: &[usize]) -> PyResult<()> {
    if array.shape == expected {
        return Ok(());
    }
    let (actual, expected) = (shape_text(&array.shape), shape_text(expected));
    Err(value_error(format!("{} has shape {actual} instead of {expected}", array.argument)))
}

/// As Python writes it.
pub(crate) fn shape_text(shape: &[usize]) -> String {
    match shape {
        [size] => format!("({size},)"),
        _ => format!("({})", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    }
}

fn not_contiguous(array: &Array<'_>) -> pyo3::PyErr {
    let (shape, strides) = (shape_text(&array.shape), shape_text(&array.strides));
    value_error(format!(
        "{} of shape {shape} has strides {strides} in elements: the classes of a row must be neighbours in memory and rows \
         apart, or, in shape (N, C, d1, ...), the positions of a plane neighbours",
        array.argument
    ))
}

fn needs_rows() -> pyo3::PyErr {
    value_error("the classes of a row must be neighbours in memory for this call")
}
