//! Class weights, and what the kernels need of them.

use core::fmt;

/// One weight for each class.
#[derive(Clone)]
pub(crate) struct ClassWeights {
    pub(super) weights: Vec<f32>,
    /// The weights in units of `unit`, none above 1, so that their products overflow no sooner than the other factor;
    /// and zeros behind them: kernels read whole vectors.
    pub(super) in_units: Vec<f32>,
    /// A power of two.
    pub(super) unit: f64,
    pub(super) total: f64,
    /// For each class, the sum of the others, in units.
    pub(super) of_others: Vec<f64>,
}

/// Their number alone: vocabularies are long.
impl fmt::Debug for ClassWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClassWeights").field("classes", &self.weights.len()).finish_non_exhaustive()
    }
}

impl ClassWeights {
    pub(crate) fn new(weights: Vec<f32>) -> Self {
        const PADDING: usize = 64;
        let largest = weights.iter().copied().fold(0.0, f32::max);
        let unit = if largest == 0.0 { 1.0 } else { f64::from(largest).log2().ceil().exp2() };
        let mut in_units: Vec<f32> =
            weights.iter().map(|&weight| (f64::from(weight) / unit) as f32).collect();
        let total = weights.iter().map(|&weight| f64::from(weight)).sum();
        // From both ends, because total - weight would not be 0 where it should.
        let mut of_others = vec![0.0; weights.len()];
        let (mut before, mut after) = (0.0, 0.0);
        for (of_others, weight) in of_others.iter_mut().zip(&in_units) {
            *of_others += before;
            before += f64::from(*weight);
        }
        for (of_others, weight) in of_others.iter_mut().zip(&in_units).rev() {
            *of_others += after;
            after += f64::from(*weight);
        }
        in_units.resize(weights.len() + PADDING, 0.0);
        Self { weights, in_units, unit, total, of_others }
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        &self.weights
    }
}
