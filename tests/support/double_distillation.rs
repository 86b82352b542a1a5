//! A student and a teacher of `f64`, every output of a call on them in memory that is watched, and the bounds of the contract
//! against numbers of twice the precision.

use super::batch::Random;
use super::distillation::Pair;
use super::double_double::DoubleDouble;
use super::doubles::{Watched, near, request, widened};
use super::evaluation::Call;
use xent::contract::{
    DISTILLATION, DISTILLATION_GAPS, DISTILLATION_GRADIENT, LSE, REDUCED_F64, SCALARS_F64, U_F64 as U,
};
use xent::{Distillation, EmptyMean, Matrix, Reduction};

const SMALLEST: f64 = f64::MIN_POSITIVE;

/// Their logits.
pub struct DoublePair {
    pub rows: usize,
    pub classes: usize,
    pub student: Vec<f64>,
    pub teacher: Vec<f64>,
}

impl DoublePair {
    /// Close to a pair of `f32`; in every fifth row the teacher is so close to the student that no `f32` would tell.
    pub fn random(rows: usize, classes: usize, seed: u64) -> Self {
        let pair = Pair::random(rows, classes, seed);
        let mut random = Random::new(seed);
        let (student, mut teacher) = (near(&pair.student.logits), near(&pair.teacher));
        for row in (0..rows).filter(|row| row % 5 == 4) {
            for i in row * classes..(row + 1) * classes {
                teacher[i] = student[i] + 1e-9 * f64::from(random.normal());
            }
        }
        Self { rows, classes, student, teacher }
    }

    pub fn matrices(&self) -> [Matrix<'_, f64>; 2] {
        [&self.student, &self.teacher].map(|x| Matrix::new(x, self.rows, self.classes).unwrap())
    }

    fn row_of<'a>(&self, logits: &'a [f64], row: usize) -> &'a [f64] {
        &logits[row * self.classes..][..self.classes]
    }

    /// The pair of these rows.
    pub fn select(&self, rows: &[usize]) -> Self {
        let of = |logits: &[f64]| rows.iter().flat_map(|&row| self.row_of(logits, row).to_vec()).collect();
        Self { rows: rows.len(), student: of(&self.student), teacher: of(&self.teacher), ..*self }
    }
}

pub struct Found {
    pub loss: f64,
    pub losses: Vec<f64>,
    pub lse: Vec<f64>,
    pub grad: Vec<f64>,
}

impl Found {
    pub fn bits(&self) -> Vec<u64> {
        let all = self.losses.iter().chain(&self.lse).chain(&self.grad).chain([&self.loss]);
        all.map(|x| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() }).collect()
    }
}

/// Every output, in memory that is watched.
pub fn find(distillation: &Distillation, pair: &DoublePair, call: &Call<'_>) -> Found {
    let DoublePair { rows, classes, .. } = *pair;
    let mut student = Watched::holding(&pair.student, rows, classes);
    let teacher = Watched::holding(&pair.teacher, rows, classes);
    let mut grad = Watched::new(rows, classes);
    let (mut losses, mut lse) = (vec![7.0; rows], vec![7.0; rows]);
    let upstream = widened(call.upstream);
    let request = request(call, upstream.as_deref()).losses(&mut losses).lse(&mut lse);
    let summary = if call.in_place {
        distillation.run_in_place(student.matrix_mut(), teacher.matrix(), request)
    } else {
        distillation.run(student.matrix(), teacher.matrix(), request.grad(grad.matrix_mut()))
    };
    let loss = summary.unwrap().loss;
    let same = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
    assert!(same(&teacher.elements("teacher"), &pair.teacher), "the teacher after the call");
    if call.in_place {
        core::mem::swap(&mut student, &mut grad);
    } else {
        assert!(same(&student.elements("student"), &pair.student), "the student after the call");
    }
    Found { loss, losses, lse, grad: grad.elements("grad") }
}

/// The softmax of a row at a temperature.
struct Exact {
    probabilities: Vec<DoubleDouble>,
    /// 1 - p_c.
    complements: Vec<DoubleDouble>,
    log_probabilities: Vec<DoubleDouble>,
    /// |d_c|; 0 for masked classes.
    gaps: Vec<f64>,
    mean_gap: f64,
    max: DoubleDouble,
    ln_sum: DoubleDouble,
}

impl Exact {
    /// Nothing, of a row without a softmax.
    fn new(x: &[f64], temperature: f64) -> Option<Self> {
        let largest = (0..x.len()).fold(0, |largest, i| if x[i] > x[largest] { i } else { largest });
        let max = x[largest];
        if x.iter().any(|x| x.is_nan()) || !max.is_finite() {
            return None;
        }
        let one = DoubleDouble::from(1.0);
        let d: Vec<_> = x.iter().map(|&x| DoubleDouble::sum(x, -max) / temperature.into()).collect();
        let exps: Vec<_> = d.iter().map(|d| d.exp()).collect();
        let rest: DoubleDouble = (0..x.len()).filter(|&c| c != largest).map(|c| exps[c]).sum();
        let (sum, ln_sum) = (rest + one, rest.ln_1p());
        let probabilities: Vec<_> = exps.iter().map(|&e| e / sum).collect();
        let complement = |c: usize| if c == largest { rest / sum } else { one - probabilities[c] };
        let gaps: Vec<_> = d.iter().map(|d| if d.high.is_finite() { -d.high } else { 0.0 }).collect();
        Some(Self {
            complements: (0..x.len()).map(complement).collect(),
            log_probabilities: d.iter().map(|&d| d - ln_sum).collect(),
            mean_gap: probabilities.iter().zip(&gaps).map(|(p, gap)| p.high * gap).sum(),
            max: DoubleDouble::from(max) / temperature.into(),
            probabilities,
            gaps,
            ln_sum,
        })
    }

    fn lse(&self) -> DoubleDouble {
        self.max + self.ln_sum
    }
}

/// What a student's row has, and a teacher's.
struct Row {
    student: Exact,
    teacher: Exact,
    temperature: f64,
}

impl Row {
    /// ln(p_c / q_c), and q_c (exp(r) - 1 - r) for it: p_c, where the teacher's probability counts as 0.
    fn term(&self, c: usize) -> (DoubleDouble, DoubleDouble) {
        let (p, q) = (self.student.probabilities[c], self.teacher.probabilities[c]);
        let (ln_p, ln_q) = (self.student.log_probabilities[c], self.teacher.log_probabilities[c]);
        if ln_q.high == f64::NEG_INFINITY || ln_p.high == f64::NEG_INFINITY && q.high < SMALLEST {
            return (0.0.into(), p);
        }
        let r = ln_p - ln_q;
        if r.high == f64::NEG_INFINITY {
            return (r, f64::INFINITY.into());
        }
        if r.high.abs() > 0.01 {
            return (r, p - q - q * r);
        }
        // exp(r) - 1 - r = r^2 / 2 (1 + r / 3 (1 + r / 4 (...)))
        let one = DoubleDouble::from(1.0);
        let series = (3..=16).rev().fold(one, |series, n| one + r / f64::from(n).into() * series);
        (r, q * r * r * 0.5.into() * series)
    }

    /// The divergence times T^2, and its bound.
    fn loss(&self) -> (DoubleDouble, f64) {
        let Self { student, teacher, temperature } = self;
        let constant = DISTILLATION + SCALARS_F64;
        let of_sums = 3.0 * (student.mean_gap + teacher.mean_gap) + constant;
        let (mut sum, mut bound) = (DoubleDouble::default(), (U * of_sums).powi(2));
        for c in 0..student.gaps.len() {
            let (r, term) = self.term(c);
            sum = sum + term;
            let difference = (student.probabilities[c] - teacher.probabilities[c]).high.abs();
            let gaps = student.gaps[c] + teacher.gaps[c] + r.high.abs();
            bound += U * (difference + term.high) * (DISTILLATION_GAPS * gaps + constant);
            bound += U * 3.0 * teacher.mean_gap * term.high + 2.0 * SMALLEST * (1.0 + r.high.abs());
        }
        let square = temperature * temperature;
        (sum * DoubleDouble::product(*temperature, *temperature), square * bound)
    }

    /// T (p - q) times `factor`, and its bound.
    fn gradient(&self, c: usize, factor: f64) -> (DoubleDouble, f64) {
        let Self { student, teacher, temperature } = self;
        let (p, q) = (student.probabilities[c], teacher.probabilities[c]);
        let are_near_1 = p.high > 0.5 && q.high > 0.5;
        let difference = if are_near_1 { teacher.complements[c] - student.complements[c] } else { p - q };
        let of = |exact: &Exact| {
            let relative = 3.0 * (exact.gaps[c] + exact.mean_gap) + DISTILLATION_GRADIENT + SCALARS_F64;
            exact.probabilities[c].high * relative * U
        };
        let factor = DoubleDouble::product(*temperature, factor);
        let size = factor.high.abs();
        let bound = size * (of(student) + of(teacher)) + 2.0 * SMALLEST * size.max(1.0);
        (difference * factor, bound)
    }
}

/// What a call should give, for any backend.
pub struct Expected {
    /// Nothing, of a row that has no softmax in one of the matrices.
    rows: Vec<Option<Row>>,
}

/// Shares of the bounds that were needed.
#[derive(Debug, Default)]
pub struct Shares {
    pub loss: f64,
    pub lse: f64,
    pub grad: f64,
    pub reduced: f64,
}

fn close(name: &str, found: f64, exact: DoubleDouble, bound: f64, share: &mut f64, context: &str) {
    assert!(!found.is_subnormal(), "{name} {found:e}, {context}");
    if found == exact.high {
        return;
    }
    let needed = (DoubleDouble::from(found) - exact).high.abs() / bound;
    assert!(needed <= 1.0, "{name} {found:e} instead of {:e}, {needed} of the bound, {context}", exact.high);
    *share = share.max(needed);
}

impl Expected {
    pub fn new(pair: &DoublePair, temperature: f64) -> Self {
        let row = |row: usize| {
            let student = Exact::new(pair.row_of(&pair.student, row), temperature)?;
            let teacher = Exact::new(pair.row_of(&pair.teacher, row), temperature)?;
            Some(Row { student, teacher, temperature })
        };
        Self { rows: (0..pair.rows).map(row).collect() }
    }

    /// Within the bounds of the contract.
    pub fn check(
        &self,
        distillation: &Distillation,
        call: &Call<'_>,
        found: &Found,
        shares: &mut Shares,
        context: &str,
    ) {
        let rows = self.rows.len();
        let classes = found.grad.len().checked_div(rows).unwrap_or(0);
        let counts = |row: usize| call.loss_mask.is_none_or(|mask| mask[row]);
        let weight: f64 = (0..rows).filter(|&row| counts(row)).map(|row| call.row_weight(row)).sum();
        let divisor = match (call.denominator, distillation.reduction()) {
            (Some(denominator), _) => denominator,
            (None, Reduction::Mean) => weight,
            (None, Reduction::Sum) => 1.0,
        };
        let (mut total, mut total_bound, mut is_nan) = (DoubleDouble::default(), 0.0, false);
        for row in 0..rows {
            let context = format!("row {row} of {rows} x {classes}, {context}");
            let grad = &found.grad[row * classes..][..classes];
            if !counts(row) {
                assert_eq!((found.losses[row], found.lse[row]), (0.0, 0.0), "{context}");
                assert!(grad.iter().all(|g| g.to_bits() == 0), "{context}");
                continue;
            }
            let Some(exact) = &self.rows[row] else {
                assert!(found.losses[row].is_nan() && found.lse[row].is_nan(), "{context}");
                assert!(grad.iter().all(|g| g.is_nan()), "{context}");
                is_nan = true;
                continue;
            };
            let row_weight = call.row_weight(row);
            let (loss, bound) = exact.loss();
            // An infinite one too.
            let is_weightless = row_weight == 0.0;
            let loss = if is_weightless { 0.0.into() } else { loss * row_weight.into() };
            let bound = if is_weightless { 0.0 } else { bound * row_weight + SMALLEST };
            close("loss", found.losses[row], loss, bound, &mut shares.loss, &context);
            assert!(found.losses[row] >= 0.0, "{context}");
            (total, total_bound) = (total + loss, total_bound + bound);
            let student = &exact.student;
            let size = 1.0 + student.max.high.abs() + student.ln_sum.high;
            let bound = U * (3.0 * student.mean_gap + LSE + SCALARS_F64) * size;
            close("lse", found.lse[row], student.lse(), bound, &mut shares.lse, &context);
            let of_reduction = if divisor == 0.0 { 0.0 } else { 1.0 / divisor };
            let reduced = call.upstream.map_or(of_reduction, |upstream| f64::from(upstream[row]));
            let factor = reduced * row_weight * call.upstream_scalar.unwrap_or(1.0);
            for (c, &g) in grad.iter().enumerate() {
                let (exact, bound) = exact.gradient(c, factor);
                close("grad", g, exact, bound, &mut shares.grad, &format!("column {c}, {context}"));
            }
        }
        if is_nan || divisor == 0.0 {
            let is_zero = !is_nan && distillation.empty_mean() == EmptyMean::Zero;
            let is_expected = if is_zero { found.loss == 0.0 } else { found.loss.is_nan() };
            assert!(is_expected, "{}, {context}", found.loss);
            return;
        }
        let loss = total / divisor.into();
        let bound = total_bound / divisor + REDUCED_F64 * U * loss.high + SMALLEST;
        close("reduced loss", found.loss, loss, bound, &mut shares.reduced, context);
    }
}
