"""What is lowered follows what was measured: chains against dense and against single layers, layers against dense."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from graph.onnx_text import floats, model
from lissom.graph.model import Model
from lissom.graph.naming import name_nodes
from lissom.graph.shapes import infer_shapes
from lissom.lowering import decide as module
from lissom.lowering.decide import Decisions, decide
from lissom.lowering.price import Speed
from lissom.lowering.propose import propose, sources
from lissom.observe import observe_shapes
from lissom_runtime.contract import operator_names, signatures
from lissom_runtime.latency import Verdict
from lissom_runtime.providers import ProviderRequest

pytestmark = pytest.mark.ort

BLOCK = """net (float[N, 16, 9, 7] x) => (float[N, 16, 9, 7] y) {
    e = Conv(x, we) a = Relu(e)
    d = Conv<pads = [1, 1, 1, 1], group = 24>(a, wd) b = Relu(d)
    p = Conv(b, wp) y = Add(p, x)
}"""
CHAIN = "SparseChain_inverted_residual_bitmap_clip_add"
SINGLY = ["SparseConv_bitmap_relu", "Conv", "Relu", "SparseConv_bitmap_add"]
DENSE = ["Conv", "Relu", "Conv", "Relu", "Conv", "Add"]


def sparse(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    kept = np.random.default_rng(seed).random((shape[0] // 4, 1, *shape[1:])) < 0.25
    return floats(seed, *shape) * kept.repeat(4, axis=1).reshape(shape)


class Measured:
    """Stands in for `price.measure`: a chain's two ways get one list of speeds, single layers another each in turn."""

    def __init__(self, together: Sequence[tuple[float, Verdict]], alone: Sequence[tuple[float, Verdict]] = ()) -> None:
        self.together = [Speed(10.0, ratio, verdict) for ratio, verdict in together]
        self.alone = [Speed(10.0, ratio, verdict) for ratio, verdict in alone]
        self.asked: list[list[str]] = []

    def __call__(self, _: Model, links: Sequence[Any], ways: Sequence[Any], __: ProviderRequest) -> list[Speed]:
        self.asked.append([link.site.name for link in links])
        assert len(ways) == (2 if len(links) > 1 else 1)
        return self.together if len(links) > 1 else [self.alone.pop(0)]


def decided(
    monkeypatch: pytest.MonkeyPatch, measured: Measured, known: Sequence[str] | None = None
) -> tuple[list[str], Decisions]:
    """The operators of the block after the decision, and what it says."""
    monkeypatch.setattr(module, "measure", measured)
    monkeypatch.setattr(module, "operators", lambda: frozenset(operator_names() if known is None else known))
    loaded = model(BLOCK, we=sparse(1, 24, 16, 1, 1), wd=floats(2, 24, 1, 3, 3), wp=sparse(3, 16, 24, 1, 1))
    name_nodes(loaded)
    infer_shapes(loaded)
    shapes = observe_shapes(loaded, sources(loaded), {"x": floats(4, 1, 16, 9, 7)})
    request = ProviderRequest(custom_op_libraries=(Path("library"),))
    found = decide(loaded, propose(loaded, shapes), shapes, request)
    return [node.op for node in loaded.graph.nodes], found


@pytest.mark.parametrize("singly", [(0.5, "faster"), (0.4, "faster"), (1.2, "slower"), (1.0, "no significant change")])
def test_a_chain_that_is_faster_than_dense_and_no_slower_than_its_layers_is_taken(
    monkeypatch: pytest.MonkeyPatch, singly: tuple[float, Verdict]
) -> None:
    measured = Measured([singly, (0.4, "faster")])
    ops, found = decided(monkeypatch, measured)
    assert ops == [CHAIN]
    assert measured.asked == [["Conv_e", "Conv_d", "Conv_p"]]
    assert [layer.site for layer in found.layers] == ["Conv_e", "Conv_p"]
    for layer in found.layers:
        assert layer.chain is not None and layer.chain.speed is not None and layer.chain.singly is not None
        assert (layer.decision, layer.operator, layer.speed) == ("lowered", CHAIN, None)
        assert (layer.chain.node, layer.chain.operator) == ("Conv_e/lissom_0", CHAIN)
        assert (layer.chain.speed.ratio, layer.chain.singly.ratio) == (0.4, singly[0])
    assert not found.refusals


@pytest.mark.parametrize(
    ("together", "reason"),
    [
        ([(0.5, "faster"), (0.6, "faster")], "against its layers lowered one by one: slower"),
        ([(1.3, "slower"), (0.98, "no significant change")], "against the dense layers: no significant change"),
        ([(1.3, "slower"), (1.2, "slower")], "against the dense layers: slower"),
    ],
)
def test_the_layers_of_another_chain_are_decided_one_by_one(
    monkeypatch: pytest.MonkeyPatch, together: list[tuple[float, Verdict]], reason: str
) -> None:
    measured = Measured(together, [(0.7, "faster"), (0.8, "faster")])
    ops, found = decided(monkeypatch, measured)
    assert ops == SINGLY
    assert measured.asked == [["Conv_e", "Conv_d", "Conv_p"], ["Conv_e"], ["Conv_p"]]
    for layer in found.layers:
        assert layer.chain is not None and layer.chain.speed is not None and layer.chain.singly is not None
        assert (layer.chain.node, layer.chain.operator) == (None, CHAIN)
        assert [layer.chain.singly.ratio, layer.chain.speed.ratio] == [ratio for ratio, _ in together]
        assert layer.speed is not None and layer.operator != CHAIN
    told = {refusal.site: refusal.reason for refusal in found.refusals}
    assert told.keys() == {"Conv_e", "Conv_d"}
    assert reason in told["Conv_e"] and "depthwise" in told["Conv_d"]


def test_single_layers_are_kept_dense_where_they_are_no_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    slow: tuple[float, Verdict] = (1.3, "slower")
    assert decided(monkeypatch, Measured([slow, slow], [slow, slow]))[0] == DENSE
    ops, found = decided(monkeypatch, Measured([slow, slow], [slow, (0.5, "faster")]))
    assert ops == [*DENSE[:4], "SparseConv_bitmap_add"]
    assert [layer.decision for layer in found.layers] == ["dense", "lowered"]


def test_a_chain_that_the_library_lacks_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured([], [(0.7, "faster"), (0.8, "faster")])
    ops, found = decided(monkeypatch, measured, [signature.name for signature in signatures()])
    assert ops == SINGLY
    assert measured.asked == [["Conv_e"], ["Conv_p"]]
    assert [layer.chain for layer in found.layers] == [None, None]
