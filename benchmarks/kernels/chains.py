"""Models in which one layer is timed: many copies of it read one input, and each output is touched at one pixel.

    x -> L_1, L_2, ..., L_n;   y = sum_i MaxPool_1x1/all(L_i(x))

The pooling reads one element a channel, so that nothing but the layer itself moves its output. A layer's time is a
difference: that of n copies less that of one, over n - 1. In the dense model a convolution before the copies brings the
input (and the residual) into the layout that ONNX Runtime prefers, so no reorder is counted. The sparse operators read
and write the plain layout: between them there is none to count. Where a network mixes dense and sparse convolutions the
reorders are real; `whole.py` shows what they cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from lissom_runtime.contract import DOMAIN, VERSION, WITH_ALPHA, Signature
from lissom_runtime.packing import Packed
from onnx import helper, numpy_helper

from benchmarks.kernels.builder import LEAST_IR, OPSET
from benchmarks.kernels.shapes import ConvShape
from benchmarks.kernels.sparsity import FloatArray, sparse_weight

PRODUCER_CHANNELS = 16
"""Input channels of the convolutions before the copies."""

LEAST_CHANNELS = 8
"""Layers with fewer input channels are stems: they read the network's input directly."""

_COPY_MACS = 400_000_000
"""Multiply-accumulates of all copies of a layer, about."""

_COPIES = (4, 12)


@dataclass(frozen=True)
class Timed:
    """A serialized model and its random feeds."""

    model: bytes
    feeds: Mapping[str, FloatArray]


def copies(shape: ConvShape) -> int:
    """How many copies of a layer make its time stand out."""
    least, most = _COPIES
    return int(np.clip(_COPY_MACS // shape.macs, least, most))


def dense_chain(shape: ConvShape, count: int, seed: int = 0) -> Timed:
    """`count` copies of a dense convolution with its activation and residual."""
    rng = np.random.default_rng(seed)
    graph = _Graph()
    x = "x"
    if shape.in_channels >= LEAST_CHANNELS:
        x = graph.producer("x", shape.in_channels, rng)
        graph.feed("x", (1, PRODUCER_CHANNELS, shape.height, shape.width), rng)
    else:
        graph.feed("x", (1, shape.in_channels, shape.height, shape.width), rng)
    if shape.residual:
        graph.producer("residual", shape.out_channels, rng)
        graph.feed("residual", (1, PRODUCER_CHANNELS, *shape.out_spatial), rng)
    ends = []
    for copy in range(count):
        name = f"copy{copy}"
        weight = graph.constant(f"{name}.weight", sparse_weight(shape.weight_shape, 1.0, 1, rng))
        bias = graph.constant(f"{name}.bias", rng.standard_normal(shape.out_channels, np.float32))
        last = graph.node("Conv", [x, weight, bias], name, kernel_shape=(shape.kernel,) * 2, **_geometry(shape, False))
        if shape.residual:
            last = graph.node("Add", [last, "residual.made"], f"{name}.add")
        ends.append(_touch(graph, shape, _activation(graph, shape.activation, last)))
    return graph.finish(ends)


def sparse_chain(shape: ConvShape, weights: Sequence[tuple[Packed, FloatArray]], seed: int = 0) -> Timed:
    """Copies of a sparse convolution, one for each (weight, bias), with activation and residual fused.

    The nodes have no function body: the model needs the library.
    """
    rng = np.random.default_rng(seed)
    graph = _Graph()
    graph.feed("x", (1, shape.in_channels, shape.height, shape.width), rng)
    if shape.residual:
        graph.feed("residual", (1, shape.out_channels, *shape.out_spatial), rng)
    ends = []
    for copy, (packed, bias) in enumerate(weights):
        signature = _signature(packed, shape.activation, shape.residual)
        inputs = _packed_inputs(graph, f"copy{copy}", packed, bias, signature)
        name = graph.node(signature.name, inputs, f"copy{copy}", domain=DOMAIN, **_geometry(shape, True))
        ends.append(_touch(graph, shape, name))
    return graph.finish(ends)


def dense_gemm(batch: int, weight: FloatArray, bias: FloatArray, seed: int = 0) -> Timed:
    """One Gemm of x[batch, I] with weight[O, I]."""
    graph = _Graph()
    graph.feed("x", (batch, weight.shape[1]), np.random.default_rng(seed))
    inputs = ["x", graph.constant("weight", weight), graph.constant("bias", bias)]
    return graph.finish([graph.node("Gemm", inputs, "gemm", transB=1)])


def sparse_gemm(batch: int, packed: Packed, bias: FloatArray, seed: int = 0) -> Timed:
    """One SparseGemm of x[batch, I]; the model needs the library."""
    graph = _Graph()
    graph.feed("x", (batch, packed.shape[1]), np.random.default_rng(seed))
    signature = _signature(packed, "none", False, "SparseGemm")
    inputs = _packed_inputs(graph, "gemm", packed, bias, signature)
    return graph.finish([graph.node(signature.name, inputs, "gemm", domain=DOMAIN)])


class _Graph:
    """Nodes, constants and inputs that grow."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.feeds: dict[str, FloatArray] = {}

    def feed(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
        self.feeds[name] = rng.standard_normal(shape, np.float32)

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def producer(self, name: str, channels: int, rng: np.random.Generator) -> str:
        """A 1 × 1 convolution of the input `name`, in the layout that ONNX Runtime prefers."""
        weight = sparse_weight((channels, PRODUCER_CHANNELS, 1, 1), 1.0, 1, rng)
        return self.node("Conv", [name, self.constant(f"{name}.weight", weight)], f"{name}.made")

    def finish(self, ends: Sequence[str]) -> Timed:
        """The model whose output is the sum of `ends`."""
        self.node("Sum", ends, "y")
        inputs = [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape)
            for name, array in self.feeds.items()
        ]
        output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "chain", inputs, [output], list(self.constants.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=LEAST_IR)
        return Timed(model.SerializeToString(), self.feeds)


def _geometry(shape: ConvShape, sparse: bool) -> dict[str, Any]:
    dilations = {"dilations": (1, 1)} if sparse else {}
    return {"strides": (shape.stride,) * 2, "pads": (shape.pad,) * 4, "group": shape.group, **dilations}


def _touch(graph: _Graph, shape: ConvShape, name: str) -> str:
    """Reads one pixel of every channel."""
    return graph.node("MaxPool", [name], f"{name}.pixel", kernel_shape=(1, 1), strides=shape.out_spatial)


def _activation(graph: _Graph, activation: str, name: str) -> str:
    match activation:
        case "none":
            return name
        case "relu" | "sigmoid":
            return graph.node(activation.capitalize(), [name], f"{name}.{activation}")
        case "clip":
            return graph.node("Clip", [name, *_limits(graph)], f"{name}.clip")
        case "silu":
            return graph.node("Mul", [name, graph.node("Sigmoid", [name], f"{name}.sigmoid")], f"{name}.silu")
        case _:
            raise ValueError(f"expected none, relu, sigmoid, clip or silu, but got {activation}")


def _limits(graph: _Graph) -> tuple[str, str]:
    return graph.constant("zero", np.array(0, np.float32)), graph.constant("six", np.array(6, np.float32))


def _signature(packed: Packed, activation: Any, residual: bool, operator: Any = "SparseConv") -> Signature:
    if activation in WITH_ALPHA:
        raise ValueError(f"expected an activation without alpha, but got {activation}")
    return Signature(operator, packed.format, packed.orientation, residual, activation)


def _packed_inputs(graph: _Graph, name: str, packed: Packed, bias: FloatArray, signature: Signature) -> list[str]:
    """The inputs of a node in the contract's order."""
    arrays: dict[str, npt.NDArray[Any]] = {
        "shape": np.array(packed.shape, np.int64),
        "row_ptr": packed.row_ptr,
        "columns": packed.columns,
        "values": packed.values,
        "bias": bias,
    }
    shared = {"x": "x", "residual": "residual", "min": "zero", "max": "six"}
    if "min" in signature.inputs:
        _limits(graph)
    return [
        graph.constant(f"{name}.{formal}", arrays[formal]) if formal in arrays else shared[formal]
        for formal in signature.inputs
    ]
