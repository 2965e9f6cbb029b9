"""The time of layers without a menu, and of what stands between layers, is borne by the channel groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom import pipeline
from lissom.graph.layers import Layer
from lissom.options import Menu
from passes.width_cases import (
    BODIES,
    LEFT_OUT,
    SHARES,
    STUDIES,
    chosen,
    plan_of,
    widths_of,
)


class PerMac:
    """Stands for the latency table: a hundredth of a microsecond a multiply-accumulate, and some for each node.

    Args:
        others: what the nodes take that are no layers, by name.
    """

    def __init__(self, others: Mapping[str, float] | None = None) -> None:
        self.others = others or {}

    def between(
        self, _network: onnx.ModelProto, _feeds: Mapping[str, np.ndarray], _names: Sequence[str]
    ) -> Mapping[str, float]:
        return self.others

    def node(self) -> float:
        return 2.0

    def dense(self, layer: Layer) -> float:
        return self.node() + layer.geometry.macs / 100

    def price(self, layer: Layer, menu: Menu) -> Menu:
        return Menu(menu.site, replace(menu.dense, cost=replace(menu.dense.cost, latency_us=self.dense(layer))), ())


@pytest.mark.ort
@pytest.mark.parametrize("left_out", [False, True], ids=["every layer a site", "some layers left out"])
@pytest.mark.parametrize("body", [body for body in BODIES if body != "enlarged"])
@settings(max_examples=5)
@given(shares=SHARES, factor=st.floats(0.1, 1))
def test_layers_without_a_menu_take_their_share_of_the_time_of_a_plan(
    body: str, left_out: bool, shares: Sequence[float], factor: float
) -> None:
    table: Any = PerMac()
    study = pipeline.price_latency((LEFT_OUT if left_out else STUDIES)[body], table)
    whole = study.cost("latency_us")
    assert whole == pytest.approx(study.cost("macs") / 100)
    plan = plan_of(study, shares)
    settled, _ = widths_of(study).settle(plan, widths_of(study).start())
    assert settled.total("latency_us") == pytest.approx(settled.total("macs") / 100)
    fitted = pipeline.fit_latency(study, factor * whole)
    less, _ = widths_of(fitted).settle(plan_of(fitted, shares), widths_of(fitted).start())
    assert less.total("latency_us") == pytest.approx(factor * settled.total("latency_us"))


@pytest.mark.ort
def test_what_cannot_be_timed_counts_no_time() -> None:
    table: Any = PerMac()
    study = pipeline.price_latency(STUDIES["enlarged"], table)
    (transposed,) = [part for part in widths_of(study).parts.values() if not part.charged]
    assert (transposed.layer, transposed.cost.latency_us) == (None, 0.0)
    assert study.cost("latency_us") == pytest.approx((study.cost("macs") - transposed.cost.macs) / 100)


@pytest.mark.ort
@pytest.mark.parametrize("body", BODIES)
@settings(max_examples=5)
@given(shares=SHARES, factor=st.floats(0.1, 1))
def test_what_stands_between_the_layers_takes_a_share_that_goes_with_its_channels(
    body: str, shares: Sequence[float], factor: float
) -> None:
    between = widths_of(STUDIES[body]).between
    alone: Any = PerMac()
    together: Any = PerMac(dict.fromkeys(between, 100.0))
    bare, priced = (pipeline.price_latency(STUDIES[body], table) for table in (alone, together))
    priced = pipeline.fit_latency(priced, factor * priced.cost("latency_us"))
    plan = plan_of(priced, shares)
    settled, point = widths_of(priced).settle(plan, widths_of(priced).start())
    without, _ = widths_of(bare).settle(plan_of(bare, shares), widths_of(bare).start())
    took = sum(100 * share * point.kept[site] for part in between.values() for site, share in part.rows.items())
    assert settled.total("latency_us") == pytest.approx(factor * (without.total("latency_us") + took))
    menus = {menu.site: menu for menu in widths_of(priced).linear(point)}
    about = chosen(menus, widths_of(priced), point)
    assert sum(option.cost.get("latency_us") for option in about.values()) == pytest.approx(settled.total("latency_us"))


@pytest.mark.ort
def test_what_is_joined_and_what_is_one_take_the_share_of_their_groups() -> None:
    parts = widths_of(STUDIES["gated"]).between
    (joined,) = [part for name, part in parts.items() if name.lower().startswith("concat")]
    assert sorted(joined.rows.values()) == pytest.approx([0.1, 0.1])  # four and six of its ten channels
    for part in parts.values():
        assert sum(part.rows.values()) <= 1
        assert not part.charged
