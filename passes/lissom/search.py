"""The two loops around `pipeline.run`: keeping a bound that only the finished model shows, reaching a goal.

A *bound* is on a share of one resource of the original model. What a plan predicts can
differ from what the finished model has (bytes of node names, measured latency), so it is
measured on the model and the plan tightened by what it missed, at most `REPLANS` times.
A *goal* (`max_drop`) is bisected over that share, every step a whole candidate that
meets the share and is scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from lissom_runtime.errors import GoalMissed

from lissom import pipeline
from lissom.options import Plan, Resource
from lissom.pipeline import Candidate, Study
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
    """A finished candidate, and which bound or goal it misses ("" when none)."""

    candidate: Candidate
    missed: str = ""


@dataclass
class Search:
    """Searches candidates of one study under limits on one resource.

    Attributes:
        study: the options.
        resource: what is limited.
        original: what the original model has of it.
        realised: measures what share a finished candidate keeps (of a latency, the
            upper end of its interval).
        tries: what was tried, in order.
    """

    study: Study
    resource: Resource
    original: float
    realised: Callable[[Candidate], float]
    tries: list[Try] = field(default_factory=list)

    @property
    def dense(self) -> float:
        """What the sites have of the resource before anything is changed."""
        return sum(menu.dense.cost.get(self.resource) for menu in self.study.menus)

    @property
    def fixed(self) -> float:
        """What the model has of the resource outside its sites."""
        if self.resource == "latency_us":
            return self.original - self.dense
        return float(getattr(self.study.canonical.totals, self.resource)) - self.dense

    @property
    def least_share(self) -> float:
        """The smallest share that any choice of options reaches."""
        sites = sum(
            min([menu.dense.cost.get(self.resource), *(float(lad.cost(self.resource).min()) for lad in menu.ladders)])
            for menu in self.study.menus
        )
        return (self.fixed + sites) / self.original

    def plan(self, share: float) -> Plan:
        """The plan that keeps `share` of the original.

        Raises:
            GoalMissed: no choice of options is that small; the message names the least.
        """
        try:
            return pipeline.allocate(self.study, self.resource, self._limit(share))
        except GoalMissed as missed:
            raise GoalMissed(
                f"expected to keep at most {share:.4g} of the {self.resource}, but the least that the recipe "
                f"{self.study.recipe.name!r} can reach is {_up(self.least_share)}"
            ) from missed

    def _limit(self, share: float) -> float:
        """What the sites may cost together: all of it at share 1, however it rounds, unless the rest grew."""
        if self.resource == "latency_us":
            return self.dense - (1 - share) * self.original
        grown = float(getattr(self.study.canonical.totals, self.resource)) - self.original
        return self.dense - (1 - share) * self.original - grown

    def candidate(self, share: float) -> Found:
        """A finished candidate that keeps at most `share`, re-planned where prediction and model differ.

        Returns:
            The candidate, or the nearest one when the finished models keep missing the share.

        Raises:
            GoalMissed: no plan is that small.
        """
        slack = PUBLISHED_SLACK if self.study.recipe.allocate.objective == "alds" else 1.0
        aim, nearest, least = share, None, float("inf")
        plan = self.plan(share)
        for _ in range(1 + REPLANS):
            found = pipeline.apply(self.study, plan)
            realised = self.realised(found)
            if realised <= share * slack:
                return Found(found)
            if realised < least:
                nearest, least = found, realised
            self.tries.append(Try(aim, False, note=f"the finished model keeps {realised:.4g}"))
            aim -= 1.1 * (realised - share)
            try:
                plan = self.plan(aim)
            except GoalMissed:
                break
        assert nearest is not None
        return Found(
            nearest,
            f"expected to keep at most {share:.4g} of the {self.resource}, but the least that a finished model kept "
            f"is {_up(least)}",
        )

    def smallest_within(
        self, goal: float, drop: Callable[[Candidate], float], most: float | None, progress: Progress
    ) -> Found:
        """The smallest candidate that loses at most `goal`.

        Args:
            goal: largest accepted loss.
            drop: scores a candidate: what it loses.
            most: largest accepted share, or None.
            progress: shows the steps.

        Returns:
            The smallest that holds the goal, or the one that lost least.

        Raises:
            GoalMissed: no plan is as small as `most`.
        """
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
        return Found(found.candidate, reason if loss > goal else found.missed)


def _up(share: float) -> str:
    """A share rounded up, so that asking for what was printed can be met."""
    return f"{math.ceil(share * 1e4) / 1e4:g}"
