//! Distillations.

use super::case::Case;
use super::{in_another_way, on_another_backend};
use crate::support::distillation::{Pair, check as check_bounds, find};
use crate::support::evaluation::assert_same_bits;

/// The same as of a loss; and on logits of 16 bits, what it is on the same numbers in `f32`.
pub fn check(case: &Case, temperature: f64) {
    let distillation = case.distillation(temperature);
    let (pair, call) = (case.pair(), case.call());
    let found = find(&distillation, &pair, &call);
    check_bounds(&distillation, &counted(case, temperature), &call, &found, "hostile distillation");
    (case.dtype.check_distillation)(&distillation, &pair, &call, &found, "hostile distillation");
    if case.is_repeated {
        let other = on_another_backend(case).distillation(temperature);
        let again = find(&other, &pair, &in_another_way(case));
        assert_eq!(again.loss.to_bits(), found.loss.to_bits(), "in another way");
        for (name, ours, theirs) in [
            ("losses", &again.losses, &found.losses),
            ("lse", &again.lse, &found.lse),
            ("grad", &again.grad, &found.grad),
        ] {
            assert_same_bits(name, 1, ours, theirs, "in another way");
        }
    }
}

/// The logits as what they count: a quotient (x - m) / T beyond the largest `f32` is that of a logit of -inf.
fn counted(case: &Case, temperature: f64) -> Pair {
    let mut pair = case.pair();
    let scale = (1.0 / temperature) as f32;
    for logits in [&mut pair.student.logits, &mut pair.teacher] {
        for x in logits.chunks_mut(case.batch.classes) {
            let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for x in x.iter_mut().filter(|x| x.is_finite()) {
                if max.is_finite() && ((*x - max) * scale).is_infinite() {
                    *x = f32::NEG_INFINITY;
                }
            }
        }
    }
    pair
}
