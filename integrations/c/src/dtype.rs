//! Types of elements: the C name of each, and the one place that goes from the name to the type.

use half::{bf16, f16};
use xent::{RowState, RowStateF64};

use crate::status::{Outcome, fail, xent_status};

/// The type of the elements of a matrix or an array. Structs have it as a `uint32_t`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum xent_dtype {
    /// `float`.
    F32 = 1,
    /// `double`.
    F64 = 2,
    /// IEEE 754 binary16.
    F16 = 3,
    /// bfloat16: the upper half of a `float`.
    Bf16 = 4,
    /// `uint8_t`.
    U8 = 5,
    /// `uint16_t`.
    U16 = 6,
    /// `uint32_t`.
    U32 = 7,
    /// `uint64_t`.
    U64 = 8,
    /// `int32_t`.
    I32 = 9,
    /// `int64_t`.
    I64 = 10,
    /// `xent_row_state`.
    RowState = 11,
    /// `xent_row_state_f64`.
    RowStateF64 = 12,
}

/// A type that memory of the caller's may have: every pattern of bits is a value.
pub(crate) trait Scalar: Copy + 'static {
    /// What the caller may call it, one name or more.
    const DTYPES: &'static [xent_dtype];
}

macro_rules! scalars {
    ($($type:ty => $($dtype:ident)|+),+ $(,)?) => {
        $(impl Scalar for $type {
            const DTYPES: &'static [xent_dtype] = &[$(xent_dtype::$dtype),+];
        })+
    };
}

scalars! {
    f32 => F32, f64 => F64, f16 => F16, bf16 => Bf16,
    u8 => U8, u16 => U16, u32 => U32, u64 => U64, i32 => I32, i64 => I64,
    RowState => RowState, RowStateF64 => RowStateF64,
}

// Outputs that are indices. What is none is the largest number, or -1.
#[cfg(target_pointer_width = "64")]
scalars! { usize => I64 | U64 }
#[cfg(target_pointer_width = "32")]
scalars! { usize => I32 | U32 }

/// Runs `$body` with `$element` as the type that a dtype of logits stands for. A new one is one line.
macro_rules! with_element {
    ($dtype:expr, $element:ident => $body:expr) => {
        $crate::dtype::with_element!("logits", $dtype, $element => $body)
    };
    ($argument:expr, $dtype:expr, $element:ident => $body:expr) => {
        $crate::dtype::dispatch! { $argument, $dtype, $element => $body;
            F32 => f32,
            F64 => f64,
            F16 => half::f16,
            Bf16 => half::bf16,
        }
    };
}

/// The same for states of rows in shards.
macro_rules! with_state {
    ($dtype:expr, $state:ident => $body:expr) => {
        $crate::dtype::dispatch! { "states", $dtype, $state => $body;
            RowState => xent::RowState,
            RowStateF64 => xent::RowStateF64,
        }
    };
}

/// The same for gradients of another dtype than the logits.
macro_rules! with_grad {
    ($dtype:expr, $element:ident => $body:expr) => {
        $crate::dtype::dispatch! { "grad", $dtype, $element => $body;
            F32 => f32,
            F16 => half::f16,
            Bf16 => half::bf16,
        }
    };
}

/// The same for targets.
macro_rules! with_target {
    ($dtype:expr, $target:ident => $body:expr) => {
        $crate::dtype::dispatch! { "targets", $dtype, $target => $body;
            U8 => u8,
            U16 => u16,
            U32 => u32,
            U64 => u64,
            I32 => i32,
            I64 => i64,
        }
    };
}

macro_rules! dispatch {
    ($argument:expr, $dtype:expr, $name:ident => $body:expr; $($dtype_name:ident => $type:ty,)+) => {
        match $dtype {
            $(dtype if dtype == $crate::dtype::xent_dtype::$dtype_name as u32 => {
                type $name = $type;
                $body
            })+
            dtype => Err($crate::dtype::unsupported($argument, dtype)),
        }
    };
}

pub(crate) use {dispatch, with_element, with_grad, with_state, with_target};

pub(crate) fn unsupported(argument: &str, dtype: u32) -> xent_status {
    fail(xent_status::Dtype, format_args!("the dtype of {argument} is {dtype}, which it cannot have"))
}

/// Whether the caller's name of the dtype is one of `T`'s.
pub(crate) fn is<T: Scalar>(dtype: u32) -> bool {
    T::DTYPES.iter().any(|&name| name as u32 == dtype)
}

/// The same, as an error where it is not.
pub(crate) fn check<T: Scalar>(argument: &str, dtype: u32) -> Outcome {
    if is::<T>(dtype) {
        return Ok(());
    }
    let first = T::DTYPES[0] as u32;
    Err(fail(xent_status::Dtype, format_args!("the dtype of {argument} is {dtype} instead of {first}")))
}
