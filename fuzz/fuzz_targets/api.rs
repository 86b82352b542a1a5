//! Any arguments: what is documented, or an error and nothing written.

#![no_main]

#[path = "../../tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;
use support::hostile;

fuzz_target!(|bytes: &[u8]| hostile::api::api(bytes));
