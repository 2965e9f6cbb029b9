"""Constant: the same relative size everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom.allocate.constant import constant
from lissom.allocate.minimax import minimax
from lissom.options import Cost, Ladder, Menu, Option
from lissom_runtime.errors import GoalMissed


def dense(site: str, params: float) -> Option:
    return Option(site, "dense", {}, Cost(params, 4 * params, params), 0.0, "code")


def ladder(site: str, params: list[float], errors: list[float]) -> Ladder:
    steps, costs = np.arange(1, len(params) + 1), np.array(params, np.float64)
    return Ladder(site, "low-rank", {}, "rank", steps, np.array(errors), 1.0, costs, 4 * costs, costs, "code")


@st.composite
def menus(draw: st.DrawFn) -> list[Menu]:
    """Small menus with many ties in error and in cost."""
    made = []
    for number in range(draw(st.integers(1, 3))):
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


def at_share(menu: Menu, share: float) -> tuple[float, float]:
    """(error, cost) of the site at a share, as the definition says it."""
    whole = menu.dense.cost.params
    smaller = [(option.error, option.cost.params) for option in choices(menu) if option.cost.params < whole]
    fitting = [option for option in smaller if option[1] / whole <= share]
    if share >= 1 or not smaller:
        return min([(0.0, whole), *smaller])
    return min(fitting) if fitting else min(smaller, key=lambda option: (option[1], option[0]))


def least(found: list[Menu]) -> float:
    return sum(min(option.cost.params for option in choices(menu)) for menu in found)


@given(found=menus(), limit=st.integers(1, 40))
def test_every_site_keeps_the_largest_share_that_the_limit_allows(found: list[Menu], limit: int) -> None:
    shares = sorted({0.0, 1.0, *(o.cost.params / m.dense.cost.params for m in found for o in choices(m))})
    fitting = [share for share in shares if sum(at_share(menu, share)[1] for menu in found) <= limit]
    if not fitting:
        with pytest.raises(GoalMissed, match=f"smaller than {least(found):g} params, and {limit} is the limit"):
            constant(found, "params", limit)
        return
    plan = constant(found, "params", limit)
    assert [(o.error, o.cost.params) for o in plan.options.values()] == [at_share(m, fitting[-1]) for m in found]
    assert plan.total("params") <= limit
    assert plan.level == max(option.error for option in plan.options.values())


@given(found=menus(), limit=st.integers(1, 40), more=st.integers(0, 20))
def test_a_larger_budget_never_gives_a_larger_error_anywhere(found: list[Menu], limit: int, more: int) -> None:
    low = max(limit, least(found))
    tight, wide = constant(found, "params", low), constant(found, "params", low + more)
    assert all(wide.options[site].error <= tight.options[site].error for site in tight.options)


@given(found=menus(), limit=st.integers(1, 40))
def test_the_exact_optimum_is_never_worse(found: list[Menu], limit: int) -> None:
    limit = max(limit, int(least(found)))
    assert minimax(found, "params", limit).level <= constant(found, "params", limit).level


def test_a_budget_that_holds_everything_changes_nothing() -> None:
    found = [Menu("a", dense("a", 10), [ladder("a", [2, 4], [0.5, 0.25])])]
    assert constant(found, "params", 10).changed == {}
    assert constant([], "params", 0).options == {}


def test_sites_of_all_sizes_keep_the_same_share() -> None:
    found = []
    for size in (10, 100, 1000):
        steps = np.arange(1.0, 11) * size / 10
        found.append(Menu(str(size), dense(str(size), size), [ladder(str(size), list(steps), list(1 - steps / size))]))
    plan = constant(found, "params", 1110 * 0.47)
    assert {option.cost.params / int(site) for site, option in plan.options.items()} == {0.4}


def test_a_latency_budget_needs_priced_options() -> None:
    with pytest.raises(ValueError, match="no latency_us was measured"):
        constant([Menu("a", dense("a", 10), [])], "latency_us", 5)
