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

use super::gaps::Gaps;
use super::lanes::{CoefficientLanes, NO_CLASS, RowLanes};
use super::place::RowsOf;
use super::side_by_side;
use crate::simd::{LANES, Simd, Task};

/// Rows of up to so many classes are taken this way. From about 90 on, transposing costs more than reducing each row.
pub(crate) const MOST: usize = 80;

/// A transposed tile: for each class, one vector of 16 rows. Logits at first, then their exponentials.
pub(crate) struct Tile {
    columns: [[f32; LANES]; MOST],
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

impl Tile {
    pub(crate) fn new() -> Self {
        Self { columns: [[0.0; LANES]; MOST] }
    }
}

impl<T> RowsOf<T> {
    /// Whether four columns of 16 rows can be read from the memory itself.
    #[inline(always)]
    fn is_whole(&self) -> bool {
        self.count == LANES && self.classes >= 4
    }

    /// Where to take four columns at a time. The last four may overlap those before.
    #[inline(always)]
    fn quads(&self) -> impl Iterator<Item = usize> + use<T> {
        let last = self.classes.max(4) - 4;
        (0..self.classes).step_by(4).map(move |column| column.min(last))
    }
}

impl Task for StatisticsTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { tile, logits, gaps, rows } = self;
        let classes = logits.classes;
        tile.load(s, &logits);
        let vectors = &mut tile.columns[..classes];
        side_by_side::take_targets(vectors, 0, rows);
        let reference = side_by_side::maximum(s, vectors, 0, rows);
        side_by_side::gaps(s, vectors, 0, gaps, reference, rows);
        side_by_side::exponentials(s, vectors, gaps, reference, rows);
    }
}

impl Tile {
    #[inline(always)]
    fn load<S: Simd>(&mut self, s: S, logits: &RowsOf<&[f32]>) {
        if logits.is_whole() {
            for column in logits.quads() {
                self.set_quad(s, column, s.load_columns(logits.data, logits.row_stride, column));
            }
        } else if logits.classes < 4 {
            for class in 0..logits.classes {
                for row in 0..logits.count {
                    self.columns[class][row] = logits.data[row * logits.row_stride + class];
                }
            }
        } else {
            let mut whole = [[0.0; MOST]; LANES];
            for row in 0..logits.count {
                let x = &logits.data[row * logits.row_stride..][..logits.classes];
                whole[row][..logits.classes].copy_from_slice(x);
            }
            for column in logits.quads() {
                self.set_quad(s, column, s.load_columns(whole.as_flattened(), MOST, column));
            }
        }
    }

    #[inline(always)]
    fn set_quad<S: Simd>(&mut self, s: S, column: usize, quad: [S::F32; 4]) {
        let columns = &mut self.columns[column..column + 4];
        for i in 0..4 {
            s.store(quad[i], &mut columns[i]);
        }
    }
}

impl Task for AffineTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { tile, to, adds, gaps, coefficients, rows } = self;
        if adds {
            return tile.add(s, to, gaps, coefficients, rows);
        }
        if to.is_whole() {
            for column in to.quads() {
                let quad = tile.quad(s, column, gaps, coefficients);
                s.store_columns(quad, to.data, to.row_stride, column);
            }
        } else if to.classes < 4 {
            let quad = tile.quad(s, 0, gaps, coefficients);
            let mut columns = [[0.0; LANES]; 4];
            for class in 0..to.classes {
                s.store(quad[class], &mut columns[class]);
            }
            for class in 0..to.classes {
                for row in 0..to.count {
                    to.data[row * to.row_stride + class] = columns[class][row];
                }
            }
        } else {
            let mut whole = [[0.0; MOST]; LANES];
            for column in to.quads() {
                let quad = tile.quad(s, column, gaps, coefficients);
                s.store_columns(quad, whole.as_flattened_mut(), MOST, column);
            }
            for row in 0..to.count {
                let out = &mut to.data[row * to.row_stride..][..to.classes];
                out.copy_from_slice(&whole[row][..to.classes]);
            }
        }
        for row in 0..to.count {
            let class = rows.class[row];
            if class != NO_CLASS {
                to.data[row * to.row_stride + class] = coefficients.at_target[row];
            }
        }
    }
}

impl Tile {
    /// Adds the function to what is there.
    #[inline(always)]
    fn add<S: Simd>(
        &self,
        s: S,
        to: RowsOf<&mut [f32]>,
        gaps: Gaps<'_>,
        coefficients: &CoefficientLanes,
        rows: &RowLanes,
    ) {
        let mut whole = [[0.0; MOST]; LANES];
        for column in to.quads() {
            let quad = self.quad(s, column, gaps, coefficients);
            s.store_columns(quad, whole.as_flattened_mut(), MOST, column);
        }
        for row in (0..to.count).filter(|&row| rows.counts[row]) {
            whole[row][rows.class[row]] = coefficients.at_target[row];
            let out = &mut to.data[row * to.row_stride..][..to.classes];
            for (out, gradient) in out.iter_mut().zip(&whole[row]) {
                let sum = *out + gradient;
                *out = if sum.abs() < f32::MIN_POSITIVE { 0.0 } else { sum };
            }
        }
    }

    /// The function of four classes.
    #[inline(always)]
    fn quad<S: Simd>(
        &self,
        s: S,
        column: usize,
        gaps: Gaps<'_>,
        coefficients: &CoefficientLanes,
    ) -> [S::F32; 4] {
        let exps = &self.columns[column..column + 4];
        let mut quad = [s.load(&exps[0]), s.load(&exps[1]), s.load(&exps[2]), s.load(&exps[3])];
        for i in 0..4 {
            quad[i] = side_by_side::affine(s, quad[i], column + i, gaps, coefficients);
        }
        quad
    }
}
