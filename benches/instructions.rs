//! Instructions for each element, which do not depend on the machine's mood.
//!
//! ```text
//! cargo bench --bench instructions               compares with the recorded counts, and fails where they grew
//! cargo bench --bench instructions -- --record   writes the counts down
//! ```
//!
//! Each case runs under callgrind, some calls and then some more; the difference is what a call executes. Valgrind knows
//! no AVX-512, so this is the AVX2 backend; `tests/disassembly.rs` counts the instructions in the loops of both. The counts
//! belong to the toolchain that `rust-toolchain.toml` names.

#[expect(dead_code, reason = "other benchmarks check results as well")]
mod calls;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::{env, fs};

use xent::{Backend, CrossEntropy, Parallelism};

use crate::calls::{Call, Random};

/// Rows and classes, of every kernel. All fit the caches, whose size must not matter.
const SHAPES: [(usize, usize); 7] =
    [(1, 1000), (64, 2), (64, 10), (64, 64), (32, 128), (16, 1000), (2, 50_000)];

/// And those that label smoothing is counted on, the option that training uses most.
const SMOOTHED: [(usize, usize); 2] = [(16, 1000), (2, 50_000)];
const LABEL_SMOOTHING: f64 = 0.1;

const FEW_CALLS: usize = 2;
const MORE_CALLS: usize = 12;

/// How much a count may exceed the recorded one: addresses and the libraries of the system move it by less.
const MARGIN: f64 = 0.02;

const RECORD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/record/instructions.csv");

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => compare(),
        ["--record"] => record(),
        ["--calls", shape, call, label_smoothing, count] => {
            run_case(shape, call, label_smoothing.parse()?, count.parse()?)
        }
        _ => Err(format!("what is {}?", arguments.join(" ")).into()),
    }
}

fn compare() -> Result<ExitCode, Box<dyn Error>> {
    let recorded = read(&fs::read_to_string(RECORD)?)?;
    let mut has_grown = false;
    println!("instructions for each element, AVX2\n{:>44}{:>12}{:>12}", "case", "recorded", "now");
    for (case, count) in measure()? {
        let before = *recorded.get(&case).ok_or_else(|| format!("no record of {case}"))?;
        let grew = count > before * (1.0 + MARGIN);
        has_grown |= grew;
        println!("{case:>44}{before:>12.3}{count:>12.3}{}", if grew { "  more" } else { "" });
    }
    if has_grown {
        println!("some counts grew by more than {:.0}%", 100.0 * MARGIN);
    }
    Ok(if has_grown { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn record() -> Result<ExitCode, Box<dyn Error>> {
    let mut csv = String::from("case,instructions_per_element\n");
    for (case, count) in measure()? {
        writeln!(csv, "{case},{count:.3}")?;
    }
    fs::write(RECORD, &csv)?;
    print!("{csv}");
    Ok(ExitCode::SUCCESS)
}

fn read(csv: &str) -> Result<BTreeMap<String, f64>, Box<dyn Error>> {
    let mut counts = BTreeMap::new();
    for line in csv.lines().skip(1) {
        let (case, count) = line.split_once(',').ok_or("a line without a comma")?;
        counts.insert(case.to_owned(), count.parse()?);
    }
    Ok(counts)
}

/// Of every case.
fn measure() -> Result<Vec<(String, f64)>, Box<dyn Error>> {
    let mut counts = Vec::new();
    let plain = SHAPES.map(|shape| (shape, 0.0, ""));
    let smoothed = SMOOTHED.map(|shape| (shape, LABEL_SMOOTHING, " label_smoothing"));
    for ((rows, classes), label_smoothing, option) in plain.into_iter().chain(smoothed) {
        for call in Call::ALL {
            let shape = format!("{rows}x{classes}");
            let [few, more] =
                [FEW_CALLS, MORE_CALLS].map(|count| instructions(&shape, call, label_smoothing, count));
            let elements = ((MORE_CALLS - FEW_CALLS) * rows * classes) as f64;
            counts.push((format!("{shape} {}{option}", call.name()), (more? - few?) as f64 / elements));
        }
    }
    Ok(counts)
}

/// What a process executes that makes so many calls.
fn instructions(shape: &str, call: Call, label_smoothing: f64, count: usize) -> Result<u64, Box<dyn Error>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(["--calls", shape, call.name(), &label_smoothing.to_string(), &count.to_string()])
        .output()
        .map_err(|error| format!("valgrind, which counts: {error}"))?;
    let log = String::from_utf8_lossy(&output.stderr);
    let collected = log.lines().find_map(|line| line.split_once("Collected : "));
    match collected {
        Some((_, instructions)) if output.status.success() => Ok(instructions.trim().parse()?),
        _ => Err(format!("valgrind failed:\n{log}").into()),
    }
}

fn run_case(shape: &str, call: &str, label_smoothing: f64, count: usize) -> Result<ExitCode, Box<dyn Error>> {
    let (rows, classes) = shape.split_once('x').ok_or("a shape is rows x classes")?;
    let (rows, classes): (usize, usize) = (rows.parse()?, classes.parse()?);
    let call = Call::ALL.into_iter().find(|known| known.name() == call).ok_or("no such call")?;
    let ce = CrossEntropy::builder().backend(Backend::Avx2).parallelism(Parallelism::Serial);
    let ce = ce.label_smoothing(label_smoothing).build()?;
    let mut random = Random::new();
    let (mut x, targets) = (vec![0.0; rows * classes], random.targets(rows, classes));
    random.logits(&mut x);
    let mut out = x.clone();
    for _ in 0..count {
        // In place, the logits are the gradient of the call before: copies would count as well.
        black_box(call.run(&ce, &x, &mut out, &targets)?);
    }
    Ok(ExitCode::SUCCESS)
}
