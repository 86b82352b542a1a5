//! Class weights, and what the kernels need of them.

use core::fmt;

use crate::kernel::scalar::to_f32;
use crate::sum::Sum;

/// One weight for each class.
#[derive(Clone)]
pub(crate) struct ClassWeights {
    pub(super) weights: Vec<f32>,
    /// The weights in units of `unit`, none above 1, so that their products overflow no sooner than the other factor,
    /// and 0 where that is no normal number; and zeros behind them: kernels read whole vectors.
    pub(super) in_units: Vec<f32>,
    /// A power of two.
    pub(super) unit: f64,
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
        let mut in_units: Vec<f32> = weights.iter().map(|&weight| to_f32(f64::from(weight) / unit)).collect();
        // From both ends: the weight of one class may be as good as all, and what the others add would be lost in a sum
        // with it.
        let mut of_others = vec![0.0; weights.len()];
        let (mut before, mut after) = (Sum::default(), Sum::default());
        for (of_others, weight) in of_others.iter_mut().zip(&in_units) {
            *of_others += before.total();
            before = before.add(f64::from(*weight));
        }
        for (of_others, weight) in of_others.iter_mut().zip(&in_units).rev() {
            *of_others += after.total();
            after = after.add(f64::from(*weight));
        }
        in_units.resize(weights.len() + PADDING, 0.0);
        Self { weights, in_units, unit, of_others }
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        &self.weights
    }
}
