//! The loss as an operation of candle's graph.

use std::sync::{Arc, OnceLock};

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Error, Layout, Result, Shape, Storage, Tensor};
use xent::{CrossEntropy, Matrix, MatrixMut, Request, Target};

use crate::dtype::{LogitDType, match_logits, match_targets};
use crate::error::from_xent;

const NAME: &str = "xent-cross-entropy";

pub(crate) struct Operation {
    cross_entropy: Arc<CrossEntropy>,
    /// Contiguous.
    targets: Tensor,
    /// Whether `backward()` may come to the logits.
    tracks_gradient: bool,
    /// The gradient for an upstream gradient of 1, from the forward pass.
    grad: OnceLock<Tensor>,
}

impl Operation {
    pub(crate) fn new(cross_entropy: Arc<CrossEntropy>, logits: &Tensor, targets: &Tensor) -> Result<Self> {
        logits.dims2()?;
        targets.dims1()?;
        let targets = targets.detach().contiguous()?;
        Ok(Self { cross_entropy, targets, tracks_gradient: logits.track_op(), grad: OnceLock::new() })
    }

    /// The reduced loss, and the gradient times `upstream`, if there is an upstream gradient.
    fn run<E: LogitDType>(
        &self,
        logits: Matrix<'_, E>,
        upstream: Option<f64>,
    ) -> Result<(f64, Option<Vec<E>>)> {
        let (targets, layout) = self.targets.storage_and_layout();
        let Storage::Cpu(targets) = &*targets else {
            return Err(Error::Msg(format!("{NAME}: the targets are not on the CPU")).bt());
        };
        let (start, end) =
            layout.contiguous_offsets().ok_or_else(|| Error::RequiresContiguous { op: NAME }.bt())?;
        match_targets!(targets, NAME, data => {
            let targets = data.get(start..end).unwrap_or_default();
            self.run_with(logits, targets, upstream).map_err(from_xent)
        })
    }

    fn run_with<E: LogitDType, T: Target>(
        &self,
        logits: Matrix<'_, E>,
        targets: &[T],
        upstream: Option<f64>,
    ) -> std::result::Result<(f64, Option<Vec<E>>), xent::Error> {
        let Some(upstream) = upstream else {
            return Ok((self.cross_entropy.loss(logits, targets)?, None));
        };
        let (rows, classes) = (logits.rows(), logits.cols());
        // Pages of zeros that the system hands out when they are first written.
        let mut grad = bytemuck::zeroed_vec(rows * classes);
        let request =
            Request::new().grad(MatrixMut::new(&mut grad, rows, classes)?).upstream_scalar(upstream);
        let summary = self.cross_entropy.run(logits, targets, request)?;
        Ok((summary.loss, Some(grad)))
    }

    fn forward<E: LogitDType>(&self, data: &[E], layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = matrix(data, layout)?;
        let (loss, grad) = self.run(logits, self.tracks_gradient.then_some(1.0))?;
        if let Some(grad) = grad {
            let grad = Tensor::from_vec(grad, layout.shape(), &Device::Cpu)?;
            // A graph runs its operations forward once.
            let _ = self.grad.set(grad);
        }
        Ok((E::to_cpu_storage_owned(vec![E::from_f64(loss)]), Shape::from(())))
    }

    fn backward<E: LogitDType>(&self, data: &[E], layout: &Layout, upstream: f64) -> Result<Tensor> {
        let (_, grad) = self.run(matrix(data, layout)?, Some(upstream))?;
        Tensor::from_vec(grad.unwrap_or_default(), layout.shape(), &Device::Cpu)
    }
}

impl CustomOp1 for Operation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        match_logits!(logits, NAME, data => self.forward(data, layout))
    }

    fn bwd(&self, logits: &Tensor, _loss: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        if upstream.track_op() {
            // What comes of it would be a constant, and its derivative wrong.
            return Err(Error::BackwardNotSupported { op: NAME }.bt());
        }
        let upstream = upstream.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        if upstream == 1.0
            && let Some(grad) = self.grad.get()
        {
            return Ok(Some(grad.clone()));
        }
        let (storage, layout) = logits.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            return Err(Error::BackwardNotSupported { op: NAME }.bt());
        };
        match_logits!(storage, NAME, data => self.backward(data, layout, upstream)).map(Some)
    }
}

/// The logits where they are.
fn matrix<'a, E>(data: &'a [E], layout: &Layout) -> Result<Matrix<'a, E>> {
    let (&[rows, classes], &[row_stride, class_stride]) = (layout.dims(), layout.stride()) else {
        return Err(Error::Msg(format!("{NAME}: the logits are not N x C")).bt());
    };
    // Strides that are never walked say nothing.
    let row_stride = if rows <= 1 { classes } else { row_stride };
    let refused = if class_stride != 1 && classes > 1 {
        Some("the classes of a row of logits must be neighbours")
    } else if row_stride < classes {
        Some("rows of logits must not overlap")
    } else {
        None
    };
    if let Some(refused) = refused {
        return Err(Error::Msg(format!(
            "{NAME}: {refused}, but the strides of {rows} x {classes} are {:?}; call contiguous() first, which copies",
            layout.stride()
        ))
        .bt());
    }
    let data = data.get(layout.start_offset()..).unwrap_or_default();
    Matrix::with_row_stride(data, rows, classes, row_stride).map_err(from_xent)
}
