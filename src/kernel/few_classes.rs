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

use super::exp;
use super::gaps::{Gaps, half_gap, live_only};
use super::lanes::{CoefficientLanes, NO_CLASS, RowLanes};
use super::place::RowsOf;
use super::statistics::{exp_of_group, sum_of_four};
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
        for lane in 0..LANES {
            let class = rows.class[lane];
            if class != NO_CLASS {
                rows.target_logit[lane] = tile.columns[class][lane];
                tile.columns[class][lane] = f32::NEG_INFINITY;
            }
        }

        let max = tile.max(s, classes);
        s.store(max, &mut rows.max);
        rows.contender = rows.target_logit;
        let mut ties = 0;
        for lane in 0..LANES {
            ties += u32::from(rows.max[lane] == rows.target_logit[lane]);
        }
        if ties > 0 {
            tile.find_earlier_equals(rows);
        }
        // Any finite number will do where all logits are -inf.
        let reference = s.max(s.splat(f32::MIN), max);
        if gaps.is_live() {
            tile.live_gaps(s, classes, gaps, reference, rows);
            return tile.exponentials::<S, true>(s, classes, reference, rows);
        }
        if !matches!(gaps, Gaps::None) {
            tile.gaps(s, classes, gaps, reference, rows);
        }
        tile.exponentials::<S, false>(s, classes, reference, rows);
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

    #[inline(always)]
    fn max<S: Simd>(&self, s: S, classes: usize) -> S::F32 {
        let (groups, rest) = self.columns[..classes].as_chunks::<4>();
        let mut max = [s.splat(f32::NEG_INFINITY); 4];
        for group in groups {
            for i in 0..4 {
                max[i] = s.max(max[i], s.load(&group[i]));
            }
        }
        for x in rest {
            max[0] = s.max(max[0], s.load(x));
        }
        s.max(s.max(max[0], max[1]), s.max(max[2], max[3]))
    }

    #[inline(always)]
    fn find_earlier_equals(&self, rows: &mut RowLanes) {
        for lane in 0..LANES {
            if rows.class[lane] != NO_CLASS
                && self.columns[..rows.class[lane]].iter().any(|x| x[lane] == rows.target_logit[lane])
            {
                rows.contender[lane] = f32::NEG_INFINITY;
            }
        }
    }

    /// Puts the exponentials in the place of the logits; if `MARKS`, NaN for those of -inf.
    #[inline(always)]
    fn exponentials<S: Simd, const MARKS: bool>(
        &mut self,
        s: S,
        classes: usize,
        reference: S::F32,
        rows: &mut RowLanes,
    ) {
        let mut sums = s.zero_sums();
        let (groups, rest) = self.columns[..classes].as_chunks_mut::<4>();
        for group in groups {
            let x = [s.load(&group[0]), s.load(&group[1]), s.load(&group[2]), s.load(&group[3])];
            let e = exp_of_group(s, x, reference);
            sums = s.accumulate(sums, sum_of_four(s, e));
            for i in 0..4 {
                s.store(if MARKS { s.add(e[i], s.mul(x[i], s.splat(0.0))) } else { e[i] }, &mut group[i]);
            }
        }
        for to in rest {
            let x = s.load(to);
            let e = exp::exp(s, s.sub(x, reference));
            sums = s.accumulate(sums, e);
            s.store(if MARKS { s.add(e, s.mul(x, s.splat(0.0))) } else { e }, to);
        }
        s.store_sums(sums, &mut rows.sum);
        for lane in 0..LANES {
            let is_empty = (rows.max[lane] == f32::NEG_INFINITY) & !rows.sum[lane].is_nan();
            rows.sum[lane] = if is_empty { 0.0 } else { rows.sum[lane] };
        }
    }

    /// The weighted gaps below the maximum, the targets' own left out.
    #[inline(always)]
    fn gaps<S: Simd>(
        &mut self,
        s: S,
        classes: usize,
        gaps: Gaps<'_>,
        reference: S::F32,
        rows: &mut RowLanes,
    ) {
        let mut no_gap = [0.0; LANES];
        s.store(reference, &mut no_gap);
        self.set_targets(rows, &no_gap);
        let mut sums = s.zero_sums();
        for (class, x) in self.columns[..classes].iter().enumerate() {
            sums = s.accumulate(sums, half_gap(s, s.load(x), reference, s.splat(gaps.weight(class))));
        }
        s.store_sums(sums, &mut rows.gap);
        for gap in &mut rows.gap {
            *gap *= 2.0;
        }
        self.set_targets(rows, &[f32::NEG_INFINITY; LANES]);
    }

    /// The same of the logits above -inf, and what they weigh. The targets' are -inf.
    #[inline(always)]
    fn live_gaps<S: Simd>(
        &self,
        s: S,
        classes: usize,
        gaps: Gaps<'_>,
        reference: S::F32,
        rows: &mut RowLanes,
    ) {
        let mut sums = [s.zero_sums(); 3];
        for (class, x) in self.columns[..classes].iter().enumerate() {
            let x = s.load(x);
            let weights = live_only(s, x, s.splat(gaps.weight(class)));
            let finite = s.max(s.splat(f32::MIN), x);
            sums[0] = s.accumulate(sums[0], half_gap(s, finite, reference, weights));
            sums[1] = s.accumulate(sums[1], weights);
            sums[2] = s.accumulate(sums[2], live_only(s, x, s.splat(1.0)));
        }
        s.store_sums(sums[0], &mut rows.gap);
        s.store_sums(sums[1], &mut rows.weight);
        s.store_sums(sums[2], &mut rows.live);
        for gap in &mut rows.gap {
            *gap *= 2.0;
        }
    }

    #[inline(always)]
    fn set_targets(&mut self, rows: &RowLanes, values: &[f32; LANES]) {
        for lane in 0..LANES {
            if rows.class[lane] != NO_CLASS {
                self.columns[rows.class[lane]][lane] = values[lane];
            }
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
        let (scale, least) = (s.load(&coefficients.scale), s.load(&coefficients.least));
        let exps = &self.columns[column..column + 4];
        let mut quad = [scale; 4];
        for i in 0..4 {
            quad[i] = s.mul_at_least(s.load(&exps[i]), scale, least);
            if !matches!(gaps, Gaps::None) {
                let shift = s.mul(s.splat(gaps.weight(column + i)), s.load(&coefficients.shift));
                quad[i] = s.zero_below(s.sub(quad[i], shift), s.splat(f32::MIN_POSITIVE));
                if gaps.is_live() {
                    // Those of -inf are marked by NaN.
                    quad[i] = live_only(s, s.load(&exps[i]), quad[i]);
                }
            }
        }
        quad
    }
}
