//! Softmax and its logarithm along the last dimension.

use pyo3::prelude::*;
use xent::Softmax;

use crate::array::{Array, check_apart};
use crate::dtypes::{Logits, with_logits};
use crate::errors::{exception, no_logits, value_error};
use crate::layout::{Layout, check_shape};
use crate::options;
use crate::outputs::empty;
use crate::threads;

#[derive(Clone, Copy)]
enum Function {
    Softmax,
    LogSoftmax,
}

/// The softmax of `input` along its last dimension: in `out`, which may be `input` itself, or in a new array.
#[pyfunction]
#[pyo3(signature = (input, dim=-1, *, out=None, backend=None, parallelism="rayon"))]
pub(crate) fn softmax<'py>(
    input: &Bound<'py, PyAny>,
    dim: isize,
    out: Option<&Bound<'py, PyAny>>,
    backend: Option<&str>,
    parallelism: &str,
) -> PyResult<Bound<'py, PyAny>> {
    run(Function::Softmax, input, dim, out, configured(backend, parallelism)?)
}

/// The logarithm of the softmax of `input` along its last dimension: in `out`, which may be `input` itself, or in a new array.
#[pyfunction]
#[pyo3(signature = (input, dim=-1, *, out=None, backend=None, parallelism="rayon"))]
pub(crate) fn log_softmax<'py>(
    input: &Bound<'py, PyAny>,
    dim: isize,
    out: Option<&Bound<'py, PyAny>>,
    backend: Option<&str>,
    parallelism: &str,
) -> PyResult<Bound<'py, PyAny>> {
    run(Function::LogSoftmax, input, dim, out, configured(backend, parallelism)?)
}

fn configured(backend: Option<&str>, parallelism: &str) -> PyResult<Softmax> {
    let softmax = Softmax::default().parallelism(options::parallelism(parallelism)?);
    match backend {
        Some(backend) => softmax.backend(options::backend(backend)?).map_err(exception),
        None => Ok(softmax),
    }
}

fn run<'py>(
    function: Function,
    input: &Bound<'py, PyAny>,
    dim: isize,
    out: Option<&Bound<'py, PyAny>>,
    softmax: Softmax,
) -> PyResult<Bound<'py, PyAny>> {
    let py = input.py();
    let input = Array::read("input", input)?;
    let dimensions = input.shape.len();
    if dim != -1 && usize::try_from(dim).ok().and_then(|dim| dim.checked_add(1)) != Some(dimensions) {
        return Err(value_error(format!(
            "dim is {dim}; of {dimensions} dimensions it must be the last, or -1"
        )));
    }
    let layout = Layout::of_last(&input)?;
    let out = match out {
        Some(out) => out.clone(),
        None => empty(py, &input.shape, input.dtype)?,
    };
    let mut memory = Array::write("out", &out)?;
    check_shape(&memory, &input.shape)?;
    let dtype = input.dtype;
    let done = with_logits!(dtype, L => run_rows::<L>(py, function, &input, layout, &mut memory, softmax));
    done.ok_or_else(|| no_logits("input", dtype))??;
    Ok(out)
}

fn run_rows<L: Logits>(
    py: Python<'_>,
    function: Function,
    input: &Array<'_>,
    layout: Layout,
    out: &mut Array<'_>,
    softmax: Softmax,
) -> PyResult<()> {
    let done = if out.is_same(input) {
        let logits = layout.matrix_mut(out.slice_mut::<L>()?)?;
        threads::run(py, || match function {
            Function::Softmax => softmax.softmax_in_place(logits),
            Function::LogSoftmax => softmax.log_softmax_in_place(logits),
        })
    } else {
        check_apart(&[out], &[input])?;
        let logits = layout.matrix(input.slice::<L>()?)?;
        let out_layout = Layout::of_last(out)?;
        let out = out_layout.matrix_mut(out.slice_mut::<L>()?)?;
        threads::run(py, || match function {
            Function::Softmax => softmax.softmax(logits, out),
            Function::LogSoftmax => softmax.log_softmax(logits, out),
        })
    };
    done?.map_err(exception)
}
