//! Logits of shape (N, C, P), in planes, against what one does without: transpose them, call on rows, and transpose the
//! gradient back.

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use xent::{CrossEntropy, Matrix, MatrixMut, Parallelism, Planes, PlanesMut};

use crate::calls::Random;

/// Images, classes and positions: a digit, street scenes, indoor scenes, a vocabulary. The positions of the second are
/// a power of two, those of the third are not.
const SHAPES: [(usize, usize, usize); 5] =
    [(32, 10, 784), (4, 21, 256 * 256), (4, 21, 250 * 250), (2, 150, 128 * 128), (2, 1000, 1000)];

/// Positions that are transposed at a time: whole cache lines.
const STEP: usize = 16;

/// Times the two for the ratio, in turns.
const ROUNDS: usize = 20;

/// A batch in planes, and memory for its gradient and for the transposed logits.
struct Batch {
    sizes: (usize, usize, usize),
    x: Vec<f32>,
    targets: Vec<i64>,
    grad: Vec<f32>,
    rows: Vec<f32>,
}

impl Batch {
    fn new((images, classes, positions): (usize, usize, usize)) -> Self {
        let elements = images * classes * positions;
        let mut random = Random::new();
        let mut x = vec![0.0; elements];
        random.logits(&mut x);
        let targets = random.targets(images * positions, classes);
        let (grad, rows) = (vec![0.0; elements], vec![0.0; elements]);
        Self { sizes: (images, classes, positions), x, targets, grad, rows }
    }

    fn in_planes(&mut self, ce: &CrossEntropy) -> Result<f64, xent::Error> {
        let (images, classes, positions) = self.sizes;
        let logits = Planes::new(&self.x, images, classes, positions)?;
        let grad = PlanesMut::new(&mut self.grad, images, classes, positions)?;
        ce.loss_and_grad_planes(logits, &self.targets, grad)
    }

    fn transposed(&mut self, ce: &CrossEntropy) -> Result<f64, xent::Error> {
        let (images, classes, positions) = self.sizes;
        let Self { x, rows, grad, .. } = self;
        each_element(self.sizes, |plane, row| rows[row] = x[plane]);
        let rows_of_logits = MatrixMut::new(rows, images * positions, classes)?;
        let loss = ce.loss_and_grad_in_place(rows_of_logits, &self.targets)?;
        each_element(self.sizes, |plane, row| grad[plane] = rows[row]);
        Ok(loss)
    }

    /// Both find the same.
    fn check(&mut self, ce: &CrossEntropy) -> Result<(), xent::Error> {
        let (images, classes, positions) = self.sizes;
        let loss = self.in_planes(ce)?;
        let grad = self.grad.clone();
        let expected = self.transposed(ce)?;
        assert!((loss - expected).abs() <= 1e-6 * expected, "{loss} instead of {expected}");
        for (actual, expected) in grad.iter().zip(&self.grad) {
            assert!((actual - expected).abs() <= 1e-5 * expected.abs(), "{actual:e} instead of {expected:e}");
        }
        each_element(self.sizes, |plane, row| self.rows[row] = self.x[plane]);
        let rows = Matrix::new(&self.rows, images * positions, classes)?;
        let expected = ce.loss(rows, &self.targets)?;
        let logits = Planes::new(&self.x, images, classes, positions)?;
        let loss = ce.loss_planes(logits, &self.targets)?;
        assert!((loss - expected).abs() <= 1e-6 * expected, "{loss} instead of {expected}");
        Ok(())
    }
}

/// Calls with an element's place in planes, and its place in rows.
fn each_element((images, classes, positions): (usize, usize, usize), mut visit: impl FnMut(usize, usize)) {
    for image in 0..images {
        for start in (0..positions).step_by(STEP) {
            for class in 0..classes {
                for position in start..positions.min(start + STEP) {
                    let plane = (image * classes + class) * positions + position;
                    visit(plane, (image * positions + position) * classes + class);
                }
            }
        }
    }
}

pub fn bench(criterion: &mut Criterion, threads: &[(Parallelism, &str)]) -> Result<(), Box<dyn Error>> {
    for &(parallelism, threads) in threads {
        let ce = CrossEntropy::builder().parallelism(parallelism).build()?;
        for sizes in SHAPES {
            let (images, classes, positions) = sizes;
            let mut batch = None;
            let mut group = criterion.benchmark_group("planes");
            group.sampling_mode(SamplingMode::Flat);
            group.throughput(Throughput::Elements((images * classes * positions) as u64));
            let name = format!("{images}x{classes}x{positions}");
            for (way, call) in [
                ("loss_and_grad_planes", Batch::in_planes as fn(&mut Batch, &_) -> _),
                ("transposed and back", Batch::transposed),
            ] {
                let id = BenchmarkId::new(format!("{way}/{threads}"), &name);
                group.bench_function(id, |bencher| {
                    // Here, and not above, because the arguments may have left this one out.
                    let batch = batch.get_or_insert_with(|| {
                        let mut batch = Batch::new(sizes);
                        batch.check(&ce).expect("the shapes fit");
                        batch
                    });
                    bencher.iter(|| black_box(call(batch, &ce)));
                });
            }
            group.finish();
            if let Some(mut batch) = batch {
                let ratio = ratio(&mut batch, &ce)?;
                println!("planes/{threads}/{name}: transposing takes {ratio:.2} times as long");
            }
        }
    }
    Ok(())
}

/// How many times as long the call on rows takes, transpositions included; the best of each.
fn ratio(batch: &mut Batch, ce: &CrossEntropy) -> Result<f64, xent::Error> {
    let mut best = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        batch.in_planes(ce)?;
        let middle = Instant::now();
        batch.transposed(ce)?;
        best = [best[0].min(middle - start), best[1].min(middle.elapsed())];
    }
    Ok(best[1].as_secs_f64() / best[0].as_secs_f64())
}
