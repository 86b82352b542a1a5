//! Rows on their way to a kernel: logits, targets and outputs, all checked, which can be split between threads.

use crate::kernel::backward;
use crate::kernel::map::Columns;
use crate::loss::Options;
use crate::parallel::SplitRows;
use crate::request::Request;
use crate::simd::{Simd, Task};
use crate::targets::Targets;
use crate::{Matrix, MatrixMut};

/// An output as wide as the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wide {
    Gradient,
    Probabilities,
    LogProbabilities,
}

/// The logits, and the output that overwrites them, if one does.
pub(crate) enum Logits<'a> {
    Keep(Matrix<'a>),
    Overwrite(MatrixMut<'a>, Wide),
}

pub(crate) struct Batch<'a> {
    pub(crate) logits: Logits<'a>,
    /// Without targets there is only the softmax.
    pub(crate) targets: Option<Targets<'a>>,
    pub(crate) request: Request<'a>,
}

impl<'a> Logits<'a> {
    pub(crate) fn as_matrix(&self) -> Matrix<'_> {
        match self {
            Self::Keep(matrix) => *matrix,
            Self::Overwrite(matrix, _) => matrix.as_matrix(),
        }
    }

    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &[f32] {
        match self {
            Self::Keep(matrix) => matrix.row(row),
            Self::Overwrite(matrix, _) => matrix.row(row),
        }
        .unwrap_or_default()
    }

    fn split_at(self, rows: usize) -> (Self, Self) {
        match self {
            Self::Keep(matrix) => {
                let (first, second) = matrix.split_at(rows);
                (Self::Keep(first), Self::Keep(second))
            }
            Self::Overwrite(matrix, wide) => {
                let (first, second) = matrix.split_at(rows);
                (Self::Overwrite(first, wide), Self::Overwrite(second, wide))
            }
        }
    }
}

impl SplitRows for Batch<'_> {
    fn rows(&self) -> usize {
        self.logits.as_matrix().rows()
    }

    fn split_at(self, rows: usize) -> (Self, Self) {
        let (logits, logits_rest) = self.logits.split_at(rows);
        let (targets, targets_rest) = self.targets.map(|targets| targets.split_at(rows)).unzip();
        let (request, request_rest) = self.request.split_at(rows);
        (
            Self { logits, targets, request },
            Self { logits: logits_rest, targets: targets_rest, request: request_rest },
        )
    }
}

impl Batch<'_> {
    pub(crate) fn classes(&self) -> usize {
        self.logits.as_matrix().cols()
    }

    /// Bytes of logits and wide outputs that a call moves through other memory than the logits' own.
    pub(crate) fn bytes_out_of_place(&self) -> usize {
        let outputs = [Wide::Gradient, Wide::Probabilities, Wide::LogProbabilities];
        let count = outputs.iter().filter(|&&wide| self.request.wide(wide).is_some()).count();
        let elements = self.rows().saturating_mul(self.logits.as_matrix().row_stride());
        elements.saturating_mul(size_of::<f32>()).saturating_mul(if count == 0 { 0 } else { count + 1 })
    }

    /// The class of a row; `None` where there is none, or it is ignored.
    #[inline(always)]
    pub(crate) fn class(&self, row: usize, options: &Options) -> Option<usize> {
        self.targets.and_then(|targets| targets.class(row, options.ignore_index))
    }

    /// [`Batch::class`] of the rows from `first` on.
    #[inline(always)]
    pub(crate) fn classes_of(&self, first: usize, options: &Options, classes: &mut [Option<usize>]) {
        if let Some(targets) = self.targets {
            targets.classes(first, options.ignore_index, classes);
        }
    }

    /// What the gradient of a row's loss is multiplied by.
    #[inline(always)]
    pub(crate) fn factor(&self, row: usize, factor: f64) -> f64 {
        self.request.upstream.map_or(factor, |upstream| f64::from(upstream[row]))
    }

    #[inline(always)]
    fn overwrites(&self, wide: Wide) -> bool {
        matches!(&self.logits, Logits::Overwrite(_, overwrite) if *overwrite == wide)
    }

    #[inline(always)]
    pub(crate) fn writes(&self, wide: Wide) -> bool {
        self.overwrites(wide) || self.request.wide(wide).is_some()
    }

    /// Whether some output is made of the row's exponentials.
    #[inline(always)]
    pub(crate) fn writes_affine(&self) -> bool {
        self.writes(Wide::Gradient) || self.writes(Wide::Probabilities)
    }

    /// Whether some output is made of the logarithm of their sum.
    #[inline(always)]
    pub(crate) fn writes_lse(&self) -> bool {
        self.request.lse.is_some() || self.writes(Wide::LogProbabilities)
    }

    /// Whether some output needs another look at the row than loss and affine outputs do.
    #[inline(always)]
    pub(crate) fn writes_narrow(&self) -> bool {
        self.writes_lse() || self.request.argmax.is_some()
    }

    /// Where the pass that writes `wide` reads and writes, if it was asked for.
    #[inline(always)]
    pub(crate) fn columns(&mut self, row: usize, wide: Wide, streaming: bool) -> Option<Columns<'_>> {
        if self.overwrites(wide) {
            return self.wide_row(row, wide).map(Columns::InPlace);
        }
        let from = self.logits.row(row);
        let to = self.request.wide_mut(wide)?.row_mut(row)?;
        Some(if streaming { Columns::Streaming(from, to) } else { Columns::Between(from, to) })
    }

    /// A row of `wide`, if it was asked for.
    #[inline(always)]
    pub(crate) fn wide_row(&mut self, row: usize, wide: Wide) -> Option<&mut [f32]> {
        match &mut self.logits {
            Logits::Overwrite(matrix, overwrite) if *overwrite == wide => matrix.row_mut(row),
            _ => self.request.wide_mut(wide)?.row_mut(row),
        }
    }

    /// The rows of `wide` from `row` on, and their stride, if it was asked for.
    #[inline(always)]
    pub(crate) fn wide_rows(&mut self, row: usize, wide: Wide) -> Option<(&mut [f32], usize)> {
        match &mut self.logits {
            Logits::Overwrite(matrix, overwrite) if *overwrite == wide => Some(matrix.rows_from_mut(row)),
            _ => self.request.wide_mut(wide).map(|matrix| matrix.rows_from_mut(row)),
        }
    }

    /// One value in all outputs of a row, and `best` for its argmax.
    pub(crate) fn fill_row(&mut self, row: usize, value: f32, best: usize) {
        for wide in [Wide::Gradient, Wide::Probabilities] {
            if let Some(out) = self.wide_row(row, wide) {
                out.fill(value);
            }
        }
        self.fill_but_affine(row, value, best);
    }

    /// The same, but for the outputs that are made of the row's exponentials.
    pub(crate) fn fill_but_affine(&mut self, row: usize, value: f32, best: usize) {
        if let Some(out) = self.wide_row(row, Wide::LogProbabilities) {
            out.fill(value);
        }
        self.request.fill_narrow(row, value, best);
    }
}

/// Upstream gradients on their way back through a softmax.
pub(crate) struct Backward<'a> {
    pub(crate) output: backward::Output,
    /// What the softmax, or its logarithm, was.
    pub(crate) y: Matrix<'a>,
    pub(crate) upstream: Upstream<'a>,
}

/// The upstream gradient, and where the gradient of the logits goes.
pub(crate) enum Upstream<'a> {
    Keep(Matrix<'a>, MatrixMut<'a>),
    Overwrite(MatrixMut<'a>),
}

impl Backward<'_> {
    pub(crate) fn classes(&self) -> usize {
        self.y.cols()
    }
}

impl SplitRows for Backward<'_> {
    fn rows(&self) -> usize {
        self.y.rows()
    }

    fn split_at(self, rows: usize) -> (Self, Self) {
        let (y, y_rest) = self.y.split_at(rows);
        let (upstream, upstream_rest) = match self.upstream {
            Upstream::Keep(g, dx) => {
                let ((g, g_rest), (dx, dx_rest)) = (g.split_at(rows), dx.split_at(rows));
                (Upstream::Keep(g, dx), Upstream::Keep(g_rest, dx_rest))
            }
            Upstream::Overwrite(g) => {
                let (g, g_rest) = g.split_at(rows);
                (Upstream::Overwrite(g), Upstream::Overwrite(g_rest))
            }
        };
        let output = self.output;
        (Self { output, y, upstream }, Self { output, y: y_rest, upstream: upstream_rest })
    }
}

impl Task for Backward<'_> {
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
