//! Logits whose classes are not last.

use core::mem::size_of;

use xent::{CrossEntropy, Element, PlanesRequest, Summary, Target};

use crate::cross_entropy::{loss_at, xent_cross_entropy};
use crate::dtype::{Scalar, with_element, with_target};
use crate::memory::Memory;
use crate::request::{add_to, xent_summary};
use crate::status::{Outcome, from_error, guard, xent_status};
use crate::versioned::{self, Destination, Versioned};
use crate::views::{self, xent_array, xent_array_mut, xent_planes, xent_planes_mut};

/// Inputs and outputs of one call on planes, each of them optional, as those of `xent_request`: arrays have one number for
/// each position of each image, image by image. By `xent_planes_request_default`; later versions may add fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_planes_request {
    /// `sizeof(xent_planes_request)`.
    pub size: usize,

    /// Input, `XENT_DTYPE_U8` of 0 and 1: which positions count.
    pub loss_mask: xent_array,
    /// Input, finite and not negative: multiply loss and gradient of each position.
    pub row_weights: xent_array,
    /// Input: the gradient of a position is this times that of its own loss, without a reduction.
    pub upstream: xent_array,
    /// Input: multiplies the gradient. Finite. Null for 1.
    pub upstream_scalar: *const f64,
    /// Input: what the sum of losses is divided by, in place of the reduction's own divisor. Null for none.
    pub denominator: *const f64,

    /// Output, of the logits' shape and dtype: the derivative of the reduced loss with respect to the logits.
    pub grad: xent_planes_mut,
    /// Output: the loss of each position, before the reduction.
    pub losses: xent_array_mut,
    /// Output: ln(sum_c exp(x_c)).
    pub lse: xent_array_mut,
    /// Output: x_y - lse, for the target y.
    pub target_log_probabilities: xent_array_mut,
    /// Output, indices: the first class with the largest logit; none for an ignored position.
    pub argmax: xent_array_mut,
    /// Output: the largest probability.
    pub argmax_probabilities: xent_array_mut,
    /// Output, of the logits' shape: the softmax.
    pub probabilities: xent_planes_mut,
}

// SAFETY: it is `repr(C)`, `size` comes first, and it has integers and pointers only.
unsafe impl Versioned for xent_planes_request {
    const NAME: &'static str = "xent_planes_request";
    const INITIALISER: &'static str = "xent_planes_request_default";
    const FIRST_SIZE: usize = size_of::<Self>();
}

type Logits = views::Logits<xent_planes, xent_planes_mut>;

/// The reduced loss of logits of shape (N, C, d1, ...), in `*loss`. `targets` has one class below C, or an ignored index,
/// for each position of each image, image by image; of any integer dtype.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_loss_planes(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_planes,
    targets: xent_array,
    loss: *mut f64,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { loss_of(cross_entropy, Logits::Keep(logits), targets, None, loss) })
}

/// The reduced loss, and in `grad`, of the same shape, its derivative with respect to the logits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_loss_and_grad_planes(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_planes,
    targets: xent_array,
    grad: xent_planes_mut,
    loss: *mut f64,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { loss_of(cross_entropy, Logits::Keep(logits), targets, Some(grad), loss) })
}

/// The reduced loss; its gradient replaces the logits. This moves the fewest bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_loss_and_grad_planes_in_place(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_planes_mut,
    targets: xent_array,
    loss: *mut f64,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { loss_of(cross_entropy, Logits::Overwrite(logits), targets, None, loss) })
}

/// Any set of outputs in one call. `request` may be null: nothing but the summary.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_run_planes(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_planes,
    targets: xent_array,
    request: *const xent_planes_request,
    summary: *mut xent_summary,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { run(cross_entropy, Logits::Keep(logits), targets, request, summary) })
}

/// Any set of outputs in one call; the gradient replaces the logits. `request` may be null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_run_planes_in_place(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_planes_mut,
    targets: xent_array,
    request: *const xent_planes_request,
    summary: *mut xent_summary,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { run(cross_entropy, Logits::Overwrite(logits), targets, request, summary) })
}

/// # Safety
/// The caller's promise about all arguments.
unsafe fn loss_of(
    cross_entropy: *const xent_cross_entropy,
    logits: Logits,
    targets: xent_array,
    grad: Option<xent_planes_mut>,
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
            Some(grad) => PlanesRequest::new().grad(unsafe { memory.planes_mut::<E>("grad", grad)? }),
            None => PlanesRequest::new(),
        };
        // SAFETY: the caller's promise is handed on.
        unsafe { run_request::<E>(ce, memory, logits, targets, request) }
    })?;
    *to = summary.loss;
    Ok(())
}

/// # Safety
/// The caller's promise about all arguments.
unsafe fn run(
    cross_entropy: *const xent_cross_entropy,
    logits: Logits,
    targets: xent_array,
    request: *const xent_planes_request,
    summary: *mut xent_summary,
) -> Outcome {
    // SAFETY: the caller's promise is handed on.
    let ce = unsafe { loss_at(cross_entropy)? };
    let mut memory = Memory::new();
    // SAFETY: the caller's promise is handed on.
    let to = unsafe { Destination::new(&mut memory, summary)? };
    let found = with_element!(logits.dtype(), E => {
        // SAFETY: the caller's promise is handed on.
        unsafe {
            let request = request_of::<E>(request, &mut memory)?;
            run_request::<E>(ce, memory, logits, targets, request)
        }
    })?;
    to.write(&found.into());
    Ok(())
}

/// The request of a call; the empty one if it is null.
///
/// # Safety
/// The caller's promise about the request and its memory.
unsafe fn request_of<'a, E>(
    wanted: *const xent_planes_request,
    memory: &mut Memory,
) -> Outcome<PlanesRequest<'a, E>>
where
    E: Element<PerRow: Scalar> + Scalar,
{
    let mut request = PlanesRequest::new();
    if wanted.is_null() {
        return Ok(request);
    }
    // SAFETY: the caller's promise is handed on.
    let wanted = unsafe { versioned::read(wanted, memory)? };
    add_to! {
        request, memory, wanted;
        mask loss_mask,
        optional_array row_weights,
        optional_array upstream,
        optional_number upstream_scalar,
        optional_number denominator,
        optional_planes_mut grad,
        optional_array_mut losses,
        optional_array_mut lse,
        optional_array_mut target_log_probabilities,
        optional_array_mut argmax,
        optional_array_mut argmax_probabilities,
        optional_planes_mut probabilities,
    }
    Ok(request)
}

/// # Safety
/// The caller's promise about logits and targets.
unsafe fn run_request<E: Element + Scalar>(
    ce: &CrossEntropy,
    memory: Memory,
    logits: Logits,
    targets: xent_array,
    request: PlanesRequest<'_, E>,
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
    request: PlanesRequest<'_, E>,
) -> Outcome<Summary> {
    // SAFETY: the caller's promise is handed on.
    let targets = unsafe { memory.array::<T>("targets", targets)? };
    let summary = match logits {
        Logits::Keep(logits) => {
            // SAFETY: the caller's promise is handed on.
            let logits = unsafe { memory.planes("logits", logits)? };
            ce.run_planes(logits, targets, request)
        }
        Logits::Overwrite(logits) => {
            // SAFETY: the caller's promise is handed on.
            let logits = unsafe { memory.planes_mut("logits", logits)? };
            ce.run_planes_in_place(logits, targets, request)
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
