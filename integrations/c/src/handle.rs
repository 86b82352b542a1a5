//! Objects that the caller holds a pointer to, from a `_create` function to a `_destroy` function.

use core::mem::{align_of, size_of};

use crate::memory::Memory;
use crate::status::{Outcome, fail, guard, xent_status};

/// Leaves what is made in `*to`.
///
/// # Safety
/// `to`, if it is not null, points to a pointer that nobody else writes.
pub(crate) unsafe fn create<T>(
    argument: &'static str,
    to: *mut *mut T,
    make: impl FnOnce() -> Outcome<T>,
) -> xent_status {
    guard(|| {
        let (size, align) = (size_of::<*mut T>(), align_of::<*mut T>());
        Memory::new().claim(argument, to.cast_const().cast(), 1, size, align, true)?;
        let made = Box::into_raw(Box::new(make()?));
        // SAFETY: not null and aligned, by `claim`, and there, by the caller.
        unsafe { to.write(made) };
        Ok(())
    })
}

/// # Safety
/// It is null, or from [`create`] and not freed before `'a` ends.
pub(crate) unsafe fn get<'a, T>(argument: &'static str, handle: *const T) -> Outcome<&'a T> {
    let null = || fail(xent_status::NullPointer, format_args!("{argument} is null"));
    // SAFETY: by the caller.
    unsafe { handle.as_ref() }.ok_or_else(null)
}

/// Frees it. Null is fine.
///
/// # Safety
/// It is null, or from [`create`] and not freed yet.
pub(crate) unsafe fn destroy<T>(handle: *mut T) {
    guard(|| {
        if !handle.is_null() {
            // SAFETY: by the caller.
            drop(unsafe { Box::from_raw(handle) });
        }
        Ok(())
    });
}
