//! What an instruction set does between memory and 16 lanes of `f32`.

use super::{LANES, Registers};

/// Loads and stores of whole vectors, of parts of them, past the caches, and of columns of rows.
pub(crate) trait Memory: Registers {
    fn load(self, x: &[f32; LANES]) -> Self::F32;
    /// The first `x.len()` lanes from memory, `fill` in the others; a longer `x` counts as 16.
    fn load_partial(self, x: &[f32], fill: f32) -> Self::F32;
    fn store(self, v: Self::F32, out: &mut [f32; LANES]);
    /// Stores the first `out.len()` lanes; a longer `out` counts as 16.
    fn store_partial(self, v: Self::F32, out: &mut [f32]);
    /// Stores past the caches where the instruction set can and `out` is aligned to 64 bytes, else as [`Memory::store`].
    /// [`Memory::fence`] must follow the last one before another thread may read.
    fn stream(self, v: Self::F32, out: &mut [f32; LANES]);
    /// Starts to bring a cache line into the first-level cache. `line` may point anywhere.
    fn prefetch<T>(self, line: *const T);
    /// The same into the second-level cache.
    fn prefetch_to_second_level<T>(self, line: *const T);
    /// Makes earlier [`Memory::stream`]s visible before later stores.
    fn fence(self);

    /// Columns `column..column + 4` of 16 rows that start `row_stride` apart: one vector for each column, one lane for
    /// each row.
    fn load_columns(self, rows: &[f32], row_stride: usize, column: usize) -> [Self::F32; 4];
    /// The reverse of [`Memory::load_columns`].
    fn store_columns(self, columns: [Self::F32; 4], rows: &mut [f32], row_stride: usize, column: usize);
}

/// Whether columns `column..column + 4` of 16 rows are within `len` elements.
#[cfg(xent_runtime_dispatch)]
#[inline(always)]
pub(super) fn holds_columns(len: usize, row_stride: usize, column: usize) -> bool {
    let last = row_stride.checked_mul(LANES - 1).and_then(|start| start.checked_add(column)?.checked_add(4));
    last.is_some_and(|end| end <= len)
}
