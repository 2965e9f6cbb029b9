"""Distortion over error: which options of a site are measured, and what the others get.

A few options (*probes*) are measured. Between them the distortion is interpolated over the error, both on a log scale,
and made monotone; below the least probe it falls with the square of the error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lissom.options import FloatArray, Ladder, Menu, Parameters
from lissom.price.outputs import FLOOR

PROBES = 8
"""Options of one kind that are measured at a site, at most."""

LEAST_ERROR = 0.02
"""Probes of a smaller error are not worth a run: their distortion is that of rounding."""


class Curve:
    """Distortion over error, through some points.

    Args:
        error: error[n], above 0.
        measured: measured[n], the distortions.
    """

    def __init__(self, error: FloatArray, measured: FloatArray) -> None:
        order = np.argsort(error, kind="stable")
        self._error = np.log(error[order])
        self._measured = np.log(np.maximum.accumulate(measured[order]))

    def __call__(self, error: FloatArray) -> FloatArray:
        """The distortions[n] at error[n]."""
        log = np.log(np.maximum(error, FLOOR))
        inside = np.interp(log, self._error, self._measured)
        below = self._measured[0] + 2 * (log - self._error[0])
        values: FloatArray = np.where(log < self._error[0], below, inside)
        return np.where(error > 0, np.exp(values), 0.0)


def with_distortions(menu: Menu, curves: Mapping[str, Curve], metric: str) -> Menu:
    """The menu with distortions in the place of errors, under the name of `metric`.

    Args:
        menu: the options of a site.
        curves: the curve of each kind; options of a kind without one keep their errors.
        metric: what was measured.
    """
    ladders = tuple(_on_curve(ladder, curves.get(ladder.kind), metric) for ladder in menu.ladders)
    dense = replace(menu.dense, metric=metric) if ladders else menu.dense
    return Menu(menu.site, dense, ladders)


def _on_curve(ladder: Ladder, curve: Curve | None, metric: str) -> Ladder:
    """A ladder with distortions; without a curve none of its options has an error."""
    if curve is None:
        return replace(ladder, metric=metric)
    least = float(curve(np.array([ladder.error_at_zero]))[0])
    return replace(ladder, error=curve(ladder.error), error_at_zero=least, metric=metric)


def choose_probes(ladders: Sequence[Ladder]) -> list[tuple[float, Parameters]]:
    """The options of one kind that are measured, as (error, parameters): up to `PROBES`, even on a log scale.

    Where several ladders have an option near an error, it is the one of fewest parameters: what an allocator takes.
    """
    found: dict[tuple[int, int], tuple[float, Parameters]] = {}
    largest = max(float(ladder.error.max()) for ladder in ladders)
    positive = [float(ladder.error[ladder.error > 0].min()) for ladder in ladders if (ladder.error > 0).any()]
    least = max(min(positive, default=LEAST_ERROR), LEAST_ERROR)
    for level in np.geomspace(min(least, largest), largest, PROBES) if largest > 0 else [0.0]:
        best: tuple[float, int, int] | None = None
        for number, ladder in enumerate(ladders):
            index = int(np.argmax(ladder.error <= level * (1 + 1e-9)))
            if ladder.error[index] <= level * (1 + 1e-9) and ladder.error[index] > 0:
                best = min(best or (np.inf, 0, 0), (float(ladder.params[index]), number, index))
        if best is not None:
            _, number, index = best
            found[number, index] = float(ladders[number].error[index]), ladders[number].option(index).parameters
    return sorted(found.values(), key=lambda probe: probe[0])
