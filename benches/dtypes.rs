//! What 16 bits save, and 64 cost: bf16, f16 and f64 beside f32, taking turns on the same logits.
//!
//! ```text
//! cargo bench --bench dtypes                  all shapes, on all threads; a minute
//! cargo bench --bench dtypes -- 1024x1000     some of them
//! cargo bench --bench dtypes -- serial        on one thread
//! ```
//!
//! The best time of many rounds, and in brackets its share of that for f32 in the same run.

use std::env;
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use half::{bf16, f16};
use xent::{CrossEntropy, Element, Matrix, MatrixMut, Parallelism};

const SHAPES: [(usize, usize); 8] = [
    (64, 10),
    (4096, 10),
    (32, 1000),
    (1024, 1000),
    (8192, 1000),
    (256, 32_000),
    (128, 128_256),
    (64, 262_144),
];

/// Time for each shape and call, of all dtypes together.
const TIME: Duration = Duration::from_millis(2000);
const LEAST_ROUNDS: usize = 15;

#[derive(Clone, Copy)]
enum Call {
    Loss,
    InPlace,
    OutOfPlace,
}

const CALLS: [(Call, &str); 3] =
    [(Call::Loss, "loss"), (Call::InPlace, "gradient in place"), (Call::OutOfPlace, "gradient")];

/// The buffers of one dtype, and its best time.
struct Lane<T> {
    x: Vec<T>,
    out: Vec<T>,
    best: Duration,
}

impl<T: Element> Lane<T> {
    fn new(x: Vec<T>) -> Self {
        let out = x.clone();
        Self { x, out, best: Duration::MAX }
    }

    /// One call, timed. In place, the logits come back before it, off the clock.
    fn round(&mut self, call: Call, ce: &CrossEntropy, targets: &[u32]) -> Result<(), xent::Error> {
        let (rows, classes) = (targets.len(), self.x.len() / targets.len());
        if let Call::InPlace = call {
            self.out.copy_from_slice(&self.x);
        }
        let x = Matrix::new(black_box(&self.x), rows, classes)?;
        let out = MatrixMut::new(&mut self.out, rows, classes)?;
        let start = Instant::now();
        black_box(match call {
            Call::Loss => ce.loss(x, targets)?,
            Call::InPlace => ce.loss_and_grad_in_place(out, targets)?,
            Call::OutOfPlace => ce.loss_and_grad(x, targets, out)?,
        });
        self.best = self.best.min(start.elapsed());
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let is_serial = arguments.iter().any(|argument| argument == "serial");
    let parallelism = if is_serial { Parallelism::Serial } else { Parallelism::Rayon };
    let ce = CrossEntropy::builder().parallelism(parallelism).build()?;
    let shapes: Vec<&String> = arguments.iter().filter(|argument| argument.contains('x')).collect();

    println!("{} on {parallelism:?}; {}", ce.backend(), xent::BUILD);
    println!(
        "\n| rows x classes | call | f32, us | bf16, us | f16, us | f64, us |\n|---|---|---:|---:|---:|---:|"
    );
    for (rows, classes) in SHAPES {
        let shape = format!("{rows}x{classes}");
        if !shapes.is_empty() && !shapes.contains(&&shape) {
            continue;
        }
        for (call, name) in CALLS {
            let [f32, bf16, f16, f64] = best_times(call, &ce, rows, classes)?;
            println!(
                "| {rows} x {classes} | {name} | {:.2} | {:.2} ({:.2}) | {:.2} ({:.2}) | {:.2} ({:.2}) |",
                f32 * 1e6,
                bf16 * 1e6,
                bf16 / f32,
                f16 * 1e6,
                f16 / f32,
                f64 * 1e6,
                f64 / f32
            );
        }
    }
    Ok(())
}

/// Seconds, of f32, bf16, f16 and f64.
fn best_times(
    call: Call,
    ce: &CrossEntropy,
    rows: usize,
    classes: usize,
) -> Result<[f64; 4], Box<dyn Error>> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    // Numbers that all of them have, and so the same work.
    let x: Vec<f32> = (0..rows * classes).map(|_| (next() % 64) as f32 / 8.0 - 4.0).collect();
    let targets: Vec<u32> = (0..rows).map(|_| (next() % classes as u64) as u32).collect();
    let mut of_bf16 = Lane::new(x.iter().map(|&x| bf16::from_f32(x)).collect());
    let mut of_f16 = Lane::new(x.iter().map(|&x| f16::from_f32(x)).collect());
    let mut of_f64 = Lane::new(x.iter().map(|&x| f64::from(x)).collect());
    let mut of_f32 = Lane::new(x);

    // All in the pool, as a training loop is.
    in_pool(|| {
        let start = Instant::now();
        let mut rounds = 0;
        while rounds < LEAST_ROUNDS || start.elapsed() < TIME {
            of_f32.round(call, ce, &targets)?;
            of_bf16.round(call, ce, &targets)?;
            of_f16.round(call, ce, &targets)?;
            of_f64.round(call, ce, &targets)?;
            rounds += 1;
        }
        Ok::<(), xent::Error>(())
    })?;
    Ok([of_f32.best, of_bf16.best, of_f16.best, of_f64.best].map(|best| best.as_secs_f64()))
}

fn in_pool<R: Send>(run: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| run())
}
