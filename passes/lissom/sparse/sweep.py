"""Second-order pruning of large layers: one order of the columns for all rows.

The elimination in `obs` gives every row of blocks an H⁻¹ of its own, at P³ / 3 multiply-accumulates a row. Here the
columns are taken in one order, so that all rows have the same Cholesky factor Uᵀ U = H⁻¹, U upper triangular. Where
column p of W loses its weight, the columns behind it make good for it:

    e = (w_p − ŵ_p) / U_pp,      W[:, p+1:] ← W[:, p+1:] − e U[p, p+1:],      at the cost Σ e².

Which blocks of a span of `SPAN` columns are kept is decided when the first of these columns is reached, by Σ w² / U_pp²
over a block: the blocks of all rows compete there. How many of a span are kept is decided before the sweep, by what
each block would cost alone, Σ w² / [H⁻¹]_pp. The columns that cost least alone come first: most of them go, while those
that make good for them are all there. Where N of M are kept each M keeps its N, and the columns stay in their order.

One sweep, for one density, is f P² multiply-accumulates. What it loses against `obs` is that a column makes good only
for those before it, and that the spans' shares are guessed.

Source: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", ICML 2023,
algorithm 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky

from lissom.options import FloatArray, IntArray
from lissom.sparse.blocks import Array, Blocks, Mask
from lissom.sparse.importance import held, ranked

SPAN = 128
"""Columns among which the blocks to keep are chosen; a little more where the pattern's units do not divide it."""


@dataclass(frozen=True)
class Prepared:
    """What all sweeps of one layer share.

    Attributes:
        order: order[P] of the columns.
        factor: U[P, P] of the columns in that order.
        alone: alone[rows, groups], what each block in that order would cost alone; infinite where N of M hold it.
    """

    order: IntArray
    factor: FloatArray
    alone: FloatArray


def prepare(folded: Array, blocks: Blocks, inverse: FloatArray) -> Prepared:
    """Orders the columns of folded[f, P] and factorises inverse H⁻¹[P, P]."""
    alone = _costs(np.asarray(folded, np.float64), np.sqrt(np.diag(inverse)), blocks)
    groups = np.arange(blocks.groups) if blocks.few else np.argsort(alone.sum(axis=0), kind="stable")
    inside = (groups[:, None] * blocks.width + np.arange(blocks.width)).ravel()
    order = np.append(inside, np.arange(blocks.removable, blocks.columns))
    costs = alone[:, groups]
    return Prepared(order, cholesky(inverse[np.ix_(order, order)]), np.where(held(costs, blocks), np.inf, costs))


def sweep(folded: Array, blocks: Blocks, prepared: Prepared, kept: int) -> tuple[FloatArray, Mask]:
    """The weight[f, P] with `kept` blocks of folded[f, P], and which these are: kept[rows, groups].

    Args:
        folded: the weight.
        blocks: its blocks.
        prepared: for this weight and these blocks.
        kept: blocks that are left.
    """
    by_column = np.asarray(folded, np.float64).T[prepared.order]  # [P, f]: what a step reads lies together
    factor, scale = prepared.factor, np.diag(prepared.factor)
    chosen = np.zeros((blocks.rows, blocks.groups), np.bool_)
    quota = np.count_nonzero(ranked(prepared.alone) < kept, axis=0)
    unit = blocks.width if blocks.few is None else blocks.few[1]
    span = -(-SPAN // unit) * unit
    for first in range(0, blocks.removable, span):
        last = min(first + span, blocks.removable)
        groups = slice(first // blocks.width, last // blocks.width)
        part = Blocks(blocks.height, blocks.width, blocks.rows, last - first, blocks.few)
        costs = _costs(by_column[first:last].T, scale[first:last], part)
        costs[held(costs, part)] = np.inf
        chosen[:, groups] = ranked(costs) < quota[groups].sum()
        mask = part.spread(chosen[:, groups]).T
        errors = np.zeros((last - first, len(folded)))
        for step, column in enumerate(range(first, last)):
            errors[step] = np.where(mask[step], 0.0, by_column[column] / scale[column])
            by_column[column:last] -= factor[column, column:last, None] * errors[step]
        by_column[last:] -= factor[first:last, last:].T @ errors
        by_column[first:last] *= mask
    found, which = np.empty(folded.shape), np.empty_like(chosen)
    found[:, prepared.order], which[:, _groups(prepared.order, blocks)] = by_column.T, chosen
    return found, which


def _groups(order: IntArray, blocks: Blocks) -> IntArray:
    """The groups[groups] of blocks in the order of their columns."""
    groups: IntArray = order[: blocks.removable : blocks.width] // blocks.width
    return groups


def _costs(weight: FloatArray, scale: FloatArray, blocks: Blocks) -> FloatArray:
    """Σ (w / scale)²[rows, groups] over the blocks of weight[f, P]."""
    costs: FloatArray = (blocks.split(weight / scale) ** 2).sum(axis=(1, 3))
    return costs
