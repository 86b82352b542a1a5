//! Large pages for the memory of large results.
//!
//! XLA takes memory of many megabytes anew from the operating system in each call, which clears a page when it is first
//! written. In pages of 4 KiB that takes several times as long as the gradient does; in those of 2 MiB, a fraction.

/// As NumPy has it: below, pages of 2 MiB are hardly filled.
#[cfg(target_os = "linux")]
const LEAST_BYTES: usize = 4 << 20;

/// Asks for large pages where Linux gives them to those who ask (`transparent_hugepage` is `madvise`).
#[cfg(target_os = "linux")]
pub(crate) fn ask_for<T>(memory: &mut [T]) {
    const PAGE: usize = 4096;

    let bytes = size_of_val(memory);
    let start = memory.as_mut_ptr().cast::<u8>();
    let before = start.align_offset(PAGE);
    if bytes < LEAST_BYTES || before >= bytes {
        return;
    }
    // SAFETY: the range is inside the slice, and the advice changes nothing that is in memory. An answer that the system has
    // no such pages changes nothing either.
    unsafe { libc::madvise(start.add(before).cast(), bytes - before, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn ask_for<T>(_: &mut [T]) {}
