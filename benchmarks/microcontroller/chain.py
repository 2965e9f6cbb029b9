"""A network as a chain of layers, which is what the program for the microcontroller can run.

1. The graph is one chain: each node reads what the one before it gave.
2. Its nodes are convolutions over images (stride 1, no padding, no dilation, square kernel), linear layers, Relu,
   MaxPool (square windows side by side, no padding) and Flatten.
3. Relu and MaxPool follow a layer, MaxPool a convolution and once only. Relu keeps the order of values, so it does not
   matter which of the two comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom.canonical import Canonical
from lissom.graph.geometry import Geometry
from lissom.graph.layers import Layer
from lissom.graph.model import Node
from lissom.rewrite import own_bias

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Stage:
    """One layer with what follows it.

    Attributes:
        name: of the layer.
        weight: weight[f, P], P = channels · kernel².
        bias: bias[f].
        kernel: side of the kernel; 0 for a linear layer.
        shape: channels, height and width of the input; (P, 1, 1) for a linear layer.
        relu: whether negative outputs become 0.
        pool: side of the windows of which the largest value is kept; 1 for none.
    """

    name: str
    weight: Array
    bias: Array
    kernel: int
    shape: tuple[int, int, int]
    relu: bool = False
    pool: int = 1

    @property
    def geometry(self) -> Geometry:
        """As the passes of lissom know the layer."""
        f, columns = self.weight.shape
        return Geometry(f, self.shape[0], (self.kernel,) * 2) if self.kernel else Geometry(f, columns)

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the layer gives, before pooling."""
        _, height, width = self.shape
        cut = self.kernel - 1 if self.kernel else 0
        return len(self.weight), height - cut, width - cut


def read_chain(canonical: Canonical) -> list[Stage]:
    """The stages of a network.

    Raises:
        ValueError: the network is none of those described above.
    """
    layers = {layer.name: layer for layer in canonical.layers}
    stages: list[Stage] = []
    before = canonical.model.inputs[0].name
    for node in canonical.model.graph.nodes:
        if node.inputs[0].name != before:
            raise ValueError(f"expected {node.name!r} to read {before!r}, but got {node.inputs[0].name!r}")
        before = node.outputs[0].name
        if node.name in layers:
            stages.append(_stage(layers[node.name]))
        elif node.op == "Relu" and stages:
            stages[-1] = replace(stages[-1], relu=True)
        elif node.op == "MaxPool" and stages and stages[-1].kernel and stages[-1].pool == 1:
            stages[-1] = replace(stages[-1], pool=_window(node))
        elif node.op != "Flatten":
            raise ValueError(
                f"expected a layer, Relu, one MaxPool behind a Conv, or Flatten, but got {node.name!r}, {node.op}"
            )
    return stages


def columns_of(stage: Stage, x: Array) -> Array:
    """The columns[P, positions] of the weight that a stage multiplies, of x[channels, height, width] or x[P]."""
    if not stage.kernel:
        return x.reshape(-1, 1)
    x = x.reshape(stage.shape)
    windows = np.lib.stride_tricks.sliding_window_view(x, (stage.kernel, stage.kernel), axis=(1, 2))
    columns: Array = windows.transpose(0, 3, 4, 1, 2).reshape(stage.weight.shape[1], -1)
    return columns


def pooled(stage: Stage, y: Array) -> Array:
    """What is left of y[f, positions] behind a stage's MaxPool, flat."""
    f, height, width = stage.out_shape
    side = stage.pool
    kept = y.reshape(f, height, width)[:, : height // side * side, : width // side * side]
    windows = kept.reshape(f, height // side, side, width // side, side)
    largest: Array = windows.max(axis=(2, 4)).ravel()
    return largest


def infer(stages: Sequence[Stage], x: Array) -> list[Array]:
    """What each stage gives for one input x[channels, height, width], flat; the last one's is the output."""
    found = []
    for stage in stages:
        y = stage.weight @ columns_of(stage, x) + stage.bias[:, None]
        x = pooled(stage, np.maximum(y, 0) if stage.relu else y)
        found.append(x)
    return found


def _stage(layer: Layer) -> Stage:
    """A layer as a stage.

    Raises:
        ValueError: it is a convolution of another kind, or is applied more than once.
    """
    geometry = layer.geometry
    if geometry.rows != 1:
        raise ValueError(f"expected {layer.name!r} to be applied to one sample, but got {geometry.rows}")
    kernel = geometry.kernel_shape
    plain = set(geometry.strides) | set(geometry.dilations) <= {1} and not any(geometry.pads)
    if kernel and (len(kernel) != 2 or len(set(kernel)) != 1 or not plain or geometry.auto_pad != "NOTSET"):
        raise ValueError(f"expected a square kernel, stride 1 and no padding, but {layer.name!r} has {geometry}")
    bias = own_bias(layer)
    height, width = geometry.in_spatial if kernel else (1, 1)
    return Stage(
        layer.name,
        layer.folded.astype(np.float64),
        np.zeros(geometry.out_channels) if bias is None else bias.astype(np.float64),
        kernel[0] if kernel else 0,
        (geometry.in_channels, height, width),
    )


def _window(node: Node) -> int:
    """The side of a MaxPool's windows.

    Raises:
        ValueError: they are not square, not side by side, or padded.
    """
    side = int(node.attrs["kernel_shape"][0])
    asked = {"kernel_shape": [side, side], "strides": [side, side], "pads": [0] * 4, "dilations": [1, 1]}
    given = {name: list(node.attrs.get(name, default)) for name, default in (asked | {"strides": [1, 1]}).items()}
    plain = node.attrs.get("auto_pad", "NOTSET") == "NOTSET" and not node.attrs.get("ceil_mode", 0)
    if given != asked or not plain:
        raise ValueError(f"expected square windows side by side without padding, but {node.name!r} has {node.attrs}")
    return side
