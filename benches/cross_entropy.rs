//! Every call, at shapes from one small row to a batch of a large vocabulary, on every backend, on one thread and on all.
//!
//! ```text
//! cargo bench --bench cross_entropy                                  all of them; some 3 minutes
//! cargo bench --bench cross_entropy -- 'loss/AVX-512/serial'         those whose name matches
//! cargo bench --bench cross_entropy -- options                       each option beside the plain call
//! cargo bench --bench cross_entropy -- planes                        classes not last, against transposing
//! cargo bench --bench cross_entropy -- --test                        each once, no times
//! ```
//!
//! Results are checked against the scalar reference before anything is timed. Rates are elements per second, and bytes
//! per second of those that cannot but be moved: 4 for each logit read, 4 for each gradient written.
//!
//! Times are short and samples few: enough to see a change of a tenth. What part of the machine's speed this is, in
//! rounds that cancel its noise, is for the bench `roofline` to say.

mod calls;
mod options;
mod planes;

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Bencher, BenchmarkId, Criterion, SamplingMode, Throughput};
use xent::{Backend, CrossEntropy, Parallelism};

use crate::calls::{Call, Random, check};

const ROWS: [usize; 4] = [1, 32, 1024, 8192];
const CLASSES: [usize; 5] = [10, 128, 1000, 32_000, 128_256];
const THREADS: [(Parallelism, &str); 2] = [(Parallelism::Serial, "serial"), (Parallelism::Rayon, "rayon")];

/// Logits and gradient together are smaller, or the shape is left out.
const BYTES: usize = 512 << 20;

/// Copies of small logits for the call in place, as many as the second-level cache holds with ease.
const BYTES_OF_COPIES: usize = 256 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .without_plots()
        .configure_from_args();
    for classes in CLASSES {
        for rows in ROWS {
            if 2 * rows * classes * size_of::<f32>() < BYTES {
                bench_shape(&mut criterion, rows, classes)?;
            }
        }
    }
    options::bench(&mut criterion)?;
    planes::bench(&mut criterion, &THREADS)?;
    criterion.final_summary();
    Ok(())
}

fn bench_shape(criterion: &mut Criterion, rows: usize, classes: usize) -> Result<(), Box<dyn Error>> {
    let elements = rows * classes;
    let mut random = Random::new();
    let mut x = vec![0.0; elements];
    random.logits(&mut x);
    let targets = random.targets(rows, classes);

    let copies = (BYTES_OF_COPIES / (elements * size_of::<f32>())).max(1);
    let mut out = vec![0.0; copies * elements];
    for backend in Backend::available() {
        for (parallelism, threads) in THREADS {
            let ce = CrossEntropy::builder().backend(backend).parallelism(parallelism).build()?;
            let mut is_checked = false;
            for call in Call::ALL {
                let mut group = criterion.benchmark_group(call.name());
                group.sampling_mode(SamplingMode::Flat);
                group.throughput(Throughput::ElementsAndBytes {
                    elements: elements as u64,
                    bytes: (elements * call.bytes_per_element()) as u64,
                });
                let id = BenchmarkId::new(format!("{backend}/{threads}"), format!("{rows}x{classes}"));
                group.bench_function(id, |bencher| {
                    // Here, and not above, because the arguments may have left this one out.
                    if !is_checked {
                        check(&ce, &x, &mut out[..elements], &targets).expect("the shapes fit");
                        is_checked = true;
                    }
                    match call {
                        Call::InPlace => bench_in_place(bencher, &ce, &x, &mut out, &targets),
                        Call::Loss | Call::OutOfPlace => {
                            bencher.iter(|| call.run(&ce, black_box(&x), &mut out[..elements], &targets));
                        }
                    }
                });
            }
        }
    }
    Ok(())
}

/// The logits come back between the calls, off the clock: gradients of gradients of gradients are all but 0.
fn bench_in_place(
    bencher: &mut Bencher<'_>,
    ce: &CrossEntropy,
    x: &[f32],
    copies: &mut [f32],
    targets: &[i64],
) {
    bencher.iter_custom(|iterations| {
        let mut elapsed = Duration::ZERO;
        let mut left = iterations as usize;
        while left > 0 {
            let now = left.min(copies.len() / x.len());
            for copy in copies.chunks_exact_mut(x.len()).take(now) {
                copy.copy_from_slice(x);
            }
            let start = Instant::now();
            for copy in copies.chunks_exact_mut(x.len()).take(now) {
                black_box(Call::InPlace.run(ce, x, copy, targets)).ok();
            }
            elapsed += start.elapsed();
            left -= now;
        }
        elapsed
    });
}
