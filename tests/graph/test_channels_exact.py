"""Removing channels from random graphs: what is left computes what it did, bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from graph.channel_networks import Net, Value, analysed
from graph.cutting import deafen, silence, some_roots
from graph.onnx_text import run
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom.nodes.groups import find_groups

STEPS: Mapping[str, Callable[[Net, Value], Value]] = {
    "conv": lambda net, x: net.conv(x, 6, act="relu"),
    "pointwise": lambda net, x: net.conv(x, 5, 1),
    "norm": Net.norm,
    "prelu": Net.prelu,
    "identity": Net.identity_block,
    "projection": lambda net, x: net.projection_block(x, 6),
    "padded": lambda net, x: net.padded_block(x, 2) if x.side >= 4 else x,
    "dense": lambda net, x: net.dense_block(x, 3),
    "depthwise": lambda net, x: net.depthwise(x) if x.channels > 1 else x,
    "depthwise x 2": lambda net, x: net.depthwise(x, 2),
    "grouped": lambda net, x: net.conv(x, 8, group=2) if x.channels % 2 == 0 else x,
    "squeeze-excite": lambda net, x: net.squeeze_excite(x, 3),
    "split": lambda net, x: net.split_block(x) if x.channels % 2 == 0 else x,
    "slices": Net.slices,
    "gather": Net.gather,
    "enlarge": lambda net, x: net.enlarge(x, 4) if x.side <= 4 else x,
    "channels last": Net.channels_last,
    "max-pool": lambda net, x: net.max_pool(x) if x.side >= 4 else x,
}


@dataclass(frozen=True)
class Design:
    """A random network."""

    seed: int
    side: int
    width: int
    steps: tuple[str, ...]
    flat: str
    trans_b: int

    def net(self) -> tuple[onnx.ModelProto, Net]:
        net = Net(self.seed, self.side)
        x = net.conv(net.image(), self.width)
        for name in self.steps:
            x = STEPS[name](net, x)
        return net.classified(x, self.flat, self.trans_b), net


DESIGNS = st.builds(
    Design,
    seed=st.integers(0, 2**16),
    side=st.sampled_from([4, 8]),
    width=st.sampled_from([4, 6]),
    steps=st.lists(st.sampled_from(list(STEPS)), min_size=1, max_size=6).map(tuple),
    flat=st.sampled_from(["Flatten", "Reshape", "Shape"]),
    trans_b=st.sampled_from([0, 1]),
)


@pytest.mark.ort
@given(design=DESIGNS, seed=st.integers(0, 99), canonical=st.booleans())
@settings(max_examples=80)
def test_channels_that_are_zero_can_be_removed_and_nothing_changes(design: Design, seed: int, canonical: bool) -> None:
    proto, net = design.net()
    model, coupling = analysed(proto, net.feeds(), canonical)
    gone = some_roots(coupling, seed)
    silence(model, coupling, gone)
    expected = model.copy()
    coupling.remove(model, gone)
    feeds = net.feeds(batch=3)
    np.testing.assert_array_equal(run(model, feeds)[0], run(expected, feeds)[0])
    onnx.checker.check_model(model.to_proto(), full_check=True)


@pytest.mark.ort
@given(design=DESIGNS, seed=st.integers(0, 99))
@settings(max_examples=50)
def test_removing_any_channels_is_the_same_as_reading_none_of_them(design: Design, seed: int) -> None:
    proto, net = design.net()
    model, coupling = analysed(proto, net.feeds())
    gone, feeds = some_roots(coupling, seed), net.feeds(batch=3)
    expected = model.copy()
    deafen(expected, coupling, gone)
    coupling.remove(model, gone)
    np.testing.assert_array_equal(run(model, feeds)[0], run(expected, feeds)[0])


@pytest.mark.ort
@pytest.mark.parametrize("step", list(STEPS))
def test_every_kind_of_step_can_be_cut(step: str) -> None:
    net = Net(side=8 if step != "enlarge" else 4)
    x = STEPS[step](net, net.conv(net.image(), 6))
    model, coupling = analysed(net.classified(x), net.feeds())
    found = find_groups(coupling)
    assert {refusal.site for refusal in found.refusals} == {model.graph.nodes[-2].name}  # the classifier
    before = model.to_proto().ByteSize()
    coupling.remove(model, np.concatenate([group.roots[:1] for group in found.groups]))
    assert model.to_proto().ByteSize() < before
    assert run(model, net.feeds())[0].shape == (2, 5)
