//! The one place for variants of the loss: from a row's statistics and the options to a few scalars.
//!
//! Kernels of the two passes learn no more of the options than what to sum up. They deliver
//! [`Statistics`](crate::kernel::statistics::Statistics) that leave the target out, and they take an affine function and
//! one value for the target.

mod focal;
mod smoothing;
mod softmax;
mod term_lanes;
mod transform;
mod weights;

pub use smoothing::Smoothing;
pub(crate) use softmax::Softmax;
pub(crate) use term_lanes::TermLanes;
pub(crate) use transform::{Transform, is_factor};
pub(crate) use weights::ClassWeights;

use crate::kernel::affine::Shift;
use crate::kernel::gaps::{Distribution, Gaps, Weighing};
use crate::kernel::real::Real;

pub(crate) mod curvature;

/// How the losses of the rows become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum, divided by the sum of the class weights of the targets that count, each times its row's weight: without
    /// weights, by their number. Where targets are no classes, the sum of the rows' weights alone divides.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

/// What the mean over no rows is, or over rows that all have weight 0. Where smoothing leaves such rows a loss, the mean is
/// infinite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmptyMean {
    /// NaN, as PyTorch has it: 0 / 0.
    #[default]
    Nan,
    /// 0, so that a batch of padding alone does not spoil what losses add up to.
    Zero,
}

/// What was chosen when the loss was built.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) weight: Option<ClassWeights>,
    /// Targets of rows that do not count.
    pub(crate) ignore_indices: Vec<i64>,
    pub(crate) label_smoothing: f64,
    pub(crate) smoothing: Smoothing,
    pub(crate) z_loss: f64,
    pub(crate) focal_gamma: f64,
    pub(crate) logit_scale: f64,
    pub(crate) softcap: Option<f64>,
    pub(crate) reduction: Reduction,
    pub(crate) empty_mean: EmptyMean,
}

/// The options' share in the loss, for some number of classes: (1 - eps), eps / C, W and z of
/// (1 - eps) w_y (-ln p_y) + (eps / C) sum_c w_c (-ln p_c) + z lse^2, where W = sum_c w_c.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    hard: f64,
    /// eps / C; of other classes only eps / (C - 1), of live ones eps, to be divided by their number in each row.
    smooth: f64,
    smoothing: Smoothing,
    z: f64,
    focal_gamma: f64,
    /// What the statistics count weights in.
    unit: f64,
    /// Whether there is a softcap.
    has_slopes: bool,
}

/// An output as wide as the row: `scale` exp(x - others_max) away from the target, minus `shift` times the class's
/// weight; and the target's own value.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Coefficients {
    pub(crate) scale: f64,
    pub(crate) shift: f64,
    pub(crate) at_target: f64,
}

/// What the gradient of a row's loss is made of: `hard` of the target's term, `each` of all that smoothing spreads over, of
/// which the target weighs `own` and the others `others`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    pub(crate) hard: f64,
    pub(crate) each: f64,
    pub(crate) own: f64,
    pub(crate) others: f64,
}

impl Default for Options {
    fn default() -> Self {
        /// PyTorch's.
        const DEFAULT_IGNORE_INDEX: i64 = -100;
        Self { ignore_indices: vec![DEFAULT_IGNORE_INDEX], reduction: Reduction::default(), ..Self::NONE }
    }
}

impl Options {
    /// The sum of plain losses; nothing is ignored.
    pub(crate) const NONE: Self = Self {
        weight: None,
        ignore_indices: Vec::new(),
        label_smoothing: 0.0,
        smoothing: Smoothing::AllClasses,
        z_loss: 0.0,
        focal_gamma: 0.0,
        logit_scale: 1.0,
        softcap: None,
        reduction: Reduction::Sum,
        empty_mean: EmptyMean::Nan,
    };

    /// The class weight of a target.
    #[inline(always)]
    pub(crate) fn weight_of(&self, class: usize) -> f64 {
        self.weight.as_ref().map_or(1.0, |weight| f64::from(weight.weights[class]))
    }

    /// The sum of the class weights of all classes but this one, in the unit of the statistics.
    #[inline(always)]
    pub(crate) fn weight_of_others(&self, class: usize, classes: usize) -> f64 {
        self.weight.as_ref().map_or(classes.saturating_sub(1) as f64, |weight| weight.of_others[class])
    }

    pub(crate) fn terms(&self, classes: usize) -> Terms {
        let smooth = match self.smoothing {
            Smoothing::AllClasses => self.label_smoothing / classes as f64,
            Smoothing::OtherClasses if classes < 2 => 0.0,
            Smoothing::OtherClasses => self.label_smoothing / (classes - 1) as f64,
            Smoothing::LiveClasses => self.label_smoothing,
        };
        Terms {
            hard: 1.0 - self.label_smoothing,
            smooth,
            smoothing: if smooth == 0.0 { Smoothing::AllClasses } else { self.smoothing },
            z: self.z_loss,
            focal_gamma: self.focal_gamma,
            unit: self.weight.as_ref().map_or(1.0, |weight| weight.unit),
            has_slopes: self.softcap.is_some(),
        }
    }

    /// The same where targets are probabilities: sum_c v_c (-ln p_c) + z lse^2 with
    /// v_c = w_c ((1 - eps) q_c + eps / C), which are the weights of each row's statistics.
    pub(crate) fn terms_of_distributions(&self, classes: usize) -> Terms {
        Terms {
            hard: 0.0,
            smooth: 1.0,
            smoothing: Smoothing::AllClasses,
            focal_gamma: 0.0,
            ..self.terms(classes)
        }
    }

    /// The weights v of a row whose targets are these probabilities.
    #[inline(always)]
    pub(crate) fn distribution<'a, L: Real>(&'a self, probabilities: &'a [L]) -> Distribution<'a, L> {
        self.weighing(probabilities.len()).of(probabilities)
    }

    /// The same for all rows.
    #[inline(always)]
    pub(crate) fn weighing(&self, classes: usize) -> Weighing<'_> {
        Weighing {
            weights: self.weight.as_ref().map(|weight| &weight.in_units[..]),
            keep: 1.0 - self.label_smoothing,
            spread: self.label_smoothing / classes as f64,
        }
    }

    /// The gaps that the loss needs of each row.
    #[inline(always)]
    pub(crate) fn gaps<L>(&self) -> Gaps<'_, L> {
        let is_live = self.smoothing == Smoothing::LiveClasses;
        match &self.weight {
            _ if self.label_smoothing == 0.0 => Gaps::None,
            None if is_live => Gaps::LiveEqual,
            None => Gaps::Equal,
            Some(weight) if is_live => Gaps::LiveWeighted(&weight.in_units),
            Some(weight) => Gaps::Weighted(&weight.in_units),
        }
    }

    /// What a gradient subtracts, where the coefficients have this shift.
    #[inline(always)]
    pub(crate) fn shift(&self, shift: f32) -> Shift<'_> {
        Shift::new(self.gaps(), shift)
    }
}

impl Terms {
    #[inline(always)]
    pub(crate) fn is_smooth(&self) -> bool {
        self.smooth != 0.0
    }

    /// Whether they differ between rows, and [`TermLanes`] has them.
    #[inline(always)]
    pub(crate) fn differ_by_row(&self) -> bool {
        self.smoothing != Smoothing::AllClasses || self.has_focal()
    }

    /// Whether gradients are multiplied by derivatives of the logits, which may be 0.
    #[inline(always)]
    pub(crate) fn has_slopes(&self) -> bool {
        self.has_slopes
    }

    /// What the statistics count weights in.
    #[inline(always)]
    pub(crate) fn unit(&self) -> f64 {
        self.unit
    }

    /// The loss of a row whose target has class weight `own`, before any reduction, without label smoothing.
    #[inline(always)]
    pub(crate) fn hard_loss<L: Real>(&self, softmax: &Softmax<L>, own: f64) -> f64 {
        weighted(self.hard * own, softmax.nll())
    }

    /// The same with label smoothing.
    #[inline(always)]
    pub(crate) fn smooth_loss<L: Real>(&self, softmax: &Softmax<L>, own: f64) -> f64 {
        let spread = self.spread(softmax, own);
        let loss = self.hard_loss(softmax, own) + weighted(self.smooth, spread);
        let nll = softmax.nll();
        if nll.is_nan() { nll } else { loss }
    }

    /// What the classes weigh that the statistics have gaps of: all but the target, or some of these.
    #[inline(always)]
    fn others<L: Real>(&self, softmax: &Softmax<L>) -> f64 {
        self.unit * softmax.statistics.weight
    }

    /// sum_c w_c (-ln p_c) over these classes and the target, which weighs `own`.
    #[inline(always)]
    fn spread<L: Real>(&self, softmax: &Softmax<L>, own: f64) -> f64 {
        // -ln p_c = (max - x_c) + ln_sum, and the statistics have the gaps below their own maximum.
        let statistics = &softmax.statistics;
        let raise = softmax.max.into() - statistics.max.into();
        let gaps = self.unit * (statistics.gap + weighted(statistics.weight, raise))
            + weighted(own, softmax.target_gap);
        gaps + (self.others(softmax) + own) * softmax.ln_sum
    }

    #[inline(always)]
    pub(crate) fn has_z_loss(&self) -> bool {
        self.z != 0.0
    }

    /// z lse^2, which comes on top of the loss.
    #[inline(always)]
    pub(crate) fn z_loss<L: Real>(&self, softmax: &Softmax<L>) -> f64 {
        let lse = softmax.lse();
        self.z * (lse * lse)
    }

    /// 2 z lse, times `z_factor`.
    #[inline(always)]
    fn z_slope<L: Real>(&self, softmax: &Softmax<L>, z_factor: f64) -> f64 {
        2.0 * self.z * softmax.lse() * z_factor
    }

    /// The shares of a row whose target weighs `own`, all other classes `others`.
    #[inline(always)]
    pub(crate) fn shares(&self, own: f64, others: f64) -> Shares {
        Shares { hard: self.hard * own, each: self.smooth, own, others }
    }

    /// The gradient of a row's loss times `factor`, factor [hard (p_i - [i = y]) + each (W p_i - w_i)] with W = own + others,
    /// and that of its z-loss times `z_factor`, z_factor 2 z lse p_i.
    #[inline(always)]
    pub(crate) fn gradient<L: Real>(
        &self,
        softmax: &Softmax<L>,
        Shares { hard, each, own, others }: Shares,
        factor: f64,
        z_factor: f64,
    ) -> Coefficients {
        let (p, q) = (softmax.target_probability, softmax.others_probability);
        // W p - w_y, without cancellation.
        let spread = each * (others * p - own * q);
        let z_slope = self.z_slope(softmax, z_factor);
        let coefficient = (hard + each * (others + own)) * factor + z_slope;
        Coefficients {
            scale: coefficient * softmax.scale,
            shift: each * self.unit * factor,
            at_target: (spread - hard * q) * factor + z_slope * p,
        }
    }
}

/// A term of weight 0 is 0, also where its value is infinite.
#[inline(always)]
pub(crate) fn weighted(weight: f64, term: f64) -> f64 {
    let product = weight * term;
    if weight == 0.0 && !term.is_nan() { 0.0 } else { product }
}
