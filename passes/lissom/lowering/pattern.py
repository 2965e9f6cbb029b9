"""Which blocks a sparse weight is made of, read from where its zeros are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom_runtime.contract import BLOCKS, ORIENTATIONS, Orientation

MOST_FILL = 1.1
"""Weights that blocks store, over the non-zero ones among them, up to which they still count as the weight's own."""


@dataclass(frozen=True)
class Pattern:
    """The largest blocks that hold nearly all zeros apart.

    Attributes:
        block: weights that share one column index.
        orientation: whether they run along output channels or along the columns of the folded weight.
        density: stored weights over all weights.
    """

    block: int
    orientation: Orientation
    density: float


def pattern(weight: npt.NDArray[Any], group: int = 1) -> Pattern:
    """The largest blocks that store at most `MOST_FILL` weights for each that is not zero.

    Args:
        weight: weight[O, C/group, kh, kw] or weight[O, I].
        group: of the convolution; blocks of output channels do not straddle two groups.
    """
    nonzero = weight.reshape(weight.shape[0], -1) != 0
    most = MOST_FILL * np.count_nonzero(nonzero)
    for block in sorted(BLOCKS, reverse=True):
        for orientation in ORIENTATIONS:
            stored = _stored(nonzero, block, orientation, group)
            if stored is not None and 0 < stored <= most:
                return Pattern(block, orientation, stored / nonzero.size)
    return Pattern(1, "output", 0.0)  # only zeros


def _stored(nonzero: npt.NDArray[np.bool_], block: int, orientation: Orientation, group: int) -> int | None:
    """Weights in blocks that are not all zero, or None where the blocks do not fit."""
    rows, columns = nonzero.shape
    if (rows // group if orientation == "output" else columns) % block:
        return None
    shape = (rows // block, block, columns) if orientation == "output" else (rows, columns // block, block)
    filled = nonzero.reshape(shape).any(axis=1 if orientation == "output" else 2)
    return block * int(np.count_nonzero(filled))
