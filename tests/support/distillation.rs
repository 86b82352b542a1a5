//! A student and a teacher, every output of a call on them in memory that is watched, and the bounds of the contract.

use super::batch::{Batch, Random};
#[cfg(feature = "half")]
use super::bounds::Rounding;
use super::bounds::is_nan_row;
use super::buffer::{Buffer, Layout};
use super::evaluation::{Call, assert_same_bits};
#[cfg(feature = "half")]
use super::halves::{Half, narrow};
use xent::contract::{DISTILLATION, DISTILLATION_GAPS, DISTILLATION_GRADIENT, LSE, U};
use xent::reference::{self, SoftmaxRow};
use xent::{Distillation, Matrix, MatrixMut, Reduction};

const SMALLEST: f64 = f32::MIN_POSITIVE as f64;

/// The logits of a student, and those of a teacher that resembles it in every way in turn.
pub struct Pair {
    pub student: Batch,
    pub teacher: Vec<f32>,
}

impl Pair {
    pub fn random(rows: usize, classes: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut student = Batch::random(rows, classes, seed);
        student.make_rows_count(&mut random);
        let mut teacher = Vec::with_capacity(rows * classes);
        let first_kind = random.below(9);
        for row in 0..rows {
            let x = student.row(row);
            let leader = random.below(classes);
            let live = random.below(classes);
            teacher.extend((0..classes).map(|c| match (first_kind + row) % 9 {
                0 => x[c],
                1 => x[c] + 1e-3 * random.normal(),
                2 => x[c] + 0.3 * random.normal(),
                3 => random.normal() + if c == leader { 25.0 } else { 0.0 },
                4 => random.between(-110.0, 0.0),
                // Masked classes, other ones than the student's.
                5 if c != live && random.below(3) == 0 => f32::NEG_INFINITY,
                // The same ones.
                6 if x[c] == f32::NEG_INFINITY => f32::NEG_INFINITY,
                7 => 500.0 + x[c].max(-1000.0),
                _ => 2.0 * random.normal(),
            }));
        }
        Self { student, teacher }
    }

    fn shape(&self) -> (usize, usize) {
        (self.student.rows, self.student.classes)
    }

    pub fn matrices(&self) -> [Matrix<'_>; 2] {
        let (rows, classes) = self.shape();
        [&self.student.logits, &self.teacher].map(|x| Matrix::new(x, rows, classes).unwrap())
    }

    fn teacher_row(&self, row: usize) -> &[f32] {
        &self.teacher[row * self.student.classes..][..self.student.classes]
    }

    /// The pair of these rows.
    pub fn select(&self, rows: &[usize]) -> Self {
        let teacher = rows.iter().flat_map(|&row| self.teacher_row(row)).copied().collect();
        Self { student: self.student.select(rows.iter().copied()), teacher }
    }
}

pub struct Found {
    pub loss: f64,
    pub losses: Vec<f32>,
    pub lse: Vec<f32>,
    pub grad: Vec<f32>,
}

/// Every output, in memory that is watched.
pub fn find(distillation: &Distillation, pair: &Pair, call: &Call<'_>) -> Found {
    let (rows, classes) = pair.shape();
    let mut student = Buffer::holding(&pair.student.logits, rows, classes, call.logits);
    let teacher = Buffer::holding(&pair.teacher, rows, classes, call.outputs);
    let mut grad = Buffer::unwritten(rows, classes, call.outputs);
    let column = || Buffer::unwritten(rows, 1, Layout::default());
    let (mut losses, mut lse) = (column(), column());
    let request = call.request().losses(losses.column_mut()).lse(lse.column_mut());
    let summary = if call.in_place {
        distillation.run_in_place(student.matrix_mut(), teacher.matrix(), request)
    } else {
        distillation.run(student.matrix(), teacher.matrix(), request.grad(grad.matrix_mut()))
    };
    let loss = summary.unwrap().loss;
    if call.in_place {
        grad.assert_unwritten("the unused gradient");
        core::mem::swap(&mut student, &mut grad);
    } else {
        assert_same_bits("student", classes, &student.elements(), &pair.student.logits, "after the call");
    }
    for (name, buffer) in
        [("student", &student), ("teacher", &teacher), ("grad", &grad), ("losses", &losses), ("lse", &lse)]
    {
        buffer.assert_canaries_live(name);
    }
    assert_same_bits("teacher", classes, &teacher.elements(), &pair.teacher, "after the call");
    Found { loss, losses: losses.elements(), lse: lse.elements(), grad: grad.elements() }
}

/// On logits of 16 bits a call gives what it gives on the same numbers in `f32`, its gradient rounded once. `pair` has
/// numbers that `T` has, and `found` is of a call on it.
#[cfg(feature = "half")]
pub fn check_halves<T: Half>(
    distillation: &Distillation,
    pair: &Pair,
    call: &Call<'_>,
    found: &Found,
    context: &str,
) {
    let (rows, classes) = pair.shape();
    let (student, teacher) = (narrow::<T>(&pair.student.logits), narrow::<T>(&pair.teacher));
    let teacher = Matrix::new(&teacher, rows, classes).unwrap();
    let mut grad = vec![T::from_f32(7.0); rows * classes];
    let mut losses = vec![7.0; rows];
    let request = call.request().grad(MatrixMut::new(&mut grad, rows, classes).unwrap()).losses(&mut losses);
    let x = Matrix::new(&student, rows, classes).unwrap();
    let loss = distillation.run(x, teacher, request).unwrap().loss;
    let mut in_place = student.clone();
    let x = MatrixMut::new(&mut in_place, rows, classes).unwrap();
    let same = distillation.run_in_place(x, teacher, call.request()).unwrap().loss;

    let context = format!("{}, {rows} x {classes}, {context}", T::NAME);
    assert_eq!(loss.to_bits(), found.loss.to_bits(), "{context}");
    assert_eq!(loss.to_bits(), same.to_bits(), "{context}");
    assert_same_bits("losses", 1, &losses, &found.losses, &context);
    let Rounding { unit, half_of_smallest, largest } = T::ROUNDING;
    for ((g, same), wanted) in grad.iter().zip(&in_place).zip(&found.grad) {
        assert_eq!(g.bits(), same.bits(), "{context}");
        // Where both rows are confident of a class, the gradient was no f32 before.
        let (value, wanted) = (f64::from(g.to_f32()), f64::from(*wanted));
        let bound = unit * wanted.abs() * (1.0 + 4.0 * U / unit) + half_of_smallest;
        let is_near = (value - wanted).abs() <= bound || value.is_nan() && wanted.is_nan();
        let is_too_large = value.is_infinite() && value * wanted > 0.0 && wanted.abs() + bound > largest;
        assert!(is_near || is_too_large, "{value:e} instead of {wanted:e}, {context}");
    }
}

/// A row in the terms of the contract.
struct Row {
    of_student: SoftmaxRow,
    of_teacher: SoftmaxRow,
    /// |d_c| and |e_c|, in nats; 0 for masked classes.
    gaps: [Vec<f64>; 2],
    /// D and E.
    mean_gaps: [f64; 2],
    temperature: f64,
}

impl Row {
    fn new(student: &[f32], teacher: &[f32], temperature: f64) -> Self {
        let gaps = [student, teacher].map(|x| {
            let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let gap =
                |x: &f32| if *x == f32::NEG_INFINITY { 0.0 } else { (max - f64::from(*x)) / temperature };
            x.iter().map(gap).collect::<Vec<_>>()
        });
        let [of_student, of_teacher] =
            [student, teacher].map(|x| reference::tempered_softmax_row(x, temperature));
        let mean_gap = |softmax: &SoftmaxRow, gaps: &[f64]| {
            softmax.probabilities.iter().zip(gaps).map(|(p, gap)| p * gap).sum::<f64>()
        };
        let mean_gaps = [mean_gap(&of_student, &gaps[0]), mean_gap(&of_teacher, &gaps[1])];
        Self { of_student, of_teacher, gaps, mean_gaps, temperature }
    }

    fn loss_bound(&self) -> f64 {
        let [_, mean_gap] = self.mean_gaps;
        let of_sums = 3.0 * self.mean_gaps.iter().sum::<f64>() + DISTILLATION;
        let mut bound = (U * of_sums).powi(2);
        for c in 0..self.gaps[0].len() {
            let (p, q) = (self.of_student.probabilities[c], self.of_teacher.probabilities[c]);
            let r = self.of_student.log_probabilities[c] - self.of_teacher.log_probabilities[c];
            // A class that is masked in one of them is p or infinite.
            let (r, term) = if r.is_finite() { (r, p - q - q * r) } else { (0.0, p) };
            let gaps = self.gaps[0][c] + self.gaps[1][c] + r.abs();
            let term = term.max(0.0);
            bound += U * ((p - q).abs() + term) * (DISTILLATION_GAPS * gaps + DISTILLATION);
            bound += U * 3.0 * mean_gap * term;
            bound += 2.0 * SMALLEST * (1.0 + r.abs());
        }
        self.temperature * self.temperature * bound
    }

    fn gradient_bound(&self, c: usize, factor: f64) -> f64 {
        let of = |softmax: &SoftmaxRow, which: usize| {
            let relative = 3.0 * (self.gaps[which][c] + self.mean_gaps[which]) + DISTILLATION_GRADIENT;
            softmax.probabilities[c] * relative * U
        };
        let factor = self.temperature * factor.abs();
        factor * (of(&self.of_student, 0) + of(&self.of_teacher, 1)) + 2.0 * SMALLEST * factor.max(1.0)
    }
}

/// Shares of the bounds that were needed.
#[derive(Debug, Default)]
pub struct Shares {
    pub loss: f64,
    pub grad: f64,
}

fn close(name: &str, found: f64, exact: f64, bound: f64, share: &mut f64, context: &str) {
    assert!(!(found as f32).is_subnormal() || name == "reduced loss", "{name} {found:e}, {context}");
    if found == exact || found.is_nan() && exact.is_nan() {
        return;
    }
    let largest = f64::from(f32::MAX);
    if found.is_infinite() && name != "reduced loss" && found * exact > 0.0 && exact.abs() + bound > largest {
        return;
    }
    let needed = (found - exact).abs() / bound;
    assert!(needed <= 1.0, "{name} {found:e} instead of {exact:e}, {needed} of the bound, {context}");
    *share = share.max(needed);
}

pub fn check(
    distillation: &Distillation,
    pair: &Pair,
    call: &Call<'_>,
    found: &Found,
    context: &str,
) -> Shares {
    let (rows, classes) = pair.shape();
    let [student, teacher] = pair.matrices();
    let exact = reference::run_distillation(distillation, student, teacher, &call.request()).unwrap();
    let divisor = match (call.denominator, distillation.reduction()) {
        (Some(denominator), _) => denominator,
        (None, Reduction::Mean) => exact.weight,
        (None, Reduction::Sum) => 1.0,
    };
    let (mut shares, mut total_bound) = (Shares::default(), 0.0);
    for row in 0..rows {
        let columns = row * classes..(row + 1) * classes;
        let context = format!("row {row} of {rows} x {classes}, {context}");
        if call.loss_mask.is_some_and(|mask| !mask[row]) {
            assert_eq!((found.losses[row], found.lse[row]), (0.0, 0.0), "{context}");
            assert!(found.grad[columns].iter().all(|&g| g.to_bits() == 0), "{context}");
            continue;
        }
        let terms = Row::new(pair.student.row(row), pair.teacher_row(row), distillation.temperature());
        let row_weight = call.row_weight(row);
        let bound = terms.loss_bound() * row_weight + SMALLEST;
        let loss = f64::from(found.losses[row]);
        close("loss", loss, exact.losses[row], bound, &mut shares.loss, &context);
        assert!(loss >= 0.0 || loss.is_nan(), "loss {loss:e}, {context}");
        total_bound += bound;
        let max = pair.student.row(row).iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // Of a teacher without a softmax there is nothing, the student's lse included.
        let is_nan = is_nan_row(pair.student.row(row)) || is_nan_row(pair.teacher_row(row));
        let lse = if is_nan { f64::NAN } else { exact.softmax[row].lse };
        let max = f64::from(max) / distillation.temperature();
        let of_lse = U * (3.0 * terms.mean_gaps[0] + LSE) * (1.0 + max.abs() + (lse - max));
        close("lse", f64::from(found.lse[row]), lse, of_lse, &mut 0.0, &context);
        let of_reduction = if divisor == 0.0 { 0.0 } else { 1.0 / divisor };
        let reduced = call.upstream.map_or(of_reduction, |upstream| f64::from(upstream[row]));
        let factor = reduced * row_weight * call.upstream_scalar.unwrap_or(1.0);
        // What multiplies the difference of probabilities is an f32.
        let share = (f64::from(f32::MAX) / (distillation.temperature() * factor).abs()).min(1.0);
        let factor = share * factor;
        for (c, column) in columns.enumerate() {
            let g = f64::from(found.grad[column]);
            let wanted = if is_nan { f64::NAN } else { share * exact.grad[column] };
            let bound = terms.gradient_bound(c, factor);
            close("grad", g, wanted, bound, &mut shares.grad, &format!("column {c}, {context}"));
        }
    }
    let bound = if divisor == 0.0 { 0.0 } else { total_bound / divisor } + U * exact.loss;
    close("reduced loss", found.loss, exact.loss, bound, &mut 0.0, context);
    shares
}
