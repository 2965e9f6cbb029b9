"""What stands behind a layer goes into its operator when nothing else needs it, and stays otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from graph.onnx_text import Arrays, floats, model, run
from lissom.graph.model import PROVENANCE_KEY, Model
from lissom.graph.naming import name_nodes
from lissom.graph.shapes import infer_shapes
from lissom.lowering.apply import apply
from lissom.lowering.fuse import tail
from lissom.lowering.propose import propose, sources
from lissom.observe import observe_shapes

pytestmark = pytest.mark.ort

CONV = (
    "net (float[{batch}, 4, 6, 5] x{ins}) => (float[{batch}, 8, 6, 5] y{outs}) "
    "{{ c = Conv<pads = [1,1,1,1]>(x, w, b) {rest} }}"
)
ACTIVATIONS: Mapping[str, tuple[str, str]] = {
    "relu": ("y = Relu(c)", "relu"),
    "clip": ("y = Clip(c, low, high)", "clip"),
    "clip below": ("y = Clip(c, low)", "clip"),
    "clip above": ("y = Clip(c, , high)", "clip"),
    "leaky relu": ("y = LeakyRelu<alpha = 0.2>(c)", "leaky_relu"),
    "leaky relu by default": ("y = LeakyRelu(c)", "leaky_relu"),
    "hard swish": ("y = HardSwish(c)", "hard_swish"),
    "hard sigmoid gate": ("h = HardSigmoid<alpha = 0.16666667, beta = 0.5>(c) y = Mul(h, c)", "hard_swish"),
    "sigmoid gate": ("h = Sigmoid(c) y = Mul(c, h)", "silu"),
    "thresholded relu": ("y = ThresholdedRelu<alpha = 0.3>(c)", "thresholded_relu"),
    "shrink": ("y = Shrink<lambd = 0.3, bias = 0.0>(c)", "shrink"),
    "residual": ("y = Add(c, r)", "add"),
    "residual and relu": ("s = Add(r, c) y = Relu(s)", "add_relu"),
    "residual and gate": ("s = Add(r, c) h = Sigmoid(s) y = Mul(s, h)", "add_silu"),
}
LEFT: Mapping[str, tuple[str, str, Sequence[str]]] = {
    "a gate of another slope": ("h = HardSigmoid(c) y = Mul(c, h)", "", ["HardSigmoid", "Mul"]),
    "a gate that is read elsewhere": ("h = Sigmoid(c) y = Mul(c, h) z = Neg(h)", "", ["Sigmoid", "Mul", "Neg"]),
    "shrink with a bias": ("y = Shrink<lambd = 0.3, bias = 0.1>(c)", "", ["Shrink"]),
    "a sum of it with itself": ("y = Add(c, c)", "", ["Add"]),
    "a tensor that is read elsewhere": ("y = Relu(c) z = Neg(c)", "", ["Relu", "Neg"]),
    "another operator": ("y = Softplus(c)", "", ["Softplus"]),
    "limits that are not constant": ("n = ReduceMin<keepdims = 0>(x) y = Clip(c, n)", "", ["ReduceMin", "Clip"]),
    "a residual that is broadcast": ("p = GlobalAveragePool(r) y = Add(c, p)", "", ["GlobalAveragePool", "Add"]),
}


def sparse_weight(seed: int = 0) -> Arrays:
    weight = floats(seed, 8, 4, 3, 3)
    weight[np.random.default_rng(seed).random(weight.shape) < 0.8] = 0
    return {"w": weight, "b": floats(1, 8)}


def conv(rest: str, batch: str = "N", outs: str = "") -> Model:
    ins = f", float[{batch}, 8, 6, 5] r"
    constants = sparse_weight() | {"low": np.array(-0.5, np.float32), "high": np.array(0.7, np.float32)}
    return model(CONV.format(batch=batch, ins=ins, outs=outs, rest=rest), **constants)


def lowered(loaded: Model, feeds: Arrays) -> Model:
    """A copy with all its layers lowered, whatever their density."""
    edited = loaded.copy()
    name_nodes(edited)
    infer_shapes(edited)
    shapes = observe_shapes(edited, sources(edited), feeds)
    for site in propose(edited, shapes, max_density=1.0).sites:
        apply(edited, site, site.packed(), tail(edited, site.node, len(site.weight), shapes))
    return edited


def feeds_of(batch: int = 1) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return {"x": floats(3, batch, 4, 6, 5), "r": floats(4, batch, 8, 6, 5)}


def require_same(loaded: Model, edited: Model, batch: int = 2) -> None:
    for got, wanted in zip(run(edited, feeds_of(batch)), run(loaded, feeds_of(batch)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rest", "suffix"), ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_what_an_operator_can_do_becomes_one_node(rest: str, suffix: str) -> None:
    loaded = conv(rest)
    edited = lowered(loaded, feeds_of())
    assert [node.op for node in edited.graph.nodes] == [f"SparseConv_bitmap_{suffix}"]
    require_same(loaded, edited)


@pytest.mark.parametrize(("rest", "suffix", "left"), LEFT.values(), ids=LEFT.keys())
def test_what_does_not_fit_is_left(rest: str, suffix: str, left: Sequence[str]) -> None:
    loaded = conv(rest, outs=", float[N, 8, 6, 5] z" if "z =" in rest else "")
    edited = lowered(loaded, feeds_of())
    assert [node.op for node in edited.graph.nodes if node.domain != "ai.lissom"] == left
    require_same(loaded, edited)


def test_a_residual_whose_batch_may_be_another_is_left() -> None:
    text = (
        "net (float[N, 4, 6, 5] x, float[M, 8, 6, 5] r) => (float[K, 8, 6, 5] y) "
        "{ c = Conv<pads = [1,1,1,1]>(x, w, b) y = Add(c, r) }"
    )
    loaded = model(text, **sparse_weight())
    edited = lowered(loaded, feeds_of(1))
    assert [node.op for node in edited.graph.nodes] == ["SparseConv_bitmap", "Add"]
    broadcast = {"x": floats(3, 3, 4, 6, 5), "r": floats(4, 1, 8, 6, 5)}
    np.testing.assert_allclose(run(edited, broadcast)[0], run(loaded, broadcast)[0], rtol=1e-5, atol=1e-5)


def test_of_two_layers_that_are_added_one_takes_the_sum_and_reads_the_other() -> None:
    loaded = conv("d = Conv<pads = [1,1,1,1]>(x, w, b) s = Add(c, d) y = Relu(s)")
    edited = lowered(loaded, feeds_of())
    assert [node.op for node in edited.graph.nodes] == ["SparseConv_bitmap", "SparseConv_bitmap_add_relu"]
    require_same(loaded, edited)


def test_an_intermediate_output_of_the_graph_is_kept() -> None:
    loaded = model(CONV.format(batch="N", ins="", outs=", float[N, 8, 6, 5] c", rest="y = Relu(c)"), **sparse_weight())
    edited = lowered(loaded, {"x": floats(3, 1, 4, 6, 5)})
    assert [node.op for node in edited.graph.nodes] == ["SparseConv_bitmap", "Relu"]


@pytest.mark.parametrize("bias", [(6,), (1, 6), (1,)])
def test_a_product_takes_in_its_bias(bias: tuple[int, ...]) -> None:
    text = "net (float[N, T, 5] x) => (float[N, T, 6] y) { p = MatMul(x, w) s = Add(b, p) y = Relu(s) }"
    loaded = model(text, w=floats(0, 5, 6), b=floats(1, *bias))
    edited = lowered(loaded, {"x": floats(2, 1, 3, 5)})
    assert [node.op for node in edited.graph.nodes] == ["SparseGemm_bitmap_relu"]
    feeds = {"x": floats(3, 2, 4, 5)}
    np.testing.assert_allclose(run(edited, feeds)[0], run(loaded, feeds)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ir", [8, 10])
def test_the_node_is_named_after_the_layer_and_tells_all_that_it_was(ir: int) -> None:
    text = CONV.format(batch="N", ins="", outs="", rest="y = Relu(c)")
    loaded = model(text, ir=ir, **sparse_weight())
    for node, name in zip(loaded.graph.nodes, ("first", "second"), strict=True):
        node.name = name
    proto = lowered(loaded, {"x": floats(3, 1, 4, 6, 5)}).to_proto()
    assert [node.name for node in proto.graph.node] == ["first/lissom_0"]
    props = [*proto.metadata_props, *proto.graph.node[0].metadata_props]
    assert [prop.key for prop in props] == [PROVENANCE_KEY]
    assert '"from": ["first", "second"]' in props[0].value
