"""Times xent, through its Python binding, beside PyTorch, JAX and ONNX Runtime.

Everyone computes the same batches in the same process and the same rounds, after all results were checked against the
formula in float64. Prints a table of median times, and writes it as CSV and as a plot.
"""

import argparse
import csv
import os
import statistics
import time
from pathlib import Path

import numpy

from contestants import GRADIENT, SOFTMAX

SHAPES = "1x1000 64x10 4096x10 32x1000 1024x1000 8192x1000 256x32000 128x128256 64x262144".split()
# Relative to the largest number: loose enough for all, to find mistakes and not last digits.
TOLERANCE = 1e-4
# A sample is as many calls as fill this time.
SAMPLE_SECONDS = 2e-3
# Threads of one library spin for a while after a call; the next one shall not pay for it.
PAUSE_SECONDS = 2e-3


def batch(rows, classes):
    random = numpy.random.default_rng(1)
    return 2 * random.standard_normal((rows, classes), dtype=numpy.float32), random.integers(0, classes, rows)


def check(name, result, logits, target):
    x = logits.astype(numpy.float64)
    p = numpy.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    if name in SOFTMAX:
        pairs = [(result, p)]
    else:
        loss, grad = result
        rows = numpy.arange(len(x))
        expected_loss = -numpy.log(p[rows, target]).mean()
        p[rows, target] -= 1
        loss = loss.detach() if hasattr(loss, "detach") else loss
        pairs = [(float(loss), expected_loss), (grad, p / len(x))]
    for actual, expected in pairs:
        worst = numpy.abs(numpy.asarray(actual, dtype=numpy.float64) - expected).max() / numpy.abs(expected).max()
        if not worst <= TOLERANCE:
            raise SystemExit(f"{name} is wrong: off by {worst:.1e} of the largest number")


def measure(steps, seconds):
    """Median seconds of a call of each, measured in turns."""
    calls = {}
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        calls[name] = max(1, min(200, int(SAMPLE_SECONDS / (time.perf_counter() - start))))
    samples = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, samples.values())) < 5:
        for name, step in steps.items():
            time.sleep(PAUSE_SECONDS)
            start = time.perf_counter()
            for _ in range(calls[name]):
                step()
            samples[name].append((time.perf_counter() - start) / calls[name])
    return {name: statistics.median(times) for name, times in samples.items()}


def table(results):
    names = [*GRADIENT, *SOFTMAX]
    lines = ["| rows x classes | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for shape, medians in results.items():
        cells = (f"{1e6 * medians[name]:,.1f}" if name in medians else "" for name in names)
        lines.append(f"| {shape.replace('x', ' x ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(results, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["shape", "contestant", "seconds"])
        for shape, medians in results.items():
            writer.writerows([shape, name, f"{seconds:.3e}"] for name, seconds in medians.items())


def plot(results, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "xent"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 5), layout="constrained")
    width = 0.8 / len(GRADIENT)
    for index, name in enumerate(GRADIENT):
        speeds = []
        for shape, medians in results.items():
            rows, classes = map(int, shape.split("x"))
            speeds.append(rows * classes / medians[name] / 1e9 if name in medians else 0.0)
        axes.bar([place + index * width for place in range(len(results))], speeds, width, label=name)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(results))], list(results), rotation=20)
    axes.set_ylabel("10^9 logits per second, loss and gradient (log scale)")
    axes.set_yscale("log")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="rows x classes, as in 1024x1000")
    parser.add_argument("--without", nargs="*", default=[], help="names of contestants to leave out")
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring for each shape")
    parser.add_argument("--csv", type=Path, default=Path("target/compare_python.csv"), help="read first, if it exists")
    parser.add_argument("--svg", type=Path, default=Path("target/compare_python.svg"))
    arguments = parser.parse_args()

    results = {}
    if arguments.csv.exists():
        for row in csv.DictReader(arguments.csv.open()):
            results.setdefault(row["shape"], {})[row["contestant"]] = float(row["seconds"])
    for shape in arguments.shapes:
        logits, target = batch(*map(int, shape.split("x")))
        steps = {}
        for name, make in {**GRADIENT, **SOFTMAX}.items():
            if name not in arguments.without:
                steps[name] = make(logits, target)
                check(name, steps[name](), logits, target)
                steps[name]()
        results[shape] = measure(steps, arguments.seconds)
        results = {shape: results[shape] for shape in [*SHAPES, *results] if shape in results}
        write(results, arguments.csv)

    print(f"median microseconds, {os.cpu_count()} CPUs\n")
    print(table(results))
    plot(results, arguments.svg)


if __name__ == "__main__":
    main()
