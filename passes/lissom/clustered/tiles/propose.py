"""What tiles can offer one layer: a ladder for every number of blocks, the rank of a block being the step.

With κ taps, G blocks of inputs and H of outputs a rank costs H c κ + G f parameters, and as many multiply-accumulates
at every position of the output. A gather of channels stores 8 bytes a channel and multiplies nothing.

1. Only convolutions. A linear layer has no grouped form in ONNX but batched products on both sides; the low-rank pair
   serves it.
2. In the place of a number of blocks that does not divide the channels comes the nearest that does, of two the
   larger.
3. Blocks that a low-rank pair of folding 0 has are not offered again: consecutive ones with G = 1 or H = 1.
4. Layers of more than `WIDEST` channels are not clustered.
5. A rank whose successor does worse is given the successor's error, which can be with slices that correlate (whitened).
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import product

import numpy as np

from lissom.clustered.tiles.factors import OrderName, Tiling, residuals
from lissom.emit import INDEX_BYTES
from lissom.graph.geometry import Geometry
from lissom.lowrank.errors import moment_for, relative
from lissom.lowrank.foldings import Array, divisors, nearest
from lissom.options import FloatArray, Ladder

KIND = "tiles"

WIDEST = 512
"""The most channels that are put into clusters: an assignment takes the cube of them."""


def ladders(
    name: str,
    weight: Array,
    geometry: Geometry,
    metric: str,
    inputs: Collection[int],
    outputs: Collection[int],
    order: OrderName,
    moment: FloatArray | None = None,
) -> list[Ladder]:
    """All tilings of one layer.

    Args:
        name: the site.
        weight: weight[f, c, *kernel].
        geometry: what the layer computes.
        metric: "frobenius" or "whitened": what the errors measure.
        inputs: numbers of blocks of input channels that are wished for.
        outputs: the same of output channels.
        order: which channels are together.
        moment: moment[cκ, cκ] of the input patches, for `whitened`.

    Raises:
        ValueError: the metric needs a moment and there is none.
    """
    moment = moment_for(metric, moment)
    widest = max(geometry.in_channels, geometry.out_channels)
    if not geometry.kernel_shape or not weight.any() or (order == "clustered" and widest > WIDEST):
        return []
    wished = product(
        {nearest(divisors(geometry.in_channels), count): None for count in inputs},
        {nearest(divisors(geometry.out_channels), count): None for count in outputs},
    )
    tilings = [Tiling(g, h, order) for g, h in wished if (min if order == "consecutive" else max)(g, h) > 1]
    return [_ladder(name, weight, geometry, metric, tiling, moment) for tiling in tilings]


def _ladder(
    name: str, weight: Array, geometry: Geometry, metric: str, tiling: Tiling, moment: FloatArray | None
) -> Ladder:
    norms = residuals(weight, tiling, metric, moment)
    errors = relative(norms, norms[0])
    steps = np.arange(1, len(errors))
    unit = tiling.convolutions(geometry, 1)
    params = (steps * sum(factor.params for factor in unit)).astype(np.float64)
    shuffled = steps * (tiling.inputs * tiling.outputs if tiling.shuffles else 0)
    ordered = geometry.in_channels + geometry.out_channels if tiling.order == "clustered" else 0
    return Ladder(
        site=name,
        kind=KIND,
        parameters={"inputs": tiling.inputs, "outputs": tiling.outputs, "order": tiling.order},
        step_name="rank",
        steps=steps,
        error=errors[1:],
        error_at_zero=float(errors[0]),
        params=params,
        bytes=4 * params + INDEX_BYTES * (shuffled + ordered),
        macs=(steps * sum(factor.macs for factor in unit)).astype(np.float64),
        metric=metric,
    )
