"""Fused softmax cross-entropy on CPUs.

Loss and gradient in one pass, at memory speed, with stated error bounds and the same bits for any number of threads.
Arrays are NumPy's, or anything that has ``__dlpack__``; their memory is read and written where it is.
"""

import os
from functools import lru_cache

from ._native import BACKENDS, BUILD, DTYPES, CrossEntropy, Summary, after_fork, log_softmax, softmax

__all__ = [
    "BACKENDS",
    "BUILD",
    "DTYPES",
    "CrossEntropy",
    "Summary",
    "cross_entropy",
    "log_softmax",
    "loss_and_grad",
    "softmax",
]

# Threads survive no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork)

_without_weight = lru_cache(maxsize=64, typed=True)(CrossEntropy)


def _built(weight, options):
    """The loss with these options; without class weights it is built once."""
    if weight is not None:
        return CrossEntropy(weight, **options)
    try:
        return _without_weight(**options)
    except TypeError:  # A list of ignored indices has no hash; or there is something wrong with an option.
        return CrossEntropy(**options)


def cross_entropy(input, target, weight=None, *, loss_mask=None, row_weights=None, denominator=None, **options):
    """The cross-entropy of the softmax of ``input`` and ``target``.

    ``input`` has shape (C), (N, C) or (N, C, d1, ...); ``target`` has one class for each row, or probabilities in the
    shape of ``input``. Options are those of :class:`CrossEntropy`, by the names that
    ``torch.nn.functional.cross_entropy`` has for them. Returns a float, or with ``reduction="none"`` an array.

    >>> import numpy, xent
    >>> input = numpy.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], dtype=numpy.float32)
    >>> round(xent.cross_entropy(input, numpy.array([2, 0])), 4)
    0.4076
    """
    loss = _built(weight, options)
    return loss.loss(input, target, loss_mask=loss_mask, row_weights=row_weights, denominator=denominator)


def loss_and_grad(
    input,
    target,
    weight=None,
    *,
    out=None,
    grad_dtype=None,
    loss_mask=None,
    row_weights=None,
    upstream=None,
    upstream_scalar=None,
    denominator=None,
    **options,
):
    """What :func:`cross_entropy` returns, and its derivative with respect to ``input``.

    The gradient is written to ``out``, which may be ``input`` itself, or to a new array. With ``reduction="none"`` it
    is that of the sum, each row times its number in ``upstream`` if there is one. ``out`` may be float32, float16 or
    bfloat16 whatever ``input`` is; ``grad_dtype`` is the dtype of a new array, that of ``input`` if it is
    ``None``. The gradient is rounded to it once.

    >>> import numpy, xent
    >>> input = numpy.array([[0.0, 0.0]], dtype=numpy.float32)
    >>> loss, grad = xent.loss_and_grad(input, numpy.array([1]), out=input)
    >>> grad is input, input.tolist()
    (True, [[0.5, -0.5]])
    """
    return _built(weight, options).loss_and_grad(
        input,
        target,
        out=out,
        grad_dtype=grad_dtype,
        loss_mask=loss_mask,
        row_weights=row_weights,
        upstream=upstream,
        upstream_scalar=upstream_scalar,
        denominator=denominator,
    )
