"""Counting what a model is made of: non-zero parameters and multiply-accumulates.

A *parameter* is an element, other than zero, of a floating-point constant, or of the
integer constant behind a DequantizeLinear. The running mean and variance of a
BatchNormalization are statistics and not parameters; shapes, indices and zero points
are neither. A constant that several nodes read counts once.

*Multiply-accumulates* are those of Conv, ConvTranspose, Gemm and MatMul, padding
included, at the shapes that were observed, and those of the runtime's operators of one
layer: one for each stored weight and position.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import onnx
from lissom_runtime.contract import DOMAIN, Signature, signatures

from lissom.graph.model import Model, Node, Tensor, is_constant

MAC_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators whose multiply-accumulates are counted, beside those in `_SPARSE`."""

_SPARSE: Mapping[str, Signature] = {signature.name: signature for signature in signatures()}


def count_parameters(model: Model) -> int:
    """Non-zero parameters of the model, its subgraphs included."""
    return sum(int(np.count_nonzero(tensor.values)) for tensor in model.constants() if _is_parameter(tensor))


def mac_tensors(model: Model) -> list[str]:
    """Names of the tensors whose shapes `count_macs` needs."""
    names: dict[str, None] = {}
    for node in model.graph.nodes:
        if _is_counted(node):
            for tensor in (*node.inputs[:2], node.outputs[0]):
                if not is_constant(tensor):
                    names[tensor.name] = None
    return list(names)


def mac_activations(model: Model) -> list[str]:
    """Names of what the nodes that `count_macs` counts read first and give: their weights are not among them."""
    counted = [node for node in model.graph.nodes if _is_counted(node)]
    tensors = [tensor for node in counted for tensor in (node.inputs[0], node.outputs[0])]
    return list(dict.fromkeys(tensor.name for tensor in tensors if not is_constant(tensor)))


def count_macs(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiply-accumulates of the main graph at the observed `shapes`."""
    return sum(_macs(node, shapes) for node in model.graph.nodes if _is_counted(node))


def _is_counted(node: Node) -> bool:
    return node.op in MAC_OPS or (node.domain == DOMAIN and node.op in _SPARSE)


def _macs(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> int:
    def shape(tensor: Tensor) -> tuple[int, ...]:
        return tuple(tensor.values.shape) if is_constant(tensor) else shapes[tensor.name]

    source, weight, target = shape(node.inputs[0]), shape(node.inputs[1]), shapes[node.outputs[0].name]
    if node.op not in MAC_OPS:
        signature = _SPARSE[node.op]
        stored = node.inputs[signature.inputs.index("values")].values.size
        positions = prod(target) // (target[1] if signature.operator == "SparseConv" else target[-1])
        return int(stored) * positions
    match node.op:
        case "Conv":
            return prod(weight[1:]) * prod(target)
        case "ConvTranspose":
            return prod(weight[1:]) * prod(source)
        case "Gemm":
            return prod(target) * source[0 if node.attrs.get("transA", 0) else 1]
        case _:
            return prod(target) * source[-1]


def _is_parameter(tensor: Tensor) -> bool:
    dtype: Any = tensor.dtype
    readers = tensor.outputs
    if readers and all(
        node.op == "BatchNormalization" and any(tensor is stat for stat in node.inputs[3:5]) for node in readers
    ):
        return False
    if _is_floating(dtype):
        return not any(node.op in ("QuantizeLinear", "DequantizeLinear") for node in readers)
    return any(node.op == "DequantizeLinear" and node.inputs[0] is tensor for node in readers)


def _is_floating(dtype: Any) -> bool:
    """Whether elements are floating-point; `dtype` is NumPy's, or the number in the file of a type that it lacks."""
    if dtype is None:
        return False
    known = onnx.helper.tensor_dtype_to_np_dtype(dtype) if isinstance(dtype, int) else np.dtype(dtype)
    return known.name.startswith(("float", "bfloat"))
