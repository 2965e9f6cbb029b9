"""The search of winner rates asks the allocator of few rates, and what spares the others is a bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom.activations import rates as searching
from lissom.activations.bound import least_error
from lissom.activations.rates import Limits, Rates, choose_together, rate_of
from lissom.activations.sites import ActivationSite
from lissom.allocate.choose import choose as chosen
from lissom.allocate.total import total
from lissom.options import Cost, Ladder, Menu, Option, Plan
from lissom_runtime.errors import GoalMissed
from passes.activation_cases import recipe


def layer(site: str, macs: float, errors: Sequence[float]) -> Menu:
    """A layer that may keep equal shares of its work, for these errors, least work first."""
    shares = np.arange(1, len(errors) + 1) / (len(errors) + 1)
    work, steps, falling = macs * shares, np.arange(1, len(errors) + 1), np.sort(errors)[::-1]
    ladder = Ladder(site, "block-sparse", {}, "blocks", steps, falling, 1.0, work, work, work, "e")
    return Menu(site, Option(site, "dense", {}, Cost(macs, macs, macs), 0.0, "e"), (ladder,))


def group(site: str, errors: Mapping[int, float]) -> Menu:
    """An activation that may keep so many of a thousand, for these errors."""
    steps, nothing = sorted(errors), np.zeros(len(errors))
    values = np.array([errors[step] for step in steps])
    ladder = Ladder(
        site, "winners", {}, "per_mille", np.array(steps), values, 1.0, nothing, nothing, nothing, "e"
    )  # fmt: skip
    return Menu(site, Option(site, "dense", {}, Cost(0.0, 0.0, 0.0), 0.0, "e"), (ladder,))


ERRORS = st.lists(st.floats(0.01, 1), min_size=4, max_size=4)


@st.composite
def networks(draw: st.DrawFn) -> Rates:
    """Two to four layers, of which all but the first read an activation with rates of its own."""
    count = draw(st.integers(2, 4))
    menus = [layer(f"l{n}", draw(st.floats(1, 9)), draw(ERRORS)) for n in range(count)]
    groups = {f"a{n} winners": [ActivationSite(f"a{n}", "Relu", 1, (f"l{n}",))] for n in range(1, count)}
    for site in groups:
        steps = dict(
            zip((800, 500, 200), sorted(draw(st.lists(st.floats(0, 0.5), min_size=3, max_size=3))), strict=True)
        )
        menus.append(group(site, steps))
    return Rates(groups, {f"l{n}": f"a{n}" for n in range(count)}, {}, menus)


def limit_of(sites: Rates, share: float) -> Limits:
    whole = sum(menu.dense.cost.macs for menu in sites.menus)
    return {"macs": sites.least("macs") + share * (whole - sites.least("macs"))}


@settings(max_examples=15)
@given(sites=networks(), share=st.floats(0, 1), scale=st.floats(0.2, 1.2))
def test_no_plan_is_below_the_bound_and_it_is_infinite_only_where_there_is_none(
    sites: Rates, share: float, scale: float
) -> None:
    menus = sites.at({site: found[-1] for site, found in sites.offered().items()})
    limits = {"macs": scale * limit_of(sites, share)["macs"]}
    bound = least_error(menus, limits)
    try:
        plan = total(menus, limits).plan
    except GoalMissed:
        assert bound == np.inf
        return
    assert bound <= plan.summed_error * (1 + 1e-9) + 1e-12
    assert bound >= sum(menu.dense.error for menu in menus if menu.site in sites.groups)


def test_the_bound_is_the_least_error_where_the_limit_is_no_limit() -> None:
    menus = [layer("l0", 4.0, [0.5, 0.25]), group("a winners", {200: 0.5})]
    assert least_error(menus, {"macs": 4.0}) == 0.0
    assert least_error(menus, {"macs": 4.0 / 3}) == pytest.approx(0.5, rel=1e-3)
    assert least_error(menus, {"macs": 1.0}) == np.inf


@settings(max_examples=4)
@given(sites=networks(), share=st.floats(0.1, 0.9))
def test_what_is_spared_changes_no_plan_and_no_rates_are_asked_twice(sites: Rates, share: float) -> None:
    limits, asked = limit_of(sites, share), []

    def choose(menus: Sequence[Menu], within: Limits) -> Plan:
        asked.append(tuple(rate_of(menu.dense) for menu in menus if menu.site in sites.groups))
        return chosen(recipe().allocate, menus, within)

    plan = choose_together(sites, choose, limits)
    assert len(set(asked)) == len(asked)
    spared = len(asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "least_error", lambda *_: 0.0)
        every = choose_together(sites, choose, limits)
    assert plan.summed_error == pytest.approx(every.summed_error, rel=1e-3)
    assert spared <= len(asked) - spared


def test_most_rates_of_many_groups_are_spared() -> None:
    rng = np.random.default_rng(0)
    count = 8
    menus = [layer(f"l{n}", 1.0 + n, rng.uniform(0.01, 1, 8)) for n in range(count)]
    groups = {f"a{n} winners": [ActivationSite(f"a{n}", "Relu", 1, (f"l{n}",))] for n in range(1, count)}
    menus += [group(site, {800: 0.01, 500: 0.05, 200: 0.4}) for site in groups]
    sites = Rates(groups, {f"l{n}": f"a{n}" for n in range(count)}, {}, menus)
    calls = []

    def choose(menus: Sequence[Menu], within: Limits) -> Plan:
        calls.append(1)
        return chosen(recipe().allocate, menus, within)

    choose_together(sites, choose, limit_of(sites, 0.3))
    least, calls = len(calls), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "least_error", lambda *_: 0.0)
        choose_together(sites, choose, limit_of(sites, 0.3))
    assert least < 0.5 * len(calls)
