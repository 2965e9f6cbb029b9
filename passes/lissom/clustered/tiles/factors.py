"""The numbers of a tiling: G × H blocks of a weight, each a sum of j rank-one terms.

The weight W[f, c κ] is cut into G blocks of input channels and H of output channels; a block W_gh is [f/H, c κ/G], and

    Ŵ_gh = D_gh E_gh,      D_gh[f/H, j],  E_gh[j, c κ/G],

by truncated singular value decomposition, the best of rank j for every block and so for all in ‖W − Ŵ‖. The H blocks of
one g read the same channels, the G blocks of one h write the same ones:

    x[c] -> conv of the E, in G groups -> [G, H, j] -> channels to [H, G, j] -> 1×1 conv of the D, in H groups -> y[f]

The H rows of blocks are H weights of fewer outputs, each a low-rank pair with G groups of inputs. So what the moment Σ
of the input does is what it does there (`lissom.lowrank.factors`): with one group of inputs the factors
are optimal for tr E Σ Eᵀ, with more each block is optimal under its own part of Σ, and the error is that of all
together.

Which channels are in a block:

1. "consecutive": as they come (tiling). Blocks with G = 1 or H = 1 are low-rank pairs then, of folding 0 with groups of
   outputs or inputs.
2. "clustered": input channels and output channels in clusters of one size (biclustering), chosen in turn for the least
   squares lost in all blocks at `SHARE` of the highest rank, from the consecutive order and from a spectral one; the
   better end is taken. At that rank it is never worse than the consecutive order. The order depends on the weight, G
   and H, not on the rank, so that the error falls along a ladder.

Source: Lee et al., "Learning Low-Rank Approximation for CNNs", 2019, for tiles; Denton et al., "Exploiting Linear
Structure Within Convolutional Networks for Efficient Evaluation", NeurIPS 2014, section 3.3, for biclustering, where a
block is factorised on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import numpy as np

from lissom.clustered.clusters import embedded, order_of, refined, seeded
from lissom.graph.geometry import Geometry
from lissom.lowrank.errors import residual_curve
from lissom.lowrank.factors import Float32Array, check_moment, factors, recompose
from lissom.lowrank.foldings import Array, Scheme
from lissom.lowrank.pairs import Factor
from lissom.options import FloatArray, IntArray, Parameters
from lissom.tucker.propose import chain_of

OrderName = Literal["consecutive", "clustered"]

SHARE = 4
"""Clusters are chosen for the rank that is one part in so many of the highest."""

SWEEPS = 3
"""How often inputs and outputs take turns."""


class Order(NamedTuple):
    """The channels of a weight, block by block.

    Attributes:
        inputs: inputs[c], the input channel at each place.
        outputs: outputs[f], the output channel at each place.
    """

    inputs: IntArray
    outputs: IntArray


@dataclass(frozen=True)
class Tiling:
    """How a weight is cut into tiles; all but the rank.

    Attributes:
        inputs: G, a divisor of the input channels.
        outputs: H, a divisor of the output channels.
        order: which channels are together.
    """

    inputs: int
    outputs: int
    order: OrderName = "consecutive"

    @classmethod
    def of(cls, parameters: Parameters) -> Tiling:
        """The tiling that an option's parameters name."""
        return cls(int(parameters["inputs"]), int(parameters["outputs"]), cast("OrderName", parameters["order"]))

    @property
    def shuffles(self) -> bool:
        """Whether the channels between the factors change their order."""
        return self.inputs > 1 and self.outputs > 1

    def between(self, rank: int) -> IntArray:
        """The encoder's channel, (g, h, j), at each place (h, g, j) of the decoder: places[G·H·rank]."""
        places = np.arange(self.inputs * self.outputs * rank).reshape(self.inputs, self.outputs, rank)
        return places.swapaxes(0, 1).reshape(-1)

    def max_rank(self, geometry: Geometry) -> int:
        """The rank at which every block is exact."""
        return min(geometry.out_channels // self.outputs, geometry.columns // self.inputs)

    def convolutions(self, geometry: Geometry, rank: int) -> tuple[Factor, Factor]:
        """Encoder and decoder in the place of a convolution of `geometry`."""
        encoder, decoder = chain_of(geometry, 0, self.inputs * self.outputs * rank)
        return Factor(encoder, self.inputs), Factor(decoder, self.outputs)


class Tiles(NamedTuple):
    """The factors of all blocks.

    Attributes:
        encoder: encoder[G·H·j, c/G, *kernel] in ONNX layout, channels in the order (g, h, j).
        decoder: decoder[f, G·j, *ones], the input channels of each of the H groups in the order (g, j).
        order: the channels that the encoder reads and the decoder writes.
    """

    encoder: Float32Array
    decoder: Float32Array
    order: Order

    def dense(self, tiling: Tiling) -> Float32Array:
        """The weight[f, c, *kernel] that is meant."""
        g, h = tiling.inputs, tiling.outputs
        apart = self.encoder.reshape(g, h, -1, *self.encoder.shape[1:]).swapaxes(0, 1)
        rows = [
            recompose(inner.reshape(-1, *self.encoder.shape[1:]), outer, "input", g)
            for inner, outer in zip(apart, np.split(self.decoder, h), strict=True)
        ]
        placed = np.concatenate(rows)
        dense = np.empty_like(placed)
        dense[np.ix_(self.order.outputs, self.order.inputs)] = placed
        return dense


def order(weight: Array, tiling: Tiling) -> Order:
    """The order of the channels of weight[f, c, *kernel]."""
    f, c = weight.shape[:2]
    plain = Order(np.arange(c), np.arange(f))
    if tiling.order == "consecutive":
        return plain
    kernel = weight.reshape(f, c, -1).astype(np.float64)
    similar = Order(
        order_of(seeded(embedded(_inputs(kernel, plain, 1), tiling.inputs), tiling.inputs)),
        order_of(seeded(embedded(_outputs(kernel, plain, 1), tiling.outputs), tiling.outputs)),
    )
    first, second = (_settled(kernel, tiling, start) for start in (plain, similar))
    return second[0] if second[1] > first[1] else first[0]


def tiles(weight: Array, tiling: Tiling, rank: int, moment: FloatArray | None = None) -> Tiles:
    """The factors of `rank`.

    Args:
        weight: weight[f, c, *kernel].
        tiling: how it is cut.
        rank: terms kept of every block.
        moment: moment[cκ, cκ], second moment of the input patches; None for plain factors.

    Raises:
        ValueError: the tiling does not fit the weight, the rank is out of range, or the moment of another shape.
    """
    g, h = tiling.inputs, tiling.outputs
    found = order(weight, tiling)
    seen = _placed_moment(weight, found, moment)
    rows = np.split(_placed(weight, found), h)
    pairs = [factors(row, Scheme(0, "input", g), rank, seen) for row in rows]
    encoder = np.stack([inner.reshape(g, rank, *inner.shape[1:]) for inner, _ in pairs], axis=1)
    return Tiles(encoder.reshape(-1, *encoder.shape[3:]), np.concatenate([outer for _, outer in pairs]), found)


def residuals(weight: Array, tiling: Tiling, metric: str, moment: FloatArray | None) -> FloatArray:
    """‖W − Ŵ‖, or √(tr E Σ Eᵀ), of rank 0 … highest: norms[max_rank + 1].

    Args:
        weight: weight[f, c, *kernel].
        tiling: how it is cut.
        metric: "frobenius" or "whitened".
        moment: moment[cκ, cκ] of the input patches, for `whitened`.
    """
    found = order(weight, tiling)
    seen = _placed_moment(weight, found, moment)
    name: Literal["frobenius", "whitened"] = "whitened" if metric == "whitened" else "frobenius"
    squares = [
        residual_curve(row, Scheme(0, "input", tiling.inputs), name, seen) ** 2
        for row in np.split(_placed(weight.astype(np.float64), found), tiling.outputs)
    ]
    norms: FloatArray = np.sqrt(np.sum(squares, axis=0))
    return norms


def _placed(weight: Array, found: Order) -> Array:
    """The weight with its channels in order."""
    return weight[found.outputs][:, found.inputs]


def _placed_moment(weight: Array, found: Order, moment: FloatArray | None) -> FloatArray | None:
    """The moment with its channels in order."""
    if moment is None:
        return None
    check_moment(moment, weight[0].size)
    columns = np.arange(weight[0].size).reshape(weight.shape[1], -1)[found.inputs].reshape(-1)
    placed: FloatArray = moment[np.ix_(columns, columns)]
    return placed


def _settled(kernel: FloatArray, tiling: Tiling, start: Order) -> tuple[Order, float]:
    """The order that taking turns from `start` ends in, and the squares that its blocks capture."""
    f, c, taps = kernel.shape
    g, h = tiling.inputs, tiling.outputs
    dim = max(1, min(f // h, c // g * taps) // SHARE)
    found, total = start, 0.0
    for _ in range(SWEEPS):
        before = total
        labels, _ = refined(_inputs(kernel, found, h), _labels(found.inputs, g), g, dim)
        found = found._replace(inputs=order_of(labels))
        labels, total = refined(_outputs(kernel, found, g), _labels(found.outputs, h), h, dim)
        found = found._replace(outputs=order_of(labels))
        if total <= before:
            break
    return found, total


def _inputs(kernel: FloatArray, found: Order, outputs: int) -> FloatArray:
    """The input channels of kernel[f, c, κ] as items[c, H, f/H, κ]."""
    f, c, taps = kernel.shape
    return kernel[found.outputs].reshape(outputs, f // outputs, c, taps).transpose(2, 0, 1, 3)


def _outputs(kernel: FloatArray, found: Order, inputs: int) -> FloatArray:
    """The output channels of kernel[f, c, κ] as items[f, G, c κ / G, 1]."""
    return kernel[:, found.inputs].reshape(len(kernel), inputs, -1, 1)


def _labels(places: IntArray, clusters: int) -> IntArray:
    """The cluster[n] of every channel, from the channel at each place."""
    labels = np.empty_like(places)
    labels[places] = np.arange(len(places)) // (len(places) // clusters)
    return labels
