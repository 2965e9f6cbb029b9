"""Minimax: the exact optimum."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom.allocate.minimax import minimax
from lissom.options import Cost, Ladder, Menu, Option
from lissom_runtime.errors import GoalMissed


def dense(site: str, params: float, latency_us: float | None = None) -> Option:
    return Option(site, "dense", {}, Cost(params, 4 * params, params, latency_us), 0.0, "code")


def ladder(site: str, params: list[float], errors: list[float], latency_us: np.ndarray | None = None) -> Ladder:
    steps, costs = np.arange(1, len(params) + 1), np.array(params, np.float64)
    return Ladder(
        site,
        "low-rank",
        {"groups": 1},
        "rank",
        steps,
        np.array(errors),
        1.0,
        costs,
        4 * costs,
        costs,
        "code",
        latency_us,
    )


@st.composite
def menus(draw: st.DrawFn, most_sites: int = 3) -> list[Menu]:
    """Small menus with many ties in error and in cost."""
    made = []
    for number in range(draw(st.integers(1, most_sites))):
        site = f"site{number}"
        ladders = []
        for _ in range(draw(st.integers(0, 2))):
            length = draw(st.integers(1, 3))
            params = draw(st.lists(st.integers(1, 12), min_size=length, max_size=length))
            errors = draw(st.lists(st.integers(0, 6), min_size=length, max_size=length))
            ladders.append(ladder(site, sorted(params), sorted((e / 8 for e in errors), reverse=True)))
        made.append(Menu(site, dense(site, draw(st.integers(1, 12))), ladders))
    return made


def choices(menu: Menu) -> list[Option]:
    return [menu.dense, *(x.option(n) for x in menu.ladders for n in range(len(x)))]


def best_level(found: list[Menu], limit: float) -> float | None:
    """The least largest error, by trying everything."""
    levels = [
        max(option.error for option in options)
        for options in product(*map(choices, found))
        if sum(option.cost.params for option in options) <= limit
    ]
    return min(levels, default=None)


@given(found=menus(), limit=st.integers(1, 40))
def test_the_level_is_the_least_of_all_choices(found: list[Menu], limit: int) -> None:
    wanted = best_level(found, limit)
    if wanted is None:
        least = sum(min(option.cost.params for option in choices(menu)) for menu in found)
        with pytest.raises(GoalMissed, match=f"smaller than {least:g} params, and {limit} is the limit"):
            minimax(found, "params", limit)
    else:
        plan = minimax(found, "params", limit)
        assert plan.level == wanted == max(option.error for option in plan.options.values())
        assert plan.total("params") <= limit
        assert list(plan.options) == [menu.site for menu in found]


@given(found=menus(), limit=st.integers(10, 40))
def test_each_site_takes_its_cheapest_option_and_the_better_of_equals(found: list[Menu], limit: int) -> None:
    least = sum(min(option.cost.params for option in choices(menu)) for menu in found)
    plan = minimax(found, "params", max(limit, least))
    for menu in found:
        taken = plan.options[menu.site]
        allowed = [option for option in choices(menu) if option.error <= plan.level]
        cost = min(option.cost.params for option in allowed)
        assert taken.cost.params == cost
        if cost == menu.dense.cost.params:
            assert taken == menu.dense
        else:
            assert taken.error == min(option.error for option in allowed if option.cost.params == cost)


@given(found=menus(), limit=st.integers(1, 40), more=st.integers(0, 20))
def test_a_larger_budget_never_gives_a_larger_level(found: list[Menu], limit: int, more: int) -> None:
    least = sum(min(option.cost.params for option in choices(menu)) for menu in found)
    limit = max(limit, least)
    assert minimax(found, "params", limit + more).level <= minimax(found, "params", limit).level


def test_a_budget_that_holds_everything_changes_nothing() -> None:
    found = [Menu("a", dense("a", 10), [ladder("a", [2, 4], [0.5, 0.25])])]
    plan = minimax(found, "params", 10)
    assert plan.changed == {}
    assert plan.level == 0


def test_a_smaller_option_without_error_is_taken_at_any_budget() -> None:
    found = [Menu("a", dense("a", 10), [ladder("a", [2, 4], [0.5, 0.0])])]
    assert minimax(found, "params", 100).options["a"].parameters["rank"] == 2
    assert minimax(found, "params", 100).options["a"].cost.params == 4


def test_measured_latencies_fit_the_budget_to_the_last_bit() -> None:
    """The totals are sums of fractions: a limit equal to one of them must be reached, and held."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(40):
        site = f"site{number}"
        times = np.sort(rng.random(30))
        errors = np.sort(rng.random(30))[::-1]
        found.append(Menu(site, dense(site, 99, 1.1), [ladder(site, list(range(1, 31)), list(errors), times)]))
    for fraction in (0.2, 0.5, 0.8):
        plan = minimax(found, "latency_us", fraction * 40)
        total = plan.total("latency_us")
        assert total <= fraction * 40
        assert minimax(found, "latency_us", total).level == plan.level
        assert minimax(found, "latency_us", np.nextafter(total, 0)).level > plan.level


def test_a_latency_budget_needs_priced_options() -> None:
    with pytest.raises(ValueError, match="no latency_us was measured"):
        minimax([Menu("a", dense("a", 10), [])], "latency_us", 5)
