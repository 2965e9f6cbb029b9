"""What a target lets each site do."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from graph.channel_networks import Net
from graph.onnx_text import floats
from lissom import pipeline
from lissom.canonical import canonicalise
from lissom.favour import favoured, for_target, only_favoured
from lissom.graph.load import from_proto
from lissom.nodes.groups import KIND as NODES
from lissom.nodes.survey import survey
from lissom.observe import observe_moments
from lissom.pipeline import Study
from lissom.recipe import read_recipe
from lissom.sparse.propose import KIND as SPARSE
from lissom.target.schema import Rates, Target, read_target
from lissom_runtime.errors import UsageError

RATES = Rates(stream_gbps=10, gather_gbps=1, gmacs=5, busy_threads=1)
"""A layer is memory-bound where it does at most half a multiply-accumulate a byte."""


def target(parallelism: str, **others: Any) -> Target:
    blocks = {"pattern": "columns", "widths": [4]}
    told = {"version": 1, "name": "mine", "simd_width": 4, "channel_block": 1, "sparse": blocks, "rates": RATES}
    return Target.model_validate({**told, "parallelism": parallelism, **others})


@pytest.fixture(scope="module")
def study() -> Study:
    """Two convolutions and two linear layers, offered all that scalpel has."""
    net = Net(0, side=4)
    x = net.conv(net.conv(net.image(), 8, act="relu"), 8, act="relu")
    hidden = net.clip(net.linear(net.flat(x, "Flatten"), 128, 16), 0)
    feeds = {"image": floats(1, 32, 3, 4, 4)}
    canonical = canonicalise(from_proto(net.model(net.linear(hidden, 16, 5))), {"image": feeds["image"][:1]})
    found = survey(canonical)
    moments = observe_moments(canonical.model, found.layers, [feeds])
    return pipeline.propose_menus(canonical, read_recipe("scalpel"), 1, moments, groups=found)


def kinds(study: Study) -> dict[str, set[str]]:
    return {menu.site: {ladder.kind for ladder in menu.ladders} for menu in study.menus}


@pytest.mark.ort
def test_low_parallelism_takes_zeros_everywhere_and_high_takes_channels(study: Study) -> None:
    offered = kinds(study)
    assert {SPARSE} in offered.values()
    assert {NODES} in offered.values()
    for parallelism, wanted in (("low", SPARSE), ("high", NODES)):
        left = kinds(only_favoured(study, target(parallelism)))
        assert left == {site: own & {wanted} for site, own in offered.items()}


@pytest.mark.ort
def test_between_them_layers_that_wait_for_memory_take_zeros_and_the_others_channels(study: Study) -> None:
    chosen = only_favoured(study, target("moderate"))
    left = kinds(chosen)
    for layer in study.canonical.layers:
        is_linear = not layer.geometry.kernel_shape
        assert favoured(layer, target("moderate")) == ("sparse" if is_linear else "nodes")
        assert (SPARSE in left[layer.name]) == is_linear
    assert chosen.widths is not None
    for site, group in chosen.widths.groups.items():
        around = {*group.rows, *group.columns}
        convolved = any(layer.geometry.kernel_shape for layer in study.canonical.layers if layer.name in around)
        assert (NODES in left[site]) == convolved
    reasons = {refusal.kind: refusal.reason for refusal in chosen.refusals}
    assert "favours zeros in all layers" in reasons[NODES]
    assert "favours whole channels" in reasons[SPARSE]


@pytest.mark.ort
def test_a_group_between_layers_that_cannot_hold_zeros_is_offered_whatever_the_target() -> None:
    net = Net(0, side=4)
    x = net.enlarge(net.enlarge(net.conv(net.image(), 6, 1), 8), 4)
    feeds = {"image": floats(1, 8, 3, 4, 4)}
    canonical = canonicalise(from_proto(net.classified(x)), {"image": feeds["image"][:1]})
    found = survey(canonical)
    moments = observe_moments(canonical.model, found.layers, [feeds])
    decoder = pipeline.propose_menus(canonical, read_recipe("scalpel"), 1, moments, groups=found)
    between = next(menu.site for menu in decoder.menus if "convtranspose" in menu.site.lower())
    for parallelism in ("low", "high"):
        assert kinds(only_favoured(decoder, target(parallelism)))[between] == {NODES}


@pytest.mark.ort
def test_what_the_recipe_says_of_a_layer_counts_before_the_target(study: Study) -> None:
    first, *others = (layer.name for layer in study.canonical.layers)
    recipe = study.recipe.model_copy(update={"name": "own", "methods": {f"^{first}$": "nodes", "": "sparse"}})
    chosen = only_favoured(replace(study, recipe=recipe), target("high"))
    left = kinds(chosen)
    assert (left[first], [left[other] for other in others]) == (set(), [{SPARSE}] * len(others))
    assert chosen.widths is not None
    for site, group in chosen.widths.groups.items():
        assert (NODES in left[site]) == (first in {*group.rows, *group.columns})
    told = {refusal.site: refusal.reason for refusal in chosen.refusals}
    assert told[first] == "the recipe 'own' favours whole channels here"
    assert "the recipe 'own' favours zeros in all layers around it" in told.values()
    alone = study.recipe.model_copy(update={"methods": {"no such layer": "sparse"}})
    idle = only_favoured(replace(study, recipe=alone), target("high"))
    assert kinds(idle) == kinds(only_favoured(study, target("high")))
    assert ("no such layer", "it finds the name of no layer") in [(told.site, told.reason) for told in idle.refusals]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('[methods]\n"" = "nodes"\n', "methods expect by_target"),
        ('by_target = true\n[methods]\n"(" = "nodes"\n', r"expected a regular expression in methods, but got '\('"),
        ('by_target = true\n[methods]\n"fc" = "dense"\n', "input should be 'sparse' or 'nodes'"),
    ],
)
def test_methods_that_make_no_sense_are_refused(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "mine.toml"
    shipped = resources.files("lissom").joinpath("recipes", "scalpel.toml").read_text(encoding="utf-8")
    head, tables = shipped.replace("by_target = true\n", "").split("[low_rank]")
    top, mine = content.split("[methods]")
    path.write_text(f"{head}{top}[low_rank]{tables}[methods]{mine}")
    with pytest.raises(UsageError, match=f"(?i){sentence}"):
        read_recipe(str(path))


def test_zeros_that_a_recipe_gives_a_layer_need_a_target_that_can_use_them() -> None:
    recipe = read_recipe("scalpel").model_copy(update={"methods": {"fc": "sparse"}})
    with pytest.raises(UsageError, match="the method of 'fc' in the recipe 'scalpel', but 'gpu' can use none"):
        for_target(recipe, read_target("gpu"))


def test_zeros_come_in_the_blocks_of_the_target() -> None:
    recipe = for_target(read_recipe("scalpel"), read_target("microcontroller"))
    assert (recipe.sparse.pattern, recipe.sparse.widths) == ("rows", (2, 4))
    assert for_target(read_recipe("lowrank"), read_target("microcontroller")) == read_recipe("lowrank")
    assert for_target(read_recipe("scalpel"), read_target("gpu")) == read_recipe("scalpel")


def test_a_recipe_of_zeros_only_is_refused_for_a_target_that_can_use_none() -> None:
    with pytest.raises(UsageError, match="the target 'gpu' can use, but 'obs' offers zeros only"):
        for_target(read_recipe("obs"), read_target("gpu"))


def test_a_target_decides_only_where_both_kinds_are_offered(tmp_path: Any) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("by_target = true\n")
    with pytest.raises(UsageError, match="both sparse and nodes"):
        read_recipe(str(path))
