"""How small the summed error of a plan can be, without the plan: what spares the allocator most rates.

Site s takes one option o of its menu, of error e[s, o] and cost c[s, o]; the costs together are at most B. At a price
λ ≥ 0 no choice within the limit has a summed error below

    L(λ) = Σ_s min_o (e[s, o] + λ c[s, o]) − λ B.

L is concave: where the options of its minima cost more than B a higher price is better, else a lower one, so that the
best is found by halving. Each of several limits gives a bound.

Source: Sinha and Zoltners, The Multiple-Choice Knapsack Problem (1979), as `allocate/total.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lissom.options import FloatArray, Menu, Resource

HALVINGS = 24
"""How often the range of prices is halved."""

LEAST_ROOM = 1e-9
"""The least room above the cheapest options that prices are made for, as a share of the limit."""


def least_error(menus: Sequence[Menu], limits: Mapping[Resource, float]) -> float:
    """A lower bound of the summed error of every choice within the limits; infinite where there is none.

    Args:
        menus: the sites.
        limits: upper bound of the sites' summed cost in each limited resource.
    """
    errors = [_values(menu.dense.error, [ladder.error for ladder in menu.ladders]) for menu in menus]
    least = sum(float(values.min()) for values in errors)
    for resource, limit in limits.items():
        costs = [
            _values(menu.dense.cost.get(resource), [ladder.cost(resource) for ladder in menu.ladders]) for menu in menus
        ]
        least = max(least, _bound(errors, costs, limit))
    return least


def _bound(errors: Sequence[FloatArray], costs: Sequence[FloatArray], limit: float) -> float:
    """The largest L(λ) that was found."""
    room = limit - sum(float(cost.min()) for cost in costs)
    if room < 0:
        return math.inf
    best, low, high = 0.0, 0.0, _most(errors) / max(room, LEAST_ROOM * limit) if limit > 0 else 0.0
    for _ in range(HALVINGS):
        price = (low + high) / 2
        taken = [int((error + price * cost).argmin()) for error, cost in zip(errors, costs, strict=True)]
        spent = sum(float(cost[option]) for cost, option in zip(costs, taken, strict=True))
        lost = sum(float(error[option]) for error, option in zip(errors, taken, strict=True))
        best = max(best, lost + price * (spent - limit))
        low, high = (price, high) if spent > limit else (low, price)
    return best


def _most(errors: Sequence[FloatArray]) -> float:
    """What all errors can differ by together: a price of more than that for the room that is left is never the best."""
    return sum(float(values.max() - values.min()) for values in errors)


def _values(dense: float, ladders: Sequence[FloatArray]) -> FloatArray:
    """Of the option that keeps the site dense, and of all others."""
    return np.concatenate([np.array([dense], np.float64), *ladders])
