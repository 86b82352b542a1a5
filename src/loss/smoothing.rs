//! Conventions of label smoothing.

/// Over which classes label smoothing spreads its share eps of the target distribution, and how.
///
/// With w the class weights (1 without), y the target and L the number of live classes, those with a logit above -inf, the
/// loss of a row is (1 - eps) w_y (-ln p_y) plus
///
/// | convention | term |
/// |---|---|
/// | [`AllClasses`](Self::AllClasses) | (eps / C) sum_c w_c (-ln p_c) |
/// | [`OtherClasses`](Self::OtherClasses) | (eps / (C - 1)) sum_{c != y} w_c (-ln p_c) |
/// | [`LiveClasses`](Self::LiveClasses) | (eps / L) sum_{c live} w_c (-ln p_c) |
///
/// and each term v_c (-ln p_c) adds v_c (p_i - [i = c]) to the gradient. What the mean divides by is the same for all.
///
/// ```
/// use xent::{CrossEntropy, Matrix, Smoothing};
///
/// // The third class is masked out.
/// let logits = [1.0, 2.0, f32::NEG_INFINITY];
/// let loss = |smoothing| {
///     let ce = CrossEntropy::builder().label_smoothing(0.1).smoothing(smoothing).build()?;
///     ce.loss(Matrix::new(&logits, 1, 3)?, &[1_u8])
/// };
/// assert_eq!(loss(Smoothing::AllClasses)?, f64::INFINITY);
/// // 0.95 (-ln 0.7311) + 0.05 (-ln 0.2689)
/// assert!((loss(Smoothing::LiveClasses)? - 0.363_26).abs() < 1e-5);
/// # Ok::<(), xent::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Smoothing {
    /// Over all classes, the target among them, which so keeps 1 - eps + eps / C: the convention of
    /// [Szegedy et al. 2015](https://arxiv.org/abs/1512.00567), section 7, of
    /// [PyTorch](https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html) and of Keras.
    #[default]
    AllClasses,
    /// Over the other classes; the target keeps 1 - eps. So do
    /// [Megatron-LM](https://github.com/NVIDIA/Megatron-LM/blob/main/megatron/core/tensor_parallel/cross_entropy.py) and
    /// [t5x](https://github.com/google-research/t5x/blob/main/t5x/losses.py), whose loss is lower by the entropy of the
    /// smoothed targets. With a single class there is nothing to spread.
    OtherClasses,
    /// Over the classes with a logit above -inf, so that rows with masked classes keep a finite loss; a masked class has a
    /// gradient of 0. Without masked classes it is [`AllClasses`](Self::AllClasses).
    LiveClasses,
}
