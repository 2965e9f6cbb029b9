"""What Tucker-2 can offer one layer: one ladder, along which both ranks move together.

The ranks (S, R) of input and output channels stand in the ratio of their *anchors*, the numbers of singular values of
the two unfoldings of the weight that are not noise (`ranks`). Step n of the ladder has

    S = n · anchor_in / max(anchors),   R = n · anchor_out / max(anchors),

both rounded up to the rank multiple, and no larger than full. So the larger rank is n until it is full, and the
step max(anchors) has the ranks of Kim et al. An anchor of 0 counts as 1. With ranks "vbmf" that step is all
that is offered; else at most `STEPS` steps are, evenly spaced on a root scale, among those that cost less
than the dense layer in parameters or in multiply-accumulates.

With κ taps the three layers store c S + κ S R + f R values. The first runs at the input's extent, the others
at the output's.

1. A layer of at most `STEM_CHANNELS` input channels has S = 0: its input channels are not factorised (Tucker-1).
2. A linear layer and a 1×1 convolution are offered nothing: they have two unfoldings that are one matrix, and the
   low-rank pair of folding 0 is its best approximation.
3. A step whose successor does worse is given the successor's error (HOOI finds local optima).
4. The error is that of the weight that the three layers mean together: ‖W − Ŵ‖ / ‖W‖ (`frobenius`), or
   √(tr E Σ Eᵀ / tr W Σ Wᵀ) with E = W − Ŵ on [f, cκ] (`whitened`, where the factors are fitted under Σ too).

Source: Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications",
ICLR 2016, section 3; the ladder is ours.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lissom.graph.geometry import Geometry
from lissom.lowrank.errors import moment_for, relative
from lissom.options import FloatArray, IntArray, Ladder, Parameters
from lissom.tucker.factors import Array, Modes, Through, fitted, modes
from lissom.tucker.ranks import significant

KIND = "tucker"

STEPS = 12
"""The most steps of one ladder."""

STEM_CHANNELS = 4
"""Layers of at most that many input channels keep them: the colours of an image."""


def ladders(
    name: str,
    weight: Array,
    geometry: Geometry,
    metric: str,
    only_anchor: bool = False,
    moment: FloatArray | None = None,
    rank_multiple: int = 1,
) -> list[Ladder]:
    """The ladder of one layer, or none.

    Args:
        name: the site.
        weight: weight[f, c, *kernel].
        geometry: what the layer computes.
        metric: "frobenius" or "whitened": what the errors measure.
        only_anchor: offer the ranks of the anchors, and no others.
        moment: moment[cκ, cκ] of the input patches, for `whitened`.
        rank_multiple: ranks are multiples of it.

    Raises:
        ValueError: the metric needs a moment and there is none.
    """
    moment = moment_for(metric, moment)
    if geometry.taps == 1 or not weight.any():
        return []
    start = modes(weight)
    shared = {**anchors(geometry, start), "multiple": rank_multiple}
    steps = _steps(geometry, shared, only_anchor)
    if not len(steps):
        return []
    through = None if moment is None else Through(start.kernel, moment)
    options = [{**shared, "rank": int(step)} for step in steps]
    curve = [fitted(start, *ranks_of(geometry, option), through).error for option in options]
    costs = [_cost(geometry, option) for option in options]
    params, macs = (np.array(column, np.float64) for column in zip(*costs, strict=True))
    errors = relative(np.array(curve), 1.0)
    return [Ladder(name, KIND, shared, "rank", steps, errors, 1.0, params, 4 * params, macs, metric)]


def anchors(geometry: Geometry, spectra: Modes) -> dict[str, int]:
    """The ranks that are not noise, at least 1: {"anchor_in": …, "anchor_out": …}; 0 for channels left as they are."""
    limit_in, limit_out = limits(geometry)

    def anchor(squares: FloatArray, limit: int) -> int:
        others = geometry.weight_size // len(squares)
        return max(significant(squares[:limit], max(len(squares), others)), 1)

    stem = geometry.in_channels <= STEM_CHANNELS
    return {
        "anchor_in": 0 if stem else anchor(spectra.inp_squares, limit_in),
        "anchor_out": anchor(spectra.out_squares, limit_out),
    }


def limits(geometry: Geometry) -> tuple[int, int]:
    """The highest ranks of input and output channels."""
    c, f, taps = geometry.in_channels, geometry.out_channels, geometry.taps
    return min(c, f * taps), min(f, c * taps)


def ranks_of(geometry: Geometry, parameters: Parameters) -> tuple[int, int]:
    """The ranks (in, out) that an option's parameters mean for a layer; 0 for channels left as they are."""
    step, multiple = int(parameters["rank"]), int(parameters["multiple"])
    wished = int(parameters["anchor_in"]), int(parameters["anchor_out"])
    unit = max(wished) * multiple
    rank_in, rank_out = (
        min(multiple * -(-step * anchor // unit), limit) for anchor, limit in zip(wished, limits(geometry), strict=True)
    )
    return rank_in, rank_out


def chain_of(geometry: Geometry, rank_in: int, rank_out: int) -> list[Geometry]:
    """The convolutions in the layer's place, in the order in which they run."""
    ones = (1,) * len(geometry.kernel_shape)
    point = replace(
        geometry, kernel_shape=ones, strides=ones, dilations=ones, pads=(0, 0) * len(ones), auto_pad="NOTSET"
    )
    inner = replace(geometry, in_channels=rank_in or geometry.in_channels, out_channels=rank_out)
    decoder = replace(point, in_channels=rank_out, in_spatial=geometry.out_spatial)
    if not rank_in:
        return [inner, decoder]
    return [replace(point, out_channels=rank_in, out_spatial=geometry.in_spatial), inner, decoder]


def thinned(steps: IntArray, most: int) -> IntArray:
    """At most `most` of the ascending `steps`, the first and the last among them, the low ones denser."""
    if len(steps) <= most:
        return steps
    places = np.linspace(0, np.sqrt(len(steps) - 1), most) ** 2
    return steps[np.unique(np.rint(places).astype(np.int64))]


def _cost(geometry: Geometry, parameters: Parameters) -> tuple[int, int]:
    """Parameters and multiply-accumulates of an option."""
    chain = chain_of(geometry, *ranks_of(geometry, parameters))
    return sum(each.weight_size for each in chain), sum(each.macs for each in chain)


def _steps(geometry: Geometry, shared: Parameters, only_anchor: bool) -> IntArray:
    """The steps that are offered, ascending."""
    wished = int(shared["anchor_in"]), int(shared["anchor_out"])
    multiple, largest = int(shared["multiple"]), max(wished)
    if only_anchor:
        found = {multiple * -(-largest // multiple)}
    else:  # wherever one of the ranks grows
        found = {
            multiple * ((blocks * largest) // anchor + 1)
            for limit, anchor in zip(limits(geometry), wished, strict=True)
            if anchor
            for blocks in range(-(-limit // multiple))
        }
    smaller = []
    for step in sorted(found):
        params, macs = _cost(geometry, {**shared, "rank": step})
        if params < geometry.weight_size or macs < geometry.macs:
            smaller.append(step)
    return thinned(np.array(smaller, np.int64), STEPS)
