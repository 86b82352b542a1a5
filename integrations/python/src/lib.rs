//! The native half of the Python package `xent`: its module `_native`.
//!
//! Reading order: `array` borrows the memory of NumPy arrays and DLPack tensors, `layout` finds the rows of logits in it,
//! `target` the classes or probabilities, `gradient` the dtype of what is written; `run` is one call of the crate, `cross_entropy` and `softmax` are what Python
//! calls, and `xla` is what JAX calls.

mod array;
mod cross_entropy;
mod dtypes;
mod errors;
mod gradient;
mod layout;
mod options;
mod outputs;
mod row_inputs;
mod row_values;
mod run;
mod second_order;
mod softmax;
mod target;
mod threads;
mod xla;

use pyo3::prelude::*;

/// The native half of the package `xent`.
#[pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::cross_entropy::{CrossEntropy, Summary};
    #[pymodule_export]
    use crate::softmax::{log_softmax, softmax};
    #[pymodule_export]
    use crate::threads::after_fork;
    #[pymodule_export]
    use crate::xla::xla_cross_entropy;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("DTYPES", crate::dtypes::names())?;
        module.add("BUILD", xent::BUILD)?;
        let backends: Vec<&str> = xent::Backend::available().map(crate::options::backend_name).collect();
        module.add("BACKENDS", backends)
    }
}
