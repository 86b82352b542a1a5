//! Where a pass reads and where it writes, one type each, so that a pass that writes nothing has no trace of it.

use crate::kernel::place::{Adding, Between, InPlace, Read};
use crate::simd::{LANES, Simd};

pub(super) trait Place {
    const WRITES: bool = true;

    /// What has been written in place is no longer what was to be read.
    fn from(&self) -> &[f64];
    /// Nothing, where nothing is written.
    fn to(&mut self) -> &mut [f64];

    #[inline(always)]
    fn store<S: Simd>(s: S, y: S::F64, out: &mut [f64; LANES]) {
        s.store_f64(y, out);
    }

    /// [`Place::store`] of up to 16 lanes.
    #[inline(always)]
    fn store_partial<S: Simd>(s: S, y: S::F64, out: &mut [f64]) {
        s.store_partial_f64(y, out);
    }
}

impl Place for Read<'_, f64> {
    const WRITES: bool = false;

    #[inline(always)]
    fn from(&self) -> &[f64] {
        self.0
    }

    #[inline(always)]
    fn to(&mut self) -> &mut [f64] {
        &mut []
    }
}

impl Place for Between<'_, false, f64, f64> {
    #[inline(always)]
    fn from(&self) -> &[f64] {
        self.0
    }

    #[inline(always)]
    fn to(&mut self) -> &mut [f64] {
        self.1
    }
}

impl Place for Adding<'_, f64, f64> {
    #[inline(always)]
    fn from(&self) -> &[f64] {
        self.0
    }

    #[inline(always)]
    fn to(&mut self) -> &mut [f64] {
        self.1
    }

    #[inline(always)]
    fn store<S: Simd>(s: S, y: S::F64, out: &mut [f64; LANES]) {
        let sum = s.add_f64(s.load_f64(out), y);
        s.store_f64(s.zero_below_f64(sum, s.splat_f64(f64::MIN_POSITIVE)), out);
    }

    #[inline(always)]
    fn store_partial<S: Simd>(s: S, y: S::F64, out: &mut [f64]) {
        let sum = s.add_f64(s.load_partial_f64(out, 0.0), y);
        s.store_partial_f64(s.zero_below_f64(sum, s.splat_f64(f64::MIN_POSITIVE)), out);
    }
}

impl Place for InPlace<'_, f64> {
    #[inline(always)]
    fn from(&self) -> &[f64] {
        self.0
    }

    #[inline(always)]
    fn to(&mut self) -> &mut [f64] {
        self.0
    }
}
