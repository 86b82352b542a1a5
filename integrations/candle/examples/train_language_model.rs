//! Trains a small language model with a vocabulary of 65,536 hashed words with candle, twice: with candle's own loss and
//! with `xent_candle`'s.
//!
//! ```text
//! cargo run --release -p xent-candle --example train_language_model
//! ```
//!
//! From each word of the text in `integrations/data`, an embedding and a linear head predict the next. There are 65,536
//! logits for each word, so that the loss takes most of a step. Both trainings start with the same weights and see the same
//! batches, and they take turns, step by step. The run fails if the losses of any step differ by more than 1e-5, relative.

use std::error::Error;
use std::process::ExitCode;

use candle_core::{Device, Result, Tensor, Var};
use candle_nn::{Embedding, Linear, Module, Optimizer, SGD};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use xent_training_data::{Comparison, Side, SplitMix64, VOCABULARY, text};

const WIDTH: usize = 16;
const LEARNING_RATE: f64 = 10.0;

/// Train a small language model with a large vocabulary, with candle's own loss and with xent.
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
    let text = text();
    println!("{} words of text, {VOCABULARY} classes, {} words a step", text.len(), arguments.words);
    let mut random = SplitMix64::new(arguments.seed);
    let mut framework = LanguageModel::new(&mut random.clone())?;
    let mut xent = LanguageModel::new(&mut random.clone())?;
    let mut comparison = Comparison::default();

    // Each word but the last, with the one that follows; in random order, so that batches are alike.
    let order = random.order(text.len() - 1);
    let progress = ProgressBar::new(u64::from(arguments.steps))
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} steps, {eta} left")?);
    for (step, positions) in (1..=arguments.steps).zip(order.chunks_exact(arguments.words as usize).cycle()) {
        let words: Vec<u32> = positions.iter().map(|&position| text[position]).collect();
        let next: Vec<u32> = positions.iter().map(|&position| text[position + 1]).collect();
        let words = Tensor::from_vec(words, positions.len(), &Device::Cpu)?;
        let next = Tensor::from_vec(next, positions.len(), &Device::Cpu)?;
        comparison.step(Side::Framework, || {
            framework.step(&words, |logits| candle_nn::loss::cross_entropy(logits, &next))
        })?;
        let loss = comparison
            .step(Side::Xent, || xent.step(&words, |logits| xent_candle::cross_entropy(logits, &next)))?;
        progress.inc(1);
        if step % 5 == 0 || step == 1 || step == arguments.steps {
            progress.suspend(|| println!("step {step:4}: loss {loss:.6}"));
        }
    }
    progress.finish_and_clear();
    comparison.report("candle")?;
    Ok(())
}

/// An embedding of words, and a linear head of logits.
struct LanguageModel {
    embedding: Embedding,
    head: Linear,
    optimizer: SGD,
}

impl LanguageModel {
    fn new(random: &mut SplitMix64) -> Result<Self> {
        let shape = (VOCABULARY, WIDTH);
        // Positive, so that what follows every word alike, the most frequent words, is learned at once.
        let embedding = random.uniform(VOCABULARY * WIDTH, 1.0).into_iter().map(f32::abs).collect::<Vec<_>>();
        let embedding = Var::from_vec(embedding, shape, &Device::Cpu)?;
        let bound = 1.0 / (WIDTH as f32).sqrt();
        let head = Var::from_vec(random.uniform(VOCABULARY * WIDTH, bound), shape, &Device::Cpu)?;
        Ok(Self {
            embedding: Embedding::new(embedding.as_tensor().clone(), WIDTH),
            head: Linear::new(head.as_tensor().clone(), None),
            optimizer: SGD::new(vec![embedding, head], LEARNING_RATE)?,
        })
    }

    /// A step down the gradient of the loss.
    fn step(&mut self, words: &Tensor, loss: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<f64> {
        let logits = self.head.forward(&self.embedding.forward(words)?)?;
        let loss = loss(&logits)?;
        self.optimizer.backward_step(&loss)?;
        Ok(f64::from(loss.to_scalar::<f32>()?))
    }
}
