"""Networks whose channels are coupled in all the ways that real ones are, with small whole weights.

Weights are -1, 0 or 1, activations are clipped to [-4, 4], and means are rounded: all sums are exact in
float32, in any order, so that two graphs that mean the same give identical outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from graph.onnx_text import Arrays
from lissom.canonical import CANONICAL, READING
from lissom.graph.channels.coupling import Coupling, couple, tensors_with_shapes
from lissom.graph.load import from_proto
from lissom.graph.model import Model
from lissom.graph.steps import apply_steps
from lissom.observe import observe_shapes
from onnx import helper, numpy_helper

OPSET = 17


@dataclass(frozen=True)
class Value:
    """A tensor [N, channels, side, side]."""

    name: str
    channels: int
    side: int


@dataclass
class Net:
    """A graph that grows from an input image[N, 3, side, side]."""

    seed: int = 0
    side: int = 8
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def image(self) -> Value:
        return Value("image", 3, self.side)

    def constant(self, values: np.ndarray[Any, Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def numbers(self, *shape: int) -> str:
        return self.constant(self.rng.integers(-1, 2, shape).astype(np.float32))

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name, **attributes))
        return name

    def clip(self, x: str, low: float = -4) -> str:
        return self.node("Clip", x, self.constant(np.float32(low)), self.constant(np.float32(4)))

    def conv(
        self, x: Value, channels: int, kernel: int = 3, stride: int = 1, group: int = 1, act: str = "clip"
    ) -> Value:
        """Convolution with bias and "same" padding, and an activation: "clip", "relu" (clipped too) or "none"."""
        operands = [x.name, self.numbers(channels, x.channels // group, kernel, kernel), self.numbers(channels)]
        pad = kernel // 2
        y = self.node("Conv", *operands, pads=[pad] * 4, strides=[stride] * 2, group=group)
        return Value(self.act(y, act), channels, -(-x.side // stride))

    def act(self, x: str, act: str) -> str:
        return x if act == "none" else self.clip(x, 0 if act == "relu" else -4)

    def norm(self, x: Value) -> Value:
        scale = self.constant(2.0 ** self.rng.integers(-1, 2, x.channels).astype(np.float32))
        variance = self.constant(np.ones(x.channels, np.float32))
        statistics = [scale, self.numbers(x.channels), self.numbers(x.channels), variance]
        return Value(self.clip(self.node("BatchNormalization", x.name, *statistics, epsilon=0.0)), x.channels, x.side)

    def prelu(self, x: Value) -> Value:
        return Value(self.clip(self.node("PRelu", x.name, self.numbers(x.channels, 1, 1))), x.channels, x.side)

    def add(self, x: Value, y: Value, act: str = "relu") -> Value:
        return Value(self.act(self.node("Add", x.name, y.name), act), x.channels, x.side)

    def identity_block(self, x: Value, act: str = "relu") -> Value:
        return self.add(x, self.conv(self.conv(x, x.channels), x.channels, act="none"), act)

    def projection_block(self, x: Value, channels: int, stride: int = 1) -> Value:
        inner = self.conv(x, channels, stride=stride, act="relu")
        return self.add(self.conv(inner, channels, act="none"), self.conv(x, channels, 1, stride, act="none"))

    def padded_block(self, x: Value, extra: int) -> Value:
        """Every second pixel of x with `extra` channels of zeros on either side, and a convolution of stride 2."""
        starts, ends = self.constant(np.zeros(2, np.int64)), self.constant(np.full(2, 2**31 - 1))
        axes, steps = self.constant(np.array([2, 3])), self.constant(np.array([2, 2]))
        short = self.node("Slice", x.name, starts, ends, axes, steps)
        pads = self.constant(np.array([0, extra, 0, 0, 0, extra, 0, 0]))
        padded = Value(self.node("Pad", short, pads), x.channels + 2 * extra, x.side // 2)
        return self.add(self.conv(x, padded.channels, stride=2, act="none"), padded)

    def concat(self, *values: Value) -> Value:
        name = self.node("Concat", *(value.name for value in values), axis=1)
        return Value(name, sum(value.channels for value in values), values[0].side)

    def dense_block(self, x: Value, growth: int) -> Value:
        return self.concat(x, self.conv(x, growth, act="relu"))

    def depthwise(self, x: Value, multiplier: int = 1) -> Value:
        return self.conv(x, multiplier * x.channels, group=x.channels)

    def squeeze_excite(self, x: Value, channels: int) -> Value:
        pooled = Value(self.node("Floor", self.node("GlobalAveragePool", x.name)), x.channels, 1)
        gate = self.conv(self.conv(pooled, channels, 1, act="relu"), x.channels, 1, act="none")
        sure = self.node("HardSigmoid", gate.name, alpha=0.5, beta=0.5)
        return Value(self.node("Mul", x.name, sure), x.channels, x.side)

    def split_block(self, x: Value) -> Value:
        """Half of the channels go through a convolution; the halves change places."""
        name = self.node("Split", x.name, outputs=2, axis=1)
        half = x.channels // 2
        inner = self.conv(Value(f"{name}_0", half, x.side), half)
        return self.concat(Value(f"{name}_1", half, x.side), inner)

    def slices(self, x: Value) -> Value:
        """The first two channels and the others, joined in the other order."""

        def part(first: int, last: int) -> str:
            bounds = [self.constant(np.array([bound])) for bound in (first, last, 1)]
            return self.node("Slice", x.name, *bounds)

        return Value(self.node("Concat", part(2, 2**31 - 1), part(0, 2), axis=1), x.channels, x.side)

    def gather(self, x: Value) -> Value:
        order = self.constant(self.rng.permutation(x.channels))
        return Value(self.node("Gather", x.name, order, axis=1), x.channels, x.side)

    def enlarge(self, x: Value, channels: int) -> Value:
        """ConvTranspose of stride 2."""
        operands = [x.name, self.numbers(x.channels, channels, 2, 2), self.numbers(channels)]
        return Value(self.clip(self.node("ConvTranspose", *operands, strides=[2, 2])), channels, 2 * x.side)

    def channels_last(self, x: Value) -> Value:
        """A MatMul with an Add on the transposed tensor, and back."""
        last = self.node("Transpose", x.name, perm=[0, 2, 3, 1])
        product = self.node("MatMul", last, self.numbers(x.channels, x.channels))
        product = self.node("Add", product, self.numbers(x.channels))
        return Value(self.clip(self.node("Transpose", product, perm=[0, 3, 1, 2])), x.channels, x.side)

    def max_pool(self, x: Value) -> Value:
        return Value(self.node("MaxPool", x.name, kernel_shape=[2, 2], strides=[2, 2]), x.channels, x.side // 2)

    def flat(self, x: Value, how: str) -> str:
        """[N, features] by "Flatten", "Reshape" to a constant shape, or "Shape": to one that is computed."""
        width = x.channels * x.side**2
        if how == "Flatten":
            return self.node("Flatten", x.name)
        if how == "Reshape":
            return self.node("Reshape", x.name, self.constant(np.array([-1, width])))
        batch = self.node("Gather", self.node("Shape", x.name), self.constant(np.array([0])))
        return self.node("Reshape", x.name, self.node("Concat", batch, self.constant(np.array([width])), axis=0))

    def linear(self, x: str, width: int, features: int, trans_b: int = 1) -> str:
        weight = self.numbers(features, width) if trans_b else self.numbers(width, features)
        return self.node("Gemm", x, weight, self.numbers(features), transB=trans_b)

    def model(self, logits: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            [*self.nodes, helper.make_node("Identity", [logits], ["logits"], "logits")],
            "net",
            [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ("N", 3, self.side, self.side))],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ("N", 5))],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)

    def classified(self, x: Value, how: str = "Flatten", trans_b: int = 1) -> onnx.ModelProto:
        return self.model(self.linear(self.flat(x, how), x.channels * x.side**2, 5, trans_b))

    def feeds(self, batch: int = 2) -> Arrays:
        shape = (batch, 3, self.side, self.side)
        return {"image": np.random.default_rng(self.seed).integers(-2, 3, shape).astype(np.float32)}


def analysed(proto: onnx.ModelProto, feeds: Arrays, canonical: bool = True) -> tuple[Model, Coupling]:
    """A model after lissom's lossless steps (or only with names) and its coupling."""
    model = from_proto(proto)
    apply_steps(model, READING)
    if canonical:
        apply_steps(model, CANONICAL)
    return model, couple(model, observe_shapes(model, tensors_with_shapes(model), feeds))
