//! What a call writes, and new arrays for what the caller brings no memory for.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use crate::array::Array;
use crate::dtypes::{Dtype, Scalar};
use crate::errors::value_error;
use crate::layout::{Layout, check_shape};
use crate::target::rows_shape;

/// The outputs that have the shape of the logits.
#[derive(Default)]
pub(crate) struct WideOutputs<'py> {
    pub(crate) grad: Option<Array<'py>>,
    pub(crate) probabilities: Option<Array<'py>>,
    pub(crate) log_probabilities: Option<Array<'py>>,
}

/// The outputs that have one number for each row.
#[derive(Default)]
pub(crate) struct RowOutputs<'py> {
    pub(crate) losses: Option<Array<'py>>,
    pub(crate) lse: Option<Array<'py>>,
    pub(crate) target_log_probabilities: Option<Array<'py>>,
    pub(crate) entropies: Option<Array<'py>>,
    pub(crate) argmax: Option<Array<'py>>,
    pub(crate) argmax_probabilities: Option<Array<'py>>,
    pub(crate) target_ranks: Option<Array<'py>>,
}

impl<'py> WideOutputs<'py> {
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array<'py>> {
        [&self.grad, &self.probabilities, &self.log_probabilities].into_iter().flatten()
    }
}

impl<'py> RowOutputs<'py> {
    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array<'py>> {
        let Self { losses, lse, target_log_probabilities, entropies, .. } = self;
        let Self { argmax, argmax_probabilities, target_ranks, .. } = self;
        [losses, lse, target_log_probabilities, entropies, argmax, argmax_probabilities, target_ranks]
            .into_iter()
            .flatten()
    }

    /// That each of them has one neighbouring number for each row of these logits.
    pub(crate) fn check(&self, input: &Array<'_>) -> PyResult<()> {
        let shape = rows_shape(&input.shape);
        for array in self.arrays() {
            check_shape(array, &shape)?;
            if !array.is_contiguous() {
                return Err(value_error(format!(
                    "the elements of {} are not neighbours in memory",
                    array.argument
                )));
            }
        }
        Ok(())
    }
}

/// An optional argument that is written.
pub(crate) fn written<'py>(
    argument: &'static str,
    object: Option<&Bound<'py, PyAny>>,
) -> PyResult<Option<Array<'py>>> {
    object.map(|object| Array::write(argument, object)).transpose()
}

/// The slice of an optional output.
pub(crate) fn slice<'a, T: Scalar>(array: &'a mut Option<Array<'_>>) -> PyResult<Option<&'a mut [T]>> {
    array.as_mut().map(Array::slice_mut).transpose()
}

/// A new NumPy array, its elements not set.
pub(crate) fn empty<'py>(py: Python<'py>, shape: &[usize], dtype: Dtype) -> PyResult<Bound<'py, PyAny>> {
    static EMPTY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let empty = EMPTY.get_or_try_init(py, || py.import("numpy")?.getattr("empty").map(Bound::unbind))?;
    let shape = PyTuple::new(py, shape)?;
    if dtype == Dtype::Bf16 {
        return empty.bind(py).call1((shape, py.import("ml_dtypes")?.getattr("bfloat16")?));
    }
    empty.bind(py).call1((shape, dtype.to_string()))
}

/// A new NumPy array of the logits' shape and memory order, without gaps, in a dtype that may be another.
pub(crate) fn empty_like<'py>(
    py: Python<'py>,
    input: &Array<'_>,
    layout: Layout,
    dtype: Dtype,
) -> PyResult<Bound<'py, PyAny>> {
    let channels_last = matches!(layout, Layout::Rows { .. }) && input.shape.len() > 2;
    if !channels_last {
        return empty(py, &input.shape, dtype);
    }
    let mut shape = rows_shape(&input.shape);
    shape.push(input.shape[1]);
    py.import("numpy")?.call_method1("moveaxis", (empty(py, &shape, dtype)?, -1, 1))
}
