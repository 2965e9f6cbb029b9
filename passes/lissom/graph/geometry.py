"""`Geometry`: the shape of a layer's arithmetic, apart from any graph."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Geometry:
    """What a Conv or a Gemm/MatMul with constant weight computes per run.

    A linear layer is a convolution with an empty `kernel_shape`.

    Attributes:
        out_channels: f, rows of the folded weight.
        in_channels: c.
        kernel_shape: kernel extent per spatial axis; empty for a linear layer.
        strides, dilations: per spatial axis.
        pads: begin of each axis, then end of each axis (the ONNX order).
        auto_pad: the ONNX attribute when it is not NOTSET; then `pads` are zeros.
        in_spatial, out_spatial: spatial extent of input and output at the stated input shape.
            A linear layer has none.
        rows: how often the weight is applied besides the spatial positions
            (the batch, and the leading axes of a MatMul).
    """

    out_channels: int
    in_channels: int
    kernel_shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"
    in_spatial: tuple[int, ...] = ()
    out_spatial: tuple[int, ...] = ()
    rows: int = 1

    @property
    def taps(self) -> int:
        """Positions of the kernel (1 for a linear layer)."""
        return prod(self.kernel_shape)

    @property
    def columns(self) -> int:
        """Columns of the weight folded as [out_channels, in_channels * taps]."""
        return self.in_channels * self.taps

    @property
    def weight_size(self) -> int:
        """Elements of the weight."""
        return self.out_channels * self.columns

    @property
    def out_positions(self) -> int:
        """Output pixels, times `rows`."""
        return prod(self.out_spatial) * self.rows

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run, padding counted."""
        return self.weight_size * self.out_positions
