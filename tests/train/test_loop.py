"""A training takes the time that it was given, over as many steps as fit into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'lissom[recover]')")

from lissom.train import loop
from lissom.train.checkpoint import Position
from lissom.train.loop import Course, train
from train.runs import Killed, killed_after

MINUTES = 2.0
EPOCHS, STEPS = 100, 10
FITTING = 88
"""Of the 114 s that are planned for, 6 timed steps and a measurement take 8; ten steps and one take 12."""


class Counting:
    """Adds 1 to its weight in each step of a second, and gets better by it; a measurement takes two."""

    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.SGD([self.weight], lr=1.0, momentum=0.5)
        self.now = 0.0
        self.of_measurement = 2.0
        self.of_step: Callable[[float], float] = lambda _: 1.0

    def state(self) -> Mapping[str, Any]:
        return {"weight": self.weight}

    def step(self, _: int) -> None:
        self.now += self.of_step(self.now)
        self.optimizer.zero_grad()
        (-self.weight).sum().backward()
        self.optimizer.step()

    def measured(self) -> float:
        self.now += self.of_measurement
        return -float(self.weight.detach())

    def values(self) -> dict[str, npt.NDArray[Any]]:
        return {"weight": self.weight.detach().numpy().copy()}


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    found = Counting()
    monkeypatch.setattr(loop.time, "monotonic", lambda: found.now)
    return found


def course(minutes: float | None = MINUTES, **options: Any) -> Course:
    return Course(EPOCHS, STEPS, EPOCHS, minutes=minutes, **options)


def moved_by(steps: int) -> float:
    """Where so many steps lead from a fresh start: 1, 1.5, 1.75, … each."""
    return float(sum(2 - 0.5**number for number in range(steps)))


def test_a_run_has_the_steps_that_fit_and_its_schedule_is_told_of_them(counting: Counting) -> None:
    told: list[int] = []
    position, values = train(counting, course(planned=told.append), "")
    assert told == [FITTING]
    assert (position.step, position.total, position.best_epoch) == (FITTING, FITTING, 9)
    assert position.seconds == counting.now <= 60 * MINUTES
    np.testing.assert_allclose(values["weight"], moved_by(FITTING))


def test_steps_that_were_timed_are_taken_back(counting: Counting) -> None:
    position, values = train(counting, course(minutes=1 / 3), "")
    assert position.step == 9
    np.testing.assert_allclose(values["weight"], moved_by(9))


def test_a_run_whose_time_is_up_before_its_first_step_gives_what_it_was_given(counting: Counting) -> None:
    position, values = train(counting, course(minutes=1e-9), "")
    assert (position.step, position.best_epoch) == (0, 0)
    np.testing.assert_array_equal(values["weight"], 0)


@pytest.mark.parametrize("minutes", [None, 1e9])
def test_a_run_with_time_enough_has_all_its_epochs(counting: Counting, minutes: float | None) -> None:
    position, _ = train(counting, course(minutes), "")
    assert (position.step, position.best_epoch) == (EPOCHS * STEPS, EPOCHS)


def test_a_run_that_gets_slower_ends_at_its_limit_and_is_measured_there(counting: Counting) -> None:
    counting.of_step = lambda now: 1.0 if now < 20 else 3.0
    position, values = train(counting, course(), "")
    assert position.step < FITTING
    assert 60 * MINUTES <= position.seconds < 60 * MINUTES + 3 + 2
    np.testing.assert_allclose(values["weight"], moved_by(position.step))


@settings(max_examples=25, deadline=None)
@given(of_step=st.floats(0.02, 50), of_measurement=st.floats(0, 50), minutes=st.floats(0.01, 5))
def test_no_run_takes_more_than_a_step_and_a_measurement_beyond_its_time(
    of_step: float, of_measurement: float, minutes: float
) -> None:
    counting = Counting()
    counting.of_step, counting.of_measurement = (lambda _: of_step), of_measurement
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop.time, "monotonic", lambda: counting.now)
        position, _ = train(counting, course(minutes), "")
    timed = loop.TIMED_STEPS * of_step + of_measurement
    assert position.seconds == pytest.approx(counting.now)
    assert position.seconds <= max(60 * minutes, timed) + of_step + of_measurement + 1e-6
    assert position.step <= position.total <= EPOCHS * STEPS
    assert position.step == 0 or position.best_epoch > 0


def test_the_time_of_a_resumed_run_counts_from_where_it_stopped(
    counting: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    state = {"checkpoint": tmp_path / "run.safetensors"}
    with pytest.raises(Killed):
        train(counting, course(progress=killed_after(33), **state), "")
    resumed = Counting()
    resumed.now = 1e6
    monkeypatch.setattr(loop.time, "monotonic", lambda: resumed.now)
    taken: list[int] = []

    def progress(items: Sequence[int], _: str) -> Iterable[int]:
        taken.extend(items)
        return items

    position, values = train(resumed, course(resume=True, progress=progress, **state), "")
    assert taken == list(range(33, FITTING))
    assert position == Position(FITTING, -moved_by(FITTING), 9, FITTING, counting_seconds())
    np.testing.assert_allclose(values["weight"], moved_by(FITTING))


def counting_seconds() -> float:
    """What an unbroken run takes: what was timed, 88 steps and 9 measurements."""
    return 8.0 + FITTING + 9 * 2.0


def test_a_run_whose_time_is_up_takes_no_step_when_it_is_resumed(counting: Counting, tmp_path: Path) -> None:
    counting.of_step = lambda now: 1.0 if now < 20 else 3.0
    state = {"checkpoint": tmp_path / "run.safetensors"}
    first, values = train(counting, course(**state), "")
    resumed = Counting()
    assert train(resumed, course(resume=True, **state), "") == (first, values)
    assert resumed.now == 0.0


def test_epochs_that_are_worse_than_the_start_are_taken_back_until_one_is_better(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    signs = iter([0, 1, 1, -1, 1])
    monkeypatch.setattr(counting, "measured", lambda: next(signs, -2) * float(1 + counting.weight.detach()))
    position, values = train(counting, Course(5, STEPS, 5, cut=told.append), "")
    assert told == [0, 1, 2]
    assert (position.cuts, position.best_epoch) == (2, 5)
    np.testing.assert_allclose(values["weight"], moved_by(3 * STEPS))
