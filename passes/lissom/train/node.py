"""A node as the operators of `lissom.train` read it, and what they share.

An operator is a `Maker`: it takes a node, reads the attributes once, and returns a function of the node's input
tensors. An input that the node leaves out is None. What a maker cannot do it refuses when the graph is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx
import torch
from lissom_runtime.errors import UsageError

Tensor: TypeAlias = torch.Tensor

Function: TypeAlias = Callable[..., Any]
"""Takes the inputs of a node, returns its output, or a tuple of them where it has several."""

TYPES: Mapping[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT16: torch.int16,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.BOOL: torch.bool,
}
"""Element types that a graph in torch may have."""


@dataclass(frozen=True)
class Node:
    """A node of the graph.

    Attributes:
        name: its name, or that of its first output.
        op: the operator.
        inputs, outputs: names of tensors, empty where one is left out.
        attributes: by name, as Python values; strings are str.
        opset: version of the standard operators.
        dtype: what every floating-point tensor is of; None: each is of the type that the file says.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int
    dtype: torch.dtype | None = None

    def get(self, name: str, default: Any) -> Any:
        """The value of an attribute."""
        return self.attributes.get(name, default)

    def refuse(self, expected: str, got: object) -> UsageError:
        """The error that says what the operator should be to be differentiated."""
        return UsageError(f"expected {expected} to train node {self.name!r} ({self.op}), but got {got}")

    def require(self, name: str, default: Any, allowed: Sequence[Any]) -> Any:
        """The value of an attribute.

        Raises:
            UsageError: it is none of `allowed`.
        """
        value = self.get(name, default)
        if value not in allowed:
            raise self.refuse(f"{name} to be one of {list(allowed)}", repr(value))
        return value

    def type_of(self, code: int) -> torch.dtype:
        """The element type that `code` of the ONNX format stands for here.

        Raises:
            UsageError: it is none of `TYPES`.
        """
        if code not in TYPES:
            raise self.refuse("an element type that torch has", onnx.TensorProto.DataType.Name(code))
        found = TYPES[code]
        return self.dtype if self.dtype is not None and found.is_floating_point else found


Maker: TypeAlias = Callable[[Node], Function]


def read_node(proto: onnx.NodeProto, opset: int, dtype: torch.dtype | None) -> Node:
    """`proto` with its attributes decoded."""
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in proto.attribute}
    return Node(
        proto.name or next(filter(None, proto.output), proto.op_type),
        proto.op_type,
        tuple(proto.input),
        tuple(proto.output),
        {name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()},
        opset,
        dtype,
    )


def plain(function: Function) -> Maker:
    """An operator without attributes that torch has as it is."""

    def make(_: Node) -> Function:
        return function

    return make


def integers(tensor: Tensor) -> list[int]:
    """The values of a tensor of integers, such as a shape or axes."""
    return [int(value) for value in tensor.reshape(-1).tolist()]


def listed(node: Node, name: str, given: Tensor | None) -> list[int] | None:
    """Integers that are an attribute in old opsets and an input in new ones; None where there are none."""
    if given is not None:
        return integers(given)
    return list(node.attributes[name]) if name in node.attributes else None
