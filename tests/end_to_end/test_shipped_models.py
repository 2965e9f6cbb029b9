"""On every network of the zoo the exact allocation is never worse than the published search."""

from __future__ import annotations

from functools import cache

import lissom_models
import numpy as np
import pytest
from lissom.allocate.alds import alds
from lissom.allocate.minimax import minimax
from lissom.canonical import canonicalise
from lissom.data import input_specs, random_feeds
from lissom.graph.layers import Layer
from lissom.graph.load import load
from lissom.kinds import menu
from lissom.lowrank.errors import NORMS, Metric
from lissom.lowrank.foldings import Scheme
from lissom.lowrank.propose import ladders
from lissom.options import Menu

pytestmark = pytest.mark.ort

NAMES = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in lissom_models.NAMES]
"""The tests of one network run in one process: they share its menus."""

DATA_FREE = tuple(metric for metric in NORMS if metric != "whitened")


@cache
def layers(name: str) -> tuple[Layer, ...]:
    loaded = load(lissom_models.path(name))
    feeds = random_feeds(input_specs(loaded.inputs), {"image": (1, 1, 28, 28)})
    return tuple(canonicalise(loaded, feeds).layers)


@cache
def menus(name: str, metric: Metric) -> tuple[Menu, ...]:
    """The published options: folding 0, input side, every rank."""
    return tuple(
        menu(
            layer.name, layer.weight, layer.geometry, metric, ladders(layer.name, layer.weight, layer.geometry, metric)
        )
        for layer in layers(name)
    )


def error_of(offered: Menu, scheme: Scheme, rank: int) -> float:
    """The error of one option in the metric of `offered`."""
    for ladder in offered.ladders:
        if Scheme.of(ladder.parameters) == scheme:
            return float(ladder.error[np.flatnonzero(ladder.steps == rank)[0]])
    raise AssertionError(f"{scheme} is not offered for {offered.site}")


@pytest.mark.parametrize("keep", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("name", NAMES)
def test_minimax_is_never_above_alds_at_the_size_that_alds_realised(name: str, keep: float) -> None:
    published = menus(name, "code")
    dense = sum(offered.dense.cost.params for offered in published)
    plan = alds(published, keep * dense)
    assert plan.changed
    size = plan.total("params")
    for metric in DATA_FREE:
        offers = menus(name, metric)
        level = max(
            error_of(offered, Scheme.of(option.parameters), int(option.parameters["rank"]))
            for offered in offers
            if (option := plan.options[offered.site]).kind != "dense"
        )
        exact = minimax(offers, "params", size)
        assert exact.total("params") <= size
        assert exact.level <= level * (1 + 1e-12), metric
