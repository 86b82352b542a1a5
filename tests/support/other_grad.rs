//! Gradients in another dtype than the logits, in memory that is watched.

use super::batch::Batch;
use super::bounds::Rounding;
use super::buffer::Buffer;
use super::distillation::Pair;
use super::doubles::{Doubles, near, request, widened};
use super::evaluation::Call;
#[cfg(feature = "half")]
use super::halves::{Half, HalfBuffer, narrow};
use core::ops::Range;
#[cfg(feature = "half")]
use half::{bf16, f16};
use xent::{
    CrossEntropy, Distillation, Element, Error, GradElement, Matrix, MatrixMut, ShardElement, ShardState,
    Shards, Summary,
};

/// A dtype that both can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    #[cfg(feature = "half")]
    Bf16,
    #[cfg(feature = "half")]
    F16,
}

impl Dtype {
    #[cfg(feature = "half")]
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];
    #[cfg(not(feature = "half"))]
    pub const ALL: [Self; 1] = [Self::F32];

    pub fn rounding(self) -> Rounding {
        match self {
            Self::F32 => Rounding::F32,
            #[cfg(feature = "half")]
            Self::Bf16 => bf16::ROUNDING,
            #[cfg(feature = "half")]
            Self::F16 => f16::ROUNDING,
        }
    }

    pub fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            #[cfg(feature = "half")]
            Self::Bf16 => bf16::from_f32(x).to_f32(),
            #[cfg(feature = "half")]
            Self::F16 => f16::from_f32(x).to_f32(),
        }
    }
}

impl Dtype {
    /// To the nearest, and of two as near to the even one: found among the neighbours of a number that is near. 0, where that
    /// would be a subnormal `f32`.
    pub fn round_once(self, x: f64) -> f32 {
        let near = self.round(x as f32);
        let candidates = [self.next(near, -1), near, self.next(near, 1)];
        if x.is_nan() || near.is_infinite() {
            return near;
        }
        let distance = |y: f32| (f64::from(y) - x).abs();
        let mut best = near;
        for y in candidates.into_iter().filter(|y| y.is_finite()) {
            let (closer, as_close) = (distance(y) < distance(best), distance(y) == distance(best));
            if closer || as_close && self.is_even(y) && !self.is_even(best) {
                best = y;
            }
        }
        if best.abs() < f32::MIN_POSITIVE { 0.0 } else { best }
    }

    /// Whether the last bit of a number of this dtype is 0.
    fn is_even(self, y: f32) -> bool {
        let bits = match self {
            Self::F32 => y.to_bits(),
            #[cfg(feature = "half")]
            Self::Bf16 => u32::from(bf16::from_f32(y).to_bits()),
            #[cfg(feature = "half")]
            Self::F16 => u32::from(f16::from_f32(y).to_bits()),
        };
        bits & 1 == 0
    }

    /// The number of this dtype so many steps of its last bit away.
    fn next(self, y: f32, steps: i32) -> f32 {
        match self {
            Self::F32 => f32::from_bits(y.to_bits().wrapping_add_signed(steps)),
            #[cfg(feature = "half")]
            Self::Bf16 => {
                let bits = bf16::from_f32(y).to_bits().wrapping_add_signed(steps as i16);
                bf16::from_bits(bits).to_f32()
            }
            #[cfg(feature = "half")]
            Self::F16 => {
                let bits = f16::from_f32(y).to_bits().wrapping_add_signed(steps as i16);
                f16::from_bits(bits).to_f32()
            }
        }
    }
}

/// Checks that a call on logits of `f64` has a gradient of another dtype that is its own, `exact`, rounded once.
pub fn assert_rounded_once(
    grad: Dtype,
    call: &Call<'_>,
    ce: &CrossEntropy,
    batch: &Doubles,
    exact: &[f64],
    context: &str,
) {
    let (found, _) = gradient_of_doubles_as(grad, call, ce, batch, None);
    for (i, (&found, &exact)) in found.iter().zip(exact).enumerate() {
        let expected = grad.round_once(exact);
        let is_same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(is_same, "{found:e} instead of {expected:e}, of {exact:e}, entry {i}, {grad:?}, {context}");
    }
}

/// A call on logits of `f64` whose gradient has another dtype; added to what is `before`, if anything is.
pub fn gradient_of_doubles_as(
    grad: Dtype,
    call: &Call<'_>,
    ce: &CrossEntropy,
    batch: &Doubles,
    before: Option<&[f32]>,
) -> (Vec<f32>, Summary) {
    let (rows, classes, layout) = (batch.rows, batch.classes, call.outputs);
    match grad {
        Dtype::F32 => {
            let mut out = match before {
                Some(before) => Buffer::holding(before, rows, classes, layout),
                None => Buffer::unwritten(rows, classes, layout),
            };
            let summary = run_doubles(call, ce, batch, out.matrix_mut(), before.is_some());
            out.assert_canaries_live("grad");
            (out.elements(), summary)
        }
        #[cfg(feature = "half")]
        Dtype::Bf16 => run_doubles_to_half::<bf16>(call, ce, batch, before),
        #[cfg(feature = "half")]
        Dtype::F16 => run_doubles_to_half::<f16>(call, ce, batch, before),
    }
}

#[cfg(feature = "half")]
fn run_doubles_to_half<G: Half + GradElement>(
    call: &Call<'_>,
    ce: &CrossEntropy,
    batch: &Doubles,
    before: Option<&[f32]>,
) -> (Vec<f32>, Summary) {
    let (rows, classes, layout) = (batch.rows, batch.classes, call.outputs);
    let mut out = match before {
        Some(before) => HalfBuffer::<G>::holding(before, rows, classes, layout),
        None => HalfBuffer::unwritten(rows, classes, layout),
    };
    let summary = run_doubles(call, ce, batch, out.matrix_mut(), before.is_some());
    (out.elements("grad"), summary)
}

fn run_doubles<G: GradElement>(
    call: &Call<'_>,
    ce: &CrossEntropy,
    batch: &Doubles,
    grad: MatrixMut<'_, G>,
    adds: bool,
) -> Summary {
    let upstream = widened(call.upstream);
    let request = request(call, upstream.as_deref());
    let request = if adds { request.accumulate_as(grad) } else { request.grad_as(grad) };
    let logits = Matrix::new(&batch.logits, batch.rows, batch.classes).expect("the shape fits");
    let summary = match call.target_probabilities.map(near) {
        Some(q) => {
            let q = Matrix::new(&q, batch.rows, batch.classes).expect("the shape fits");
            ce.run_probabilities(logits, q, request)
        }
        None => ce.run(logits, &batch.targets, request),
    };
    summary.expect("the batch is valid")
}

/// A call on logits of one dtype whose gradient has another; added to what is `before`, if anything is.
pub fn gradient_as(
    (logits, grad): (Dtype, Dtype),
    call: &Call<'_>,
    ce: &CrossEntropy,
    batch: &Batch,
    before: Option<&[f32]>,
) -> (Vec<f32>, Summary) {
    Asked { logits, call, of: Of::Loss(ce), batch, adds: before.is_some() }.find(grad, before)
}

/// The same of a distillation.
pub fn distilled_as(
    (logits, grad): (Dtype, Dtype),
    call: &Call<'_>,
    distillation: &Distillation,
    pair: &Pair,
    before: Option<&[f32]>,
) -> (Vec<f32>, Summary) {
    let of = Of::Distillation(distillation, &pair.teacher);
    Asked { logits, call, of, batch: &pair.student, adds: before.is_some() }.find(grad, before)
}

/// All of it but where the gradient goes.
struct Asked<'a> {
    logits: Dtype,
    call: &'a Call<'a>,
    of: Of<'a>,
    batch: &'a Batch,
    adds: bool,
}

/// Whose gradient. A distillation has a teacher.
#[derive(Clone, Copy)]
enum Of<'a> {
    Loss(&'a CrossEntropy),
    Distillation(&'a Distillation, &'a [f32]),
}

impl Asked<'_> {
    fn find(&self, grad: Dtype, before: Option<&[f32]>) -> (Vec<f32>, Summary) {
        let (rows, classes, layout) = (self.batch.rows, self.batch.classes, self.call.outputs);
        match grad {
            Dtype::F32 => {
                let mut out = match before {
                    Some(before) => Buffer::holding(before, rows, classes, layout),
                    None => Buffer::unwritten(rows, classes, layout),
                };
                let summary = self.run(out.matrix_mut());
                out.assert_canaries_live("grad");
                (out.elements(), summary)
            }
            #[cfg(feature = "half")]
            Dtype::Bf16 => self.run_to_half::<bf16>(before),
            #[cfg(feature = "half")]
            Dtype::F16 => self.run_to_half::<f16>(before),
        }
    }

    #[cfg(feature = "half")]
    fn run_to_half<G: Half + GradElement>(&self, before: Option<&[f32]>) -> (Vec<f32>, Summary) {
        let (rows, classes, layout) = (self.batch.rows, self.batch.classes, self.call.outputs);
        let mut out = match before {
            Some(before) => HalfBuffer::<G>::holding(before, rows, classes, layout),
            None => HalfBuffer::unwritten(rows, classes, layout),
        };
        let summary = self.run(out.matrix_mut());
        (out.elements("grad"), summary)
    }

    fn run<G: GradElement>(&self, grad: MatrixMut<'_, G>) -> Summary {
        match self.logits {
            Dtype::F32 => self.run_on(<[f32]>::to_vec, grad),
            #[cfg(feature = "half")]
            Dtype::Bf16 => self.run_on(narrow::<bf16>, grad),
            #[cfg(feature = "half")]
            Dtype::F16 => self.run_on(narrow::<f16>, grad),
        }
    }

    fn run_on<T: Element<PerRow = f32>, G: GradElement>(
        &self,
        of_f32: fn(&[f32]) -> Vec<T>,
        grad: MatrixMut<'_, G>,
    ) -> Summary {
        let Self { call, of, batch, adds, .. } = *self;
        let request = call.request();
        let request = if adds { request.accumulate_as(grad) } else { request.grad_as(grad) };
        let logits = of_f32(&batch.logits);
        let logits = Matrix::new(&logits, batch.rows, batch.classes).expect("the shape fits");
        let summary = match of {
            Of::Loss(ce) => call.run(ce, logits, batch, request),
            Of::Distillation(distillation, teacher) => {
                let teacher = of_f32(teacher);
                let teacher = Matrix::new(&teacher, batch.rows, batch.classes).expect("the shape fits");
                distillation.run(logits, teacher, request)
            }
        };
        summary.expect("the batch is valid")
    }
}

/// A number that goes to and from `f32`.
pub trait Number: Copy {
    const DTYPE: Dtype;

    fn from_f32(x: f32) -> Self;
    fn to_f32(self) -> f32;
}

impl Number for f32 {
    const DTYPE: Dtype = Dtype::F32;

    fn from_f32(x: f32) -> Self {
        x
    }

    fn to_f32(self) -> f32 {
        self
    }
}

#[cfg(feature = "half")]
impl<T: Half> Number for T {
    const DTYPE: Dtype = T::OF_LOGITS;

    fn from_f32(x: f32) -> Self {
        Half::from_f32(x)
    }

    fn to_f32(self) -> f32 {
        Half::to_f32(self)
    }
}

/// Logits in shards that have these columns.
pub struct InShards<'a, T> {
    pub ranges: &'a [Range<usize>],
    pub logits: &'a [T],
    pub targets: &'a [i64],
    pub classes: usize,
}

impl<T: ShardElement> InShards<'_, T> {
    /// The gradient in the dtype of the logits.
    pub fn own_gradient(&self, ce: &CrossEntropy) -> Vec<T> {
        let mut grad = vec![T::default(); self.logits.len()];
        self.each_shard(ce, &mut grad, |shards, (logits, first_column), states, grad| {
            shards.grad(logits, first_column, states, grad)
        });
        grad
    }

    /// In another; added to what is `before`, if anything is.
    pub fn gradient_as(&self, grad: Dtype, ce: &CrossEntropy, before: Option<&[f32]>) -> Vec<f32> {
        match grad {
            Dtype::F32 => self.find::<f32>(ce, before),
            #[cfg(feature = "half")]
            Dtype::Bf16 => self.find::<bf16>(ce, before),
            #[cfg(feature = "half")]
            Dtype::F16 => self.find::<f16>(ce, before),
        }
    }

    fn find<G: GradElement + Number>(&self, ce: &CrossEntropy, before: Option<&[f32]>) -> Vec<f32> {
        let garbage = || vec![7.0; self.logits.len()];
        let mut grad: Vec<G> =
            before.map_or_else(garbage, <[f32]>::to_vec).into_iter().map(G::from_f32).collect();
        self.each_shard(ce, &mut grad, |shards, (logits, first_column), states, grad| match before {
            Some(_) => shards.accumulate_grad_as(logits, first_column, states, grad),
            None => shards.grad_as(logits, first_column, states, grad),
        });
        grad.into_iter().map(G::to_f32).collect()
    }

    /// Calls with the columns of each shard, and theirs of the gradient: each lies between those of the others.
    fn each_shard<G>(
        &self,
        ce: &CrossEntropy,
        grad: &mut [G],
        call: impl Fn(
            &Shards<'_, T::State>,
            (Matrix<'_, T>, usize),
            &[T::State],
            MatrixMut<'_, G>,
        ) -> Result<(), Error>,
    ) {
        let (rows, classes) = (self.targets.len(), self.classes);
        let shards = ce.shards(self.targets, classes);
        let columns = |range: &Range<usize>| {
            let columns = Matrix::with_row_stride(&self.logits[range.start..], rows, range.len(), classes);
            (columns.expect("they lie among the others"), range.start)
        };
        let mut states = vec![T::State::EMPTY; rows];
        for range in self.ranges {
            let (logits, first_column) = columns(range);
            shards.accumulate(logits, first_column, &mut states).expect("the shard is valid");
        }
        for range in self.ranges {
            let to = MatrixMut::with_row_stride(&mut grad[range.start..], rows, range.len(), classes);
            let written =
                call(&shards, columns(range), &states, to.expect("it lies among that of the others"));
            written.expect("the states are complete");
        }
    }
}
