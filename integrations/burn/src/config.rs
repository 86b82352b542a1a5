//! The options, by burn's names.

use burn::config::Config;
use burn::tensor::Device;
use xent::CrossEntropy;

use crate::{CrossEntropyLoss, Error};

/// Options of a [`CrossEntropyLoss`]: those of `burn::nn::loss::CrossEntropyLossConfig`, by the same names. Infinite
/// weights, weights for some of the classes only, and padding tokens beyond the largest `i64` are refused.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use xent_burn::CrossEntropyLossConfig;
///
/// let device = Device::flex();
/// let config = CrossEntropyLossConfig::new()
///     .with_pad_tokens(Some(vec![0]))
///     .with_weights(Some(vec![1.0, 2.0, 0.5]))
///     .with_smoothing(Some(0.1));
/// let loss = config.try_init(&device)?;
///
/// let logits = Tensor::<2>::from_floats([[1.0, 2.0, 3.0], [2.0, 1.0, 0.5]], &device);
/// let loss = loss.try_forward(logits, Tensor::<1, Int>::from_ints([1, 0], &device))?;
/// assert!((loss.into_scalar::<f32>() - 1.357).abs() < 1e-3);
/// # Ok::<(), xent_burn::Error>(())
/// ```
#[derive(Config, Debug)]
pub struct CrossEntropyLossConfig {
    /// Rows with one of these targets contribute nothing. A batch of nothing else has a loss of NaN.
    pub pad_tokens: Option<Vec<usize>>,
    /// One weight for each class, finite and not negative. The mean divides by the sum of the weights of the targets.
    pub weights: Option<Vec<f32>>,
    /// The share of the target distribution that is spread evenly over all classes, from 0 to 1.
    pub smoothing: Option<f32>,
    /// Whether the input is logits. If it is probabilities, there is no softmax to fuse, and burn's own loss is used.
    #[config(default = true)]
    pub logits: bool,
}

impl CrossEntropyLossConfig {
    /// The loss with these options.
    ///
    /// # Panics
    /// Where [`try_init`](Self::try_init) returns an error, as burn's own does.
    #[track_caller]
    pub fn init(&self, device: &Device) -> CrossEntropyLoss {
        self.try_init(device).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The loss with these options. `device` is for burn's own loss of probabilities only.
    ///
    /// # Errors
    /// [`Error::PadTokenTooLarge`], and [`Error::Refused`] for weights and smoothing; and of a loss of probabilities
    /// [`Error::WeightOfZero`], which burn has no place for.
    pub fn try_init(&self, device: &Device) -> Result<CrossEntropyLoss, Error> {
        let mut pad_tokens = Vec::new();
        for &pad_token in self.pad_tokens.iter().flatten() {
            pad_tokens.push(i64::try_from(pad_token).map_err(|_| Error::PadTokenTooLarge { pad_token })?);
        }
        let mut builder = CrossEntropy::builder().ignore_indices(pad_tokens);
        if let Some(weights) = &self.weights {
            builder = builder.weight(weights.as_slice());
        }
        if let Some(smoothing) = self.smoothing {
            builder = builder.label_smoothing(f64::from(smoothing));
        }
        let loss = CrossEntropyLoss::new(builder.build()?);
        if self.logits {
            return Ok(loss);
        }
        match self.weights.iter().flatten().position(|&weight| weight == 0.0) {
            Some(class) => Err(Error::WeightOfZero { class }),
            None => Ok(loss.of_probabilities(self.burns_own().init(device))),
        }
    }

    fn burns_own(&self) -> burn::nn::loss::CrossEntropyLossConfig {
        burn::nn::loss::CrossEntropyLossConfig::new()
            .with_pad_tokens(self.pad_tokens.clone())
            .with_weights(self.weights.clone())
            .with_smoothing(self.smoothing)
            .with_logits(false)
    }
}
