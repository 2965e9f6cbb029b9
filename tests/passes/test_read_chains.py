"""A chain is read as the dense layers that it stands for, whatever else a file says of it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import onnx
import pytest
from graph.onnx_text import run
from hypothesis import given
from hypothesis import strategies as st
from lissom.graph.load import from_proto
from lissom.graph.model import Model
from lissom.graph.naming import name_nodes
from lissom_runtime.contract import DOMAIN, ChainSignature
from lissom_runtime.errors import LoadError
from onnx import helper, numpy_helper
from passes.chain_cases import LIMITS, SIGNATURES, chain_case, emitted, require_same
from runtime.chain_models import Chain

PLAIN = ChainSignature("inverted_residual", "bitmap", "clip", "clip")
ADDED = ChainSignature("inverted_residual", "bitmap", "clip", "none", residual=True)
NAME = "layer/lissom_0"


def weights(model: Model, chain: Chain) -> None:
    """Demands that the convolutions of `model` have the dense weights and biases of `chain`, under its names."""
    layers = [node for node in model.graph.nodes if node.op == "Conv"]
    assert [layer.name for layer in layers] == [f"{NAME}/{stage}" for stage in chain.signature.stages]
    for layer, stage in zip(layers, chain.signature.stages, strict=True):
        np.testing.assert_array_equal(layer.inputs[1].values, chain.weights[stage])
        np.testing.assert_array_equal(layer.inputs[2].values, chain.biases[stage])


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda signature: signature.name)
def test_layers_weights_and_names_are_back(signature: ChainSignature) -> None:
    chain = chain_case(signature, SIGNATURES.index(signature))
    model = from_proto(emitted(chain))
    weights(model, chain)
    assert not [node for node in model.graph.nodes if node.domain == DOMAIN]
    assert len(model.graph.nodes) <= 3 * 3 + 1
    names = [node.name for node in model.graph.nodes]
    assert len(set(names)) == len(names)
    assert all(name.startswith(NAME) for name in names)
    assert "sparse operators were read as dense layers" in model.remarks[-1]


@pytest.mark.ort
@pytest.mark.parametrize("opset", [11, 17, onnx.defs.onnx_opset_version()])
def test_what_is_read_computes_what_the_file_does(opset: int) -> None:
    for turn, signature in enumerate(SIGNATURES):
        chain = chain_case(signature, turn)
        proto = emitted(chain, opset)
        feeds = chain.feeds(chain.x(2, 8, 7))
        require_same(signature, run(from_proto(proto), feeds)[0], run(proto, feeds)[0])


@pytest.mark.ort
def test_a_conversion_of_the_opset_reads_chains_too() -> None:
    chain = chain_case(PLAIN, 2)
    proto = emitted(chain, 13)
    converted = from_proto(proto, convert_opset=17)
    feeds = chain.feeds(chain.x(1, 8, 8))
    assert converted.opset == 17
    np.testing.assert_array_equal(run(converted, feeds)[0], run(proto, feeds)[0])


@pytest.mark.parametrize(("limits", "operators"), list(zip(LIMITS, [[], ["Relu"], ["Clip"]], strict=True)))
def test_limits_are_read_as_the_activation_that_they_stand_for(
    limits: tuple[float, float], operators: list[str]
) -> None:
    chain = chain_case(PLAIN, 0)
    chain.limits = dict.fromkeys(PLAIN.stages, limits)
    nodes = from_proto(emitted(chain)).graph.nodes
    layer = ["Conv", *operators]
    assert [node.op for node in nodes] == [*layer, *layer, *layer]
    assert [node.name.rsplit("/")[-1] for node in nodes if node.op in {"Relu", "Clip"}] == operators * 3


@pytest.mark.ort
def test_chains_that_share_constants_and_a_name_are_told_apart_and_the_argument_is_as_it_was() -> None:
    chain = chain_case(ChainSignature("inverted_residual", "delta8", "silu", "none", residual=True), 0)
    chain.channels = (4, 8, 8, 4)
    chain.__post_init__()
    proto = emitted(chain)
    (first,) = proto.graph.node
    second = onnx.NodeProto()
    second.CopyFrom(first)
    first.output[0], second.input[0] = "middle", "middle"
    proto.graph.node.append(second)
    before = proto.SerializeToString()
    model = from_proto(proto)
    assert proto.SerializeToString() == before
    assert len([node for node in model.graph.nodes if node.op == "Conv"]) == 6
    name_nodes(model)
    assert len({node.name for node in model.graph.nodes}) == len(model.graph.nodes)
    feeds = chain.feeds(chain.x(1, 6, 6))
    proto.graph.node[1].name = "another"  # onnxruntime takes no namesakes
    require_same(chain.signature, run(model, feeds)[0], run(proto, feeds)[0])


@pytest.mark.ort
def test_names_that_the_graph_has_already_are_not_taken_again() -> None:
    chain = chain_case(PLAIN, 0)
    proto = emitted(chain)
    before = helper.make_node("Identity", ["x"], [f"{NAME}/expand_result"], f"{NAME}/expand")
    proto.graph.node.insert(0, before)
    proto.graph.node[1].input[0] = f"{NAME}/expand_result"
    model = from_proto(proto)
    assert len({node.name for node in model.graph.nodes}) == len(model.graph.nodes)
    feeds = chain.feeds(chain.x(1, 5, 5))
    np.testing.assert_array_equal(run(model, feeds)[0], run(proto, feeds)[0])


@pytest.mark.ort
def test_a_chain_in_a_subgraph_is_inlined_as_it_is() -> None:
    chain = chain_case(PLAIN, 0)
    proto = emitted(chain)
    (node,) = proto.graph.node
    branch = helper.make_graph(
        [helper.make_node(node.op_type, list(node.input), ["inner"], domain=DOMAIN)],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, [None] * 4)],
    )
    branch.node[0].attribute.extend(node.attribute)
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.node.append(helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch))
    proto.graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [None] * 4))
    model = from_proto(proto)
    feeds = chain.feeds(chain.x(1, 5, 5))
    y, z = run(model, feeds)
    np.testing.assert_array_equal(y, run(proto, feeds)[0])
    np.testing.assert_array_equal(z, y)


@pytest.mark.ort
@pytest.mark.parametrize("kind", ["another sum", "a subgraph", "an input handed through"])
def test_a_foreign_body_under_the_name_of_a_chain_means_what_it_says(kind: str) -> None:
    proto = emitted(chain_case(ADDED, 0))
    body = next(body for body in proto.functions if body.name == ADDED.name)
    inner = helper.make_graph(
        [helper.make_node("Neg", ["residual"], ["v"])],
        "branch",
        [],
        [helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, [None] * 4)],
    )
    nodes = {
        "another sum": [helper.make_node("Add", ["residual", "residual"], ["y"])],
        "a subgraph": [
            helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
            helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner),
        ],
        "an input handed through": [helper.make_node("Identity", ["residual"], ["y"])],
    }[kind]
    del body.node[:]
    body.node.extend(nodes)
    residual = np.arange(-8, 8, dtype=np.float32).reshape(1, 1, 4, 4).repeat(12, axis=1)
    for value in (*proto.graph.input, *proto.graph.output):
        value.CopyFrom(helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, [1, None, None, None]))
    feeds = {"x": np.zeros((1, 4, 4, 4), np.float32), "residual": residual}
    wanted = {"another sum": 2 * residual, "a subgraph": -residual}
    np.testing.assert_array_equal(run(from_proto(proto), feeds)[0], wanted.get(kind, residual))


@pytest.mark.parametrize("stage", ["expand", "project"])
@pytest.mark.parametrize(
    ("formal", "array", "violation"),
    [
        ("row_ptr", np.array([0, 99999], np.int32), "RowPtrLength"),
        ("shape", np.array([3, 3, 1], np.int64), "WrongShape"),
        ("shape", np.array([np.nan] * 4, np.float32), "WrongArray"),
        ("columns", np.zeros(1, np.uint16), "WrongArray"),
        ("values", np.zeros(3, np.float32), "WrongArray"),
    ],
)
def test_a_packed_weight_that_breaks_the_format_is_refused_by_stage(
    stage: str, formal: str, array: np.ndarray[Any, Any], violation: str
) -> None:
    proto = emitted(chain_case(PLAIN, 0))
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == f"{NAME}_{stage}_{formal}"]
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    with pytest.raises(LoadError, match=f"expected a legal packed weight of node '{NAME}/{stage}', but {violation}"):
        from_proto(proto)


@pytest.mark.parametrize("end", ["input", "output"])
def test_a_node_with_more_than_its_function_takes_is_refused(end: str) -> None:
    proto = emitted(chain_case(PLAIN, 0))
    getattr(proto.graph.node[0], end).append("x" if end == "input" else "z")
    most = len(PLAIN.inputs) if end == "input" else 1
    with pytest.raises(LoadError, match=f"expected at most {most} {end}s of node '{NAME}', .* but got {most + 1}"):
        from_proto(proto)


@given(st.integers(0, len(SIGNATURES) - 1), st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2**16)), max_size=3))
def test_a_broken_chain_is_read_or_refused(number: int, breaks: list[tuple[int, int]]) -> None:
    proto = emitted(chain_case(SIGNATURES[number], number))
    for kind, place in breaks:
        break_one(proto, kind, place)
    with suppress(LoadError):  # anything else fails the test
        from_proto(proto)


def break_one(proto: onnx.ModelProto, kind: int, place: int) -> None:
    """Changes one thing of a model, which may leave it legal."""
    bodies = [proto.graph, *proto.functions]
    body = bodies[place % len(bodies)]
    nodes = list(body.node)
    node = nodes[place % len(nodes)] if nodes else onnx.NodeProto()
    tensors = proto.graph.initializer
    match kind:
        case 0 if node.input:
            node.input[place % len(node.input)] = ("", "x", "nobody", "y")[place % 4]
        case 1 if node.output:
            node.output[place % len(node.output)] = ("", "x", "y", "weight")[place % 4]
        case 2 if node.input:
            node.input.pop(place % len(node.input))
        case 3 if node.attribute:
            node.attribute.pop(place % len(node.attribute))
        case 4 if tensors:
            tensors.pop(place % len(tensors))
        case 5 if tensors:
            tensor, other = tensors[place % len(tensors)], tensors[(place + 1) % len(tensors)]
            name = tensor.name
            tensor.CopyFrom(other)
            tensor.name = name
        case 6 if proto.functions:
            proto.functions.pop(place % len(proto.functions))
        case 7:
            body.node.extend([node])
