"""Nodes and constants of a model, as `TorchGraph` takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from lissom_runtime.errors import UsageError

from lissom.graph.load import LEAST_OPSET, from_proto
from lissom.graph.model import Model
from lissom.train.node import TYPES, Function, Node, read_node
from lissom.train.table import OPERATORS
from lissom.train.writing import is_constant_node, stored_tensors

Array = npt.NDArray[Any]


def inlined(source: Model | onnx.ModelProto) -> onnx.ModelProto:
    """The model as a protobuf without functions; packed sparse weights are dense.

    Raises:
        UsageError: an input is no tensor of a type that torch has.
    """
    if isinstance(source, Model):
        proto = source.to_proto()
    else:
        proto = from_proto(source).to_proto() if source.functions else source
    for value in proto.graph.input:
        if not value.type.HasField("tensor_type") or value.type.tensor_type.elem_type not in TYPES:
            raise UsageError(f"expected inputs that are tensors of types that torch has, but {value.name!r} is none")
    return proto


def read_nodes(proto: onnx.ModelProto, dtype: torch.dtype | None) -> list[tuple[Node, Function]]:
    """The nodes, in order, with the functions that compute them; Constant nodes are left out.

    Raises:
        UsageError: the opset is too old, or a node is of an operator, or has an attribute, that is not known here.
    """
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < LEAST_OPSET:
        raise UsageError(f"expected an opset of at least {LEAST_OPSET} to train a model, but the model's is {opset}")
    return [_with_function(node, opset, dtype) for node in proto.graph.node if not is_constant_node(node)]


def _with_function(proto: onnx.NodeProto, opset: int, dtype: torch.dtype | None) -> tuple[Node, Function]:
    node = read_node(proto, opset, dtype)
    maker = OPERATORS.get(node.op) if proto.domain in ("", "ai.onnx") else None
    if maker is None:
        domain = f"{proto.domain}::" if proto.domain else ""
        raise UsageError(f"expected operators that lissom can train, but node {node.name!r} is a {domain}{node.op}")
    return node, maker(node)


def read_constants(proto: onnx.ModelProto) -> Mapping[str, Array]:
    """The constants of the main graph, those of Constant nodes included.

    Raises:
        UsageError: one is of an element type that torch lacks, sparse, or stored outside the file.
    """
    found = {name: _array(name, tensor) for name, tensor in stored_tensors(proto).items()}
    for node in filter(is_constant_node, proto.graph.node):
        (attribute,) = node.attribute
        match attribute.name:
            case "value":
                continue
            case "value_float" | "value_floats":
                dtype: type[np.generic] = np.float32
            case "value_int" | "value_ints":
                dtype = np.int64
            case other:
                raise UsageError(f"expected numbers in the constant {node.output[0]!r}, but it has a {other}")
        found[node.output[0]] = np.array(onnx.helper.get_attribute_value(attribute), dtype)
    return found


def _array(name: str, tensor: onnx.TensorProto) -> Array:
    if tensor.data_type not in TYPES:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        raise UsageError(f"expected constants of a type that torch has, but {name!r} is of {kind}")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise UsageError(f"expected a model with its external data loaded, but those of {name!r} are not")
    return np.array(onnx.numpy_helper.to_array(tensor))
