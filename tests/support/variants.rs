//! Losses and dtypes by name: what tests go through that want all of them.

use super::batch::Batch;
use super::bounds::Rounding;
use super::evaluation::{Call, Evaluation};
#[cfg(feature = "half")]
use super::halves::{self, Half};
use xent::{CrossEntropy, CrossEntropyBuilder, Reduction, Smoothing};

/// Options of the loss, for some number of classes.
#[derive(Clone, Copy)]
pub struct Variant {
    pub name: &'static str,
    pub with: fn(CrossEntropyBuilder, usize) -> CrossEntropyBuilder,
}

/// Add an option here.
pub const VARIANTS: [Variant; 14] = [
    Variant { name: "plain", with: |builder, _| builder },
    Variant { name: "sum", with: |builder, _| builder.reduction(Reduction::Sum) },
    Variant { name: "weight", with: |builder, classes| builder.weight(weights(classes)) },
    Variant { name: "smoothing", with: |builder, _| builder.label_smoothing(0.1) },
    Variant { name: "smoothing alone", with: |builder, _| builder.label_smoothing(1.0) },
    Variant {
        name: "smoothing, weight",
        with: |builder, classes| builder.label_smoothing(0.3).weight(weights(classes)),
    },
    Variant {
        name: "smoothing of others",
        with: |builder, _| builder.label_smoothing(0.1).smoothing(Smoothing::OtherClasses),
    },
    Variant {
        name: "smoothing of live classes",
        with: |builder, _| builder.label_smoothing(0.1).smoothing(Smoothing::LiveClasses),
    },
    Variant {
        name: "smoothing of live classes, weight",
        with: |builder, classes| {
            builder.label_smoothing(0.4).smoothing(Smoothing::LiveClasses).weight(weights(classes))
        },
    },
    Variant { name: "focal 0.5", with: |builder, _| builder.focal_gamma(0.5) },
    Variant { name: "focal 2", with: |builder, _| builder.focal_gamma(2.0) },
    Variant { name: "z-loss", with: |builder, _| builder.z_loss(0.01) },
    Variant {
        name: "focal, smoothing, weight",
        with: |builder, classes| builder.focal_gamma(2.0).label_smoothing(0.1).weight(weights(classes)),
    },
    Variant {
        name: "all at once",
        with: |builder, classes| {
            builder.focal_gamma(1.5).label_smoothing(0.2).z_loss(1e-3).weight(weights(classes))
        },
    },
];

/// Some of them 0, but not the first.
fn weights(classes: usize) -> Vec<f32> {
    (0..classes).map(|class| if class % 7 == 3 { 0.0 } else { 0.25 + (class % 5) as f32 }).collect()
}

/// A type of logits.
#[derive(Clone, Copy)]
pub struct Dtype {
    pub name: &'static str,
    /// The batch with logits that this type has.
    pub rounded: fn(&Batch) -> Batch,
    /// Every output of a call on logits of this type.
    pub evaluate: fn(&Call<'_>, &CrossEntropy, &Batch) -> Evaluation,
    /// Of outputs as wide as the logits.
    pub rounding: Rounding,
}

/// Add a type here.
pub const DTYPES: &[Dtype] = &[
    Dtype {
        name: "f32",
        rounded: Batch::clone,
        evaluate: |call, ce, batch| call.evaluate(ce, batch),
        rounding: Rounding::F32,
    },
    #[cfg(feature = "half")]
    Dtype {
        name: "bf16",
        rounded: halves::rounded::<half::bf16>,
        evaluate: halves::evaluate::<half::bf16>,
        rounding: half::bf16::ROUNDING,
    },
    #[cfg(feature = "half")]
    Dtype {
        name: "f16",
        rounded: halves::rounded::<half::f16>,
        evaluate: halves::evaluate::<half::f16>,
        rounding: half::f16::ROUNDING,
    },
];

/// The variant of this name.
pub fn variant(name: &str) -> Variant {
    *VARIANTS.iter().find(|variant| variant.name == name).expect("there is such a variant")
}

/// The dtype of this name.
pub fn dtype(name: &str) -> Dtype {
    *DTYPES.iter().find(|dtype| dtype.name == name).expect("there is such a dtype")
}
