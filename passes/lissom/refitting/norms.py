"""Batch normalisations that no layer took in: their outputs get back the mean and variance that they had.

Behind a compressed layer the statistics that such a node divides by are no longer those of its input. Let y be what it
gives in the compressed network, with mean m' and variance v' of a channel over the calibration samples, and m, v those
of the original network. Then

    g (y - m') + m,    g = √(v / v'),

is what the same node gives with the scale g s and the bias g (b - m') + m in the place of s and b. Nodes are corrected
in topological order, each behind those before it. Nothing is done

1. to a node whose scale or bias is no float32 constant of its own, and to one that trains;
2. to the variance of a channel that is constant in the compressed network: it gets its mean;
3. at all when the distortion of the network's outputs on held-out samples does not fall.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from lissom.graph.extract import dependants, reads
from lissom.graph.model import Model, constant
from lissom.options import FloatArray
from lissom.stream import Stream

CONSTANT = 1e-10
"""A variance below this share of the original's is none."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Norm:
    """What a batch normalisation should hold: scale[channels] and bias[channels]."""

    scale: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


def normalisations(proto: onnx.ModelProto, changed: Collection[str]) -> list[onnx.NodeProto]:
    """The batch normalisations that depend on the tensors `changed` and can be corrected, in topological order."""
    constants = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    readers = [name for node in proto.graph.node for name in reads(node)]
    behind = dependants(proto, changed)
    return [
        node
        for node in proto.graph.node
        if node.op_type == "BatchNormalization"
        and node.domain in ("", "ai.onnx")
        and node.output[0] in behind
        and len(node.output) == 1
        and all(constants.get(name) == onnx.TensorProto.FLOAT for name in node.input[1:3])
        and all(readers.count(name) == 1 for name in node.input[1:3])
    ]


def corrections(
    nodes: Sequence[onnx.NodeProto], original: Stream, compressed: Stream, fitted: Collection[int]
) -> dict[str, Norm]:
    """What the nodes should hold, by the name of their output.

    Args:
        nodes: as `normalisations` gives them.
        original: the original network, before the first of the nodes.
        compressed: the compressed one, at the same place; afterwards it has run behind the last node, with all of them
            corrected.
        fitted: positions of the batches that statistics are taken of.
    """
    held = {tensor.name: tensor for tensor in compressed.proto.graph.initializer}
    found: dict[str, Norm] = {}
    outputs = [node.output[0] for node in nodes]
    for number, (node, output) in enumerate(zip(nodes, outputs, strict=True)):
        for stream in (original, compressed):
            stream.advance([output], outputs[number + 1 :])
        (mean, variance), (wanted_mean, wanted_variance) = (
            _statistics([stream.batches[i][output] for i in sorted(fitted)]) for stream in (compressed, original)
        )
        alive = variance > CONSTANT * wanted_variance
        gain = np.sqrt(np.divide(wanted_variance, variance, out=np.ones_like(mean), where=alive))
        shift = wanted_mean - gain * mean
        for values in compressed.batches:
            shape = (-1, *[1] * (values[output].ndim - 2))
            values[output] = (values[output] * gain.reshape(shape) + shift.reshape(shape)).astype(np.float32)
        scale, bias = (onnx.numpy_helper.to_array(held[name]).astype(np.float64) for name in node.input[1:3])
        found[output] = Norm((gain * scale).astype(np.float32), (gain * bias + shift).astype(np.float32))
    return found


def put_norms(model: Model, norms: Mapping[str, Norm]) -> None:
    """Gives the batch normalisations of a model, named by their outputs, other numbers."""
    for node in model.graph.nodes:
        norm = norms.get(node.outputs[0].name) if node.outputs else None
        if norm is not None:
            node.inputs[1] = constant(node.inputs[1].name, norm.scale)
            node.inputs[2] = constant(node.inputs[2].name, norm.bias)


def _statistics(batches: Sequence[Array]) -> tuple[FloatArray, FloatArray]:
    """Mean[channels] and variance[channels] of values[n, channels, ...] over all batches."""
    count = sum(values.size // values.shape[1] for values in batches)
    axes = (0, *range(2, batches[0].ndim))
    mean = sum(values.sum(axis=axes, dtype=np.float64) for values in batches) / count
    shape = (-1, *[1] * (batches[0].ndim - 2))
    squares = sum(((values - mean.reshape(shape)) ** 2).sum(axis=axes) for values in batches)
    return np.asarray(mean), np.asarray(squares / count)
