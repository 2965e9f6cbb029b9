"""`Layer`: a Conv, Gemm or MatMul with a constant weight, and the list of them in a model.

What looks like a layer and cannot be one is a `Refusal`:

1. the weight is no float32 constant (quantised weights come out of a
   DequantizeLinear, half precision has another type);
2. a convolution has groups;
3. a Gemm transposes A, a MatMul has its constant on the left or of a rank other than 2;
4. the node stands in the body of an If, Loop or Scan;
5. the operator itself is a quantised one (QLinearConv, MatMulInteger, …);
6. the input has no axis besides the channels.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom_runtime.errors import UsageError

from lissom.graph.geometry import Geometry
from lissom.graph.model import Model, Node, Tensor, is_constant, is_standard
from lissom.options import Refusal

LAYER_OPS = ("Conv", "Gemm", "MatMul")
"""Operators that become layers."""

QUANTISED_OPS = frozenset({"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "QGemm"})
"""Operators that do a layer's work on integers."""

FloatArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """A site of the compiler: one operator with a constant weight.

    Attributes:
        name: name of the node.
        op: "Conv", "Gemm" or "MatMul".
        node: the node in the graph.
        weight: weight[out_channels, in_channels, *kernel] in float32, a Gemm's alpha multiplied in.
        geometry: shapes and strides.
        source_rank: number of axes of the layer's input.
        readers: how many layers have this very weight: each bears an equal part of its parameters and bytes.
    """

    name: str
    op: str
    node: Node
    weight: FloatArray
    geometry: Geometry
    source_rank: int
    readers: int = 1

    @property
    def folded(self) -> FloatArray:
        """The weight as matrix[out_channels, in_channels * taps]."""
        return self.weight.reshape(self.geometry.out_channels, -1)

    @property
    def source(self) -> Tensor:
        """The tensor that the layer reads."""
        return self.node.inputs[0]

    @property
    def bias(self) -> Tensor | None:
        """The tensor that is added to the output, or None."""
        return self.node.inputs[2] if len(self.node.inputs) > 2 and not self.node.inputs[2].is_empty() else None


@dataclass(frozen=True)
class Census:
    """The layers of a model, in topological order, and what was declined."""

    layers: Sequence[Layer]
    refusals: Sequence[Refusal]


def activations(model: Model) -> list[str]:
    """Names of the tensors whose shapes `find_layers` needs: inputs and outputs of the candidates."""
    names: dict[str, None] = {}
    for node in model.graph.nodes:
        if _is_candidate(node) and weight_obstacle(node) is None:
            names[node.inputs[0].name] = None
            names[node.outputs[0].name] = None
    return list(names)


def find_layers(model: Model, shapes: Mapping[str, tuple[int, ...]]) -> Census:
    """Finds the layers of the main graph.

    Args:
        model: a canonical model.
        shapes: shape of each tensor that `activations` named, at the stated input shape.

    Raises:
        UsageError: a weight holds NaN or infinity, or has a dimension of zero.
    """
    layers: list[Layer] = []
    refusals: list[Refusal] = []
    for node in model.graph.nodes:
        refusals.extend(
            Refusal(inner.name, "layer", f"stands in the body of {node.op} {node.name}")
            for subgraph in node.subgraphs(recursive=True)
            for inner in subgraph.nodes
            if inner.op in LAYER_OPS
        )
        if node.op in QUANTISED_OPS:
            refusals.append(Refusal(node.name, "layer", f"the operator is quantised ({node.op}); expected float32"))
        if not _is_candidate(node):
            continue
        if (reason := weight_obstacle(node)) is not None:
            refusals.append(Refusal(node.name, "layer", reason))
            continue
        weight = _weight(node)
        _require_finite(node, weight)
        source, target = shapes[node.inputs[0].name], shapes[node.outputs[0].name]
        if len(source) < 2:
            refusals.append(Refusal(node.name, "layer", f"the input has rank {len(source)}; expected at least 2"))
            continue
        layers.append(Layer(node.name, node.op, node, weight, geometry_of(node, weight, source, target), len(source)))
    counts = Counter(_identity(layer) for layer in layers)
    return Census([replace(layer, readers=counts[_identity(layer)]) for layer in layers], refusals)


def _identity(layer: Layer) -> tuple[str, tuple[int, ...], bytes]:
    """What layers that could share one initializer have in common."""
    stored: FloatArray = layer.node.inputs[1].values
    return layer.op, stored.shape, hashlib.sha256(stored.tobytes()).digest()


def weight_obstacle(node: Node) -> str | None:
    """Why `node` (a Conv, Gemm or MatMul) is no layer, or None."""
    weight = node.inputs[1]
    if not is_constant(weight):
        if node.op == "MatMul" and is_constant(node.inputs[0]):
            return "the constant of a MatMul must be its second operand, but it is the first"
        producer = weight.inputs[0].op if weight.inputs else "an input of the graph"
        if producer == "DequantizeLinear":
            return "the weight is quantised (DequantizeLinear); expected a float32 constant"
        return f"the weight comes from {producer}; expected a constant"
    if weight.dtype != np.float32:
        return f"the weight is {weight.values.dtype.name}; expected float32"
    if node.op == "Conv" and node.attrs.get("group", 1) != 1:
        return f"the convolution has {node.attrs['group']} groups; expected 1"
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        return "the Gemm transposes its input (transA = 1); expected transA = 0"
    if node.op == "MatMul" and len(weight.shape) != 2:
        return f"the constant of the MatMul has rank {len(weight.shape)}; expected 2"
    return None


def _is_candidate(node: Node) -> bool:
    return any(is_standard(node, op) for op in LAYER_OPS)


def _weight(node: Node) -> FloatArray:
    values: FloatArray = node.inputs[1].values
    if node.op == "Conv":
        return values
    if node.op == "Gemm":
        rows = values if node.attrs.get("transB", 0) else values.T
        alpha = node.attrs.get("alpha", 1.0)
        return np.ascontiguousarray(rows if alpha == 1.0 else (rows * np.float32(alpha)))
    return np.ascontiguousarray(values.T)


def _require_finite(node: Node, weight: FloatArray) -> None:
    if 0 in weight.shape:
        raise UsageError(f"expected a weight without empty dimensions, but {node.name!r} has {list(weight.shape)}")
    if not np.isfinite(weight).all():
        count = int(weight.size - np.isfinite(weight).sum())
        raise UsageError(f"expected finite weights, but {node.name!r} has {count} that are NaN or infinite")


def geometry_of(node: Node, weight: FloatArray, source: tuple[int, ...], target: tuple[int, ...]) -> Geometry:
    """What a node computes, at the shapes of its input and output; input channels are those of one group."""
    if node.op != "Conv":
        return Geometry(weight.shape[0], weight.shape[1], rows=prod(source[:-1]))
    spatial = weight.ndim - 2
    auto_pad = node.attrs.get("auto_pad", "NOTSET")
    explicit = auto_pad in ("NOTSET", "VALID")
    return Geometry(
        out_channels=weight.shape[0],
        in_channels=weight.shape[1],
        kernel_shape=weight.shape[2:],
        strides=tuple(node.attrs.get("strides", (1,) * spatial)),
        dilations=tuple(node.attrs.get("dilations", (1,) * spatial)),
        pads=tuple(node.attrs.get("pads", (0,) * (2 * spatial))) if explicit else (0,) * (2 * spatial),
        auto_pad="NOTSET" if explicit else auto_pad,
        in_spatial=tuple(source[2:]),
        out_spatial=tuple(target[2:]),
        rows=source[0],
    )
