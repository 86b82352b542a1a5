"""``torch.nn.functional.cross_entropy`` and ``torch.nn.CrossEntropyLoss`` on the CPU, fused.

The gradient is computed along with the loss, in one pass over the logits, and handed out in the backward pass: as it is
where the upstream gradient is 1, else scaled where it lies. Neither logits nor gradient are copied, but for logits whose
rows or planes are not such in memory, and the scaled gradient in compiled code. A second backward pass, double backward and
the backward pass of ``reduction="none"`` go to the logits again, which may not have changed by then: PyTorch says so if they
have. The memory of the last large gradient is kept for the next: :func:`release_memory` lets it go.

PyTorch's own function takes what is not covered: tensors that are not on the CPU, dtypes that are not in ``xent.DTYPES``,
targets that require a gradient, class weights that are negative or not finite or that float32 does not hold (of float64
logits; in compiled code, any weights of these), probabilities of shape (N, C, d1, ...) unless the classes are innermost in
memory (``channels_last``), probabilities of logits that are not float64 where they or the class weights are,
``torch.func`` transforms and forward-mode derivatives, batched backward passes, tracing, dispatch modes and subclasses of
tensors. Of third derivatives, and of second ones but with classes as targets, 64 or more of them, and innermost, PyTorch's
formulas are used.

What differs on purpose: a target that is no class raises an ``IndexError`` with its row, and a probability that is negative
or not finite a ``ValueError``, as do rows without classes; targets may be of any integer dtype. A class of probability or
weight 0 adds 0 to the loss though its logit is -inf, and an ignored row has no gradient though its logits are NaN, where
PyTorch has NaN; nor has any row where the mean divides by a weight of 0. In compiled code, class weights that are negative
or not finite are a ``ValueError``.
"""

import math
from functools import lru_cache, partial
from operator import index
from typing import Optional, Tuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import _reduction, functional
from torch.overrides import handle_torch_function, has_torch_function_variadic
from torch.utils.dlpack import to_dlpack

import xent
from xent._gradient_memory import empty_like, release_memory

__all__ = ["CrossEntropyLoss", "cross_entropy", "release_memory"]

_DTYPES = frozenset(getattr(torch, name) for name in xent.DTYPES)

# With fewer, the formula takes less time: the fused second derivatives go row by row.
_LEAST_CLASSES_OF_SECOND_ORDER = 64

_transforms_are_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)
_is_legacy_batch = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda tensor: False)
_count_of_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)

# Others have a mind of their own about operations, or no memory.
_PLAIN_TENSORS = frozenset((Tensor, torch.nn.Parameter))


def cross_entropy(
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
    *,
    z_loss=0.0,
    overwrite_input=False,
):
    """As ``torch.nn.functional.cross_entropy``, with a z-loss (``z_loss`` lse^2 for each row) if wanted.

    With ``overwrite_input`` the gradient takes the place of the logits, and no memory is needed for it: for logits that
    nobody else reads, as those of a linear head. Who had saved them for a backward pass of their own gets PyTorch's error
    about a variable that was modified in place. There is no second backward pass then. It has no effect where no gradient is
    wanted, in compiled code, and where PyTorch's own function is called.
    """
    if has_torch_function_variadic(input, target, weight):
        return handle_torch_function(
            cross_entropy,
            (input, target, weight),
            input,
            target,
            weight,
            size_average,
            ignore_index,
            reduce,
            reduction,
            label_smoothing,
            z_loss=z_loss,
            overwrite_input=overwrite_input,
        )
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    if not _is_covered(input, target, weight):
        return _formula(input, target, weight, ignore_index, reduction, label_smoothing, z_loss)
    if target.is_floating_point() and ignore_index >= 0:
        raise ValueError("ignore_index is for classes as targets, not for probabilities")
    input, target = _readable(input), _readable(target)
    if torch.compiler.is_compiling():
        return _compiled(input, target, weight, ignore_index, reduction, label_smoothing, z_loss)
    wants_grad = torch.is_grad_enabled() and input.requires_grad
    if overwrite_input and wants_grad:
        _check_overwritable(input, reduction)
    # Options may be tensors, whose numbers change.
    loss = _loss(weight, index(ignore_index), reduction, float(label_smoothing), float(z_loss))
    if wants_grad:
        return _CrossEntropy.apply(input, target, weight, loss, overwrite_input)
    return loss.forward(input, target, None)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """As ``torch.nn.CrossEntropyLoss``; see :func:`cross_entropy`."""

    def __init__(
        self,
        weight=None,
        size_average=None,
        ignore_index=-100,
        reduce=None,
        reduction="mean",
        label_smoothing=0.0,
        *,
        z_loss=0.0,
        overwrite_input=False,
    ):
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.z_loss = z_loss
        self.overwrite_input = overwrite_input

    def forward(self, input, target):
        return cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            overwrite_input=self.overwrite_input,
        )


class _Loss:
    """Options, and the loss that is built with them."""

    __slots__ = ("ce", "ignore_index", "label_smoothing", "per_row", "reduction", "weight_dtype", "z_loss")

    def __init__(self, weight, ignore_index, reduction, label_smoothing, z_loss):
        self.ignore_index, self.reduction = ignore_index, reduction
        self.label_smoothing, self.z_loss = label_smoothing, z_loss
        self.per_row = reduction == "none"
        self.weight_dtype = None if weight is None else weight.dtype
        self.ce = xent.CrossEntropy(
            None if weight is None else to_dlpack(weight.detach()),
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
        )

    def forward(self, input, target, grad, dtype=None):
        """The loss; its gradient in ``grad``, unless that is ``None``. Both tensors may be the same memory."""
        dtype = dtype or _loss_dtype(input, target, self.weight_dtype)
        if self.per_row:
            shape = input.shape[:1] + input.shape[2:] if input.dim() > 1 else ()
            losses = torch.empty(shape, dtype=_per_row_dtype(input), device="cpu")
            self.run(input, target, losses=losses)
            return losses if losses.dtype == dtype else losses.to(dtype)
        return _scalar(self.run(input, target, grad=grad).loss, dtype)

    def gradient(self, input, target, weight, upstream):
        """The gradient times an upstream one: a number, or one for each row."""
        grad = empty_like(input)
        if self.per_row:
            self.run(input, target, grad=grad, upstream=upstream)
            return grad
        scale = upstream.item()
        if math.isfinite(scale):
            self.run(input, target, grad=grad, upstream_scalar=scale)
            return grad
        return self.formula_gradient(input, target, weight, upstream)

    def run(self, input, target, grad=None, losses=None, upstream=None, upstream_scalar=None):
        return self.ce.run(
            to_dlpack(input),
            to_dlpack(target),
            grad=None if grad is None else to_dlpack(grad),
            losses=None if losses is None else to_dlpack(losses),
            upstream=None if upstream is None else to_dlpack(_in_memory(upstream)),
            upstream_scalar=upstream_scalar,
        )

    def has_second_order(self, input, target):
        if target.is_floating_point() or input.numel() == 0:
            return False
        if input.shape[min(1, input.dim() - 1)] < _LEAST_CLASSES_OF_SECOND_ORDER:
            return False
        # Planes would have to be copied as rows.
        return input.dim() <= 2 or _has_classes_innermost(input)

    def second_order(self, input, target, upstream, direction):
        """The Hessian times the direction and the upstream gradient; and the derivatives along it."""
        if direction.stride() != input.stride() or not _is_in_memory(direction):
            direction = torch.empty_like(input).copy_(direction)
        product = torch.empty_like(input)
        arguments = to_dlpack(input), to_dlpack(target), to_dlpack(direction)
        if self.per_row:
            derivatives = torch.empty(upstream.shape, dtype=_per_row_dtype(input), device="cpu")
            self.ce.jvp(*arguments, derivatives=to_dlpack(derivatives))
            derivatives = derivatives.to(upstream.dtype)
            scales = {"upstream": to_dlpack(_in_memory(upstream))}
        else:
            derivatives = _scalar(self.ce.jvp(*arguments), upstream.dtype)
            scales = {"upstream_scalar": upstream.item()}
        self.ce.hessian_vector_product(*arguments, out=to_dlpack(product), **scales)
        return product, derivatives

    def formula(self, input, target, weight):
        options = self.ignore_index, self.reduction, self.label_smoothing, self.z_loss
        return _wide_formula(input, target, weight, *options)

    def formula_gradient(self, input, target, weight, upstream):
        return _formula_gradient(partial(self.formula, target=target, weight=weight), input, upstream)


# Without class weights, options are built once.
_plain_loss = lru_cache(maxsize=64)(_Loss)


def _loss(weight, *options):
    return _plain_loss(None, *options) if weight is None else _Loss(weight, *options)


class _CrossEntropy(torch.autograd.Function):
    """The loss, and the gradient for when it is asked for."""

    @staticmethod
    def forward(ctx, input, target, weight, loss, overwrite_input):
        ctx.loss = loss
        ctx.grad = None
        ctx.overwritten = overwrite_input
        if overwrite_input:
            ctx.grad = input.detach()
        else:
            ctx.save_for_backward(input, target, weight)
            if not loss.per_row:
                ctx.grad = empty_like(input)
        value = loss.forward(input, target, ctx.grad)
        if overwrite_input:
            torch.autograd.graph.increment_version(input)
        return value

    @staticmethod
    def backward(ctx, upstream):
        # Nobody else may hold what PyTorch keeps as the gradient of a leaf, or it makes a copy.
        grad, ctx.grad = ctx.grad, None
        if ctx.overwritten and (grad is None or torch.is_grad_enabled()):
            raise RuntimeError("with overwrite_input there is one backward pass, and no double backward")
        if _is_batched(upstream) and not ctx.overwritten:
            grad = ctx.loss.formula_gradient(*ctx.saved_tensors, upstream)
        elif torch.is_grad_enabled():
            grad = _Gradient.apply(upstream, *ctx.saved_tensors, ctx.loss)
        elif grad is None:
            grad = ctx.loss.gradient(*ctx.saved_tensors, upstream)
        else:
            scale = upstream.item()
            if not math.isfinite(scale):
                if ctx.overwritten:
                    grad.copy_(_scaled(grad, upstream))
                else:
                    grad = ctx.loss.formula_gradient(*ctx.saved_tensors, upstream)
            elif scale != 1.0:
                grad.mul_(upstream)
        return grad, None, None, None, None


def _scaled(grad, upstream):
    """Rows that are ignored have a gradient of 0, also where the upstream one is not finite."""
    return torch.where(grad == 0, grad, grad * upstream)


class _Gradient(torch.autograd.Function):
    """The gradient times the upstream one, as a function of both."""

    @staticmethod
    def forward(ctx, upstream, input, target, weight, loss):
        ctx.loss = loss
        ctx.save_for_backward(upstream, input, target, weight)
        return loss.gradient(input, target, weight, upstream)

    @staticmethod
    def backward(ctx, direction):
        upstream, input, target, weight = ctx.saved_tensors
        is_plain = not (torch.is_grad_enabled() or _is_batched(upstream) or _is_batched(direction))
        is_fused = is_plain and ctx.loss.has_second_order(input, target)
        if is_fused and bool(torch.isfinite(upstream).all()):
            product, derivatives = ctx.loss.second_order(input, target, upstream, direction)
        else:
            product, derivatives = _second_order_formula(ctx, upstream, input, target, weight, direction)
        return derivatives, product, None, None, None


def _second_order_formula(ctx, upstream, input, target, weight, direction):
    if _transforms_are_active():

        def gradient(input, upstream):
            return ctx.loss.formula_gradient(input, target, weight, upstream)

        return torch.func.vjp(gradient, input, upstream)[1](direction)
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        if create_graph:
            # Partial derivatives: the upstream gradient may depend on the logits.
            upstream, input = upstream.view_as(upstream), input.view_as(input)
        else:
            upstream, input = upstream.detach(), input.detach()
        for tensor in (upstream, input):
            if not tensor.requires_grad:
                tensor.requires_grad_()
        value = ctx.loss.formula(input, target, weight)
        (grad,) = torch.autograd.grad(value, input, upstream, create_graph=True)
        return torch.autograd.grad(grad, (input, upstream), direction, create_graph=create_graph)


def _is_covered(input, target, weight):
    if not (input.is_cpu and target.is_cpu) or input.dtype not in _DTYPES or input.layout != torch.strided:
        return False
    if input.dim() == 0 or target.requires_grad:
        return False
    if _transforms_are_active() or forward_ad._current_level >= 0:
        return False
    if weight is not None and (not weight.is_cpu or weight.requires_grad):
        return False
    if target.is_floating_point() and not _are_covered_probabilities(input, target, weight):
        return False
    needs_exact_weight = weight is not None and input.dtype == torch.float64
    if torch.compiler.is_compiling():
        return not needs_exact_weight
    # A tracer would have the loss of its example as a constant.
    if torch.jit.is_tracing() or _count_of_dispatch_modes() > 0:
        return False
    if not (_is_plain(input) and _is_plain(target)):
        return False
    if weight is not None and not (_is_plain(weight) and _is_weight(weight)):
        return False
    return not needs_exact_weight or weight.equal(weight.float().to(weight.dtype))


def _are_covered_probabilities(input, target, weight):
    # The loss of any of them is in float64.
    if input.dtype != torch.float64 and torch.float64 in (target.dtype, None if weight is None else weight.dtype):
        return False
    if input.dim() <= 2:
        return True
    are_rows = _has_classes_innermost(input) and _has_classes_innermost(target)
    return are_rows and target.dtype == _per_row_dtype(input)


def _is_plain(tensor):
    """Whether it is what its memory says."""
    return type(tensor) in _PLAIN_TENSORS and not tensor.is_neg()


def _is_in_memory(tensor):
    """Whether its memory holds its numbers: not their negatives, nor nothing where all are 0."""
    return not (tensor.is_neg() or tensor._is_zerotensor())


def _in_memory(tensor):
    """The same numbers, contiguous in memory."""
    tensor = tensor.contiguous()
    return tensor if _is_in_memory(tensor) else torch.empty_like(tensor).copy_(tensor)


def _is_batched(upstream):
    """Whether it stands for many, as of a backward pass that ``is_grads_batched``, or may have a tangent."""
    return _transforms_are_active() or _is_legacy_batch(upstream) or forward_ad._current_level >= 0


def _is_weight(weight):
    """Whether they are finite and not negative."""
    if weight.numel() == 0:
        return True
    low, high = weight.aminmax()
    return low.item() >= 0 and high.item() < math.inf


def _readable(tensor):
    """The same numbers, in memory that can be read as it is."""
    return tensor if not tensor.is_floating_point() or _is_readable(tensor) else tensor.contiguous()


def _is_readable(input):
    """Whether its memory can be read as it is."""
    if input.is_contiguous():
        return True
    if input.dim() == 2:
        return input.stride(1) == 1 and input.stride(0) >= input.shape[1]
    return input.dim() > 2 and _has_classes_innermost(input)


def _has_classes_innermost(tensor):
    return tensor.dim() > 2 and tensor.movedim(1, -1).is_contiguous()


def _loss_dtype(input, target, weight_dtype):
    """That of the logits, and with probabilities of these and of the class weights, if there are any. Autocast runs the
    loss in float32; the logits need no cast for it."""
    if torch.is_autocast_enabled("cpu"):
        return _per_row_dtype(input)
    if not target.is_floating_point():
        return input.dtype
    dtype = torch.promote_types(input.dtype, target.dtype)
    return dtype if weight_dtype is None else torch.promote_types(dtype, weight_dtype)


def _scalar(value, dtype):
    try:
        return torch.scalar_tensor(value, dtype=dtype, device="cpu")
    except RuntimeError:  # It is beyond the largest number of the dtype.
        return torch.scalar_tensor(value, dtype=torch.float64, device="cpu").to(dtype)


def _per_row_dtype(input):
    """What one number for each row is computed in."""
    return torch.promote_types(input.dtype, torch.float32)


def _check_overwritable(input, reduction):
    if reduction == "none":
        raise ValueError('overwrite_input needs a reduced loss, not reduction="none"')
    base = input._base
    if input.is_leaf or (base is not None and base.is_leaf and base.requires_grad):
        raise ValueError("overwrite_input would write to a leaf that requires a gradient")


def _formula(input, target, weight, ignore_index, reduction, label_smoothing, z_loss):
    """The same by PyTorch's own operations."""
    value = functional.cross_entropy(
        input, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )
    if z_loss == 0.0:
        return value
    counts = None if target.is_floating_point() else target != ignore_index
    terms = z_loss * torch.logsumexp(input, dim=min(input.dim() - 1, 1)) ** 2
    if counts is not None:
        terms = torch.where(counts, terms, 0.0)
    if reduction == "none":
        return value + terms
    if reduction == "sum":
        return value + terms.sum()
    return value + terms.sum() / (terms.numel() if counts is None else counts.sum())


def _wide_formula(input, target, weight, *options):
    """The same, in the dtype of the sums: an upstream gradient may be too large for 16 bits, as a loss scale is."""
    dtype = _per_row_dtype(input)
    target = target.to(dtype) if target.is_floating_point() else target
    return _formula(input.to(dtype), target, None if weight is None else weight.to(dtype), *options)


def _formula_gradient(formula, input, upstream):
    """Its gradient by PyTorch's own operations; where a graph is wanted, a function of the logits and of ``upstream``."""
    if _transforms_are_active():
        return torch.func.vjp(formula, input)[1](upstream)[0]
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        input = input.view_as(input) if create_graph else input.detach().requires_grad_()
        (grad,) = torch.autograd.grad(formula(input), input, upstream, create_graph=create_graph)
    return grad


# In compiled code the loss is one operation, which compilers see the shapes of and no more.


@torch.library.custom_op("xent::cross_entropy", mutates_args=(), device_types="cpu")
def _operation(
    input: Tensor,
    target: Tensor,
    weight: Optional[Tensor],
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    z_loss: float,
    dtype: torch.dtype,
    wants_grad: bool,
) -> Tuple[Tensor, Tensor]:
    # Code that was traced may meet another order in memory.
    input, target = _readable(input), _readable(target)
    loss = _loss(weight, ignore_index, reduction, label_smoothing, z_loss)
    if not wants_grad:
        return loss.forward(input, target, None, dtype), input.new_empty(0)
    grad = empty_like(input)
    if not loss.per_row:
        return loss.forward(input, target, grad, dtype), grad
    losses = loss.forward(input, target, None, dtype)
    loss.run(input, target, grad=grad)
    return losses, grad


@_operation.register_fake
def _(input, target, weight, ignore_index, reduction, label_smoothing, z_loss, dtype, wants_grad):
    shape = () if reduction != "none" or input.dim() == 1 else input.shape[:1] + input.shape[2:]
    value = input.new_empty(shape, dtype=dtype)
    return value, torch.empty_like(input) if wants_grad else input.new_empty(0)


def _save_grad(ctx, inputs, output):
    input, target, weight, *ctx.options, _, ctx.has_grad = inputs
    ctx.save_for_backward(input, target, weight, output[1])
    ctx.per_row = ctx.options[1] == "none" and input.dim() > 1
    ctx.set_materialize_grads(False)


def _scaled_grad(ctx, upstream, _):
    if upstream is None:
        return (None,) * 9
    input, target, weight, grad = ctx.saved_tensors
    if torch.is_grad_enabled() or not ctx.has_grad:
        # As a function of the logits; or there was no gradient where the code was traced.
        grad = _formula_gradient(lambda input: _wide_formula(input, target, weight, *ctx.options), input, upstream)
    else:
        grad = _scaled(grad, upstream.unsqueeze(1) if ctx.per_row else upstream).to(grad.dtype)
    return (grad, *[None] * 8)


_operation.register_autograd(_scaled_grad, setup_context=_save_grad)


def _compiled(input, target, weight, ignore_index, reduction, label_smoothing, z_loss):
    wants_grad = torch.is_grad_enabled() and input.requires_grad
    dtype = _loss_dtype(input, target, None if weight is None else weight.dtype)
    options = ignore_index, reduction, label_smoothing, z_loss, dtype
    return torch.ops.xent.cross_entropy(input, target, weight, *options, wants_grad)[0]
