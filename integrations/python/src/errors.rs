//! From the crate's errors to Python's exceptions.

use pyo3::PyErr;
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};

use crate::dtypes::{self, Dtype};

/// A target that is no class is an `IndexError`, all else a `ValueError`; the message names argument, row and value.
pub(crate) fn exception(error: xent::Error) -> PyErr {
    match error {
        xent::Error::TargetOutOfRange { .. } => PyIndexError::new_err(error.to_string()),
        _ => PyValueError::new_err(error.to_string()),
    }
}

pub(crate) fn value_error(message: impl Into<String>) -> PyErr {
    PyValueError::new_err(message.into())
}

pub(crate) fn type_error(message: impl Into<String>) -> PyErr {
    PyTypeError::new_err(message.into())
}

/// Logits of a dtype that the crate does not take.
pub(crate) fn no_logits(argument: &str, dtype: Dtype) -> PyErr {
    type_error(no_logits_text(argument, dtype))
}

pub(crate) fn no_logits_text(argument: &str, dtype: Dtype) -> String {
    format!("{argument} is {dtype}; logits are {}", dtypes::names().join(", "))
}
