//! What the rows of a call bring along besides logits and targets.

use std::borrow::Cow;

use pyo3::prelude::*;
use xent::{PlanesRequest, Request};

use crate::array::Array;
use crate::dtypes::{Logits, Number};
use crate::layout::check_shape;
use crate::row_values::{numbers, truths};
use crate::target::rows_shape;

/// As Python brings it.
#[derive(Default)]
pub(crate) struct RowInputs<'py> {
    loss_mask: Option<Array<'py>>,
    row_weights: Option<Array<'py>>,
    upstream: Option<Array<'py>>,
    upstream_scalar: Option<f64>,
    denominator: Option<f64>,
}

/// As the crate takes it.
pub(crate) struct RowValues<'a, R: Number> {
    loss_mask: Option<Vec<bool>>,
    row_weights: Option<Cow<'a, [f32]>>,
    upstream: Option<Cow<'a, [R]>>,
    upstream_scalar: Option<f64>,
    denominator: Option<f64>,
}

impl<'py> RowInputs<'py> {
    pub(crate) fn new(
        loss_mask: Option<&Bound<'py, PyAny>>,
        row_weights: Option<&Bound<'py, PyAny>>,
        upstream: Option<&Bound<'py, PyAny>>,
        upstream_scalar: Option<f64>,
        denominator: Option<f64>,
    ) -> PyResult<Self> {
        let read = |argument, object: Option<&Bound<'py, PyAny>>| {
            object.map(|object| Array::read(argument, object)).transpose()
        };
        Ok(Self {
            loss_mask: read("loss_mask", loss_mask)?,
            row_weights: read("row_weights", row_weights)?,
            upstream: read("upstream", upstream)?,
            upstream_scalar,
            denominator,
        })
    }

    pub(crate) fn arrays(&self) -> impl Iterator<Item = &Array<'py>> {
        [&self.loss_mask, &self.row_weights, &self.upstream].into_iter().flatten()
    }

    /// Each has one number for each row of these logits.
    pub(crate) fn values<R: Number>(&self, input: &Array<'_>) -> PyResult<RowValues<'_, R>> {
        let shape = rows_shape(&input.shape);
        self.arrays().try_for_each(|array| check_shape(array, &shape))?;
        Ok(RowValues {
            loss_mask: self.loss_mask.as_ref().map(truths).transpose()?,
            row_weights: self.row_weights.as_ref().map(numbers).transpose()?,
            upstream: self.upstream.as_ref().map(numbers).transpose()?,
            upstream_scalar: self.upstream_scalar,
            denominator: self.denominator,
        })
    }
}

/// The two kinds of requests have these inputs by the same names.
macro_rules! with_inputs {
    ($request:expr, $values:expr) => {{
        let (mut request, values) = ($request, $values);
        if let Some(loss_mask) = &values.loss_mask {
            request = request.loss_mask(loss_mask);
        }
        if let Some(row_weights) = &values.row_weights {
            request = request.row_weights(row_weights);
        }
        if let Some(upstream) = &values.upstream {
            request = request.upstream(upstream);
        }
        if let Some(upstream_scalar) = values.upstream_scalar {
            request = request.upstream_scalar(upstream_scalar);
        }
        if let Some(denominator) = values.denominator {
            request = request.denominator(denominator);
        }
        request
    }};
}

impl<R: Number> RowValues<'_, R> {
    pub(crate) fn request<L: Logits<PerRow = R>>(&self) -> Request<'_, L> {
        with_inputs!(Request::new(), self)
    }

    pub(crate) fn planes_request<L: Logits<PerRow = R>>(&self) -> PlanesRequest<'_, L> {
        with_inputs!(PlanesRequest::new(), self)
    }
}
