//! A batch's pieces, and the tree along which what they return is combined.

use crate::parallel::{Schedule, SplitRows, middle};

/// How rows become pieces. Where they are cut depends on their number alone.
pub(crate) struct Tree<'a, T, P> {
    pub(crate) rows_per_piece: usize,
    /// So many rows, or fewer, are not cut.
    pub(crate) rows_at_once: usize,
    /// Of a piece, or of several at once.
    pub(crate) piece: &'a P,
    pub(crate) combine: fn(T, T) -> T,
}

impl<T: Send, P> Tree<'_, T, P> {
    pub(crate) fn run<B: SplitRows>(&self, schedule: Schedule, batch: B) -> T
    where
        P: Fn(B) -> T + Sync,
    {
        #[cfg(feature = "rayon")]
        if schedule.is_called_from_outside() && self.has_short_rows() {
            return from_outside::run(self, schedule, batch);
        }
        self.run_branch(schedule, batch)
    }

    fn run_branch<B: SplitRows>(&self, schedule: Schedule, batch: B) -> T
    where
        P: Fn(B) -> T + Sync,
    {
        match self.middle(batch.rows()) {
            None => (self.piece)(batch),
            Some(middle) => self.cut_branch(schedule, batch, middle),
        }
    }

    /// Not inlined: a piece needs no stack for two branches.
    #[inline(never)]
    fn cut_branch<B: SplitRows>(&self, schedule: Schedule, batch: B, middle: usize) -> T
    where
        P: Fn(B) -> T + Sync,
    {
        let (first, second) = batch.split_at(middle);
        let (first, second) =
            schedule.join(|| self.run_branch(schedule, first), || self.run_branch(schedule, second));
        (self.combine)(first, second)
    }

    fn middle(&self, rows: usize) -> Option<usize> {
        middle(rows, self.rows_per_piece).filter(|_| rows > self.rows_at_once)
    }

    /// Longer ones are cut in turn, on whatever thread they are.
    #[cfg(feature = "rayon")]
    fn has_short_rows(&self) -> bool {
        self.rows_per_piece > 1
    }
}

/// Calls from a thread outside the pool.
///
/// For such a call rayon puts the caller to sleep and wakes threads of the pool, which takes as long as several pieces do.
/// So the caller begins at once, on the first of a few shares of the rows; threads that have woken take others, until none
/// is left.
#[cfg(feature = "rayon")]
mod from_outside {
    use core::array;
    use core::hint::spin_loop;
    use core::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::Tree;
    use crate::parallel::{Parallelism, Schedule, SplitRows};

    /// Shares that the rows are cut into, at most: a power of 2.
    const MOST_SHARES: usize = 32;

    /// With more threads in the pool, all of them would wait too long for the last share.
    const MOST_THREADS: usize = MOST_SHARES / 4;

    /// Fewer pieces are done before a thread has woken.
    const LEAST_PIECES: usize = 4;

    /// How long the caller waits awake for the others' last shares: some 100 us, which is what it takes to wake it.
    const SPINS: usize = 1 << 12;

    /// What is left of the rows, and how many shares have been taken from it.
    struct Rest<B> {
        taken: usize,
        rows: Option<B>,
    }

    pub(super) fn run<B: SplitRows, T: Send, P: Fn(B) -> T + Sync>(
        tree: &Tree<'_, T, P>,
        schedule: Schedule,
        batch: B,
    ) -> T {
        let rows = batch.rows();
        let alone = Schedule { parallelism: Parallelism::Serial, ..schedule };
        if rows.div_ceil(tree.rows_per_piece) < LEAST_PIECES {
            return tree.run_branch(alone, batch);
        }
        if schedule.threads() > MOST_THREADS {
            return tree.run_branch(schedule, batch);
        }
        run_shares(tree, schedule, batch)
    }

    /// Not inlined: few pieces need no stack for shares.
    #[inline(never)]
    fn run_shares<B: SplitRows, T: Send, P: Fn(B) -> T + Sync>(
        tree: &Tree<'_, T, P>,
        schedule: Schedule,
        batch: B,
    ) -> T {
        let (rows, alone) = (batch.rows(), Schedule { parallelism: Parallelism::Serial, ..schedule });
        let mut rows_of_shares = [0; MOST_SHARES];
        let shares = cut(tree, rows, &mut rows_of_shares);
        let rest = Mutex::new(Rest { taken: 0, rows: Some(batch) });
        let returned: [_; MOST_SHARES] = array::from_fn(|_| Mutex::new(None));
        let busy = AtomicUsize::new(0);
        // A function, so that nothing is locked while a share is computed.
        let next = || lock(&rest).take(&rows_of_shares[..shares]);
        let take_shares = || {
            while let Some((share, rows)) = next() {
                let result = tree.run_branch(alone, rows);
                *lock(&returned[share]) = Some(result);
            }
        };
        rayon::in_place_scope(|scope| {
            for _ in 1..schedule.threads().min(shares) {
                scope.spawn(|_| {
                    busy.fetch_add(1, Ordering::Relaxed);
                    take_shares();
                    busy.fetch_sub(1, Ordering::Relaxed);
                });
            }
            take_shares();
            for _ in 0..SPINS {
                if busy.load(Ordering::Relaxed) == 0 {
                    break;
                }
                spin_loop();
            }
        });
        let mut returned = returned.iter().filter_map(|returned| lock(returned).take());
        combine(tree, rows, MOST_SHARES, &mut returned)
    }

    impl<B: SplitRows> Rest<B> {
        /// The next share, and which one it is.
        fn take(&mut self, rows_of_shares: &[usize]) -> Option<(usize, B)> {
            let share = self.taken;
            let (rows, rest) = self.rows.take()?.split_at(*rows_of_shares.get(share)?);
            self.taken += 1;
            self.rows = Some(rest);
            Some((share, rows))
        }
    }

    /// How many rows each share has, where the tree is cut from its root on; and how many shares there are.
    fn cut<T: Send, P>(tree: &Tree<'_, T, P>, rows: usize, rows_of_shares: &mut [usize]) -> usize {
        let most = rows_of_shares.len();
        let Some(middle) = tree.middle(rows).filter(|_| most > 1) else {
            rows_of_shares[0] = rows;
            return 1;
        };
        let first = cut(tree, middle, &mut rows_of_shares[..most / 2]);
        first + cut(tree, rows - middle, &mut rows_of_shares[first..first + most / 2])
    }

    /// What the shares returned, combined as they were cut.
    fn combine<T: Send, P>(
        tree: &Tree<'_, T, P>,
        rows: usize,
        most: usize,
        returned: &mut impl Iterator<Item = T>,
    ) -> T {
        let Some(middle) = tree.middle(rows).filter(|_| most > 1) else {
            return returned.next().unwrap_or_else(|| unreachable!("every share has been taken"));
        };
        let first = combine(tree, middle, most / 2, returned);
        let second = combine(tree, rows - middle, most / 2, returned);
        (tree.combine)(first, second)
    }

    /// What a thread that panicked has held is as it was; and the panic goes on to the caller.
    fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
        shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
