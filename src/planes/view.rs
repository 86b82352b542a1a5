//! Borrowed batches of images: planes of positions, one for each class.

use crate::Error;

/// Logits of shape (N, C, d1, d2, ...) that are only read, as PyTorch's `cross_entropy` takes them for segmentation: N
/// images, each of C planes, each of P = d1 d2 ... neighbouring positions. Every position of every image is a row of C
/// logits, one in each plane.
///
/// Logits, gradient and probabilities are of one dtype: see [`Element`](crate::Element).
///
/// Element (n, c, p) is at `n * image_stride + c * class_stride + p`; what no element is at is never read. Strides may
/// be in any order: logits of shape (C, N, P) are read with `image_stride` P and `class_stride` N P. There are as many
/// elements as positions of all planes, or more.
///
/// ```
/// use xent::Planes;
///
/// // Two images, three classes, 1 x 2 pixels.
/// let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0];
/// let planes = Planes::new(&x, 2, 3, 2)?;
/// assert_eq!(planes.plane(1, 0), Some(&[-1.0, -2.0][..]));
/// assert_eq!((planes.image_stride(), planes.class_stride()), (6, 2));
/// # Ok::<(), xent::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Planes<'a, T = f32> {
    data: &'a [T],
    shape: Shape,
}

/// Planes that are written; otherwise as [`Planes`], but images follow each other in memory, and so do an image's planes:
/// `class_stride >= P` and `image_stride >= (C - 1) * class_stride + P`. What no element is at is never written.
#[derive(Debug)]
pub struct PlanesMut<'a, T = f32> {
    data: &'a mut [T],
    shape: Shape,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) images: usize,
    pub(crate) classes: usize,
    pub(crate) positions: usize,
    pub(crate) image_stride: usize,
    pub(crate) class_stride: usize,
}

impl Shape {
    fn contiguous(images: usize, classes: usize, positions: usize) -> Result<Self, Error> {
        let image_stride =
            classes.checked_mul(positions).ok_or(Error::PlanesOverflow { images, classes, positions })?;
        Ok(Self { images, classes, positions, image_stride, class_stride: positions })
    }

    /// Elements from the first of an image to its last.
    fn image_extent(&self) -> Option<usize> {
        if self.classes == 0 || self.positions == 0 {
            return Some(0);
        }
        (self.classes - 1).checked_mul(self.class_stride)?.checked_add(self.positions)
    }

    fn check(self, len: usize) -> Result<Self, Error> {
        let Self { images, classes, positions, .. } = self;
        let overflow = Error::PlanesOverflow { images, classes, positions };
        let rows = images.checked_mul(positions);
        let extent = || match self.image_extent()? {
            0 => Some(0),
            _ if images == 0 => Some(0),
            extent => (images - 1).checked_mul(self.image_stride)?.checked_add(extent),
        };
        // As many as there are places: else a few elements could stand for classes without end.
        let count = rows.and_then(|rows| rows.checked_mul(classes));
        let (Some(extent), Some(count)) = (extent(), count) else { return Err(overflow) };
        let required = extent.max(count);
        if len < required {
            return Err(Error::BufferTooShort { required, actual: len });
        }
        Ok(self)
    }

    /// That no element is at two places, and that images can be split from each other.
    fn check_apart(self) -> Result<Self, Error> {
        let Self { classes, positions, image_stride, class_stride, .. } = self;
        let apart = class_stride >= positions || classes <= 1;
        let extent = self.image_extent();
        if apart && (self.images <= 1 || extent.is_none_or(|extent| extent <= image_stride)) {
            return Ok(self);
        }
        Err(Error::PlanesOverlap { classes, positions, image_stride, class_stride })
    }

    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        (self.images, self.classes, self.positions)
    }

    /// Where an image starts in `len` elements: their end, for one after the last.
    fn start(&self, image: usize, len: usize) -> usize {
        image.saturating_mul(self.image_stride).min(len)
    }

    /// Where a plane of an image starts and ends, if there is one.
    fn plane(&self, image: usize, class: usize) -> Option<core::ops::Range<usize>> {
        if image >= self.images || class >= self.classes {
            return None;
        }
        if self.positions == 0 {
            return Some(0..0);
        }
        let start = image * self.image_stride + class * self.class_stride;
        Some(start..start + self.positions)
    }
}

macro_rules! sizes {
    () => {
        /// The number of images, N.
        pub fn images(&self) -> usize {
            self.shape.images
        }

        /// The number of classes, C: the planes of each image.
        pub fn classes(&self) -> usize {
            self.shape.classes
        }

        /// The number of positions, P: the elements of each plane.
        pub fn positions(&self) -> usize {
            self.shape.positions
        }

        /// Elements from the start of one image to the start of the next.
        pub fn image_stride(&self) -> usize {
            self.shape.image_stride
        }

        /// Elements from the start of one plane to the start of the next.
        pub fn class_stride(&self) -> usize {
            self.shape.class_stride
        }

        pub(crate) fn shape(&self) -> Shape {
            self.shape
        }
    };
}

impl<'a, T> Planes<'a, T> {
    /// `images x classes x positions` elements without padding.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`] and [`Error::PlanesOverflow`].
    pub fn new(data: &'a [T], images: usize, classes: usize, positions: usize) -> Result<Self, Error> {
        let shape = Shape::contiguous(images, classes, positions)?.check(data.len())?;
        Ok(Self { data, shape })
    }

    /// Images and planes that start at any distance from each other.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`] and [`Error::PlanesOverflow`].
    pub fn with_strides(
        data: &'a [T],
        (images, classes, positions): (usize, usize, usize),
        image_stride: usize,
        class_stride: usize,
    ) -> Result<Self, Error> {
        let shape = Shape { images, classes, positions, image_stride, class_stride }.check(data.len())?;
        Ok(Self { data, shape })
    }

    sizes!();

    /// One plane of one image.
    pub fn plane(&self, image: usize, class: usize) -> Option<&'a [T]> {
        let data: &'a [T] = self.data;
        self.shape.plane(image, class).map(|plane| &data[plane])
    }

    /// The elements from an image on.
    pub(crate) fn image(&self, image: usize) -> &'a [T] {
        &self.data[self.shape.start(image, self.data.len())..]
    }

    /// The first `images` images, and the others.
    pub(crate) fn split_at(self, images: usize) -> (Self, Self) {
        // The first may reach into the others.
        let rest = self.image(images);
        (
            Self { data: self.data, shape: Shape { images, ..self.shape } },
            Self { data: rest, shape: Shape { images: self.shape.images - images, ..self.shape } },
        )
    }
}

impl<'a, T> PlanesMut<'a, T> {
    /// `images x classes x positions` elements without padding.
    ///
    /// # Errors
    /// [`Error::BufferTooShort`] and [`Error::PlanesOverflow`].
    pub fn new(data: &'a mut [T], images: usize, classes: usize, positions: usize) -> Result<Self, Error> {
        let shape = Shape::contiguous(images, classes, positions)?.check(data.len())?;
        Ok(Self { data, shape })
    }

    /// Images and planes that start at these distances from each other.
    ///
    /// # Errors
    /// [`Error::PlanesOverlap`], [`Error::BufferTooShort`] and [`Error::PlanesOverflow`].
    pub fn with_strides(
        data: &'a mut [T],
        (images, classes, positions): (usize, usize, usize),
        image_stride: usize,
        class_stride: usize,
    ) -> Result<Self, Error> {
        let shape = Shape { images, classes, positions, image_stride, class_stride };
        let shape = shape.check_apart()?.check(data.len())?;
        Ok(Self { data, shape })
    }

    sizes!();

    /// The same planes, only read.
    pub fn as_planes(&self) -> Planes<'_, T> {
        Planes { data: self.data, shape: self.shape }
    }

    /// The same planes for a shorter time, so that they can be used again after a call.
    pub fn reborrow(&mut self) -> PlanesMut<'_, T> {
        PlanesMut { data: self.data, shape: self.shape }
    }

    /// One plane of one image, to write.
    pub fn plane_mut(&mut self, image: usize, class: usize) -> Option<&mut [T]> {
        self.shape.plane(image, class).map(|plane| &mut self.data[plane])
    }

    /// The elements from an image on, to write.
    pub(crate) fn image_mut(&mut self, image: usize) -> &mut [T] {
        let start = self.shape.start(image, self.data.len());
        &mut self.data[start..]
    }

    /// The first `images` images, and the others.
    pub(crate) fn split_at(self, images: usize) -> (Self, Self) {
        let start = self.shape.start(images, self.data.len());
        let (first, rest) = self.data.split_at_mut(start);
        (
            Self { data: first, shape: Shape { images, ..self.shape } },
            Self { data: rest, shape: Shape { images: self.shape.images - images, ..self.shape } },
        )
    }
}
