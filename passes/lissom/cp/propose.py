"""What CP can offer one layer: one ladder, the number of terms R being the step.

With κ taps the three convolutions store R (c + κ + f) values. The first runs at the input's extent, the others at the
output's.

1. A linear layer and a 1×1 convolution are offered nothing: without taps this is the low-rank pair of folding 0.
2. Ranks are multiples of the rank multiple that cost less than the dense layer in parameters or in
   multiply-accumulates, and whose fit takes at most `WORK` multiply-accumulates a round. At most `STEPS` of them are
   offered, the low ones denser: a fit takes long.
3. A step whose successor does worse is given the successor's error (alternating least squares finds local optima).
4. The error is that of the weight that the three layers mean together: ‖W − Ŵ‖ / ‖W‖ (`frobenius`), or
   √(tr E Σ Eᵀ / tr W Σ Wᵀ) with E = W − Ŵ on [f, cκ] (`whitened`, where `out` is fitted under Σ too).
"""

from __future__ import annotations

import numpy as np

from lissom.cp.factors import cp
from lissom.graph.geometry import Geometry
from lissom.lowrank.errors import error_of, moment_for, relative
from lissom.lowrank.foldings import Array
from lissom.lowrank.pairs import Factor
from lissom.options import FloatArray, IntArray, Ladder
from lissom.tucker.propose import chain_of, thinned

KIND = "cp"

STEPS = 12
"""The most steps of one ladder."""

WORK = 10**9
"""Multiply-accumulates of one round of the fit."""


def ladders(
    name: str,
    weight: Array,
    geometry: Geometry,
    metric: str,
    moment: FloatArray | None = None,
    rank_multiple: int = 1,
) -> list[Ladder]:
    """The ladder of one layer, or none.

    Args:
        name: the site.
        weight: weight[f, c, *kernel].
        geometry: what the layer computes.
        metric: "frobenius" or "whitened": what the errors measure.
        moment: moment[cκ, cκ] of the input patches, for `whitened`.
        rank_multiple: ranks are multiples of it.

    Raises:
        ValueError: the metric needs a moment and there is none.
    """
    moment = moment_for(metric, moment)
    if geometry.taps == 1 or not weight.any():
        return []
    steps = _steps(geometry, rank_multiple)
    if not len(steps):
        return []
    unit = convolutions(geometry, 1)
    curve = np.array([error_of(weight, cp(weight, int(rank), moment).dense(), moment) for rank in steps])
    params = (steps * sum(factor.params for factor in unit)).astype(np.float64)
    macs = (steps * sum(factor.macs for factor in unit)).astype(np.float64)
    return [Ladder(name, KIND, {}, "rank", steps, relative(curve, 1.0), 1.0, params, 4 * params, macs, metric)]


def convolutions(geometry: Geometry, rank: int) -> list[Factor]:
    """The three convolutions in the place of one of `geometry`, in the order in which they run."""
    first, middle, last = chain_of(geometry, rank, rank)
    return [Factor(first, 1), Factor(middle, rank), Factor(last, 1)]


def _steps(geometry: Geometry, multiple: int) -> IntArray:
    """The ranks that are offered, ascending."""
    unit = convolutions(geometry, 1)
    highest = max(
        (geometry.weight_size - 1) // sum(factor.params for factor in unit),
        (geometry.macs - 1) // sum(factor.macs for factor in unit),
    )
    every = multiple * np.arange(1, highest // multiple + 1)
    every = every[2 * geometry.weight_size * every + every**3 <= WORK]
    return thinned(every, STEPS)
