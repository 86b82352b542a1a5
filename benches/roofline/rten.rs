//! Against the softmax of `rten-vecmath`: one thread, no loss, no gradient; the fastest of its kind in Rust.
#![allow(unsafe_code)]

use std::error::Error;
use std::hint::black_box;
use std::mem::MaybeUninit;

use rten_simd::SimdOp as _;
use rten_vecmath::Softmax;
use xent::{Matrix, MatrixMut, Parallelism};

use crate::buffers::Buffers;
use crate::calls::Call;
use crate::kernel;
use crate::rounds::{Contestant, Regime, Times, Work, take_turns};
use crate::rounds_of;

pub const SHAPES: [(usize, usize); 5] = [(128, 128_256), (1024, 1000), (32, 1000), (4096, 10), (1, 1000)];

/// Small shapes are timed on several sets of buffers at once, as many as the second-level cache holds with ease.
const BYTES_OF_ALL_SETS: usize = 256 << 10;

/// Loss and gradient on all threads and on one, and the softmax on one; each out of place and in place.
pub struct VersusRten {
    pub shape: (usize, usize),
    pub out_of_place: [Times; 3],
    pub in_place: [Times; 3],
}

pub fn versus((rows, classes): (usize, usize), rounds: usize) -> Result<VersusRten, Box<dyn Error>> {
    let sets = (BYTES_OF_ALL_SETS / (2 * rows * classes * size_of::<f32>())).max(1);
    let mut buffers = Buffers::new(rows, classes, sets);
    check(&mut buffers)?;

    let targets = buffers.targets.clone();
    let contestants = [
        kernel::contestant(Call::OutOfPlace, &targets, Parallelism::Rayon)?,
        kernel::contestant(Call::OutOfPlace, &targets, Parallelism::Serial)?,
        softmax_contestant(classes, false),
        kernel::contestant(Call::InPlace, &targets, Parallelism::Rayon)?,
        kernel::contestant(Call::InPlace, &targets, Parallelism::Serial)?,
        softmax_contestant(classes, true),
    ];
    let rounds = rounds_of(buffers.elements() * sets, rounds);
    let times = take_turns(&contestants, &mut buffers, Regime::Cache, rounds);
    let [a, b, c, d, e, f] = times.try_into().map_err(|_| "one time for each contestant")?;
    Ok(VersusRten { shape: (rows, classes), out_of_place: [a, b, c], in_place: [d, e, f] })
}

fn softmax_contestant(classes: usize, in_place: bool) -> Contestant<'static> {
    let run = move |x: &[f32], out: &mut [f32]| {
        if in_place { softmax_in_place(out, classes) } else { softmax(x, out, classes) }
    };
    Contestant { work: Work::RtenSoftmax, in_place, run: Box::new(run) }
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

/// Both softmaxes are one.
fn check(buffers: &mut Buffers) -> Result<(), xent::Error> {
    let (rows, classes) = (buffers.rows, buffers.classes);
    let (x, out) = buffers.set(0);
    let mut expected = vec![f32::NAN; x.len()];
    xent::softmax(Matrix::new(x, rows, classes)?, MatrixMut::new(&mut expected, rows, classes)?)?;
    for in_place in [false, true] {
        out.copy_from_slice(x);
        (softmax_contestant(classes, in_place).run)(x, out);
        for (actual, expected) in out.iter().zip(&expected) {
            assert!((actual - expected).abs() <= 1e-4 * expected, "{actual} is not {expected}");
        }
    }
    Ok(())
}
