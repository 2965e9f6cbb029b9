"""Proposals: every rank of every scheme, once, at its true cost."""

from __future__ import annotations

import numpy as np
import pytest
from lissom.graph.geometry import Geometry
from lissom.kinds import menu
from lissom.lowrank.errors import error_curve
from lissom.lowrank.foldings import SIDES, Scheme, divisors
from lissom.lowrank.pairs import max_rank, pair
from lissom.lowrank.propose import ladders

GEOMETRY = Geometry(8, 6, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "NOTSET", (8, 8), (4, 4))
WEIGHT = np.random.default_rng(0).standard_normal((8, 6, 3, 3)).astype(np.float32)


def test_every_distinct_scheme_has_one_ladder() -> None:
    found = [Scheme.of(x.parameters) for x in ladders("a", WEIGHT, GEOMETRY, "frobenius", (0, 1, 2, 3), SIDES)]
    wanted = {Scheme(folding, "input", k) for folding in range(4) for k in divisors(6)}
    wanted |= {Scheme(folding, "output", k) for folding in range(4) for k in divisors(8)[1:]}
    assert len(found) == len(wanted)
    assert set(found) == wanted


def test_foldings_that_the_kernel_does_not_have_are_left_out() -> None:
    geometry = Geometry(8, 6, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), "NOTSET", (4, 4), (4, 4))
    found = ladders("a", WEIGHT[:, :, :1, :1], geometry, "code", (0, 1, 2, 3))
    assert {ladder.parameters["folding"] for ladder in found} == {0}


@pytest.mark.parametrize("metric", ["code", "theorem", "spectral", "frobenius"])
def test_a_ladder_has_every_rank_with_its_cost_and_error(metric: str) -> None:
    for ladder in ladders("a", WEIGHT, GEOMETRY, metric, (0, 1, 2, 3), SIDES):
        scheme = Scheme.of(ladder.parameters)
        errors = error_curve(WEIGHT, scheme, metric)
        np.testing.assert_array_equal(ladder.steps, np.arange(1, max_rank(GEOMETRY, scheme) + 1))
        np.testing.assert_array_equal([ladder.error_at_zero, *ladder.error], errors)
        for n, rank in enumerate(ladder.steps):
            made, cost = pair(GEOMETRY, scheme, int(rank)), ladder.option(n).cost
            assert (cost.params, cost.bytes, cost.macs) == (made.params, made.bytes, made.macs)


def test_whitened_ladders_use_the_moment() -> None:
    moment = np.diag(np.arange(1.0, 55.0))
    (ladder,) = (x for x in ladders("a", WEIGHT, GEOMETRY, "whitened", moment=moment) if x.parameters["groups"] == 3)
    np.testing.assert_array_equal(ladder.error, error_curve(WEIGHT, Scheme(0, "input", 3), "whitened", moment)[1:])


def test_ranks_and_channels_per_group_are_multiples() -> None:
    every = {Scheme.of(x.parameters): x for x in ladders("a", WEIGHT, GEOMETRY, "code", (0, 1, 2, 3), SIDES)}
    some = ladders("a", WEIGHT, GEOMETRY, "code", (0, 1, 2, 3), SIDES, rank_multiple=2)
    channels = {"input": 6, "output": 8}
    assert {Scheme.of(x.parameters) for x in some} == {
        scheme for scheme in every if channels[scheme.side] // scheme.groups % 2 == 0
    }
    for ladder in some:
        whole = every[Scheme.of(ladder.parameters)]
        np.testing.assert_array_equal(ladder.steps, whole.steps[1::2])
        np.testing.assert_array_equal(ladder.error, whole.error[1::2])


def test_a_layer_too_small_for_the_multiple_offers_its_highest_rank_without_groups() -> None:
    found = ladders("a", WEIGHT, GEOMETRY, "code", (0, 3), SIDES, rank_multiple=100)
    assert [Scheme.of(x.parameters) for x in found] == [Scheme(0), Scheme(3)]
    assert [x.steps.tolist() for x in found] == [[8], [6]]


def test_a_menu_counts_what_the_dense_layer_costs() -> None:
    weight = WEIGHT.copy()
    weight[0] = 0
    made = menu("a", weight, GEOMETRY, "code", ladders("a", weight, GEOMETRY, "code"))
    assert made.dense.error == 0
    assert (made.dense.cost.params, made.dense.cost.bytes) == (7 * 54, 4 * 8 * 54)
    assert made.dense.cost.macs == GEOMETRY.macs
    assert len(made.ladders) == len(divisors(6))
