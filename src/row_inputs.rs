//! What the rows of a call bring along besides logits and targets, and how their losses are scaled.

use core::ops::Range;

use crate::Error;
use crate::kernel::lanes::{NO_CLASS, RowLanes};
use crate::kernel::real::Real;

/// The inputs of a [`Request`](crate::Request), each of them optional.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RowInputs<'a, R = f32> {
    /// Which rows count.
    pub(crate) loss_mask: Option<&'a [bool]>,
    pub(crate) row_weights: Option<&'a [f32]>,
    pub(crate) upstream: Option<&'a [R]>,
    pub(crate) upstream_scalar: Option<f64>,
    pub(crate) denominator: Option<f64>,
}

impl<R: Real> RowInputs<'_, R> {
    pub(crate) fn check(&self, rows: usize) -> Result<(), Error> {
        let lengths = [
            ("loss_mask", self.loss_mask.map(<[bool]>::len)),
            ("row_weights", self.row_weights.map(<[f32]>::len)),
            ("upstream", self.upstream.map(<[R]>::len)),
        ];
        for (argument, len) in lengths {
            if let Some(actual) = len.filter(|&len| len != rows) {
                return Err(Error::LengthMismatch { argument, expected: rows, actual });
            }
        }
        let invalid = |weight: f32| !(weight >= 0.0 && weight.is_finite());
        if let Some(row_weights) = self.row_weights
            && let Some((row, &weight)) = row_weights.iter().enumerate().find(|&(_, &weight)| invalid(weight))
        {
            return Err(Error::InvalidRowWeight { row, weight });
        }
        if let Some(upstream_scalar) = self.upstream_scalar.filter(|upstream| !upstream.is_finite()) {
            return Err(Error::InvalidUpstreamScalar { upstream_scalar });
        }
        match self.denominator {
            Some(denominator) if !(denominator > 0.0 && denominator.is_finite()) => {
                Err(Error::InvalidDenominator { denominator })
            }
            _ => Ok(()),
        }
    }

    /// Those of the first `rows` rows, and of the others.
    pub(crate) fn split_at(self, rows: usize) -> (Self, Self) {
        let (loss_mask, loss_mask_rest) = self.loss_mask.map(|mask| mask.split_at(rows)).unzip();
        let (row_weights, row_weights_rest) = self.row_weights.map(|weights| weights.split_at(rows)).unzip();
        let (upstream, upstream_rest) = self.upstream.map(|upstream| upstream.split_at(rows)).unzip();
        (
            Self { loss_mask, row_weights, upstream, ..self },
            Self {
                loss_mask: loss_mask_rest,
                row_weights: row_weights_rest,
                upstream: upstream_rest,
                ..self
            },
        )
    }

    /// The gradient takes another factor: the part of the chain rule that is the same for all logits.
    pub(crate) fn multiply_upstream(&mut self, factor: f64) {
        if factor != 1.0 {
            self.upstream_scalar = Some(product(self.upstream_scalar.unwrap_or(1.0), factor));
        }
    }

    /// Whether a row may count.
    pub(crate) fn may_count(&self, row: usize) -> bool {
        self.loss_mask.is_none_or(|mask| mask[row])
    }

    pub(crate) fn row_weight(&self, row: usize) -> f64 {
        self.row_weights.map_or(1.0, |weights| f64::from(weights[row]))
    }

    /// What the gradient of a row's loss is multiplied by, if it is `of_reduction` where rows bring no upstream gradients.
    #[inline(always)]
    pub(crate) fn factor(&self, row: usize, of_reduction: f64) -> f64 {
        let scalar = self.upstream_scalar.unwrap_or(1.0);
        let upstream = self.upstream.map_or(of_reduction, |upstream| product(upstream[row].into(), scalar));
        product(upstream, self.row_weight(row))
    }

    /// Takes the class from the rows of a tile that the mask leaves out.
    pub(crate) fn mask(&self, tile: Range<usize>, classes: &mut [usize]) {
        let Some(mask) = self.loss_mask else { return };
        for (class, &may_count) in classes.iter_mut().zip(&mask[tile]) {
            *class = if may_count { *class } else { NO_CLASS };
        }
    }

    /// What scales the losses and the gradients of the rows of a tile.
    pub(crate) fn look_up(&self, tile: Range<usize>, lanes: &mut RowLanes<R>) {
        if let Some(upstream) = self.upstream {
            let scalar = self.upstream_scalar.unwrap_or(1.0);
            for (lane, &upstream) in upstream[tile.clone()].iter().enumerate() {
                lanes.factor[lane] = product(upstream.into(), scalar);
                lanes.z_factor[lane] = lanes.factor[lane];
            }
        }
        lanes.has_row_weights = self.row_weights.is_some();
        if let Some(row_weights) = self.row_weights {
            for (lane, &weight) in row_weights[tile].iter().enumerate() {
                let weight = f64::from(weight);
                lanes.row_weight[lane] = weight;
                lanes.factor[lane] = product(lanes.factor[lane], weight);
                lanes.z_factor[lane] = product(lanes.z_factor[lane], weight);
            }
        }
    }
}

/// Of two factors of a gradient. That of finite ones is finite: next to an infinite one, a gradient of 0 would be NaN.
#[inline(always)]
pub(crate) fn product(a: f64, b: f64) -> f64 {
    let product = a * b;
    if product.is_infinite() && a.is_finite() && b.is_finite() { f64::MAX.copysign(product) } else { product }
}
