//! Rows of `f64` on their way to the kernel: as those of `f32`, but that their losses add up with what rounding takes.

use super::Rows;
use crate::batch::Wide;
use crate::doubles::{COLUMNS, parts};
use crate::kernel::double::distillation::{DivergenceTask, TemperedTask};
use crate::kernel::place::Columns;
use crate::rows::Totals;
use crate::simd::{Simd, Task};

impl Task for Rows<'_, f64> {
    type Output = Totals;

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) -> Totals {
        let mut totals = Totals::default();
        for row in 0..self.teacher.rows() {
            totals = totals.add(Totals::of_loss(self.double_row(s, row)));
        }
        totals
    }
}

impl Rows<'_, f64> {
    #[inline(always)]
    fn double_row<S: Simd>(&mut self, s: S, row: usize) -> f64 {
        if !self.student.request.inputs.may_count(row) {
            return self.fill(row, 0.0);
        }
        let scale = 1.0 / self.settings.temperature;
        let of_student = s.vectorize(TemperedTask { x: self.student.logits.row(row), scale });
        let teacher = self.teacher.row(row).unwrap_or_default();
        let of_teacher = s.vectorize(TemperedTask { x: teacher, scale });
        let (Some(of_student), Some(of_teacher)) = (of_student, of_teacher) else {
            return self.fill(row, f32::NAN);
        };
        let factor = self.factor(row);
        let adds = self.student.adds(Wide::Gradient);
        let divergence = if let Some((grad, x)) = self.student.other_grad(row, Wide::Gradient) {
            for (first, part) in parts(x) {
                let (of_student, of_teacher) = (of_student.from(first), of_teacher.from(first));
                let (teacher, mut of_part) = (&teacher[first..first + part.len()], [0.0; COLUMNS]);
                let columns = Columns::Between(part, &mut of_part[..part.len()]);
                s.vectorize(DivergenceTask { columns, teacher, of_student, of_teacher, scale, factor });
                grad.write_doubles(row, first, &of_part[..part.len()], adds);
            }
            // Once more, because parts would be another order of adding up.
            let columns = Columns::Read(x);
            s.vectorize(DivergenceTask { columns, teacher, of_student, of_teacher, scale, factor })
        } else {
            let columns = if self.student.writes(Wide::Gradient) {
                self.student.columns(row, Wide::Gradient, false)
            } else {
                Some(Columns::Read(self.student.logits.row(row)))
            };
            let Some(columns) = columns else { return 0.0 };
            s.vectorize(DivergenceTask { columns, teacher, of_student, of_teacher, scale, factor })
        };
        self.write(row, divergence, of_student.max, of_student.ln_sum)
    }
}
