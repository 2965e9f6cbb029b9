"""Least summed error where the cost of one site depends on what is chosen for others.

With channels gone before and behind a layer its cost falls twice, so that costs are products and no sum over the sites.
About any plan they are a sum to first order; `Coupled.linear` gives the menus of that. The allocator solves them again
and again:

1. The limits come down from the cost of the dense network in `STEPS` even steps; each plan is where the next costs are
   taken about, so that none lies far from the last one.
2. At the limits themselves what a plan misses, or leaves, by its true cost is taken off, or added to, what the next one
   may have, `TRIES` times; of a second and third miss in turn twice and three times as much. Asked for less than the
   least, the allocator is asked for the least, which is the same plan by both costs.

The answer is the plan of least summed error among those that were within the limits by their true cost. Every one of
them is the allocator's, and no other chooser's. That there is no better one is not proven, so the plan has no bound.

Source: sequential linear programming; Griffith and Stewart, Management Science 7 (1961).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from lissom_runtime.errors import GoalMissed

from lissom.options import Menu, Plan, Resource

STEPS = 6
"""Plans on the way down to the limits."""

TRIES = 8
"""Plans at the limits."""

ROUNDING = 1e-9
"""Of a limit, what counts as nothing."""

Point = TypeVar("Point")
Limits = Mapping[Resource, float]


class Coupled(Protocol, Generic[Point]):
    """Sites whose costs depend on one another; a point is all that costs depend on."""

    def start(self) -> Point:
        """Where every site is dense."""

    def linear(self, point: Point) -> Sequence[Menu]:
        """The menus with costs to first order about a point; those of its own options add up to its true cost."""

    def settle(self, plan: Plan, point: Point) -> tuple[Plan, Point]:
        """A plan that was chosen from the menus about a point with its true costs, and its own point."""


def successive(
    coupled: Coupled[Point], choose: Callable[[Sequence[Menu], Limits], Plan], limits: Limits, dense: Limits
) -> Plan:
    """The best plan that was found within the limits.

    Args:
        coupled: the sites.
        choose: the allocator.
        limits: upper bound of the sites' summed cost in each limited resource.
        dense: that cost when every site is dense.

    Raises:
        GoalMissed: no plan was found within the limits.
    """
    point = coupled.start()
    for step in range(1, STEPS):
        aims = {name: dense[name] + min(limit - dense[name], 0.0) * step / STEPS for name, limit in limits.items()}
        _, point = coupled.settle(_choose(choose, coupled.linear(point), aims), point)
    best: Plan | None = None
    aims, nearest, misses = dict(limits), "", 0
    for _ in range(TRIES):
        try:
            plan, point = coupled.settle(_choose(choose, coupled.linear(point), aims), point)
        except GoalMissed as missed:
            nearest = nearest or str(missed)
            break
        over = {name: plan.total(name) - limit for name, limit in limits.items()}
        if all(value <= 0 for value in over.values()):
            if best is not None and plan.summed_error >= best.summed_error:
                break
            best, misses = plan, 0
        else:
            misses += 1
            worst = max(over, key=over.__getitem__)
            nearest = f"the nearest plan has {plan.total(worst):.6g} {worst}, and {limits[worst]:.6g} is the limit"
        aims = {name: aim - max(misses, 1) * over[name] for name, aim in aims.items()}
    if best is None:
        raise GoalMissed(nearest)
    return replace(best, distortion=best.summed_error, bound=None)


def _choose(choose: Callable[[Sequence[Menu], Limits], Plan], menus: Sequence[Menu], aims: Limits) -> Plan:
    """What the allocator chooses, asked for no less than there is."""
    least = {name: sum(menu.least(name) for menu in menus) for name in aims}
    return choose(menus, {name: max(aim, least[name] + ROUNDING * abs(least[name])) for name, aim in aims.items()})
