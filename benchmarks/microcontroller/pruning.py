"""What is left of a network for the microcontroller: single weights by magnitude, or pairs by RMS.

*Traditional*: in each layer the largest weights, as many as Han et al. kept. *Pairs*: Scalpel's blocks of two
consecutive columns; all layers have one threshold, as in the authors' program, so that the share of the network that
they published is removed, or each layer has as many weights left as the traditional one.

The published shares come of training, with a threshold raised step by step. Here nothing is trained: what is left is as
large as theirs, and not as accurate.

Source: Yu et al., "Scalpel", ISCA 2017, and the authors' program (shares of the whole network, with width 8: theirs for
width 2 are not known); Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015,
tables 3 and 4 (shares of each layer).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from lissom.sparse.blocks import Blocks
from lissom.sparse.choice import Choice
from lissom.sparse.importance import Importance, own_importance

from benchmarks.microcontroller.chain import Stage

WIDTH: Final = 2
"""Weights of a pair: what one SMLAD multiplies."""

TRADITIONAL: Final = {"lenet-300-100": (0.08, 0.09, 0.26), "lenet5": (0.66, 0.12, 0.08, 0.19)}
"""Weights that are kept in each layer, as a share."""

SCALPEL: Final = {"lenet-300-100": 0.080, "lenet5": 0.032}
"""Weights that are kept in the whole network, as a share."""


def by_magnitude(stages: Sequence[Stage], densities: Sequence[float]) -> list[Stage]:
    """The largest weights of each layer, `densities` of it."""
    return [_kept(stage, 1, "magnitude", density) for stage, density in zip(stages, densities, strict=True)]


def in_pairs(stages: Sequence[Stage], densities: Sequence[float]) -> list[Stage]:
    """The pairs with the largest RMS of each layer, `densities` of its weights."""
    return [_kept(stage, WIDTH, "rms", density) for stage, density in zip(stages, densities, strict=True)]


def in_pairs_over(stages: Sequence[Stage], density: float) -> list[Stage]:
    """The pairs with the largest RMS of all layers together, `density` of all weights.

    Raises:
        ValueError: the weights that are in no pair are more.
    """
    every = [blocks_of(stage, WIDTH) for stage in stages]
    pairs = sum(blocks.count for blocks in every)
    total = sum(stage.weight.size for stage in stages)
    kept = (int(density * total) - (total - WIDTH * pairs)) // WIDTH
    if kept < 1:
        raise ValueError(f"expected a density of more than {1 - WIDTH * pairs / total:.4f}, but got {density}")
    importances = [own_importance(stage.weight, blocks, "rms") for stage, blocks in zip(stages, every, strict=True)]
    threshold = np.sort(np.concatenate([found.ravel() for found in importances]))[-kept]
    return [
        replace(stage, weight=np.where(blocks.spread(found >= threshold), stage.weight, 0.0))
        for stage, blocks, found in zip(stages, every, importances, strict=True)
    ]


def blocks_of(stage: Stage, width: int) -> Blocks:
    """The blocks of `width` consecutive columns of a stage's weight."""
    return Blocks.of(stage.geometry, "rows", width)


def _kept(stage: Stage, width: int, importance: Importance, density: float) -> Stage:
    """The first blocks of one layer, `density` of its weights and at least one block."""
    blocks = blocks_of(stage, width)
    behind = int(blocks.weights(np.asarray(0)))
    count = max((int(density * stage.weight.size) - behind) // width, 1)
    choice = Choice(stage.weight, blocks, importance, None, 0.0)
    return replace(stage, weight=choice.weight(count))
