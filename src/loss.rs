//! The one place for variants of the loss: from a row's statistics and the options to a few scalars.
//!
//! The kernels never learn which options were set. They deliver [`Statistics`] that leave the target out, and they
//! take an [`Affine`] function and one value for the target.

use crate::kernel::exp::LEAST;
use crate::kernel::map::{Affine, Shift};
use crate::kernel::scalar::{exp, log1p, to_f32};
use crate::kernel::statistics::{Gaps, Statistics};

/// How the losses of the rows become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum, divided by the sum of the class weights of the targets that count: without weights, by their number.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

/// What was chosen when the loss was built.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) weight: Option<ClassWeights>,
    pub(crate) ignore_index: Option<i64>,
    pub(crate) label_smoothing: f64,
    pub(crate) reduction: Reduction,
}

/// One weight for each class.
#[derive(Clone, Debug)]
pub(crate) struct ClassWeights {
    /// The weights, and zeros behind them: kernels read whole vectors.
    padded: Vec<f32>,
    classes: usize,
    total: f64,
}

/// What is left of a row when the kernels need it no more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) class: usize,
    pub(crate) logit: f32,
}

/// A row's softmax, in the terms of the essay in `kernel`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax {
    statistics: Statistics,
    target: Option<Target>,
    /// The largest logit, the target's included.
    pub(crate) max: f32,
    /// ln of the sum relative to `max`.
    pub(crate) ln_sum: f64,
    /// exp(x - statistics.max) times this is a probability.
    scale: f64,
    target_probability: f64,
    /// 1 - target_probability, without cancellation.
    others_probability: f64,
    /// max - the target's logit.
    target_gap: f64,
}

impl ClassWeights {
    pub(crate) fn new(mut weights: Vec<f32>) -> Self {
        const PADDING: usize = 64;
        let classes = weights.len();
        let total = weights.iter().map(|&weight| f64::from(weight)).sum();
        weights.resize(classes + PADDING, 0.0);
        Self { padded: weights, classes, total }
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        &self.padded[..self.classes]
    }
}

impl Options {
    /// The class weight of a target.
    pub(crate) fn weight_of(&self, class: usize) -> f64 {
        self.weight.as_ref().map_or(1.0, |weight| f64::from(weight.padded[class]))
    }

    /// The sum of all class weights.
    fn total_weight(&self, classes: usize) -> f64 {
        self.weight.as_ref().map_or(classes as f64, |weight| weight.total)
    }

    /// The gaps that the loss needs of each row.
    pub(crate) fn gaps(&self) -> Gaps<'_> {
        match &self.weight {
            _ if self.label_smoothing == 0.0 => Gaps::None,
            None => Gaps::Equal,
            Some(weight) => Gaps::Weighted(&weight.padded),
        }
    }

    /// The weights of a row's two terms, (1 - eps) w_y and eps / C.
    fn term_weights(&self, class: usize, classes: usize) -> (f64, f64) {
        let hard = (1.0 - self.label_smoothing) * self.weight_of(class);
        (hard, self.label_smoothing / classes as f64)
    }

    /// The loss of a row, before any reduction:
    /// (1 - eps) w_y (-ln p_y) + (eps / C) sum_c w_c (-ln p_c).
    #[inline(always)]
    pub(crate) fn row_loss(&self, softmax: &Softmax, target: Target, classes: usize) -> f64 {
        let nll = softmax.target_gap + softmax.ln_sum;
        if self.label_smoothing == 0.0 {
            return if self.weight.is_none() { nll } else { weighted(self.weight_of(target.class), nll) };
        }
        let (hard, smooth) = self.term_weights(target.class, classes);
        // -ln p_c = (max - x_c) + ln_sum, and the statistics have the gaps below their own maximum.
        let statistics = &softmax.statistics;
        let raise = f64::from(softmax.max) - f64::from(statistics.max);
        let gaps = statistics.gap
            + weighted(statistics.weight, raise)
            + weighted(self.weight_of(target.class), softmax.target_gap);
        let spread = gaps + self.total_weight(classes) * softmax.ln_sum;
        if nll.is_nan() { nll } else { weighted(hard, nll) + weighted(smooth, spread) }
    }

    /// The gradient of a row's loss times `factor`: away from the target as a function of the logits, and at the target
    /// as a number. factor [(1 - eps) w_y (p_i - [i = y]) + (eps / C) (W p_i - w_i)].
    #[inline(always)]
    pub(crate) fn gradient(
        &self,
        softmax: &Softmax,
        target: Target,
        classes: usize,
        factor: f64,
    ) -> (Affine<'_>, f32) {
        let (p, q) = (softmax.target_probability, softmax.others_probability);
        let (hard, smooth) = self.term_weights(target.class, classes);
        if smooth == 0.0 {
            return (softmax.affine(hard * factor, Shift::None), to_f32(-q * hard * factor));
        }
        let total = self.total_weight(classes);
        let own = self.weight_of(target.class);
        let shift = match &self.weight {
            None => Shift::Equal((smooth * factor) as f32),
            Some(weight) => Shift::Weighted { weights: &weight.padded, scale: (smooth * factor) as f32 },
        };
        let at_target = smooth * ((total - own) * p - own * q) - hard * q;
        (softmax.affine((hard + smooth * total) * factor, shift), to_f32(at_target * factor))
    }
}

impl Softmax {
    /// From the statistics of all columns but the target; of all columns, where there is none.
    #[inline(always)]
    pub(crate) fn new(statistics: Statistics, target: Option<Target>) -> Self {
        let Statistics { max: others_max, sum, .. } = statistics;
        let Some(target) = target else {
            let scale = if sum == 0.0 { f64::NAN } else { 1.0 / sum };
            return Self {
                statistics,
                target: None,
                max: others_max,
                ln_sum: if sum == 0.0 { f64::NAN } else { log1p(sum - 1.0) },
                scale,
                target_probability: 0.0,
                others_probability: 1.0,
                target_gap: 0.0,
            };
        };
        let target_leads = target.logit >= others_max;
        let (max, min) = if target_leads { (target.logit, others_max) } else { (others_max, target.logit) };
        let e = exp(f64::from(min) - f64::from(max));
        let (others, own) = if target_leads { (sum * e, 1.0) } else { (sum, e) };
        let y = if target_leads { others } else { (sum - 1.0) + e };
        let reciprocal = 1.0 / (1.0 + y);
        Self {
            statistics,
            target: Some(target),
            max,
            ln_sum: log1p(y),
            scale: if target_leads { e * reciprocal } else { reciprocal },
            target_probability: own * reciprocal,
            others_probability: others * reciprocal,
            target_gap: f64::from(max) - f64::from(target.logit),
        }
    }

    /// Whether the row has a NaN, +inf, or nothing but -inf.
    #[inline(always)]
    pub(crate) fn is_nan(&self) -> bool {
        (self.target_gap + self.ln_sum).is_nan()
    }

    /// ln of the sum of exp(x).
    pub(crate) fn lse(&self) -> f64 {
        f64::from(self.max) + self.ln_sum
    }

    /// -ln p of the target, where there is one.
    pub(crate) fn target_log_probability(&self) -> f64 {
        -(self.target_gap + self.ln_sum)
    }

    pub(crate) fn target_probability(&self) -> f32 {
        to_f32(self.target_probability)
    }

    /// Whether the small sum next to the largest term may have been lost to the rounding of that term: the largest
    /// logit is not the target, and the rest is little beside it.
    pub(crate) fn has_dominant_other(&self) -> bool {
        self.ln_sum < 1.0 && self.target.is_none_or(|target| target.logit < self.statistics.max)
    }

    /// The probabilities away from the target.
    pub(crate) fn probabilities(&self) -> Affine<'static> {
        self.affine(1.0, Shift::None)
    }

    /// The largest logit away from the target, which the exponentials are relative to.
    pub(crate) fn others_max(&self) -> f32 {
        self.statistics.max
    }

    #[inline(always)]
    fn affine<'a>(&self, coefficient: f64, shift: Shift<'a>) -> Affine<'a> {
        let scale = to_f32(coefficient * self.scale);
        // The least exponential whose product with the scale is a normal number. The factor keeps it one after rounding.
        let least =
            (f64::from(f32::MIN_POSITIVE) / f64::from(scale.abs()) * (1.0 + 1.0 / 4_194_304.0)) as f32;
        let least = if scale == 0.0 { f32::NAN } else { least.max(LEAST) };
        Affine { scale, least, shift }
    }
}

/// A term of weight 0 is 0, also where its value is infinite.
fn weighted(weight: f64, term: f64) -> f64 {
    if weight == 0.0 && !term.is_nan() { 0.0 } else { weight * term }
}
