"""The little networks in which a candidate is timed.

A layer's latency is a difference: the time of a network with many copies of it, less the
time of one with a single copy. All copies read the output of one convolution and are
summed up,

    y = L_1(x) + L_2(x) + ... + L_n(x),      x = Conv1x1(input),

so that every copy has a producer and a consumer in the layout that ONNX Runtime prefers
between convolutions, whatever the layer's stride and channels; the sum fuses into the
convolutions. The reorders at both ends cancel in the difference. Timed alone, a pair
would pay for them and look too slow (64 channels at 8x8: 0.80 alone, 0.53 in a chain).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper

from lissom.graph.layers import Layer, geometry_of
from lissom.graph.load import from_proto
from lissom.graph.model import Model

PRODUCER_CHANNELS = 16
"""Input channels of the convolution before the copies."""

LEAST_CHANNELS = 8
"""Layers with fewer input channels are stems: they read the network's input directly."""

Emit = Callable[[Model, Layer, np.random.Generator], None]
"""Puts a candidate, with random weights, in the place of a layer."""

_OPSET = 17


def chain(layer: Layer, copies: int, emit: Emit | None) -> tuple[bytes, Mapping[str, npt.NDArray[np.float32]]]:
    """A network with `copies` of `layer`, and its input.

    Args:
        layer: the layer whose arithmetic is timed; its weights are not used.
        copies: how many; the first stays dense.
        emit: replaces each copy but the first by a candidate; None leaves all dense.

    Returns:
        The serialized model and seeded random feeds.
    """
    rng = np.random.default_rng(0)
    model, feeds = _dense(layer, copies, rng)
    if emit is not None:
        for node in [node for node in model.graph.nodes if node.name.startswith("copy_")][1:]:
            emit(model, Layer(node.name, layer.op, node, layer.weight, layer.geometry, layer.source_rank), rng)
    return model.to_proto().SerializeToString(), feeds


def _dense(layer: Layer, copies: int, rng: np.random.Generator) -> tuple[Model, Mapping[str, npt.NDArray[np.float32]]]:
    geometry = layer.geometry
    weights: dict[str, npt.NDArray[np.float32]] = {}
    nodes = []

    def weight(name: str, *shape: int) -> str:
        fan_in = max(int(np.prod(shape[1:])), 1)
        weights[name] = (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
        return name

    is_conv = layer.op == "Conv"
    source = "input"
    in_shape: tuple[int, ...]
    if is_conv:
        channels = geometry.in_channels * groups_of(layer)
        if channels >= LEAST_CHANNELS:
            kernel = (1,) * len(geometry.kernel_shape)
            nodes.append(
                onnx.helper.make_node("Conv", ["input", weight("pre", channels, PRODUCER_CHANNELS, *kernel)], ["x"])
            )
            source, channels = "x", PRODUCER_CHANNELS
        in_shape = (geometry.rows, channels, *geometry.in_spatial)
    else:
        in_shape = (*(1,) * (layer.source_rank - 2), geometry.rows, geometry.in_channels)
    for copy in range(copies):
        name = f"copy_{copy}"
        if is_conv:
            inputs = [
                source,
                weight(f"{name}_w", geometry.out_channels, geometry.in_channels, *geometry.kernel_shape),
                weight(f"{name}_b", geometry.out_channels),
            ]
        elif layer.op == "Gemm":
            inputs = [
                source,
                weight(f"{name}_w", geometry.out_channels, geometry.in_channels),
                weight(f"{name}_b", geometry.out_channels),
            ]
        else:
            inputs = [source, weight(f"{name}_w", geometry.in_channels, geometry.out_channels)]
        nodes.append(onnx.helper.make_node(layer.op, inputs, [f"{name}_y"], name=name, **_attributes(layer)))
        if copy:
            nodes.append(onnx.helper.make_node("Add", [f"{name}_y", f"sum_{copy - 1}"], [f"sum_{copy}"]))
        else:
            nodes.append(onnx.helper.make_node("Identity", [f"{name}_y"], ["sum_0"]))
    graph = onnx.helper.make_graph(
        nodes,
        "chain",
        [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, in_shape)],
        [onnx.helper.make_tensor_value_info(f"sum_{copies - 1}", onnx.TensorProto.FLOAT, [None] * len(in_shape))],
        [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", _OPSET)], ir_version=8)
    return from_proto(proto), {"input": rng.standard_normal(in_shape).astype(np.float32)}


def least_layer(channels: int) -> Layer:
    """A 1 x 1 convolution of next to no work: what is left of its time is what any node takes."""
    weight = np.zeros((channels, channels, 1, 1), np.float32)
    shape = (1, channels, 1, 1)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="least")],
        "least",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", _OPSET)], ir_version=8)
    (node,) = from_proto(proto).graph.nodes
    return Layer(node.name, "Conv", node, weight, geometry_of(node, weight, shape, shape), len(shape))


def groups_of(layer: Layer) -> int:
    """Groups of a convolution, whose geometry has the input channels of one of them; 1 for other layers."""
    return int(layer.node.attrs.get("group", 1)) if layer.op == "Conv" else 1


def _attributes(layer: Layer) -> dict[str, Any]:
    geometry = layer.geometry
    if layer.op == "Gemm":
        return {"transB": 1}
    if layer.op == "MatMul":
        return {}
    pads = {"pads": geometry.pads} if geometry.auto_pad == "NOTSET" else {"auto_pad": geometry.auto_pad}
    return {
        "kernel_shape": geometry.kernel_shape,
        "strides": geometry.strides,
        "dilations": geometry.dilations,
        "group": groups_of(layer),
        **pads,
    }
