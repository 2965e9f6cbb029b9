"""What low-rank can offer one layer: a ladder for every folding, side and number of groups.

A rung is a rank. With a rank multiple m the ranks are m, 2m, …, and the sliced channels come in
multiples of m per group too, because grouped convolutions are fast when the channels of each
group fill the processor's vectors; one group of a layer too small for such a rank offers its
highest rank instead. Nothing else is left out here: rungs larger than the dense layer stay,
because the ALDS iteration walks over them, and an allocator never takes an option that costs
more than keeping the layer dense.

With one group both sides are the same pair, which is offered once. Under the metric `whitened` foldings 1 to 3 offer
that one only, unless groups are asked for: it is fitted under the moment, slices are not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from lissom.graph.geometry import Geometry
from lissom.lowrank.energies import scale_of
from lissom.lowrank.errors import Metric, relative, residual_curve
from lissom.lowrank.foldings import Array, Scheme, Side, divisors, foldings_of, nearest
from lissom.lowrank.pairs import max_rank, pair, sliced_channels
from lissom.options import FloatArray, IntArray, Ladder

KIND = "low-rank"


def ladders(
    name: str,
    weight: Array,
    geometry: Geometry,
    metric: Metric,
    foldings: Iterable[int] = (0,),
    sides: Iterable[Side] = ("input",),
    moment: FloatArray | None = None,
    rank_multiple: int = 1,
    groups: Collection[int] | None = None,
) -> list[Ladder]:
    """All low-rank ladders of one layer.

    Args:
        name: the site.
        weight: weight[f, c, *kernel].
        geometry: what the layer computes.
        metric: what the errors measure.
        foldings: those to offer; the ones that this kernel does not have are left out.
        sides: which channels may be sliced.
        moment: moment[cκ, cκ] of the input patches, for the metric `whitened`.
        rank_multiple: ranks, and sliced channels per group, are multiples of it.
        groups: numbers of groups that are wished for, None for all; in the place of one that cannot be had comes
            the nearest that can, of two the larger.

    Raises:
        ValueError: the metric needs a moment and there is none.
    """
    exact = weight.astype(np.float64)
    found = []
    for folding in sorted(set(foldings) & set(foldings_of(geometry.kernel_shape))):
        whole = residual_curve(exact, Scheme(folding), metric, moment)
        fitted = metric == "whitened" and folding > 0  # slices are not fitted under the moment: one group is far better
        for scheme in _schemes(geometry, folding, sides, rank_multiple, (1,) if fitted and groups is None else groups):
            curve = whole if scheme.groups == 1 else residual_curve(exact, scheme, metric, moment)
            errors = relative(curve, scale_of(metric, whole[0], pair(geometry, scheme, 1).macs))
            found.append(_ladder(name, geometry, scheme, metric, errors, rank_multiple))
    return found


def _schemes(
    geometry: Geometry, folding: int, sides: Iterable[Side], multiple: int, wished: Collection[int] | None
) -> list[Scheme]:
    """Every distinct scheme of one folding whose groups have a multiple of `multiple` channels, or the wished ones."""
    found: dict[Scheme, None] = {Scheme(folding): None} if wished is None else {}
    for side in sides:
        channels = sliced_channels(geometry, side)
        possible = [Scheme(folding)]
        for groups in divisors(channels)[1:]:
            scheme = Scheme(folding, side, groups)
            if channels // groups % multiple == 0 and max_rank(geometry, scheme) >= multiple:
                possible.append(scheme)
        by_groups = {scheme.groups: scheme for scheme in possible}
        taken = by_groups if wished is None else [nearest(by_groups, groups) for groups in wished]
        found |= {by_groups[groups]: None for groups in taken}
    return list(found)


def _ladder(
    name: str, geometry: Geometry, scheme: Scheme, metric: Metric, errors: FloatArray, rank_multiple: int
) -> Ladder:
    ranks = _ranks(len(errors) - 1, rank_multiple)
    unit = pair(geometry, scheme, 1)
    return Ladder(
        site=name,
        kind=KIND,
        parameters={"folding": scheme.folding, "side": scheme.side, "groups": scheme.groups},
        step_name="rank",
        steps=ranks,
        error=errors[ranks],
        error_at_zero=float(errors[0]),
        params=(ranks * unit.params).astype(np.float64),
        bytes=(ranks * unit.bytes).astype(np.float64),
        macs=(ranks * unit.macs).astype(np.float64),
        metric=metric,
    )


def _ranks(maximum: int, multiple: int) -> IntArray:
    """The multiples of `multiple` up to `maximum`, or `maximum` alone when there are none."""
    if maximum < multiple:
        return np.array([maximum])
    return np.arange(multiple, maximum + 1, multiple)
