//! The loss as a foreign function of XLA, which is how JAX calls it.
//!
//! Reading order: `c_api` has the structures of XLA's C interface, `frame` and `attributes` read those of one call into safe
//! values, `handler` is the function that XLA calls, and `batch` does its work: `blocks` finds the parts of a batch, and
//! `large_pages` makes the memory of results cheaper to write. Python gets the function's address in a capsule.

mod attributes;
mod batch;
mod blocks;
mod c_api;
mod frame;
mod handler;
mod large_pages;

use core::ffi::{CStr, c_void};
use core::ptr::NonNull;

use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::errors::value_error;

/// By this name XLA knows a capsule with a function.
const CAPSULE: &CStr = c"xla._CUSTOM_CALL_TARGET";

/// The loss for `jax.ffi.register_ffi_target`.
#[pyfunction]
pub(crate) fn xla_cross_entropy(py: Python<'_>) -> PyResult<Bound<'_, PyCapsule>> {
    let handler: c_api::Handler = handler::cross_entropy;
    let address = NonNull::new(handler as *mut c_void);
    let address = address.ok_or_else(|| value_error("a function without an address"))?;
    // SAFETY: the address is that of a function of this library, which Python never unloads; nothing is to be freed.
    unsafe { PyCapsule::new_with_pointer(py, address, CAPSULE) }
}
