"""Gradients in another dtype than the logits."""

import ml_dtypes
import numpy
import pytest
import xent
from formulas import assert_close, log_softmax, loss_and_grad

DTYPES = {"float32": numpy.float32, "float16": numpy.float16, "bfloat16": ml_dtypes.bfloat16}


def batch(rows=37, classes=19, dtype="float32", seed=0):
    random = numpy.random.default_rng(seed)
    x = (3 * random.standard_normal((rows, classes))).astype(DTYPES[dtype])
    return x, random.integers(0, classes, rows)


def widened(x):
    return x.astype(numpy.float32)


@pytest.fixture(params=DTYPES)
def dtype(request):
    """That of the logits."""
    return request.param


@pytest.fixture(params=DTYPES)
def grad_dtype(request):
    return request.param


@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (64, 10), (37, 19), (5, 70_000)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_have_the_bound_of_their_own_dtype(dtype, grad_dtype, shape, reduction):
    x, target = batch(*shape, dtype)
    expected_loss, expected = loss_and_grad(x, target, reduction=reduction)
    out = numpy.full(shape, numpy.nan, DTYPES[grad_dtype])
    loss, grad = xent.loss_and_grad(x, target, reduction=reduction, out=out)
    assert grad is out
    assert_close(loss, expected_loss)
    assert_close(grad, expected, grad_dtype)


def test_gradients_are_rounded_once(dtype, grad_dtype):
    x, target = batch(300, 700, dtype)
    # Logits of 16 bits are widened, which is exact.
    expected_loss, expected = xent.loss_and_grad(widened(x), target)
    loss, grad = xent.loss_and_grad(x, target, grad_dtype=grad_dtype)
    assert loss == expected_loss
    assert numpy.array_equal(grad, expected.astype(DTYPES[grad_dtype]))


def test_a_new_gradient_has_the_dtype_that_is_named(dtype, grad_dtype):
    x, target = batch(dtype=dtype)
    _, expected = loss_and_grad(x, target)
    for name in (grad_dtype, DTYPES[grad_dtype], numpy.dtype(DTYPES[grad_dtype])):
        for call in (xent.loss_and_grad, xent.CrossEntropy().loss_and_grad):
            _, grad = call(x, target, grad_dtype=name)
            assert grad.dtype == DTYPES[grad_dtype] and grad.flags.c_contiguous
            assert_close(grad, expected, grad_dtype)
    assert xent.loss_and_grad(x, target, grad_dtype=None)[1].dtype == x.dtype


def test_the_dtype_may_be_that_of_float64_logits():
    x, target = batch()
    x = x.astype("f8")
    _, grad = xent.loss_and_grad(x, target, grad_dtype="float64")
    assert_close(grad, loss_and_grad(x, target)[1], "float64")


def test_gradients_of_float64_logits_are_rounded_once_from_float64(grad_dtype):
    x, target = batch(300, 700)
    x = x.astype("f8") * 1.000_000_001
    loss, exact = xent.loss_and_grad(x, target)
    out = numpy.full(x.shape, numpy.nan, DTYPES[grad_dtype])
    assert xent.loss_and_grad(x, target, out=out)[0] == loss
    named = xent.loss_and_grad(x, target, grad_dtype=grad_dtype)[1]
    assert named.dtype == DTYPES[grad_dtype] and numpy.array_equal(named, out)
    # NumPy rounds to float16 once; to bfloat16 by way of float32, which is a unit in the last place off at most.
    if grad_dtype == "bfloat16":
        assert_close(out, exact, grad_dtype)
    else:
        assert numpy.array_equal(out, exact.astype(DTYPES[grad_dtype]))
    # The sum is formed in float64, and rounded once as well.
    before = out.copy()
    xent.CrossEntropy().run(x, target, grad=out, accumulate=True)
    if grad_dtype != "bfloat16":
        assert numpy.array_equal(out, (before.astype("f8") + exact).astype(DTYPES[grad_dtype]))


@pytest.mark.parametrize(
    "options",
    [
        {"weight": numpy.linspace(0.5, 2.0, 19), "label_smoothing": 0.25},
        {"ignore_index": 3, "reduction": "sum"},
        {"z_loss": 1e-2},
        {"denominator": 91.0},
    ],
    ids=str,
)
def test_options_are_those_of_the_formula(dtype, grad_dtype, options):
    x, target = batch(dtype=dtype)
    expected_loss, expected = loss_and_grad(x, target, **options)
    loss, grad = xent.loss_and_grad(x, target, grad_dtype=grad_dtype, **options)
    assert_close(loss, expected_loss)
    assert_close(grad, expected, grad_dtype)


def test_probabilities_are_targets(dtype, grad_dtype):
    x, _ = batch(dtype=dtype)
    q = numpy.exp(log_softmax(batch(seed=1)[0])).astype("f")
    _, expected = loss_and_grad(x, q, label_smoothing=0.1)
    _, grad = xent.loss_and_grad(x, q, label_smoothing=0.1, grad_dtype=grad_dtype)
    assert_close(grad, expected, grad_dtype)


def test_upstream_gradients_scale_before_the_rounding(dtype, grad_dtype):
    x, target = batch(dtype=dtype)
    upstream = numpy.random.default_rng(2).standard_normal(len(x)).astype("f")
    _, expected = loss_and_grad(x, target, reduction="none")
    _, grad = xent.loss_and_grad(
        x, target, reduction="none", upstream=upstream, upstream_scalar=-1024.0, grad_dtype=grad_dtype
    )
    assert_close(grad, -1024.0 * expected * upstream[:, None], grad_dtype)


def test_gradients_accumulate(dtype, grad_dtype):
    x, target = batch(dtype=dtype)
    _, expected = loss_and_grad(x, target)
    grad = numpy.ones(x.shape, DTYPES[grad_dtype])
    ce = xent.CrossEntropy()
    ce.run(x, target, grad=grad, accumulate=True)
    assert_close(grad, 1 + expected, grad_dtype)
    # One that is written forgets what was there.
    ce.run(x, target, grad=grad)
    assert_close(grad, expected, grad_dtype)


def test_small_steps_are_not_lost_in_a_sum_of_float32():
    x, target = batch(dtype="bfloat16")
    _, expected = loss_and_grad(x, target)
    grad = numpy.ones(x.shape, "f")
    for _ in range(64):
        xent.CrossEntropy().run(x, target, grad=grad, accumulate=True)
    worst = numpy.abs(grad - (1 + 64 * expected)).max()
    assert worst < 64 * 2.0**-22


def test_rows_may_be_apart_and_what_lies_between_is_left_alone(dtype, grad_dtype):
    x, target = batch(dtype=dtype)
    _, expected = xent.loss_and_grad(x, target, grad_dtype=grad_dtype)
    out = numpy.full((2 * len(x), x.shape[1] + 5), 9.0, DTYPES[grad_dtype])
    xent.loss_and_grad(x, target, out=out[::2, : x.shape[1]])
    assert numpy.array_equal(out[::2, : x.shape[1]], expected)
    assert (out[1::2] == 9).all() and (out[:, x.shape[1] :] == 9).all()


def test_a_single_row_needs_no_batch_dimension(grad_dtype):
    x, _ = batch(1)
    _, grad = xent.loss_and_grad(x[0], 4, grad_dtype=grad_dtype)
    assert_close(grad, loss_and_grad(x, numpy.array([4]))[1][0], grad_dtype)


def test_no_row_needs_no_memory(dtype, grad_dtype):
    x, target = batch(dtype=dtype)
    assert xent.loss_and_grad(x[:0], target[:0], grad_dtype=grad_dtype)[1].shape == (0, x.shape[1])


def test_images_with_their_classes_innermost_in_memory(dtype, grad_dtype):
    random = numpy.random.default_rng(0)
    last = random.standard_normal((3, 4, 5, 6)).astype(DTYPES[dtype])
    target = random.integers(0, 6, (3, 4, 5))
    _, expected = loss_and_grad(last.reshape(-1, 6), target.reshape(-1))
    _, grad = xent.loss_and_grad(numpy.moveaxis(last, -1, 1), target, grad_dtype=grad_dtype)
    assert_close(grad, numpy.moveaxis(expected.reshape(last.shape), -1, 1), grad_dtype)


def test_bits_are_the_same_serial_and_on_every_backend_with_fma(dtype, grad_dtype):
    x, target = batch(300, 700, dtype)
    expected = xent.loss_and_grad(x, target, grad_dtype=grad_dtype)
    options = [{"parallelism": "serial"}, *({"backend": name} for name in xent.BACKENDS if name != "portable")]
    for option in options:
        loss, grad = xent.loss_and_grad(x, target, grad_dtype=grad_dtype, **option)
        assert loss == expected[0] and numpy.array_equal(grad, expected[1]), option


def refused():
    x, target = batch()
    double, half = x.astype("f8"), x.astype("f2")
    images, positions = numpy.zeros((2, 3, 4), "f"), numpy.zeros((2, 4), "i8")
    names = "gradients of float32 logits are float32, float16, bfloat16"
    far = target.copy()
    far[5] = 19
    return {
        "float64 of float32": (TypeError, f"out is float64; {names}", x, target, {"out": double}),
        "integers": (TypeError, f"out is int32; {names}", x, target, {"out": x.astype("i4")}),
        "added to integers": (TypeError, f"grad is int8; {names}", x, target, {"grad": x.astype("i1"), "accumulate": True}),
        "integers of float64": (TypeError, "of float64 logits are float64, float32, float16, bfloat16$", double, target, {"out": x.astype("i4")}),
        "planes": (ValueError, "a gradient in another dtype needs", images, positions, {"out": images.astype("f2")}),
        "a class too large": (IndexError, "target of row 5", x, far, {"out": half}),
        "shape": (ValueError, "out has shape", x, target, {"out": half[:-1].copy()}),
        "two dtypes": (TypeError, "out is float16, but grad_dtype is float32", x, target, {"out": half, "grad_dtype": "float32"}),
    }


@pytest.mark.parametrize("case", refused())
def test_what_is_refused_is_named_and_writes_nothing(case):
    error, message, x, target, arguments = refused()[case]
    before = {name: value.copy() for name, value in [("x", x), *arguments.items()] if hasattr(value, "copy")}
    call = xent.CrossEntropy().run if "grad" in arguments else xent.loss_and_grad
    with pytest.raises(error, match=message):
        call(x, target, **arguments)
    for name, value in before.items():
        assert numpy.array_equal({"x": x, **arguments}[name], value), name


@pytest.mark.parametrize("dtype_name", ["float64", "int32", numpy.complex64])
def test_a_dtype_that_gradients_do_not_have_is_refused(dtype_name):
    with pytest.raises(TypeError, match="grad_dtype is .*; gradients of float32 logits are float32, float16, bfloat16"):
        xent.loss_and_grad(*batch(), grad_dtype=dtype_name)


def test_a_name_of_nothing_is_refused():
    with pytest.raises(TypeError, match="halfling"):
        xent.loss_and_grad(*batch(), grad_dtype="halfling")


def test_the_memory_of_the_logits_is_in_no_other_dtype():
    x, target = batch()
    before = x.copy()
    for out in (x.view("f2")[:, :19], x.view("f2")[:, 19:]):
        with pytest.raises(ValueError, match="out overlaps input"):
            xent.loss_and_grad(x, target, out=out)
    assert numpy.array_equal(x, before)
