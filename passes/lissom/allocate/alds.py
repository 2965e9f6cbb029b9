"""The published ALDS iteration: ranks at a common error level, then groups, in turn.

Every layer has a table err[k][i] for each number of groups k, entry i being the error with
i ranks kept. A pair of rank j costs j·u_k parameters, and a layer counts min(dense, j·u_k).

    GLOBAL   given all k: the level ε with Σ min(dense, j(ε)·u) = budget, by Brent's root finder
             between the least and 1.01 × the greatest entry of the tables (padded with zeros
             to one length), where j(ε) = #{i : err[i] > ε}, clamped to 1 … max rank. When
             both ends lie on one side of the budget the nearer end is taken if it is
             within 0.5 % of the budget; otherwise the step fails.
    LOCAL    given all k and j: each layer keeps its parameters j·u_k and takes the k' whose
             rank j' = ⌊j·u_k / u_k' + ½⌋ has the least err[k'][j' − 1].

Fifteen starts (k near 3, 5, 7 and 9 everywhere, then random divisors) each do GLOBAL and four
times LOCAL, GLOBAL; the first start with the least level wins.

This follows the authors' released program, its peculiarities included, so that its results
can be had again: LOCAL looks one entry earlier than GLOBAL (the error of rank j' − 1); a
start keeps its last step, or its first when the last was worse, and not its best; the size is
a step function of ε, so the root lies on a step and the result may be over the budget by one
rank of one layer. Only where no start is valid does this differ: the authors try again at a
budget that can be reached, here a budget that cannot be reached is an error.
`minimax` solves the problem exactly and has none of this.

Source: Liebenwein et al., "Compressing Neural Networks: Towards Determining the Optimal
Layer-wise Decomposition", NeurIPS 2021, algorithm 1; github.com/lucaslie/torchprune (MIT) for
the constants and the order of the random draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from lissom_runtime.errors import GoalMissed
from scipy.optimize import brentq

from lissom.options import FloatArray, IntArray, Ladder, Menu, Option, Plan

FIXED_STARTS = (3, 5, 7, 9)
STARTS = 15
ITERATIONS = 4
TOLERANCE = 0.005
"""How far from the budget, as a fraction, the end of the interval may lie when there is no root."""
ROUNDING = 0.5
ROUNDING_STEP = 0.2
LEAST_ROUNDING = -0.51


class StepFailed(Exception):
    """A GLOBAL or a LOCAL step has no valid result; the search goes on without it."""


@dataclass(frozen=True)
class Tables:
    """The error tables of all layers, padded to one size.

    Attributes:
        error: error[layers, choices, entries], zero beyond `ranks`.
        groups: groups[layers, choices], descending; 0 where a layer has fewer choices.
        ranks: highest rank[layers, choices]; 0 where a layer has fewer choices.
        unit: parameters per unit of rank[layers, choices]; infinite there.
        dense: parameters of the layer as it is[layers].
    """

    error: FloatArray
    groups: IntArray
    ranks: IntArray
    unit: FloatArray
    dense: FloatArray

    def nearest(self, groups: npt.ArrayLike) -> IntArray:
        """The choice[layers] whose groups are nearest to those wished for; of two, the larger."""
        distance = np.abs(self.groups - np.reshape(groups, (-1, 1)))
        choice: IntArray = np.where(self.groups > 0, distance, np.iinfo(np.int64).max).argmin(axis=1)
        return choice

    def random(self, rng: np.random.RandomState) -> IntArray:
        """A choice[layers] drawn uniformly, layer by layer."""
        return np.array([rng.choice(np.count_nonzero(groups)) for groups in self.groups])


@dataclass(frozen=True)
class Allocation:
    """What GLOBAL returns.

    Attributes:
        choice: choice[layers] of the number of groups, the index into the tables.
        ranks: rank[layers].
        level: ε.
        size: parameters, each layer counted as the lesser of its pair and itself.
    """

    choice: IntArray
    ranks: IntArray
    level: float
    size: float


def alds(menus: Sequence[Menu], limit: float, seed: int = 0) -> Plan:
    """The plan of the published search.

    Uses the ladders of folding 0 with sliced inputs, which must hold every rank. Sites
    without such ladders stay dense, and so do those whose pair would not be smaller.

    Args:
        menus: one per site.
        limit: parameters of all sites together that the search aims at; see the module for
            how it may miss them.
        seed: of the random starts; the same draws as the authors' program with that NumPy seed.

    Returns:
        The plan; its level is the largest error of an option taken.

    Raises:
        GoalMissed: no allocation is that small.
        ValueError: a ladder leaves out ranks.
    """
    options = {menu.site: menu.dense for menu in menus}
    sliced = [(menu, ladders) for menu in menus if (ladders := _ladders(menu))]
    if sliced:
        kept = sum(menu.dense.cost.params for menu in menus) - sum(menu.dense.cost.params for menu, _ in sliced)
        found = search(tables(sliced), int(limit - kept), np.random.RandomState(seed))
        for (menu, ladders), choice, rank in zip(sliced, found.choice, found.ranks, strict=True):
            options[menu.site] = _smaller(menu.dense, ladders[choice].option(rank - 1))
    return Plan(options, level=max((option.error for option in options.values()), default=0.0))


def tables(sliced: Sequence[tuple[Menu, Sequence[Ladder]]]) -> Tables:
    """The tables of menus and their ladders, the ladders in descending order of groups."""
    choices = max(len(ladders) for _, ladders in sliced)
    entries = max(len(ladder) for _, ladders in sliced for ladder in ladders)
    shape = len(sliced), choices
    result = Tables(
        error=np.zeros((*shape, entries)),
        groups=np.zeros(shape, np.int64),
        ranks=np.zeros(shape, np.int64),
        unit=np.full(shape, np.inf),
        dense=np.array([menu.dense.cost.params for menu, _ in sliced], np.float64),
    )
    for layer, (_, ladders) in enumerate(sliced):
        for choice, ladder in enumerate(ladders):
            result.error[layer, choice, : len(ladder)] = [ladder.error_at_zero, *ladder.error[:-1]]
            result.groups[layer, choice] = ladder.parameters["groups"]
            result.ranks[layer, choice] = len(ladder)
            result.unit[layer, choice] = ladder.params[0]
    return result


def search(tables: Tables, budget: int, rng: np.random.RandomState) -> Allocation:
    """The best of all starts; when no start is valid, k = 1 and the nearest that it reaches.

    Raises:
        GoalMissed: rank 1 without groups everywhere is still over the budget.
    """
    try:
        return _best_start(tables, budget, rng)
    except StepFailed:
        nearest = global_step(tables, tables.nearest(np.ones(len(tables.dense))), budget, strict=False)
    if nearest.size > budget:
        raise GoalMissed(f"rank 1 everywhere leaves {nearest.size:g} parameters, and {budget} is the limit")
    return nearest


def global_step(tables: Tables, choice: IntArray, budget: int, strict: bool = True) -> Allocation:
    """GLOBAL: the ranks at the level that spends the budget, for the given groups.

    Raises:
        StepFailed: no level comes near the budget, and `strict`.
    """
    layers = np.arange(len(choice))
    error, ranks, unit = (values[layers, choice] for values in (tables.error, tables.ranks, tables.unit))
    kept = np.clip(np.arange(error.shape[1] + 1), 1, ranks[:, None])
    sizes = np.minimum(tables.dense[:, None], kept * unit[:, None])

    # A level spends the least size, and what each entry above it adds.
    positive = error > 0
    levels, added = error[positive], np.diff(sizes)[positive]
    order = np.argsort(levels)
    levels = levels[order]
    spent = sizes[:, 0].sum() + np.concatenate([np.cumsum(added[order][::-1])[::-1], [0.0]])

    def excess(level: float) -> float:
        return float(budget - spent[levels.searchsorted(level, "right")])

    low, high = float(error.min()), float(error.max()) * 1.01
    at_low, at_high = excess(low), excess(high)
    if np.sign(at_low) == np.sign(at_high):
        level, missed = (low, at_low) if abs(at_low) < abs(at_high) else (high, at_high)
        if strict and abs(missed) > TOLERANCE * budget:
            raise StepFailed
    else:
        level = brentq(excess, low, high, xtol=1e-249, maxiter=1000, disp=False)
    found = np.clip((error > level).sum(axis=1), 1, ranks)
    return Allocation(choice, found, level, float(np.minimum(tables.dense, found * unit).sum()))


def local_step(tables: Tables, choice: IntArray, ranks: IntArray, rounding: float = ROUNDING) -> IntArray:
    """LOCAL: the choice[layers] of groups that has the least error for the same parameters.

    Raises:
        StepFailed: a layer has no choice with a rank of at least 1.
    """
    spent = ranks * tables.unit[np.arange(len(choice)), choice]
    wished = np.floor(spent[:, None] / tables.unit + rounding)
    entry = np.clip(np.minimum(wished, tables.ranks).astype(np.int64) - 1, 0, None)
    error = np.take_along_axis(tables.error, entry[:, :, None], axis=2)[:, :, 0]
    error = np.where(wished >= 1, error, np.inf)
    if np.isinf(error.min(axis=1)).any():
        raise StepFailed
    best: IntArray = error.argmin(axis=1)
    return best


def _best_start(tables: Tables, budget: int, rng: np.random.RandomState) -> Allocation:
    best: Allocation | None = None
    for number in range(STARTS):
        if number < len(FIXED_STARTS):
            choice = tables.nearest(np.full(len(tables.dense), FIXED_STARTS[number]))
        else:
            choice = tables.random(rng)
        try:
            found = _iterate(tables, choice, budget)
        except StepFailed:
            continue
        if best is None or found.level < best.level:
            best = found
    if best is None:
        raise StepFailed
    return best


def _iterate(tables: Tables, choice: IntArray, budget: int) -> Allocation:
    """One start: its last step, or its first if that is better."""
    first = current = _first(tables, choice, budget)
    rounding = ROUNDING
    for _ in range(ITERATIONS):
        try:
            current, rounding = _next(tables, current, budget, rounding)
        except StepFailed:
            break
    return first if first.level < current.level else current


def _first(tables: Tables, choice: IntArray, budget: int) -> Allocation:
    """GLOBAL, with the groups halved until it succeeds."""
    while True:
        try:
            return global_step(tables, choice, budget)
        except StepFailed:
            halved = tables.groups[np.arange(len(choice)), choice] // 2
            if not halved.any():
                raise
            choice = tables.nearest(halved)


def _next(tables: Tables, current: Allocation, budget: int, rounding: float) -> tuple[Allocation, float]:
    """LOCAL and GLOBAL, with ranks rounded down further until they succeed."""
    while True:
        choice = local_step(tables, current.choice, current.ranks, rounding)
        try:
            return global_step(tables, choice, budget), rounding
        except StepFailed:
            rounding -= ROUNDING_STEP
            if rounding < LEAST_ROUNDING:
                raise


def _ladders(menu: Menu) -> list[Ladder]:
    """The ladders that the search uses, by descending groups.

    Raises:
        ValueError: one of them leaves out ranks.
    """
    own = {"folding": 0, "side": "input"}
    used = [ladder for ladder in menu.ladders if ladder.kind == "low-rank" and own.items() <= ladder.parameters.items()]
    for ladder in used:
        if not np.array_equal(ladder.steps, np.arange(1, len(ladder) + 1)):
            raise ValueError(f"expected every rank from 1 on for {menu.site}, got {ladder.steps[:3].tolist()} …")
    return sorted(used, key=lambda ladder: -int(ladder.parameters["groups"]))


def _smaller(dense: Option, option: Option) -> Option:
    return option if option.cost.params < dense.cost.params else dense
