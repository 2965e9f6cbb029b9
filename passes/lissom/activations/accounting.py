"""Multiply-accumulates that are left, as the paper counts them and as they are counted on real inputs.

    paper     MAC%_l = weight%_l * activation%_(l-1)
    counted   the multiplications of a weight and an activation that are both other than zero, over all multiplications

weight% is the share of a layer's weights that are not zero, activation% that of the activation which the layer reads in
the end: before pooling, 100 % of a network's input. The paper's figure takes the zeros of weights and of activations as
independent, and does not know what pooling and padding do to them; the counted one is what an accelerator that skips
both would save.

With nx[j] the positions at which column j of a layer's input is not zero, and nw[j] the weights of column j that are
not zero, a layer counts sum_j nx[j] nw[j], out of the positions times the weight's size. Padding is zero, and is among
them.

Source: Integral Pruning on Activations and Weights for Efficient Neural Networks (ICLR 2019 submission), its tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.activations.sites import Sites
from lissom.data import Feeds
from lissom.graph.geometry import Geometry
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.observe import Array, resolve_pads, run_batches
from lissom.options import IntArray

Bools = npt.NDArray[np.bool_]
NOTHING: Mapping[str, Bools] = MappingProxyType({})


@dataclass(frozen=True)
class LayerMacs:
    """What is left of one layer; shares are from 0 to 1.

    Attributes:
        layer: its name.
        macs: multiply-accumulates of the dense layer for one run at the stated input shape.
        weights: share of its weights that are not zero.
        read: share of the activation that it reads.
        given: share of the activation that its output becomes; 1 for the output layer.
        paper: share of multiply-accumulates left as the paper counts them.
        counted: the same, counted.
    """

    layer: str
    macs: int
    weights: float
    read: float
    given: float
    paper: float
    counted: float


@dataclass(frozen=True)
class Account:
    """What is left of a network, layer by layer in topological order.

    Attributes:
        layers: the layers.
        weights: share of all their weights that are not zero.
        activations: share of all elements of the activations between them that are not zero; 1 where there are none.
        densities: the same of each activation, by tensor.
        silent: how many of its channels were zero in every sample, by tensor.
        removed: how many of its channels were removed because no layer hears them, by tensor.
    """

    layers: Sequence[LayerMacs]
    weights: float
    activations: float
    densities: Mapping[str, float]
    silent: Mapping[str, int]
    removed: Mapping[str, int] = field(default_factory=dict)

    @property
    def paper(self) -> float:
        """Share of all multiply-accumulates left as the paper counts them."""
        return self._total([layer.paper for layer in self.layers])

    @property
    def counted(self) -> float:
        """The same, counted."""
        return self._total([layer.counted for layer in self.layers])

    def to_json(self) -> dict[str, Any]:
        """All figures, for a report."""
        return {
            "layers": [asdict(layer) for layer in self.layers],
            "weights": self.weights,
            "activations": self.activations,
            "paper": self.paper,
            "counted": self.counted,
            "densities": dict(self.densities),
            "silent": dict(self.silent),
            "removed": dict(self.removed),
        }

    def _total(self, shares: Sequence[float]) -> float:
        dense = sum(layer.macs for layer in self.layers)
        return sum(share * layer.macs for share, layer in zip(shares, self.layers, strict=True)) / dense


def account(
    model: Model, layers: Sequence[Layer], sites: Sites, batches: Iterable[Feeds], gone: Mapping[str, Bools] = NOTHING
) -> Account:
    """Counts what is left of every layer.

    Args:
        model: the pruned model.
        layers: its layers, at least one.
        sites: its activations (`find_sites` of the same layers).
        batches: feeds for the model, one batch at a time, at least one.
        gone: gone[channels] of activations that the finished network does not have, by tensor; the weights of `layers`
            for them are zero.
    """
    between = [site.tensor for site in sites.sites]
    nonzero = dict.fromkeys(between, 0)
    sizes = dict.fromkeys(between, 0)
    heard: dict[str, npt.NDArray[np.bool_]] = {}
    weights = {layer.name: np.count_nonzero(layer.folded, axis=0).astype(np.int64) for layer in layers}
    counted = {layer.name: 0 for layer in layers}
    positions = {layer.name: 0 for layer in layers}
    names = list(dict.fromkeys([*between, *(layer.source.name for layer in layers)]))
    for values in run_batches(model, names, batches):
        for site in sites.sites:
            kept = np.moveaxis(values[site.tensor] != 0, site.axis, 0)
            kept = kept.reshape(len(kept), -1)
            if site.tensor in gone:
                kept = kept & ~gone[site.tensor][:, None]
            nonzero[site.tensor] += int(np.count_nonzero(kept))
            sizes[site.tensor] += kept.size
            heard[site.tensor] = heard.get(site.tensor, False) | kept.any(axis=1)
        for layer in layers:
            columns, rows = nonzero_columns(values[layer.source.name], layer.geometry)
            counted[layer.name] += int(columns @ weights[layer.name])
            positions[layer.name] += rows
    shares = {name: nonzero[name] / sizes[name] for name in between}

    def of(layer: Layer) -> LayerMacs:
        size = layer.geometry.weight_size
        kept = int(weights[layer.name].sum()) / size
        read = shares.get(sites.read[layer.name], 1.0)
        given = shares.get(sites.given.get(layer.name, ""), 1.0)
        done = counted[layer.name] / (size * positions[layer.name])
        return LayerMacs(layer.name, layer.geometry.macs, kept, read, given, kept * read, done)

    share = sum(int(count.sum()) for count in weights.values()) / sum(layer.geometry.weight_size for layer in layers)
    total = sum(sizes.values())
    silent = {name: int(np.count_nonzero(~(channels | gone.get(name, False)))) for name, channels in heard.items()}
    removed = {name: int(np.count_nonzero(channels)) for name, channels in gone.items()}
    among = sum(nonzero.values()) / total if total else 1.0
    return Account([of(layer) for layer in layers], share, among, shares, silent, removed)


def nonzero_columns(values: Array, geometry: Geometry) -> tuple[IntArray, int]:
    """How often each column that the folded weight multiplies is not zero, nx[columns], and out of how many positions.

    Args:
        values: the layer's input: values[batch, channels, *spatial], or values[..., channels].
        geometry: the layer's geometry; its spatial extents are not used.
    """
    if not geometry.kernel_shape:
        flat = values.reshape(-1, geometry.in_channels)
        return np.count_nonzero(flat, axis=0).astype(np.int64), len(flat)
    begin, end = resolve_pads(geometry, values.shape[2:])
    kept = np.pad(values != 0, [(0, 0), (0, 0), *zip(begin, end, strict=True)])
    axes = list(zip(kept.shape[2:], geometry.kernel_shape, geometry.strides, geometry.dilations, strict=True))
    out = [(size - (kernel - 1) * dilation - 1) // stride + 1 for size, kernel, stride, dilation in axes]
    counts = np.empty((geometry.in_channels, *geometry.kernel_shape), np.int64)
    for tap in np.ndindex(*geometry.kernel_shape):
        windows = tuple(
            slice(at * dilation, at * dilation + (extent - 1) * stride + 1, stride)
            for at, extent, (_, _, stride, dilation) in zip(tap, out, axes, strict=True)
        )
        seen = kept[(slice(None), slice(None), *windows)]
        counts[(slice(None), *tap)] = np.count_nonzero(seen, axis=(0, *range(2, seen.ndim)))
    return counts.reshape(-1), len(values) * int(np.prod(out))
