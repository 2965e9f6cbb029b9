"""The numbers of a monochromatic stem: C′ mixtures of the colours, and one kernel a filter.

A stem is a weight W[f, c, κ] of few input channels, the colours of an image. Every filter looks at one mixture of them,

    Ŵ[o, :, :] = a_k b_oᵀ,      k the cluster of filter o,  a_k[c] of length 1,  b_o[κ],

and the f filters share C′ mixtures, f / C′ filters each:

    x[c] -> 1×1 conv of the a -> [C′] -> κ1×κ2 conv of the b, in C′ groups -> channels to their places -> y[f]

1. For given clusters the best a_k is the leading eigenvector of Σ W_o W_oᵀ over its filters, and b_o = W_oᵀ a_k.
2. The clusters are those of `clusters.refined` with subspaces of dimension 1, from filters whose own best colours
   are far apart. With C′ = f each filter keeps its best colour.
3. With the moment Σ of the input patches b_o minimises (w − a ⊗ b) Σ (w − a ⊗ b)ᵀ + δ ‖b − W_oᵀ a‖² for the colours
   of step 1, δ being `RIDGE` of the mean variance. The colours are not fitted under it.

A filter is of rank min(c, κ) over the colours; what is beyond rank one is lost at every C′.

Source: Denton et al., "Exploiting Linear Structure Within Convolutional Networks for Efficient Evaluation", NeurIPS
2014, section 3.2, where the colours of the filters are clustered by k-means; step 3 is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lissom.clustered.clusters import bases, order_of, refined, seeded
from lissom.graph.geometry import Geometry
from lissom.lowrank.factors import Float32Array, check_moment, recompose
from lissom.lowrank.foldings import Array
from lissom.lowrank.pairs import Factor
from lissom.options import FloatArray, IntArray
from lissom.tucker.factors import RIDGE
from lissom.tucker.propose import chain_of


class Stem(NamedTuple):
    """Colours, kernels and the order of the filters.

    Attributes:
        encoder: encoder[C′, c, *ones] in ONNX layout.
        decoder: decoder[f, 1, *kernel], cluster by cluster.
        order: order[f], the filter at each place of the decoder.
    """

    encoder: Float32Array
    decoder: Float32Array
    order: IntArray

    def dense(self) -> Float32Array:
        """The weight[f, c, *kernel] that is meant."""
        placed = recompose(self.encoder, self.decoder, "output", len(self.encoder))
        dense = np.empty_like(placed)
        dense[self.order] = placed
        return dense


def convolutions(geometry: Geometry, colours: int) -> tuple[Factor, Factor]:
    """Encoder and decoder in the place of a convolution of `geometry`."""
    encoder, decoder, _ = chain_of(geometry, colours, geometry.out_channels)
    return Factor(encoder, 1), Factor(decoder, colours)


def stem(weight: Array, colours: int, moment: FloatArray | None = None) -> Stem:
    """The stem of so many mixtures.

    Args:
        weight: weight[f, c, *kernel].
        colours: C′, a divisor of f.
        moment: moment[cκ, cκ], second moment of the input patches, for step 3; None without it.

    Raises:
        ValueError: `colours` does not divide the filters, or the moment is of another shape.
    """
    f, c, *kernel = weight.shape
    filters = weight.reshape(f, 1, c, -1).astype(np.float64)
    own = np.concatenate([bases(each[None], 1)[0].T * np.linalg.norm(each) for each in filters])
    labels, _ = refined(filters, seeded(own, colours), colours, 1)
    order = order_of(labels)
    clusters = order.reshape(colours, -1)
    mixtures = np.stack([bases(filters[members], 1)[0, :, 0] for members in clusters])
    kernels = np.concatenate(
        [_kernels(filters[members, 0], mixture, moment) for members, mixture in zip(clusters, mixtures, strict=True)]
    )
    encoder = mixtures.reshape(colours, c, *[1] * len(kernel)).astype(np.float32)
    return Stem(encoder, kernels.reshape(f, 1, *kernel).astype(np.float32), order)


def _kernels(filters: FloatArray, mixture: FloatArray, moment: FloatArray | None) -> FloatArray:
    """The kernels[n, κ] of filters[n, c, κ] that share a mixture[c]."""
    plain: FloatArray = mixture @ filters
    if moment is None:
        return plain
    count, c, taps = filters.shape
    check_moment(moment, c * taps)
    ridge = RIDGE * float(np.trace(moment)) / len(moment)
    if ridge <= 0:
        return plain
    apart = moment.reshape(c, taps, c, taps)
    seen = np.einsum("a,aibj,b->ij", mixture, apart, mixture)
    wanted = mixture @ (filters.reshape(count, -1) @ moment).reshape(count, c, taps)
    solved: FloatArray = np.linalg.solve(seen + ridge * np.eye(taps), (wanted + ridge * plain).T).T
    return solved
