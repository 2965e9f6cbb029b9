"""Learning rates over the epochs of a training, and the part of a training that is run again.

With e epochs of s steps each, t = step / s the time in epochs, w the epochs of warm-up and r the highest rate:

    warm-up   r (step + 1) / (w s + 1)                 while t < w
    steps     r f^(number of milestones that are ≤ t)
    cosine    r (1 + cos(π (t − w) / (e − w))) / 2

*Rewinding*: the last k of e epochs of the schedule that a network was trained with are run again, from its trained
weights and with a new state of the optimizer; k = e takes the warm-up too.

Source: Renda, Frankle and Carbin, Comparing Rewinding and Fine-tuning in Neural Network Pruning (2020), section 3;
Liebenwein et al., ALDS (2021), section 3, with the startEpoch of the authors' program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from lissom_runtime.errors import UsageError


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the epochs of a training.

    Attributes:
        epochs: of the training as it is described.
        rate: highest learning rate.
        milestones: epochs from which the rate is multiplied by `factor` once more; without any it falls along a cosine.
        factor: what it is multiplied by.
        warmup: epochs in which the rate rises along a line.
        start: epoch from which the schedule is run: 0 for all of it.

    Raises:
        UsageError: a number is out of its range.
    """

    epochs: int
    rate: float
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    warmup: float = 0.0
    start: int = 0

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not self.epochs >= 1:
            raise UsageError(f"expected epochs to be 1 or more, but got {self.epochs}")
        if not 0 < self.rate < math.inf:
            raise UsageError(f"expected rate to be above 0, but got {self.rate}")
        if not 0 < self.factor <= 1:
            raise UsageError(f"expected factor to be above 0 and at most 1, but got {self.factor}")
        if not 0 <= self.warmup < self.epochs:
            raise UsageError(f"expected warmup to be below the {self.epochs} epochs, but got {self.warmup}")
        if not 0 <= self.start < self.epochs:
            raise UsageError(f"expected start to be one of the {self.epochs} epochs, but got {self.start}")
        if any(not 0 < milestone < self.epochs for milestone in self.milestones) or any(
            not first < second for first, second in pairwise(self.milestones)
        ):
            raise UsageError(
                f"expected ascending milestones inside the {self.epochs} epochs, but got {list(self.milestones)}"
            )

    @property
    def length(self) -> int:
        """Epochs that are run."""
        return self.epochs - self.start

    def last(self, epochs: int) -> Schedule:
        """Learning-rate rewinding: the last epochs of this schedule.

        Raises:
            UsageError: it has not so many.
        """
        if not 1 <= epochs <= self.epochs:
            raise UsageError(f"expected to rewind 1 to {self.epochs} epochs, but got {epochs}")
        return replace(self, start=self.epochs - epochs)

    def rate_at(self, step: int, steps: int) -> float:
        """The learning rate of a step of what is run.

        Args:
            step: number of the step, 0 for the first one that is run.
            steps: of an epoch.
        """
        done = step + self.start * steps
        if not self.milestones:
            return self.rate * cosine(done, self.epochs * steps, self.warmup * steps)
        if done < self.warmup * steps:
            return self.rate * (done + 1) / (self.warmup * steps + 1)
        return self.rate * self.factor ** sum(milestone * steps <= done for milestone in self.milestones)


def cosine(step: int, steps: int, rising: float) -> float:
    """The learning rate of a step as a share of the highest one: along a line up, along a cosine to zero.

    Args:
        step: number of the step.
        steps: of the whole training.
        rising: steps in which the rate rises.
    """
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))
