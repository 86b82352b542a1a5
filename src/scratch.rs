//! Rows whose numbers are not those that the kernels take: `f32` in their place, in memory of the passes' own that stays in
//! the first-level cache.

use crate::rows::TILE;
use crate::simd::LANES;

/// A tile of rows of one block.
#[repr(align(64))]
pub(crate) struct Scratch(pub(crate) [f32; TILE]);

impl Scratch {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self([0.0; TILE])
    }

    /// From row to row: whole vectors, where there is room for that.
    pub(crate) fn row_stride(classes: usize, count: usize) -> usize {
        let whole = classes.next_multiple_of(LANES);
        if count * whole <= TILE { whole } else { classes }
    }
}
