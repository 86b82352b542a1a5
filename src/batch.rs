//! Rows on their way to a kernel: logits, targets and outputs, all checked, which can be split between threads.

use core::ops::Range;

use crate::kernel::lanes::{NO_CLASS, RowLanes};
use crate::kernel::number::Number;
use crate::kernel::place::{Columns, RowsOf};
use crate::kernel::short_rows;
use crate::kernel::{Entry, backward};
use crate::parallel::SplitRows;
use crate::request::Request;
use crate::row_inputs::RowInputs;
use crate::rows::Job;
use crate::simd::{LANES, Simd, Task};
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
    pub(crate) target_probabilities: Option<Matrix<'a>>,
    pub(crate) request: Request<'a, T>,
}

/// Where a row's exponentials are kept and what becomes of them goes; and the next row's logits, and where its
/// exponentials are kept.
pub(crate) struct OverlappedRows<'a> {
    pub(crate) exps: &'a [f32],
    pub(crate) out: &'a mut [f32],
    pub(crate) logits: &'a [f32],
    pub(crate) kept: &'a mut [f32],
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
    pub(crate) fn distribution(&self, row: usize) -> &[f32] {
        self.target_probabilities.and_then(|matrix| matrix.row(row)).unwrap_or_default()
    }

    /// Bytes of logits and wide outputs that a call moves through other memory than the logits' own.
    pub(crate) fn bytes_out_of_place(&self) -> usize {
        let outputs = [Wide::Gradient, Wide::Probabilities, Wide::LogProbabilities];
        let count = outputs.iter().filter(|&&wide| self.request.wide(wide).is_some()).count();
        let elements = self.rows().saturating_mul(self.logits.as_matrix().row_stride());
        elements.saturating_mul(size_of::<T>()).saturating_mul(if count == 0 { 0 } else { count + 1 })
    }
}

impl<T: Element + Number> Batch<'_, T> {
    /// How many numbers of later rows follow a row in memory.
    pub(crate) fn following(&self, row: usize) -> usize {
        let (rest, _) = self.logits.as_matrix().rows_from(row);
        rest.len().saturating_sub(self.classes())
    }

    /// What the rows of a tile bring along.
    pub(crate) fn look_up(&self, tile: Range<usize>, job: &Job<'_>, lanes: &mut RowLanes) {
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
        self.overwrites(wide) || self.request.wide(wide).is_some()
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

    /// The logits of a tile.
    pub(crate) fn rows_of_logits(&self, tile: Range<usize>) -> RowsOf<&[T]> {
        let (data, row_stride) = self.logits.as_matrix().rows_from(tile.start);
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

    /// The pivot of a row with this class.
    pub(crate) fn pivot(&self, row: usize, class: usize) -> Entry {
        if class == NO_CLASS { Entry::NONE } else { Entry::new(class, self.logits.row(row)[class].to_f32()) }
    }

    /// One value in all outputs of a row but those that are made of its exponentials, and `best` for its argmax.
    pub(crate) fn fill_but_affine(&mut self, row: usize, value: f32, best: usize) {
        if let Some(out) = self.wide_row(row, Wide::LogProbabilities) {
            out.fill(T::from_f32(value));
        }
        self.request.row_outputs.fill(row, value, best);
    }
}

/// Exponentials are kept in memory of `f32`.
impl Batch<'_> {
    /// Where the first pass reads a row, and keeps its exponentials: in the row `kept` of `wide`.
    pub(crate) fn source(&mut self, row: usize, wide: Wide, kept: usize) -> Columns<'_> {
        if self.overwrites(wide) {
            return self.wide_row(row, wide).map_or(Columns::Read(&[]), Columns::InPlace);
        }
        let x = self.logits.row(row);
        match self.request.wide_mut(wide).and_then(|matrix| matrix.row_mut(kept)) {
            Some(exps) => Columns::Between(x, exps),
            None => Columns::Read(x),
        }
    }

    /// Where the second pass reads a row's exponentials, and writes.
    pub(crate) fn kept_columns(&mut self, row: usize, wide: Wide, kept: usize) -> Option<Columns<'_>> {
        if self.overwrites(wide) || kept == row {
            return self.wide_row(row, wide).map(Columns::InPlace);
        }
        let (to, from) = self.request.wide_mut(wide)?.row_and_later_row(row, kept)?;
        Some(Columns::Streaming(from, to))
    }

    /// [`Batch::source`] of a tile of short rows, which keeps exponentials so many rows further down.
    pub(crate) fn short_source(
        &mut self,
        tile: Range<usize>,
        keeps: Option<Wide>,
        further_down: usize,
    ) -> short_rows::Source<'_, f32> {
        let Some(wide) = keeps else { return short_rows::Source::Read(self.rows_of_logits(tile)) };
        if self.overwrites(wide) {
            return match self.rows_of(wide, tile) {
                Some(rows) => short_rows::Source::Overwrite(rows),
                None => short_rows::Source::Read(RowsOf { data: &[], row_stride: 0, classes: 0, count: 0 }),
            };
        }
        let (classes, count) = (self.classes(), tile.len());
        let (data, row_stride) = self.logits.as_matrix().rows_from(tile.start);
        let logits = RowsOf { data, row_stride, classes, count };
        match self.request.wide_mut(wide) {
            None => short_rows::Source::Read(logits),
            Some(matrix) => {
                let (data, row_stride) = matrix.rows_from_mut(tile.start);
                let rows = RowsOf { data, row_stride, classes, count };
                short_rows::Source::Keep(logits, short_rows::Kept { rows, further_down })
            }
        }
    }

    /// [`Batch::kept_columns`] of a tile of short rows.
    pub(crate) fn short_kept(
        &mut self,
        tile: Range<usize>,
        wide: Wide,
        further_down: usize,
    ) -> Option<short_rows::Kept<'_>> {
        let further_down = if self.overwrites(wide) { 0 } else { further_down };
        self.rows_of(wide, tile).map(|rows| short_rows::Kept { rows, further_down })
    }

    /// For the second pass over one row along with the first over the next. The rows of `wide` that keep their
    /// exponentials are further down than the first.
    pub(crate) fn overlapped_rows(
        &mut self,
        [row, next]: [usize; 2],
        wide: Wide,
        [kept_at, next_kept_at]: [usize; 2],
    ) -> Option<OverlappedRows<'_>> {
        let logits = self.logits.row(next);
        let later = [kept_at.min(next_kept_at), kept_at.max(next_kept_at)];
        let [out, first, last] = self.request.wide_mut(wide)?.row_and_later_rows(row, later)?;
        let (exps, kept) = if kept_at < next_kept_at { (first, last) } else { (last, first) };
        Some(OverlappedRows { exps, out, logits, kept })
    }
}

/// What rows bring along, with targets or without.
pub(crate) fn look_up<R: Copy + Into<f64>>(
    targets: Option<Targets<'_>>,
    inputs: &RowInputs<'_, R>,
    classes: usize,
    tile: Range<usize>,
    job: &Job<'_>,
    lanes: &mut RowLanes,
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

impl<T> Upstream<'_, T> {
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
