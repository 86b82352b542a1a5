//! A vocabulary split over threads, each of which owns its part of the output matrix and of every row of logits.
//!
//! What the threads exchange is one state of 56 bytes for each row: one all-reduce. No thread ever has a whole row, and
//! yet all have the loss of whole rows, and each has the gradient of its own columns, which replaces its logits. The
//! same goes for processes, whose all-reduce sends the states' bytes.
//!
//! ```sh
//! cargo run --release --example sharded_vocabulary
//! ```
//!
//! Loss and gradient are checked against the scalar `f64` reference on the whole logits, by the bounds of
//! [`xent::contract`].

use std::ops::Range;
use std::sync::{Barrier, RwLock};
use std::thread;
use std::time::Instant;

use xent::contract::{LOSS, PROBABILITY, TARGET_GRADIENT, U};
use xent::reference::{self, Outcome};
use xent::{CrossEntropy, Error, Matrix, MatrixMut, Parallelism, RowState, Shards, Summary};

const ROWS: usize = 64;
const WIDTH: usize = 16;
const VOCABULARY: usize = 32_000;
const IGNORED: i64 = -100;

/// An output layer: `hidden` is ROWS x WIDTH, `output` is VOCABULARY x WIDTH, and the logits are hidden times output
/// transposed.
struct Layer {
    hidden: Vec<f32>,
    output: Vec<f32>,
    targets: Vec<i64>,
}

/// What is left when all threads are done.
struct Sharded {
    summary: Summary,
    /// The gradient of each shard's columns, ROWS x columns.
    grads: Vec<Vec<f32>>,
    milliseconds: f64,
}

/// Each thread puts its states up, and takes the merger of everyone's.
struct AllReduce {
    states: Vec<RwLock<Vec<RowState>>>,
    all_are_there: Barrier,
}

impl Layer {
    fn random() -> Self {
        let mut random = Random(1);
        let hidden = (0..ROWS * WIDTH).map(|_| random.next()).collect();
        let output = (0..VOCABULARY * WIDTH).map(|_| 2.0 * random.next()).collect();
        let mut target = |row| if row % 9 == 8 { IGNORED } else { random.below(VOCABULARY) as i64 };
        Self { hidden, output, targets: (0..ROWS).map(&mut target).collect() }
    }

    /// Some columns of the logits: ROWS x columns.
    fn logits(&self, columns: Range<usize>) -> Vec<f32> {
        let mut logits = Vec::with_capacity(ROWS * columns.len());
        for hidden in self.hidden.chunks(WIDTH) {
            for class in self.output[columns.start * WIDTH..columns.end * WIDTH].chunks(WIDTH) {
                logits.push(hidden.iter().zip(class).map(|(h, w)| h * w).sum());
            }
        }
        logits
    }
}

impl AllReduce {
    fn new(threads: usize) -> Self {
        let states = (0..threads).map(|_| RwLock::new(Vec::new())).collect();
        Self { states, all_are_there: Barrier::new(threads) }
    }

    /// In the same order for all, so that all have the same bits.
    fn merge(&self, thread: usize, mut states: Vec<RowState>) -> Vec<RowState> {
        *self.states[thread].write().expect("no thread has panicked") = states.clone();
        self.all_are_there.wait();
        states.fill(RowState::EMPTY);
        for others in &self.states {
            let others = others.read().expect("no thread has panicked");
            for (state, other) in states.iter_mut().zip(others.iter()) {
                *state = state.merge(*other);
            }
        }
        states
    }
}

/// What one thread does with its columns.
fn of_shard(
    shards: &Shards<'_>,
    layer: &Layer,
    columns: Range<usize>,
    all_reduce: impl FnOnce(Vec<RowState>) -> Vec<RowState>,
) -> Result<(Summary, Vec<f32>), Error> {
    let mut logits = layer.logits(columns.clone());
    let mut states = vec![RowState::EMPTY; ROWS];
    shards.summarise(Matrix::new(&logits, ROWS, columns.len())?, columns.start, &mut states)?;
    let states = all_reduce(states);
    let summary = shards.finish(&states)?;
    shards.grad_in_place(MatrixMut::new(&mut logits, ROWS, columns.len())?, columns.start, &states)?;
    Ok((summary, logits))
}

/// Columns of about as many classes each.
fn cut(threads: usize) -> Vec<Range<usize>> {
    (0..threads).map(|i| VOCABULARY * i / threads..VOCABULARY * (i + 1) / threads).collect()
}

fn over_threads(ce: &CrossEntropy, layer: &Layer, threads: usize) -> Result<Sharded, Error> {
    let shards = ce.shards(&layer.targets, VOCABULARY);
    let all_reduce = AllReduce::new(threads);
    let start = Instant::now();
    let results = thread::scope(|scope| {
        let (shards, all_reduce) = (&shards, &all_reduce);
        let start_thread = |(thread, columns): (usize, Range<usize>)| {
            scope.spawn(move || of_shard(shards, layer, columns, |states| all_reduce.merge(thread, states)))
        };
        let threads: Vec<_> = cut(threads).into_iter().enumerate().map(start_thread).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no thread panics"))
            .collect::<Result<Vec<_>, _>>()
    })?;
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    let summary = results[0].0;
    // Every thread finished the same states.
    assert!(results.iter().all(|(other, _)| other.loss.to_bits() == summary.loss.to_bits()));
    Ok(Sharded { summary, grads: results.into_iter().map(|(_, grad)| grad).collect(), milliseconds })
}

/// The largest share of the contract's bounds that the loss, and that the gradient, has used.
fn shares_of_bounds(logits: &[f32], layer: &Layer, exact: &Outcome, sharded: &Sharded) -> (f64, f64) {
    let (mut loss_bound, mut of_grad) = (U * exact.loss, 0.0_f64);
    for (row, x) in logits.chunks(VOCABULARY).enumerate() {
        let Ok(target) = usize::try_from(layer.targets[row]) else { continue };
        let softmax = &exact.softmax[row];
        let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let gap = |class: usize| f64::from(max) - f64::from(x[class]);
        let of_target = softmax.probabilities[target] * gap(target);
        let mean_gap: f64 = (0..VOCABULARY).map(|class| softmax.probabilities[class] * gap(class)).sum();
        let others_mean_gap = (mean_gap - of_target) / softmax.complements[target];
        loss_bound += (others_mean_gap + LOSS) * U * exact.losses[row] / exact.weight;
        for (grad, columns) in sharded.grads.iter().zip(cut(sharded.grads.len())) {
            let found = &grad[row * columns.len()..][..columns.len()];
            for (class, &found) in columns.zip(found) {
                let relative = match class == target {
                    true => others_mean_gap + TARGET_GRADIENT,
                    false => gap(class) + mean_gap + PROBABILITY,
                };
                let exact = exact.grad[row * VOCABULARY + class];
                of_grad = of_grad.max((f64::from(found) - exact).abs() / (relative * U * exact.abs()));
            }
        }
    }
    ((sharded.summary.loss - exact.loss).abs() / loss_bound, of_grad)
}

fn main() -> Result<(), Error> {
    // Each thread is one of the shards' own.
    let ce = CrossEntropy::builder().ignore_index(IGNORED).parallelism(Parallelism::Serial).build()?;
    let layer = Layer::random();
    let logits = layer.logits(0..VOCABULARY);
    let matrix = Matrix::new(&logits, ROWS, VOCABULARY)?;
    let exact = reference::cross_entropy(&ce, matrix, &layer.targets)?;
    let whole = ce.loss(matrix, &layer.targets)?;

    println!(
        "{ROWS} rows x {VOCABULARY} classes; whole rows: loss {whole:.12}, reference {:.12}",
        exact.loss
    );
    println!();
    println!(
        "shards  columns each  exchanged per shard      ms, logits too   loss            of the bounds: loss  gradient"
    );
    for threads in [1, 2, 3, 8] {
        let sharded = over_threads(&ce, &layer, threads)?;
        let (of_loss, of_grad) = shares_of_bounds(&logits, &layer, &exact, &sharded);
        println!(
            "{threads:6}  {:12}  {:5} of {:8} bytes  {:14.1}   {:.12}  {:18.1}%  {:7.0}%",
            VOCABULARY / threads,
            ROWS * RowState::BYTES,
            ROWS * VOCABULARY / threads * size_of::<f32>(),
            sharded.milliseconds,
            sharded.summary.loss,
            100.0 * of_loss,
            100.0 * of_grad,
        );
        assert!(of_loss <= 1.0 && of_grad <= 1.0, "the bounds hold for whole rows, and for rows in shards");
        assert_eq!(
            sharded.summary.counted,
            layer.targets.iter().filter(|&&target| target != IGNORED).count()
        );
    }
    Ok(())
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between -1 and 1.
    fn next(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }
}
