"""What surgery on one layer leaves behind, and the same change to the weight of the dense layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.graph.layers import Layer
from lissom.graph.model import Model, Node, constant


@dataclass(frozen=True)
class Rewrite:
    """The nodes that replaced a layer, and the dense weight that they stand for.

    Attributes:
        nodes: the new nodes, in topological order.
        weight: weight[out_channels, in_channels, *kernel] with which the layer would compute the same:
            what the result is verified against.
    """

    nodes: Sequence[Node]
    weight: npt.NDArray[Any]


def in_copy(model: Model, layer: Layer) -> Layer:
    """The same layer in a copy of its model."""
    return replace(layer, node=next(node for node in model.graph.nodes if node.name == layer.name))


def replace_weight(layer: Layer, weight: npt.NDArray[Any]) -> None:
    """Gives a dense layer another weight[out, in, *kernel]."""
    node = layer.node
    if layer.op == "Gemm":
        node.attrs["alpha"], node.attrs["transB"] = 1.0, 1
    node.inputs[1] = constant(node.inputs[1].name, stored_weight(layer, weight))


def stored_weight(layer: Layer, weight: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A weight[out, in, *kernel] as the node of a layer that `replace_weight` was used on stores it."""
    return np.ascontiguousarray(weight.T) if layer.op == "MatMul" else weight
