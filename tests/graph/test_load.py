"""Loading refuses what is broken, hostile or unknown, in one sentence, and keeps the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graph.onnx_text import floats, parse, run
from lissom.graph.load import from_proto, load
from lissom_runtime.errors import LoadError, UsageError

RELU = "net (float[N, 3] x) => (float[N, 3] y) { y = Relu(x) }"
LINEAR = "net (float[N, 3] x) => (float[N, 2] y) { y = MatMul(x, w) }"


def saved_with_external_data(folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save_model(
        parse(LINEAR, w=floats(0, 3, 2)),
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
        convert_attribute=False,
    )
    return path


def set_external(path: Path, key: str, value: str) -> None:
    proto = onnx.load_model(path, load_external_data=False)
    entries = proto.graph.initializer[0].external_data
    entry = next((e for e in entries if e.key == key), None) or entries.add(key=key)
    entry.value = value
    path.write_bytes(proto.SerializeToString())


@pytest.mark.parametrize("content", [b"", b"not a model at all", parse(RELU).SerializeToString()[:20]])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(LoadError, match="expected an ONNX model"):
        load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="No such file"):
        load(tmp_path / "absent.onnx")


@pytest.mark.ort
def test_external_data_is_loaded(tmp_path: Path) -> None:
    feeds = {"x": floats(1, 4, 3)}
    loaded = load(saved_with_external_data(tmp_path))
    np.testing.assert_array_equal(run(loaded, feeds)[0], run(parse(LINEAR, w=floats(0, 3, 2)), feeds)[0])


def test_missing_external_data_is_refused(tmp_path: Path) -> None:
    path = saved_with_external_data(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(LoadError, match=r"'w' in 'weights.bin', but there is no such file"):
        load(path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "a/../../secret.bin"])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    path = saved_with_external_data(folder)
    set_external(path, "location", location)
    with pytest.raises(LoadError, match="inside the model's folder"):
        load(path)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    path = saved_with_external_data(folder)
    (folder / "weights.bin").rename(tmp_path / "secret.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(LoadError, match="inside the model's folder"):
        load(path)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("offset", "8", "but the file has 24"),
        ("length", "1000", "but the file has 24"),
        ("offset", "-8", "must be non-negative"),
        ("length", "-1", "must be non-negative"),
        ("offset", "many", "invalid literal"),
    ],
)
def test_external_data_out_of_bounds_is_refused(tmp_path: Path, key: str, value: str, sentence: str) -> None:
    path = saved_with_external_data(tmp_path)
    set_external(path, key, value)
    with pytest.raises(LoadError, match=sentence):
        load(path)


def test_an_unknown_opset_is_refused() -> None:
    with pytest.raises(LoadError, match="but the model's is 999"):
        from_proto(parse(RELU, opset=999))


def test_an_old_opset_is_refused_unless_a_conversion_is_asked_for() -> None:
    old = parse(RELU, opset=9)
    with pytest.raises(LoadError, match="--convert-opset 11"):
        from_proto(old)
    assert from_proto(old, convert_opset=13).opset == 13


@pytest.mark.parametrize("target", [8, 10, 999])
def test_a_conversion_down_or_to_the_unknown_is_refused(target: int) -> None:
    with pytest.raises(UsageError, match="expected --convert-opset between"):
        from_proto(parse(RELU, opset=9), convert_opset=target)


def test_a_malformed_graph_is_refused() -> None:
    proto = parse(RELU)
    proto.graph.node[0].input[0] = "nobody"
    with pytest.raises(LoadError, match="nobody"):
        from_proto(proto)


def test_what_graphsurgeon_would_lose_is_refused() -> None:
    proto = parse(RELU)
    proto.graph.output[0].type.CopyFrom(onnx.helper.make_sequence_type_proto(proto.graph.output[0].type))
    proto.graph.node[0].op_type = "SequenceConstruct"
    with pytest.raises(LoadError, match="'y' is of sequence_type"):
        from_proto(proto)


@pytest.mark.ort
def test_model_local_functions_are_inlined() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    net (float[N, 3] x) => (float[N, 3] y) { y = own.twice(x) }
    <opset_import: ["" : 17], domain: "own">
    twice (a) => (b) { b = Add(a, a) }
    """
    proto = onnx.parser.parse_model(text)
    loaded = from_proto(proto)
    assert [node.op for node in loaded.graph.nodes] == ["Add"]
    feeds = {"x": floats(0, 2, 3)}
    np.testing.assert_array_equal(run(loaded, feeds)[0], run(proto, feeds)[0])


FUNCTION = """
<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
net (float[2, 3, 4] x) => (float[2, 3, 4] y) {{ y = own.f(x) }}
<opset_import: [{imports}], domain: "own">
f (a) => (b) {{ {body} }}
"""


def with_function(body: str, imports: str = '"" : 17') -> onnx.ModelProto:
    return onnx.parser.parse_model(FUNCTION.format(body=body, imports=imports))


@pytest.mark.parametrize("convert_opset", [None, 18])
def test_a_function_that_calls_itself_is_refused_by_name(convert_opset: int | None) -> None:
    proto = with_function("b = own.f(a)", '"" : 17, "own" : 1')
    with pytest.raises(LoadError, match=r"^expected .* own::f -> own::f"):
        from_proto(proto, convert_opset)


@pytest.mark.ort
@pytest.mark.parametrize(
    ("body", "opset", "convert_opset"),
    [
        ("b = Relu(a)", 16, None),
        ("b = Relu(a)", 18, None),
        ("b = Relu(a)", 16, 18),
        ("b = Softmax <axis = 1> (a)", 11, 18),  # over all axes from the first on
        ("b = Softmax <axis = 1> (a)", 17, 18),  # over one
    ],
)
def test_a_function_of_another_opset_keeps_its_meaning(body: str, opset: int, convert_opset: int | None) -> None:
    values = floats(3, 2, 3, 4)
    # ONNX Runtime takes the body for one of the model's opset, so the body is run as a model.
    expected = run(parse(f"net (float[2, 3, 4] a) => (float[2, 3, 4] b) {{ {body} }}", opset), {"a": values})[0]
    loaded = from_proto(with_function(body, f'"" : {opset}'), convert_opset)
    assert not loaded.to_proto().functions and all(node.domain != "own" for node in loaded.graph.nodes)
    np.testing.assert_allclose(run(loaded, {"x": values})[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("body", "imports", "convert_opset", "sentence"),
    [
        ("b = Softmax <axis = 1> (a)", '"" : 11', None, "imports version 11 whereas model imports version 17"),
        (
            "b = Mish(a)",
            '"" : 22',
            18,
            r"ai.onnx 17, own 1, other 1, but own.f imports ai.onnx 22, and the inliner says",
        ),
        ("b = other.Gelu(a)", '"" : 17, "other" : 2', None, r"other 1, but own.f imports ai.onnx 17, other 2$"),
    ],
)
def test_a_function_of_another_opset_that_does_not_convert_is_refused(
    body: str, imports: str, convert_opset: int | None, sentence: str
) -> None:
    proto = with_function(body, imports)
    proto.opset_import.add(domain="other", version=1)
    with pytest.raises(LoadError, match=sentence):
        from_proto(proto, convert_opset)
