//! Structs that can grow. Their first field is the size that they had when the caller was compiled.
//!
//! A shorter one comes from a caller that was compiled with an earlier version: what it lacks is 0, which stands for the
//! default of every field that is added. A longer one comes from a caller of a later version: it is accepted as long as
//! what this version does not know is 0.

use core::mem::{MaybeUninit, align_of, size_of};
use core::{ptr, slice};

use crate::memory::Memory;
use crate::status::{Outcome, fail, xent_status};

/// A struct that can grow.
///
/// # Safety
/// It is `repr(C)`, its first field is `size: usize`, and every pattern of bits is a value of it.
pub(crate) unsafe trait Versioned: Copy {
    const NAME: &'static str;
    /// The function that makes one.
    const INITIALISER: &'static str;
    /// Its size in the version that had it first, which no caller is below.
    const FIRST_SIZE: usize;
}

/// No struct will be longer; a number that is not a size most likely is.
const MOST_BYTES: usize = 1 << 14;

/// A copy of the caller's struct, which nothing that the call writes may overlap.
///
/// # Safety
/// `from`, if it is not null, points to a `usize`, and to as many bytes as that says if a `T` may have as many.
pub(crate) unsafe fn read<T: Versioned>(from: *const T, memory: &mut Memory) -> Outcome<T> {
    // SAFETY: the caller's promise is handed on.
    let size = unsafe { claim(memory, from, false)? };
    let known = size.min(size_of::<T>());
    // SAFETY: `size` bytes are there, by the caller, and `known` is at most that.
    let unknown = unsafe { slice::from_raw_parts(from.cast::<u8>().add(known), size - known) };
    if let Some(byte) = unknown.iter().position(|&byte| byte != 0) {
        let message = format_args!(
            "{} sets byte {}, but this version of the library knows {} bytes of it",
            T::NAME,
            known + byte,
            size_of::<T>()
        );
        return Err(fail(xent_status::StructSize, message));
    }
    let mut copy = MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes are there to read, and a `T` has as many; the copy is memory of this function's.
    unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), copy.as_mut_ptr().cast::<u8>(), known) };
    // SAFETY: every pattern of bits is a `T`, and none is uninitialised: padding apart, all bytes are zero or copied.
    Ok(unsafe { copy.assume_init() })
}

/// A struct of the caller's to write. `size` stays as it is.
#[derive(Debug)]
pub(crate) struct Destination<T> {
    to: *mut T,
    size: usize,
}

impl<T: Versioned> Destination<T> {
    /// # Safety
    /// That of `read`; and nobody else reads or writes the struct during the call.
    pub(crate) unsafe fn new(memory: &mut Memory, to: *mut T) -> Outcome<Self> {
        // SAFETY: the caller's promise is handed on.
        let size = unsafe { claim(memory, to, true)? };
        Ok(Self { to, size })
    }

    pub(crate) fn write(self, value: &T) {
        let known = self.size.min(size_of::<T>());
        // SAFETY: `size` bytes are there and nobody else's, by the promise to `new`, and what follows the field `size`
        // is copied as far as both have it.
        unsafe {
            let from = ptr::from_ref(value).cast::<u8>().add(size_of::<usize>());
            let to = self.to.cast::<u8>().add(size_of::<usize>());
            ptr::copy_nonoverlapping(from, to, known - size_of::<usize>());
        }
    }
}

/// Claims a struct of the caller's, which is as long as it says, and returns its size.
///
/// # Safety
/// `from`, if it is not null, points to a `usize`.
unsafe fn claim<T: Versioned>(memory: &mut Memory, from: *const T, is_written: bool) -> Outcome<usize> {
    // Before the size is read: what the call writes may not be there.
    memory.claim(T::NAME, from.cast(), T::FIRST_SIZE, 1, align_of::<T>(), is_written)?;
    // SAFETY: not null and aligned, by `claim`, and there, by the caller.
    let size = unsafe { from.cast::<usize>().read() };
    if !(T::FIRST_SIZE..=MOST_BYTES).contains(&size) {
        let message =
            format_args!("the size of {} is {size}; initialise it with {}()", T::NAME, T::INITIALISER);
        return Err(fail(xent_status::StructSize, message));
    }
    if size > T::FIRST_SIZE {
        let rest = from.cast::<u8>().wrapping_add(T::FIRST_SIZE);
        memory.claim(T::NAME, rest.cast(), size - T::FIRST_SIZE, 1, 1, is_written)?;
    }
    Ok(size)
}
