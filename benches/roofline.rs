//! How close the kernel comes to what the machine can do.
//!
//! ```text
//! cargo bench --bench roofline              minutes; tables, and target/roofline.csv
//! cargo bench --bench roofline -- 128x      only the shapes whose name starts so
//! cargo bench --bench roofline -- --test    seconds; small shapes, every output checked, nothing reported
//! ```
//!
//! For every shape the kernel takes turns with loops that only move the same bytes, or only take as many exponentials,
//! on the same buffers, round after round. A share is the median over the rounds of the ratio of two times from one
//! round: what slows the machine for a while slows both.
//!
//! The bytes are those that no implementation can avoid, per `f32` logit: 4 for the loss alone, 8 with the gradient, in
//! place or not. A plain store to memory moves 4 more, because the caches read a line before they change it.

#[path = "roofline/buffers.rs"]
mod buffers;
mod calls;
#[path = "roofline/cpu.rs"]
mod cpu;
#[path = "roofline/kernel.rs"]
mod kernel;
#[path = "roofline/machine.rs"]
mod machine;
mod median;
#[path = "roofline/report.rs"]
mod report;
#[path = "roofline/rounds.rs"]
mod rounds;
#[path = "roofline/rten.rs"]
mod rten;
#[path = "roofline/rten_softmax.rs"]
mod rten_softmax;
#[cfg(target_arch = "x86_64")]
#[path = "roofline/x86_64.rs"]
mod x86_64;

use std::error::Error;

use xent::{CrossEntropy, Parallelism};

use crate::buffers::{Buffers, last_cache_bytes};
use crate::calls::Call;
use crate::machine::{ExpLoop, MemoryLoop};
use crate::report::{Report, Roofline};
use crate::rounds::{Contestant, Regime, take_turns};

const SHAPES: [(usize, usize); 5] =
    [(128, 128_256), (64, 262_144), (256, 32_000), (1024, 1000), (8192, 1000)];
const THREADS: [Parallelism; 2] = [Parallelism::Rayon, Parallelism::Serial];
/// At least; more where a round is short.
const ROUNDS: usize = 11;
/// What the rounds of short calls add up to.
const ELEMENTS_OF_ALL_ROUNDS: usize = 1 << 25;

fn main() -> Result<(), Box<dyn Error>> {
    // Calls come from a thread of the pool, as in a training loop that runs in one. For a call from outside, rayon puts
    // the caller to sleep and wakes the pool, and Linux may take 20 ms to give its threads a CPU each.
    let mut result = Ok(());
    rayon::scope(|_| result = run().map_err(|error| error.to_string()));
    Ok(result?)
}

fn run() -> Result<(), Box<dyn Error>> {
    machine::check();
    // Without `--bench`, it is `cargo test` that calls.
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|a| a == "--test") || !arguments.iter().any(|a| a == "--bench") {
        return check();
    }

    let prefix = arguments.iter().skip(1).find(|argument| !argument.starts_with('-'));
    let is_meant =
        |&(rows, classes): &(usize, usize)| prefix.is_none_or(|p| format!("{rows}x{classes}").starts_with(p));

    let mut report = Report::begin();
    for regime in [Regime::Memory, Regime::Cache] {
        for threads in THREADS {
            report.section(regime, threads);
            for shape in SHAPES.into_iter().filter(is_meant) {
                let sets = match regime {
                    // Also for what reads the logits alone.
                    Regime::Memory => (2 * last_cache_bytes()).div_ceil(shape.0 * shape.1 * size_of::<f32>()),
                    Regime::Cache => 1,
                };
                report.line(&roofline(shape, sets, regime, threads, ROUNDS)?);
            }
        }
    }
    report.rten_section();
    for shape in rten::SHAPES.into_iter().filter(is_meant) {
        report.rten_line(&rten::versus(shape, ROUNDS)?);
    }
    report.end()
}

/// Everything once, on shapes with remainders of every kind.
fn check() -> Result<(), Box<dyn Error>> {
    for shape in [(1, 1000), (5, 10), (33, 1001), (3, 70_001)] {
        for threads in THREADS {
            for regime in [Regime::Memory, Regime::Cache] {
                roofline(shape, 2, regime, threads, 1)?;
            }
        }
        rten::versus(shape, 1)?;
    }
    println!("roofline: all outputs are right");
    Ok(())
}

fn roofline(
    (rows, classes): (usize, usize),
    sets: usize,
    regime: Regime,
    threads: Parallelism,
    rounds: usize,
) -> Result<Roofline, Box<dyn Error>> {
    let mut buffers = Buffers::new(rows, classes, sets);
    let targets = buffers.targets.clone();
    let (x, out) = buffers.set(0);
    calls::check(&CrossEntropy::builder().parallelism(threads).build()?, x, out, &targets)?;

    let exp_arguments = machine::exp_arguments();
    let mut contestants: Vec<Contestant<'_>> = Vec::new();
    contestants.extend(MemoryLoop::available().iter().map(|memory_loop| memory_loop.contestant(threads)));
    contestants
        .extend(ExpLoop::available().iter().map(|exp_loop| exp_loop.contestant(&exp_arguments, threads)));
    for call in Call::ALL {
        contestants.push(kernel::contestant(call, &targets, threads)?);
    }
    let rounds = rounds_of(buffers.elements() * sets, rounds);
    let times = take_turns(&contestants, &mut buffers, regime, rounds);
    Ok(Roofline::new(regime, threads, (rows, classes), times))
}

/// How many rounds of that many elements each.
fn rounds_of(elements: usize, at_least: usize) -> usize {
    if at_least == 1 { 1 } else { (ELEMENTS_OF_ALL_ROUNDS / elements).clamp(at_least, 31) }
}
