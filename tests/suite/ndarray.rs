//! Arrays of `ndarray` as matrices: the same memory, the same results, and an error where a matrix cannot say what the
//! array is.

use ndarray::{Array2, ArrayView2, Axis, ShapeBuilder, arr2, s};
use xent::{CrossEntropy, Error, Matrix, MatrixMut};

/// rows x cols numbers that differ.
fn numbers(rows: usize, cols: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, cols), |(row, col)| ((row * 31 + col * 7) % 23) as f32 * 0.3 - 2.0)
}

fn strides<T>(array: &Array2<T>) -> (isize, isize) {
    (array.strides()[0], array.strides()[1])
}

#[test]
fn a_matrix_is_the_array_s_own_memory() {
    let mut array = numbers(5, 7);
    let start = array.as_ptr();
    let matrix = Matrix::try_from(array.view()).expect("rows are contiguous");
    assert_eq!((matrix.rows(), matrix.cols(), matrix.row_stride()), (5, 7, 7));
    assert_eq!(matrix.row(0).map(<[f32]>::as_ptr), Some(start));
    assert_eq!(matrix.row(4), array.row(4).as_slice());

    let expected = array.row(3).to_vec();
    let mut matrix = MatrixMut::try_from(&mut array).expect("rows are contiguous");
    assert_eq!(matrix.row(3), Some(&expected[..]));
    matrix.row_mut(3).expect("there are 5 rows")[2] = 99.0;
    assert_eq!(array[[3, 2]], 99.0);
}

#[test]
fn loss_and_gradient_of_columns_are_those_of_a_copy_and_the_other_columns_stay() {
    const COLUMNS: core::ops::Range<usize> = 2..9;
    let targets = [0_u8, 3, 6, 1, 2, 5];
    let wide = numbers(6, 12);
    let copy = wide.slice(s![.., COLUMNS]).to_owned();
    let ce = CrossEntropy::builder().label_smoothing(0.1).build().expect("the option is valid");
    let mut expected = Array2::zeros(copy.dim());
    let expected_loss = ce
        .loss_and_grad(
            Matrix::try_from(&copy).expect("rows are contiguous"),
            &targets,
            MatrixMut::try_from(&mut expected).expect("rows are contiguous"),
        )
        .expect("the call is valid");

    let mut grad = Array2::from_elem((6, 9), -7.0);
    let logits = Matrix::from_columns(wide.view(), COLUMNS).expect("the columns are there");
    let to = MatrixMut::from_columns(grad.view_mut(), 1..8).expect("the columns are there");
    assert_eq!((logits.row_stride(), to.row_stride()), (12, 9));
    let loss = ce.loss_and_grad(logits, &targets, to).expect("the call is valid");
    assert_eq!(loss.to_bits(), expected_loss.to_bits());
    assert_eq!(grad.slice(s![.., 1..8]), expected);
    assert!(grad.column(0).iter().chain(&grad.column(8)).all(|&value| value == -7.0));

    // In place, the columns to both sides stay.
    let mut overwritten = wide.clone();
    let to = MatrixMut::from_columns(overwritten.view_mut(), COLUMNS).expect("the columns are there");
    ce.loss_and_grad_in_place(to, &targets).expect("the call is valid");
    assert_eq!(overwritten.slice(s![.., COLUMNS]), expected);
    for column in (0..12).filter(|column| !COLUMNS.contains(column)) {
        assert_eq!(overwritten.column(column), wide.column(column));
    }
}

#[test]
fn arrays_whose_rows_are_not_contiguous_are_refused_with_their_strides() {
    let refused = |array: ArrayView2<'_, f32>, shape, strides| {
        let expected = Error::NotContiguous { shape, strides };
        assert_eq!(Matrix::try_from(array).expect_err("it is not contiguous"), expected);
        assert_eq!(Matrix::from_columns(array, 0..1).expect_err("it is not contiguous"), expected);
        let mut copy = Array2::<f32>::zeros((40, 40));
        // Some columns of a wider array, to write.
        let mut to = copy.view_mut();
        to.slice_collapse(s![..shape.0, ..shape.1]);
        assert!(matches!(MatrixMut::try_from(to), Err(Error::NotContiguous { .. })));
    };
    let array = numbers(4, 6);
    refused(array.t(), (6, 4), (1, 6));
    refused(array.slice(s![.., 1..5]), (4, 4), (6, 1));
    refused(array.slice(s![..;2, ..]), (2, 6), (12, 1));
    refused(array.slice(s![.., ..;2]), (4, 3), (6, 2));
    refused(array.slice(s![..;-1, ..]), (4, 6), (-6, 1));
    refused(array.slice(s![.., ..;-1]), (4, 6), (6, -1));
    refused(array.row(1).broadcast((3, 6)).expect("a row is repeated"), (3, 6), (0, 1));
    let columns_first = Array2::<f32>::zeros((4, 6).f());
    refused(columns_first.view(), (4, 6), (1, 4));
    assert_eq!(strides(&columns_first), (1, 4));
}

#[test]
fn strides_that_no_element_is_reached_by_do_not_matter() {
    let array = numbers(4, 6);
    // One row of several columns; one row and one column; no rows; no columns.
    for view in [
        array.slice(s![2..3, 1..4]),
        array.slice(s![2..3, 1..2]),
        array.slice(s![0..0, 1..4]),
        array.slice(s![0..1;2, 3..6]),
    ] {
        let matrix = Matrix::try_from(view).expect("its rows are contiguous");
        assert_eq!((matrix.rows(), matrix.cols()), view.dim());
        assert_eq!(matrix.row(0), view.axis_iter(Axis(0)).next().and_then(|row| row.to_slice()));
    }
    let empty = Array2::<f32>::zeros((3, 0));
    assert_eq!(Matrix::try_from(&empty).map(|matrix| matrix.rows()), Ok(3));
    assert_eq!(Matrix::from_columns(Array2::<f32>::zeros((0, 5)).view(), 2..4).map(|m| m.cols()), Ok(2));
}

#[test]
fn columns_past_the_array_are_refused() {
    let mut array = arr2(&[[1.0, 2.0], [3.0, 4.0]]);
    let refused = |columns: core::ops::Range<usize>, array: &mut Array2<f32>| {
        let (first_column, cols) = (columns.start, columns.len());
        let expected = Error::ColumnsOutOfRange { first_column, cols, classes: 2 };
        assert_eq!(Matrix::from_columns(array.view(), columns.clone()).map(drop), Err(expected.clone()));
        assert_eq!(MatrixMut::from_columns(array.view_mut(), columns).map(drop), Err(expected));
    };
    refused(0..3, &mut array);
    refused(2..3, &mut array);
    refused(3..3, &mut array);
    #[expect(clippy::reversed_empty_ranges, reason = "which is empty, but starts nowhere")]
    refused(3..0, &mut array);
    assert_eq!(Matrix::from_columns(array.view(), 2..2).map(|matrix| matrix.cols()), Ok(0));
}
