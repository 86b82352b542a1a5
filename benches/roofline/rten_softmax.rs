//! The softmax of `rten-vecmath`, row after row on one thread.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::mem::MaybeUninit;

use rten_simd::SimdOp as _;
use rten_vecmath::Softmax;
use xent::{Matrix, MatrixMut};

use crate::buffers::Buffers;
use crate::rounds::{Contestant, Work};

pub fn contestant(classes: usize, in_place: bool) -> Contestant<'static> {
    let run = move |x: &[f32], out: &mut [f32]| {
        if in_place { softmax_in_place(out, classes) } else { softmax(x, out, classes) }
    };
    Contestant { work: Work::Peer("RtenSoftmax"), in_place, run: Box::new(run) }
}

fn softmax(x: &[f32], out: &mut [f32], classes: usize) {
    for (x, out) in x.chunks_exact(classes).zip(out.chunks_exact_mut(classes)) {
        // SAFETY: the layouts are the same, and the operation writes floats, never uninitialised memory.
        let out = unsafe { &mut *(out as *mut [f32] as *mut [MaybeUninit<f32>]) };
        black_box(Softmax::new(x, out).dispatch());
    }
}

fn softmax_in_place(x: &mut [f32], classes: usize) {
    for x in x.chunks_exact_mut(classes) {
        black_box(Softmax::new_mut(x).dispatch());
    }
}

/// Both against the crate's own.
///
/// # Panics
/// If a result is wrong.
pub fn check(buffers: &mut Buffers) -> Result<(), xent::Error> {
    let (rows, classes) = (buffers.rows, buffers.classes);
    let (x, out) = buffers.set(0);
    let mut expected = vec![f32::NAN; x.len()];
    xent::softmax(Matrix::new(x, rows, classes)?, MatrixMut::new(&mut expected, rows, classes)?)?;
    for in_place in [false, true] {
        out.copy_from_slice(x);
        (contestant(classes, in_place).run)(x, out);
        for (actual, expected) in out.iter().zip(&expected) {
            assert!((actual - expected).abs() <= 1e-4 * expected, "{actual} is not {expected}");
        }
    }
    Ok(())
}
