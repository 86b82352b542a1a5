//! Upstream gradients on their way to a kernel, which can be split between threads.

use crate::kernel::backward;
use crate::kernel::number::Number;
use crate::parallel::SplitRows;
use crate::simd::{Simd, Task};
use crate::{Element, Matrix, MatrixMut};

/// Upstream gradients on their way back through a softmax.
pub(crate) struct Backward<'a, T = f32> {
    pub(crate) output: backward::Output,
    /// What the softmax, or its logarithm, was.
    pub(crate) y: Matrix<'a, T>,
    pub(crate) upstream: Upstream<'a, T>,
}

/// The upstream gradient, and where the gradient of the logits goes.
pub(crate) enum Upstream<'a, T = f32> {
    Keep(Matrix<'a, T>, MatrixMut<'a, T>),
    Overwrite(MatrixMut<'a, T>),
}

impl<T> Backward<'_, T> {
    pub(crate) fn classes(&self) -> usize {
        self.y.cols()
    }
}

impl<'a, T> Upstream<'a, T> {
    /// What is written.
    pub(crate) fn out(&mut self) -> &mut MatrixMut<'a, T> {
        match self {
            Self::Keep(_, out) | Self::Overwrite(out) => out,
        }
    }

    /// Of the first `rows` rows, and of the others.
    pub(crate) fn split_at(self, rows: usize) -> (Self, Self) {
        match self {
            Self::Keep(g, dx) => {
                let ((g, g_rest), (dx, dx_rest)) = (g.split_at(rows), dx.split_at(rows));
                (Self::Keep(g, dx), Self::Keep(g_rest, dx_rest))
            }
            Self::Overwrite(g) => {
                let (g, g_rest) = g.split_at(rows);
                (Self::Overwrite(g), Self::Overwrite(g_rest))
            }
        }
    }
}

impl<T: Element> SplitRows for Backward<'_, T> {
    fn rows(&self) -> usize {
        self.y.rows()
    }

    fn split_at(self, rows: usize) -> (Self, Self) {
        let (y, y_rest) = self.y.split_at(rows);
        let (upstream, upstream_rest) = self.upstream.split_at(rows);
        let output = self.output;
        (Self { output, y, upstream }, Self { output, y: y_rest, upstream: upstream_rest })
    }
}

impl<T: Number> Task for Backward<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        for row in 0..self.y.rows() {
            let y = self.y.row(row).unwrap_or_default();
            let upstream = match &mut self.upstream {
                Upstream::Keep(g, dx) => backward::Upstream::Keep(
                    g.row(row).unwrap_or_default(),
                    dx.row_mut(row).unwrap_or_default(),
                ),
                Upstream::Overwrite(g) => backward::Upstream::Overwrite(g.row_mut(row).unwrap_or_default()),
            };
            backward::row(simd, self.output, y, upstream);
        }
    }
}
