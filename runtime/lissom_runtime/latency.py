"""Paired latency: several sessions in one process, timed in turn, so that the machine's moods hit all alike.

A round runs the sessions in a random order and then in the reverse of it (A B B A, or C A B B A C), so that going first
and linear drift cancel in each round. Rounds are bound by count and by time; no interval is looked at before the end,
because stopping when a result looks good would spoil its confidence. The garbage collector is off meanwhile.

A sample is the mean over `repeats` runs, chosen in the warm-up so that a sample of the fastest session lasts
`SHORTEST_SAMPLE_US`. The number is the same for all sessions, because the first run after another session's finds the
caches cold: with 1 run a sample against 2, a model came out 7 % slower than itself. A call from Python costs about
15 µs, which every run contains. That pulls the ratio of very fast networks (below 0.2 ms) towards 1; for those, a
benchmark in C++ or a larger input is the better instrument.

Two sessions of one model are not equally fast: their weights and buffers lie elsewhere in memory. No number of rounds
averages that out, so a `PairedLatency` adds the allowance `LAYOUT` at both ends of the interval of its samples.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from lissom_runtime.intervals import FloatArray, Interval, ratio_interval

Feeds = Mapping[str, npt.NDArray[Any]]
Verdict = Literal["faster", "slower", "no significant change"]

SHORTEST_SAMPLE_US = 200.0
"""Runs are repeated within a sample until that of the fastest session lasts this long."""


LAYOUT = 0.01
"""Relative difference that memory layout alone can make between two sessions of one model.

Four times the standard deviation over twelve fresh pairs of sessions of a 100 µs network (0.0025); above 1 ms it was
too small to see. With twice, a 164 µs network against itself was covered in 18 of 20 (benchmarks/LOG.md).
"""


class Runnable(Protocol):
    """What a latency or an accuracy needs of a session; `onnxruntime.InferenceSession` has it."""

    def run(self, output_names: Sequence[str] | None, input_feed: Feeds) -> Sequence[npt.NDArray[Any]]:
        """Outputs in the order of `output_names` (None: all, in the graph's order)."""
        ...


@dataclass(frozen=True)
class Schedule:
    """How long to measure: at least `min_pairs` samples of each session, then until a bound is met.

    Attributes:
        warmup: runs of each session before the first sample, at least 1.
        min_pairs: samples of each session that are always taken.
        max_pairs: samples of each session that are never exceeded.
        max_seconds: no round begins after this, once `min_pairs` are there.
        seed: of the order within each round.
        settle: runs of a session that are not timed before each of its samples. With 0 the caches hold what the others
            left, so that a session that waits for memory looks slower than in a process of its own.
    """

    warmup: int = 5
    min_pairs: int = 40
    max_pairs: int = 400
    max_seconds: float = 20.0
    seed: int = 0
    settle: int = 0


@dataclass(frozen=True)
class Samples:
    """Latencies of one session, in the order taken.

    Attributes:
        us: us[n], microseconds a run.
        repeats: runs that each sample is the mean of.
        busy_threads: processor time spent by the process, over wall time: how many threads really ran.
    """

    us: FloatArray
    repeats: int
    busy_threads: float

    @property
    def median(self) -> float:
        """Median, microseconds."""
        return float(np.median(self.us))

    def percentile(self, percent: float) -> float:
        """The given percentile (0 to 100), microseconds."""
        return float(np.percentile(self.us, percent))

    def to_json(self) -> dict[str, Any]:
        """Summary and raw samples, for a report."""
        return {
            "median_us": self.median,
            "p90_us": self.percentile(90),
            "p95_us": self.percentile(95),
            "repeats": self.repeats,
            "busy_threads": self.busy_threads,
            "samples_us": self.us.tolist(),
        }


@dataclass(frozen=True)
class PairedLatency:
    """Two sessions measured in the same rounds; the ratio is b over a."""

    a: Samples
    b: Samples
    confidence: float = 0.99

    @cached_property
    def interval(self) -> Interval:
        """The ratio b/a and its confidence interval, `LAYOUT` included."""
        found = ratio_interval(self.a.us, self.b.us, self.confidence)
        return replace(found, low=found.low / (1 + LAYOUT), high=found.high * (1 + LAYOUT))

    @property
    def ratio(self) -> float:
        """Latency of b over latency of a: below 1, b is faster."""
        return self.interval.ratio

    @property
    def verdict(self) -> Verdict:
        """What may be said about b: nothing, when the interval covers 1."""
        if self.interval.covers_one:
            return "no significant change"
        return "faster" if self.interval.high < 1 else "slower"

    def to_json(self) -> dict[str, Any]:
        """Interval, verdict and both sets of samples, for a report."""
        return {**asdict(self.interval), "verdict": self.verdict, "a": self.a.to_json(), "b": self.b.to_json()}


def compare(
    session_a: Runnable,
    session_b: Runnable,
    feeds_a: Feeds,
    feeds_b: Feeds | None = None,
    *,
    schedule: Schedule | None = None,
    confidence: float = 0.99,
) -> PairedLatency:
    """Latency of `session_b` against `session_a`; `feeds_b` defaults to `feeds_a`."""
    runs = [(session_a, feeds_a), (session_b, feeds_a if feeds_b is None else feeds_b)]
    a, b = compare_many(runs, schedule=schedule)
    return PairedLatency(a, b, confidence)


def measure(session: Runnable, feeds: Feeds, *, schedule: Schedule | None = None) -> Samples:
    """Latency of one session alone. For a comparison use `compare`: two of these were taken in different weather."""
    (samples,) = compare_many([(session, feeds)], schedule=schedule)
    return samples


def compare_many(runs: Sequence[tuple[Runnable, Feeds]], *, schedule: Schedule | None = None) -> list[Samples]:
    """Latencies of several sessions measured in the same rounds; any two of the results make a `PairedLatency`.

    Args:
        runs: (session, feeds) of each.
        schedule: how long; the default is `Schedule()`.

    Raises:
        ValueError: `runs` is empty, or the schedule has no legal number of samples.
    """
    schedule = schedule or Schedule()
    if not runs or schedule.warmup < 1 or not 2 <= schedule.min_pairs <= schedule.max_pairs:
        raise ValueError(f"expected sessions, a warm-up and 2 <= min_pairs <= max_pairs, got {len(runs)}, {schedule}")
    fastest = min(_time(session, feeds, 1)[0] for session, feeds in runs for _ in range(schedule.warmup))
    repeats = max(1, int(np.ceil(SHORTEST_SAMPLE_US / fastest)))
    wall: list[list[float]] = [[] for _ in runs]
    busy = np.zeros(len(runs))
    with _collector_off():
        for index in _order(len(runs), schedule):
            session, feeds = runs[index]
            for _ in range(schedule.settle):
                session.run(None, feeds)
            wall_us, busy_us = _time(session, feeds, repeats)
            wall[index].append(wall_us)
            busy[index] += busy_us
    return [Samples(np.array(us), repeats, float(cpu / sum(us))) for us, cpu in zip(wall, busy, strict=True)]


def _order(sessions: int, schedule: Schedule) -> Iterator[int]:
    """Which session is next: each round a random order, then its reverse, until a bound of `schedule` is met."""
    generator = np.random.default_rng(schedule.seed)
    deadline = time.perf_counter() + schedule.max_seconds
    for taken in range(0, schedule.max_pairs - 1, 2):
        if taken >= schedule.min_pairs and time.perf_counter() > deadline:
            return
        order = generator.permutation(sessions).tolist()
        yield from order
        yield from reversed(order)


def _time(session: Runnable, feeds: Feeds, repeats: int) -> tuple[float, float]:
    """Wall time and processor time of one run, microseconds, as the mean of `repeats`."""
    cpu, wall = time.process_time_ns(), time.perf_counter_ns()
    for _ in range(repeats):
        session.run(None, feeds)
    wall, cpu = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
    return wall / (1000 * repeats), cpu / (1000 * repeats)


@contextmanager
def _collector_off() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
