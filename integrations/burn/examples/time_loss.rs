//! The time of the loss alone, forward and backward, with burn's own loss and with `xent_burn`'s, in turns.
//!
//! ```text
//! cargo run --release -p xent-burn --example time_loss
//! ```
//!
//! The logits are those of a leaf, which is kept: the gradient needs memory of its own. In the last call they are the output
//! of an operation, as in a model, and the gradient takes their place; the operation is timed too.

use std::hint::black_box;
use std::time::Duration;

use burn::tensor::{Device, Int, Tensor, TensorData};
use xent_training_data::{SplitMix64, Turns};

const SHAPES: [(usize, usize); 4] = [(64, 10), (1024, 1000), (128, 65_536), (128, 128_256)];
/// For each shape.
const DURATION: Duration = Duration::from_secs(5);

fn main() {
    // In the pool that burn and xent work in, so that no call has to wake it.
    rayon::scope(|_| {
        for (rows, classes) in SHAPES {
            time(rows, classes);
        }
    });
}

fn time(rows: usize, classes: usize) {
    println!("{rows} x {classes}, f32");
    let device = Device::flex().autodiff();
    let values = SplitMix64::new(1).uniform(rows * classes, 5.0);
    let logits = Tensor::<2>::from_data(TensorData::new(values, [rows, classes]), &device).require_grad();
    let targets = (0..rows).map(|row| (row * 7919 % classes) as i64).collect();
    let targets = Tensor::<1, Int>::from_data(TensorData::new::<i64, _>(targets, [rows]), &device);
    // On a device without autodiff, so that no call leaves nodes in a graph that the others have to clean up.
    let plain = Device::flex();
    let plain_logits = Tensor::<2>::from_data(logits.to_data(), &plain);
    let plain_targets = Tensor::<1, Int>::from_data(targets.to_data(), &plain);
    let own = burn::nn::loss::CrossEntropyLossConfig::new().init(&device);
    let own_plain = burn::nn::loss::CrossEntropyLossConfig::new().init(&plain);
    let xent = xent_burn::CrossEntropyLossConfig::new().init(&device);

    Turns::default()
        .call("burn", || drop(black_box(own.forward(logits.clone(), targets.clone()).backward())))
        .call("xent", || drop(black_box(xent.forward(logits.clone(), targets.clone()).backward())))
        .call("xent, forward without a gradient", || {
            drop(black_box(xent.forward(plain_logits.clone(), plain_targets.clone())));
        })
        .call("burn, forward without a gradient", || {
            drop(black_box(own_plain.forward(plain_logits.clone(), plain_targets.clone())));
        })
        .call("burn, of logits + 1", || {
            drop(black_box(own.forward(logits.clone() + 1.0, targets.clone()).backward()));
        })
        .call("xent, of logits + 1: in their place", || {
            drop(black_box(xent.forward(logits.clone() + 1.0, targets.clone()).backward()));
        })
        .run(DURATION);
}
