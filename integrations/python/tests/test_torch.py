"""The drop-in for PyTorch's loss: values and derivatives are those of PyTorch's own."""

import math
import os
import subprocess
import sys
import textwrap
from contextlib import nullcontext
from unittest import mock

import pytest

torch = pytest.importorskip("torch")

import xent  # noqa: E402
import xent.torch as fused  # noqa: E402
from torch.nn import functional  # noqa: E402

LEAST_CLASSES = fused._LEAST_CLASSES_OF_SECOND_ORDER

# Of the largest number: the contract's bound for gaps below 50, and PyTorch's own error. Of 16 bits: the
# two roundings of a gradient that is scaled, twice over.
RELATIVE = {
    torch.float64: 1e-12,
    torch.float32: 128 * 2.0**-24,
    torch.float16: 2 * torch.finfo(torch.float16).eps,
    torch.bfloat16: 2 * torch.finfo(torch.bfloat16).eps,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def second_derivatives_of_few_classes():
    """Fused here, so that small tests have them."""
    with mock.patch.object(fused, "_LEAST_CLASSES_OF_SECOND_ORDER", 1):
        yield


def without_formula():
    """Makes an error of what goes to PyTorch's own function."""
    return mock.patch.object(fused, "_formula", side_effect=AssertionError("PyTorch's own function was called"))


@pytest.fixture
def no_formula():
    with without_formula():
        yield


def assert_close(actual, expected, dtype=torch.float32):
    assert actual.shape == expected.shape
    actual, expected = actual.double(), expected.double()
    bound = RELATIVE[dtype] * max(1e-30, expected.abs().max().item() if expected.numel() else 0.0)
    assert actual.isnan().equal(expected.isnan())
    worst = (actual - expected).nan_to_num().abs().max().item() if expected.numel() else 0.0
    assert worst <= bound, f"off by {worst}, more than {bound}"


def derivatives(function, input, target, options, upstream):
    """The loss and its gradient."""
    x = input.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = function(x, target, **options)
    (grad,) = torch.autograd.grad(value, x, upstream.to(value.dtype).expand_as(value).contiguous())
    return value.detach(), grad


OPTIONS = {
    "plain": {},
    "weighted": {"weight": True},
    "smoothed": {"label_smoothing": 0.1},
    "weighted and smoothed": {"weight": True, "label_smoothing": 0.3},
    "ignoring": {"ignore_index": 2},
    "everything": {"weight": True, "label_smoothing": 0.3, "ignore_index": 2},
}
SHAPES = {"(C)": (7,), "(N, C)": (11, 7), "(N, C, d)": (3, 7, 5), "(N, C, d, e)": (3, 7, 4, 5), "(N, C, d, e, f)": (2, 7, 2, 3, 4)}


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


# With their order in memory. Planes are those whose classes are not neighbours: their second derivatives are PyTorch's.
PLANES = [(shape, "planes") for shape in SHAPES if "d" in shape]
ROWS = [(shape, "rows") for shape in SHAPES]


def batch(shape, order, dtype):
    """Logits, and a class for each row."""
    shape = SHAPES[shape]
    x = torch.randn(shape, dtype=dtype)
    if order == "rows" and x.dim() > 2:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    return x, torch.randint(0, 7, shape[:1] + shape[2:] if len(shape) > 1 else ())


def options_for(name, dtype):
    options = dict(OPTIONS[name])
    if options.get("weight"):
        options["weight"] = torch.linspace(0.5, 2.0, 7, dtype=dtype)
    return options


@pytest.mark.parametrize("upstream", [1.0, -0.25])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_loss_and_gradient_are_pytorchs(dtype, kind, shape, options, reduction, upstream):
    shape = SHAPES[shape]
    options = {**options_for(options, dtype), "reduction": reduction}
    x = torch.randn(shape, dtype=dtype)
    if kind == "classes":
        target = torch.randint(0, 7, shape[:1] + shape[2:] if len(shape) > 1 else ())
    else:
        options.pop("ignore_index", None)
        target = torch.randn(shape, dtype=dtype).softmax(dim=min(len(shape) - 1, 1))
    upstream = torch.tensor(upstream, dtype=dtype)
    expected, expected_grad = derivatives(functional.cross_entropy, x, target, options, upstream)
    loss, grad = derivatives(fused.cross_entropy, x, target, options, upstream)
    assert loss.dtype == expected.dtype
    assert_close(loss, expected, dtype)
    assert_close(grad, expected_grad, dtype)
    with torch.no_grad():
        assert fused.cross_entropy(x, target, **options).equal(loss)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape, order", ROWS + PLANES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_shape_is_fused_and_as_exact_as_its_numbers(no_formula, dtype, shape, order, options, reduction):
    x, target = batch(shape, order, dtype)
    wide = {**options_for(options, torch.float64), "reduction": reduction}
    options = {**options_for(options, dtype), "reduction": reduction}
    upstream = torch.randn(target.shape if reduction == "none" else (), dtype=dtype)
    expected, expected_grad = derivatives(functional.cross_entropy, x.double(), target, wide, upstream)
    loss, grad = derivatives(fused.cross_entropy, x, target, options, upstream)
    assert loss.dtype == grad.dtype == dtype
    assert_close(loss, expected, dtype)
    assert_close(grad, expected_grad, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("with_module", [True, False], ids=["module", "function"])
def test_pytorchs_own_module_inputs(dtype, with_module):
    modules = pytest.importorskip("torch.testing._internal.common_modules")
    (info,) = [info for info in modules.module_db if info.module_cls is torch.nn.CrossEntropyLoss]
    inputs = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=True, training=False
    )
    assert len(inputs) > 20
    for case in inputs:
        arguments, options = case.constructor_input.args, case.constructor_input.kwargs
        input, target = case.forward_input.args
        target = target.detach()  # Gradients of targets are PyTorch's own.
        expected = torch.nn.CrossEntropyLoss(*arguments, **options)(input, target)
        if with_module:
            loss = fused.CrossEntropyLoss(*arguments, **options)(input, target)
        else:
            assert not arguments
            loss = fused.cross_entropy(input, target, **options)
        assert loss.dtype == expected.dtype
        assert_close(loss.detach(), expected.detach(), dtype)
        upstream = torch.randn_like(expected)
        (expected_grad,) = torch.autograd.grad(expected, input, upstream)
        (grad,) = torch.autograd.grad(loss, input, upstream)
        assert_close(grad, expected_grad, dtype)
        if case.reference_fn is not None:
            reference = case.reference_fn(torch.nn.CrossEntropyLoss(*arguments, **options), input.detach(), target)
            assert_close(loss.detach(), reference.detach().to(dtype), dtype)


@pytest.mark.parametrize("shape, order", ROWS + PLANES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck_and_gradgradcheck(shape, order, options, reduction):
    x, target = batch(shape, order, torch.float64)
    x.requires_grad_()
    options = {**options_for(options, torch.float64), "reduction": reduction}

    def function(x):
        return fused.cross_entropy(x, target, **options)

    # Along random directions, which is enough: a wrong element shows in all of them.
    with without_formula():
        assert torch.autograd.gradcheck(function, x, fast_mode=True)
    with without_formula() if order == "rows" else nullcontext():
        assert torch.autograd.gradgradcheck(function, x, fast_mode=True)


def second_derivatives(function, x, target, options, upstream, direction, dtype=None):
    """Along a direction, to the logits and to the upstream gradient."""

    def cast(value):
        is_cast = dtype is not None and torch.is_tensor(value) and value.is_floating_point()
        return value.to(dtype) if is_cast else value

    input, upstream = cast(x.detach()).requires_grad_(), cast(upstream.detach()).requires_grad_()
    options = {name: cast(value) for name, value in options.items()}
    value = function(input, cast(target), **options)
    (grad,) = torch.autograd.grad(value, input, upstream, create_graph=True)
    return torch.autograd.grad(grad, (input, upstream), cast(direction))


def check_second_derivatives(x, target, options, dtype):
    is_reduced = options["reduction"] != "none"
    rows = () if is_reduced or x.dim() == 1 else x.shape[:1] + x.shape[2:]
    upstream, direction = torch.rand(rows, dtype=dtype) + 0.5, torch.randn_like(x)
    arguments = (x, target, options, upstream, direction)
    found = second_derivatives(fused.cross_entropy, *arguments)
    expected = second_derivatives(functional.cross_entropy, *arguments, dtype=torch.float64)
    assert [tensor.dtype for tensor in found] == [dtype, dtype]
    for actual, formula in zip(found, expected):
        assert_close(actual, formula, dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape, order", ROWS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_second_derivatives_are_fused_and_pytorchs_in_float64(no_formula, dtype, shape, order, options, reduction):
    x, target = batch(shape, order, dtype)
    check_second_derivatives(x, target, {**options_for(options, dtype), "reduction": reduction}, dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape, order", PLANES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_second_derivatives_of_planes_are_pytorchs_in_float64(dtype, shape, order, options, reduction):
    x, target = batch(shape, order, dtype)
    check_second_derivatives(x, target, {**options_for(options, dtype), "reduction": reduction}, dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", ["plain", "weighted", "smoothed", "weighted and smoothed"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_second_derivatives_of_probabilities_are_pytorchs_in_float64(dtype, shape, options, reduction):
    shape = SHAPES[shape]
    x, target = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype).softmax(dim=min(len(shape) - 1, 1))
    check_second_derivatives(x, target, {**options_for(options, dtype), "reduction": reduction}, dtype)


def test_the_derivative_along_a_float32_gradient_of_16_bit_logits_is_float32(no_formula):
    x, target = batch("(N, C)", "rows", torch.bfloat16)
    options, direction = {"reduction": "none"}, torch.randn_like(x)
    upstream = torch.rand(11) + 0.5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = second_derivatives(fused.cross_entropy, x, target, options, upstream, direction)
    expected = second_derivatives(functional.cross_entropy, x, target, options, upstream, direction, torch.float64)
    assert [tensor.dtype for tensor in found] == [torch.bfloat16, torch.float32]
    assert_close(found[0], expected[0], torch.bfloat16)
    assert_close(found[1], expected[1])


@pytest.mark.parametrize("classes, is_fused", [(63, False), (64, True)])
def test_second_derivatives_of_few_classes_are_the_formulas(classes, is_fused):
    x, target = torch.randn(5, classes, requires_grad=True), torch.randint(0, classes, (5,))
    with mock.patch.object(fused, "_LEAST_CLASSES_OF_SECOND_ORDER", LEAST_CLASSES):
        with mock.patch.object(fused, "_formula", wraps=fused._formula) as formula:
            (grad,) = torch.autograd.grad(fused.cross_entropy(x, target), x, create_graph=True)
            grad.sum().backward()
    assert formula.called != is_fused


def test_third_derivatives_are_pytorchs():
    x, target = torch.randn(5, 7, dtype=torch.float64), torch.randint(0, 7, (5,))

    def third(function, dtype):
        input = x.to(dtype).requires_grad_()
        derivative = function(input, target)
        for _ in range(3):
            (derivative,) = torch.autograd.grad((derivative**2).sum(), input, create_graph=True)
        return derivative.detach()

    assert_close(third(fused.cross_entropy, torch.float32), third(functional.cross_entropy, torch.float64))


LAYOUTS = {
    "padded rows": lambda: torch.randn(11, 16)[:, :7],
    "every other row": lambda: torch.randn(22, 7)[::2],
    "transposed": lambda: torch.randn(7, 11).T,
    "columns apart": lambda: torch.randn(11, 14)[:, ::2],
    "channels last": lambda: torch.randn(3, 7, 4, 5).to(memory_format=torch.channels_last),
    "repeated rows": lambda: torch.randn(1, 7).expand(11, 7),
    "batch inside": lambda: torch.randn(7, 3, 4).transpose(0, 1),
    "no rows": lambda: torch.randn(0, 7),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_logits_may_lie_in_memory_in_any_way(layout, reduction):
    x = LAYOUTS[layout]()
    target = torch.randint(0, 7, x.shape[:1] + x.shape[2:])
    values = []
    for function in (functional.cross_entropy, fused.cross_entropy):
        base = x.detach().requires_grad_()
        value = function(base, target, reduction=reduction)
        (grad,) = torch.autograd.grad(value.sum(), base)
        values.append((value.detach(), grad))
    assert_close(values[1][0], values[0][0])
    assert_close(values[1][1], values[0][1])


TARGET_LAYOUTS = {
    "padded rows": lambda dtype: torch.rand(11, 16, dtype=dtype)[:, :7],
    "transposed": lambda dtype: torch.rand(7, 11, dtype=dtype).T,
    "columns apart": lambda dtype: torch.rand(11, 14, dtype=dtype)[:, ::2],
    "repeated rows": lambda dtype: torch.rand(1, 7, dtype=dtype).expand(11, 7),
    "one number": lambda dtype: torch.rand(1, 1, dtype=dtype).expand(11, 7),
    "one row": lambda dtype: torch.rand(14, dtype=dtype)[::2],
}


@pytest.mark.parametrize("layout", TARGET_LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_may_lie_in_memory_in_any_way(layout, dtype):
    target = TARGET_LAYOUTS[layout](dtype)
    assert not target.is_contiguous()
    base = torch.randn(target.shape, dtype=dtype)
    values = []
    for function in (functional.cross_entropy, fused.cross_entropy):
        x = base.clone().requires_grad_()
        value = function(x, target)
        values.append((value.detach(), *torch.autograd.grad(value, x)))
    assert_close(values[1][0], values[0][0])
    assert_close(values[1][1], values[0][1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_logits_of_second_derivatives_may_lie_in_memory_in_any_way(layout, reduction):
    x = LAYOUTS[layout]()
    target = torch.randint(0, 7, x.shape[:1] + x.shape[2:])
    check_second_derivatives(x, target, {"reduction": reduction}, torch.float32)


def test_a_second_backward_pass_gives_the_same_gradient():
    x, target = torch.randn(11, 7, requires_grad=True), torch.randint(0, 7, (11,))
    loss = fused.cross_entropy(x, target)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (second,) = torch.autograd.grad(loss, x, retain_graph=True)
    (scaled,) = torch.autograd.grad(loss, x, torch.tensor(-3.0))
    assert first.equal(second) and first.data_ptr() != second.data_ptr()
    assert_close(scaled, -3 * first)


def test_gradients_accumulate_in_a_leaf():
    x, target = torch.randn(11, 7, requires_grad=True), torch.randint(0, 7, (11,))
    fused.cross_entropy(x, target).backward()
    once = x.grad.clone()
    fused.cross_entropy(x, target).backward()
    assert x.grad.equal(2 * once)


@pytest.mark.parametrize("grad_dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_tensor_of_another_dtype_takes_the_gradient(dtype, grad_dtype):
    input, target = torch.randn(37, 19).to(dtype), torch.randint(0, 19, (37,))
    _, expected = derivatives(functional.cross_entropy, input.float(), target, {}, torch.ones(()))
    grad = torch.full(input.shape, torch.nan, dtype=grad_dtype)
    assert xent.loss_and_grad(input, target, out=grad)[1] is grad
    assert_close(grad, expected, grad_dtype)
    xent.CrossEntropy().run(input, target, grad=grad, accumulate=True)
    assert_close(grad, 2 * expected, grad_dtype)


def test_logits_that_change_before_the_backward_pass_are_noticed():
    weight, target = torch.randn(7, 7, requires_grad=True), torch.randint(0, 7, (11,))
    x = torch.randn(11, 7) @ weight
    loss = fused.cross_entropy(x, target)
    loss.backward(retain_graph=True)
    with torch.no_grad():
        x.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def head(overwrite_input, saves_logits=False, dtype=torch.float32):
    torch.manual_seed(1)
    hidden, weight = torch.randn(11, 5, dtype=dtype), torch.randn(7, 5, dtype=dtype, requires_grad=True)
    target = torch.randint(0, 7, (11,))
    logits = functional.linear(hidden, weight)
    extra = logits.square().sum() if saves_logits else 0.0
    loss = fused.cross_entropy(logits, target, overwrite_input=overwrite_input)
    return weight, logits, loss, extra


def test_the_gradient_can_take_the_place_of_the_logits():
    weight, logits, loss, _ = head(False)
    (expected,) = torch.autograd.grad(loss, weight)
    weight, overwritten, same, _ = head(True)
    assert same.equal(loss) and not overwritten.equal(logits)
    (grad,) = torch.autograd.grad(same, weight, retain_graph=True)
    assert grad.equal(expected)
    with pytest.raises(RuntimeError, match="one backward pass"):
        torch.autograd.grad(same, weight)


def test_overwritten_logits_are_not_used_in_silence():
    weight, _, loss, extra = head(True, saves_logits=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (loss + extra).backward()
    weight, _, loss, _ = head(True)
    with pytest.raises(RuntimeError, match="no double backward"):
        torch.autograd.grad(loss, weight, create_graph=True)
    leaf = torch.randn(11, 7, requires_grad=True)
    with pytest.raises(ValueError, match="leaf"):
        fused.cross_entropy(leaf, torch.zeros(11, dtype=torch.long), overwrite_input=True)


def _with_z_loss(x, target, z_loss, reduction):
    counts = target != -100
    rows = functional.cross_entropy(x, target, reduction="none") + counts * z_loss * x.logsumexp(1).square()
    return {"none": rows, "sum": rows.sum(), "mean": rows.sum() / counts.sum()}[reduction]


def test_the_z_loss_is_that_of_the_formula():
    x, target = torch.randn(11, 7), torch.randint(0, 7, (11,))
    target[3] = -100
    for reduction in ("mean", "sum", "none"):
        options = {"z_loss": 0.01, "reduction": reduction}
        expected = derivatives(_with_z_loss, x.double(), target, options, torch.tensor(1.0))
        actual = derivatives(fused.cross_entropy, x, target, options, torch.tensor(1.0))
        assert_close(actual[0], expected[0])
        assert_close(actual[1], expected[1])


def test_errors_name_row_and_value():
    x = torch.randn(11, 7)
    target = torch.zeros(11, dtype=torch.long)
    target[4] = 9
    with pytest.raises(IndexError, match="target of row 4 is 9, but there are 7 classes"):
        fused.cross_entropy(x, target)
    with pytest.raises(ValueError, match=r"target has shape \(10,\)"):
        fused.cross_entropy(x, target[1:])


@pytest.mark.filterwarnings("ignore:size_average and reduce args:UserWarning")
@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
def test_deprecated_arguments_mean_what_they_meant(size_average, reduce):
    x, target = torch.randn(11, 7), torch.randint(0, 7, (11,))
    expected = functional.cross_entropy(x, target, None, size_average, -100, reduce)
    assert_close(fused.cross_entropy(x, target, None, size_average, -100, reduce), expected)


def test_what_is_not_covered_is_pytorchs():
    x, target = torch.randn(5, 7), torch.randint(0, 7, (5,))
    expected = torch.func.grad(functional.cross_entropy)(x, target)
    assert_close(torch.func.grad(fused.cross_entropy)(x, target), expected)
    assert_close(torch.func.hessian(fused.cross_entropy)(x, target), torch.func.hessian(functional.cross_entropy)(x, target))
    _, tangent = torch.func.jvp(lambda x: fused.cross_entropy(x, target), (x,), (torch.ones_like(x),))
    assert tangent.abs() < 1e-6
    q = torch.randn(5, 7).softmax(dim=1).requires_grad_()
    (expected,) = torch.autograd.grad(functional.cross_entropy(x, q), q)
    (actual,) = torch.autograd.grad(fused.cross_entropy(x, q), q)
    assert actual.equal(expected)


@pytest.mark.parametrize("shape, order", ROWS + PLANES)
def test_float64_weights_are_not_rounded_to_float32(shape, order):
    x, target = batch(shape, order, torch.float64)
    options = {"weight": torch.rand(7, dtype=torch.float64)}
    expected = derivatives(functional.cross_entropy, x, target, options, torch.tensor(1.0))
    actual = derivatives(fused.cross_entropy, x, target, options, torch.tensor(1.0))
    assert_close(actual[0], expected[0], torch.float64)
    assert_close(actual[1], expected[1], torch.float64)
    torch.compiler.reset()
    step = torch.compile(lambda x: fused.cross_entropy(x, target, **options), fullgraph=True, backend="aot_eager")
    assert_close(step(x), expected[0], torch.float64)


def test_autocast_gives_a_float32_loss_of_16_bit_logits():
    x, target = torch.randn(11, 7, dtype=torch.bfloat16, requires_grad=True), torch.randint(0, 7, (11,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, loss = functional.cross_entropy(x, target), fused.cross_entropy(x, target)
    assert loss.dtype == expected.dtype == torch.float32
    assert_close(loss.detach(), expected.detach())
    (grad,) = torch.autograd.grad(loss, x)
    assert grad.dtype == torch.bfloat16


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(11, 7), (3, 7, 4, 5)], ids=str)
def test_compiled_code_works_around_it(reduction, shape):
    x, target = torch.randn(shape), torch.randint(0, 7, shape[:1] + shape[2:])

    torch.compiler.reset()

    @torch.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    def step(x, target):
        return fused.cross_entropy(2 * x, target, reduction=reduction, label_smoothing=0.1).sum() * 3

    def plain(x, target):
        return functional.cross_entropy(2 * x, target, reduction=reduction, label_smoothing=0.1).sum() * 3

    upstream = torch.tensor(1.0)
    expected = derivatives(plain, x, target, {}, upstream)
    actual = derivatives(step, x, target, {}, upstream)
    assert_close(actual[0], expected[0])
    assert_close(actual[1], expected[1])
    assert_close(step(x, target), expected[0])


def test_the_operation_is_well_formed():
    x, target = torch.randn(11, 7, requires_grad=True), torch.randint(0, 7, (11,))
    arguments = (x, target, None, -100, "mean", 0.1, 0.0, torch.float32, True)
    torch.library.opcheck(torch.ops.xent.cross_entropy.default, arguments)


def of_both(compute):
    """What it makes of PyTorch's function, and of the drop-in."""
    results = [compute(functional.cross_entropy), compute(fused.cross_entropy)]
    assert results[1].dtype == results[0].dtype
    return results


def logits_and_target(rows=5, classes=7, dtype=torch.float32):
    return torch.randn(rows, classes, dtype=dtype), torch.randint(0, classes, (rows,))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_penalty_on_the_gradient_of_compiled_code_has_a_gradient(reduction):
    x, target = logits_and_target()

    def compute(function):
        compiled = torch.compile(lambda x: function(x, target, reduction=reduction), backend="eager")
        input = x.clone().requires_grad_()
        loss = compiled(input).sum()
        (grad,) = torch.autograd.grad(loss, input, create_graph=True)
        return torch.autograd.grad(loss + 1000 * grad.square().sum(), input)[0]

    pytorchs, fuseds = of_both(compute)
    assert_close(fuseds, pytorchs)


def test_exported_code_has_a_gradient():
    x, target = logits_and_target()
    exported = torch.export.export(fused.CrossEntropyLoss(), (x, target)).module()
    input = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(exported(input, target), input)
    expected = torch.autograd.grad(functional.cross_entropy(input, target), input)[0]
    assert_close(grad, expected)


@pytest.mark.parametrize("compiles", [False, True])
def test_transforms_are_pytorchs(compiles):
    x, target = logits_and_target()

    def compute(function):
        def derivatives(x):
            loss = lambda z: function(z, target)
            return torch.cat([torch.func.jvp(loss, (x,), (x,))[1].reshape(1), torch.func.grad(loss)(x).reshape(-1)])

        return (torch.compile(derivatives, backend="aot_eager") if compiles else derivatives)(x)

    pytorchs, fuseds = of_both(compute)
    assert_close(fuseds, pytorchs)


def test_compiled_code_under_autocast_has_a_float32_loss_and_a_finite_gradient():
    for dtype, scale in ((torch.bfloat16, 1.0), (torch.float16, 65536.0)):
        x, target = logits_and_target(dtype=dtype)

        def compute(function):
            compiled = torch.compile(function, backend="aot_eager")
            input = x.clone().requires_grad_()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = compiled(input, target)
            assert loss.dtype == torch.float32
            return torch.autograd.grad(loss * scale, input)[0]

        pytorchs, fuseds = of_both(compute)
        assert fuseds.isfinite().all()
        assert_close(fuseds, pytorchs, dtype)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tracers_see_a_function_of_the_logits():
    from torch.fx.experimental.proxy_tensor import make_fx

    x, target = logits_and_target()
    expected = functional.cross_entropy(3 * x, target)
    traced = torch.jit.trace(fused.CrossEntropyLoss(), (x, target))
    assert_close(traced(3 * x, target), expected)
    assert_close(make_fx(lambda x: fused.cross_entropy(x, target))(x)(3 * x), expected)


def test_a_view_of_a_leaf_is_not_overwritten():
    parameter, target = torch.nn.Parameter(torch.zeros(2, 3, 4)), torch.zeros(6, dtype=torch.long)
    with pytest.raises(ValueError, match="leaf"):
        fused.cross_entropy(parameter.flatten(0, 1), target, overwrite_input=True)
    assert not parameter.any()


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("target_dtype", FLOATS)
@pytest.mark.parametrize("weight_dtype", (None, *FLOATS))
@pytest.mark.parametrize("compiles", [False, True])
def test_the_loss_of_probabilities_has_the_widest_dtype(dtype, target_dtype, weight_dtype, compiles):
    x, q = torch.randn(5, 7).to(dtype), torch.rand(5, 7).softmax(1).to(target_dtype)
    weight = None if weight_dtype is None else torch.arange(1, 8).to(weight_dtype)
    for reduction in ("mean", "none"):

        def compute(function):
            loss = lambda x: function(x, q, weight, reduction=reduction)
            input = x.clone().requires_grad_()
            value = (torch.compile(loss, backend="aot_eager") if compiles else loss)(input)
            (grad,) = torch.autograd.grad(value.sum(), input)
            assert grad.dtype == dtype
            return value.detach()

        pytorchs, fuseds = of_both(compute)
        # PyTorch rounds the logarithms to the dtype of the logits.
        assert_close(fuseds, pytorchs, dtype)


@pytest.mark.parametrize("classes", [7, 100])
def test_batched_backward_passes_are_pytorchs(classes):
    x, target = logits_and_target(classes=classes)

    def jacobian(function):
        return torch.autograd.functional.jacobian(lambda x: function(x, target, reduction="none"), x, vectorize=True)

    def hessian(function):
        return torch.autograd.functional.hessian(lambda x: function(x, target), x, vectorize=True)

    for compute in (jacobian, hessian):
        pytorchs, fuseds = of_both(compute)
        assert_close(fuseds, pytorchs)


class Marked(torch.Tensor):
    pass


def test_subclasses_of_tensors_stay_what_they_are():
    from torch._subclasses.fake_tensor import FakeTensorMode

    x, target = logits_and_target()
    assert type(fused.cross_entropy(x.as_subclass(Marked), target)) is Marked
    mode = FakeTensorMode()
    assert fused.cross_entropy(mode.from_tensor(x), mode.from_tensor(target)).shape == ()
    assert type(fused.cross_entropy(torch.nn.Parameter(x), target).detach()) is torch.Tensor


def test_negated_views_are_read_as_what_they_are():
    x, target = logits_and_target()
    weight = torch.complex(torch.zeros(7), -torch.rand(7) - 0.1).conj().imag
    assert weight.is_neg()
    pytorchs, fuseds = of_both(lambda function: function(x, target, weight))
    assert_close(fuseds, pytorchs)


def test_losses_and_upstream_gradients_may_be_infinite():
    x, target = torch.tensor([[3e38, -3e38], [0.0, 0.0]], requires_grad=True), torch.tensor([1, -100])
    assert fused.cross_entropy(x, target).item() == float("inf")
    x, target = logits_and_target()
    target[2] = -100
    for upstream in (float("inf"), float("nan")):

        def compute(function):
            input = x.clone().requires_grad_()
            return torch.autograd.grad(function(input, target), input, torch.tensor(upstream))[0]

        pytorchs, fuseds = of_both(compute)
        assert torch.equal(fuseds.nan_to_num(7), pytorchs.nan_to_num(7)) and not fuseds[2].any()


@pytest.mark.parametrize("way", ["compiled", "overwriting", "again"])
@pytest.mark.parametrize("upstream", [math.inf, -math.inf, math.nan])
def test_an_ignored_row_has_no_gradient_however_large_the_upstream_one_is(way, upstream):
    x, target = logits_and_target()
    target[2] = -100
    input, upstream = x.clone().requires_grad_(), torch.tensor(upstream)
    if way == "compiled":
        loss = torch.compile(lambda x: fused.cross_entropy(x, target), backend="eager")(input)
    else:
        loss = fused.cross_entropy(input * 1, target, overwrite_input=way == "overwriting")
    if way == "again":
        loss.backward(torch.tensor(0.0), retain_graph=True)
        input.grad = None
    (grad,) = torch.autograd.grad(loss, input, upstream)
    assert not grad[2].any() and not grad[target >= 0].isfinite().any()


def test_exported_code_takes_logits_in_another_order():
    x, target = torch.randn(3, 7, 4, 5), torch.randint(0, 7, (3, 4, 5))
    exported = torch.export.export(fused.CrossEntropyLoss(), (x, target)).module()
    expected = functional.cross_entropy(x, target)
    for other in (x.to(memory_format=torch.channels_last), x.transpose(0, 3).contiguous().transpose(0, 3)):
        assert_close(exported(other, target), expected)


def test_symbolic_tracing_records_one_call():
    traced = torch.fx.symbolic_trace(fused.CrossEntropyLoss(label_smoothing=0.1))
    calls = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert calls == [fused.cross_entropy]
    x, target = logits_and_target()
    assert_close(traced(x, target), functional.cross_entropy(x, target, label_smoothing=0.1))


def test_tensors_that_overload_functions_are_asked():
    class Recorded(torch.Tensor):
        functions = []

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.functions.append(function)
            return super().__torch_function__(function, types, args, kwargs)

    x, target = logits_and_target()
    loss = fused.cross_entropy(x.as_subclass(Recorded), target, z_loss=0.1)
    assert Recorded.functions[0] is fused.cross_entropy
    assert_close(loss.as_subclass(torch.Tensor), fused.cross_entropy(x, target, z_loss=0.1))


MEASURED = """
    import torch
    import xent.torch as fused
    torch.set_num_threads(1)
    rows, classes, depth = 1024, 32768, 8  # 128 MiB of logits
    hidden = torch.randn(rows, depth)
    weight = torch.randn(classes, depth, requires_grad=True)
    target = torch.randint(0, classes, (rows,))
    def status(name):
        lines = open("/proc/self/status").read().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
    # Threads and code are there before.
    fused.cross_entropy(hidden[:9] @ weight.T, target[:9], overwrite_input={overwrite}).backward(torch.tensor(1.0))
    if {leaf}:
        logits = torch.zeros(rows, classes, requires_grad=True)
    else:
        logits = torch.nn.functional.linear(hidden, weight)
    open("/proc/self/clear_refs", "w").write("5")  # The peak starts again from here.
    before = status("VmRSS")
    fused.cross_entropy(logits, target, overwrite_input={overwrite}).backward(torch.tensor({upstream}))
    print((status("VmHWM") - before) / (logits.numel() * 4))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux counts it")
@pytest.mark.parametrize(
    "leaf, overwrite, upstream, gradients",
    [(True, False, 1.0, 1), (True, False, 0.5, 1), (False, False, 1.0, 1), (False, True, 1.0, 0)],
)
def test_peak_memory_is_one_gradient_and_none_in_place(leaf, overwrite, upstream, gradients):
    code = textwrap.dedent(MEASURED).format(leaf=leaf, overwrite=overwrite, upstream=upstream)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert result.returncode == 0, result.stderr
    measured = float(result.stdout)
    assert gradients - 0.05 < measured < gradients + 0.05, measured


def test_the_memory_of_a_large_gradient_is_used_again_when_nobody_has_it():
    x, target = torch.randn(512, 1024, requires_grad=True), torch.randint(0, 1024, (512,))

    def gradient():
        return torch.autograd.grad(fused.cross_entropy(x, target), x)[0]

    fused.release_memory()
    first = gradient()
    before, place = first.clone(), first.data_ptr()
    assert place % 64 == 0
    second = gradient()
    assert second.data_ptr() != place and first.equal(before)
    view, place = second[3], second.data_ptr()
    del first, second
    third = gradient()
    assert third.data_ptr() != place  # A view of the second is still there.
    place = third.data_ptr()
    del third, view
    fourth = gradient()
    assert fourth.data_ptr() == place and fourth.equal(before)
    fused.release_memory()
    assert fourth.equal(before)


def lazily_negative(cross_entropy, x, target):
    """PyTorch may hold an upstream gradient and a direction as the memory of their negatives."""
    losses = cross_entropy(x, target, reduction="none")
    upstream = torch._neg_view(torch.linspace(1.0, 2.0, len(x)))
    (grad,) = torch.autograd.grad(losses, x, upstream, create_graph=True)
    return torch.autograd.grad(grad, x, torch._neg_view(x.detach()))[0]


def of_complex_numbers(cross_entropy, x, target):
    losses = cross_entropy(x[:1], target[:1], reduction="none")
    number = torch.complex(torch.ones_like(losses), losses).conj() * (2 + 3j)
    return torch.autograd.grad(number.imag.sum(), x)[0]


def upstream_without_memory(cross_entropy, x, target):
    losses = cross_entropy(x, target, reduction="none")
    return torch.autograd.grad(losses, x, torch._efficientzerotensor(len(x)))[0]


def gradients_by_vmap(cross_entropy, x, target):
    losses = cross_entropy(x, target, reduction="none")
    return torch.vmap(lambda u: torch.autograd.grad(losses, x, u, retain_graph=True)[0])(torch.eye(len(x)))


def hessian_products_by_vmap(cross_entropy, x, target):
    (grad,) = torch.autograd.grad(cross_entropy(x, target), x, create_graph=True)
    directions = torch.stack([x.detach(), x.detach().sin()])
    return torch.vmap(lambda v: torch.autograd.grad(grad, x, v, retain_graph=True)[0])(directions)


def tangent_of_the_upstream_gradient(cross_entropy, x, target):
    loss = cross_entropy(x, target)
    with torch.autograd.forward_ad.dual_level():
        upstream = torch.autograd.forward_ad.make_dual(torch.tensor(1.0), torch.tensor(3.0))
        (grad,) = torch.autograd.grad(loss, x, upstream)
        return torch.autograd.forward_ad.unpack_dual(grad).tangent


@pytest.mark.parametrize("classes", [7, 70])
@pytest.mark.parametrize(
    "result",
    [
        lazily_negative,
        of_complex_numbers,
        upstream_without_memory,
        gradients_by_vmap,
        hessian_products_by_vmap,
        tangent_of_the_upstream_gradient,
    ],
)
def test_what_comes_from_upstream_may_have_any_form(result, classes):
    x = torch.randn(5, classes, generator=torch.Generator().manual_seed(3))
    target = torch.arange(5)
    expected, actual = (
        result(function, x.clone().requires_grad_(), target)
        for function in (functional.cross_entropy, fused.cross_entropy)
    )
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_a_gradient_penalty_with_a_loss_scale_is_finite_under_autocast():
    generator = torch.Generator().manual_seed(3)
    hidden, target = torch.randn(8, 16, generator=generator), torch.arange(8)
    start = torch.randn(10, 16, generator=generator) / 4

    def gradient(cross_entropy):
        weight = start.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = cross_entropy(functional.linear(hidden, weight), target)
        (grad,) = torch.autograd.grad(loss * 65536.0, weight, create_graph=True)
        (loss + (grad / 65536.0).square().sum()).backward()
        return weight.grad

    expected, actual = gradient(functional.cross_entropy), gradient(fused.cross_entropy)
    # Half floats on the way.
    torch.testing.assert_close(actual, expected, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_default_device_is_not_that_of_the_loss(reduction):
    x, target = torch.randn(3, 5), torch.tensor([0, 1, 2])
    with torch.device("meta"):
        loss = fused.cross_entropy(x, target, reduction=reduction)
    assert loss.device.type == "cpu"


def test_options_may_be_tensors_whose_numbers_change():
    x, target = torch.randn(3, 5), torch.tensor([0, 1, 2])
    for name in ("label_smoothing", "z_loss"):
        option = torch.tensor(0.0)
        before = fused.cross_entropy(x, target, **{name: option})
        option.fill_(0.5)
        assert fused.cross_entropy(x, target, **{name: option}) != before


def test_a_large_gradient_with_a_graph_can_be_changed_in_place():
    x = torch.randn(600, 1000, requires_grad=True)
    target = torch.zeros(600, dtype=torch.int64)
    (grad,) = torch.autograd.grad(fused.cross_entropy(x, target), x, create_graph=True)
    expected = grad.detach() / 2
    assert not grad._is_view()
    grad.div_(2.0)
    assert torch.equal(grad.detach(), expected)
