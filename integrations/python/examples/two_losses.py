"""The same model trained with two losses, step by step beside each other, timed and compared."""

import statistics
import time

import torch

# The losses of a step may differ by no more, all along the curve.
AGREEMENT = 1e-5


class Contest:
    """One model and optimiser for each loss, from the same start."""

    def __init__(self, model, learning_rate, losses):
        self._losses = losses
        self._models, self._optimisers = {}, {}
        for name in losses:
            torch.manual_seed(0)
            self._models[name] = model()
            self._optimisers[name] = torch.optim.SGD(self._models[name].parameters(), lr=learning_rate)
        self._seconds = {name: [] for name in losses}
        self._loss_seconds = {name: [] for name in losses}
        self._worst = 0.0
        self._turn = 0

    def model(self, name):
        return self._models[name]

    def step(self, input, target):
        """One step of each, in turns of who is first. Returns the losses."""
        names = list(self._losses)
        self._turn += 1
        values = {name: self._step(name, input, target) for name in (names if self._turn % 2 else names[::-1])}
        reference, *others = values.values()
        self._worst = max([self._worst, *(abs(value - reference) for value in others)])
        return values

    def _step(self, name, input, target):
        optimiser = self._optimisers[name]
        start = time.perf_counter()
        optimiser.zero_grad()
        logits = self._models[name](input)
        # Cut in two, to time the loss with its backward pass alone. The cut copies nothing.
        cut = logits.detach().requires_grad_()
        loss_start = time.perf_counter()
        loss = self._losses[name](cut, target)
        loss.backward()
        loss_end = time.perf_counter()
        logits.backward(cut.grad)
        optimiser.step()
        end = time.perf_counter()
        self._seconds[name].append(end - start)
        self._loss_seconds[name].append(loss_end - loss_start)
        return loss.item()

    def report(self):
        """Prints median times; fails where the curves are apart."""
        print(f"{'median ms':12}{'step':>10}{'loss and its gradient':>25}")
        for name in self._losses:
            step, loss = (1e3 * statistics.median(times[name][2:]) for times in (self._seconds, self._loss_seconds))
            print(f"{name:12}{step:10.3f}{loss:25.3f}")
        print(f"the losses of a step differ by {self._worst:.1e} at most (allowed: {AGREEMENT:.0e})")
        if not self._worst <= AGREEMENT:
            raise SystemExit("the loss curves are apart")
