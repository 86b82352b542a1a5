//! Rows on their way to a kernel: logits, targets and outputs, all checked, which can be split between threads.

mod backward;
mod kept;

pub(crate) use backward::{Backward, Upstream};

use core::ops::Range;

use crate::grad::OtherGrad;
use crate::kernel::Entry;
use crate::kernel::lanes::{NO_CLASS, RowLanes};
use crate::kernel::number::Number;
use crate::kernel::place::{Columns, RowsOf};
use crate::kernel::real::Real;
use crate::parallel::SplitRows;
use crate::request::Request;
use crate::row_inputs::RowInputs;
use crate::rows::{Dtype, Job};
use crate::simd::LANES;
use crate::targets::Targets;
use crate::{Element, Matrix, MatrixMut};

/// An output as wide as the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wide {
    Gradient,
    Probabilities,
    LogProbabilities,
}

/// The logits, and the output that overwrites them, if one does.
pub(crate) enum Logits<'a, T = f32> {
    Keep(Matrix<'a, T>),
    Overwrite(MatrixMut<'a, T>, Wide),
}

pub(crate) struct Batch<'a, T: Element = f32> {
    pub(crate) logits: Logits<'a, T>,
    /// Without targets there is only the softmax.
    pub(crate) targets: Option<Targets<'a>>,
    /// In the place of targets.
    pub(crate) target_probabilities: Option<Matrix<'a, T::PerRow>>,
    pub(crate) request: Request<'a, T>,
}

impl<T: Copy> Logits<'_, T> {
    pub(crate) fn as_matrix(&self) -> Matrix<'_, T> {
        match self {
            Self::Keep(matrix) => *matrix,
            Self::Overwrite(matrix, _) => matrix.as_matrix(),
        }
    }

    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &[T] {
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

impl<T: Element> SplitRows for Batch<'_, T> {
    fn rows(&self) -> usize {
        self.logits.as_matrix().rows()
    }

    fn split_at(self, rows: usize) -> (Self, Self) {
        let (logits, logits_rest) = self.logits.split_at(rows);
        let (targets, targets_rest) = self.targets.map(|targets| targets.split_at(rows)).unzip();
        let (target_probabilities, target_probabilities_rest) =
            self.target_probabilities.map(|matrix| matrix.split_at(rows)).unzip();
        let (request, request_rest) = self.request.split_at(rows);
        (
            Self { logits, targets, target_probabilities, request },
            Self {
                logits: logits_rest,
                targets: targets_rest,
                target_probabilities: target_probabilities_rest,
                request: request_rest,
            },
        )
    }
}

impl<T: Element> Batch<'_, T> {
    pub(crate) fn classes(&self) -> usize {
        self.logits.as_matrix().cols()
    }

    /// Whether there is a loss, and not the softmax alone.
    pub(crate) fn has_targets(&self) -> bool {
        self.targets.is_some() || self.target_probabilities.is_some()
    }

    /// The target's probabilities of a row.
    pub(crate) fn distribution(&self, row: usize) -> &[T::PerRow] {
        self.target_probabilities.and_then(|matrix| matrix.row(row)).unwrap_or_default()
    }

    /// Bytes of logits and wide outputs, where there is an output.
    pub(crate) fn bytes_with_outputs(&self) -> usize {
        let outputs = [Wide::Gradient, Wide::Probabilities, Wide::LogProbabilities];
        let count = outputs.iter().filter(|&&wide| self.request.wide(wide).is_some()).count();
        let elements = self.rows().saturating_mul(self.logits.as_matrix().row_stride());
        let of_other = self.request.other_grad().map_or(0, OtherGrad::bytes);
        let in_place = matches!(self.logits, Logits::Overwrite(..));
        let matrices = if count == 0 && of_other == 0 && !in_place { 0 } else { count + 1 };
        elements.saturating_mul(size_of::<T>()).saturating_mul(matrices).saturating_add(of_other)
    }
}

impl<'a, T: Element> Batch<'a, T> {
    /// How many numbers of later rows follow a row in memory.
    pub(crate) fn following(&self, row: usize) -> usize {
        let (rest, _) = self.logits.as_matrix().rows_from(row);
        rest.len().saturating_sub(self.classes())
    }

    /// What the rows of a tile bring along.
    pub(crate) fn look_up(&self, tile: Range<usize>, job: &Job<'_>, lanes: &mut RowLanes<T::PerRow>) {
        if self.target_probabilities.is_some() {
            lanes.len = tile.len();
            lanes.counts[..tile.len()].fill(true);
            lanes.factor = [job.factor; LANES];
            lanes.z_factor = [job.z_factor; LANES];
            lanes.class = [NO_CLASS; LANES];
            lanes.own = [0.0; LANES];
            for (lane, row) in tile.clone().enumerate() {
                lanes.counts[lane] = self.request.inputs.may_count(row);
            }
            return self.request.inputs.look_up(tile, lanes);
        }
        look_up(self.targets, &self.request.inputs, self.classes(), tile, job, lanes);
    }

    #[inline(always)]
    pub(crate) fn overwrites(&self, wide: Wide) -> bool {
        matches!(&self.logits, Logits::Overwrite(_, overwrite) if *overwrite == wide)
    }

    #[inline(always)]
    pub(crate) fn writes(&self, wide: Wide) -> bool {
        self.overwrites(wide) || self.request.writes(wide)
    }

    /// Whether an output is added to what is there.
    #[inline(always)]
    pub(crate) fn adds(&self, wide: Wide) -> bool {
        wide == Wide::Gradient && self.request.accumulates
    }

    /// The output that can keep the exponentials: the only one that is made of them, unless it would overwrite logits
    /// that are needed once more, or what is to be added to.
    pub(crate) fn keeps_exponentials(&self) -> Option<Wide> {
        let wide = match (self.writes(Wide::Gradient), self.writes(Wide::Probabilities)) {
            (true, false) => Wide::Gradient,
            (false, true) => Wide::Probabilities,
            _ => return None,
        };
        let needs_logits = self.overwrites(wide) && self.reads_logits_again();
        (!needs_logits && !self.adds(wide)).then_some(wide)
    }

    /// Whether some output is made of the logarithm of their sum.
    #[inline(always)]
    pub(crate) fn writes_lse(&self) -> bool {
        self.request.row_outputs.lse.is_some() || self.writes(Wide::LogProbabilities)
    }

    /// Whether some output needs another look at the row than loss and affine outputs do.
    #[inline(always)]
    pub(crate) fn reads_logits_again(&self) -> bool {
        self.request.row_outputs.read_logits_again() || self.writes(Wide::LogProbabilities)
    }

    /// Where the pass that writes `wide` reads and writes, if it was asked for.
    #[inline(always)]
    pub(crate) fn columns(&mut self, row: usize, wide: Wide, streaming: bool) -> Option<Columns<'_, T>> {
        if self.overwrites(wide) {
            return self.wide_row(row, wide).map(Columns::InPlace);
        }
        let adds = self.adds(wide);
        let from = self.logits.row(row);
        let to = self.request.wide_mut(wide)?.row_mut(row)?;
        if adds {
            return Some(Columns::Adding(from, to));
        }
        Some(if streaming { Columns::Streaming(from, to) } else { Columns::Between(from, to) })
    }

    /// A row of `wide`, if it was asked for.
    #[inline(always)]
    pub(crate) fn wide_row(&mut self, row: usize, wide: Wide) -> Option<&mut [T]> {
        match &mut self.logits {
            Logits::Overwrite(matrix, overwrite) if *overwrite == wide => matrix.row_mut(row),
            _ => self.request.wide_mut(wide)?.row_mut(row),
        }
    }

    /// The gradient of another dtype, if that is what `wide` is, and the logits of a row.
    pub(crate) fn other_grad(&mut self, row: usize, wide: Wide) -> Option<(&mut OtherGrad<'a>, &[T])> {
        let grad = self.request.other_grad_mut().filter(|_| wide == Wide::Gradient)?;
        Some((grad, self.logits.row(row)))
    }

    /// The logits of a tile.
    pub(crate) fn rows_of_logits(&self, tile: Range<usize>) -> RowsOf<&[T]> {
        let (data, row_stride) = self.logits.as_matrix().rows_from(tile.start);
        RowsOf { data, row_stride, classes: self.classes(), count: tile.len() }
    }

    /// Nothing where targets are classes.
    pub(crate) fn rows_of_target_probabilities(&self, tile: Range<usize>) -> RowsOf<&[T::PerRow]> {
        let (data, row_stride) =
            self.target_probabilities.map_or((&[][..], 0), |matrix| matrix.rows_from(tile.start));
        RowsOf { data, row_stride, classes: self.classes(), count: tile.len() }
    }

    /// A tile of `wide`, if it was asked for.
    pub(crate) fn rows_of(&mut self, wide: Wide, tile: Range<usize>) -> Option<RowsOf<&mut [T]>> {
        let (classes, count) = (self.classes(), tile.len());
        let (data, row_stride) = match &mut self.logits {
            Logits::Overwrite(matrix, overwrite) if *overwrite == wide => matrix.rows_from_mut(tile.start),
            _ => self.request.wide_mut(wide)?.rows_from_mut(tile.start),
        };
        Some(RowsOf { data, row_stride, classes, count })
    }
}

impl<T: Element + Number> Batch<'_, T> {
    /// The pivot of a row with this class.
    pub(crate) fn pivot(&self, row: usize, class: usize) -> Entry {
        if class == NO_CLASS { Entry::NONE } else { Entry::new(class, self.logits.row(row)[class].to_f32()) }
    }
}

impl<T: Dtype> Batch<'_, T> {
    /// One value in all of a row of an output.
    pub(crate) fn fill(&mut self, row: usize, wide: Wide, value: f32) {
        if let Some((grad, _)) = self.other_grad(row, wide) {
            grad.fill(row, value);
        } else if let Some(out) = self.wide_row(row, wide) {
            out.fill(T::from_real(value.into()));
        }
    }

    /// One value in all outputs of a row but those that are made of its exponentials, and `best` for its argmax.
    pub(crate) fn fill_but_affine(&mut self, row: usize, value: f32, best: usize) {
        self.fill(row, Wide::LogProbabilities, value);
        self.request.row_outputs.fill(row, value, best);
    }
}

/// What rows bring along, with targets or without.
pub(crate) fn look_up<R: Real>(
    targets: Option<Targets<'_>>,
    inputs: &RowInputs<'_, R>,
    classes: usize,
    tile: Range<usize>,
    job: &Job<'_>,
    lanes: &mut RowLanes<R>,
) {
    let options = job.options;
    lanes.len = tile.len();
    lanes.counts[..tile.len()].fill(true);
    lanes.factor = [job.factor; LANES];
    lanes.z_factor = [job.z_factor; LANES];
    let Some(targets) = targets else { return };
    targets.look_up(tile.clone(), &options.ignore_indices, &mut lanes.class);
    inputs.mask(tile.clone(), &mut lanes.class);
    for lane in 0..LANES {
        lanes.counts[lane] = lanes.class[lane] != NO_CLASS;
    }
    lanes.own[..tile.len()].fill(1.0);
    lanes.weight[..tile.len()].fill(classes.saturating_sub(1) as f64);
    if options.weight.is_some() {
        for lane in 0..LANES {
            let class = lanes.class[lane];
            if class != NO_CLASS {
                lanes.own[lane] = options.weight_of(class);
                lanes.weight[lane] = options.weight_of_others(class, classes);
            }
        }
    }
    inputs.look_up(tile, lanes);
}
