//! Single passes as tasks of their own: for pieces of long rows, and for what a row rarely needs.

use super::map::{self, Affine, Columns};
use super::statistics::{self, Gaps, Statistics};
use crate::simd::{LANES, Simd, Task};

/// The statistics of some columns.
pub(crate) struct StatisticsTask<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) pivot: Option<usize>,
    pub(crate) gaps: Gaps<'a>,
}

/// What is done to some columns.
#[derive(Clone, Copy)]
pub(crate) enum WideMap<'a> {
    Affine { max: f32, affine: Affine<'a> },
    LogProbabilities { max: f32, ln_sum: f32 },
}

/// A map, applied.
pub(crate) struct MapTask<'a> {
    pub(crate) columns: Columns<'a>,
    pub(crate) map: WideMap<'a>,
}

/// The first index that holds `value`; the first NaN, for NaN.
pub(crate) struct FirstEqual<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) value: f32,
}

impl WideMap<'_> {
    /// The same map of the columns from `column` on.
    pub(crate) fn starting_at(self, column: usize) -> Self {
        match self {
            Self::Affine { max, affine } => Self::Affine { max, affine: affine.starting_at(column) },
            map => map,
        }
    }
}

impl Task for StatisticsTask<'_> {
    type Output = Statistics;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Statistics {
        statistics::statistics(simd, self.x, self.pivot, self.gaps, None)
    }
}

impl Task for MapTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.map {
            WideMap::Affine { max, affine } => map::affine_of_logits(simd, self.columns, max, affine),
            WideMap::LogProbabilities { max, ln_sum } => {
                map::log_probabilities(simd, self.columns, max, ln_sum);
            }
        }
    }
}

impl Task for FirstEqual<'_> {
    type Output = Option<usize>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Option<usize> {
        let (vectors, rest) = self.x.as_chunks::<LANES>();
        for (index, x) in vectors.iter().enumerate() {
            let equal = s.equal_bits(s.load(x), self.value);
            if equal != 0 {
                return Some(index * LANES + equal.trailing_zeros() as usize);
            }
        }
        let equal = s.equal_bits(s.load_partial(rest, 0.0), self.value) & ((1 << rest.len()) - 1);
        (equal != 0).then(|| vectors.len() * LANES + equal.trailing_zeros() as usize)
    }
}
