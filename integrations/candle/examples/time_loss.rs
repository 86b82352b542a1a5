//! The time of the loss alone, forward and backward, with candle's own loss and with `xent_candle`'s, in turns.
//!
//! ```text
//! cargo run --release -p xent-candle --example time_loss
//! ```

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Duration;

use candle_core::{Device, Result, Tensor, Var};
use xent_training_data::{SplitMix64, Turns};

const SHAPES: [(usize, usize); 4] = [(64, 10), (1024, 1000), (128, 65_536), (128, 128_256)];
/// For each shape.
const DURATION: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let mut result = Ok(());
    // In the pool that candle and xent work in, so that no call has to wake it.
    rayon::scope(|_| result = SHAPES.into_iter().try_for_each(|(rows, classes)| time(rows, classes)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn time(rows: usize, classes: usize) -> Result<()> {
    println!("{rows} x {classes}, f32");
    let values = SplitMix64::new(1).uniform(rows * classes, 5.0);
    let logits = Var::from_vec(values, (rows, classes), &Device::Cpu)?;
    let targets = (0..rows).map(|row| (row * 7919 % classes) as u32).collect();
    let targets = Tensor::from_vec(targets, rows, &Device::Cpu)?;
    let detached = logits.as_detached_tensor();
    // What fails here has failed before.
    candle_nn::loss::cross_entropy(&logits, &targets)?.backward()?;
    xent_candle::cross_entropy(&logits, &targets)?.backward()?;

    let own = || candle_nn::loss::cross_entropy(&logits, &targets);
    let xent = || xent_candle::cross_entropy(&logits, &targets);
    Turns::default()
        .call("candle", || drop(black_box(own().and_then(|loss| loss.backward()))))
        .call("xent", || drop(black_box(xent().and_then(|loss| loss.backward()))))
        .call("xent, loss x 2: the gradient twice", || {
            drop(black_box(xent().and_then(|loss| (loss * 2.0)?.backward())));
        })
        .call("xent, forward with the gradient", || drop(black_box(xent())))
        .call("xent, forward without a gradient", || {
            drop(black_box(xent_candle::cross_entropy(&detached, &targets)));
        })
        .call("candle, forward without a gradient", || {
            drop(black_box(candle_nn::loss::cross_entropy(&detached, &targets)));
        })
        .run(DURATION);
    Ok(())
}
