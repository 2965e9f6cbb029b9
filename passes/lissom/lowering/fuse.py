"""What a runtime operator can take in of the nodes behind a layer.

    z = activation(layer(x) + bias + residual)

The nodes are, in this order and each optional, an Add of one constant per output channel (behind a MatMul, which has no
bias), an Add of a tensor of the output's shape, and an activation:

    Relu, LeakyRelu, HardSwish, ThresholdedRelu, Clip with constant limits, Shrink with bias 0,
    y * Sigmoid(y), and y * HardSigmoid(y) with slope 1/6 and offset 1/2.

A node is left where it is when

1. something else reads the tensor between, or it is an output of the graph;
2. the other operand of an Add may be broadcast: an axis must have one extent, one symbol, or have been observed to be
   alike and greater than 1;
3. it stands in a subgraph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lissom.graph.model import Model, Node, Tensor, is_constant, is_standard
from lissom.lowering.emit import EVERYTHING, Epilogue

SLOPE_OF_HARD_SWISH = 1 / 6
OFFSET_OF_HARD_SWISH = 0.5

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Tail:
    """The nodes behind a layer that go into its operator.

    Attributes:
        nodes: them, in topological order.
        bias: bias[out_channels] that one of them adds, or None.
        epilogue: what the others do.
        output: the tensor that the last one produces.
    """

    nodes: Sequence[Node]
    bias: npt.NDArray[np.float32] | None
    epilogue: Epilogue
    output: Tensor


def tail(model: Model, layer: Node, channels: int, shapes: Shapes) -> Tail:
    """The longest tail of `layer`, a Conv, Gemm or MatMul.

    Args:
        model: the model that holds it.
        layer: the node.
        channels: its output channels.
        shapes: observed shapes, at least of what the Adds read (`addends` names it).
    """
    scope = {id(node) for node in model.graph.nodes}
    nodes: list[Node] = []
    output, bias, residual = layer.outputs[0], None, None
    if layer.op == "MatMul" and (add := _only_reader(model, output, scope)) is not None:
        bias = _bias(add, output, channels, shapes)
        if bias is not None:
            nodes.append(add)
            output = add.outputs[0]
    if (add := _only_reader(model, output, scope)) is not None:
        residual = _residual(add, output, shapes)
        if residual is not None:
            nodes.append(add)
            output = add.outputs[0]
    last, epilogue = _activation(model, output, scope)
    if last:
        output = last[-1].outputs[0]
    after = Epilogue(residual, epilogue.activation, epilogue.alpha, epilogue.limits)
    return Tail([*nodes, *last], bias, after, output)


def addends(model: Model) -> list[str]:
    """Names of the tensors whose shapes `tail` needs."""
    tensors = (t for node in model.graph.nodes if is_standard(node, "Add") for t in node.inputs if not is_constant(t))
    return list({tensor.name: None for tensor in tensors})


def _only_reader(model: Model, tensor: Tensor, scope: set[int]) -> Node | None:
    if model.consumers(tensor) != 1 or not tensor.outputs or id(tensor.outputs[0]) not in scope:
        return None
    return tensor.outputs[0]


def _other(node: Node, op: str, tensor: Tensor) -> Tensor | None:
    """The other operand of a binary `op` that reads `tensor` once."""
    if not is_standard(node, op) or len(node.inputs) != 2 or node.inputs[0] is node.inputs[1]:
        return None
    return next((operand for operand in node.inputs if operand is not tensor), None)


def _bias(add: Node, tensor: Tensor, channels: int, shapes: Shapes) -> npt.NDArray[np.float32] | None:
    operand = _other(add, "Add", tensor)
    if operand is None or not is_constant(operand) or operand.values.dtype != np.float32:
        return None
    shape = operand.values.shape
    per_channel = operand.values.size in (1, channels) and (not shape or shape[-1] == operand.values.size)
    if not per_channel or len(shape) > len(shapes[tensor.name]):
        return None
    bias: npt.NDArray[np.float32] = np.broadcast_to(operand.values.reshape(-1), (channels,))
    return bias


def _residual(add: Node, tensor: Tensor, shapes: Shapes) -> Tensor | None:
    operand = _other(add, "Add", tensor)
    if operand is None or is_constant(operand):
        return None
    seen, other = shapes[tensor.name], shapes[operand.name]
    if seen != other:
        return None
    told, other_told = tensor.shape or [None] * len(seen), operand.shape or [None] * len(seen)
    alike = all(a is not None and a == b for a, b in zip(told, other_told, strict=True))  # at every input, not this one
    return operand if alike else None


def _activation(model: Model, tensor: Tensor, scope: set[int]) -> tuple[list[Node], Epilogue]:
    """The nodes of the activation that reads `tensor`, and what it is; nothing for none that fits."""
    node = _only_reader(model, tensor, scope)
    if node is not None and node.inputs[0] is tensor and node.domain in (None, "", "ai.onnx"):
        epilogue = _simple_activation(node)
        return ([], Epilogue()) if epilogue is None else ([node], epilogue)
    gated = _gated_activation(model, tensor, scope)
    return ([], Epilogue()) if gated is None else gated


def _simple_activation(node: Node) -> Epilogue | None:
    match node.op:
        case "Relu":
            return Epilogue(activation="relu")
        case "HardSwish":
            return Epilogue(activation="hard_swish")
        case "LeakyRelu":
            return Epilogue(activation="leaky_relu", alpha=node.attrs.get("alpha", 0.01))
        case "ThresholdedRelu":
            return Epilogue(activation="thresholded_relu", alpha=node.attrs.get("alpha", 1.0))
        case "Shrink" if node.attrs.get("bias", 0.0) == 0:
            return Epilogue(activation="shrink", alpha=node.attrs.get("lambd", 0.5))
        case "Clip":
            limits = [_limit(node, position) for position in (1, 2)]
            if limits[0] is None or limits[1] is None:
                return None
            return Epilogue(activation="clip", limits=(limits[0], limits[1]))
        case _:
            return None


def _limit(clip: Node, position: int) -> float | None:
    """A limit of a Clip, or None when it is not constant."""
    if len(clip.inputs) <= position or clip.inputs[position].is_empty():
        return EVERYTHING[position - 1]
    operand = clip.inputs[position]
    return float(operand.values.reshape(())) if is_constant(operand) and operand.values.size == 1 else None


def _gated_activation(model: Model, tensor: Tensor, scope: set[int]) -> tuple[list[Node], Epilogue] | None:
    """The product of y and gate(y), where nothing else reads either."""
    readers = list(tensor.outputs)
    if model.consumers(tensor) != 2 or len(readers) != 2 or any(id(reader) not in scope for reader in readers):
        return None
    gate, product = sorted(readers, key=lambda reader: reader.op == "Mul")
    if _other(product, "Mul", tensor) is not gate.outputs[0] or model.consumers(gate.outputs[0]) != 1:
        return None
    if is_standard(gate, "Sigmoid"):
        return [gate, product], Epilogue(activation="silu")
    if is_standard(gate, "HardSigmoid"):
        slope, offset = gate.attrs.get("alpha", 0.2), gate.attrs.get("beta", 0.5)
        if np.isclose(slope, SLOPE_OF_HARD_SWISH, rtol=1e-6) and offset == OFFSET_OF_HARD_SWISH:
            return [gate, product], Epilogue(activation="hard_swish")
    return None
