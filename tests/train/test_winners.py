"""Weights adapt to masks on activations, which stay as they are, with the dropout that the paper has behind them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graph.onnx_text import run
from lissom.activations.insert import Dynamic, Static, insert
from lissom.activations.sites import find_sites
from lissom.canonical import canonicalise
from lissom.graph.load import from_proto
from lissom.observe import observe_shapes
from lissom_runtime.errors import UsageError

pytest.importorskip("torch", reason="torch is not installed (pip install 'lissom[recover]')")

from lissom.train.reading import inlined
from lissom.train.schedule import Schedule
from lissom.train.tuning import Tuning, tune
from lissom.train.winners import dropout_behind, winner_rates
from train.networks import plain
from train.runs import separable

pytestmark = pytest.mark.ort

DATA = separable(120, (2, 6, 6), 3)


@pytest.fixture(scope="module")
def masked() -> onnx.ModelProto:
    """A trained network with zeros in a weight, and a dynamic and a static mask."""
    learned = from_proto(tune(plain(), DATA, Tuning(Schedule(6, 0.05), batch=16, held=6)).proto)
    feeds = DATA.read(0, 1)[0]
    canonical = canonicalise(learned, feeds)
    weight = next(node for node in canonical.model.graph.nodes if node.op == "Gemm").inputs[1]
    weight.values = np.where(np.abs(weight.values) < 0.05, 0, weight.values).astype(np.float32)
    sites = find_sites(canonical.model, canonical.layers).sites
    shapes = observe_shapes(canonical.model, [site.tensor for site in sites], feeds)
    masks = {"r": Dynamic(0.25, 0.5), "t": Static(np.array([0.1], np.float32))}
    assert insert(canonical.model, sites, masks, shapes) == []
    return canonical.model.to_proto()


def test_dynamic_masks_are_found_with_their_rates(masked: onnx.ModelProto) -> None:
    rates = winner_rates(masked)
    assert list(rates.values()) == [0.25]
    given = {name for node in inlined(masked).graph.node for name in node.output}
    assert given.issuperset(rates)


def test_a_network_with_masks_learns_and_keeps_them(masked: onnx.ModelProto) -> None:
    companions = [dropout_behind(winner_rates(masked))]
    found = tune(masked, DATA, Tuning(Schedule(4, 0.5), optimizer="adadelta", batch=16, held=6), companions)
    assert found.after.loss < found.before.loss
    before, after = inlined(masked), found.proto
    assert [node.op_type for node in after.graph.node] == [node.op_type for node in before.graph.node]
    assert "Dropout" not in {node.op_type for node in after.graph.node}
    for old, new in zip(before.graph.initializer, after.graph.initializer, strict=True):
        values, others = onnx.numpy_helper.to_array(old), onnx.numpy_helper.to_array(new)
        np.testing.assert_array_equal(others[values == 0], 0)
    labels = DATA.read(0, DATA.size)[1]
    assert labels is not None
    hits = run(after, DATA.read(0, DATA.size)[0])[0].argmax(axis=1) == labels
    assert hits.mean() > 0.8


def test_dropout_behind_a_mask_is_half_the_root_of_its_rate() -> None:
    assert dropout_behind({"a": 0.25, "b": 1.0}).identity() == '["dropout", {"a": 0.25, "b": 0.5}, 0]'


def test_a_winner_rate_out_of_range_is_refused() -> None:
    with pytest.raises(UsageError, match="winner rates above 0 and at most 1, but 'a' has 0"):
        dropout_behind({"a": 0.0})
