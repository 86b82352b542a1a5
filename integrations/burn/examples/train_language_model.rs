//! Trains a small language model with a vocabulary of 65,536 hashed words with burn, twice: with burn's own loss and with
//! `xent_burn`'s.
//!
//! ```text
//! cargo run --release -p xent-burn --example train_language_model
//! ```
//!
//! From each word of the text in `integrations/data`, an embedding and a linear head predict the next. There are 65,536
//! logits for each word, so that the loss takes most of a step. Both trainings start with the same weights and see the same
//! batches, and they take turns, step by step. The run fails if the losses of any step differ by more than 1e-5, relative.

use std::error::Error;
use std::process::ExitCode;

use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::optim::{GradientsParams, ModuleOptimizer, SgdConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use xent_training_data::{Comparison, Side, SplitMix64, VOCABULARY, text};

const WIDTH: usize = 16;
const LEARNING_RATE: f64 = 10.0;

/// Train a small language model with a large vocabulary, with burn's own loss and with xent.
#[derive(Parser)]
struct Arguments {
    /// How many steps to train, with each of the losses.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Words of a step.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    words: u32,
    /// Seed of the first weights and of the order of training.
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
    let text = text();
    println!("{} words of text, {VOCABULARY} classes, {} words a step", text.len(), arguments.words);
    let mut random = SplitMix64::new(arguments.seed);
    let mut framework = Training::new(&mut random.clone(), &device);
    let mut xent = Training::new(&mut random.clone(), &device);
    let burns_own = burn::nn::loss::CrossEntropyLossConfig::new().init(&device);
    let xents = xent_burn::CrossEntropyLossConfig::new().try_init(&device)?;
    let mut comparison = Comparison::default();

    // Each word but the last, with the one that follows; in random order, so that batches are alike.
    let order = random.order(text.len() - 1);
    let progress = ProgressBar::new(u64::from(arguments.steps))
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} left")?);
    for (step, positions) in (1..=arguments.steps).zip(order.chunks_exact(arguments.words as usize).cycle()) {
        let words = tensor(positions.iter().map(|&position| text[position]), &device);
        let next = tensor(positions.iter().map(|&position| text[position + 1]), &device);
        comparison.step(Side::Framework, || {
            framework
                .step(&words, |logits| Ok::<_, xent_burn::Error>(burns_own.forward(logits, next.clone())))
        })?;
        let loss = comparison
            .step(Side::Xent, || xent.step(&words, |logits| xents.try_forward(logits, next.clone())))?;
        progress.inc(1);
        if step % 5 == 0 || step == 1 || step == arguments.steps {
            progress.suspend(|| println!("step {step:4}: loss {loss:.6}"));
        }
    }
    progress.finish_and_clear();
    comparison.report("burn")?;
    Ok(())
}

fn tensor(classes: impl ExactSizeIterator<Item = u32>, device: &Device) -> Tensor<1, Int> {
    let len = classes.len();
    Tensor::from_data(TensorData::new(classes.map(i64::from).collect(), [len]), device)
}

/// An embedding of words, and a linear head of logits.
#[derive(Module, Debug)]
struct LanguageModel {
    embedding: Embedding,
    head: Linear,
}

struct Training {
    model: LanguageModel,
    optimizer: ModuleOptimizer,
}

impl Training {
    fn new(random: &mut SplitMix64, device: &Device) -> Self {
        let mut embedding = EmbeddingConfig::new(VOCABULARY, WIDTH).init(device);
        // Positive, so that what follows every word alike, the most frequent words, is learned at once.
        let weights = random.uniform(VOCABULARY * WIDTH, 1.0).into_iter().map(f32::abs).collect::<Vec<_>>();
        embedding.weight =
            Param::from_tensor(Tensor::from_data(TensorData::new(weights, [VOCABULARY, WIDTH]), device));
        let mut head = LinearConfig::new(WIDTH, VOCABULARY).with_bias(false).init(device);
        let weights = random.uniform(VOCABULARY * WIDTH, 1.0 / (WIDTH as f32).sqrt());
        head.weight =
            Param::from_tensor(Tensor::from_data(TensorData::new(weights, [WIDTH, VOCABULARY]), device));
        Self { model: LanguageModel { embedding, head }, optimizer: SgdConfig::new().init() }
    }

    /// A step down the gradient of the loss.
    fn step<E>(
        &mut self,
        words: &Tensor<1, Int>,
        loss: impl FnOnce(Tensor<2>) -> Result<Tensor<1>, E>,
    ) -> Result<f64, E> {
        let embedded = self.model.embedding.forward(words.clone().unsqueeze_dim(0)).squeeze_dim::<2>(0);
        // The loss gets the only handle on the logits, so that their gradient can take their place.
        let loss = loss(self.model.head.forward(embedded))?;
        let grads = GradientsParams::from_grads(loss.backward(), &self.model);
        self.model = self.optimizer.step(LEARNING_RATE, self.model.clone(), grads);
        Ok(f64::from(loss.into_scalar::<f32>()))
    }
}
