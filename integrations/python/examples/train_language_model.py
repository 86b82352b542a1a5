"""A small language model with a vocabulary of 65,536 hashed words, in which the loss dominates: an embedding and a linear
head, trained twice, with PyTorch's own loss and with xent's drop-in.

The text and how words become classes are described in ``integrations/data/ORIGIN.md``.
"""

import argparse
import re
from pathlib import Path

import torch
import xent.torch
from torch.nn import functional

from two_losses import Contest

TEXT = Path(__file__).parents[2] / "data" / "devils_dictionary.txt"
VOCABULARY, DEPTH = 65_536, 32


def fnv_1a(word):
    """The hash of 32 bits: <http://www.isthe.com/chongo/tech/comp/fnv/>."""
    value = 2_166_136_261
    for byte in word.encode():
        value = (value ^ byte) * 16_777_619 % 2**32
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=256, help="words in a step")
    arguments = parser.parse_args()

    words = re.findall(r"[a-z0-9']+", TEXT.read_text(encoding="ascii").lower())
    classes = torch.tensor([fnv_1a(word) % VOCABULARY for word in words])
    print(f"{len(words)} words, {len(classes.unique())} of {VOCABULARY} classes")

    def model():
        return torch.nn.Sequential(torch.nn.Embedding(VOCABULARY, DEPTH), torch.nn.Linear(DEPTH, VOCABULARY))

    losses = {"PyTorch": functional.cross_entropy, "xent": xent.torch.cross_entropy}
    contest = Contest(model, learning_rate=2.0, losses=losses)
    for step in range(1, arguments.steps + 1):
        start = (step - 1) * arguments.batch % (len(classes) - arguments.batch - 1)
        here = slice(start, start + arguments.batch)
        following = slice(here.start + 1, here.stop + 1)
        values = contest.step(classes[here], classes[following])
        if step % 10 == 0:
            print(f"step {step:3}: loss {values['PyTorch']:.6f} by PyTorch, {values['xent']:.6f} by xent")
    contest.report()


if __name__ == "__main__":
    main()
