//! Memory between two pages that nobody may touch: reading or writing one element beside a slice ends the process.
#![allow(unsafe_code)]

use bytemuck::Pod;
use core::ops::Range;
use core::ptr;
use core::slice;

/// Which end of a slice is next to a page that nobody may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The slice begins where such a page ends.
    Begin,
    /// The slice ends where such a page begins.
    End,
}

impl Edge {
    pub const BOTH: [Self; 2] = [Self::Begin, Self::End];
}

/// Whole pages with a page before and one behind them that nobody may touch.
#[derive(Debug)]
pub struct Pages {
    start: *mut u8,
    bytes: usize,
    page: usize,
}

impl Pages {
    /// Room for at least so many bytes.
    pub fn new(bytes: usize) -> Self {
        // SAFETY: asks for a constant of the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let bytes = bytes.next_multiple_of(page);
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new pages, at an address that the system chooses.
        let first = unsafe { libc::mmap(ptr::null_mut(), bytes + 2 * page, access, kind, -1, 0) };
        assert_ne!(first, libc::MAP_FAILED, "no memory");
        let start = first.cast::<u8>().wrapping_add(page);
        for forbidden in [first, start.wrapping_add(bytes).cast()] {
            // SAFETY: a page of those that were just made, which nobody refers to.
            let result = unsafe { libc::mprotect(forbidden, page, libc::PROT_NONE) };
            assert_eq!(result, 0, "a page can be forbidden");
        }
        Self { start, bytes, page }
    }

    fn place<T>(&self, len: usize, edge: Edge) -> *mut T {
        assert!(len * size_of::<T>() <= self.bytes);
        let offset = if edge == Edge::Begin { 0 } else { self.bytes - len * size_of::<T>() };
        self.start.wrapping_add(offset).cast()
    }

    /// A slice next to a page that nobody may touch.
    pub fn slice<T: Pod>(&mut self, len: usize, edge: Edge) -> &mut [T] {
        // SAFETY: so many elements are within the pages, which are aligned to more than any of these types and whose
        // bytes are a `T` whatever they are; they are borrowed as long as the slice is.
        unsafe { slice::from_raw_parts_mut(self.place(len, edge), len) }
    }

    /// The same with these elements.
    pub fn holding<T: Pod>(&mut self, elements: &[T], edge: Edge) -> &mut [T] {
        let slice = self.slice(elements.len(), edge);
        slice.copy_from_slice(elements);
        slice
    }

    /// The addresses that nobody may touch.
    pub fn forbidden(&self) -> [Range<usize>; 2] {
        let (start, end) = (self.start.addr(), self.start.addr() + self.bytes);
        [start - self.page..start, end..end + self.page]
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the pages that `new` made; a slice of them would still borrow `self`.
        unsafe { libc::munmap(self.start.wrapping_sub(self.page).cast(), self.bytes + 2 * self.page) };
    }
}
