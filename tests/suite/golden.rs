//! Every bit of the results on a fixed set of inputs, as hashes in `golden.txt` beside this file: one line for each case, so that a
//! difference names what moved.
//!
//! All backends with fused multiply-add give the same bits, with and without threads: there is one hash for all of them.
//! Where bits are meant to move, `XENT_GOLDEN=write cargo test --test suite golden::` makes the file anew, and CHANGELOG.md says so.

use crate::support::batch::{Batch, Random};
use crate::support::double_shards::{evaluate_shards, states};
use crate::support::doubles::{self, Doubles};
use crate::support::evaluation::{Call, Evaluation};
use crate::support::families::FAMILIES;
#[cfg(feature = "half")]
use crate::support::halves::{Half, rounded};
use crate::support::other_grad::{self, gradient_as};
#[cfg(feature = "half")]
use crate::support::planes::Planar;
use crate::support::planes::{PlanesCall, PlanesLayout};
use crate::support::shards::{Order, Split};
use crate::support::variants::{DTYPES, Dtype, VARIANTS, Variant};
use crate::support::{PARALLELISMS, fused_backends};
use core::fmt::Write;
use std::fs;
use xent::{
    BUILD, Backend, CrossEntropy, Distillation, Element, Matrix, MatrixMut, Parallelism, Request, Softmax,
};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/golden.txt");

/// Beside [`VARIANTS`], whose rows are plain logits.
const TRANSFORMS: [Variant; 3] = [
    Variant { name: "scale", with: |builder, _| builder.logit_scale(0.7) },
    Variant { name: "softcap", with: |builder, _| builder.softcap(15.0) },
    Variant {
        name: "scale, softcap, smoothing",
        with: |builder, _| builder.logit_scale(1.7).softcap(30.0).label_smoothing(0.1),
    },
];

/// Rows and classes, by the kind of kernel that they go through.
const KERNELS: [(&str, &[(usize, usize)]); 3] = [
    ("few classes", &[(21, 1), (33, 10), (20, 64)]),
    ("short rows", &[(21, 128), (11, 130), (5, 1000), (3, 2048)]),
    ("long rows", &[(4, 2049), (2, 70_000)]),
];

type WithInput = for<'a> fn(Call<'a>, &'a Given) -> Call<'a>;
type Function = fn(Backend, Parallelism, &Batch, &mut Hash);

/// Add an input of a call here.
const INPUTS: [(&str, WithInput); 7] = [
    ("upstream", |call, given| Call { upstream: Some(&given.upstream), ..call }),
    ("upstream scalar", |call, _| Call { upstream_scalar: Some(-1.5), ..call }),
    ("row weights", |call, given| Call { row_weights: Some(&given.row_weights), ..call }),
    ("loss mask", |call, given| Call { loss_mask: Some(&given.loss_mask), ..call }),
    ("probabilities as targets", |call, given| Call { target_probabilities: Some(&given.q), ..call }),
    ("denominator", |call, _| Call { denominator: Some(7.5), ..call }),
    ("upstream, row weights, loss mask", |call, given| Call {
        upstream: Some(&given.upstream),
        row_weights: Some(&given.row_weights),
        loss_mask: Some(&given.loss_mask),
        ..call
    }),
];

/// Add a function that is no call of a loss on rows of classes here.
const FUNCTIONS: &[(&str, Function)] = &[
    ("gradient added to what is there", added),
    ("gradient of another dtype", of_another_dtype),
    ("shards", shards),
    ("shards, f64", shards_of_doubles),
    ("planes", planes),
    ("planes, transformed", transformed_planes),
    #[cfg(feature = "half")]
    ("planes, bf16", planes_of::<half::bf16>),
    #[cfg(feature = "half")]
    ("planes, f16", planes_of::<half::f16>),
    ("planes, f64", planes_of_doubles),
    ("distillation, f32", distillation::<f32>),
    ("distillation, f64", distillation::<f64>),
    #[cfg(feature = "half")]
    ("distillation, bf16", distillation::<half::bf16>),
    #[cfg(feature = "half")]
    ("distillation, f16", distillation::<half::f16>),
    ("softmax and its products, f32", softmax::<f32>),
    #[cfg(feature = "half")]
    ("softmax and its products, bf16", softmax::<half::bf16>),
    #[cfg(feature = "half")]
    ("softmax and its products, f16", softmax::<half::f16>),
];

/// What calls may be given.
struct Given {
    upstream: Vec<f32>,
    row_weights: Vec<f32>,
    loss_mask: Vec<bool>,
    /// Target probabilities.
    q: Vec<f32>,
}

impl Given {
    fn new(batch: &Batch) -> Self {
        let rows = batch.rows;
        let mut random = Random::new(rows as u64);
        Self {
            upstream: (0..rows).map(|_| random.normal()).collect(),
            row_weights: (0..rows).map(|row| [0.5, 3.0, 0.0][row % 3]).collect(),
            loss_mask: (0..rows).map(|row| row % 4 != 2).collect(),
            q: batch.distributions(&mut random),
        }
    }
}

/// Each step maps hashes one to one: where one number moves, so does the hash.
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bits: u64) {
        self.0 = (self.0.rotate_left(23) ^ bits).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn add_f64(&mut self, x: f64) {
        // Which NaN it is depends on the CPU.
        self.add(if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() });
    }

    /// Widening is exact, and keeps the sign of 0.
    fn add_all<T: Copy + Into<f64>>(&mut self, all: &[T]) {
        for &x in all {
            self.add_f64(x.into());
        }
    }

    fn add_evaluation(&mut self, evaluation: &Evaluation) {
        let Evaluation {
            classes: _,
            loss,
            weight,
            counted,
            correct,
            grad,
            losses,
            lse,
            target_log_probabilities,
            argmax_probabilities,
            entropies,
            argmax,
            target_ranks,
            probabilities,
            log_probabilities,
        } = evaluation;
        self.add_f64(*loss);
        self.add_f64(*weight);
        for count in [counted, correct].into_iter().chain(argmax).chain(target_ranks) {
            self.add(*count as u64);
        }
        for all in [grad, losses, lse, target_log_probabilities, argmax_probabilities, entropies] {
            self.add_all(all);
        }
        self.add_all(probabilities);
        self.add_all(log_probabilities);
    }
}

/// A line of the file.
struct Case {
    name: String,
    hash: HashOn,
}

type HashOn = Box<dyn Fn(Backend, Parallelism) -> u64>;

fn batches(shapes: &'static [(usize, usize)]) -> impl Iterator<Item = Batch> {
    shapes.iter().enumerate().map(|(seed, &(rows, classes))| Batch::random(rows, classes, seed as u64))
}

fn build(variant: &Variant, classes: usize, backend: Backend, parallelism: Parallelism) -> CrossEntropy {
    let builder = CrossEntropy::builder().backend(backend).parallelism(parallelism);
    (variant.with)(builder, classes).build().expect("the options are valid")
}

fn add_call(hash: &mut Hash, dtype: &Dtype, ce: &CrossEntropy, batch: &Batch, call: &Call<'_>) {
    let batch = (dtype.rounded)(batch);
    for in_place in [false, true] {
        hash.add_evaluation(&(dtype.evaluate)(&Call { in_place, ..*call }, ce, &batch));
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push = |name: String, hash: HashOn| {
        cases.push(Case { name, hash });
    };
    push("all inputs".to_owned(), Box::new(|_, _| inputs()));
    for dtype in DTYPES {
        for (kernel, shapes) in KERNELS {
            for variant in VARIANTS.iter().chain(&TRANSFORMS) {
                let hash = move |backend, parallelism| {
                    let mut hash = Hash::new();
                    for batch in batches(shapes) {
                        let ce = build(variant, batch.classes, backend, parallelism);
                        add_call(&mut hash, dtype, &ce, &batch, &Call::default());
                    }
                    hash.0
                };
                push(format!("{}, {kernel}, {}", dtype.name, variant.name), Box::new(hash));
            }
            for (input, with) in &INPUTS {
                let hash = move |backend, parallelism| {
                    let mut hash = Hash::new();
                    for batch in batches(shapes) {
                        let given = Given::new(&batch);
                        let ce = build(&VARIANTS[0], batch.classes, backend, parallelism);
                        add_call(&mut hash, dtype, &ce, &batch, &with(Call::default(), &given));
                    }
                    hash.0
                };
                push(format!("{}, {kernel}, {input}", dtype.name), Box::new(hash));
            }
        }
        for family in &FAMILIES {
            let hash = move |backend, parallelism| {
                let mut hash = Hash::new();
                for (rows, classes) in [(33, 10), (11, 130), (3, 5000)] {
                    let ce = build(&VARIANTS[0], classes, backend, parallelism);
                    add_call(&mut hash, dtype, &ce, &family.batch(rows, classes, 1), &Call::default());
                }
                hash.0
            };
            push(format!("{}, family: {}", dtype.name, family.name), Box::new(hash));
        }
    }
    for (kernel, shapes) in KERNELS {
        for variant in VARIANTS.iter().chain(&TRANSFORMS) {
            let hash = move |backend, parallelism| {
                let mut hash = Hash::new();
                for batch in batches(shapes) {
                    let ce = build(variant, batch.classes, backend, parallelism);
                    for in_place in [false, true] {
                        let call = Call { in_place, ..Call::default() };
                        let found = doubles::evaluate(&call, &ce, &Doubles::near(&batch));
                        found.bits().into_iter().for_each(|bits| hash.add(bits));
                    }
                }
                hash.0
            };
            push(format!("f64, {kernel}, {}", variant.name), Box::new(hash));
        }
        for variant in VARIANTS[..1].iter().chain(&TRANSFORMS) {
            let hash = move |backend, parallelism| {
                let mut hash = Hash::new();
                for batch in batches(shapes) {
                    let q = Given::new(&batch).q;
                    let ce = build(variant, batch.classes, backend, parallelism);
                    for in_place in [false, true] {
                        let call = Call { in_place, target_probabilities: Some(&q), ..Call::default() };
                        let found = doubles::evaluate(&call, &ce, &Doubles::near(&batch));
                        found.bits().into_iter().for_each(|bits| hash.add(bits));
                    }
                }
                hash.0
            };
            push(format!("f64, {kernel}, probabilities as targets, {}", variant.name), Box::new(hash));
        }
        for variant in VARIANTS.iter().chain(&TRANSFORMS) {
            let hash = move |backend, parallelism| {
                let mut hash = Hash::new();
                for batch in batches(shapes) {
                    curvature(&build(variant, batch.classes, backend, parallelism), &batch, &mut hash);
                }
                hash.0
            };
            push(format!("curvature, {kernel}, {}", variant.name), Box::new(hash));
        }
        for variant in VARIANTS[..1].iter().chain(&VARIANTS[3..4]).chain(&TRANSFORMS) {
            type Curvature = fn(&CrossEntropy, &Batch, &mut Hash);
            let dtypes: [(&str, Curvature); 3] = [
                ("bf16", |ce, batch, hash| curvature_of(ce, batch, hash, half::bf16::from_f32)),
                ("f16", |ce, batch, hash| curvature_of(ce, batch, hash, half::f16::from_f32)),
                ("f64", |ce, batch, hash| {
                    curvature_of(ce, batch, hash, |x| f64::from(x) * (1.0 + 1.234_567e-9));
                }),
            ];
            for (dtype, of_dtype) in dtypes {
                let hash = move |backend, parallelism| {
                    let mut hash = Hash::new();
                    for batch in batches(shapes) {
                        of_dtype(&build(variant, batch.classes, backend, parallelism), &batch, &mut hash);
                    }
                    hash.0
                };
                push(format!("curvature, {dtype}, {kernel}, {}", variant.name), Box::new(hash));
            }
        }
        for (name, function) in FUNCTIONS {
            let hash = move |backend, parallelism| {
                let mut hash = Hash::new();
                for batch in batches(shapes) {
                    function(backend, parallelism, &batch, &mut hash);
                }
                hash.0
            };
            push(format!("{name}, {kernel}"), Box::new(hash));
        }
    }
    cases
}

/// So that an input which moved is told from a result which did.
fn inputs() -> u64 {
    let mut hash = Hash::new();
    for batch in KERNELS.iter().flat_map(|(_, shapes)| batches(shapes)) {
        hash.add_all(&batch.logits);
        for target in batch.targets {
            hash.add(target as u64);
        }
    }
    for family in &FAMILIES {
        hash.add_all(&family.batch(5, 130, 1).logits);
    }
    hash.0
}

fn plain(classes: usize, backend: Backend, parallelism: Parallelism) -> CrossEntropy {
    build(&VARIANTS[0], classes, backend, parallelism)
}

fn added(backend: Backend, parallelism: Parallelism, batch: &Batch, hash: &mut Hash) {
    let Batch { rows, classes, ref logits, ref targets } = *batch;
    let mut random = Random::new(9);
    let mut grad: Vec<f32> = (0..rows * classes).map(|_| random.normal()).collect();
    let request = Request::new().accumulate(matrix_mut(&mut grad, rows, classes));
    let ce = plain(classes, backend, parallelism);
    let summary = ce.run(matrix(logits, rows, classes), targets, request).expect("the batch is valid");
    hash.add_f64(summary.loss);
    hash.add_all(&grad);
}

fn of_another_dtype(backend: Backend, parallelism: Parallelism, batch: &Batch, hash: &mut Hash) {
    let ce = plain(batch.classes, backend, parallelism);
    for logits in other_grad::Dtype::ALL {
        for grad in other_grad::Dtype::ALL {
            for before in [None, Some(&batch.logits[..])] {
                // To add to; rows whose logits are not numbers do not count.
                let before = before.map(|x| x.iter().map(|x| if x.is_finite() { *x } else { 0.0 }).collect());
                let before: Option<Vec<f32>> = before;
                let dtypes = (logits, grad);
                let (grad, summary) = gradient_as(dtypes, &Call::default(), &ce, batch, before.as_deref());
                hash.add_f64(summary.loss);
                hash.add_all(&grad);
            }
        }
    }
}

fn shards(backend: Backend, parallelism: Parallelism, batch: &Batch, hash: &mut Hash) {
    let ce = plain(batch.classes, backend, parallelism);
    let (first, second) = (batch.classes / 3, batch.classes / 2);
    for kind in 0..Order::KINDS {
        let ranges = vec![0..first, first..second, second..batch.classes];
        hash.add_evaluation(&Split::new(ranges, Order::of_kind(kind, 1)).evaluate(&ce, batch));
    }
}

fn shards_of_doubles(backend: Backend, parallelism: Parallelism, batch: &Batch, hash: &mut Hash) {
    let (ce, batch) = (plain(batch.classes, backend, parallelism), Doubles::near(batch));
    let (first, second) = (batch.classes / 3, batch.classes / 2);
    for kind in 0..Order::KINDS {
        let ranges = vec![0..first, first..second, second..batch.classes];
        let split = Split::new(ranges, Order::of_kind(kind, 1));
        for state in states(&split, &ce, &batch) {
            state.to_le_bytes().as_chunks().0.iter().for_each(|word| hash.add(u64::from_le_bytes(*word)));
        }
        let found = evaluate_shards(&split, &Call::default(), &ce, &batch);
        found.bits().into_iter().for_each(|bits| hash.add(bits));
    }
}

/// The rows as positions of one image.
fn planes(backend: Backend, parallelism: Parallelism, batch: &Batch, hash: &mut Hash) {
    add_planes(&plain(batch.classes, backend, parallelism), batch, hash);
}

fn transformed_planes(backend: Backend, parallelism: Parallelism, batch: &Batch, hash: &mut Hash) {
    for Variant { with, .. } in TRANSFORMS {
        let builder = CrossEntropy::builder().backend(backend).parallelism(parallelism);
        let ce = with(builder, batch.classes).build().expect("the options are valid");
        add_planes(&ce, batch, hash);
    }
}

fn add_planes(ce: &CrossEntropy, batch: &Batch, hash: &mut Hash) {
    for call in calls_on_planes() {
        hash.add_evaluation(&call.evaluate(ce, batch, 1));
    }
}

fn calls_on_planes() -> impl Iterator<Item = PlanesCall<'static>> {
    let logits = PlanesLayout { offset: 3, class_padding: 5, image_padding: 7 };
    [false, true].into_iter().map(move |in_place| PlanesCall { in_place, logits, ..PlanesCall::default() })
}

/// Of a dtype of 16 bits, with every option.
#[cfg(feature = "half")]
fn planes_of<T: Half + Planar>(backend: Backend, parallelism: Parallelism, batch: &Batch, hash: &mut Hash) {
    let batch = rounded::<T>(batch);
    for variant in VARIANTS.iter().chain(&TRANSFORMS) {
        let ce = build(variant, batch.classes, backend, parallelism);
        for call in calls_on_planes() {
            hash.add_evaluation(&call.evaluate_as::<T>(&ce, &batch, 1));
        }
    }
}

fn planes_of_doubles(backend: Backend, parallelism: Parallelism, batch: &Batch, hash: &mut Hash) {
    let batch = Doubles::near(batch);
    for variant in VARIANTS.iter().chain(&TRANSFORMS) {
        let ce = build(variant, batch.classes, backend, parallelism);
        for call in calls_on_planes() {
            call.evaluate_doubles(&ce, &batch, 1).bits().into_iter().for_each(|bits| hash.add(bits));
        }
    }
}

/// A dtype's conversions, for the functions that are not in [`DTYPES`].
trait Convert: Element + Into<f64> + Default {
    fn from_f32(x: f32) -> Self;
}

impl Convert for f32 {
    fn from_f32(x: f32) -> Self {
        x
    }
}

/// Of 53 bits.
impl Convert for f64 {
    fn from_f32(x: f32) -> Self {
        doubles::near(&[x])[0]
    }
}

#[cfg(feature = "half")]
impl Convert for half::bf16 {
    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }
}

#[cfg(feature = "half")]
impl Convert for half::f16 {
    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }
}

/// From a teacher whose logits are random ones.
fn distillation<T: Convert>(backend: Backend, parallelism: Parallelism, batch: &Batch, hash: &mut Hash) {
    let Batch { rows, classes, .. } = *batch;
    let mut random = Random::new(13);
    let student: Vec<T> = batch.logits.iter().map(|&x| T::from_f32(x)).collect();
    let teacher: Vec<T> = student.iter().map(|_| T::from_f32(3.0 * random.normal())).collect();
    let mut grad = vec![T::default(); rows * classes];
    for temperature in [1.0, 2.5] {
        let builder = Distillation::builder().temperature(temperature).backend(backend);
        let distillation = builder.parallelism(parallelism).build().expect("the options are valid");
        let loss = distillation.loss_and_grad(
            matrix(&student, rows, classes),
            matrix(&teacher, rows, classes),
            matrix_mut(&mut grad, rows, classes),
        );
        hash.add_f64(loss.expect("all have one shape"));
        hash.add_all(&grad);
    }
}

fn softmax<T: Convert>(backend: Backend, parallelism: Parallelism, batch: &Batch, hash: &mut Hash) {
    let softmax = Softmax::default().backend(backend).expect("it is available").parallelism(parallelism);
    let Batch { rows, classes, .. } = *batch;
    let x: Vec<T> = batch.logits.iter().map(|&x| T::from_f32(x)).collect();
    let mut random = Random::new(11);
    let upstream: Vec<T> = x.iter().map(|_| T::from_f32(random.normal())).collect();
    let [mut p, mut ln_p, mut of_softmax, mut of_log_softmax, mut jvp, mut log_jvp] =
        [(); 6].map(|()| vec![T::default(); rows * classes]);
    let (x, upstream) = (matrix(&x, rows, classes), matrix(&upstream, rows, classes));
    let done = softmax.softmax(x, matrix_mut(&mut p, rows, classes)).and_then(|()| {
        softmax.log_softmax(x, matrix_mut(&mut ln_p, rows, classes))?;
        let (p, ln_p) = (matrix(&p, rows, classes), matrix(&ln_p, rows, classes));
        softmax.softmax_backward(p, upstream, matrix_mut(&mut of_softmax, rows, classes))?;
        softmax.log_softmax_backward(ln_p, upstream, matrix_mut(&mut of_log_softmax, rows, classes))?;
        softmax.softmax_jvp(p, upstream, matrix_mut(&mut jvp, rows, classes))?;
        softmax.log_softmax_jvp(ln_p, upstream, matrix_mut(&mut log_jvp, rows, classes))
    });
    done.expect("all have one shape");
    for all in [&p, &ln_p, &of_softmax, &of_log_softmax, &jvp, &log_jvp] {
        hash.add_all(all);
    }
}

/// Every output of second order.
fn curvature(ce: &CrossEntropy, batch: &Batch, hash: &mut Hash) {
    curvature_of(ce, batch, hash, |x| x);
}

/// The same of logits and a direction of another dtype.
fn curvature_of<E: Element + Into<f64>>(
    ce: &CrossEntropy,
    batch: &Batch,
    hash: &mut Hash,
    of_f32: fn(f32) -> E,
) {
    let Batch { rows, classes, ref logits, ref targets } = *batch;
    let mut random = Random::new(12);
    let direction: Vec<E> = (0..rows * classes).map(|_| of_f32(random.normal())).collect();
    let direction = matrix(&direction, rows, classes);
    let logits: Vec<E> = logits.iter().map(|&x| of_f32(x)).collect();
    let [mut product, mut hessian, mut gauss_newton] = [(); 3].map(|()| vec![E::default(); rows * classes]);
    let curvature = ce.curvature(matrix(&logits, rows, classes), targets).expect("the batch is valid");
    let done = curvature.hessian_vector_product(direction, matrix_mut(&mut product, rows, classes));
    done.expect("all have one shape");
    let done = curvature.hessian_diagonal(matrix_mut(&mut hessian, rows, classes));
    done.expect("all have one shape");
    let done = curvature.gauss_newton_diagonal(matrix_mut(&mut gauss_newton, rows, classes));
    done.expect("all have one shape");
    for all in [&product, &hessian, &gauss_newton] {
        hash.add_all(all);
    }
    hash.add_f64(curvature.jvp(direction).expect("all have one shape"));
}

fn matrix<T>(x: &[T], rows: usize, classes: usize) -> Matrix<'_, T> {
    Matrix::new(x, rows, classes).expect("the shape fits")
}

fn matrix_mut<T>(x: &mut [T], rows: usize, classes: usize) -> MatrixMut<'_, T> {
    MatrixMut::new(x, rows, classes).expect("the shape fits")
}

/// What the operating system calls this CPU.
fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or("an unnamed CPU".to_owned(), |(_, name)| name.trim().to_owned())
}

/// The file as it should be on this CPU.
fn make(backends: &[Backend]) -> String {
    let names: Vec<_> = backends.iter().map(Backend::to_string).collect();
    let mut text = format!("# Made on {}, the same on {}; {BUILD}\n", cpu(), names.join(" and "));
    for Case { name, hash } in cases() {
        let expected = hash(backends[0], Parallelism::Serial);
        for &backend in backends {
            for parallelism in PARALLELISMS {
                let found = hash(backend, parallelism);
                assert_eq!(found, expected, "{backend}, {parallelism:?} and {}: {name}", backends[0]);
            }
        }
        // Writing to a string does not fail.
        let _ = writeln!(text, "{expected:016x}  {name}");
    }
    text
}

#[test]
fn no_bit_has_moved() {
    let backends = fused_backends();
    if backends.is_empty() {
        println!("no backend here has fused multiply-add: golden bits NOT checked");
        return;
    }
    let found = make(&backends);
    if std::env::var_os("XENT_GOLDEN").is_some_and(|value| value == "write") {
        fs::write(FILE, found).expect("the file can be written");
        println!("{FILE} made anew");
        return;
    }
    let golden = fs::read_to_string(FILE).expect("the file is there");
    let is_case = |line: &&str| !line.starts_with('#');
    let found: Vec<&str> = found.lines().filter(is_case).collect();
    let expected: Vec<&str> = golden.lines().filter(is_case).collect();
    let mut moved = String::new();
    for line in expected.iter().filter(|line| !found.contains(line)) {
        let _ = writeln!(moved, "- {line}");
    }
    for line in found.iter().filter(|line| !expected.contains(line)) {
        let _ = writeln!(moved, "+ {line}");
    }
    println!("{} hashes", found.len());
    assert!(
        moved.is_empty(),
        "bits moved on {}:\n{moved}{}\nWhere they should, make the file anew: see this test's first lines.",
        cpu(),
        golden.lines().next().unwrap_or_default()
    );
}
