"""Readers: the layers of channel groups, as matrices whose rows are given and whose columns are read.

A reader's output is linear in the columns of its input: y = Σ_g W_g x_g, with one part per group of a convolution,
W_g[out / groups, in / groups * taps] over im2col patches. A ConvTranspose is linear in the channels of one pixel:
W[out * taps, in]; that its taps overlap in the output is left out. What is known of x is the `Moment` of the layer's
input: about the mean where a constant bias can take up the mean error, else about zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom_runtime.errors import UsageError

from lissom.graph.channels.coupling import Coupling
from lissom.graph.geometry import Geometry
from lissom.graph.layers import Layer
from lissom.graph.model import Model, Node, constant
from lissom.observe import Moment
from lissom.options import FloatArray
from lissom.rewrite import own_bias, replace_bias


@dataclass(frozen=True)
class Reader:
    """A layer seen from its columns.

    Attributes:
        layer: what `lissom.observe.observe_moments` takes; its geometry is that of the columns.
        groups: of the convolution.
        spread: rows of the matrix for one output channel (the taps of a ConvTranspose).
    """

    layer: Layer
    groups: int = 1
    spread: int = 1

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.layer.name

    @property
    def has_free_bias(self) -> bool:
        """Whether the bias can take up a mean error."""
        return self.layer.op != "ConvTranspose" and own_bias(self.layer) is not None

    def bias(self) -> npt.NDArray[np.float32]:
        """The bias[out channels], zeros where there is none.

        Raises:
            ValueError: it is computed, or the layer cannot have one.
        """
        own = own_bias(self.layer)
        if own is None:
            raise ValueError(f"expected a Conv or Gemm with a constant bias or none, but {self.name!r} has another")
        return own

    def parts(self) -> list[FloatArray]:
        """The weight[out / groups, columns / groups] of each group."""
        folded = self.layer.weight.astype(np.float64).reshape(self.groups, -1, self.part_columns)
        return list(folded)

    def norms(self, order: int) -> FloatArray:
        """The sums[out channels] of |w| (order 1) or w² (order 2) over the weights that give each channel."""
        folded = np.abs(self.layer.weight.astype(np.float64)).reshape(len(self.layer.weight), -1)
        sums: FloatArray = (folded**order).sum(axis=1).reshape(-1, self.spread).sum(axis=1)
        return sums

    @property
    def part_columns(self) -> int:
        """Columns of one part."""
        return self.layer.geometry.columns // self.groups

    def of_part(self, part: int, values: FloatArray) -> FloatArray:
        """That of a moment[columns, columns] or mean[columns] which belongs to one part."""
        own = slice(part * self.part_columns, (part + 1) * self.part_columns)
        found: FloatArray = values[own, own] if values.ndim == 2 else values[own]
        return found

    def known(self, moments: Mapping[str, Moment]) -> Moment:
        """The moment of this layer's input.

        Raises:
            UsageError: there is none.
        """
        if self.name not in moments:
            raise UsageError(f"expected a moment of the input of every layer that reads channels, not of {self.name!r}")
        return moments[self.name]

    def moment(self, moments: Mapping[str, Moment]) -> tuple[FloatArray, FloatArray | None]:
        """The moment[columns, columns] that counts, and the mean[columns] that the bias takes up, or None.

        Raises:
            UsageError: there is no moment of this layer.
        """
        known = self.known(moments)
        return (known.centred(), known.mean) if self.has_free_bias else (known.about_zero(), None)

    def columns_of(self, positions: npt.NDArray[np.int64], part: int) -> npt.NDArray[np.int64]:
        """The columns[n, c] of one part that input channels positions[n, k] are, which have as many in every part."""
        taps, width = self.layer.geometry.taps, self.layer.geometry.in_channels // self.groups
        inside = positions[positions // width == part].reshape(len(positions), -1) % width
        columns: npt.NDArray[np.int64] = (inside[:, :, None] * taps + np.arange(taps)).reshape(len(positions), -1)
        return columns

    def write(self, node: Node, weight: npt.NDArray[Any], bias: npt.NDArray[Any] | None) -> None:
        """Gives the node of this layer in a copy of the model another weight, as it stores it, and another bias.

        Args:
            node: the node.
            weight: weight[out, columns / groups].
            bias: bias[out], or None where it stays.
        """
        values = weight.astype(np.float32).reshape(self.layer.weight.shape)
        shape = node.inputs[1].values.shape
        if self.layer.op == "ConvTranspose":
            values = values.reshape(self.groups, -1, self.part_columns).swapaxes(1, 2).reshape(shape)
        elif self.layer.op == "MatMul" or (self.layer.op == "Gemm" and not node.attrs.get("transB", 0)):
            values = values.T
        if self.layer.op == "Gemm":
            node.attrs["alpha"] = 1.0
        node.inputs[1] = constant(node.inputs[1].name, np.ascontiguousarray(values))
        if bias is not None:
            replace_bias(replace(self.layer, node=node), bias)


def find_readers(model: Model, coupling: Coupling, layers: Sequence[Layer]) -> dict[str, Reader]:
    """The layers that give or read channels, by name; those whose weight is not float32 are left out.

    Args:
        model: the model that was analysed.
        coupling: which channels are one.
        layers: the layers of the model, by `lissom.graph.layers.find_layers`.
    """
    known = {layer.name: layer for layer in layers}
    found = {}
    for node in model.graph.nodes:
        if node.name not in coupling.rows:
            continue
        if node.name in known:
            found[node.name] = Reader(known[node.name])
        elif node.inputs[1].values.dtype == np.float32 and node.op in ("Conv", "ConvTranspose"):
            found[node.name] = _grouped(node) if node.op == "Conv" else _transposed(node)
    return found


def _grouped(node: Node) -> Reader:
    """A grouped convolution; its geometry has all columns of its input."""
    weight, groups = node.inputs[1].values, int(node.attrs["group"])
    axes = weight.ndim - 2
    auto_pad = node.attrs.get("auto_pad", "NOTSET")
    explicit = auto_pad in ("NOTSET", "VALID")
    geometry = Geometry(
        weight.shape[0],
        weight.shape[1] * groups,
        weight.shape[2:],
        tuple(node.attrs.get("strides", (1,) * axes)),
        tuple(node.attrs.get("dilations", (1,) * axes)),
        tuple(node.attrs.get("pads", (0,) * (2 * axes))) if explicit else (0,) * (2 * axes),
        "NOTSET" if explicit else auto_pad,
    )
    return Reader(Layer(node.name, "Conv", node, weight, geometry, weight.ndim), groups)


def _transposed(node: Node) -> Reader:
    """A ConvTranspose as the 1 x 1 convolution that gives all taps of every pixel."""
    weight, groups = node.inputs[1].values, int(node.attrs.get("group", 1))
    axes = weight.ndim - 2
    channels, outs = weight.shape[0], prod(weight.shape[1:]) * groups
    matrix = (
        weight.reshape(groups, channels // groups, -1).swapaxes(1, 2).reshape(outs, channels // groups, *[1] * axes)
    )
    geometry = Geometry(outs, channels, (1,) * axes, (1,) * axes, (1,) * axes, (0,) * (2 * axes))
    return Reader(
        Layer(node.name, "ConvTranspose", node, matrix, geometry, weight.ndim), groups, prod(weight.shape[2:])
    )
