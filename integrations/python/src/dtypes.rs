//! The dtypes of arrays, and which of them logits may have.

use core::fmt;

/// What an array is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dtype {
    Bool,
    U8,
    U16,
    U32,
    U64,
    I8,
    I16,
    I32,
    I64,
    F16,
    Bf16,
    F32,
    F64,
    /// Anything else: complex numbers, strings, objects.
    Other,
}

/// A Rust type that arrays can be made of.
pub(crate) trait Scalar: Copy + Send + Sync + 'static {
    const DTYPE: Dtype;
}

/// A dtype of logits.
pub(crate) trait Logits: xent::Element<PerRow: Scalar + Number> + Scalar {}

/// What numbers of rows are converted from.
pub(crate) trait Number: Scalar {
    fn from_f64(value: f64) -> Self;
}

macro_rules! scalars {
    ($($scalar:ty => $dtype:ident),+ $(,)?) => {
        $(impl Scalar for $scalar {
            const DTYPE: Dtype = Dtype::$dtype;
        })+
    };
}

scalars! {
    u8 => U8, u16 => U16, u32 => U32, u64 => U64, i8 => I8, i16 => I16, i32 => I32, i64 => I64,
    half::f16 => F16, half::bf16 => Bf16, f32 => F32, f64 => F64,
}

/// What indices are written as.
#[cfg(target_pointer_width = "64")]
impl Scalar for usize {
    const DTYPE: Dtype = Dtype::U64;
}

#[cfg(target_pointer_width = "32")]
impl Scalar for usize {
    const DTYPE: Dtype = Dtype::U32;
}

impl Number for f32 {
    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

impl Number for f64 {
    fn from_f64(value: f64) -> Self {
        value
    }
}

/// THE list of the dtypes that logits may have: a line here is all that another one needs. It makes the macro
/// `with_logits!(dtype, L => expression)`, which is the expression with the type `L` for the dtype, in `Some`.
macro_rules! logits {
    ($($dtype:ident => $logits:ty),+ $(,)?) => {
        $(impl Logits for $logits {})+

        /// Their names, as NumPy and PyTorch have them.
        pub(crate) fn names() -> Vec<String> {
            vec![$(Dtype::$dtype.to_string()),+]
        }

        macro_rules! with_logits {
            ($value:expr, $name:ident => $body:expr) => {
                match $value {
                    $($crate::dtypes::Dtype::$dtype => {
                        type $name = $logits;
                        Some($body)
                    })+
                    _ => None,
                }
            };
        }
    };
}

logits! {
    F32 => f32,
    F16 => half::f16,
    Bf16 => half::bf16,
    F64 => f64,
}

// It gives the macro a path: without it, only what follows in this file could name it.
#[allow(clippy::single_component_path_imports)]
pub(crate) use with_logits;

impl Dtype {
    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }

    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Other => 0,
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool",
            Self::U8 => "uint8",
            Self::U16 => "uint16",
            Self::U32 => "uint32",
            Self::U64 => "uint64",
            Self::I8 => "int8",
            Self::I16 => "int16",
            Self::I32 => "int32",
            Self::I64 => "int64",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::Other => "of another dtype",
        })
    }
}
