//! Second order of logits of 16 bits, in memory that is watched, against what `f32` has for the same numbers.

use super::buffer::Layout;
use super::curvature::{CurvatureCall, Problem};
use super::evaluation::assert_same_bits;
use super::halves::{Half, HalfBuffer, narrow, rounded, widen};
use xent::CrossEntropy;

/// The same problem of numbers that `T` has.
fn problem_of<T: Half>(problem: &Problem) -> Problem {
    let direction = widen(&narrow::<T>(&problem.direction));
    Problem { batch: rounded::<T>(&problem.batch), direction, ..problem.clone() }
}

/// Every output, in watched memory, against what is found for `f32`.
pub fn check_halves<T: Half>(ce: &CrossEntropy, problem: &Problem, layout: Layout, context: &str) {
    let problem = problem_of::<T>(problem);
    let of_f32 = CurvatureCall::default().evaluate(ce, &problem);
    let context = format!("{}, {context}", T::NAME);
    of_f32.check(ce, &problem, &context);
    let Problem { batch, direction, .. } = &problem;
    let (rows, classes) = (batch.rows, batch.classes);
    let logits = HalfBuffer::<T>::holding(&batch.logits, rows, classes, layout);
    let mut directions = HalfBuffer::<T>::holding(direction, rows, classes, layout);
    let [mut product, mut hessian, mut gauss_newton] =
        [(); 3].map(|()| HalfBuffer::<T>::unwritten(rows, classes, layout));
    let mut derivatives = vec![f32::from_bits(0x7fc0_ca7a); rows];
    // The inputs of a request are the same for all dtypes that are computed in `f32`.
    let inputs = problem.request_of::<T>();
    let curvature = ce.curvature_with(logits.matrix(), &batch.targets, &inputs).expect("it is valid");
    const FITS: &str = "the shapes agree";
    curvature.hessian_vector_product(directions.matrix(), product.matrix_mut()).expect(FITS);
    curvature.hessian_diagonal(hessian.matrix_mut()).expect(FITS);
    curvature.gauss_newton_diagonal(gauss_newton.matrix_mut()).expect(FITS);
    let jvp = curvature.jvp_of_rows(directions.matrix(), &mut derivatives).expect(FITS);
    let alone = curvature.jvp(directions.matrix()).expect(FITS);
    assert_eq!([jvp.to_bits(), alone.to_bits()], [of_f32.jvp.to_bits(); 2], "jvp, {context}");
    curvature.hessian_vector_product_in_place(directions.matrix_mut()).expect(FITS);
    assert_same_bits("derivatives", 1, &derivatives, &of_f32.derivatives, &context);
    for (name, found, expected) in [
        ("product", &product, &of_f32.product),
        ("in place", &directions, &of_f32.product),
        ("hessian_diagonal", &hessian, &of_f32.hessian_diagonal),
        ("gauss_newton_diagonal", &gauss_newton, &of_f32.gauss_newton_diagonal),
    ] {
        let expected = widen(&narrow::<T>(expected));
        assert_same_bits(name, classes, &found.elements(name), &expected, &context);
    }
    assert_same_bits("logits", classes, &logits.elements("logits"), &batch.logits, &context);
}
