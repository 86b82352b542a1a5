//! Rows in shards: states of some columns that merge, and loss and gradient from the merged ones.

use core::mem::{align_of, size_of};

use xent::{CrossEntropy, MatrixMut, RowState, ShardElement, Shards};

use crate::cross_entropy::{loss_at, xent_cross_entropy};
use crate::dtype::{Scalar, with_narrow_element, with_target};
use crate::memory::{Memory, size};
use crate::request::xent_summary;
use crate::status::{Outcome, from_error, guard, xent_status};
use crate::versioned::{self, Destination, Versioned};
use crate::views::{xent_array, xent_array_mut, xent_matrix, xent_matrix_mut};

/// The size of a state as bytes.
pub const XENT_ROW_STATE_BYTES: usize = 56;

/// What some columns of a row amount to: processes of one machine may exchange it as it is; for others there is
/// `xent_row_state_to_bytes`. States of the same row merge. Starts as `xent_row_states_clear` leaves it, not as zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_row_state {
    /// The library's.
    pub opaque: [u64; 7],
}

const _: () = assert!(size_of::<xent_row_state>() == size_of::<RowState>());
const _: () = assert!(align_of::<xent_row_state>() == align_of::<RowState>());
const _: () = assert!(XENT_ROW_STATE_BYTES == RowState::BYTES);

/// A batch whose columns are split over shards, or made chunk by chunk: what is the same for all of them. Logits of
/// `XENT_DTYPE_F64` are refused. By `xent_shards_of`; later versions may add fields. For what is left out, and what the
/// inputs mean, see `xent_request`.
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
    /// Rows, `XENT_DTYPE_F32`.
    pub upstream: xent_array,
    /// Null for 1.
    pub upstream_scalar: *const f64,
    /// Null for none.
    pub denominator: *const f64,
}

// SAFETY: it is `repr(C)`, `size` comes first, and it has integers, floating-point numbers and pointers only.
unsafe impl Versioned for xent_shards {
    const NAME: &'static str = "xent_shards";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// Makes `len` states those of no columns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_row_states_clear(states: *mut xent_row_state, len: i64) -> xent_status {
    guard(|| {
        // SAFETY: the caller promises that so many states are there.
        unsafe { Memory::new().states_mut(states, len)? }.fill(RowState::EMPTY);
        Ok(())
    })
}

/// Merges each of `len` states from `others` into that of the same row in `states`. The columns of the two are not the
/// same. Merging is commutative to the last bit: states that are merged in the same order have the same bits anywhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_row_states_merge(
    states: *mut xent_row_state,
    others: *const xent_row_state,
    len: i64,
) -> xent_status {
    guard(|| {
        let mut memory = Memory::new();
        // SAFETY: the caller promises that so many states are there.
        let (others, states) = unsafe { (memory.states(others, len)?, memory.states_mut(states, len)?) };
        for (state, other) in states.iter_mut().zip(others) {
            *state = state.merge(*other);
        }
        Ok(())
    })
}

/// The state as bytes, which are the same on every machine, in `XENT_ROW_STATE_BYTES` bytes of the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_row_state_to_bytes(
    state: *const xent_row_state,
    bytes: *mut u8,
) -> xent_status {
    guard(|| {
        let mut memory = Memory::new();
        memory.claim("bytes", bytes.cast_const().cast(), XENT_ROW_STATE_BYTES, 1, 1, true)?;
        // SAFETY: the caller promises that the state is there.
        let state = unsafe { memory.states(state, 1)? }[0].to_le_bytes();
        // SAFETY: not null, by `claim`, and so many bytes are there, by the caller.
        unsafe { bytes.cast::<[u8; XENT_ROW_STATE_BYTES]>().write(state) };
        Ok(())
    })
}

/// The state that was made into these `XENT_ROW_STATE_BYTES` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_row_state_from_bytes(
    bytes: *const u8,
    state: *mut xent_row_state,
) -> xent_status {
    guard(|| {
        let mut memory = Memory::new();
        memory.claim("bytes", bytes.cast(), XENT_ROW_STATE_BYTES, 1, 1, false)?;
        // SAFETY: the caller promises that the state is there.
        let to = unsafe { memory.states_mut(state, 1)? };
        // SAFETY: not null, by `claim`, and so many bytes are there, by the caller.
        to[0] = RowState::from_le_bytes(unsafe { bytes.cast::<[u8; XENT_ROW_STATE_BYTES]>().read() });
        Ok(())
    })
}

/// The state of each row's columns from class `first_column` on, which `logits`, rows x some, has. One state for each
/// row.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_summarise(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    logits: xent_matrix,
    first_column: i64,
    states: *mut xent_row_state,
    states_len: i64,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe {
        summarise(cross_entropy, shards, logits, first_column, (states, states_len), Merge::Replace)
    })
}

/// The same, merged into what `states` are already.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_accumulate(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    logits: xent_matrix,
    first_column: i64,
    states: *mut xent_row_state,
    states_len: i64,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe {
        summarise(cross_entropy, shards, logits, first_column, (states, states_len), Merge::Accumulate)
    })
}

/// The reduced loss, and the rest of the summary, of complete states: those of all columns of each row.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_finish(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    states: *const xent_row_state,
    states_len: i64,
    summary: *mut xent_summary,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe {
        let mut memory = Memory::new();
        let to = Destination::new(&mut memory, summary)?;
        let states = memory.states(states, states_len)?;
        let summary = with(cross_entropy, shards, memory, |shards| shards.finish(states))?;
        to.write(&summary.into());
        Ok(())
    })
}

/// The same, and the loss of each row before the reduction, `XENT_DTYPE_F32`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_losses(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    states: *const xent_row_state,
    states_len: i64,
    losses: xent_array_mut,
    summary: *mut xent_summary,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe {
        let mut memory = Memory::new();
        let to = Destination::new(&mut memory, summary)?;
        let states = memory.states(states, states_len)?;
        let losses = memory.optional_array_mut("losses", losses)?.unwrap_or_default();
        let summary = with(cross_entropy, shards, memory, |shards| shards.losses(states, losses))?;
        to.write(&summary.into());
        Ok(())
    })
}

/// The logarithm of the sum of exponentials of each row, `XENT_DTYPE_F32`, of complete states.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_lse(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    states: *const xent_row_state,
    states_len: i64,
    lse: xent_array_mut,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe {
        let mut memory = Memory::new();
        let states = memory.states(states, states_len)?;
        let lse = memory.optional_array_mut("lse", lse)?.unwrap_or_default();
        with(cross_entropy, shards, memory, |shards| shards.lse(states, lse))
    })
}

/// The logarithm of each row's probability of its target, `XENT_DTYPE_F32`, of complete states.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_target_log_probabilities(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    states: *const xent_row_state,
    states_len: i64,
    target_log_probabilities: xent_array_mut,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe {
        let mut memory = Memory::new();
        let states = memory.states(states, states_len)?;
        let to = memory.optional_array_mut("target_log_probabilities", target_log_probabilities)?;
        let to = to.unwrap_or_default();
        with(cross_entropy, shards, memory, |shards| shards.target_log_probabilities(states, to))
    })
}

/// In `grad`, the gradient of the reduced loss with respect to `logits`, each row's columns from class `first_column` on.
/// The states are complete.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_grad(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    logits: xent_matrix,
    first_column: i64,
    states: *const xent_row_state,
    states_len: i64,
    grad: xent_matrix_mut,
) -> xent_status {
    let to = Grad::Write(logits, grad);
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { grad_of(cross_entropy, shards, to, first_column, (states, states_len)) })
}

/// The same; the gradient is added to what `grad` holds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_accumulate_grad(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    logits: xent_matrix,
    first_column: i64,
    states: *const xent_row_state,
    states_len: i64,
    grad: xent_matrix_mut,
) -> xent_status {
    let to = Grad::Add(logits, grad);
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { grad_of(cross_entropy, shards, to, first_column, (states, states_len)) })
}

/// The same as `xent_shards_grad`; the gradient replaces the logits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_shards_grad_in_place(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    logits: xent_matrix_mut,
    first_column: i64,
    states: *const xent_row_state,
    states_len: i64,
) -> xent_status {
    let to = Grad::InPlace(logits);
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { grad_of(cross_entropy, shards, to, first_column, (states, states_len)) })
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
    (states, states_len): (*mut xent_row_state, i64),
    merge: Merge,
) -> Outcome {
    let mut memory = Memory::new();
    let first_column = size("first_column", first_column)?;
    // SAFETY: the caller's promise is handed on.
    let states = unsafe { memory.states_mut(states, states_len)? };
    with_narrow_element!(logits.dtype, E => {
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
    (states, states_len): (*const xent_row_state, i64),
) -> Outcome {
    let mut memory = Memory::new();
    let first_column = size("first_column", first_column)?;
    // SAFETY: the caller's promise is handed on.
    let states = unsafe { memory.states(states, states_len)? };
    let dtype = match to {
        Grad::Write(logits, _) | Grad::Add(logits, _) => logits.dtype,
        Grad::InPlace(logits) => logits.dtype,
    };
    // SAFETY: the caller's promise is handed on.
    with_narrow_element!(dtype, E => unsafe {
        grad_of_element::<E>(cross_entropy, shards, memory, to, first_column, states)
    })
}

/// # Safety
/// The caller's promise about all arguments.
unsafe fn grad_of_element<E: ShardElement<State = RowState> + Scalar>(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    mut memory: Memory,
    to: Grad,
    first_column: usize,
    states: &[RowState],
) -> Outcome {
    match to {
        Grad::Write(logits, grad) | Grad::Add(logits, grad) => {
            // SAFETY: the caller's promise is handed on.
            let logits = unsafe { memory.matrix::<E>("logits", logits)? };
            // SAFETY: the caller's promise is handed on.
            let grad: MatrixMut<'_, E> = unsafe { memory.matrix_mut("grad", grad)? };
            // SAFETY: the caller's promise is handed on.
            unsafe {
                with(cross_entropy, shards, memory, |shards| match to {
                    Grad::Add(..) => shards.accumulate_grad(logits, first_column, states, grad),
                    _ => shards.grad(logits, first_column, states, grad),
                })
            }
        }
        Grad::InPlace(logits) => {
            // SAFETY: the caller's promise is handed on.
            let logits: MatrixMut<'_, E> = unsafe { memory.matrix_mut("logits", logits)? };
            let call = |shards: Shards<'_>| shards.grad_in_place(logits, first_column, states);
            // SAFETY: the caller's promise is handed on.
            unsafe { with(cross_entropy, shards, memory, call) }
        }
    }
}

/// Calls with the caller's shards.
///
/// # Safety
/// The caller's promise about the loss and the shards.
unsafe fn with<T>(
    cross_entropy: *const xent_cross_entropy,
    shards: *const xent_shards,
    memory: Memory,
    call: impl FnOnce(Shards<'_>) -> Result<T, xent::Error>,
) -> Outcome<T> {
    // SAFETY: the caller's promise is handed on.
    let ce = unsafe { loss_at(cross_entropy)? };
    // SAFETY: the caller's promise is handed on.
    let shards = unsafe { versioned::read(shards)? };
    // SAFETY: the caller's promise is handed on.
    with_target!(shards.targets.dtype, T => unsafe {
        let shards = shards.shards::<T>(ce, memory)?;
        call(shards).map_err(from_error)
    })
}

impl xent_shards {
    /// # Safety
    /// The caller's promise about the memory of the inputs.
    unsafe fn shards<'a, T: xent::Target + Scalar>(
        &self,
        ce: &'a CrossEntropy,
        mut memory: Memory,
    ) -> Outcome<Shards<'a>> {
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
