"""The memory that a run of a layer takes from each thread, so that none is lowered whose run the kernels would refuse.

The kernels pack activations into a scratch that every thread keeps. It is large for tall kernels and wide dilations,
and more than `contract.MOST_SCRATCH_BYTES` is an error of the run. With C channels in a group, kernel [kh, kw], the
height's dilation d and stride s, and rows of W outputs, the panel of a convolution has

    C min(s, (kh - 1) d + 1) kw   rows of   tile + ((kh - 1) d // s) W   elements,

that of a product as many rows as the weight has columns. In a chain the middle layer's input lies there as far as the
taps reach, beside what expand reads, what the next rows read again, and what project reads.

A plan takes the smallest tile (24 outputs of a convolution, 32 rows of a product, 1 row of outputs of a chain) where
the scratch does not fit the caches, far below the limit; that is the tile here. What grows with the L2 cache of a core
is counted for one of 2 MiB. A chain that begins with a depthwise layer takes bands of more rows where its strides are
in the hundreds, and then more scratch than is said here.

Source: `runtime/kernels`, the plans of sparse_conv, sparse_gemm and sparse_chain, to which the tests hold this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lissom_runtime.contract import MOST_SCRATCH_BYTES

from lissom.lowering.emit import Convolution

_FLOAT32 = 4
_SLACK = 16
"""Elements that a kernel may read behind its panel."""

_LEAST_OUTPUTS = 24
_LEAST_ROWS = 32
_FEW_ROWS = 3
"""Rows of a product up to which nothing is packed."""

_STAGED = 64
"""Output channels of a product that are transposed at a time."""

_CHAIN_TILE = 160 * 1024
"""Elements of x that a chain with a sparse layer in the middle expands at a time, where a core has 2 MiB of L2 cache;
elsewhere fewer."""

_CHAIN_GROUP = 4
"""Channels that are expanded at a time before a depthwise layer, if a block has no more."""


@dataclass(frozen=True)
class Middle:
    """The layer in the middle of a chain.

    Attributes:
        convolution: its geometry.
        weight_shape: [out_channels, in_channels / group, kernel_height, kernel_width].
        expand: input channels and block of the layer before it, or None.
        has_project: whether a layer follows it.
    """

    convolution: Convolution
    weight_shape: Sequence[int]
    expand: tuple[int, int] | None
    has_project: bool


def obstacle(scratch: int) -> str | None:
    """Why the kernels refuse to run with a scratch of so many bytes, or None."""
    if scratch <= MOST_SCRATCH_BYTES:
        return None
    return f"a run at this input shape takes {scratch:,} bytes of scratch; expected {MOST_SCRATCH_BYTES:,} at most"


def of_convolution(convolution: Convolution, weight_shape: Sequence[int], spatial: Sequence[int]) -> int:
    """Bytes of scratch of a SparseConv.

    Args:
        convolution: its geometry.
        weight_shape: [out_channels, in_channels / group, kernel_height, kernel_width].
        spatial: height and width of its input.
    """
    _, channels, height, width = weight_shape
    rows, columns = _outputs(convolution, weight_shape, spatial)
    reach, stride = (height - 1) * convolution.dilations[0], convolution.strides[0]
    planes = channels * min(stride, reach + 1) * width
    tile = min(_LEAST_OUTPUTS, rows * columns)
    return _FLOAT32 * (planes * _pitch(tile + reach // stride * columns) + _SLACK)


def of_product(rows: int, depth: int) -> int:
    """Bytes of scratch of a SparseGemm x[rows, depth]."""
    if rows <= _FEW_ROWS:
        return 0
    pitch = _pitch(_ceil_div(rows, _ceil_div(rows, _LEAST_ROWS)))
    return _FLOAT32 * (depth * pitch + _SLACK + _STAGED * pitch)


def of_chain(middle: Middle, spatial: Sequence[int]) -> int:
    """Bytes of scratch of a SparseChain.

    Args:
        middle: its layers.
        spatial: height and width of its input.
    """
    convolution, (given, per_group, height, width) = middle.convolution, middle.weight_shape
    is_depthwise = convolution.group > 1
    channels = per_group * convolution.group
    (down, across), (dilation, dilation_across) = convolution.strides, convolution.dilations
    columns = _outputs(convolution, middle.weight_shape, spatial)[1]
    in_channels, block = middle.expand or (0, 1)
    span = (height - 1) * dilation + 1
    kept = 0 if middle.expand is None else max(0, span - down)
    phase = _ceil_div((columns - 1) * across + (width - 1) * dilation_across + 1, across)
    sums = given if middle.has_project else 0
    if is_depthwise:
        panel = rows = _pitch(span * phase * across)
        held, fresh, sums_pitch = min(channels, max(_CHAIN_GROUP, block)) * rows, 0, _pitch(columns)
    else:
        panel = _pitch(min(max(_CHAIN_TILE // (in_channels * spatial[1]), 1), span) * spatial[1])
        held = channels * _pitch(down * across * _ceil_div(span, down) * phase)
        fresh, sums_pitch = channels * panel, _pitch(phase)
    again = channels * kept * phase * across
    return _FLOAT32 * (in_channels * panel + fresh + held + again + sums * sums_pitch + 3 * _SLACK)


def _outputs(convolution: Convolution, weight_shape: Sequence[int], spatial: Sequence[int]) -> tuple[int, int]:
    """Height and width of the output."""

    def extent(axis: int) -> int:
        padded = spatial[axis] + convolution.pads[axis] + convolution.pads[2 + axis]
        reach = (weight_shape[2 + axis] - 1) * convolution.dilations[axis]
        return (padded - reach - 1) // convolution.strides[axis] + 1

    return extent(0), extent(1)


def _pitch(length: int) -> int:
    """Elements between rows of a panel that are `length` long: an odd number of vectors of sixteen."""
    return 16 * (_ceil_div(length, 16) | 1)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
