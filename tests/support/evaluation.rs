//! Every output of a call, to compare.

use super::batch::Batch;
use super::buffer::{Buffer, Layout};
use core::ops::Range;
use xent::reference::{self, Outcome};
use xent::{CrossEntropy, Element, Error, Matrix, MatrixMut, Request, Summary};

/// How a call is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call<'a> {
    /// In the place of the batch's targets, rows x classes.
    pub target_probabilities: Option<&'a [f32]>,
    pub upstream: Option<&'a [f32]>,
    pub upstream_scalar: Option<f64>,
    pub row_weights: Option<&'a [f32]>,
    pub loss_mask: Option<&'a [bool]>,
    pub denominator: Option<f64>,
    pub logits: Layout,
    pub outputs: Layout,
    pub in_place: bool,
}

/// Of the classes; 1 where they have none.
pub fn largest_weight(ce: &CrossEntropy) -> f64 {
    ce.weight().map_or(1.0, |weight| weight.iter().fold(0.0, |a: f64, &b| a.max(b.into())))
}

/// Every output of a call.
#[derive(Clone, Debug)]
pub struct Evaluation {
    pub classes: usize,
    pub loss: f64,
    pub weight: f64,
    pub counted: usize,
    pub correct: usize,
    pub grad: Vec<f32>,
    pub losses: Vec<f32>,
    pub lse: Vec<f32>,
    pub target_log_probabilities: Vec<f32>,
    pub argmax_probabilities: Vec<f32>,
    pub entropies: Vec<f32>,
    pub argmax: Vec<usize>,
    pub target_ranks: Vec<usize>,
    pub probabilities: Vec<f32>,
    pub log_probabilities: Vec<f32>,
}

impl<'a> Call<'a> {
    /// Its inputs.
    pub fn request<T: Element<PerRow = f32>>(&self) -> Request<'a, T> {
        let mut request = Request::new();
        if let Some(upstream) = self.upstream {
            request = request.upstream(upstream);
        }
        if let Some(upstream_scalar) = self.upstream_scalar {
            request = request.upstream_scalar(upstream_scalar);
        }
        if let Some(row_weights) = self.row_weights {
            request = request.row_weights(row_weights);
        }
        if let Some(loss_mask) = self.loss_mask {
            request = request.loss_mask(loss_mask);
        }
        if let Some(denominator) = self.denominator {
            request = request.denominator(denominator);
        }
        request
    }

    /// Whether a row counts.
    pub fn counts(&self, ce: &CrossEntropy, batch: &Batch, row: usize) -> bool {
        let has_class = !ce.ignore_indices().contains(&batch.targets[row]);
        (has_class || self.target_probabilities.is_some()) && self.loss_mask.is_none_or(|mask| mask[row])
    }

    /// With the batch's targets or with probabilities.
    pub fn run<T: Element<PerRow = f32>>(
        &self,
        ce: &CrossEntropy,
        logits: Matrix<'_, T>,
        batch: &Batch,
        request: Request<'_, T>,
    ) -> Result<Summary, Error> {
        match self.target_probabilities {
            Some(q) => ce.run_probabilities(logits, Matrix::new(q, batch.rows, batch.classes)?, request),
            None => ce.run(logits, &batch.targets, request),
        }
    }

    pub fn run_in_place<T: Element<PerRow = f32>>(
        &self,
        ce: &CrossEntropy,
        logits: MatrixMut<'_, T>,
        batch: &Batch,
        request: Request<'_, T>,
    ) -> Result<Summary, Error> {
        match self.target_probabilities {
            Some(q) => {
                ce.run_probabilities_in_place(logits, Matrix::new(q, batch.rows, batch.classes)?, request)
            }
            None => ce.run_in_place(logits, &batch.targets, request),
        }
    }

    /// What the reference gives for these logits.
    pub fn reference(&self, ce: &CrossEntropy, logits: &[f32], batch: &Batch) -> Outcome {
        let (rows, classes) = (batch.rows, batch.classes);
        let matrix = |x| Matrix::new(x, rows, classes).expect("the shape fits");
        let (x, request) = (matrix(logits), self.request());
        let outcome = match self.target_probabilities {
            Some(q) => reference::run_probabilities(ce, x, matrix(q), &request),
            None => reference::run(ce, x, &batch.targets, &request),
        };
        outcome.expect("the batch is valid")
    }

    /// What is about the class of a target: 0 where the row does not count, and NaN where its target is no class.
    pub fn without_classes(&self, rows: usize) -> (Vec<f32>, Vec<usize>) {
        let counts = |row: usize| self.loss_mask.is_none_or(|mask| mask[row]);
        let log_probability = |row| if counts(row) { f32::NAN } else { 0.0 };
        ((0..rows).map(log_probability).collect(), vec![usize::MAX; rows])
    }

    pub fn row_weight(&self, row: usize) -> f64 {
        self.row_weights.map_or(1.0, |weights| f64::from(weights[row]))
    }

    /// Asks for every output. Outputs hold canaries before; canaries around them, and around the logits, live on.
    pub fn evaluate(&self, ce: &CrossEntropy, batch: &Batch) -> Evaluation {
        let (rows, classes) = (batch.rows, batch.classes);
        let column = Layout { padding: 0, ..self.outputs };
        let mut logits = Buffer::holding(&batch.logits, rows, classes, self.logits);
        let mut grad = Buffer::unwritten(rows, classes, self.outputs);
        let mut probabilities = Buffer::unwritten(rows, classes, self.outputs);
        let mut log_probabilities = Buffer::unwritten(rows, classes, self.outputs);
        let mut losses = Buffer::unwritten(rows, 1, column);
        let mut lse = Buffer::unwritten(rows, 1, column);
        let mut target_log_probabilities = Buffer::unwritten(rows, 1, column);
        let mut argmax_probabilities = Buffer::unwritten(rows, 1, column);
        let mut entropies = Buffer::unwritten(rows, 1, column);
        let mut argmax = vec![usize::MAX - 1; rows];
        let mut target_ranks = vec![usize::MAX - 1; rows];

        let mut request = self
            .request()
            .losses(losses.column_mut())
            .lse(lse.column_mut())
            .argmax_probabilities(argmax_probabilities.column_mut())
            .entropies(entropies.column_mut())
            .argmax(&mut argmax)
            .probabilities(probabilities.matrix_mut())
            .log_probabilities(log_probabilities.matrix_mut());
        if self.target_probabilities.is_none() {
            request = request
                .target_log_probabilities(target_log_probabilities.column_mut())
                .target_ranks(&mut target_ranks);
        }
        let summary = if self.in_place {
            self.run_in_place(ce, logits.matrix_mut(), batch, request)
        } else {
            self.run(ce, logits.matrix(), batch, request.grad(grad.matrix_mut()))
        };
        let Summary { loss, weight, counted, correct, .. } = summary.expect("the batch is valid");

        if self.in_place {
            grad.assert_unwritten("the unused gradient");
            core::mem::swap(&mut grad, &mut logits);
        } else {
            assert_same_bits(
                "logits",
                classes,
                &logits.elements(),
                &batch.logits,
                "before and after the call",
            );
        }
        logits.assert_canaries_live("logits");
        grad.assert_canaries_live("grad");
        probabilities.assert_canaries_live("probabilities");
        log_probabilities.assert_canaries_live("log_probabilities");
        losses.assert_canaries_live("losses");
        lse.assert_canaries_live("lse");
        target_log_probabilities.assert_canaries_live("target_log_probabilities");
        argmax_probabilities.assert_canaries_live("argmax_probabilities");
        entropies.assert_canaries_live("entropies");

        let mut target_log_probabilities = target_log_probabilities.elements();
        if self.target_probabilities.is_some() {
            (target_log_probabilities, target_ranks) = self.without_classes(rows);
        }
        Evaluation {
            classes,
            loss,
            weight,
            counted,
            correct,
            grad: grad.elements(),
            losses: losses.elements(),
            lse: lse.elements(),
            target_log_probabilities,
            argmax_probabilities: argmax_probabilities.elements(),
            entropies: entropies.elements(),
            argmax,
            target_ranks,
            probabilities: probabilities.elements(),
            log_probabilities: log_probabilities.elements(),
        }
    }
}

impl Evaluation {
    /// One row's outputs, with the numbers of the whole batch.
    pub fn row(&self, row: usize) -> Self {
        let columns = row * self.classes..(row + 1) * self.classes;
        Self {
            grad: self.grad[columns.clone()].to_vec(),
            losses: vec![self.losses[row]],
            lse: vec![self.lse[row]],
            target_log_probabilities: vec![self.target_log_probabilities[row]],
            argmax_probabilities: vec![self.argmax_probabilities[row]],
            entropies: vec![self.entropies[row]],
            argmax: vec![self.argmax[row]],
            target_ranks: vec![self.target_ranks[row]],
            probabilities: self.probabilities[columns.clone()].to_vec(),
            log_probabilities: self.log_probabilities[columns].to_vec(),
            ..*self
        }
    }

    /// Every output of the plainest call.
    pub fn of(ce: &CrossEntropy, batch: &Batch) -> Self {
        Call::default().evaluate(ce, batch)
    }

    /// The outputs that have a value, or a row of them, for each row; each with its name and its width.
    fn by_row(&self) -> [(&'static str, usize, &[f32]); 8] {
        [
            ("grad", self.classes, &self.grad),
            ("losses", 1, &self.losses),
            ("lse", 1, &self.lse),
            ("target_log_probabilities", 1, &self.target_log_probabilities),
            ("argmax_probabilities", 1, &self.argmax_probabilities),
            ("entropies", 1, &self.entropies),
            ("probabilities", self.classes, &self.probabilities),
            ("log_probabilities", self.classes, &self.log_probabilities),
        ]
    }

    /// Checks that these rows have the same bits in every output as `rows` of `other`.
    pub fn assert_rows_equal(&self, other: &Self, rows: Range<usize>, context: &str) {
        for ((name, width, ours), (_, _, theirs)) in self.by_row().into_iter().zip(other.by_row()) {
            let theirs = &theirs[rows.start * width..rows.end * width];
            assert_same_bits(name, width, ours, theirs, context);
        }
        assert_eq!(self.argmax, other.argmax[rows.clone()], "argmax, {context}");
        assert_eq!(self.target_ranks, other.target_ranks[rows], "target_ranks, {context}");
    }

    /// Checks that every output has the same bits.
    pub fn assert_equal(&self, other: &Self, context: &str) {
        self.assert_rows_equal(other, 0..other.losses.len(), context);
        assert_eq!(
            self.loss.to_bits(),
            other.loss.to_bits(),
            "loss {} and {}, {context}",
            self.loss,
            other.loss
        );
        assert_eq!(self.weight.to_bits(), other.weight.to_bits(), "weight, {context}");
        assert_eq!(self.counted, other.counted, "counted, {context}");
        assert_eq!(self.correct, other.correct, "correct, {context}");
    }

    /// Whether every output has the same bits.
    pub fn has_bits_of(&self, other: &Self) -> bool {
        let numbers = |of: &Self| (of.loss.to_bits(), of.weight.to_bits(), of.counted, of.correct);
        let indices = |of: &Self| (of.argmax.clone(), of.target_ranks.clone());
        let bits = |x| bytemuck::cast_slice::<f32, u32>(x);
        numbers(self) == numbers(other)
            && indices(self) == indices(other)
            && self
                .by_row()
                .into_iter()
                .zip(other.by_row())
                .all(|((.., ours), (.., theirs))| bits(ours) == bits(theirs))
    }

    /// Checks that no output holds a subnormal number.
    pub fn assert_no_subnormal(&self, context: &str) {
        for (name, width, values) in self.by_row() {
            if let Some(at) = values.iter().position(|x| x.is_subnormal()) {
                panic!("{name}, row {}, column {}: {:e}, {context}", at / width, at % width, values[at]);
            }
        }
    }
}

/// Checks that two outputs have the same bits.
pub fn assert_same_bits(name: &str, width: usize, ours: &[f32], theirs: &[f32], context: &str) {
    assert_eq!(ours.len(), theirs.len(), "{name}, {context}");
    if bytemuck::cast_slice::<_, u32>(ours) == bytemuck::cast_slice::<_, u32>(theirs) {
        return;
    }
    let different = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
    if let Some(at) = ours.iter().zip(theirs).position(different) {
        panic!(
            "{name}, row {}, column {}: {:e} ({:#010x}) and {:e} ({:#010x}), {context}",
            at / width,
            at % width,
            ours[at],
            ours[at].to_bits(),
            theirs[at],
            theirs[at].to_bits()
        );
    }
}
