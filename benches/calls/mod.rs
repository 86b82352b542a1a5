//! The calls that are timed, what they are timed on, and whether their results are right.

use std::error::Error;

use xent::{CrossEntropy, Matrix, MatrixMut, Request, reference};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Loss,
    InPlace,
    OutOfPlace,
}

impl Call {
    pub const ALL: [Self; 3] = [Self::Loss, Self::InPlace, Self::OutOfPlace];

    pub fn name(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::InPlace => "loss_and_grad_in_place",
            Self::OutOfPlace => "loss_and_grad",
        }
    }

    /// Bytes that cannot but be moved: 4 are read, and 4 written where there is a gradient.
    pub fn bytes_per_element(self) -> usize {
        match self {
            Self::Loss => 4,
            Self::InPlace | Self::OutOfPlace => 8,
        }
    }

    /// The loss of logits `x`, or of those in `out` if it is in place; the gradient is left in `out`.
    pub fn run(
        self,
        ce: &CrossEntropy,
        x: &[f32],
        out: &mut [f32],
        targets: &[i64],
    ) -> Result<f64, xent::Error> {
        let rows = targets.len();
        let classes = x.len() / rows;
        match self {
            Self::Loss => ce.loss(Matrix::new(x, rows, classes)?, targets),
            Self::InPlace => ce.loss_and_grad_in_place(MatrixMut::new(out, rows, classes)?, targets),
            Self::OutOfPlace => {
                ce.loss_and_grad(Matrix::new(x, rows, classes)?, targets, MatrixMut::new(out, rows, classes)?)
            }
        }
    }
}

/// The same numbers in every run (xorshift).
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// 24 bits.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 40
    }

    /// Sums of four, which are bell-shaped: from -8 to 8, with a standard deviation of 2.3.
    pub fn logits(&mut self, out: &mut [f32]) {
        for x in out {
            let sum: u64 = (0..4).map(|_| self.next()).sum();
            *x = sum as f32 * (4.0 / (1 << 24) as f32) - 8.0;
        }
    }

    pub fn targets(&mut self, rows: usize, classes: usize) -> Vec<i64> {
        (0..rows).map(|_| (self.next() % classes as u64) as i64).collect()
    }
}

/// Relative. Far above the crate's bounds for such logits, and far below any mistake.
const TOLERANCE: f64 = 1e-5;

/// Elements that the reference is asked for, which is slow.
const CHECKED_ELEMENTS: usize = 1 << 17;

/// All calls of `ce`, a mean, against the reference; of many rows, on some from the first to the last.
///
/// # Panics
/// If a result is wrong.
pub fn check(ce: &CrossEntropy, x: &[f32], out: &mut [f32], targets: &[i64]) -> Result<(), Box<dyn Error>> {
    let rows = targets.len();
    let classes = x.len() / rows;
    let step = rows.div_ceil((CHECKED_ELEMENTS / classes).max(1));
    let checked_targets: Vec<i64> = targets.iter().copied().step_by(step).collect();
    let checked = checked_targets.len();
    let sample = Matrix::with_row_stride(x, checked, classes, step * classes)?;
    let expected = reference::cross_entropy(ce, sample, &checked_targets)?;

    let mut losses = vec![f32::NAN; rows];
    let loss = ce.run(Matrix::new(x, rows, classes)?, targets, Request::new().losses(&mut losses))?.loss;
    for (actual, expected) in losses.iter().step_by(step).zip(&expected.losses) {
        assert_close(f64::from(*actual), *expected);
    }
    let mean = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / rows as f64;
    assert_close(loss, mean);

    for call in Call::ALL {
        match call {
            Call::InPlace => out.copy_from_slice(x),
            Call::Loss | Call::OutOfPlace => out.fill(f32::NAN),
        }
        assert_eq!(call.run(ce, x, out, targets)?, loss, "{}", call.name());
        if call == Call::Loss {
            continue;
        }
        let checked_rows = out.chunks_exact(classes).step_by(step);
        for (row, expected) in checked_rows.zip(expected.grad.chunks_exact(classes)) {
            for (actual, expected) in row.iter().zip(expected) {
                // Gradients of means: of all rows here, of the checked ones there.
                assert_close(f64::from(*actual) * rows as f64, expected * checked as f64);
            }
        }
    }
    Ok(())
}

fn assert_close(actual: f64, expected: f64) {
    assert!((actual - expected).abs() <= TOLERANCE * expected.abs(), "{actual} instead of {expected}");
}
