"""The allocator that a recipe asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lissom_runtime.errors import UsageError

from lissom.allocate.alds import alds
from lissom.allocate.constant import constant
from lissom.allocate.minimax import minimax
from lissom.allocate.total import total
from lissom.options import Menu, Plan, Resource
from lissom.recipe_tables import Allocate


def choose(asked: Allocate, menus: Sequence[Menu], limits: Mapping[Resource, float]) -> Plan:
    """One option per site, so that the sites together cost at most what `limits` say.

    Raises:
        GoalMissed: a limit cannot be reached; the message names the least that can.
        UsageError: the objective has no such budget.
    """
    if asked.objective == "total":
        chosen = total(menus, limits)
        return replace(chosen.plan, distortion=chosen.distortion, bound=chosen.bound)
    if len(limits) != 1:
        raise UsageError(f'expected one budget for the objective "{asked.objective}", but got {", ".join(limits)}')
    ((resource, limit),) = limits.items()
    if asked.objective == "minimax":
        return minimax(menus, resource, limit)
    if asked.objective == "constant":
        return constant(menus, resource, limit)
    if resource != "params":
        raise UsageError(f'expected a parameter budget for the objective "alds", but the budget is {resource}')
    return alds(menus, limit, asked.seed)
