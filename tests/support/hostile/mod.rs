//! Calls made of arbitrary bytes, and what must hold of each. The targets of `fuzz/` and the tests of `tests/suite/hostile.rs`
//! make them from here.

pub mod api;
pub mod bytes;
pub mod case;
mod distillation;
mod double;
pub mod dtype;

use crate::support::batch::{Batch, Random};
use crate::support::bounds::{Expected, Rounding};
use crate::support::buffer::Layout;
use crate::support::evaluation::{Call, Evaluation};
use crate::support::other_grad::gradient_as;
use crate::support::planes::{PlanesCall, PlanesLayout};
use crate::support::shards::Split;
use case::{Case, Kind};
use xent::contract::transformed_logit;
use xent::{Backend, CrossEntropy, Parallelism, reference};

/// A check of one kind of calls.
pub type Check = fn(&[u8]);

/// How bytes become a case.
pub type Cases = fn(&[u8]) -> Case;

/// Every kind, with the folder of its seeds, and the cases that it makes of them.
pub const CHECKS: [(&str, Check, Option<Cases>); 4] = [
    ("calls", cross_entropy, Some(Case::new)),
    ("calls", shards, Some(Case::new)),
    ("calls", planes, Some(Case::of_planes)),
    ("api", api::api, None),
];

/// Every output of a call is within the bounds of the contract, nothing beside the outputs is written, and another
/// backend, place or layout changes no bit.
pub fn cross_entropy(bytes: &[u8]) {
    let case = Case::new(bytes);
    match case.kind {
        Kind::Loss => check_loss(&case),
        Kind::LossOfDoubles(factor) => double::check(&case, factor),
        Kind::Distillation { temperature } => distillation::check(&case, temperature),
        Kind::DistillationOfDoubles { temperature, factor } => {
            double::check_distillation(&case, temperature, factor);
        }
    }
}

fn check_loss(case: &Case) {
    let (ce, call) = (case.cross_entropy(), case.call());
    let mut found = (case.dtype.evaluate)(&call, &ce, &case.batch);
    check_bounds(case, &ce, &found, case.dtype.rounding, "hostile");
    if case.is_repeated {
        let again = (case.dtype.evaluate)(
            &in_another_way(case),
            &on_another_backend(case).cross_entropy(),
            &case.batch,
        );
        again.assert_equal(&found, "in another way");
    }
    if let Some(dtype) = case.dtype_of_gradient {
        (found.grad, _) = gradient_as((case.dtype.of_logits, dtype), &call, &ce, &case.batch, None);
        check_bounds(case, &ce, &found, dtype.rounding(), "hostile, gradient of another dtype");
    }
}

/// The same of states that are merged in any order of rows in any cuts; and in the same order, the same bits again.
pub fn shards(bytes: &[u8]) {
    let case = Case { target_probabilities: None, ..Case::new(bytes) };
    let (ce, call) = (case.cross_entropy(), case.call());
    let split = Split::random(case.batch.classes, 6, &mut Random::new(case.seed));
    if let Kind::LossOfDoubles(factor) = case.kind {
        return double::check_shards(&case, &split, factor);
    }
    let found = (case.dtype.evaluate_shards)(&split, &call, &ce, &case.batch);
    check_bounds(&case, &ce, &found, case.dtype.rounding, "hostile shards");
    if case.is_repeated {
        let again = (case.dtype.evaluate_shards)(&split, &in_another_way(&case), &ce, &case.batch);
        again.assert_equal(&found, "in another way");
    }
}

/// The same of rows that are positions of images, as many in each.
pub fn planes(bytes: &[u8]) {
    let case = Case { target_probabilities: None, ..Case::of_planes(bytes) };
    let rows = case.batch.rows;
    let images = (1..=3).rev().find(|&images| rows.is_multiple_of(images)).unwrap_or(1);
    if let Kind::LossOfDoubles(factor) = case.kind {
        return double::check_planes(&case, images, factor);
    }
    let ce = case.cross_entropy();
    let found = (case.dtype.evaluate_planes)(&planes_call(case.call()), &ce, &case.batch, images);
    check_bounds(&case, &ce, &found, case.dtype.rounding, "hostile planes");
    if case.is_repeated {
        let (ce, call) = (on_another_backend(&case).cross_entropy(), planes_call(in_another_way(&case)));
        let again = (case.dtype.evaluate_planes)(&call, &ce, &case.batch, images);
        again.assert_equal(&found, "planes in another way");
    }
}

fn planes_call(call: Call<'_>) -> PlanesCall<'_> {
    let layout = |Layout { offset, padding }| PlanesLayout {
        offset,
        class_padding: padding,
        image_padding: padding / 2,
    };
    PlanesCall {
        inputs: call,
        logits: layout(call.logits),
        outputs: layout(call.outputs),
        in_place: call.in_place,
    }
}

/// Logits that are transformed with an error above this have no bounds, which are of first order.
const LARGEST_ERROR: f64 = 1.0 / 256.0;

fn check_bounds(case: &Case, ce: &CrossEntropy, found: &Evaluation, of_gradient: Rounding, context: &str) {
    found.assert_no_subnormal(context);
    let batch = counted(ce, &case.batch);
    let error = |&x: &f64| transformed_logit(ce.logit_scale(), ce.softcap(), x);
    if reference::transformed(ce, &batch.logits).iter().all(|x| x.is_nan() || error(x) < LARGEST_ERROR) {
        let expected = Expected::of_call(ce, &batch, case.call()).rounded(case.dtype.rounding);
        expected.with_gradient_rounded(of_gradient).check(found, context);
    }
}

/// The logits as what they count: those that a scale takes beyond the largest `f32` are infinite.
fn counted(ce: &CrossEntropy, batch: &Batch) -> Batch {
    let mut batch = batch.clone();
    if ce.softcap().is_none() && ce.logit_scale() > 1.0 {
        for x in &mut batch.logits {
            let scaled = *x * ce.logit_scale() as f32;
            *x = if scaled.is_infinite() { scaled } else { *x };
        }
    }
    batch
}

/// The same on another backend that gives the same bits, if there is one, and by one thread.
fn on_another_backend(case: &Case) -> Case {
    let fused = |backend: Backend| {
        backend.is_available()
            && (backend != Backend::Portable || cfg!(any(target_feature = "fma", target_arch = "aarch64")))
    };
    let other = Backend::ALL.iter().copied().find(|&other| other != case.backend && fused(other));
    let backend = other.filter(|_| fused(case.backend)).unwrap_or(case.backend);
    Case { backend, parallelism: Parallelism::Serial, ..case.clone() }
}

fn in_another_way(case: &Case) -> Call<'_> {
    Call { logits: Layout::default(), outputs: case.logits, in_place: !case.in_place, ..case.call() }
}
