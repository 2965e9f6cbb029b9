"""Second-order pruning: which blocks the layer's output misses least, and what makes good for them.

With H = Σ + d I, Σ the moment of the layer's input columns and d = damping · tr(Σ) / P, a weight error E costs
tr(E H Eᵀ). On a support S of its columns (those of the blocks that it keeps) a row of blocks W[b, P] is best

    Ŵ_S = W H[:, S] H[S, S]⁻¹                                                        (`compensated`),

and one more block B of it can go, with the others adjusted, at the cost of

    tr(W_B ([H⁻¹]_BB)⁻¹ W_Bᵀ),   W ← W − W_B ([H⁻¹]_BB)⁻¹ [H⁻¹]_B:,   H⁻¹ ← H⁻¹ − [H⁻¹]_:B ([H⁻¹]_BB)⁻¹ [H⁻¹]_B:

The block of least cost goes first, then the next. That is a Cholesky factorisation of H⁻¹ whose pivot is always the
cheapest block: the factor is kept for `CHUNK` columns at a time and then subtracted in one product, and what is gone
takes part no more.

All rows of blocks of a layer share H, and each is eliminated by itself, to the end: the trace has a support of every
size, and the costs so far are the exact error of `compensated` on it. Over the whole layer the blocks go in the order
of their cost. A block whose removal is cheaper than one that went before it counts as that one, so that each row keeps
its order.

The error is that under H and bounds the one under Σ from above. Where N of M are kept, a block is held as soon as N of
its M are left.

Source: Hassibi and Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", NIPS 1992; Frantar,
Singh and Alistarh, "Optimal Brain Compression", NeurIPS 2022, section 4 (one matrix for all rows, blocks, and the order
over rows).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lissom.options import FloatArray, IntArray
from lissom.refitting.equations import inverse_of, least_squares
from lissom.sparse.blocks import Array, Blocks, Mask
from lissom.sparse.importance import ranked

CHUNK = 32
"""Columns that are eliminated between two products that bring H⁻¹ up to date."""

SLAB_BYTES = 64 * 2**20
"""Memory for the H⁻¹ of the rows that are eliminated together."""


@dataclass(frozen=True)
class Trace:
    """What an elimination found.

    Attributes:
        ranking: ranking[rows, groups], 0 for the block that goes last.
        losses: tr(E H Eᵀ)[count + 1] by the number of blocks kept; NaN below what is kept at least.
    """

    ranking: IntArray
    losses: FloatArray


def trace(folded: Array, blocks: Blocks, moment: FloatArray, damping: float) -> Trace:
    """Eliminates the blocks of folded[f, P] one after another.

    Args:
        folded: the weight.
        blocks: its blocks.
        moment: Σ[P, P].
        damping: above 0, in units of the mean of Σ's diagonal.
    """
    inverse = inverse_of(moment, damping)
    own = np.asarray(folded, np.float64).reshape(blocks.rows, blocks.height, -1)
    keys = np.full((blocks.rows, blocks.groups), np.inf)
    steps = np.zeros((blocks.rows, blocks.groups), np.int64)
    costs = np.zeros((blocks.rows, blocks.groups))
    at_once = max(1, SLAB_BYTES // inverse.nbytes)
    for first in range(0, blocks.rows, at_once):
        rows = slice(first, first + at_once)
        order, cost = _Elimination(own[rows], inverse, blocks).run()
        np.put_along_axis(costs[rows], order, cost, axis=1)
        np.put_along_axis(keys[rows], order, np.maximum.accumulate(cost, axis=1), axis=1)
        np.put_along_axis(steps[rows], order, np.arange(order.shape[1])[None], axis=1)
    ranking = ranked(keys, steps)
    by_rank = np.empty(blocks.count)
    by_rank[ranking.ravel()] = costs.ravel()
    losses = np.append(np.cumsum(by_rank[::-1])[::-1], 0.0)
    losses[: np.count_nonzero(np.isinf(keys))] = np.nan
    return Trace(ranking, losses)


def compensated(folded: Array, mask: Mask, moment: FloatArray, damping: float) -> FloatArray:
    """The weight[f, P] on the support mask[f, P] that costs least against folded[f, P]."""
    wanted = np.asarray(folded, np.float64)
    return least_squares(moment, wanted @ moment, wanted, damping, mask)


class _Elimination:
    """The elimination of several rows of blocks, step by step together.

    What is gone takes part in all arrays until its chunk ends.
    """

    def __init__(self, weight: FloatArray, inverse: FloatArray, blocks: Blocks) -> None:
        rows, self._width = len(weight), blocks.width
        self._weight = weight.copy()  # [rows, b, columns left]
        self._inverse = np.broadcast_to(inverse, (rows, *inverse.shape))  # of the columns left, before this chunk
        self._groups = np.tile(np.arange(blocks.groups), (rows, 1))  # those left; columns behind them always are
        few, self._of = blocks.few or (0, blocks.groups)
        self._room = np.full((rows, blocks.groups // self._of), self._of - few)  # how many of each M may go
        self._rows = np.arange(rows)

    def run(self) -> tuple[IntArray, FloatArray]:
        """The groups[rows, steps] in the order in which they go, and what each costs."""
        order: list[IntArray] = []
        costs: list[FloatArray] = []
        to_go = int(self._room[0].sum())
        while len(order) < to_go:
            chunk = min(max(CHUNK // self._width, 1), to_go - len(order))
            for at, cost in self._chunk(chunk):
                order.append(self._groups[self._rows, at])
                costs.append(cost)
            self._take_out(np.stack(order[-chunk:], axis=1))
        return np.stack(order, axis=1), np.maximum(np.stack(costs, axis=1), 0.0)

    def _chunk(self, steps: int) -> list[tuple[IntArray, FloatArray]]:
        """Eliminates some groups of each row: positions[rows] among those left, and costs[rows], step by step."""
        width, count, rows = self._width, self._groups.shape[1], self._rows
        self._factor = np.zeros((len(rows), steps * width, self._inverse.shape[2]))
        pivots = _diagonal(self._inverse, width, count)
        closed = np.where(np.take_along_axis(self._room, self._groups // self._of, axis=1) > 0, 0.0, np.inf)
        found: list[tuple[IntArray, FloatArray]] = []
        for step in range(steps):
            costs = _costs(self._weight[:, :, : count * width], pivots) + closed
            at = costs.argmin(axis=1)
            found.append((at, costs[rows, at]))
            pivot = self._pivot(at, step * width)
            parts = pivot[:, :, : count * width].reshape(len(rows), width, count, width)
            pivots -= parts[:, 0, :, :, None] ** 2 if width == 1 else np.einsum("rigj,rigk->rgjk", parts, parts)
            pivots[rows, at], closed[rows, at] = np.eye(width), np.inf
            self._close(at, closed)
        return found

    def _pivot(self, at: IntArray, done: int) -> FloatArray:
        """Eliminates one group of each row: the rows[rows, width, columns left] that this adds to the factor."""
        own = at[:, None] * self._width + np.arange(self._width)
        so_far = self._factor[:, :done]
        current = self._inverse[self._rows[:, None], own]
        current -= np.take_along_axis(so_far, own[:, None], axis=2).swapaxes(1, 2) @ so_far
        wanted = np.take_along_axis(self._weight, own[:, None], axis=2).swapaxes(1, 2)
        root = np.linalg.cholesky(np.take_along_axis(current, own[:, None], axis=2))
        pivot = _solve(root, current)
        self._factor[:, done : done + self._width] = pivot
        self._weight -= _solve(root, wanted).swapaxes(1, 2) @ pivot
        return pivot

    def _close(self, at: IntArray, closed: FloatArray) -> None:
        """Counts the groups that go, and holds the others of an M of which no more may."""
        which = self._groups // self._of
        mine = which[self._rows, at]
        self._room[self._rows, mine] -= 1
        full = self._room[self._rows, mine] == 0
        closed[full[:, None] & (which == mine[:, None])] = np.inf

    def _take_out(self, gone: IntArray) -> None:
        """Brings H⁻¹ up to date, and leaves the groups[rows, chunk] that are gone out of all arrays."""
        left = np.ones(self._groups.shape, np.bool_)
        for row, groups in enumerate(gone):
            left[row] = ~np.isin(self._groups[row], groups)
        behind = self._weight.shape[2] - len(self._groups[0]) * self._width
        stays = np.append(np.repeat(left, self._width, axis=1), np.ones((len(left), behind), np.bool_), axis=1)
        columns: IntArray = np.nonzero(stays)[1].reshape(len(left), -1)
        each = len(columns[0])
        inverse = np.empty((len(left), each, each))
        for row, kept in enumerate(columns):
            factor = self._factor[row][:, kept]
            np.subtract(self._inverse[row][np.ix_(kept, kept)], factor.T @ factor, out=inverse[row])
        self._inverse = inverse
        self._weight = np.take_along_axis(self._weight, columns[:, None], axis=2)
        self._groups = self._groups[left].reshape(len(left), -1)


def _diagonal(matrix: FloatArray, width: int, count: int) -> FloatArray:
    """The first blocks[rows, count, width, width] on the diagonals of matrix[rows, columns, columns]."""
    starts = width * np.arange(count)[:, None] + np.arange(width)
    blocks: FloatArray = matrix[:, starts[:, :, None], starts[:, None, :]]
    return blocks


def _costs(weight: FloatArray, pivots: FloatArray) -> FloatArray:
    """tr(W_B D⁻¹ W_Bᵀ)[rows, count] of the groups of weight[rows, b, count · width], D = pivots[…, width, width]."""
    rows, count, width, _ = pivots.shape
    if width == 1:
        costs: FloatArray = (weight**2).sum(axis=1) / pivots[:, :, 0, 0]
        return costs
    parts = weight.reshape(rows, -1, count, width).transpose(0, 2, 3, 1)
    solved: FloatArray = (parts * np.linalg.solve(pivots, parts)).sum(axis=(2, 3))
    return solved


def _solve(root: FloatArray, right: FloatArray) -> FloatArray:
    """root⁻¹ right, for each of some rows."""
    if root.shape[-1] == 1:
        return right / root
    return np.asarray(np.linalg.solve(root, right), np.float64)
