//! Integer targets of whatever type the user's data has.

use core::ops::Range;

use crate::kernel::lanes::NO_CLASS;

/// An integer type that names classes.
///
/// Implemented for `u8`, `u16`, `u32`, `u64`, `usize`, `i32` and `i64`.
pub trait Target: sealed::Target {}

/// A slice of targets, its type erased: the kernels exist once, not once per integer type.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Targets<'a> {
    U8(&'a [u8]),
    U16(&'a [u16]),
    U32(&'a [u32]),
    U64(&'a [u64]),
    Usize(&'a [usize]),
    I32(&'a [i32]),
    I64(&'a [i64]),
}

mod sealed {
    pub trait Target: Copy {
        #[doc(hidden)]
        #[allow(private_interfaces)]
        fn erase(targets: &[Self]) -> super::Targets<'_>;
    }
}

macro_rules! target_types {
    ($($integer:ty => $variant:ident),+) => {
        $(
            impl Target for $integer {}

            impl sealed::Target for $integer {
                #[allow(private_interfaces)]
                fn erase(targets: &[Self]) -> Targets<'_> {
                    Targets::$variant(targets)
                }
            }
        )+

        impl<'a> Targets<'a> {
            pub(crate) fn len(self) -> usize {
                match self {
                    $(Self::$variant(targets) => targets.len(),)+
                }
            }

            pub(crate) fn split_at(self, rows: usize) -> (Self, Self) {
                match self {
                    $(Self::$variant(targets) => {
                        let (first, second) = targets.split_at(rows);
                        (Self::$variant(first), Self::$variant(second))
                    })+
                }
            }

            /// The target of a row as it was written.
            pub(crate) fn get(self, row: usize) -> i128 {
                match self {
                    $(Self::$variant(targets) => targets[row] as i128,)+
                }
            }

            /// The class of a row; `None` where it is an ignored one. Targets have been checked by [`Self::census`].
            pub(crate) fn class(self, row: usize, ignore_indices: &[i64]) -> Option<usize> {
                let mut classes = [NO_CLASS];
                self.look_up(row..row + 1, ignore_indices, &mut classes);
                Some(classes[0]).filter(|&class| class != NO_CLASS)
            }

            /// [`Self::class`] of some rows, [`NO_CLASS`] for none.
            pub(crate) fn look_up(self, rows: Range<usize>, ignore_indices: &[i64], classes: &mut [usize]) {
                match self {
                    $(Self::$variant(targets) => {
                        let targets = &targets[rows];
                        let (first, others) = match ignore_indices {
                            [] => (None, ignore_indices),
                            [first, others @ ..] => (<$integer>::try_from(*first).ok(), others),
                        };
                        // Outside the type's range, no target is ignored.
                        match first {
                            Some(ignored) => {
                                for (class, &target) in classes.iter_mut().zip(targets) {
                                    *class = if target == ignored { NO_CLASS } else { target as usize };
                                }
                            }
                            None => {
                                for (class, &target) in classes.iter_mut().zip(targets) {
                                    *class = target as usize;
                                }
                            }
                        }
                        for ignored in others.iter().filter_map(|&ignored| <$integer>::try_from(ignored).ok()) {
                            for (class, &target) in classes.iter_mut().zip(targets) {
                                *class = if target == ignored { NO_CLASS } else { *class };
                            }
                        }
                    })+
                }
            }

            /// How many targets count, or the first row whose target is neither a class nor ignored. Those of rows that
            /// the mask leaves out may be anything.
            pub(crate) fn census(
                self,
                classes: usize,
                ignore_indices: &[i64],
                mask: Option<&[bool]>,
            ) -> Result<usize, usize> {
                match self {
                    $(Self::$variant(targets) => {
                        // A negative target becomes 2^63 or more.
                        let most = if <$integer>::MIN == 0 { u64::MAX } else { 1 << 63 };
                        let classes = (classes as u64).min(most);
                        let is_class = |target| (target as u64) < classes;
                        // Outside the type's range, no target is ignored.
                        let narrow = |ignored: i64| <$integer>::try_from(ignored).ok();
                        match (ignore_indices, mask) {
                            ([], None) => census(targets, |_| false, is_class),
                            (&[ignored], None) => match narrow(ignored) {
                                Some(ignored) => census(targets, |target| target == ignored, is_class),
                                None => census(targets, |_| false, is_class),
                            },
                            (several, mask) => {
                                let is_ignored =
                                    |target| several.iter().any(|&ignored| narrow(ignored) == Some(target));
                                masked_census(targets, mask, is_ignored, is_class)
                            }
                        }
                    })+
                }
            }
        }
    };
}

target_types!(u8 => U8, u16 => U16, u32 => U32, u64 => U64, usize => Usize, i32 => I32, i64 => I64);

impl<'a> Targets<'a> {
    pub(crate) fn new<T: Target>(targets: &'a [T]) -> Self {
        T::erase(targets)
    }
}

/// Counts without a branch on the data; only when something is wrong does it look for where.
fn census<T: Copy>(
    targets: &[T],
    is_ignored: impl Fn(T) -> bool,
    is_class: impl Fn(T) -> bool,
) -> Result<usize, usize> {
    let mut counted = 0;
    let mut wrong = false;
    for &target in targets {
        let is_ignored = is_ignored(target);
        counted += usize::from(!is_ignored);
        wrong |= !is_ignored & !is_class(target);
    }
    let first_wrong = |&target: &T| !is_ignored(target) && !is_class(target);
    if wrong { targets.iter().position(first_wrong).map_or(Ok(counted), Err) } else { Ok(counted) }
}

fn masked_census<T: Copy>(
    targets: &[T],
    mask: Option<&[bool]>,
    is_ignored: impl Fn(T) -> bool,
    is_class: impl Fn(T) -> bool,
) -> Result<usize, usize> {
    let mut counted = 0;
    for (row, &target) in targets.iter().enumerate() {
        if mask.is_none_or(|mask| mask[row]) && !is_ignored(target) {
            if !is_class(target) {
                return Err(row);
            }
            counted += 1;
        }
    }
    Ok(counted)
}
