"""Least squares for one layer: the weight that gives the goal best, and what an option makes of it.

About the means (where the layer's bias is free to take them up) and with C = E[x xᵀ], the dense optimum that stays near
the layer's own weight W0 is

    W* = argmin E‖y - W x‖² + d ‖W - W0‖²  =  W0 + (E[y xᵀ] - W0 C)(C + d I)⁻¹,      d = ridge tr(C) / columns.

The option's own approximation Ŵ of W* under the moment C takes its place (for one group of folding 0 that is reduced-
rank regression), with the bias ȳ - Ŵ x̄. Where the tail clips (ReLU), the error that counts is |clip(t) - clip(p)|², p
what the layer and its addend give; `Tail.goal` gives it a quadratic upper bound at the present p, which is minimised in
the same way, `rounds` times. A layer that stays dense gets Ŵ = W*, whose zeros are those of W0.

Fewer rows than columns, and constant ones, only leave directions that the goal does not know: W* is W0 there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from lissom.options import FloatArray
from lissom.refitting.tails import Tail

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
"""What is tried when the ridge is chosen on held-out rows."""

RIDGE = 1e-2
"""The ridge that is taken when none of `RIDGES` is better by a hundredth."""

CHUNK = 4096
"""Rows whose products are summed up at once in float32; the sums of all are float64."""

Array = npt.NDArray[Any]
Ridge = float | Literal["held-out"]


@dataclass(frozen=True)
class Dense:
    """A dense layer's numbers: weight[out, in, *kernel], and bias[out] or None where that is as it was."""

    weight: Array
    bias: Array | None


@dataclass(frozen=True)
class Rows:
    """Rows of one layer: x[rows, columns], wanted t[rows, out], addend a[rows, out]."""

    x: Array
    wanted: Array
    addend: Array

    def select(self, keep: Array) -> Rows:
        """The rows that a mask names."""
        return Rows(self.x[keep], self.wanted[keep], self.addend[keep])


@dataclass(frozen=True)
class Fit:
    """What takes the place of one layer's numbers.

    Attributes:
        target: W* and the bias that belongs to it; with `mean`, an option's own bias follows from them.
        result: Ŵ and its bias.
        moment: C[columns, columns], for the option.
        mean: x̄[columns], or None where the bias is not free.
        before, after: relative squared error of the layer on held-out rows, without and with the refit.
    """

    target: Dense
    result: Dense
    moment: FloatArray
    mean: FloatArray | None
    before: float
    after: float


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
    pull = ridge * np.trace(xx) / len(xx) or 1.0
    shifted = xx + pull * np.eye(len(xx))
    if support is None or support.all():
        nearby: FloatArray = start + cho_solve(cho_factor(shifted), (yx - start @ xx).T).T
        return nearby
    found, right = np.zeros_like(start), yx + pull * start
    patterns, members = np.unique(support, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        free, rows = np.flatnonzero(pattern), np.flatnonzero(members.ravel() == number)
        if len(free):
            solved = cho_solve(cho_factor(shifted[np.ix_(free, free)]), right[np.ix_(rows, free)].T)
            found[np.ix_(rows, free)] = solved.T
    return found


def fit(
    known: Dense,
    own: Array,
    tail: Tail,
    rows: Rows,
    held: Rows,
    approximate: Callable[[Array, FloatArray], Array] | None,
    rounds: int,
    ridge: Ridge,
) -> Fit:
    """Fits one layer to `rows`, and measures it on `held`.

    Args:
        known: what the layer computes without refit; a bias of None is not there, or not free.
        own: the weight[out, in, *kernel] that the fit is held to, W0.
        tail: what follows the layer.
        rows: what it is fitted to.
        held: what it is judged by.
        approximate: approximate(weight[out, in, *kernel], moment) is what the layer's option makes of a weight;
            None for a layer whose weight may be any, but for its zeros.
        rounds: how often the bound is renewed where the tail clips.
        ridge: see `least_squares`, or "held-out" for the best of `RIDGES`.
    """
    problem = _Problem(own, rows, known.bias is not None, keep_zeros=approximate is None)
    goal, rounds = problem.goal(rows.wanted - rows.addend), rounds if tail.clips else 0
    if ridge == "held-out":
        ridge = _best_ridge(problem, tail, goal, held)
    for turn in range(rounds + 1):
        star = problem.solve(goal, ridge).reshape(own.shape).astype(np.float32)
        weight = star if approximate is None else approximate(star, problem.moment).astype(np.float32)
        if turn < rounds:
            given = problem.given(weight, goal.level) + rows.addend
            goal = problem.goal(tail.goal(rows.wanted, given) - rows.addend)
    level = goal.level
    target, result = problem.finished(star, level), problem.finished(weight, level)
    return Fit(
        target,
        result,
        problem.moment,
        problem.mean if known.bias is not None else None,
        error(tail, held, known),
        error(tail, held, result),
    )


def error(tail: Tail, rows: Rows, layer: Dense) -> float:
    """Σ |clip(t) - clip(p)|² / Σ |clip(t)|² of a layer with some numbers; not divided where nothing is wanted."""
    given = rows.x @ layer.weight.reshape(len(layer.weight), -1).T + rows.addend
    if layer.bias is not None:
        given = given + layer.bias
    wanted = tail.clip(rows.wanted).astype(np.float64)
    scale = float((wanted**2).sum())
    missed = float(((tail.clip(given) - wanted) ** 2).sum())
    return missed / scale if scale else missed


def joined(parts: Sequence[Rows]) -> Rows:
    """All rows of several."""
    return Rows(
        np.concatenate([rows.x for rows in parts]),
        np.concatenate([rows.wanted for rows in parts]),
        np.concatenate([rows.addend for rows in parts]),
    )


@dataclass(frozen=True)
class _Goal:
    """What a layer should give, as far as normal equations know it.

    Attributes:
        products: E[(y - ȳ)(x - x̄)ᵀ], products[out, columns].
        level: ȳ[out]; zeros where the bias is not free.
    """

    products: FloatArray
    level: FloatArray


class _Problem:
    """The normal equations of one layer, for any goal and ridge.

    Attributes:
        moment: C[columns, columns].
        mean: x̄[columns]; zeros where the bias is not free.
    """

    def __init__(self, own: Array, rows: Rows, centre: bool, keep_zeros: bool) -> None:
        self._centre = centre
        self._start = own.reshape(len(own), -1).astype(np.float64)
        self._support = self._start != 0 if keep_zeros else None
        self._x = rows.x
        self.mean = self._level(rows.x)
        self.moment = np.zeros((len(self.mean), len(self.mean)))
        for part in self._chunks():
            about = self._about(self._x[part], self.mean)
            self.moment += about.T @ about  # of one array with itself: half the work
        self.moment /= len(self._x)

    def goal(self, wanted: Array) -> _Goal:
        """The goal of wanted y[rows, out]."""
        level = self._level(wanted)
        products = np.zeros((wanted.shape[1], self._x.shape[1]))
        for part in self._chunks():
            products += self._about(wanted[part], level).T @ self._about(self._x[part], self.mean)
        return _Goal(products / len(self._x), level)

    def solve(self, goal: _Goal, ridge: float) -> FloatArray:
        """W*[out, columns] for a goal."""
        return least_squares(self.moment, goal.products, self._start, ridge, self._support)

    def given(self, weight: Array, level: FloatArray) -> Array:
        """What a weight[out, in, *kernel] gives for the rows, with the bias that belongs to ȳ."""
        numbers = self.finished(weight, level)
        given: Array = self._x @ weight.reshape(len(weight), -1).T
        return given if numbers.bias is None else given + numbers.bias

    def finished(self, weight: Array, level: FloatArray) -> Dense:
        """A weight[out, in, *kernel] with its bias ȳ - W x̄, where that is free."""
        bias = level - weight.reshape(len(weight), -1).astype(np.float64) @ self.mean
        return Dense(weight, bias.astype(np.float32) if self._centre else None)

    def _level(self, values: Array) -> FloatArray:
        """The mean[columns] of values[rows, columns] that is taken off."""
        if not self._centre:
            return np.zeros(values.shape[1])
        level: FloatArray = values.mean(axis=0, dtype=np.float64)
        return level

    def _chunks(self) -> Iterator[slice]:
        """All rows, `CHUNK` at a time."""
        return (slice(first, first + CHUNK) for first in range(0, len(self._x), CHUNK))

    def _about(self, values: Array, level: FloatArray) -> npt.NDArray[np.float32]:
        """Values[rows, columns] about a level."""
        about: npt.NDArray[np.float32] = values.astype(np.float32, copy=False) - level.astype(np.float32)
        return about


def _best_ridge(problem: _Problem, tail: Tail, goal: _Goal, held: Rows) -> float:
    """The ridge whose dense optimum is best on the held-out rows."""
    errors = {}
    for ridge in RIDGES:
        dense = problem.solve(goal, ridge).astype(np.float32)
        errors[ridge] = error(tail, held, problem.finished(dense, goal.level))
    best = min(errors, key=errors.__getitem__)
    return best if errors[best] < 0.99 * errors[RIDGE] else RIDGE
