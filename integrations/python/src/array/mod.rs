//! Memory that Python objects share: borrowed for the time of a call, never copied.
//!
//! Two protocols lead to it: NumPy's array interface, which also tells whether an array may be written, and DLPack, which
//! every tensor library speaks. The functions that turn memory into slices are the only `unsafe` ones, and what they
//! rest on is checked when an [`Array`] is made.

mod dlpack;
mod numpy;

use core::ops::Range;
use core::slice;

use pyo3::prelude::*;

use crate::dtypes::{Dtype, Scalar};
use crate::errors::{type_error, value_error};

/// The memory of one argument. Its owner is kept alive as long as this is.
pub(crate) struct Array<'py> {
    pub(crate) argument: &'static str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// In elements, and none of them negative where there is more than one element in the dimension.
    pub(crate) strides: Vec<usize>,
    data: *mut u8,
    writable: Result<(), &'static str>,
    /// What keeps the memory: a capsule of either protocol.
    _owner: Bound<'py, PyAny>,
}

/// What a protocol says of an array, before it is checked.
struct Description<'py> {
    dtype: Dtype,
    shape: Vec<isize>,
    /// In bytes.
    strides: Vec<isize>,
    data: *mut u8,
    /// Or why not.
    writable: Result<(), &'static str>,
    owner: Bound<'py, PyAny>,
}

impl<'py> Array<'py> {
    /// The memory of an object that is only read.
    pub(crate) fn read(argument: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        match Self::find(argument, object)? {
            Some(array) => Ok(array),
            None => {
                let name = object.get_type().name()?;
                Err(type_error(format!(
                    "{argument} is of type {name}, which is neither an array nor a tensor"
                )))
            }
        }
    }

    /// The memory of an object that is written.
    pub(crate) fn write(argument: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Self> {
        let array = Self::read(argument, object)?;
        array.writable.map_err(|reason| value_error(format!("{argument} cannot be written: {reason}")))?;
        Ok(array)
    }

    /// The memory of an object, if it has any to share.
    pub(crate) fn find(argument: &'static str, object: &Bound<'py, PyAny>) -> PyResult<Option<Self>> {
        // The cheapest question first: a missing attribute is an exception made and dropped.
        let description = match dlpack::describe_capsule(argument, object)? {
            Some(description) => Some(description),
            None => match numpy::describe(argument, object)? {
                Some(description) => Some(description),
                None => dlpack::describe_tensor(argument, object)?,
            },
        };
        description.map(|description| Self::new(argument, description)).transpose()
    }

    /// Checks what the slices rest on.
    fn new(argument: &'static str, description: Description<'py>) -> PyResult<Self> {
        let Description { dtype, shape, strides, data, writable, owner } = description;
        let bytes = dtype.bytes();
        if bytes == 0 {
            return Err(type_error(format!("{argument} is an array {dtype}")));
        }
        let sizes: Option<Vec<usize>> = shape.iter().map(|&size| usize::try_from(size).ok()).collect();
        let sizes = sizes.ok_or_else(|| value_error(format!("{argument} has a negative size")))?;
        let is_empty = sizes.contains(&0);
        let mut steps = Vec::with_capacity(sizes.len());
        for (&size, &stride) in sizes.iter().zip(&strides) {
            let step = match usize::try_from(stride) {
                _ if size <= 1 || is_empty => 0,
                Ok(stride) if stride % bytes == 0 => stride / bytes,
                _ => {
                    let problem =
                        format!("{argument} has a stride of {stride} bytes, and elements of {bytes}");
                    return Err(value_error(problem));
                }
            };
            steps.push(step);
        }
        if !is_empty && (data.is_null() || !(data as usize).is_multiple_of(bytes)) {
            return Err(value_error(format!("{argument} is not aligned to its elements")));
        }
        let array = Self { argument, dtype, shape: sizes, strides: steps, data, writable, _owner: owner };
        let fits = array.extent().and_then(|extent| extent.checked_mul(bytes));
        let count = array.shape.iter().try_fold(1, |count: usize, &size| count.checked_mul(size));
        if count.is_none() || fits.is_none_or(|extent| isize::try_from(extent).is_err()) {
            return Err(value_error(format!("{argument} is larger than memory can be")));
        }
        Ok(array)
    }

    /// Elements from the first to the last in memory.
    fn extent(&self) -> Option<usize> {
        if self.shape.contains(&0) {
            return Some(0);
        }
        let mut last: usize = 0;
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            last = last.checked_add((size - 1).checked_mul(stride)?)?;
        }
        last.checked_add(1)
    }

    /// The number of elements, which are not all at different places.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The addresses of its bytes.
    pub(crate) fn bytes(&self) -> Range<usize> {
        let start = self.data as usize;
        start..start + self.extent().unwrap_or(0) * self.dtype.bytes()
    }

    /// Whether all elements follow each other, the last dimension first.
    pub(crate) fn is_contiguous(&self) -> bool {
        if self.shape.contains(&0) {
            return true;
        }
        let mut expected = 1;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if size > 1 && stride != expected {
                return false;
            }
            expected *= size;
        }
        true
    }

    /// Whether it is the other's memory, element for element.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.data, self.dtype, &self.shape, &self.strides)
            == (other.data, other.dtype, &other.shape, &other.strides)
    }

    /// All elements from the first in memory to the last, whatever lies between them.
    pub(crate) fn slice<T: Scalar>(&self) -> PyResult<&[T]> {
        let len = self.checked_extent::<T>()?;
        if len == 0 {
            return Ok(&[]);
        }
        // SAFETY: the protocol's owner, which lives as long as `self`, keeps every element that the shape and the strides
        // reach; `new` found them aligned, of this dtype (every bit pattern is a number), and less than isize::MAX bytes.
        // Calls check with `check_apart` that nothing written lies in here. That no other thread of Python's writes
        // meanwhile is the caller's duty, as it is in NumPy.
        Ok(unsafe { slice::from_raw_parts(self.data.cast::<T>(), len) })
    }

    /// The same to write. [`Array::write`] made it.
    pub(crate) fn slice_mut<T: Scalar>(&mut self) -> PyResult<&mut [T]> {
        let len = self.checked_extent::<T>()?;
        self.writable
            .map_err(|reason| value_error(format!("{} cannot be written: {reason}", self.argument)))?;
        if len == 0 {
            return Ok(&mut []);
        }
        // SAFETY: as in `slice`; the memory may be written, `self` is borrowed mutably, and calls check with
        // `check_apart` that no other argument lies in it.
        Ok(unsafe { slice::from_raw_parts_mut(self.data.cast::<T>(), len) })
    }

    fn checked_extent<T: Scalar>(&self) -> PyResult<usize> {
        if self.dtype != T::DTYPE {
            return Err(type_error(format!("{} is {}, not {}", self.argument, self.dtype, T::DTYPE)));
        }
        Ok(self.extent().unwrap_or(0))
    }
}

/// That nothing which is written has memory in common with anything else. Rows of one array that alternate with those of
/// another count as common.
pub(crate) fn check_apart(written: &[&Array<'_>], read: &[&Array<'_>]) -> PyResult<()> {
    for (index, array) in written.iter().enumerate() {
        let bytes = array.bytes();
        for other in written[..index].iter().chain(read) {
            let others = other.bytes();
            if bytes.start < others.end && others.start < bytes.end {
                let (array, other) = (array.argument, other.argument);
                return Err(value_error(format!("{array} overlaps {other} in memory")));
            }
        }
    }
    Ok(())
}
