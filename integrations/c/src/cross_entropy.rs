//! The loss: made of options, called, and freed.

use xent::{Backend, CrossEntropy, Element, Request, Summary, Target};

use crate::dtype::{Scalar, with_element, with_target};
use crate::handle;
use crate::memory::Memory;
use crate::options::{xent_backend, xent_options};
use crate::request::{request_of, with_gradient, xent_request, xent_summary};
use crate::status::{Outcome, from_error, guard, xent_status};
use crate::versioned::{self, Destination};
use crate::views::{Logits, xent_array, xent_matrix, xent_matrix_mut};

/// A softmax cross-entropy with its options. Any number of threads may use it at once, for different outputs.
pub struct xent_cross_entropy {
    ce: CrossEntropy,
}

/// What the rows' targets are.
#[derive(Clone, Copy)]
enum Targets {
    Classes(xent_array),
    Probabilities(xent_matrix),
}

/// Makes a loss with these options, or with the defaults if they are null, in `*cross_entropy`. To be freed by
/// `xent_cross_entropy_destroy`. Calls on it allocate nothing but what threads need.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_cross_entropy_create(
    options: *const xent_options,
    cross_entropy: *mut *mut xent_cross_entropy,
) -> xent_status {
    let make = || {
        let mut builder = CrossEntropy::builder();
        if !options.is_null() {
            // SAFETY: the caller promises that the options and their memory are there.
            builder = unsafe { versioned::read(options, &mut Memory::new())?.builder(builder)? };
        }
        Ok(xent_cross_entropy { ce: builder.build().map_err(from_error)? })
    };
    // SAFETY: the caller's promise is handed on.
    unsafe { handle::create("cross_entropy", cross_entropy, make) }
}

/// Frees a loss. Null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_cross_entropy_destroy(cross_entropy: *mut xent_cross_entropy) {
    // SAFETY: the caller promises that it is from `xent_cross_entropy_create` and not freed yet.
    unsafe { handle::destroy(cross_entropy) }
}

/// The instruction set that calls use: never `XENT_BACKEND_FASTEST`, unless the loss is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_cross_entropy_backend(cross_entropy: *const xent_cross_entropy) -> u32 {
    // SAFETY: the caller promises that it is null, or from `xent_cross_entropy_create` and not freed yet.
    let backend = unsafe { cross_entropy.as_ref() }.map(|cross_entropy| cross_entropy.ce.backend());
    let backend = match backend {
        Some(Backend::Portable) => xent_backend::Portable,
        Some(Backend::Avx2) => xent_backend::Avx2,
        Some(Backend::Avx512) => xent_backend::Avx512,
        _ => xent_backend::Fastest,
    };
    backend as u32
}

/// The reduced loss of rows x C logits, in `*loss`. `targets` has one class below C, or an ignored index, for each row;
/// of any integer dtype.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_loss(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_matrix,
    targets: xent_array,
    loss: *mut f64,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { loss_of(cross_entropy, Logits::Keep(logits), targets, None, loss) })
}

/// The reduced loss, and in `grad`, rows x C, its derivative with respect to the logits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_loss_and_grad(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_matrix,
    targets: xent_array,
    grad: xent_matrix_mut,
    loss: *mut f64,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { loss_of(cross_entropy, Logits::Keep(logits), targets, Some(grad), loss) })
}

/// The reduced loss; its gradient replaces the logits. This moves the fewest bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_loss_and_grad_in_place(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_matrix_mut,
    targets: xent_array,
    loss: *mut f64,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { loss_of(cross_entropy, Logits::Overwrite(logits), targets, None, loss) })
}

/// Any set of outputs in one call. `request` may be null: nothing but the summary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_run(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_matrix,
    targets: xent_array,
    request: *const xent_request,
    summary: *mut xent_summary,
) -> xent_status {
    let (logits, targets) = (Logits::Keep(logits), Targets::Classes(targets));
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { run(cross_entropy, logits, targets, request, summary) })
}

/// Any set of outputs in one call; the gradient replaces the logits. `request` may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_run_in_place(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_matrix_mut,
    targets: xent_array,
    request: *const xent_request,
    summary: *mut xent_summary,
) -> xent_status {
    let (logits, targets) = (Logits::Overwrite(logits), Targets::Classes(targets));
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { run(cross_entropy, logits, targets, request, summary) })
}

/// As `xent_run`, with a probability of each class as the target of a row: rows x C, not negative and at most the largest
/// `float`; `XENT_DTYPE_F64` where the logits are, else `XENT_DTYPE_F32`. Outputs that are about the one class of a row are
/// refused.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_run_probabilities(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_matrix,
    target_probabilities: xent_matrix,
    request: *const xent_request,
    summary: *mut xent_summary,
) -> xent_status {
    let (logits, targets) = (Logits::Keep(logits), Targets::Probabilities(target_probabilities));
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { run(cross_entropy, logits, targets, request, summary) })
}

/// As `xent_run_probabilities`; the gradient replaces the logits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_run_probabilities_in_place(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_matrix_mut,
    target_probabilities: xent_matrix,
    request: *const xent_request,
    summary: *mut xent_summary,
) -> xent_status {
    let (logits, targets) = (Logits::Overwrite(logits), Targets::Probabilities(target_probabilities));
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { run(cross_entropy, logits, targets, request, summary) })
}

/// # Safety
/// It is null, or from `xent_cross_entropy_create` and not freed before `'a` ends.
pub(crate) unsafe fn loss_at<'a>(cross_entropy: *const xent_cross_entropy) -> Outcome<&'a CrossEntropy> {
    // SAFETY: by the caller.
    unsafe { handle::get("cross_entropy", cross_entropy) }.map(|loss| &loss.ce)
}

/// # Safety
/// The caller's promise about all arguments.
unsafe fn loss_of(
    cross_entropy: *const xent_cross_entropy,
    logits: Logits,
    targets: xent_array,
    grad: Option<xent_matrix_mut>,
    loss: *mut f64,
) -> Outcome {
    // SAFETY: the caller's promise is handed on.
    let ce = unsafe { loss_at(cross_entropy)? };
    let mut memory = Memory::new();
    // SAFETY: the caller's promise is handed on.
    let to = unsafe { memory.number_mut("loss", loss)? };
    let summary = with_element!(logits.dtype(), E => {
        let request = match grad {
            // SAFETY: the caller's promise is handed on.
            Some(grad) => unsafe { with_gradient(Request::new(), &mut memory, grad, false)? },
            None => Request::new(),
        };
        // SAFETY: the caller's promise is handed on.
        unsafe { run_classes::<E>(ce, memory, logits, targets, request) }
    })?;
    *to = summary.loss;
    Ok(())
}

/// # Safety
/// The caller's promise about all arguments.
unsafe fn run(
    cross_entropy: *const xent_cross_entropy,
    logits: Logits,
    targets: Targets,
    request: *const xent_request,
    summary: *mut xent_summary,
) -> Outcome {
    // SAFETY: the caller's promise is handed on.
    let ce = unsafe { loss_at(cross_entropy)? };
    let mut memory = Memory::new();
    // SAFETY: the caller's promise is handed on.
    let to = unsafe { Destination::new(&mut memory, summary)? };
    let found = match targets {
        Targets::Classes(targets) => with_element!(logits.dtype(), E => {
            // SAFETY: the caller's promise is handed on.
            unsafe {
                let request = request_of::<E>(request, &mut memory)?;
                run_classes::<E>(ce, memory, logits, targets, request)
            }
        }),
        Targets::Probabilities(targets) => with_element!(logits.dtype(), E => {
            // SAFETY: the caller's promise is handed on.
            unsafe {
                let request = request_of::<E>(request, &mut memory)?;
                run_probabilities::<E>(ce, memory, logits, targets, request)
            }
        }),
    }?;
    to.write(&found.into());
    Ok(())
}

/// # Safety
/// The caller's promise about logits and targets.
unsafe fn run_classes<E: Element + Scalar>(
    ce: &CrossEntropy,
    memory: Memory,
    logits: Logits,
    targets: xent_array,
    request: Request<'_, E>,
) -> Outcome<Summary> {
    // SAFETY: the caller's promise is handed on.
    with_target!(targets.dtype, T => unsafe {
        run_targets::<E, T>(ce, memory, logits, targets, request)
    })
}

/// # Safety
/// The caller's promise about logits and targets.
unsafe fn run_targets<E: Element + Scalar, T: Target + Scalar>(
    ce: &CrossEntropy,
    mut memory: Memory,
    logits: Logits,
    targets: xent_array,
    request: Request<'_, E>,
) -> Outcome<Summary> {
    // SAFETY: the caller's promise is handed on.
    let targets = unsafe { memory.array::<T>("targets", targets)? };
    let summary = match logits {
        Logits::Keep(logits) => {
            // SAFETY: the caller's promise is handed on.
            let logits = unsafe { memory.matrix("logits", logits)? };
            ce.run(logits, targets, request)
        }
        Logits::Overwrite(logits) => {
            // SAFETY: the caller's promise is handed on.
            let logits = unsafe { memory.matrix_mut("logits", logits)? };
            ce.run_in_place(logits, targets, request)
        }
    };
    summary.map_err(from_error)
}

/// # Safety
/// The caller's promise about logits and targets.
unsafe fn run_probabilities<E: Element<PerRow: Scalar> + Scalar>(
    ce: &CrossEntropy,
    mut memory: Memory,
    logits: Logits,
    targets: xent_matrix,
    request: Request<'_, E>,
) -> Outcome<Summary> {
    // SAFETY: the caller's promise is handed on.
    let targets = unsafe { memory.matrix::<E::PerRow>("target_probabilities", targets)? };
    let summary = match logits {
        Logits::Keep(logits) => {
            // SAFETY: the caller's promise is handed on.
            let logits = unsafe { memory.matrix("logits", logits)? };
            ce.run_probabilities(logits, targets, request)
        }
        Logits::Overwrite(logits) => {
            // SAFETY: the caller's promise is handed on.
            let logits = unsafe { memory.matrix_mut("logits", logits)? };
            ce.run_probabilities_in_place(logits, targets, request)
        }
    };
    summary.map_err(from_error)
}

impl Logits {
    fn dtype(&self) -> u32 {
        match self {
            Self::Keep(logits) => logits.dtype,
            Self::Overwrite(logits) => logits.dtype,
        }
    }
}
