"""Learns handwritten digits twice, with a loss of JAX's own operations and with xent's: the same curve, and who took how long.

The digits are those of the crate's example (``examples/data/README.md`` tells their origin).
"""

import gzip
import statistics
import time
from functools import partial
from pathlib import Path

import jax
import numpy
import xent.jax
from jax import numpy as jnp

DIGITS = Path(__file__).parents[3] / "examples" / "data" / "digits.csv.gz"
HELD_OUT, BATCH, EPOCHS, REQUIRED_ACCURACY = 360, 32, 60, 0.95
LEARNING_RATE = 0.2
# The losses of a step may differ by no more, all along the curve.
AGREEMENT = 1e-5


def jax_loss(logits, labels):
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, labels[:, None], axis=-1).mean()


LOSSES = {"JAX": jax_loss, "xent": xent.jax.cross_entropy}


def initial_parameters():
    first, second = jax.random.split(jax.random.key(0))
    return {
        "hidden": jax.random.uniform(first, (64, 64), minval=-0.125, maxval=0.125),
        "hidden_bias": jnp.zeros(64),
        "output": jax.random.uniform(second, (64, 10), minval=-0.125, maxval=0.125),
        "output_bias": jnp.zeros(10),
    }


def model(parameters, pixels):
    hidden = jax.nn.relu(pixels @ parameters["hidden"] + parameters["hidden_bias"])
    return hidden @ parameters["output"] + parameters["output_bias"]


@partial(jax.jit, static_argnums=0)
def step(loss, parameters, pixels, labels):
    """The loss of the batch, and the parameters after a step down its gradient."""
    value, grad = jax.value_and_grad(lambda parameters: loss(model(parameters, pixels), labels))(parameters)
    return value, jax.tree.map(lambda parameter, slope: parameter - LEARNING_RATE * slope, parameters, grad)


def main():
    generator = numpy.random.default_rng(1)
    with gzip.open(DIGITS, "rt") as lines:
        table = generator.permutation(numpy.loadtxt(lines, delimiter=",", dtype=numpy.float32))
    pixels, labels = table[:, :64] / 16.0, table[:, 64].astype(numpy.int32)

    parameters = {name: initial_parameters() for name in LOSSES}
    seconds = {name: [] for name in LOSSES}
    worst = 0.0
    for epoch in range(1, EPOCHS + 1):
        order = generator.permutation(numpy.arange(HELD_OUT, len(labels)))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            values = {}
            # In turns of who is first.
            for name in list(LOSSES)[:: 1 if start % (2 * BATCH) else -1]:
                begin = time.perf_counter()
                outcome = step(LOSSES[name], parameters[name], pixels[batch], labels[batch])
                values[name], parameters[name] = jax.block_until_ready(outcome)
                seconds[name].append(time.perf_counter() - begin)
            worst = max(worst, abs(float(values["JAX"] - values["xent"])))
        guesses = model(parameters["xent"], pixels[:HELD_OUT]).argmax(axis=1)
        accuracy = float((guesses == labels[:HELD_OUT]).mean())
        if epoch % 10 == 0:
            print(f"epoch {epoch:2}: loss of its last batch {values['xent']:.6f}, held-out accuracy {accuracy:.4f}")

    for name in LOSSES:
        print(f"{name:5} {1e3 * statistics.median(seconds[name]):8.3f} ms a step (median)")
    print(f"the losses of a step differ by {worst:.1e} at most (allowed: {AGREEMENT:.0e})")
    if not worst <= AGREEMENT:
        raise SystemExit("the loss curves are apart")
    if accuracy < REQUIRED_ACCURACY:
        raise SystemExit(f"held-out accuracy is {accuracy:.4f}, below {REQUIRED_ACCURACY}")


if __name__ == "__main__":
    main()
