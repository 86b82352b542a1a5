//! The floating-point types that logits may have.

use core::fmt::Debug;

use crate::kernel::real::Real;

/// The dtype of logits, and of outputs that have one number for each of them.
///
/// | logits | gradient, probabilities, log-probabilities | per-row losses, lse, upstream gradients; targets that are probabilities |
/// |---|---|---|
/// | `f32` | `f32` | `f32` |
/// | `f64` | `f64` | `f64` |
/// | `half::bf16`, `half::f16` (feature `half`) | the same | `f32` |
///
/// [`Request::grad_as`](crate::Request::grad_as) has the gradient in another dtype than the logits: `f32`, or 16 bits.
///
/// Arithmetic is `f32`, and sums are `f64`; but for `f64`, whose arithmetic is its own and whose sums carry their rounding
/// errors along. See [`contract`](crate::contract) for the bounds and for what is stored.
///
/// Rows of `f64` are for gradient checks and small models: they cost twice the bytes and more than twice the arithmetic.
/// Every call takes every dtype. [`Shards`](crate::Shards) of `f64` have states of their own:
/// [`RowStateF64`](crate::RowStateF64).
///
/// ```
/// use xent::{CrossEntropy, Matrix, MatrixMut, Request};
///
/// // A confident row: the gap of 700 leaves exp(-700), and not 0.
/// let x = [0.0_f64, -700.0];
/// let (mut grad, mut losses) = ([0.0; 2], [0.0; 1]);
/// let request = Request::new().grad(MatrixMut::new(&mut grad, 1, 2)?).losses(&mut losses);
/// let summary = CrossEntropy::default().run(Matrix::new(&x, 1, 2)?, &[0_u8], request)?;
/// assert!((summary.loss / 9.859_676_543_759_77e-305 - 1.0).abs() < 1e-15);
/// assert_eq!((losses, grad), ([summary.loss], [-summary.loss, summary.loss]));
/// # Ok::<(), xent::Error>(())
/// ```
///
/// ```
/// # #[cfg(feature = "half")] {
/// use half::bf16;
/// use xent::{CrossEntropy, Matrix, MatrixMut};
///
/// let mut x = [2.0, 0.5, -1.0].map(bf16::from_f32);
/// let loss = CrossEntropy::default().loss_and_grad_in_place(MatrixMut::new(&mut x, 1, 3)?, &[0_u8])?;
/// assert!((loss - 0.241_3).abs() < 1e-4);
/// assert_eq!(x.map(bf16::to_f32), [-0.214_843_75, 0.174_804_69, 0.039_062_5]);
/// # }
/// # Ok::<(), xent::Error>(())
/// ```
pub trait Element: sealed::Element {
    /// What outputs and inputs have that are one number for each row, and targets that are probabilities.
    type PerRow: Real + Copy + Debug + Default + From<f32> + Into<f64> + Send + Sync + 'static;
}

pub(crate) mod sealed {
    use core::fmt::Debug;

    use crate::batch::{Backward, Batch};
    use crate::curvature;
    use crate::distillation;
    use crate::parallel::Schedule;
    use crate::planes;
    use crate::rows::{Job, Totals};

    /// Functions of one type each, so that the kernels are compiled with this crate and not with its users.
    #[allow(private_interfaces)]
    pub trait Element: Copy + Debug + Default + Send + Sync + 'static {
        #[doc(hidden)]
        fn run(schedule: Schedule, job: &Job<'_>, batch: Batch<'_, Self>) -> Totals
        where
            Self: super::Element;

        #[doc(hidden)]
        fn run_planes(job: &Job<'_>, batch: planes::Batch<'_, Self>) -> Totals
        where
            Self: super::Element;

        #[doc(hidden)]
        fn run_backward(schedule: Schedule, batch: Backward<'_, Self>);

        #[doc(hidden)]
        fn run_distillation(schedule: Schedule, rows: distillation::Rows<'_, Self>) -> Totals
        where
            Self: super::Element;

        /// The loss is the derivative of the reduced loss, where that was asked for.
        #[doc(hidden)]
        fn run_curvature(schedule: Schedule, rows: curvature::Rows<'_, Self>) -> Totals
        where
            Self: super::Element;
    }
}

macro_rules! elements {
    ($per_row:ty: $($element:ty),+) => {
        $(
            impl Element for $element {
                type PerRow = $per_row;
            }

            #[allow(private_interfaces)]
            impl sealed::Element for $element {
                fn run(
                    schedule: crate::parallel::Schedule,
                    job: &crate::rows::Job<'_>,
                    batch: crate::batch::Batch<'_, Self>,
                ) -> crate::rows::Totals {
                    schedule.run(job, batch)
                }

                fn run_planes(
                    job: &crate::rows::Job<'_>,
                    batch: crate::planes::Batch<'_, Self>,
                ) -> crate::rows::Totals {
                    crate::planes::InPlanes::run(job, batch)
                }

                fn run_backward(
                    schedule: crate::parallel::Schedule,
                    batch: crate::batch::Backward<'_, Self>,
                ) {
                    schedule.run_backward(batch);
                }

                fn run_distillation(
                    schedule: crate::parallel::Schedule,
                    rows: crate::distillation::Rows<'_, Self>,
                ) -> crate::rows::Totals {
                    let classes = rows.classes();
                    schedule.run_totals::<Self, _>(rows, classes)
                }

                fn run_curvature(
                    schedule: crate::parallel::Schedule,
                    rows: crate::curvature::Rows<'_, Self>,
                ) -> crate::rows::Totals {
                    let classes = rows.classes();
                    schedule.run_totals::<Self, _>(rows, classes)
                }
            }
        )+
    };
}

elements!(f32: f32);
elements!(f64: f64);
#[cfg(feature = "half")]
elements!(f32: half::bf16, half::f16);
