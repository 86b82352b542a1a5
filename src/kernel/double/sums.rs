//! Sums of vectors of `f64` that do not lose anything with their length.

use super::scalar::{LEAST_SPLIT, fast_two_sum};
use crate::simd::{LANES, Simd};
use crate::sum::two_sum;

/// In each lane, a sum and what rounding took from it so far ([Neumaier 1974](https://doi.org/10.1002/zamm.19740540106)
/// with the exact error of each addition, [Knuth](https://doi.org/10.1137/0712047)).
#[derive(Clone, Copy)]
pub(super) struct Sums<V> {
    sum: V,
    lost: V,
}

impl<V: Copy> Sums<V> {
    #[inline(always)]
    pub(super) fn zero<S: Simd<F64 = V>>(s: S) -> Self {
        Self { sum: s.zero_sums(), lost: s.zero_sums() }
    }

    #[inline(always)]
    pub(super) fn add<S: Simd<F64 = V>>(self, s: S, v: V) -> Self {
        let sum = s.add_f64(self.sum, v);
        let part = s.sub_f64(sum, self.sum);
        let of_sum = s.sub_f64(self.sum, s.sub_f64(sum, part));
        let of_v = s.sub_f64(v, part);
        Self { sum, lost: s.add_f64(self.lost, s.add_f64(of_sum, of_v)) }
    }

    /// Four vectors, pairwise.
    #[inline(always)]
    pub(super) fn add_four<S: Simd<F64 = V>>(self, s: S, v: [V; 4]) -> Self {
        self.add(s, s.add_f64(s.add_f64(v[0], v[1]), s.add_f64(v[2], v[3])))
    }

    /// The sum of each lane, rounded once; infinite or NaN, where it is.
    #[inline(always)]
    pub(super) fn of_lanes<S: Simd<F64 = V>>(self, s: S) -> [f64; LANES] {
        let (mut sum, mut lost) = ([0.0; LANES], [0.0; LANES]);
        s.store_f64(self.sum, &mut sum);
        s.store_f64(self.lost, &mut lost);
        for lane in 0..LANES {
            // What is lost of an infinite sum is NaN.
            sum[lane] = if sum[lane].is_finite() { sum[lane] + lost[lane] } else { sum[lane] };
        }
        sum
    }

    /// The sum of all lanes, rounded once; infinite or NaN, where a lane is.
    #[inline(always)]
    pub(super) fn total<S: Simd<F64 = V>>(self, s: S) -> f64 {
        self.total_and_lost(s).0
    }

    /// The same, and what this rounding took from it.
    #[inline(always)]
    pub(super) fn total_and_lost<S: Simd<F64 = V>>(self, s: S) -> (f64, f64) {
        let (mut sum, mut lost) = ([0.0; LANES], [0.0; LANES]);
        s.store_f64(self.sum, &mut sum);
        s.store_f64(self.lost, &mut lost);
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                let (both, lost_now) = two_sum(sum[lane], sum[lane + half]);
                sum[lane] = both;
                lost[lane] += lost[lane + half] + lost_now;
            }
        }
        // What is lost of an infinite sum is NaN.
        if !sum[0].is_finite() {
            return (sum[0], 0.0);
        }
        let (total, lost) = fast_two_sum(sum[0], lost[0]);
        // Smaller ones may have been made of subnormals.
        (total, if lost.abs() < LEAST_SPLIT { 0.0 } else { lost })
    }
}
