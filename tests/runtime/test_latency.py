"""The order and the bounds of a paired measurement, on sessions that only take notes or advance a fake clock."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from lissom_runtime import latency
from lissom_runtime.latency import PairedLatency, Samples, Schedule, compare, compare_many, measure


class Clock:
    """Time that only fake sessions advance, nanoseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1
        monkeypatch.setattr(latency.time, "perf_counter_ns", lambda: self.now)
        monkeypatch.setattr(latency.time, "process_time_ns", lambda: 2 * self.now)
        monkeypatch.setattr(latency.time, "perf_counter", lambda: self.now / 1e9)


class Session:
    """Takes `us` a run on `clock`, with a jitter that differs from run to run, and notes each run in `log`."""

    def __init__(self, name: str, us: float, clock: Clock, log: list[str]) -> None:
        self.name, self.us, self.clock, self.log = name, us, clock, log
        self.random = np.random.default_rng(len(name) + ord(name[0]))

    def run(self, output_names: Sequence[str] | None, input_feed: latency.Feeds) -> list[Any]:
        self.log.append(self.name)
        self.clock.now += int(1000 * self.us * self.random.uniform(1.0, 1.02))
        return []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def sessions(clock: Clock, *us: float) -> tuple[list[Session], list[str]]:
    log: list[str] = []
    return [Session("ABCDEF"[index], value, clock, log) for index, value in enumerate(us)], log


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_round_is_an_order_and_its_reverse(clock: Clock, count: int) -> None:
    made, log = sessions(clock, *[1000.0] * count)
    compare_many([(session, {}) for session in made], schedule=Schedule(warmup=2, min_pairs=8, max_pairs=8))
    rounds = np.array(log[2 * count :]).reshape(4, 2 * count).tolist()
    for order in rounds:
        assert sorted(order[:count]) == list("ABCDEF"[:count])
        assert order == order[::-1]


def test_both_orders_occur_and_the_seed_decides_which(clock: Clock) -> None:
    def order(seed: int) -> list[str]:
        made, log = sessions(clock, 1000, 1000)
        compare(*made, {}, schedule=Schedule(warmup=1, min_pairs=40, max_pairs=40, seed=seed))
        return log[2::4]

    assert set(order(0)) == {"A", "B"}
    assert order(0) == order(0) != order(1)


@pytest.mark.parametrize(
    ("schedule", "taken"),
    [
        (Schedule(min_pairs=4, max_pairs=10, max_seconds=1e9), 10),
        (Schedule(min_pairs=4, max_pairs=10, max_seconds=0), 4),
        (Schedule(min_pairs=4, max_pairs=1000, max_seconds=0.1), 26),
        (Schedule(min_pairs=5, max_pairs=9, max_seconds=0), 6),
    ],
    ids=["count", "minimum", "time", "whole rounds"],
)
def test_count_and_time_bound_the_samples(clock: Clock, schedule: Schedule, taken: int) -> None:
    made, _ = sessions(clock, 2000, 2000)
    result = compare(*made, {}, schedule=schedule)
    assert len(result.a.us) == len(result.b.us) == taken


def test_short_runs_are_repeated_within_a_sample_and_counted_once(clock: Clock) -> None:
    made, log = sessions(clock, 50)
    samples = measure(made[0], {}, schedule=Schedule(warmup=3, min_pairs=4, max_pairs=4))
    assert samples.repeats == 4
    assert len(log) == 3 + 4 * 4
    assert 50 <= samples.median <= 51


def test_all_sessions_repeat_equally_often_so_that_caches_are_equally_warm(clock: Clock) -> None:
    made, log = sessions(clock, 50, 1000)
    a, b = compare_many([(session, {}) for session in made], schedule=Schedule(warmup=1, min_pairs=2, max_pairs=2))
    assert a.repeats == b.repeats == 4
    assert log.count("A") == log.count("B") == 1 + 2 * 4


def test_runs_that_settle_a_session_are_not_timed(clock: Clock) -> None:
    made, log = sessions(clock, 1000, 1000)
    schedule = Schedule(warmup=1, min_pairs=4, max_pairs=4, settle=2)
    a, b = compare_many([(session, {}) for session in made], schedule=schedule)
    assert 1000 <= a.median <= 1020 and 1000 <= b.median <= 1020
    assert np.array(log[2:]).reshape(-1, 3).T.tolist() == 3 * [log[2::3]]
    assert len(a.us) == len(b.us) == 4


@pytest.mark.parametrize(
    ("us", "verdict"),
    [((1000.0, 900.0), "faster"), ((1000.0, 1100.0), "slower"), ((1000.0, 1000.0), "no significant change")],
)
def test_the_verdict_follows_the_interval(clock: Clock, us: tuple[float, float], verdict: str) -> None:
    made, _ = sessions(clock, *us)
    result = compare(*made, {})
    assert result.verdict == verdict
    assert result.interval.low <= us[1] / us[0] <= result.interval.high
    assert result.ratio == pytest.approx(us[1] / us[0], rel=0.01)


def test_a_difference_within_the_layout_allowance_is_not_significant() -> None:
    steady = np.full(40, 1000.0)
    a, b = Samples(steady, 1, 1.0), Samples(steady * (1 + 0.9 * latency.LAYOUT), 1, 1.0)
    assert PairedLatency(a, b).verdict == "no significant change"
    assert PairedLatency(a, Samples(steady * (1 + 1.1 * latency.LAYOUT), 1, 1.0)).verdict == "slower"


def test_each_session_gets_its_own_feeds(clock: Clock) -> None:
    seen: dict[str, set[str]] = {"A": set(), "B": set()}

    class Feeding(Session):
        def run(self, output_names: Sequence[str] | None, input_feed: latency.Feeds) -> list[Any]:
            seen[self.name].update(input_feed)
            return super().run(output_names, input_feed)

    a, b = Feeding("A", 1000, clock, []), Feeding("B", 1000, clock, [])
    one = np.ones(1)
    compare(a, b, {"x": one}, {"y": one}, schedule=Schedule(min_pairs=2, max_pairs=2))
    assert seen == {"A": {"x"}, "B": {"y"}}


def test_the_report_is_json_with_raw_samples_and_busy_threads(clock: Clock) -> None:
    made, _ = sessions(clock, 1000, 1000)
    result = json.loads(json.dumps(compare(*made, {}).to_json()))
    assert len(result["a"]["samples_us"]) == 400
    assert result["a"]["median_us"] <= result["a"]["p90_us"] <= result["a"]["p95_us"]
    assert result["b"]["busy_threads"] == pytest.approx(2.0)
    assert result["confidence"] == 0.99


@pytest.mark.parametrize(
    "schedule", [Schedule(warmup=0), Schedule(min_pairs=1), Schedule(min_pairs=9, max_pairs=8)], ids=repr
)
def test_impossible_schedules_are_refused(clock: Clock, schedule: Schedule) -> None:
    made, _ = sessions(clock, 1000)
    with pytest.raises(ValueError, match="expected sessions, a warm-up and 2 <= min_pairs <= max_pairs"):
        measure(made[0], {}, schedule=schedule)
