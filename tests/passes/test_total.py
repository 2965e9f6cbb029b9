"""Total: the least summed error under any mix of limits."""

from __future__ import annotations

import ctypes
import math
import os
import re
from collections.abc import Sequence
from itertools import product
from typing import Any

import lissom.allocate.total as allocator
import numpy as np
import numpy.typing as npt
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom.allocate.minimax import minimax
from lissom.allocate.program import Site
from lissom.allocate.quiet import without_notes
from lissom.allocate.total import FEW, GAP, total
from lissom.options import RESOURCES, Cost, FloatArray, Ladder, Menu, Option, Resource
from lissom_runtime.errors import GoalMissed

Limits = dict[Resource, float]


def dense(site: str, cost: Sequence[float]) -> Option:
    return Option(site, "dense", {}, Cost(*cost), 0.0, "code")


def ladder(site: str, cost: npt.ArrayLike, error: npt.ArrayLike, groups: int = 1) -> Ladder:
    """A ladder of cost[resources, n]; the laws hold for any order of the options."""
    params, size, macs, latency = np.asarray(cost, np.float64)
    errors = np.asarray(error, np.float64)
    steps = np.arange(1, len(errors) + 1)
    shared = {"groups": groups}
    return Ladder(site, "low-rank", shared, "rank", steps, errors, 1.0, params, size, macs, "code", latency)


@st.composite
def menus(draw: st.DrawFn) -> list[Menu]:
    """Small menus with many ties in error and in cost."""
    made = []
    size = st.integers(0, 9)
    for number in range(draw(st.integers(1, 3))):
        site = f"site{number}"
        ladders = []
        for groups in range(draw(st.integers(0, 2))):
            length = draw(st.integers(1, 3))
            cost = draw(st.lists(size, min_size=4 * length, max_size=4 * length))
            error = draw(st.lists(st.integers(0, 6), min_size=length, max_size=length))
            ladders.append(ladder(site, np.reshape(cost, (4, length)), np.array(error) / 8, groups))
        made.append(Menu(site, dense(site, [draw(size) for _ in RESOURCES]), ladders))
    return made


limits_of_some = st.dictionaries(st.sampled_from(RESOURCES), st.integers(0, 24), min_size=1)


def random_menus(seed: int, sites: int, ladders: int, rungs: int) -> list[Menu]:
    """Menus of fractions, no two alike."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(sites):
        site = f"site{number}"
        kept = np.sort(rng.random((ladders, rungs)), axis=1)
        offered = [
            ladder(site, kept[n] * rng.uniform(0.8, 1.2, (4, 1)), 1.2 * rng.random() * np.exp(-3 * kept[n]), n)
            for n in range(ladders)
        ]
        made.append(Menu(site, dense(site, [1.0, 1.0, 1.0, 1.0]), offered))
    return made


def choices(menu: Menu) -> list[Option]:
    return [menu.dense, *(x.option(n) for x in menu.ladders for n in range(len(x)))]


def within(found: list[Menu], limits: Limits) -> list[tuple[Option, ...]]:
    """All choices that keep the limits, by trying everything."""
    return [
        options
        for options in product(*map(choices, found))
        if all(sum(option.cost.get(each) for option in options) <= limit for each, limit in limits.items())
    ]


def least_error(found: list[Menu], limits: Limits) -> float | None:
    return min((sum(option.error for option in options) for options in within(found, limits)), default=None)


def offered(found: list[Menu], resource: Resource) -> float:
    return sum(menu.dense.cost.get(resource) for menu in found)


@settings(max_examples=40)
@given(found=menus(), limits=limits_of_some)
def test_the_summed_error_is_the_least_of_all_choices(found: list[Menu], limits: Limits) -> None:
    wanted = least_error(found, limits)
    if wanted is None:
        with pytest.raises(GoalMissed):
            total(found, limits)
        return
    answer = total(found, limits)
    options = answer.plan.options.values()
    assert answer.distortion == wanted == sum(option.error for option in options)
    assert answer.plan.level == max(option.error for option in options)
    assert list(answer.plan.options) == [menu.site for menu in found]
    for resource, limit in limits.items():
        assert answer.plan.total(resource) <= limit


@settings(max_examples=40)
@given(found=menus(), limits=limits_of_some)
def test_the_bound_is_below_every_choice_and_near_the_plan(found: list[Menu], limits: Limits) -> None:
    wanted = least_error(found, limits)
    if wanted is not None:
        answer = total(found, limits)
        assert (1 - GAP) * answer.distortion - 1e-9 <= answer.bound <= wanted


@settings(max_examples=40)
@given(found=menus(), limits=limits_of_some)
def test_limits_that_cannot_be_kept_name_the_least_that_can_be_reached(found: list[Menu], limits: Limits) -> None:
    if within(found, limits):
        return
    with pytest.raises(GoalMissed) as missed:
        total(found, limits)
    message = re.fullmatch(
        r"(?:the sites cannot be made smaller than|within (.*) the least that was found is) (\d+) (\w+), "
        r"and (\d+) is the limit",
        str(missed.value),
    )
    assert message is not None
    kept, least, last, limit = message.groups()
    assert last in RESOURCES
    others: Limits = {each: limits[each] for each in RESOURCES if each in re.findall(r"[a-z_]+", kept or "")}
    reached = [sum(option.cost.get(last) for option in options) for options in within(found, others)]
    assert int(least) == min(reached) > limits[last] == int(limit)
    assert within(found, {**others, last: int(least)})


@settings(max_examples=40)
@given(found=menus(), limits=limits_of_some, more=st.integers(0, 9))
def test_a_larger_budget_never_gives_a_larger_error(found: list[Menu], limits: Limits, more: int) -> None:
    if within(found, limits):
        larger = {resource: limit + more for resource, limit in limits.items()}
        assert total(found, larger).distortion <= total(found, limits).distortion


@settings(max_examples=40)
@given(found=menus(), limits=limits_of_some, hurried=st.booleans())
def test_no_option_is_taken_that_another_one_makes_needless(found: list[Menu], limits: Limits, hurried: bool) -> None:
    if hurried:  # a single limit is kept without the solver too
        limits = dict([limits.popitem()])
    if not within(found, limits):
        return
    plan = total(found, limits, seconds=0 if hurried else 10).plan
    for menu, taken in zip(found, plan.options.values(), strict=True):
        own = [taken.error, *(taken.cost.get(each) for each in limits)]
        alike = []
        for option in choices(menu):
            other = [option.error, *(option.cost.get(each) for each in limits)]
            if other == own:
                alike.append(option)
            else:
                assert any(a > b for a, b in zip(other, own, strict=True))
        assert taken == alike[0]


@settings(max_examples=40)
@given(values=st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_what_is_offered_to_the_solver_and_taken_is_what_no_other_option_makes_needless(
    values: list[tuple[int, ...]],
) -> None:
    error, *cost = np.array(values, np.float64).T
    site = Site(error, np.array(cost), np.arange(len(values)))
    wanted = [
        n
        for n, own in enumerate(values)
        if own not in values[:n] and not any(x != own and np.less_equal(x, own).all() for x in values)
    ]
    assert site.front(np.arange(len(values))).tolist() == wanted
    for n, own in enumerate(values):
        settled = site.settle(n)
        assert settled in wanted
        assert np.less_equal(values[settled], own).all()


@pytest.mark.parametrize("seed", range(12))
def test_putting_options_aside_keeps_the_optimum(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = random_menus(seed, sites=4, ladders=2, rungs=3)
    resources = RESOURCES[seed % 4 :]
    limits: Limits = {each: 0.6 * offered(found, each) for each in resources}
    wanted = least_error(found, limits)
    assert wanted is not None
    for few in (1, 6, 1000):
        monkeypatch.setattr(allocator, "FEW", few)
        answer = total(found, limits, gap=0)
        assert answer.distortion == pytest.approx(wanted, rel=1e-9)
        assert answer.bound == pytest.approx(wanted, rel=1e-6)
        assert answer.bound <= wanted * (1 + 1e-9)


def test_another_allocator_has_no_smaller_summed_error() -> None:
    found = random_menus(0, sites=12, ladders=3, rungs=20)
    limit = 0.5 * offered(found, "params")
    other = minimax(found, "params", limit)
    answer = total(found, {"params": limit})
    assert answer.distortion < sum(option.error for option in other.options.values())
    assert answer.plan.level >= other.level


@pytest.mark.parametrize("cuts", [0, 2, 32])
def test_a_limit_missed_by_less_than_the_solver_sees_is_kept(cuts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every site has an option that is over its part of the limit by 10⁻⁸, and one of more error that is not."""
    monkeypatch.setattr(allocator, "CUTS", cuts)
    cost = np.array([[0.25, 0.5, 0.5 + 1e-8]] * 4)
    found = [Menu(f"s{n}", dense(f"s{n}", [1.0] * 4), [ladder(f"s{n}", cost, [0.5, 0.3, 0.1])]) for n in range(4)]
    answer = total(found, {"params": 2.0, "macs": 2.0})
    assert answer.plan.total("params") <= 2
    assert answer.bound <= answer.distortion
    if cuts == 32:
        assert answer.distortion == pytest.approx(least_error(found, {"params": 2.0, "macs": 2.0}))


def test_limits_are_held_and_reached_to_the_last_bit() -> None:
    found = random_menus(1, sites=30, ladders=2, rungs=30)
    for fraction in (0.3, 0.6):
        limits: Limits = {each: fraction * offered(found, each) for each in ("macs", "latency_us")}
        plan = total(found, limits).plan
        reached: Limits = {each: plan.total(each) for each in limits}
        assert all(reached[each] <= limits[each] for each in limits)
        again = total(found, reached).plan
        assert all(again.total(each) <= reached[each] for each in limits)
    least = sum(min(option.cost.params for option in choices(menu)) for menu in found)
    assert total(found, {"params": least}).plan.total("params") == least
    with pytest.raises(GoalMissed) as missed:
        total(found, {"params": np.nextafter(least, 0)})
    named = float(str(missed.value).split()[7])
    assert least <= named <= least * 1.00001


def test_the_same_menus_and_limits_give_the_same_plan() -> None:
    limits: Limits = {"params": 4.0, "latency_us": 4.5}
    first, second = (total(random_menus(2, sites=10, ladders=3, rungs=200), limits, seconds=60) for _ in range(2))
    assert first == second


def test_of_many_options_the_solver_sees_few(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    solver = scipy.optimize.milp

    def milp(c: FloatArray, **rest: Any) -> Any:
        seen.append(len(c))
        return solver(c, **rest)

    monkeypatch.setattr(allocator, "milp", milp)
    found = random_menus(3, sites=20, ladders=10, rungs=2000)
    limits: Limits = {"params": 10.0, "macs": 10.0}
    answer = total(found, limits, seconds=120)
    assert answer.distortion - answer.bound <= GAP * answer.distortion
    assert 0 < max(seen) <= 4 * FEW


def test_without_time_the_plan_keeps_the_limit_and_the_bound_is_honest() -> None:
    found = random_menus(4, sites=4, ladders=2, rungs=4)
    wanted = least_error(found, {"params": 2.0})
    assert wanted is not None
    answer = total(found, {"params": 2.0}, seconds=0)
    assert answer.plan.total("params") <= 2
    assert answer.bound <= wanted <= answer.distortion


def test_limits_that_hold_everything_change_nothing() -> None:
    found = [Menu("a", dense("a", [10, 40, 10, 1]), [ladder("a", np.ones((4, 2)), [0.5, 0.25])])]
    everything: list[Limits] = [{}, {"params": math.inf}, {"params": 10, "bytes": 40, "macs": 10, "latency_us": 1}]
    for limits in everything:
        answer = total(found, limits)
        assert answer.plan.changed == {}
        assert answer.distortion == answer.plan.level == answer.bound == 0


def test_nothing_to_choose_is_an_empty_plan() -> None:
    assert total([], {"params": 0}).plan.options == {}
    with pytest.raises(GoalMissed, match="smaller than 0 params, and -1 is the limit"):
        total([], {"params": -1})


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_errors_and_costs_are_finite(wrong: float) -> None:
    cost = np.ones((4, 1))
    for made in (ladder("a", cost, [wrong]), ladder("a", wrong * cost, [0.5])):
        with pytest.raises(ValueError, match=f"expected finite errors and costs of a, got {wrong}"):
            total([Menu("a", dense("a", [2, 2, 2, 2]), [made])], {"params": 1})


def test_limits_are_numbers() -> None:
    with pytest.raises(ValueError, match="expected numbers as limits"):
        total([], {"params": math.nan})


def test_a_latency_limit_needs_priced_options() -> None:
    with pytest.raises(ValueError, match="no latency_us was measured"):
        total([Menu("a", dense("a", [10, 40, 10]), [])], {"params": 10, "latency_us": 5})


def test_the_notes_of_the_solver_do_not_reach_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    printed = ctypes.CDLL("ucrtbase" if os.name == "nt" else None).puts
    with without_notes():
        printed(b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();")
        printed(b"{}")
    assert capfd.readouterr().out.split() == ["{}"]
