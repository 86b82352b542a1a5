//! What an instruction set does with 16 lanes of `f64`: two AVX-512 registers, four AVX registers, eight of SSE or NEON.

use super::{LANES, Registers};

/// The operations on `f64` that the kernels need, as those of [`Simd`](super::Simd) on `f32`.
pub(crate) trait Doubles: Registers {
    fn splat_f64(self, x: f64) -> Self::F64;
    fn load_f64(self, x: &[f64; LANES]) -> Self::F64;
    /// The first `x.len()` lanes from memory, `fill` in the others; a longer `x` counts as 16.
    fn load_partial_f64(self, x: &[f64], fill: f64) -> Self::F64;
    fn store_f64(self, v: Self::F64, out: &mut [f64; LANES]);
    /// Stores the first `out.len()` lanes; a longer `out` counts as 16.
    fn store_partial_f64(self, v: Self::F64, out: &mut [f64]);

    fn add_f64(self, a: Self::F64, b: Self::F64) -> Self::F64;
    fn sub_f64(self, a: Self::F64, b: Self::F64) -> Self::F64;
    fn mul_f64(self, a: Self::F64, b: Self::F64) -> Self::F64;
    /// `a * b + c`, rounded once where the CPU can.
    fn mul_add_f64(self, a: Self::F64, b: Self::F64, c: Self::F64) -> Self::F64;
    /// The larger lane. Where `b` is NaN, NaN; where only `a` is, either.
    fn max_f64(self, a: Self::F64, b: Self::F64) -> Self::F64;
    /// The lane's low 12 bits moved to sign and exponent: 2^n for a lane that ends in the integer n + 1023.
    fn low_bits_to_exponent_f64(self, v: Self::F64) -> Self::F64;
    /// `a * b` where `a >= least`, else +0. `b` is finite.
    fn mul_at_least_f64(self, a: Self::F64, b: Self::F64, least: Self::F64) -> Self::F64;
    /// `v`, with +0 in place of lanes whose magnitude is below `least`. NaN stays.
    fn zero_below_f64(self, v: Self::F64, least: Self::F64) -> Self::F64;
    /// Bit `i` says that lane `i` equals `x`, or that both are NaN.
    fn equal_bits_f64(self, v: Self::F64, x: f64) -> u32;

    /// `below` where the magnitude of `v` is below `least`, else `otherwise`; that too where `v` is NaN.
    #[inline(always)]
    fn select_below_f64(
        self,
        v: Self::F64,
        least: Self::F64,
        below: Self::F64,
        otherwise: Self::F64,
    ) -> Self::F64 {
        // By way of memory, where the loop becomes instructions of the set.
        let mut lanes = [[0.0; LANES]; 4];
        self.store_f64(v, &mut lanes[0]);
        self.store_f64(least, &mut lanes[1]);
        self.store_f64(below, &mut lanes[2]);
        self.store_f64(otherwise, &mut lanes[3]);
        let [v, least, below, mut selected] = lanes;
        for lane in 0..LANES {
            if v[lane].abs() < least[lane] {
                selected[lane] = below[lane];
            }
        }
        self.load_f64(&selected)
    }

    /// Lane `lane` replaced by `value`; nothing is where `lane` is 16 or more.
    #[inline(always)]
    fn with_lane_f64(self, v: Self::F64, lane: usize, value: f64) -> Self::F64 {
        if lane >= LANES {
            return v;
        }
        // One vector of a row has such a lane: by way of memory it costs little.
        let mut lanes = [0.0; LANES];
        self.store_f64(v, &mut lanes);
        lanes[lane] = value;
        self.load_f64(&lanes)
    }

    /// The largest of the lanes; unspecified when one is NaN.
    #[inline(always)]
    fn max_lane_f64(self, v: Self::F64) -> f64 {
        let mut lanes = [0.0; LANES];
        self.store_f64(v, &mut lanes);
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                let (a, b) = (lanes[lane], lanes[lane + half]);
                lanes[lane] = if a > b { a } else { b };
            }
        }
        lanes[0]
    }
}
