"""Whose memory is read and written, and what is refused."""

import gc
import os
import sys
import threading
import tracemalloc

import ml_dtypes
import numpy
import pytest
import xent

ROWS, CLASSES = 12, 7


def batch():
    random = numpy.random.default_rng(0)
    return random.standard_normal((ROWS, CLASSES)).astype("f"), random.integers(0, CLASSES, ROWS)


def test_out_is_written_and_returned():
    x, target = batch()
    out = numpy.full_like(x, numpy.nan)
    _, grad = xent.loss_and_grad(x, target, out=out)
    assert grad is out and numpy.isfinite(out).all()


def test_in_place_gives_the_same_bits():
    x, target = batch()
    expected_loss, expected = xent.loss_and_grad(x, target)
    loss, grad = xent.loss_and_grad(x, target, out=x)
    assert grad is x and loss == expected_loss and numpy.array_equal(x, expected)


def test_another_view_of_the_input_is_in_place_too():
    x, target = batch()
    _, expected = xent.loss_and_grad(x, target)
    xent.loss_and_grad(x[:], target, out=x[:])
    assert numpy.array_equal(x, expected)


def test_rows_may_be_apart_and_what_lies_between_is_left_alone():
    x, target = batch()
    _, expected = xent.loss_and_grad(x, target)
    padded = numpy.full((2 * ROWS, CLASSES + 5), numpy.nan, "f")
    padded[::2, :CLASSES] = x
    out = numpy.full((ROWS, CLASSES + 3), 9.0, "f")
    xent.loss_and_grad(padded[::2, :CLASSES], target, out=out[:, :CLASSES])
    assert numpy.array_equal(out[:, :CLASSES], expected) and (out[:, CLASSES:] == 9).all()
    xent.loss_and_grad(padded[::2, :CLASSES], target, out=padded[::2, :CLASSES])
    assert numpy.array_equal(padded[::2, :CLASSES], expected)
    assert numpy.isnan(padded[1::2]).all() and numpy.isnan(padded[:, CLASSES:]).all()


def test_read_only_input_is_read():
    x, target = batch()
    x.flags.writeable = target.flags.writeable = False
    assert numpy.isfinite(xent.cross_entropy(x, target))


def refused():
    x, target = batch()
    wide = numpy.zeros((ROWS, 2 * CLASSES), "f")
    read_only = numpy.zeros_like(x)
    read_only.flags.writeable = False
    memory = numpy.zeros(ROWS * CLASSES + 8, "f")
    shifted = memory[4 : 4 + ROWS * CLASSES].reshape(x.shape)
    overlapped = memory[: ROWS * CLASSES].reshape(x.shape)
    unaligned = numpy.frombuffer(bytearray(x.nbytes + 1), "u1")[1:].view("f").reshape(x.shape)
    grad = xent.loss_and_grad
    far = target.copy()
    far[5] = CLASSES
    negative = target.copy()
    negative[2] = -1
    q = numpy.full(x.shape, 1 / CLASSES, "f")
    q[3, 2] = -0.5
    weights = numpy.ones(CLASSES)
    weights[4] = numpy.inf
    return {
        "read-only out": (ValueError, "out cannot be written: it is read-only", lambda: grad(x, target, out=read_only)),
        "overlap": (ValueError, "out overlaps input", lambda: grad(shifted, target, out=overlapped)),
        "interleaved": (ValueError, "out overlaps input", lambda: grad(wide[:, :CLASSES], target, out=wide[:, CLASSES:])),
        "out on target": (
            ValueError,
            "out overlaps target",
            lambda: grad(x[:2, :3].copy(), memory.view("i8")[:2], out=memory[:6].reshape(2, 3)),
        ),
        "columns apart": (ValueError, "input of shape .* strides", lambda: grad(wide[:, ::2], target)),
        "transposed": (ValueError, "input of shape .* strides", lambda: grad(numpy.asfortranarray(x), target)),
        "out's columns apart": (ValueError, "out has not the memory order", lambda: grad(x, target, out=wide[:, ::2])),
        "reversed": (ValueError, "input has a stride of -", lambda: grad(x[::-1], target)),
        "repeated rows": (ValueError, r"input of .* strides \(0, 1\)", lambda: grad(numpy.broadcast_to(x[0], x.shape), target)),
        "unaligned": (ValueError, "input is not aligned", lambda: grad(unaligned, target)),
        "fields": (TypeError, "input is", lambda: grad(numpy.zeros(x.shape, [("a", "f4")]), target)),
        "ignored classes of probabilities": (
            ValueError,
            "ignore_index is for classes",
            lambda: xent.cross_entropy(x, numpy.full_like(x, 0.1), ignore_index=2),
        ),
        "swapped bytes": (ValueError, "input has the bytes", lambda: grad(x.astype(">f4"), target)),
        "integers as out": (TypeError, "out is int32; gradients", lambda: grad(x, target, out=x.astype("i4"))),
        "integers": (TypeError, "input is int64; logits are float32", lambda: grad(x.astype("i8"), target)),
        "complex": (TypeError, "input is an array of another dtype", lambda: grad(x.astype("c8"), target)),
        "bool targets": (TypeError, "target is bool", lambda: grad(x, target > 0)),
        "a list": (TypeError, "input is of type list", lambda: grad(x.tolist(), target)),
        "shape of out": (ValueError, r"out has shape \(11, 7\) instead of \(12, 7\)", lambda: grad(x, target, out=x[:-1].copy())),
        "shape of target": (ValueError, r"target has shape \(11,\)", lambda: grad(x, target[1:])),
        "no dimension": (ValueError, "input has no dimension", lambda: grad(x[0, 0], 0)),
        "class too large": (IndexError, "target of row 5 is 7, but there are 7 classes", lambda: grad(x, far)),
        "class negative": (IndexError, "target of row 2 is -1", lambda: grad(x, negative)),
        "probability": (ValueError, "row 3, column 2 is -0.5", lambda: grad(x, q)),
        "weight": (ValueError, "weight of class 4 is inf", lambda: grad(x, target, weights)),
        "weights": (ValueError, "weight has 6 elements instead of 7", lambda: grad(x, target, [1.0] * 6)),
        "smoothing": (ValueError, "label_smoothing is 1.5", lambda: grad(x, target, label_smoothing=1.5)),
        "reduction": (ValueError, 'reduction is "average"', lambda: grad(x, target, reduction="average")),
        "backend": (ValueError, 'backend is "gpu"', lambda: grad(x, target, backend="gpu")),
        "repeated target": (ValueError, "target has not the memory order", lambda: grad(x, numpy.broadcast_to(x[0], x.shape))),
        "row weights": (ValueError, r"row_weights has shape \(3,\)", lambda: grad(x, target, row_weights=numpy.ones(3))),
        "mask": (ValueError, r"loss_mask has shape \(3, 4\)", lambda: grad(x, target, loss_mask=numpy.ones((3, 4), bool))),
        "upstream": (
            ValueError,
            r"upstream has shape \(2, 3\) instead of \(3, 2\)",
            lambda: grad(numpy.zeros((3, 5, 2)), numpy.zeros((3, 2), int), upstream=numpy.ones((2, 3))),
        ),
        "upstream of products": (
            ValueError,
            r"upstream has shape \(3, 4\)",
            lambda: xent.CrossEntropy().hessian_vector_product(x, target, x.copy(), upstream=numpy.ones((3, 4))),
        ),
        "weights of derivatives": (
            ValueError,
            r"row_weights has shape \(3, 4\)",
            lambda: xent.CrossEntropy().jvp(x, target, x.copy(), row_weights=numpy.ones((3, 4))),
        ),
        "added to nothing": (
            ValueError,
            "accumulate adds to grad, which is not there",
            lambda: xent.CrossEntropy().run(x, target, accumulate=True),
        ),
        "option": (TypeError, "smoothness", lambda: grad(x, target, smoothness=1)),
        "dim": (ValueError, "dim is 0", lambda: xent.softmax(x, dim=0)),
        "large dim": (ValueError, "dim is 9", lambda: xent.softmax(x, dim=sys.maxsize)),
        "no classes": (ValueError, "12 rows but no classes", lambda: grad(x[:, :0], target)),
    }


@pytest.mark.parametrize("case", refused())
def test_what_is_refused_is_named(case):
    error, message, call = refused()[case]
    with pytest.raises(error, match=message):
        call()


def test_what_is_refused_writes_nothing():
    x, target = batch()
    target[-1] = CLASSES
    before, out = x.copy(), numpy.full_like(x, 5.0)
    with pytest.raises(IndexError):
        xent.loss_and_grad(x, target, out=out)
    with pytest.raises(IndexError):
        xent.loss_and_grad(x, target, out=x)
    assert (out == 5).all() and numpy.array_equal(x, before)


class Tensor:
    """Nothing but DLPack."""

    def __init__(self, array, device=(1, 0), versions=True):
        self.array, self.device, self.versions = array, device, versions

    def __dlpack__(self, **options):
        if not self.versions:
            if options:
                raise TypeError("an old library")
            return self.array.__dlpack__()
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


@pytest.mark.parametrize("versions", [True, False])
def test_tensors_are_read_through_dlpack(versions):
    x, target = batch()
    tensors = Tensor(x, versions=versions), Tensor(target, versions=versions)
    assert xent.cross_entropy(*tensors) == xent.cross_entropy(x, target)


def test_tensors_are_written_through_dlpack():
    x, target = batch()
    _, expected = xent.loss_and_grad(x, target)
    out = numpy.empty_like(x)
    xent.loss_and_grad(Tensor(x), Tensor(target), out=Tensor(out))
    assert numpy.array_equal(out, expected)
    xent.loss_and_grad(Tensor(x), target, out=Tensor(x))
    assert numpy.array_equal(x, expected)


def test_what_dlpack_refuses():
    x, target = batch()
    with pytest.raises(ValueError, match="out cannot be written: its library does not say"):
        xent.loss_and_grad(x, target, out=Tensor(numpy.empty_like(x), versions=False))
    with pytest.raises(ValueError, match="input is on a device of DLPack's kind 2"):
        xent.cross_entropy(Tensor(x, device=(2, 0)), target)
    read_only = numpy.empty_like(x)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="out cannot be written: it is read-only"):
        xent.loss_and_grad(x, target, out=Tensor(read_only))


def test_no_capsule_is_leaked():
    x, target = batch()
    tensor = Tensor(x)
    xent.cross_entropy(tensor, target)
    gc.collect()
    before = sys.getrefcount(x)
    for _ in range(100):
        xent.cross_entropy(tensor, target)
        with pytest.raises(IndexError):
            xent.cross_entropy(tensor, target + CLASSES)
    assert sys.getrefcount(x) == before


def test_a_gradient_is_the_only_memory_allocated():
    x = numpy.zeros((512, 4096), "f")
    target = numpy.zeros(512, "i8")

    def peak(call):
        call()
        tracemalloc.start()
        call()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    small = x.nbytes // 100
    assert x.nbytes <= peak(lambda: xent.loss_and_grad(x, target)) < x.nbytes + small
    assert x.nbytes // 2 <= peak(lambda: xent.loss_and_grad(x, target, grad_dtype="float16")) < x.nbytes // 2 + small
    assert peak(lambda: xent.loss_and_grad(x, target, out=x)) < small
    assert peak(lambda: xent.cross_entropy(x, target)) < small


def test_nothing_else_is_allocated_by_native_code():
    resource = pytest.importorskip("resource")
    x = numpy.zeros((4096, 16384), "f")  # 256 MiB
    target = numpy.zeros(4096, "i8")
    xent.loss_and_grad(x[:64], target[:64], out=x[:64])
    x.fill(1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    xent.loss_and_grad(x, target, out=x)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < x.nbytes // 16


def test_other_threads_run_meanwhile():
    x = numpy.zeros((4096, 8192), "f")
    target = numpy.zeros(4096, "i8")
    ticks, stop = [0], threading.Event()

    def tick():
        while not stop.wait(1e-4):
            ticks[0] += 1

    call = xent.CrossEntropy(parallelism="serial").loss_and_grad
    thread = threading.Thread(target=tick)
    thread.start()
    before = ticks[0]
    call(x, target, out=x)
    after = ticks[0]
    stop.set()
    thread.join()
    # A call that kept the lock would let one pass before it and one after it.
    assert after - before > 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    x = numpy.ones((2048, 512), "f")
    target = numpy.zeros(2048, "i8")
    expected = xent.cross_entropy(x, target)
    child = os.fork()
    if child == 0:
        os._exit(0 if xent.cross_entropy(x, target) == expected else 1)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0
            return
        threading.Event().wait(0.1)
    os.kill(child, 9)
    os.waitpid(child, 0)
    pytest.fail("the child waits for its parent's threads")


def test_bfloat16_comes_and_goes_in_its_own_type():
    x, target = batch()
    x = x.astype(ml_dtypes.bfloat16)
    assert xent.loss_and_grad(x, target)[1].dtype == ml_dtypes.bfloat16
    assert xent.softmax(x).dtype == ml_dtypes.bfloat16
