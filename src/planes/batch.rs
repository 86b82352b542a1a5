//! Planes on their way to a kernel: logits, targets and outputs, all checked, which can be split between threads.

use core::mem;
use core::ops::Range;

use super::request::PlanesRequest;
use super::view::{Planes, PlanesMut};
use crate::Element;
use crate::kernel::planes::{PlaneSlices, PlanesFrom};
use crate::kernel::real::Real;
use crate::parallel::SplitRows;
use crate::row_inputs::RowInputs;
use crate::row_outputs::RowOutputs;
use crate::targets::Targets;

/// The logits, and whether the gradient overwrites them.
pub(crate) enum Logits<'a, T = f32> {
    Keep(Planes<'a, T>),
    Overwrite(PlanesMut<'a, T>),
}

/// Images, whose logits are rows in planes.
pub(crate) struct Batch<'a, T: Element = f32> {
    pub(crate) logits: Logits<'a, T>,
    pub(crate) targets: Targets<'a>,
    /// Its gradient is only there where it does not overwrite the logits.
    pub(crate) request: PlanesRequest<'a, T>,
}

/// What a call has of each position, for some positions of an image.
pub(crate) struct Positions<'a, R = f32> {
    pub(crate) targets: Targets<'a>,
    pub(crate) inputs: RowInputs<'a, R>,
    pub(crate) outputs: RowOutputs<'a, R>,
}

/// Some positions of an image, with their part of every plane. Few classes only: the parts are listed.
pub(crate) struct Strip<'a, T: Element = f32> {
    /// Nothing, where the gradient's planes hold the logits.
    pub(crate) logits: Option<Strided<&'a [T]>>,
    pub(crate) positions: Positions<'a, T::PerRow>,
    pub(crate) gradient: Option<PlaneSlices<'a, T>>,
    pub(crate) probabilities: Option<PlaneSlices<'a, T>>,
}

/// All planes of an image in memory.
pub(crate) struct Image<'a, T: Element = f32> {
    pub(crate) logits: ImageLogits<'a, T>,
    pub(crate) positions: Positions<'a, T::PerRow>,
    pub(crate) gradient: Option<Strided<&'a mut [T]>>,
    pub(crate) probabilities: Option<Strided<&'a mut [T]>>,
}

pub(crate) enum ImageLogits<'a, T = f32> {
    Keep(Strided<&'a [T]>),
    Overwrite(Strided<&'a mut [T]>),
}

/// Planes in memory, and whatever lies behind them.
#[derive(Clone, Copy)]
pub(crate) struct Strided<T> {
    pub(crate) data: T,
    pub(crate) class_stride: usize,
}

impl<T: Element> Batch<'_, T> {
    /// Images, classes, positions.
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        match &self.logits {
            Logits::Keep(planes) => planes.shape().sizes(),
            Logits::Overwrite(planes) => planes.shape().sizes(),
        }
    }

    /// Bytes of logits and outputs that a call moves through other memory than the logits' own.
    pub(crate) fn bytes_out_of_place(&self) -> usize {
        let outputs = [&self.request.grad, &self.request.probabilities];
        let count = outputs.into_iter().flatten().count();
        let (images, classes, positions) = self.sizes();
        let elements = images.saturating_mul(classes).saturating_mul(positions);
        elements.saturating_mul(size_of::<T>()).saturating_mul(if count == 0 { 0 } else { count + 1 })
    }

    /// One image, its planes listed.
    pub(crate) fn strip(&mut self, image: usize) -> Strip<'_, T> {
        let (_, classes, len) = self.sizes();
        let list = |planes: Strided<_>| PlaneSlices::new(planes.data, classes, len, planes.class_stride);
        let Image { logits, positions, gradient, probabilities } = self.image(image);
        let (logits, gradient) = match logits {
            ImageLogits::Keep(planes) => (Some(planes), gradient.map(list)),
            ImageLogits::Overwrite(planes) => (None, Some(list(planes))),
        };
        Strip { logits, positions, gradient, probabilities: probabilities.map(list) }
    }

    pub(crate) fn image(&mut self, image: usize) -> Image<'_, T> {
        let (_, _, len) = self.sizes();
        let rows = image * len..(image + 1) * len;
        let logits = match &mut self.logits {
            Logits::Keep(planes) => {
                ImageLogits::Keep(Strided { data: planes.image(image), class_stride: planes.class_stride() })
            }
            Logits::Overwrite(planes) => ImageLogits::Overwrite(strided(planes, image)),
        };
        let request = &mut self.request;
        let positions = Positions {
            targets: self.targets.split_at(rows.start).1.split_at(len).0,
            inputs: request.inputs.split_at(rows.start).1.split_at(len).0,
            outputs: request.row_outputs.range(rows),
        };
        let gradient = request.grad.as_mut().map(|planes| strided(planes, image));
        let probabilities = request.probabilities.as_mut().map(|planes| strided(planes, image));
        Image { logits, positions, gradient, probabilities }
    }
}

fn strided<'a, T>(planes: &'a mut PlanesMut<'_, T>, image: usize) -> Strided<&'a mut [T]> {
    let class_stride = planes.class_stride();
    Strided { data: planes.image_mut(image), class_stride }
}

impl<T: Element> SplitRows for Batch<'_, T> {
    /// Images, here.
    fn rows(&self) -> usize {
        self.sizes().0
    }

    fn split_at(self, images: usize) -> (Self, Self) {
        let (_, _, positions) = self.sizes();
        let rows = images * positions;
        let (logits, logits_rest) = match self.logits {
            Logits::Keep(planes) => {
                let (first, rest) = planes.split_at(images);
                (Logits::Keep(first), Logits::Keep(rest))
            }
            Logits::Overwrite(planes) => {
                let (first, rest) = planes.split_at(images);
                (Logits::Overwrite(first), Logits::Overwrite(rest))
            }
        };
        let (targets, targets_rest) = self.targets.split_at(rows);
        let PlanesRequest { grad, inputs, row_outputs, probabilities } = self.request;
        let (grad, grad_rest) = grad.map(|planes| planes.split_at(images)).unzip();
        let (probabilities, probabilities_rest) = probabilities.map(|planes| planes.split_at(images)).unzip();
        let (inputs, inputs_rest) = inputs.split_at(rows);
        let (row_outputs, row_outputs_rest) = row_outputs.split_at(rows);
        let request = PlanesRequest { grad, inputs, row_outputs, probabilities };
        let request_rest = PlanesRequest {
            grad: grad_rest,
            inputs: inputs_rest,
            row_outputs: row_outputs_rest,
            probabilities: probabilities_rest,
        };
        (
            Self { logits, targets, request },
            Self { logits: logits_rest, targets: targets_rest, request: request_rest },
        )
    }
}

impl<R: Real> Positions<'_, R> {
    /// Keeps the positions before `at`, and returns the others.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let (targets, targets_rest) = self.targets.split_at(at);
        self.targets = targets;
        let (inputs, inputs_rest) = self.inputs.split_at(at);
        let (outputs, outputs_rest) = mem::take(&mut self.outputs).split_at(at);
        (self.inputs, self.outputs) = (inputs, outputs);
        Self { targets: targets_rest, inputs: inputs_rest, outputs: outputs_rest }
    }

    pub(crate) fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether some output is made of the logarithm of the sum, or is the class of the largest logit.
    pub(crate) fn needs_argmax(&self) -> bool {
        self.outputs.lse.is_some() || self.outputs.argmax.is_some()
    }
}

impl<'a, T: Element> Strip<'a, T> {
    /// Keeps the positions before `at`, and returns the others. In place, because the lists are long.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        Self {
            logits: self.logits.map(|planes| planes.starting_at(at)),
            positions: self.positions.split_off(at),
            gradient: self.gradient.as_mut().map(|planes| planes.split_off(at)),
            probabilities: self.probabilities.as_mut().map(|planes| planes.split_off(at)),
        }
    }

    /// Where the logits are, and what there is of each position.
    pub(crate) fn logits_and_positions(&mut self) -> (PlanesFrom<'_, 'a, T>, &mut Positions<'a, T::PerRow>) {
        let from = match (&self.logits, &self.gradient) {
            (Some(planes), _) => PlanesFrom::Memory(planes.data, planes.class_stride),
            (None, Some(planes)) => PlanesFrom::Slices(planes),
            (None, None) => PlanesFrom::Memory(&[], 0),
        };
        (from, &mut self.positions)
    }
}

impl<T> ImageLogits<'_, T> {
    pub(crate) fn strided(&self) -> Strided<&[T]> {
        match self {
            Self::Keep(planes) => *planes,
            Self::Overwrite(planes) => Strided { data: planes.data, class_stride: planes.class_stride },
        }
    }

    pub(crate) fn is_overwritten(&self) -> bool {
        matches!(self, Self::Overwrite(_))
    }
}

impl<T> Strided<&[T]> {
    /// The positions from `position` on.
    pub(crate) fn starting_at(self, position: usize) -> Self {
        // There may be nothing behind the last of the last plane.
        Self { data: self.data.get(position..).unwrap_or_default(), ..self }
    }
}

/// Keeps what is before `at`, and returns the rest.
pub(crate) fn split_off<'a, T>(slice: &mut &'a mut [T], at: usize) -> &'a mut [T] {
    let (first, rest) = mem::take(slice).split_at_mut(at);
    *slice = first;
    rest
}

/// Positions 16 at a time.
pub(crate) fn groups(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(crate::simd::LANES).map(move |start| start..end.min(start + crate::simd::LANES))
}
