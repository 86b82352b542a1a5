"""Learns handwritten digits twice, with PyTorch's own loss and with xent's drop-in: the same curve, and who took how long.

The digits are those of the crate's example (``examples/data/README.md`` tells their origin).
"""

import gzip
from pathlib import Path

import numpy
import torch
import xent.torch
from torch.nn import functional

from two_losses import Contest

DIGITS = Path(__file__).parents[3] / "examples" / "data" / "digits.csv.gz"
HELD_OUT, BATCH, EPOCHS, REQUIRED_ACCURACY = 360, 32, 60, 0.95
# At twice the rate the rounding of a step grows along the curve: PyTorch's loss and the same one by its logsumexp then end up
# 3.5e-5 apart.
LEARNING_RATE = 0.1


def main():
    with gzip.open(DIGITS, "rt") as lines:
        table = numpy.loadtxt(lines, delimiter=",", dtype=numpy.float32)
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(1))
    pixels = torch.from_numpy(table[:, :64] / 16.0)[order]
    labels = torch.from_numpy(table[:, 64].astype(numpy.int64))[order]
    training = range(HELD_OUT, len(labels))

    def model():
        layers = torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
        return torch.nn.Sequential(*layers)

    losses = {"PyTorch": functional.cross_entropy, "xent": xent.torch.cross_entropy}
    contest = Contest(model, LEARNING_RATE, losses)
    shuffler = torch.Generator().manual_seed(2)
    for epoch in range(1, EPOCHS + 1):
        for batch in torch.tensor(training)[torch.randperm(len(training), generator=shuffler)].split(BATCH):
            losses = contest.step(pixels[batch], labels[batch])
        with torch.no_grad():
            guesses = contest.model("xent")(pixels[:HELD_OUT]).argmax(dim=1)
        accuracy = (guesses == labels[:HELD_OUT]).float().mean().item()
        if epoch % 10 == 0:
            print(f"epoch {epoch:2}: loss of its last batch {losses['xent']:.6f}, held-out accuracy {accuracy:.4f}")
    contest.report()
    if accuracy < REQUIRED_ACCURACY:
        raise SystemExit(f"held-out accuracy is {accuracy:.4f}, below {REQUIRED_ACCURACY}")


if __name__ == "__main__":
    main()
