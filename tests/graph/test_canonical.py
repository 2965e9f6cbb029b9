"""Exact rewrites change the graph and not what it computes."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from graph.onnx_text import floats, integers, model, parse, run
from lissom.graph.affine import fold_affine
from lissom.graph.constants import fold_constants, lift_constants
from lissom.graph.load import from_proto
from lissom.graph.model import Model
from lissom.graph.naming import name_nodes
from lissom.graph.shapes import infer_shapes
from lissom.graph.sharing import share_constants, unshare_constants
from lissom.graph.spec import violations
from lissom.graph.steps import Outcome

Rewrite = Callable[[Model], Outcome]


def rewritten(loaded: Model, *steps: Rewrite) -> tuple[Model, list[Outcome]]:
    twin = loaded.copy()
    outcomes = [step(twin) for step in (name_nodes, *steps)]
    assert violations(twin) == []
    return twin, outcomes[1:]


def ops(loaded: Model) -> list[str]:
    return [node.op for node in loaded.graph.nodes]


def batch_norm_constants(channels: int) -> dict[str, np.ndarray]:
    return {
        "gamma": floats(1, channels),
        "beta": floats(2, channels),
        "mean": floats(3, channels),
        "var": np.abs(floats(4, channels)) + 0.5,
    }


@pytest.mark.ort
@pytest.mark.parametrize("bias", [False, True])
def test_batch_normalization_folds_into_a_convolution(bias: bool) -> None:
    conv = "Conv <pads = [1, 1, 1, 1]> (x, w, b)" if bias else "Conv <pads = [1, 1, 1, 1]> (x, w)"
    norm = "BatchNormalization(t, gamma, beta, mean, var)"
    text = f"net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {{ t = {conv} y = {norm} }}"
    constants = {"w": floats(0, 4, 3, 3, 3), **({"b": floats(5, 4)} if bias else {}), **batch_norm_constants(4)}
    loaded = model(text, **constants)
    folded, _ = rewritten(loaded, fold_affine)
    feeds = {"x": floats(6, 2, 3, 8, 8)}
    assert ops(folded) == ["Conv"]
    np.testing.assert_allclose(run(folded, feeds)[0], run(loaded, feeds)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.ort
@pytest.mark.parametrize("op", ["Mul", "Add", "Sub", "Div"])
@pytest.mark.parametrize("layer", ["Conv", "ConvTranspose"])
def test_per_channel_arithmetic_folds_into_the_layer_before(op: str, layer: str) -> None:
    text = f"net (float[N, 4, 5, 5] x) => (float[N, 4, H, W] y) {{ t = {layer}(x, w) y = {op}(t, s) }}"
    loaded = model(text, w=integers(0, 4, 4, 3, 3), s=np.array([1, 2, 4, 8], np.float32).reshape(1, 4, 1, 1))
    folded, _ = rewritten(loaded, fold_affine)
    feeds = {"x": integers(1, 2, 4, 5, 5)}
    assert ops(folded) == [layer]
    np.testing.assert_array_equal(run(folded, feeds)[0], run(loaded, feeds)[0])


@pytest.mark.ort
@pytest.mark.parametrize("trans_b", [0, 1])
def test_batch_normalization_folds_into_a_gemm(trans_b: int) -> None:
    text = (
        f"net (float[N, 3] x) => (float[N, 4] y) "
        f"{{ t = Gemm <transB = {trans_b}> (x, w, b) y = BatchNormalization(t, gamma, beta, mean, var) }}"
    )
    weight = floats(0, 3, 4)
    loaded = model(text, w=weight.T.copy() if trans_b else weight, b=floats(5, 4), **batch_norm_constants(4))
    folded, _ = rewritten(loaded, fold_affine)
    feeds = {"x": floats(6, 2, 3)}
    assert ops(folded) == ["Gemm"]
    np.testing.assert_allclose(run(folded, feeds)[0], run(loaded, feeds)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("t = Conv(x, w) y = Add(t, s) z = Neg(t)", "something else reads the convolution"),
        ("t = Conv(x, w) y = Add(t, u) z = Neg(y)", "the constant differs per pixel"),
        ("t = Conv(x, w) y = Sub(s, t) z = Neg(y)", "the constant is the minuend"),
        ("t = Conv(x, w) y = Mul(t, t) z = Neg(y)", "there is no constant"),
        ("t = Conv(x, w) y = Add(t, r) z = Neg(y)", "the constant raises the rank"),
    ],
)
def test_what_is_not_a_per_channel_constant_stays(body: str, reason: str) -> None:
    text = f"net (float[1, 2, 4, 4] x) => (float[a, b, c, d] z, float[e, f, g, h] y) {{ {body} }}"
    if " r) " in body:
        text = f"net (float[1, 2, 4, 4] x) => (float[a, b, c, d, e] z) {{ {body} }}"
    constants = {"w": integers(0, 2, 2, 1, 1), "s": integers(1, 1, 2, 1, 1)}
    constants |= {"u": integers(2, 1, 2, 4, 4), "r": integers(3, 1, 1, 2, 1, 1)}
    loaded = model(text, **{name: value for name, value in constants.items() if name in body})
    _, (outcome,) = rewritten(loaded, fold_affine)
    assert outcome.changes == [], reason


@pytest.mark.ort
def test_constant_nodes_and_what_is_made_of_them_become_initializers() -> None:
    text = """net (float[N, 2] x) => (float[N, 3] y) {
        shape = Constant <value_ints = [2, 3]> ()
        flat = Constant <value = float[6] {1, 2, 3, 4, 5, 6}> ()
        w = Reshape(flat, shape)
        y = MatMul(x, w)
    }"""
    loaded = model(text)
    lifted, outcomes = rewritten(loaded, lift_constants, fold_constants)
    feeds = {"x": integers(0, 4, 2)}
    assert ops(lifted) == ["MatMul"]
    assert [len(outcome.changes) for outcome in outcomes] == [2, 1]
    np.testing.assert_array_equal(run(lifted, feeds)[0], run(loaded, feeds)[0])


def test_a_constant_of_shape_is_lifted_only_where_a_layer_reads_it() -> None:
    text = """net (float[N, 2] x) => (float[N, 3] y, float[1000] z) {
        w = ConstantOfShape <value = float[1] {2}> (shape)
        y = MatMul(x, w)
        large = ConstantOfShape (extent)
        z = Neg(large)
    }"""
    loaded = model(text, shape=np.array([2, 3]), extent=np.array([1000]))
    lifted, _ = rewritten(loaded, lift_constants)
    assert ops(lifted) == ["MatMul", "ConstantOfShape", "Neg"]


def test_folding_does_not_make_the_file_larger() -> None:
    text = "net (float[N] x) => (float[a, b] y) { big = Expand(one, shape) y = Add(x, big) }"
    loaded = model(text, one=np.ones(1, np.float32), shape=np.array([1000, 1000]))
    _, (outcome,) = rewritten(loaded, fold_constants)
    assert outcome.changes == []


def test_random_numbers_are_not_folded() -> None:
    text = "net (float[2, 2] x) => (float[2, 2] y) { r = RandomNormalLike(c) y = Add(x, r) }"
    _, (outcome,) = rewritten(model(text, c=floats(0, 2, 2)), fold_constants)
    assert outcome.changes == []


@pytest.mark.ort
def test_a_shared_weight_is_unshared_and_shared_again_if_it_stays_equal() -> None:
    text = "net (float[N, 3] x) => (float[N, 3] y) { t = MatMul(x, w) u = Relu(t) y = MatMul(u, w) }"
    loaded = model(text, w=integers(0, 3, 3))
    apart, (unshared,) = rewritten(loaded, unshare_constants)
    weights = [node.inputs[1] for node in apart.graph.nodes if node.op == "MatMul"]
    assert weights[0] is not weights[1]
    assert len(unshared.changes) == 1
    together, _ = rewritten(apart, share_constants)
    assert len(together.to_proto().graph.initializer) == 1
    feeds = {"x": integers(1, 2, 3)}
    np.testing.assert_array_equal(run(together, feeds)[0], run(loaded, feeds)[0])


def test_unnamed_nodes_and_namesakes_get_names_of_their_own() -> None:
    proto = parse("net (float[N] x) => (float[N] y) { a = Relu(x) b = Neg(a) c = Abs(b) y = Neg(c) }")
    proto.graph.node[1].name = proto.graph.node[2].name = "twin"
    loaded = from_proto(proto)
    name_nodes(loaded)
    assert [node.name for node in loaded.graph.nodes] == ["Relu_a", "twin", "Abs_c", "Neg_y"]


def test_dynamic_dimensions_stay_dynamic() -> None:
    text = "net (float[N, 3, H, W] x) => (float[N, 4, H, W] y) { t = Conv <pads = [1, 1, 1, 1]> (x, w) y = Relu(t) }"
    loaded = model(text, w=floats(0, 4, 3, 3, 3))
    infer_shapes(loaded)
    (value,) = loaded.to_proto().graph.value_info
    dims = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
    assert dims[:2] == ["N", 4]
    assert not any(isinstance(d, int) and d > 0 for d in dims[2:])
    assert [d.dim_param for d in loaded.to_proto().graph.input[0].type.tensor_type.shape.dim] == ["N", "", "H", "W"]


@pytest.mark.parametrize(
    ("edit", "breach"),
    [
        (lambda m: m.graph.nodes.reverse(), "read before it is produced"),
        (lambda m: setattr(m.graph.nodes[0], "name", m.graph.nodes[1].name), "used twice"),
        (lambda m: m.graph.outputs.reverse(), "the outputs are"),
        (lambda m: m.graph.nodes.pop(), "is not produced"),
    ],
)
def test_the_grammar_finds_a_breach(edit: Callable[[Model], object], breach: str) -> None:
    loaded = model("net (float[N] x) => (float[N] a, float[N] y) { a = Relu(x) y = Neg(a) }")
    name_nodes(loaded)
    edit(loaded)
    assert any(breach in sentence for sentence in violations(loaded))


def test_a_fused_layer_keeps_its_name_and_notes_and_lists_its_sources() -> None:
    proto = parse(
        "net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) { t = Conv <pads = [1, 1, 1, 1]> (x, w) "
        "u = BatchNormalization(t, gamma, beta, mean, var) y = Mul(u, s) }",
        ir=10,
        w=floats(0, 4, 3, 3, 3),
        s=floats(7, 1, 4, 1, 1),
        **batch_norm_constants(4),
    )
    for node, name in zip(proto.graph.node, ("conv", "norm", "scale"), strict=True):
        node.name, node.doc_string = name, f"about {name}"
    folded, _ = rewritten(from_proto(proto), fold_affine)
    (node,) = folded.to_proto().graph.node
    assert (node.name, node.doc_string) == ("conv", "about conv")
    assert json.loads(node.metadata_props[0].value) == {"kind": "fused", "from": ["conv", "norm", "scale"]}
