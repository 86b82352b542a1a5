//! The loss as Python holds it: options, built once, and its calls.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use xent::{Backend, Reduction};

use crate::array::Array;
use crate::dtypes::{Dtype, Scalar, with_logits};
use crate::errors::{exception, no_logits, type_error, value_error};
use crate::gradient;
use crate::options::{self, IgnoreIndex, Options};
use crate::outputs::{empty, empty_like, written};
use crate::row_inputs::RowInputs;
use crate::run::Call;
use crate::second_order;
use crate::target::rows_shape;

type Object<'a, 'py> = Option<&'a Bound<'py, PyAny>>;

/// Softmax cross-entropy with options, built once and called any number of times from any number of threads.
#[pyclass(frozen, module = "xent")]
pub(crate) struct CrossEntropy {
    ce: xent::CrossEntropy,
    /// `reduction="none"`; the crate's own is then the sum.
    per_row: bool,
    /// That was asked for.
    backend: Option<Backend>,
}

/// The numbers that every call has at hand when it is done.
#[pyclass(frozen, get_all, module = "xent")]
pub(crate) struct Summary {
    loss: f64,
    z_loss: f64,
    weight: f64,
    counted: usize,
    correct: usize,
}

#[pymethods]
impl Summary {
    fn __repr__(&self) -> String {
        let Self { loss, z_loss, weight, counted, correct } = self;
        format!(
            "Summary(loss={loss}, z_loss={z_loss}, weight={weight}, counted={counted}, correct={correct})"
        )
    }
}

#[pymethods]
impl CrossEntropy {
    #[new]
    #[pyo3(signature = (
        weight=None, *, ignore_index=IgnoreIndex::default(), reduction="mean", label_smoothing=0.0,
        smoothing="all_classes", z_loss=0.0, focal_gamma=0.0, logit_scale=1.0, softcap=None, empty_mean="nan",
        backend=None, parallelism="rayon"
    ))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        weight: Object<'_, '_>,
        ignore_index: IgnoreIndex,
        reduction: &str,
        label_smoothing: f64,
        smoothing: &str,
        z_loss: f64,
        focal_gamma: f64,
        logit_scale: f64,
        softcap: Option<f64>,
        empty_mean: &str,
        backend: Option<&str>,
        parallelism: &str,
    ) -> PyResult<Self> {
        let options = Options {
            ignore_index: ignore_index.0,
            reduction,
            label_smoothing,
            smoothing,
            z_loss,
            focal_gamma,
            logit_scale,
            softcap,
            empty_mean,
        };
        let (builder, per_row) = options.builder()?;
        let mut builder = builder.parallelism(options::parallelism(parallelism)?);
        if let Some(weight) = weight {
            builder = builder.weight(options::weight(weight)?);
        }
        let backend = backend.map(options::backend).transpose()?;
        if let Some(backend) = backend {
            builder = builder.backend(backend);
        }
        Ok(Self { ce: builder.build().map_err(exception)?, per_row, backend })
    }

    /// The reduced loss, or with `reduction="none"` that of each row.
    #[pyo3(signature = (input, target, *, loss_mask=None, row_weights=None, denominator=None))]
    fn loss<'py>(
        &self,
        py: Python<'py>,
        input: &Bound<'py, PyAny>,
        target: &Bound<'py, PyAny>,
        loss_mask: Object<'_, 'py>,
        row_weights: Object<'_, 'py>,
        denominator: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut call = Call::new(input, target)?;
        self.check_denominator(denominator)?;
        call.inputs = RowInputs::new(loss_mask, row_weights, None, None, denominator)?;
        self.run_for_loss(py, call)
    }

    /// The same, and its gradient: in `out`, which may be `input` itself, or in a new array. It has the dtype of `out`, or
    /// `grad_dtype`, or that of `input`.
    #[pyo3(signature = (
        input, target, *, out=None, grad_dtype=None, loss_mask=None, row_weights=None, upstream=None,
        upstream_scalar=None, denominator=None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn loss_and_grad<'py>(
        &self,
        py: Python<'py>,
        input: &Bound<'py, PyAny>,
        target: &Bound<'py, PyAny>,
        out: Object<'_, 'py>,
        grad_dtype: Object<'_, 'py>,
        loss_mask: Object<'_, 'py>,
        row_weights: Object<'_, 'py>,
        upstream: Object<'_, 'py>,
        upstream_scalar: Option<f64>,
        denominator: Option<f64>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let mut call = Call::new(input, target)?;
        self.check_denominator(denominator)?;
        call.inputs = RowInputs::new(loss_mask, row_weights, upstream, upstream_scalar, denominator)?;
        let dtype = grad_dtype.map(|name| gradient::named(name, call.input.dtype)).transpose()?;
        let out = match out {
            Some(out) => out.clone(),
            None => empty_like(py, &call.input, call.layout, dtype.unwrap_or(call.input.dtype))?,
        };
        let grad = Array::write("out", &out)?;
        if let Some(dtype) = dtype.filter(|&dtype| dtype != grad.dtype) {
            return Err(type_error(format!("out is {}, but grad_dtype is {dtype}", grad.dtype)));
        }
        call.wide.grad = Some(grad);
        Ok((self.run_for_loss(py, call)?, out))
    }

    /// Any set of outputs in one call, each in the caller's memory.
    #[pyo3(signature = (
        input, target, *, grad=None, accumulate=false, losses=None, lse=None, target_log_probabilities=None,
        entropies=None, argmax=None, argmax_probabilities=None, target_ranks=None, probabilities=None,
        log_probabilities=None, loss_mask=None, row_weights=None, upstream=None, upstream_scalar=None,
        denominator=None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn run<'py>(
        &self,
        py: Python<'py>,
        input: &Bound<'py, PyAny>,
        target: &Bound<'py, PyAny>,
        grad: Object<'_, 'py>,
        accumulate: bool,
        losses: Object<'_, 'py>,
        lse: Object<'_, 'py>,
        target_log_probabilities: Object<'_, 'py>,
        entropies: Object<'_, 'py>,
        argmax: Object<'_, 'py>,
        argmax_probabilities: Object<'_, 'py>,
        target_ranks: Object<'_, 'py>,
        probabilities: Object<'_, 'py>,
        log_probabilities: Object<'_, 'py>,
        loss_mask: Object<'_, 'py>,
        row_weights: Object<'_, 'py>,
        upstream: Object<'_, 'py>,
        upstream_scalar: Option<f64>,
        denominator: Option<f64>,
    ) -> PyResult<Summary> {
        let mut call = Call::new(input, target)?;
        call.inputs = RowInputs::new(loss_mask, row_weights, upstream, upstream_scalar, denominator)?;
        call.accumulate = accumulate;
        call.wide.grad = written("grad", grad)?;
        call.wide.probabilities = written("probabilities", probabilities)?;
        call.wide.log_probabilities = written("log_probabilities", log_probabilities)?;
        call.rows.losses = written("losses", losses)?;
        call.rows.lse = written("lse", lse)?;
        call.rows.target_log_probabilities = written("target_log_probabilities", target_log_probabilities)?;
        call.rows.entropies = written("entropies", entropies)?;
        call.rows.argmax = written("argmax", argmax)?;
        call.rows.argmax_probabilities = written("argmax_probabilities", argmax_probabilities)?;
        call.rows.target_ranks = written("target_ranks", target_ranks)?;
        let xent::Summary { loss, z_loss, weight, counted, correct, .. } = call.run(py, &self.ce)?;
        Ok(Summary { loss, z_loss, weight, counted, correct })
    }

    /// The Hessian of the loss times `direction`: in `out`, which may be `direction` itself, or in a new array.
    #[pyo3(signature = (
        input, target, direction, *, out=None, loss_mask=None, row_weights=None, upstream=None, upstream_scalar=None,
        denominator=None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn hessian_vector_product<'py>(
        &self,
        py: Python<'py>,
        input: &Bound<'py, PyAny>,
        target: &Bound<'py, PyAny>,
        direction: &Bound<'py, PyAny>,
        out: Object<'_, 'py>,
        loss_mask: Object<'_, 'py>,
        row_weights: Object<'_, 'py>,
        upstream: Object<'_, 'py>,
        upstream_scalar: Option<f64>,
        denominator: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut call = Call::new(input, target)?;
        call.inputs = RowInputs::new(loss_mask, row_weights, upstream, upstream_scalar, denominator)?;
        let out = match out {
            Some(out) => out.clone(),
            None => empty_like(py, &call.input, call.layout, call.input.dtype)?,
        };
        let direction = Array::read("direction", direction)?;
        second_order::hessian_vector_product(py, &self.ce, call, direction, Array::write("out", &out)?)?;
        Ok(out)
    }

    /// The derivative of the loss along `direction`, and in `derivatives` that of each row's loss.
    #[pyo3(signature = (
        input, target, direction, *, derivatives=None, loss_mask=None, row_weights=None, upstream=None,
        upstream_scalar=None, denominator=None
    ))]
    #[allow(clippy::too_many_arguments)]
    fn jvp<'py>(
        &self,
        py: Python<'py>,
        input: &Bound<'py, PyAny>,
        target: &Bound<'py, PyAny>,
        direction: &Bound<'py, PyAny>,
        derivatives: Object<'_, 'py>,
        loss_mask: Object<'_, 'py>,
        row_weights: Object<'_, 'py>,
        upstream: Object<'_, 'py>,
        upstream_scalar: Option<f64>,
        denominator: Option<f64>,
    ) -> PyResult<f64> {
        let mut call = Call::new(input, target)?;
        call.inputs = RowInputs::new(loss_mask, row_weights, upstream, upstream_scalar, denominator)?;
        call.rows.losses = written("derivatives", derivatives)?;
        let direction = Array::read("direction", direction)?;
        second_order::jvp(py, &self.ce, call, direction)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let keywords = self.keywords(py)?;
        keywords.set_item("backend", options::backend_name(self.ce.backend()))?;
        let keywords = keywords.iter().map(|(name, value)| match self.ce.weight() {
            Some(weight) if name.eq("weight")? => Ok(format!("weight=<{} classes>", weight.len())),
            _ => Ok(format!("{name}={}", value.repr()?)),
        });
        Ok(format!("CrossEntropy({})", keywords.collect::<PyResult<Vec<_>>>()?.join(", ")))
    }

    /// For `pickle` and `copy`.
    fn __getnewargs_ex__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        Ok((PyTuple::empty(py), self.keywords(py)?))
    }
}

impl CrossEntropy {
    /// What builds it again: with a backend only if one was asked for, because another machine may have others.
    fn keywords<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let ce = &self.ce;
        let reduction = match (self.per_row, ce.reduction()) {
            (true, _) => "none",
            (false, Reduction::Mean) => "mean",
            (false, Reduction::Sum) => "sum",
        };
        let keywords = PyDict::new(py);
        keywords.set_item("weight", ce.weight())?;
        keywords.set_item("ignore_index", ce.ignore_indices())?;
        keywords.set_item("reduction", reduction)?;
        keywords.set_item("label_smoothing", ce.label_smoothing())?;
        keywords.set_item("smoothing", options::smoothing_name(ce.smoothing()))?;
        keywords.set_item("z_loss", ce.z_loss())?;
        keywords.set_item("focal_gamma", ce.focal_gamma())?;
        keywords.set_item("logit_scale", ce.logit_scale())?;
        keywords.set_item("softcap", ce.softcap())?;
        keywords.set_item("empty_mean", options::empty_mean_name(ce.empty_mean()))?;
        keywords.set_item("backend", self.backend.map(options::backend_name))?;
        keywords.set_item("parallelism", options::parallelism_name(ce.parallelism()))?;
        Ok(keywords)
    }

    /// It divides one loss, and not those of rows.
    fn check_denominator(&self, denominator: Option<f64>) -> PyResult<()> {
        match denominator {
            Some(_) if self.per_row => {
                Err(value_error("denominator is for a reduction, and reduction is \"none\""))
            }
            _ => Ok(()),
        }
    }

    fn run_for_loss<'py>(&self, py: Python<'py>, mut call: Call<'py>) -> PyResult<Bound<'py, PyAny>> {
        if !self.per_row {
            return Ok(call.run(py, &self.ce)?.loss.into_pyobject(py)?.into_any());
        }
        let losses = empty(py, &rows_shape(&call.input.shape), losses_dtype(call.input.dtype)?)?;
        call.rows.losses = Some(Array::write("losses", &losses)?);
        call.run(py, &self.ce)?;
        Ok(losses)
    }
}

/// What rows have, whose logits are of this dtype.
fn losses_dtype(dtype: Dtype) -> PyResult<Dtype> {
    let losses = with_logits!(dtype, L => <<L as xent::Element>::PerRow as Scalar>::DTYPE);
    losses.ok_or_else(|| no_logits("input", dtype))
}
