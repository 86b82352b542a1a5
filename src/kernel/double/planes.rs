//! Classes in planes, of `f64`: 16 neighbouring positions are one vector in each plane, and lie side by side.
//!
//! The steps are those of a row of `f64`, with a lane for each position: the maximum of all classes, then sums relative to
//! it, which carry their rounding errors along. Classes come in blocks that stay in the first-level cache; more than one
//! block of them is read once for the maximum and once for the sums.

use core::ops::Range;

use super::exp::{exp, exp_of_four};
use super::statistics::live_only;
use super::sums::Sums;
use super::transform::{LEAST, TransformTask};
use super::{Load, Plain};
use crate::kernel::bands::BandPlanes;
use crate::kernel::gaps::Gaps;
use crate::kernel::lanes::RowLanes;
use crate::kernel::planes::{Fill, PlanesFrom};
use crate::kernel::results::CoefficientLanes;
use crate::loss::Transform;
use crate::simd::{LANES, Simd, Task};

/// Classes of a block: 4 KiB.
const BLOCK: usize = 32;

type Vectors = [[f64; LANES]];

/// The statistics of up to 16 positions.
pub(crate) struct StatisticsTask<'a> {
    pub(crate) from: PlanesFrom<'a, 'a, f64>,
    pub(crate) classes: usize,
    pub(crate) positions: Range<usize>,
    pub(crate) transform: Option<Transform<f64>>,
    pub(crate) gaps: Gaps<'a, f64>,
    pub(crate) rows: &'a mut RowLanes<f64>,
    /// The classes of the largest logits but the targets', where they are wanted.
    pub(crate) largest: Option<&'a mut [usize; LANES]>,
}

/// An affine function of the exponentials of up to 16 positions, and the targets' own values.
pub(crate) struct AffineTask<'a> {
    pub(crate) planes: BandPlanes<'a, f64>,
    pub(crate) classes: usize,
    pub(crate) positions: Range<usize>,
    pub(crate) transform: Option<Transform<f64>>,
    /// Whether it is a gradient, which goes back through the transform.
    pub(crate) is_gradient: bool,
    pub(crate) gaps: Gaps<'a, f64>,
    pub(crate) coefficients: &'a CoefficientLanes<f64>,
    pub(crate) rows: &'a RowLanes<f64>,
    /// One value for all classes, where a position has no other.
    pub(crate) fill: Option<&'a Fill<f64>>,
}

impl Task for StatisticsTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.transform {
            None => self.run_with(s, Plain),
            Some(transform) => s.vectorize(Transformed(self, transform)),
        }
    }
}

/// The same, of transformed logits: a function of its own, for the other to stay as it is without.
struct Transformed<'a>(StatisticsTask<'a>, Transform<f64>);

impl Task for Transformed<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        self.0.run_with(s, self.1);
    }
}

impl StatisticsTask<'_> {
    #[inline(always)]
    fn run_with<S: Simd>(self, s: S, load: impl Load) {
        let Self { from, classes, positions, gaps, rows, mut largest, .. } = self;
        let mut tile = [[0.0; LANES]; BLOCK];
        let mut max = s.splat_f64(f64::NEG_INFINITY);
        for first in (0..classes).step_by(BLOCK) {
            let block = &mut tile[..BLOCK.min(classes - first)];
            load_block(s, from, first, &positions, load, block);
            take_targets(block, first, rows);
            for x in block.iter() {
                max = s.max_f64(max, s.load_f64(x));
            }
        }
        s.store_f64(max, &mut rows.max);
        // Without a finite maximum x - max would be NaN, and the gaps are 0 or infinite.
        let mut finite = rows.max;
        let mut ties = false;
        for lane in 0..LANES {
            finite[lane] = if finite[lane] == f64::NEG_INFINITY { 0.0 } else { finite[lane] };
            ties |= rows.max[lane] == rows.target_logit[lane];
        }

        if let Some(largest) = &mut largest {
            **largest = [NOT_FOUND; LANES];
        }
        let reference = s.load_f64(&finite);
        let mut sums = Sums::zero(s);
        let mut gap_sums = GapLanes { gap: Sums::zero(s), weight: Sums::zero(s), live: s.zero_sums() };
        for first in (0..classes).step_by(BLOCK) {
            let block = &mut tile[..BLOCK.min(classes - first)];
            if classes > BLOCK {
                load_block(s, from, first, &positions, load, block);
                set_targets(block, first, rows, &[f64::NEG_INFINITY; LANES]);
            }
            if ties {
                find_earlier_equals(block, first, rows);
            }
            if let Some(largest) = &mut largest {
                find_first_largest(block, first, rows, largest);
            }
            if !matches!(gaps, Gaps::None) {
                gap_sums = gap_sums.add(s, block, first, gaps, &finite, rows);
            }
            let (groups, rest) = block.as_chunks::<4>();
            for group in groups {
                let mut d = [reference; 4];
                for i in 0..4 {
                    d[i] = s.sub_f64(s.load_f64(&group[i]), reference);
                }
                sums = sums.add_four(s, exp_of_four(s, d));
            }
            for x in rest {
                sums = sums.add(s, exp(s, s.sub_f64(s.load_f64(x), reference)));
            }
        }
        if let Some(largest) = largest {
            for class in largest {
                *class = if *class == NOT_FOUND { 0 } else { *class };
            }
        }
        rows.sum = sums.of_lanes(s);
        for lane in 0..LANES {
            let is_nothing = rows.max[lane] == f64::NEG_INFINITY && !rows.sum[lane].is_nan();
            rows.sum[lane] = if is_nothing { 0.0 } else { rows.sum[lane] };
        }
        if !matches!(gaps, Gaps::None) {
            rows.gap = gap_sums.gap.of_lanes(s);
            for lane in 0..LANES {
                rows.gap[lane] *= 2.0;
            }
            rows.weight = gap_sums.weight.of_lanes(s);
            s.store_f64(gap_sums.live, &mut rows.live);
        }
    }
}

const NOT_FOUND: usize = usize::MAX;

/// The logits of a class at up to 16 positions, and 0 behind them.
#[inline(always)]
fn lanes<S: Simd>(s: S, x: &[f64], load: impl Load) -> S::F64 {
    let mut to = [0.0; LANES];
    let x = load.load(s, x, &mut to);
    match x.first_chunk() {
        Some(whole) => s.load_f64(whole),
        None => s.load_partial_f64(x, 0.0),
    }
}

#[inline(always)]
fn load_block<S: Simd>(
    s: S,
    from: PlanesFrom<'_, '_, f64>,
    first: usize,
    positions: &Range<usize>,
    load: impl Load,
    block: &mut Vectors,
) {
    for (index, to) in block.iter_mut().enumerate() {
        s.store_f64(lanes(s, from.plane(first + index, positions.clone()), load), to);
    }
}

/// Moves the targets' logits to the rows, and leaves -inf in their place. `first` is the class of the first vector.
#[inline(always)]
fn take_targets(block: &mut Vectors, first: usize, rows: &mut RowLanes<f64>) {
    for lane in 0..LANES {
        if let Some(x) = block.get_mut(rows.class[lane].wrapping_sub(first)) {
            rows.target_logit[lane] = x[lane];
            rows.contender[lane] = x[lane];
            x[lane] = f64::NEG_INFINITY;
        }
    }
}

/// Puts values in the place of the targets, as far as they are here.
#[inline(always)]
fn set_targets(block: &mut Vectors, first: usize, rows: &RowLanes<f64>, values: &[f64; LANES]) {
    for lane in 0..LANES {
        if let Some(x) = block.get_mut(rows.class[lane].wrapping_sub(first)) {
            x[lane] = values[lane];
        }
    }
}

/// Targets that an earlier class equals do not contend for the argmax.
#[inline(always)]
fn find_earlier_equals(block: &Vectors, first: usize, rows: &mut RowLanes<f64>) {
    for lane in 0..LANES {
        let earlier = rows.class[lane].saturating_sub(first).min(block.len());
        let is_tie = rows.max[lane] == rows.target_logit[lane];
        if is_tie && block[..earlier].iter().any(|x| x[lane] == rows.max[lane]) {
            rows.contender[lane] = f64::NEG_INFINITY;
        }
    }
}

/// The first class of each position's largest logits, the target's aside, where none has been found before.
#[inline(always)]
fn find_first_largest(block: &Vectors, first: usize, rows: &RowLanes<f64>, largest: &mut [usize; LANES]) {
    for (index, x) in block.iter().enumerate() {
        for lane in 0..LANES {
            let is_first = (largest[lane] == NOT_FOUND) & (x[lane] == rows.max[lane]);
            largest[lane] = if is_first { first + index } else { largest[lane] };
        }
    }
}

/// The sums of the gaps below the maximum, the targets' own left out.
#[derive(Clone, Copy)]
struct GapLanes<V> {
    /// Half of them, because the whole of one may overflow.
    gap: Sums<V>,
    weight: Sums<V>,
    live: V,
}

impl<V: Copy> GapLanes<V> {
    /// With those of a block, where the targets are -inf, and are again afterwards.
    #[inline(always)]
    fn add<S: Simd<F64 = V>>(
        mut self,
        s: S,
        block: &mut Vectors,
        first: usize,
        gaps: Gaps<'_, f64>,
        max: &[f64; LANES],
        rows: &RowLanes<f64>,
    ) -> Self {
        let mut tile = [[0.0; LANES]; BLOCK];
        let weights = &mut tile[..block.len()];
        for (index, weights) in weights.iter_mut().enumerate() {
            *weights = [f64::from(gaps.weight(first + index)); LANES];
        }
        set_targets(weights, first, rows, &[0.0; LANES]);
        if !gaps.is_live() {
            set_targets(block, first, rows, max);
        }
        let half = s.splat_f64(0.5);
        let half_max = s.mul_f64(s.load_f64(max), half);
        for (x, weights) in block.iter().zip(weights) {
            let (mut logits, mut weights) = (s.load_f64(x), s.load_f64(weights));
            if gaps.is_live() {
                self.live = s.add_f64(self.live, live_only(s, logits, s.splat_f64(1.0)));
                weights = live_only(s, logits, weights);
                logits = s.max_f64(s.splat_f64(f64::MIN), logits);
            }
            // 0 for a class of weight 0, where the product may be NaN.
            let gap = s.sub_f64(half_max, s.mul_f64(logits, half));
            self.gap = self.gap.add(s, s.max_f64(s.mul_f64(gap, weights), s.splat_f64(0.0)));
            self.weight = self.weight.add(s, weights);
        }
        set_targets(block, first, rows, &[f64::NEG_INFINITY; LANES]);
        self
    }
}

impl Task for AffineTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.transform {
            None => self.run_with(s, Plain, None),
            Some(transform) => s.vectorize(TransformedAffine(self, transform)),
        }
    }
}

/// As [`Transformed`].
struct TransformedAffine<'a>(AffineTask<'a>, Transform<f64>);

impl Task for TransformedAffine<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self(task, transform) = self;
        let back = if task.is_gradient && transform.has_slopes() { Some(transform) } else { None };
        task.run_with(s, transform, back);
    }
}

impl AffineTask<'_> {
    /// Four classes at a time. With `back`, multiplied by that transform's derivatives.
    #[inline(always)]
    fn run_with<S: Simd>(self, s: S, load: impl Load, back: Option<Transform<f64>>) {
        let Self { mut planes, classes, positions, gaps, coefficients, rows, fill, .. } = self;
        let mut max = rows.max;
        for lane in 0..LANES {
            max[lane] = if max[lane] == f64::NEG_INFINITY { 0.0 } else { max[lane] };
        }
        let reference = s.load_f64(&max);
        let (scale, least) = (s.load_f64(&coefficients.scale), s.load_f64(&coefficients.least));
        let shift = s.load_f64(&coefficients.shift);
        for first in (0..classes).step_by(4) {
            let count = classes.min(first + 4) - first;
            let (mut x, mut d, mut slopes) = ([reference; 4], [reference; 4], [[0.0; LANES]; 4]);
            for i in 0..count {
                let (from, stride) = planes.from();
                let from = &from[(first + i) * stride..][positions.clone()];
                x[i] = match back {
                    None => lanes(s, from, load),
                    Some(transform) => {
                        let mut to = [0.0; LANES];
                        let (to_all, slopes) = (&mut to[..from.len()], &mut slopes[i][..from.len()]);
                        s.vectorize(TransformTask { transform, from, to: to_all, slopes });
                        s.load_f64(&to)
                    }
                };
            }
            for i in 0..4 {
                d[i] = s.sub_f64(x[i], reference);
            }
            let e = exp_of_four(s, d);
            for i in 0..count {
                let mut y = s.mul_at_least_f64(e[i], scale, least);
                if !matches!(gaps, Gaps::None) {
                    let weight = s.splat_f64(f64::from(gaps.weight(first + i)));
                    let difference = s.sub_f64(y, s.mul_f64(weight, shift));
                    y = s.zero_below_f64(difference, s.splat_f64(f64::MIN_POSITIVE));
                    y = if gaps.is_live() { live_only(s, x[i], y) } else { y };
                }
                if back.is_some() {
                    // 0 where the logit is NaN: a gradient of 0 stays one.
                    let one = s.splat_f64(1.0);
                    let slope =
                        s.mul_at_least_f64(s.load_f64(&slopes[i]), one, s.splat_f64(f64::MIN_POSITIVE));
                    y = s.zero_below_f64(s.mul_f64(y, slope), s.splat_f64(LEAST));
                }
                let (to, stride) = planes.to();
                let to = &mut to[(first + i) * stride..][positions.clone()];
                match to.first_chunk_mut() {
                    Some(whole) => s.store_f64(y, whole),
                    None => s.store_partial_f64(y, to),
                }
            }
        }
        let (to, stride) = planes.to();
        for (lane, position) in positions.enumerate() {
            if rows.class[lane] < classes {
                to[rows.class[lane] * stride + position] = coefficients.at_target[lane];
            }
            if let Some(fill) = fill
                && fill.is_filled[lane]
            {
                for class in 0..classes {
                    to[class * stride + position] = fill.value[lane];
                }
            }
        }
    }
}
