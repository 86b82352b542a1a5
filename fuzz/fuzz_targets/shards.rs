//! Row states of any cut of the columns, merged in any order, against the oracle.

#![no_main]

#[path = "../../tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;
use support::hostile;

fuzz_target!(|bytes: &[u8]| hostile::shards(bytes));
