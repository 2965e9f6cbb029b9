"""What a monochromatic stem can offer one layer: one ladder, the number of colours C′ being the step.

With κ taps the two convolutions store c C′ + f κ values. The first runs at the input's extent, the second at the
output's. A gather of the filters stores 8 bytes a filter.

1. Only a convolution of 2 to `STEM_CHANNELS` input channels and a kernel of more than one tap: else there are no
   colours to mix, or no kernel to share them.
2. The steps are the divisors of f that cost less than the dense layer in parameters or in multiply-accumulates.
3. A step whose successor does worse is given the successor's error (clusters are a local optimum).
4. The error is that of the weight that both layers mean together: ‖W − Ŵ‖ / ‖W‖ (`frobenius`), or
   √(tr E Σ Eᵀ / tr W Σ Wᵀ) with E = W − Ŵ on [f, cκ] (`whitened`, where the kernels are fitted under Σ too).
"""

from __future__ import annotations

import numpy as np

from lissom.clustered.monochromatic.factors import convolutions, stem
from lissom.emit import INDEX_BYTES
from lissom.graph.geometry import Geometry
from lissom.lowrank.errors import error_of, moment_for, relative
from lissom.lowrank.foldings import Array, divisors
from lissom.options import FloatArray, Ladder
from lissom.tucker.propose import STEM_CHANNELS

KIND = "monochromatic"


def ladders(
    name: str, weight: Array, geometry: Geometry, metric: str, moment: FloatArray | None = None
) -> list[Ladder]:
    """The ladder of one layer, or none.

    Args:
        name: the site.
        weight: weight[f, c, *kernel].
        geometry: what the layer computes.
        metric: "frobenius" or "whitened": what the errors measure.
        moment: moment[cκ, cκ] of the input patches, for `whitened`.

    Raises:
        ValueError: the metric needs a moment and there is none.
    """
    moment = moment_for(metric, moment)
    if geometry.taps == 1 or not 2 <= geometry.in_channels <= STEM_CHANNELS or not weight.any():
        return []
    costs = {}
    for colours in divisors(geometry.out_channels):
        pair = convolutions(geometry, colours)
        params, macs = sum(factor.params for factor in pair), sum(factor.macs for factor in pair)
        if params < geometry.weight_size or macs < geometry.macs:
            costs[colours] = params, macs
    if not costs:
        return []
    stored, work = (np.array(column, np.float64) for column in zip(*costs.values(), strict=True))
    curve = np.array([error_of(weight, stem(weight, colours, moment).dense(), moment) for colours in costs])
    size = 4 * stored + INDEX_BYTES * geometry.out_channels
    steps = np.array(list(costs), np.int64)
    return [Ladder(name, KIND, {}, "colours", steps, relative(curve, 1.0), 1.0, stored, size, work, metric)]
