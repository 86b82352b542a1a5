//! How far one softmax is from another: the divergence of a student's p from a teacher's q at a temperature T, and its
//! gradient with respect to the student's logits.
//!
//! sum_c q_c (ln q_c - ln p_c) is a sum of terms of both signs. Where the two are close, its terms are as large as
//! their distance and their sum as small as its square: nothing of it would be left. Both p and q add up to 1, so p_c - q_c
//! may be added to every term, and none is negative:
//!
//! ```text
//! pass 1   m, ln_sum                     of the teacher's row and of the student's: of d = x - m, times 1 / T
//!
//! pass 2   r = ln p - ln q = (d_p - d_q) / T + (ln_sum_q - ln_sum_p)
//!          term     = q (exp(r) - 1 - r)     as q r^2 g(r)        where |r| < 1, g a polynomial
//!                                            as (p - q) - q r     elsewhere
//!          gradient = T (p - q)
//! ```
//!
//! An error in r costs a term (p - q) times as much; one that all r share, because a sum was rounded, cancels. A student
//! that equals its teacher has r = 0 in all bits, and a loss of 0.
//!
//! Where the largest logit has nearly all of the probability, the sum is 1 and a little: the little is then summed
//! without it. Where both rows have the same such class, p - q there is a difference of what the others have.

use super::groups::{Groups, group, group_without, sum_of_four};
use super::number::Number;
use super::place::{Adding, Between, Columns, InPlace, Place, Read};
use super::scalar::{self, log1p_and_reciprocal, to_f32};
use super::statistics::{BLOCK, max_of};
use super::tasks::FirstEqual;
use super::{Entry, affine, exp, vector_at};
use crate::simd::{LANES, Simd, Task};

/// The softmax of a row, its logits divided by a temperature.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tempered {
    pub(crate) max: f32,
    /// ln of the sum of exp((x - max) / T).
    pub(crate) ln_sum: f64,
    /// exp((x - max) / T) times this is a probability.
    reciprocal: f64,
    /// What the classes but the largest have.
    others: f64,
    /// The first of the largest, where it has nearly everything.
    leader: Option<usize>,
}

/// The softmax of `x` times `scale`; nothing, where the row has a NaN, +inf, or only -inf.
pub(crate) struct TemperedTask<'a, T> {
    pub(crate) x: &'a [T],
    pub(crate) scale: f32,
}

/// sum_c q_c (ln q_c - ln p_c), and in the columns, which hold the student's logits, `factor` (p - q).
pub(crate) struct DivergenceTask<'a, F, T = F> {
    pub(crate) columns: Columns<'a, F, T>,
    pub(crate) divergence: Divergence<'a, F>,
}

/// [`DivergenceTask`], wherever its columns are.
#[derive(Clone, Copy)]
pub(crate) struct Divergence<'a, F> {
    pub(crate) teacher: &'a [F],
    pub(crate) of_student: Tempered,
    pub(crate) of_teacher: Tempered,
    pub(crate) scale: f32,
    pub(crate) factor: f64,
}

/// Where the terms but the largest add up to less, rounding the sum would show in them.
const LEAST_REST: f64 = 1.0 / 64.0;

impl<T: Number> Task for TemperedTask<'_, T> {
    type Output = Option<Tempered>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Option<Tempered> {
        let Self { x, scale } = self;
        let (max, sum) = max_and_sum(s, x, scale, Entry::NONE);
        if sum.is_nan() || max == f32::NEG_INFINITY {
            return None;
        }
        let (mut rest, mut leader) = (sum - 1.0, None);
        if rest < LEAST_REST {
            leader = s.vectorize(FirstEqual { x, value: max });
            let pivot = Entry::new(leader?, max);
            let (second, sum) = max_and_sum(s, x, scale, pivot);
            let gap = f64::from(max) - f64::from(second);
            rest = if second == f32::NEG_INFINITY { 0.0 } else { sum * scalar::exp(-gap * f64::from(scale)) };
        }
        let (ln_sum, reciprocal) = log1p_and_reciprocal(rest);
        Some(Tempered { max, ln_sum, reciprocal, others: rest * reciprocal, leader })
    }
}

/// The largest logit but the pivot's, and the sum of exp((x - largest) scale) without the pivot.
#[inline(always)]
fn max_and_sum<S: Simd, T: Number>(s: S, x: &[T], scale: f32, pivot: Entry) -> (f32, f64) {
    let (mut max, mut sum, mut sums) = (f32::NEG_INFINITY, 0.0, s.zero_sums());
    for start in (0..x.len()).step_by(BLOCK) {
        let block = &x[start..x.len().min(start + BLOCK)];
        let pivot = pivot.from(start);
        let of_block = max_of(s, &Read(block), 0..block.len(), pivot);
        if of_block > max {
            let rise = f64::from(of_block) - f64::from(max);
            sum = (sum + s.sum_lanes(sums)) * scalar::exp(-rise * f64::from(scale));
            sums = s.zero_sums();
            max = of_block;
        }
        let reference = s.splat(if max == f32::NEG_INFINITY { 0.0 } else { max });
        sums = add_exponentials(s, block, reference, s.splat(scale), pivot, sums);
    }
    (max, sum + s.sum_lanes(sums))
}

#[inline(always)]
fn add_exponentials<S: Simd, T: Number>(
    s: S,
    x: &[T],
    reference: S::F32,
    scale: S::F32,
    pivot: Entry,
    mut sums: S::F64,
) -> S::F64 {
    let groups = Groups::new(0..x.len(), pivot);
    for index in 0..groups.len {
        let d = differences(s, group(s, &Read(x), groups.at(index)), reference, scale);
        sums = s.accumulate(sums, sum_of_four(s, exp::exp_of_each(s, d)));
    }
    if groups.has_pivot() {
        let d = differences(s, group_without(s, &Read(x), groups.pivot_group, pivot), reference, scale);
        sums = s.accumulate(sums, sum_of_four(s, exp::exp_of_each(s, d)));
    }
    // One vector at a time: few classes have no more.
    for start in (groups.rest..x.len()).step_by(LANES) {
        let rest = T::load_partial(s, &x[start..], f32::NEG_INFINITY);
        let rest = s.with_lane(rest, pivot.from(start).lane(), f32::NEG_INFINITY);
        let d = s.mul(s.sub(rest, reference), scale);
        sums = s.accumulate(sums, exp::exp(s, d));
    }
    sums
}

/// (x - reference) scale
#[inline(always)]
fn differences<S: Simd>(s: S, mut x: [S::F32; 4], reference: S::F32, scale: S::F32) -> [S::F32; 4] {
    for i in 0..4 {
        x[i] = s.mul(s.sub(x[i], reference), scale);
    }
    x
}

impl<F: Number, T: Number> Task for DivergenceTask<'_, F, T> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let Self { columns, divergence: Divergence { teacher, of_student, of_teacher, scale, factor } } =
            self;
        let pair = Pair::new(s, of_student, of_teacher, scale, factor);
        let mut leader = Entry::NONE;
        if let Some(class) = of_student.leader
            && of_teacher.leader == Some(class)
        {
            // As of the others, the factor is no larger than `f32::MAX`.
            let factor = factor.clamp(-f64::from(f32::MAX), f64::from(f32::MAX));
            leader = Entry::new(class, T::round(factor * (of_teacher.others - of_student.others)));
        }
        match columns {
            Columns::Read(x) => sum_of_terms(s, &mut Read(x), teacher, pair, leader),
            Columns::Between(x, to) | Columns::Streaming(x, to) => {
                sum_of_terms(s, &mut Between::<false, _, _>(&x[..to.len()], to), teacher, pair, leader)
            }
            Columns::Adding(x, to) => sum_of_terms(s, &mut Adding(&x[..to.len()], to), teacher, pair, leader),
            Columns::InPlace(x) => sum_of_terms(s, &mut InPlace(x), teacher, pair, leader),
        }
    }
}

/// The sum of the terms. The gradient at `leader` is its value.
#[inline(always)]
fn sum_of_terms<S: Simd, P: Place>(
    s: S,
    place: &mut P,
    teacher: &[P::From],
    pair: Pair<S::F32>,
    leader: Entry,
) -> f64 {
    let len = place.from().len();
    let teacher = &teacher[..len];
    let mut sums = s.zero_sums();
    for start in (0..len).step_by(LANES) {
        let is_whole = start + LANES <= len;
        let (x, y) = if is_whole {
            (P::From::load(s, vector_at(place.from(), start)), P::From::load(s, vector_at(teacher, start)))
        } else {
            // A class that is masked for both adds nothing.
            (
                P::From::load_partial(s, &place.from()[start..], f32::NEG_INFINITY),
                P::From::load_partial(s, &teacher[start..], f32::NEG_INFINITY),
            )
        };
        let (term, mut gradient) = pair.of(s, x, y);
        sums = s.accumulate(sums, term);
        if P::WRITES {
            let lane = leader.from(start).lane();
            if lane < LANES {
                gradient = s.with_lane(gradient, lane, leader.value);
            }
            if is_whole {
                P::store(s, gradient, &mut place.to()[start..start + LANES].as_chunks_mut().0[0]);
            } else {
                P::store_partial(s, gradient, &mut place.to()[start..]);
            }
        }
    }
    s.sum_lanes(sums)
}

/// What two rows are compared with, student and teacher.
#[derive(Clone, Copy)]
struct Pair<V> {
    max: [V; 2],
    probability: [V; 2],
    least: [V; 2],
    scale: V,
    /// What is added to (d_p - d_q) / T.
    rise: V,
    factor: V,
}

/// (exp(r) - 1 - r) / r^2 for |r| < 1: interpolated in Chebyshev's points, coefficients rounded. Largest relative error
/// 2.0 u before rounding.
const G: [f32; 7] = [
    f32::from_bits(0x3f00_0000),
    f32::from_bits(0x3e2a_aabf),
    f32::from_bits(0x3d2a_aab3),
    f32::from_bits(0x3c08_7e45),
    f32::from_bits(0x3ab6_0330),
    f32::from_bits(0x3955_2a5b),
    f32::from_bits(0x37d4_2280),
];

impl<V: Copy> Pair<V> {
    #[inline(always)]
    fn new<S: Simd<F32 = V>>(s: S, student: Tempered, teacher: Tempered, scale: f32, factor: f64) -> Self {
        let (student_scale, student_least) = affine::scale_and_least(student.reciprocal);
        let (teacher_scale, teacher_least) = affine::scale_and_least(teacher.reciprocal);
        let (factor, _) = affine::scale_and_least(factor);
        Self {
            max: [s.splat(student.max), s.splat(teacher.max)],
            probability: [s.splat(student_scale), s.splat(teacher_scale)],
            least: [s.splat(student_least), s.splat(teacher_least)],
            scale: s.splat(scale),
            rise: s.splat(to_f32(teacher.ln_sum - student.ln_sum)),
            factor: s.splat(factor),
        }
    }

    /// The terms of 16 classes, and their gradients.
    #[inline(always)]
    fn of<S: Simd<F32 = V>>(self, s: S, x: V, y: V) -> (V, V) {
        let Self { max, probability, least, scale, rise, factor } = self;
        let dx = s.sub(x, max[0]);
        // Finite, so that what a student masks too is -inf and not NaN.
        let dy = s.max(s.splat(f32::MIN), s.sub(y, max[1]));
        let [ex, ey] = exp::exp_of_each(s, [s.mul(dx, scale), s.mul(dy, scale)]);
        let p = s.mul_at_least(ex, probability[0], least[0]);
        let q = s.mul_at_least(ey, probability[1], least[1]);
        let smallest = s.splat(f32::MIN_POSITIVE);
        // No subnormal takes part in anything: some threads count them as 0.
        let rest = s.zero_below(s.sub(p, q), smallest);

        let r = s.mul_add(s.sub(dx, dy), scale, rise);
        let mut g = s.mul_add(s.splat(G[6]), r, s.splat(G[5]));
        for coefficient in [G[4], G[3], G[2], G[1], G[0]] {
            g = s.mul_add(g, r, s.splat(coefficient));
        }
        let near = s.mul(q, s.mul(s.mul(r, r), g));
        // A class that the teacher masks adds p, whatever r is.
        let far = s.select_below(q, smallest, rest, s.sub(rest, s.mul(q, r)));
        let term = s.zero_below(s.select_below(r, s.splat(1.0), near, far), smallest);
        (term, s.zero_below(s.mul(rest, factor), smallest))
    }
}
