//! What each option costs beside the plain call: loss and gradient of 1024 x 1000 logits, on one thread.

use std::error::Error;
use std::hint::black_box;

use criterion::{Criterion, Throughput};
#[cfg(feature = "half")]
use half::bf16;
use xent::{
    CrossEntropy, CrossEntropyBuilder, Distillation, Matrix, MatrixMut, Parallelism, Request, Smoothing,
};

use crate::calls::Random;

const ROWS: usize = 1024;
const CLASSES: usize = 1000;

pub fn bench(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let mut random = Random::new();
    let mut x = vec![0.0; ROWS * CLASSES];
    random.logits(&mut x);
    let targets = random.targets(ROWS, CLASSES);
    let mut q = vec![0.0; ROWS * CLASSES];
    xent::softmax(Matrix::new(&x, ROWS, CLASSES)?, MatrixMut::new(&mut q, ROWS, CLASSES)?)?;
    let weights = vec![0.5_f32; CLASSES];
    let row_weights = vec![0.5_f32; ROWS];
    let mut grad = vec![0.0; ROWS * CLASSES];
    let (mut of_rows, mut ranks) = (vec![0.0; ROWS], vec![0; ROWS]);

    let logits = Matrix::new(&x, ROWS, CLASSES)?;
    let mut group = criterion.benchmark_group("options");
    group.throughput(Throughput::Elements((ROWS * CLASSES) as u64));
    let plain = CrossEntropy::builder().parallelism(Parallelism::Serial);
    let smooth = plain.clone().label_smoothing(0.1);
    let builders: [(&str, CrossEntropyBuilder); 11] = [
        ("plain", plain.clone()),
        ("weight", plain.clone().weight(weights.clone())),
        ("label_smoothing", smooth.clone()),
        ("label_smoothing, weight", smooth.clone().weight(weights)),
        ("label_smoothing, other classes", smooth.clone().smoothing(Smoothing::OtherClasses)),
        ("label_smoothing, live classes", smooth.smoothing(Smoothing::LiveClasses)),
        ("z_loss", plain.clone().z_loss(1e-4)),
        ("focal_gamma", plain.clone().focal_gamma(2.0)),
        ("logit_scale", plain.clone().logit_scale(0.7)),
        ("softcap", plain.clone().softcap(30.0)),
        ("logit_scale, softcap", plain.clone().logit_scale(0.7).softcap(30.0)),
    ];
    for (name, builder) in builders {
        let ce = builder.build()?;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let grad = MatrixMut::new(&mut grad, ROWS, CLASSES)?;
                ce.loss_and_grad(black_box(logits), &targets, grad)
            });
        });
    }

    let doubles: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    let mut grad_of_doubles = vec![0.0_f64; ROWS * CLASSES];
    let builders = [
        ("f64, plain", plain.clone()),
        ("f64, logit_scale", plain.clone().logit_scale(0.7)),
        ("f64, softcap", plain.clone().softcap(30.0)),
    ];
    for (name, builder) in builders {
        let ce = builder.build()?;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let logits = Matrix::new(black_box(&doubles), ROWS, CLASSES)?;
                let grad = MatrixMut::new(&mut grad_of_doubles, ROWS, CLASSES)?;
                ce.loss_and_grad(logits, &targets, grad)
            });
        });
    }

    #[cfg(feature = "half")]
    {
        let ce = plain.clone().build()?;
        let halves: Vec<bf16> = x.iter().map(|&x| bf16::from_f32(x)).collect();
        let mut grad_of_halves = vec![bf16::ZERO; ROWS * CLASSES];
        group.bench_function("bf16, plain", |bencher| {
            bencher.iter(|| {
                let logits = Matrix::new(black_box(&halves), ROWS, CLASSES)?;
                ce.loss_and_grad(logits, &targets, MatrixMut::new(&mut grad_of_halves, ROWS, CLASSES)?)
            });
        });
        group.bench_function("bf16, gradient of f32", |bencher| {
            bencher.iter(|| {
                let logits = Matrix::new(black_box(&halves), ROWS, CLASSES)?;
                let request = Request::new().grad_as(MatrixMut::new(&mut grad, ROWS, CLASSES)?);
                ce.run(logits, &targets, request)
            });
        });
        group.bench_function("gradient of bf16", |bencher| {
            bencher.iter(|| {
                let request = Request::new().grad_as(MatrixMut::new(&mut grad_of_halves, ROWS, CLASSES)?);
                ce.run(black_box(logits), &targets, request)
            });
        });
    }

    let ce = plain.build()?;
    // With the gradient, one more output or input.
    let requests = ["row_weights", "accumulate", "lse", "argmax", "entropies", "target_ranks"];
    for name in requests {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let grad = MatrixMut::new(&mut grad, ROWS, CLASSES)?;
                let request = match name {
                    "row_weights" => Request::new().grad(grad).row_weights(&row_weights),
                    "accumulate" => Request::new().accumulate(grad),
                    "lse" => Request::new().grad(grad).lse(&mut of_rows),
                    "argmax" => Request::new().grad(grad).argmax(&mut ranks),
                    "entropies" => Request::new().grad(grad).entropies(&mut of_rows),
                    _ => Request::new().grad(grad).target_ranks(&mut ranks),
                };
                ce.run(black_box(logits), &targets, request)
            });
        });
    }
    let q = Matrix::new(&q, ROWS, CLASSES)?;
    group.bench_function("probabilities as targets", |bencher| {
        bencher.iter(|| {
            let request = Request::new().grad(MatrixMut::new(&mut grad, ROWS, CLASSES)?);
            ce.run_probabilities(black_box(logits), q, request)
        });
    });
    let distillation = Distillation::builder().temperature(2.0).parallelism(Parallelism::Serial).build()?;
    group.bench_function("distillation", |bencher| {
        // Two matrices of logits: the probabilities stand for the teacher's.
        bencher.iter(|| {
            let grad = MatrixMut::new(&mut grad, ROWS, CLASSES)?;
            distillation.loss_and_grad(black_box(logits), q, grad)
        });
    });
    group.bench_function("hessian_vector_product", |bencher| {
        bencher.iter(|| {
            let product = MatrixMut::new(&mut grad, ROWS, CLASSES)?;
            ce.hessian_vector_product(black_box(logits), &targets, q, product)
        });
    });
    group.finish();
    Ok(())
}
