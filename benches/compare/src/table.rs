//! What is printed: a table in Markdown.

use crate::buffers::last_cache_bytes;
use crate::contestants::Who;
use crate::cpu;
use crate::measurement::{FEWEST_ROUNDS, Measurement, SLOW};
use crate::rounds::Times;
use crate::shapes;

const COLUMNS: [Who; 8] = [
    Who::Xent,
    Who::XentInPlace,
    Who::XentOneThread,
    Who::Candle,
    Who::Burn,
    Who::Ndarray,
    Who::Reference,
    Who::RtenSoftmax,
];

pub fn print_header() {
    println!("CPU: {}", cpu::name());
    println!("threads: {}", rayon::current_num_threads());
    println!("backend: {}", xent::Backend::detect());
    println!("cache: {} MiB, the last level", last_cache_bytes() >> 20);
    println!("build: {}", xent::BUILD);
}

pub fn print(measurements: &[Measurement]) {
    println!("\nLoss and gradient of the mean, f32: microseconds, and in brackets times as long as xent.\n");
    print!("| rows x classes |");
    for who in COLUMNS {
        print!(" {} |", who.name());
    }
    println!(" machine's limit |");
    println!("|---|{}", "---:|".repeat(COLUMNS.len() + 1));
    for measurement in measurements {
        print!("| {} |", shapes::name(measurement.shape));
        for who in COLUMNS {
            print!(" {} |", cell(measurement, who, measurement.of(who)));
        }
        println!(" {} |", measurement.limit().map_or("-".to_owned(), |times| with_ratio(measurement, times)));
    }
    println!();
    if measurements.iter().any(|measurement| measurement.of(Who::Reference).is_none()) {
        println!("-: the scalar reference is left out where a call would take about a second or more.");
    }
    println!(
        "xent writes the gradient to a second buffer, unless in place; all use the same buffers again and again."
    );
    println!(
        "Machine's limit: the fastest loop, in place or not, that reads and writes as many elements, on all threads."
    );
    println!(
        "Medians over the rounds, of times and of ratios within a round; {FEWEST_ROUNDS} rounds for calls longer than {:.0} ms.",
        1e3 * SLOW
    );
}

fn cell(measurement: &Measurement, who: Who, times: Option<&Times>) -> String {
    match times {
        None => "-".to_owned(),
        Some(times) if who == Who::Xent => microseconds(times),
        Some(times) => with_ratio(measurement, times),
    }
}

fn with_ratio(measurement: &Measurement, times: &Times) -> String {
    let ratio = measurement.times_as_long(times).map_or(String::new(), |ratio| {
        let decimals = if ratio < 9.95 { 2 } else { 0 };
        format!(" ({ratio:.decimals$})")
    });
    microseconds(times) + &ratio
}

/// Three digits, or all before the point.
fn microseconds(times: &Times) -> String {
    let micros = 1e6 * times.median();
    let decimals = match micros {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{micros:.decimals$}")
}
