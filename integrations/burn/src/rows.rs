//! Tensors of the backend flex as what xent reads and writes.

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{DType, Element, ElementConversion, TensorData};
use burn::tensor::{Int, Tensor};
use bytemuck::Pod;
use half::{bf16, f16};
use xent::{CrossEntropy, Matrix, MatrixMut, Request, Target};

use crate::Error;

/// A dtype that both burn and xent have.
trait LogitDType: xent::Element + Element + Pod {}

impl LogitDType for f32 {}
impl LogitDType for f64 {}
impl LogitDType for bf16 {}
impl LogitDType for f16 {}

/// The loss, of shape `[1]`.
pub(crate) fn loss_alone(
    cross_entropy: &CrossEntropy,
    logits: FlexTensor,
    targets: FlexTensor,
) -> Result<FlexTensor, Error> {
    compute(cross_entropy, logits, targets, false).map(|(loss, _)| loss)
}

/// The loss, and its gradient with respect to the logits, of their shape.
pub(crate) fn loss_and_grad(
    cross_entropy: &CrossEntropy,
    logits: FlexTensor,
    targets: FlexTensor,
) -> Result<(FlexTensor, FlexTensor), Error> {
    compute(cross_entropy, logits, targets, true)
}

/// The loss; and its gradient, if it is wanted.
fn compute(
    cross_entropy: &CrossEntropy,
    logits: FlexTensor,
    targets: FlexTensor,
    with_gradient: bool,
) -> Result<(FlexTensor, FlexTensor), Error> {
    match logits.dtype() {
        DType::F32 => compute_with::<f32>(cross_entropy, logits, targets, with_gradient),
        DType::F64 => compute_with::<f64>(cross_entropy, logits, targets, with_gradient),
        DType::BF16 => compute_with::<bf16>(cross_entropy, logits, targets, with_gradient),
        DType::F16 => compute_with::<f16>(cross_entropy, logits, targets, with_gradient),
        dtype => Err(Error::UnsupportedDType { dtype }),
    }
}

fn compute_with<E: LogitDType>(
    cross_entropy: &CrossEntropy,
    logits: FlexTensor,
    targets: FlexTensor,
    with_gradient: bool,
) -> Result<(FlexTensor, FlexTensor), Error> {
    let targets = targets.to_contiguous();
    let job = Job { cross_entropy, logits, with_gradient };
    let (loss, grad) = match targets.dtype() {
        DType::I64 => job.run::<E, i64>(elements(&targets)),
        DType::I32 => job.run::<E, i32>(elements(&targets)),
        DType::U64 => job.run::<E, u64>(elements(&targets)),
        DType::U32 => job.run::<E, u32>(elements(&targets)),
        DType::U16 => job.run::<E, u16>(elements(&targets)),
        DType::U8 => job.run::<E, u8>(elements(&targets)),
        _ => {
            let targets = targets.into_data().convert::<i64>();
            job.run::<E, i64>(targets.as_slice().unwrap_or_default())
        }
    }?;
    let loss: E = loss.elem();
    Ok((FlexTensor::from_data(TensorData::new(vec![loss], [1])), grad))
}

/// The elements of a contiguous tensor of this type.
fn elements<E: Element + Pod>(tensor: &FlexTensor) -> &[E] {
    tensor.as_slice().unwrap_or_default()
}

struct Job<'a> {
    cross_entropy: &'a CrossEntropy,
    logits: FlexTensor,
    with_gradient: bool,
}

impl Job<'_> {
    /// The loss; and the gradient, in memory of its own or in that of the logits. Without a gradient, the logits.
    fn run<E: LogitDType, T: Target>(self, targets: &[T]) -> Result<(f64, FlexTensor), Error> {
        let Self { cross_entropy, mut logits, with_gradient } = self;
        if row_stride(logits.layout()).is_none() {
            logits = logits.to_contiguous();
        }
        if !with_gradient {
            let loss = cross_entropy.loss(matrix::<E>(&logits)?, targets)?;
            return Ok((loss, logits));
        }
        let [rows, classes] = shape(logits.layout());
        // What nobody else has, and is the whole of its memory, the gradient may have.
        let is_all = logits.layout().start_offset() == 0
            && logits.is_contiguous()
            && logits.bytes().len() == rows * classes * size_of::<E>();
        if is_all && let Some(data) = logits.try_storage_mut::<E>() {
            let loss = cross_entropy.loss_and_grad_in_place(MatrixMut::new(data, rows, classes)?, targets)?;
            return Ok((loss, logits));
        }
        // Pages of zeros that the system hands out when they are first written.
        let mut grad = bytemuck::zeroed_vec::<E>(rows * classes);
        let request = Request::new().grad(MatrixMut::new(&mut grad, rows, classes)?);
        let loss = cross_entropy.run(matrix(&logits)?, targets, request)?.loss;
        Ok((loss, FlexTensor::from_data(TensorData::new(grad, [rows, classes]))))
    }
}

/// That burn's own loss has nothing to panic about: it takes padding tokens for classes.
pub(crate) fn check_targets(
    cross_entropy: &CrossEntropy,
    [rows, classes]: [usize; 2],
    targets: &Tensor<1, Int>,
) -> Result<(), Error> {
    let of = |argument, expected, actual| {
        if expected == actual {
            return Ok(());
        }
        Err(Error::Refused(xent::Error::LengthMismatch { argument, expected, actual }))
    };
    of("targets", rows, targets.dims()[0])?;
    of("weight", classes, cross_entropy.weight().map_or(classes, <[f32]>::len))?;
    for (row, target) in targets.to_data().iter::<i64>().enumerate() {
        if usize::try_from(target).is_ok_and(|target| target < classes) {
            continue;
        }
        return Err(xent::Error::TargetOutOfRange { row, target: target.into(), classes }.into());
    }
    Ok(())
}

/// Rows and classes.
fn shape(layout: &Layout) -> [usize; 2] {
    match layout.shape().as_slice() {
        &[rows, classes] => [rows, classes],
        // A `Tensor<2>` has two.
        _ => [0, 0],
    }
}

/// Elements from one row to the next, if the classes of a row are neighbours. Strides that are never walked say nothing.
fn row_stride(layout: &Layout) -> Option<usize> {
    let [rows, classes] = shape(layout);
    let &[row_stride, class_stride] = layout.strides() else { return None };
    let row_stride = if rows <= 1 { classes } else { usize::try_from(row_stride).ok()? };
    ((class_stride == 1 || classes <= 1) && row_stride >= classes).then_some(row_stride)
}

/// The logits where they are.
fn matrix<E: LogitDType>(logits: &FlexTensor) -> Result<Matrix<'_, E>, Error> {
    let layout = logits.layout();
    let [rows, classes] = shape(layout);
    let data = logits.storage::<E>().get(layout.start_offset()..).unwrap_or_default();
    Ok(Matrix::with_row_stride(data, rows, classes, row_stride(layout).unwrap_or(classes))?)
}
