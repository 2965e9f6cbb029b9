"""Least squares near a known weight: the normal equations of one layer, for any goal and ridge.

With X[n, P] the rows x - x̄ (x itself where the layer's bias is not free), Y[n, out] those of the goal about their mean,
C = XᵀX / n and d = ridge tr(C) / P, the weight that gives the goal best and stays near W0 is

    W* = argmin ‖Y - X Wᵀ‖² / n + d ‖W - W0‖²
       = W0 + (YᵀX / n - W0 C) (C + d I)⁻¹                    (`_Columns`)
       = W0 + ((X Xᵀ + n d I)⁻¹ (Y - X W0ᵀ))ᵀ X               (`_Rows`).

The first form factorises a matrix of P columns, the second one of n rows: the smaller is taken. One factor serves all
goals under its ridge. A column whose weights are all zeros that stay takes no part. Where the zeros differ from row to
row of W0 each pattern has normal equations of its own.

Products are of float32, `CHUNK` rows at a time, and their sums float64; what is near singular is float64 throughout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, cholesky
from scipy.linalg.lapack import dpotri

from lissom.options import FloatArray

CHUNK = 4096
"""Rows whose products are summed up at once in float32, and columns that are float64 at once."""

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def least_squares(
    xx: FloatArray, yx: FloatArray, start: FloatArray, ridge: float, support: npt.NDArray[np.bool_] | None = None
) -> FloatArray:
    """The W[out, columns] that minimises tr(W xx Wᵀ) - 2 tr(yx Wᵀ) + d ‖W - start‖², d = ridge tr(xx) / columns.

    Args:
        xx: E[x xᵀ], xx[columns, columns].
        yx: E[y xᵀ], yx[out, columns].
        start: where the ridge pulls; with no x at all (xx = 0) it is the result.
        ridge: above 0, in units of the mean variance of a column.
        support: support[out, columns], the weights that are free; the others are 0.
    """
    pull = pull_of(xx, ridge)
    shifted = _shifted(xx, pull)
    if support is None or support.all():
        nearby: FloatArray = start + cho_solve(cho_factor(shifted, overwrite_a=True), (yx - start @ xx).T).T
        return nearby
    found, right = np.zeros_like(start), yx + pull * start
    patterns, members = np.unique(support, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        free, rows = np.flatnonzero(pattern), np.flatnonzero(members.ravel() == number)
        if len(free):
            solved = cho_solve(cho_factor(shifted[np.ix_(free, free)]), right[np.ix_(rows, free)].T)
            found[np.ix_(rows, free)] = solved.T
    return found


def inverse_of(xx: FloatArray, ridge: float) -> FloatArray:
    """The inverse (xx + d I)⁻¹[columns, columns], with the d of `least_squares`."""
    lower = cholesky(_shifted(xx, pull_of(xx, ridge)), lower=True, overwrite_a=True)
    half = np.tril(dpotri(lower, lower=1, overwrite_c=1)[0])
    half[np.diag_indices_from(half)] /= 2
    inverse: FloatArray = half + half.T
    return inverse


def pull_of(xx: FloatArray, ridge: float) -> float:
    """The d = ridge tr(xx) / columns of an xx[columns, columns]; 1 where that is zero."""
    return _pull(float(np.trace(xx)), len(xx), ridge)


@dataclass(frozen=True)
class Goal:
    """What a layer should give, as far as its equations know it.

    Attributes:
        right: what the equations' right side needs of it.
        level: ȳ[out]; zeros where the bias is not free.
    """

    right: FloatArray
    level: FloatArray


class Equations:
    """The equations of one layer.

    Args:
        own: W0[out, in, *kernel].
        x: x[rows, columns].
        centre: whether the layer's bias is free, so that means do not count.
        keep_zeros: whether the zeros of W0 stay.

    Attributes:
        mean: x̄[columns]; zeros where the bias is not free.
    """

    def __init__(self, own: Array, x: Array, centre: bool, keep_zeros: bool) -> None:
        start = own.reshape(len(own), -1).astype(np.float64)
        support = start != 0 if keep_zeros else np.ones(start.shape, np.bool_)
        self._centre = centre
        self._live = np.flatnonzero(support.any(axis=0))
        self._shape = start.shape
        self.mean = self._level(x)
        support = support[:, self._live]
        seen = x if len(self._live) == x.shape[1] else x[:, self._live]
        self._x: Floats = seen.astype(np.float32, copy=False) - self.mean[self._live].astype(np.float32)
        self._form: _Form
        if support.all() and len(x) < len(self._live):
            self._form = _Rows(self._x, start[:, self._live])
        else:
            self._form = _Columns(self._x, start[:, self._live], None if support.all() else support)

    @property
    def moment(self) -> FloatArray:
        """C[columns, columns] of the columns that take part."""
        return self._form.moment

    def goal(self, wanted: Array) -> Goal:
        """The goal of wanted y[rows, out]."""
        level = self._level(wanted)
        return Goal(self._form.right(wanted.astype(np.float32, copy=False) - level.astype(np.float32)), level)

    def solve(self, goal: Goal, ridge: float) -> FloatArray:
        """W*[out, columns] for a goal."""
        found = np.zeros(self._shape)
        if len(self._live):
            found[:, self._live] = self._form.solve(goal.right, ridge)
        return found

    def given(self, weight: Array, level: FloatArray) -> Floats:
        """What a weight[out, in, *kernel] gives for the rows, with the bias that belongs to ȳ."""
        flat = weight.reshape(len(weight), -1)[:, self._live].astype(np.float32, copy=False)
        given: Floats = self._x @ flat.T + level.astype(np.float32)
        return given

    def bias(self, weight: Array, level: FloatArray) -> Floats | None:
        """The bias ȳ - W x̄ of a weight[out, in, *kernel]; None where it is not free."""
        if not self._centre:
            return None
        bias: FloatArray = level - weight.reshape(len(weight), -1).astype(np.float64) @ self.mean
        return bias.astype(np.float32)

    def _level(self, values: Array) -> FloatArray:
        """The mean[columns] of values[rows, columns] that is taken off."""
        if not self._centre:
            return np.zeros(values.shape[1])
        level: FloatArray = values.mean(axis=0, dtype=np.float64)
        return level


class _Form(ABC):
    """One of the two forms of the equations.

    Args:
        x: X[n, P].
        start: W0[out, P].
    """

    def __init__(self, x: Floats, start: FloatArray) -> None:
        self._x, self._start = x, start
        self._factor: tuple[float, Any] | None = None

    @abstractmethod
    def right(self, goal: Floats) -> FloatArray:
        """What is to be known of a goal Y[n, out]."""

    @abstractmethod
    def solve(self, right: FloatArray, ridge: float) -> FloatArray:
        """W*[out, P]."""

    @cached_property
    def moment(self) -> FloatArray:
        """C[P, P]."""
        moment = np.zeros((self._x.shape[1],) * 2)
        for part in _chunks(len(self._x)):
            moment += self._x[part].T @ self._x[part]  # of one array with itself: half the work
        moment /= len(self._x)
        return moment

    def _solved(self, matrix: FloatArray, shift: float, right: FloatArray) -> FloatArray:
        """(matrix + shift I)⁻¹ right, with the factor of the last shift kept."""
        if self._factor is None or self._factor[0] != shift:
            self._factor = None  # before the next one takes its memory
            self._factor = shift, cho_factor(_shifted(matrix, shift), overwrite_a=True)
        solved: FloatArray = cho_solve(self._factor[1], right)
        return solved


class _Columns(_Form):
    """By columns; support[out, P] are the weights that are free, None: all."""

    def __init__(self, x: Floats, start: FloatArray, support: npt.NDArray[np.bool_] | None) -> None:
        super().__init__(x, start)
        self._support = support
        self._held = start @ self.moment if support is None else np.zeros(())

    def right(self, goal: Floats) -> FloatArray:
        products = np.zeros((goal.shape[1], self._x.shape[1]))
        for part in _chunks(len(self._x)):
            products += goal[part].T @ self._x[part]
        products /= len(self._x)
        return products - self._held

    def solve(self, right: FloatArray, ridge: float) -> FloatArray:
        if self._support is not None:
            return least_squares(self.moment, right, self._start, ridge, self._support)
        return self._start + self._solved(self.moment, pull_of(self.moment, ridge), right.T).T


class _Rows(_Form):
    """By rows, all weights free."""

    def __init__(self, x: Floats, start: FloatArray) -> None:
        super().__init__(x, start)
        self._products = np.zeros((len(x),) * 2)
        for part in _chunks(x.shape[1]):
            wide = x[:, part].astype(np.float64)
            self._products += wide @ wide.T
        self._given = x @ start.T.astype(np.float32)

    def right(self, goal: Floats) -> FloatArray:
        return (goal - self._given).astype(np.float64)

    def solve(self, right: FloatArray, ridge: float) -> FloatArray:
        rows, columns = self._x.shape
        shift = rows * _pull(float(np.trace(self._products)) / rows, columns, ridge)
        solved = self._solved(self._products, shift, right).T
        found = self._start.copy()
        for part in _chunks(columns):
            found[:, part] += solved @ self._x[:, part]
        return found


def _pull(trace: float, columns: int, ridge: float) -> float:
    """The d of a ridge, for a moment of some trace; 1 where that is zero."""
    return ridge * trace / columns or 1.0


def _shifted(matrix: FloatArray, shift: float) -> FloatArray:
    """A copy of matrix + shift I."""
    shifted = matrix.copy()
    shifted[np.diag_indices_from(shifted)] += shift
    return shifted


def _chunks(count: int) -> Iterator[slice]:
    """All of some rows or columns, `CHUNK` at a time."""
    return (slice(first, first + CHUNK) for first in range(0, count, CHUNK))
