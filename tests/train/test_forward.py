"""A graph in torch computes what ONNX Runtime computes, and refuses what it cannot."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import lissom_models
import numpy as np
import onnx
import onnx.version_converter
import pytest
from end_to_end.corpus import NODE_SHARDS, Case, node_cases
from graph.onnx_text import floats, parse, run
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom.graph.load import LEAST_OPSET
from lissom.graph.model import LEAST_IR
from lissom_runtime.contract import Activation
from lissom_runtime.errors import LissomError, UsageError
from lissom_runtime.session import open_session
from runtime.ops_models import DENSE_ACTIVATIONS, Node, sparse_model, sparse_weight

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'lissom[recover]')")

from lissom.train.table import OPERATORS
from lissom.train.torch_graph import TorchGraph
from train.compared import require_close, tensors

pytestmark = pytest.mark.ort

EQUAL = (60, 44, 58, 93, 36, 47, 56, 92)
"""Least number of node models of a shard that are computed as ONNX Runtime computes them: nine tenths of all."""

DECLINED = (
    r"expected inputs that are tensors of types that torch has",
    r"expected an element type that torch has to train node '.*' \(Cast\)",
    r"expected (mode|coordinate_transformation_mode|antialias|keep_aspect_ratio_policy) to be .* \(Resize\)",
    r"expected training_mode to be .* \((BatchNormalization|Dropout)\)",
    r"expected one output to train node '.*' \(MaxPool\)",
    r"\(MaxPool\), but it says: value cannot be converted to type uint8_t",
    r"\(Reduce(Max|Min)\), but it says: .* non-zero size",
)
"""Why a node model of the corpus may be declined."""


def verdict(case: Case) -> str:
    """What comes of a case: "equal", "declined", "ort cannot" (run the model itself), or what nobody foresaw."""
    proto = case.model
    if case.is_old:
        proto = onnx.version_converter.convert_version(proto, LEAST_OPSET)
        proto.ir_version = max(proto.ir_version, LEAST_IR)
    try:
        graph = TorchGraph(proto)
        with torch.no_grad():
            outputs = [graph(tensors(feeds)) for feeds, _ in case.data]
    except LissomError as error:
        expected = any(re.search(pattern, str(error)) for pattern in DECLINED)
        return "declined" if expected else str(error)
    try:
        session = open_session(proto.SerializeToString())
    except LissomError:
        return "ort cannot"
    for (feeds, _), made in zip(case.data, outputs, strict=True):
        require_close(session.run(None, dict(feeds)), made)
    return "equal"


def claimed(case: Case) -> bool:
    """Whether all nodes are of the table."""
    return all(not node.domain and node.op_type in {*OPERATORS, "Constant"} for node in case.model.graph.node)


def test_the_operators_that_the_documentation_lists_are_those_of_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recovery.md").read_text(encoding="utf-8")
    listed = re.sub(r"\([^)]*\)", "", page.split("| group |")[1].split("| ours |")[0])
    assert set(re.findall(r"[A-Z]\w+", listed)) == OPERATORS.keys() | {"Constant"}


@pytest.mark.slow
@pytest.mark.parametrize("shard", range(NODE_SHARDS))
def test_node_models_of_the_corpus_are_computed_as_onnx_runtime_does(shard: int) -> None:
    found, failed = Counter[str](), []
    for case in filter(claimed, node_cases(shard)):
        try:
            found[verdict(case)] += 1
        except AssertionError as error:
            failed.append(f"{case.name}: {error}")
    failed += found.keys() - {"equal", "declined", "ort cannot"}
    sys.stdout.write(f"\nshard {shard}: {dict(found)}\n")
    assert not failed, "\n".join(failed)
    assert found["equal"] >= EQUAL[shard]


@pytest.mark.parametrize("name", lissom_models.NAMES)
def test_networks_of_the_zoo_are_computed_as_onnx_runtime_does(name: str) -> None:
    proto = onnx.load(lissom_models.path(name))
    image = np.load(lissom_models.calibration(name))["image"][:8]
    with torch.no_grad():
        require_close(run(proto, {"image": image}), TorchGraph(proto)(tensors({"image": image})))


OLD_FORMS = {
    "Softmax over all axes from one on": ("y = Softmax <axis = 1> (x)", {}),
    "Squeeze and Unsqueeze by attribute": ("a = Unsqueeze <axes = [0, 2]> (x) y = Squeeze <axes = [0]> (a)", {}),
    "ReduceSum by attribute": ("y = ReduceSum <axes = [1, -1], keepdims = 0> (x)", {}),
    "Split by attribute": ("a, b = Split <axis = 1, split = [1, 2]> (x) y = Concat <axis = 1> (b, a)", {}),
    "constants in nodes": ("a = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> () y = Mul(x, a)", {}),
    "a scalar in a node": ("a = Constant <value_float = 0.5> () y = Add(x, a)", {}),
    "integers in a node": ("a = Constant <value_ints = [2, -1]> () y = Reshape(x, a)", {}),
}
"""What opsets below 13 write in another way than today, and constants that are no tensors."""


@pytest.mark.parametrize("form", OLD_FORMS)
def test_forms_of_old_opsets_are_computed_as_onnx_runtime_does(form: str) -> None:
    body, constants = OLD_FORMS[form]
    opset = 12 if "value_" in body else 11
    proto = parse(f"g (float[2, 3, 4, 4] x) => (float[] y) {{ {body} }}", opset, 7, **constants)
    feeds = {"x": floats(0, 2, 3, 4, 4)}
    with torch.no_grad():
        require_close(run(proto, feeds), TorchGraph(proto)(tensors(feeds)))


RESIZES = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["nearest", "linear"]),
        "coordinate_transformation_mode": st.sampled_from(
            ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
        ),
        "nearest_mode": st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    }
)


@settings(max_examples=60)
@given(RESIZES, st.lists(st.sampled_from([0.5, 0.6, 1.0, 1.7, 2.0, 3.0]), min_size=2, max_size=2))
def test_resize_is_computed_as_onnx_runtime_does(attributes: dict[str, str], scales: list[float]) -> None:
    listed = ", ".join(f'{name} = "{value}"' for name, value in attributes.items())
    text = f"g (float[1, 2, 4, 6] x) => (float[] y) {{ y = Resize <{listed}> (x, , s) }}"
    proto = parse(text, 19, 9, s=np.array([1, 1, *scales], np.float32))
    feeds = {"x": floats(0, 1, 2, 4, 6)}
    with torch.no_grad():
        require_close(run(proto, feeds), TorchGraph(proto)(tensors(feeds)))


@given(
    st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
    st.sampled_from([None, [10, 8], [9, 7], [8, 6]]),
    st.sampled_from([None, [1, 1]]),
)
def test_the_edges_of_a_conv_transpose_are_cut_as_onnx_runtime_does(
    auto_pad: str, output_shape: list[int] | None, output_padding: list[int] | None
) -> None:
    given_ = {"output_shape": output_shape, "output_padding": output_padding}
    listed = [f"{name} = {value}" for name, value in given_.items() if value is not None]
    attributes = ", ".join(["strides = [3, 2]", f'auto_pad = "{auto_pad}"', *listed])
    text = f"g (float[1, 2, 3, 3] x) => (float[] y) {{ y = ConvTranspose <{attributes}> (x, w, b) }}"
    proto = parse(text, w=floats(1, 2, 3, 3, 3), b=floats(2, 3))
    feeds = {"x": floats(0, 1, 2, 3, 3)}
    with torch.no_grad():
        require_close(run(proto, feeds), TorchGraph(proto)(tensors(feeds)))


def test_a_tensor_inside_the_graph_can_be_asked_for() -> None:
    proto = parse("g (float[2, 3] x) => (float[2, 3] y) { a = Relu(x) b = Exp(a) y = Neg(b) }")
    x = torch.from_numpy(floats(0, 2, 3))
    got = TorchGraph(proto)({"x": x}, also=["a", "x"])
    assert list(got) == ["y", "a", "x"]
    assert torch.equal(got["a"], torch.relu(x))
    with pytest.raises(UsageError, match="no 'z'"):
        TorchGraph(proto)({"x": x}, also=["z"])


def test_an_operator_that_is_not_known_is_refused_with_its_node_when_the_graph_is_built() -> None:
    proto = parse("g (float[2, 3] x) => (float[2, 3] y) { y = Hardmax(x) }")
    proto.graph.node[0].name = "last"
    with pytest.raises(UsageError, match="node 'last' is a Hardmax"):
        TorchGraph(proto)


def test_an_attribute_that_is_not_known_is_refused_when_the_graph_is_built() -> None:
    proto = parse('g (float[1, 1, 4, 4] x) => (float[] y) { y = Resize <mode = "cubic"> (x, , s) }', s=floats(0, 4))
    with pytest.raises(UsageError, match=r"expected mode .* node 'y' \(Resize\), but got 'cubic'"):
        TorchGraph(proto)


@pytest.mark.parametrize(
    ("text", "opset", "message"),
    [
        ("g (float[2] x) => (float[2] y) { y = Relu(x) }", 10, "opset of at least 11 .* 10"),
        ("g (string[2] x) => (string[2] y) { y = Identity(x) }", 17, "'x' is none"),
        ("g (float[2] x, float[2] z) => (float[2] y) { y = Add(x, z) }", 17, "input 'z', but got those for .'x'."),
        ("g (float[2] x) => (float[2] y) { y = Reshape(x, s) }", 17, r"run node 'y' \(Reshape\), but it says"),
        ("g (float[1] x) => (float[1] y) { y, z = Relu(x) }", 17, r"at most 1 outputs .* \(Relu\), but got 2"),
        ('g (float[2] x) => (float[2] y) { s = Constant <value_string = "a"> () y = Relu(x) }', 17, "value_string"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(text: str, opset: int, message: str) -> None:
    proto = parse(text, opset, s=np.array([3, 5]))
    with pytest.raises(UsageError, match=message):
        TorchGraph(proto)({"x": torch.zeros(2)})


@pytest.mark.parametrize("activation", DENSE_ACTIVATIONS)
def test_an_operator_of_the_runtime_is_read_as_the_dense_layer_that_it_stands_for(activation: Activation) -> None:
    node = Node(sparse_weight(1, 8, 4, 3, 3), activation=activation, residual=True)
    lowered = sparse_model(node)
    feeds = {"x": floats(0, 1, 4, 5, 5), "residual": floats(2, 1, 8, 3, 3)}
    graph = TorchGraph(lowered)
    with torch.no_grad():
        require_close(run(lowered, feeds), graph(tensors(feeds)))
    (dense,) = (values for values in graph.values().values() if values.ndim == 4)
    np.testing.assert_array_equal(dense, node.weight)
