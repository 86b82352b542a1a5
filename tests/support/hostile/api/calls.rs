//! [`CrossEntropy::run`] and in place, with inputs and outputs of any length; and these, for other calls.

use super::{Output, assert_ok_if, hostile_f64, hostile_target, number_bytes, options};
use crate::support::hostile::bytes::Bytes;
use bytemuck::Pod;
use xent::{CrossEntropy, Element, Error, Matrix, MatrixMut, Request, Target};

/// The inputs and the outputs of a call, each of any length.
pub struct Arguments<E: Element> {
    pub rows: usize,
    pub classes: usize,
    pub in_place: bool,
    has_grad: bool,
    adds: bool,
    mask: Option<Vec<bool>>,
    row_weights: Option<Vec<f32>>,
    upstream: Option<Vec<E::PerRow>>,
    upstream_scalar: Option<f64>,
    denominator: Option<f64>,
    /// Their rows and classes; none, where they are not asked for.
    wide: [Option<(usize, usize)>; 3],
    narrow: [Option<usize>; 7],
}

/// Memory for the outputs.
pub struct Outputs<E: Element> {
    wide: [Option<Output<E>>; 3],
    narrow: [Option<Output<E::PerRow>>; 5],
    indices: [Option<Output<usize>>; 2],
}

impl<E: Element> Arguments<E> {
    pub fn new(bytes: &mut Bytes<'_>) -> Self {
        let (rows, classes) = (bytes.below(6), bytes.below(18));
        let length = |bytes: &mut Bytes<'_>| bytes.one_in(3).then(|| bytes.size_like(rows));
        Self {
            rows,
            classes,
            mask: length(bytes).map(|len| (0..len).map(|_| bytes.one_in(2)).collect()),
            row_weights: length(bytes).map(|len| (0..len).map(|_| bytes.number().abs()).collect()),
            upstream: length(bytes).map(|len| (0..len).map(|_| one_nan(bytes.number()).into()).collect()),
            narrow: core::array::from_fn(|_| length(bytes)),
            wide: core::array::from_fn(|_| {
                bytes.one_in(3).then(|| (bytes.size_like(rows), bytes.size_like(classes)))
            }),
            upstream_scalar: bytes.one_in(4).then(|| hostile_f64(bytes)),
            denominator: bytes.one_in(4).then(|| hostile_f64(bytes)),
            in_place: bytes.one_in(2),
            has_grad: bytes.one_in(2),
            adds: bytes.one_in(2),
        }
    }

    /// Whether a row may count.
    fn counts(&self, row: usize) -> bool {
        self.mask.as_ref().is_none_or(|mask| mask[row])
    }

    /// Whether all that is asked for is the gradient, and the first of the others: the losses and the lse.
    pub fn is_of_distillation(&self) -> bool {
        self.wide[1..].iter().all(Option::is_none) && self.narrow[2..].iter().all(Option::is_none)
    }

    /// Whether a call succeeds, as far as these say it.
    pub fn are_valid(&self) -> bool {
        let Self { rows, classes, .. } = *self;
        let is_weight = |w: f32| w.is_finite() && w >= 0.0;
        let lengths = [self.mask.as_ref().map(Vec::len), self.row_weights.as_ref().map(Vec::len)];
        let lengths = lengths.into_iter().chain([self.upstream.as_ref().map(Vec::len)]).chain(self.narrow);
        let grad = self.wide[0].filter(|_| self.has_grad);
        let wide = [grad, self.wide[1], self.wide[2]];
        (rows == 0 || classes > 0)
            && lengths.flatten().all(|len| len == rows)
            && wide.into_iter().flatten().all(|shape| shape == (rows, classes))
            && !(self.in_place && grad.is_some())
            && self.row_weights.iter().flatten().all(|&w| is_weight(w))
            && self.upstream_scalar.is_none_or(f64::is_finite)
            && self.denominator.is_none_or(|x| x.is_finite() && x > 0.0)
    }

    /// Whether a call with these targets succeeds.
    fn are_valid_with(&self, ce: &CrossEntropy, targets: &[i128]) -> bool {
        let Self { rows, classes, .. } = *self;
        let is_target = |target: i128| {
            ce.ignore_indices().iter().any(|&ignored| i128::from(ignored) == target)
                || (0..classes as i128).contains(&target)
        };
        targets.len() == rows
            && self.are_valid()
            && (rows == 0 || ce.weight().is_none_or(|weight| weight.len() == classes))
            && (0..rows).all(|row| !self.counts(row) || is_target(targets[row]))
    }
}

impl<E: Element + Pod> Outputs<E>
where
    E::PerRow: Pod,
{
    pub fn new(arguments: &Arguments<E>) -> Self {
        Self {
            wide: arguments.wide.map(|shape| shape.map(|(rows, cols)| Output::new(rows * cols))),
            narrow: core::array::from_fn(|i| arguments.narrow[i].map(Output::new)),
            indices: core::array::from_fn(|i| arguments.narrow[5 + i].map(Output::of_indices)),
        }
    }

    /// With the inputs, too.
    pub fn request<'a>(&'a mut self, arguments: &'a Arguments<E>) -> Request<'a, E> {
        let mut request = Request::<E>::new();
        let [grad, probabilities, log_probabilities] = &mut self.wide;
        let [of_grad, of_probabilities, of_log_probabilities] = arguments.wide.map(Option::unwrap_or_default);
        if let Some(grad) = grad.as_mut().filter(|_| arguments.has_grad) {
            let grad = grad.matrix(of_grad);
            request = if arguments.adds { request.accumulate(grad) } else { request.grad(grad) };
        }
        if let Some(probabilities) = probabilities {
            request = request.probabilities(probabilities.matrix(of_probabilities));
        }
        if let Some(log_probabilities) = log_probabilities {
            request = request.log_probabilities(log_probabilities.matrix(of_log_probabilities));
        }
        let [losses, lse, target_log_probabilities, argmax_probabilities, entropies] = &mut self.narrow;
        let [argmax, target_ranks] = &mut self.indices;
        if let Some(output) = losses {
            request = request.losses(&mut output.0);
        }
        if let Some(output) = lse {
            request = request.lse(&mut output.0);
        }
        if let Some(output) = target_log_probabilities {
            request = request.target_log_probabilities(&mut output.0);
        }
        if let Some(output) = argmax_probabilities {
            request = request.argmax_probabilities(&mut output.0);
        }
        if let Some(output) = entropies {
            request = request.entropies(&mut output.0);
        }
        if let Some(output) = argmax {
            request = request.argmax(&mut output.0);
        }
        if let Some(output) = target_ranks {
            request = request.target_ranks(&mut output.0);
        }
        if let Some(mask) = &arguments.mask {
            request = request.loss_mask(mask);
        }
        if let Some(row_weights) = &arguments.row_weights {
            request = request.row_weights(row_weights);
        }
        if let Some(upstream) = &arguments.upstream {
            request = request.upstream(upstream);
        }
        if let Some(upstream_scalar) = arguments.upstream_scalar {
            request = request.upstream_scalar(upstream_scalar);
        }
        if let Some(denominator) = arguments.denominator {
            request = request.denominator(denominator);
        }
        request
    }

    /// All are written where there is no error, and nothing is where there is one.
    pub fn check<R>(&self, arguments: &Arguments<E>, result: &Result<R, Error>) {
        let &Arguments { rows, classes, has_grad, adds, .. } = arguments;
        for (of, output) in self.wide.iter().enumerate() {
            let Some(output) = output else { continue };
            match of {
                0 if !has_grad => {
                    assert_eq!(output.unwritten(), output.0.len(), "a gradient that nobody asked for")
                }
                // Rows that do not count are left alone.
                0 if adds && result.is_ok() => {}
                _ => output.check(result, rows * classes),
            }
        }
        self.narrow.iter().flatten().for_each(|output| output.check(result, rows));
        self.indices.iter().flatten().for_each(|output| output.check(result, rows));
    }
}

/// Products pass any NaN on, also the one that marks an output as unwritten.
fn one_nan(x: f32) -> f32 {
    if x.is_nan() { f32::NAN } else { x }
}

/// One call.
pub fn with_targets<E: Element + Pod>(bytes: &mut Bytes<'_>)
where
    E::PerRow: Pod,
{
    let kind = bytes.below(7);
    let arguments = Arguments::<E>::new(bytes);
    let Some(ce) = options(bytes, arguments.classes) else { return };
    let targets: Vec<i64> =
        (0..bytes.size_like(arguments.rows)).map(|_| hostile_target(bytes, arguments.classes)).collect();
    /// The targets as another integer type has them.
    macro_rules! call_with {
        ($integer:ty) => {{
            let targets: Vec<$integer> = targets.iter().map(|&target| target as $integer).collect();
            let exact: Vec<i128> = targets.iter().map(|&target| target as i128).collect();
            call(&ce, &arguments, &targets, &exact, bytes);
        }};
    }
    match kind {
        0 => call_with!(i64),
        1 => call_with!(u8),
        2 => call_with!(u16),
        3 => call_with!(u32),
        4 => call_with!(u64),
        5 => call_with!(usize),
        _ => call_with!(i32),
    }
}

fn call<E: Element + Pod, T: Target>(
    ce: &CrossEntropy,
    arguments: &Arguments<E>,
    targets: &[T],
    exact_targets: &[i128],
    bytes: &mut Bytes<'_>,
) where
    E::PerRow: Pod,
{
    let &Arguments { rows, classes, in_place, .. } = arguments;
    let logits: Vec<E> = number_bytes(bytes, rows * classes);
    let mut outputs = Outputs::new(arguments);
    let request = outputs.request(arguments);
    let mut replaced = logits.clone();
    let result = if in_place {
        let logits = MatrixMut::new(&mut replaced, rows, classes).expect("it is large enough");
        ce.run_in_place(logits, targets, request)
    } else {
        ce.run(Matrix::new(&logits, rows, classes).expect("it is large enough"), targets, request)
    };
    assert_ok_if(arguments.are_valid_with(ce, exact_targets), &result);
    outputs.check(arguments, &result);
    if result.is_err() || !in_place {
        assert_unchanged(&logits, &replaced);
    }
}

#[track_caller]
pub fn assert_unchanged<E: Pod>(before: &[E], after: &[E]) {
    let (before, after): (&[u8], &[u8]) = (bytemuck::cast_slice(before), bytemuck::cast_slice(after));
    assert_eq!(before, after, "the logits were written");
}
