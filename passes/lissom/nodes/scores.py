"""How much each index of a channel group matters, and what is lost when the least important ones go.

A reader's output y = W x has columns R for the indices that go and S for the others. With C = E[x xᵀ] (about the mean
where the bias takes that up), A = C + d I and d = ridge tr(C) / columns, what is left after the survivors are refitted
by least squares is

    e(R) = tr W_R (C_RR - C_RS (C_SS + d I)⁻¹ C_SR) W_Rᵀ = tr W_R ([A⁻¹]_RR)⁻¹ W_Rᵀ - d ‖W_R‖².

The ridge pulls the survivors to what they were; what goes is not charged for it, so that a channel which is always 0 is
free. The error of a group is the sum of e over its readers, each over its own tr W C Wᵀ. The *second order* removes the
indices of least e one after the other, each time from the network that is left (A⁻¹ and W after Gaussian elimination):
the block form of Optimal Brain Surgeon. With L Lᵀ = [A⁻¹]_RR, the leading parts of ‖L⁻¹ W_Rᵀ‖² are the errors of the
leading parts of R, so that the errors of all counts cost one factorisation.

In wide groups several indices go between two eliminations, the least first: at most `ROUNDS` eliminations a group. What
they subtract from A⁻¹ is kept, and taken off `LAZY` eliminations at a time in one product, which leaves out the columns
that are gone; only the rows that go and the blocks on the diagonal are up to date between.

Sources: Frantar and Alistarh, Optimal Brain Compression (NeurIPS 2022), section 4, for blocks; Li et al., Pruning
Filters (ICLR 2017), for norms of filters; Sun et al., Wanda (ICLR 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from lissom_runtime.errors import UsageError
from scipy.linalg import solve_triangular

from lissom.nodes.groups import ChannelGroup
from lissom.nodes.readers import Reader
from lissom.observe import Moment
from lissom.options import FloatArray
from lissom.parallel import one_blas_thread
from lissom.refitting.equations import inverse_of, pull_of

Method = Literal["second-order", "l1", "l2", "wanda"]

NORMS: tuple[Method, ...] = ("l1", "l2")
"""Methods that need no data."""

ROUNDS = 64
"""Most eliminations of one group."""

LAZY = 8
"""Eliminations between two products that bring A⁻¹ up to date."""

RIDGE = 1e-3
"""d in units of the mean variance of a column."""

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """The indices of one group, least important first.

    Attributes:
        order: order[n], a permutation of the indices.
        errors: errors[n]; errors[k] is the relative squared error of the readers' outputs, summed, when the first k
            of `order` go and the others are refitted. Ascending from 0.
    """

    order: IntArray
    errors: FloatArray


def rank(
    group: ChannelGroup, readers: Mapping[str, Reader], moments: Mapping[str, Moment], method: Method = "second-order"
) -> Ranking:
    """Ranks the indices of a group.

    Args:
        group: the group.
        readers: the layers that read channels, by name.
        moments: mean and second moment of their inputs.
        method: what importance is. The errors are those of the refitted survivors under any method; without moments
            (`NORMS` need none) they are shares of the importance.

    Raises:
        UsageError: a layer that reads the group has no moment or no float32 weight.
    """
    with one_blas_thread():
        if method == "second-order":
            return _eliminated(_problems(group, readers, moments), len(group), None)
        importance = _norms(group, readers, method) if method in NORMS else _wanda(group, readers, moments)
        order = np.argsort(importance, kind="stable")
        if method in NORMS and not all(layer in moments for layer in group.columns):
            shares = np.cumsum(importance[order]) / (importance.sum() or 1.0)
            return Ranking(order, np.concatenate([[0.0], shares[:-1]]))
        return _eliminated(_problems(group, readers, moments), len(group), order)


class _Problem:
    """One part of one reader, scaled so that its whole output has energy 1.

    Args:
        columns: columns[n, c] of each index.
        weight: W[out, columns].
        moment: C[columns, columns].
    """

    def __init__(self, columns: IntArray, weight: FloatArray, moment: FloatArray) -> None:
        self._columns = columns  # those of indices that are gone mean nothing
        self._weight = weight  # with what the survivors have taken up so far
        self._inverse = inverse_of(moment, RIDGE)  # A⁻¹ of the survivors, as it was before `_ahead`
        self._blocks = self._inverse[columns[:, :, None], columns[:, None, :]]  # [n, c, c], as they are now
        self._charge = pull_of(moment, RIDGE) * (weight**2).sum(axis=0)[columns].sum(axis=1)  # d ‖W_i‖² at first
        self._ahead: list[FloatArray] = []
        self._gone: list[IntArray] = []

    def losses(self, indices: IntArray) -> FloatArray:
        """The error of removing each of some indices alone."""
        weights = self._weight[:, self._columns[indices]].transpose(1, 2, 0)
        solved = np.linalg.solve(self._blocks[indices], weights)
        found: FloatArray = (weights * solved).sum(axis=(1, 2)) - self._charge[indices]
        return found

    def remove(self, indices: IntArray, left: IntArray) -> FloatArray:
        """Removes some indices, in their order; returns by how much each raises the error.

        Args:
            indices: what goes.
            left: what is left then.
        """
        gone = self._columns[indices].ravel()
        rows = self._inverse[gone]
        for across in self._ahead:
            rows -= across[:, gone].T @ across
        lower = np.linalg.cholesky(rows[:, gone])
        ahead = solve_triangular(lower, self._weight[:, gone].T, lower=True)
        across = solve_triangular(lower, rows, lower=True)
        self._weight -= ahead.T @ across
        parts = across[:, self._columns[left]].swapaxes(0, 1)  # [left, gone, c]
        self._blocks[left] -= parts.swapaxes(1, 2) @ parts
        self._ahead.append(across)
        self._gone.append(gone)
        if len(self._ahead) == LAZY:
            self._catch_up()
        raised: FloatArray = (ahead**2).sum(axis=1).reshape(len(indices), -1).sum(axis=1) - self._charge[indices]
        return raised

    def _catch_up(self) -> None:
        """Brings A⁻¹ up to date, and leaves out what is gone."""
        stays = np.ones(len(self._inverse), np.bool_)
        stays[np.concatenate(self._gone)] = False
        kept = np.flatnonzero(stays)
        across = np.concatenate(self._ahead)[:, kept]
        self._inverse = self._inverse[np.ix_(kept, kept)]
        self._inverse -= across.T @ across
        self._weight = self._weight[:, kept]
        self._columns = (np.cumsum(stays) - 1)[self._columns]
        self._ahead, self._gone = [], []


def _problems(group: ChannelGroup, readers: Mapping[str, Reader], moments: Mapping[str, Moment]) -> list[_Problem]:
    found = []
    for layer, positions in group.columns.items():
        reader = _reader(group, layer, readers)
        moment, _ = reader.moment(moments)
        parts = reader.parts()
        energy = sum(_energy(weight, reader.of_part(part, moment)) for part, weight in enumerate(parts))
        for part, weight in enumerate(parts):
            columns = reader.columns_of(positions, part)
            if columns.size:
                own = reader.of_part(part, moment)
                found.append(_Problem(columns, weight / np.sqrt(energy or 1.0), own))
    return found


def _energy(weight: FloatArray, moment: FloatArray) -> float:
    """The energy tr W C Wᵀ of a layer's output."""
    return float(((weight @ moment) * weight).sum())


def _eliminated(problems: Sequence[_Problem], count: int, order: IntArray | None) -> Ranking:
    """Removes all of some indices but one, by a given order or the least loss first."""
    left = np.arange(count) if order is None else order
    gone, raised = [left[:0]], [np.zeros(1)]
    step = -(-count // ROUNDS)
    while len(left) > 1:
        if order is None:
            left = left[np.argsort(np.sum([problem.losses(left) for problem in problems], axis=0), kind="stable")]
        chunk, left = np.split(left, [min(step, len(left) - 1)])
        gone.append(chunk)
        raised.append(np.maximum(np.sum([problem.remove(chunk, left) for problem in problems], axis=0), 0.0))
    return Ranking(np.concatenate([*gone, left]), np.cumsum(np.concatenate(raised)))


def _norms(group: ChannelGroup, readers: Mapping[str, Reader], method: Method) -> FloatArray:
    """The norm[n] of the weights that give each index, over all layers that give it."""
    total = np.zeros(len(group))
    for layer, positions in group.rows.items():
        if layer in readers:
            total += readers[layer].norms(1 if method == "l1" else 2)[positions].sum(axis=1)
    found: FloatArray = total if method == "l1" else np.sqrt(total)
    return found


def _wanda(group: ChannelGroup, readers: Mapping[str, Reader], moments: Mapping[str, Moment]) -> FloatArray:
    """Σ |w| √E[x²] over the weights that read each index."""
    total = np.zeros(len(group))
    for layer, positions in group.columns.items():
        reader = _reader(group, layer, readers)
        sizes = np.sqrt(np.diag(reader.known(moments).about_zero()))
        for part, weight in enumerate(reader.parts()):
            columns = reader.columns_of(positions, part)
            total += (np.abs(weight).sum(axis=0) * reader.of_part(part, sizes))[columns].sum(axis=1)
    return total


def _reader(group: ChannelGroup, layer: str, readers: Mapping[str, Reader]) -> Reader:
    if layer not in readers:
        raise UsageError(f"expected float32 weights in every layer that reads {group.name!r}, not in {layer!r}")
    return readers[layer]
