"""Constants of every rank and element type survive an edit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from graph.onnx_text import model, run
from lissom.canonical import canonicalise
from lissom.graph.constants import fold_constants, lift_constants
from lissom.graph.count import count_parameters
from lissom.graph.layers import weight_obstacle
from lissom.graph.model import constant
from lissom.graph.naming import name_nodes
from lissom.graph.sharing import share_constants

INT4_TEXT = "net (float[2, 3] x) => (float[2, 2] y) { w = DequantizeLinear(q, scale) y = MatMul(x, w) }"
INT4 = {"q": np.array([[1, -3], [5, 7], [-8, 2]], ml_dtypes.int4), "scale": np.array(0.5, np.float32)}


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3)])
def test_a_constant_keeps_its_rank(shape: tuple[int, ...]) -> None:
    assert constant("c", np.zeros(shape, np.float32)).values.shape == shape


def test_a_constant_is_contiguous() -> None:
    assert constant("c", np.zeros((2, 3), np.float32).T).values.flags.c_contiguous


@pytest.mark.ort
def test_scalars_are_lifted_as_scalars() -> None:
    loaded = model(
        "net (int64 x) => (int64[N] y) {"
        " zero = Constant <value_int = 0> () one = Constant <value = int64 {1}> () y = Range(zero, x, one) }"
    )
    lift_constants(loaded)
    assert [node.op for node in loaded.graph.nodes] == ["Range"]
    assert run(loaded, {"x": np.array(3)})[0].tolist() == [0, 1, 2]


@pytest.mark.ort
def test_scalars_are_folded_as_scalars() -> None:
    loaded = model("net (int64 x) => (int64[N] y) { two = Add(one, one) y = Range(two, x, one) }", one=np.array(1))
    fold_constants(loaded)
    assert [node.op for node in loaded.graph.nodes] == ["Range"]
    assert run(loaded, {"x": np.array(4)})[0].tolist() == [2, 3]


@pytest.mark.ort
def test_strings_are_lifted_shared_and_written() -> None:
    text = (
        "net (string[2] x) => (string[2] y) {"
        ' a = Constant <value = string[2] {"é", "b"}> () b = Constant <value = string[2] {"é", "b"}> ()'
        " t = StringConcat(x, a) y = StringConcat(t, b) }"
    )
    loaded = model(text, opset=20)
    name_nodes(loaded)
    assert len(lift_constants(loaded).changes) == 2
    share_constants(loaded)
    feeds = {"x": np.array(["q", ""], dtype=object)}
    assert run(loaded, feeds)[0].tolist() == run(model(text, opset=20), feeds)[0].tolist() == ["qéé", "bb"]


@pytest.mark.ort
def test_four_bit_weights_are_counted_and_written_packed() -> None:
    loaded = model(INT4_TEXT, opset=21, ir=10, **INT4)
    feeds = {"x": np.ones((2, 3), np.float32)}
    canonical = canonicalise(loaded, feeds)
    assert canonical.totals.params == 6
    stored = next(t for t in canonical.model.to_proto().graph.initializer if t.name == "q")
    assert len(stored.raw_data) == 3
    np.testing.assert_array_equal(run(canonical.model, feeds)[0], [[-1, 3], [-1, 3]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
@pytest.mark.parametrize("looked_at", [False, True])
def test_floating_point_constants_are_parameters(dtype: npt.DTypeLike, looked_at: bool) -> None:
    values: npt.NDArray[Any] = np.array([1, 0, 3], dtype)
    loaded = model(
        "net (float[3] x) => (float[3] y) { w = Cast <to = 1> (c) y = Mul(x, w) }", opset=21, ir=10, c=values
    )
    if looked_at:
        assert all(tensor.values.size == 3 for tensor in loaded.constants())
    assert count_parameters(loaded) == 2


def test_a_bfloat16_weight_is_declined_by_its_name() -> None:
    weight = np.ones((3, 3), ml_dtypes.bfloat16)
    loaded = model("net (bfloat16[1, 3] x) => (bfloat16[1, 3] y) { y = MatMul(x, w) }", w=weight)
    assert weight_obstacle(loaded.graph.nodes[0]) == "the weight is bfloat16; expected float32"
