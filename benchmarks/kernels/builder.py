"""Builds a network layer by layer: ONNX nodes, random weights that keep activations at a sane size, and its shapes.

Every tensor carries an estimate of its mean square; the weights of the layer that reads it are scaled by it (and by
their density) so that sums have variance 1 before the activation, however deep the network. Residual sums grow slowly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.kernels.shapes import ConvShape
from benchmarks.kernels.sparsity import FloatArray, fitting_block, sparse_weight

OPSET = 17
LEAST_IR = 8
IMAGE = 224

Which = Literal["all but first", "pointwise"]

MEAN_SQUARE: Mapping[str, float] = MappingProxyType({"none": 1, "relu": 0.5, "clip": 0.5, "silu": 0.36, "sigmoid": 0.3})
"""Of an activation of a standard normal number."""


@dataclass(frozen=True)
class Pruning:
    """What is pruned, and how far: `block` consecutive output channels share a pattern.

    Where `block` does not divide a layer's output channels, the largest smaller one that does is taken.

    Attributes:
        density: share of blocks that are kept.
        which: all convolutions but the first, or those with 1 × 1 kernels; never depthwise ones, nor those of
            squeeze-excite blocks, which work on one pixel.
    """

    density: float = 1.0
    block: int = 1
    which: Which = "all but first"

    def applies(self, layer: str) -> bool:
        """Whether convolutions of a layer class (`shapes.LAYERS`) are pruned."""
        return layer == "pointwise" or (layer == "spatial" and self.which == "all but first")


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: [1, channels, height, width], with its estimated mean square."""

    name: str
    channels: int
    height: int
    width: int
    mean_square: float = 1.0


@dataclass
class Builder:
    """A graph that grows.

    Attributes:
        rng: of the weights; None makes no weights, so that only `shapes` and `linears` are of use.
        shapes: the convolutions so far, each with count 1.
        linears: (in, out) features of the fully connected layers so far.
    """

    network: str
    pruning: Pruning
    rng: np.random.Generator | None
    shapes: list[ConvShape] = field(default_factory=list)
    linears: list[tuple[int, int]] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all convolutions and fully connected layers."""
        return sum(shape.macs for shape in self.shapes) + sum(map(prod, self.linears))

    def image(self) -> Value:
        """The input of the network."""
        return Value("image", 3, IMAGE, IMAGE)

    def conv(
        self,
        x: Value,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        group: int = 1,
        activation: str = "none",
        residual: Value | None = None,
    ) -> Value:
        """activation(Conv(x) + bias [+ residual]) with "same" padding."""
        shape = ConvShape(
            *(self.network, self._layer(x, kernel, group), 1, x.channels, channels, kernel, stride, kernel // 2, group),
            *(x.height, x.width, activation, residual is not None),
        )
        self.shapes.append(shape)
        name = f"conv{len(self.shapes)}"
        if self.rng is not None:
            pruned = self.pruning.applies(shape.layer)
            density = self.pruning.density if pruned else 1.0
            block = fitting_block(self.pruning.block, channels)
            self._constant(f"{name}.weight", sparse_weight(shape.weight_shape, density, block, self.rng, x.mean_square))
            self._bias(f"{name}.bias", channels)
        pads = (shape.pad,) * 4
        geometry = {"kernel_shape": (kernel,) * 2, "strides": (stride,) * 2, "pads": pads, "group": group}
        last = self._node("Conv", [x.name, f"{name}.weight", f"{name}.bias"], name, **geometry)
        carried = 0.0
        if residual is not None:
            last = self._node("Add", [last, residual.name], f"{name}.add")
            carried = residual.mean_square
        return Value(
            self._activation(last, activation), channels, *shape.out_spatial, carried + MEAN_SQUARE[activation]
        )

    def max_pool(self, x: Value, kernel: int, stride: int, pad: int) -> Value:
        """MaxPool; the largest of several has about twice the mean square."""
        pads = (pad,) * 4
        name = self._node("MaxPool", [x.name], None, kernel_shape=(kernel,) * 2, strides=(stride,) * 2, pads=pads)
        height, width = ((extent + 2 * pad - kernel) // stride + 1 for extent in (x.height, x.width))
        return Value(name, x.channels, height, width, 2 * x.mean_square)

    def average(self, x: Value) -> Value:
        """GlobalAveragePool; about a third of the mean square of what an activation gives is its mean."""
        return Value(self._node("GlobalAveragePool", [x.name], None), x.channels, 1, 1, 0.3 * x.mean_square)

    def squeeze_excite(self, x: Value, channels: int) -> Value:
        """The product of x and sigmoid(Conv(silu(Conv(mean of x)))), with `channels` between the convolutions."""
        gate = self.conv(
            self.conv(self.average(x), channels, 1, activation="silu"), x.channels, 1, activation="sigmoid"
        )
        name = self._node("Mul", [x.name, gate.name], None)
        return Value(name, x.channels, x.height, x.width, gate.mean_square * x.mean_square)

    def linear(self, x: Value, features: int, activation: str = "none") -> Value:
        """activation(Gemm(x) + bias) on the flattened tensor."""
        width = x.channels * x.height * x.width
        self.linears.append((width, features))
        name = f"linear{len(self.linears)}"
        if self.rng is not None:
            self._constant(f"{name}.weight", sparse_weight((features, width), 1.0, 1, self.rng, x.mean_square))
            self._bias(f"{name}.bias", features)
        flat = x.name if (x.height, x.width) == (1, 1) and "linear" in x.name else self._node("Flatten", [x.name], None)
        last = self._node("Gemm", [flat, f"{name}.weight", f"{name}.bias"], name, transB=1)
        return Value(self._activation(last, activation), features, 1, 1, MEAN_SQUARE[activation])

    def model(self, logits: Value) -> onnx.ModelProto:
        """The network that ends in `logits`.

        Raises:
            ValueError: the builder has made no weights.
        """
        if self.rng is None:
            raise ValueError("expected a builder with weights, but got one that only counts")
        self.nodes.append(helper.make_node("Identity", [logits.name], ["logits"], "logits"))
        graph = helper.make_graph(
            self.nodes,
            self.network,
            [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, (1, 3, IMAGE, IMAGE))],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, (1, logits.channels))],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=LEAST_IR)

    def _layer(self, x: Value, kernel: int, group: int) -> str:
        if not self.shapes:
            return "stem"
        if group > 1:
            return "depthwise"
        if (x.height, x.width) == (1, 1):
            return "squeeze"
        return "pointwise" if kernel == 1 else "spatial"

    def _activation(self, name: str, activation: str) -> str:
        match activation:
            case "none":
                return name
            case "relu" | "sigmoid":
                return self._node(activation.capitalize(), [name], f"{name}.{activation}")
            case "clip":
                for limit, value in (("zero", 0.0), ("six", 6.0)):
                    if all(tensor.name != limit for tensor in self.constants):
                        self._constant(limit, np.float32(value))
                return self._node("Clip", [name, "zero", "six"], f"{name}.clip")
            case _:
                gate = self._node("Sigmoid", [name], f"{name}.sigmoid")
                return self._node("Mul", [name, gate], f"{name}.silu")

    def _bias(self, name: str, size: int) -> None:
        assert self.rng is not None
        self._constant(name, 0.1 * self.rng.standard_normal(size, np.float32))

    def _constant(self, name: str, values: FloatArray | np.float32) -> None:
        self.constants.append(numpy_helper.from_array(np.asarray(values, np.float32), name))

    def _node(self, op: str, inputs: list[str], name: str | None, **attributes: Any) -> str:
        name = name or f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name
