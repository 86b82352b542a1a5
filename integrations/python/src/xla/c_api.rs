//! XLA's C interface for foreign functions (`xla/ffi/api/c_api.h` of jaxlib), as far as it is used here.
//!
//! Its structures grow at their ends from one version to the next, and say their size. Fields behind the last one that is
//! used are left out here, and enumerations are plain integers, since XLA may have values that this file does not know.

use core::ffi::{c_char, c_int, c_uint, c_void};

/// The version of the header that this file was written by.
pub(crate) const MAJOR: c_int = 0;
pub(crate) const MINOR: c_int = 3;

/// `XLA_FFI_Handler`
pub(crate) type Handler = unsafe extern "C" fn(*mut CallFrame) -> *mut Error;

/// `XLA_FFI_Error_Create`. The message is copied.
pub(crate) type ErrorCreate = unsafe extern "C" fn(*mut ErrorCreateArgs) -> *mut Error;

/// `XLA_FFI_Error`, which only XLA knows the inside of.
pub(crate) enum Error {}

pub(crate) const EXTENSION_METADATA: c_uint = 1;
pub(crate) const STAGE_EXECUTE: c_uint = 3;
/// Of an argument or a result.
pub(crate) const TYPE_BUFFER: c_uint = 1;

/// Values of `XLA_FFI_AttrType`.
pub(crate) mod attribute_type {
    use core::ffi::c_uint;

    pub(crate) const ARRAY: c_uint = 1;
    pub(crate) const SCALAR: c_uint = 3;
    pub(crate) const STRING: c_uint = 4;
}

/// Values of `XLA_FFI_Error_Code`.
pub(crate) mod error_code {
    use core::ffi::c_uint;

    pub(crate) const INVALID_ARGUMENT: c_uint = 3;
    pub(crate) const INTERNAL: c_uint = 13;
}

/// Values of `XLA_FFI_DataType`.
pub(crate) mod data_type {
    use core::ffi::c_uint;

    pub(crate) const PRED: c_uint = 1;
    pub(crate) const S8: c_uint = 2;
    pub(crate) const S16: c_uint = 3;
    pub(crate) const S32: c_uint = 4;
    pub(crate) const S64: c_uint = 5;
    pub(crate) const U8: c_uint = 6;
    pub(crate) const U16: c_uint = 7;
    pub(crate) const U32: c_uint = 8;
    pub(crate) const U64: c_uint = 9;
    pub(crate) const F16: c_uint = 10;
    pub(crate) const F32: c_uint = 11;
    pub(crate) const F64: c_uint = 12;
    pub(crate) const BF16: c_uint = 16;
}

/// `XLA_FFI_CallFrame`: one call, or with an extension a question.
#[repr(C)]
pub(crate) struct CallFrame {
    pub(crate) struct_size: usize,
    pub(crate) extension_start: *mut Extension,
    pub(crate) api: *const Api,
    pub(crate) ctx: *mut c_void,
    pub(crate) stage: c_uint,
    pub(crate) args: Buffers,
    pub(crate) rets: Buffers,
    pub(crate) attrs: Attrs,
}

/// `XLA_FFI_Args` and `XLA_FFI_Rets`, which are laid out alike. Both lists have `size` items.
#[repr(C)]
pub(crate) struct Buffers {
    pub(crate) struct_size: usize,
    pub(crate) extension_start: *mut Extension,
    pub(crate) size: i64,
    pub(crate) types: *mut c_uint,
    pub(crate) items: *mut *mut c_void,
}

/// `XLA_FFI_Buffer`: an array, its last dimension innermost.
#[repr(C)]
pub(crate) struct Buffer {
    pub(crate) struct_size: usize,
    pub(crate) extension_start: *mut Extension,
    pub(crate) dtype: c_uint,
    pub(crate) data: *mut c_void,
    pub(crate) rank: i64,
    pub(crate) dims: *mut i64,
}

/// `XLA_FFI_Attrs`. The three lists have `size` items.
#[repr(C)]
pub(crate) struct Attrs {
    pub(crate) struct_size: usize,
    pub(crate) extension_start: *mut Extension,
    pub(crate) size: i64,
    pub(crate) types: *mut c_uint,
    pub(crate) names: *mut *mut ByteSpan,
    pub(crate) attrs: *mut *mut c_void,
}

/// `XLA_FFI_ByteSpan`
#[repr(C)]
pub(crate) struct ByteSpan {
    pub(crate) ptr: *const c_char,
    pub(crate) len: usize,
}

/// `XLA_FFI_Scalar`
#[repr(C)]
pub(crate) struct Scalar {
    pub(crate) dtype: c_uint,
    pub(crate) value: *mut c_void,
}

/// `XLA_FFI_Array`
#[repr(C)]
pub(crate) struct Array {
    pub(crate) dtype: c_uint,
    pub(crate) size: usize,
    pub(crate) data: *mut c_void,
}

/// `XLA_FFI_Api`: what XLA offers. Behind these fields are functions that are not needed here.
#[repr(C)]
pub(crate) struct Api {
    pub(crate) struct_size: usize,
    pub(crate) extension_start: *mut Extension,
    pub(crate) api_version: ApiVersion,
    pub(crate) internal_api: *const c_void,
    pub(crate) error_create: Option<ErrorCreate>,
}

/// `XLA_FFI_Api_Version`
#[repr(C)]
pub(crate) struct ApiVersion {
    pub(crate) struct_size: usize,
    pub(crate) extension_start: *mut Extension,
    pub(crate) major_version: c_int,
    pub(crate) minor_version: c_int,
}

/// `XLA_FFI_Error_Create_Args`
#[repr(C)]
pub(crate) struct ErrorCreateArgs {
    pub(crate) struct_size: usize,
    pub(crate) extension_start: *mut Extension,
    pub(crate) message: *const c_char,
    pub(crate) errc: c_uint,
}

/// `XLA_FFI_Extension_Base`
#[repr(C)]
pub(crate) struct Extension {
    pub(crate) struct_size: usize,
    pub(crate) type_: c_uint,
    pub(crate) next: *mut Extension,
}

/// `XLA_FFI_Metadata_Extension`: XLA asks for metadata when the function is registered.
#[repr(C)]
pub(crate) struct MetadataExtension {
    pub(crate) extension_base: Extension,
    pub(crate) metadata: *mut Metadata,
}

/// `XLA_FFI_Metadata`
#[repr(C)]
pub(crate) struct Metadata {
    pub(crate) struct_size: usize,
    pub(crate) api_version: ApiVersion,
    pub(crate) traits: u32,
    /// `XLA_FFI_TypeId`
    pub(crate) state_type_id: i64,
}

/// What the header's structures say of their size: up to the end of a field, without padding behind it.
pub(crate) mod struct_size {
    use core::mem::{offset_of, size_of};

    pub(crate) const CALL_FRAME: usize = offset_of!(super::CallFrame, attrs) + size_of::<super::Attrs>();
    pub(crate) const BUFFERS: usize = offset_of!(super::Buffers, items) + size_of::<usize>();
    pub(crate) const BUFFER: usize = offset_of!(super::Buffer, dims) + size_of::<usize>();
    pub(crate) const ATTRS: usize = offset_of!(super::Attrs, attrs) + size_of::<usize>();
    pub(crate) const API: usize = offset_of!(super::Api, error_create) + size_of::<usize>();
    pub(crate) const API_VERSION: usize = offset_of!(super::ApiVersion, minor_version) + size_of::<u32>();
    pub(crate) const ERROR_CREATE_ARGS: usize = offset_of!(super::ErrorCreateArgs, errc) + size_of::<u32>();
    pub(crate) const METADATA_EXTENSION: usize =
        offset_of!(super::MetadataExtension, metadata) + size_of::<usize>();
    /// The header counts up to the traits, although version 0.3 has a field behind them.
    pub(crate) const METADATA: usize = offset_of!(super::Metadata, traits) + size_of::<u32>();
}

/// The numbers that a C compiler finds in the header, where pointers have 64 bits.
#[cfg(target_pointer_width = "64")]
const _: () = {
    use core::mem::{offset_of, size_of};

    assert!(struct_size::CALL_FRAME == 168 && offset_of!(CallFrame, stage) == 32);
    assert!(offset_of!(CallFrame, args) == 40 && offset_of!(CallFrame, rets) == 80);
    assert!(struct_size::BUFFERS == 40 && size_of::<Buffers>() == 40);
    assert!(struct_size::BUFFER == 48 && offset_of!(Buffer, data) == 24);
    assert!(struct_size::ATTRS == 48 && size_of::<Attrs>() == 48);
    assert!(size_of::<ByteSpan>() == 16 && size_of::<Scalar>() == 16 && size_of::<Array>() == 24);
    assert!(struct_size::API == 56 && offset_of!(Api, api_version) == 16);
    assert!(struct_size::API_VERSION == 24 && struct_size::ERROR_CREATE_ARGS == 28);
    assert!(struct_size::METADATA_EXTENSION == 32 && size_of::<Extension>() == 24);
    assert!(struct_size::METADATA == 36 && offset_of!(Metadata, state_type_id) == 40);
};
