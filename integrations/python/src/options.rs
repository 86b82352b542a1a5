//! From Python's options to the crate's, by PyTorch's names.

use pyo3::prelude::*;
use xent::{Backend, EmptyMean, Parallelism, Reduction, Smoothing};

use crate::array::Array;
use crate::errors::value_error;
use crate::row_values::numbers;

/// `reduction`: what the loss of a batch is.
pub(crate) fn reduction(name: &str) -> PyResult<Option<Reduction>> {
    choice(
        "reduction",
        name,
        &[("mean", Some(Reduction::Mean)), ("sum", Some(Reduction::Sum)), ("none", None)],
    )
}

const SMOOTHINGS: [(&str, Smoothing); 3] = [
    ("all_classes", Smoothing::AllClasses),
    ("other_classes", Smoothing::OtherClasses),
    ("live_classes", Smoothing::LiveClasses),
];

pub(crate) fn smoothing(name: &str) -> PyResult<Smoothing> {
    choice("smoothing", name, &SMOOTHINGS)
}

pub(crate) fn empty_mean(name: &str) -> PyResult<EmptyMean> {
    choice("empty_mean", name, &[("nan", EmptyMean::Nan), ("zero", EmptyMean::Zero)])
}

pub(crate) fn parallelism(name: &str) -> PyResult<Parallelism> {
    choice("parallelism", name, &[("rayon", Parallelism::Rayon), ("serial", Parallelism::Serial)])
}

pub(crate) fn backend(name: &str) -> PyResult<Backend> {
    choice("backend", name, &Backend::ALL.map(|backend| (backend_name(backend), backend)))
}

pub(crate) fn backend_name(backend: Backend) -> &'static str {
    match backend {
        Backend::Portable => "portable",
        Backend::Avx2 => "avx2",
        Backend::Avx512 => "avx512",
        _ => "other",
    }
}

pub(crate) fn smoothing_name(smoothing: Smoothing) -> &'static str {
    SMOOTHINGS.iter().find(|&&(_, value)| value == smoothing).map_or("other", |&(name, _)| name)
}

/// One index, several, or `None` for none.
pub(crate) struct IgnoreIndex(pub(crate) Vec<i64>);

impl Default for IgnoreIndex {
    /// PyTorch's.
    fn default() -> Self {
        Self(vec![-100])
    }
}

impl<'a, 'py> FromPyObject<'a, 'py> for IgnoreIndex {
    type Error = PyErr;

    fn extract(value: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if value.is_none() {
            return Ok(Self(Vec::new()));
        }
        match value.extract() {
            Ok(index) => Ok(Self(vec![index])),
            Err(_) => value.extract().map(Self),
        }
    }
}

/// A vector of floating-point numbers, or a sequence of them.
pub(crate) fn weight(value: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
    let Some(array) = Array::find("weight", value)? else { return value.extract() };
    if array.shape.len() != 1 {
        return Err(value_error(format!("weight has {} dimensions instead of one", array.shape.len())));
    }
    Ok(numbers(&array)?.into_owned())
}

fn choice<T: Copy>(argument: &str, name: &str, choices: &[(&str, T)]) -> PyResult<T> {
    choices.iter().find(|&&(choice, _)| choice == name).map(|&(_, value)| value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(choice, _)| format!("{choice:?}")).collect();
        value_error(format!("{argument} is {name:?}; it is one of {}", names.join(", ")))
    })
}
