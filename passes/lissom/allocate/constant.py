"""The same relative size everywhere: the baseline that an allocator must beat.

At a share a every site takes its option of least error that costs at most a times the site as
it is; a site that has none so small takes its cheapest, and at a = 1 it stays dense unless an
option without error is cheaper. A site's cost is a rising staircase of a with a step at each
option that has less error than all cheaper ones. So the total is a staircase too, and the largest
share within the limit is one of the steps, found by bisection over all of them, sorted.

The total is summed in the order of the sites, as `Plan.total` does, and is exact as in `minimax`.
Options as expensive as keeping the site dense are never taken.

Source: the constant per-layer compression that Liebenwein et al., "Compressing Neural Networks:
Towards Determining the Optimal Layer-wise Decomposition", NeurIPS 2021, compare with (the SVD
baseline); the rounding is ours: never above the share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lissom.allocate.staircase import Staircase, first_within, levels
from lissom.options import Menu, Plan, Resource


def constant(menus: Sequence[Menu], resource: Resource, limit: float) -> Plan:
    """The plan of the largest common share whose total cost in `resource` is at most `limit`.

    Args:
        menus: one per site.
        resource: what the budget limits.
        limit: upper bound of the sites' summed cost.

    Returns:
        The plan; its level is the largest error of an option taken.

    Raises:
        GoalMissed: no choice of options is that small.
        ValueError: `resource` is latency and an option was not priced.
    """
    stairs = [_staircase(menu, resource) for menu in menus]
    return first_within(menus, stairs, levels(stairs)[::-1], resource, limit)


def _staircase(menu: Menu, resource: Resource) -> Staircase:
    """The options by the share of the dense cost from which on they fit, and of those the one of least error."""
    dense = menu.dense.cost.get(resource)
    error = np.concatenate([[menu.dense.error], *(ladder.error for ladder in menu.ladders)])
    cost = np.concatenate([[dense], *(ladder.cost(resource) for ladder in menu.ladders)])
    useful = np.append(0, np.flatnonzero(cost < dense))
    order = useful[np.lexsort((error[useful], cost[useful]))]
    best = np.minimum.accumulate(error[order])
    steps = order[np.append(True, best[1:] < best[:-1])]
    share = np.append(0.0, cost[steps[1:]] / dense)
    return Staircase(share, cost[steps], steps)
