//! Batches in planes: positions of images for rows.

use super::batch::Batch;
use super::buffer::CANARY;
use super::doubles::{self, Doubles, Found, widened};
use super::evaluation::{Call, Evaluation, assert_same_bits};
use core::fmt::Debug;
use xent::{CrossEntropy, Element, Planes, PlanesMut, PlanesRequest, Summary};

/// How planes lie in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanesLayout {
    /// Elements between a cache line's start and the planes.
    pub offset: usize,
    /// Elements between one plane's end and the next one's start.
    pub class_padding: usize,
    /// Elements between one image's end and the next one's start.
    pub image_padding: usize,
}

/// A dtype whose memory is watched.
pub trait Watched: bytemuck::Pod + Debug {
    /// A NaN that no computation makes.
    const CANARY: Self;
}

/// A dtype whose outputs can be compared with those of `f32`.
pub trait Planar: Element<PerRow = f32> + Watched {
    fn of_f32(x: f32) -> Self;
    /// Exact.
    fn widened(self) -> f32;
    /// Every output of rows.
    fn evaluate_rows(call: &Call<'_>, ce: &CrossEntropy, batch: &Batch) -> Evaluation;
}

impl Watched for f32 {
    const CANARY: Self = f32::from_bits(CANARY);
}

impl Watched for f64 {
    const CANARY: Self = f64::from_bits(0x7ff8_ca7a_ca7a_ca7a);
}

impl Planar for f32 {
    fn of_f32(x: f32) -> Self {
        x
    }

    fn widened(self) -> f32 {
        self
    }

    fn evaluate_rows(call: &Call<'_>, ce: &CrossEntropy, batch: &Batch) -> Evaluation {
        call.evaluate(ce, batch)
    }
}

#[cfg(feature = "half")]
mod of_halves {
    use super::*;
    use crate::support::halves::{Half, evaluate};
    use half::{bf16, f16};

    macro_rules! planar {
        ($($half:ident),+) => {
            $(
                impl Watched for $half {
                    const CANARY: Self = $half::from_bits(<$half as Half>::CANARY);
                }

                impl Planar for $half {
                    fn of_f32(x: f32) -> Self {
                        $half::from_f32(x)
                    }

                    fn widened(self) -> f32 {
                        self.to_f32()
                    }

                    fn evaluate_rows(call: &Call<'_>, ce: &CrossEntropy, batch: &Batch) -> Evaluation {
                        evaluate::<$half>(call, ce, batch)
                    }
                }
            )+
        };
    }

    planar!(bf16, f16);
}

/// Planes with canaries before them, behind them and between them.
#[derive(Debug)]
pub struct PlanesBuffer<T = f32> {
    memory: Vec<T>,
    start: usize,
    sizes: (usize, usize, usize),
    image_stride: usize,
    class_stride: usize,
}

/// Bytes of a cache line.
const LINE: usize = 64;

impl<T: Watched> PlanesBuffer<T> {
    /// Planes of canaries.
    pub fn unwritten(sizes: (usize, usize, usize), layout: PlanesLayout) -> Self {
        let (images, classes, positions) = sizes;
        let class_stride = positions + layout.class_padding;
        let image_stride = classes * class_stride + layout.image_padding;
        let line = LINE / size_of::<T>();
        let memory = vec![T::CANARY; images * image_stride + 4 * line + layout.offset];
        let to_line = memory.as_ptr().addr().wrapping_neg() % LINE / size_of::<T>();
        Self { memory, start: line + to_line + layout.offset, sizes, image_stride, class_stride }
    }

    /// The rows of a batch: as many for each image.
    pub fn holding(rows: &[T], sizes: (usize, usize, usize), layout: PlanesLayout) -> Self {
        let mut buffer = Self::unwritten(sizes, layout);
        for (at, x) in buffer.places().into_iter().zip(rows) {
            buffer.memory[at] = *x;
        }
        buffer
    }

    /// Where the elements are, row after row.
    fn places(&self) -> Vec<usize> {
        let (images, classes, positions) = self.sizes;
        let mut places = Vec::with_capacity(images * classes * positions);
        for image in 0..images {
            for position in 0..positions {
                for class in 0..classes {
                    places
                        .push(self.start + image * self.image_stride + class * self.class_stride + position);
                }
            }
        }
        places
    }

    fn len(&self) -> usize {
        let (images, classes, positions) = self.sizes;
        images.saturating_sub(1) * self.image_stride
            + classes.saturating_sub(1) * self.class_stride
            + positions
    }

    pub fn planes(&self) -> Planes<'_, T> {
        let memory = &self.memory[self.start..][..self.len()];
        Planes::with_strides(memory, self.sizes, self.image_stride, self.class_stride)
            .expect("the buffer is large enough")
    }

    pub fn planes_mut(&mut self) -> PlanesMut<'_, T> {
        let len = self.len();
        let memory = &mut self.memory[self.start..][..len];
        PlanesMut::with_strides(memory, self.sizes, self.image_stride, self.class_stride)
            .expect("the buffer is large enough")
    }

    /// The elements, row after row.
    pub fn rows(&self) -> Vec<T> {
        self.places().into_iter().map(|at| self.memory[at]).collect()
    }

    /// Checks every element that is not one of the planes'.
    pub fn assert_canaries_live(&self, name: &str) {
        let mut memory = self.memory.clone();
        for at in self.places() {
            memory[at] = T::CANARY;
        }
        let written = memory.iter().position(is_written);
        assert_eq!(written, None, "{name}: written outside of the planes, which start at {}", self.start);
    }

    /// Checks that nothing at all has been written.
    pub fn assert_unwritten(&self, name: &str) {
        let written = self.memory.iter().position(is_written);
        assert_eq!(written, None, "{name} was written");
    }
}

fn is_written<T: Watched>(x: &T) -> bool {
    bytemuck::bytes_of(x) != bytemuck::bytes_of(&T::CANARY)
}

/// How a call on planes is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanesCall<'a> {
    /// What it brings for each position.
    pub inputs: Call<'a>,
    pub logits: PlanesLayout,
    pub outputs: PlanesLayout,
    pub in_place: bool,
}

impl<'a> PlanesCall<'a> {
    fn request<T: Element>(&self, upstream: Option<&'a [T::PerRow]>) -> PlanesRequest<'a, T> {
        let Call { upstream_scalar, row_weights, loss_mask, denominator, .. } = self.inputs;
        let mut request = PlanesRequest::new();
        if let Some(upstream) = upstream {
            request = request.upstream(upstream);
        }
        if let Some(upstream_scalar) = upstream_scalar {
            request = request.upstream_scalar(upstream_scalar);
        }
        if let Some(row_weights) = row_weights {
            request = request.row_weights(row_weights);
        }
        if let Some(loss_mask) = loss_mask {
            request = request.loss_mask(loss_mask);
        }
        if let Some(denominator) = denominator {
            request = request.denominator(denominator);
        }
        request
    }

    /// Asks for every output of a batch whose rows are the positions of so many images. Outputs hold canaries before;
    /// canaries around them, and around the logits, live on. Outputs that planes do not have are those of the rows, so
    /// that all can be checked alike.
    pub fn evaluate(&self, ce: &CrossEntropy, batch: &Batch, images: usize) -> Evaluation {
        self.evaluate_as::<f32>(ce, batch, images)
    }

    /// The same of logits of this dtype, which are those of the batch. Outputs are widened.
    pub fn evaluate_as<T: Planar>(&self, ce: &CrossEntropy, batch: &Batch, images: usize) -> Evaluation {
        let (rows, classes) = (batch.rows, batch.classes);
        let sizes = (images, classes, rows / images);
        let widened = |x: Vec<T>| x.into_iter().map(T::widened).collect::<Vec<_>>();
        let elements: Vec<T> = batch.logits.iter().map(|&x| T::of_f32(x)).collect();
        let mut logits = PlanesBuffer::holding(&elements, sizes, self.logits);
        let mut grad = PlanesBuffer::unwritten(sizes, self.outputs);
        let mut probabilities = PlanesBuffer::unwritten(sizes, self.outputs);
        let unwritten = || vec![f32::from_bits(CANARY); rows];
        let (mut losses, mut lse) = (unwritten(), unwritten());
        let (mut target_log_probabilities, mut argmax_probabilities) = (unwritten(), unwritten());
        let mut argmax = vec![usize::MAX - 1; rows];

        let request = self
            .request(self.inputs.upstream)
            .losses(&mut losses)
            .lse(&mut lse)
            .target_log_probabilities(&mut target_log_probabilities)
            .argmax_probabilities(&mut argmax_probabilities)
            .argmax(&mut argmax)
            .probabilities(probabilities.planes_mut());
        let summary = if self.in_place {
            ce.run_planes_in_place(logits.planes_mut(), &batch.targets, request)
        } else {
            ce.run_planes(logits.planes(), &batch.targets, request.grad(grad.planes_mut()))
        };
        let Summary { loss, weight, counted, correct, .. } = summary.expect("the batch is valid");

        if self.in_place {
            grad.assert_unwritten("the unused gradient");
            core::mem::swap(&mut grad, &mut logits);
        } else {
            let (after, before) = (widened(logits.rows()), widened(elements));
            assert_same_bits("logits", classes, &after, &before, "before and after the call");
        }
        logits.assert_canaries_live("logits");
        grad.assert_canaries_live("grad");
        probabilities.assert_canaries_live("probabilities");
        let of_rows = T::evaluate_rows(&self.inputs, ce, batch);
        Evaluation {
            classes,
            loss,
            weight,
            counted,
            correct,
            grad: widened(grad.rows()),
            losses,
            lse,
            target_log_probabilities,
            argmax_probabilities,
            argmax,
            probabilities: widened(probabilities.rows()),
            ..of_rows
        }
    }

    /// The same of logits of `f64`. Upstream gradients are widened.
    pub fn evaluate_doubles(&self, ce: &CrossEntropy, batch: &Doubles, images: usize) -> Found {
        let (rows, classes) = (batch.rows, batch.classes);
        let sizes = (images, classes, rows / images);
        let mut logits = PlanesBuffer::holding(&batch.logits, sizes, self.logits);
        let mut grad = PlanesBuffer::unwritten(sizes, self.outputs);
        let mut probabilities = PlanesBuffer::unwritten(sizes, self.outputs);
        let [mut losses, mut lse, mut target_log_probabilities, mut argmax_probabilities] =
            [(); 4].map(|()| vec![<f64 as Watched>::CANARY; rows]);
        let mut argmax = vec![usize::MAX - 1; rows];
        let upstream = widened(self.inputs.upstream);

        let request = PlanesCall { inputs: self.inputs, ..*self }
            .request(upstream.as_deref())
            .losses(&mut losses)
            .lse(&mut lse)
            .target_log_probabilities(&mut target_log_probabilities)
            .argmax_probabilities(&mut argmax_probabilities)
            .argmax(&mut argmax)
            .probabilities(probabilities.planes_mut());
        let summary = if self.in_place {
            ce.run_planes_in_place(logits.planes_mut(), &batch.targets, request)
        } else {
            ce.run_planes(logits.planes(), &batch.targets, request.grad(grad.planes_mut()))
        };
        let summary = summary.expect("the batch is valid");
        if self.in_place {
            grad.assert_unwritten("the unused gradient");
            core::mem::swap(&mut grad, &mut logits);
        } else {
            let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits();
            assert!(logits.rows().iter().zip(&batch.logits).all(same), "logits");
        }
        logits.assert_canaries_live("logits");
        grad.assert_canaries_live("grad");
        probabilities.assert_canaries_live("probabilities");
        Found {
            summary,
            grad: grad.rows(),
            losses,
            lse,
            target_log_probabilities,
            argmax_probabilities,
            argmax,
            probabilities: probabilities.rows(),
            ..doubles::evaluate(&self.inputs, ce, batch)
        }
    }
}
