//! Views of any size, and what calls make of those that take no memory.

use super::{Output, assert_ok_if, hostile_target, options};
use crate::support::hostile::bytes::Bytes;
use xent::{CrossEntropy, Error, Matrix, MatrixMut, Planes, PlanesMut, PlanesRequest};

/// Elements of the memory that views are made of.
const MEMORY: usize = 256;

/// A view of rows.
pub fn matrices(bytes: &mut Bytes<'_>) {
    let mut memory = Output::<f32>::new(MEMORY);
    let (len, rows, cols) = (bytes.below(MEMORY), bytes.size(), bytes.size());
    let stride = if bytes.one_in(2) { bytes.size() } else { cols };
    let required = (rows as u128).saturating_sub(1) * stride as u128 + cols as u128;
    let required = if rows == 0 { 0 } else { required };
    let expected = if stride < cols {
        Err(Error::StrideTooSmall { row_stride: stride, cols })
    } else if required > usize::MAX as u128 {
        Err(Error::SizeOverflow { rows, row_stride: stride })
    } else if required > len as u128 {
        Err(Error::BufferTooShort { required: required as usize, actual: len })
    } else {
        Ok(())
    };
    let matrix = Matrix::with_row_stride(&memory.0[..len], rows, cols, stride);
    assert_eq!(matrix.map(drop), expected);
    let matrix = MatrixMut::with_row_stride(&mut memory.0[..len], rows, cols, stride);
    assert_eq!(matrix.as_ref().map(drop).map_err(Clone::clone), expected);
    let Ok(mut matrix) = matrix else { return };
    for row in [0, rows / 2, rows.wrapping_sub(1), rows, usize::MAX] {
        assert_eq!(matrix.row(row).map(<[f32]>::len), (row < rows).then_some(cols));
        assert_eq!(matrix.row_mut(row).map(|row| row.len()), (row < rows).then_some(cols));
    }
    let targets: Vec<i64> = vec![0; bytes.below(9)];
    let is_valid = targets.len() == rows && (rows == 0 || cols > 0);
    assert_ok_if(is_valid, &CrossEntropy::default().loss(matrix.as_matrix(), &targets));
    let result = CrossEntropy::default().loss_and_grad_in_place(matrix.reborrow(), &targets);
    assert_ok_if(is_valid, &result);
    memory.check(&result, if rows == 0 { 0 } else { rows * cols });
}

/// A view of planes of any size.
pub fn planes(bytes: &mut Bytes<'_>) {
    let mut memory = Output::<f32>::new(MEMORY);
    let len = bytes.below(MEMORY);
    let sizes = (bytes.size(), bytes.size(), bytes.size());
    let (images, classes, positions) = sizes;
    let (image_stride, class_stride) = (bytes.size(), bytes.size());
    let wide = |x: usize| x as u128;
    let is_empty = images == 0 || classes == 0 || positions == 0;
    let extent =
        wide(classes.saturating_sub(1)).saturating_mul(wide(class_stride)).saturating_add(wide(positions));
    let all = wide(images.saturating_sub(1)).saturating_mul(wide(image_stride)).saturating_add(extent);
    // No element is at more places than there are elements.
    let places = wide(images).saturating_mul(wide(classes)).saturating_mul(wide(positions));
    let required = if is_empty { 0 } else { all.max(places) };
    let counts = wide(images).saturating_mul(wide(positions)) <= wide(usize::MAX);
    // An image alone must be countable, also where there are none.
    let extent_counts = classes == 0 || positions == 0 || extent <= wide(usize::MAX);
    let fits = counts && extent_counts && required <= wide(len);
    let view = Planes::with_strides(&memory.0[..len], sizes, image_stride, class_stride);
    assert_ok_if(fits, &view);
    if let Ok(view) = view {
        let targets = vec![0_u8; bytes.size_like((images * positions).min(MEMORY))];
        let is_valid = targets.len() == images * positions && (targets.is_empty() || classes > 0);
        assert_ok_if(is_valid, &CrossEntropy::default().loss_planes(view, &targets));
    }
    let apart = (class_stride >= positions || classes <= 1)
        && (images <= 1 || wide(image_stride) >= extent_of(sizes, class_stride));
    let view = PlanesMut::with_strides(&mut memory.0[..len], sizes, image_stride, class_stride);
    assert_ok_if(fits && apart, &view);
    if let Ok(mut view) = view {
        for (image, class) in [(0, 0), (images / 2, classes / 2), (usize::MAX, 0), (0, usize::MAX)] {
            let is_there = image < images && class < classes;
            assert_eq!(view.plane_mut(image, class).map(|plane| plane.len()), is_there.then_some(positions));
        }
    }
}

fn extent_of((_, classes, positions): (usize, usize, usize), class_stride: usize) -> u128 {
    let extent = (classes as u128).saturating_sub(1) * class_stride as u128 + positions as u128;
    if classes == 0 || positions == 0 { 0 } else { extent }
}

pub fn calls_on_planes(bytes: &mut Bytes<'_>) {
    let memory: Vec<f32> = (0..MEMORY).map(|_| bytes.number()).collect();
    let sizes = if bytes.one_in(4) {
        (bytes.size(), bytes.size(), bytes.size())
    } else {
        (bytes.below(3), bytes.below(7), bytes.below(9))
    };
    let (images, classes, positions) = sizes;
    let Ok(logits) = Planes::new(&memory, images, classes, positions) else { return };
    let rows = images * positions;
    let Some(ce) = options(bytes, classes.min(8)) else { return };
    let targets: Vec<i64> =
        (0..bytes.size_like(rows.min(64))).map(|_| hostile_target(bytes, classes)).collect();
    let mut grad = Output::<f32>::new(MEMORY);
    let mut losses = Output::<f32>::new(bytes.size_like(rows.min(64)));
    let len_of_losses = losses.0.len();
    let out = PlanesMut::new(&mut grad.0, images, classes, positions).expect("it is large enough");
    let result = ce.run_planes(logits, &targets, PlanesRequest::new().grad(out).losses(&mut losses.0));
    let is_target = |target: i64| {
        ce.ignore_indices().contains(&target) || (0..classes as i128).contains(&i128::from(target))
    };
    let is_valid = targets.len() == rows
        && len_of_losses == rows
        && (rows == 0 || classes > 0 && ce.weight().is_none_or(|weight| weight.len() == classes))
        && targets.iter().all(|&target| is_target(target));
    assert_ok_if(is_valid, &result);
    losses.check(&result, rows);
    grad.check(&result, rows * classes);
}
