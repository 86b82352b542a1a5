//! The options of the loss on their way to being checked.

use crate::backend::Instructions;
use crate::loss::{ClassWeights, EmptyMean, Options, is_factor};
use crate::parallel::Schedule;
use crate::{Backend, CrossEntropy, Error, Parallelism, Reduction, Smoothing};

/// Options of a [`CrossEntropy`] on their way to being checked.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct CrossEntropyBuilder {
    /// All but the class weights.
    options: Options,
    weight: Option<Vec<f32>>,
    backend: Option<Backend>,
    parallelism: Parallelism,
}

impl CrossEntropyBuilder {
    /// One weight for each class, finite and not negative. Default: all 1.
    pub fn weight(mut self, weight: impl Into<Vec<f32>>) -> Self {
        self.weight = Some(weight.into());
        self
    }

    /// Rows with this target contribute nothing, and their logits are not read. It need not be a valid class; `None`
    /// switches it off. Default: -100.
    pub fn ignore_index(self, ignore_index: impl Into<Option<i64>>) -> Self {
        self.ignore_indices(ignore_index.into())
    }

    /// Rows with any of these targets are ignored: several kinds of padding. The list takes the place of what
    /// [`ignore_index`](Self::ignore_index) set, its default of -100 included.
    ///
    /// ```
    /// use xent::{CrossEntropy, Matrix};
    ///
    /// let ce = CrossEntropy::builder().ignore_indices([-100, 0]).build()?;
    /// let logits = [0.5, 1.0, 2.0, 0.0, 1.0, 0.0];
    /// let loss = ce.loss(Matrix::new(&logits, 3, 2)?, &[0, -100, 1])?;
    /// assert!((loss - 1.313_3).abs() < 1e-4);
    /// # Ok::<(), xent::Error>(())
    /// ```
    pub fn ignore_indices(mut self, ignore_indices: impl IntoIterator<Item = i64>) -> Self {
        self.options.ignore_indices = ignore_indices.into_iter().collect();
        self
    }

    /// The share of the target distribution that is spread evenly over the classes, from 0 to 1. Default: 0.
    pub fn label_smoothing(mut self, label_smoothing: f64) -> Self {
        self.options.label_smoothing = label_smoothing;
        self
    }

    /// Which classes label smoothing spreads over. Default: all of them, as in PyTorch.
    pub fn smoothing(mut self, smoothing: Smoothing) -> Self {
        self.options.smoothing = smoothing;
        self
    }

    /// The coefficient z of the z-loss, which keeps lse near 0: finite and not negative. Default: 0.
    pub fn z_loss(mut self, z_loss: f64) -> Self {
        self.options.z_loss = z_loss;
        self
    }

    /// The focusing parameter gamma of the focal loss of [Lin et al. 2017](https://arxiv.org/abs/1708.02002), equation 5:
    /// rows that are easy, with a target of high probability, count less. Finite and not negative. Default: 0, the plain
    /// loss.
    ///
    /// The loss becomes (1 - p_y)^gamma (-ln p_y), and its gradient
    /// (1 - p_y)^gamma (1 + gamma p_y (-ln p_y) / (1 - p_y)) (p_i - [i = y]). [`weight`](Self::weight) is the paper's
    /// alpha. What the mean divides by remains the sum of the weights. Of a smoothed loss, the term of the target alone is
    /// multiplied, (1 - eps) w_y (1 - p_y)^gamma (-ln p_y); the terms of smoothing and the z-loss remain what they are.
    ///
    /// ```
    /// use xent::{CrossEntropy, Matrix};
    ///
    /// let ce = CrossEntropy::builder().focal_gamma(2.0).build()?;
    /// // The target has a probability of 0.7311.
    /// let loss = ce.loss(Matrix::new(&[1.0, 2.0], 1, 2)?, &[1_u8])?;
    /// assert!((loss - (0.268_94_f64).powi(2) * 0.313_26).abs() < 1e-6);
    /// # Ok::<(), xent::Error>(())
    /// ```
    pub fn focal_gamma(mut self, focal_gamma: f64) -> Self {
        self.options.focal_gamma = focal_gamma;
        self
    }

    /// What logits are multiplied by before the softmax, and before [`softcap`](Self::softcap): the inverse of a
    /// [`temperature`](Self::temperature), the factor of cosine similarities (CLIP,
    /// [Radford et al. 2021](https://arxiv.org/abs/2103.00020), section 2.3), or a model's own (`logits_scaling` of Granite).
    /// Above 0, and a normal number of `f32`, to which it is rounded unless logits are `f64`. Default: 1.
    ///
    /// The loss is that of the scaled logits, and so is every output; but the gradient is that with respect to the logits
    /// given, by the chain rule.
    ///
    /// ```
    /// use xent::{CrossEntropy, Matrix};
    ///
    /// let ce = CrossEntropy::builder().logit_scale(0.5).build()?;
    /// let plain = CrossEntropy::default();
    /// let loss = ce.loss(Matrix::new(&[2.0_f32, 4.0], 1, 2)?, &[1_u8])?;
    /// assert_eq!(loss, plain.loss(Matrix::new(&[1.0_f32, 2.0], 1, 2)?, &[1_u8])?);
    /// # Ok::<(), xent::Error>(())
    /// ```
    pub fn logit_scale(mut self, logit_scale: f64) -> Self {
        self.options.logit_scale = logit_scale;
        self
    }

    /// [`logit_scale`](Self::logit_scale) of 1 / `temperature`, the temperature of
    /// [Hinton et al. 2015](https://arxiv.org/abs/1503.02531), section 2: above 1 it makes the softmax softer. One that is not
    /// above 0 is an [`Error::InvalidLogitScale`], of its inverse.
    pub fn temperature(self, temperature: f64) -> Self {
        self.logit_scale(1.0 / temperature)
    }

    /// The cap s of logits before the softmax, which become s tanh(x / s), after [`logit_scale`](Self::logit_scale): as in
    /// Gemma 2 ([Gemma Team 2024](https://arxiv.org/abs/2408.00118), section 2), whose final logits have a cap of 30, and
    /// [Liger-Kernel](https://github.com/linkedin/Liger-Kernel), after
    /// [Bello et al. 2016](https://arxiv.org/abs/1611.09940), appendix A. Above 0; it, and the scale divided by it, are normal
    /// numbers of `f32`, to which they are rounded unless logits are `f64`. Default: `None`.
    ///
    /// The loss is that of the capped logits, and so is every output; but the gradient is that with respect to the logits
    /// given, each times scale (1 - tanh^2). A masked class stays masked: a logit of -inf has a probability and a gradient of
    /// exactly 0, and -inf as its capped value. A row with +inf is NaN.
    ///
    /// ```
    /// use xent::{CrossEntropy, Matrix, MatrixMut};
    ///
    /// let ce = CrossEntropy::builder().softcap(30.0).build()?;
    /// let (logits, mut grad) = ([10.0_f32, 60.0], [0.0; 2]);
    /// let grad = MatrixMut::new(&mut grad, 1, 2)?;
    /// let loss = ce.loss_and_grad(Matrix::new(&logits, 1, 2)?, &[0_u8], grad)?;
    /// // 30 tanh(2) - 30 tanh(1/3)
    /// assert!((loss - (28.920_8 - 9.645_5)).abs() < 1e-3);
    /// # Ok::<(), xent::Error>(())
    /// ```
    pub fn softcap(mut self, softcap: impl Into<Option<f64>>) -> Self {
        self.options.softcap = softcap.into();
        self
    }

    /// How the rows' losses become one. Default: the mean. For PyTorch's `"none"`, ask for
    /// [`Request::losses`](crate::Request::losses).
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.options.reduction = reduction;
        self
    }

    /// What the mean is where no row counts. Default: NaN. The gradient is 0 either way.
    pub fn empty_mean(mut self, empty_mean: EmptyMean) -> Self {
        self.options.empty_mean = empty_mean;
        self
    }

    /// The instruction set. Default: the fastest that this CPU has.
    pub fn backend(mut self, backend: Backend) -> Self {
        self.backend = Some(backend);
        self
    }

    /// Whether calls may use several threads. Default: [`Parallelism::Rayon`].
    pub fn parallelism(mut self, parallelism: Parallelism) -> Self {
        self.parallelism = parallelism;
        self
    }

    /// The loss with these options.
    ///
    /// # Errors
    /// [`Error::InvalidWeight`], [`Error::InvalidLabelSmoothing`], [`Error::InvalidZLoss`],
    /// [`Error::InvalidFocalGamma`], [`Error::InvalidLogitScale`], [`Error::InvalidSoftcap`] and
    /// [`Error::BackendUnavailable`].
    pub fn build(self) -> Result<CrossEntropy, Error> {
        let invalid = |weight: f32| !(weight >= 0.0 && weight.is_finite());
        if let Some(weights) = &self.weight
            && let Some((class, &weight)) = weights.iter().enumerate().find(|&(_, &weight)| invalid(weight))
        {
            return Err(Error::InvalidWeight { class, weight });
        }
        let label_smoothing = self.options.label_smoothing;
        if !(0.0..=1.0).contains(&label_smoothing) {
            return Err(Error::InvalidLabelSmoothing { label_smoothing });
        }
        let z_loss = self.options.z_loss;
        if !(z_loss >= 0.0 && z_loss.is_finite()) {
            return Err(Error::InvalidZLoss { z_loss });
        }
        let focal_gamma = self.options.focal_gamma;
        if !(focal_gamma >= 0.0 && focal_gamma.is_finite()) {
            return Err(Error::InvalidFocalGamma { focal_gamma });
        }
        let logit_scale = self.options.logit_scale;
        if !is_factor(logit_scale) {
            return Err(Error::InvalidLogitScale { logit_scale });
        }
        if let Some(softcap) = self.options.softcap
            && !(is_factor(softcap) && is_factor(logit_scale / softcap))
        {
            return Err(Error::InvalidSoftcap { softcap });
        }
        let instructions = match self.backend {
            Some(backend) => Instructions::of(backend)?,
            None => Instructions::detect(),
        };
        Ok(CrossEntropy {
            options: Options { weight: self.weight.map(ClassWeights::new), ..self.options },
            schedule: Schedule::new(instructions, self.parallelism),
        })
    }
}
