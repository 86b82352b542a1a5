//! What several of the integration tests need: random batches, every output of a call at once, buffers with canaries,
//! and the bounds of the contract.

// Each test binary uses its own part of this.
#![allow(dead_code)]

pub mod batch;
pub mod bounds;
pub mod buffer;
pub mod covering;
pub mod curvature;
pub mod distillation;
pub mod double_bounds;
pub mod double_curvature;
pub mod double_distillation;
pub mod double_double;
pub mod double_rows;
pub mod double_shards;
pub mod doubles;
pub mod evaluation;
pub mod families;
#[cfg(feature = "half")]
pub mod half_curvature;
#[cfg(feature = "half")]
pub mod halves;
pub mod hostile;
pub mod other_grad;
pub mod planes;
pub mod shards;
pub mod trial;
pub mod variants;

use xent::{Backend, Parallelism};

/// What tests walk. Without rayon both are the calling thread alone, and one will do.
#[cfg(feature = "rayon")]
pub const PARALLELISMS: [Parallelism; 2] = [Parallelism::Serial, Parallelism::Rayon];
#[cfg(not(feature = "rayon"))]
pub const PARALLELISMS: [Parallelism; 1] = [Parallelism::Rayon];

/// The backends that this CPU can run. Says which it cannot.
pub fn backends() -> Vec<Backend> {
    for backend in Backend::ALL {
        if !backend.is_available() {
            println!("{backend}: not available on this CPU, not tested");
        }
    }
    Backend::available().collect()
}

/// The backends among them whose multiply-add is fused, which all give the same bits. Says which are left out.
pub fn fused_backends() -> Vec<Backend> {
    let portable_is_fused = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
    let mut backends = backends();
    if !portable_is_fused {
        println!("{}: compiled without fused multiply-add, its bits are its own", Backend::Portable);
        backends.retain(|&backend| backend != Backend::Portable);
    }
    backends
}

/// Bytes that outgrow the caches of every CPU together: none is taken to have more than this.
pub fn most_cache_bytes() -> usize {
    const MOST_PER_CPU: usize = 8 << 20;
    MOST_PER_CPU * std::thread::available_parallelism().map_or(1, usize::from)
}

/// Class counts on both sides of every boundary at which the kernels do something else.
pub fn class_counts() -> Vec<usize> {
    (1..=130).chain([1000, 2047, 2048, 2049, 4096, 65_535, 65_536, 65_537, 131_072, 200_000]).collect()
}
