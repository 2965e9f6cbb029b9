"""Pairs become the layers again that they were: same name, same outputs, whatever weights they have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graph.onnx_text import floats, model, run
from lissom import applying
from lissom.canonical import canonicalise
from lissom.graph.load import from_proto
from lissom.graph.model import Model
from lissom.lowrank.foldings import Scheme, foldings_of
from lissom.lowrank.propose import KIND
from lissom.lowrank.recomposing import recompose
from lissom.options import Cost, Option, Plan
from lissom.pipeline import Study
from lissom.recipe import read_recipe
from passes.surgery_cases import CONV, CONVOLUTIONS

pytestmark = pytest.mark.ort


def decomposed(loaded: Model, shape: tuple[int, ...], scheme: Scheme, rank: int = 2) -> onnx.ModelProto:
    """With a pair in the place of the first layer, and other weights in it than the decomposition's."""
    canonical = canonicalise(loaded, {"x": floats(9, *shape)})
    parameters = {"folding": scheme.folding, "side": scheme.side, "groups": scheme.groups, "rank": rank}
    layer = canonical.layers[0].name
    plan = Plan({layer: Option(layer, KIND, parameters, Cost(0, 0, 0), 0.0, "code")}, 0.0)
    proto = applying.apply(Study(canonical, read_recipe("minimax"), (), (), {}), plan).model.to_proto()
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            tensor.CopyFrom(onnx.numpy_helper.from_array(floats(3, *tensor.dims), tensor.name))
    return proto


def require_recomposed(loaded: Model, shape: tuple[int, ...], scheme: Scheme, ops: list[str]) -> None:
    proto = decomposed(loaded, shape, scheme)
    layer = canonicalise(loaded, {"x": floats(9, *shape)}).layers[0]
    again = from_proto(proto)
    done = recompose(again)
    assert (done.layers, done.refusals) == ([layer.name], [])
    assert [node.op for node in again.graph.nodes] in ([op] for op in ops)
    feeds = {"x": floats(8, *shape)}
    np.testing.assert_allclose(run(again, feeds)[0], run(proto, feeds)[0], rtol=1e-3, atol=1e-3)
    (found,) = canonicalise(again, {"x": floats(9, *shape)}).layers
    assert found.geometry == layer.geometry
    assert recompose(again).layers == []


@pytest.mark.parametrize("attributes", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_a_pair_of_convolutions_becomes_the_convolution_that_it_was(attributes: str) -> None:
    loaded = model(CONV.format(c=4, f=6, b=", b", attributes=attributes), w=floats(0, 6, 4, 3, 3), b=floats(1, 6))
    for folding, side, groups in zip(
        foldings_of((3, 3)), ("input", "output", "input", "output"), (2, 3, 1, 2), strict=True
    ):
        require_recomposed(loaded, (2, 4, 9, 7), Scheme(folding, side, groups), ["Conv"])


@pytest.mark.parametrize(("side", "groups"), [("input", 1), ("input", 3), ("output", 2)])
@pytest.mark.parametrize(("bias", "beta"), [(True, 1.0), (True, 2.0), (False, 1.0)])
def test_a_pair_of_products_becomes_the_product_that_it_was(side: str, groups: int, bias: bool, beta: float) -> None:
    text = f"net (float[N, 6] x) => (float[N, 4] y) {{ y = Gemm <beta = {beta}> (x, w{', b' if bias else ''}) }}"
    loaded = model(text, w=floats(0, 6, 4), **({"b": floats(1, 4)} if bias else {}))
    require_recomposed(loaded, (3, 6), Scheme(0, side, groups), ["Gemm"] if bias else ["Gemm", "MatMul"])


@pytest.mark.parametrize("groups", [1, 2])
def test_a_pair_with_leading_axes_becomes_the_product_that_it_was(groups: int) -> None:
    loaded = model("net (float[N, 5, 6] x) => (float[N, 5, 4] y) { y = MatMul(x, w) }", w=floats(0, 6, 4))
    require_recomposed(loaded, (2, 5, 6), Scheme(0, "input", groups), ["MatMul"])


@pytest.mark.parametrize("ir", [8, 10])
def test_what_is_known_of_a_pair_outlives_a_file_and_a_normalisation_behind_it(ir: int, tmp_path: Path) -> None:
    text = CONV.format(c=4, f=6, b="", attributes="pads = [1, 1, 1, 1]")
    proto = decomposed(model(text, ir=ir, w=floats(0, 6, 4, 3, 3)), (1, 4, 9, 7), Scheme(0, "input", 2))
    proto.graph.node[-1].output[0] = "raw"
    for seed, name in enumerate(("scale", "shift", "mean", "variance")):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.abs(floats(seed, 6)) + 1, name))
    norm = onnx.helper.make_node("BatchNormalization", ["raw", "scale", "shift", "mean", "variance"], ["y"])
    proto.graph.node.append(norm)
    onnx.save(proto, tmp_path / "file.onnx")
    feeds = {"x": floats(8, 1, 4, 9, 7)}
    folded = canonicalise(from_proto(onnx.load(tmp_path / "file.onnx")), feeds).model
    assert recompose(folded).layers == ["Conv_y"]
    np.testing.assert_allclose(run(folded, feeds)[0], run(proto, feeds)[0], rtol=1e-3, atol=1e-3)


def test_a_pair_that_something_else_reads_is_declined() -> None:
    text = CONV.format(c=4, f=6, b="", attributes="pads = [1, 1, 1, 1]")
    proto = decomposed(model(text, w=floats(0, 6, 4, 3, 3)), (1, 4, 9, 7), Scheme())
    middle = proto.graph.node[0].output[0]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(middle, onnx.TensorProto.FLOAT, ["N", 2, "H", "W"]))
    found = recompose(from_proto(proto))
    assert found.layers == []
    assert "something else than its own nodes reads what Conv_y/lissom_0 gives" in found.refusals[0].reason


def test_what_bears_the_provenance_and_is_no_pair_is_declined() -> None:
    text = CONV.format(c=4, f=6, b="", attributes="pads = [1, 1, 1, 1]")
    proto = decomposed(model(text, w=floats(0, 6, 4, 3, 3)), (1, 4, 9, 7), Scheme())
    proto.graph.node[1].op_type = "ConvTranspose"
    (refusal,) = recompose(from_proto(proto)).refusals
    assert refusal.reason == "its nodes are not those of a pair"
