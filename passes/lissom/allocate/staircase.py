"""What a site takes as one number rises: the error that is allowed, or the share that may be kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lissom.options import FloatArray, IntArray, Menu, Option


@dataclass(frozen=True)
class Staircase:
    """The options that a site takes, by level.

    Attributes:
        level: level[n], ascending: where another option begins; the first is 0.
        cost: cost[n] from that level on.
        position: position[n] of that option among all of the site: 0 is "keep dense", then
            come the options of each ladder in turn.
    """

    level: FloatArray
    cost: FloatArray
    position: IntArray

    def at(self, level: float) -> int:
        """The step in force at `level`: the last one, where several share a level."""
        return int(self.level.searchsorted(level, "right")) - 1

    def option(self, menu: Menu, level: float) -> Option:
        """The option that the site takes at `level`."""
        position = int(self.position[self.at(level)])
        starts = np.cumsum([1, *(len(ladder) for ladder in menu.ladders)])
        index = int(starts.searchsorted(position, "right")) - 1
        return menu.dense if index < 0 else menu.ladders[index].option(position - int(starts[index]))


def total_cost(stairs: Sequence[Staircase], level: float) -> float:
    """What all sites cost at `level`, summed in their order."""
    return sum(float(stair.cost[stair.at(level)]) for stair in stairs)


def levels(stairs: Sequence[Staircase]) -> FloatArray:
    """Every level at which some site takes another option, ascending, 0 first."""
    return np.unique(np.concatenate([np.zeros(1), *(stair.level for stair in stairs)]))
