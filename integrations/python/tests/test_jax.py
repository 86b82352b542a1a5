"""The loss for JAX: values and gradients are those of the formula, written with ``jax.nn.log_softmax`` in float64."""

import os
import re
from functools import partial

import numpy
import pytest

# Two devices on the CPU, for the tests of meshes.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
jax = pytest.importorskip("jax")
jax.config.update("jax_enable_x64", True)

import ml_dtypes  # noqa: E402
import xent  # noqa: E402
import xent.jax as fused  # noqa: E402
from jax import numpy as jnp  # noqa: E402
from jax.sharding import AxisType, NamedSharding, PartitionSpec  # noqa: E402

from formulas import assert_close  # noqa: E402

ROWS, CLASSES = 11, 7
DTYPES = ["float32", "float64", "bfloat16", "float16"]
# What an execution that fails is: JAX's error, or where it is waited for, a ValueError.
EXECUTION_ERROR = (jax.errors.JaxRuntimeError, ValueError)


def formula(
    logits,
    labels,
    weight=None,
    ignore_index=-100,
    reduction="mean",
    label_smoothing=0.0,
    smoothing="all_classes",
    z_loss=0.0,
    focal_gamma=0.0,
    logit_scale=1.0,
    softcap=None,
    loss_mask=None,
    row_weights=None,
):
    """Of logits of shape (..., C), plainly."""
    x = logit_scale * logits.astype(jnp.float64)
    if softcap is not None:
        x = softcap * jnp.tanh(x / softcap)
    classes = x.shape[-1]
    log_p = jax.nn.log_softmax(x)
    w = jnp.ones(classes) if weight is None else jnp.asarray(weight, jnp.float64)
    counts = jnp.ones(x.shape[:-1], bool) if loss_mask is None else loss_mask
    eps = label_smoothing
    if jnp.issubdtype(labels.dtype, jnp.integer):
        for index in numpy.atleast_1d(ignore_index):
            counts &= labels != index
        one_hot = jax.nn.one_hot(labels, classes, dtype=jnp.float64)
        live = x > -jnp.inf
        spread = {
            "all_classes": jnp.ones_like(x) / classes,
            "other_classes": (1 - one_hot) / (classes - 1),
            "live_classes": live / live.sum(axis=-1, keepdims=True),
        }[smoothing]
        target = (1 - eps) * (one_hot * w)
        q = target * (1 - jnp.exp(log_p)) ** focal_gamma + eps * spread * w
        divisors = (one_hot * w).sum(axis=-1)
    else:
        q = w * ((1 - eps) * labels.astype(jnp.float64) + eps / classes)
        divisors = jnp.ones(x.shape[:-1])
    row_weights = jnp.where(counts, 1.0 if row_weights is None else row_weights, 0.0)
    # A class of weight 0 has no part in the sum, also where its logarithm is -inf.
    losses = -jnp.where(q == 0, 0.0, q * jnp.where(q == 0, 0.0, log_p)).sum(axis=-1)
    losses = row_weights * jnp.where(counts, losses, 0.0)
    penalties = row_weights * z_loss * jax.nn.logsumexp(x, axis=-1) ** 2
    if reduction == "mean":
        return losses.sum() / (row_weights * divisors).sum() + penalties.sum() / row_weights.sum()
    return losses + penalties if reduction == "none" else (losses + penalties).sum()


def derivatives(function, logits, labels, options):
    """The loss, and its gradient times an upstream one."""
    value, pullback = jax.vjp(lambda logits: function(logits, labels, **options), logits)
    # Powers of 2 round nothing, also in 16 bits.
    upstream = -jnp.exp2(jnp.arange(value.size) % 3 - 2.0).reshape(value.shape)
    (grad,) = pullback(upstream.astype(value.dtype))
    return value, grad


def made(shape, dtype="float32", scale=3.0, seed=0):
    generator = numpy.random.default_rng(seed)
    logits = jnp.asarray(scale * generator.standard_normal((*shape, CLASSES)), dtype)
    return logits, jnp.asarray(generator.integers(0, CLASSES, shape))


def check(logits, labels, options):
    dtype = logits.dtype.name
    loss_dtype = "float64" if dtype == "float64" else "float32"
    # Logits of the formula are in float64, so that its gradient is too.
    expected, expected_grad = derivatives(formula, logits.astype(jnp.float64), labels, options)
    loss, grad = derivatives(fused.cross_entropy, logits, labels, options)
    assert loss.dtype == loss_dtype and grad.dtype == logits.dtype
    assert_close(loss, expected, loss_dtype)
    assert_close(grad, expected_grad, dtype)
    without_grad = jax.jit(partial(fused.cross_entropy, **options))(logits, labels)
    assert numpy.array_equal(without_grad, loss)


WEIGHT = numpy.linspace(0.5, 2.0, CLASSES)
MASK = numpy.arange(ROWS) % 3 != 1
ROW_WEIGHTS = numpy.arange(ROWS) / 8  # Exact in float32, as they are taken.
OPTIONS = {
    "plain": {},
    "weighted": {"weight": WEIGHT},
    "smoothed": {"label_smoothing": 0.1},
    "smoothed over other classes": {"label_smoothing": 0.1, "smoothing": "other_classes"},
    "smoothed over live classes": {"label_smoothing": 0.1, "smoothing": "live_classes"},
    "ignoring": {"ignore_index": 2},
    "ignoring several": {"ignore_index": (2, 4)},
    "z-loss": {"z_loss": 0.01},
    "focal": {"focal_gamma": 2.0},
    "scaled": {"logit_scale": 0.5},
    "capped": {"softcap": 4.0},
    "masked rows": {"loss_mask": MASK},
    "weighted rows": {"row_weights": ROW_WEIGHTS},
    "everything": {
        "weight": WEIGHT,
        "ignore_index": 2,
        "label_smoothing": 0.3,
        "z_loss": 0.01,
        "logit_scale": 0.5,
        "softcap": 4.0,
        "loss_mask": MASK,
        "row_weights": ROW_WEIGHTS,
    },
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_option_has_the_formulas_loss_and_gradient(dtype, options, reduction):
    check(*made((ROWS,), dtype), {**OPTIONS[options], "reduction": reduction})


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", ["plain", "weighted", "smoothed"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("labels_dtype", ["float32", "float64"])
def test_labels_may_be_probabilities(labels_dtype, dtype, options, reduction):
    logits, _ = made((ROWS,), dtype)
    labels = jax.nn.softmax(made((ROWS,), seed=1)[0]).astype(labels_dtype)
    check(logits, labels, {**OPTIONS[options], "reduction": reduction})


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 1, 3), (0,), (2, 0)], ids=str)
def test_rows_may_have_any_number_of_dimensions(shape, reduction):
    logits, labels = made(shape)
    if logits.size or reduction != "mean":
        check(logits, labels, {"reduction": reduction})
    else:
        assert numpy.isnan(fused.cross_entropy(logits, labels))
        assert fused.cross_entropy(logits, labels, empty_mean="zero") == 0.0


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_classes_may_have_any_integer_dtype(dtype):
    logits, labels = made((ROWS,))
    check(logits, labels.astype(dtype), {})


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "weight": WEIGHT}], ids=str)
def test_the_bits_are_those_of_numpy_compiled_or_not(options):
    logits, labels = made((300,))
    expected, expected_grad = xent.loss_and_grad(numpy.asarray(logits), numpy.asarray(labels), **options)
    function = jax.value_and_grad(partial(fused.cross_entropy, **options))
    for function in (function, jax.jit(function)):
        loss, grad = function(logits, labels)
        assert loss == numpy.float32(expected)
        assert numpy.array_equal(grad, expected_grad)


def test_without_64_bits_numbers_are_jaxs_own():
    with jax.enable_x64(False):
        logits, labels = made((ROWS,))
        assert labels.dtype == jnp.int32
        function = jax.jit(jax.value_and_grad(partial(fused.cross_entropy, weight=WEIGHT, label_smoothing=0.1)))
        loss, grad = function(logits, labels)
        assert loss.dtype == grad.dtype == jnp.float32
    expected, expected_grad = jax.value_and_grad(formula)(logits.astype("float64"), labels, WEIGHT, label_smoothing=0.1)
    assert_close(loss, expected)
    assert_close(grad, expected_grad)


def calls(function, *arguments):
    """The results of the foreign calls in what is compiled."""
    return re.findall(r'results = "(.*?)"', jax.jit(function).lower(*arguments).as_text())


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_gradient_is_computed_with_the_loss_and_only_if_asked_for(reduction):
    logits, labels = made((ROWS,))

    def loss(logits, factor=1.0):
        return factor * fused.cross_entropy(logits, labels, reduction=reduction).sum()

    assert calls(loss, logits) == ["loss"]
    assert calls(jax.value_and_grad(loss), logits) == ["loss grad"]
    # With respect to something else that the logits do not depend on.
    assert calls(jax.grad(loss, 1), logits, 2.0) == ["loss"]


# Axes of logits, labels and weight.
AXES = {
    "all": (0, 0, 0),
    "logits and labels": (0, 0, None),
    "logits": (0, None, None),
    "labels": (None, 0, None),
    "weight": (None, None, 0),
    "last axes": (2, 1, 1),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("rows", [1, 5])
def test_a_batch_by_vmap_is_a_loop(rows, axes, reduction):
    axes = AXES[axes]
    logits, labels = made((6, rows))
    arrays = [logits, labels, jnp.linspace(0.5, 2.0, 6 * CLASSES, dtype="float32").reshape(6, CLASSES)]
    arrays = [jnp.moveaxis(a, 0, axis) if axis is not None else a[1] for a, axis in zip(arrays, axes)]

    def function(logits, labels, weight):
        upstream = jnp.linspace(0.5, 1.0, rows) if reduction == "none" else 0.5
        value, pullback = jax.vjp(lambda x: fused.cross_entropy(x, labels, weight, reduction=reduction), logits)
        return value, *pullback(jnp.asarray(upstream, "float32"))

    one_by_one = [
        function(*(a if axis is None else jnp.take(a, item, axis) for a, axis in zip(arrays, axes)))
        for item in range(6)
    ]
    for transformed in (jax.vmap(function, axes), jax.jit(jax.vmap(function, axes))):
        for actual, expected in zip(transformed(*arrays), zip(*one_by_one)):
            assert numpy.array_equal(actual, numpy.stack(expected))


def test_batches_in_batches_share_what_they_share():
    logits, labels = made((2, 3, 5))
    weights = jnp.linspace(0.5, 2.0, 3 * CLASSES).reshape(3, CLASSES)
    function = jax.vmap(jax.vmap(fused.cross_entropy), in_axes=(0, 0, None))
    expected = [[fused.cross_entropy(logits[i, j], labels[i, j], weights[j]) for j in range(3)] for i in range(2)]
    assert numpy.array_equal(function(logits, labels, weights), numpy.array(expected))
    shared = jax.vmap(jax.vmap(fused.cross_entropy, in_axes=(None, 0)), in_axes=(0, None))
    expected = [[fused.cross_entropy(logits[i, 0], labels[0, j]) for j in range(3)] for i in range(2)]
    assert numpy.array_equal(shared(logits[:, 0], labels[0]), numpy.array(expected))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("mapped", ["masks", "all"])
def test_masks_and_weights_of_rows_go_with_their_item(mapped, reduction):
    logits, labels = made((4, ROWS))
    masks = jnp.arange(4 * ROWS).reshape(4, ROWS) % 3 != 1
    weights = jnp.linspace(0.0, 1.5, 4 * ROWS, dtype="float32").reshape(4, ROWS)
    axis = 0 if mapped == "all" else None
    arrays = (logits, labels) if mapped == "all" else (logits[0], labels[0])

    def function(logits, labels, mask, row_weights):
        return fused.cross_entropy(logits, labels, loss_mask=mask, row_weights=row_weights, reduction=reduction)

    actual = jax.vmap(function, (axis, axis, 0, 0))(*arrays, masks, weights)
    for item in range(4):
        own = arrays if axis is None else (logits[item], labels[item])
        assert numpy.array_equal(actual[item], function(*own, masks[item], weights[item]))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_large_batches_are_computed_in_parallel_with_the_same_bits(reduction):
    generator = numpy.random.default_rng(2)
    logits = jnp.asarray(generator.standard_normal((40, 3, 2000)), jnp.float32)
    labels = jnp.asarray(generator.integers(0, 2000, (40, 3)))
    function = jax.value_and_grad(lambda x, y: fused.cross_entropy(x, y, reduction=reduction).sum())
    loss, grad = jax.vmap(function)(logits, labels)
    for item in range(40):
        expected, expected_grad = function(logits[item], labels[item])
        assert loss[item] == expected
        assert numpy.array_equal(grad[item], expected_grad)


def test_it_is_part_of_larger_programs():
    logits, labels = made((4, ROWS))
    hidden, weight = jnp.linspace(-1.0, 1.0, ROWS * 3).reshape(ROWS, 3), jnp.linspace(-2.0, 2.0, 3 * CLASSES).reshape(3, CLASSES)

    def head(loss, weight):
        return loss(jnp.tanh(hidden @ weight), labels[0])

    def scanned(loss, weight):
        def step(total, item):
            logits, labels = item
            return total + jax.checkpoint(loss)(logits + hidden @ weight, labels), None

        return jax.lax.scan(step, 0.0, (logits, labels))[0]

    for program in (head, scanned):
        expected, expected_grad = jax.value_and_grad(partial(program, formula))(weight)
        loss, grad = jax.jit(jax.value_and_grad(partial(program, fused.cross_entropy)))(weight)
        assert_close(loss, expected)
        assert_close(grad, expected_grad)


def test_masked_logits_have_no_gradient():
    logits, labels = made((ROWS,))
    logits = logits.at[:, 5].set(-jnp.inf)
    labels = jnp.where(labels == 5, 0, labels)
    check(logits, labels, {})
    check(logits, labels, {"label_smoothing": 0.1, "smoothing": "live_classes"})
    _, grad = jax.value_and_grad(fused.cross_entropy)(logits, labels)
    assert (grad[:, 5] == 0).all()
    # A target that is masked.
    losses = fused.cross_entropy(logits, labels.at[3].set(5), reduction="none")
    assert numpy.isinf(losses).nonzero()[0].tolist() == [3]


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_a_row_that_is_not_finite_spoils_no_other(value):
    logits, labels = made((ROWS,))
    expected, expected_grad = derivatives(fused.cross_entropy, logits, labels, {"reduction": "none"})
    losses, grad = derivatives(fused.cross_entropy, logits.at[4, 2].set(value), labels, {"reduction": "none"})
    others = numpy.arange(ROWS) != 4
    assert numpy.isnan(losses[4]) and numpy.isnan(grad[4]).all()
    assert numpy.array_equal(losses[others], expected[others])
    assert numpy.array_equal(grad[others], expected_grad[others])


@pytest.mark.parametrize("ignored", [{"ignore_index": 2}, {"loss_mask": numpy.arange(ROWS) != 4}], ids=str)
def test_ignored_rows_have_no_gradient_even_when_nan(ignored):
    logits, labels = made((ROWS,))
    labels = jnp.where(labels == 2, 3, labels)
    labels = labels.at[4].set(2 if "ignore_index" in ignored else 99)
    logits = logits.at[4].set(jnp.nan)
    losses, grad = derivatives(fused.cross_entropy, logits, labels, {**ignored, "reduction": "none"})
    assert losses[4] == 0 and (grad[4] == 0).all()
    assert numpy.isfinite(losses).all() and numpy.isfinite(grad).all()
    loss = fused.cross_entropy(logits, labels, **ignored)
    others = numpy.arange(ROWS) != 4
    assert_close(loss, formula(logits[others], labels[others]))


@pytest.mark.parametrize("value", [numpy.inf, numpy.nan])
@pytest.mark.parametrize("ignored", [{"ignore_index": 3}, {"loss_mask": [True, False]}, {"row_weights": [1.0, 0.0]}])
def test_ignored_rows_have_no_gradient_whatever_their_cotangent(ignored, value):
    ignored = {name: jnp.asarray(given) if name != "ignore_index" else given for name, given in ignored.items()}
    logits, labels = jnp.arange(8.0, dtype=jnp.float32).reshape(2, 4), jnp.array([0, 3])
    _, pull = jax.vjp(lambda logits: fused.cross_entropy(logits, labels, reduction="none", **ignored), logits)
    (grad,) = pull(jnp.array([1.0, value], dtype=jnp.float32))
    assert (grad[0] != 0).all() and (grad[1] == 0).all()


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_arrays_over_a_mesh_have_the_loss_and_gradient_of_one_device(axis_type):
    mesh = jax.make_mesh((2,), ("d",), axis_types=(axis_type,))
    logits, labels = jnp.asarray(numpy.random.default_rng(5).normal(size=(6, 4))), jnp.array([0, 1, 2, 3, 0, -100])
    expected = jax.value_and_grad(fused.cross_entropy)(logits, labels)
    over = [jax.device_put(array, NamedSharding(mesh, PartitionSpec("d"))) for array in (logits, labels)]
    with jax.set_mesh(mesh):
        for transform in (lambda function: function, jax.jit):
            loss, grad = transform(jax.value_and_grad(fused.cross_entropy))(*over)
            assert loss == expected[0] and (grad == expected[1]).all()
            if axis_type == AxisType.Explicit:
                assert jax.typeof(grad).sharding == jax.typeof(over[0]).sharding


def test_the_losses_of_shards_are_known_to_differ():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    logits, labels = jnp.asarray(numpy.random.default_rng(5).normal(size=(6, 4))), jnp.array([0, 1, 2, 3, 0, -100])
    rows = PartitionSpec("d")

    def loss(logits, labels):
        return fused.cross_entropy(logits, labels, reduction="sum")

    with jax.set_mesh(mesh):
        with pytest.raises(ValueError, match="require replication"):
            jax.jit(jax.shard_map(loss, in_specs=(rows, rows), out_specs=PartitionSpec()))(logits, labels)
        total = jax.shard_map(
            lambda *arrays: jax.lax.psum(loss(*arrays), "d"), in_specs=(rows, rows), out_specs=PartitionSpec()
        )
        summed = jax.jit(total)
        assert_close(summed(logits, labels), loss(logits, labels), "float64")
        assert (jax.grad(summed)(logits, labels) == jax.grad(loss)(logits, labels)).all()
        within = jax.jit(jax.shard_map(jax.grad(loss), in_specs=(rows, rows), out_specs=rows))
        assert (within(logits, labels) == jax.grad(loss)(logits, labels)).all()


def test_labels_that_do_not_fit_into_32_bits_do_not_become_others():
    logits = numpy.zeros((1, 4), dtype=numpy.float32)
    with jax.enable_x64(False):
        for label in (2**32, -(2**63)):
            with pytest.raises(ValueError, match=f"labels has {label}, which int32 has not"):
                fused.cross_entropy(logits, numpy.array([label]))
        assert fused.cross_entropy(logits, numpy.array([3])) == fused.cross_entropy(logits, jnp.array([3]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_dtype_is_promoted_without_a_word(dtype):
    logits, labels = jnp.zeros((2, 4), dtype), jnp.array([1, 2])
    with jax.numpy_dtype_promotion("strict"):
        loss, grad = jax.value_and_grad(fused.cross_entropy)(logits, labels)
    assert grad.dtype == logits.dtype and loss.dtype == (dtype if dtype == "float64" else "float32")


def test_confident_rows_keep_their_loss_and_gradient():
    logits = jnp.array([[20.0, 0.0], [80.0, 0.0]], jnp.float32)
    labels = jnp.array([0, 0])
    losses = fused.cross_entropy(logits, labels, reduction="none")
    grad = jax.grad(partial(fused.cross_entropy, reduction="sum"))(logits, labels)
    for row, gap in enumerate([20.0, 80.0]):
        assert_close(losses[row], numpy.exp(-gap))
        assert_close(grad[row], numpy.array([-1.0, 1.0]) * numpy.exp(-gap))


def test_overwritten_logits_are_those_of_nobody_else():
    labels = jnp.arange(512) % CLASSES
    hidden = jnp.linspace(-1.0, 1.0, 512 * 8, dtype="float32").reshape(512, 8)
    weight = jnp.linspace(-1.0, 1.0, 8 * 1024, dtype="float32").reshape(8, 1024)

    def step(overwrite, reads_logits, weight):
        logits = hidden @ weight
        loss = fused.cross_entropy(logits, labels, overwrite_logits=overwrite)
        return loss, jnp.abs(logits).sum() if reads_logits else 0.0

    def compiled(*options):
        return jax.jit(jax.value_and_grad(partial(step, *options), has_aux=True)).lower(weight).compile()

    for reads_logits in (False, True):
        expected = jax.tree.leaves(compiled(False, reads_logits)(weight))
        actual = jax.tree.leaves(compiled(True, reads_logits)(weight))
        assert all(numpy.array_equal(a, b) for a, b in zip(actual, expected))
    # One array of the logits' size, in place of two.
    bytes_of_logits = 512 * 1024 * 4
    needed = {overwrite: compiled(overwrite, False).memory_analysis().temp_size_in_bytes for overwrite in (False, True)}
    assert needed[False] - needed[True] == bytes_of_logits
    # Arguments of a compiled function stay what they are; so do those of each item of a batch, which they share.
    logits, labels = made((ROWS,))
    before = numpy.array(logits)
    overwriting = jax.grad(partial(fused.cross_entropy, overwrite_logits=True))
    assert numpy.array_equal(jax.jit(overwriting)(logits, labels), jax.grad(fused.cross_entropy)(logits, labels))
    batch = jnp.stack([labels, labels[::-1]])
    expected = jax.vmap(jax.grad(fused.cross_entropy), (None, 0))(logits, batch)
    assert numpy.array_equal(jax.vmap(overwriting, (None, 0))(logits, batch), expected)
    assert numpy.array_equal(logits, before)


def mapping_flags(address):
    """What Linux says of the memory that is there."""
    is_there = False
    for line in open("/proc/self/smaps"):
        if match := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            is_there = int(match[1], 16) <= address < int(match[2], 16)
        elif is_there and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError("no memory is there")


@pytest.mark.skipif(not os.path.exists("/sys/kernel/mm/transparent_hugepage"), reason="there are no large pages")
def test_a_large_gradient_is_in_large_pages():
    function = jax.jit(jax.grad(fused.cross_entropy))
    grad = function(jnp.zeros((128, 40_000), jnp.float32), jnp.zeros(128, int))
    assert "hg" in mapping_flags(grad.unsafe_buffer_pointer() + grad.nbytes // 2)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.grad, lambda f: jax.jit(jax.value_and_grad(f))])
def test_a_label_that_is_no_class_is_an_error_with_row_and_value(transform):
    logits, labels = made((ROWS,))
    with pytest.raises(EXECUTION_ERROR, match="the target of row 4 is 9, but there are 7 classes"):
        jax.block_until_ready(transform(fused.cross_entropy)(logits, labels.at[4].set(9)))
    # And the next call is a good one.
    jax.block_until_ready(transform(fused.cross_entropy)(logits, labels))


def test_errors_name_the_item_of_a_batch():
    logits, labels = made((3, ROWS))
    with pytest.raises(EXECUTION_ERROR, match="item 2 of the batch: the target of row 4 is -1"):
        jax.block_until_ready(jax.vmap(fused.cross_entropy)(logits, labels.at[2, 4].set(-1)))


def test_values_of_weights_are_errors_with_their_place():
    logits, labels = made((ROWS,))
    with pytest.raises(EXECUTION_ERROR, match="weight of class 3 is -1"):
        jax.block_until_ready(fused.cross_entropy(logits, labels, jnp.ones(CLASSES).at[3].set(-1)))
    with pytest.raises(EXECUTION_ERROR, match="row 5 .*-2"):
        jax.block_until_ready(fused.cross_entropy(logits, labels, row_weights=jnp.ones(ROWS).at[5].set(-2)))


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"reduction": "average"}, ValueError, 'reduction is "average"'),
        ({"label_smoothing": 1.5}, ValueError, "1.5"),
        ({"labels": numpy.zeros(ROWS - 1, int)}, ValueError, r"labels has shape \(10,\) instead of \(11,\)"),
        ({"labels": numpy.zeros((ROWS, 3))}, ValueError, r"labels has shape \(11, 3\) instead of \(11, 7\)"),
        ({"labels": numpy.zeros(ROWS, bool)}, TypeError, "labels is bool"),
        ({"labels": numpy.ones((ROWS, CLASSES)), "ignore_index": 2}, ValueError, "ignore_index"),
        ({"labels": numpy.ones((ROWS, CLASSES)), "focal_gamma": 2.0}, ValueError, "focal_gamma"),
        (
            {"labels": numpy.ones((ROWS, CLASSES)), "label_smoothing": 0.1, "smoothing": "other_classes"},
            ValueError,
            "other_classes",
        ),
        ({"labels": numpy.zeros(ROWS, ml_dtypes.int4)}, TypeError, "labels is int4"),
        ({"weight": numpy.ones(3)}, ValueError, r"weight has shape \(3,\) instead of \(7,\)"),
        ({"loss_mask": numpy.ones(ROWS)}, TypeError, "loss_mask is float64"),
        ({"row_weights": numpy.ones(3)}, ValueError, r"row_weights has shape \(3,\)"),
        ({"logits": numpy.ones((ROWS, CLASSES), int)}, TypeError, "logits is int64; logits are float32"),
        ({"logits": numpy.float32(1.0)}, ValueError, "logits has no dimension of classes"),
    ],
)
def test_mistakes_are_errors_when_a_function_is_traced(arguments, error, message):
    logits, labels = made((ROWS,))
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda: fused.cross_entropy(**{"logits": logits, "labels": labels, **arguments}))


def test_there_is_no_derivative_but_that_of_logits():
    logits, labels = made((ROWS,))
    probabilities = jax.nn.softmax(logits)
    with pytest.raises(ValueError, match="no derivative with respect to weight"):
        jax.grad(fused.cross_entropy, 2)(logits, labels, jnp.ones(CLASSES))
    with pytest.raises(ValueError, match="no derivative with respect to labels"):
        jax.grad(fused.cross_entropy, 1)(logits, probabilities)
    with pytest.raises(ValueError, match="no derivative with respect to row_weights"):
        jax.grad(lambda w: fused.cross_entropy(logits, labels, row_weights=w))(jnp.ones(ROWS))
    with pytest.raises(ValueError, match="cannot be differentiated"):
        jax.hessian(fused.cross_entropy)(logits, labels)
    grad = jax.grad(lambda x: fused.cross_entropy(x, jax.lax.stop_gradient(jax.nn.softmax(2 * x))))(logits)
    assert_close(grad, jax.grad(formula)(logits.astype("float64"), jax.nn.softmax(2 * logits)))


def foreign(logits, labels, results=("loss",), **changed):
    """The foreign function without the checks in front of it."""
    attributes = {
        "arguments": "logits labels",
        "results": " ".join(results),
        "ignore_index": numpy.array([-100]),
        "reduction": "mean",
        "smoothing": "all_classes",
        "empty_mean": "nan",
        **{name: numpy.float64(0.0) for name in ("label_smoothing", "z_loss", "focal_gamma")},
        "logit_scale": numpy.float64(1.0),
        **changed,
    }
    attributes = {name: value for name, value in attributes.items() if value is not None}
    shapes = {"loss": jax.ShapeDtypeStruct((), jnp.float32), "grad": jax.ShapeDtypeStruct((3, 3), jnp.float32)}
    call = jax.ffi.ffi_call("xent_cross_entropy", [shapes[name] for name in results])
    return jax.block_until_ready(call(logits, labels, **attributes))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"arguments": None}, "the attribute arguments is no string"),
        ({"arguments": "logits"}, "an array without a name"),
        ({"arguments": "logits labels weight"}, "weight is missing"),
        ({"arguments": "logits weight"}, "weight is int64, not float32"),
        ({"z_loss": None}, "the attribute z_loss is missing"),
        ({"z_loss": numpy.float32(0.5)}, "the attribute z_loss is no float64"),
        ({"z_loss": "0"}, "the attribute z_loss is no float64"),
        ({"ignore_index": numpy.array([1], numpy.int32)}, "the attribute ignore_index is no array of int64"),
        ({"reduction": numpy.float64(1.0)}, "the attribute reduction is no string"),
        ({"reduction": "average"}, 'reduction is "average"'),
        ({"reduction": "none"}, r"loss has shape \[\], which does not end with \[11\]"),
        ({"results": ("loss", "grad")}, r"grad has shape \[3, 3\], which does not end with \[11, 7\]"),
        ({"results": ("grad",)}, "the result loss is missing"),
        ({"labels": numpy.zeros(3, int)}, r"labels has shape \[3\]"),
        ({"labels": numpy.zeros((ROWS, CLASSES))}, "labels are float64"),
        ({"logits": numpy.zeros((ROWS, CLASSES), int)}, "logits is int64; logits are float32"),
        ({"logits": numpy.zeros((ROWS, CLASSES))}, "loss is float32, not float64"),
        ({"logits": numpy.zeros(3, numpy.float32)}, r"logits have shape \[3\]"),
    ],
)
def test_the_foreign_function_checks_what_it_is_called_with(arguments, message):
    logits, labels = made((ROWS,))
    assert numpy.isfinite(foreign(logits, labels)[0])
    with pytest.raises(EXECUTION_ERROR, match=message):
        foreign(**{"logits": logits, "labels": labels, **arguments})


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_a_loss_that_nothing_depends_on_has_no_gradient(transform):
    logits, labels = made((ROWS,))
    function = transform(lambda x: (fused.cross_entropy(x, labels), x.sum()))
    assert (jax.grad(lambda x: function(x)[1])(logits) == 1.0).all()


def test_arguments_may_be_of_numpy_and_options_arrays_of_one_number():
    logits = numpy.zeros((2, 4), ml_dtypes.bfloat16)
    assert_close(fused.cross_entropy(logits, [1, 2]), numpy.log(4.0))
    options = {"label_smoothing": jnp.float32(0.25), "ignore_index": numpy.int64(3), "softcap": numpy.array(2.0)}
    assert_close(fused.cross_entropy(logits, [1, 2], **options), numpy.log(4.0))
