//! Rows in shards: states of some columns that merge, and loss and gradient from the merged ones.

use core::mem::{align_of, size_of};

use xent::{CrossEntropy, Error, MatrixMut, RowState, RowStateF64, ShardElement, ShardState, Shards};

use crate::cross_entropy::{loss_at, xent_cross_entropy};
use crate::dtype::{self, Scalar, with_element, with_grad, with_state, with_target};
use crate::memory::{Memory, size};
use crate::request::xent_summary;
use crate::status::{Outcome, from_error, guard, xent_status};
use crate::versioned::{self, Destination, Versioned};
use crate::views::{xent_array, xent_array_mut, xent_matrix, xent_matrix_mut};

/// The size of a `xent_row_state` as bytes.
pub const XENT_ROW_STATE_BYTES: usize = 56;

/// The size of a `xent_row_state_f64` as bytes.
pub const XENT_ROW_STATE_F64_BYTES: usize = 96;

/// What some columns of a row amount to, for logits of any dtype but `XENT_DTYPE_F64`: processes of one machine may
/// exchange it as it is; for others there is `xent_row_states_to_bytes`. States of the same row merge. Starts as
/// `xent_row_states_clear` leaves it, not as zeros. In arrays it is `XENT_DTYPE_ROW_STATE`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_row_state {
    /// The library's.
    pub opaque: [u64; 7],
}

/// The same for logits of `XENT_DTYPE_F64`. In arrays it is `XENT_DTYPE_ROW_STATE_F64`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_row_state_f64 {
    /// The library's.
    pub opaque: [u64; 12],
}

const _: () = assert!(size_of::<xent_row_state>() == size_of::<RowState>());
const _: () = assert!(align_of::<xent_row_state>() == align_of::<RowState>());
const _: () = assert!(XENT_ROW_STATE_BYTES == RowState::BYTES);

const _: () = assert!(size_of::<xent_row_state_f64>() == size_of::<RowStateF64>());
const _: () = assert!(align_of::<xent_row_state_f64>() == align_of::<RowStateF64>());
const _: () = assert!(XENT_ROW_STATE_F64_BYTES == RowStateF64::BYTES);

/// What the library has for a state of C's.
trait State: ShardState<Real: Scalar> + Scalar {}

impl<S: ShardState<Real: Scalar> + Scalar> State for S {}

/// A batch whose columns are split over shards, or made chunk by chunk: what is the same for all of them. By
/// `xent_shards_of`; later versions may add fields. For what is left out, and what the inputs mean, see `xent_request`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_shards {
    /// `sizeof(xent_shards)`.
    pub size: usize,
    /// One class, or an ignored index, for each row, of any integer dtype.
    pub targets: xent_array,
    /// The number of classes of all shards.
    pub classes: i64,
    /// Rows, `XENT_DTYPE_U8` of 0 and 1: which rows count.
    pub loss_mask: xent_array,
    /// Rows, `XENT_DTYPE_F32`.
    pub row_weights: xent_array,
    /// Rows, `XENT_DTYPE_F32`, or `XENT_DTYPE_F64` where the logits are.
    pub upstream: xent_array,
    /// Null for 1.
    pub upstream_scalar: *const f64,
    /// Null for none.
    pub denominator: *const f64,
}

// SAFETY: it is `repr(C)`, `size` comes first, and it has integers, floating-point numbers and pointers only.
unsafe impl Versioned for xent_shards {
    const NAME: &'static str = "xent_shards";
    const INITIALISER: &'static str = "xent_shards_of";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// Makes `states` those of no columns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_row_states_clear(states: xent_array_mut) -> xent_status {
    guard(|| {
        with_state!(states.dtype, S => {
            // SAFETY: the caller's promise is handed on.
            unsafe { Memory::new().array_mut::<S>("states", states)? }.fill(S::EMPTY);
            Ok(())
        })
    })
}

/// Merges each of `others` into that of the same row in `states`. The columns of the two are not the same. Merging is
/// commutative to the last bit: states that are merged in the same order have the same bits anywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_row_states_merge(states: xent_array_mut, others: xent_array) -> xent_status {
    guard(|| {
        with_state!(states.dtype, S => {
            let mut memory = Memory::new();
            // SAFETY: the caller's promise is handed on.
            let others = unsafe { memory.array::<S>("others", others)? };
            // SAFETY: the caller's promise is handed on.
            let states = unsafe { memory.array_mut::<S>("states", states)? };
            same_length("others", states.len(), others.len())?;
            for (state, &other) in states.iter_mut().zip(others) {
                *state = state.merge(other);
            }
            Ok(())
        })
    })
}

/// The states as bytes, which are the same on every machine: in `bytes`, `XENT_DTYPE_U8`, `XENT_ROW_STATE_BYTES` or
/// `XENT_ROW_STATE_F64_BYTES` of each, one after the other.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_row_states_to_bytes(states: xent_array, bytes: xent_array_mut) -> xent_status {
    guard(|| {
        with_state!(states.dtype, S => {
            let mut memory = Memory::new();
            // SAFETY: the caller's promise is handed on.
            let states = unsafe { memory.array::<S>("states", states)? };
            // SAFETY: the caller's promise is handed on.
            let bytes = unsafe { memory.array_mut::<u8>("bytes", bytes)? };
            // No product of sizes in memory is too large.
            same_length("bytes", states.len() * S::BYTES, bytes.len())?;
            for (state, bytes) in states.iter().zip(bytes.as_chunks_mut().0) {
                *bytes = state.to_le_bytes();
            }
            Ok(())
        })
    })
}

/// The states that were made into these bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_row_states_from_bytes(
    bytes: xent_array,
    states: xent_array_mut,
) -> xent_status {
    guard(|| {
        with_state!(states.dtype, S => {
            let mut memory = Memory::new();
            // SAFETY: the caller's promise is handed on.
            let bytes = unsafe { memory.array::<u8>("bytes", bytes)? };
            // SAFETY: the caller's promise is handed on.
            let states = unsafe { memory.array_mut::<S>("states", states)? };
            same_length("bytes", states.len() * S::BYTES, bytes.len())?;
            for (state, bytes) in states.iter_mut().zip(bytes.as_chunks().0) {
                *state = S::from_le_bytes(*bytes);
            }
            Ok(())
        })
    })
}

/// The state of each row's columns from class `first_column` on, which `logits`, rows x some, has. One state for each
/// row: `XENT_DTYPE_ROW_STATE_F64` for logits of `XENT_DTYPE_F64`, else `XENT_DTYPE_ROW_STATE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_summarise(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    logits: xent_matrix,
    first_column: i64,
    states: xent_array_mut,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { summarise(cross_entropy, shards, logits, first_column, states, Merge::Replace) })
}

/// The same, merged into what `states` are already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_accumulate(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    logits: xent_matrix,
    first_column: i64,
    states: xent_array_mut,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { summarise(cross_entropy, shards, logits, first_column, states, Merge::Accumulate) })
}

/// The reduced loss, and the rest of the summary, of complete states: those of all columns of each row.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_finish(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    states: xent_array,
    summary: *mut xent_summary,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe {
        let mut memory = Memory::new();
        let to = Destination::new(&mut memory, summary)?;
        with_state!(states.dtype, S => {
            let states = memory.array::<S>("states", states)?;
            let summary = with(cross_entropy, shards, memory, |shards| shards.finish(states))?;
            to.write(&summary.into());
            Ok(())
        })
    })
}

/// The same, and the loss of each row before the reduction: `XENT_DTYPE_F32`, or `XENT_DTYPE_F64` of states of such logits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_losses(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    states: xent_array,
    losses: xent_array_mut,
    summary: *mut xent_summary,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe {
        let mut memory = Memory::new();
        let to = Destination::new(&mut memory, summary)?;
        with_state!(states.dtype, S => {
            let states = memory.array::<S>("states", states)?;
            let losses = memory.array_mut("losses", losses)?;
            let summary = with(cross_entropy, shards, memory, |shards| shards.losses(states, losses))?;
            to.write(&summary.into());
            Ok(())
        })
    })
}

/// The logarithm of the sum of exponentials of each row, of the dtype of losses, of complete states.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_lse(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    states: xent_array,
    lse: xent_array_mut,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe {
        let mut memory = Memory::new();
        with_state!(states.dtype, S => {
            let states = memory.array::<S>("states", states)?;
            let lse = memory.array_mut("lse", lse)?;
            with(cross_entropy, shards, memory, |shards| shards.lse(states, lse))
        })
    })
}

/// The logarithm of each row's probability of its target, of the dtype of losses, of complete states.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_target_log_probabilities(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    states: xent_array,
    target_log_probabilities: xent_array_mut,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe {
        let mut memory = Memory::new();
        with_state!(states.dtype, S => {
            let states = memory.array::<S>("states", states)?;
            let to = memory.array_mut("target_log_probabilities", target_log_probabilities)?;
            with(cross_entropy, shards, memory, |shards| shards.target_log_probabilities(states, to))
        })
    })
}

/// In `grad`, the gradient of the reduced loss with respect to `logits`, each row's columns from class `first_column` on.
/// It may be of another dtype than the logits, as that of `xent_request`. The states are complete.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_grad(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    logits: xent_matrix,
    first_column: i64,
    states: xent_array,
    grad: xent_matrix_mut,
) -> xent_status {
    let to = Grad::Write(logits, grad);
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { grad_of(cross_entropy, shards, to, first_column, states) })
}

/// The same; the gradient is added to what `grad` holds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_accumulate_grad(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    logits: xent_matrix,
    first_column: i64,
    states: xent_array,
    grad: xent_matrix_mut,
) -> xent_status {
    let to = Grad::Add(logits, grad);
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { grad_of(cross_entropy, shards, to, first_column, states) })
}

/// The same as `xent_shards_grad`; the gradient replaces the logits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_grad_in_place(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    logits: xent_matrix_mut,
    first_column: i64,
    states: xent_array,
) -> xent_status {
    let to = Grad::InPlace(logits);
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { grad_of(cross_entropy, shards, to, first_column, states) })
}

#[derive(Clone, Copy)]
enum Merge {
    Replace,
    Accumulate,
}

/// Where the gradient goes.
#[derive(Clone, Copy)]
enum Grad {
    Write(xent_matrix, xent_matrix_mut),
    Add(xent_matrix, xent_matrix_mut),
    InPlace(xent_matrix_mut),
}

/// # Safety
/// The caller's promise about all arguments.
unsafe fn summarise(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    logits: xent_matrix,
    first_column: i64,
    states: xent_array_mut,
    merge: Merge,
) -> Outcome {
    let mut memory = Memory::new();
    let first_column = size("first_column", first_column)?;
    with_element!(logits.dtype, E => {
        // SAFETY: the caller's promise is handed on.
        let states = unsafe { memory.array_mut::<<E as ShardElement>::State>("states", states)? };
        // SAFETY: the caller's promise is handed on.
        let logits = unsafe { memory.matrix::<E>("logits", logits)? };
        // SAFETY: the caller's promise is handed on.
        unsafe {
            with(cross_entropy, shards, memory, |shards| match merge {
                Merge::Replace => shards.summarise(logits, first_column, states),
                Merge::Accumulate => shards.accumulate(logits, first_column, states),
            })
        }
    })
}

/// # Safety
/// The caller's promise about all arguments.
unsafe fn grad_of(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    to: Grad,
    first_column: i64,
    states: xent_array,
) -> Outcome {
    let first_column = size("first_column", first_column)?;
    let dtype = match to {
        Grad::Write(logits, _) | Grad::Add(logits, _) => logits.dtype,
        Grad::InPlace(logits) => logits.dtype,
    };
    // SAFETY: the caller's promise is handed on.
    with_element!(dtype, E => unsafe {
        grad_of_element::<E>(cross_entropy, shards, to, first_column, states)
    })
}

/// # Safety
/// The caller's promise about all arguments.
unsafe fn grad_of_element<E: ShardElement<State: State> + Scalar>(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    to: Grad,
    first_column: usize,
    states: xent_array,
) -> Outcome {
    let mut memory = Memory::new();
    // SAFETY: the caller's promise is handed on.
    let states = unsafe { memory.array::<E::State>("states", states)? };
    match to {
        Grad::Write(logits, grad) | Grad::Add(logits, grad) => {
            // SAFETY: the caller's promise is handed on.
            let logits = unsafe { memory.matrix::<E>("logits", logits)? };
            let adds = matches!(to, Grad::Add(..));
            if dtype::is::<E>(grad.dtype) {
                // SAFETY: the caller's promise is handed on.
                return unsafe {
                    let grad: MatrixMut<'_, E> = memory.matrix_mut("grad", grad)?;
                    with(cross_entropy, shards, memory, |shards| match adds {
                        true => shards.accumulate_grad(logits, first_column, states, grad),
                        false => shards.grad(logits, first_column, states, grad),
                    })
                };
            }
            // SAFETY: the caller's promise is handed on.
            with_grad!(grad.dtype, G => unsafe {
                let grad: MatrixMut<'_, G> = memory.matrix_mut("grad", grad)?;
                with(cross_entropy, shards, memory, |shards| match adds {
                    true => shards.accumulate_grad_as(logits, first_column, states, grad),
                    false => shards.grad_as(logits, first_column, states, grad),
                })
            })
        }
        Grad::InPlace(logits) => {
            // SAFETY: the caller's promise is handed on.
            let logits: MatrixMut<'_, E> = unsafe { memory.matrix_mut("logits", logits)? };
            let call = |shards: Shards<'_, E::State>| shards.grad_in_place(logits, first_column, states);
            // SAFETY: the caller's promise is handed on.
            unsafe { with(cross_entropy, shards, memory, call) }
        }
    }
}

/// Checks that an array has as many elements as another asks for.
fn same_length(argument: &'static str, expected: usize, actual: usize) -> Outcome {
    if actual == expected {
        Ok(())
    } else {
        Err(from_error(Error::LengthMismatch { argument, expected, actual }))
    }
}

/// Calls with the caller's shards.
///
/// # Safety
/// The caller's promise about the loss and the shards.
unsafe fn with<S: State, R>(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    mut memory: Memory,
    call: impl FnOnce(Shards<'_, S>) -> Result<R, Error>,
) -> Outcome<R> {
    // SAFETY: the caller's promise is handed on.
    let ce = unsafe { loss_at(cross_entropy)? };
    // SAFETY: the caller's promise is handed on.
    let shards = unsafe { versioned::read(shards, &mut memory)? };
    // SAFETY: the caller's promise is handed on.
    with_target!(shards.targets.dtype, T => unsafe {
        let shards = shards.shards::<T, S>(ce, memory)?;
        call(shards).map_err(from_error)
    })
}

impl xent_shards {
    /// # Safety
    /// The caller's promise about the memory of the inputs.
    unsafe fn shards<'a, T: xent::Target + Scalar, S: State>(
        &self,
        ce: &'a CrossEntropy,
        mut memory: Memory,
    ) -> Outcome<Shards<'a, S>> {
        /// Adds what is not left out.
        macro_rules! add {
            ($shards:ident; $($read:ident $name:ident),+ $(,)?) => {
                $(
                    // SAFETY: the caller's promise is handed on.
                    if let Some(memory) = unsafe { memory.$read(stringify!($name), self.$name)? } {
                        $shards = $shards.$name(memory);
                    }
                )+
            };
        }
        let classes = size("classes", self.classes)?;
        // SAFETY: the caller's promise is handed on.
        let mut shards = ce.shards(unsafe { memory.array::<T>("targets", self.targets)? }, classes);
        add! {
            shards;
            mask loss_mask,
            optional_array row_weights,
            optional_array upstream,
            optional_number upstream_scalar,
            optional_number denominator,
        }
        Ok(shards)
    }
}
