//! From a batch to threads: rows in fixed pieces, long rows in fixed pieces of columns.
//!
//! Where the pieces end depends on the shape alone, and what they add up to is added along a fixed binary tree, so the
//! number of threads changes no bit. rayon runs the tree's branches wherever its pool has a thread free, in the
//! caller's pool.

use crate::Element;
use crate::backend::Instructions;
use crate::batch::{Backward, Batch};
use crate::kernel::number::Number;
use crate::kernel::real::Real;
use crate::kernel::statistics::{BLOCK, Statistics};
use crate::kernel::tasks::{
    AffineTask, Fence, LogProbabilitiesTask, OverlappedTask, SpreadTask, StatisticsTask,
};
use crate::kernel::transformed::{TransformedStatisticsTask, TransformedTask};
use crate::rows::{Dtype, Job, Totals, rows_per_tile};
use crate::simd::Task;
use crate::tree::Tree;

/// Elements that a thread takes at a time: some 15 us of work, several times what it costs to hand it over.
pub(crate) const PIECE: usize = 1 << 16;
const _: () = assert!(PIECE.is_multiple_of(BLOCK));

/// What a row costs besides its elements, in elements: exponential, logarithm, factors.
const ROW: usize = 32;

/// How many shares each thread's rows are cut into, where it pays to keep them together: the last to finish is at most
/// so much of its work behind.
const MOST_IMBALANCE: usize = 2;

/// Whether a call may use several threads. It never changes a bit of the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Parallelism {
    /// The calling thread alone.
    Serial,
    /// The rayon pool that the call is made in, where there is enough work for more than one thread. Without the
    /// feature `rayon`, the calling thread alone.
    ///
    /// A training loop should run in the pool as a whole, by `rayon::scope(|_| train())` or `ThreadPool::install`: to wake
    /// its threads for a call from outside takes tens of microseconds, and milliseconds where they do not get a CPU
    /// each. In pools of up to 8 threads the caller takes its part of such a call meanwhile, or all of it where that is
    /// done sooner; in larger ones, and where each row is a piece of its own (some 65,500 classes and more; 32,800 of two rows),
    /// it sleeps until the pool is done.
    #[default]
    Rayon,
}

/// How a call runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) instructions: Instructions,
    pub(crate) parallelism: Parallelism,
    /// Bytes of cache that the call's threads can count on. Asking the system allocates, so it is asked beforehand.
    pub(crate) cache_bytes: usize,
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
    pub(crate) fn run<T: Dtype>(self, job: &Job<'_>, batch: Batch<'_, T>) -> Totals {
        let classes = batch.classes();
        let pieces = |batch: Batch<'_, T>, rows_per_piece| T::run_piece(job, batch, rows_per_piece);
        let totals = self.run_pieces(batch, classes, job.streaming, &pieces, Totals::add);
        if T::PerRow::NEEDS_LOST { totals.with_lost() } else { totals }
    }

    /// Runs `pieces` on pieces of rows that have so many columns, or on several at once, and tells it how many rows one
    /// has; combines what they return along a tree.
    pub(crate) fn run_pieces<B: SplitRows, T: Send>(
        self,
        batch: B,
        columns: usize,
        streaming: bool,
        pieces: &(impl Fn(B, usize) -> T + Sync),
        combine: fn(T, T) -> T,
    ) -> T {
        // Each of the row's passes would be handed over by itself.
        #[cfg(feature = "rayon")]
        if batch.rows() == 1 && columns > PIECE && self.is_called_from_outside() {
            return rayon::scope(|_| self.run_pieces(batch, columns, streaming, pieces, combine));
        }
        let rows_per_piece = rows_per_piece(batch.rows(), columns);
        // Outputs that outgrow the caches cost least where many rows go to one thread.
        let rows_at_once =
            if streaming { batch.rows() / (MOST_IMBALANCE * self.threads()) } else { rows_per_piece };
        let pieces = |batch: B| pieces(batch, rows_per_piece);
        self.by_rows(batch, rows_per_piece, rows_at_once, &pieces, combine)
    }

    /// Whether a batch's outputs outgrow the caches: when they would push each other, or their own beginning, out of the
    /// last one. Those out of place should go past them.
    pub(crate) fn streams<T: Element>(self, batch: &Batch<'_, T>) -> bool {
        batch.bytes_with_outputs() > self.cache_bytes
    }

    /// A task over rows of so many classes that needs nothing but each row. What its pieces return is combined along a
    /// tree.
    pub(crate) fn run_rows<B: SplitRows + Task<Output: Send>>(
        self,
        batch: B,
        classes: usize,
        combine: fn(B::Output, B::Output) -> B::Output,
    ) -> B::Output {
        let rows_per_piece = rows_per_piece(batch.rows(), classes);
        let piece = |batch: B| self.instructions.run(batch);
        self.by_rows(batch, rows_per_piece, rows_per_piece, &piece, combine)
    }

    /// The upstream gradients of all rows.
    pub(crate) fn run_backward<'a, T: Element>(self, batch: Backward<'a, T>)
    where
        Backward<'a, T>: Task<Output = ()>,
    {
        let classes = batch.classes();
        self.run_rows(batch, classes, |(), ()| ());
    }

    /// The totals of all rows, with what rounding took from them where the dtype needs it.
    pub(crate) fn run_totals<T: Element, B: SplitRows + Task<Output = Totals>>(
        self,
        rows: B,
        classes: usize,
    ) -> Totals {
        let totals = self.run_rows(rows, classes, Totals::add);
        if T::PerRow::NEEDS_LOST { totals.with_lost() } else { totals }
    }

    /// Runs `piece` on pieces of the rows, or on several at once, and combines what they return along a tree.
    pub(crate) fn by_rows<B: SplitRows, T: Send>(
        self,
        batch: B,
        rows_per_piece: usize,
        rows_at_once: usize,
        piece: &(impl Fn(B) -> T + Sync),
        combine: fn(T, T) -> T,
    ) -> T {
        Tree { rows_per_piece, rows_at_once, piece, combine }.run(self, batch)
    }

    /// Whether the calling thread is none of the pool's, and there is work for the pool.
    #[cfg(feature = "rayon")]
    pub(crate) fn is_called_from_outside(self) -> bool {
        self.parallelism == Parallelism::Rayon && rayon::current_thread_index().is_none()
    }

    pub(crate) fn threads(self) -> usize {
        #[cfg(feature = "rayon")]
        if self.parallelism == Parallelism::Rayon {
            return rayon::current_num_threads();
        }
        1
    }

    pub(crate) fn join<A: Send, B: Send>(
        self,
        a: impl FnOnce() -> A + Send,
        b: impl FnOnce() -> B + Send,
    ) -> (A, B) {
        #[cfg(feature = "rayon")]
        if self.parallelism == Parallelism::Rayon {
            return rayon::join(a, b);
        }
        (a(), b())
    }

    /// The first pass over some columns, along a tree whose leaves are pieces.
    #[inline(always)]
    pub(crate) fn statistics<T: Number>(self, task: StatisticsTask<'_, T>) -> Statistics {
        if task.columns.len() <= PIECE { self.instructions.run(task) } else { self.cut_statistics(task) }
    }

    /// The second pass over some columns.
    #[inline(always)]
    pub(crate) fn affine<T: Number>(self, task: AffineTask<'_, T>) {
        if task.columns.len() <= PIECE { self.instructions.run(task) } else { self.cut_affine(task) }
    }

    /// The second pass over some columns of a row along with the first over those of another.
    pub(crate) fn overlapped(self, task: OverlappedTask<'_>) -> Statistics {
        if task.rows.len() <= PIECE { self.instructions.run(task) } else { self.cut_overlapped(task) }
    }

    pub(crate) fn log_probabilities<T: Number>(self, task: LogProbabilitiesTask<'_, T>) {
        let Some(middle) = middle(task.columns.len(), PIECE) else { return self.instructions.run(task) };
        let (first, second) = task.split_at(middle);
        self.join(|| self.log_probabilities(first), || self.log_probabilities(second));
    }

    /// What the entropy needs of some columns.
    pub(crate) fn spread<T: Number>(self, task: SpreadTask<'_, T>) -> f64 {
        let Some(middle) = middle(task.x.len(), PIECE) else { return self.instructions.run(task) };
        let (first, second) = task.split_at(middle);
        let (first, second) = self.join(|| self.spread(first), || self.spread(second));
        first + second
    }

    /// [`Schedule::statistics`] of transformed logits.
    pub(crate) fn transformed_statistics<T: Number>(
        self,
        task: TransformedStatisticsTask<'_, T>,
    ) -> Statistics {
        let Some(middle) = middle(task.x.len(), PIECE) else { return self.instructions.run(task) };
        let (first, second) = task.split_at(middle);
        let (first, second) =
            self.join(|| self.transformed_statistics(first), || self.transformed_statistics(second));
        first.merge(second)
    }

    /// An output as wide as the row, by way of transformed logits.
    pub(crate) fn transformed<F: Number, T: Number>(self, task: TransformedTask<'_, F, T>) {
        let Some(middle) = middle(task.columns.len(), PIECE) else {
            self.instructions.run(task);
            return self.instructions.run(Fence);
        };
        let (first, second) = task.split_at(middle);
        self.join(|| self.transformed(first), || self.transformed(second));
    }

    fn cut_statistics<T: Number>(self, task: StatisticsTask<'_, T>) -> Statistics {
        let Some(middle) = middle(task.columns.len(), PIECE) else { return self.instructions.run(task) };
        let (first, second) = task.split_at(middle);
        let (first, second) = self.join(|| self.cut_statistics(first), || self.cut_statistics(second));
        first.merge(second)
    }

    fn cut_affine<T: Number>(self, task: AffineTask<'_, T>) {
        let Some(middle) = middle(task.columns.len(), PIECE) else {
            self.instructions.run(task);
            // On the thread that made the stores.
            return self.instructions.run(Fence);
        };
        let (first, second) = task.split_at(middle);
        self.join(|| self.cut_affine(first), || self.cut_affine(second));
    }

    fn cut_overlapped(self, task: OverlappedTask<'_>) -> Statistics {
        let Some(middle) = middle(task.rows.len(), PIECE) else {
            let statistics = self.instructions.run(task);
            self.instructions.run(Fence);
            return statistics;
        };
        let (first, second) = task.split_at(middle);
        let (first, second) = self.join(|| self.cut_overlapped(first), || self.cut_overlapped(second));
        first.merge(second)
    }
}

/// Whole tiles of rows, as many in one piece as in the next.
fn rows_per_piece(rows: usize, classes: usize) -> usize {
    let cost = rows.saturating_mul(classes.saturating_add(ROW));
    let per_piece = rows.div_ceil(cost.div_ceil(PIECE).max(1));
    per_piece.max(1).next_multiple_of(rows_per_tile(classes))
}

/// Where to cut rows or columns in two, at a whole number of pieces; nowhere, if they are one piece.
pub(crate) fn middle(len: usize, per_piece: usize) -> Option<usize> {
    let pieces = len.div_ceil(per_piece);
    (pieces > 1).then(|| pieces / 2 * per_piece)
}
