//! The function that XLA calls.

use core::ptr::null_mut;
use std::ffi::CString;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::batch::Batch;
use super::c_api::{
    self, Api, ApiVersion, CallFrame, ErrorCreateArgs, MetadataExtension, error_code, struct_size,
};
use super::frame::{Frame, Result, check_size};
use crate::dtypes::with_logits;
use crate::errors::no_logits_text;
use crate::options::{Options, Unknown};
use crate::threads;

/// Losses of logits in XLA's memory, and their gradient if it is among the results.
///
/// # Safety
///
/// XLA calls it, with a frame as its header describes it.
pub(crate) unsafe extern "C" fn cross_entropy(frame: *mut CallFrame) -> *mut c_api::Error {
    // SAFETY: the frame is what the header says. No panic crosses into XLA.
    let answer = catch_unwind(AssertUnwindSafe(|| unsafe { answer(frame) }));
    let (code, message) = match answer {
        Ok(Ok(())) => return null_mut(),
        Ok(Err(message)) => (error_code::INVALID_ARGUMENT, message),
        Err(_) => (error_code::INTERNAL, "xent panicked, which is a defect of it".to_owned()),
    };
    // SAFETY: this field is among the first that the interface ever had, and what it points to, if anything, outlives the
    // call.
    unsafe { error((*frame).api, code, message) }
}

/// # Safety
///
/// The frame is what the header says.
unsafe fn answer(frame: *mut CallFrame) -> Result<()> {
    // SAFETY: every structure begins with its size.
    check_size("XLA_FFI_CallFrame", unsafe { (*frame).struct_size }, struct_size::CALL_FRAME)?;
    // SAFETY: it has all these fields, as its size says, and XLA writes to none of them during the call.
    let frame = unsafe { &*frame };
    let mut extension = frame.extension_start;
    while !extension.is_null() {
        // SAFETY: a list of extensions ends with a null pointer, and each begins with these fields.
        let (type_, next) = unsafe { ((*extension).type_, (*extension).next) };
        if type_ == c_api::EXTENSION_METADATA {
            // SAFETY: an extension of this type is one that asks for metadata.
            return unsafe { describe(frame, extension.cast()) };
        }
        extension = next;
    }
    // SAFETY: the frame is what the header says; XLA gives results memory of their own or, where it was told that it may,
    // that of an argument, and keeps all of it for the call.
    execute(unsafe { Frame::new(frame)? })
}

/// Tells XLA which version of its interface this is written for, as it asks when the function is registered.
///
/// # Safety
///
/// Frame and extension are what the header says.
unsafe fn describe(frame: &CallFrame, extension: *mut MetadataExtension) -> Result<()> {
    if frame.api.is_null() {
        // So version 0.1 asks. It cannot be told of an error, and takes no answer for a refusal.
        return Ok(());
    }
    // SAFETY: XLA's functions outlive the call, and their version stands before them.
    let ApiVersion { major_version: major, minor_version: minor, .. } = unsafe { &(*frame.api).api_version };
    if *major != c_api::MAJOR || *minor < c_api::MINOR {
        let (wanted_major, wanted_minor) = (c_api::MAJOR, c_api::MINOR);
        return Err(format!(
            "XLA's foreign functions are of version {major}.{minor}; xent needs {wanted_major}.{wanted_minor} or later"
        ));
    }
    // SAFETY: every extension begins with its size.
    let size = unsafe { (*extension).extension_base.struct_size };
    check_size("XLA_FFI_Metadata_Extension", size, struct_size::METADATA_EXTENSION)?;
    // SAFETY: the extension has this field, as its size says.
    let metadata = unsafe { (*extension).metadata };
    // SAFETY: every structure begins with its size.
    check_size("XLA_FFI_Metadata", unsafe { (*metadata).struct_size }, struct_size::METADATA)?;
    let api_version = ApiVersion {
        struct_size: struct_size::API_VERSION,
        extension_start: null_mut(),
        major_version: c_api::MAJOR,
        minor_version: c_api::MINOR,
    };
    // SAFETY: XLA gave the structure to be written; it has these fields, as its size and the version say. The only trait is
    // about graphics processors, and the type of a state that is not there is 0.
    unsafe {
        (*metadata).api_version = api_version;
        (*metadata).traits = 0;
        (*metadata).state_type_id = 0;
    }
    Ok(())
}

fn execute(mut frame: Frame<'_>) -> Result<()> {
    let options = Options {
        ignore_index: frame.integers("ignore_index")?.to_vec(),
        reduction: frame.text("reduction")?,
        label_smoothing: frame.number("label_smoothing")?,
        smoothing: frame.text("smoothing")?,
        z_loss: frame.number("z_loss")?,
        focal_gamma: frame.number("focal_gamma")?,
        logit_scale: frame.number("logit_scale")?,
        softcap: frame.optional_number("softcap")?,
        empty_mean: frame.text("empty_mean")?,
    };
    let (builder, per_row) = options.builder().map_err(|Unknown(message)| message)?;
    let dtype = frame.argument("logits")?.dtype;
    let outcome = with_logits!(dtype, L => {
        let batch = Batch::<L>::new(builder, per_row, &mut frame)?;
        threads::install(|| batch.run())?
    });
    outcome.unwrap_or_else(|| Err(no_logits_text("logits", dtype)))
}

/// XLA's own form of an error, which it frees.
///
/// # Safety
///
/// The pointer is that of XLA's functions.
unsafe fn error(api: *const Api, code: core::ffi::c_uint, message: String) -> *mut c_api::Error {
    // SAFETY: what is there begins with its size.
    let has_create = !api.is_null() && unsafe { (*api).struct_size } >= struct_size::API;
    // SAFETY: the field is there, as the size says.
    let create = if has_create { unsafe { (*api).error_create } } else { None };
    let Some(create) = create else {
        // Without an error XLA would take the results for good ones.
        eprintln!("xent cannot hand XLA an error: {message}");
        std::process::abort();
    };
    let message = CString::new(message.replace('\0', " ")).unwrap_or_default();
    let mut arguments = ErrorCreateArgs {
        struct_size: struct_size::ERROR_CREATE_ARGS,
        extension_start: null_mut(),
        message: message.as_ptr(),
        errc: code,
    };
    // SAFETY: these are the arguments that the header asks for, and the message is copied before the function returns.
    unsafe { create(&mut arguments) }
}
