//! Calls that are wrong in any way, or not: an error or a result, as the documentation says; never a panic, and nothing
//! written where there is an error.
//!
//! What is valid is decided here, in plain sentences and in 128 bits, apart from the checks of the library.

mod calls;
mod curvature;
mod distillation;
mod shards;
mod views;

use super::bytes::Bytes;
use bytemuck::Pod;
use core::fmt::Debug;
use xent::{CrossEntropy, Element, Error, Matrix, MatrixMut, Reduction, ShardElement, Smoothing, Softmax};

/// What every byte of an index is before a call: none that is large, and not the one that says that there is none.
const UNWRITTEN: u8 = 0xa5;

/// What every byte of a number is before a call: a NaN that no computation makes.
const UNWRITTEN_NAN: u8 = 0xff;

/// One call of any kind.
pub fn api(bytes: &[u8]) {
    let mut bytes = Bytes::new(bytes);
    let bytes = &mut bytes;
    match bytes.below(10) {
        0 => calls_of_dtype::<f32>(bytes),
        #[cfg(feature = "half")]
        1 => calls_of_dtype::<half::bf16>(bytes),
        #[cfg(feature = "half")]
        2 => calls_of_dtype::<half::f16>(bytes),
        3 => views::matrices(bytes),
        4 => views::planes(bytes),
        5 => views::calls_on_planes(bytes),
        6 => options(bytes, 3).map(drop).unwrap_or_default(),
        7 => match bytes.below(4) {
            0 => softmax::<f64>(bytes),
            1 => shards::calls_on_shards::<f64>(bytes),
            _ => calls::with_targets::<f64>(bytes),
        },
        8 => match bytes.below(4) {
            #[cfg(feature = "half")]
            1 => distillation::calls::<half::bf16>(bytes),
            #[cfg(feature = "half")]
            2 => distillation::calls::<half::f16>(bytes),
            3 => distillation::calls::<f64>(bytes),
            _ => distillation::calls::<f32>(bytes),
        },
        _ => curvature::calls(bytes),
    }
}

/// The calls on logits of a dtype; add a dtype above.
fn calls_of_dtype<E: ShardElement<State: shards::Forged> + Pod>(bytes: &mut Bytes<'_>)
where
    E::PerRow: Pod,
{
    match bytes.below(4) {
        0 | 1 => calls::with_targets::<E>(bytes),
        2 => shards::calls_on_shards::<E>(bytes),
        _ => softmax::<E>(bytes),
    }
}

/// Memory that knows whether it was written.
struct Output<T>(Vec<T>, u8);

impl Output<usize> {
    fn of_indices(len: usize) -> Self {
        Self::filled(len, UNWRITTEN)
    }
}

impl<T: Pod> Output<T> {
    fn new(len: usize) -> Self {
        Self::filled(len, UNWRITTEN_NAN)
    }

    fn filled(len: usize, byte: u8) -> Self {
        let mut memory = vec![T::zeroed(); len];
        bytemuck::cast_slice_mut::<T, u8>(&mut memory).fill(byte);
        Self(memory, byte)
    }

    fn matrix(&mut self, (rows, cols): (usize, usize)) -> MatrixMut<'_, T> {
        MatrixMut::new(&mut self.0, rows, cols).expect("it is large enough")
    }

    fn unwritten(&self) -> usize {
        let size = size_of::<T>();
        let bytes: &[u8] = bytemuck::cast_slice(&self.0);
        bytes.chunks(size).filter(|element| element.iter().all(|&byte| byte == self.1)).count()
    }

    /// Nothing was written where there is an error, everything where there is none.
    #[track_caller]
    fn check<R>(&self, result: &Result<R, Error>, elements: usize) {
        let written = self.0.len() - self.unwritten();
        assert_eq!(
            written,
            if result.is_ok() { elements } else { 0 },
            "elements written of {}",
            self.0.len()
        );
    }
}

#[track_caller]
fn assert_ok_if<R: Debug>(valid: bool, result: &Result<R, Error>) {
    assert_eq!(result.is_ok(), valid, "{result:?}");
    if let Err(error) = result {
        assert!(!error.to_string().is_empty());
    }
}

/// Any number an option may be set to by mistake.
fn hostile_f64(bytes: &mut Bytes<'_>) -> f64 {
    bytes.pick(&[
        0.0,
        0.5,
        1.0,
        -0.0,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        -1.0,
        1.0 + f64::EPSILON,
        f64::MAX,
        f64::MIN_POSITIVE,
        -f64::MIN_POSITIVE,
        5e-324,
        1e-30,
        1e30,
        2.0,
    ])
}

/// A loss with any options, or none where one of them is wrong.
fn options(bytes: &mut Bytes<'_>, classes: usize) -> Option<CrossEntropy> {
    let mut builder = CrossEntropy::builder();
    let mut valid = true;
    let is_finite_and_not_negative = |x: f64| x.is_finite() && x >= 0.0;
    if bytes.one_in(4) {
        let weight: Vec<f32> = (0..bytes.size_like(classes)).map(|_| bytes.number()).collect();
        valid &= weight.iter().all(|&w| is_finite_and_not_negative(f64::from(w)));
        builder = builder.weight(weight);
    }
    if bytes.one_in(4) {
        let label_smoothing = hostile_f64(bytes);
        valid &= (0.0..=1.0).contains(&label_smoothing);
        builder = builder.label_smoothing(label_smoothing);
    }
    if bytes.one_in(8) {
        let z_loss = hostile_f64(bytes);
        valid &= is_finite_and_not_negative(z_loss);
        builder = builder.z_loss(z_loss);
    }
    if bytes.one_in(8) {
        let focal_gamma = hostile_f64(bytes);
        valid &= is_finite_and_not_negative(focal_gamma);
        builder = builder.focal_gamma(focal_gamma);
    }
    if bytes.one_in(4) {
        builder = builder.smoothing(bytes.pick(&[Smoothing::LiveClasses, Smoothing::OtherClasses]));
    }
    if bytes.one_in(2) {
        builder = builder.reduction(Reduction::Sum);
    }
    if bytes.one_in(2) {
        let indices: Vec<i64> = (0..bytes.below(4)).map(|_| hostile_target(bytes, classes)).collect();
        builder = builder.ignore_indices(indices);
    }
    let is_factor = |x: f64| x > 0.0 && (x as f32).is_normal();
    let mut logit_scale = 1.0;
    if bytes.one_in(8) {
        logit_scale = hostile_f64(bytes);
        valid &= is_factor(logit_scale);
        builder = builder.logit_scale(logit_scale);
    }
    if bytes.one_in(8) {
        let softcap = hostile_f64(bytes);
        valid &= is_factor(softcap) && is_factor(logit_scale / softcap);
        builder = builder.softcap(softcap);
    }
    let ce = builder.build();
    assert_ok_if(valid, &ce);
    ce.ok()
}

/// A class most often, and whatever else may stand there.
fn hostile_target(bytes: &mut Bytes<'_>, classes: usize) -> i64 {
    match bytes.byte() {
        kind @ 0..=239 => i64::from(kind) % classes.max(1) as i64,
        kind @ 240..=247 => {
            [-100, -1, classes as i64, i64::MAX, i64::MIN, 1 << 32, 255, 256][usize::from(kind - 240)]
        }
        _ => -100,
    }
}

/// Elements with any bits.
fn number_bytes<E: Pod>(bytes: &mut Bytes<'_>, len: usize) -> Vec<E> {
    let mut elements = vec![E::zeroed(); len];
    for byte in bytemuck::cast_slice_mut::<E, u8>(&mut elements) {
        *byte = bytes.byte();
    }
    elements
}

/// Shapes that do not agree.
fn softmax<E: Element + Pod>(bytes: &mut Bytes<'_>) {
    let softmax = Softmax::default();
    let (rows, cols) = (bytes.below(6), bytes.below(20));
    let shapes: [(usize, usize); 3] =
        core::array::from_fn(|_| (bytes.size_like(rows), bytes.size_like(cols)));
    let memories: [Vec<E>; 2] = core::array::from_fn(|i| number_bytes(bytes, shapes[i].0 * shapes[i].1));
    let mut out = Output::<E>::new(shapes[2].0 * shapes[2].1);
    let [a, b] =
        [0, 1].map(|i| Matrix::new(&memories[i], shapes[i].0, shapes[i].1).expect("it is large enough"));
    let kind = bytes.below(6);
    let c = MatrixMut::new(&mut out.0, shapes[2].0, shapes[2].1).expect("it is large enough");
    let result = match kind {
        0 => softmax.softmax(a, c),
        1 => softmax.log_softmax(a, c),
        2 => softmax.softmax_backward(a, b, c),
        3 => softmax.log_softmax_backward(a, b, c),
        4 => softmax.softmax_jvp(a, b, c),
        _ => softmax.log_softmax_jvp(a, b, c),
    };
    let agree = shapes[0] == shapes[2] && (kind < 2 || shapes[0] == shapes[1]);
    assert_ok_if(agree && (shapes[0].0 == 0 || shapes[0].1 > 0), &result);
    // A product may be any number or NaN of its factors, the one that was there before, too.
    if kind < 2 || result.is_err() {
        out.check(&result, shapes[0].0 * shapes[0].1);
    }
}
