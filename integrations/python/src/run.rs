//! One call of the crate, whatever it is asked for.

use pyo3::prelude::*;
use xent::{CrossEntropy, Error, Matrix, MatrixMut, Request, Summary};

use crate::array::{Array, check_apart};
use crate::dtypes::{Logits, with_logits};
use crate::errors::{exception, no_logits, value_error};
use crate::gradient;
use crate::layout::Layout;
use crate::outputs::{RowOutputs, WideOutputs, slice};
use crate::row_inputs::RowInputs;
use crate::target::{Source, Target, distributions, with_classes};
use crate::threads;

/// Logits, targets, and what is wanted of them.
pub(crate) struct Call<'py> {
    pub(crate) input: Array<'py>,
    pub(crate) layout: Layout,
    pub(crate) target: Source<'py>,
    pub(crate) inputs: RowInputs<'py>,
    pub(crate) wide: WideOutputs<'py>,
    pub(crate) rows: RowOutputs<'py>,
    /// Whether the gradient is added to what is there.
    pub(crate) accumulate: bool,
}

/// Whether the gradient takes the place of the logits.
pub(crate) enum Place<'a, L> {
    Keep(Matrix<'a, L>),
    Overwrite(MatrixMut<'a, L>),
}

impl<L: Logits> Place<'_, L> {
    /// The loss of classes as targets.
    pub(crate) fn run<T: xent::Target>(
        self,
        ce: &CrossEntropy,
        targets: &[T],
        request: Request<'_, L>,
    ) -> Result<Summary, Error> {
        match self {
            Self::Keep(logits) => ce.run(logits, targets, request),
            Self::Overwrite(logits) => ce.run_in_place(logits, targets, request),
        }
    }

    /// That of probabilities.
    pub(crate) fn run_probabilities(
        self,
        ce: &CrossEntropy,
        targets: Matrix<'_, L::PerRow>,
        request: Request<'_, L>,
    ) -> Result<Summary, Error> {
        match self {
            Self::Keep(logits) => ce.run_probabilities(logits, targets, request),
            Self::Overwrite(logits) => ce.run_probabilities_in_place(logits, targets, request),
        }
    }
}

impl<'py> Call<'py> {
    pub(crate) fn new(input: &Bound<'py, PyAny>, target: &Bound<'py, PyAny>) -> PyResult<Self> {
        let input = Array::read("input", input)?;
        Ok(Self {
            layout: Layout::of_logits(&input)?,
            input,
            target: Source::new(target)?,
            inputs: RowInputs::default(),
            wide: WideOutputs::default(),
            rows: RowOutputs::default(),
            accumulate: false,
        })
    }

    pub(crate) fn run(mut self, py: Python<'py>, ce: &CrossEntropy) -> PyResult<Summary> {
        self.rows.check(&self.input)?;
        let in_place = self.wide.grad.as_ref().is_some_and(|grad| grad.is_same(&self.input));
        if self.accumulate && self.wide.grad.is_none() {
            return Err(value_error("accumulate adds to grad, which is not there"));
        }
        if in_place && self.accumulate {
            return Err(value_error("accumulate adds to grad, which then cannot be input"));
        }
        let written: Vec<_> = self.wide.arrays().chain(self.rows.arrays()).collect();
        let input = (!in_place).then_some(&self.input);
        let read: Vec<_> = input.into_iter().chain(self.target.array()).chain(self.inputs.arrays()).collect();
        check_apart(&written, &read)?;

        let dtype = self.input.dtype;
        match self.layout {
            Layout::Rows { .. } => {
                let summary = with_logits!(dtype, L => self.run_rows::<L>(py, ce, in_place));
                summary.ok_or_else(|| no_logits("input", dtype))?
            }
            Layout::Planes { .. } => {
                let summary = with_logits!(dtype, L => self.run_planes::<L>(py, ce, in_place));
                summary.ok_or_else(|| no_logits("input", dtype))?
            }
        }
    }

    fn run_rows<L: Logits>(
        &mut self,
        py: Python<'py>,
        ce: &CrossEntropy,
        in_place: bool,
    ) -> PyResult<Summary> {
        let Self { input, layout, target, inputs, wide, rows, accumulate } = self;
        let classes = usize::from(input.shape.len() > 1);
        let values = inputs.values::<L::PerRow>(input)?;
        let target = target.target::<L::PerRow>(input, *layout)?;
        let mut request = values.request::<L>();

        let mut place = None;
        if let Some(grad) = &mut wide.grad {
            let layout = layout.of_companion(input, grad, classes)?;
            if in_place {
                place = Some(Place::Overwrite(layout.matrix_mut(grad.slice_mut::<L>()?)?));
            } else {
                request = gradient::with_gradient(request, grad, layout, *accumulate)?;
            }
        }
        let place = match place {
            Some(place) => place,
            None => Place::Keep(layout.matrix(input.slice::<L>()?)?),
        };
        if let Some(probabilities) = &mut wide.probabilities {
            let layout = layout.of_companion(input, probabilities, classes)?;
            request = request.probabilities(layout.matrix_mut(probabilities.slice_mut()?)?);
        }
        if let Some(log_probabilities) = &mut wide.log_probabilities {
            let layout = layout.of_companion(input, log_probabilities, classes)?;
            request = request.log_probabilities(layout.matrix_mut(log_probabilities.slice_mut()?)?);
        }
        if let Some(losses) = slice(&mut rows.losses)? {
            request = request.losses(losses);
        }
        if let Some(lse) = slice(&mut rows.lse)? {
            request = request.lse(lse);
        }
        if let Some(target_log_probabilities) = slice(&mut rows.target_log_probabilities)? {
            request = request.target_log_probabilities(target_log_probabilities);
        }
        if let Some(entropies) = slice(&mut rows.entropies)? {
            request = request.entropies(entropies);
        }
        if let Some(argmax) = slice(&mut rows.argmax)? {
            request = request.argmax(argmax);
        }
        if let Some(argmax_probabilities) = slice(&mut rows.argmax_probabilities)? {
            request = request.argmax_probabilities(argmax_probabilities);
        }
        if let Some(target_ranks) = slice(&mut rows.target_ranks)? {
            request = request.target_ranks(target_ranks);
        }

        let summary = match &target {
            Target::Classes(classes) => {
                with_classes!(classes, classes => threads::run(py, || place.run(ce, classes, request)))?
            }
            Target::Probabilities { .. } if ce.ignore_indices().iter().any(|&index| index >= 0) => {
                return Err(value_error("ignore_index is for classes as targets, not for probabilities"));
            }
            Target::Probabilities { data, layout } => {
                let probabilities = distributions(data, *layout)?;
                threads::run(py, || place.run_probabilities(ce, probabilities, request))?
            }
        };
        summary.map_err(exception)
    }

    fn run_planes<L: Logits>(
        &mut self,
        py: Python<'py>,
        ce: &CrossEntropy,
        in_place: bool,
    ) -> PyResult<Summary> {
        let Self { input, layout, target, inputs, wide, rows, accumulate } = self;
        let is_other = |grad: &Array<'_>| gradient::is_other(grad.dtype, input.dtype);
        let unavailable = [
            ("accumulate", *accumulate),
            ("a gradient in another dtype", wide.grad.as_ref().is_some_and(is_other)),
            ("log_probabilities", wide.log_probabilities.is_some()),
            ("entropies", rows.entropies.is_some()),
            ("target_ranks", rows.target_ranks.is_some()),
        ];
        if let Some((output, _)) = unavailable.into_iter().find(|&(_, wanted)| wanted) {
            return Err(value_error(format!(
                "{output} needs input of shape (N, C), or with its classes innermost in memory"
            )));
        }
        let values = inputs.values::<L::PerRow>(input)?;
        let Target::Classes(classes) = target.target::<L::PerRow>(input, *layout)? else {
            return Err(value_error("targets of planes are classes"));
        };
        let mut request = values.planes_request::<L>();
        let mut overwritten = None;
        if let Some(grad) = &mut wide.grad {
            let layout = layout.of_companion(input, grad, 1)?;
            let grad = layout.planes_mut(grad.slice_mut::<L>()?)?;
            if in_place {
                overwritten = Some(grad);
            } else {
                request = request.grad(grad);
            }
        }
        if let Some(probabilities) = &mut wide.probabilities {
            let layout = layout.of_companion(input, probabilities, 1)?;
            request = request.probabilities(layout.planes_mut(probabilities.slice_mut()?)?);
        }
        if let Some(losses) = slice(&mut rows.losses)? {
            request = request.losses(losses);
        }
        if let Some(lse) = slice(&mut rows.lse)? {
            request = request.lse(lse);
        }
        if let Some(target_log_probabilities) = slice(&mut rows.target_log_probabilities)? {
            request = request.target_log_probabilities(target_log_probabilities);
        }
        if let Some(argmax) = slice(&mut rows.argmax)? {
            request = request.argmax(argmax);
        }
        if let Some(argmax_probabilities) = slice(&mut rows.argmax_probabilities)? {
            request = request.argmax_probabilities(argmax_probabilities);
        }
        let summary = match overwritten {
            Some(logits) => with_classes!(&classes, classes => {
                threads::run(py, || ce.run_planes_in_place(logits, classes, request))
            }),
            None => {
                let logits = layout.planes_of(input.slice::<L>()?)?;
                with_classes!(&classes, classes => threads::run(py, || ce.run_planes(logits, classes, request)))
            }
        };
        summary?.map_err(exception)
    }
}
