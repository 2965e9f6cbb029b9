"""The integer program of `total` as arrays: what each site may take, and what the limits leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from lissom.options import FloatArray, IntArray, Menu, Resource

PIVOTS = 200
"""Options of a site that are compared with all others of a lot, to take out those that are needless."""


@dataclass(frozen=True)
class Site:
    """What a site may take: "keep dense" first, then all that is cheaper in some limited resource.

    Attributes:
        error: error[n].
        cost: cost[resources, n], of the limited resources.
        position: position[n] among all options of the site: 0 is "keep dense", then come the
            options of each ladder in turn.
    """

    error: FloatArray
    cost: FloatArray
    position: IntArray

    def settle(self, option: int) -> int:
        """The option, or one that is no worse in anything and better in something, or earlier."""
        no_worse = (self.error <= self.error[option]) & (self.cost <= self.cost[:, [option]]).all(axis=0)
        among = np.flatnonzero(no_worse)
        return int(among[np.lexsort((*self.cost[:, among], self.error[among]))[0]])

    def front(self, options: IntArray) -> IntArray:
        """The options without those that another one of them makes needless, at least for `PIVOTS` of them."""
        values = np.vstack([self.error[options], self.cost[:, options]])
        size = np.abs(values).max(axis=1, keepdims=True)
        order = (values / np.where(size > 0, size, 1)).sum(axis=0).argsort(kind="stable")
        for pivot in range(PIVOTS):
            if pivot >= len(order):
                break
            rest = order[pivot + 1 :]
            needless = (values[:, rest] >= values[:, order[[pivot]]]).all(axis=0)
            order = np.append(order[: pivot + 1], rest[~needless])
        front: IntArray = options[np.sort(order)]
        return front


@dataclass(frozen=True)
class Program:
    """The sites and their limits.

    Attributes:
        sites: what each may take.
        limit: limit[resources].
        floor: floor[resources, sites], the least cost of each site.
        scale: scale[resources], the room that a limit leaves above the floors, but no less than rounding
            makes of the limit.
        room: room[resources] in units of `scale`: 1, or less where rounding is more than the room.
    """

    sites: Sequence[Site]
    limit: FloatArray
    floor: FloatArray
    scale: FloatArray
    room: FloatArray

    def excess(self, site: int, options: IntArray) -> FloatArray:
        """excess[resources, options]: the cost above the site's floor in units of `scale`."""
        above: FloatArray = (self.sites[site].cost[:, options] - self.floor[:, [site]]) / self.scale[:, None]
        return above

    def dearness(self, site: int, prices: FloatArray, weight: float = 1.0) -> FloatArray:
        """dearness[n] of all options of a site: `weight` × error, and the excess at `prices`[resources]."""
        own, each = self.sites[site], prices / self.scale
        paid: FloatArray = weight * own.error + each @ own.cost - each @ self.floor[:, site]
        return paid

    def over(self, choice: Sequence[int]) -> FloatArray:
        """over[resources]: the costs of a choice[sites], summed in the order of the sites, less the limits."""
        chosen = list(zip(self.sites, choice, strict=True))
        rows = range(len(self.limit))
        return np.array([sum(float(site.cost[row, option]) for site, option in chosen) for row in rows]) - self.limit

    def distortion(self, choice: Sequence[int]) -> float:
        """The summed error of a choice[sites]."""
        return sum(float(site.error[option]) for site, option in zip(self.sites, choice, strict=True))


def program_of(sites: Sequence[Site], limit: FloatArray) -> Program:
    """The program of some sites under limit[resources]."""
    floor = np.array([site.cost.min(axis=1) for site in sites], np.float64).reshape(len(sites), len(limit)).T
    room = limit - floor.sum(axis=1)
    scale = np.maximum(room, 1e-6 * np.abs(limit))
    scale = np.where(scale > 0, scale, 1)
    return Program(sites, limit, floor, scale, np.maximum(room, 0) / scale)


def site_of(menu: Menu, resources: Sequence[Resource]) -> Site:
    """What a menu's site may take, where `resources` are limited.

    Raises:
        ValueError: an error or a cost is not finite, or latency is limited and an option was not priced.
    """
    error = np.concatenate([[menu.dense.error], *(ladder.error for ladder in menu.ladders)])
    cost = np.empty((len(resources), len(error)))
    for row, resource in enumerate(resources):
        cost[row] = np.concatenate([[menu.dense.cost.get(resource)], *(lad.cost(resource) for lad in menu.ladders)])
    for values in (error, cost):
        if not np.isfinite(values).all():
            raise ValueError(f"expected finite errors and costs of {menu.site}, got {values[~np.isfinite(values)][0]}")
    useful = np.append(0, np.flatnonzero((cost < cost[:, :1]).any(axis=0)))
    return Site(error[useful], cost[:, useful], useful)


def one_each(offered: Sequence[IntArray], others: int = 0) -> csr_array:
    """The rows Σ_o x[s, o] = 1; `others` columns that are no options follow."""
    counts = [len(options) for options in offered]
    columns = sum(counts)
    shape = len(counts), columns + others
    return csr_array((np.ones(columns), np.arange(columns), np.cumsum([0, *counts])), shape=shape)
