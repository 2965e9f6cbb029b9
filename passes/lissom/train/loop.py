"""The one loop of training: steps, a measurement after each epoch, and a file from which a run goes on.

1. Training stops after `patience` epochs without a better measurement, where there is such a limit.
2. The values of the best epoch are what a run gives; with `keeps` "last" those of the last one.
3. Under a limit on the time a few steps and a measurement are timed first, and taken back; the run then has as many
   steps as fit, and the schedule of rates their length. A run that turns out slower ends at the limit nevertheless. The
   time of a run that is resumed counts from where it stopped.
4. Where `cut` is given, an epoch that is worse than the start, while none was better, is taken back and the rate cut.
5. A checkpoint is written after every epoch, in between at least every `CHECKPOINT_SECONDS`, and when the process is
   told to stop; then the signal takes its course. What a run is and was started with is in its digest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal, Protocol

import numpy.typing as npt
import torch

from lissom.progress import Progress, silent
from lissom.train.checkpoint import Position, load, save
from lissom.train.node import Tensor
from lissom.train.signals import deferred_signals

Array = npt.NDArray[Any]

TIMED_STEPS = 6
"""Steps that are timed under a limit on the time; the first is not counted."""

LEAST_SECONDS = 1e-6
"""An epoch takes at least so long."""

FILLED = 0.95
"""Share of the time that steps are planned for."""

CHECKPOINT_SECONDS = 30.0
"""A checkpoint is written after an epoch, when the run is told to stop, and in between at least so often."""


def _nothing(_: int) -> None:
    """For who has no use for the number of steps."""


class Trainee(Protocol):
    """What is trained.

    Attributes:
        optimizer: whose state is part of a checkpoint.
    """

    optimizer: torch.optim.Optimizer

    def state(self) -> Mapping[str, Tensor]:
        """All tensors that steps change, by name."""

    def step(self, number: int) -> None:
        """One step of the optimizer."""

    def measured(self) -> float:
        """What is to be small, on samples that are held out."""

    def values(self) -> dict[str, Array]:
        """The trained constants."""


@dataclass(frozen=True)
class Course:
    """How a training runs.

    Attributes:
        epochs: passes over the samples, at most.
        steps: of an epoch.
        patience: epochs without improvement after which training stops.
        keeps: which values are its result.
        checkpoint: file of the state of the run.
        resume: go on from `checkpoint` if it exists.
        progress: told of the steps.
        doing: what it is told that is done.
        minutes: most time that it takes; None: as long as it needs.
        planned: told how many steps the whole training has, before the first of them.
        cut: told how often the learning rate was cut so far, before the first step and when it is; None: it never is.
    """

    epochs: int
    steps: int
    patience: int
    keeps: Literal["best", "last"] = "best"
    checkpoint: Path | None = None
    resume: bool = False
    progress: Progress = silent
    doing: str = "training"
    minutes: float | None = None
    planned: Callable[[int], None] = _nothing
    cut: Callable[[int], None] | None = None

    @property
    def most(self) -> int:
        """Steps, at most."""
        return self.epochs * self.steps


def train(trainee: Trainee, course: Course, digest: str) -> tuple[Position, dict[str, Array]]:
    """Trains to the end, or until a signal comes.

    Args:
        trainee: what is trained.
        course: how.
        digest: of what the run is started with.

    Returns:
        Where the run is, and the values that it gives.

    Raises:
        UsageError: the checkpoint is of another run or cannot be written.
    """
    path, state = course.checkpoint, trainee.state()
    if course.resume and path is not None and path.exists():
        position, best = load(path, digest, state, trainee.optimizer)
    else:
        position, best = _start(trainee, course), trainee.values() if course.keeps == "best" else {}
    course.planned(position.total)
    if course.cut is not None:
        course.cut(position.cuts)
    written = time.monotonic()
    began = written - position.seconds
    limit = math.inf if course.minutes is None else 60 * course.minutes
    with deferred_signals() as stopping:
        for step in course.progress(range(position.step, position.total), course.doing):
            epoch, rest = divmod(step, course.steps)
            if epoch - position.best_epoch >= course.patience and rest == 0:
                break
            if position.seconds >= limit:
                break
            trainee.step(step)
            position = replace(position, step=step + 1, seconds=time.monotonic() - began)
            ended = rest == course.steps - 1 or step + 1 == position.total or position.seconds >= limit
            if ended:
                found = trainee.measured()
                position = replace(position, seconds=time.monotonic() - began)
                if course.keeps == "last" or found < position.best:
                    position = replace(position, best=found, best_epoch=epoch + 1)
                    best = trainee.values() if course.keeps == "best" else {}
                elif course.cut is not None and position.best_epoch == 0:
                    position = replace(position, cuts=position.cuts + 1)
                    _put_back(trainee, {name: torch.from_numpy(best[name]) for name in state})
                    course.cut(position.cuts)
            late = time.monotonic() - written > CHECKPOINT_SECONDS
            if path is not None and (ended or late or stopping()):
                save(path, digest, position, state, best, trainee.optimizer)
                written = time.monotonic()
            if stopping():
                break
    return position, best if course.keeps == "best" else trainee.values()


def _start(trainee: Trainee, course: Course) -> Position:
    """The start of a run, with as many steps as fit into its time."""
    began = time.monotonic()
    start = Position(0, trainee.measured(), 0, course.most, 0.0)
    if course.minutes is None:
        return start
    measuring, each = time.monotonic() - began, []
    before = {name: value.detach().clone() for name, value in trainee.state().items()}
    for number in range(TIMED_STEPS):
        stepped = time.monotonic()
        trainee.step(number)
        each.append(time.monotonic() - stepped)
        if len(each) > 1 and time.monotonic() - began > 30 * course.minutes:
            break  # half of the time
    _put_back(trainee, before)
    spent = time.monotonic() - began
    of_epoch = course.steps * median(each[1:]) + measuring
    fitting = math.floor(course.steps * (60 * course.minutes * FILLED - spent) / max(of_epoch, LEAST_SECONDS))
    return replace(start, total=min(max(fitting, 1), course.most), seconds=spent)


def _put_back(trainee: Trainee, before: Mapping[str, Tensor]) -> None:
    """Gives a trainee the tensors that it had, and a new state of its optimizer."""
    with torch.no_grad():
        for name, value in trainee.state().items():
            value.copy_(before[name])
    trainee.optimizer.state.clear()
