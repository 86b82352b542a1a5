//! Rows of a student and a teacher on their way to the kernel: all checked, and ready to be split between threads.

use crate::batch::{Batch, Wide};
use crate::kernel::distillation::{Divergence, DivergenceTask, TemperedTask};
use crate::kernel::place::Columns;
use crate::kernel::real::Real;
use crate::loss::weighted;
use crate::parallel::SplitRows;
use crate::passes::Kernels;
use crate::row_inputs::product;
use crate::rows::{Dtype, Totals};
use crate::simd::{Simd, Task};
use crate::{Element, Matrix};

/// The student's logits with a request, and the teacher's. The result has the sum of the rows' losses.
pub(crate) struct Rows<'a, T: Element> {
    pub(super) settings: Settings,
    pub(super) student: Batch<'a, T>,
    pub(super) teacher: Matrix<'a, T>,
}

/// What is the same for all rows of a call.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    pub(super) temperature: f64,
    /// What the gradient of each row's loss is multiplied by, where rows bring no upstream gradients and no weights.
    pub(super) factor: f64,
}

impl<T: Element> Rows<'_, T> {
    pub(crate) fn classes(&self) -> usize {
        self.teacher.cols()
    }
}

impl<T: Element> SplitRows for Rows<'_, T> {
    fn rows(&self) -> usize {
        self.teacher.rows()
    }

    fn split_at(self, rows: usize) -> (Self, Self) {
        let settings = self.settings;
        let (student, student_rest) = self.student.split_at(rows);
        let (teacher, teacher_rest) = self.teacher.split_at(rows);
        (Self { settings, student, teacher }, Self { settings, student: student_rest, teacher: teacher_rest })
    }
}

impl<T: Kernels> Task for Rows<'_, T> {
    type Output = Totals;

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) -> Totals {
        let mut loss = 0.0;
        for row in 0..self.teacher.rows() {
            loss += self.row(simd, row);
        }
        Totals::of_loss(loss)
    }
}

impl<T: Kernels> Rows<'_, T> {
    #[inline(always)]
    fn row<S: Simd>(&mut self, s: S, row: usize) -> f64 {
        if !self.student.request.inputs.may_count(row) {
            return self.fill(row, 0.0);
        }
        let scale = self.scale();
        let of_student = s.vectorize(TemperedTask { x: self.student.logits.row(row), scale });
        let teacher = self.teacher.row(row).unwrap_or_default();
        let of_teacher = s.vectorize(TemperedTask { x: teacher, scale });
        let (Some(of_student), Some(of_teacher)) = (of_student, of_teacher) else {
            return self.fill(row, f32::NAN);
        };
        let factor = self.factor(row);
        let divergence = Divergence { teacher, of_student, of_teacher, scale, factor };
        let adds = self.student.adds(Wide::Gradient);
        let divergence = if let Some((grad, x)) = self.student.other_grad(row, Wide::Gradient) {
            grad.divergence(s, row, x, adds, divergence)
        } else {
            let columns = if self.student.writes(Wide::Gradient) {
                self.student.columns(row, Wide::Gradient, false)
            } else {
                Some(Columns::Read(self.student.logits.row(row)))
            };
            let Some(columns) = columns else { return 0.0 };
            s.vectorize(DivergenceTask { columns, divergence })
        };
        self.write(row, divergence, f64::from(of_student.max), of_student.ln_sum)
    }

    fn scale(&self) -> f32 {
        (1.0 / self.settings.temperature) as f32
    }
}

/// What is the same for all dtypes.
impl<T: Dtype> Rows<'_, T> {
    /// What p - q is multiplied by in the gradient.
    pub(super) fn factor(&self, row: usize) -> f64 {
        product(self.student.request.inputs.factor(row, self.settings.factor), self.settings.temperature)
    }

    /// The outputs with one number for each row, from what the student's softmax has besides. Returns the row's loss.
    pub(super) fn write(&mut self, row: usize, divergence: f64, max: f64, ln_sum: f64) -> f64 {
        let temperature = self.settings.temperature;
        let row_weight = self.student.request.inputs.row_weight(row);
        let loss = weighted(row_weight, temperature * temperature * divergence);
        let lse = max / temperature + ln_sum;
        let outputs = &mut self.student.request.row_outputs;
        for (out, exact) in [(&mut outputs.losses, loss), (&mut outputs.lse, lse)] {
            if let Some(out) = out {
                out[row] = Real::round(exact);
            }
        }
        loss
    }

    /// One value in all outputs of a row: NaN, or the 0 of a row that does not count. Returns its loss.
    pub(super) fn fill(&mut self, row: usize, value: f32) -> f64 {
        let adds_nothing = self.student.adds(Wide::Gradient) && !value.is_nan();
        if !adds_nothing {
            self.student.fill(row, Wide::Gradient, value);
        }
        self.student.request.row_outputs.fill(row, value, 0);
        f64::from(value)
    }
}
