//! Against the softmax of `rten-vecmath`: one thread, no loss, no gradient; the fastest of its kind in Rust.

use std::error::Error;

use xent::Parallelism;

use crate::buffers::Buffers;
use crate::calls::Call;
use crate::kernel;
use crate::rounds::{Regime, Times, take_turns};
use crate::rounds_of;
use crate::rten_softmax;

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
    rten_softmax::check(&mut buffers)?;

    let targets = buffers.targets.clone();
    let contestants = [
        kernel::contestant(Call::OutOfPlace, &targets, Parallelism::Rayon)?,
        kernel::contestant(Call::OutOfPlace, &targets, Parallelism::Serial)?,
        rten_softmax::contestant(classes, false),
        kernel::contestant(Call::InPlace, &targets, Parallelism::Rayon)?,
        kernel::contestant(Call::InPlace, &targets, Parallelism::Serial)?,
        rten_softmax::contestant(classes, true),
    ];
    let rounds = rounds_of(buffers.elements() * sets, rounds);
    let times = take_turns(&contestants, &mut buffers, Regime::Cache, rounds);
    let [a, b, c, d, e, f] = times.try_into().map_err(|_| "one time for each contestant")?;
    Ok(VersusRten { shape: (rows, classes), out_of_place: [a, b, c], in_place: [d, e, f] })
}
