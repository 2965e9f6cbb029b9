"""Winner rates as menus, and what they make of the cost of the layers that read.

A layer of which an option costs c multiply-accumulates reads an activation of density a, the share that is not zero:

    cost = c a,      a = min(winner rate of its group, density without masks),

as the paper counts (weight % times activation %). a is 1 for what is no activation, such as the network's input. Other
resources do not depend on a. Without a mask a network has less than the cost of its dense layers: the zeros that a ReLU
leaves count.

The cost is a product of two choices. With the rates given it is a sum over the layers, which the allocator deals with
(`Rates.at`). `choose_together` searches the rates: all groups at the same one first, then one group after the other at
the next rate it is offered, as long as the summed error of what the allocator makes of it falls. So a plan is no worse
than the best with one rate everywhere, or without masks. That there is no better one is not proven. The allocator is
asked only of rates that it was not asked of before, and that no bound says are no better (`bound`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from lissom_runtime.errors import GoalMissed

from lissom.activations.bound import least_error
from lissom.activations.sites import KIND
from lissom.activations.survey import Group
from lissom.options import Menu, Option, Plan, Resource

PER_MILLE = "per_mille"
"""The parameter that a group's options differ in: winners among a thousand activations."""

PASSES = 4
"""How often every group is tried at its next rates."""

Limits = Mapping[Resource, float]
Choose = Callable[[Sequence[Menu], Limits], Plan]
"""The allocator."""


@dataclass(frozen=True)
class Rates:
    """The activations of a model as sites.

    Attributes:
        groups: the groups, by site.
        read: layer -> the tensor that it reads.
        densities: share of each activation that is not zero without masks, by tensor.
        menus: the menus of all sites, at density 1; groups cost nothing.
    """

    groups: Mapping[str, Group]
    read: Mapping[str, str]
    densities: Mapping[str, float]
    menus: Sequence[Menu]

    def offered(self) -> dict[str, list[float]]:
        """The rates that each group may have, by site, mildest first; 1 is no mask."""
        return {
            menu.site: [1.0, *(step / 1000 for ladder in menu.ladders for step in ladder.steps[::-1].tolist())]
            for menu in self.menus
            if menu.site in self.groups
        }

    def at(self, rates: Mapping[str, float]) -> list[Menu]:
        """The menus at a rate of each group, by site: layers cost what they do there, and groups have no choice."""
        return [self._of_group(m, rates) if m.site in self.groups else self._of_layer(m, rates) for m in self.menus]

    def least(self, resource: Resource) -> float:
        """The least that the sites can cost together."""
        rates = {site: offered[-1] for site, offered in self.offered().items()}
        return sum(menu.least(resource) for menu in self.at(rates))

    def density(self, layer: str, rates: Mapping[str, float]) -> float:
        """The share that is not zero of what a layer reads, at a rate of each group."""
        tensor = self.read.get(layer, "")
        own = [rates[site] for site, group in self.groups.items() if any(member.tensor == tensor for member in group)]
        return min([self.densities.get(tensor, 1.0), *own])

    def _of_layer(self, menu: Menu, rates: Mapping[str, float]) -> Menu:
        density, cost = self.density(menu.site, rates), menu.dense.cost
        dense = replace(menu.dense, cost=replace(cost, macs=cost.macs * density))
        return Menu(menu.site, dense, tuple(replace(ladder, macs=ladder.macs * density) for ladder in menu.ladders))

    def _of_group(self, menu: Menu, rates: Mapping[str, float]) -> Menu:
        options = (menu.option(number) for number in range(1 + sum(len(ladder) for ladder in menu.ladders)))
        return Menu(menu.site, next(option for option in options if rate_of(option) == rates[menu.site]), ())


def rate_of(option: Option) -> float:
    """The winner rate of a group's option."""
    return int(option.parameters[PER_MILLE]) / 1000 if option.kind == KIND else 1.0


def choose_together(rates: Rates, choose: Choose, limits: Limits) -> Plan:
    """The best plan of weights and rates that was found within the limits.

    Args:
        rates: the sites.
        choose: the allocator.
        limits: upper bound of the sites' summed cost in each limited resource.

    Raises:
        GoalMissed: no plan was found within the limits.
    """
    offered = rates.offered()
    plans = _Plans(rates, choose, limits)
    everywhere = sorted({rate for found in offered.values() for rate in found} | {1.0}, reverse=True)
    for rate in everywhere:
        plans.take({site: min((r for r in found if r >= rate), default=1.0) for site, found in offered.items()})
    moved = plans.best is not None
    for _ in range(PASSES):
        if not moved:
            break
        moved = False
        for site, found in offered.items():
            for step in (-1, 1):
                at = found.index(plans.rates[site]) + step
                moved |= 0 <= at < len(found) and plans.take({**plans.rates, site: found[at]})
    if plans.best is None:
        raise GoalMissed(plans.missed)
    return replace(plans.best, distortion=plans.best.summed_error, bound=None)


class _Plans:
    """Plans at some rates, of which the best is kept.

    Attributes:
        best: the plan of least summed error so far, or None where none is within the limits.
        rates: its rates, by site.
        missed: why the last plan is not within the limits.
    """

    def __init__(self, rates: Rates, choose: Choose, limits: Limits) -> None:
        self._sites, self._choose, self._limits = rates, choose, limits
        self._tried: set[frozenset[tuple[str, float]]] = set()
        self.best: Plan | None = None
        self.rates: Mapping[str, float] = {}
        self.missed = ""

    def take(self, rates: Mapping[str, float]) -> bool:
        """Whether the plan at some rates is better than all so far."""
        if (tried := frozenset(rates.items())) in self._tried:
            return False
        self._tried.add(tried)
        menus = self._sites.at(rates)
        if self.best is not None and least_error(menus, self._limits) >= self.best.summed_error:
            return False
        try:
            plan = self._choose(menus, self._limits)
        except GoalMissed as missed:
            self.missed = str(missed)
            return False
        better = self.best is None or plan.summed_error < self.best.summed_error
        if better:
            self.best, self.rates = plan, rates
        return better
