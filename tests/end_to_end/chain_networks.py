"""Two small networks of the blocks that a chain can be, with random weights whose weakest blocks are zero."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
from onnx import numpy_helper

INPUT = (1, 3, 28, 20)
"""Shape of the input, whose batch is free."""

BLOCK = 4
DENSITY = 0.25


class _Builder:
    """Adds convolutions with what follows them to a graph."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: dict[str, npt.NDArray[np.float32]] = {
            "zero": np.array(0, np.float32),
            "six": np.array(6, np.float32),
        }

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def conv(self, source: str, into: int, out: int, kernel: int = 1, *, stride: int = 1, group: int = 1) -> str:
        """A convolution that keeps the size but for its stride; sparse if it is neither the stem nor depthwise."""
        shape = (out, into // group, kernel, kernel)
        weight = self.rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        if group == 1 and into > INPUT[1]:
            kept = self.rng.random((out // BLOCK, 1, *shape[1:])) < DENSITY
            weight = weight * kept.repeat(BLOCK, axis=1).reshape(shape) / np.sqrt(DENSITY)
        name = f"w{len(self.arrays)}"
        self.arrays[name] = weight.astype(np.float32)
        self.arrays[f"b{name}"] = (self.rng.standard_normal(out) / 10).astype(np.float32)
        pads, strides = [kernel // 2] * 4, [stride] * 2
        return self.node("Conv", source, name, f"b{name}", pads=pads, strides=strides, group=group)

    def relu6(self, source: str) -> str:
        return self.node("Clip", source, "zero", "six")

    def model(self, output: str) -> onnx.ModelProto:
        pooled = self.node("Flatten", self.node("GlobalAveragePool", output))
        graph = onnx.helper.make_graph(
            self.nodes,
            "network",
            [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", *INPUT[1:]])],
            [onnx.helper.make_tensor_value_info(pooled, onnx.TensorProto.FLOAT, ["N", None])],
            [numpy_helper.from_array(array, name) for name, array in self.arrays.items()],
        )
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def mobilenet() -> onnx.ModelProto:
    """A stem, a separable block, four inverted residuals as in MobileNetV2, and one with a gate as in MobileNetV3."""
    net = _Builder()
    x = net.relu6(net.conv("image", 3, 16, 3, stride=2))
    x = net.conv(net.relu6(net.conv(x, 16, 16, 3, group=16)), 16, 8)
    channels = 8
    for out, kernel, stride in ((12, 3, 2), (12, 3, 1), (16, 5, 2), (16, 5, 1)):
        wide = 6 * channels
        hidden = net.relu6(net.conv(x, channels, wide))
        hidden = net.relu6(net.conv(hidden, wide, wide, kernel, stride=stride, group=wide))
        projected = net.conv(hidden, wide, out)
        x = net.node("Add", projected, x) if stride == 1 else projected
        channels = out
    hidden = net.node("HardSwish", net.conv(x, 16, 64))
    hidden = net.node("HardSwish", net.conv(hidden, 64, 64, 3, group=64))
    gate = net.node("HardSigmoid", net.conv(net.node("GlobalAveragePool", hidden), 64, 64))
    return net.model(net.conv(net.node("Mul", hidden, gate), 64, 32))


def resnet() -> onnx.ModelProto:
    """A stem and three bottlenecks as in ResNet-50, each layer with a Relu, the first one's shortcut a convolution."""
    net = _Builder()
    x = net.node("Relu", net.conv("image", 3, 16, 3, stride=2))
    for number in range(3):
        hidden = net.node("Relu", net.conv(x, 16 if number == 0 else 32, 8))
        hidden = net.node("Relu", net.conv(hidden, 8, 8, 3))
        projected = net.conv(hidden, 8, 32)
        x = net.node("Relu", net.node("Add", projected, net.conv(x, 16, 32) if number == 0 else x))
    return net.model(x)
