//! A valid call, made of bytes: shape, logits of every kind, targets, options, what rows bring along, and memory.
//!
//! The first [`HEADER`] bytes choose all but the rows. There are few more than are used, because a fuzzer changes them all.
//! A new option moves the bytes behind the options, and a new dtype changes what the first byte stands for: committed
//! seeds and named cases are then to be made anew.

use super::bytes::Bytes;
use super::dtype::{DTYPES, Dtype};
use crate::support::batch::{Batch, Random};
use crate::support::buffer::Layout;
use crate::support::distillation::Pair;
use crate::support::evaluation::Call;
use crate::support::other_grad;
use xent::{
    Backend, CrossEntropy, CrossEntropyBuilder, Distillation, EmptyMean, Parallelism, Reduction, Smoothing,
};

/// Bytes that choose all but the rows.
const HEADER: usize = 40;

/// A valid call.
#[derive(Clone, Debug)]
pub struct Case {
    pub dtype: Dtype,
    pub batch: Batch,
    /// With everything but a backend.
    pub builder: CrossEntropyBuilder,
    pub backend: Backend,
    pub parallelism: Parallelism,
    pub inputs: Inputs,
    pub logits: Layout,
    pub outputs: Layout,
    pub in_place: bool,
    /// Whether to make the call a second time in another way.
    pub is_repeated: bool,
    pub kind: Kind,
    /// Of the gradient, where it is asked for in another than the logits'.
    pub dtype_of_gradient: Option<other_grad::Dtype>,
    /// The teacher's logits, of a distillation.
    pub teacher: Vec<f32>,
    /// In the place of the targets of a loss. Shards have none.
    pub target_probabilities: Option<Vec<f32>>,
    /// For what else there is to choose.
    pub seed: u64,
}

/// What the call is of. Shards are always of a loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Loss,
    /// The same with logits of `f64`, whose magnitudes are other ones by this factor.
    LossOfDoubles(f64),
    /// The batch is the student's.
    Distillation {
        temperature: f64,
    },
    DistillationOfDoubles {
        temperature: f64,
        factor: f64,
    },
}

/// What rows bring along.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    pub upstream: Option<Vec<f32>>,
    pub upstream_scalar: Option<f64>,
    pub row_weights: Option<Vec<f32>>,
    pub loss_mask: Option<Vec<bool>>,
    pub denominator: Option<f64>,
}

/// An option of the loss, from bytes and the number of classes.
type OptionOfLoss = fn(CrossEntropyBuilder, &mut Bytes<'_>, usize) -> CrossEntropyBuilder;

/// Weights of classes and of rows.
const WEIGHTS: [f32; 8] = [1.0, 0.0, 0.3, 2.5, 1e-3, 1e3, 7.0, 0.999];

/// As targets: what is left of 1, hardly any, and more than all. None whose product with a class weight may be 0: of a
/// masked class that would be a loss of 0 and not of infinity.
const PROBABILITIES: [f32; 8] = [1.0, 0.0, 0.3, 1e-3, 1e-30, 0.999, 3.0, 1e4];

/// Where bytes have ended, it is the first value: the default.
const OPTIONS: &[OptionOfLoss] = &[
    |builder, bytes, classes| match bytes.below(4) {
        3 => builder.weight((0..classes).map(|class| WEIGHTS[class % 7]).collect::<Vec<_>>()),
        2 => builder.weight(vec![bytes.pick(&WEIGHTS); classes]),
        _ => builder,
    },
    |builder, bytes, _| builder.label_smoothing(bytes.pick(&[0.0, 0.0, 0.1, 1e-3, 0.75, 1.0])),
    |builder, bytes, _| builder.smoothing(bytes.pick(&SMOOTHING)),
    |builder, bytes, _| builder.focal_gamma(bytes.pick(&[0.0, 0.0, 0.0, 0.5, 1.0, 2.0, 5.0])),
    |builder, bytes, _| builder.z_loss(bytes.pick(&[0.0, 0.0, 0.0, 1e-4, 0.3, 10.0])),
    |builder, bytes, _| builder.reduction(bytes.pick(&[Reduction::Mean, Reduction::Sum])),
    |builder, bytes, _| builder.empty_mean(bytes.pick(&[EmptyMean::Nan, EmptyMean::Zero])),
    |builder, bytes, classes| match bytes.below(8) {
        5 => builder.ignore_index(None),
        6 => builder.ignore_index(bytes.below(classes) as i64),
        7 => builder.ignore_indices([-100, bytes.below(classes) as i64, i64::MIN, 1 << 40]),
        _ => builder,
    },
    |builder, bytes, _| builder.logit_scale(bytes.pick(&[1.0, 1.0, 1.0, 1.0, 0.5, 0.07, 3.0, 100.0, 1e-3])),
    |builder, bytes, _| builder.softcap(bytes.pick(&SOFTCAPS)),
];

const SOFTCAPS: [Option<f64>; 9] =
    [None, None, None, None, Some(15.0), Some(30.0), Some(0.2), Some(1e4), Some(1e12)];

/// Of logits of `f64`: all 53 bits, gaps beyond those of `f32`, and magnitudes whose squares are still numbers.
const FACTORS: [f64; 8] = [1.0, 1.000_000_001_234_567, 8.1, 1e-3, 1e-37, 1e30, 1e100, 1e-270];

const TEMPERATURES: [f64; 9] = [1.0, 2.0, 0.5, 4.0, 20.0, 0.07, 1e3, 1e-3, 1e30];

const SMOOTHING: [Smoothing; 3] = [Smoothing::AllClasses, Smoothing::OtherClasses, Smoothing::LiveClasses];

impl Case {
    /// The case that the bytes choose. All are valid.
    pub fn new(bytes: &[u8]) -> Self {
        Self::shaped(bytes, shape)
    }

    /// The same for planes, whose blocks are of rows.
    pub fn of_planes(bytes: &[u8]) -> Self {
        Self::shaped(bytes, shape_of_planes)
    }

    fn shaped(bytes: &[u8], shape: fn(&mut Bytes<'_>) -> (usize, usize)) -> Self {
        let (header, rows_of) = bytes.split_at(bytes.len().min(HEADER));
        let (header, rows_of) = (&mut Bytes::new(header), &mut Bytes::new(rows_of));
        let dtype = header.pick(DTYPES);
        let backend = header.pick(Backend::ALL);
        let backend = if backend.is_available() { backend } else { Backend::Portable };
        let parallelism = header.pick(&[Parallelism::Serial, Parallelism::Rayon]);
        let (rows, classes) = shape(header);
        let logits = layout(header);
        let outputs = layout(header);
        let (in_place, is_repeated, seed) = (header.below(2) == 1, header.one_in(8), header.seed());
        let inputs = Inputs::new(header, rows);
        let builder = OPTIONS
            .iter()
            .fold(CrossEntropy::builder(), |builder, option| option(builder, header, classes))
            .parallelism(parallelism);
        let kind = match header.below(8) {
            4 | 5 => Kind::LossOfDoubles(header.pick(&FACTORS)),
            6 => Kind::Distillation { temperature: header.pick(&TEMPERATURES) },
            7 => Kind::DistillationOfDoubles {
                temperature: header.pick(&TEMPERATURES),
                factor: header.pick(&FACTORS),
            },
            _ => Kind::Loss,
        };
        let others = other_grad::Dtype::ALL;
        let dtype_of_gradient = header.below(2 * others.len()).checked_sub(others.len()).map(|i| others[i]);
        let has_probabilities = header.below(4) == 3 && matches!(kind, Kind::Loss | Kind::LossOfDoubles(_));
        // What is refused without classes as targets.
        let builder = if has_probabilities {
            builder.smoothing(Smoothing::AllClasses).focal_gamma(0.0)
        } else {
            builder
        };
        let ignored = builder.clone().build().expect("the options are valid").ignore_indices().to_vec();

        let mut batch =
            Batch { rows, classes, logits: Vec::with_capacity(rows * classes), targets: Vec::new() };
        for row in 0..rows {
            let counts = inputs.loss_mask.as_ref().is_none_or(|mask| mask[row]);
            batch.targets.push(target(rows_of, classes, &ignored, counts));
            push_row(&mut batch.logits, classes, rows_of);
        }
        let mut teacher = Vec::new();
        if matches!(kind, Kind::Distillation { .. } | Kind::DistillationOfDoubles { .. }) {
            for row in 0..rows {
                push_teacher(&mut teacher, batch.row(row), rows_of);
            }
        }
        let target_probabilities = has_probabilities.then(|| {
            let mut probabilities = Vec::with_capacity(rows * classes);
            for _ in 0..rows {
                push_probabilities(&mut probabilities, classes, rows_of);
            }
            probabilities
        });
        let teacher = (dtype.rounded)(Batch { logits: teacher, ..batch.clone() }).logits;
        let batch = (dtype.rounded)(batch);
        Self {
            dtype,
            batch,
            builder,
            backend,
            parallelism,
            inputs,
            logits,
            outputs,
            in_place,
            is_repeated,
            kind,
            dtype_of_gradient,
            teacher,
            target_probabilities,
            seed,
        }
    }

    pub fn cross_entropy(&self) -> CrossEntropy {
        self.builder.clone().backend(self.backend).build().expect("the options are valid")
    }

    /// The options that a distillation has in common with a loss.
    pub fn distillation(&self, temperature: f64) -> Distillation {
        let ce = self.cross_entropy();
        Distillation::builder()
            .temperature(temperature)
            .reduction(ce.reduction())
            .empty_mean(ce.empty_mean())
            .backend(self.backend)
            .parallelism(self.parallelism)
            .build()
            .expect("the options are valid")
    }

    pub fn pair(&self) -> Pair {
        Pair { student: self.batch.clone(), teacher: self.teacher.clone() }
    }

    pub fn call(&self) -> Call<'_> {
        let Inputs { upstream, upstream_scalar, row_weights, loss_mask, denominator } = &self.inputs;
        Call {
            target_probabilities: self.target_probabilities.as_deref(),
            upstream: upstream.as_deref(),
            upstream_scalar: *upstream_scalar,
            row_weights: row_weights.as_deref(),
            loss_mask: loss_mask.as_deref(),
            denominator: *denominator,
            logits: self.logits,
            outputs: self.outputs,
            in_place: self.in_place,
        }
    }
}

impl Inputs {
    fn new(bytes: &mut Bytes<'_>, rows: usize) -> Self {
        let kinds = bytes.byte();
        let (upstream, mask, row_weights, seed) = (kinds & 3, kinds >> 2 & 3, kinds >> 4 & 3, bytes.byte());
        let mut random = Random::new(u64::from(seed));
        let mut numbers =
            |of: &[f32]| -> Vec<f32> { (0..rows).map(|_| of[random.below(of.len())]).collect() };
        Self {
            upstream: (upstream == 3).then(|| numbers(&[1.0, 0.0, -2.5, 1e-3, 1e4, -1e-6])),
            row_weights: (row_weights == 3).then(|| numbers(&WEIGHTS)),
            loss_mask: (mask == 3).then(|| (0..rows).map(|row| seed >> (row % 8) & 1 == 1).collect()),
            upstream_scalar: bytes.pick(&[None, None, Some(-1.5), Some(0.0), Some(65_536.0), Some(1e-6)]),
            denominator: bytes.pick(&[None, None, None, Some(7.5), Some(1e-3), Some(1e9)]),
        }
    }
}

/// Few rows; few classes, but sometimes more than a block: rarely, because one such case takes the time of ten others.
fn shape(bytes: &mut Bytes<'_>) -> (usize, usize) {
    let (kind, more) = (bytes.byte(), bytes.byte());
    let more = usize::from(more);
    match kind {
        0..=150 => (1 + usize::from(kind % 4), 1 + more % 20),
        151..=210 => (usize::from(kind % 4), 1 + more % 100),
        211..=240 => (usize::from(kind % 64) % 40, 1 + more % 12),
        241..=254 => (1 + usize::from(kind % 2), 1 + more),
        _ => (1 + more / 200, 2040 + more % 20),
    }
}

/// The same, but sometimes more rows than a block, in the place of so many classes.
fn shape_of_planes(bytes: &mut Bytes<'_>) -> (usize, usize) {
    match shape(bytes) {
        (rows, classes @ 2040..) => (classes - 1790, 3 * rows),
        few => few,
    }
}

fn layout(bytes: &mut Bytes<'_>) -> Layout {
    let byte = usize::from(bytes.byte());
    Layout { offset: byte % 16, padding: [0, 0, 1, 5, 16, 31, 3, 2][byte / 32] }
}

/// A class or an ignored index; of rows that do not count, anything.
fn target(bytes: &mut Bytes<'_>, classes: usize, ignored: &[i64], counts: bool) -> i64 {
    let kind = bytes.byte();
    match kind {
        250.. if !counts => [i64::MIN, -1, i64::MAX, classes as i64, 0, 1 << 32][usize::from(kind - 250)],
        220.. if !ignored.is_empty() => ignored[usize::from(kind) % ignored.len()],
        _ if classes > 200 => bytes.below(classes) as i64,
        _ => i64::from(kind) % classes as i64,
    }
}

/// A row of one of several kinds, with some of its logits chosen one by one.
fn push_row(logits: &mut Vec<f32>, classes: usize, bytes: &mut Bytes<'_>) {
    let kind = bytes.byte();
    let start = logits.len();
    match kind % 8 {
        0 => logits.extend((0..classes).map(|_| bytes.number())),
        1 => {
            let number = bytes.number();
            logits.extend((0..classes).map(|_| number));
        }
        2 | 3 => {
            let (centre, spread) =
                (bytes.number(), bytes.pick(&[1.0, 1e-3, 0.1, 10.0, 50.0, 1e4, 1e30, 1e-40]));
            let mut random = Random::new(bytes.seed());
            logits.extend((0..classes).map(|_| centre + spread * random.between(-1.0, 1.0)));
        }
        4 => {
            let (first, step) = (bytes.number(), bytes.number());
            logits.extend((0..classes).map(|class| first + step * class as f32));
        }
        _ => {
            let numbers: Vec<f32> = (0..kind % 8 - 3).map(|_| bytes.number()).collect();
            logits.extend(numbers.iter().cycle().take(classes));
        }
    }
    for _ in 0..kind / 8 % 4 {
        let at = start + bytes.below(classes);
        logits[at] = bytes.number();
    }
}

/// One class, all alike, none, or any numbers; some chosen one by one.
fn push_probabilities(probabilities: &mut Vec<f32>, classes: usize, bytes: &mut Bytes<'_>) {
    let kind = bytes.byte();
    let start = probabilities.len();
    match kind % 4 {
        0 => {
            let one = bytes.below(classes);
            probabilities.extend((0..classes).map(|class| f32::from(class == one)));
        }
        1 => probabilities.extend(vec![1.0 / classes as f32; classes]),
        2 => {
            let mut random = Random::new(bytes.seed());
            let most = bytes.pick(&PROBABILITIES);
            probabilities.extend((0..classes).map(|_| random.between(0.0, most)));
        }
        _ => probabilities.extend(vec![0.0; classes]),
    }
    for _ in 0..kind / 4 % 4 {
        let at = start + bytes.below(classes);
        probabilities[at] = bytes.pick(&PROBABILITIES);
    }
}

/// A row of its own, or the student's with some logits changed: a little, or for any.
fn push_teacher(logits: &mut Vec<f32>, student: &[f32], bytes: &mut Bytes<'_>) {
    match bytes.below(4) {
        0 => return push_row(logits, student.len(), bytes),
        1 => {
            let mut random = Random::new(bytes.seed());
            let spread = bytes.pick(&[0.0, 1e-6, 1e-3, 0.3]);
            logits.extend(student.iter().map(|&x| x + spread * random.between(-1.0, 1.0)));
        }
        _ => logits.extend(student),
    }
    let start = logits.len() - student.len();
    for _ in 0..bytes.below(4) {
        let at = start + bytes.below(student.len());
        logits[at] = bytes.number();
    }
}
