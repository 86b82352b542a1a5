"""The cross-entropy of a softmax for JAX on the CPU, fused: a foreign function of XLA with a derivative of its own.

The gradient is computed along with the loss, in one pass over the logits, and the backward pass multiplies it by the
cotangent; where no gradient is asked for, none is computed. It works under ``jax.jit``, ``jax.grad``,
``jax.value_and_grad``, ``jax.vmap``, ``jax.checkpoint`` and ``jax.lax.scan``.

What is not there: derivatives with respect to anything but the logits (a ``ValueError``), forward-mode and second
derivatives (errors of JAX's), and other platforms than the CPU.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jaxlib
import numpy
from jax import numpy as jnp
from jax.custom_derivatives import SymbolicZero

import xent
from xent._native import xla_cross_entropy

__all__ = ["cross_entropy"]

if jaxlib.version.__version_info__ < (0, 10):
    raise ImportError(f"xent.jax needs jaxlib 0.10 or later; this is {jaxlib.__version__}")

_TARGET = "xent_cross_entropy"
jax.ffi.register_ffi_target(_TARGET, xla_cross_entropy(), platform="cpu")


def cross_entropy(
    logits,
    labels,
    weight=None,
    *,
    ignore_index=-100,
    reduction="mean",
    label_smoothing=0.0,
    smoothing="all_classes",
    z_loss=0.0,
    focal_gamma=0.0,
    logit_scale=1.0,
    softcap=None,
    empty_mean="nan",
    loss_mask=None,
    row_weights=None,
    overwrite_logits=False,
):
    """The cross-entropy of the softmax of ``logits`` and ``labels``.

    ``logits`` have shape (..., C), in float32, float16, bfloat16 or float64; ``labels`` have shape (...) with a class for
    each row, in an integer dtype of 8 bits or more, or the logits' shape with probabilities. A row has the loss
    sum_c -w_c q_c ln softmax(x)_c, with the class weights w and the labels, smoothed, as q. Options are those of
    :class:`xent.CrossEntropy`, by the names that ``torch.nn.functional.cross_entropy`` has for them; ``weight`` has shape
    (C), ``loss_mask`` (bool) and ``row_weights`` the shape of classes as labels.

    Returns one number, or with ``reduction="none"`` an array of shape (...): in float64 for such logits, else in float32.
    The gradient has the logits' dtype, and is rounded to it before the cotangent multiplies it: in float16 what is below
    6e-8 is lost, and a loss scale comes too late for it.

    With ``overwrite_logits`` the gradient takes the place of the logits, and no memory is needed for it: for logits that
    nobody else reads, as those of a linear head. Where somebody does, or they are an argument of the compiled function,
    XLA copies them first.

    A label that is no class is an error when the function runs, with its row (counted over all dimensions of the rows)
    and value: ``jax.errors.JaxRuntimeError``, or a ``ValueError`` where the result is waited for. So is a weight that is
    negative or not finite. What is wrong with options, shapes and dtypes is a ``ValueError`` or ``TypeError`` when the
    function is traced.

    >>> import jax, xent.jax
    >>> logits = jax.numpy.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    >>> loss, grad = jax.value_and_grad(xent.jax.cross_entropy)(logits, jax.numpy.array([2, 0]))
    >>> round(float(loss), 4), grad.shape
    (0.4076, (2, 3))
    """
    options = _Options(
        () if ignore_index is None else tuple(numpy.atleast_1d(ignore_index).tolist()),
        reduction,
        float(label_smoothing),
        smoothing,
        float(z_loss),
        float(focal_gamma),
        float(logit_scale),
        None if softcap is None else float(softcap),
        empty_mean,
    )
    xent.CrossEntropy(**options._asdict())  # What is wrong with an option is said here.
    logits, inputs = jnp.asarray(logits), {"labels": _as_labels(labels)}
    _check_logits(logits, inputs["labels"], options)
    for name, dtype, value in (
        ("weight", jnp.float32, weight),
        ("loss_mask", None, loss_mask),
        ("row_weights", jnp.float32, row_weights),
    ):
        if value is not None:
            inputs[name] = jnp.asarray(value, dtype)
    loss = _loss(options, overwrite_logits, _as_rows(logits, logits.ndim - 1), _checked(inputs, logits))
    return loss.reshape(logits.shape[:-1]) if reduction == "none" else loss


class _Options(NamedTuple):
    """What a compiled function has as constants."""

    ignore_index: tuple
    reduction: str
    label_smoothing: float
    smoothing: str
    z_loss: float
    focal_gamma: float
    logit_scale: float
    softcap: "float | None"
    empty_mean: str

    def attributes(self):
        """The same as XLA's attributes, which have their types from NumPy's."""
        attributes = self._asdict()
        for name, value in self._asdict().items():
            if value is None:
                del attributes[name]
            elif isinstance(value, float):
                attributes[name] = numpy.float64(value)
        return {**attributes, "ignore_index": numpy.array(self.ignore_index, dtype=numpy.int64)}


def _as_labels(labels):
    """An array of JAX's. Where JAX makes 32 bits of 64, no label becomes another."""
    array = jnp.asarray(labels)
    if isinstance(labels, numpy.ndarray) and jnp.issubdtype(array.dtype, jnp.integer):
        lost = labels[labels.astype(array.dtype) != labels]
        if lost.size:
            raise ValueError(f"labels has {lost[0]}, which {array.dtype.name} has not; see jax_enable_x64")
    return array


def _check_logits(logits, labels, options):
    if logits.dtype.name not in xent.DTYPES:
        raise TypeError(f"logits is {logits.dtype.name}; logits are {', '.join(xent.DTYPES)}")
    if logits.ndim == 0:
        raise ValueError("logits has no dimension of classes")
    if jnp.issubdtype(labels.dtype, jnp.integer):
        if jnp.iinfo(labels.dtype).bits < 8:
            raise TypeError(f"labels is {labels.dtype.name}; integers have 8 bits or more")
        return
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        raise TypeError(f"labels is {labels.dtype.name}, not of integers or probabilities")
    if any(index >= 0 for index in options.ignore_index):
        raise ValueError("ignore_index is for classes as labels, not for probabilities")
    if options.focal_gamma > 0:
        raise ValueError("focal_gamma is for classes as labels, not for probabilities")
    if options.label_smoothing > 0 and options.smoothing == "other_classes":
        raise ValueError("smoothing='other_classes' is for classes as labels, not for probabilities")


def _checked(inputs, logits):
    """All arrays but the logits, in the shapes and dtypes that the foreign function has."""
    rows_rank = logits.ndim - 1
    rows_shape, weight_shape = logits.shape[:-1], logits.shape[-1:]
    checked = {}
    for name, value in inputs.items():
        if name == "loss_mask" and value.dtype != jnp.bool_:
            raise TypeError(f"loss_mask is {value.dtype.name}, not bool")
        is_probabilities = name == "labels" and jnp.issubdtype(value.dtype, jnp.floating)
        shape = logits.shape if is_probabilities else weight_shape if name == "weight" else rows_shape
        if value.shape != shape:
            raise ValueError(f"{name} has shape {value.shape} instead of {shape}")
        value = value.astype(_loss_dtype(logits)) if is_probabilities else value
        checked[name] = value if name == "weight" else _as_rows(value, rows_rank)
    return checked


def _as_rows(array, rows_rank):
    """With one dimension in place of the first ones."""
    return array.reshape(math.prod(array.shape[:rows_rank]), *array.shape[rows_rank:])


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss(options, overwrite_logits, logits, inputs):
    """Of logits of shape (rows, C): one number, or one for each row."""
    (loss,) = _call(options, logits, inputs, with_grad=False)
    return loss


def _loss_and_grad(options, overwrite_logits, logits, inputs):
    for name, value in inputs.items():
        if value.perturbed:
            raise ValueError(
                f"there is no derivative with respect to {name}; jax.lax.stop_gradient makes a constant of it"
            )
    inputs = {name: value.value for name, value in inputs.items()}
    loss, grad = _call(options, logits.value, inputs, with_grad=True, overwrite_logits=overwrite_logits)
    # On a mesh with explicit axes, a gradient lies as what it is of.
    sharding = jax.typeof(logits.value).sharding
    return loss, jax.sharding.reshard(grad, sharding) if sharding.mesh.explicit_axes else grad


def _scaled_grad(options, overwrite_logits, grad, cotangent):
    # With symbolic zeros, JAX may have one here too.
    if isinstance(cotangent, SymbolicZero):
        return None, None
    cotangent = cotangent[:, None] if options.reduction == "none" else cotangent
    # What has no gradient, an ignored row say, has none of a cotangent that is not finite.
    scaled = (grad.astype(cotangent.dtype) * cotangent).astype(grad.dtype)
    return jnp.where(grad == 0, grad, scaled), None


_loss.defvjp(_loss_and_grad, _scaled_grad, symbolic_zeros=True)


def _varying(value):
    """The axes of the mesh that an array differs along."""
    aval = jax.typeof(value)
    return aval.mat.varying if hasattr(aval, "mat") else aval.vma  # As JAX called it before 0.10.2.


def _loss_dtype(logits):
    """That of losses, and of labels that are probabilities."""
    return jnp.float64 if logits.dtype == jnp.float64 else jnp.float32


def _call(options, logits, inputs, with_grad, overwrite_logits=False):
    loss_shape = logits.shape[:1] if options.reduction == "none" else ()
    results = {"loss": jax.ShapeDtypeStruct(loss_shape, _loss_dtype(logits))}
    if with_grad:
        results["grad"] = jax.ShapeDtypeStruct(logits.shape, logits.dtype)
    function = jax.ffi.ffi_call(
        _TARGET,
        tuple(results.values()),
        # What a batch shares is not copied, but where the gradient of each of its items takes the place of the logits.
        vmap_method="broadcast_all" if overwrite_logits else "expand_dims",
        input_output_aliases={0: 1} if overwrite_logits else None,
    )
    names = {"arguments": " ".join(["logits", *inputs]), "results": " ".join(results)}
    outputs = function(logits, *inputs.values(), **names, **options.attributes())
    # Within `jax.shard_map`, what comes of an array that varies over the mesh does too. A foreign call does not say so.
    varying = frozenset().union(*(_varying(value) for value in (logits, *inputs.values())))
    return tuple(jax.lax.pcast(output, tuple(varying), to="varying") for output in outputs) if varying else outputs
