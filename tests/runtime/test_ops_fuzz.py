"""Malformed packed weights in model files: a sentence when the session is created, never a crash or an over-read."""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from lissom_runtime import library
from lissom_runtime.contract import COLUMNS, ORIENTATIONS, Columns, Orientation
from lissom_runtime.packing import PackingError, check, unpack
from runtime.ops_models import (
    HUGE,
    Array,
    Node,
    changed,
    dense_model,
    integers,
    open_session,
    session,
    sparse_model,
    sparse_weight,
)

pytestmark = [
    pytest.mark.native,
    pytest.mark.ort,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]

Constants = Mapping[str, npt.NDArray[Any] | None]


@dataclass(frozen=True)
class Attack:
    """Constants and attributes of a node that are not what the contract says, and what the error says of it."""

    message: str
    constants: Constants | None = None
    attributes: Mapping[str, Any] | None = None
    columns: Columns = "u16"
    orientation: Orientation = "output"


def node(columns: Columns = "u16", orientation: Orientation = "output") -> Node:
    weight = sparse_weight(0, 16, 8, 3, 3, block=4, orientation=orientation)
    return Node(weight, 4, orientation, columns, "clip", residual=True, pads=(1, 1, 1, 1))


GOOD = node()
ROW_PTR, COLUMN, VALUES = GOOD.packed.row_ptr, GOOD.packed.columns, GOOD.packed.values
STORED = len(VALUES)
BITMAP, GAPS = node("bitmap").packed, node("delta8").packed


def extents(*shape: int) -> dict[str, npt.NDArray[np.int64]]:
    return {"shape": np.array(shape, np.int64)}


ATTACKS = {
    "row_ptr too short": Attack("RowPtrLength", {"row_ptr": ROW_PTR[:-1]}),
    "row_ptr too long": Attack("RowPtrLength", {"row_ptr": np.append(ROW_PTR, ROW_PTR[-1:])}),
    "row_ptr empty": Attack("RowPtrLength", {"row_ptr": ROW_PTR[:0]}),
    "row_ptr starts at 1": Attack("RowPtrStart", {"row_ptr": changed(ROW_PTR, 0, 1)}),
    "row_ptr starts below 0": Attack("RowPtrStart", {"row_ptr": changed(ROW_PTR, 0, -1)}),
    "row_ptr descends": Attack("RowPtrDescends", {"row_ptr": changed(ROW_PTR, 1, int(ROW_PTR[2]) + 1)}),
    "row_ptr overflows": Attack("RowPtrDescends", {"row_ptr": changed(ROW_PTR, 1, -(2**31))}),
    "row_ptr beyond the values": Attack("RowPtrEnd", {"row_ptr": changed(ROW_PTR, -1, HUGE)}),
    "values too short": Attack("RowPtrEnd", {"values": VALUES[:-1]}),
    "values empty": Attack("RowPtrEnd", {"values": VALUES[:0]}),
    "blocks of 3": Attack("UnknownBlock", {"values": np.ones((STORED, 3), np.float32)}),
    "blocks of 0": Attack("UnknownBlock", {"values": np.ones((STORED, 0), np.float32)}),
    "blocks of 32": Attack("UnknownBlock", {"values": np.ones((STORED, 32), np.float32)}),
    "blocks that do not divide the channels": Attack(
        "IndivisibleBlock", extents(18, 8, 3, 3) | {"bias": np.zeros(18, np.float32)}
    ),
    "blocks that do not divide the columns": Attack("IndivisibleBlock", extents(16, 1, 3, 3), orientation="input"),
    "columns too short": Attack("ColumnsLength", {"columns": COLUMN[:-1]}),
    "columns empty": Attack("ColumnsLength", {"columns": COLUMN[:0]}),
    "a column beyond the weight": Attack("ColumnOutOfRange", {"columns": changed(COLUMN, 0, 65535)}),
    "columns descend": Attack("ColumnsNotAscending", {"columns": changed(COLUMN, 1, int(COLUMN[0]))}),
    "u32 column that is negative as int32": Attack(
        "ColumnOutOfRange", {"columns": changed(COLUMN.astype(np.uint32), 0, 2**32 - 1)}, columns="u32"
    ),
    "gaps beyond the weight": Attack(
        "ColumnOutOfRange", {"columns": np.full_like(GAPS.columns, 255)}, columns="delta8"
    ),
    "bitmap too short": Attack("ColumnsLength", {"columns": BITMAP.columns[:-1]}, columns="bitmap"),
    "bitmap with another number of bits": Attack(
        "BitmapCount", {"columns": np.full_like(BITMAP.columns, 255)}, columns="bitmap"
    ),
    "a weight with fewer columns": Attack("ColumnOutOfRange", extents(16, 4, 3, 3)),
    "an extent of 0": Attack("expected extents of the weight from 1 to .* but got 0 on axis 2", extents(16, 8, 0, 3)),
    "an extent below 0": Attack("expected extents of the weight .* but got -8 on axis 1", extents(16, -8, 3, 3)),
    "a huge extent": Attack("expected extents of the weight .* but got 4611686018427387904", extents(2**62, 8, 3, 3)),
    "the least extent": Attack("expected extents of the weight .* but got -9223", extents(16, 8, 3, -(2**63))),
    "a huge product of extents": Attack("columns of the folded weight", extents(16, HUGE, HUGE, HUGE)),
    "huge rows": Attack("expected 2147483647 elements of the bias", extents(HUGE, 8, 3, 3)),
    "too few extents": Attack("expected the input shape to hold 4 extents, but got 2", extents(16, 72)),
    "no extents": Attack("expected the input shape to hold 4 extents, but got 0", extents()),
    "a shape of two axes": Attack(
        r"input shape of 1 axes, but got shape \[1, 4\]", {"shape": np.ones((1, 4), np.int64)}
    ),
    "values of one axis": Attack("expected the input values of 2 axes", {"values": VALUES.reshape(-1)}),
    "columns of two axes": Attack("expected the input columns of 1 axes", {"columns": COLUMN.reshape(-1, 1)}),
    "a scalar row_ptr": Attack("expected the input row_ptr of 1 axes", {"row_ptr": np.array(0, np.int32)}),
    "a bias too short": Attack("expected 16 elements of the bias.*, but got 15", {"bias": np.zeros(15, np.float32)}),
    "limits of one axis": Attack("expected the input min of 0 axes", {"min": np.zeros(1, np.float32)}),
    "int64 row_ptr": Attack("Type Error", {"row_ptr": ROW_PTR.astype(np.int64)}),
    "int32 shape": Attack("Type Error", {"shape": np.array([16, 8, 3, 3], np.int32)}),
    "u32 columns in an operator of u16": Attack("Type Error", {"columns": COLUMN.astype(np.uint32)}),
    "int8 values": Attack("Type Error", {"values": VALUES.astype(np.int8)}),
    "float64 bias": Attack("Type Error", {"bias": np.zeros(16, np.float64)}),
    "free shape": Attack("expected a constant for the input shape", {"shape": None}),
    "free row_ptr": Attack("expected a constant for the input row_ptr", {"row_ptr": None}),
    "free columns": Attack("expected a constant for the input columns", {"columns": None}),
    "free values": Attack("expected a constant for the input values", {"values": None}),
    "free bias": Attack("expected a constant for the input bias", {"bias": None}),
    "free max": Attack("expected a constant for the input max", {"max": None}),
    "no strides": Attack("attribute strides of 2 integers, but got 0", attributes={"strides": None}),
    "three strides": Attack("attribute strides of 2 integers, but got 3", attributes={"strides": [1, 1, 1]}),
    "strides of another type": Attack("attribute strides of 2 integers, but got 0", attributes={"strides": "no"}),
    "a stride of 0": Attack("attribute strides from 1 to .*, but got 0", attributes={"strides": [1, 0]}),
    "a huge stride": Attack("attribute strides from 1 to .*, but got 4611", attributes={"strides": [2**62, 1]}),
    "a pad below 0": Attack("attribute pads from 0 to .*, but got -1", attributes={"pads": [0, -1, 0, 0]}),
    "two pads": Attack("attribute pads of 4 integers, but got 2", attributes={"pads": [0, 0]}),
    "a dilation of 0": Attack("attribute dilations from 1 to .*, but got 0", attributes={"dilations": [0, 1]}),
    "no group": Attack("expected the integer attribute group", attributes={"group": None}),
    "0 groups": Attack("attribute group from 1 to .*, but got 0", attributes={"group": 0}),
    "3 groups": Attack("output channels that 3 groups divide, but got 16", attributes={"group": 3}),
    "huge groups": Attack("output channels that 2147483647 groups divide", attributes={"group": HUGE}),
}


def model_of(attack: Attack) -> onnx.ModelProto:
    """The model, without a body: a body may be refused first, for another reason."""
    good = node(attack.columns, attack.orientation)
    return sparse_model(good, body=False, replace=attack.constants, attributes=attack.attributes)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_violation_is_a_sentence_when_the_session_is_created(name: str) -> None:
    with pytest.raises(Exception, match=ATTACKS[name].message) as caught:
        session(model_of(ATTACKS[name]), native=True)
    if "Type Error" not in ATTACKS[name].message:
        assert "layer (SparseConv_" in str(caught.value)


def test_an_activation_without_its_parameter_is_refused() -> None:
    leaky = Node(sparse_weight(0, 16, 24), activation="leaky_relu")
    with pytest.raises(Exception, match="expected the float attribute alpha"):
        session(sparse_model(leaky, body=False, attributes={"alpha": None}), native=True)


@pytest.mark.parametrize("count", [0, 1, 6, 8])
def test_another_number_of_inputs_is_refused(count: int) -> None:
    model = sparse_model(node(), body=False)
    del model.graph.node[0].input[count:]
    with pytest.raises(Exception, match="input"):
        session(model, native=True)


def test_data_at_an_odd_offset_of_an_external_file_is_refused(tmp_path: Path) -> None:
    model = sparse_model(Node(sparse_weight(0, 16, 24)), body=False)
    (values,) = (tensor for tensor in model.graph.initializer if tensor.name == "values")
    (tmp_path / "data").write_bytes(b"\0" + values.raw_data)
    values.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "data"), ("offset", "1"), ("length", str(len(values.raw_data)))):
        values.external_data.add(key=key, value=value)
    values.ClearField("raw_data")
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(Exception, match=r"expected the input values at an offset .* multiple of 4 bytes"):
        open_session(str(tmp_path / "model.onnx"), native=True)


def mutate(generator: np.random.Generator, good: Node) -> dict[str, npt.NDArray[Any]]:
    """The constants with a few numbers replaced, or an array cut or repeated."""
    constants = {key: value.copy() for key, value in good.constants().items()}
    for _ in range(generator.integers(1, 3)):
        name = str(generator.choice(["shape", "row_ptr", "columns", "columns", "values"]))
        array = constants[name]
        way = generator.integers(4) if array.size else 2
        if way == 0:
            constants[name] = array[: generator.integers(len(array))]
        elif way == 1:
            constants[name] = np.concatenate([array, array[:1]])
        elif name == "values":
            block = int(generator.choice([1, 2, 4]))
            constants[name] = array.reshape(-1)[: array.size // block * block].reshape(-1, block)
        elif array.size:
            limits = np.iinfo(array.dtype)
            near = int(array[index := generator.integers(len(array))]) + int(generator.integers(-2, 3))
            extreme = int(generator.choice([limits.min, limits.max, 0, 1]))
            array[index] = np.clip(extreme if generator.random() < 0.3 else near, limits.min, limits.max)
    return constants


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_mutated_weight_is_refused_or_means_what_packing_says(columns: Columns, orientation: Orientation) -> None:
    generator = np.random.default_rng(COLUMNS.index(columns) * 2 + ORIENTATIONS.index(orientation))
    good = Node(sparse_weight(1, 8, 4, 3, 1, block=2, orientation=orientation), 2, orientation, columns)
    good.x_shape = ("N", "C", "H", "W")
    refused = accepted = 0
    for _ in range(40):
        constants = mutate(generator, good)
        model = sparse_model(good, body=False, replace=constants)
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.ClearField("shape")
        weight = meaning(good, constants)
        if weight is None:
            refused += 1
            with pytest.raises(Exception, match="expected"):
                session(model, native=True)
        else:
            accepted += 1
            same = replace(good, weight=weight, bias=good.bias)
            x = integers(2, 1, weight.shape[1], 6, 6)
            np.testing.assert_array_equal(
                session(model, native=True).run(None, {"x": x})[0],
                session(dense_model(same)).run(None, {"x": x})[0],
            )
    assert refused > 10
    assert accepted > 0


def meaning(good: Node, constants: Mapping[str, npt.NDArray[Any]]) -> Array | None:
    """The dense weight, or None when the constants are no packed weight of a convolution with this bias."""
    shape = tuple(int(extent) for extent in constants["shape"])
    if len(shape) != 4 or shape[0] != len(good.weight):
        return None
    parts = {key: constants[key] for key in ("row_ptr", "columns", "values")}
    packed = replace(good.packed, shape=shape, **parts)
    try:
        check(packed)
    except PackingError:
        return None
    return unpack(packed)


CHILD = """
import sys
from pathlib import Path
import onnxruntime
from lissom_runtime import register
refused = 0
for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    register(options)
    try:
        onnxruntime.InferenceSession(str(path), options)
    except Exception:
        refused += 1
print(refused)
"""


def test_a_process_that_opens_every_attack_survives(tmp_path: Path) -> None:
    for index, attack in enumerate(ATTACKS.values()):
        onnx.save(model_of(attack), tmp_path / f"{index}.onnx")
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == [str(len(ATTACKS))]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"pads": [0, 0, HUGE, HUGE]}, "expected a tensor of fewer than 2.61 elements"),
        ({"dilations": [HUGE, 1]}, "expected at least 4294967295 padded elements"),
    ],
    ids=["pads", "dilations"],
)
def test_a_huge_geometry_is_an_error_of_the_run(attributes: Mapping[str, Any], message: str) -> None:
    conv = Node(sparse_weight(0, 16, 8, 3, 3))
    opened = session(sparse_model(conv, body=False, attributes=attributes), native=True)
    with pytest.raises(Exception, match=message):
        opened.run(None, {"x": integers(0, 1, 8, 8, 8)})
