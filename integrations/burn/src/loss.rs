//! The loss as a module of burn's.

use std::sync::Arc;

use burn::module::{Content, DisplaySettings, Module, ModuleDisplay};
use burn::tensor::{Int, Tensor};
use xent::CrossEntropy;

use crate::{Error, operation, rows};

/// Softmax cross-entropy, in the place of `burn::nn::loss::CrossEntropyLoss`. By
/// [`CrossEntropyLossConfig`](crate::CrossEntropyLossConfig), or with all options of a [`xent::CrossEntropy`] by
/// [`CrossEntropyLoss::new`].
///
/// It has no parameters. A clone shares the options.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct CrossEntropyLoss {
    #[module(skip)]
    cross_entropy: Arc<CrossEntropy>,
    /// What computes it, where the input is probabilities.
    of_probabilities: Option<burn::nn::loss::CrossEntropyLoss>,
}

/// The same lines as burn's own.
impl ModuleDisplay for CrossEntropyLoss {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let count = |count| format!("Vec<0..{count}>");
        let weights = self.cross_entropy.weight().map_or("None".to_owned(), |weight| count(weight.len()));
        content
            .add("pad_tokens", &count(self.cross_entropy.ignore_indices().len()))
            .add("weights", &weights)
            .add("smoothing", &self.cross_entropy.label_smoothing())
            .add("logits", &self.of_probabilities.is_none())
            .optional()
    }
}

impl CrossEntropyLoss {
    /// The loss with the options of `cross_entropy`, its reduction included: z-loss, focal loss and the others of
    /// [`xent::CrossEntropyBuilder`], which burn has no names for. Note that it ignores targets of -100 by default.
    ///
    /// ```
    /// use burn::tensor::{Device, Int, Tensor};
    /// use xent::{CrossEntropy, Reduction};
    /// use xent_burn::CrossEntropyLoss;
    ///
    /// let device = Device::flex();
    /// let ce = CrossEntropy::builder().z_loss(1e-4).reduction(Reduction::Sum).build()?;
    /// let logits = Tensor::<2>::from_floats([[1.0, 2.0, 3.0], [2.0, 1.0, 0.5]], &device);
    /// let loss = CrossEntropyLoss::new(ce).forward(logits, Tensor::<1, Int>::from_ints([1, 0], &device));
    /// assert!((loss.into_scalar::<f32>() - 1.873).abs() < 1e-3);
    /// # Ok::<(), xent_burn::Error>(())
    /// ```
    pub fn new(cross_entropy: CrossEntropy) -> Self {
        Self { cross_entropy: Arc::new(cross_entropy), of_probabilities: None }
    }

    pub(crate) fn of_probabilities(self, burns_own: burn::nn::loss::CrossEntropyLoss) -> Self {
        Self { of_probabilities: Some(burns_own), ..self }
    }

    /// The options. Where the input is probabilities, burn's own loss has those that burn knows.
    pub fn cross_entropy(&self) -> &CrossEntropy {
        &self.cross_entropy
    }

    /// The reduced loss, of shape `[1]` and the logits' dtype. `logits` is N x C, of `f32`, `f64`, `bf16` or `f16`;
    /// `targets` has N classes below C, or padding tokens.
    ///
    /// # Panics
    /// Where [`try_forward`](Self::try_forward) returns an error, as burn's own does.
    #[track_caller]
    pub fn forward(&self, logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        self.try_forward(logits, targets).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same, with an error where something is wrong.
    ///
    /// # Errors
    /// [`Error::NotOnFlex`], [`Error::UnsupportedDType`], and [`Error::Refused`] with the row and the value: see
    /// [`xent::CrossEntropy::loss`].
    pub fn try_forward(&self, logits: Tensor<2>, targets: Tensor<1, Int>) -> Result<Tensor<1>, Error> {
        match &self.of_probabilities {
            Some(burns_own) => {
                rows::check_targets(&self.cross_entropy, logits.dims(), &targets)?;
                Ok(burns_own.forward(logits, targets))
            }
            None => operation::forward(&self.cross_entropy, logits, targets),
        }
    }
}
