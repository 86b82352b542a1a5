//! Trains a classifier on handwritten digits with burn, twice: with burn's own loss and with `xent_burn`'s.
//!
//! ```text
//! cargo run --release -p xent-burn --example train_digits
//! ```
//!
//! Both trainings start with the same weights and see the same batches, and they take turns, step by step. The run fails
//! if the losses of any step differ by more than 1e-5, or if fewer than 95% of the held-out digits are right.

use std::error::Error;
use std::process::ExitCode;

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use xent_training_data::{CLASSES, Comparison, Digits, PIXELS, Side, SplitMix64};

const HIDDEN: usize = 64;
const BATCH: usize = 64;
const LEARNING_RATE: f64 = 0.5;
const REQUIRED_ACCURACY: f64 = 0.95;

/// Train a classifier on handwritten digits, with burn's own loss and with xent.
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
    let mut result: Result<(), String> = Ok(());
    // In the pool that burn and xent work in, so that no call has to wake it.
    rayon::scope(|_| result = run(&arguments).map_err(|error| error.to_string()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let device = Device::flex().autodiff();
    let mut random = SplitMix64::new(arguments.seed);
    let (training, held_out) = Digits::read()?.split(&mut random);
    println!("{} images to train on, {} held out", training.labels.len(), held_out.labels.len());

    let mut framework = Training::new(&mut random.clone(), &device);
    let mut xent = Training::new(&mut random.clone(), &device);
    let burns_own = burn::nn::loss::CrossEntropyLossConfig::new().init(&device);
    let xents = xent_burn::CrossEntropyLossConfig::new().try_init(&device)?;
    let mut comparison = Comparison::default();

    let progress = ProgressBar::new(u64::from(arguments.epochs))
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} epochs, {eta} left")?);
    for epoch in 1..=arguments.epochs {
        let order = random.order(training.labels.len());
        let (mut sum, mut batches) = (0.0, 0);
        for images in order.chunks(BATCH) {
            let (pixels, labels) = tensors(&training.select(images), &device);
            comparison.step(Side::Framework, || {
                framework.step(&pixels, |logits| {
                    Ok::<_, xent_burn::Error>(burns_own.forward(logits, labels.clone()))
                })
            })?;
            sum += comparison.step(Side::Xent, || {
                xent.step(&pixels, |logits| xents.try_forward(logits, labels.clone()))
            })?;
            batches += 1;
        }
        progress.inc(1);
        if epoch % 5 == 0 || epoch == arguments.epochs {
            let accuracy = xent.model.accuracy(&held_out, &device);
            progress.suspend(|| {
                println!(
                    "epoch {epoch:3}: mean loss {:.6}, held-out accuracy {accuracy:.4}",
                    sum / f64::from(batches)
                );
            });
        }
    }
    progress.finish_and_clear();

    comparison.report("burn")?;
    let (own, accuracy) =
        (framework.model.accuracy(&held_out, &device), xent.model.accuracy(&held_out, &device));
    println!("held-out accuracy: {own:.4} with burn's loss, {accuracy:.4} with xent's");
    if accuracy < REQUIRED_ACCURACY {
        return Err(format!("held-out accuracy is {accuracy:.4}, below {REQUIRED_ACCURACY}").into());
    }
    Ok(())
}

/// images x PIXELS, and one label for each image.
fn tensors(digits: &Digits, device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
    let images = digits.labels.len();
    let labels = digits.labels.iter().map(|&label| i64::from(label)).collect();
    (
        Tensor::from_data(TensorData::new(digits.pixels.clone(), [images, PIXELS]), device),
        Tensor::from_data(TensorData::new::<i64, _>(labels, [images]), device),
    )
}

/// One hidden layer of rectified linear units, and a linear layer of logits.
#[derive(Module, Debug)]
struct Classifier {
    hidden: Linear,
    output: Linear,
}

impl Classifier {
    fn logits(&self, pixels: Tensor<2>) -> Tensor<2> {
        self.output.forward(relu(self.hidden.forward(pixels)))
    }

    fn accuracy(&self, digits: &Digits, device: &Device) -> f64 {
        let (pixels, _) = tensors(digits, device);
        let found = self.logits(pixels).argmax(1).into_data();
        let correct =
            found.iter::<u32>().zip(&digits.labels).filter(|(found, label)| found == *label).count();
        correct as f64 / digits.labels.len() as f64
    }
}

struct Training {
    model: Classifier,
    optimizer: ModuleOptimizer,
}

impl Training {
    fn new(random: &mut SplitMix64, device: &Device) -> Self {
        let hidden = linear(PIXELS, HIDDEN, random, device);
        let output = linear(HIDDEN, CLASSES, random, device);
        Self { model: Classifier { hidden, output }, optimizer: SgdConfig::new().init() }
    }

    /// A step down the gradient of the loss.
    fn step<E>(
        &mut self,
        pixels: &Tensor<2>,
        loss: impl FnOnce(Tensor<2>) -> Result<Tensor<1>, E>,
    ) -> Result<f64, E> {
        let loss = loss(self.model.logits(pixels.clone()))?;
        let grads = GradientsParams::from_grads(loss.backward(), &self.model);
        self.model = self.optimizer.step(LEARNING_RATE, self.model.clone(), grads);
        Ok(f64::from(loss.into_scalar::<f32>()))
    }
}

/// A layer of random weights whose variance is 2 / inputs (He et al. 2015, "Delving deep into rectifiers"), and biases of 0.
fn linear(inputs: usize, outputs: usize, random: &mut SplitMix64, device: &Device) -> Linear {
    let weights = random.uniform(inputs * outputs, (6.0 / inputs as f32).sqrt());
    let weights = Tensor::from_data(TensorData::new(weights, [inputs, outputs]), device);
    let mut layer = LinearConfig::new(inputs, outputs).init(device);
    layer.weight = Param::from_tensor(weights);
    layer.bias = Some(Param::from_tensor(Tensor::zeros([outputs], device)));
    layer
}
