"""From latencies to what they mean: crossover densities, and the class of a processor.

The *crossover* is the density up to which a sparse layer is faster than the dense one by `LEAST_GAIN`. Between two
measured densities the ratio of the latencies is interpolated, after it was made monotone: fewer zeros are not faster (a
dip is noise). It is not extrapolated: above the largest measured density nothing is claimed, and below the smallest the
answer is "at none".

A shape *wins* when blocks as wide as the processor's vectors (of the measured widths the largest that fits in one) have
a crossover of at least `DENSITY`. Shapes whose sparse latency is not known do not count. The class:

    low        most convolutions win, and most Gemms
    moderate   else, if most memory-bound shapes win
    high       else

Most is more than half of at least one. So neither the name of the processor nor its number of cores counts.

Source: Yu et al., "Scalpel: customizing DNN pruning to the underlying hardware parallelism", ISCA 2017. The paper
names three classes of hardware by their kind (microcontroller, CPU, GPU); here the class is what a measurement finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from lissom.price.latency import LEAST_GAIN
from lissom.target.schema import MeasuredShape, Parallelism

DENSITY = 0.3
"""Zeros must pay at this density: the networks of the paper keep 12 to 18 % of their size where zeros are used."""


def crossover(densities: Sequence[float], ratios: Sequence[float]) -> float | None:
    """Density up to which a layer is faster sparse than dense, or None.

    Args:
        densities: ascending.
        ratios: latency at each over that of the dense layer.
    """
    slower = np.maximum.accumulate(np.asarray(ratios, np.float64))
    level = 1 - LEAST_GAIN
    faster = int(np.count_nonzero(slower < level))
    if faster == 0:
        return None
    if faster == len(slower):
        return float(densities[-1])
    low, high = slower[faster - 1], slower[faster]
    share = (level - low) / (high - low)
    return float(densities[faster - 1] + share * (densities[faster] - densities[faster - 1]))


def fitting(widths: Iterable[int], simd_width: int) -> int:
    """The largest of `widths` that fits in a vector; 1 always does."""
    return max((width for width in widths if width <= simd_width), default=1)


def wins(shape: MeasuredShape, simd_width: int) -> bool:
    """Whether blocks as wide as a vector of `simd_width` elements pay."""
    found = shape.crossover(fitting((times.width for times in shape.blocks), simd_width))
    return found is not None and found >= DENSITY


def parallelism(shapes: Iterable[MeasuredShape], simd_width: int) -> Parallelism:
    """The class of a processor with vectors of `simd_width` elements."""
    known = [shape for shape in shapes if shape.blocks]

    def most(kind: Sequence[MeasuredShape]) -> bool:
        return 2 * sum(wins(shape, simd_width) for shape in kind) > len(kind)

    if all(most([shape for shape in known if shape.op == op]) for op in ("Conv", "Gemm")):
        return "low"
    return "moderate" if most([shape for shape in known if shape.memory_bound]) else "high"
