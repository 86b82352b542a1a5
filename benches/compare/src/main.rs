//! `xent` beside other Rust crates' softmax cross-entropy, and beside what the machine can do.
//!
//! ```text
//! cargo run --release -p xent-compare                 minutes; a table, and target/compare.csv and two plots
//! cargo run --release -p xent-compare -- 128x         only the shapes whose name starts so
//! cargo run --release -p xent-compare -- --quick      the fewest rounds
//! cargo run --release -p xent-compare -- --test       seconds; small shapes, every result checked, nothing reported
//! ```
//!
//! Everything is loss and gradient of a mean over `f32` logits, unless its name says otherwise. The contestants take
//! turns, round after round, as in the `roofline` benchmark, whose loops measure the machine here too.

#[path = "../../roofline/buffers.rs"]
mod buffers;
#[path = "../../calls/mod.rs"]
#[allow(dead_code, reason = "bytes are counted in the other benchmark; here it is elements")]
mod calls;
mod check;
mod contestants;
#[path = "../../roofline/cpu.rs"]
mod cpu;
mod csv;
#[path = "../../roofline/kernel.rs"]
mod kernel;
#[path = "../../roofline/machine.rs"]
#[allow(dead_code, reason = "the rate of exponentials is a matter of the other benchmark")]
mod machine;
mod measurement;
#[path = "../../median/mod.rs"]
mod median;
mod plots;
#[path = "../../roofline/rounds.rs"]
#[allow(dead_code, reason = "what lies in memory between the calls is a matter of the other benchmark")]
mod rounds;
#[path = "../../roofline/rten_softmax.rs"]
mod rten_softmax;
mod shapes;
mod table;
#[cfg(target_arch = "x86_64")]
#[path = "../../roofline/x86_64.rs"]
mod x86_64;

use std::error::Error;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use crate::measurement::{FEWEST_ROUNDS, Measurement, measure};

/// Of contestants that are not slow.
const ROUNDS: usize = 11;

/// Compare xent with other crates and with the machine's limits.
#[derive(Parser)]
struct Arguments {
    /// Measure only the shapes whose name (rows x classes, as in 128x128256) starts so.
    shape: Option<String>,
    /// Take the fewest rounds.
    #[arg(long)]
    quick: bool,
    /// Check all results on small shapes, and report no times.
    #[arg(long)]
    test: bool,
    /// The directory for the numbers (CSV) and the plots (SVG).
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target"))]
    out: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Calls come from a thread of the pool, as in a training loop that runs in one. For a call from outside, rayon puts
    // the caller to sleep and wakes the pool, and Linux may take 20 ms to give its threads a CPU each.
    let mut result = Ok(());
    rayon::scope(|_| result = run(&arguments).map_err(|error| error.to_string()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    machine::check();
    let_the_allocator_keep_memory();
    if arguments.test {
        for shape in shapes::TEST {
            measure(shape, 1)?;
        }
        println!("compare: all results agree");
        return Ok(());
    }

    let prefix = arguments.shape.as_deref().unwrap_or_default();
    let mut shapes = shapes::all();
    shapes.retain(|shape| shapes::name(*shape).starts_with(prefix));
    if shapes.is_empty() {
        return Err(format!("no shape's name starts with {prefix}").into());
    }
    // Before the minutes that the measurements take.
    std::fs::create_dir_all(&arguments.out)
        .map_err(|error| format!("{}: {error}", arguments.out.display()))?;

    table::print_header();
    let rounds = if arguments.quick { FEWEST_ROUNDS } else { ROUNDS };
    let progress = ProgressBar::new(shapes.len() as u64)
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} shapes, {msg}")?);
    let mut measurements = Vec::new();
    for shape in shapes {
        progress.set_message(shapes::name(shape));
        measurements.push(measure(shape, rounds)?);
        progress.inc(1);
    }
    progress.finish_and_clear();

    table::print(&measurements);
    write_files(&measurements, &arguments.out)
}

/// The peers allocate in every call. glibc gets blocks from the system and gives them back each time, at the price of a
/// page fault per 4 KiB, until the program has freed a block as large: the first shapes would pay for that, and the
/// later ones not. A program that has run for a while has freed large blocks. 32 MiB are the most that glibc learns from.
fn let_the_allocator_keep_memory() {
    drop(black_box(vec![0_u8; 31 << 20]));
}

fn write_files(measurements: &[Measurement], directory: &Path) -> Result<(), Box<dyn Error>> {
    let csv = directory.join("compare.csv");
    std::fs::write(&csv, csv::lines(measurements)).map_err(|error| format!("{}: {error}", csv.display()))?;
    let throughput = directory.join("compare_throughput.svg");
    plots::throughput::draw(measurements, &throughput)?;
    let shares = directory.join("compare_shares.svg");
    plots::shares::draw(measurements, &shares)?;
    println!();
    for (what, path) in
        [("all numbers", csv), ("throughput", throughput), ("shares of the machine's limit", shares)]
    {
        println!("{what}: {}", path.display());
    }
    Ok(())
}
