//! Whether any shape, thread count or instruction set is out of line: what the same work costs in other forms.
//!
//! ```text
//! cargo bench --bench shapes              all tables; a minute
//! cargo bench --bench shapes -- classes   one of them: classes, elements, calls, threads, backends
//! ```
//!
//! Loss and gradient of `f32` logits, out of place, from a thread of the pool. What a line compares takes turns, round
//! after round, on buffers of its own; a ratio is the median over the rounds of the ratio of two times from one round.

#[allow(dead_code, reason = "bytes are counted in other benchmarks; here it is time")]
mod calls;
mod median;

use std::env;
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use xent::{Backend, CrossEntropy, Parallelism};

use crate::calls::{Call, Random};
use crate::median::median;

type Failure = Box<dyn Error>;

/// A batch that is computed on some backend, with or without the pool.
struct Contestant {
    ce: CrossEntropy,
    x: Vec<f32>,
    out: Vec<f32>,
    targets: Vec<i64>,
}

/// How long one contestant is timed in a round.
const TURN: Duration = Duration::from_millis(1);
const ROUNDS: usize = 15;

impl Contestant {
    fn new(
        (rows, classes): (usize, usize),
        parallelism: Parallelism,
        backend: Backend,
    ) -> Result<Self, Failure> {
        let ce = CrossEntropy::builder().parallelism(parallelism).backend(backend).build()?;
        let mut random = Random::new();
        let mut x = vec![0.0; rows * classes];
        random.logits(&mut x);
        let (mut out, targets) = (x.clone(), random.targets(rows, classes));
        calls::check(&ce, &x, &mut out, &targets)?;
        Ok(Self { ce, x, out, targets })
    }

    fn serial(shape: (usize, usize)) -> Result<Self, Failure> {
        Self::new(shape, Parallelism::Serial, Backend::detect())
    }

    /// Seconds of a call, when calls follow each other for a [`TURN`]. The first is not timed.
    fn turn(&mut self) -> Result<f64, Failure> {
        let Self { ce, x, out, targets } = self;
        Call::OutOfPlace.run(ce, x, out, targets)?;
        let (start, mut calls) = (Instant::now(), 0);
        while start.elapsed() < TURN {
            black_box(Call::OutOfPlace.run(ce, black_box(x), out, targets)?);
            calls += 1;
        }
        Ok(start.elapsed().as_secs_f64() / f64::from(calls))
    }
}

/// Seconds of each, and what each takes of the time of the first: medians.
fn take_turns(contestants: &mut [Contestant]) -> Result<Vec<(f64, f64)>, Failure> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(contestants.iter_mut().map(Contestant::turn).collect::<Result<Vec<f64>, Failure>>()?);
    }
    let of = |index: usize| {
        let seconds = median(rounds.iter().map(|round| round[index]));
        (seconds, median(rounds.iter().map(|round| round[index] / round[0])))
    };
    Ok((0..contestants.len()).map(of).collect())
}

fn main() -> Result<(), Failure> {
    let mut result = Ok(());
    rayon::scope(|_| result = run().map_err(|error| error.to_string()));
    Ok(result?)
}

fn run() -> Result<(), Failure> {
    // `cargo test` calls without it.
    if !env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    println!("{}; {}", Backend::detect(), xent::BUILD);
    let tables = [
        ("classes", classes as fn() -> Result<(), Failure>),
        ("elements", elements),
        ("calls", calls),
        ("threads", threads),
        ("backends", backends),
    ];
    let asked: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for (name, table) in tables {
        if asked.is_empty() || asked.iter().any(|asked| asked == name) {
            table()?;
        }
    }
    Ok(())
}

/// Every number of classes from 2 to 128, against the next power of two.
fn classes() -> Result<(), Failure> {
    const ROWS: usize = 4096;
    println!("\n{ROWS} rows on one thread: classes, and their time over that of the next power of two");
    for power in (2..=7).map(|exponent| 1_usize << exponent) {
        let counts: Vec<usize> = [power].into_iter().chain(power / 2..power).collect();
        let contestants: Result<Vec<_>, _> = counts.iter().map(|&c| Contestant::serial((ROWS, c))).collect();
        let times = take_turns(&mut contestants?)?;
        let ratios: Vec<String> =
            counts.iter().zip(&times).skip(1).map(|(c, (_, ratio))| format!("{c}:{ratio:.2}")).collect();
        let largest = times.iter().skip(1).map(|(_, ratio)| *ratio).fold(0.0, f64::max);
        println!("{power:4} {:8.1} us   at most {largest:.2} of it   {}", times[0].0 * 1e6, ratios.join(" "));
    }
    Ok(())
}

/// As many logits, in rows of more and more classes.
fn elements() -> Result<(), Failure> {
    const ELEMENTS: usize = 1 << 18;
    println!("\n{ELEMENTS} logits on one thread: rows x classes, and the time over the shortest");
    let shapes: Vec<(usize, usize)> =
        (7..=18).map(|exponent| (ELEMENTS >> exponent, 1 << exponent)).collect();
    let contestants: Result<Vec<_>, _> = shapes.iter().map(|&shape| Contestant::serial(shape)).collect();
    let times = take_turns(&mut contestants?)?;
    let shortest = times.iter().map(|(seconds, _)| *seconds).fold(f64::INFINITY, f64::min);
    for ((rows, classes), (seconds, _)) in shapes.iter().zip(&times) {
        println!("{rows:5} x {classes:<6} {:8.1} us   {:.2}", seconds * 1e6, seconds / shortest);
    }
    Ok(())
}

/// What a call costs beyond its rows, and what few rows cost where all lanes are theirs.
fn calls() -> Result<(), Failure> {
    println!("\n64 x 10 on one thread, over a 64th of 4096 x 10");
    let times = take_turns(&mut [Contestant::serial((4096, 10))?, Contestant::serial((64, 10))?])?;
    println!("{:8.2} us   {:.2}", times[1].0 * 1e6, times[1].1 * 64.0);

    println!("\nrows of 127 classes on one thread, over as many of 128");
    for rows in [1, 4, 8, 16, 64] {
        let times = take_turns(&mut [Contestant::serial((rows, 128))?, Contestant::serial((rows, 127))?])?;
        println!("{rows:5} {:8.2} us   {:.2}", times[1].0 * 1e6, times[1].1);
    }
    Ok(())
}

/// What a pool gains.
fn threads() -> Result<(), Failure> {
    println!("\n{} threads: times as fast as one", rayon::current_num_threads());
    for shape in
        [(1, 262_144), (4, 262_144), (64, 16_384), (256, 4096), (1024, 1024), (1024, 1000), (65_536, 16)]
    {
        let pool = Contestant::new(shape, Parallelism::Rayon, Backend::detect())?;
        let times = take_turns(&mut [pool, Contestant::serial(shape)?])?;
        println!("{:5} x {:<6} {:8.1} us   {:.2}", shape.0, shape.1, times[0].0 * 1e6, times[1].1);
    }
    Ok(())
}

/// What wider vectors gain.
fn backends() -> Result<(), Failure> {
    println!("\none thread, from the caches: the speed of each backend over that of the fastest");
    for shape in [(32, 1000), (1024, 1000), (16, 4096), (4096, 10)] {
        let mut contestants = Vec::new();
        for backend in Backend::available() {
            contestants.push(Contestant::new(shape, Parallelism::Serial, backend)?);
        }
        contestants.reverse();
        let times = take_turns(&mut contestants)?;
        let speeds = contestants.iter().zip(&times);
        let speeds: Vec<String> =
            speeds.map(|(c, (_, ratio))| format!("{} {:.2}", c.ce.backend(), 1.0 / ratio)).collect();
        println!("{:5} x {:<6} {}", shape.0, shape.1, speeds.join(", "));
    }
    Ok(())
}
