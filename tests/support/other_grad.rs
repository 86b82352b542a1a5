//! Gradients in another dtype than the logits, in memory that is watched.

use super::batch::Batch;
use super::bounds::Rounding;
use super::buffer::Buffer;
use super::distillation::Pair;
use super::evaluation::Call;
#[cfg(feature = "half")]
use super::halves::{Half, HalfBuffer, narrow};
#[cfg(feature = "half")]
use half::{bf16, f16};
use xent::{CrossEntropy, Distillation, DistillationElement, GradElement, Matrix, MatrixMut, Summary};

/// A dtype that both can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    #[cfg(feature = "half")]
    Bf16,
    #[cfg(feature = "half")]
    F16,
}

impl Dtype {
    #[cfg(feature = "half")]
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];
    #[cfg(not(feature = "half"))]
    pub const ALL: [Self; 1] = [Self::F32];

    pub fn rounding(self) -> Rounding {
        match self {
            Self::F32 => Rounding::F32,
            #[cfg(feature = "half")]
            Self::Bf16 => bf16::ROUNDING,
            #[cfg(feature = "half")]
            Self::F16 => f16::ROUNDING,
        }
    }

    pub fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            #[cfg(feature = "half")]
            Self::Bf16 => bf16::from_f32(x).to_f32(),
            #[cfg(feature = "half")]
            Self::F16 => f16::from_f32(x).to_f32(),
        }
    }
}

/// A call on logits of one dtype whose gradient has another; added to what is `before`, if anything is.
pub fn gradient_as(
    (logits, grad): (Dtype, Dtype),
    call: &Call<'_>,
    ce: &CrossEntropy,
    batch: &Batch,
    before: Option<&[f32]>,
) -> (Vec<f32>, Summary) {
    Asked { logits, call, of: Of::Loss(ce), batch, adds: before.is_some() }.find(grad, before)
}

/// The same of a distillation.
pub fn distilled_as(
    (logits, grad): (Dtype, Dtype),
    call: &Call<'_>,
    distillation: &Distillation,
    pair: &Pair,
    before: Option<&[f32]>,
) -> (Vec<f32>, Summary) {
    let of = Of::Distillation(distillation, &pair.teacher);
    Asked { logits, call, of, batch: &pair.student, adds: before.is_some() }.find(grad, before)
}

/// All of it but where the gradient goes.
struct Asked<'a> {
    logits: Dtype,
    call: &'a Call<'a>,
    of: Of<'a>,
    batch: &'a Batch,
    adds: bool,
}

/// Whose gradient. A distillation has a teacher.
#[derive(Clone, Copy)]
enum Of<'a> {
    Loss(&'a CrossEntropy),
    Distillation(&'a Distillation, &'a [f32]),
}

impl Asked<'_> {
    fn find(&self, grad: Dtype, before: Option<&[f32]>) -> (Vec<f32>, Summary) {
        let (rows, classes, layout) = (self.batch.rows, self.batch.classes, self.call.outputs);
        match grad {
            Dtype::F32 => {
                let mut out = match before {
                    Some(before) => Buffer::holding(before, rows, classes, layout),
                    None => Buffer::unwritten(rows, classes, layout),
                };
                let summary = self.run(out.matrix_mut());
                out.assert_canaries_live("grad");
                (out.elements(), summary)
            }
            #[cfg(feature = "half")]
            Dtype::Bf16 => self.run_to_half::<bf16>(before),
            #[cfg(feature = "half")]
            Dtype::F16 => self.run_to_half::<f16>(before),
        }
    }

    #[cfg(feature = "half")]
    fn run_to_half<G: Half + GradElement>(&self, before: Option<&[f32]>) -> (Vec<f32>, Summary) {
        let (rows, classes, layout) = (self.batch.rows, self.batch.classes, self.call.outputs);
        let mut out = match before {
            Some(before) => HalfBuffer::<G>::holding(before, rows, classes, layout),
            None => HalfBuffer::unwritten(rows, classes, layout),
        };
        let summary = self.run(out.matrix_mut());
        (out.elements("grad"), summary)
    }

    fn run<G: GradElement>(&self, grad: MatrixMut<'_, G>) -> Summary {
        match self.logits {
            Dtype::F32 => self.run_on(<[f32]>::to_vec, grad),
            #[cfg(feature = "half")]
            Dtype::Bf16 => self.run_on(narrow::<bf16>, grad),
            #[cfg(feature = "half")]
            Dtype::F16 => self.run_on(narrow::<f16>, grad),
        }
    }

    fn run_on<T: DistillationElement, G: GradElement>(
        &self,
        of_f32: fn(&[f32]) -> Vec<T>,
        grad: MatrixMut<'_, G>,
    ) -> Summary {
        let Self { call, of, batch, adds, .. } = *self;
        let request = call.request();
        let request = if adds { request.accumulate_as(grad) } else { request.grad_as(grad) };
        let logits = of_f32(&batch.logits);
        let logits = Matrix::new(&logits, batch.rows, batch.classes).expect("the shape fits");
        let summary = match of {
            Of::Loss(ce) => call.run(ce, logits, batch, request),
            Of::Distillation(distillation, teacher) => {
                let teacher = of_f32(teacher);
                let teacher = Matrix::new(&teacher, batch.rows, batch.classes).expect("the shape fits");
                distillation.run(logits, teacher, request)
            }
        };
        summary.expect("the batch is valid")
    }
}
