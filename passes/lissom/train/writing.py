"""Constants of a model as arrays, and back: the same bytes everywhere else.

Constants are the initializers and the tensors of Constant nodes. A tensor keeps its element type, its name, and the
field that its numbers stand in; one whose numbers are the same, bit by bit, is not touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from lissom_runtime.errors import UsageError

Array = npt.NDArray[Any]

_TYPED_FIELDS: Mapping[int, tuple[str, Any]] = {
    onnx.TensorProto.FLOAT: ("float_data", np.float32),
    onnx.TensorProto.DOUBLE: ("double_data", np.float64),
    onnx.TensorProto.FLOAT16: ("int32_data", np.uint16),
}
"""Where numbers stand that are no raw bytes, and what their bits are read as there."""


def stored_tensors(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The tensors of the main graph that are constant, by the name that nodes read them under."""
    found = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if is_constant_node(node):
            (attribute,) = node.attribute  # the checker demands one
            if attribute.name == "value":
                found[node.output[0]] = attribute.t
    return found


def is_constant_node(node: onnx.NodeProto) -> bool:
    """Whether a node holds a constant."""
    return bool(node.op_type == "Constant" and node.domain in ("", "ai.onnx"))


def with_values(proto: onnx.ModelProto, values: Mapping[str, Array]) -> onnx.ModelProto:
    """A copy of `proto` with other numbers in some of its floating-point constants.

    Args:
        proto: the model.
        values: by name, of the shape and the element type that the model has.

    Raises:
        UsageError: a constant is not there, or of another shape or type.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    stored = stored_tensors(copy)
    for name, array in values.items():
        tensor = stored.get(name)
        if tensor is None:
            raise UsageError(f"expected a constant {name!r} in the model that trained values are written to, got none")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if tuple(tensor.dims) != array.shape or dtype != array.dtype or tensor.data_type not in _TYPED_FIELDS:
            raise UsageError(
                f"expected {array.dtype.name}{list(array.shape)} in constant {name!r} of the model that trained values "
                f"are written to, but it is {dtype.name}{list(tensor.dims)}"
            )
        _store(tensor, array)
    return copy


def _store(tensor: onnx.TensorProto, array: Array) -> None:
    """Puts the numbers where the tensor had its own."""
    if onnx.numpy_helper.to_array(tensor).tobytes() == array.tobytes():
        return
    field, bits = _TYPED_FIELDS[tensor.data_type]
    if tensor.HasField("raw_data"):
        tensor.raw_data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
    else:
        getattr(tensor, field)[:] = np.ascontiguousarray(array).view(bits).reshape(-1).tolist()
