//! Trains a softmax classifier on handwritten digits with the loss and the gradient of `xent`.
//!
//! ```text
//! cargo run --release --example train_digits
//! cargo run --release --example train_digits -- --help
//! ```
//!
//! The model has one hidden layer. It learns from four fifths of the images in `examples/data` by stochastic gradient
//! descent with momentum; the last fifth is held out to test it. Every batch's logits also go through the scalar
//! reference, which must agree, and the time that each of the two takes is reported. The reference is written to be
//! read, not to be fast: one `f64` at a time, in memory that it allocates. The losses are drawn as an SVG file. The run
//! fails if the classifier gets fewer than 95% of the held-out digits right.
//!
//! A run with the same arguments prints the same numbers again, apart from the times.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use flate2::read::GzDecoder;
use indicatif::{ProgressBar, ProgressStyle};
use plotters::prelude::*;
use xent::{CrossEntropy, Matrix, MatrixMut, Request, reference};

const PIXELS: usize = 64;
const HIDDEN: usize = 64;
const CLASSES: usize = 10;
const LARGEST_PIXEL: f32 = 16.0;

const BATCH: usize = 64;
const LEARNING_RATE: f32 = 0.1;
const MOMENTUM: f32 = 0.9;

const REQUIRED_ACCURACY: f64 = 0.95;

/// The largest relative error that `xent` promises for a gradient, (|d| + D + 4) / 2^24, where the logit's gap d and the
/// row's mean gap D are as large as they can be before the gradient is 0.
const TOLERANCE: f64 = (88.0 + 88.0 + 4.0) / (1 << 24) as f64;

/// Train a softmax classifier on handwritten digits.
#[derive(Parser)]
struct Arguments {
    /// How often to go through the training images.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Seed of the split into training and held-out images, of the first weights and of the order of training.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to draw the losses.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/train_digits.svg"))]
    svg: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut random = SplitMix64 { state: arguments.seed };
    let digits =
        Digits::read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/digits.csv.gz")))?;
    let (training, held_out) = digits.split(&mut random);
    println!("{} images to train on, {} held out", training.labels.len(), held_out.labels.len());

    let ce = CrossEntropy::default();
    let mut model = Model::new(&mut random);
    let mut comparison = Comparison::default();
    let mut history = Vec::new();

    let batches_per_epoch = training.labels.len().div_ceil(BATCH) as u64;
    let progress = ProgressBar::new(u64::from(arguments.epochs) * batches_per_epoch)
        .with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} batches, {eta} left")?);
    println!("epoch  train: loss  accuracy  held out: loss  accuracy");
    for epoch in 1..=arguments.epochs {
        let mut order: Vec<usize> = (0..training.labels.len()).collect();
        random.shuffle(&mut order);
        for images in order.chunks(BATCH) {
            let batch = training.select(images);
            let (units, mut logits) = model.forward(&batch.pixels);
            let before = logits.clone();

            let start = Instant::now();
            let matrix = MatrixMut::new(&mut logits, batch.labels.len(), CLASSES)?;
            let loss = ce.loss_and_grad_in_place(matrix, &batch.labels)?;
            comparison.fused.push(start.elapsed());

            let grad = logits; // The call above has replaced them.
            comparison.check(&ce, &before, &batch.labels, loss, &grad)?;
            model.step(&batch.pixels, &units, &grad);
            progress.inc(1);
        }

        let scores =
            Scores { training: model.score(&ce, &training)?, held_out: model.score(&ce, &held_out)? };
        // The bar stands below what is printed while it is hidden.
        progress.suspend(|| {
            let Scores { training, held_out } = &scores;
            println!(
                "{epoch:5}  {:11.4}  {:8.4}  {:14.4}  {:8.4}",
                training.loss, training.accuracy, held_out.loss, held_out.accuracy
            );
        });
        history.push(scores);
    }
    progress.finish_and_clear();

    comparison.report(&ce);
    let svg = arguments.svg.display();
    draw(&history, &arguments.svg).map_err(|error| format!("{svg}: {error}"))?;
    println!("\nloss curve: {svg}");

    let accuracy = history.last().map_or(0.0, |scores| scores.held_out.accuracy);
    if accuracy < REQUIRED_ACCURACY {
        return Err(format!("held-out accuracy is {accuracy:.4}, below {REQUIRED_ACCURACY}").into());
    }
    println!("held-out accuracy: {accuracy:.4} (at least {REQUIRED_ACCURACY} is required)");
    Ok(())
}

/// Images and the digits they show.
#[derive(Default)]
struct Digits {
    /// images x PIXELS, from 0 to 1
    pixels: Vec<f32>,
    /// one for each image
    labels: Vec<u8>,
}

impl Digits {
    fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut digits = Self::default();
        for line in BufReader::new(GzDecoder::new(file)).lines() {
            let line = line?;
            let values = line.split(',').map(str::parse).collect::<Result<Vec<u8>, _>>()?;
            let [pixels @ .., label] = &values[..] else { return Err("an image without a label".into()) };
            if pixels.len() != PIXELS {
                return Err(format!("an image of {} pixels instead of {PIXELS}", pixels.len()).into());
            }
            digits.pixels.extend(pixels.iter().map(|&pixel| f32::from(pixel) / LARGEST_PIXEL));
            digits.labels.push(*label);
        }
        Ok(digits)
    }

    /// Four fifths of the images to train on and the others to test with, at random.
    fn split(&self, random: &mut SplitMix64) -> (Self, Self) {
        let mut order: Vec<usize> = (0..self.labels.len()).collect();
        random.shuffle(&mut order);
        let (training, held_out) = order.split_at(order.len() * 4 / 5);
        (self.select(training), self.select(held_out))
    }

    fn select(&self, images: &[usize]) -> Self {
        let mut selected = Self::default();
        for &image in images {
            selected.pixels.extend_from_slice(&self.pixels[image * PIXELS..][..PIXELS]);
            selected.labels.push(self.labels[image]);
        }
        selected
    }
}

/// One hidden layer of rectified linear units, and a linear layer of logits.
struct Model {
    hidden: Layer,
    output: Layer,
}

/// How well the model does on a set of images.
struct Score {
    loss: f64,
    accuracy: f64,
}

/// The scores at the end of an epoch.
struct Scores {
    training: Score,
    held_out: Score,
}

impl Model {
    fn new(random: &mut SplitMix64) -> Self {
        Self { hidden: Layer::new(PIXELS, HIDDEN, random), output: Layer::new(HIDDEN, CLASSES, random) }
    }

    /// What the hidden units are, images x HIDDEN, and the logits, images x CLASSES.
    fn forward(&self, pixels: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let mut units = self.hidden.forward(pixels);
        for unit in &mut units {
            *unit = unit.max(0.0);
        }
        let logits = self.output.forward(&units);
        (units, logits)
    }

    /// Goes a step down the gradient, from that with respect to the logits, images x CLASSES.
    fn step(&mut self, pixels: &[f32], units: &[f32], grad: &[f32]) {
        let mut unit_grad = self.output.input_gradient(grad);
        for (grad, &unit) in unit_grad.iter_mut().zip(units) {
            if unit == 0.0 {
                *grad = 0.0;
            }
        }
        self.output.step(units, grad);
        self.hidden.step(pixels, &unit_grad);
    }

    fn score(&self, ce: &CrossEntropy, digits: &Digits) -> Result<Score, xent::Error> {
        let (_, logits) = self.forward(&digits.pixels);
        let logits = Matrix::new(&logits, digits.labels.len(), CLASSES)?;
        let summary = ce.run(logits, &digits.labels, Request::new())?;
        Ok(Score { loss: summary.loss, accuracy: summary.correct as f64 / summary.counted as f64 })
    }
}

/// outputs = inputs x weights + biases, one row for each image.
struct Layer {
    inputs: usize,
    outputs: usize,
    /// The weights, inputs x outputs, then the biases, 1 x outputs.
    parameters: Vec<f32>,
    velocity: Vec<f32>,
}

impl Layer {
    /// Random weights whose variance is 2 / inputs, which keeps the signal's size through rectified units (He et al.
    /// 2015, "Delving deep into rectifiers"), and biases of 0.
    fn new(inputs: usize, outputs: usize, random: &mut SplitMix64) -> Self {
        let bound = (6.0 / inputs as f32).sqrt();
        let mut parameters = vec![0.0; (inputs + 1) * outputs];
        for weight in &mut parameters[..inputs * outputs] {
            *weight = bound * (2.0 * random.unit() - 1.0);
        }
        Self { inputs, outputs, velocity: vec![0.0; parameters.len()], parameters }
    }

    fn forward(&self, input: &[f32]) -> Vec<f32> {
        let (weights, biases) = self.parameters.split_at(self.inputs * self.outputs);
        let mut output = Vec::with_capacity(input.len() / self.inputs * self.outputs);
        for input in input.chunks_exact(self.inputs) {
            let start = output.len();
            output.extend_from_slice(biases);
            for (&x, weights) in input.iter().zip(weights.chunks_exact(self.outputs)) {
                add_scaled(&mut output[start..], x, weights);
            }
        }
        output
    }

    /// The gradient with respect to the inputs, from that with respect to the outputs.
    fn input_gradient(&self, grad: &[f32]) -> Vec<f32> {
        let weights = &self.parameters[..self.inputs * self.outputs];
        let mut input_grad = Vec::with_capacity(grad.len() / self.outputs * self.inputs);
        for grad in grad.chunks_exact(self.outputs) {
            for weights in weights.chunks_exact(self.outputs) {
                input_grad.push(grad.iter().zip(weights).map(|(g, weight)| g * weight).sum());
            }
        }
        input_grad
    }

    /// Gradient descent with momentum, from the gradient with respect to the outputs.
    fn step(&mut self, input: &[f32], grad: &[f32]) {
        let mut parameter_grad = vec![0.0; self.parameters.len()];
        let (weight_grad, bias_grad) = parameter_grad.split_at_mut(self.inputs * self.outputs);
        for (input, grad) in input.chunks_exact(self.inputs).zip(grad.chunks_exact(self.outputs)) {
            for (&x, weight_grad) in input.iter().zip(weight_grad.chunks_exact_mut(self.outputs)) {
                add_scaled(weight_grad, x, grad);
            }
            add_scaled(bias_grad, 1.0, grad);
        }
        for i in 0..self.parameters.len() {
            self.velocity[i] = MOMENTUM * self.velocity[i] - LEARNING_RATE * parameter_grad[i];
            self.parameters[i] += self.velocity[i];
        }
    }
}

fn add_scaled(sum: &mut [f32], factor: f32, values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

/// What `xent` and the scalar reference make of the same batches.
#[derive(Default)]
struct Comparison {
    /// The time of each call.
    fused: Vec<Duration>,
    reference: Vec<Duration>,
    /// The largest relative differences so far.
    loss_difference: f64,
    grad_difference: f64,
}

impl Comparison {
    /// Times the reference on the batch whose loss and gradient are given, and checks that they agree.
    fn check(
        &mut self,
        ce: &CrossEntropy,
        logits: &[f32],
        labels: &[u8],
        loss: f64,
        grad: &[f32],
    ) -> Result<(), Box<dyn Error>> {
        let start = Instant::now();
        let expected = reference::cross_entropy(ce, Matrix::new(logits, labels.len(), CLASSES)?, labels)?;
        self.reference.push(start.elapsed());

        self.loss_difference = self.loss_difference.max(relative_difference(loss, expected.loss));
        for (&grad, expected) in grad.iter().zip(expected.grad) {
            // Smaller ones have fewer digits in `f32`, or none.
            if expected.abs() >= f64::from(f32::MIN_POSITIVE) {
                let difference = relative_difference(f64::from(grad), expected);
                self.grad_difference = self.grad_difference.max(difference);
            }
        }
        if self.loss_difference.max(self.grad_difference) > TOLERANCE {
            return Err(format!("xent and the reference disagree in batch {}", self.reference.len()).into());
        }
        Ok(())
    }

    fn report(&self, ce: &CrossEntropy) {
        println!("\nloss and gradient of {} batches of up to {BATCH} x {CLASSES} logits:", self.fused.len());
        let line = |name: &str, times: &[Duration]| {
            let total = times.iter().sum::<Duration>().as_secs_f64();
            let median = median(times).as_secs_f64();
            println!("  {name:24} {:9.3} ms in all  {:8.2} us per call (median)", 1e3 * total, 1e6 * median);
        };
        line(&format!("xent ({})", ce.backend()), &self.fused);
        line("scalar reference in f64", &self.reference);
        let ratio = median(&self.reference).as_secs_f64() / median(&self.fused).as_secs_f64();
        println!("  xent is {ratio:.1} times as fast, by the medians");
        println!(
            "  largest relative difference: loss {:.1e}, gradient {:.1e} (at most {TOLERANCE:.1e} is allowed)",
            self.loss_difference, self.grad_difference
        );
    }
}

/// The time that a call takes when no other program interrupts it, which the sum of all calls can't tell.
fn median(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// Infinite for NaN, which a comparison with the tolerance would let pass.
fn relative_difference(value: f64, expected: f64) -> f64 {
    let difference = ((value - expected) / expected).abs();
    if difference.is_nan() { f64::INFINITY } else { difference }
}

/// Draws the losses over the epochs.
fn draw(history: &[Scores], path: &Path) -> Result<(), Box<dyn Error>> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let losses = history.iter().flat_map(|scores| [scores.training.loss, scores.held_out.loss]);
    let largest = losses.fold(0.0, f64::max);

    let area = SVGBackend::new(path, (800, 500)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Softmax classifier on handwritten digits", ("sans-serif", 24))
        .margin(16)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(0..history.len() + 1, 0.0..1.1 * largest)?;
    chart
        .configure_mesh()
        .x_desc("Epoch")
        .y_desc("Cross-entropy (nats)")
        .y_label_formatter(&|loss| format!("{loss:.2}"))
        .axis_desc_style(("sans-serif", 18))
        .label_style(("sans-serif", 14))
        .bold_line_style(BLACK.mix(0.15))
        .light_line_style(TRANSPARENT)
        .draw()?;

    type LossOf = fn(&Scores) -> f64;
    let curves: [(&str, RGBColor, LossOf); 2] = [
        ("train", RGBColor(31, 119, 180), |scores| scores.training.loss),
        ("held out", RGBColor(255, 127, 14), |scores| scores.held_out.loss),
    ];
    for (name, color, loss_of) in curves {
        let points = history.iter().enumerate().map(|(epoch, scores)| (epoch + 1, loss_of(scores)));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .legend_area_size(32)
        .label_font(("sans-serif", 16))
        .background_style(WHITE)
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

/// The generator SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"). It is small
/// and gives the same numbers everywhere.
struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1, 1 excluded: as many bits as an `f32` holds.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// Below `bound`; the bias of the remainder is some 2^-50 for bounds of a few thousand.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Fisher and Yates's shuffle.
    fn shuffle(&mut self, order: &mut [usize]) {
        for i in (1..order.len()).rev() {
            order.swap(i, self.below(i + 1));
        }
    }
}
