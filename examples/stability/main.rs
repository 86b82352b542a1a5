//! Tries to break the numeric contract: families of extreme rows, under every option and dtype, on every backend that this
//! CPU has, against the scalar `f64` reference.
//!
//! ```text
//! cargo run --release --example stability
//! cargo run --release --example stability -- --seconds 120 --seed 7
//! ```
//!
//! A table, live in a terminal and printed at the end, has for each family the largest error in units of 2^-24 and the
//! largest share of the contract's bound that any result used on each backend. The worst inputs follow as source code for
//! `tests/suite/families.rs`, and a plot shows the error of the loss over the gap, beside that of the formula that most
//! libraries have. The exit status is 1 where the contract breaks. A run with the same seed goes through the same inputs,
//! as many as there is time for.

mod plot;
mod search;
mod table;

#[path = "../../tests/support/mod.rs"]
mod support;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use search::Search;
use table::Live;
use xent::{BUILD, Backend};

/// Try to break the numeric contract with extreme logits.
#[derive(Parser)]
struct Arguments {
    /// For how long to search.
    #[arg(long, default_value_t = 30.0, value_parser = seconds)]
    seconds: f64,
    /// Seed of all inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The most classes of a row.
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u64).range(1..=1 << 27))]
    most_classes: u64,
    /// Where to draw the error over the gap.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/stability.svg"))]
    svg: PathBuf,
}

fn seconds(argument: &str) -> Result<f64, String> {
    let seconds: f64 = argument.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=1e9).contains(&seconds) { Ok(seconds) } else { Err("not between 0 and 1e9".to_owned()) }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    println!("{BUILD}");
    for backend in Backend::ALL {
        if !backend.is_available() {
            println!("{backend}: not available on this CPU, NOT tried");
        }
    }
    let mut search = Search::new(arguments.seed, arguments.most_classes as usize);
    let live = Live::new(&search, arguments.seconds)?;

    // What breaks is reported below, with the input.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let start = Instant::now();
    let length = Duration::from_secs_f64(arguments.seconds);
    loop {
        // Every family has its turn, however short the time.
        search.round();
        live.show(&search, start.elapsed());
        if start.elapsed() >= length {
            break;
        }
    }
    std::panic::set_hook(hook);
    live.finish();

    table::print(&search, start.elapsed());
    let svg = arguments.svg.display();
    plot::draw(&arguments.svg).map_err(|error| format!("{svg}: {error}"))?;
    println!("\nerror over gap: {svg}");
    let broken = search.breaks().len();
    if broken > 0 {
        eprintln!("error: the contract breaks, see above ({broken} kinds of input)");
        return Ok(ExitCode::FAILURE);
    }
    println!("every result is within its bound");
    Ok(ExitCode::SUCCESS)
}
