"""How much a block matters by its own weights, and what is kept when n blocks may be.

`rms`         √(mean w²) of the block: Scalpel's. Blocks below a threshold are removed.
`magnitude`   mean |w| of the block: the usual one (Han et al., NeurIPS 2015).
`obs`         how much the layer's output changes: `obs` and, for large layers, `sweep`.

When n blocks are kept they are the first n of one *ranking* of all blocks of a layer, so that the blocks kept at one
density are among those kept at every higher one. Where N of M are kept, the N most important ones of each M stay.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from lissom.options import FloatArray, IntArray
from lissom.sparse.blocks import Array, Blocks, Mask

Importance = Literal["obs", "rms", "magnitude"]


def own_importance(folded: Array, blocks: Blocks, importance: Importance) -> FloatArray:
    """importance[rows, groups] of the blocks of folded[f, P] by `rms` or `magnitude`; infinite where N of M hold them.

    Raises:
        ValueError: the importance is another one.
    """
    parts = blocks.split(np.asarray(folded, np.float64))
    if importance == "rms":
        found: FloatArray = np.sqrt((parts**2).mean(axis=(1, 3)))
    elif importance == "magnitude":
        found = abs(parts).mean(axis=(1, 3))
    else:
        raise ValueError(f"expected the importance rms or magnitude, but got {importance!r}")
    return np.where(held(found, blocks), np.inf, found)


def held(importance: FloatArray, blocks: Blocks) -> Mask:
    """Which blocks of importance[rows, groups] N of M hold: the most important ones of each M, of equals the first."""
    if blocks.few is None:
        return np.zeros(importance.shape, np.bool_)
    few, of = blocks.few
    order = np.argsort(-importance.reshape(blocks.rows, -1, of), axis=2, kind="stable")
    found = np.zeros(order.shape, np.bool_)
    np.put_along_axis(found, order[:, :, :few], values=True, axis=2)
    return found.reshape(importance.shape)


def ranked(importance: FloatArray, steps: IntArray | None = None) -> IntArray:
    """ranking[rows, groups] of the blocks, 0 for the most important.

    Args:
        importance: importance[rows, groups].
        steps: steps[rows, groups]: of equals that of the lowest step goes first; default: the first of them does.
    """
    ties = np.arange(importance.size) if steps is None else steps.ravel()
    order = np.lexsort((ties, importance.ravel()))
    ranking = np.empty(importance.size, np.int64)
    ranking[order] = np.arange(importance.size)[::-1]
    return ranking.reshape(importance.shape)
