//! What has one number for each row: borrowed where it is as the crate wants it, else gathered, which are N numbers.

use std::borrow::Cow;

use pyo3::prelude::*;

use crate::array::Array;
use crate::dtypes::{Dtype, Number, Scalar};
use crate::errors::type_error;

/// An array whose elements are read in order.
pub(crate) trait Elements<'a> {
    type Error;
    fn dtype(&self) -> Dtype;
    fn elements<T: Scalar>(&self) -> Result<Cow<'a, [T]>, Self::Error>;
}

impl<'a> Elements<'a> for &'a Array<'_> {
    type Error = PyErr;

    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn elements<T: Scalar>(&self) -> PyResult<Cow<'a, [T]>> {
        values(self)
    }
}

/// The elements in order, the last dimension first.
fn values<'a, T: Scalar>(array: &'a Array<'_>) -> PyResult<Cow<'a, [T]>> {
    let data = array.slice::<T>()?;
    if array.is_contiguous() {
        return Ok(Cow::Borrowed(data));
    }
    let mut gathered = Vec::with_capacity(array.len());
    let mut index = vec![0; array.shape.len()];
    for _ in 0..array.len() {
        let place: usize = index.iter().zip(&array.strides).map(|(index, stride)| index * stride).sum();
        gathered.push(data[place]);
        for dimension in (0..index.len()).rev() {
            index[dimension] += 1;
            if index[dimension] < array.shape[dimension] {
                break;
            }
            index[dimension] = 0;
        }
    }
    Ok(Cow::Owned(gathered))
}

/// The same, of any floating-point dtype.
pub(crate) fn numbers<'a, N: Number>(array: &'a Array<'_>) -> PyResult<Cow<'a, [N]>> {
    fn convert<T: Scalar + Into<f64>, N: Number>(array: &Array<'_>) -> PyResult<Vec<N>> {
        Ok(values::<T>(array)?.iter().map(|&value| N::from_f64(value.into())).collect())
    }
    let converted = match array.dtype {
        dtype if dtype == N::DTYPE => return values(array),
        Dtype::F16 => convert::<half::f16, N>(array)?,
        Dtype::Bf16 => convert::<half::bf16, N>(array)?,
        Dtype::F32 => convert::<f32, N>(array)?,
        Dtype::F64 => convert::<f64, N>(array)?,
        other => {
            return Err(type_error(format!("{} is {other}, not of floating-point numbers", array.argument)));
        }
    };
    Ok(Cow::Owned(converted))
}

/// Truth values. They are copied: the bytes of a foreign array of them might hold something else.
pub(crate) fn truths(array: &Array<'_>) -> PyResult<Vec<bool>> {
    if array.dtype != Dtype::Bool {
        return Err(type_error(format!("{} is {}, not bool", array.argument, array.dtype)));
    }
    truths_of(array)
}

/// The same of an array that is known to be of them.
pub(crate) fn truths_of<'a, E: Elements<'a>>(array: E) -> Result<Vec<bool>, E::Error> {
    Ok(array.elements::<Truth>()?.iter().map(|&Truth(byte)| byte != 0).collect())
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Truth(u8);

impl Scalar for Truth {
    const DTYPE: Dtype = Dtype::Bool;
}
