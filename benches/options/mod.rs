//! What each option, input, output and dtype costs beside the plain call: loss and gradient of 1024 x 1000 logits, on one
//! thread.

use std::error::Error;
use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use xent::{
    CrossEntropy, CrossEntropyBuilder, Distillation, Element, Matrix, MatrixMut, Parallelism, Request,
    Smoothing,
};

use crate::calls::Random;

const ROWS: usize = 1024;
const CLASSES: usize = 1000;

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// The numbers of all calls.
struct Batch {
    logits: Vec<f32>,
    targets: Vec<i64>,
    /// Of other logits: a softmax.
    probabilities: Vec<f32>,
}

impl Batch {
    fn new() -> Result<Self, xent::Error> {
        let mut random = Random::new();
        let (mut logits, mut probabilities) = (vec![0.0; ROWS * CLASSES], vec![0.0; ROWS * CLASSES]);
        random.logits(&mut logits);
        let targets = random.targets(ROWS, CLASSES);
        random.logits(&mut probabilities);
        xent::softmax_in_place(MatrixMut::new(&mut probabilities, ROWS, CLASSES)?)?;
        Ok(Self { logits, targets, probabilities })
    }
}

pub fn bench(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let batch = Batch::new()?;
    let mut group = criterion.benchmark_group("options");
    group.throughput(Throughput::Elements((ROWS * CLASSES) as u64));
    options(&mut group, &batch)?;
    inputs_and_outputs(&mut group, &batch)?;
    other_calls(&mut group, &batch)?;
    dtype(&mut group, &batch, "f64", f64::from)?;
    #[cfg(feature = "half")]
    {
        dtype(&mut group, &batch, "bf16", half::bf16::from_f32)?;
        other_gradients(&mut group, &batch)?;
    }
    group.finish();
    Ok(())
}

fn plain() -> CrossEntropyBuilder {
    CrossEntropy::builder().parallelism(Parallelism::Serial)
}

fn options(group: &mut Group<'_>, batch: &Batch) -> Result<(), xent::Error> {
    let weight = vec![0.5_f32; CLASSES];
    let smooth = plain().label_smoothing(0.1);
    let builders = [
        ("plain", plain()),
        ("weight", plain().weight(weight.clone())),
        ("ignore_indices", plain().ignore_indices([-100, 3, 5])),
        ("label_smoothing", smooth.clone()),
        ("label_smoothing, weight", smooth.clone().weight(weight)),
        ("label_smoothing, other classes", smooth.clone().smoothing(Smoothing::OtherClasses)),
        ("label_smoothing, live classes", smooth.smoothing(Smoothing::LiveClasses)),
        ("z_loss", plain().z_loss(1e-4)),
        ("focal_gamma", plain().focal_gamma(2.0)),
        ("logit_scale", plain().logit_scale(0.7)),
        ("softcap", plain().softcap(30.0)),
        ("logit_scale, softcap", plain().logit_scale(0.7).softcap(30.0)),
    ];
    for (name, builder) in builders {
        loss_and_grad(group, name, builder, &batch.logits, &batch.targets)?;
    }
    Ok(())
}

fn loss_and_grad<T: Element>(
    group: &mut Group<'_>,
    name: &str,
    builder: CrossEntropyBuilder,
    logits: &[T],
    targets: &[i64],
) -> Result<(), xent::Error> {
    let (ce, mut grad) = (builder.build()?, logits.to_vec());
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let logits = Matrix::new(black_box(logits), ROWS, CLASSES)?;
            ce.loss_and_grad(logits, targets, MatrixMut::new(&mut grad, ROWS, CLASSES)?)
        });
    });
    Ok(())
}

/// With the gradient, one more input or output.
fn inputs_and_outputs(group: &mut Group<'_>, batch: &Batch) -> Result<(), xent::Error> {
    let ce = plain().build()?;
    let logits = Matrix::new(&batch.logits, ROWS, CLASSES)?;
    let (numbers, mask) = (vec![0.5_f32; ROWS], vec![true; ROWS]);
    let (mut of_rows, mut indices) = (vec![0.0; ROWS], vec![0; ROWS]);
    let (mut grad, mut wide) = (vec![0.0; ROWS * CLASSES], vec![0.0; ROWS * CLASSES]);
    for name in [
        "row_weights",
        "loss_mask",
        "upstream",
        "accumulate",
        "losses",
        "lse",
        "target_log_probabilities",
        "argmax",
        "argmax_probabilities",
        "entropies",
        "target_ranks",
        "probabilities",
        "log_probabilities",
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let grad = MatrixMut::new(&mut grad, ROWS, CLASSES)?;
                let wide = MatrixMut::new(&mut wide, ROWS, CLASSES)?;
                let request = Request::new();
                let request = match name {
                    "accumulate" => request.accumulate(grad),
                    "row_weights" => request.grad(grad).row_weights(&numbers),
                    "loss_mask" => request.grad(grad).loss_mask(&mask),
                    "upstream" => request.grad(grad).upstream(&numbers),
                    "losses" => request.grad(grad).losses(&mut of_rows),
                    "lse" => request.grad(grad).lse(&mut of_rows),
                    "target_log_probabilities" => request.grad(grad).target_log_probabilities(&mut of_rows),
                    "argmax" => request.grad(grad).argmax(&mut indices),
                    "argmax_probabilities" => request.grad(grad).argmax_probabilities(&mut of_rows),
                    "entropies" => request.grad(grad).entropies(&mut of_rows),
                    "target_ranks" => request.grad(grad).target_ranks(&mut indices),
                    "probabilities" => request.grad(grad).probabilities(wide),
                    "log_probabilities" => request.grad(grad).log_probabilities(wide),
                    _ => unreachable!("{name} is in the list above"),
                };
                ce.run(black_box(logits), &batch.targets, request)
            });
        });
    }
    Ok(())
}

/// What is not a loss of classes.
fn other_calls(group: &mut Group<'_>, batch: &Batch) -> Result<(), xent::Error> {
    let ce = plain().build()?;
    let distillation = Distillation::builder().temperature(2.0).parallelism(Parallelism::Serial).build()?;
    let logits = Matrix::new(&batch.logits, ROWS, CLASSES)?;
    // Also the teacher's logits, and a direction.
    let q = Matrix::new(&batch.probabilities, ROWS, CLASSES)?;
    let mut out = vec![0.0; ROWS * CLASSES];
    for name in
        ["probabilities as targets", "distillation", "hessian_vector_product", "jvp", "gauss_newton_diagonal"]
    {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let (logits, targets) = (black_box(logits), &batch.targets);
                let out = MatrixMut::new(&mut out, ROWS, CLASSES)?;
                match name {
                    "probabilities as targets" => {
                        ce.run_probabilities(logits, q, Request::new().grad(out)).map(|summary| summary.loss)
                    }
                    "distillation" => distillation.loss_and_grad(logits, q, out),
                    "hessian_vector_product" => {
                        ce.hessian_vector_product(logits, targets, q, out).map(|()| 0.0)
                    }
                    "jvp" => ce.jvp(logits, targets, q),
                    "gauss_newton_diagonal" => ce.gauss_newton_diagonal(logits, targets, out).map(|()| 0.0),
                    _ => unreachable!("{name} is in the list above"),
                }
            });
        });
    }
    Ok(())
}

/// Logits of another dtype than `f32`.
fn dtype<T: Element>(
    group: &mut Group<'_>,
    batch: &Batch,
    name: &str,
    of_f32: fn(f32) -> T,
) -> Result<(), xent::Error> {
    let narrow = |x: &[f32]| -> Vec<T> { x.iter().copied().map(of_f32).collect() };
    let (logits, teacher) = (narrow(&batch.logits), narrow(&batch.probabilities));
    let builders =
        [("plain", plain()), ("logit_scale", plain().logit_scale(0.7)), ("softcap", plain().softcap(30.0))];
    for (option, builder) in builders {
        loss_and_grad(group, &format!("{name}, {option}"), builder, &logits, &batch.targets)?;
    }
    let distillation = Distillation::builder().temperature(2.0).parallelism(Parallelism::Serial).build()?;
    let mut grad = logits.clone();
    group.bench_function(format!("{name}, distillation"), |bencher| {
        bencher.iter(|| {
            let [student, teacher] =
                [Matrix::new(black_box(&logits), ROWS, CLASSES)?, Matrix::new(&teacher, ROWS, CLASSES)?];
            distillation.loss_and_grad(student, teacher, MatrixMut::new(&mut grad, ROWS, CLASSES)?)
        });
    });
    Ok(())
}

/// Gradients in another dtype than the logits.
#[cfg(feature = "half")]
fn other_gradients(group: &mut Group<'_>, batch: &Batch) -> Result<(), xent::Error> {
    use half::bf16;

    let ce = plain().build()?;
    let logits = Matrix::new(&batch.logits, ROWS, CLASSES)?;
    let halves: Vec<bf16> = batch.logits.iter().copied().map(bf16::from_f32).collect();
    let halves = Matrix::new(&halves, ROWS, CLASSES)?;
    let (mut wide, mut narrow) = (vec![0.0_f32; ROWS * CLASSES], vec![bf16::ZERO; ROWS * CLASSES]);
    group.bench_function("bf16, gradient of f32", |bencher| {
        bencher.iter(|| {
            let request = Request::new().grad_as(MatrixMut::new(&mut wide, ROWS, CLASSES)?);
            ce.run(black_box(halves), &batch.targets, request)
        });
    });
    group.bench_function("gradient of bf16", |bencher| {
        bencher.iter(|| {
            let request = Request::new().grad_as(MatrixMut::new(&mut narrow, ROWS, CLASSES)?);
            ce.run(black_box(logits), &batch.targets, request)
        });
    });
    Ok(())
}
