//! A student's softmax against a teacher's.

use core::mem::size_of;

use xent::{Distillation, Element, Request, Summary};

use crate::dtype::{Scalar, with_element};
use crate::handle;
use crate::memory::Memory;
use crate::options::{backend, empty_mean, parallelism, reduction};
use crate::request::{request_of, xent_request, xent_summary};
use crate::status::{Outcome, from_error, guard, xent_status};
use crate::versioned::{self, Destination, Versioned};
use crate::views::{Logits, xent_matrix, xent_matrix_mut};

/// The Kullback-Leibler divergence of a student's softmax from a teacher's at a temperature, with its options. Any number
/// of threads may use it at once, for different outputs.
pub struct xent_distillation {
    distillation: Distillation,
}

/// The options of a distillation. By `xent_distillation_options_default`; later versions may add fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_distillation_options {
    /// `sizeof(xent_distillation_options)`.
    pub size: usize,
    /// What both logits are divided by, from 1e-37 to 1e37. Default: 1.
    pub temperature: f64,
    /// An `xent_reduction`. Default: the mean over the rows that count.
    pub reduction: u32,
    /// An `xent_empty_mean`. Default: NaN.
    pub empty_mean: u32,
    /// An `xent_backend`. Default: the fastest.
    pub backend: u32,
    /// An `xent_parallelism`. Default: threads.
    pub parallelism: u32,
}

// SAFETY: it is `repr(C)`, `size` comes first, and it has integers and floating-point numbers only.
unsafe impl Versioned for xent_distillation_options {
    const NAME: &'static str = "xent_distillation_options";
    const INITIALISER: &'static str = "xent_distillation_options_default";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// Makes a distillation with these options, or with the defaults if they are null, in `*distillation`. To be freed by
/// `xent_distillation_destroy`. Calls on it allocate nothing but what threads need.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_distillation_create(
    options: *const xent_distillation_options,
    distillation: *mut *mut xent_distillation,
) -> xent_status {
    let make = || {
        let mut builder = Distillation::builder();
        if !options.is_null() {
            // SAFETY: the caller promises that the options are there.
            let options = unsafe { versioned::read(options, &mut Memory::new())? };
            builder = builder
                .temperature(options.temperature)
                .reduction(reduction(options.reduction)?)
                .empty_mean(empty_mean(options.empty_mean)?)
                .parallelism(parallelism(options.parallelism)?);
            if let Some(backend) = backend(options.backend)? {
                builder = builder.backend(backend);
            }
        }
        Ok(xent_distillation { distillation: builder.build().map_err(from_error)? })
    };
    // SAFETY: the caller's promise is handed on.
    unsafe { handle::create("distillation", distillation, make) }
}

/// Frees a distillation. Null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_distillation_destroy(distillation: *mut xent_distillation) {
    // SAFETY: the caller promises that it is from `xent_distillation_create` and not freed yet.
    unsafe { handle::destroy(distillation) }
}

/// The divergence of the student's rows from the teacher's; both are rows x C of the same dtype. `request` may be
/// null. Its inputs mean what they mean for `xent_run`; its outputs are `grad`, with respect to the student's logits,
/// `losses`, and `lse` of the student at the temperature. Others are refused.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_distillation_run(
    distillation: *const xent_distillation,
    student: xent_matrix,
    teacher: xent_matrix,
    request: *const xent_request,
    summary: *mut xent_summary,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { run(distillation, Logits::Keep(student), teacher, request, summary) })
}

/// As `xent_distillation_run`; the gradient replaces the student's logits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xent_distillation_run_in_place(
    distillation: *const xent_distillation,
    student: xent_matrix_mut,
    teacher: xent_matrix,
    request: *const xent_request,
    summary: *mut xent_summary,
) -> xent_status {
    // SAFETY: the caller's promise is handed on.
    guard(|| unsafe { run(distillation, Logits::Overwrite(student), teacher, request, summary) })
}

/// # Safety
/// The caller's promise about all arguments.
unsafe fn run(
    distillation: *const xent_distillation,
    student: Logits,
    teacher: xent_matrix,
    request: *const xent_request,
    summary: *mut xent_summary,
) -> Outcome {
    // SAFETY: the caller promises that it is null, or from `xent_distillation_create` and not freed yet.
    let xent_distillation { distillation } = unsafe { handle::get("distillation", distillation)? };
    let mut memory = Memory::new();
    // SAFETY: the caller's promise is handed on.
    let to = unsafe { Destination::new(&mut memory, summary)? };
    let found = with_element!("teacher", teacher.dtype, E => {
        // SAFETY: the caller's promise is handed on.
        unsafe {
            let request = request_of::<E>(request, &mut memory)?;
            run_elements::<E>(distillation, memory, student, teacher, request)
        }
    })?;
    to.write(&found.into());
    Ok(())
}

/// # Safety
/// The caller's promise about both logits.
unsafe fn run_elements<E: Element + Scalar>(
    distillation: &Distillation,
    mut memory: Memory,
    student: Logits,
    teacher: xent_matrix,
    request: Request<'_, E>,
) -> Outcome<Summary> {
    // SAFETY: the caller's promise is handed on.
    let teacher = unsafe { memory.matrix("teacher", teacher)? };
    let summary = match student {
        Logits::Keep(student) => {
            // SAFETY: the caller's promise is handed on.
            let student = unsafe { memory.matrix("student", student)? };
            distillation.run(student, teacher, request)
        }
        Logits::Overwrite(student) => {
            // SAFETY: the caller's promise is handed on.
            let student = unsafe { memory.matrix_mut("student", student)? };
            distillation.run_in_place(student, teacher, request)
        }
    };
    summary.map_err(from_error)
}
