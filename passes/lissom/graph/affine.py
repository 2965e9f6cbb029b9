"""Folds per-channel scales and shifts into the convolution before them.

With y = conv(x; W, b) and z = s * y + t per output channel,
z = conv(x; s * W, s * b + t). `z` is a BatchNormalization in inference mode
(s = gamma / sqrt(var + eps), t = beta - s * mean), or a Mul, Div, Add or Sub with a
constant that is one number per channel. The same holds for Gemm (per column) and
ConvTranspose (per output channel). Nothing is done when

1. the layer's weight or bias, or the second operand, is not a float32 constant;
2. something else reads the layer's output, or it is an output of the graph;
3. the BatchNormalization trains or has more than one used output;
4. the constant is not one number (or one per output channel) along axis 1;
5. a Gemm has a transposed A, or an alpha or beta other than 1;
6. a ConvTranspose has groups.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.graph.model import Model, Node, constant, is_constant, is_standard
from lissom.graph.steps import Change, Outcome
from lissom.options import Refusal

Array = npt.NDArray[Any]


def fold_affine(model: Model) -> Outcome:
    """Folds BatchNormalization and per-channel Mul, Div, Add and Sub into the layer before."""
    outcome = Outcome()
    removed: set[int] = set()
    for layer in model.graph.nodes:
        if layer.op not in ("Conv", "ConvTranspose", "Gemm") or layer.domain not in (None, "", "ai.onnx"):
            continue
        while (follower := _follower(model, layer)) is not None:
            pair = _scale_and_shift(follower, layer)
            reason = _obstacle(layer) if pair is not None else "its operands are no per-channel constants"
            if pair is None or reason is not None:
                if follower.op == "BatchNormalization" and reason is not None:
                    outcome.refusals.append(Refusal(follower.name, "fold-affine", reason))
                break
            _fold(layer, *pair)
            outcome.changes.append(Change(layer.name, f"took in {follower.op} {follower.name}"))
            removed.add(id(follower))
            model.fuse(layer, follower)
    model.graph.nodes = [node for node in model.graph.nodes if id(node) not in removed]
    return outcome


def _follower(model: Model, layer: Node) -> Node | None:
    output = layer.outputs[0]
    if model.consumers(output) != 1 or not output.outputs:
        return None
    node = output.outputs[0]
    if node.op not in ("BatchNormalization", "Mul", "Div", "Add", "Sub") or node.domain not in (None, "", "ai.onnx"):
        return None
    in_scope = any(node is other for other in model.graph.nodes)
    return node if in_scope else None


def _channels(layer: Node) -> int | None:
    weight = layer.inputs[1]
    if not is_constant(weight):
        return None
    if layer.op == "Conv":
        return int(weight.shape[0])
    if layer.op == "ConvTranspose":
        return int(weight.shape[1]) * int(layer.attrs.get("group", 1))
    return int(weight.shape[0 if layer.attrs.get("transB", 0) else 1])


def _obstacle(layer: Node) -> str | None:
    weight = layer.inputs[1]
    bias = layer.inputs[2] if len(layer.inputs) > 2 and not layer.inputs[2].is_empty() else None
    channels = _channels(layer)
    if channels is None or weight.values.dtype != np.float32:
        return f"the weight of {layer.name} is no float32 constant"
    if bias is not None and (not is_constant(bias) or bias.values.size not in (1, channels)):
        return f"the bias of {layer.name} is no constant of {channels} values"
    if bias is not None and bias.values.ndim > 1 and bias.values.shape[-1] != bias.values.size:
        return f"the bias of {layer.name} is not one row"
    if layer.op == "ConvTranspose" and layer.attrs.get("group", 1) != 1:
        return f"{layer.name} is a grouped ConvTranspose"
    if layer.op == "Gemm" and (
        layer.attrs.get("transA", 0) or layer.attrs.get("alpha", 1.0) != 1.0 or layer.attrs.get("beta", 1.0) != 1.0
    ):
        return f"{layer.name} has transA, alpha or beta"
    return None


def _scale_and_shift(node: Node, layer: Node) -> tuple[Array, Array] | None:
    """s[channels], t[channels] in float64 of ``z = s * y + t``, or None."""
    channels = _channels(layer)
    if channels is None:
        return None
    if is_standard(node, "BatchNormalization"):
        return _of_batch_normalization(node, layer, channels)
    return _of_arithmetic(node, layer, channels)


def _of_batch_normalization(node: Node, layer: Node, channels: int) -> tuple[Array, Array] | None:
    if node.attrs.get("training_mode", 0) or node.attrs.get("spatial", 1) == 0 or len(node.outputs) != 1:
        return None
    if node.inputs[0] is not layer.outputs[0] or not all(is_constant(t) for t in node.inputs[1:]):
        return None
    gamma, beta, mean, variance = (np.asarray(t.values, np.float64) for t in node.inputs[1:5])
    if any(values.shape != (channels,) for values in (gamma, beta, mean, variance)):
        return None
    scale = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    return scale, beta - scale * mean


def _of_arithmetic(node: Node, layer: Node, channels: int) -> tuple[Array, Array] | None:
    first, second = node.inputs
    operand = second if first is layer.outputs[0] else first
    if operand is layer.outputs[0] or not is_constant(operand) or operand.values.dtype != np.float32:
        return None
    if node.op in ("Div", "Sub") and operand is first:
        return None  # constant / y and constant - y are not scales of y that keep their sign
    values = _per_channel(operand.values, layer, channels)
    if values is None:
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    match node.op:
        case "Mul":
            return values, zero
        case "Div":
            return (1.0 / values, zero) if np.all(values != 0) else None
        case "Add":
            return one, values
        case _:
            return one, -values


def _per_channel(values: Array, layer: Node, channels: int) -> Array | None:
    """values[channels] in float64 when the operand is one number per output channel."""
    rank = 2 if layer.op == "Gemm" else layer.inputs[1].values.ndim
    if values.ndim > rank:
        return None  # broadcasting would raise the rank of the result
    if values.size == 1:
        return np.full(channels, float(values.reshape(-1)[0]))
    shape = (1,) * (rank - values.ndim) + values.shape
    if shape != (1, channels) + (1,) * (rank - 2):
        return None
    return values.reshape(channels).astype(np.float64)


def _fold(layer: Node, scale: Array, shift: Array) -> None:
    weight = layer.inputs[1]
    axis = 0 if layer.op == "Conv" else 1
    if layer.op == "Gemm" and layer.attrs.get("transB", 0):
        axis = 0
    shape = [1] * weight.values.ndim
    shape[axis] = -1
    layer.inputs[1] = constant(weight.name, (weight.values * scale.reshape(shape)).astype(np.float32))
    has_bias = len(layer.inputs) > 2 and not layer.inputs[2].is_empty()
    old = layer.inputs[2].values.reshape(-1).astype(np.float64) if has_bias else 0.0
    name = layer.inputs[2].name if has_bias else f"{weight.name}/lissom_bias"
    new = constant(name, np.broadcast_to(scale * old + shift, scale.shape).astype(np.float32))
    if len(layer.inputs) > 2:
        layer.inputs[2] = new
    else:
        layer.inputs.append(new)
