//! Calls on logits of `f64`.

use super::case::Case;
use super::{in_another_way, on_another_backend};
use crate::support::double_bounds::{self, Shares};
use crate::support::doubles::{Doubles, evaluate, request, widened};
use crate::support::evaluation::Call;
use xent::{CrossEntropy, Error, Matrix, MatrixMut};

/// The same as of logits of `f32`; or the error that there is no such loss, and nothing written.
pub fn check(case: &Case, factor: f64) {
    let (rows, classes) = (case.batch.rows, case.batch.classes);
    let logits = case.batch.logits.iter().map(|&x| f64::from(x) * factor).collect();
    let batch = Doubles { rows, classes, logits, targets: case.batch.targets.clone() };
    let (ce, call) = (case.cross_entropy(), case.call());
    let transforming = [("softcap", ce.softcap().is_some()), ("logit_scale", ce.logit_scale() != 1.0)];
    if let Some((option, _)) = transforming.into_iter().find(|&(_, is_set)| is_set) {
        return assert_refused(&ce, &call, &batch, option);
    }
    let found = evaluate(&call, &ce, &batch);
    found.assert_no_subnormal("hostile");
    double_bounds::check(&ce, &batch, &call, &found, false, &mut Shares::default(), "hostile");
    if case.is_repeated {
        let again = evaluate(&in_another_way(case), &on_another_backend(case).cross_entropy(), &batch);
        assert!(again.bits() == found.bits(), "in another way");
    }
}

fn assert_refused(ce: &CrossEntropy, call: &Call<'_>, batch: &Doubles, option: &'static str) {
    /// What no computation makes.
    const UNWRITTEN: f64 = -1.25e-7;
    let Doubles { rows, classes, .. } = *batch;
    let upstream = widened(call.upstream);
    let (mut grad, mut losses) = (vec![UNWRITTEN; rows * classes], vec![UNWRITTEN; rows]);
    let mut logits = batch.logits.clone();
    let request = request(call, upstream.as_deref()).losses(&mut losses);
    let found = if call.in_place {
        let logits = MatrixMut::new(&mut logits, rows, classes).expect("the shape fits");
        ce.run_in_place(logits, &batch.targets, request)
    } else {
        let grad = MatrixMut::new(&mut grad, rows, classes).expect("the shape fits");
        let logits = Matrix::new(&batch.logits, rows, classes).expect("the shape fits");
        ce.run(logits, &batch.targets, request.grad(grad))
    };
    let expected = Error::NotImplemented { option, calls: "logits of f64" };
    assert_eq!(found.map(|summary| summary.loss), Err(expected));
    assert!(grad.iter().chain(&losses).all(|x| x.to_bits() == UNWRITTEN.to_bits()), "an output was written");
    let same = |(a, b): (&f64, &f64)| a.to_bits() == b.to_bits();
    assert!(logits.iter().zip(&batch.logits).all(same), "the logits were written");
}
