//! Where a gradient goes: to memory of the logits' dtype, or of another one.

use core::ops::Range;

#[cfg(feature = "half")]
use half::{bf16, f16};

use crate::MatrixMut;
use crate::batch::Wide;
use crate::kernel::distillation::{Divergence, DivergenceTask};
use crate::kernel::number::{Number, Rounded};
use crate::kernel::place::{Columns, RowsOf};
use crate::kernel::results::CoefficientsTask;
use crate::kernel::tasks::RowAffine;
use crate::kernel::transform::{Outgoing, WriteTask};
use crate::rows::Job;
use crate::simd::Simd;

/// The dtype of a gradient that does not have that of the logits: `f32`, and with the feature `half` `half::bf16` and
/// `half::f16`. See [`Request::grad_as`](crate::Request::grad_as).
pub trait GradElement: sealed::GradElement {}

pub(crate) mod sealed {
    use super::OtherGrad;
    use crate::MatrixMut;

    #[allow(private_interfaces)]
    pub trait GradElement: Sized {
        #[doc(hidden)]
        fn gradient(matrix: MatrixMut<'_, Self>) -> OtherGrad<'_>;
    }
}

/// A gradient, rows x C, of logits of dtype `T`.
#[derive(Debug)]
pub(crate) enum Grad<'a, T> {
    Own(MatrixMut<'a, T>),
    Other(OtherGrad<'a>),
}

/// A gradient that was asked for in a dtype by name.
#[derive(Debug)]
pub(crate) enum OtherGrad<'a> {
    F32(MatrixMut<'a, f32>),
    #[cfg(feature = "half")]
    Bf16(MatrixMut<'a, bf16>),
    #[cfg(feature = "half")]
    F16(MatrixMut<'a, f16>),
}

macro_rules! grad_elements {
    ($($element:ty: $variant:ident),+) => {
        $(
            impl GradElement for $element {}

            #[allow(private_interfaces)]
            impl sealed::GradElement for $element {
                fn gradient(matrix: MatrixMut<'_, Self>) -> OtherGrad<'_> {
                    OtherGrad::$variant(matrix)
                }
            }
        )+
    };
}

grad_elements!(f32: F32);
#[cfg(feature = "half")]
grad_elements!(bf16: Bf16, f16: F16);

/// The same for the matrix of each dtype.
macro_rules! of_each {
    ($grad:expr, $matrix:ident => $result:expr) => {
        match $grad {
            OtherGrad::F32($matrix) => $result,
            #[cfg(feature = "half")]
            OtherGrad::Bf16($matrix) => $result,
            #[cfg(feature = "half")]
            OtherGrad::F16($matrix) => $result,
        }
    };
}

impl<T: Copy> Grad<'_, T> {
    pub(crate) fn shape(&self) -> (usize, usize) {
        match self {
            Self::Own(matrix) => (matrix.rows(), matrix.cols()),
            Self::Other(grad) => grad.shape(),
        }
    }

    /// The first `rows` rows, and the others.
    pub(crate) fn split_at(self, rows: usize) -> (Self, Self) {
        match self {
            Self::Own(matrix) => {
                let (first, second) = matrix.split_at(rows);
                (Self::Own(first), Self::Own(second))
            }
            Self::Other(grad) => {
                let (first, second) = grad.split_at(rows);
                (Self::Other(first), Self::Other(second))
            }
        }
    }
}

impl OtherGrad<'_> {
    fn shape(&self) -> (usize, usize) {
        of_each!(self, matrix => (matrix.rows(), matrix.cols()))
    }

    /// Of all rows, with their padding. Were it a call, the batch would be copied for it.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> usize {
        of_each!(self, matrix => size_of_val(matrix.data()))
    }

    /// The first `rows` rows, and the others.
    pub(crate) fn split_at(self, rows: usize) -> (Self, Self) {
        match self {
            Self::F32(matrix) => {
                let (first, second) = matrix.split_at(rows);
                (Self::F32(first), Self::F32(second))
            }
            #[cfg(feature = "half")]
            Self::Bf16(matrix) => {
                let (first, second) = matrix.split_at(rows);
                (Self::Bf16(first), Self::Bf16(second))
            }
            #[cfg(feature = "half")]
            Self::F16(matrix) => {
                let (first, second) = matrix.split_at(rows);
                (Self::F16(first), Self::F16(second))
            }
        }
    }

    /// One value in all of a row.
    pub(crate) fn fill(&mut self, row: usize, value: f32) {
        of_each!(self, matrix => fill(matrix, row, value));
    }

    /// Writes a tile that was computed in `f32`.
    pub(crate) fn write(&mut self, job: &Job<'_>, tile: Range<usize>, outgoing: Outgoing<'_>) {
        of_each!(self, matrix => {
            let (classes, count) = (matrix.cols(), tile.len());
            let (data, row_stride) = matrix.rows_from_mut(tile.start);
            let rows = RowsOf { data, row_stride, classes, count };
            job.schedule.instructions.run(WriteTask { outgoing, rows });
        });
    }

    /// Writes the gradient of a row with these logits.
    pub(crate) fn affine<F: Number>(
        &mut self,
        job: &Job<'_>,
        row: usize,
        x: &[F],
        adds: bool,
        affine: RowAffine<'_>,
    ) {
        of_each!(self, matrix => {
            let columns = columns(matrix, row, x, adds, job.streaming);
            job.affine_by_f32(affine.of(columns), Wide::Gradient);
        });
    }

    /// Writes that of a student's row with these logits, and gives the divergence.
    #[inline(always)]
    pub(crate) fn divergence<S: Simd, F: Number>(
        &mut self,
        s: S,
        row: usize,
        x: &[F],
        adds: bool,
        divergence: Divergence<'_, F>,
    ) -> f64 {
        of_each!(self, matrix => {
            let columns = columns(matrix, row, x, adds, false);
            s.vectorize(DivergenceTask { columns, divergence })
        })
    }

    /// Writes columns of a row from `first` on that were computed in `f64`, or adds them to what is there; each is rounded
    /// once.
    pub(crate) fn write_doubles(&mut self, row: usize, first: usize, x: &[f64], adds: bool) {
        of_each!(self, matrix => write_doubles(matrix, row, first, x, adds));
    }

    /// Runs the task with the target's own value rounded to the dtype of the gradient.
    pub(crate) fn coefficients<T: Rounded<Real = f32>>(&self, job: &Job<'_>, task: CoefficientsTask<'_, T>) {
        let instructions = job.schedule.instructions;
        match self {
            Self::F32(_) => instructions.run(task.rounding_to::<f32>()),
            #[cfg(feature = "half")]
            Self::Bf16(_) => instructions.run(task.rounding_to::<bf16>()),
            #[cfg(feature = "half")]
            Self::F16(_) => instructions.run(task.rounding_to::<f16>()),
        }
    }
}

fn columns<'a, F, T>(
    matrix: &'a mut MatrixMut<'_, T>,
    row: usize,
    x: &'a [F],
    adds: bool,
    streaming: bool,
) -> Columns<'a, F, T> {
    let to = matrix.row_mut(row).unwrap_or_default();
    match adds {
        true => Columns::Adding(x, to),
        false if streaming => Columns::Streaming(x, to),
        false => Columns::Between(x, to),
    }
}

fn fill<T: Number>(matrix: &mut MatrixMut<'_, T>, row: usize, value: f32) {
    matrix.row_mut(row).unwrap_or_default().fill(T::from_f32(value));
}

fn write_doubles<T: Number>(matrix: &mut MatrixMut<'_, T>, row: usize, first: usize, x: &[f64], adds: bool) {
    let to = &mut matrix.row_mut(row).unwrap_or_default()[first..];
    for (to, &x) in to.iter_mut().zip(x) {
        let x = if adds { f64::from(to.to_f32()) + x } else { x };
        *to = T::from_f32(T::round(x));
    }
}
