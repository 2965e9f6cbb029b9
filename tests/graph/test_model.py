"""What an edit does not touch survives: names, metadata, symbolic dimensions, versions."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from graph.onnx_text import floats, integers, model, parse, run
from lissom.graph.load import from_proto
from lissom.graph.model import PROVENANCE_KEY

TEXT = "net (float[batch, 3, H, W] x) => (float[batch, 3, H, W] y) { t = Relu(x) y = Neg(t) }"


def annotated() -> onnx.ModelProto:
    proto = parse(TEXT, ir=10)
    proto.producer_name, proto.producer_version, proto.domain = "somebody", "1.2", "a.domain"
    proto.model_version, proto.doc_string = 7, "a model"
    proto.metadata_props.add(key="classes", value="cat,dog")
    proto.graph.name, proto.graph.doc_string = "its graph", "about the graph"
    proto.graph.metadata_props.add(key="graph key", value="graph value")
    proto.graph.input[0].doc_string = "an image"
    proto.graph.node[0].name, proto.graph.node[0].doc_string = "first", "about a node"
    proto.graph.node[0].metadata_props.add(key="namespace", value="backbone")
    return proto


def test_a_round_trip_changes_nothing() -> None:
    proto = annotated()
    assert from_proto(proto).to_proto() == proto


def test_a_copy_can_be_edited_apart() -> None:
    original = from_proto(annotated())
    before = original.to_proto()
    twin = original.copy()
    twin.graph.nodes[0].op = "Abs"
    twin.set_metadata("key", "value")
    twin.set_provenance(twin.graph.nodes[1], {"kind": "test"})
    assert original.to_proto() == before


@pytest.mark.parametrize("ir", [8, 10])
def test_provenance_is_on_the_node_where_the_ir_allows_it_and_on_the_model_below(ir: int) -> None:
    loaded = model(TEXT, ir=ir)
    loaded.graph.nodes[1].name = "second"
    loaded.set_provenance(loaded.graph.nodes[1], {"kind": "test"})
    proto = loaded.to_proto()
    on_node = [prop.key for prop in proto.graph.node[1].metadata_props]
    on_model = [prop.key for prop in proto.metadata_props]
    assert (on_node, on_model) == (([PROVENANCE_KEY], []) if ir >= 10 else ([], [PROVENANCE_KEY]))


@pytest.mark.ort
def test_inputs_with_default_values_become_constants_and_are_remarked() -> None:
    proto = parse("net (float[N, 3] x, float[3, 2] w) => (float[N, 2] y) { y = MatMul(x, w) }", w=integers(0, 3, 2))
    loaded = from_proto(proto)
    assert [value.name for value in loaded.inputs] == ["x"]
    assert "1 inputs with default values became constants: w" in loaded.remarks[0]
    feeds = {"x": integers(1, 4, 3)}
    np.testing.assert_array_equal(run(loaded, feeds)[0], run(proto, feeds)[0])


def test_an_ir_version_too_old_for_initializers_is_raised_and_remarked() -> None:
    proto = parse("net (float[N, 3] x, float[3, 2] w) => (float[N, 2] y) { y = MatMul(x, w) }", ir=3, w=floats(0, 3, 2))
    loaded = from_proto(proto)
    assert loaded.ir_version == 4
    assert "IR version raised from 3 to 4" in loaded.remarks[0]


@pytest.mark.parametrize("ir", [8, 10])
@pytest.mark.parametrize("earlier", ["first", ["first", "second"]])
def test_a_fused_node_lists_all_that_it_comes_from_by_name(earlier: str | list[str], ir: int) -> None:
    loaded = model("net (float[4] x) => (float[4] y) { a = Neg(x) y = Relu(a) }", ir=ir)
    first, follower = loaded.graph.nodes
    first.name, follower.name = "own", "behind"
    loaded.set_provenance(first, {"kind": "low-rank", "from": earlier})
    loaded.fuse(first, follower)
    proto = loaded.to_proto()
    (entry,) = [
        p.value for p in (*proto.metadata_props, *proto.graph.node[0].metadata_props) if p.key == PROVENANCE_KEY
    ]
    told = json.loads(entry) if ir >= 10 else json.loads(entry)["own"]
    assert told["from"] == [*(["first"] if earlier == "first" else earlier), "behind"]


@pytest.mark.parametrize("others", [[], ["second"]])
def test_below_ir_10_the_provenance_of_a_node_that_is_gone_is_not_written(others: list[str]) -> None:
    loaded = model(TEXT, ir=9)
    for node, name in zip(loaded.graph.nodes, ["first", "second"], strict=True):
        node.name = name
    for node in loaded.graph.nodes:
        if node.name in ("first", *others):
            loaded.set_provenance(node, {"kind": "test"})
    loaded.graph.nodes[0].name = "another"
    props = {prop.key: json.loads(prop.value) for prop in loaded.to_proto().metadata_props}
    assert props == ({PROVENANCE_KEY: {"second": {"kind": "test"}}} if others else {})


@pytest.mark.parametrize("text", ["no JSON", "[1]", "[" * 100_000, '{"own": 1}', '{"own": {"from": 3}}'])
def test_provenance_that_others_wrote_in_another_form_does_no_harm(text: str) -> None:
    proto = parse("net (float[4] x) => (float[4] y) { a = Neg(x) y = Relu(a) }")
    proto.graph.node[0].name, proto.graph.node[1].name = "own", "behind"
    proto.metadata_props.add(key=PROVENANCE_KEY, value=text)
    loaded = from_proto(proto)
    loaded.fuse(*loaded.graph.nodes)
    (prop,) = loaded.to_proto().metadata_props
    assert json.loads(prop.value)["own"]["from"][-1] == "behind"
