//! The dtypes of logits, for cases that choose among them.

use crate::support::batch::Batch;
use crate::support::bounds::Rounding;
#[cfg(feature = "half")]
use crate::support::distillation::check_halves;
use crate::support::distillation::{Found, Pair};
use crate::support::evaluation::{Call, Evaluation};
#[cfg(feature = "half")]
use crate::support::halves::{self, Half};
use crate::support::other_grad;
#[cfg(feature = "half")]
use crate::support::planes::Planar;
use crate::support::planes::PlanesCall;
use crate::support::shards::Split;
use core::fmt;
use xent::{CrossEntropy, Distillation};

/// A dtype: what calls on its logits give.
#[derive(Clone, Copy)]
pub struct Dtype {
    pub name: &'static str,
    /// Of outputs as wide as the logits.
    pub rounding: Rounding,
    /// As logits whose gradient may have another.
    pub of_logits: other_grad::Dtype,
    /// The batch with logits that this type has.
    pub rounded: fn(Batch) -> Batch,
    pub evaluate: fn(&Call<'_>, &CrossEntropy, &Batch) -> Evaluation,
    pub evaluate_shards: fn(&Split, &Call<'_>, &CrossEntropy, &Batch) -> Evaluation,
    /// The rows as positions of so many images.
    pub evaluate_planes: fn(&PlanesCall<'_>, &CrossEntropy, &Batch, usize) -> Evaluation,
    /// Against what it is on logits of `f32`.
    pub check_distillation: fn(&Distillation, &Pair, &Call<'_>, &Found, &str),
}

/// Add a dtype here.
pub const DTYPES: &[Dtype] = &[
    Dtype::F32,
    #[cfg(feature = "half")]
    Dtype::of_half::<half::bf16>(),
    #[cfg(feature = "half")]
    Dtype::of_half::<half::f16>(),
];

impl Dtype {
    const F32: Self = Self {
        name: "f32",
        rounding: Rounding::F32,
        of_logits: other_grad::Dtype::F32,
        rounded: |batch| batch,
        evaluate: |call, ce, batch| call.evaluate(ce, batch),
        evaluate_shards: |split, call, ce, batch| split.evaluate_call(call, ce, batch),
        evaluate_planes: |call, ce, batch, images| call.evaluate(ce, batch, images),
        check_distillation: |_, _, _, _, _| {},
    };

    #[cfg(feature = "half")]
    const fn of_half<T: Half + Planar>() -> Self {
        Self {
            name: T::NAME,
            rounding: T::ROUNDING,
            of_logits: T::OF_LOGITS,
            rounded: |batch| halves::rounded::<T>(&batch),
            evaluate: halves::evaluate::<T>,
            evaluate_shards: halves::evaluate_shards::<T>,
            evaluate_planes: |call, ce, batch, images| call.evaluate_as::<T>(ce, batch, images),
            check_distillation: check_halves::<T>,
        }
    }
}

impl fmt::Debug for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
