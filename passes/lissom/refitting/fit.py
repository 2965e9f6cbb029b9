"""Least squares for one layer: the weight that gives the goal best, and what an option makes of it.

About the means (where the layer's bias is free to take them up) and with C = E[x xᵀ], the dense optimum that stays near
the layer's own weight W0 is

    W* = argmin E‖y - W x‖² + d ‖W - W0‖²,      d = ridge tr(C) / columns                  (`equations`).

The option's own approximation Ŵ of W* under the moment C takes its place (for one group of folding 0 that is reduced-
rank regression), with the bias ȳ - Ŵ x̄. Where the tail clips (ReLU), the error that counts is |clip(t) - clip(p)|², p
what the layer and its addend give; `Tail.goal` gives it a quadratic upper bound at the present p, which is minimised in
the same way, `rounds` times. A layer that stays dense gets Ŵ = W*, whose zeros are those of W0.

Fewer rows than columns, and constant ones, only leave directions that the goal does not know: W* is W0 there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lissom.options import FloatArray
from lissom.refitting.equations import Equations, Goal
from lissom.refitting.tails import Tail

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
"""What is tried when the ridge is chosen on held-out rows."""

RIDGE = 1e-2
"""The ridge that is taken when none of `RIDGES` is better by a hundredth."""

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
        moment: C[columns, columns], for the option; None for a layer that has none.
        mean: x̄[columns], or None where the bias is not free.
        before, after: relative squared error of the layer on held-out rows, without and with the refit.
    """

    target: Dense
    result: Dense
    moment: FloatArray | None
    mean: FloatArray | None
    before: float
    after: float


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
        ridge: see `equations.least_squares`, or "held-out" for the best of `RIDGES`.
    """
    equations = Equations(own, rows.x, known.bias is not None, keep_zeros=approximate is None)
    goal, rounds = equations.goal(rows.wanted - rows.addend), rounds if tail.clips else 0
    if ridge == "held-out":
        ridge = _best_ridge(equations, tail, goal, held)
    for turn in range(rounds + 1):
        star = equations.solve(goal, ridge).reshape(own.shape).astype(np.float32)
        weight = star if approximate is None else approximate(star, equations.moment).astype(np.float32)
        if turn < rounds:
            given = equations.given(weight, goal.level) + rows.addend
            goal = equations.goal(tail.goal(rows.wanted, given) - rows.addend)
    target, result = _dense(equations, star, goal), _dense(equations, weight, goal)
    return Fit(
        target,
        result,
        None if approximate is None else equations.moment,
        equations.mean if known.bias is not None else None,
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


def _dense(equations: Equations, weight: Array, goal: Goal) -> Dense:
    """A weight[out, in, *kernel] with the bias that belongs to the goal's mean."""
    return Dense(weight, equations.bias(weight, goal.level))


def _best_ridge(equations: Equations, tail: Tail, goal: Goal, held: Rows) -> float:
    """The ridge whose dense optimum is best on the held-out rows."""
    errors = {}
    for ridge in RIDGES:
        dense = equations.solve(goal, ridge).astype(np.float32)
        errors[ridge] = error(tail, held, _dense(equations, dense, goal))
    best = min(errors, key=errors.__getitem__)
    return best if errors[best] < 0.99 * errors[RIDGE] else RIDGE
