//! The crate's calls among the contestants.

use std::hint::black_box;

use xent::{CrossEntropy, Parallelism};

use crate::calls::Call;
use crate::rounds::{Contestant, Work};

pub fn contestant(call: Call, targets: &[i64], threads: Parallelism) -> Result<Contestant<'_>, xent::Error> {
    let ce = CrossEntropy::builder().parallelism(threads).build()?;
    let run = move |x: &[f32], out: &mut [f32]| {
        black_box(call.run(&ce, x, out, targets)).expect("the same call was checked before");
    };
    Ok(Contestant { work: Work::Kernel(call), in_place: call == Call::InPlace, run: Box::new(run) })
}
