//! The numeric contract: how far a result may be from the exact one, as constants that the tests use too.
//!
//! For a row of `f32` logits x with maximum m and softmax p, let d_i = x_i - m, D = sum_i p_i |d_i| the row's mean gap,
//! and D' the same over the classes other than the target, with their p renormalised. The terms in d and D are what
//! rounding each d_i to `f32` costs, whatever is done afterwards; the constants are what the kernels may add.
//!
//! | quantity | bound |
//! |---|---|
//! | probability; gradient away from the target | relative error at most (\|d_i\| + D + [`PROBABILITY`]) [`U`] where the exact value is a normal number; exactly 0 below `f32::MIN_POSITIVE` |
//! | loss of a row; log-probability of its target | relative error at most (D' + [`LOSS`]) [`U`], also for confident rows |
//! | gradient at the target | relative error at most (D' + [`TARGET_GRADIENT`]) [`U`], also as p approaches 1 |
//! | lse | error at most (D + [`LSE`]) [`U`] (\|m\| + ln S), S the sum of exp(d_i) |
//! | log-probability | error at most ([`LOG_PROBABILITY`] (\|d_i\| + ln S) + D) [`U`] |
//! | entropy | error at most sum_c p_c (lse - x_c) (3 \|d_c\| + D + [`ENTROPY`]) [`U`]; classes of probability 0 have no part |
//! | reduced loss | the rows' bound plus [`U`] |
//! | Hessian-vector product | error at most sum_j \|H_ij v_j\| h_ij [`U`], see below |
//! | diagonal of the Hessian | relative error at most h_ii [`U`] |
//! | directional derivative of a row's loss | error at most sum_i \|g_i v_i\| (\|d_i\| + D + D' + [`DIRECTIONAL_DERIVATIVE`]) [`U`], D' for the target alone |
//!
//! A gradient that is accumulated has one rounding more, that of the sum.
//!
//! No subnormal number is ever stored or returned. With label smoothing or class weights, the loss is a sum of positive
//! terms and keeps its bound, with the weights in D'. Of classes but the target, a weight counts as 0 in smoothing
//! where it is below 2^-126 of the largest, that rounded up to a power of 2. The gradient is a difference, and its
//! bound holds relative to the sum of the magnitudes of its two terms. At the target, the one that is a multiple of its
//! p has the error of a probability where that is larger: it is all that there is where the target has a weight of 0.
//! Of a coefficient above 1 (a class weight, an upstream gradient) the gradient is 0 where the probability is. Away
//! from the target it is finite: where that of the largest logit would be above `f32::MAX` it is that, and those of the
//! others are smaller in proportion; a second term likewise, where that of the largest weight would be. So it is at the
//! target under a softcap. A sum of two such terms may be infinite, and a term of a target's probability above 1; and
//! then NaN where a softcap's derivative is 0. A z-loss z lse^2 adds the error of its own, (2 z |lse| (D + [`LSE`]) + z
//! lse^2) [`U`], and its gradient 2 z lse p_i one term more, with an error of 2 z p_i (D + [`LSE`]) [`U`].
//!
//! Where targets are probabilities, the loss is a sum of positive terms, and its bound is (D' + [`DISTRIBUTION_LOSS`]) [`U`]
//! with D' over all classes but the largest; the error of the gradient S p_i - v_i is at most that of the probability,
//! with [`DISTRIBUTION_TARGET`] more, times S p_i, and [`DISTRIBUTION_TARGET`] [`U`] times v_i. A v_i that is no normal
//! number may count as 0 in both, and the loss may be infinite where an m - x_i with v_i > 0, or its product with v_i, is
//! above `f32::MAX`.
//!
//! The focal loss multiplies by (1 - p)^gamma, whose error is gamma times that of the gradient at the target: its bound is
//! larger by gamma (D' + [`TARGET_GRADIENT`]) [`U`], that of its gradient by as much and by the bounds on p, -ln p and
//! 1 - p of the target, times g / (1 + g) with g = gamma p (-ln p) / (1 - p).
//!
//! # Distillation
//!
//! For a student's row and a teacher's let p and q be their softmaxes at the temperature T, d and e what their logits are
//! below their maxima, divided by T, D = sum_c p_c |d_c| and E = sum_c q_c |e_c|, all in nats; r_c = ln(p_c / q_c), and
//! t_c = q_c (exp(r_c) - 1 - r_c), which add up to the divergence and of which none is negative.
//!
//! | quantity | bound |
//! |---|---|
//! | loss of a row | error at most T^2 ([`U`] sum_c ((\|p_c - q_c\| + t_c) ([`DISTILLATION_GAPS`] (\|d_c\| + \|e_c\| + \|r_c\|) + [`DISTILLATION`]) + 3 E t_c) + ([`U`] R)^2), R = 3 (D + E) + [`DISTILLATION`] |
//! | gradient | error at most T [`U`] (p_i (3 (\|d_i\| + D) + [`DISTILLATION_GRADIENT`]) + q_i (3 (\|e_i\| + E) + [`DISTILLATION_GRADIENT`])) |
//! | lse of the student | error at most (3 D + [`LSE`]) [`U`] (1 + \|m\| / T + ln S), m its largest logit and S the sum of exp(d_c) |
//!
//! T times what multiplies a row's gradient, the upstream gradient over the divisor, is `f32::MAX` where it would be
//! larger.
//!
//! A difference of logits is rounded to `f32`, the temperature's inverse is, and their product: so 3. What a class may cost
//! the loss is as much as p and q differ there: rows that are close lose little, equal ones nothing, and no loss is negative.
//! Errors of the two sums of exponentials cancel but for their square. A probability that is no normal number counts as 0,
//! which costs the loss at most 2 f32::MIN_POSITIVE (1 + \|r_c\|) T^2 for each class, and the gradient
//! 2 f32::MIN_POSITIVE max(1, T). Where the largest logits of both rows are of one class that has nearly all of both
//! probabilities, its gradient is a difference of what the others have: its error is relative to that.
//!
//! For logits of `f64` these bounds hold in [`U_F64`] and `f64::MIN_POSITIVE`, with `f64::MAX` for `f32::MAX` and with
//! [`DISTILLATION`], [`DISTILLATION_GRADIENT`] and [`LSE`] larger by [`SCALARS_F64`].
//!
//! # Scaled and capped logits
//!
//! The bounds above hold for the logits that the softmax is of, the transformed ones x'. These are `f32`, and
//! [`transformed_logit`] bounds how far each may be from its exact value, by e_i say. So with respect to the exact x', \|d_i\| becomes
//! \|d_i\| + e_i / [`U`] in all bounds, and in the means D and D'; D' of a target y also grows by e_y / [`U`]. The error of lse
//! grows by sum_c p_c e_c, that of a log-probability by as much and e_i, and that of a loss by v_c (e_c + sum_j p_j e_j) for
//! each smoothed term v_c (-ln p_c). The gradient with respect to the logits is that with respect to x' times dx'/dx, with
//! [`transform_slope`] as a further relative error; under a softcap it is 0 where 1 - tanh^2 is
//! below 4 `f32::MIN_POSITIVE`. Relative errors are of first order in the e_i: they say something where no e_i is near 1,
//! and so where no transformed logit is near 1 / [`U`], whose neighbours are further apart than 1.
//!
//! Logits that are subnormal count as 0 there, and so do transformed ones. Scaled logits beyond the largest `f32` are
//! infinite.
//!
//! # Second order
//!
//! An entry A p_i ([i = j] - p_j) + B p_i p_j of a row's Hessian has a relative error of at most h_ij [`U`], h_ij =
//! \|d_i\| + \|d_j\| + 2 D + [`HESSIAN`]; but the diagonal entry of the largest logit h_ii = D'' + 2 D + [`HESSIAN`], D'' the
//! mean gap of all others. It keeps its bound as its p approaches 1: 1 - p is a sum, not a difference. Its product with a
//! direction v is a sum of terms of both signs, which may cancel: no computation with rounded probabilities can do
//! better than a bound in their magnitudes. So can the directional derivative, a sum of g_i v_i, the gradient times the
//! direction.
//!
//! With a z-loss, magnitudes are those of the terms in A = S + 2 z lse, in B, and of those of the gradient, each by
//! itself, and A has an error of 2 z (D + [`LSE`]) [`U`], as the coefficient of the gradient has. Of a focal loss, S has the
//! relative error that its gradient has by the above, and F (p_i - [i = y]) (p_j - [j = y]) is a term of its own: with the
//! errors of p and of 1 - p of the target, and, with n = -ln p_y, those of n, p_y and 1 - p_y in each of the two terms of F.
//! Magnitudes too small for normal numbers add an error of at most f32::MIN_POSITIVE (1 + 4 max(1, A') sum_j \|v_j\|) to a
//! product, A' the sum of the coefficients' magnitudes; f32::MIN_POSITIVE (1 + 4 max(1, A')) to a diagonal.
//!
//! Of transformed logits, with s_i for [`transform_slope`], \|d_i\| becomes \|d_i\| + (e_i + s_i) / [`U`] in all of these, in
//! the means too, and D' and D'' of a class grow by its own (e_i + s_i) / [`U`]. The term g_i t''_i v_i of a softcap s has an error of
//! at most (h_ii + D' + [`CAPPED`]) [`U`] relative to the magnitudes of the terms of g_i, D' that of class i, and those of g_i
//! besides. What is too small for normal numbers is at most f32::MIN_POSITIVE (3 + 4 max(1, A') a^2 (1 + 2 / s)
//! (1 + sum_j \|v_j\|)), with the logit scale or 1 for a.
//!
//! # Confident rows
//!
//! A confident row is one where the target leads by a wide gap. PyTorch and JAX form the loss as `lse - x_t`, which at a
//! gap of 20 is 0 in `f32`; its exact value is 2e-9, and here it has all 24 bits.
//!
//! # Shards
//!
//! Row states that are merged keep these bounds, in whatever order, however the columns are cut, and however many merges
//! there are. Their bits are not those of whole rows: they depend on the cuts and on the order of the merges. Those of logits
//! of `f64` keep the bounds of `f64`: their sums carry what rounding takes from them, and an exponential that rescales
//! one has an error of at most [`MERGE_F64`] [`U_F64`], and of d [`U_F64`] where the maximum rises by a d less than that. So
//! merges cost no more than rounding x_i - m would.
//!
//! # 16 bits
//!
//! Logits of `bf16` and `f16` are widened, which is exact; everything is computed as for `f32`, and only gradients,
//! probabilities and log-probabilities are rounded to 16 bits, once, to the nearest and of two as near to the even one.
//! Their bounds are those above plus half a unit in the last place: relative [`U_BF16`] or [`U_F16`], and for `f16` at
//! least half of [`SMALLEST_F16`]. What one row has one of (loss, lse) is `f32`, with the bounds above. A gradient that is
//! [asked for in another dtype](crate::Request::grad_as) has the bound of its own dtype, whatever the logits are.
//!
//! What would be a subnormal `f32` is 0; a `bf16` is subnormal where an `f32` is, so none is stored. A subnormal `f16` is
//! a normal `f32` and is stored: its range is so small that gradients need it. Below 2^-25 a gradient in `f16` is 0; a loss
//! scale ([`upstream_scalar`](crate::Request::upstream_scalar)) lifts it. Products and diagonals of second order are those of
//! `f32` for the same numbers, rounded to 16 bits. Beyond the largest number (65,504 in `f16`, from
//! 65,520 on) results are infinite, as IEEE 754 has it. NaN stays NaN.
//!
//! # `f64`
//!
//! For logits of `f64` the bounds of the table hold with [`U_F64`] in place of [`U`] and `f64::MIN_POSITIVE` in place
//! of `f32::MIN_POSITIVE`: a row's length costs nothing, a gap of 700 has a loss of exp(-700), and nothing subnormal is
//! stored. Exponentials are within [`EXP_F64`] units in the last place. The bound on lse is ([`LSE`] (\|m\| + ln S) +
//! D) [`U_F64`], because differences x_i - m are not as often exact as those of `f32`. But what multiplies a result
//! there rounds it. Where there are options, weights, upstream gradients, or a divisor, and where targets are probabilities,
//! constants are larger by [`SCALARS_F64`]; the reduced loss has an error of [`REDUCED_F64`] [`U_F64`] besides the rows',
//! however many they are, and is 0 where it is no normal number. The error of a z-loss, and of its gradient, is that which
//! lse has by the table, or (D + [`LSE`]) [`U_F64`] where that is larger. Of a weight above 1, a row's loss is 0 where it is
//! no normal number before the weight. Scaled and capped logits are within [`transformed_logit_f64`], their derivatives within
//! [`transform_slope_f64`], and both enter as those of `f32` do.
//!
//! Second derivatives, and directional ones, keep the bounds of `f32` with [`U_F64`] in place of [`U`] and each constant, with
//! those of the errors of -ln p, p and 1 - p of a focal loss, larger by [`SCALARS_F64`], whether or not there are options. The
//! error of an lse in A is that of the z-loss. No number is wider than `f64`: where max(1, A') (1 + sum_j \|v_j\|) comes near
//! `f64::MAX`, a product or a derivative may be infinite, or NaN.
//!
//! # Bits
//!
//! A row's results depend on the row's bits and on the options, and on nothing else: not on the batch, the position, the
//! thread count, the alignment, in place or not, or the other outputs of the call. Nor on the instruction set, on every
//! CPU with fused multiply-add. The reduced loss is summed along a tree that depends on the shape alone. Where a row has no
//! softmax, its outputs are `f32::NAN` and the reduced loss is `f64::NAN`, whichever NaN the logits had.

/// The unit that bounds are stated in, but for `f64`: half the distance from 1 to the next `f32`, 2^-24.
pub const U: f64 = 1.0 / 16_777_216.0;

/// The unit of `bf16`, half the distance from 1 to the next: 2^-8.
pub const U_BF16: f64 = 1.0 / 256.0;

/// The unit of `f16`, half the distance from 1 to the next: 2^-11.
pub const U_F16: f64 = 1.0 / 2048.0;

/// The smallest positive `f16`, a subnormal one: 2^-24.
pub const SMALLEST_F16: f64 = 1.0 / 16_777_216.0;

/// Of the exponential of a gap that all of the bounds rest on: found by trying every `f32` from 0 down to the last whose
/// exponential is a normal number, on each backend.
pub const EXPONENTIAL: f64 = 1.7;

/// The unit of `f64`, half the distance from 1 to the next: 2^-53.
pub const U_F64: f64 = f64::EPSILON / 2.0;

/// What steps between the passes add to each constant for `f64`, which has nothing wider to take them in: where options,
/// upstream gradients, or a divisor multiply losses and gradients, and where targets are probabilities.
pub const SCALARS_F64: f64 = 8.0;

/// Of the reduced loss for `f64`: sums of 16 rows, and the division.
pub const REDUCED_F64: f64 = 8.0;

/// Of the exponential that rescales a sum when row states of `f64` merge, before any rounding of the sum. Measured: see
/// `src/kernel/double/pair.rs`.
pub const MERGE_F64: f64 = 0.25;

/// Largest error of the exponentials of `f64`, in units in the last place. Measured: 0.85 with fused multiply-add, 1.18
/// without (`cargo test --lib exp_keeps_its_bound_on_every_backend -- --show-output`).
pub const EXP_F64: f64 = 1.25;

/// Of tanh in `f64`, which has the same bits on every backend. Measured: 3.30
/// (`cargo test --lib tanh_and_its_derivative_keep_their_bounds -- --show-output`).
pub const TANH_F64: f64 = 4.0;

/// Of its derivative 1 - tanh^2, exactly 0 where exp(-2|v|) is below the normal numbers. Measured in the same way: 5.74.
pub const TANH_SLOPE_F64: f64 = 7.0;

/// Of probabilities, and of the gradient away from the target.
pub const PROBABILITY: f64 = 4.0;

/// Of a row's loss.
pub const LOSS: f64 = 4.0;

/// Of the gradient at the target.
pub const TARGET_GRADIENT: f64 = 8.0;

/// Of the logarithm of the sum of exponentials.
pub const LSE: f64 = 4.0;

/// Of log-probabilities.
pub const LOG_PROBABILITY: f64 = 4.0;

/// Of a scaled logit: the scale is rounded, and the product.
pub const SCALED: f64 = 2.0;

/// Of tanh in `f32`; it is odd, and as accurate near 0. Measured over every `f32`; see `src/kernel/tanh.rs`.
pub const TANH: f64 = 3.0;

/// Of its derivative 1 - tanh^2, exactly 0 below 4 `f32::MIN_POSITIVE`. Measured in the same way.
pub const TANH_SLOPE: f64 = 7.0;

/// Of a capped logit: its argument is rounded as a scaled logit is, tanh makes no more of that; and the cap is rounded, and
/// the product.
pub const CAPPED: f64 = SCALED + TANH + 2.0;

/// How far a transformed logit may be from `transformed`, its exact value: 0 where nothing is transformed.
pub fn transformed_logit(logit_scale: f64, softcap: Option<f64>, transformed: f64) -> f64 {
    of_transformed(logit_scale, softcap, transformed, [SCALED * U, CAPPED * U], f64::from(f32::MIN_POSITIVE))
}

/// [`transformed_logit`] for `f64`, whose scale and cap are not rounded but for their quotient.
pub fn transformed_logit_f64(logit_scale: f64, softcap: Option<f64>, transformed: f64) -> f64 {
    let capped = SCALED + TANH_F64 + 1.0;
    of_transformed(logit_scale, softcap, transformed, [U_F64, capped * U_F64], f64::MIN_POSITIVE)
}

/// With the relative errors of scaled and of capped logits, and the smallest normal number.
fn of_transformed(
    logit_scale: f64,
    softcap: Option<f64>,
    transformed: f64,
    [scaled, capped]: [f64; 2],
    smallest: f64,
) -> f64 {
    if softcap.is_none() && logit_scale == 1.0 || transformed.is_infinite() {
        return 0.0;
    }
    let relative = if softcap.is_some() { capped } else { scaled };
    // Logits, arguments and products below the normal numbers count as 0.
    relative * transformed.abs() + 2.0 * smallest * (logit_scale + softcap.unwrap_or(0.0) + 1.0)
}

/// How far the derivative of a transformed logit may be from its exact value, relative to that, and the gradient's product
/// with it. The softcap's is as sensitive to its argument as that is large.
pub fn transform_slope(logit_scale: f64, softcap: Option<f64>, logit: f64) -> f64 {
    of_slope(logit_scale, softcap, logit, TANH_SLOPE, 50.0) * U
}

/// [`transform_slope`] for `f64`.
pub fn transform_slope_f64(logit_scale: f64, softcap: Option<f64>, logit: f64) -> f64 {
    of_slope(logit_scale, softcap, logit, TANH_SLOPE_F64, 360.0) * U_F64
}

/// In units. The exact value is 0 from the furthest argument on.
fn of_slope(logit_scale: f64, softcap: Option<f64>, logit: f64, of_tanh: f64, furthest: f64) -> f64 {
    let Some(softcap) = softcap else { return 0.0 };
    let argument = (logit_scale * logit / softcap).abs();
    of_tanh + 1.0 + 2.0 * SCALED * argument.min(furthest)
}

/// Of a row's entropy.
pub const ENTROPY: f64 = 8.0;

/// Of a row's loss, where targets are probabilities.
pub const DISTRIBUTION_LOSS: f64 = 8.0;

/// Of the part of the gradient that is the target's, where targets are probabilities: as many roundings, of (1 - eps) times
/// the gradient's factor, its products with q and w, and two sums. Fused multiply-add saves one.
pub const DISTRIBUTION_TARGET: f64 = 5.0;

/// Of a distillation's loss: what each nat between two logits costs.
pub const DISTILLATION_GAPS: f64 = 9.0;

/// Of a distillation's loss.
pub const DISTILLATION: f64 = 16.0;

/// Of a distillation's gradient.
pub const DISTILLATION_GRADIENT: f64 = 10.0;

/// Of an entry of the Hessian.
pub const HESSIAN: f64 = 14.0;

/// Of the derivative of a row's loss along a direction.
pub const DIRECTIONAL_DERIVATIVE: f64 = 8.0;

/// Of loss and target gradient of confident rows, where the gap between the target and the rest is exact in `f32`.
pub const CONFIDENT: f64 = 2.0;
