"""The formulas in float64, plainly: what all results are compared with."""

import numpy

# The contract's bound for a loss and for a gradient, (D + 8) u with u = 2^-24, where the mean gap D of these tests' logits is
# below 56; and one rounding to the dtype of the gradient. For float64 u is 2^-53, and these formulas have
# errors of their own: so it is 16 times as many.
RELATIVE = 64 * 2.0**-24
UNIT = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
RELATIVE_FLOAT64 = 1024 * 2.0**-53


def log_softmax(x):
    x = numpy.asarray(x, dtype=numpy.float64)
    gaps = x - x.max(axis=-1, keepdims=True)
    return gaps - numpy.log(numpy.exp(gaps).sum(axis=-1, keepdims=True))


def loss_and_grad(
    x, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0, z_loss=0.0, denominator=None
):
    """Losses (of rows, or one) and gradient of logits of shape (N, C), classes or probabilities as targets."""
    x = numpy.asarray(x, dtype=numpy.float64)
    rows, classes = x.shape
    w = numpy.ones(classes) if weight is None else numpy.asarray(weight, dtype=numpy.float64)
    log_p = log_softmax(x)
    p = numpy.exp(log_p)
    if numpy.issubdtype(numpy.asarray(target).dtype, numpy.integer):
        counts = target != ignore_index
        one_hot = numpy.zeros((rows, classes))
        one_hot[counts, target[counts]] = 1.0
        q = w * ((1 - label_smoothing) * one_hot + label_smoothing / classes) * counts[:, None]
        divisor = (one_hot * w).sum()
    else:
        counts = numpy.ones(rows, dtype=bool)
        q = w * ((1 - label_smoothing) * numpy.asarray(target, dtype=numpy.float64) + label_smoothing / classes)
        divisor = float(rows)
    lse = numpy.log(numpy.exp(x - x.max(axis=1, keepdims=True)).sum(axis=1)) + x.max(axis=1)
    scale = {"mean": 1 / divisor if divisor else numpy.nan, "sum": 1.0, "none": 1.0}[reduction]
    z_scale = {"mean": 1 / max(counts.sum(), 1), "sum": 1.0, "none": 1.0}[reduction]
    if denominator is not None:
        scale = z_scale = 1 / denominator
    losses = scale * -(q * log_p).sum(axis=1) + z_scale * z_loss * counts * lse**2
    grad = scale * (q.sum(axis=1, keepdims=True) * p - q)
    grad += z_scale * (2 * z_loss * counts * lse)[:, None] * p
    return (losses if reduction == "none" else losses.sum()), grad


def assert_close(actual, expected, dtype="float32"):
    """Within the contract, of the largest number."""
    actual, expected = numpy.asarray(actual, dtype=numpy.float64), numpy.asarray(expected, dtype=numpy.float64)
    assert actual.shape == expected.shape
    relative = RELATIVE_FLOAT64 if dtype == "float64" else RELATIVE + UNIT[dtype]
    bound = relative * max(1e-30, numpy.abs(expected).max(initial=0.0))
    worst = numpy.abs(actual - expected).max(initial=0.0)
    assert worst <= bound, f"off by {worst}, more than {bound}"
