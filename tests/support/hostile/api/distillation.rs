//! Distillations with a teacher of any shape, and requests of anything.

use super::calls::{Arguments, Outputs, assert_unchanged};
use super::{assert_ok_if, hostile_f64, number_bytes};
use crate::support::hostile::bytes::Bytes;
use bytemuck::Pod;
use xent::{Distillation, Element, Matrix, MatrixMut, Reduction};

pub fn calls<E: Element<PerRow: Pod> + Pod>(bytes: &mut Bytes<'_>) {
    let arguments = Arguments::<E>::new(bytes);
    let Arguments { rows, classes, in_place, .. } = arguments;
    let mut builder = Distillation::builder();
    if bytes.one_in(2) {
        builder = builder.reduction(Reduction::Sum);
    }
    let temperature = if bytes.one_in(4) { hostile_f64(bytes) } else { 2.0 };
    let distillation = builder.temperature(temperature).build();
    assert_ok_if((1e-37..=1e37).contains(&temperature), &distillation);
    let Ok(distillation) = distillation else { return };

    let shape = (bytes.size_like(rows), bytes.size_like(classes));
    let teacher: Vec<E> = number_bytes(bytes, shape.0 * shape.1);
    let teacher = Matrix::new(&teacher, shape.0, shape.1).expect("it is large enough");
    let logits: Vec<E> = number_bytes(bytes, rows * classes);
    let mut outputs = Outputs::new(&arguments);
    let request = outputs.request(&arguments);
    let mut replaced = logits.clone();
    let result = if in_place {
        let student = MatrixMut::new(&mut replaced, rows, classes).expect("it is large enough");
        distillation.run_in_place(student, teacher, request)
    } else {
        let student = Matrix::new(&logits, rows, classes).expect("it is large enough");
        distillation.run(student, teacher, request)
    };
    let is_valid = shape == (rows, classes) && arguments.are_valid() && arguments.is_of_distillation();
    assert_ok_if(is_valid, &result);
    outputs.check(&arguments, &result);
    if result.is_err() || !in_place {
        assert_unchanged(&logits, &replaced);
    }
}
