"""Values, against the formulas in float64."""

import copy
import pickle

import ml_dtypes
import numpy
import pytest
import xent
from formulas import assert_close, log_softmax, loss_and_grad

DTYPES = {"float32": numpy.float32, "float16": numpy.float16, "bfloat16": ml_dtypes.bfloat16, "float64": numpy.float64}


def batch(rows=37, classes=19, dtype="float32", seed=0):
    random = numpy.random.default_rng(seed)
    x = (3 * random.standard_normal((rows, classes))).astype(DTYPES[dtype])
    return x, random.integers(0, classes, rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (64, 10), (37, 19), (5, 70_000)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_and_gradient_are_those_of_the_formula(dtype, shape, reduction):
    x, target = batch(*shape, dtype)
    expected, expected_grad = loss_and_grad(x, target, reduction=reduction)
    loss, grad = xent.loss_and_grad(x, target, reduction=reduction)
    assert grad.dtype == x.dtype
    assert_close(loss, expected, "float64" if dtype == "float64" else "float32")
    assert_close(grad, expected_grad, dtype)
    assert numpy.array_equal(xent.cross_entropy(x, target, reduction=reduction), loss)


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.1},
        {"weight": numpy.linspace(0.5, 2.0, 19)},
        {"weight": [float(c) for c in range(19)], "label_smoothing": 0.25},
        {"ignore_index": 3},
        {"ignore_index": 3, "weight": numpy.linspace(0, 1, 19, dtype=numpy.float32), "label_smoothing": 0.5},
        {"z_loss": 1e-2},
        {"denominator": 91.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_options_are_those_of_the_formula(options, reduction):
    x, target = batch()
    if reduction == "none" and "denominator" in options:
        for call in (xent.cross_entropy, xent.loss_and_grad):
            with pytest.raises(ValueError, match="denominator is for a reduction"):
                call(x, target, reduction=reduction, **options)
        return
    expected, expected_grad = loss_and_grad(x, target, reduction=reduction, **options)
    loss, grad = xent.loss_and_grad(x, target, reduction=reduction, **options)
    assert_close(loss, expected)
    assert_close(grad, expected_grad)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("weight", [None, numpy.linspace(0.5, 2.0, 19)], ids=["plain", "weighted"])
def test_probabilities_are_targets(dtype, weight):
    x, _ = batch()
    q = numpy.exp(log_softmax(batch(seed=1)[0])).astype(dtype)
    expected, expected_grad = loss_and_grad(x, q, weight=weight, label_smoothing=0.1)
    loss, grad = xent.loss_and_grad(x, q, weight, label_smoothing=0.1)
    assert_close(loss, expected)
    assert_close(grad, expected_grad)


@pytest.mark.parametrize("q_dtype", ["float32", "float64"])
def test_probabilities_of_float64_logits_are_exact_in_float64(q_dtype):
    x = batch()[0].astype("float64")
    q = numpy.exp(log_softmax(batch(seed=1)[0])).astype(q_dtype)
    expected, expected_grad = loss_and_grad(x, q, label_smoothing=0.1)
    loss, grad = xent.loss_and_grad(x, q, label_smoothing=0.1)
    assert_close(loss, expected, "float64")
    assert_close(grad, expected_grad, "float64")
    assert xent.loss_and_grad(x, q, out=x, label_smoothing=0.1)[0] == loss
    assert numpy.array_equal(x, grad)


def test_focal_loss_is_that_of_the_formula():
    x, target = batch()
    log_p = log_softmax(x)[numpy.arange(len(x)), target]
    expected = ((1 - numpy.exp(log_p)) ** 2 * -log_p).mean()
    assert_close(xent.cross_entropy(x, target, focal_gamma=2.0), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scaled_and_capped_logits_go_through_the_chain_rule(dtype):
    x, target = batch()
    x = x.astype(dtype)
    scale, cap = 1.5, 4.0
    capped = numpy.tanh(scale * x.astype(numpy.float64) / cap)
    expected, expected_grad = loss_and_grad(cap * capped, target)
    loss, grad = xent.loss_and_grad(x, target, logit_scale=scale, softcap=cap)
    assert_close(loss, expected)
    assert_close(grad, expected_grad * scale * (1 - capped**2))
    assert_close(xent.cross_entropy(x, target, logit_scale=2.0), xent.cross_entropy(2 * x, target))
    assert "logit_scale=1.5, softcap=4.0" in repr(xent.CrossEntropy(logit_scale=scale, softcap=cap))
    with pytest.raises(ValueError, match="softcap is -1"):
        xent.CrossEntropy(softcap=-1.0)


@pytest.mark.parametrize("integer", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"])
def test_targets_are_of_any_integer_type(integer):
    x, target = batch()
    assert xent.cross_entropy(x, target.astype(integer)) == xent.cross_entropy(x, target)
    # Every other one: not neighbours in memory.
    assert xent.cross_entropy(x, numpy.repeat(target, 2).astype(integer)[::2]) == xent.cross_entropy(x, target)


@pytest.mark.parametrize("target", [4, numpy.int64(4), numpy.array(4)], ids=["int", "scalar", "array"])
def test_a_single_row_needs_no_batch_dimension(target):
    x, _ = batch(1)
    expected, expected_grad = loss_and_grad(x, numpy.array([4]))
    loss, grad = xent.loss_and_grad(x[0], target)
    assert_close(loss, expected)
    assert_close(grad, expected_grad[0])
    assert xent.cross_entropy(x[0], target, reduction="none").shape == ()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["planes", "channels last"])
@pytest.mark.parametrize("positions", [(7,), (4, 5), (2, 3, 4)])
def test_images_have_their_classes_in_dimension_1(dtype, order, positions):
    random = numpy.random.default_rng(0)
    last = random.standard_normal((3, *positions, 6)).astype(DTYPES[dtype])
    target = random.integers(0, 6, (3, *positions))
    expected, expected_grad = loss_and_grad(last.reshape(-1, 6), target.reshape(-1), reduction="none")
    x = numpy.moveaxis(last, -1, 1)
    if order == "planes":
        x = numpy.ascontiguousarray(x)
    losses, grad = xent.loss_and_grad(x, target, reduction="none")
    assert grad.dtype == x.dtype
    assert_close(losses, expected.reshape(target.shape), "float64" if dtype == "float64" else "float32")
    assert_close(grad, numpy.moveaxis(expected_grad.reshape(last.shape), -1, 1), dtype)
    in_place = x.copy(order="K")
    xent.loss_and_grad(in_place, target, reduction="none", out=in_place)
    assert numpy.array_equal(in_place, grad)


def test_upstream_gradients_scale_rows_and_all():
    x, target = batch()
    upstream = numpy.random.default_rng(2).standard_normal(len(x)).astype("f")
    _, expected = loss_and_grad(x, target, reduction="none")
    _, grad = xent.loss_and_grad(x, target, reduction="none", upstream=upstream)
    assert_close(grad, expected * upstream[:, None])
    _, grad = xent.loss_and_grad(x, target, reduction="none", upstream=upstream, upstream_scalar=-2.0)
    assert_close(grad, -2.0 * expected * upstream[:, None])


def test_rows_are_weighted_and_masked():
    x, target = batch()
    weights = numpy.linspace(0, 2, len(x))
    mask = numpy.arange(len(x)) % 3 > 0
    losses, _ = loss_and_grad(x, target, reduction="none")
    assert_close(xent.cross_entropy(x, target, row_weights=weights), (losses * weights).sum() / weights.sum())
    assert_close(xent.cross_entropy(x, target, loss_mask=mask), losses[mask].mean())


def test_all_outputs_of_one_call():
    x, target = batch()
    rows = len(x)
    wide = {name: numpy.full_like(x, numpy.nan) for name in ("grad", "probabilities", "log_probabilities")}
    narrow = ("losses", "lse", "target_log_probabilities", "entropies", "argmax_probabilities")
    numbers = {name: numpy.full(rows, numpy.nan, "f") for name in narrow}
    indices = {name: numpy.empty(rows, numpy.uintp) for name in ("argmax", "target_ranks")}
    summary = xent.CrossEntropy().run(x, target, **wide, **numbers, **indices)

    log_p = log_softmax(x)
    p = numpy.exp(log_p)
    losses, grad = loss_and_grad(x, target, reduction="none")
    assert_close(summary.loss, losses.mean())
    assert (summary.counted, summary.weight) == (rows, rows)
    assert_close(numbers["losses"], losses)
    assert_close(wide["grad"], grad / rows)
    assert_close(wide["probabilities"], p)
    assert_close(wide["log_probabilities"], log_p)
    assert_close(numbers["target_log_probabilities"], -losses)
    assert_close(numbers["lse"], (x - log_p)[:, 0])
    assert_close(numbers["entropies"], -(p * log_p).sum(axis=1))
    assert_close(numbers["argmax_probabilities"], p.max(axis=1))
    assert numpy.array_equal(indices["argmax"], x.argmax(axis=1))
    assert summary.correct == (x.argmax(axis=1) == target).sum()
    assert numpy.array_equal(indices["target_ranks"], (x > x[numpy.arange(rows), target][:, None]).sum(axis=1))


def test_gradients_accumulate():
    x, target = batch()
    _, expected = loss_and_grad(x, target)
    grad = numpy.ones_like(x)
    xent.CrossEntropy().run(x, target, grad=grad, accumulate=True)
    assert_close(grad, 1 + expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_softmax_is_that_of_the_formula(function, dtype):
    x = batch(dtype=dtype)[0].reshape(37, 1, 19)
    expected = log_softmax(x) if function == "log_softmax" else numpy.exp(log_softmax(x))
    assert_close(getattr(xent, function)(x), expected, dtype)
    out = x.copy()
    assert getattr(xent, function)(out, dim=2, out=out) is out
    assert_close(out, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_second_derivatives_are_those_of_the_formula(dtype):
    x, target = batch(dtype=dtype)
    direction = batch(seed=3, dtype=dtype)[0]
    p, v = numpy.exp(log_softmax(x)), direction.astype("float64")
    product = p * v - p * (p * v).sum(axis=1, keepdims=True)
    ce = xent.CrossEntropy()
    found = ce.hessian_vector_product(x, target, direction)
    assert found.dtype == x.dtype
    assert_close(found, product / len(x), dtype)
    _, grad = loss_and_grad(x, target)
    derivatives = numpy.empty(len(x), "float64" if dtype == "float64" else "float32")
    derivative = ce.jvp(x, target, direction, derivatives=derivatives)
    assert_close(derivative, (grad * v).sum(), str(derivatives.dtype))
    assert_close(derivatives, (grad * v).sum(axis=1) * len(x), str(derivatives.dtype))


def test_no_row_counts():
    x, target = batch()
    assert numpy.isnan(xent.cross_entropy(x, numpy.full_like(target, -100)))
    assert xent.cross_entropy(x, numpy.full_like(target, -100), empty_mean="zero") == 0
    assert numpy.isnan(xent.cross_entropy(x[:0], target[:0]))
    assert xent.cross_entropy(x[:0], target[:0], reduction="sum") == 0
    of_none = xent.cross_entropy(numpy.empty((0, 5, 3)), numpy.empty((0, 3), "int64"), reduction="none")
    assert of_none.shape == (0, 3)


def test_bits_are_the_same_serial_and_on_every_backend_with_fma():
    x, target = batch(300, 700)
    expected = xent.loss_and_grad(x, target)
    options = [{"parallelism": "serial"}, *({"backend": name} for name in xent.BACKENDS if name != "portable")]
    for option in options:
        loss, grad = xent.loss_and_grad(x, target, **option)
        assert loss == expected[0] and numpy.array_equal(grad, expected[1]), option


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight": [float(c) for c in range(19)], "ignore_index": [3, 4], "label_smoothing": 0.25, "reduction": "sum"},
        {"reduction": "none", "smoothing": "other_classes", "label_smoothing": 0.1, "ignore_index": None},
        {"z_loss": 1e-3, "logit_scale": 1.5, "softcap": 4.0, "empty_mean": "zero", "parallelism": "serial"},
        {"focal_gamma": 2.0, "backend": "portable"},
    ],
)
def test_a_loss_is_pickled_and_copied_with_all_its_options(options):
    x, target = batch()
    loss = xent.CrossEntropy(**options)
    expected, expected_grad = loss.loss_and_grad(x, target)
    for other in pickle.loads(pickle.dumps(loss)), copy.copy(loss), copy.deepcopy(loss):
        assert repr(other) == repr(loss)
        value, grad = other.loss_and_grad(x, target)
        assert numpy.array_equal(value, expected)
        assert grad.tobytes() == expected_grad.tobytes()
    given = {name: value for name, value in options.items() if name not in ("weight", "ignore_index")}
    assert all(f"{name}={value!r}" in repr(loss) for name, value in given.items())


def test_a_machine_without_the_backend_can_read_a_loss_that_did_not_ask_for_it():
    backend = f"backend={xent.BACKENDS[-1]!r}"
    assert backend in repr(xent.CrossEntropy())
    assert xent.BACKENDS[-1].encode() not in pickle.dumps(xent.CrossEntropy())


@pytest.mark.parametrize("masked", ["input", "target", "loss_mask", "row_weights"])
def test_masks_are_not_ignored(masked):
    x, target = batch()
    arguments = {"input": x, "target": target, "loss_mask": target > 3, "row_weights": numpy.ones(37, numpy.float32)}
    xent.cross_entropy(**arguments)
    arguments[masked] = numpy.ma.masked_array(arguments[masked], mask=numpy.zeros(arguments[masked].shape, bool))
    with pytest.raises(TypeError, match=f"{masked} is a masked array"):
        xent.cross_entropy(**arguments)


def test_subclasses_of_arrays_are_arrays():
    class Named(numpy.ndarray):
        pass

    x, target = batch()
    assert xent.cross_entropy(x.view(Named), target) == xent.cross_entropy(x, target)


@pytest.mark.parametrize("index", [2**70, [1, -(2**70)]])
def test_numbers_beyond_64_bits_are_said(index):
    with pytest.raises(ValueError, match=r"ignore_index is .*1180591620717411303424.*64 bits"):
        xent.CrossEntropy(ignore_index=index)
    with pytest.raises(IndexError, match="target is 1180591620717411303424"):
        xent.cross_entropy(numpy.zeros(3, numpy.float32), 2**70)
