//! Errors on their way out: a code, a message for each thread, and the end of every panic.

use core::cell::Cell;
use core::ffi::{CStr, c_char};
use core::fmt::{self, Write as _};
use core::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};

use xent::Error;

/// What became of a call. A call that returns anything but `XENT_STATUS_OK` has written nothing, `XENT_STATUS_PANIC`
/// apart. Later versions may have more codes.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum xent_status {
    /// It worked.
    Ok = 0,
    /// A pointer is null that may not be.
    NullPointer = 1,
    /// A pointer is not a multiple of its elements' alignment.
    Misaligned = 2,
    /// A number of rows, columns or elements, or a stride, is negative.
    NegativeSize = 3,
    /// A size is more than an address space can hold.
    SizeOverflow = 4,
    /// Memory that is written overlaps other memory of the same call. A matrix reaches from its first element to its
    /// last, with what lies between its rows.
    Overlap = 5,
    /// The `size` of a struct is none that this library knows: the struct is not initialised; or it is of a later
    /// version and sets what this one does not know.
    StructSize = 6,
    /// The dtype is unknown, or not one that this argument may have.
    Dtype = 7,
    /// The value of an option is not one of its enum.
    InvalidEnum = 8,
    /// The row stride is less than the number of columns; or a plane or an image that is written reaches into the next.
    StrideTooSmall = 9,
    /// A matrix has another shape than the logits.
    ShapeMismatch = 10,
    /// An array has another length than the logits have rows, or classes.
    LengthMismatch = 11,
    /// There are rows, but no classes.
    NoClasses = 12,
    /// A target is neither a class nor an ignored index.
    TargetOutOfRange = 13,
    /// A class weight is negative or not finite.
    InvalidWeight = 14,
    /// The label smoothing is not between 0 and 1.
    InvalidLabelSmoothing = 15,
    /// The coefficient of the z-loss is negative or not finite.
    InvalidZLoss = 16,
    /// The focusing parameter of the focal loss is negative or not finite.
    InvalidFocalGamma = 17,
    /// A target's probability is negative, above `FLT_MAX` or not a number.
    InvalidTargetProbability = 18,
    /// An output or an option needs the class of each row, but targets are probabilities.
    NeedsClasses = 19,
    /// A row's weight is negative or not finite.
    InvalidRowWeight = 20,
    /// `upstream_scalar` is not finite.
    InvalidUpstreamScalar = 21,
    /// `denominator` is not finite and above 0.
    InvalidDenominator = 22,
    /// A byte of the loss mask is neither 0 nor 1.
    InvalidLossMask = 23,
    /// A shard reaches past the last class.
    ColumnsOutOfRange = 24,
    /// A row's state is not that of all its columns, each of them once.
    IncompleteState = 25,
    /// A call in place was given another gradient to write as well.
    GradTwice = 26,
    /// This CPU lacks the instruction set that was asked for.
    BackendUnavailable = 27,
    /// The logit scale is not above 0, or no normal number of `float`.
    InvalidLogitScale = 28,
    /// The softcap is not above 0, or it or the logit scale divided by it is no normal number of `float`.
    InvalidSoftcap = 29,
    /// The temperature is not between 1e-37 and 1e37.
    InvalidTemperature = 30,
    /// An output that a distillation does not have.
    NotOfDistillation = 31,
    /// An error that has no code of its own yet: see the message.
    Other = 254,
    /// A defect of the library. What the call writes is in an unknown state; the process may go on.
    Panic = 255,
}

pub(crate) type Outcome<T = ()> = Result<T, xent_status>;

/// The longest message, with its final 0.
const MESSAGE_BYTES: usize = 512;

thread_local! {
    /// Always ends in a 0.
    static MESSAGE: [Cell<u8>; MESSAGE_BYTES] = const { [const { Cell::new(0) }; MESSAGE_BYTES] };
}

/// What was wrong with the last call of this thread that failed: which argument, where and with what value. Valid until
/// the next call of this thread that fails, or its end. Never null, empty before the first failure, and not to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn xent_last_error_message() -> *const c_char {
    MESSAGE.with(|message| message.as_ptr().cast())
}

/// A status in words. Never null, and not to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn xent_status_message(status: i32) -> *const c_char {
    let all = [
        (xent_status::Ok, c"success"),
        (xent_status::NullPointer, c"a pointer is null"),
        (xent_status::Misaligned, c"a pointer is not aligned"),
        (xent_status::NegativeSize, c"a size is negative"),
        (xent_status::SizeOverflow, c"a size is too large"),
        (xent_status::Overlap, c"memory that is written overlaps other memory"),
        (xent_status::StructSize, c"the size of a struct is unknown"),
        (xent_status::Dtype, c"a dtype is unknown or does not fit"),
        (xent_status::InvalidEnum, c"an option has an unknown value"),
        (xent_status::StrideTooSmall, c"a stride is less than what it steps over"),
        (xent_status::ShapeMismatch, c"a matrix has another shape than the logits"),
        (xent_status::LengthMismatch, c"an array has the wrong length"),
        (xent_status::NoClasses, c"there are rows but no classes"),
        (xent_status::TargetOutOfRange, c"a target is not a class"),
        (xent_status::InvalidWeight, c"a class weight is invalid"),
        (xent_status::InvalidLabelSmoothing, c"label_smoothing is invalid"),
        (xent_status::InvalidZLoss, c"z_loss is invalid"),
        (xent_status::InvalidFocalGamma, c"focal_gamma is invalid"),
        (xent_status::InvalidTargetProbability, c"a target's probability is invalid"),
        (xent_status::NeedsClasses, c"an argument needs the class of each row"),
        (xent_status::InvalidRowWeight, c"a row's weight is invalid"),
        (xent_status::InvalidUpstreamScalar, c"upstream_scalar is invalid"),
        (xent_status::InvalidDenominator, c"denominator is invalid"),
        (xent_status::InvalidLossMask, c"a byte of loss_mask is neither 0 nor 1"),
        (xent_status::ColumnsOutOfRange, c"columns reach past the last class"),
        (xent_status::IncompleteState, c"the state of a row is incomplete"),
        (xent_status::GradTwice, c"a call in place was given another gradient"),
        (xent_status::BackendUnavailable, c"this CPU lacks the instruction set"),
        (xent_status::InvalidLogitScale, c"logit_scale is invalid"),
        (xent_status::InvalidSoftcap, c"softcap is invalid"),
        (xent_status::InvalidTemperature, c"temperature is invalid"),
        (xent_status::NotOfDistillation, c"a distillation does not have this output"),
        (xent_status::Other, c"another error"),
        (xent_status::Panic, c"a defect of the library"),
    ];
    let found = all.iter().find(|(code, _)| *code as i32 == status);
    found.map_or::<&CStr, _>(c"unknown status", |&(_, words)| words).as_ptr()
}

#[cfg(not(panic = "unwind"))]
compile_error!("a panic would end the caller's process: compile with panic = \"unwind\"");

/// Runs a call: no panic leaves it.
pub(crate) fn guard(call: impl FnOnce() -> Outcome) -> xent_status {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => xent_status::Ok,
        Ok(Err(status)) => status,
        Err(payload) => {
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let status = fail(xent_status::Panic, format_args!("panic: {}", text.unwrap_or("no message")));
            // Its destructor might panic as well.
            mem::forget(payload);
            status
        }
    }
}

/// Leaves a message for the thread. It allocates nothing.
pub(crate) fn fail(status: xent_status, message: fmt::Arguments<'_>) -> xent_status {
    MESSAGE.with(|bytes| {
        let mut writer = Truncating { bytes, len: 0 };
        // It ends early where the memory does.
        let _ = writer.write_fmt(message);
        bytes[writer.len].set(0);
    });
    status
}

/// The code of an error, and its message for the thread.
pub(crate) fn from_error(error: Error) -> xent_status {
    let status = match error {
        Error::SizeOverflow { .. } => xent_status::SizeOverflow,
        Error::PlanesOverflow { .. } => xent_status::SizeOverflow,
        Error::StrideTooSmall { .. } | Error::PlanesOverlap { .. } => xent_status::StrideTooSmall,
        Error::ShapeMismatch { .. } | Error::PlanesMismatch { .. } => xent_status::ShapeMismatch,
        Error::LengthMismatch { .. } => xent_status::LengthMismatch,
        Error::NoClasses { .. } => xent_status::NoClasses,
        Error::TargetOutOfRange { .. } => xent_status::TargetOutOfRange,
        Error::InvalidWeight { .. } => xent_status::InvalidWeight,
        Error::InvalidLabelSmoothing { .. } => xent_status::InvalidLabelSmoothing,
        Error::InvalidZLoss { .. } => xent_status::InvalidZLoss,
        Error::InvalidFocalGamma { .. } => xent_status::InvalidFocalGamma,
        Error::InvalidTargetProbability { .. } => xent_status::InvalidTargetProbability,
        Error::NeedsClasses { .. } => xent_status::NeedsClasses,
        Error::InvalidRowWeight { .. } => xent_status::InvalidRowWeight,
        Error::InvalidUpstreamScalar { .. } => xent_status::InvalidUpstreamScalar,
        Error::InvalidDenominator { .. } => xent_status::InvalidDenominator,
        Error::ColumnsOutOfRange { .. } => xent_status::ColumnsOutOfRange,
        Error::IncompleteState { .. } => xent_status::IncompleteState,
        Error::GradTwice => xent_status::GradTwice,
        Error::BackendUnavailable { .. } => xent_status::BackendUnavailable,
        Error::InvalidLogitScale { .. } => xent_status::InvalidLogitScale,
        Error::InvalidSoftcap { .. } => xent_status::InvalidSoftcap,
        Error::InvalidTemperature { .. } => xent_status::InvalidTemperature,
        Error::NotOfDistillation { .. } => xent_status::NotOfDistillation,
        _ => xent_status::Other,
    };
    fail(status, format_args!("{error}"))
}

struct Truncating<'a> {
    bytes: &'a [Cell<u8>],
    len: usize,
}

impl fmt::Write for Truncating<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            // One is left for the final 0.
            if self.len + 1 == self.bytes.len() {
                return Err(fmt::Error);
            }
            self.bytes[self.len].set(byte);
            self.len += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> String {
        MESSAGE.with(|message| {
            let bytes = message.iter().map(Cell::get).take_while(|&byte| byte != 0);
            String::from_utf8(bytes.collect()).expect("messages are ASCII")
        })
    }

    #[test]
    fn a_panic_becomes_a_code_and_a_message() {
        assert_eq!(guard(|| panic!("so {}", "what")), xent_status::Panic);
        assert_eq!(message(), "panic: so what");
    }

    #[test]
    fn a_message_that_is_too_long_is_cut() {
        let long = "x".repeat(3 * MESSAGE_BYTES);
        assert_eq!(fail(xent_status::Other, format_args!("{long}")), xent_status::Other);
        assert_eq!(message(), long[..MESSAGE_BYTES - 1]);
        fail(xent_status::Other, format_args!("short"));
        assert_eq!(message(), "short");
    }
}
