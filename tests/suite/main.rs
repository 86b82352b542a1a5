//! The tests of everything that the public interface promises, as one program: what they share is compiled once, and
//! they run side by side. One file for each subject: `cargo test --test suite golden::` runs those of `golden.rs`.
//!
//! Programs of their own are the tests that look at the whole program they are in: `allocations.rs` and
//! `disassembly.rs`; and `huge.rs`, which needs the machine's memory.

#[path = "../support/mod.rs"]
mod support;

mod combinations;
mod contract;
mod curvature;
mod curvature_dtypes;
mod determinism;
mod distillation;
mod double;
mod double_curvature;
mod double_distillation;
mod double_shards;
mod dtypes;
mod errors;
mod extreme_input;
mod families;
mod golden;
mod hostile;
mod jvp;
mod memory;
mod ndarray;
mod options;
mod oracle;
mod other_grad;
mod pages;
mod planes;
mod planes_of_doubles;
mod planes_of_halves;
mod planes_past_caches;
mod probability_targets;
mod properties;
mod shard_errors;
mod shards;
mod surroundings;
mod transform;
mod uneven_weights;
mod unsafe_page;
mod worked_example;
