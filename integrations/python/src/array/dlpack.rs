//! DLPack, the exchange of tensors between libraries: <https://dmlc.github.io/dlpack/latest/>.

use core::ffi::{CStr, c_void};
use core::slice;

use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};

use super::Description;
use crate::dtypes::Dtype;
use crate::errors::{type_error, value_error};

#[repr(C)]
struct Device {
    kind: i32,
    id: i32,
}

#[repr(C)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device: Device,
    dimensions: i32,
    dtype: DataType,
    shape: *mut i64,
    /// In elements; null where the tensor is contiguous.
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct VersionedTensor {
    major: u32,
    minor: u32,
    manager: *mut c_void,
    deleter: *mut c_void,
    flags: u64,
    tensor: Tensor,
}

/// The version whose structs these are.
const MAJOR: u32 = 1;
const CPU: i32 = 1;
const READ_ONLY: u64 = 1;
const COPIED: u64 = 2;

const PLAIN_NAME: &CStr = c"dltensor";
const VERSIONED_NAME: &CStr = c"dltensor_versioned";

/// What the tensor says, if the object is the capsule of one. Whoever made the capsule knows whether it may be written.
pub(super) fn describe_capsule<'py>(
    argument: &'static str,
    object: &Bound<'py, PyAny>,
) -> PyResult<Option<Description<'py>>> {
    let Ok(capsule) = object.cast::<PyCapsule>() else { return Ok(None) };
    describe(argument, capsule.clone(), Ok(())).map(Some)
}

/// What the tensor says, if the object is one.
pub(super) fn describe_tensor<'py>(
    argument: &'static str,
    object: &Bound<'py, PyAny>,
) -> PyResult<Option<Description<'py>>> {
    let py = object.py();
    let export = match object.getattr(intern!(py, "__dlpack__")) {
        Ok(export) => export,
        Err(error) if error.is_instance_of::<PyAttributeError>(py) => return Ok(None),
        Err(error) => return Err(error),
    };
    let device = object.call_method0(intern!(py, "__dlpack_device__"))?;
    let (kind, _): (i32, i32) = device.extract()?;
    if kind != CPU {
        return Err(not_on_cpu(argument, kind));
    }
    let options = PyDict::new(py);
    options.set_item(intern!(py, "max_version"), (MAJOR, 0))?;
    let capsule = match export.call((), Some(&options)) {
        // A library from before there were versions.
        Err(error) if error.is_instance_of::<PyTypeError>(py) => export.call0()?,
        result => result?,
    };
    let unknown = Err("its library does not say that it may be, by DLPack 1.0");
    describe(argument, capsule.cast_into()?, unknown).map(Some)
}

/// The capsule is left as it is, so that it frees the tensor when it goes.
fn describe<'py>(
    argument: &'static str,
    capsule: Bound<'py, PyCapsule>,
    unversioned: Result<(), &'static str>,
) -> PyResult<Description<'py>> {
    let (tensor, writable) = if capsule.is_valid_checked(Some(VERSIONED_NAME)) {
        let pointer = capsule.pointer_checked(Some(VERSIONED_NAME))?.cast::<VersionedTensor>();
        // SAFETY: the version stands first in every version of the struct.
        let major = unsafe { (*pointer.as_ptr()).major };
        if major != MAJOR {
            return Err(type_error(format!("{argument} speaks DLPack {major}")));
        }
        // SAFETY: a capsule of this name and version holds this struct, which lives as long as the capsule.
        let versioned = unsafe { pointer.as_ref() };
        let writable = match versioned.flags {
            flags if flags & READ_ONLY != 0 => Err("it is read-only"),
            flags if flags & COPIED != 0 => Err("its library shares a copy of it"),
            _ => Ok(()),
        };
        (&versioned.tensor, writable)
    } else if capsule.is_valid_checked(Some(PLAIN_NAME)) {
        let pointer = capsule.pointer_checked(Some(PLAIN_NAME))?.cast::<Tensor>();
        // SAFETY: a capsule of this name holds a struct that begins with this one, and lives as long as the capsule.
        (unsafe { pointer.as_ref() }, unversioned)
    } else {
        return Err(type_error(format!(
            "{argument} is a capsule, but not of a DLPack tensor that is still there"
        )));
    };
    if tensor.device.kind != CPU {
        return Err(not_on_cpu(argument, tensor.device.kind));
    }
    let dtype = match (tensor.dtype.code, tensor.dtype.bits) {
        _ if tensor.dtype.lanes != 1 => Dtype::Other,
        (0, 8) => Dtype::I8,
        (0, 16) => Dtype::I16,
        (0, 32) => Dtype::I32,
        (0, 64) => Dtype::I64,
        (1, 8) => Dtype::U8,
        (1, 16) => Dtype::U16,
        (1, 32) => Dtype::U32,
        (1, 64) => Dtype::U64,
        (2, 16) => Dtype::F16,
        (2, 32) => Dtype::F32,
        (2, 64) => Dtype::F64,
        (4, 16) => Dtype::Bf16,
        (6, 8) => Dtype::Bool,
        _ => Dtype::Other,
    };
    let (shape, strides) = sizes(argument, tensor, dtype)?;
    let data = tensor.data.cast::<u8>().wrapping_add(tensor.byte_offset as usize);
    Ok(Description { dtype, shape, strides, data, writable, owner: capsule.into_any() })
}

/// The shape, and the strides in bytes.
fn sizes(argument: &'static str, tensor: &Tensor, dtype: Dtype) -> PyResult<(Vec<isize>, Vec<isize>)> {
    let dimensions = usize::try_from(tensor.dimensions).unwrap_or(0);
    if dimensions == 0 {
        return Ok((Vec::new(), Vec::new()));
    }
    let too_large = || value_error(format!("{argument} is larger than memory can be"));
    // SAFETY: a tensor has as many sizes as dimensions.
    let sizes = unsafe { slice::from_raw_parts(tensor.shape, dimensions) };
    let bytes = dtype.bytes() as i64;
    let mut strides = vec![bytes; dimensions];
    if tensor.strides.is_null() {
        for dimension in (1..dimensions).rev() {
            let stride = strides[dimension].checked_mul(sizes[dimension]);
            strides[dimension - 1] = stride.ok_or_else(too_large)?;
        }
    } else {
        // SAFETY: a tensor has as many strides as dimensions, where it has any.
        let elements = unsafe { slice::from_raw_parts(tensor.strides, dimensions) };
        for (stride, &elements) in strides.iter_mut().zip(elements) {
            *stride = elements.checked_mul(bytes).ok_or_else(too_large)?;
        }
    }
    let narrow =
        |sizes: &[i64]| sizes.iter().map(|&size| isize::try_from(size).ok()).collect::<Option<Vec<_>>>();
    narrow(sizes).zip(narrow(&strides)).ok_or_else(too_large)
}

fn not_on_cpu(argument: &str, kind: i32) -> PyErr {
    value_error(format!(
        "{argument} is on a device of DLPack's kind {kind}; it must be on the CPU, kind {CPU}"
    ))
}
