//! Trains a classifier on handwritten digits with candle, twice: with candle's own loss and with `xent_candle`'s.
//!
//! ```text
//! cargo run --release -p xent-candle --example train_digits
//! ```
//!
//! Both trainings start with the same weights and see the same batches, and they take turns, step by step. The run fails
//! if the losses of any step differ by more than 1e-5, or if fewer than 95% of the held-out digits are right.

use std::error::Error;
use std::process::ExitCode;

use candle_core::{D, Device, Result, Tensor, Var};
use candle_nn::{Linear, Module, Optimizer, SGD};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use xent_training_data::{CLASSES, Comparison, Digits, PIXELS, Side, SplitMix64};

const HIDDEN: usize = 64;
const BATCH: usize = 64;
const LEARNING_RATE: f64 = 0.5;
const REQUIRED_ACCURACY: f64 = 0.95;

/// Train a classifier on handwritten digits, with candle's own loss and with xent.
#[derive(Parser)]
struct Arguments {
    /// How often to go through the training images.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Seed of the split into training and held-out images, of the first weights and of the order of training.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut result: std::result::Result<(), String> = Ok(());
    // In the pool that candle and xent work in, so that no call has to wake it.
    rayon::scope(|_| result = run(&arguments).map_err(|error| error.to_string()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> std::result::Result<(), Box<dyn Error>> {
    let mut random = SplitMix64::new(arguments.seed);
    let (training, held_out) = Digits::read()?.split(&mut random);
    println!("{} images to train on, {} held out", training.labels.len(), held_out.labels.len());

    let weights = random.clone();
    let mut framework = Classifier::new(&mut weights.clone())?;
    let mut xent = Classifier::new(&mut weights.clone())?;
    let mut comparison = Comparison::default();

    let progress = ProgressBar::new(u64::from(arguments.epochs))
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} epochs, {eta} left")?);
    for epoch in 1..=arguments.epochs {
        let order = random.order(training.labels.len());
        let (mut sum, mut batches) = (0.0, 0);
        for images in order.chunks(BATCH) {
            let (pixels, labels) = tensors(&training.select(images))?;
            comparison.step(Side::Framework, || {
                framework.step(&pixels, |logits| candle_nn::loss::cross_entropy(logits, &labels))
            })?;
            sum += comparison.step(Side::Xent, || {
                xent.step(&pixels, |logits| xent_candle::cross_entropy(logits, &labels))
            })?;
            batches += 1;
        }
        progress.inc(1);
        if epoch % 5 == 0 || epoch == arguments.epochs {
            let accuracy = xent.accuracy(&held_out)?;
            progress.suspend(|| {
                println!(
                    "epoch {epoch:3}: mean loss {:.6}, held-out accuracy {accuracy:.4}",
                    sum / f64::from(batches)
                );
            });
        }
    }
    progress.finish_and_clear();

    comparison.report("candle")?;
    let (own, accuracy) = (framework.accuracy(&held_out)?, xent.accuracy(&held_out)?);
    println!("held-out accuracy: {own:.4} with candle's loss, {accuracy:.4} with xent's");
    if accuracy < REQUIRED_ACCURACY {
        return Err(format!("held-out accuracy is {accuracy:.4}, below {REQUIRED_ACCURACY}").into());
    }
    Ok(())
}

/// images x PIXELS, and one label for each image.
fn tensors(digits: &Digits) -> Result<(Tensor, Tensor)> {
    let images = digits.labels.len();
    let pixels = Tensor::from_slice(&digits.pixels, (images, PIXELS), &Device::Cpu)?;
    Ok((pixels, Tensor::from_slice(&digits.labels, images, &Device::Cpu)?))
}

/// One hidden layer of rectified linear units, and a linear layer of logits.
struct Classifier {
    hidden: Linear,
    output: Linear,
    optimizer: SGD,
}

impl Classifier {
    fn new(random: &mut SplitMix64) -> Result<Self> {
        let mut variables = Vec::new();
        let hidden = linear(PIXELS, HIDDEN, random, &mut variables)?;
        let output = linear(HIDDEN, CLASSES, random, &mut variables)?;
        Ok(Self { hidden, output, optimizer: SGD::new(variables, LEARNING_RATE)? })
    }

    fn logits(&self, pixels: &Tensor) -> Result<Tensor> {
        self.output.forward(&self.hidden.forward(pixels)?.relu()?)
    }

    /// A step down the gradient of the loss.
    fn step(&mut self, pixels: &Tensor, loss: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<f64> {
        let loss = loss(&self.logits(pixels)?)?;
        self.optimizer.backward_step(&loss)?;
        Ok(f64::from(loss.to_scalar::<f32>()?))
    }

    fn accuracy(&self, digits: &Digits) -> Result<f64> {
        let (pixels, _) = tensors(digits)?;
        let found = self.logits(&pixels)?.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let correct = found.iter().zip(&digits.labels).filter(|(found, label)| found == label).count();
        Ok(correct as f64 / digits.labels.len() as f64)
    }
}

/// A layer of random weights whose variance is 2 / inputs (He et al. 2015, "Delving deep into rectifiers"), and biases of 0.
fn linear(
    inputs: usize,
    outputs: usize,
    random: &mut SplitMix64,
    variables: &mut Vec<Var>,
) -> Result<Linear> {
    let weights = random.uniform(inputs * outputs, (6.0 / inputs as f32).sqrt());
    let weight = Var::from_vec(weights, (outputs, inputs), &Device::Cpu)?;
    let bias = Var::from_vec(vec![0.0_f32; outputs], outputs, &Device::Cpu)?;
    let layer = Linear::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone()));
    variables.extend([weight, bias]);
    Ok(layer)
}
