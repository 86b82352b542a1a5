//! What a call shall deliver, and the numbers that it returns.

use core::mem::size_of;

use xent::{Element, Request, Summary};

use crate::dtype::{self, Scalar, with_grad};
use crate::memory::Memory;
use crate::options::unknown;
use crate::status::{Outcome, fail, xent_status};
use crate::versioned::{self, Versioned};
use crate::views::{xent_array, xent_array_mut, xent_matrix, xent_matrix_mut};

/// Inputs and outputs of one call, each of them optional: what is left out has null data and no size. By
/// `xent_request_default`; later versions may add fields.
///
/// For rows x C logits x of some dtype, matrices have the same dtype, but `grad` may also be of `XENT_DTYPE_F32`,
/// `XENT_DTYPE_F16` or `XENT_DTYPE_BF16`. Arrays have one number for each row, of `XENT_DTYPE_F32`, or `XENT_DTYPE_F64`
/// where the logits are that. Indices are `XENT_DTYPE_I64` (-1 for none) or `XENT_DTYPE_U64` (`UINT64_MAX` for none); where
/// pointers have 32 bits, `I32` or `U32`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_request {
    /// `sizeof(xent_request)`.
    pub size: usize,

    /// Input: rows, `XENT_DTYPE_U8` of 0 and 1: which rows count.
    pub loss_mask: xent_array,
    /// Input: rows, `XENT_DTYPE_F32`, finite and not negative: multiply loss and gradient of each row.
    pub row_weights: xent_array,
    /// Input: rows: the gradient of row r is `upstream[r]` times that of its own loss, without a reduction.
    pub upstream: xent_array,
    /// Input: multiplies the gradient. Finite. Null for 1.
    pub upstream_scalar: *const f64,
    /// Input: what the sum of losses is divided by, in place of the reduction's own divisor. Finite and above 0. Null for
    /// none.
    pub denominator: *const f64,

    /// Output, rows x C: the derivative of the reduced loss with respect to the logits.
    pub grad: xent_matrix_mut,
    /// 1 adds the gradient to what `grad` holds, which then must be there; 0 writes it.
    pub accumulate: u32,
    /// 0.
    pub reserved: u32,
    /// Output, rows: the loss of each row, before the reduction.
    pub losses: xent_array_mut,
    /// Output, rows: ln(sum_c exp(x_c)), with x the logits, scaled and capped if the loss has a `logit_scale` or a
    /// `softcap`; so it is below.
    pub lse: xent_array_mut,
    /// Output, rows: x_y - lse, for the target y.
    pub target_log_probabilities: xent_array_mut,
    /// Output, rows: sum_c p_c (lse - x_c), in nats.
    pub entropies: xent_array_mut,
    /// Output, rows, indices: the first class with the largest logit; none for an ignored row.
    pub argmax: xent_array_mut,
    /// Output, rows: the largest probability.
    pub argmax_probabilities: xent_array_mut,
    /// Output, rows, indices: how many classes come before the target; none for an ignored row.
    pub target_ranks: xent_array_mut,
    /// Output, rows x C: the softmax.
    pub probabilities: xent_matrix_mut,
    /// Output, rows x C: the logarithm of the softmax.
    pub log_probabilities: xent_matrix_mut,
}

/// The numbers that every call has at hand when it is done. By `xent_summary_default`; later versions may add fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_summary {
    /// `sizeof(xent_summary)`; the call leaves it as it is.
    pub size: usize,
    /// The reduced loss.
    pub loss: f64,
    /// What the z-loss has in it.
    pub z_loss: f64,
    /// What the mean divides by, unless the request has a denominator.
    pub weight: f64,
    /// Rows that are not ignored.
    pub counted: i64,
    /// Rows among them whose target is the first of their largest logits; 0 where targets are no classes.
    pub correct: i64,
}

// SAFETY: it is `repr(C)`, `size` comes first, and it has integers, floating-point numbers and pointers only.
unsafe impl Versioned for xent_request {
    const NAME: &'static str = "xent_request";
    const INITIALISER: &'static str = "xent_request_default";
    const FIRST_SIZE: usize = size_of::<Self>();
}

// SAFETY: it is `repr(C)`, `size` comes first, and it has integers and floating-point numbers only.
unsafe impl Versioned for xent_summary {
    const NAME: &'static str = "xent_summary";
    const INITIALISER: &'static str = "xent_summary_default";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// Adds to a request what is not left out of what is wanted.
macro_rules! add_to {
    ($request:ident, $memory:ident, $wanted:expr; $($read:ident $name:ident),+ $(,)?) => {
        $(
            // SAFETY: the caller's promise is handed on.
            if let Some(memory) = unsafe { $memory.$read(stringify!($name), $wanted.$name)? } {
                $request = $request.$name(memory);
            }
        )+
    };
}

pub(crate) use add_to;

impl xent_request {
    /// # Safety
    /// The caller's promise about the memory of the request.
    unsafe fn request<'a, E>(&self, memory: &mut Memory) -> Outcome<Request<'a, E>>
    where
        E: Element<PerRow: Scalar> + Scalar,
    {
        let mut request = Request::new();
        add_to! {
            request, memory, self;
            mask loss_mask,
            optional_array row_weights,
            optional_array upstream,
            optional_number upstream_scalar,
            optional_number denominator,
            optional_array_mut losses,
            optional_array_mut lse,
            optional_array_mut target_log_probabilities,
            optional_array_mut entropies,
            optional_array_mut argmax,
            optional_array_mut argmax_probabilities,
            optional_array_mut target_ranks,
            optional_matrix_mut probabilities,
            optional_matrix_mut log_probabilities,
        }
        if self.reserved != 0 {
            return Err(unknown("reserved", self.reserved));
        }
        let accumulates = match self.accumulate {
            0 | 1 => self.accumulate == 1,
            value => return Err(unknown("accumulate", value)),
        };
        if xent_matrix::from(self.grad).is_absent() {
            return match accumulates {
                true => {
                    Err(fail(xent_status::NullPointer, format_args!("accumulate is 1, but grad is null")))
                }
                false => Ok(request),
            };
        }
        // SAFETY: the caller's promise is handed on.
        unsafe { with_gradient(request, memory, self.grad, accumulates) }
    }
}

/// Adds a gradient to the request: of the dtype of the logits, or of another.
///
/// # Safety
/// The caller's promise about the gradient.
pub(crate) unsafe fn with_gradient<'a, E: Element + Scalar>(
    request: Request<'a, E>,
    memory: &mut Memory,
    grad: xent_matrix_mut,
    accumulates: bool,
) -> Outcome<Request<'a, E>> {
    if dtype::is::<E>(grad.dtype) {
        // SAFETY: the caller's promise is handed on.
        let grad = unsafe { memory.matrix_mut("grad", grad)? };
        return Ok(if accumulates { request.accumulate(grad) } else { request.grad(grad) });
    }
    with_grad!(grad.dtype, G => {
        // SAFETY: the caller's promise is handed on.
        let grad = unsafe { memory.matrix_mut::<G>("grad", grad)? };
        Ok(if accumulates { request.accumulate_as(grad) } else { request.grad_as(grad) })
    })
}

/// The request of a call; the empty one if it is null.
///
/// # Safety
/// The caller's promise about the request and its memory.
pub(crate) unsafe fn request_of<'a, E>(
    request: *const xent_request,
    memory: &mut Memory,
) -> Outcome<Request<'a, E>>
where
    E: Element<PerRow: Scalar> + Scalar,
{
    if request.is_null() {
        return Ok(Request::new());
    }
    // SAFETY: the caller's promise is handed on.
    unsafe { versioned::read(request, memory)?.request(memory) }
}

impl From<Summary> for xent_summary {
    fn from(summary: Summary) -> Self {
        // No slice has more than `i64::MAX` elements.
        let rows = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        Self {
            size: size_of::<Self>(),
            loss: summary.loss,
            z_loss: summary.z_loss,
            weight: summary.weight,
            counted: rows(summary.counted),
            correct: rows(summary.correct),
        }
    }
}
