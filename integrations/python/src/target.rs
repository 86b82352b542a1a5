//! Targets: a class or probabilities for each row.

use std::borrow::Cow;

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use xent::Matrix;

use crate::array::Array;
use crate::dtypes::{Dtype, Number};
use crate::errors::{type_error, value_error};
use crate::layout::{Layout, check_shape};
use crate::options::is_overflow;
use crate::row_values::{Elements, numbers};

/// Where targets come from.
pub(crate) enum Source<'py> {
    Array(Array<'py>),
    /// The class of a single row.
    Class(i64),
}

/// Targets as the crate takes them: probabilities are of the dtype that rows' numbers have.
pub(crate) enum Target<'a, N: Number> {
    Classes(Classes<'a>),
    Probabilities { data: Cow<'a, [N]>, layout: Layout },
}

/// Classes of the integer types that the crate takes.
pub(crate) enum Classes<'a> {
    U8(Cow<'a, [u8]>),
    U16(Cow<'a, [u16]>),
    U32(Cow<'a, [u32]>),
    U64(Cow<'a, [u64]>),
    I32(Cow<'a, [i32]>),
    I64(Cow<'a, [i64]>),
}

/// The expression with a slice of the classes, whatever they are.
macro_rules! with_classes {
    ($classes:expr, $name:ident => $body:expr) => {
        match $classes {
            $crate::target::Classes::U8($name) => $body,
            $crate::target::Classes::U16($name) => $body,
            $crate::target::Classes::U32($name) => $body,
            $crate::target::Classes::U64($name) => $body,
            $crate::target::Classes::I32($name) => $body,
            $crate::target::Classes::I64($name) => $body,
        }
    };
}

pub(crate) use with_classes;

impl<'py> Source<'py> {
    pub(crate) fn new(object: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Some(array) = Array::find("target", object)? {
            return Ok(Self::Array(array));
        }
        match object.extract() {
            Ok(class) => Ok(Self::Class(class)),
            Err(error) if is_overflow(&error, object) => {
                Err(PyIndexError::new_err(format!("target is {object}; a class has 64 bits")))
            }
            Err(_) => Array::read("target", object).map(Self::Array),
        }
    }

    pub(crate) fn array(&self) -> Option<&Array<'py>> {
        match self {
            Self::Array(array) => Some(array),
            Self::Class(_) => None,
        }
    }

    /// The targets of these logits.
    pub(crate) fn target<N: Number>(&self, input: &Array<'_>, layout: Layout) -> PyResult<Target<'_, N>> {
        let array = match self {
            Self::Array(array) => array,
            Self::Class(class) if input.shape.len() == 1 => {
                return Ok(Target::Classes(Classes::I64(Cow::Owned(vec![*class]))));
            }
            Self::Class(class) => {
                return Err(value_error(format!("target is {class}, but input has more than one row")));
            }
        };
        if array.dtype.is_float() {
            return probabilities(array, input, layout);
        }
        check_shape(array, &rows_shape(&input.shape))?;
        let classes = Classes::read(array)?;
        let dtype = array.dtype;
        let classes = classes
            .ok_or_else(|| type_error(format!("target is {dtype}, not of integers or probabilities")))?;
        Ok(Target::Classes(classes))
    }
}

impl<'a> Classes<'a> {
    /// `None` where the elements are no integers.
    pub(crate) fn read<E: Elements<'a>>(array: E) -> Result<Option<Self>, E::Error> {
        Ok(Some(match array.dtype() {
            Dtype::U8 => Self::U8(array.elements()?),
            Dtype::U16 => Self::U16(array.elements()?),
            Dtype::U32 => Self::U32(array.elements()?),
            Dtype::U64 => Self::U64(array.elements()?),
            Dtype::I32 => Self::I32(array.elements()?),
            Dtype::I64 => Self::I64(array.elements()?),
            Dtype::I8 => Self::I32(array.elements::<i8>()?.iter().map(|&class| class.into()).collect()),
            Dtype::I16 => Self::I32(array.elements::<i16>()?.iter().map(|&class| class.into()).collect()),
            _ => return Ok(None),
        }))
    }
}

fn probabilities<'a, N: Number>(
    array: &'a Array<'_>,
    input: &Array<'_>,
    layout: Layout,
) -> PyResult<Target<'a, N>> {
    check_shape(array, &input.shape)?;
    let Layout::Rows { rows, classes, .. } = layout else {
        return Err(value_error(
            "probabilities as targets of input of shape (N, C, d1, ...) need both with the classes innermost in memory",
        ));
    };
    if array.dtype == N::DTYPE {
        let dimension = usize::from(input.shape.len() > 1);
        let layout = layout.of_companion(input, array, dimension)?;
        return Ok(Target::Probabilities { data: Cow::Borrowed(array.slice()?), layout });
    }
    if array.shape.len() > 2 {
        return Err(type_error(format!(
            "target is {}: probabilities of input of shape (N, C, d1, ...) are {}",
            array.dtype,
            N::DTYPE
        )));
    }
    let layout = Layout::Rows { rows, classes, row_stride: classes };
    Ok(Target::Probabilities { data: numbers(array)?, layout })
}

/// The shape of what has one number for each row.
pub(crate) fn rows_shape(shape: &[usize]) -> Vec<usize> {
    let classes = usize::from(shape.len() > 1);
    let rows = shape.iter().enumerate().filter(|&(dimension, _)| dimension != classes);
    rows.map(|(_, &size)| size).collect()
}

/// The probabilities as a matrix.
pub(crate) fn distributions<N: Number>(data: &[N], layout: Layout) -> PyResult<Matrix<'_, N>> {
    layout.matrix(data)
}
