//! From a batch to threads: rows in fixed pieces, long rows in fixed pieces of columns.
//!
//! Where the pieces end depends on the shape alone, and what they add up to is added along a fixed binary tree, so the
//! number of threads changes no bit. rayon runs the tree's branches wherever its pool has a thread free, in the
//! caller's pool.

use core::ops::Range;

use crate::backend::Instructions;
use crate::batch::{Backward, Batch};
use crate::kernel::map::{Affine, Columns};
use crate::kernel::row::{self, Job, Passes, Rows, Totals};
use crate::kernel::statistics::{BLOCK, Gaps, Statistics};
use crate::kernel::tasks::{FirstEqual, MapTask, StatisticsTask, WideMap};
use crate::simd::LANES;

/// Elements that a thread takes at a time: some 15 us of work, several times what it costs to hand it over.
const PIECE: usize = 1 << 16;
const _: () = assert!(PIECE.is_multiple_of(BLOCK));

/// Whether a call may use several threads. It never changes a bit of the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parallelism {
    /// The calling thread alone.
    Serial,
    /// The rayon pool that the call is made in, where there is enough work for more than one thread. Without the
    /// feature `rayon`, the calling thread alone.
    #[default]
    Rayon,
}

/// How a call runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) instructions: Instructions,
    pub(crate) parallelism: Parallelism,
    /// Bytes of cache that the call's threads can count on. Asking the system allocates, so it is asked beforehand.
    cache_bytes: usize,
}

/// Rows that can be given to two threads.
pub(crate) trait SplitRows: Send + Sized {
    fn rows(&self) -> usize;
    /// The first `rows` rows, and the others.
    fn split_at(self, rows: usize) -> (Self, Self);
}

impl Schedule {
    pub(crate) fn new(instructions: Instructions, parallelism: Parallelism) -> Self {
        Self { instructions, parallelism, cache_bytes: instructions.cache_bytes() }
    }

    /// All rows of a batch.
    pub(crate) fn run(self, job: &Job<'_>, batch: Batch<'_>) -> Totals {
        let classes = batch.classes();
        let piece = |batch: Batch<'_>| {
            if classes > PIECE {
                row::run(&mut Cut(self), job, batch)
            } else {
                self.instructions.run(Rows { job, batch })
            }
        };
        self.by_rows(batch, rows_per_piece(classes), &piece, Totals::add)
    }

    /// Whether a batch's outputs should go past the caches: when they would push each other out of the last one.
    pub(crate) fn streams(self, batch: &Batch<'_>) -> bool {
        batch.bytes_out_of_place() > self.cache_bytes
    }

    /// The upstream gradients of all rows.
    pub(crate) fn run_backward(self, batch: Backward<'_>) {
        let rows_per_piece = rows_per_piece(batch.classes());
        self.by_rows(batch, rows_per_piece, &|batch| self.instructions.run(batch), |(), ()| ());
    }

    /// Runs `piece` on pieces of the rows, and combines what they return along a tree.
    fn by_rows<B: SplitRows, T: Send>(
        self,
        batch: B,
        rows_per_piece: usize,
        piece: &(impl Fn(B) -> T + Sync),
        combine: fn(T, T) -> T,
    ) -> T {
        let pieces = batch.rows().div_ceil(rows_per_piece);
        if pieces <= 1 {
            return piece(batch);
        }
        let (first, second) = batch.split_at(pieces / 2 * rows_per_piece);
        let (first, second) = self.join(
            || self.by_rows(first, rows_per_piece, piece, combine),
            || self.by_rows(second, rows_per_piece, piece, combine),
        );
        combine(first, second)
    }

    fn join<A: Send, B: Send>(self, a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
        #[cfg(feature = "rayon")]
        if self.parallelism == Parallelism::Rayon {
            return rayon::join(a, b);
        }
        (a(), b())
    }

    /// The statistics of some columns of `x`, along a tree whose leaves are pieces.
    fn statistics(
        self,
        x: &[f32],
        columns: Range<usize>,
        pivot: Option<usize>,
        gaps: Gaps<'_>,
    ) -> Statistics {
        let Some(middle) = middle(columns.len()).map(|middle| columns.start + middle) else {
            let pivot =
                pivot.and_then(|pivot| pivot.checked_sub(columns.start)).filter(|&p| p < columns.len());
            let gaps = match gaps {
                Gaps::Weighted(weights) => Gaps::Weighted(&weights[columns.start..]),
                gaps => gaps,
            };
            return self.instructions.run(StatisticsTask { x: &x[columns], pivot, gaps });
        };
        let (first, second) = self.join(
            || self.statistics(x, columns.start..middle, pivot, gaps),
            || self.statistics(x, middle..columns.end, pivot, gaps),
        );
        first.merge(second)
    }

    fn map(self, columns: Columns<'_>, map: WideMap<'_>) {
        let Some(middle) = middle(columns.len()) else {
            return self.instructions.run(MapTask { columns, map });
        };
        let (first, second) = columns.split_at(middle);
        self.join(|| self.map(first, map), || self.map(second, map.starting_at(middle)));
    }
}

/// Whole vectors of rows, where a piece has that many.
fn rows_per_piece(classes: usize) -> usize {
    let rows = (PIECE / classes.max(1)).max(1);
    if rows > LANES { rows / LANES * LANES } else { rows }
}

/// Where to cut that many columns in two, at a whole number of pieces; nowhere, if they are one piece.
fn middle(columns: usize) -> Option<usize> {
    let pieces = columns.div_ceil(PIECE);
    (pieces > 1).then(|| pieces / 2 * PIECE)
}

/// The passes over a long row, cut into pieces.
struct Cut(Schedule);

impl Passes for Cut {
    fn statistics(&mut self, x: &[f32], pivot: Option<usize>, gaps: Gaps<'_>, _: bool) -> Statistics {
        self.0.statistics(x, 0..x.len(), pivot, gaps)
    }

    fn statistics_again(&mut self, x: &[f32], pivot: Option<usize>) -> Statistics {
        self.0.statistics(x, 0..x.len(), pivot, Gaps::None)
    }

    fn affine(&mut self, columns: Columns<'_>, max: f32, affine: Affine<'_>) {
        self.0.map(columns, WideMap::Affine { max, affine });
    }

    fn log_probabilities(&mut self, columns: Columns<'_>, max: f32, ln_sum: f32) {
        self.0.map(columns, WideMap::LogProbabilities { max, ln_sum });
    }

    fn first_equal(&mut self, x: &[f32], value: f32) -> Option<usize> {
        self.0.instructions.run(FirstEqual { x, value })
    }
}
