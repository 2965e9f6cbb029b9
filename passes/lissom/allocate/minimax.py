"""The least possible largest error under a budget, exactly.

At a level ε every site takes the cheapest option whose error is at most ε; keeping the site
dense is an option of error 0. The cost of a site is a falling staircase of ε, so the total
is one too, and it only changes where some site's staircase has a step. The least ε within
the budget is therefore one of those steps, found by bisection over all of them, sorted.

No other choice of options has a smaller largest error: with a largest error below ε each site
costs at least what it costs at that level, and those totals are over the budget.

The total is summed in the order of the sites, as `Plan.total` does. Floating-point addition
is monotone in each term, so the bisection is exact for measured latencies too.

Options as expensive as keeping the site dense are never taken; of two equally expensive
options the one with less error is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lissom.allocate.staircase import Staircase, first_within, levels
from lissom.options import Menu, Plan, Resource


def minimax(menus: Sequence[Menu], resource: Resource, limit: float) -> Plan:
    """The plan of least largest error whose total cost in `resource` is at most `limit`.

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
    return first_within(menus, stairs, levels(stairs), resource, limit)


def _staircase(menu: Menu, resource: Resource) -> Staircase:
    dense = menu.dense.cost.get(resource)
    error = np.concatenate([[0.0], *(ladder.error for ladder in menu.ladders)])
    cost = np.concatenate([[dense], *(ladder.cost(resource) for ladder in menu.ladders)])
    useful = np.append(0, np.flatnonzero(cost < dense))
    order = useful[error[useful].argsort(kind="stable")]
    cheapest = np.minimum.accumulate(cost[order])
    steps = order[np.append(True, cheapest[1:] < cheapest[:-1])]
    return Staircase(error[steps], cost[steps], steps)
