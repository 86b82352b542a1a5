//! The memory of one call: pointers and sizes are checked, and become slices.
//!
//! Everything here rests on one promise of the caller's, which the header states: that a pointer which is not null points
//! to as many elements as its sizes say, which nobody else writes during the call, nor reads if the call writes them.

use core::ffi::c_void;
use core::mem::{align_of, size_of};
use core::slice;

use xent::{Error, Matrix, MatrixMut, Planes, PlanesMut};

use crate::dtype::{self, Scalar};
use crate::status::{Outcome, fail, from_error, xent_status};
use crate::views::{xent_array, xent_array_mut, xent_matrix, xent_matrix_mut, xent_planes, xent_planes_mut};

/// More than any call has arguments.
const MOST_REGIONS: usize = 24;

/// What the arguments of a call reach over, each from its first byte to its last.
#[derive(Debug)]
pub(crate) struct Memory {
    regions: [Region; MOST_REGIONS],
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Region {
    argument: &'static str,
    start: usize,
    end: usize,
    is_written: bool,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let none = Region { argument: "", start: 0, end: 0, is_written: false };
        Self { regions: [none; MOST_REGIONS], len: 0 }
    }

    /// # Safety
    /// The caller's promise.
    pub(crate) unsafe fn matrix<'a, T: Scalar>(
        &mut self,
        argument: &'static str,
        matrix: xent_matrix,
    ) -> Outcome<Matrix<'a, T>> {
        dtype::check::<T>(argument, matrix.dtype)?;
        let shape = Shape::new(argument, &matrix)?;
        // SAFETY: the elements are those that the caller promises.
        let data = unsafe { self.elements(argument, matrix.data.cast(), shape.reach)? };
        Matrix::with_row_stride(data, shape.rows, shape.cols, shape.row_stride).map_err(from_error)
    }

    /// # Safety
    /// The caller's promise.
    pub(crate) unsafe fn matrix_mut<'a, T: Scalar>(
        &mut self,
        argument: &'static str,
        matrix: xent_matrix_mut,
    ) -> Outcome<MatrixMut<'a, T>> {
        dtype::check::<T>(argument, matrix.dtype)?;
        let shape = Shape::new(argument, &matrix.into())?;
        // SAFETY: the elements are those that the caller promises.
        let data = unsafe { self.elements_mut(argument, matrix.data.cast(), shape.reach)? };
        MatrixMut::with_row_stride(data, shape.rows, shape.cols, shape.row_stride).map_err(from_error)
    }

    /// # Safety
    /// The caller's promise.
    pub(crate) unsafe fn array<'a, T: Scalar>(
        &mut self,
        argument: &'static str,
        array: xent_array,
    ) -> Outcome<&'a [T]> {
        dtype::check::<T>(argument, array.dtype)?;
        let len = size(argument, array.len)?;
        // SAFETY: the elements are those that the caller promises.
        unsafe { self.elements(argument, array.data.cast(), len) }
    }

    /// `None` where it is left out.
    ///
    /// # Safety
    /// The caller's promise.
    pub(crate) unsafe fn optional_array<'a, T: Scalar>(
        &mut self,
        argument: &'static str,
        array: xent_array,
    ) -> Outcome<Option<&'a [T]>> {
        if array.is_absent() {
            return Ok(None);
        }
        // SAFETY: the caller's promise is handed on.
        unsafe { self.array(argument, array) }.map(Some)
    }

    /// # Safety
    /// The caller's promise.
    pub(crate) unsafe fn array_mut<'a, T: Scalar>(
        &mut self,
        argument: &'static str,
        array: xent_array_mut,
    ) -> Outcome<&'a mut [T]> {
        dtype::check::<T>(argument, array.dtype)?;
        let len = size(argument, array.len)?;
        // SAFETY: the elements are those that the caller promises.
        unsafe { self.elements_mut(argument, array.data.cast(), len) }
    }

    /// `None` where it is left out.
    ///
    /// # Safety
    /// The caller's promise.
    pub(crate) unsafe fn optional_array_mut<'a, T: Scalar>(
        &mut self,
        argument: &'static str,
        array: xent_array_mut,
    ) -> Outcome<Option<&'a mut [T]>> {
        if xent_array::from(array).is_absent() {
            return Ok(None);
        }
        // SAFETY: the caller's promise is handed on.
        unsafe { self.array_mut(argument, array) }.map(Some)
    }

    /// # Safety
    /// The caller's promise.
    pub(crate) unsafe fn planes<'a, T: Scalar>(
        &mut self,
        argument: &'static str,
        planes: xent_planes,
    ) -> Outcome<Planes<'a, T>> {
        dtype::check::<T>(argument, planes.dtype)?;
        let shape = PlanesShape::new(argument, &planes)?;
        // SAFETY: the elements are those that the caller promises.
        let data = unsafe { self.elements(argument, planes.data.cast(), shape.reach)? };
        Planes::with_strides(data, shape.sizes, shape.image_stride, shape.class_stride).map_err(from_error)
    }

    /// # Safety
    /// The caller's promise.
    pub(crate) unsafe fn planes_mut<'a, T: Scalar>(
        &mut self,
        argument: &'static str,
        planes: xent_planes_mut,
    ) -> Outcome<PlanesMut<'a, T>> {
        dtype::check::<T>(argument, planes.dtype)?;
        let shape = PlanesShape::new(argument, &planes.into())?;
        // SAFETY: the elements are those that the caller promises.
        let data = unsafe { self.elements_mut(argument, planes.data.cast(), shape.reach)? };
        PlanesMut::with_strides(data, shape.sizes, shape.image_stride, shape.class_stride).map_err(from_error)
    }

    /// `None` where it is left out.
    ///
    /// # Safety
    /// The caller's promise.
    pub(crate) unsafe fn optional_planes_mut<'a, T: Scalar>(
        &mut self,
        argument: &'static str,
        planes: xent_planes_mut,
    ) -> Outcome<Option<PlanesMut<'a, T>>> {
        if planes.is_absent() {
            return Ok(None);
        }
        // SAFETY: the caller's promise is handed on.
        unsafe { self.planes_mut(argument, planes) }.map(Some)
    }

    /// `None` where it is left out.
    ///
    /// # Safety
    /// The caller's promise.
    pub(crate) unsafe fn optional_matrix_mut<'a, T: Scalar>(
        &mut self,
        argument: &'static str,
        matrix: xent_matrix_mut,
    ) -> Outcome<Option<MatrixMut<'a, T>>> {
        if xent_matrix::from(matrix).is_absent() {
            return Ok(None);
        }
        // SAFETY: the caller's promise is handed on.
        unsafe { self.matrix_mut(argument, matrix) }.map(Some)
    }

    /// Bytes of 0 and 1 as `bool`. `None` where they are left out.
    ///
    /// # Safety
    /// The caller's promise.
    pub(crate) unsafe fn mask<'a>(
        &mut self,
        argument: &'static str,
        array: xent_array,
    ) -> Outcome<Option<&'a [bool]>> {
        // SAFETY: the caller's promise is handed on.
        let Some(bytes) = (unsafe { self.optional_array::<u8>(argument, array)? }) else { return Ok(None) };
        if let Some((row, byte)) = bytes.iter().enumerate().find(|&(_, &byte)| byte > 1) {
            let message = format_args!("{argument} of row {row} is {byte}; it is 0 or 1");
            return Err(fail(xent_status::InvalidLossMask, message));
        }
        // SAFETY: all bytes are 0 or 1, as those of `bool` are, and nobody writes them during the call.
        Ok(Some(unsafe { slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }))
    }

    /// One number to write.
    ///
    /// # Safety
    /// The caller's promise.
    pub(crate) unsafe fn number_mut<'a>(
        &mut self,
        argument: &'static str,
        number: *mut f64,
    ) -> Outcome<&'a mut f64> {
        // SAFETY: the element is the one that the caller promises.
        let numbers = unsafe { self.elements_mut(argument, number, 1)? };
        Ok(&mut numbers[0])
    }

    /// One number to read. `None` where it is null.
    ///
    /// # Safety
    /// The caller's promise.
    pub(crate) unsafe fn optional_number(
        &mut self,
        argument: &'static str,
        number: *const f64,
    ) -> Outcome<Option<f64>> {
        if number.is_null() {
            return Ok(None);
        }
        // SAFETY: the element is the one that the caller promises.
        unsafe { self.elements(argument, number, 1) }.map(|numbers| Some(numbers[0]))
    }

    /// # Safety
    /// Where there are `len` of them, nobody writes them during the call.
    unsafe fn elements<'a, T: Scalar>(
        &mut self,
        argument: &'static str,
        data: *const T,
        len: usize,
    ) -> Outcome<&'a [T]> {
        if len == 0 {
            return Ok(&[]);
        }
        self.claim(argument, data.cast(), len, size_of::<T>(), align_of::<T>(), false)?;
        // SAFETY: not null, aligned, of at most `isize::MAX` bytes, by `claim`; the elements are there and nobody writes
        // them, by the caller; and any bits are a value of a `Scalar`. What this call writes does not overlap them, by
        // `claim` for what is written.
        Ok(unsafe { slice::from_raw_parts(data, len) })
    }

    /// # Safety
    /// Where there are `len` of them, nobody else reads or writes them during the call.
    unsafe fn elements_mut<'a, T: Scalar>(
        &mut self,
        argument: &'static str,
        data: *mut T,
        len: usize,
    ) -> Outcome<&'a mut [T]> {
        if len == 0 {
            return Ok(&mut []);
        }
        self.claim(argument, data.cast(), len, size_of::<T>(), align_of::<T>(), true)?;
        // SAFETY: as for `elements`; and no other slice of this call overlaps it, by `claim`.
        Ok(unsafe { slice::from_raw_parts_mut(data, len) })
    }

    /// Checks the pointer to `len` elements, more than 0, and that none that is written is another's.
    pub(crate) fn claim(
        &mut self,
        argument: &'static str,
        data: *const c_void,
        len: usize,
        element_size: usize,
        align: usize,
        is_written: bool,
    ) -> Outcome {
        let start = data.addr();
        if data.is_null() {
            return Err(fail(xent_status::NullPointer, format_args!("{argument} is null")));
        }
        if !start.is_multiple_of(align) {
            let message = format_args!("{argument} at {start:#x} is not aligned to {align} bytes");
            return Err(fail(xent_status::Misaligned, message));
        }
        let bytes = len.checked_mul(element_size).filter(|&bytes| isize::try_from(bytes).is_ok());
        let Some(end) = bytes.and_then(|bytes| start.checked_add(bytes)) else {
            let message = format_args!("{argument} has {len} elements, more than memory can hold");
            return Err(fail(xent_status::SizeOverflow, message));
        };
        let region = Region { argument, start, end, is_written };
        if let Some(other) = self.regions[..self.len].iter().find(|other| region.collides_with(other)) {
            let message = format_args!("{argument} overlaps {}", other.argument);
            return Err(fail(xent_status::Overlap, message));
        }
        self.regions[self.len] = region;
        self.len += 1;
        Ok(())
    }
}

impl Region {
    fn collides_with(&self, other: &Self) -> bool {
        (self.is_written || other.is_written) && self.start < other.end && other.start < self.end
    }
}

struct Shape {
    rows: usize,
    cols: usize,
    row_stride: usize,
    /// Elements from the first to the last.
    reach: usize,
}

impl Shape {
    fn new(argument: &'static str, matrix: &xent_matrix) -> Outcome<Self> {
        let rows = size(argument, matrix.rows)?;
        let cols = size(argument, matrix.cols)?;
        let row_stride = size(argument, matrix.row_stride)?;
        if row_stride < cols {
            return Err(from_error(Error::StrideTooSmall { row_stride, cols }));
        }
        // Rows of no columns have no elements, however far apart.
        let row_stride = if cols == 0 { 0 } else { row_stride };
        let reach = match rows.checked_sub(1) {
            None => Some(0),
            Some(before_last) => {
                before_last.checked_mul(row_stride).and_then(|reach| reach.checked_add(cols))
            }
        };
        let reach = reach.ok_or_else(|| from_error(Error::SizeOverflow { rows, row_stride }))?;
        Ok(Self { rows, cols, row_stride, reach })
    }
}

struct PlanesShape {
    /// Images, classes and positions.
    sizes: (usize, usize, usize),
    image_stride: usize,
    class_stride: usize,
    /// Elements from the first to the last.
    reach: usize,
}

impl PlanesShape {
    fn new(argument: &'static str, planes: &xent_planes) -> Outcome<Self> {
        let images = size(argument, planes.images)?;
        let classes = size(argument, planes.classes)?;
        let positions = size(argument, planes.positions)?;
        let image_stride = size(argument, planes.image_stride)?;
        let class_stride = size(argument, planes.class_stride)?;
        let reach = || {
            if images == 0 || classes == 0 || positions == 0 {
                return Some(0);
            }
            let of_images = (images - 1).checked_mul(image_stride)?;
            let of_classes = (classes - 1).checked_mul(class_stride)?;
            of_images.checked_add(of_classes)?.checked_add(positions)
        };
        let overflow = || from_error(Error::PlanesOverflow { images, classes, positions });
        let reach = reach().ok_or_else(overflow)?;
        Ok(Self { sizes: (images, classes, positions), image_stride, class_stride, reach })
    }
}

/// A size that is one.
pub(crate) fn size(argument: &str, size: i64) -> Outcome<usize> {
    if size < 0 {
        let message = format_args!("{argument} has the size or stride {size}, which is negative");
        return Err(fail(xent_status::NegativeSize, message));
    }
    usize::try_from(size).map_err(|_| {
        fail(xent_status::SizeOverflow, format_args!("{argument} has the size {size}, which is too large"))
    })
}
