//! Second derivatives of the loss, and its derivative along a direction.

use xent::{Curvature, Element, Target};

use crate::cross_entropy::{loss_at, xent_cross_entropy};
use crate::dtype::{Scalar, with_element, with_target};
use crate::memory::Memory;
use crate::request::{request_of, xent_request};
use crate::status::{Outcome, from_error, guard, xent_status};
use crate::views::{xent_array, xent_array_mut, xent_matrix, xent_matrix_mut};

/// Where the reduced loss is expanded.
#[derive(Clone, Copy)]
struct Point {
    cross_entropy: *const xent_cross_entropy,
    logits: xent_matrix,
    targets: xent_array,
    request: *const xent_request,
}

/// What is asked for there.
#[derive(Clone, Copy)]
enum Output {
    HessianVectorProduct { direction: xent_matrix, out: xent_matrix_mut },
    HessianVectorProductInPlace { direction: xent_matrix_mut },
    Jvp { direction: xent_matrix, derivatives: xent_array_mut, derivative: *mut f64 },
    GaussNewtonDiagonal { out: xent_matrix_mut },
    HessianDiagonal { out: xent_matrix_mut },
}

/// The Hessian of the reduced loss at rows x C logits, times `direction`, in `out`; both are rows x C of the logits'
/// dtype. Of the request, which may be null, the inputs count; its outputs are checked, and not written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_hessian_vector_product(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_matrix,
    targets: xent_array,
    request: *const xent_request,
    direction: xent_matrix,
    out: xent_matrix_mut,
) -> xent_status {
    let point = Point { cross_entropy, logits, targets, request };
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { run(point, Output::HessianVectorProduct { direction, out }) })
}

/// The same; the product replaces `direction`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_hessian_vector_product_in_place(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_matrix,
    targets: xent_array,
    request: *const xent_request,
    direction: xent_matrix_mut,
) -> xent_status {
    let point = Point { cross_entropy, logits, targets, request };
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { run(point, Output::HessianVectorProductInPlace { direction }) })
}

/// The derivative of the reduced loss along `direction`, rows x C, in `*derivative`; and in `derivatives`, if it is not
/// left out, that of the loss of each row, before the reduction: `XENT_DTYPE_F32`, or `XENT_DTYPE_F64` where the logits
/// are. Otherwise as `xent_hessian_vector_product`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_jvp(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_matrix,
    targets: xent_array,
    request: *const xent_request,
    direction: xent_matrix,
    derivatives: xent_array_mut,
    derivative: *mut f64,
) -> xent_status {
    let point = Point { cross_entropy, logits, targets, request };
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { run(point, Output::Jvp { direction, derivatives, derivative }) })
}

/// The diagonal of the Gauss-Newton matrix of the reduced loss, p (1 - p) for each class of a plain row, in `out`, rows x
/// C. Otherwise as `xent_hessian_vector_product`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_gauss_newton_diagonal(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_matrix,
    targets: xent_array,
    request: *const xent_request,
    out: xent_matrix_mut,
) -> xent_status {
    let point = Point { cross_entropy, logits, targets, request };
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { run(point, Output::GaussNewtonDiagonal { out }) })
}

/// The diagonal of the Hessian of the reduced loss, in `out`, rows x C. Otherwise as `xent_hessian_vector_product`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_hessian_diagonal(
    cross_entropy: *const xent_cross_entropy,
    logits: xent_matrix,
    targets: xent_array,
    request: *const xent_request,
    out: xent_matrix_mut,
) -> xent_status {
    let point = Point { cross_entropy, logits, targets, request };
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { run(point, Output::HessianDiagonal { out }) })
}

/// # Safety
/// The caller's promise about all arguments.
unsafe fn run(point: Point, output: Output) -> Outcome {
    with_element!(point.logits.dtype, E => {
        // SAFETY: the caller's promise is handed on.
        with_target!(point.targets.dtype, T => unsafe { run_element::<E, T>(point, output) })
    })
}

/// # Safety
/// The caller's promise about all arguments.
unsafe fn run_element<E, T>(point: Point, output: Output) -> Outcome
where
    E: Element<PerRow: Scalar> + Scalar,
    T: Target + Scalar,
{
    // SAFETY: the caller's promise is handed on.
    let ce = unsafe { loss_at(point.cross_entropy)? };
    let mut memory = Memory::new();
    // SAFETY: the caller's promise is handed on.
    let logits = unsafe { memory.matrix::<E>("logits", point.logits)? };
    // SAFETY: the caller's promise is handed on.
    let targets = unsafe { memory.array::<T>("targets", point.targets)? };
    // SAFETY: the caller's promise is handed on.
    let request = unsafe { request_of(point.request, &mut memory)? };
    let curvature = ce.curvature_with(logits, targets, &request).map_err(from_error)?;
    // SAFETY: the caller's promise is handed on.
    unsafe { write(&curvature, &mut memory, output) }
}

/// # Safety
/// The caller's promise about the output.
unsafe fn write<E>(curvature: &Curvature<'_, E>, memory: &mut Memory, output: Output) -> Outcome
where
    E: Element<PerRow: Scalar> + Scalar,
{
    match output {
        Output::HessianVectorProduct { direction, out } => {
            // SAFETY: the caller's promise is handed on.
            let direction = unsafe { memory.matrix("direction", direction)? };
            // SAFETY: the caller's promise is handed on.
            let out = unsafe { memory.matrix_mut("out", out)? };
            curvature.hessian_vector_product(direction, out)
        }
        Output::HessianVectorProductInPlace { direction } => {
            // SAFETY: the caller's promise is handed on.
            let direction = unsafe { memory.matrix_mut("direction", direction)? };
            curvature.hessian_vector_product_in_place(direction)
        }
        Output::Jvp { direction, derivatives, derivative } => {
            // SAFETY: the caller's promise is handed on.
            let direction = unsafe { memory.matrix("direction", direction)? };
            // SAFETY: the caller's promise is handed on.
            let derivatives = unsafe { memory.optional_array_mut("derivatives", derivatives)? };
            // SAFETY: the caller's promise is handed on.
            let to = unsafe { memory.number_mut("derivative", derivative)? };
            let found = match derivatives {
                Some(derivatives) => curvature.jvp_of_rows(direction, derivatives),
                None => curvature.jvp(direction),
            };
            found.map(|found| *to = found)
        }
        Output::GaussNewtonDiagonal { out } => {
            // SAFETY: the caller's promise is handed on.
            curvature.gauss_newton_diagonal(unsafe { memory.matrix_mut("out", out)? })
        }
        Output::HessianDiagonal { out } => {
            // SAFETY: the caller's promise is handed on.
            curvature.hessian_diagonal(unsafe { memory.matrix_mut("out", out)? })
        }
    }
    .map_err(from_error)
}
