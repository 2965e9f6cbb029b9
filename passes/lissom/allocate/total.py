"""The least summed error under any mix of limits, as an integer program.

Site s takes one option o of its menu; e[s, o] is its error and c[r, s, o] its cost in resource r:

    minimise   Σ e[s, o] x[s, o]
    subject to Σ_o x[s, o] = 1                      for every site s
               Σ c[r, s, o] x[s, o] ≤ limit[r]      for every limited resource r
               x[s, o] = 0 or 1

Menus hold millions of options and a solver of such programs bears some thousands, so all
others are put aside first, by prices. At prices λ[r] ≥ 0 a site is best served by the option
of least e + Σ_r λ[r] c[r], and no choice of options within the limits has a summed error below

    L(λ) = Σ_s min_o (e[s, o] + Σ_r λ[r] c[r, s, o]) − Σ_r λ[r] limit[r].

1. RELAX   The prices of largest L are those of the program with fractions of options allowed.
           It is solved on a few options of each site, to which the one that the prices like
           best is added, until that is nowhere a new one.
2. WIDEN   An option is dearer than its site's best by some d ≥ 0, and no choice that takes it has
           a summed error below L(λ) + d. The solver chooses among the `FEW` options of least d, then
           among `WIDER` times as many, and so on. A choice found has some summed error U, so that
           no better one takes an option of d > U − L(λ): the options below that are the last lot.

The least summed error is not below L(λ), nor below the lesser of what the solver proves of a lot
and L(λ) + the least d outside it. The search ends when U is within `gap` of that, at the latest
after the last lot. From each lot those options are taken out that another one of their site makes
needless, being no worse in error and in every limited resource. All of this keeps the optimum.

The solver holds a limit only to within 10⁻⁶ of the room that it leaves, so its answer is summed
as `Plan.total` does. If that is over a limit, so is every choice that is as dear at every site, and
one row of the program rules all of them out. After `CUTS` such rows the solver gets a limit
that is lower by what was missed; `bound` stays that of the true limit.

Options that are not cheaper than keeping the site dense in any limited resource are never taken.
No option is taken when the menu has another that is no worse in error and in all limited resources;
of options alike in all of these it is the first of the menu.

An option that touches several sites (a channel group, two kinds on one layer) would be one
column that stands in the rows Σ_o x[s, o] = 1 of all its sites.

Source: Sinha and Zoltners, "The Multiple-Choice Knapsack Problem", Operations Research 27(3),
1979; Kellerer, Pferschy and Pisinger, "Knapsack Problems", Springer 2004, chapter 11.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Context

import numpy as np
from lissom_runtime.errors import GoalMissed
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array

from lissom.allocate.program import Program, Site, one_each, program_of, site_of
from lissom.allocate.quiet import without_notes
from lissom.options import FloatArray, IntArray, Menu, Plan, Resource

GAP = 1e-4
"""How far above the least the summed error may be, as a fraction: far less than errors are known to."""

FEW = 1000
"""Options of all sites together that the solver chooses among first."""

WIDER = 4
"""How many times as many it chooses among next."""

NODES = 1
"""Branches that it follows before the last lot."""

CUTS = 32
"""Choices over a limit by less than the solver can see that are ruled out one by one."""

FRACTION = 1e-9
"""What counts as nothing, as a fraction of the room that a limit leaves, or of an error."""

STEADY = 1000.0
"""The largest error as the solver gets it: its tolerances are 10⁻⁶ and 10⁻⁷, whatever the unit."""


@dataclass(frozen=True)
class Total:
    """A plan of least summed error, and how far from the least it can be.

    Attributes:
        plan: the plan; its level is the largest error of an option taken.
        distortion: summed error of the plan.
        bound: no choice of options within the limits has a smaller summed error (up to rounding); at most
            `distortion`.
    """

    plan: Plan
    distortion: float
    bound: float


def total(menus: Sequence[Menu], limits: Mapping[Resource, float], seconds: float = 10.0, gap: float = GAP) -> Total:
    """The plan of least summed error that keeps all limits at once.

    The same menus and limits give the same plan, unless the time ran out.

    Args:
        menus: one per site.
        limits: upper bound of the sites' summed cost in each limited resource.
        seconds: time for the solver, 0 or more; when it has run out the best plan so far is returned.
        gap: how far above the least the summed error may be, as a fraction; 0 for the least itself.

    Raises:
        GoalMissed: no choice of options keeps the limits; the message names the least that can be reached.
        ValueError: an error or a cost is not finite, a limit is NaN, or latency is limited and an option
            was not priced.
    """
    limits = {resource: limit for resource, limit in limits.items() if limit != math.inf}
    program = program_of([site_of(menu, list(limits)) for menu in menus], np.array(list(limits.values()), np.float64))
    if np.isnan(program.limit).any():
        raise ValueError(f"expected numbers as limits, got {limits}")
    for row, (resource, limit) in enumerate(limits.items()):
        least = sum(float(site.cost[row].min()) for site in program.sites)
        if least > limit:
            raise GoalMissed(
                f"the sites cannot be made smaller than {_up(least)} {resource}, and {limit:g} is the limit"
            )
    found = _solve(program, time.monotonic() + seconds, gap)
    if found is None:
        raise _missed(program, limits, seconds)
    chosen = zip(menus, program.sites, found[0], strict=True)
    options = {menu.site: menu.option(int(site.position[site.settle(option)])) for menu, site, option in chosen}
    plan = Plan(options, level=max((option.error for option in options.values()), default=0.0))
    return Total(plan, plan.summed_error, min(found[1], plan.summed_error))


def _solve(program: Program, deadline: float, gap: float) -> tuple[Sequence[int], float] | None:
    """The best choice[sites] and a lower bound of the summed error of all, or None where no choice was found."""
    if not program.sites:
        return [], 0.0
    relaxed = _relax(program)
    if relaxed is None:
        return None
    prices, lower = relaxed.prices, relaxed.bound
    dearness = [program.dearness(site, prices) for site in range(len(program.sites))]
    dearer = [values - values.min() for values in dearness]
    found, most, count = None, math.inf, FEW
    while True:
        near, last = _reach(dearer, count, most - relaxed.bound + FRACTION * (abs(most) + float(prices.sum())))
        offered = [np.flatnonzero(values <= near) for values in dearer]
        choice, proven = _integer(program, offered, deadline, gap, NODES if not last else None)
        if choice is not None and (found is None or program.distortion(choice) <= most):
            found, most = choice, program.distortion(choice)
        lower = max(lower, proven if last else min(proven, relaxed.bound + near))
        if last or most - lower <= gap * abs(most) or time.monotonic() > deadline:
            break
        count *= WIDER
    found = found or _quick(program, prices)
    return None if found is None else (found, lower)


def _reach(dearer: Sequence[FloatArray], count: int, most: float) -> tuple[float, bool]:
    """How dear the `count` least dear options are, and whether they are all; or `most` if fewer are within it."""
    every = np.concatenate(dearer)
    if int((every <= most).sum()) <= count:
        return most, True
    return float(np.partition(every, count)[count]), False


def _quick(program: Program, prices: FloatArray) -> Sequence[int] | None:
    """A choice[sites] within the limits without the solver: the prices rise until it is. None when it never is."""
    prices = np.maximum(prices, FRACTION * prices.max() or 1.0)
    for weight in (*np.geomspace(1, FRACTION, 90), 0.0):
        choice = [int(program.dearness(site, prices, weight).argmin()) for site in range(len(program.sites))]
        if not (program.over(choice) > 0).any():
            return choice
    return None


@dataclass(frozen=True)
class _Relaxed:
    """The program with fractions of options allowed.

    Attributes:
        prices: prices[resources] of the whole `scale` of each.
        bound: L at these prices.
        value: the optimum over the options in `pool`.
        pool: the options of each site that it was solved on.
    """

    prices: FloatArray
    bound: float
    value: float
    pool: Sequence[IntArray]


def _relax(program: Program) -> _Relaxed | None:
    """The prices of largest L, or None when not even fractions of options are within the limits."""
    pool = [np.unique([site.error.argmin(), *site.cost.argmin(axis=1)]) for site in program.sites]
    least = _generate(program, pool, None)
    if least.bound > FRACTION:
        return None
    return _generate(program, least.pool, max(least.value, 0.0))


def _generate(program: Program, pool: Sequence[IntArray], over: float | None) -> _Relaxed:
    """Solves the program with fractions of options, with those in `pool` and what the prices then like better.

    Args:
        program: the program.
        pool: options of each site, at least one.
        over: by how many scales every limit may be exceeded, or None to find the least such number instead
            of the least summed error.
    """
    sites, weight = range(len(program.sites)), float(over is not None)
    best = _Relaxed(np.zeros(len(program.room)), -math.inf, math.inf, pool)
    while True:
        error = np.concatenate([program.sites[site].error[pool[site]] for site in sites])
        unit = weight * float(np.abs(error).max()) / STEADY or 1.0
        excess = np.hstack([program.excess(site, pool[site]) for site in sites])
        result = linprog(  # type: ignore[call-overload]  # the stubs know no sparse matrices here
            np.append(weight * error / unit, 1 - weight),
            A_ub=np.hstack([excess, np.full((len(excess), 1), -1.0)]),
            b_ub=program.room,
            A_eq=one_each(pool, others=1),
            b_eq=np.ones(len(sites)),
            bounds=[*[(0, None)] * len(error), (over or 0, over)],
        )
        if result.status != 0:  # the prices so far give a bound too
            return best
        prices = unit * np.maximum(-result.ineqlin.marginals, 0)
        dearness = [program.dearness(site, prices, weight) for site in sites]
        bound = sum(float(values.min()) for values in dearness) - float(prices @ program.room)
        value = unit * float(result.fun)
        best = _Relaxed(prices, bound, value, pool) if bound > best.bound else replace(best, value=value, pool=pool)
        wider = [np.union1d(known, values.argmin()) for known, values in zip(pool, dearness, strict=True)]
        if value - best.bound <= FRACTION * unit or all(len(a) == len(b) for a, b in zip(pool, wider, strict=True)):
            return best
        pool = wider


def _integer(
    program: Program, offered: Sequence[IntArray], deadline: float, gap: float, nodes: int | None = None
) -> tuple[Sequence[int] | None, float]:
    """The best choice[sites] among the options offered to each site, None where none was found.

    The second result is a lower bound of the summed error of all such choices within the limits.
    """
    sites = range(len(program.sites))
    offered = [site.front(options) for site, options in zip(program.sites, offered, strict=True)]
    starts = np.cumsum([0, *(len(options) for options in offered)])
    error = np.concatenate([program.sites[site].error[offered[site]] for site in sites])
    cost = np.hstack([program.sites[site].cost[:, offered[site]] for site in sites])
    # An option dearer than all the room there is stays so when the solver sees it as twice the room.
    excess = np.hstack([np.minimum(program.excess(site, offered[site]), 2) for site in sites])
    room = program.room + FRACTION
    unit = float(np.abs(error).max()) / STEADY or 1.0
    rows = [LinearConstraint(one_each(offered), 1, 1)]
    proven = -math.inf
    for attempt in itertools.count():
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            break
        with without_notes():
            result = milp(
                error / unit,
                integrality=np.ones(len(error), np.int64),
                bounds=Bounds(0, 1),
                constraints=[LinearConstraint(excess, -np.inf, room), *rows],
                options={"mip_rel_gap": gap, "time_limit": seconds, **({} if nodes is None else {"node_limit": nodes})},
            )
        if attempt <= CUTS and result.mip_dual_bound is not None:
            proven = max(proven, unit * float(result.mip_dual_bound))
        if result.x is None:
            break
        taken = [int(a + result.x[a:b].argmax()) for a, b in itertools.pairwise(starts)]
        choice = [int(options[at - start]) for options, at, start in zip(offered, taken, starts[:-1], strict=True)]
        over = program.over(choice)
        if not (over > 0).any():
            return choice, proven
        if attempt < CUTS:
            as_dear = cost >= np.repeat(cost[:, taken], np.diff(starts), axis=1)
            rows.append(LinearConstraint(csr_array(as_dear[over > 0].astype(np.float64)), -np.inf, len(sites) - 1))
        else:
            room = room - 2 * np.maximum(over, 0) / program.scale
    return None, proven


def _missed(program: Program, limits: Mapping[Resource, float], seconds: float) -> GoalMissed:
    """What to say of limits that can be kept one by one but not together: the least of the last under the others."""
    *others, last = limits
    sites = [Site(site.cost[-1], site.cost[:-1], site.position) for site in program.sites]
    found = _solve(program_of(sites, program.limit[:-1]), time.monotonic() + seconds, 0.0)
    if found is None:
        fewer = [replace(site, cost=site.cost[:-1]) for site in program.sites]
        return _missed(program_of(fewer, program.limit[:-1]), {each: limits[each] for each in others}, seconds)
    least = sum(float(site.error[option]) for site, option in zip(sites, found[0], strict=True))
    kept = " and ".join(f"{limits[each]:g} {each}" for each in others)
    if least <= limits[last]:
        return GoalMissed(f"no choice within {kept} and {limits[last]:g} {last} was found in {seconds:g} s")
    return GoalMissed(
        f"within {kept} the least that was found is {_up(least)} {last}, and {limits[last]:g} is the limit"
    )


def _up(value: float) -> str:
    """A size to six digits, rounded up, so that asking for what was printed can be met; whole numbers in full."""
    return f"{value:.0f}" if value == int(value) else str(Context(6, ROUND_CEILING).create_decimal_from_float(value))
