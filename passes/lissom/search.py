"""The two loops around `applying.apply`: keeping bounds that only the finished model shows, reaching a goal.

A *bound* is on a share of a resource of the original model. What a plan predicts can
differ from what the finished model has (bytes of node names, measured latency), so it is
measured on the model and the plan tightened by what it missed, at most `REPLANS` times: below what
was aimed at, or what the plan predicted where that is less.
A *goal* (`max_drop`) is bisected over the share of the first of the budgets that plans may keep,
every step a whole candidate that meets all bounds and is scored. Where that budget has no bound, its
share is only the knob that is turned: nothing is asked of what the finished model keeps of it.
Each goal halves the same range, so that several goals on one study meet in their first steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lissom_runtime.errors import GoalMissed

from lissom import pipeline
from lissom.applying import Candidate
from lissom.options import Plan, Resource
from lissom.pipeline import Study
from lissom.progress import Progress

REPLANS = 3
"""How often a plan is tightened when the finished model misses a bound."""

GOAL_STEPS = 7
"""Candidates that are built and scored to reach a goal: the share is found to 1/128 of its range."""

PUBLISHED_SLACK = 1.005
"""The published iteration may end this factor above its budget, as the authors' program may."""


@dataclass(frozen=True)
class Try:
    """One step of a search.

    Attributes:
        share: share of the resource that was allowed.
        met: whether the finished model kept it, and the goal if there is one.
        drop: loss on the validation data, when it was scored.
        note: why it was not kept.
    """

    share: float
    met: bool
    drop: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Found:
    """A finished candidate, and which bound and which goal it misses ("" when none)."""

    candidate: Candidate
    bound: str = ""
    goal: str = ""

    @property
    def missed(self) -> str:
        """What is said of it: the goal comes first."""
        return self.goal or self.bound


@dataclass(frozen=True)
class Budget:
    """One limited resource.

    Attributes:
        resource: what is limited.
        original: what the original model has of it.
        realised: measures what share a finished candidate keeps (of a latency, the upper end of its interval).
        share: the share that a finished candidate may keep; None: no bound, only what a goal cuts.
    """

    resource: Resource
    original: float
    realised: Callable[[Candidate], float]
    share: float | None = None


@dataclass
class Search:
    """Searches candidates of one study under limits.

    Attributes:
        study: the options.
        budgets: what is limited; all but the first have bounds. Plans take another share of the first.
        build: the finished candidate of a plan.
        tries: what was tried, in order.
    """

    study: Study
    budgets: Sequence[Budget]
    build: Callable[[Plan], Candidate]
    tries: list[Try] = field(default_factory=list)

    @property
    def main(self) -> Budget:
        """The budget whose share is searched."""
        return self.budgets[0]

    def outside(self, budget: Budget) -> float:
        """What the model has of a resource outside its sites."""
        dense = self.study.cost(budget.resource)
        if budget.resource == "latency_us":
            return budget.original - dense
        return float(getattr(self.study.canonical.totals, budget.resource)) - dense

    @property
    def least_share(self) -> float:
        """The smallest share of the first budget that any choice of options reaches."""
        return self._least(self.main)

    def plan(self, share: float) -> Plan:
        """The plan that keeps `share` of the first resource, and of the others what their budgets say.

        Raises:
            GoalMissed: no choice of options is that small; the message names the least.
        """
        return self._plan([share, *self._others])

    def candidate(self, share: float) -> Found:
        """A finished candidate that keeps all bounds, re-planned where prediction and model differ.

        Args:
            share: of the first resource, at which plans begin; at most its bound.

        Returns:
            The candidate, or the nearest one when the finished models keep missing a bound.

        Raises:
            GoalMissed: no plan is that small.
        """
        allowed = [math.inf if self.main.share is None else self.main.share, *self._others]
        aims, nearest, least = [share, *self._others], None, (math.inf, "")
        plan = self._plan(aims)
        for _ in range(1 + REPLANS):
            found = self.build(plan)
            kept = [0.0 if budget.share is None else budget.realised(found) for budget in self.budgets]
            over = [have - most * self._slack for have, most in zip(kept, allowed, strict=True)]
            worst = max(range(len(over)), key=over.__getitem__)
            if over[worst] <= 0:
                return Found(found)
            if over[worst] < least[0]:
                nearest, least = found, (over[worst], self._missed(self.budgets[worst], allowed[worst], kept[worst]))
            note = f"the finished model keeps {kept[worst]:.4g} of the {self.budgets[worst].resource}"
            self.tries.append(Try(aims[0], False, note=note))
            aims = [
                min(aim, self._predicted(budget, plan)) - 1.1 * max(have - most, 0.0) if missed > 0 else aim
                for budget, aim, have, most, missed in zip(self.budgets, aims, kept, allowed, over, strict=True)
            ]
            try:
                plan = self._plan(aims)
            except GoalMissed:
                break
        assert nearest is not None
        return Found(nearest, least[1])

    def broken(self, candidate: Candidate) -> str:
        """The bound on what a model holds (latency aside) that a finished candidate breaks, or ""."""
        for budget in self.budgets:
            if budget.share is not None and budget.resource != "latency_us":
                kept = budget.realised(candidate)
                if kept > budget.share * self._slack:
                    return self._missed(budget, budget.share, kept)
        return ""

    @property
    def _slack(self) -> float:
        return PUBLISHED_SLACK if self.study.recipe.allocate.objective == "alds" else 1.0

    @property
    def _others(self) -> list[float]:
        """The bounds on all resources but the first."""
        return [budget.share for budget in self.budgets[1:] if budget.share is not None]

    def _plan(self, shares: Sequence[float]) -> Plan:
        limits = {
            budget.resource: self._limit(budget, share) for budget, share in zip(self.budgets, shares, strict=True)
        }
        try:
            return pipeline.allocate(self.study, limits)
        except GoalMissed as missed:
            asked = " and ".join(f"{s:.4g} of the {b.resource}" for b, s in zip(self.budgets, shares, strict=True))
            least = " and ".join(f"{_up(self._least(budget))} of the {budget.resource}" for budget in self.budgets)
            raise GoalMissed(
                f"expected to keep at most {asked}, but the least that the recipe {self.study.recipe.name!r} can reach "
                f"is {least}{', each by itself' if len(self.budgets) > 1 else ''}"
            ) from missed

    def _limit(self, budget: Budget, share: float) -> float:
        """What the sites may cost together: all of it at share 1, however it rounds, unless the rest grew."""
        room = self.study.cost(budget.resource) - (1 - share) * budget.original
        if budget.resource == "latency_us":
            return room
        return room - (float(getattr(self.study.canonical.totals, budget.resource)) - budget.original)

    def _predicted(self, budget: Budget, plan: Plan) -> float:
        """The share that a plan says it keeps: less than its aim where another bound is the tighter one."""
        return (self.outside(budget) + plan.total(budget.resource)) / budget.original

    def _least(self, budget: Budget) -> float:
        """The smallest share of a resource that any choice of options reaches."""
        return (self.outside(budget) + self.study.least(budget.resource)) / budget.original

    def _missed(self, budget: Budget, most: float, kept: float) -> str:
        return (
            f"expected to keep at most {most:.4g} of the {budget.resource}, but the least that a finished model kept "
            f"is {_up(kept)}"
        )

    def smallest_within(self, goal: float, drop: Callable[[Candidate], float], progress: Progress) -> Found:
        """The smallest candidate that loses at most `goal`.

        Args:
            goal: largest accepted loss.
            drop: scores a candidate: what it loses.
            progress: shows the steps.

        Returns:
            The smallest that holds the goal, or the one that lost least.

        Raises:
            GoalMissed: no plan is as small as the bounds.
        """
        most = self.main.share
        low, high = self.least_share, 1.0 if most is None else most
        best: Candidate | None = None
        mildest: tuple[float, Found] | None = None
        for step in progress(range(GOAL_STEPS), "searching the goal"):
            share = high if step == 0 and most is not None else (low + high) / 2
            try:
                found = self.candidate(share)
            except GoalMissed as unreachable:  # between two sizes that this recipe can realise
                if share == most:
                    raise
                self.tries.append(Try(share, False, note=str(unreachable)))
                low = share
                continue
            loss = drop(found.candidate)
            met = loss <= goal and not found.missed
            self.tries.append(Try(share, met, loss, found.missed))
            if met:
                best, high = found.candidate, share
                continue
            if mildest is None or loss < mildest[0]:
                mildest = (loss, found)
            if share == most:
                break  # nothing milder is within the bound
            low = share
        if best is not None:
            return Found(best)
        if mildest is None:
            raise GoalMissed(f"expected a smaller model that loses at most {goal:g}, but {self.tries[-1].note}")
        loss, found = mildest
        reason = f"expected to lose at most {goal:g}, but the mildest candidate loses {loss:.4g}"
        return Found(found.candidate, found.bound, reason if loss > goal else "")


def _up(share: float) -> str:
    """A share rounded up, so that asking for what was printed can be met."""
    return f"{math.ceil(share * 1e4) / 1e4:g}"
