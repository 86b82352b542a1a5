//! The calls of the crate that are measured.

use std::error::Error;
use std::hint::black_box;

use xent::{CrossEntropy, Matrix, MatrixMut, Parallelism, Request, reference};

use crate::buffers::Buffers;
use crate::rounds::{Contestant, Work};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Loss,
    InPlace,
    OutOfPlace,
}

impl Call {
    pub const ALL: [Self; 3] = [Self::Loss, Self::InPlace, Self::OutOfPlace];

    pub fn contestant(
        self,
        targets: &[i64],
        classes: usize,
        threads: Parallelism,
    ) -> Result<Contestant<'_>, xent::Error> {
        let ce = CrossEntropy::builder().parallelism(threads).build()?;
        let rows = targets.len();
        let run = move |x: &[f32], out: &mut [f32]| {
            let loss = match self {
                Self::Loss => Matrix::new(x, rows, classes).and_then(|logits| ce.loss(logits, targets)),
                Self::InPlace => MatrixMut::new(out, rows, classes)
                    .and_then(|logits| ce.loss_and_grad_in_place(logits, targets)),
                Self::OutOfPlace => Matrix::new(x, rows, classes).and_then(|logits| {
                    ce.loss_and_grad(logits, targets, MatrixMut::new(out, rows, classes)?)
                }),
            };
            black_box(loss.is_ok());
        };
        Ok(Contestant { work: Work::Kernel(self), in_place: self == Self::InPlace, run: Box::new(run) })
    }
}

/// Far above the crate's error bounds for these logits, far below any mistake.
const TOLERANCE: f64 = 1e-4;
const CHECKED_ROWS: usize = 2;

/// All calls against the reference, on the first rows.
///
/// # Panics
/// If a result is wrong.
pub fn check(buffers: &mut Buffers, threads: Parallelism) -> Result<(), Box<dyn Error>> {
    let (rows, classes) = (buffers.rows, buffers.classes);
    let targets = buffers.targets.clone();
    let ce = CrossEntropy::builder().parallelism(threads).build()?;
    let checked = rows.min(CHECKED_ROWS);
    let (x, out) = buffers.set(0);
    let expected = reference::cross_entropy(&ce, Matrix::new(x, checked, classes)?, &targets[..checked])?;
    let check_grad = |grad: &[f32]| {
        for (actual, expected) in grad.iter().zip(&expected.grad) {
            // Both are the gradient of a mean, over more rows here than there.
            let actual = f64::from(*actual) * rows as f64 / checked as f64;
            assert!((actual - expected).abs() <= TOLERANCE * expected.abs(), "{actual} is not {expected}");
        }
    };

    let mut losses = vec![f32::NAN; rows];
    let loss = ce.run(Matrix::new(x, rows, classes)?, &targets, Request::new().losses(&mut losses))?.loss;
    for (actual, expected) in losses.iter().zip(&expected.losses) {
        assert!((f64::from(*actual) - expected).abs() <= TOLERANCE * expected, "{actual} is not {expected}");
    }
    assert_eq!(ce.loss(Matrix::new(x, rows, classes)?, &targets)?, loss);
    out.fill(f32::NAN);
    assert_eq!(
        ce.loss_and_grad(Matrix::new(x, rows, classes)?, &targets, MatrixMut::new(out, rows, classes)?)?,
        loss
    );
    check_grad(out);
    out.copy_from_slice(x);
    assert_eq!(ce.loss_and_grad_in_place(MatrixMut::new(out, rows, classes)?, &targets)?, loss);
    check_grad(out);
    Ok(())
}
