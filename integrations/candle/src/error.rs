//! xent's errors on their way through candle's.

use candle_core::Error;

pub(crate) fn from_xent(error: xent::Error) -> Error {
    let context = error.to_string();
    Error::WrappedContext { wrapped: Box::new(error), context }.bt()
}

/// What `xent` refused, if that is why a call failed: which argument, in which row, with which value.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let logits = Tensor::new(&[[1.0_f32, 2.0, 3.0]], &Device::Cpu)?;
/// let targets = Tensor::new(&[7_u32], &Device::Cpu)?;
/// let error = xent_candle::cross_entropy(&logits, &targets).unwrap_err();
///
/// let expected = xent::Error::TargetOutOfRange { row: 0, target: 7, classes: 3 };
/// assert_eq!(xent_candle::xent_error(&error), Some(&expected));
/// assert!(error.to_string().contains("the target of row 0 is 7, but there are 3 classes"));
/// # Ok::<(), candle_core::Error>(())
/// ```
pub fn xent_error(error: &Error) -> Option<&xent::Error> {
    match error {
        Error::WrappedContext { wrapped, .. } => {
            // `candle_core::Context` wraps candle's own errors in the same way.
            wrapped.downcast_ref().or_else(|| wrapped.downcast_ref().and_then(xent_error))
        }
        Error::WithBacktrace { inner, .. } | Error::Context { inner, .. } | Error::WithPath { inner, .. } => {
            xent_error(inner)
        }
        _ => None,
    }
}
