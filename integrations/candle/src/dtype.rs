//! The dtypes that both candle and xent have.

use bytemuck::Zeroable;
use candle_core::WithDType;

/// A dtype that logits may have.
pub(crate) trait LogitDType: xent::Element + WithDType + Zeroable {}

impl LogitDType for f32 {}
impl LogitDType for f64 {}
impl LogitDType for half::bf16 {}
impl LogitDType for half::f16 {}

/// Calls `$run` with the elements of logits, if their dtype is one of these.
macro_rules! match_logits {
    ($storage:expr, $name:expr, $data:ident => $run:expr) => {
        match $storage {
            CpuStorage::F32($data) => $run,
            CpuStorage::F64($data) => $run,
            CpuStorage::BF16($data) => $run,
            CpuStorage::F16($data) => $run,
            other => Err(Error::UnsupportedDTypeForOp(other.dtype(), $name).bt()),
        }
    };
}

/// Calls `$run` with the elements of targets, if their dtype is one of these.
macro_rules! match_targets {
    ($storage:expr, $name:expr, $data:ident => $run:expr) => {
        match $storage {
            CpuStorage::U8($data) => $run,
            CpuStorage::U32($data) => $run,
            CpuStorage::I32($data) => $run,
            CpuStorage::I64($data) => $run,
            other => Err(Error::UnsupportedDTypeForOp(other.dtype(), $name).bt()),
        }
    };
}

pub(crate) use {match_logits, match_targets};
