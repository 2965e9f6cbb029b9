"""What surgery on one layer leaves behind, and the same change to weight and bias of the dense layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.graph.geometry import Geometry
from lissom.graph.layers import Layer
from lissom.graph.model import Model, Node, constant, is_constant


@dataclass(frozen=True)
class Rewrite:
    """The nodes that replaced a layer, and the dense weight and bias that they stand for.

    Attributes:
        nodes: the new nodes, in topological order.
        weight: weight[out_channels, in_channels, *kernel] with which the layer would compute the same:
            what the result is verified against.
        bias: bias[out_channels] with which it would, or None where the layer's own stayed.
    """

    nodes: Sequence[Node]
    weight: npt.NDArray[Any]
    bias: npt.NDArray[Any] | None = None


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


def put_in_place(model: Model, layer: Layer, nodes: Sequence[Node]) -> None:
    """Puts nodes where a layer was: they are named after it, and the last one gives out what it gave out."""
    for number, node in enumerate(nodes):
        node.name = f"{layer.name}/lissom_{number}"
    output = layer.node.outputs[0]
    layer.node.inputs.clear()
    layer.node.outputs.clear()
    nodes[-1].outputs = [output]
    position = next(i for i, node in enumerate(model.graph.nodes) if node is layer.node)
    model.graph.nodes[position : position + 1] = nodes


def conv_attributes(geometry: Geometry, groups: int = 1) -> dict[str, object]:
    """The ONNX attributes of a Conv of `geometry`."""
    attributes: dict[str, object] = {
        "kernel_shape": list(geometry.kernel_shape),
        "strides": list(geometry.strides),
        "dilations": list(geometry.dilations),
        "group": groups,
    }
    if geometry.auto_pad == "NOTSET":
        return attributes | {"pads": list(geometry.pads)}
    return attributes | {"auto_pad": geometry.auto_pad}


def own_bias(layer: Layer) -> npt.NDArray[np.float32] | None:
    """The bias[out_channels] that the layer adds to its output, or None where `replace_bias` cannot give it another.

    Zeros where a Conv or Gemm has none; a Gemm's beta is multiplied in. None for a MatMul, for a bias that is
    computed, and for one that is not the same in every row.
    """
    count = layer.geometry.out_channels
    if layer.op == "MatMul":
        return None
    if layer.bias is None:
        return np.zeros(count, np.float32)
    if not is_constant(layer.bias) or layer.bias.dtype != np.float32:
        return None
    values: npt.NDArray[np.float32] = layer.bias.values
    if values.size not in (1, count) or (values.ndim > 0 and values.shape[-1] != values.size):
        return None
    return np.broadcast_to(values.reshape(-1), count) * np.float32(layer.node.attrs.get("beta", 1.0))


def corrected_bias(
    layer: Layer, weight: npt.NDArray[Any], mean: npt.NDArray[Any] | None
) -> npt.NDArray[np.float32] | None:
    """The bias b + (W - weight) m, with which another weight[out, in, *kernel] gives the outputs the mean they had.

    Args:
        layer: the layer, with its weight W and bias b.
        weight: the weight in its place.
        mean: mean m[columns] of the layer's input columns, or None.

    Returns:
        bias[out_channels], or None without a mean, and where the layer's bias cannot be replaced.
    """
    bias = own_bias(layer)
    if bias is None or mean is None:
        return None
    missing = (layer.weight.astype(np.float64) - weight).reshape(len(bias), -1) @ mean
    corrected: npt.NDArray[np.float32] = (bias + missing).astype(np.float32)
    return corrected


def take_up_mean(
    layer: Layer, weight: npt.NDArray[Any], mean: npt.NDArray[Any] | None
) -> npt.NDArray[np.float32] | None:
    """Gives a layer its `corrected_bias`, and returns it: None where there is none and the layer's own stays."""
    bias = corrected_bias(layer, weight, mean)
    if bias is not None:
        replace_bias(layer, bias)
    return bias


def replace_bias(layer: Layer, bias: npt.NDArray[Any]) -> None:
    """Gives a dense layer another bias[out_channels].

    Raises:
        ValueError: the layer's bias cannot be replaced (`own_bias` is None).
    """
    if own_bias(layer) is None:
        raise ValueError(f"expected a Conv or Gemm with a constant bias or none, but {layer.name!r} has another")
    node = layer.node
    if layer.op == "Gemm":
        node.attrs["beta"] = 1.0
    name = f"{layer.name}/lissom_bias" if layer.bias is None else layer.bias.name
    values = constant(name, bias.astype(np.float32))
    if len(node.inputs) > 2:
        node.inputs[2] = values
    else:
        node.inputs.append(values)
