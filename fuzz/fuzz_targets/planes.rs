//! Any valid call on planes, against the oracle, with canaries around every buffer.

#![no_main]

#[path = "../../tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;
use support::hostile;

fuzz_target!(|bytes: &[u8]| hostile::planes(bytes));
