//! Which instruction set a call uses.

use core::fmt;

use crate::Error;
#[cfg(xent_runtime_dispatch)]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Portable, Simd, Task};

/// What this crate was compiled with: compiler, target and target features. For reports of measurements.
pub const BUILD: &str = concat!(
    env!("XENT_RUSTC"),
    "; target ",
    env!("XENT_TARGET"),
    "; features ",
    env!("XENT_TARGET_FEATURES")
);

/// An instruction set that the kernels exist for. Every name exists on every platform; [`Backend::available`] lists
/// those that this CPU can run.
///
/// On every CPU with fused multiply-add, all of them give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// What the crate was compiled for, through the crate `wide`: SSE2 on a plain x86-64 build, NEON, wasm SIMD, ...
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, VL and BW.
    Avx512,
}

/// A backend that is known to run here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Instructions {
    Portable(Portable),
    #[cfg(xent_runtime_dispatch)]
    Avx2(Avx2),
    #[cfg(xent_runtime_dispatch)]
    Avx512(Avx512),
}

impl Backend {
    /// All of them, the slowest first.
    pub const ALL: &'static [Self] = &[Self::Portable, Self::Avx2, Self::Avx512];

    /// The backends that this CPU can run, the slowest first.
    ///
    /// ```
    /// assert!(xent::Backend::available().any(|backend| backend == xent::Backend::Portable));
    /// ```
    pub fn available() -> impl DoubleEndedIterator<Item = Self> {
        Self::ALL.iter().copied().filter(|backend| backend.is_available())
    }

    /// The fastest backend that this CPU can run: what calls use when none is asked for.
    pub fn detect() -> Self {
        Self::available().next_back().unwrap_or(Self::Portable)
    }

    /// Whether this CPU can run it.
    pub fn is_available(self) -> bool {
        Instructions::of(self).is_ok()
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
        })
    }
}

impl Instructions {
    pub(crate) fn of(backend: Backend) -> Result<Self, Error> {
        let instructions = match backend {
            Backend::Portable => Some(Self::Portable(Portable)),
            #[cfg(xent_runtime_dispatch)]
            Backend::Avx2 => Avx2::detect().map(Self::Avx2),
            #[cfg(xent_runtime_dispatch)]
            Backend::Avx512 => Avx512::detect().map(Self::Avx512),
            #[cfg(not(xent_runtime_dispatch))]
            Backend::Avx2 | Backend::Avx512 => None,
        };
        instructions.ok_or(Error::BackendUnavailable { backend })
    }

    pub(crate) fn detect() -> Self {
        Self::of(Backend::detect()).unwrap_or(Self::Portable(Portable))
    }

    pub(crate) fn backend(self) -> Backend {
        match self {
            Self::Portable(_) => Backend::Portable,
            #[cfg(xent_runtime_dispatch)]
            Self::Avx2(_) => Backend::Avx2,
            #[cfg(xent_runtime_dispatch)]
            Self::Avx512(_) => Backend::Avx512,
        }
    }

    /// Bytes of cache that the threads of a call can count on; without an answer from the CPU, as many as no buffer has.
    pub(crate) fn cache_bytes(self) -> usize {
        #[cfg(xent_runtime_dispatch)]
        {
            // The CPUs of a virtual machine often state the whole cache of their host. No CPU has more than this.
            const MOST_PER_CPU: usize = 8 << 20;
            static BYTES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
            *BYTES.get_or_init(|| {
                let cpus = std::thread::available_parallelism().map_or(1, usize::from);
                let share = crate::simd::last_level_cache_share();
                share.map_or(usize::MAX, |share| share.min(MOST_PER_CPU).saturating_mul(cpus))
            })
        }
        #[cfg(not(xent_runtime_dispatch))]
        usize::MAX
    }

    /// Runs `task` with the instructions of the backend. The one place where it matters which that is.
    #[inline]
    pub(crate) fn run<T: Task>(self, task: T) -> T::Output {
        match self {
            Self::Portable(portable) => portable.vectorize(task),
            #[cfg(xent_runtime_dispatch)]
            Self::Avx2(avx2) => avx2.vectorize(task),
            #[cfg(xent_runtime_dispatch)]
            Self::Avx512(avx512) => avx512.vectorize(task),
        }
    }
}
