//! The dtype of a gradient: that of the logits, or another one.

use half::{bf16, f16};
use pyo3::prelude::*;
use xent::{GradElement, Request};

use crate::array::Array;
use crate::dtypes::{Dtype, Logits, Scalar};
use crate::errors::type_error;
use crate::layout::Layout;

/// What a gradient may be of besides the dtype of its logits.
const OTHERS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

/// Adds a gradient to the request: written, or added to what the memory holds.
pub(crate) fn with_gradient<'a, L: Logits>(
    request: Request<'a, L>,
    grad: &'a mut Array<'_>,
    layout: Layout,
    accumulate: bool,
) -> PyResult<Request<'a, L>> {
    match grad.dtype {
        dtype if dtype == L::DTYPE => {
            let grad = layout.matrix_mut(grad.slice_mut::<L>()?)?;
            Ok(if accumulate { request.accumulate(grad) } else { request.grad(grad) })
        }
        Dtype::F32 => with_other::<f32, L>(request, grad, layout, accumulate),
        Dtype::F16 => with_other::<f16, L>(request, grad, layout, accumulate),
        Dtype::Bf16 => with_other::<bf16, L>(request, grad, layout, accumulate),
        dtype => Err(no_gradient(grad.argument, &dtype.to_string(), L::DTYPE)),
    }
}

fn with_other<'a, G: GradElement + Scalar, L: Logits>(
    request: Request<'a, L>,
    grad: &'a mut Array<'_>,
    layout: Layout,
    accumulate: bool,
) -> PyResult<Request<'a, L>> {
    let grad = layout.matrix_mut(grad.slice_mut::<G>()?)?;
    Ok(if accumulate { request.accumulate_as(grad) } else { request.grad_as(grad) })
}

/// Whether it is one that gradients of these logits have in place of their own.
pub(crate) fn is_other(dtype: Dtype, logits: Dtype) -> bool {
    dtype != logits && OTHERS.contains(&dtype)
}

/// What `grad_dtype` names: a NumPy dtype, or anything that NumPy makes one of.
pub(crate) fn named(grad_dtype: &Bound<'_, PyAny>, logits: Dtype) -> PyResult<Dtype> {
    // NumPy knows this name only where somebody has imported ml_dtypes.
    let bfloat16 = grad_dtype.extract().ok().filter(|name: &String| *name == Dtype::Bf16.to_string());
    let name: String = match bfloat16 {
        Some(name) => name,
        None => {
            let numpy = grad_dtype.py().import("numpy")?;
            numpy.call_method1("dtype", (grad_dtype,))?.getattr("name")?.extract()?
        }
    };
    let dtype = [logits].into_iter().chain(OTHERS).find(|dtype| dtype.to_string() == name);
    dtype.ok_or_else(|| no_gradient("grad_dtype", &name, logits))
}

fn no_gradient(argument: &str, name: &str, logits: Dtype) -> PyErr {
    let others = OTHERS.into_iter().filter(|&dtype| dtype != logits);
    let names: Vec<_> = [logits].into_iter().chain(others).map(|dtype| dtype.to_string()).collect();
    type_error(format!("{argument} is {name}; gradients of {logits} logits are {}", names.join(", ")))
}
