//! The system's allocator, and a count of large pieces. Tests include it by its path: an allocator belongs to a program.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Pieces of at least so many bytes are large.
static LEAST: AtomicUsize = AtomicUsize::new(usize::MAX);
static LARGE: AtomicUsize = AtomicUsize::new(0);

/// How many pieces of at least `bytes` a call allocates. Calls must take turns.
pub fn allocations_of<T>(bytes: usize, call: impl FnOnce() -> T) -> (usize, T) {
    LEAST.store(bytes, Ordering::SeqCst);
    let before = LARGE.load(Ordering::SeqCst);
    let value = call();
    (LARGE.load(Ordering::SeqCst) - before, value)
}

fn count(layout: Layout) {
    if layout.size() >= LEAST.load(Ordering::SeqCst) {
        LARGE.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: every method passes its arguments on to the system's allocator, which keeps the trait's promises; counting
// neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above; all memory comes from the system's allocator.
        unsafe { System.dealloc(memory, layout) }
    }
}
