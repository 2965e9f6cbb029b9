"""The window that a convolution or a pooling slides over its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from lissom.graph.geometry import Geometry
from lissom.observe import resolve_pads
from lissom.train.node import Node


@dataclass(frozen=True)
class Window:
    """Kernel, strides, dilations and pads per spatial axis.

    Attributes:
        kernel: extents.
        strides, dilations: as in ONNX.
        begin, end: pads before and behind each axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """What the kernel covers per axis, dilation included."""
        return tuple((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilations, strict=True))


def read_window(node: Node, kernel: Sequence[int], spatial: Sequence[int]) -> Window:
    """The window of `node` with a kernel of these extents on an input of `spatial` extent."""
    axes = len(kernel)
    strides = tuple(node.get("strides", [1] * axes))
    dilations = tuple(node.get("dilations", [1] * axes))
    auto_pad = node.get("auto_pad", "NOTSET")
    pads = tuple(node.get("pads", [0] * (2 * axes))) if auto_pad == "NOTSET" else (0,) * (2 * axes)
    geometry = Geometry(1, 1, tuple(kernel), strides, dilations, pads, auto_pad)
    begin, end = resolve_pads(geometry, spatial)
    return Window(tuple(kernel), strides, dilations, begin, end)


def pad_argument(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Pads per axis in the order of `torch.nn.functional.pad`: the last axis first, begin and end together."""
    return list(chain.from_iterable(reversed(list(zip(begin, end, strict=True)))))
