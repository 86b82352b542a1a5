//! How logits come from memory while the exponentials of others are taken.
//!
//! Left to itself, a CPU does one after the other: it sees a few hundred instructions ahead, which is less than memory
//! takes to answer, and the hardware's own prefetchers stop at the end of a page and have to find out anew where to go.
//! So each step of the sum asks for as many lines as it uses up, of columns to come; and it asks for those of four pages in
//! turn, so that each page's first access, which takes longest, is far from the others', and four of those prefetchers are
//! at work.
//!
//! ```text
//! a sheaf:  page 0   0  4  8 ..      the order in which its lines are fetched,
//!           page 1   1  5  9 ..      while those of an earlier sheaf are used from the first to the last
//!           page 2   2  6 10 ..
//!           page 3   3  7 11 ..
//! ```

use super::groups::GROUP;
use super::place::Place;
use crate::simd::Simd;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Bytes of a page, of the smallest kind.
const PAGE: usize = 4096;

/// Whose lines are fetched in turn.
const PAGES: usize = 4;

/// Their bytes, on a boundary of as many.
const SHEAF: usize = PAGES * PAGE;

/// What is fetched ahead of columns: the sheaf after theirs, or one further on.
#[derive(Clone, Copy)]
pub(super) struct Fetch {
    /// How many numbers there are from the first column on, those of later rows included. To fetch what is not readable
    /// costs more than it gains: there may be no memory.
    readable: usize,
    /// The next sheaf goes to the first-level cache; or else the one after it to the second-level cache.
    is_near: bool,
}

impl Fetch {
    /// For columns whose maximum is searched all at once, with no arithmetic to fill the time.
    pub(super) fn near(readable: usize) -> Self {
        Self { readable, is_near: true }
    }

    /// For columns that are searched along with the sum of the block before.
    pub(super) fn far(readable: usize) -> Self {
        Self { readable, is_near: false }
    }

    /// As many lines as a pair of groups has, ahead of the one at `at`.
    #[inline(always)]
    pub(super) fn pair<S: Simd, P: Place>(self, s: S, place: &P, at: usize) {
        let x = place.from().as_ptr();
        let pair = 2 * GROUP * size_of::<P::From>();
        let in_turn = |address: usize| address / SHEAF * SHEAF + address % SHEAF / pair * pair / PAGES;
        let ahead = if self.is_near { SHEAF } else { 2 * SHEAF };
        let lines = x.wrapping_add(at).map_addr(in_turn).wrapping_byte_add(ahead);
        if lines.addr().wrapping_add(SHEAF) > x.wrapping_add(self.readable).addr() {
            return;
        }
        for line in 0..pair / LINE {
            let line = lines.wrapping_byte_add(line % PAGES * PAGE + line / PAGES * LINE);
            if self.is_near { s.prefetch(line) } else { s.prefetch_to_second_level(line) }
        }
    }
}
