//! Softmax, log-softmax and their backward passes.

use core::mem::size_of;

use xent::Softmax;

use crate::dtype::with_element;
use crate::memory::Memory;
use crate::options::{backend, parallelism};
use crate::status::{Outcome, from_error, guard, xent_status};
use crate::versioned::{self, Versioned};
use crate::views::{xent_matrix, xent_matrix_mut};

/// The options of softmax functions. By `xent_softmax_options_default`; later versions may add fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_softmax_options {
    /// `sizeof(xent_softmax_options)`.
    pub size: usize,
    /// An `xent_backend`. Default: the fastest.
    pub backend: u32,
    /// An `xent_parallelism`. Default: threads.
    pub parallelism: u32,
}

// SAFETY: it is `repr(C)`, `size` comes first, and it has integers only.
unsafe impl Versioned for xent_softmax_options {
    const NAME: &'static str = "xent_softmax_options";
    const INITIALISER: &'static str = "xent_softmax_options_default";
    const FIRST_SIZE: usize = size_of::<Self>();
}

#[derive(Clone, Copy)]
enum Function {
    Softmax,
    LogSoftmax,
}

/// The softmax of each row of `logits`, rows x C, in `probabilities`, rows x C of the same dtype. `options` may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_softmax(
    logits: xent_matrix,
    probabilities: xent_matrix_mut,
    options: *const xent_softmax_options,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { forward(Function::Softmax, logits, ("probabilities", probabilities), options) })
}

/// The softmax of each row, in its place. `options` may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_softmax_in_place(
    logits: xent_matrix_mut,
    options: *const xent_softmax_options,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { forward_in_place(Function::Softmax, logits, options) })
}

/// The logarithm of the softmax of each row of `logits`, rows x C, in `log_probabilities`, rows x C of the same dtype.
/// `options` may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_log_softmax(
    logits: xent_matrix,
    log_probabilities: xent_matrix_mut,
    options: *const xent_softmax_options,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe {
        forward(Function::LogSoftmax, logits, ("log_probabilities", log_probabilities), options)
    })
}

/// The logarithm of the softmax of each row, in its place. `options` may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_log_softmax_in_place(
    logits: xent_matrix_mut,
    options: *const xent_softmax_options,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { forward_in_place(Function::LogSoftmax, logits, options) })
}

/// From the gradient with respect to softmax's output, `upstream`, to that with respect to its input, in `grad`:
/// p_i (g_i - sum_c g_c p_c). All three are rows x C of the same dtype. `options` may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_softmax_backward(
    probabilities: xent_matrix,
    upstream: xent_matrix,
    grad: xent_matrix_mut,
    options: *const xent_softmax_options,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe {
        backward(Function::Softmax, ("probabilities", probabilities), upstream, grad, options)
    })
}

/// The same; the gradient replaces `upstream`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_softmax_backward_in_place(
    probabilities: xent_matrix,
    upstream: xent_matrix_mut,
    options: *const xent_softmax_options,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe {
        backward_in_place(Function::Softmax, ("probabilities", probabilities), upstream, options)
    })
}

/// From the gradient with respect to log-softmax's output, `upstream`, to that with respect to its input, in `grad`:
/// g_i - p_i sum_c g_c. All three are rows x C of the same dtype. `options` may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_log_softmax_backward(
    log_probabilities: xent_matrix,
    upstream: xent_matrix,
    grad: xent_matrix_mut,
    options: *const xent_softmax_options,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe {
        backward(Function::LogSoftmax, ("log_probabilities", log_probabilities), upstream, grad, options)
    })
}

/// The same; the gradient replaces `upstream`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_log_softmax_backward_in_place(
    log_probabilities: xent_matrix,
    upstream: xent_matrix_mut,
    options: *const xent_softmax_options,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe {
        backward_in_place(Function::LogSoftmax, ("log_probabilities", log_probabilities), upstream, options)
    })
}

/// # Safety
/// The caller's promise about all arguments.
unsafe fn forward(
    function: Function,
    logits: xent_matrix,
    (name, to): (&'static str, xent_matrix_mut),
    options: *const xent_softmax_options,
) -> Outcome {
    let mut memory = Memory::new();
    // SAFETY: the caller's promise is handed on.
    let softmax = unsafe { softmax_of(options, &mut memory)? };
    with_element!(logits.dtype, E => {
        // SAFETY: the caller's promise is handed on.
        let logits = unsafe { memory.matrix::<E>("logits", logits)? };
        // SAFETY: the caller's promise is handed on.
        let to = unsafe { memory.matrix_mut::<E>(name, to)? };
        match function {
            Function::Softmax => softmax.softmax(logits, to),
            Function::LogSoftmax => softmax.log_softmax(logits, to),
        }
        .map_err(from_error)
    })
}

/// # Safety
/// The caller's promise about all arguments.
unsafe fn forward_in_place(
    function: Function,
    logits: xent_matrix_mut,
    options: *const xent_softmax_options,
) -> Outcome {
    let mut memory = Memory::new();
    // SAFETY: the caller's promise is handed on.
    let softmax = unsafe { softmax_of(options, &mut memory)? };
    with_element!(logits.dtype, E => {
        // SAFETY: the caller's promise is handed on.
        let logits = unsafe { memory.matrix_mut::<E>("logits", logits)? };
        match function {
            Function::Softmax => softmax.softmax_in_place(logits),
            Function::LogSoftmax => softmax.log_softmax_in_place(logits),
        }
        .map_err(from_error)
    })
}

/// # Safety
/// The caller's promise about all arguments.
unsafe fn backward(
    function: Function,
    (name, y): (&'static str, xent_matrix),
    upstream: xent_matrix,
    grad: xent_matrix_mut,
    options: *const xent_softmax_options,
) -> Outcome {
    let mut memory = Memory::new();
    // SAFETY: the caller's promise is handed on.
    let softmax = unsafe { softmax_of(options, &mut memory)? };
    with_element!(name, y.dtype, E => {
        // SAFETY: the caller's promise is handed on.
        let y = unsafe { memory.matrix::<E>(name, y)? };
        // SAFETY: the caller's promise is handed on.
        let upstream = unsafe { memory.matrix::<E>("upstream", upstream)? };
        // SAFETY: the caller's promise is handed on.
        let grad = unsafe { memory.matrix_mut::<E>("grad", grad)? };
        match function {
            Function::Softmax => softmax.softmax_backward(y, upstream, grad),
            Function::LogSoftmax => softmax.log_softmax_backward(y, upstream, grad),
        }
        .map_err(from_error)
    })
}

/// # Safety
/// The caller's promise about all arguments.
unsafe fn backward_in_place(
    function: Function,
    (name, y): (&'static str, xent_matrix),
    upstream: xent_matrix_mut,
    options: *const xent_softmax_options,
) -> Outcome {
    let mut memory = Memory::new();
    // SAFETY: the caller's promise is handed on.
    let softmax = unsafe { softmax_of(options, &mut memory)? };
    with_element!(name, y.dtype, E => {
        // SAFETY: the caller's promise is handed on.
        let y = unsafe { memory.matrix::<E>(name, y)? };
        // SAFETY: the caller's promise is handed on.
        let upstream = unsafe { memory.matrix_mut::<E>("upstream", upstream)? };
        match function {
            Function::Softmax => softmax.softmax_backward_in_place(y, upstream),
            Function::LogSoftmax => softmax.log_softmax_backward_in_place(y, upstream),
        }
        .map_err(from_error)
    })
}

/// The defaults if it is null.
///
/// # Safety
/// The caller's promise about the options.
unsafe fn softmax_of(options: *const xent_softmax_options, memory: &mut Memory) -> Outcome<Softmax> {
    if options.is_null() {
        return Ok(Softmax::default());
    }
    // SAFETY: the caller's promise is handed on.
    let options = unsafe { versioned::read(options, memory)? };
    let softmax = Softmax::default().parallelism(parallelism(options.parallelism)?);
    match backend(options.backend)? {
        Some(backend) => softmax.backend(backend).map_err(from_error),
        None => Ok(softmax),
    }
}
