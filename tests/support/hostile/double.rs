//! Calls on logits of `f64`.

use super::case::Case;
use super::{in_another_way, on_another_backend, planes_call};
use crate::support::double_bounds::{self, Shares};
use crate::support::double_distillation::{self, DoublePair, Expected};
use crate::support::double_shards::evaluate_shards;
use crate::support::doubles::{Doubles, evaluate};
use crate::support::other_grad::assert_rounded_once;
use crate::support::shards::Split;

/// The same as of logits of `f32`.
pub fn check(case: &Case, factor: f64) {
    let batch = batch(case, factor);
    let (ce, call) = (case.cross_entropy(), case.call());
    let found = evaluate(&call, &ce, &batch);
    found.assert_no_subnormal("hostile");
    double_bounds::check(&ce, &batch, &call, &found, false, &mut Shares::default(), "hostile");
    if let Some(grad) = case.dtype_of_gradient {
        assert_rounded_once(grad, &call, &ce, &batch, &found.grad, "hostile, gradient of another dtype");
    }
    if case.is_repeated {
        let again = evaluate(&in_another_way(case), &on_another_backend(case).cross_entropy(), &batch);
        assert!(again.bits() == found.bits(), "in another way");
    }
}

/// The same of states that are merged.
pub fn check_shards(case: &Case, split: &Split, factor: f64) {
    let batch = batch(case, factor);
    let (ce, call) = (case.cross_entropy(), case.call());
    let found = evaluate_shards(split, &call, &ce, &batch);
    found.assert_no_subnormal("hostile shards");
    double_bounds::check(&ce, &batch, &call, &found, false, &mut Shares::default(), "hostile shards");
    if case.is_repeated {
        let ce = on_another_backend(case).cross_entropy();
        let again = evaluate_shards(split, &call, &ce, &batch);
        assert!(again.bits() == found.bits(), "in another way");
    }
}

/// The same of a distillation.
pub fn check_distillation(case: &Case, temperature: f64, factor: f64) {
    let distillation = case.distillation(temperature);
    let Doubles { rows, classes, logits: student, .. } = batch(case, factor);
    let pair = DoublePair { rows, classes, student, teacher: widened(&case.teacher, factor) };
    let (call, context) = (case.call(), "hostile distillation");
    let found = double_distillation::find(&distillation, &pair, &call);
    let shares = &mut double_distillation::Shares::default();
    Expected::new(&pair, temperature).check(&distillation, &call, &found, shares, context);
    if case.is_repeated {
        let other = on_another_backend(case).distillation(temperature);
        let again = double_distillation::find(&other, &pair, &in_another_way(case));
        assert!(again.bits() == found.bits(), "in another way");
    }
}

/// The same of rows that are positions of images.
pub fn check_planes(case: &Case, images: usize, factor: f64) {
    let batch = batch(case, factor);
    let (ce, call) = (case.cross_entropy(), planes_call(case.call()));
    let found = call.evaluate_doubles(&ce, &batch, images);
    found.assert_no_subnormal("hostile planes");
    double_bounds::check(&ce, &batch, &call.inputs, &found, false, &mut Shares::default(), "hostile planes");
    if case.is_repeated {
        let (ce, call) = (on_another_backend(case).cross_entropy(), planes_call(in_another_way(case)));
        assert!(call.evaluate_doubles(&ce, &batch, images).bits() == found.bits(), "in another way");
    }
}

fn batch(case: &Case, factor: f64) -> Doubles {
    let (rows, classes) = (case.batch.rows, case.batch.classes);
    let logits = widened(&case.batch.logits, factor);
    Doubles { rows, classes, logits, targets: case.batch.targets.clone() }
}

fn widened(logits: &[f32], factor: f64) -> Vec<f64> {
    logits.iter().map(|&x| f64::from(x) * factor).collect()
}
