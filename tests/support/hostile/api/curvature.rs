//! Second derivatives along directions of any shape.

use super::{Output, assert_ok_if, hostile_target, number_bytes, options};
use crate::support::hostile::bytes::Bytes;
use bytemuck::Pod;
use xent::{Element, Matrix};

/// On logits of any dtype; add a dtype here.
pub fn calls(bytes: &mut Bytes<'_>) {
    match bytes.below(4) {
        #[cfg(feature = "half")]
        1 => calls_of_dtype::<half::bf16>(bytes),
        #[cfg(feature = "half")]
        2 => calls_of_dtype::<half::f16>(bytes),
        3 => calls_of_dtype::<f64>(bytes),
        _ => calls_of_dtype::<f32>(bytes),
    }
}

fn calls_of_dtype<E: Element<PerRow: Pod> + Pod>(bytes: &mut Bytes<'_>) {
    let (rows, classes) = (bytes.below(5), bytes.below(18));
    let Some(ce) = options(bytes, classes) else { return };
    let targets: Vec<i64> = (0..bytes.size_like(rows)).map(|_| hostile_target(bytes, classes)).collect();
    let logits: Vec<E> = number_bytes(bytes, rows * classes);
    let logits = Matrix::new(&logits, rows, classes).expect("it is large enough");
    let curvature = ce.curvature(logits, &targets);
    let is_target =
        |&target: &i64| ce.ignore_indices().contains(&target) || (0..classes as i64).contains(&target);
    let is_valid = targets.len() == rows
        && (rows == 0 || classes > 0 && ce.weight().is_none_or(|weight| weight.len() == classes))
        && targets.iter().all(is_target);
    assert_ok_if(is_valid, &curvature);
    let Ok(curvature) = curvature else { return };

    let [of_direction, of_out] = [(); 2].map(|()| (bytes.size_like(rows), bytes.size_like(classes)));
    let direction: Vec<E> = number_bytes(bytes, of_direction.0 * of_direction.1);
    let direction = Matrix::new(&direction, of_direction.0, of_direction.1).expect("it is large enough");
    let kind = bytes.below(5);
    let mut out = Output::<E>::new(of_out.0 * of_out.1);
    let mut derivatives = Output::<E::PerRow>::new(bytes.size_like(rows));
    let len = derivatives.0.len();
    let result = match kind {
        0 => curvature.hessian_vector_product(direction, out.matrix(of_out)),
        1 => curvature.hessian_diagonal(out.matrix(of_out)),
        2 => curvature.gauss_newton_diagonal(out.matrix(of_out)),
        3 => curvature.jvp_of_rows(direction, &mut derivatives.0).map(drop),
        _ => curvature.jvp(direction).map(drop),
    };
    let (takes_direction, is_wide) = (matches!(kind, 0 | 3 | 4), kind < 3);
    let fits = (!takes_direction || of_direction == (rows, classes))
        && (!is_wide || of_out == (rows, classes))
        && (kind != 3 || len == rows);
    assert_ok_if(fits, &result);
    if is_wide || result.is_err() {
        out.check(&result, rows * classes);
    }
    if kind == 3 || result.is_err() {
        derivatives.check(&result, rows);
    }
}
