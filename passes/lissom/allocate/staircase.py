"""What a site takes as one number rises: the error that is allowed, or the share that may be kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from lissom_runtime.errors import GoalMissed

from lissom.options import FloatArray, IntArray, Menu, Plan, Resource


@dataclass(frozen=True)
class Staircase:
    """The options that a site takes, by level.

    Attributes:
        level: level[n], ascending: where another option begins; the first is 0.
        cost: cost[n] from that level on.
        position: position[n] of that option among all of the site (`Menu.option`).
    """

    level: FloatArray
    cost: FloatArray
    position: IntArray

    def at(self, level: float) -> int:
        """The step in force at `level`: the last one, where several share a level."""
        return int(self.level.searchsorted(level, "right")) - 1


def first_within(
    menus: Sequence[Menu], stairs: Sequence[Staircase], steps: FloatArray, resource: Resource, limit: float
) -> Plan:
    """The plan at the first level whose total cost is at most `limit`.

    Args:
        menus: one per site.
        stairs: what each takes.
        steps: levels in an order in which the total does not rise.
        resource: what the budget limits.
        limit: upper bound of the sites' summed cost.

    Returns:
        The plan; its level is the largest error of an option taken.

    Raises:
        GoalMissed: the total is above the limit at all of them.
    """
    least = total_cost(stairs, steps[-1])
    if least > limit:
        raise GoalMissed(f"the sites cannot be made smaller than {least:g} {resource}, and {limit:g} is the limit")
    low, high = 0, len(steps) - 1  # the answer is in low .. high
    while low < high:
        middle = (low + high) // 2
        if total_cost(stairs, steps[middle]) <= limit:
            high = middle
        else:
            low = middle + 1
    at = [(menu, int(stair.position[stair.at(steps[high])])) for menu, stair in zip(menus, stairs, strict=True)]
    options = {menu.site: menu.option(position) for menu, position in at}
    return Plan(options, level=max((option.error for option in options.values()), default=0.0))


def total_cost(stairs: Sequence[Staircase], level: float) -> float:
    """What all sites cost at `level`, summed in their order."""
    return sum(float(stair.cost[stair.at(level)]) for stair in stairs)


def levels(stairs: Sequence[Staircase]) -> FloatArray:
    """Every level at which some site takes another option, ascending, 0 first."""
    return np.unique(np.concatenate([np.zeros(1), *(stair.level for stair in stairs)]))
