//! The options of the loss.

use core::mem::offset_of;

use xent::{Backend, CrossEntropyBuilder, EmptyMean, Parallelism, Reduction, Smoothing};

use crate::memory::Memory;
use crate::status::{Outcome, fail, xent_status};
use crate::versioned::Versioned;
use crate::views::xent_array;

/// How the rows' losses become one. For PyTorch's "none", ask for `losses` in a request.
#[repr(u32)]
#[derive(Clone, Copy, Debug)]
pub enum xent_reduction {
    /// Their sum, divided by the sum of the class weights of the targets that count: without weights, by their number.
    Mean = 0,
    /// Their sum.
    Sum = 1,
}

/// Which classes label smoothing spreads over.
#[repr(u32)]
#[derive(Clone, Copy, Debug)]
#[allow(clippy::enum_variant_names, reason = "the names are those of the crate")]
pub enum xent_smoothing {
    /// All of them, as in PyTorch.
    AllClasses = 0,
    /// All but the target, as in Megatron-LM.
    OtherClasses = 1,
    /// Those with a logit above -inf.
    LiveClasses = 2,
}

/// What the mean is where no row counts. The gradient is 0 either way.
#[repr(u32)]
#[derive(Clone, Copy, Debug)]
pub enum xent_empty_mean {
    /// NaN, as in PyTorch.
    Nan = 0,
    /// 0.
    Zero = 1,
}

/// The instruction set of a call. It changes no bit of the result on CPUs with fused multiply-add.
#[repr(u32)]
#[derive(Clone, Copy, Debug)]
pub enum xent_backend {
    /// The fastest that this CPU has.
    Fastest = 0,
    /// What the library was compiled for.
    Portable = 1,
    /// AVX2, FMA and F16C.
    Avx2 = 2,
    /// AVX-512 F, VL and BW.
    Avx512 = 3,
}

/// Whether a call may use several threads. It changes no bit of the result.
#[repr(u32)]
#[derive(Clone, Copy, Debug)]
pub enum xent_parallelism {
    /// The process's pool of one thread for each CPU, or as many as the environment variable `RAYON_NUM_THREADS` says at
    /// the first call; where there is enough work for more than one. Threads survive no fork: a child of a process that has
    /// made such a call takes `XENT_PARALLELISM_SERIAL`, or waits for ever.
    Rayon = 0,
    /// The calling thread alone.
    Serial = 1,
}

/// The options of a loss, by PyTorch's names. By `xent_options_default`; later versions may add fields.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct xent_options {
    /// `sizeof(xent_options)`.
    pub size: usize,
    /// One for each class, `XENT_DTYPE_F32`, finite and not negative; copied. Default: left out, all 1.
    pub weight: xent_array,
    /// Rows with this target do not count, and their logits are not read. Default: -100.
    pub ignore_index: i64,
    /// If it is not left out, it takes the place of `ignore_index`: several of them, `XENT_DTYPE_I64`; copied. With data
    /// that is not null and a length of 0, no row is ignored.
    pub ignore_indices: xent_array,
    /// The share of the target distribution that is spread over the classes, from 0 to 1. Default: 0.
    pub label_smoothing: f64,
    /// The coefficient z of the z-loss z lse^2, finite and not negative. Default: 0.
    pub z_loss: f64,
    /// The focusing parameter of the focal loss, finite and not negative. Default: 0, the plain loss.
    pub focal_gamma: f64,
    /// An `xent_reduction`. Default: the mean.
    pub reduction: u32,
    /// An `xent_smoothing`. Default: all classes.
    pub smoothing: u32,
    /// An `xent_empty_mean`. Default: NaN.
    pub empty_mean: u32,
    /// An `xent_backend`. Default: the fastest.
    pub backend: u32,
    /// An `xent_parallelism`. Default: threads.
    pub parallelism: u32,
    /// 0.
    pub reserved: u32,
    /// What logits are multiplied by before the softmax, above 0, rounded to `float` unless logits are
    /// `XENT_DTYPE_F64`. Default: 0, which stands for 1.
    pub logit_scale: f64,
    /// The cap s of logits before the softmax, which become s tanh(x / s), after the scale; above 0, rounded to `float`
    /// unless logits are `XENT_DTYPE_F64`. Default: 0, which stands for none.
    pub softcap: f64,
}

// SAFETY: it is `repr(C)`, `size` comes first, and it has integers, floating-point numbers and pointers only.
unsafe impl Versioned for xent_options {
    const NAME: &'static str = "xent_options";
    const INITIALISER: &'static str = "xent_options_default";
    const FIRST_SIZE: usize = offset_of!(Self, logit_scale);
}

impl xent_options {
    /// All but the checks of the values, which building makes.
    ///
    /// # Safety
    /// The caller's promise about the memory of the options.
    pub(crate) unsafe fn builder(&self, mut builder: CrossEntropyBuilder) -> Outcome<CrossEntropyBuilder> {
        let mut memory = Memory::new();
        // SAFETY: the caller's promise is handed on.
        if let Some(weight) = unsafe { memory.optional_array::<f32>("weight", self.weight)? } {
            builder = builder.weight(weight);
        }
        // SAFETY: the caller's promise is handed on.
        builder = match unsafe { memory.optional_array::<i64>("ignore_indices", self.ignore_indices)? } {
            Some(ignore_indices) => builder.ignore_indices(ignore_indices.iter().copied()),
            None => builder.ignore_index(self.ignore_index),
        };
        if self.reserved != 0 {
            return Err(unknown("reserved", self.reserved));
        }
        if let Some(backend) = backend(self.backend)? {
            builder = builder.backend(backend);
        }
        if self.logit_scale != 0.0 {
            builder = builder.logit_scale(self.logit_scale);
        }
        if self.softcap != 0.0 {
            builder = builder.softcap(self.softcap);
        }
        Ok(builder
            .label_smoothing(self.label_smoothing)
            .z_loss(self.z_loss)
            .focal_gamma(self.focal_gamma)
            .reduction(reduction(self.reduction)?)
            .smoothing(match self.smoothing {
                value if value == xent_smoothing::AllClasses as u32 => Smoothing::AllClasses,
                value if value == xent_smoothing::OtherClasses as u32 => Smoothing::OtherClasses,
                value if value == xent_smoothing::LiveClasses as u32 => Smoothing::LiveClasses,
                value => return Err(unknown("smoothing", value)),
            })
            .empty_mean(empty_mean(self.empty_mean)?)
            .parallelism(parallelism(self.parallelism)?))
    }
}

pub(crate) fn reduction(reduction: u32) -> Outcome<Reduction> {
    match reduction {
        value if value == xent_reduction::Mean as u32 => Ok(Reduction::Mean),
        value if value == xent_reduction::Sum as u32 => Ok(Reduction::Sum),
        value => Err(unknown("reduction", value)),
    }
}

pub(crate) fn empty_mean(empty_mean: u32) -> Outcome<EmptyMean> {
    match empty_mean {
        value if value == xent_empty_mean::Nan as u32 => Ok(EmptyMean::Nan),
        value if value == xent_empty_mean::Zero as u32 => Ok(EmptyMean::Zero),
        value => Err(unknown("empty_mean", value)),
    }
}

/// `None` for the fastest.
pub(crate) fn backend(backend: u32) -> Outcome<Option<Backend>> {
    match backend {
        value if value == xent_backend::Fastest as u32 => Ok(None),
        value if value == xent_backend::Portable as u32 => Ok(Some(Backend::Portable)),
        value if value == xent_backend::Avx2 as u32 => Ok(Some(Backend::Avx2)),
        value if value == xent_backend::Avx512 as u32 => Ok(Some(Backend::Avx512)),
        value => Err(unknown("backend", value)),
    }
}

pub(crate) fn parallelism(parallelism: u32) -> Outcome<Parallelism> {
    match parallelism {
        value if value == xent_parallelism::Rayon as u32 => Ok(Parallelism::Rayon),
        value if value == xent_parallelism::Serial as u32 => Ok(Parallelism::Serial),
        value => Err(unknown("parallelism", value)),
    }
}

pub(crate) fn unknown(option: &str, value: u32) -> xent_status {
    fail(xent_status::InvalidEnum, format_args!("{option} is {value}, which is none of its values"))
}
