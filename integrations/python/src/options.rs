//! From Python's options to the crate's, by PyTorch's names.

use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use xent::{Backend, CrossEntropyBuilder, EmptyMean, Parallelism, Reduction, Smoothing};

use crate::array::Array;
use crate::errors::value_error;
use crate::row_values::numbers;

/// The options that a loss has wherever Python asks for it, in the forms that Python has them.
pub(crate) struct Options<'a> {
    pub(crate) ignore_index: Vec<i64>,
    pub(crate) reduction: &'a str,
    pub(crate) label_smoothing: f64,
    pub(crate) smoothing: &'a str,
    pub(crate) z_loss: f64,
    pub(crate) focal_gamma: f64,
    pub(crate) logit_scale: f64,
    pub(crate) softcap: Option<f64>,
    pub(crate) empty_mean: &'a str,
}

/// A name that an option has no choice by.
pub(crate) struct Unknown(pub(crate) String);

impl From<Unknown> for PyErr {
    fn from(Unknown(message): Unknown) -> Self {
        value_error(message)
    }
}

impl Options<'_> {
    /// The crate's; and whether the loss is that of each row (`reduction="none"`), where the crate's own reduction is the sum.
    pub(crate) fn builder(self) -> Result<(CrossEntropyBuilder, bool), Unknown> {
        let reduction = reduction(self.reduction)?;
        let builder = xent::CrossEntropy::builder()
            .ignore_indices(self.ignore_index)
            .reduction(reduction.unwrap_or(Reduction::Sum))
            .label_smoothing(self.label_smoothing)
            .smoothing(smoothing(self.smoothing)?)
            .z_loss(self.z_loss)
            .focal_gamma(self.focal_gamma)
            .logit_scale(self.logit_scale)
            .softcap(self.softcap)
            .empty_mean(empty_mean(self.empty_mean)?);
        Ok((builder, reduction.is_none()))
    }
}

/// `reduction`: what the loss of a batch is.
fn reduction(name: &str) -> Result<Option<Reduction>, Unknown> {
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
const EMPTY_MEANS: [(&str, EmptyMean); 2] = [("nan", EmptyMean::Nan), ("zero", EmptyMean::Zero)];
const PARALLELISMS: [(&str, Parallelism); 2] =
    [("rayon", Parallelism::Rayon), ("serial", Parallelism::Serial)];

fn smoothing(name: &str) -> Result<Smoothing, Unknown> {
    choice("smoothing", name, &SMOOTHINGS)
}

fn empty_mean(name: &str) -> Result<EmptyMean, Unknown> {
    choice("empty_mean", name, &EMPTY_MEANS)
}

pub(crate) fn parallelism(name: &str) -> Result<Parallelism, Unknown> {
    choice("parallelism", name, &PARALLELISMS)
}

pub(crate) fn backend(name: &str) -> Result<Backend, Unknown> {
    let all: Vec<_> = Backend::ALL.iter().map(|&backend| (backend_name(backend), backend)).collect();
    choice("backend", name, &all)
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
    name_of(smoothing, &SMOOTHINGS)
}

pub(crate) fn empty_mean_name(empty_mean: EmptyMean) -> &'static str {
    name_of(empty_mean, &EMPTY_MEANS)
}

pub(crate) fn parallelism_name(parallelism: Parallelism) -> &'static str {
    name_of(parallelism, &PARALLELISMS)
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
        let indices = match value.extract() {
            Ok(index) => Ok(vec![index]),
            Err(error) if is_overflow(&error, &value) => Err(error),
            Err(_) => value.extract(),
        };
        indices.map(Self).map_err(|error| match is_overflow(&error, &value) {
            true => value_error(format!("ignore_index is {}; an index has 64 bits", *value)),
            false => error,
        })
    }
}

/// Whether a number is larger than an integer of 64 bits can be.
pub(crate) fn is_overflow(error: &PyErr, value: &Bound<'_, PyAny>) -> bool {
    error.is_instance_of::<PyOverflowError>(value.py())
}

/// A vector of floating-point numbers, or a sequence of them.
pub(crate) fn weight(value: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
    let Some(array) = Array::find("weight", value)? else { return value.extract() };
    if array.shape.len() != 1 {
        return Err(value_error(format!("weight has {} dimensions instead of one", array.shape.len())));
    }
    Ok(numbers(&array)?.into_owned())
}

fn name_of<T: PartialEq>(value: T, choices: &[(&'static str, T)]) -> &'static str {
    choices.iter().find(|(_, choice)| *choice == value).map_or("other", |&(name, _)| name)
}

fn choice<T: Copy>(argument: &str, name: &str, choices: &[(&str, T)]) -> Result<T, Unknown> {
    choices.iter().find(|&&(choice, _)| choice == name).map(|&(_, value)| value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(choice, _)| format!("{choice:?}")).collect();
        Unknown(format!("{argument} is {name:?}; it is one of {}", names.join(", ")))
    })
}
