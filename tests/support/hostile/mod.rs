//! Calls made of arbitrary bytes, and what must hold of each. The targets of `fuzz/` and the tests of `tests/hostile.rs`
//! make them from here.

pub mod api;
pub mod bytes;
pub mod case;
pub mod dtype;

use crate::support::batch::Random;
use crate::support::bounds::Expected;
use crate::support::buffer::Layout;
use crate::support::evaluation::{Call, Evaluation};
use crate::support::shards::Split;
use case::Case;
use xent::{Backend, Parallelism};

/// A check of one kind of calls.
pub type Check = fn(&[u8]);

/// Every kind, with the folder of its seeds.
pub const CHECKS: [(&str, Check); 3] = [("calls", cross_entropy), ("calls", shards), ("api", api::api)];

/// Every output of a call is within the bounds of the contract, nothing beside the outputs is written, and another
/// backend, place or layout changes no bit.
pub fn cross_entropy(bytes: &[u8]) {
    let case = Case::new(bytes);
    let (ce, call) = (case.cross_entropy(), case.call());
    let found = (case.dtype.evaluate)(&call, &ce, &case.batch);
    Expected::of_call(&ce, &case.batch, call).rounded(case.dtype.rounding).check(&found, "hostile");
    if case.is_repeated {
        repeat(&case, &found);
    }
}

/// The same of states that are merged in any order of rows in any cuts; and in the same order, the same bits again.
pub fn shards(bytes: &[u8]) {
    let case = Case::new(bytes);
    let (ce, call) = (case.cross_entropy(), case.call());
    let split = Split::random(case.batch.classes, 6, &mut Random::new(case.seed));
    let found = (case.dtype.evaluate_shards)(&split, &call, &ce, &case.batch);
    Expected::of_call(&ce, &case.batch, call).rounded(case.dtype.rounding).check(&found, "hostile shards");
    if case.is_repeated {
        let again = (case.dtype.evaluate_shards)(&split, &in_another_way(&case), &ce, &case.batch);
        again.assert_equal(&found, "in another way");
    }
}

/// The same call on another backend, in another place.
fn repeat(case: &Case, found: &Evaluation) {
    let fused = |backend: Backend| {
        backend.is_available()
            && (backend != Backend::Portable || cfg!(any(target_feature = "fma", target_arch = "aarch64")))
    };
    let other = Backend::ALL.into_iter().find(|&other| other != case.backend && fused(other));
    let backend = other.filter(|_| fused(case.backend)).unwrap_or(case.backend);
    let other = Case { backend, parallelism: Parallelism::Serial, ..case.clone() };
    let again = (case.dtype.evaluate)(&in_another_way(case), &other.cross_entropy(), &case.batch);
    again.assert_equal(found, "in another way");
}

fn in_another_way(case: &Case) -> Call<'_> {
    Call { logits: Layout::default(), outputs: case.logits, in_place: !case.in_place, ..case.call() }
}
