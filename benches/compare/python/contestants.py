"""Who computes the loss and its gradient, or the softmax alone: each made of a batch, each a function to call and time."""

import sys

import jax
import numpy
import onnx
import onnxruntime
import torch
import xent
import xent.jax
import xent.torch
from torch.nn import functional

try:
    import optax
except ImportError:
    optax = None


def pytorch(function, logits, target):
    """A step with autograd, the gradient of a leaf."""
    x, y = torch.from_numpy(logits.copy()).requires_grad_(), torch.from_numpy(target)

    def step():
        x.grad = None
        loss = function(x, y)
        loss.backward()
        return loss, x.grad

    return step


def pytorch_compiled(logits, target):
    torch.compiler.reset()
    return pytorch(torch.compile(functional.cross_entropy, dynamic=False), logits, target)


def jax_compiled(function, logits, target):
    """The loss and its gradient, compiled as one function."""
    step = jax.jit(jax.value_and_grad(function))
    x, y = jax.numpy.asarray(logits), jax.numpy.asarray(target, dtype="int32")
    return lambda: jax.block_until_ready(step(x, y))


def jax_formula(x, y):
    return -jax.numpy.take_along_axis(jax.nn.log_softmax(x), y[:, None], axis=-1).mean()


def optax_loss(x, y):
    return optax.softmax_cross_entropy_with_integer_labels(x, y).mean()


def xent_numpy(logits, target):
    ce, grad = xent.CrossEntropy(), numpy.empty_like(logits)
    return lambda: ce.loss_and_grad(logits, target, out=grad)


def onnx_runtime_softmax(logits, _target):
    from onnx import TensorProto, helper

    sizes = list(logits.shape)
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["p"], axis=-1)],
        "softmax",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, sizes)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    probabilities = numpy.empty_like(logits)
    binding = session.io_binding()
    binding.bind_cpu_input("x", logits)
    binding.bind_output("p", "cpu", 0, numpy.float32, sizes, probabilities.ctypes.data)

    def run():
        session.run_with_iobinding(binding)
        return probabilities

    return run


def xent_softmax(logits, _target):
    out = numpy.empty_like(logits)
    return lambda: xent.softmax(logits, out=out)


GRADIENT = {
    "PyTorch eager": lambda x, y: pytorch(functional.cross_entropy, x, y),
    "PyTorch compiled": pytorch_compiled,
    "JAX formula": lambda x, y: jax_compiled(jax_formula, x, y),
    "JAX optax": lambda x, y: jax_compiled(optax_loss, x, y),
    "xent.jax": lambda x, y: jax_compiled(xent.jax.cross_entropy, x, y),
    "xent.torch": lambda x, y: pytorch(xent.torch.cross_entropy, x, y),
    "xent NumPy": xent_numpy,
}
SOFTMAX = {
    "ONNX Runtime softmax": onnx_runtime_softmax,
    "xent softmax": xent_softmax,
}

if optax is None:
    print("optax is not installed: its row is left out", file=sys.stderr)
    del GRADIENT["JAX optax"]
