//! Second derivatives, of logits of shape (N, C).

use pyo3::prelude::*;
use xent::CrossEntropy;

use crate::array::{Array, check_apart};
use crate::dtypes::{Logits, with_logits};
use crate::errors::{exception, no_logits, value_error};
use crate::outputs::slice;
use crate::run::Call;
use crate::target::{Target, with_classes};
use crate::threads;

pub(crate) fn hessian_vector_product<'py>(
    py: Python<'py>,
    ce: &CrossEntropy,
    call: Call<'py>,
    direction: Array<'py>,
    out: Array<'py>,
) -> PyResult<()> {
    let dtype = call.input.dtype;
    let done = with_logits!(dtype, L => product::<L>(py, ce, &call, &direction, out));
    done.ok_or_else(|| no_logits("input", dtype))?
}

fn product<'py, L: Logits>(
    py: Python<'py>,
    ce: &CrossEntropy,
    call: &Call<'py>,
    direction: &Array<'py>,
    mut out: Array<'py>,
) -> PyResult<()> {
    let in_place = out.is_same(direction);
    let read: Vec<_> = (!in_place).then_some(direction).into_iter().chain(read_arrays(call)).collect();
    check_apart(&[&out], &read)?;

    let Call { input, layout, target, inputs, .. } = call;
    let dimension = usize::from(input.shape.len() > 1);
    let out_layout = layout.of_companion(input, &out, dimension)?;
    let direction_layout = layout.of_companion(input, direction, dimension)?;
    let logits = layout.matrix(input.slice::<L>()?)?;
    let values = inputs.values::<L::PerRow>(input)?;
    let Target::Classes(classes) = target.target::<L::PerRow>(input, *layout)? else {
        return Err(needs_classes());
    };
    let request = values.request::<L>();
    let product = out_layout.matrix_mut(out.slice_mut::<L>()?)?;
    with_classes!(&classes, classes => {
        let curvature = ce.curvature_with(logits, classes, &request).map_err(exception)?;
        if in_place {
            threads::run(py, || curvature.hessian_vector_product_in_place(product))
        } else {
            let direction = direction_layout.matrix(direction.slice::<L>()?)?;
            threads::run(py, || curvature.hessian_vector_product(direction, product))
        }
    })?
    .map_err(exception)
}

/// The derivatives of the rows are in the place of their losses.
pub(crate) fn jvp<'py>(
    py: Python<'py>,
    ce: &CrossEntropy,
    mut call: Call<'py>,
    direction: Array<'py>,
) -> PyResult<f64> {
    let dtype = call.input.dtype;
    let derivative = with_logits!(dtype, L => derivative::<L>(py, ce, &mut call, &direction));
    derivative.ok_or_else(|| no_logits("input", dtype))?
}

fn derivative<'py, L: Logits>(
    py: Python<'py>,
    ce: &CrossEntropy,
    call: &mut Call<'py>,
    direction: &Array<'py>,
) -> PyResult<f64> {
    call.rows.check(&call.input)?;
    let written: Vec<_> = call.rows.arrays().collect();
    let read: Vec<_> = core::iter::once(direction).chain(read_arrays(call)).collect();
    check_apart(&written, &read)?;

    let Call { input, layout, target, inputs, rows, .. } = call;
    let direction_layout = layout.of_companion(input, direction, usize::from(input.shape.len() > 1))?;
    let logits = layout.matrix(input.slice::<L>()?)?;
    let values = inputs.values::<L::PerRow>(input)?;
    let Target::Classes(classes) = target.target::<L::PerRow>(input, *layout)? else {
        return Err(needs_classes());
    };
    let request = values.request::<L>();
    let direction = direction_layout.matrix(direction.slice::<L>()?)?;
    let derivatives = slice::<L::PerRow>(&mut rows.losses)?;
    with_classes!(&classes, classes => {
        let curvature = ce.curvature_with(logits, classes, &request).map_err(exception)?;
        threads::run(py, || match derivatives {
            Some(derivatives) => curvature.jvp_of_rows(direction, derivatives),
            None => curvature.jvp(direction),
        })
    })?
    .map_err(exception)
}

fn read_arrays<'a, 'py>(call: &'a Call<'py>) -> impl Iterator<Item = &'a Array<'py>> {
    core::iter::once(&call.input).chain(call.target.array()).chain(call.inputs.arrays())
}

fn needs_classes() -> PyErr {
    value_error("second derivatives need classes as targets, not probabilities")
}
