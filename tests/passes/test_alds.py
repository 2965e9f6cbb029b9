"""The ALDS iteration, apart from its golden values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom.allocate.alds import alds
from lissom.allocate.minimax import minimax
from lissom.graph.geometry import Geometry
from lissom.kinds import menu
from lissom.lowrank.propose import ladders
from lissom.options import Menu
from lissom_runtime.errors import GoalMissed


def network(seed: int, layers: int = 4) -> list[Menu]:
    """Random layers whose spectra fall at different speeds."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(layers):
        f, c = (int(rng.choice([4, 6, 8, 12, 16])) for _ in range(2))
        kernel = (3, 3) if rng.random() < 0.5 else (1, 1)
        geometry = Geometry(f, c, kernel, (1, 1), (1, 1), (0, 0, 0, 0), "NOTSET", (8, 8), (8, 8))
        weight = rng.standard_normal((f, c, *kernel)) * np.arange(1, c + 1)[:, None, None] ** -rng.uniform(0, 2)
        made.append(menu(f"l{number}", weight, geometry, "code", ladders(f"l{number}", weight, geometry, "code")))
    return made


def dense_total(found: list[Menu]) -> float:
    return sum(menu.dense.cost.params for menu in found)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), keep=st.floats(0.3, 0.9))
def test_minimax_is_at_least_as_good_at_the_same_size(seed: int, keep: float) -> None:
    found = network(seed)
    try:
        plan = alds(found, keep * dense_total(found))
    except GoalMissed:
        with pytest.raises(GoalMissed):
            minimax(found, "params", keep * dense_total(found))
        return
    exact = minimax(found, "params", plan.total("params"))
    assert exact.level <= plan.level
    assert exact.total("params") <= plan.total("params")


def test_the_same_seed_gives_the_same_plan() -> None:
    found = network(1)
    limit = 0.6 * dense_total(found)
    assert alds(found, limit, seed=3) == alds(found, limit, seed=3)


@pytest.mark.parametrize("seed", range(5))
def test_a_pair_as_large_as_its_layer_ends_dense(seed: int) -> None:
    found = network(seed)
    plan = alds(found, 0.95 * dense_total(found))
    assert {option.kind for option in plan.options.values()} == {"dense", "low-rank"}
    for menu_ in found:
        option = plan.options[menu_.site]
        assert option == menu_.dense or option.cost.params < menu_.dense.cost.params


def test_sites_without_ladders_stay_dense_and_use_up_the_budget() -> None:
    found = network(2)
    fixed = Menu("fixed", network(7, 1)[0].dense, [])
    limit = 0.5 * dense_total(found)
    alone = alds(found, limit)
    beside = alds([*found, fixed], limit + fixed.dense.cost.params)
    assert {**alone.options, "fixed": fixed.dense} == beside.options


def test_a_network_without_ladders_stays_as_it_is() -> None:
    fixed = Menu("fixed", network(7, 1)[0].dense, [])
    assert alds([fixed], 1).options == {"fixed": fixed.dense}


def test_a_budget_larger_than_the_network_changes_nothing() -> None:
    found = network(3)
    assert alds(found, 2 * dense_total(found)).changed == {}


def test_a_budget_below_rank_one_everywhere_names_the_least_size() -> None:
    found = network(4)
    least = sum(min(menu_.dense.cost.params, *(x.params[0] for x in menu_.ladders)) for menu_ in found)
    with pytest.raises(GoalMissed, match=f"leaves {least:g} parameters, and {int(least / 2)} is the limit"):
        alds(found, least / 2)


def test_ladders_of_other_kinds_of_slices_are_not_used() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((8, 8, 3, 3))
    geometry = Geometry(8, 8, (3, 3), (1, 1), (1, 1), (0, 0, 0, 0), "NOTSET", (8, 8), (8, 8))
    plain = menu("a", weight, geometry, "code", ladders("a", weight, geometry, "code"))
    many = menu("a", weight, geometry, "code", ladders("a", weight, geometry, "code", range(4), ("input", "output")))
    assert alds([plain], 300) == alds([many], 300)


def test_a_ladder_that_leaves_out_ranks_is_refused() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 8))
    geometry = Geometry(8, 8)
    made = menu("a", weight, geometry, "code", ladders("a", weight, geometry, "code", rank_multiple=2))
    with pytest.raises(ValueError, match="expected every rank from 1 on for a, got"):
        alds([made], 40)
