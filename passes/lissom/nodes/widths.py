"""How wide the layers of a network may be, as menus, and what widths make of each other's cost.

Of the n_g indices of channel group g, k_g are kept. A layer whose rows and columns are those of groups then has

    r = 1 - Σ_g a_g (n_g - k_g)    of its rows,        a_g the share of its rows that one index of g is,
    s = 1 - Σ_g b_g (n_g - k_g)    of its columns,     b_g the same of its columns,

and costs c(o) r s, where c(o) is what its option o costs at full width. That is exact for weights and multiply-
accumulates. Latency goes with the work only nearly. What a node takes however narrow it is counts as time outside of
the sites (`without_node`); what a plan is said to take is corrected by the search, which measures the finished model.

A layer with a menu is charged for itself. One without (depthwise, grouped, transposed, left out by the user) is charged
to the groups of its rows, g bears c a_g k_g s; for rows that no group gives, to those of its columns. What stands
between the layers takes time only (`between`), and is charged as if it gave the channels of its output. About a plan,
the cost of group g at another count is, to first order in all changes, what it bears plus what each layer's r s changes
by. The menus of `linear` say that; those of a plan's own options add up to its true cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lissom.graph.channels.coupling import Coupling
from lissom.graph.layers import Layer
from lissom.nodes.groups import KIND, ChannelGroup
from lissom.nodes.readers import Reader
from lissom.nodes.scores import Ranking
from lissom.observe import Moment
from lissom.options import RESOURCES, Cost, FloatArray, IntArray, Ladder, Menu, Option, Plan, Resource

KEPT = "kept"
"""The parameter that a group's options differ in: how many indices are kept."""


@dataclass(frozen=True)
class Part:
    """A layer, or what stands between layers, as the groups see it.

    Attributes:
        cost: what it costs, dense and at full width.
        rows, columns: the share of them that one index of each group is, by site.
        charged: whether it has a menu of its own.
        layer: what is timed of one without a menu; None: it is timed in the network, or not at all.
    """

    cost: Cost
    rows: Mapping[str, float]
    columns: Mapping[str, float]
    charged: bool
    layer: Layer | None = None


@dataclass(frozen=True)
class Point:
    """What the costs of a network depend on.

    Attributes:
        kept: indices that are kept of each group, by site.
        full: what each layer's option costs at full width, by layer.
    """

    kept: Mapping[str, int]
    full: Mapping[str, Cost]


@dataclass(frozen=True)
class Widths:
    """The channel groups of a model as sites.

    Attributes:
        coupling: which channels are one.
        readers: the layers of the groups.
        groups: the groups, by site.
        rankings: their indices, least important first, by site.
        moments: mean and second moment of the readers' inputs.
        parts: the layers, by name.
        menus: the menus of all sites, at full width.
        between: what stands between the layers, by name; it costs nothing but time.
    """

    coupling: Coupling
    readers: Mapping[str, Reader]
    groups: Mapping[str, ChannelGroup]
    rankings: Mapping[str, Ranking]
    moments: Mapping[str, Moment]
    parts: Mapping[str, Part]
    menus: Sequence[Menu] = field(default_factory=tuple)
    between: Mapping[str, Part] = field(default_factory=dict)

    def kept(self, plan: Plan) -> dict[str, IntArray]:
        """The indices that a plan keeps of each group that it cuts, by the group's name."""
        found = {}
        for site, group in self.groups.items():
            option = plan.options.get(site)
            if option is not None and option.kind == KIND:
                found[group.name] = np.sort(self.rankings[site].order[-int(option.parameters[KEPT]) :])
        return found

    def priced(self, menus: Sequence[Menu]) -> Widths:
        """The same with other menus of the same sites; layers without one keep the time that they have."""
        costs = {menu.site: menu.dense.cost for menu in menus}
        timed = any(cost.latency_us is not None for cost in costs.values())

        def known(part: Part) -> Part:
            return replace(part, cost=replace(part.cost, latency_us=(part.cost.latency_us or 0.0) if timed else None))

        parts = {
            name: replace(part, cost=costs[name]) if part.charged else known(part) for name, part in self.parts.items()
        }
        between = {name: known(part) for name, part in self.between.items()}
        return replace(self, menus=menus, parts=parts, between=between)

    @property
    def untimed(self) -> list[str]:
        """Names of what takes time and cannot be timed as a layer."""
        return [*(name for name, part in self.parts.items() if not part.charged and part.layer is None), *self.between]

    def timed(self, dense_us: Callable[[Layer], float], node_us: float, others_us: Mapping[str, float]) -> Widths:
        """The same with the times of the layers that have no menu and of what stands between, where they are measured.

        Args:
            dense_us: microseconds of a layer.
            node_us: what of them a layer takes at any width.
            others_us: microseconds of what cannot be timed as a layer, by name, without what it takes at any width.
        """

        def told(name: str, part: Part) -> Part:
            if part.charged:
                return part
            us = others_us.get(name, 0.0) if part.layer is None else max(dense_us(part.layer) - node_us, 0.0)
            return replace(part, cost=replace(part.cost, latency_us=us))

        parts = {name: told(name, part) for name, part in self.parts.items()}
        return replace(self, parts=parts, between={name: told(name, part) for name, part in self.between.items()})

    def with_times(self, menu: Menu) -> Menu:
        """A group's menu with the times of the layers that it bears, nothing else being cut."""
        borne = float(self._borne(menu.site, self.start(), "latency_us"))
        each = np.float64(borne / len(self.groups[menu.site]))
        dense = replace(menu.dense, cost=replace(menu.dense.cost, latency_us=borne))
        return Menu(menu.site, dense, tuple(replace(lad, latency_us=each * lad.steps) for lad in menu.ladders))

    def faster(self, factor: float) -> Widths:
        """The same with the times of the layers that have no menu, and of what stands between, scaled."""

        def scaled(part: Part) -> Part:
            if part.charged or part.cost.latency_us is None:
                return part
            return replace(part, cost=replace(part.cost, latency_us=factor * part.cost.latency_us))

        parts = {name: scaled(part) for name, part in self.parts.items()}
        return replace(self, parts=parts, between={name: scaled(part) for name, part in self.between.items()})

    def start(self) -> Point:
        """Where nothing is cut."""
        full = {menu.site: menu.dense.cost for menu in self.menus if menu.site in self.parts}
        return Point({site: len(group) for site, group in self.groups.items()}, full)

    def linear(self, point: Point) -> list[Menu]:
        """The menus with costs to first order about a point."""
        return [self._linear(menu, point) for menu in self.menus]

    def settle(self, plan: Plan, point: Point) -> tuple[Plan, Point]:
        """A plan that was chosen from the menus about a point with its true costs, and its own point."""
        kept, full = dict(point.kept), dict(point.full)
        for site, option in plan.options.items():
            if site in self.groups:
                kept[site] = int(option.parameters[KEPT]) if option.kind == KIND else len(self.groups[site])
            elif site in self.parts:
                full[site] = option.cost.times(1 / self._share(site, point))
        own = Point(kept, full)
        options = {site: replace(option, cost=self._true(option, own)) for site, option in plan.options.items()}
        return replace(plan, options=options), own

    def least(self, resource: Resource) -> float:
        """The least that the sites can cost together."""
        counts = dict.fromkeys(self.groups, 1)
        for menu in self.menus:
            if menu.site in self.groups:
                counts[menu.site] = min([len(self.groups[menu.site]), *(int(lad.steps[0]) for lad in menu.ladders)])
        total = 0.0
        for menu in self.menus:
            if menu.site in self.groups:
                total += self._borne(menu.site, Point(counts, {}), resource)
            else:
                total += menu.least(resource) * (
                    self._share(menu.site, Point(counts, {})) if menu.site in self.parts else 1.0
                )
        return total

    def _true(self, option: Option, point: Point) -> Cost:
        """What an option costs at a point."""
        if option.site in self.groups:
            names = [name for name in RESOURCES if name != "latency_us" or option.cost.latency_us is not None]
            return Cost(*(self._borne(option.site, point, name) for name in names))
        if option.site in self.parts:
            return point.full[option.site].times(self._share(option.site, point))
        return option.cost

    def _linear(self, menu: Menu, point: Point) -> Menu:
        if menu.site in self.parts:
            share = self._share(menu.site, point)
            dense = replace(menu.dense, cost=menu.dense.cost.times(share))
            return Menu(menu.site, dense, tuple(ladder.times(share) for ladder in menu.ladders))
        if menu.site not in self.groups:
            return menu
        timed = menu.dense.cost.latency_us is not None

        def about(counts: IntArray) -> list[FloatArray]:
            return [self._about(menu.site, counts, point, name) for name in RESOURCES if timed or name != "latency_us"]

        everything = about(np.array([len(self.groups[menu.site])]))
        dense = replace(menu.dense, cost=Cost(*(float(cost[0]) for cost in everything)))
        return Menu(menu.site, dense, tuple(_at(ladder, *about(ladder.steps)) for ladder in menu.ladders))

    def _about(self, site: str, counts: IntArray, point: Point, resource: Resource) -> FloatArray:
        """The cost[n] of keeping counts[n] of a group, to first order about a point."""
        cost: FloatArray = np.full(len(counts), float(self._borne(site, point, resource)))
        for name, part in (*self.parts.items(), *self.between.items()):
            if site in part.rows or site in part.columns:
                worth = point.full.get(name, part.cost).get(resource)
                here = self._part(part, point)
                rows = self._left(part.rows, point) - part.rows.get(site, 0.0) * (point.kept[site] - counts)
                columns = self._left(part.columns, point) - part.columns.get(site, 0.0) * (point.kept[site] - counts)
                cost += worth * (rows * columns - here)
        return cost

    def _borne(self, site: str, point: Point, resource: Resource) -> float:
        """What a group bears of the layers that have no menu."""
        return sum(
            part.cost.get(resource)
            * point.kept[site]
            * (
                part.rows.get(site, 0.0) * self._left(part.columns, point)
                + self._kept_rows(part) * part.columns.get(site, 0.0)
            )
            for part in (*self.parts.values(), *self.between.values())
            if not part.charged
        )

    def _kept_rows(self, part: Part) -> float:
        """The share of a layer's rows that no group gives."""
        return 1.0 - sum(share * len(self.groups[site]) for site, share in part.rows.items())

    def _share(self, layer: str, point: Point) -> float:
        """What is left of a layer's weights."""
        return self._part(self.parts[layer], point)

    def _part(self, part: Part, point: Point) -> float:
        """What is left of a part."""
        return self._left(part.rows, point) * self._left(part.columns, point)

    def _left(self, shares: Mapping[str, float], point: Point) -> float:
        """What is left of the rows or columns of a layer."""
        return 1.0 - sum(share * (len(self.groups[site]) - point.kept[site]) for site, share in shares.items())


def site_of(group: ChannelGroup) -> str:
    """The name of a group among the sites, where its layers have theirs."""
    return f"{group.name} channels"


def without_node(menu: Menu, node_us: float) -> Menu:
    """A layer's menu without the time that it takes at any width, which counts as time outside of the sites."""

    def less(cost: Cost) -> Cost:
        return replace(cost, latency_us=max(cost.get("latency_us") - node_us, 0.0))

    ladders = [replace(lad, latency_us=np.maximum(lad.cost("latency_us") - node_us, 0.0)) for lad in menu.ladders]
    return Menu(menu.site, replace(menu.dense, cost=less(menu.dense.cost)), tuple(ladders))


def untimed(menu: Menu) -> Menu:
    """A group's menu where latencies count: those of the layers that it bears are not known, and count as none."""
    ladders = [replace(ladder, latency_us=np.zeros(len(ladder))) for ladder in menu.ladders]
    return Menu(menu.site, replace(menu.dense, cost=replace(menu.dense.cost, latency_us=0.0)), tuple(ladders))


def _at(
    ladder: Ladder, params: FloatArray, bytes_: FloatArray, macs: FloatArray, latency_us: FloatArray | None = None
) -> Ladder:
    """A ladder with other costs."""
    return replace(ladder, params=params, bytes=bytes_, macs=macs, latency_us=latency_us)
