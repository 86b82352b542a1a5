//! Rows of few classes: 16 rows side by side, one lane each.
//!
//! A row of ten logits would fill 10 lanes of 16, once, and then wait for reductions across lanes. So 16 rows are
//! transposed into one vector for each class, and every step of the row algorithm is done for all of them at once:
//!
//! ```text
//! transpose       rows -> a vector for each class           4 x 4 blocks, in registers
//! targets         kept apart, -inf in their place
//! maximum         over the classes' vectors
//! exponentials    in the place of the logits; their sums four at a time, then in f64 lanes
//! scale           and back through the transposition
//! ```
//!
//! Few rows take less time without all this, and the same bits come of it: see `few_rows.rs`.

use super::gaps::Gaps;
use super::lanes::RowLanes;
use super::place::RowsOf;
use super::results::CoefficientLanes;
use super::{few_rows, side_by_side};
use crate::simd::{LANES, Simd, Task};

/// Rows of up to so many classes are taken this way. Of more, transposing costs more than reducing each row: from about 90
/// to 110 classes on, depending on the CPU.
pub(crate) const MOST: usize = 95;

/// A transposed tile: for each class, one vector of 16 rows. Logits at first, then their exponentials.
pub(crate) struct Tile {
    pub(super) columns: [[f32; LANES]; MOST],
    /// Whether these are rows, one behind the other: see `few_rows.rs`.
    holds_rows: bool,
}

/// The statistics of a tile's rows.
pub(crate) struct StatisticsTask<'a> {
    pub(crate) tile: &'a mut Tile,
    pub(crate) logits: RowsOf<&'a [f32]>,
    pub(crate) gaps: Gaps<'a>,
    pub(crate) rows: &'a mut RowLanes,
}

/// An affine function of a tile's exponentials, and the targets' own values.
pub(crate) struct AffineTask<'a> {
    pub(crate) tile: &'a Tile,
    pub(crate) to: RowsOf<&'a mut [f32]>,
    /// Whether it is added to what is there, in the rows that count.
    pub(crate) adds: bool,
    pub(crate) gaps: Gaps<'a>,
    pub(crate) coefficients: &'a CoefficientLanes,
    pub(crate) rows: &'a RowLanes,
}

/// An output of a tile. Not a closure, which may not become part of the code around it.
pub(super) trait Transposed<S: Simd> {
    /// A class, one lane for each row.
    fn column(&self, s: S, class: usize) -> S::F32;

    /// Four classes.
    #[inline(always)]
    fn quad(&self, s: S, column: usize) -> [S::F32; 4] {
        let mut quad = [s.splat(0.0); 4];
        for i in 0..4 {
            quad[i] = self.column(s, column + i);
        }
        quad
    }
}

impl Tile {
    pub(crate) fn new() -> Self {
        Self { columns: [[0.0; LANES]; MOST], holds_rows: false }
    }
}

impl<T> RowsOf<T> {
    /// Where to take four columns at a time. The last four may overlap those before.
    #[inline(always)]
    fn quads(&self) -> impl Iterator<Item = usize> + use<T> {
        let last = self.classes.max(4) - 4;
        (0..self.classes).step_by(4).map(move |column| column.min(last))
    }
}

impl RowsOf<&[f32]> {
    /// Whether four columns of 16 rows can be read where they are. Where a row has fewer, some of the next go along.
    #[inline(always)]
    fn is_readable(&self) -> bool {
        self.count == LANES && (LANES - 1) * self.row_stride + self.classes.max(4) <= self.data.len()
    }
}

impl RowsOf<&mut [f32]> {
    /// Whether four columns of 16 rows can be written where they are.
    #[inline(always)]
    fn is_writable(&self) -> bool {
        self.count == LANES && self.classes >= 4
    }

    /// Writes an output, transposed.
    #[inline(always)]
    pub(super) fn write<S: Simd>(self, s: S, output: &impl Transposed<S>) {
        let to = self;
        if to.is_writable() {
            for column in to.quads() {
                s.store_columns(output.quad(s, column), to.data, to.row_stride, column);
            }
        } else if to.classes >= 4 {
            let mut rows = [[0.0; 4]; LANES];
            for column in to.quads() {
                s.store_columns(output.quad(s, column), rows.as_flattened_mut(), 4, 0);
                for row in 0..to.count {
                    to.data[row * to.row_stride + column..][..4].copy_from_slice(&rows[row]);
                }
            }
        } else {
            for class in 0..to.classes {
                let mut column = [0.0; LANES];
                s.store(output.column(s, class), &mut column);
                for row in 0..to.count {
                    to.data[row * to.row_stride + class] = column[row];
                }
            }
        }
    }
}

/// Which classes the targets of 16 rows are, and a number of each.
#[derive(Clone, Copy)]
pub(super) struct TargetLanes<S: Simd> {
    /// As numbers, which are exact, and equal no class where a row has none.
    classes: S::F32,
    values: S::F32,
}

impl<S: Simd> TargetLanes<S> {
    #[inline(always)]
    pub(super) fn of_nobody(s: S) -> Self {
        Self { classes: s.splat(-1.0), values: s.splat(f32::NEG_INFINITY) }
    }

    #[inline(always)]
    pub(super) fn new(s: S, rows: &RowLanes, values: &[f32; LANES]) -> Self {
        let mut classes = [0.0; LANES];
        for lane in 0..LANES {
            // -1 for `NO_CLASS`. Conversions from 32 bits are vectors everywhere.
            classes[lane] = rows.class[lane] as i32 as f32;
        }
        Self { classes: s.load(&classes), values: s.load(values) }
    }

    /// Keeps the logits of rows whose target this class is, and puts -inf in their place.
    #[inline(always)]
    fn take(&mut self, s: S, class: usize, x: S::F32) -> S::F32 {
        let class = s.splat(class as f32);
        self.values = s.select_equal(self.classes, class, x, self.values);
        s.select_equal(self.classes, class, s.splat(f32::NEG_INFINITY), x)
    }

    /// Puts the values of rows whose target this class is in its place.
    #[inline(always)]
    pub(super) fn put(&self, s: S, class: usize, x: S::F32) -> S::F32 {
        s.select_equal(self.classes, s.splat(class as f32), self.values, x)
    }
}

impl Task for StatisticsTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.tile.holds_rows = self.logits.count <= few_rows::most(self.logits.classes);
        if self.tile.holds_rows {
            return s.vectorize(few_rows::RowsTask(self));
        }
        let Self { tile, logits, gaps, rows } = self;
        let classes = logits.classes;
        let mut targets = TargetLanes::new(s, rows, &[f32::NEG_INFINITY; LANES]);
        tile.load(s, &logits, &mut targets);
        s.store(targets.values, &mut rows.target_logit);
        s.store(targets.values, &mut rows.contender);
        let vectors = &mut tile.columns[..classes];
        let reference = side_by_side::maximum(s, vectors, 0, rows);
        side_by_side::gaps(s, vectors, 0, gaps, reference, rows);
        side_by_side::exponentials(s, vectors, gaps, reference, rows);
        // The lanes of an incomplete tile hold what no row is.
        if !rows.is_full() {
            rows.leave_out_ignored();
        }
    }
}

impl Tile {
    /// All logits but the targets', which `targets` takes.
    #[inline(always)]
    pub(super) fn load<S: Simd>(&mut self, s: S, logits: &RowsOf<&[f32]>, targets: &mut TargetLanes<S>) {
        if logits.is_readable() {
            for column in logits.quads() {
                let quad = s.load_columns(logits.data, logits.row_stride, column);
                self.set(s, column, quad, targets);
            }
        } else if logits.classes >= 4 {
            let mut rows = [[0.0; 4]; LANES];
            for column in logits.quads() {
                for row in 0..logits.count {
                    rows[row].copy_from_slice(&logits.data[row * logits.row_stride + column..][..4]);
                }
                let quad = s.load_columns(rows.as_flattened(), 4, 0);
                self.set(s, column, quad, targets);
            }
        } else {
            for row in 0..logits.count {
                let x = &logits.data[row * logits.row_stride..][..logits.classes];
                for class in 0..logits.classes {
                    self.columns[class][row] = x[class];
                }
            }
            for class in 0..logits.classes {
                let x = s.load(&self.columns[class]);
                s.store(targets.take(s, class, x), &mut self.columns[class]);
            }
        }
    }

    /// Four columns.
    #[inline(always)]
    fn set<S: Simd>(&mut self, s: S, column: usize, quad: [S::F32; 4], targets: &mut TargetLanes<S>) {
        let columns = &mut self.columns[column..column + 4];
        for i in 0..4 {
            s.store(targets.take(s, column + i, quad[i]), &mut columns[i]);
        }
    }
}

impl Task for AffineTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if self.tile.holds_rows {
            return s.vectorize(few_rows::AffineRowsTask(self));
        }
        if self.adds {
            return s.vectorize(AddTask(self));
        }
        let affine = Affine::new(s, &self);
        self.to.write(s, &affine);
    }
}

/// [`AffineTask`] where it adds: a function of its own, which alone takes the memory for it on the stack.
struct AddTask<'a>(AffineTask<'a>);

impl Task for AddTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(task) = self;
        Affine::new(s, &task).add(s, task.to, task.rows);
    }
}

/// Adds a gradient to what is there.
#[inline(always)]
pub(super) fn add_to_row(out: &mut [f32], gradient: &[f32]) {
    for (out, gradient) in out.iter_mut().zip(gradient) {
        let sum = *out + gradient;
        *out = if sum.abs() < f32::MIN_POSITIVE { 0.0 } else { sum };
    }
}

/// The function's columns.
struct Affine<'a, S: Simd> {
    tile: &'a Tile,
    gaps: Gaps<'a>,
    coefficients: &'a CoefficientLanes,
    targets: TargetLanes<S>,
}

impl<'a, S: Simd> Affine<'a, S> {
    #[inline(always)]
    fn new(s: S, task: &AffineTask<'a>) -> Self {
        let AffineTask { tile, gaps, coefficients, rows, .. } = *task;
        Self { tile, gaps, coefficients, targets: TargetLanes::new(s, rows, &coefficients.at_target) }
    }

    /// Adds the function to what is there.
    #[inline(always)]
    fn add(&self, s: S, to: RowsOf<&mut [f32]>, rows: &RowLanes) {
        let mut whole = [[0.0; MOST]; LANES];
        for column in to.quads() {
            s.store_columns(self.quad(s, column), whole.as_flattened_mut(), MOST, column);
        }
        for row in (0..to.count).filter(|&row| rows.counts[row]) {
            add_to_row(&mut to.data[row * to.row_stride..][..to.classes], &whole[row]);
        }
    }
}

impl<S: Simd> Transposed<S> for Affine<'_, S> {
    #[inline(always)]
    fn column(&self, s: S, class: usize) -> S::F32 {
        let exps = s.load(&self.tile.columns[class]);
        self.targets.put(s, class, side_by_side::affine(s, exps, class, self.gaps, self.coefficients))
    }
}
