//! Calls on logits of 16 bits, in memory that is watched.

use super::batch::Batch;
use super::bounds::Rounding;
use super::buffer::Layout;
use super::evaluation::{Call, Evaluation, assert_same_bits};
use super::other_grad;
use super::shards::Split;
use core::fmt::Debug;
use core::ops::Range;
use half::{bf16, f16};
use xent::{CrossEntropy, Matrix, MatrixMut, RowState, ShardElement, contract};

/// A 16-bit dtype.
pub trait Half: ShardElement<State = RowState> + bytemuck::Pod + Debug + PartialEq {
    const NAME: &'static str;
    const ROUNDING: Rounding;
    const OF_LOGITS: other_grad::Dtype;
    /// A NaN that no computation makes.
    const CANARY: u16;

    fn from_f32(x: f32) -> Self;
    fn to_f32(self) -> f32;
    fn bits(self) -> u16;
    fn from_bits(bits: u16) -> Self;
}

macro_rules! halves {
    ($half:ident, $of_logits:expr, $rounding:expr, $canary:expr) => {
        impl Half for $half {
            const NAME: &'static str = stringify!($half);
            const ROUNDING: Rounding = $rounding;
            const OF_LOGITS: other_grad::Dtype = $of_logits;
            const CANARY: u16 = $canary;

            fn from_f32(x: f32) -> Self {
                $half::from_f32(x)
            }

            fn to_f32(self) -> f32 {
                $half::to_f32(self)
            }

            fn bits(self) -> u16 {
                self.to_bits()
            }

            fn from_bits(bits: u16) -> Self {
                $half::from_bits(bits)
            }
        }
    };
}

halves!(
    bf16,
    other_grad::Dtype::Bf16,
    Rounding { unit: contract::U_BF16, half_of_smallest: 0.0, largest: bf16::MAX.to_f64_const() },
    0x7fca
);
halves!(
    f16,
    other_grad::Dtype::F16,
    Rounding {
        unit: contract::U_F16,
        half_of_smallest: contract::SMALLEST_F16 / 2.0,
        largest: f16::MAX.to_f64_const()
    },
    0x7eca
);

/// The same batch, its logits rounded to `T`.
pub fn rounded<T: Half>(batch: &Batch) -> Batch {
    let logits = batch.logits.iter().map(|&x| T::from_f32(x).to_f32()).collect();
    Batch { logits, ..batch.clone() }
}

pub fn narrow<T: Half>(x: &[f32]) -> Vec<T> {
    x.iter().map(|&x| T::from_f32(x)).collect()
}

pub fn widen<T: Half>(x: &[T]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

/// A matrix with canaries before it, behind it and between its rows.
pub struct HalfBuffer<T> {
    memory: Vec<T>,
    start: usize,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<T: Half> HalfBuffer<T> {
    /// A matrix of canaries.
    pub fn unwritten(rows: usize, cols: usize, layout: Layout) -> Self {
        const LINE: usize = 32;
        let stride = cols + layout.padding;
        let memory = vec![T::from_bits(T::CANARY); rows * stride + 4 * LINE + layout.offset];
        let to_line = memory.as_ptr().addr().wrapping_neg() % 64 / 2;
        Self { memory, start: LINE + to_line + layout.offset, rows, cols, stride }
    }

    /// A matrix with these elements.
    pub fn holding(elements: &[f32], rows: usize, cols: usize, layout: Layout) -> Self {
        let mut buffer = Self::unwritten(rows, cols, layout);
        for row in 0..rows {
            for col in 0..cols {
                let at = buffer.start + row * buffer.stride + col;
                buffer.memory[at] = T::from_f32(elements[row * cols + col]);
            }
        }
        buffer
    }

    fn len(&self) -> usize {
        self.rows.saturating_sub(1) * self.stride + if self.rows == 0 { 0 } else { self.cols }
    }

    pub fn matrix(&self) -> Matrix<'_, T> {
        let memory = &self.memory[self.start..][..self.len()];
        Matrix::with_row_stride(memory, self.rows, self.cols, self.stride)
            .expect("the buffer is large enough")
    }

    pub fn matrix_mut(&mut self) -> MatrixMut<'_, T> {
        let len = self.len();
        let memory = &mut self.memory[self.start..][..len];
        MatrixMut::with_row_stride(memory, self.rows, self.cols, self.stride)
            .expect("the buffer is large enough")
    }

    /// The elements without the padding; every canary must have lived.
    pub fn elements(&self, name: &str) -> Vec<f32> {
        let mut elements = Vec::with_capacity(self.rows * self.cols);
        for (at, x) in self.memory.iter().enumerate() {
            let here =
                at.checked_sub(self.start).map(|at| (at / self.stride.max(1), at % self.stride.max(1)));
            match here {
                Some((row, col)) if row < self.rows && col < self.cols => elements.push(x.to_f32()),
                _ => assert_eq!(x.bits(), T::CANARY, "{name}: written at {at} of {here:?}"),
            }
        }
        elements
    }
}

/// Every output of a call on logits of this type, those of 16 bits widened.
pub fn evaluate<T: Half>(call: &Call<'_>, ce: &CrossEntropy, batch: &Batch) -> Evaluation {
    let (rows, classes) = (batch.rows, batch.classes);
    let mut logits = HalfBuffer::<T>::holding(&batch.logits, rows, classes, call.logits);
    let [mut grad, mut probabilities, mut log_probabilities] =
        [(); 3].map(|()| HalfBuffer::<T>::unwritten(rows, classes, call.outputs));
    let [mut losses, mut lse, mut target_log_probabilities, mut argmax_probabilities, mut entropies] =
        [(); 5].map(|()| vec![-1.0; rows]);
    let [mut argmax, mut target_ranks] = [(); 2].map(|()| vec![usize::MAX - 1; rows]);
    let mut request = call
        .request()
        .losses(&mut losses)
        .lse(&mut lse)
        .argmax_probabilities(&mut argmax_probabilities)
        .entropies(&mut entropies)
        .argmax(&mut argmax)
        .probabilities(probabilities.matrix_mut())
        .log_probabilities(log_probabilities.matrix_mut());
    if call.target_probabilities.is_none() {
        request =
            request.target_log_probabilities(&mut target_log_probabilities).target_ranks(&mut target_ranks);
    }
    let summary = if call.in_place {
        call.run_in_place(ce, logits.matrix_mut(), batch, request)
    } else {
        call.run(ce, logits.matrix(), batch, request.grad(grad.matrix_mut()))
    };
    let summary = summary.expect("the batch is valid");
    if call.in_place {
        core::mem::swap(&mut grad, &mut logits);
    }
    logits.elements("logits");
    if call.target_probabilities.is_some() {
        (target_log_probabilities, target_ranks) = call.without_classes(rows);
    }
    Evaluation {
        classes,
        loss: summary.loss,
        weight: summary.weight,
        counted: summary.counted,
        correct: summary.correct,
        grad: grad.elements("grad"),
        losses,
        lse,
        target_log_probabilities,
        argmax_probabilities,
        entropies,
        argmax,
        target_ranks,
        probabilities: probabilities.elements("probabilities"),
        log_probabilities: log_probabilities.elements("log_probabilities"),
    }
}

/// Every output that there is of shards, and those of whole rows for the others.
pub fn evaluate_shards<T: Half>(
    split: &Split,
    call: &Call<'_>,
    ce: &CrossEntropy,
    batch: &Batch,
) -> Evaluation {
    let (rows, classes) = (batch.rows, batch.classes);
    let shards = call.shards(ce, batch);
    let columns_of = |range: &Range<usize>| {
        let elements: Vec<f32> = (0..rows).flat_map(|row| &batch.row(row)[range.clone()]).copied().collect();
        HalfBuffer::<T>::holding(&elements, rows, range.len(), call.logits)
    };
    let parts: Vec<_> = split.ranges.iter().map(columns_of).collect();
    let garbage = RowState::from_le_bytes([0xa5; RowState::BYTES]);
    let states = split.merged(rows, garbage, |part, states, accumulates| {
        let (columns, first_column) = (parts[part].matrix(), split.ranges[part].start);
        let summarised = match accumulates {
            true => shards.accumulate(columns, first_column, states),
            false => shards.summarise(columns, first_column, states),
        };
        summarised.expect("the shard is valid");
    });

    let mut found = evaluate::<T>(&Call { in_place: false, ..*call }, ce, batch);
    let summary = shards.losses(&states, &mut found.losses).expect("the states are complete");
    shards.lse(&states, &mut found.lse).expect("the states are complete");
    let written = shards.target_log_probabilities(&states, &mut found.target_log_probabilities);
    written.expect("the states are complete");
    found.loss = summary.loss;
    (found.weight, found.counted, found.correct) = (summary.weight, summary.counted, summary.correct);
    for (mut columns, range) in parts.into_iter().zip(&split.ranges) {
        let mut out = HalfBuffer::<T>::unwritten(rows, range.len(), call.outputs);
        let written = shards.grad(columns.matrix(), range.start, &states, out.matrix_mut());
        written.expect("the shard is valid");
        let grad = out.elements("grad");
        let written = shards.grad_in_place(columns.matrix_mut(), range.start, &states);
        written.expect("the shard is valid");
        assert_same_bits("grad", range.len(), &grad, &columns.elements("logits"), "in place and not");
        for row in 0..rows {
            let to = &mut found.grad[row * classes..][range.clone()];
            to.copy_from_slice(&grad[row * range.len()..][..range.len()]);
        }
    }
    found
}
