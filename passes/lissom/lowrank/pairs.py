"""The pair that replaces a layer: geometry and cost of encoder and decoder.

With κ_enc and κ_dec the taps that the folding gives to each factor (κ_enc κ_dec = taps),
a pair of rank j with k groups stores

    input side     j (k f κ_dec + c κ_enc)         j ≤ min(f κ_dec, c κ_enc / k)
    output side    j (f κ_dec + k c κ_enc)         j ≤ min(f κ_dec / k, c κ_enc)

values. Stride, padding and dilation of an axis go with the factor that owns the axis; the
other factor has 1, 0 and 1 there. Zero padding may move to the decoder because the encoder
has no bias: it maps zeros to zeros. Each factor is counted at its own output size, so an
encoder that does not own a strided axis runs at the input's extent there. All costs are
proportional to the rank.

`auto_pad` is copied to both factors: an axis of extent 1 and stride 1 pads nothing under
any of its values.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

from lissom.graph.geometry import Geometry
from lissom.lowrank.foldings import Scheme, Side, decoder_axes


@dataclass(frozen=True)
class Factor:
    """One convolution (or linear layer) of a pair.

    Attributes:
        geometry: its arithmetic, as if it had no groups.
        groups: the ONNX `group` attribute.
    """

    geometry: Geometry
    groups: int

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the ONNX weight: [out_channels, in_channels / groups, *kernel_shape]."""
        geometry = self.geometry
        return (geometry.out_channels, geometry.in_channels // self.groups, *geometry.kernel_shape)

    @property
    def params(self) -> int:
        """Elements of the weight."""
        return prod(self.weight_shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run, padding counted."""
        return self.geometry.macs // self.groups


@dataclass(frozen=True)
class Pair:
    """Encoder and decoder, in the order in which they run."""

    encoder: Factor
    decoder: Factor

    @property
    def params(self) -> int:
        """Elements of both weights."""
        return self.encoder.params + self.decoder.params

    @property
    def bytes(self) -> int:
        """Bytes of both weights in float32."""
        return 4 * self.params

    @property
    def macs(self) -> int:
        """Multiply-accumulates of both."""
        return self.encoder.macs + self.decoder.macs


def sliced_channels(geometry: Geometry, side: Side) -> int:
    """The channels that are sliced on that side: the number of groups must divide them."""
    return geometry.in_channels if side == "input" else geometry.out_channels


def max_rank(geometry: Geometry, scheme: Scheme) -> int:
    """The rank at which every slice of the folded matrix is represented exactly.

    Raises:
        ValueError: the layer has no such folding, or `groups` does not divide its channels.
    """
    channels = sliced_channels(geometry, scheme.side)
    if channels % scheme.groups:
        raise ValueError(f"{scheme.groups} groups do not divide {channels} {scheme.side} channels")
    owned = decoder_axes(scheme.folding, len(geometry.kernel_shape))
    rows = geometry.out_channels * prod(geometry.kernel_shape[axis] for axis in owned)
    columns = geometry.weight_size // rows
    if scheme.side == "input":
        return min(rows, columns // scheme.groups)
    return min(rows // scheme.groups, columns)


def pair(geometry: Geometry, scheme: Scheme, rank: int) -> Pair:
    """The pair of `rank` per slice that replaces a layer of `geometry`.

    Raises:
        ValueError: the scheme does not fit the layer, or the rank is not in 1 .. max_rank.
    """
    limit = max_rank(geometry, scheme)
    if not 1 <= rank <= limit:
        raise ValueError(f"expected a rank in 1 .. {limit}, got {rank}")
    axes = range(len(geometry.kernel_shape))
    owned = decoder_axes(scheme.folding, len(axes))
    between = scheme.groups * rank
    middle = tuple(geometry.in_spatial[a] if a in owned else geometry.out_spatial[a] for a in axes)
    encoder = _factor(geometry, geometry.in_channels, between, geometry.in_spatial, middle, set(axes) - set(owned))
    decoder = _factor(geometry, between, geometry.out_channels, middle, geometry.out_spatial, owned)
    on_input = scheme.side == "input"
    return Pair(
        Factor(encoder, scheme.groups if on_input else 1),
        Factor(decoder, 1 if on_input else scheme.groups),
    )


def _factor(
    geometry: Geometry,
    in_channels: int,
    out_channels: int,
    in_spatial: tuple[int, ...],
    out_spatial: tuple[int, ...],
    owned: Collection[int],
) -> Geometry:
    """The layer's geometry on the `owned` axes, and 1 tap, stride 1, no padding on the others."""
    axes = len(geometry.kernel_shape)

    def own(values: tuple[int, ...], otherwise: int) -> tuple[int, ...]:
        return tuple(value if n % axes in owned else otherwise for n, value in enumerate(values))

    return Geometry(
        out_channels=out_channels,
        in_channels=in_channels,
        kernel_shape=own(geometry.kernel_shape, 1),
        strides=own(geometry.strides, 1),
        dilations=own(geometry.dilations, 1),
        pads=own(geometry.pads, 0),
        auto_pad=geometry.auto_pad,
        in_spatial=in_spatial,
        out_spatial=out_spatial,
        rows=geometry.rows,
    )
