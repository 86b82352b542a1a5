//! The C interface of `xent`. What a C programmer reads is `include/xent.h`, which is generated from this crate's
//! comments.
//!
//! A call goes through three files: its own (`cross_entropy`, `curvature`, `distillation`,
//! `planes`, `shards`, `softmax`); `memory`, where pointers and sizes
//! are checked and become slices; and `status`, where errors become codes and panics stop.

// Names are C's; and what makes calls safe, the header says once for all of them.
#![allow(non_camel_case_types, clippy::missing_safety_doc)]

mod cross_entropy;
mod curvature;
mod distillation;
mod dtype;
mod handle;
mod memory;
mod options;
mod planes;
mod request;
mod shards;
mod softmax;
mod status;
mod versioned;
mod views;

use core::ffi::{CStr, c_char};

/// The version of this header: compare with `xent_version()`, that of the library.
pub const XENT_VERSION_MAJOR: u32 = 0;
/// See `XENT_VERSION_MAJOR`.
pub const XENT_VERSION_MINOR: u32 = 1;
/// See `XENT_VERSION_MAJOR`.
pub const XENT_VERSION_PATCH: u32 = 0;

const VERSION: &CStr = {
    let version = concat!(env!("CARGO_PKG_VERSION"), "\0");
    match CStr::from_bytes_with_nul(version.as_bytes()) {
        Ok(version) => version,
        Err(_) => panic!("the version has no byte of 0"),
    }
};

/// The version of the library, as in "0.1.0". Never null; not to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn xent_version() -> *const c_char {
    VERSION.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_has_the_version_of_the_package() {
        let version = format!("{XENT_VERSION_MAJOR}.{XENT_VERSION_MINOR}.{XENT_VERSION_PATCH}");
        assert_eq!(version, env!("CARGO_PKG_VERSION"));
    }
}
