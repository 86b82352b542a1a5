use core::fmt;

use burn::backend::DType;

/// Why a loss could not be made, or computed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// What `xent` refused: which argument, in which row, with which value.
    Refused(xent::Error),
    /// A padding token is larger than any target can be.
    PadTokenTooLarge {
        /// The token.
        pad_token: usize,
    },
    /// The weight of a class is 0, and the input probabilities: burn's own loss takes weights above 0 alone.
    WeightOfZero {
        /// The class.
        class: usize,
    },
    /// Logits of a dtype that `xent` does not have; flex has none today.
    UnsupportedDType {
        /// The dtype.
        dtype: DType,
    },
    /// A tensor is on another backend than flex, or quantized.
    NotOnFlex {
        /// The argument's name.
        argument: &'static str,
    },
}

impl From<xent::Error> for Error {
    fn from(error: xent::Error) -> Self {
        Self::Refused(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::PadTokenTooLarge { pad_token } => {
                write!(f, "the padding token {pad_token} is larger than any target")
            }
            Self::WeightOfZero { class } => {
                write!(
                    f,
                    "the weight of class {class} is 0; where the input is probabilities, weights are above 0"
                )
            }
            Self::UnsupportedDType { dtype } => write!(f, "logits of dtype {dtype:?} are not supported"),
            Self::NotOnFlex { argument } => {
                write!(f, "{argument} is not a plain tensor of the CPU backend flex")
            }
        }
    }
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Refused(error) => Some(error),
            _ => None,
        }
    }
}
