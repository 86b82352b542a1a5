//! Rows of few classes: 16 rows side by side, one lane each.
//!
//! A row of ten logits would fill 10 lanes of 16, once, and then wait for reductions across lanes and for a logarithm
//! of its own. So 16 rows are transposed into one vector for each class, and every step of the row algorithm, the
//! scalars' too, is done for all of them at once:
//!
//! ```text
//! transpose       rows -> a vector for each class           4 x 4 blocks, in registers
//! targets         kept apart, -inf in their place
//! maximum         over the classes' vectors
//! exponentials    kept; their sums four at a time, then in f64 lanes
//! scalars         loops over 16 rows, which the compiler makes vectors of
//! scale           and back through the transposition
//! ```

use super::exp;
use super::row::{Job, Passes, Totals, finish_row, nan_argmax};
use super::scalar;
use super::statistics::{Gaps, exp_of_group, half_gap, sum_of_four};
use crate::batch::{Batch, Wide};
use crate::loss::{CoefficientsLanes, SoftmaxLanes, StatisticsLanes};
use crate::parallel::SplitRows;
use crate::request::IGNORED;
use crate::simd::{LANES, Simd};

/// Rows of up to so many classes are taken this way.
pub(crate) const MOST: usize = 64;

/// 16 rows, class by class.
struct Tile<const CLASSES: usize> {
    logits: [[f32; LANES]; CLASSES],
    exps: [[f32; LANES]; CLASSES],
    /// The rows themselves, where the matrix has no 16 whole rows of at least four columns.
    rows: [[f32; CLASSES]; LANES],
}

/// All rows of a batch.
#[inline(always)]
pub(crate) fn run<S: Simd, P: Passes>(s: S, passes: &mut P, job: &Job<'_>, batch: Batch<'_>) -> Totals {
    // Clearing a tile for 64 classes costs as much as a tile of 4.
    if batch.classes() <= 16 {
        run_tiles::<_, _, 16>(s, passes, job, batch)
    } else {
        run_tiles::<_, _, MOST>(s, passes, job, batch)
    }
}

#[inline(always)]
fn run_tiles<S: Simd, P: Passes, const CLASSES: usize>(
    s: S,
    passes: &mut P,
    job: &Job<'_>,
    mut batch: Batch<'_>,
) -> Totals {
    let mut tile = Tile::<CLASSES> {
        logits: [[0.0; LANES]; CLASSES],
        exps: [[0.0; LANES]; CLASSES],
        rows: [[0.0; CLASSES]; LANES],
    };
    let mut totals = Totals::default();
    for first in (0..batch.rows()).step_by(LANES) {
        totals = totals.add(run_tile(s, passes, job, &mut batch, &mut tile, first));
    }
    totals
}

#[inline(always)]
fn run_tile<S: Simd, P: Passes, const CLASSES: usize>(
    s: S,
    passes: &mut P,
    job: &Job<'_>,
    batch: &mut Batch<'_>,
    tile: &mut Tile<CLASSES>,
    first: usize,
) -> Totals {
    let options = job.options;
    let classes = batch.classes();
    let count = (batch.rows() - first).min(LANES);
    tile.load(s, batch, first, count);

    let mut class = [None; LANES];
    let mut own = [0.0; LANES];
    let mut factor = [0.0; LANES];
    let mut statistics = StatisticsLanes::default();
    let mut target_logit = [f32::NEG_INFINITY; LANES];
    // Ignored rows, and those past the last, come out as zeros.
    let mut counts = [false; LANES];
    batch.classes_of(first, options, &mut class[..count]);
    for row in 0..count {
        counts[row] = class[row].is_some() || batch.targets.is_none();
        factor[row] = batch.factor(first + row, job.factor);
        if let Some(class) = class[row] {
            own[row] = options.weight_of(class);
            statistics.weight[row] = options.weight_of_others(class, classes);
            target_logit[row] = tile.logits[class][row];
            tile.logits[class][row] = f32::NEG_INFINITY;
        }
    }
    tile.exponentials(s, classes, &mut statistics);
    if batch.targets.is_some() {
        tile.gaps(s, classes, options.gaps(), &class, &mut statistics);
    }
    let softmax = SoftmaxLanes::new(&statistics, &target_logit);

    let mut totals = Totals::default();
    let mut is_nan = [false; LANES];
    let mut is_tied = [false; LANES];
    for row in 0..LANES {
        is_nan[row] = counts[row] & softmax.is_nan(row);
        is_tied[row] = counts[row] & (target_logit[row] == statistics.max[row]);
    }
    let mut loss = [0.0; LANES];
    if batch.targets.is_some() {
        for row in 0..LANES {
            let row_loss = job.terms.row_loss(&softmax.row(row), own[row]);
            loss[row] = if counts[row] { row_loss } else { 0.0 };
        }
    }
    if batch.writes_narrow() || is_tied.contains(&true) || is_nan.contains(&true) {
        for row in 0..count {
            let at = first + row;
            if counts[row] && !is_nan[row] {
                let finished = finish_row(passes, batch, at, class[row], &softmax.row(row), loss[row]);
                totals.correct += finished.correct;
            } else {
                let best = if counts[row] { nan_argmax(passes, batch, at) } else { IGNORED };
                batch.fill_but_affine(at, if counts[row] { f32::NAN } else { 0.0 }, best);
            }
        }
    } else {
        for row in 0..LANES {
            totals.correct += usize::from(counts[row] & (target_logit[row] > statistics.max[row]));
        }
        if let Some(losses) = &mut batch.request.losses {
            for (losses, loss) in losses[first..][..count].iter_mut().zip(&loss) {
                *losses = scalar::to_f32(*loss);
            }
        }
    }
    for half in [8, 4, 2, 1] {
        for row in 0..half {
            loss[row] += loss[row + half];
        }
    }
    totals.loss = loss[0];

    for wide in [Wide::Probabilities, Wide::Gradient] {
        if !batch.writes(wide) {
            continue;
        }
        let mut coefficients = CoefficientsLanes::default();
        if wide == Wide::Gradient {
            for row in 0..LANES {
                let found = job.terms.gradient(&softmax.row(row), own[row], factor[row]);
                coefficients.set_row(row, found.only_if(counts[row]));
            }
        } else {
            for row in 0..LANES {
                coefficients.set_row(row, softmax.row(row).probabilities().only_if(counts[row]));
            }
        }
        let gaps = if wide == Wide::Gradient { options.gaps() } else { Gaps::None };
        tile.write(s, batch, wide, first, count, gaps, &coefficients);
        for row in 0..count {
            if let Some(out) = batch.wide_row(first + row, wide) {
                if is_nan[row] {
                    out.fill(f32::NAN);
                } else if let Some(class) = class[row] {
                    out[class] = coefficients.at_target[row];
                }
            }
        }
    }
    totals
}

impl<const CLASSES: usize> Tile<CLASSES> {
    #[inline(always)]
    fn load<S: Simd>(&mut self, s: S, batch: &Batch<'_>, first: usize, count: usize) {
        let classes = batch.classes();
        let (mut rows, mut row_stride) = batch.logits.as_matrix().rows_from(first);
        if count < LANES || classes < 4 {
            for row in 0..count {
                self.rows[row][..classes].copy_from_slice(batch.logits.row(first + row));
            }
            (rows, row_stride) = (self.rows.as_flattened(), CLASSES);
        }
        for column in (0..classes).step_by(4) {
            // The last four columns may overlap those before.
            let column = column.min(classes.max(4) - 4);
            let columns = s.load_columns(rows, row_stride, column);
            for i in 0..4 {
                s.store(columns[i], &mut self.logits[column + i]);
            }
        }
    }

    /// Leaves the exponentials in the tile, and their sums and what they are relative to in the statistics.
    #[inline(always)]
    fn exponentials<S: Simd>(&mut self, s: S, classes: usize, statistics: &mut StatisticsLanes) {
        let (groups, rest) = self.logits[..classes].as_chunks::<4>();
        let mut max = [s.splat(f32::NEG_INFINITY); 4];
        for group in groups {
            for i in 0..4 {
                max[i] = s.max(max[i], s.load(&group[i]));
            }
        }
        for x in rest {
            max[0] = s.max(max[0], s.load(x));
        }
        let max = s.max(s.max(max[0], max[1]), s.max(max[2], max[3]));
        // Any finite number will do where all logits are -inf.
        let reference = s.max(s.splat(f32::MIN), max);

        let mut sums = s.zero_sums();
        let (exps, rest_exps) = self.exps[..classes].as_chunks_mut::<4>();
        for (group, exps) in groups.iter().zip(exps) {
            let e = exp_of_group(s, group, reference);
            sums = s.accumulate(sums, sum_of_four(s, e));
            for i in 0..4 {
                s.store(e[i], &mut exps[i]);
            }
        }
        for (x, exps) in rest.iter().zip(rest_exps) {
            let e = exp::exp(s, s.sub(s.load(x), reference));
            sums = s.accumulate(sums, e);
            s.store(e, exps);
        }
        s.store(max, &mut statistics.max);
        s.store_sums(sums, &mut statistics.sum);
        for row in 0..LANES {
            let is_empty = statistics.max[row] == f32::NEG_INFINITY && !statistics.sum[row].is_nan();
            statistics.sum[row] = if is_empty { 0.0 } else { statistics.sum[row] };
        }
    }

    /// The weighted gaps below the maximum. The targets' own become 0.
    #[inline(always)]
    fn gaps<S: Simd>(
        &mut self,
        s: S,
        classes: usize,
        gaps: Gaps<'_>,
        class: &[Option<usize>; LANES],
        statistics: &mut StatisticsLanes,
    ) {
        if matches!(gaps, Gaps::None) {
            return;
        }
        let mut reference = [0.0; LANES];
        s.store(s.max(s.splat(f32::MIN), s.load(&statistics.max)), &mut reference);
        for row in 0..LANES {
            if let Some(class) = class[row] {
                self.logits[class][row] = reference[row];
            }
        }
        let reference = s.load(&reference);
        let mut sums = s.zero_sums();
        for (class, x) in self.logits[..classes].iter().enumerate() {
            sums = s.accumulate(sums, half_gap(s, s.load(x), reference, s.splat(gaps.weight(class))));
        }
        s.store_sums(sums, &mut statistics.gap);
        for gap in &mut statistics.gap {
            *gap *= 2.0;
        }
    }

    /// Writes an affine function of the exponentials to the rows of `wide`.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn write<S: Simd>(
        &mut self,
        s: S,
        batch: &mut Batch<'_>,
        wide: Wide,
        first: usize,
        count: usize,
        gaps: Gaps<'_>,
        coefficients: &CoefficientsLanes,
    ) {
        let classes = batch.classes();
        let Some((out, out_stride)) = batch.wide_rows(first, wide) else { return };
        let is_whole = count == LANES && classes >= 4;
        let (rows, row_stride) =
            if is_whole { (out, out_stride) } else { (self.rows.as_flattened_mut(), CLASSES) };

        let (scale, least) = (s.load(&coefficients.scale), s.load(&coefficients.least));
        let shift = s.load(&coefficients.shift);
        for column in (0..classes).step_by(4) {
            let column = column.min(classes.max(4) - 4);
            let mut columns = [scale; 4];
            for i in 0..4 {
                let class = column + i;
                columns[i] = s.mul_at_least(s.load(&self.exps[class]), scale, least);
                if !matches!(gaps, Gaps::None) {
                    let shift = s.mul(s.splat(gaps.weight(class)), shift);
                    columns[i] = s.zero_below(s.sub(columns[i], shift), s.splat(f32::MIN_POSITIVE));
                }
            }
            s.store_columns(columns, rows, row_stride, column);
        }
        if !is_whole {
            for row in 0..count {
                if let Some(out) = batch.wide_row(first + row, wide) {
                    out.copy_from_slice(&self.rows[row][..classes]);
                }
            }
        }
    }
}
