"""Models of one WinnerMask, and what the contract says that it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
from lissom.lowering.bodies import mask_function
from lissom_runtime.contract import DOMAIN, VERSION, WINNER_MASK, winner_count
from runtime.ops_models import OPSET, Array


def mask_model(
    rate: float,
    stride: int,
    *,
    shape: Sequence[int | str] = ("N", "C", "H", "W"),
    opset: int = OPSET,
    body: bool = True,
    replace: Mapping[str, npt.NDArray[Any] | None] | None = None,
) -> onnx.ModelProto:
    """A model of the operator alone: x -> y.

    Args:
        rate: the winner rate.
        stride: distance between the elements of a sample that theta is found from.
        shape: of x and y.
        opset: version of the standard operators.
        body: with the function body that runs where the library is not registered.
        replace: constants to replace by others, or by an input of the graph (None).
    """
    constants: dict[str, npt.NDArray[Any] | None] = {
        "rate": np.array(rate, np.float64),
        "stride": np.array([stride], np.int64),
        **(replace or {}),
    }
    free = {"rate": onnx.helper.make_tensor_value_info("rate", onnx.TensorProto.DOUBLE, [])}
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy")
    node = onnx.helper.make_node(WINNER_MASK.name, WINNER_MASK.inputs, ["y"], "mask", domain=DOMAIN)
    inputs = [x, *(free[name] for name, value in constants.items() if value is None)]
    graph = onnx.helper.make_graph([node], "one", inputs, [y])
    graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in constants.items() if value is not None
    )
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(DOMAIN, VERSION)]
    functions = [mask_function(opset)] if body else []
    return onnx.helper.make_model(graph, ir_version=8, opset_imports=opsets, functions=functions)


def masked(x: Array, rate: float, stride: int) -> Array:
    """What a WinnerMask gives, by a sort of each sample."""
    y = x.copy()
    for given, kept in zip(x.reshape(len(x), -1), y.reshape(len(x), -1), strict=True):
        magnitude = np.where(np.isnan(given), np.float32(np.inf), np.abs(given))
        sample = np.sort(magnitude[::stride])
        kept[magnitude < sample[-winner_count(rate, len(sample))]] = 0
    return y
