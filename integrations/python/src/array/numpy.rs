//! NumPy's array interface: <https://numpy.org/doc/stable/reference/arrays.interface.html>, the access by C structs.

use core::ffi::{c_char, c_int, c_void};
use core::slice;

use pyo3::exceptions::PyAttributeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyCapsule;

use super::Description;
use crate::dtypes::Dtype;
use crate::errors::{type_error, value_error};

#[repr(C)]
struct ArrayInterface {
    /// 2, to tell that this is the struct.
    two: c_int,
    dimensions: c_int,
    kind: c_char,
    item_size: c_int,
    flags: c_int,
    shape: *mut isize,
    strides: *mut isize,
    data: *mut c_void,
}

const ALIGNED: c_int = 0x100;
const NATIVE_BYTES: c_int = 0x200;
const WRITABLE: c_int = 0x400;

/// What the interface says, if the object has it.
pub(super) fn describe<'py>(
    argument: &'static str,
    object: &Bound<'py, PyAny>,
) -> PyResult<Option<Description<'py>>> {
    let py = object.py();
    let capsule = match object.getattr(intern!(py, "__array_struct__")) {
        Ok(capsule) => capsule,
        Err(error) if error.is_instance_of::<PyAttributeError>(py) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Ok(capsule) = capsule.cast_into::<PyCapsule>() else { return Ok(None) };
    if is_masked(object)? {
        return Err(type_error(format!(
            "{argument} is a masked array, whose mask would be ignored: give its data, and loss_mask"
        )));
    }
    let pointer = capsule.pointer_checked(None)?.cast::<ArrayInterface>();
    // SAFETY: a capsule without a name at `__array_struct__` holds this struct, which lives as long as the capsule.
    let interface = unsafe { pointer.as_ref() };
    if interface.two != 2 {
        return Err(type_error(format!("{argument} has an unknown array interface")));
    }
    let dimensions = usize::try_from(interface.dimensions).unwrap_or(0);
    let (mut shape, mut strides) = (Vec::new(), Vec::new());
    if dimensions > 0 {
        // SAFETY: the interface has as many sizes and strides as dimensions, in the struct's own memory.
        shape.extend_from_slice(unsafe { slice::from_raw_parts(interface.shape, dimensions) });
        // SAFETY: as above.
        strides.extend_from_slice(unsafe { slice::from_raw_parts(interface.strides, dimensions) });
    }
    let has = |flag| interface.flags & flag != 0;
    let dtype = match (interface.kind as u8, interface.item_size) {
        (b'f', 2) => Dtype::F16,
        (b'f', 4) => Dtype::F32,
        (b'f', 8) => Dtype::F64,
        (b'b', 1) => Dtype::Bool,
        (b'u', 1) => Dtype::U8,
        (b'u', 2) => Dtype::U16,
        (b'u', 4) => Dtype::U32,
        (b'u', 8) => Dtype::U64,
        (b'i', 1) => Dtype::I8,
        (b'i', 2) => Dtype::I16,
        (b'i', 4) => Dtype::I32,
        (b'i', 8) => Dtype::I64,
        (b'V', 2) if is_bfloat16(object)? => Dtype::Bf16,
        _ => Dtype::Other,
    };
    // Of other elements, the dtype is what is wrong.
    if dtype != Dtype::Other && !has(NATIVE_BYTES) {
        return Err(value_error(format!("{argument} has the bytes of its elements swapped")));
    }
    if dtype != Dtype::Other && !has(ALIGNED) {
        return Err(value_error(format!("{argument} is not aligned to its elements")));
    }
    let writable = if has(WRITABLE) { Ok(()) } else { Err("it is read-only") };
    let data = interface.data.cast();
    Ok(Some(Description { dtype, shape, strides, data, writable, owner: capsule.into_any() }))
}

/// Whether it is one of `numpy.ma`. Nothing that is just an array is asked.
fn is_masked(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    static ARRAY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = object.py();
    let load = || Ok::<_, PyErr>(py.import("numpy")?.getattr("ndarray")?.unbind());
    let kind = object.get_type();
    match ARRAY.get_or_try_init(py, load) {
        Ok(array) if kind.is(array) => Ok(false),
        Ok(_) => kind.hasattr(intern!(py, "harden_mask")),
        Err(_) => Ok(false), // There is no NumPy: other libraries have the interface too.
    }
}

/// To NumPy, a bfloat16 of `ml_dtypes` is two bytes of anything.
fn is_bfloat16(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    object.getattr("dtype")?.getattr("name")?.eq("bfloat16")
}
