"""Small networks whose channels are sites, and plans for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from graph.channel_networks import Net, Value
from graph.onnx_text import floats
from hypothesis import strategies as st
from lissom import pipeline
from lissom.canonical import Canonical, canonicalise
from lissom.graph.load import from_proto
from lissom.nodes.survey import survey
from lissom.nodes.widths import Point, Widths
from lissom.observe import observe_moments
from lissom.options import Menu, Plan, Resource
from lissom.pipeline import Study
from lissom.recipe import Recipe, read_recipe

RESOURCES: tuple[Resource, ...] = ("macs", "bytes")


def residual(net: Net) -> Value:
    return net.identity_block(net.conv(net.image(), 6), "relu")


def inverted(net: Net) -> Value:
    return net.conv(net.depthwise(net.conv(net.image(), 6, 1), 2), 4, 1, act="none")


def grouped(net: Net) -> Value:
    return net.conv(net.conv(net.conv(net.image(), 8), 8, group=2), 6)


def gated(net: Net) -> Value:
    return net.squeeze_excite(net.concat(net.conv(net.image(), 4), net.conv(net.image(), 6)), 4)


def enlarged(net: Net) -> Value:
    return net.conv(net.enlarge(net.conv(net.image(), 6), 4), 4, stride=2)


BODIES: Mapping[str, Callable[[Net], Value]] = {
    body.__name__: body for body in (residual, inverted, grouped, gated, enlarged)
}


def network(body: str, side: int = 4) -> tuple[Canonical, Sequence[Mapping[str, np.ndarray]]]:
    net = Net(3, side)
    model = from_proto(net.classified(BODIES[body](net)))
    batches = [{"image": floats(30 + number, 16, 3, side, side)} for number in range(3)]
    return canonicalise(model, {"image": batches[0]["image"][:1]}), batches


def study_of(body: str, recipe: Recipe | None = None, block: int = 1, exclude: str | None = None) -> Study:
    canonical, batches = network(body)
    recipe = read_recipe("nodes") if recipe is None else recipe
    found = survey(canonical)
    moments = observe_moments(canonical.model, [*found.layers], batches)
    study = pipeline.propose_menus(canonical, recipe, block, moments, exclude=exclude, groups=found)
    return replace(study, calibration=batches if recipe.refit.enabled else ())


def widths_of(study: Study) -> Widths:
    assert study.widths is not None
    return study.widths


def plan_of(study: Study, shares: Sequence[float]) -> Plan:
    """Of each group about a share, priced about the dense network."""
    widths = widths_of(study)
    linear = widths.linear(widths.start())
    groups = [menu for menu in linear if menu.site in widths.groups]
    options = {menu.site: menu.dense for menu in linear}
    for menu, share in zip(groups, shares, strict=False):
        ladder = menu.ladders[0]
        options[menu.site] = ladder.option(min(int(share * len(ladder)), len(ladder) - 1))
    return Plan(options, 0.0)


SHARES = st.lists(st.floats(0, 1), min_size=6, max_size=6)


def chosen(menus: Mapping[str, Menu], widths: Widths, point: Point) -> dict:
    """The options of a point among the menus about it."""
    options = {site: menu.dense for site, menu in menus.items()}
    for site in widths.groups:
        for ladder in menus[site].ladders:
            for index in np.flatnonzero(ladder.steps == point.kept[site]):
                options[site] = ladder.option(int(index))
    return options


STUDIES = {body: study_of(body) for body in BODIES}
LEFT_OUT = {body: study_of(body, exclude="gemm|transpose") for body in BODIES}
"""Made once: nothing of a study changes."""
