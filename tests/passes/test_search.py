"""Bounds that only the finished model shows are held or reported missed; goals are bisected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from lissom import pipeline
from lissom.options import Cost, Menu, Option, Resource
from lissom.progress import silent
from lissom.search import GOAL_STEPS, REPLANS, Budget, Search
from lissom_runtime.errors import GoalMissed

ORIGINAL: Mapping[Resource, float] = {"params": 1000.0, "bytes": 4000.0}


class Share(float):
    """A plan, and its candidate: what it keeps of either resource of the network."""

    def total(self, resource: Resource) -> float:
        """What its site keeps."""
        return (self - 0.1) * ORIGINAL[resource]


class Bench:
    """A network of 1000 parameters in 4000 bytes, nine tenths of both in one site that can shrink to one tenth."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        realised: Callable[[float], float],
        share: float | None = None,
        objective: str = "minimax",
        others: Sequence[Budget] = (),
    ):
        self.built: list[float] = []
        dense = Option("site", "dense", {}, Cost(900, 3600, 900), 0.0, "code")
        ladder: Any = SimpleNamespace(cost=lambda resource: SimpleNamespace(min=lambda: 0.1 * ORIGINAL[resource]))
        canonical: Any = SimpleNamespace(totals=SimpleNamespace(**ORIGINAL))
        recipe: Any = SimpleNamespace(name="a test", allocate=SimpleNamespace(objective=objective))
        study = pipeline.Study(canonical, recipe, [Menu("site", dense, [ladder])], (), {})
        monkeypatch.setattr(pipeline, "allocate", self.allocate)
        budget = Budget("params", 1000.0, lambda candidate: realised(float(candidate)), share)
        build: Any = self.build
        self.search = Search(study, [budget, *others], build)

    def allocate(self, _: object, limits: Mapping[Resource, float]) -> Share:
        share = min(limit / ORIGINAL[resource] for resource, limit in limits.items())
        if share < 0.1:
            raise GoalMissed("too small")
        return Share(share + 0.1)

    def build(self, plan: Share) -> Share:
        self.built.append(plan)
        return plan


def test_a_plan_that_keeps_its_prediction_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, lambda share: share, 0.5)
    found = bench.search.candidate(0.5)
    assert (found.missed, bench.built) == ("", [pytest.approx(0.5)])


def test_a_plan_that_misses_is_tightened_until_the_model_holds_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, lambda share: share + 0.05, 0.5)
    found = bench.search.candidate(0.5)
    assert found.missed == ""
    assert len(bench.built) == 2
    assert bench.built[1] + 0.05 <= 0.5


def test_a_bound_that_another_leaves_slack_is_tightened_from_what_the_plan_predicted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loose = Budget("bytes", 4000.0, lambda candidate: float(candidate) + 0.4, 0.8)
    bench = Bench(monkeypatch, lambda share: share, 0.5, others=[loose])
    found = bench.search.candidate(0.5)
    assert (found.missed, bench.built) == ("", [pytest.approx(0.5), pytest.approx(0.39)])


def test_a_bound_that_keeps_being_missed_is_reported_with_the_nearest_model(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, lambda share: 0.9 + 0.01 * share, 0.8)
    found = bench.search.candidate(0.8)
    assert "at most 0.8 of the params" in found.missed
    assert len(bench.built) <= 1 + REPLANS
    assert float(found.candidate) == min(bench.built)
    assert all(not step.met for step in bench.search.tries)


def test_an_unreachable_share_names_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch, lambda share: share, 0.1)
    with pytest.raises(GoalMissed, match=r"can reach is 0\.2"):
        bench.search.candidate(0.1)


@pytest.mark.parametrize(("objective", "missed"), [("alds", False), ("minimax", True)])
def test_only_the_published_search_may_end_half_a_percent_above(
    monkeypatch: pytest.MonkeyPatch, objective: str, missed: bool
) -> None:
    bench = Bench(monkeypatch, lambda _: 0.5 * 1.004, 0.5, objective)
    assert bool(bench.search.candidate(0.5).missed) == missed


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.9])
def test_a_goal_is_bisected_to_the_smallest_share_that_holds_it(
    monkeypatch: pytest.MonkeyPatch, threshold: float
) -> None:
    bench = Bench(monkeypatch, lambda share: share)
    found = bench.search.smallest_within(0.01, lambda c: 0.0 if float(c) >= threshold else 1.0, silent)
    width = 0.8 / 2**GOAL_STEPS
    assert found.missed == ""
    assert threshold <= float(found.candidate) <= threshold + width + 1e-12
    assert len(bench.search.tries) == GOAL_STEPS


def test_a_goal_within_a_bound_starts_at_the_bound_and_stops_when_that_loses_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, lambda share: share, 0.6)
    found = bench.search.smallest_within(0.01, lambda _: 0.3, silent)
    assert "the mildest candidate loses 0.3" in found.missed
    assert bench.built == [pytest.approx(0.6)]


def test_a_goal_within_a_bound_asks_finished_models_for_the_bound_and_not_for_the_share_of_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch, lambda share: share + 0.02, 0.6)
    found = bench.search.smallest_within(0.01, lambda c: 0.0 if float(c) >= 0.3 else 1.0, silent)
    assert found.missed == ""
    assert float(found.candidate) == pytest.approx(0.3, abs=0.01)
    assert sum(built + 0.02 > 0.6 for built in bench.built) == 1, "only the first step is at the bound"


def test_a_goal_alone_asks_nothing_of_what_finished_models_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(share: float) -> float:
        raise AssertionError(share)

    bench = Bench(monkeypatch, never)
    assert bench.search.smallest_within(0.01, lambda c: 0.0 if float(c) >= 0.5 else 1.0, silent).missed == ""
    assert len(bench.built) == GOAL_STEPS


def test_a_bound_that_a_model_breaks_is_named_and_one_that_holds_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    search = Bench(monkeypatch, lambda share: share, share=0.5).search
    within: Any = Share(0.5)
    beyond: Any = Share(0.6)
    assert search.broken(within) == ""
    assert search.broken(beyond).startswith("expected to keep at most 0.5 of the params")
