"""A lowered file is read as the dense layers that it stands for, and what is not ours is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from lissom.graph.load import from_proto
from lissom.lowering.bodies import function
from lissom_runtime.contract import DOMAIN, Operator, Signature, signatures
from lissom_runtime.errors import LoadError
from lissom_runtime.packing import pack
from onnx import helper, numpy_helper

OPSET = 17
SHAPES = {"SparseConv": (8, 4, 3, 3), "SparseGemm": (8, 4)}


def sparse_weight(signature: Signature) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(1)
    weight = rng.integers(1, 5, SHAPES[signature.operator]).astype(np.float32)
    return weight * (rng.random((4, 1, *weight.shape[1:])) < 0.5).repeat(2, axis=1).reshape(weight.shape)


def model(signature: Signature, **changed: npt.NDArray[Any]) -> onnx.ModelProto:
    """A model of one operator; `changed` replaces inputs."""
    block = 1 if signature.orientation == "input" else 2
    packed = pack(sparse_weight(signature), block, signature.orientation, signature.columns)
    arrays: dict[str, npt.NDArray[Any]] = {
        "shape": np.array(packed.shape, np.int64),
        "row_ptr": packed.row_ptr,
        "columns": packed.columns,
        "values": packed.values,
        "bias": np.arange(8, dtype=np.float32),
        "min": np.float32(0),
        "max": np.float32(6),
    } | changed
    conv = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1, "alpha": 0.5}
    node = helper.make_node(
        signature.name,
        list(signature.inputs),
        ["y"],
        domain=DOMAIN,
        **{name: conv[name] for name in signature.attributes},
    )
    shape = [1, 4, 5, 5] if signature.operator == "SparseConv" else [3, 4]
    names = [name for name in ("x", "residual") if name in signature.inputs]
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape if n == "x" else [None] * len(shape))
            for n in names
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * len(shape))],
        [numpy_helper.from_array(arrays[name], name) for name in signature.inputs if name not in names],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[function(signature, OPSET)])


@pytest.mark.parametrize("signature", list(signatures()), ids=lambda signature: signature.name)
def test_the_dense_weight_is_back(signature: Signature) -> None:
    graph = from_proto(model(signature)).graph
    operator = "Conv" if signature.operator == "SparseConv" else "MatMul"
    (layer,) = [node for node in graph.nodes if node.op == operator]
    held = layer.inputs[1] if operator == "Conv" else layer.inputs[1].inputs[0].inputs[0]
    np.testing.assert_array_equal(held.values, sparse_weight(signature))
    assert len(graph.nodes) <= 6


@pytest.mark.parametrize("operator", ["SparseConv", "SparseGemm"])
def test_the_layer_keeps_the_name_of_the_node(operator: Operator) -> None:
    proto = model(Signature(operator, "bitmap", residual=True, activation="relu"))
    proto.graph.node[0].name = "layer"
    names = {node.op: node.name for node in from_proto(proto).graph.nodes}
    assert names["Conv" if operator == "SparseConv" else "MatMul"] == "layer"
    assert names["Relu"] == "layer/Relu"


@pytest.mark.parametrize(
    ("changed", "violation"),
    [
        ({"row_ptr": np.array([0, 99999, 4, 4, 4], np.int32)}, "RowPtr"),
        ({"shape": np.array([8, 4, 3, 2], np.int64)}, "Columns|Bitmap"),
    ],
    ids=["row_ptr", "shape"],
)
def test_a_packed_weight_that_breaks_the_format_is_refused_by_name(
    changed: dict[str, npt.NDArray[Any]], violation: str
) -> None:
    with pytest.raises(LoadError, match=f"expected a legal packed weight of node .*, but ({violation})"):
        from_proto(model(Signature("SparseConv", "bitmap"), **changed))


def test_a_file_that_claims_more_than_it_holds_is_refused() -> None:
    rows, depth = 1024, 2**20
    bomb = {
        "shape": np.array([rows, depth], np.int64),
        "row_ptr": np.zeros(rows + 1, np.int32),
        "columns": np.zeros(0, np.uint16),
        "values": np.zeros((0, 16), np.float32),
    }
    with pytest.raises(LoadError, match="at most 2,147,483,648 bytes when they are dense"):
        from_proto(model(Signature("SparseGemm", "u16", "input"), **bomb))


def test_equal_values_in_different_places_stay_apart_and_the_argument_as_it_was() -> None:
    """Equal constants are shared in a file, so two layers may read one `values`."""
    signature = Signature("SparseConv", "u16")
    rng = np.random.default_rng(0)
    weights = [np.zeros((8, 8, 3, 3), np.float32) for _ in range(2)]
    for weight in weights:
        weight.reshape(-1)[rng.permutation(weight.size)[:60]] = 1
    nodes, tensors = [], [numpy_helper.from_array(np.zeros(8, np.float32), "bias")]
    for i, weight in enumerate(weights):
        packed = pack(weight, format="u16")
        arrays = {"shape": np.array(packed.shape, np.int64), "row_ptr": packed.row_ptr, "columns": packed.columns}
        tensors += [numpy_helper.from_array(array, f"{name}{i}") for name, array in arrays.items()]
        inputs = [f"x{i}", f"shape{i}", f"row_ptr{i}", f"columns{i}", "values", "bias"]
        attributes = {"strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "group": 1}
        nodes.append(helper.make_node(signature.name, inputs, [f"x{i + 1}"], domain=DOMAIN, **attributes))
    tensors.append(numpy_helper.from_array(np.ones((60, 1), np.float32), "values"))
    image = [1, 8, 5, 5]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x0", onnx.TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("x2", onnx.TensorProto.FLOAT, image)],
        tensors,
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=[function(signature, OPSET)])
    before = proto.SerializeToString()
    layers = [node for node in from_proto(proto).graph.nodes if node.op == "Conv"]
    for layer, weight in zip(layers, weights, strict=True):
        np.testing.assert_array_equal(layer.inputs[1].values, weight)
    assert proto.SerializeToString() == before


def test_an_operator_that_a_subgraph_uses_too_is_inlined_as_it_is() -> None:
    proto = model(Signature("SparseGemm", "u16"))
    (node,) = proto.graph.node
    branch = helper.make_graph(
        [helper.make_node(node.op_type, list(node.input), ["inner"], domain=DOMAIN)],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, [None, None])],
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.node.append(helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch))
    proto.graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [None, None]))
    assert any(other.op == "ScatterND" for other in from_proto(proto).graph.nodes)


def test_a_foreign_body_under_our_name_is_inlined_as_it_is() -> None:
    signature = Signature("SparseConv", "u16")
    proto = model(signature)
    (body,) = proto.functions
    for node in body.node:
        for names in (node.input, node.output):
            names[:] = ["other" if name == "weight" else name for name in names]
    assert any(node.op == "ScatterND" for node in from_proto(proto).graph.nodes)
