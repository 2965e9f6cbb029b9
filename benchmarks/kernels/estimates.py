"""From samples of chains to a layer's time, its ratio to dense, and the density at which the two are equal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from lissom_runtime.intervals import BLOCKS, FloatArray, Interval, hodges_lehmann
from lissom_runtime.latency import LAYOUT, Samples

CONFIDENCE = 0.99


def layer_times(long: Samples, short: Samples | None, count: int) -> FloatArray:
    """A layer's time in each of consecutive blocks of rounds, microseconds.

    Args:
        long: of a chain of `count` copies.
        short: of one copy, from the same rounds; None: nothing is taken off (a kernel called alone).
        count: copies in `long`; 1 without `short`.
    """
    blocks = min(BLOCKS, len(long.us) // 2)
    medians = _medians(long, blocks)
    return medians if short is None else (medians - _medians(short, blocks)) / (count - 1)


def ratio(a: FloatArray, b: FloatArray, confidence: float = CONFIDENCE) -> Interval:
    """Ratio b/a with its interval, as `latency.PairedLatency` has it; all NaN where noise exceeds a time."""
    if not (np.all(a > 0) and np.all(b > 0)):
        return Interval(math.nan, math.nan, math.nan, confidence)
    centre, low, high = hodges_lehmann(np.log(b) - np.log(a), confidence)
    found = Interval(math.exp(centre), math.exp(low), math.exp(high), confidence)
    return replace(found, low=found.low / (1 + LAYOUT), high=found.high * (1 + LAYOUT))


def crossover(densities: Sequence[float], ratios: Sequence[float]) -> float:
    """The density at which sparse takes as long as dense: the logarithm of the ratio is linear between two densities.

    Args:
        densities: at least one, in any order.
        ratios: sparse over dense, of each; NaN ones are left out.

    Returns:
        0 where sparse is slower at every density; the largest density where it is faster at every one; NaN when no
        ratio is a number.
    """
    points = sorted((d, math.log(r)) for d, r in zip(densities, ratios, strict=True) if not math.isnan(r))
    if not points:
        return math.nan
    if points[0][1] >= 0:
        return 0.0
    for (d0, r0), (d1, r1) in itertools.pairwise(points):
        if r1 >= 0:
            return d0 + (d1 - d0) * -r0 / (r1 - r0)
    return points[-1][0]


def _medians(samples: Samples, blocks: int) -> FloatArray:
    return np.array([np.median(block) for block in np.array_split(samples.us.reshape(-1, 2), blocks)])
