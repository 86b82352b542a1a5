//! Memory of the caller's as it comes in.

use core::ffi::c_void;

/// A row-major matrix that is only read: `rows` rows of `cols` neighbouring elements each, the rows `row_stride`
/// elements apart. What lies between one row's last column and the next row's first is not read. By `xent_matrix_of`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_matrix {
    /// The first element. It may be null where there are no elements.
    pub data: *const c_void,
    /// The number of rows.
    pub rows: i64,
    /// The number of columns.
    pub cols: i64,
    /// Elements (not bytes) from the start of one row to the start of the next: `cols`, or more.
    pub row_stride: i64,
    /// An `xent_dtype`.
    pub dtype: u32,
}

/// A row-major matrix that is written; otherwise as `xent_matrix`. What lies between its rows is not written, but no
/// other thread may write it during the call. By `xent_matrix_mut_of`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_matrix_mut {
    /// The first element. It may be null where there are no elements.
    pub data: *mut c_void,
    /// The number of rows.
    pub rows: i64,
    /// The number of columns.
    pub cols: i64,
    /// Elements (not bytes) from the start of one row to the start of the next: `cols`, or more.
    pub row_stride: i64,
    /// An `xent_dtype`.
    pub dtype: u32,
}

/// Logits of shape (N, C, d1, d2, ...) that are only read: images, each of one plane for each class, each of
/// d1 d2 ... neighbouring positions. Element (n, c, p) is at `n * image_stride + c * class_stride + p`. By
/// `xent_planes_of`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_planes {
    /// The first element. It may be null where there are no elements.
    pub data: *const c_void,
    /// The number of images, N.
    pub images: i64,
    /// The number of classes, C.
    pub classes: i64,
    /// The number of positions, d1 d2 ...
    pub positions: i64,
    /// Elements (not bytes) from the start of one image to the start of the next.
    pub image_stride: i64,
    /// Elements from the start of one plane to the start of the next.
    pub class_stride: i64,
    /// An `xent_dtype`, as that of a matrix of logits.
    pub dtype: u32,
}

/// Planes that are written; otherwise as `xent_planes`. Images follow each other in memory, and so do an image's planes.
/// By `xent_planes_mut_of`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_planes_mut {
    /// The first element. It may be null where there are no elements.
    pub data: *mut c_void,
    /// The number of images, N.
    pub images: i64,
    /// The number of classes, C.
    pub classes: i64,
    /// The number of positions, d1 d2 ...
    pub positions: i64,
    /// Elements (not bytes) from the start of one image to the start of the next: those of its planes, or more.
    pub image_stride: i64,
    /// Elements from the start of one plane to the start of the next: `positions`, or more.
    pub class_stride: i64,
    /// An `xent_dtype`, as that of a matrix of logits.
    pub dtype: u32,
}

/// Neighbouring elements that are only read. By `xent_array_of`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_array {
    /// The first element. It may be null where there are no elements.
    pub data: *const c_void,
    /// The number of elements.
    pub len: i64,
    /// An `xent_dtype`.
    pub dtype: u32,
}

/// Neighbouring elements that are written. By `xent_array_mut_of`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_array_mut {
    /// The first element. It may be null where there are no elements.
    pub data: *mut c_void,
    /// The number of elements.
    pub len: i64,
    /// An `xent_dtype`.
    pub dtype: u32,
}

impl xent_matrix {
    /// Where it is left out of a struct.
    pub(crate) fn is_absent(&self) -> bool {
        self.data.is_null() && self.rows == 0 && self.cols == 0
    }
}

impl xent_planes_mut {
    /// Where it is left out of a struct.
    pub(crate) fn is_absent(&self) -> bool {
        self.data.is_null() && self.images == 0 && self.classes == 0 && self.positions == 0
    }
}

impl xent_array {
    /// Where it is left out of a struct.
    pub(crate) fn is_absent(&self) -> bool {
        self.data.is_null() && self.len == 0
    }
}

impl From<xent_matrix_mut> for xent_matrix {
    fn from(matrix: xent_matrix_mut) -> Self {
        let xent_matrix_mut { data, rows, cols, row_stride, dtype } = matrix;
        Self { data, rows, cols, row_stride, dtype }
    }
}

impl From<xent_planes_mut> for xent_planes {
    fn from(planes: xent_planes_mut) -> Self {
        let xent_planes_mut { data, images, classes, positions, image_stride, class_stride, dtype } = planes;
        Self { data, images, classes, positions, image_stride, class_stride, dtype }
    }
}

impl From<xent_array_mut> for xent_array {
    fn from(array: xent_array_mut) -> Self {
        let xent_array_mut { data, len, dtype } = array;
        Self { data, len, dtype }
    }
}

/// Where logits are, and whether the gradient replaces them.
#[derive(Clone, Copy)]
pub(crate) enum Logits<R = xent_matrix, W = xent_matrix_mut> {
    Keep(R),
    Overwrite(W),
}
