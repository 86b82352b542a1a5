//! Rows side by side: for each class one vector, for each of 16 rows one lane.
//!
//! No step crosses lanes, so every step of the row algorithm is done for 16 rows at once. How logits come to lie like
//! this is for others: rows are transposed (`few_classes.rs`), planes are like this in memory (`planes.rs`).
//!
//! Classes may come in blocks, in order. Each block is relative to the maximum of what there has been, its
//! **reference**; where a later block raises it, the sum so far shrinks.

use super::gaps::{Gaps, half_gap, live_only};
use super::groups::{exp_of_group, sum_of_four};
use super::lanes::RowLanes;
use super::results::CoefficientLanes;
use super::{exp, scalar};
use crate::simd::{LANES, Simd};

/// The vectors of some classes: logits at first, then their exponentials.
pub(super) type Vectors = [[f32; LANES]];

/// Moves the targets' logits to the rows, and leaves -inf in their place. `first` is the class of the first vector.
#[inline(always)]
pub(super) fn take_targets(vectors: &mut Vectors, first: usize, rows: &mut RowLanes) {
    for lane in 0..LANES {
        if let Some(x) = vectors.get_mut(rows.class[lane].wrapping_sub(first)) {
            rows.target_logit[lane] = x[lane];
            rows.contender[lane] = x[lane];
            x[lane] = f32::NEG_INFINITY;
        }
    }
}

/// Makes each row's first largest logit its target, and takes it.
#[inline(always)]
pub(super) fn take_largest<S: Simd>(s: S, vectors: &mut Vectors, rows: &mut RowLanes) {
    s.store(largest(s, vectors), &mut rows.max);
    let classes = first_largest(vectors, rows);
    for lane in 0..LANES {
        rows.class[lane] = classes[lane] as usize;
    }
    take_targets(vectors, 0, rows);
}

/// Puts values in the place of the targets, as far as they are here.
#[inline(always)]
pub(super) fn set_targets(vectors: &mut Vectors, first: usize, rows: &RowLanes, values: &[f32; LANES]) {
    for lane in 0..LANES {
        if let Some(x) = vectors.get_mut(rows.class[lane].wrapping_sub(first)) {
            x[lane] = values[lane];
        }
    }
}

/// Brings the rows' maxima up to date, and their sums to them. Returns the reference. The targets have been taken.
#[inline(always)]
pub(super) fn maximum<S: Simd>(s: S, vectors: &Vectors, first: usize, rows: &mut RowLanes) -> S::F32 {
    let mut max = largest(s, vectors);
    let mut before = [f32::NEG_INFINITY; LANES];
    if first == 0 {
        rows.sum = [0.0; LANES];
    } else {
        before = rows.max;
        max = s.max(s.load(&before), max);
    }
    s.store(max, &mut rows.max);

    let (mut rises, mut ties) = (false, false);
    for lane in 0..LANES {
        rises |= rows.max[lane] > before[lane];
        ties |= rows.max[lane] == rows.target_logit[lane];
    }
    if first > 0 && rises {
        for lane in 0..LANES {
            let rise = f64::from(rows.max[lane]) - f64::from(before[lane]);
            let factor = scalar::exp(-rise);
            rows.sum[lane] *= if rows.max[lane] > before[lane] { factor } else { 1.0 };
        }
    }
    if ties {
        find_earlier_equals(vectors, first, &before, rows);
    }
    // Any finite number will do where all logits are -inf.
    s.max(s.splat(f32::MIN), max)
}

#[inline(always)]
fn largest<S: Simd>(s: S, vectors: &Vectors) -> S::F32 {
    let (groups, rest) = vectors.as_chunks::<4>();
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

/// Targets that an earlier class equals do not contend for the argmax.
#[inline(always)]
fn find_earlier_equals(vectors: &Vectors, first: usize, before: &[f32; LANES], rows: &mut RowLanes) {
    for lane in 0..LANES {
        let (index, target_logit) = (rows.class[lane].wrapping_sub(first), rows.target_logit[lane]);
        if index >= vectors.len() {
            continue;
        }
        let is_earlier_block = first > 0 && before[lane] == target_logit;
        if is_earlier_block || vectors[..index].iter().any(|x| x[lane] == target_logit) {
            rows.contender[lane] = f32::NEG_INFINITY;
        }
    }
}

/// The first class of each row's largest logits, the target's aside, once [`maximum`] has found these.
#[inline(always)]
pub(super) fn first_largest(vectors: &Vectors, rows: &RowLanes) -> [u32; LANES] {
    let mut found = [0; LANES];
    // From the last to the first, in whole vectors.
    for index in (0..vectors.len()).rev() {
        for lane in 0..LANES {
            let is_largest = vectors[index][lane] == rows.max[lane];
            found[lane] = if is_largest { index as u32 } else { found[lane] };
        }
    }
    found
}

/// Puts the exponentials in the place of the logits, and adds them to the rows' sums. Where the gaps are those of live
/// classes, NaN marks the others.
#[inline(always)]
pub(super) fn exponentials<S: Simd>(
    s: S,
    vectors: &mut Vectors,
    gaps: Gaps<'_>,
    reference: S::F32,
    rows: &mut RowLanes,
) {
    // Two loops, and not a choice in each step of one.
    if gaps.is_live() {
        exponentials_marked::<S, true>(s, vectors, reference, rows);
    } else {
        exponentials_marked::<S, false>(s, vectors, reference, rows);
    }
}

#[inline(always)]
fn exponentials_marked<S: Simd, const MARKS: bool>(
    s: S,
    vectors: &mut Vectors,
    reference: S::F32,
    rows: &mut RowLanes,
) {
    let mut sums = s.zero_sums();
    let (groups, rest) = vectors.as_chunks_mut::<4>();
    for group in groups {
        let x = [s.load(&group[0]), s.load(&group[1]), s.load(&group[2]), s.load(&group[3])];
        let e = exp_of_group(s, x, reference);
        sums = s.accumulate(sums, sum_of_four(s, e));
        for i in 0..4 {
            s.store(if MARKS { marked(s, e[i], x[i]) } else { e[i] }, &mut group[i]);
        }
    }
    for to in rest {
        let x = s.load(to);
        let e = exp::exp(s, s.sub(x, reference));
        sums = s.accumulate(sums, e);
        s.store(if MARKS { marked(s, e, x) } else { e }, to);
    }
    let mut added = [0.0; LANES];
    s.store_f64(sums, &mut added);
    for lane in 0..LANES {
        let sum = rows.sum[lane] + added[lane];
        let is_empty = (rows.max[lane] == f32::NEG_INFINITY) & !sum.is_nan();
        rows.sum[lane] = if is_empty { 0.0 } else { sum };
    }
}

/// NaN in place of the exponential of -inf.
#[inline(always)]
pub(super) fn marked<S: Simd>(s: S, e: S::F32, x: S::F32) -> S::F32 {
    s.add(e, s.mul(x, s.splat(0.0)))
}

/// The weighted gaps below the reference, the targets' own left out: of live classes also what they weigh, and how many
/// they are. Added to those of the classes before.
#[inline(always)]
pub(super) fn gaps<S: Simd>(
    s: S,
    vectors: &mut Vectors,
    first: usize,
    gaps: Gaps<'_>,
    reference: S::F32,
    rows: &mut RowLanes,
) {
    if matches!(gaps, Gaps::None) {
        return;
    }
    let mut sums = [s.zero_sums(); 3];
    if gaps.is_live() {
        set_targets(vectors, first, rows, &[f32::NEG_INFINITY; LANES]);
        for (index, x) in vectors.iter().enumerate() {
            let x = s.load(x);
            let weights = live_only(s, x, s.splat(gaps.weight(first + index)));
            let finite = s.max(s.splat(f32::MIN), x);
            sums[0] = s.accumulate(sums[0], half_gap(s, finite, reference, weights));
            sums[1] = s.accumulate(sums[1], weights);
            sums[2] = s.accumulate(sums[2], live_only(s, x, s.splat(1.0)));
        }
        add(s, sums[1], 1.0, first, &mut rows.weight);
        add(s, sums[2], 1.0, first, &mut rows.live);
    } else {
        let mut no_gap = [0.0; LANES];
        s.store(reference, &mut no_gap);
        set_targets(vectors, first, rows, &no_gap);
        for (index, x) in vectors.iter().enumerate() {
            let weights = s.splat(gaps.weight(first + index));
            sums[0] = s.accumulate(sums[0], half_gap(s, s.load(x), reference, weights));
        }
        set_targets(vectors, first, rows, &[f32::NEG_INFINITY; LANES]);
    }
    add(s, sums[0], 2.0, first, &mut rows.gap);
}

/// Adds so many times the sums to what the classes before have left; the first ones replace it.
#[inline(always)]
pub(super) fn add<S: Simd>(s: S, sums: S::F64, times: f64, first: usize, to: &mut [f64; LANES]) {
    let mut added = [0.0; LANES];
    s.store_f64(sums, &mut added);
    for lane in 0..LANES {
        let added = times * added[lane];
        to[lane] = if first == 0 { added } else { to[lane] + added };
    }
}

/// The affine function of a class's exponentials, [`marked`] where the gaps are those of live classes.
#[inline(always)]
pub(super) fn affine<S: Simd>(
    s: S,
    exps: S::F32,
    class: usize,
    gaps: Gaps<'_>,
    coefficients: &CoefficientLanes,
) -> S::F32 {
    let (scale, least) = (s.load(&coefficients.scale), s.load(&coefficients.least));
    let y = s.mul_at_least(exps, scale, least);
    if matches!(gaps, Gaps::None) {
        return y;
    }
    let shift = s.mul(s.splat(gaps.weight(class)), s.load(&coefficients.shift));
    let y = s.zero_below(s.sub(y, shift), s.splat(f32::MIN_POSITIVE));
    if gaps.is_live() { live_only(s, exps, y) } else { y }
}
