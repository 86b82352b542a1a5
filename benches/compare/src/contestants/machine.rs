//! Loops that only move the bytes, on all threads.

use xent::Parallelism;

use super::Who;
use crate::machine::MemoryLoop;
use crate::rounds::Contestant;

pub fn contestants<'a>() -> impl Iterator<Item = (Who, Contestant<'a>)> {
    let variants = MemoryLoop::available().iter();
    variants.map(|memory_loop| (Who::Machine(memory_loop.motion), memory_loop.contestant(Parallelism::Rayon)))
}
