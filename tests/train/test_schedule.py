"""Learning rates: their shape, and what a rewound schedule has in common with the whole one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom_runtime.errors import UsageError

pytest.importorskip("torch", reason="torch is not installed (pip install 'lissom[recover]')")

from lissom.train.schedule import Schedule

STEPS = 7


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    epochs = draw(st.integers(2, 40))
    milestones = tuple(sorted(draw(st.sets(st.integers(1, epochs - 1), max_size=4))))
    return Schedule(epochs, draw(st.floats(1e-4, 1)), milestones, 0.1, draw(st.sampled_from([0.0, 0.5, 1.0])))


@settings(max_examples=50)
@given(schedules(), st.data())
def test_a_rewound_schedule_has_the_rates_of_the_last_epochs(whole: Schedule, data: st.DataObject) -> None:
    left = data.draw(st.integers(1, whole.epochs))
    rewound = whole.last(left)
    assert rewound.length == left
    skipped = (whole.epochs - left) * STEPS
    for step in range(left * STEPS):
        assert rewound.rate_at(step, STEPS) == whole.rate_at(skipped + step, STEPS)


@settings(max_examples=50)
@given(schedules())
def test_rates_rise_to_the_highest_one_and_never_again(schedule: Schedule) -> None:
    rates = [schedule.rate_at(step, STEPS) for step in range(schedule.length * STEPS)]
    rising = int(-(-schedule.warmup * STEPS // 1))
    assert all(0 < rate <= schedule.rate for rate in rates)
    assert rates[:rising] == sorted(rates[:rising])
    assert rates[rising:] == sorted(rates[rising:], reverse=True)
    if not any(milestone <= schedule.warmup for milestone in schedule.milestones):
        assert max(rates[rising:]) == pytest.approx(schedule.rate, rel=0.2)


def test_steps_fall_at_the_milestones() -> None:
    schedule = Schedule(6, 1.0, (2, 5), 0.1)
    rates = [schedule.rate_at(epoch * STEPS, STEPS) for epoch in range(6)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.01])
    assert schedule.rate_at(2 * STEPS - 1, STEPS) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs to be 1 or more, but got 0"),
        ({"rate": float("nan")}, "rate to be above 0, but got nan"),
        ({"factor": 0.0}, "factor to be above 0"),
        ({"warmup": 4}, "warmup to be below the 4 epochs, but got 4"),
        ({"start": 4}, "one of the 4 epochs, but got 4"),
        ({"milestones": (3, 2)}, r"ascending milestones inside the 4 epochs, but got \[3, 2\]"),
        ({"milestones": (4,)}, r"but got \[4\]"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Schedule(**({"epochs": 4, "rate": 0.1} | wrong))


def test_more_epochs_than_there_are_cannot_be_rewound() -> None:
    with pytest.raises(UsageError, match="rewind 1 to 4 epochs, but got 5"):
        Schedule(4, 0.1).last(5)
