//! The instruction sets of x86-64 beyond its baseline, chosen at run time.
//!
//! All of the crate's `unsafe` is here. It rests on three facts (`docs/unsafe.md`). A token or a vector exists only where its
//! instruction set does: tokens come from `detect` alone, vectors from a token's methods alone. Memory is reached only
//! through references to arrays of the width that is accessed, or to slices whose length was compared with it. And a
//! masked lane, of a mask made from the slice's own length, is not accessed.
#![allow(unsafe_code)]

mod avx2;
mod avx512;
mod memory;

pub(crate) use avx2::Avx2;
pub(crate) use avx512::Avx512;

/// The bytes of the last cache level that fall to one of the logical CPUs which share it, as far as the CPU tells.
pub(crate) fn last_level_cache_share() -> Option<usize> {
    use core::arch::x86_64::{__cpuid, __cpuid_count};

    // Leaf 4 (Intel) and leaf 0x8000_001D (AMD) list caches in the same form, smallest level first.
    let has_intel_leaf = __cpuid(0).eax >= 4 && __cpuid_count(4, 0).eax & 0x1f != 0;
    let has_amd_leaf = __cpuid(0x8000_0000).eax >= 0x8000_001d;
    let leaf = match (has_intel_leaf, has_amd_leaf) {
        (true, _) => 4,
        (false, true) => 0x8000_001d,
        (false, false) => return None,
    };
    let mut share = None;
    for index in 0..8 {
        let cache = __cpuid_count(leaf, index);
        if cache.eax & 0x1f == 0 {
            break;
        }
        let line = (cache.ebx & 0xfff) as usize + 1;
        let partitions = (cache.ebx >> 12 & 0x3ff) as usize + 1;
        let ways = (cache.ebx >> 22) as usize + 1;
        let sets = cache.ecx as usize + 1;
        let sharing = (cache.eax >> 14 & 0xfff) as usize + 1;
        // A level that many share can leave each of them less than the level before does.
        share = share.max(Some(line * partitions * ways * sets / sharing));
    }
    share
}
