//! How far one softmax is from another, for rows of `f64`: the formulas of `kernel::distillation`.
//!
//! The largest logit is left out of every row's sum, which is relative to the second. So 1 and what the others have are
//! never added before the logarithm is taken, and no row is looked at twice because its largest is alone.

use super::affine::scale_and_least;
use super::exp::{exp, exp_of_four};
use super::place::Place;
use super::scalar::{normal_or_zero, softmax};
use super::search::FirstEqual;
use super::statistics::max_of;
use super::sums::Sums;
use super::{GROUP, Plain, group_without};
use crate::kernel::Entry;
use crate::kernel::place::{Adding, Between, Columns, InPlace, Read};
use crate::kernel::statistics::Statistics;
use crate::loss::Softmax;
use crate::simd::{LANES, Simd, Task};

/// The softmax of a row, its logits divided by a temperature.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tempered {
    pub(crate) max: f64,
    /// ln of the sum of exp((x - max) / T).
    pub(crate) ln_sum: f64,
    /// exp((x - max) / T) times this is a probability.
    reciprocal: f64,
    /// What the classes but the largest have.
    others: f64,
    /// The first of the largest, where it has nearly everything.
    leader: Option<usize>,
}

impl Tempered {
    /// Of the columns from `first` on.
    pub(crate) fn from(self, first: usize) -> Self {
        Self { leader: self.leader.and_then(|class| class.checked_sub(first)), ..self }
    }
}

/// The softmax of `x` times `scale`; nothing, where the row has a NaN, +inf, or only -inf.
pub(crate) struct TemperedTask<'a> {
    pub(crate) x: &'a [f64],
    pub(crate) scale: f64,
}

/// sum_c q_c (ln q_c - ln p_c), and in the columns, which hold the student's logits, `factor` (p - q).
pub(crate) struct DivergenceTask<'a> {
    pub(crate) columns: Columns<'a, f64>,
    pub(crate) teacher: &'a [f64],
    pub(crate) of_student: Tempered,
    pub(crate) of_teacher: Tempered,
    pub(crate) scale: f64,
    pub(crate) factor: f64,
}

/// Where the classes but the largest have less, 1 minus it has fewer digits than they.
const LEAST_REST: f64 = 1.0 / 64.0;

impl Task for TemperedTask<'_> {
    type Output = Option<Tempered>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Option<Tempered> {
        let Self { x, scale } = self;
        let max = max_of(s, x, Plain, Entry::NONE);
        if !max.is_finite() {
            return None;
        }
        let first = s.vectorize(FirstEqual { x, transform: None, value: max })?;
        let pivot = Entry::new(first, max);
        let second = max_of(s, x, Plain, pivot);
        let sum = sum_of(s, x, if second == f64::NEG_INFINITY { 0.0 } else { second }, scale, pivot);
        if sum.is_nan() {
            return None;
        }
        let sum = if second == f64::NEG_INFINITY { 0.0 } else { sum };
        let gap = (second - max) * scale;
        let others = Statistics { max: gap, sum, gap: 0.0, weight: 0.0, live: 0.0, has_earlier_equal: false };
        let Softmax { ln_sum, target_probability, others_probability, .. } = softmax(others, 0.0);
        Some(Tempered {
            max,
            ln_sum,
            reciprocal: target_probability,
            others: others_probability,
            leader: (others_probability < LEAST_REST).then_some(first),
        })
    }
}

/// The sum of exp((x - reference) scale) without the pivot.
#[inline(always)]
fn sum_of<S: Simd>(s: S, x: &[f64], reference: f64, scale: f64, pivot: Entry<f64>) -> f64 {
    let (reference, scale) = (s.splat_f64(reference), s.splat_f64(scale));
    let mut sums = Sums::zero(s);
    for at in (0..x.len()).step_by(GROUP) {
        let mut d = group_without(s, x, at, Plain, pivot);
        for i in 0..4 {
            d[i] = s.mul_f64(s.sub_f64(d[i], reference), scale);
        }
        sums = sums.add_four(s, exp_of_four(s, d));
    }
    sums.total(s)
}

impl Task for DivergenceTask<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let Self { columns, teacher, of_student, of_teacher, scale, factor } = self;
        let pair = Pair::new(s, of_student, of_teacher, scale, factor);
        let mut leader = Entry::NONE;
        if let Some(class) = of_student.leader
            && of_teacher.leader == Some(class)
        {
            let (factor, _) = scale_and_least(factor);
            leader = Entry::new(class, normal_or_zero(factor * (of_teacher.others - of_student.others)));
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
    teacher: &[f64],
    pair: Pair<S::F64>,
    leader: Entry<f64>,
) -> f64 {
    let mut sums = Sums::zero(s);
    for start in (0..place.from().len()).step_by(LANES) {
        // A class that is masked for both adds nothing.
        let x = s.load_partial_f64(&place.from()[start..], f64::NEG_INFINITY);
        let y = s.load_partial_f64(&teacher[start..], f64::NEG_INFINITY);
        let (term, gradient) = pair.of(s, x, y);
        sums = sums.add(s, term);
        if P::WRITES {
            let gradient = s.with_lane_f64(gradient, leader.from(start).lane(), leader.value);
            P::store_partial(s, gradient, &mut place.to()[start..]);
        }
    }
    sums.total(s)
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

/// (exp(r) - 1 - r) / r^2 for |r| < 1: its series, 1 / (n + 2)! each. The first that is left out is below 0.2 u.
const G: [f64; 18] = {
    let (mut g, mut factorial, mut n) = ([0.0; 18], 1.0, 0);
    while n < 18 {
        // Exact.
        factorial *= (n + 2) as f64;
        g[n] = 1.0 / factorial;
        n += 1;
    }
    g
};

impl<V: Copy> Pair<V> {
    #[inline(always)]
    fn new<S: Simd<F64 = V>>(s: S, student: Tempered, teacher: Tempered, scale: f64, factor: f64) -> Self {
        let (student_scale, student_least) = scale_and_least(student.reciprocal);
        let (teacher_scale, teacher_least) = scale_and_least(teacher.reciprocal);
        let (factor, _) = scale_and_least(factor);
        Self {
            max: [s.splat_f64(student.max), s.splat_f64(teacher.max)],
            probability: [s.splat_f64(student_scale), s.splat_f64(teacher_scale)],
            least: [s.splat_f64(student_least), s.splat_f64(teacher_least)],
            scale: s.splat_f64(scale),
            rise: s.splat_f64(teacher.ln_sum - student.ln_sum),
            factor: s.splat_f64(factor),
        }
    }

    /// The terms of 16 classes, and their gradients.
    #[inline(always)]
    fn of<S: Simd<F64 = V>>(self, s: S, x: V, y: V) -> (V, V) {
        let Self { max, probability, least, scale, rise, factor } = self;
        let dx = s.sub_f64(x, max[0]);
        // Finite, so that what a student masks too is -inf and not NaN.
        let dy = s.max_f64(s.splat_f64(f64::MIN), s.sub_f64(y, max[1]));
        let (ex, ey) = (exp(s, s.mul_f64(dx, scale)), exp(s, s.mul_f64(dy, scale)));
        let p = s.mul_at_least_f64(ex, probability[0], least[0]);
        let q = s.mul_at_least_f64(ey, probability[1], least[1]);
        let smallest = s.splat_f64(f64::MIN_POSITIVE);
        // No subnormal takes part in anything: some threads count them as 0.
        let rest = s.zero_below_f64(s.sub_f64(p, q), smallest);

        let r = s.mul_add_f64(s.sub_f64(dx, dy), scale, rise);
        let mut g = s.splat_f64(G[17]);
        for i in (0..17).rev() {
            g = s.mul_add_f64(g, r, s.splat_f64(G[i]));
        }
        let near = s.mul_f64(q, s.mul_f64(s.mul_f64(r, r), g));
        // A class that the teacher masks adds p, whatever r is.
        let far = s.select_below_f64(q, smallest, rest, s.sub_f64(rest, s.mul_f64(q, r)));
        let term = s.zero_below_f64(s.select_below_f64(r, s.splat_f64(1.0), near, far), smallest);
        (term, s.zero_below_f64(s.mul_f64(rest, factor), smallest))
    }
}
