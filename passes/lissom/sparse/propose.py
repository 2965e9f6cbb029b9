"""What block sparsity can offer one layer: a ladder for each size of block, a step being a number of kept blocks.

A layer has thousands of blocks, so a ladder has the steps of some *densities* only: by default `DENSITIES`, which lie
closer together towards 0, where the same share of weights matters more. With N of M there is one step. With a threshold
there is one step too: the blocks of at least that importance (Scalpel's rule), at least one. A density keeps as many
blocks as fit into it, and at least one; a step that keeps them all is none.

The error is √(tr E Σ Eᵀ / tr W Σ Wᵀ), E = W − Ŵ (`whitened`), or ‖E‖ / ‖W‖ (`frobenius`). For `obs` E is taken under
the damped moment (`choice`), an upper bound of `whitened`. A step whose successor does worse is given the successor's
error.

A packed layer costs the bytes of its packed form and a multiply-accumulate for each kept weight and position. One that
is not (`blocks.is_packed`) costs what the dense layer does, and has fewer parameters.

1. A weight of zeros is offered nothing.
2. A size of which a layer has no two blocks is not offered.
3. Sizes that come to the same blocks are offered once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt

import numpy as np

from lissom.graph.geometry import Geometry
from lissom.lowrank.errors import moment_for, relative
from lissom.options import FloatArray, IntArray, Ladder
from lissom.sparse.blocks import Array, Blocks, is_packed
from lissom.sparse.choice import Choice
from lissom.sparse.importance import Importance
from lissom.sparse.storage import packed_bytes

KIND = "block-sparse"

DENSITIES = tuple(round(0.95 * (step / 24) ** 1.5, 3) for step in range(1, 25))
"""Shares of the blocks that are offered by default."""


def ladders(
    name: str,
    weight: Array,
    geometry: Geometry,
    pattern: str,
    widths: Iterable[int],
    importance: Importance,
    metric: str,
    moment: FloatArray | None = None,
    densities: Sequence[float] = DENSITIES,
    threshold: float | None = None,
    damping: float = 0.01,
) -> list[Ladder]:
    """The ladders of one layer.

    Args:
        name: the site.
        weight: weight[f, c, *kernel].
        geometry: what the layer computes.
        pattern: "columns", "rows" or "N:M".
        widths: sizes of the blocks.
        importance: what decides which blocks are kept.
        metric: "whitened" or "frobenius": what the errors measure.
        moment: moment[columns, columns] of the layer's input, for `obs` and for `whitened`.
        densities: shares of the blocks.
        threshold: least importance of a block that is kept, in the place of densities; not for `obs`.
        damping: of the moment, for `obs`.

    Raises:
        ValueError: the metric or the importance needs a moment and there is none.
    """
    moment = moment_for(metric, moment)
    if not weight.any():
        return []
    folded = weight.reshape(len(weight), -1)
    sizes = {Blocks.of(geometry, pattern, width): width for width in sorted(widths, reverse=True)}
    found = []
    for blocks, width in sizes.items():
        if blocks.count < 2:
            continue
        choice = Choice(folded, blocks, importance, moment, damping)
        steps = _steps(blocks, densities, None if threshold is None else choice.above(threshold))
        if not len(steps):
            continue
        shared: dict[str, int | float | str] = {
            "pattern": pattern,
            "width": width,
            "importance": importance,
            "damping": damping,
        }
        found.append(_ladder(name, geometry, blocks, choice, steps, shared, metric))
    return found


def _steps(blocks: Blocks, densities: Sequence[float], above: int | None) -> IntArray:
    """The numbers of blocks that are offered, ascending."""
    if blocks.few is not None:
        return np.array([blocks.least])
    wished = [above] if above is not None else [int(density * blocks.count + 1e-9) for density in densities]
    steps = np.unique(np.maximum(wished, 1))
    return steps[steps < blocks.count]


def _ladder(
    name: str,
    geometry: Geometry,
    blocks: Blocks,
    choice: Choice,
    steps: IntArray,
    shared: dict[str, int | float | str],
    metric: str,
) -> Ladder:
    found = [choice.kept(int(step)) for step in steps]
    scale = sqrt(choice.whole)
    at_zero = sqrt(choice.at_zero)
    curve = relative(np.sqrt([loss for _, loss in found]), scale)
    params = blocks.weights(steps).astype(np.float64)
    stored, macs = np.full(len(steps), 4.0 * geometry.weight_size), np.full(len(steps), float(geometry.macs))
    if is_packed(geometry, str(shared["pattern"])):
        stored = np.array([packed_bytes(kept, blocks) for kept, _ in found], np.float64)
        macs = params * geometry.out_positions
    return Ladder(
        site=name,
        kind=KIND,
        parameters=shared,
        step_name="blocks",
        steps=steps,
        error=curve,
        error_at_zero=at_zero / scale if scale > 0 else 0.0,
        params=params,
        bytes=stored,
        macs=macs,
        metric=metric,
    )
