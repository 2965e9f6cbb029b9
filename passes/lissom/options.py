"""The nouns of a decision: Cost, Option, Ladder, Menu, Refusal, Plan.

A *site* offers a `Menu`: keeping it dense, or one `Option` out of its `Ladder`s.
A ladder holds the options of one site that differ only in size (the rank, later
the density), as arrays, because a large network has millions of them.
An allocator takes menus and a budget and returns a `Plan`: one option per site.
It never looks at what an option means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Resource = Literal["params", "bytes", "macs", "latency_us"]
"""What a budget can limit: non-zero parameters, bytes, multiply-accumulates, microseconds."""

RESOURCES: tuple[Resource, ...] = get_args(Resource)

Parameters = Mapping[str, int | float | str]
"""The parameters of an option, for example ``{"folding": 0, "side": "input", "groups": 2, "rank": 8}``."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cost:
    """What a site costs under one option.

    Attributes:
        params: non-zero parameters.
        bytes: bytes of the stored weights.
        macs: multiply-accumulates for one run at the stated input shape.
        latency_us: microseconds on the asked-for execution provider, or None when not priced.
    """

    params: float
    bytes: float
    macs: float
    latency_us: float | None = None

    def get(self, resource: Resource) -> float:
        """The cost in `resource`.

        Raises:
            ValueError: `resource` is latency and the latency was not measured.
        """
        value: float | None = getattr(self, resource)
        if value is None:
            raise ValueError(f"no {resource} was measured for this option")
        return value

    def times(self, share: float) -> Cost:
        """A share of the cost."""
        timed = None if self.latency_us is None else self.latency_us * share
        return Cost(self.params * share, self.bytes * share, self.macs * share, timed)


@dataclass(frozen=True)
class Option:
    """One way to change one site, or to keep it (`kind` = "dense")."""

    site: str
    kind: str
    parameters: Parameters
    cost: Cost
    error: float
    metric: str


@dataclass(frozen=True)
class Ladder:
    """The options of one site that differ only in one integer, its *step*.

    Attributes:
        site: name of the site.
        kind: kind of the options ("low-rank").
        parameters: what all options share.
        step_name: name of the parameter that `steps` varies ("rank").
        steps: steps[n], ascending.
        error: error[n], non-increasing along the ladder.
        error_at_zero: error of keeping nothing at all (step 0, which is no option).
        params, bytes, macs: cost[n] of each option.
        latency_us: latency_us[n], or None when not priced.
        metric: what `error` measures.
    """

    site: str
    kind: str
    parameters: Parameters
    step_name: str
    steps: IntArray
    error: FloatArray
    error_at_zero: float
    params: FloatArray
    bytes: FloatArray
    macs: FloatArray
    metric: str
    latency_us: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.steps)

    def cost(self, resource: Resource) -> FloatArray:
        """Costs[n] of the options in `resource`.

        Raises:
            ValueError: `resource` is latency and the ladder was not priced.
        """
        values: FloatArray | None = getattr(self, resource)
        if values is None:
            raise ValueError(f"no {resource} was measured for the options of {self.site}")
        return values

    def times(self, share: float) -> Ladder:
        """The ladder with a share of its costs."""
        return replace(
            self,
            params=self.params * share,
            bytes=self.bytes * share,
            macs=self.macs * share,
            latency_us=None if self.latency_us is None else self.latency_us * share,
        )

    def select(self, keep: npt.NDArray[np.bool_] | IntArray) -> Ladder:
        """The ladder with only the options that `keep` (mask or indices) names."""
        return replace(
            self,
            steps=self.steps[keep],
            error=self.error[keep],
            params=self.params[keep],
            bytes=self.bytes[keep],
            macs=self.macs[keep],
            latency_us=None if self.latency_us is None else self.latency_us[keep],
        )

    def option(self, index: int) -> Option:
        """The option at position `index`."""
        latency = None if self.latency_us is None else float(self.latency_us[index])
        return Option(
            site=self.site,
            kind=self.kind,
            parameters={**self.parameters, self.step_name: int(self.steps[index])},
            cost=Cost(float(self.params[index]), float(self.bytes[index]), float(self.macs[index]), latency),
            error=float(self.error[index]),
            metric=self.metric,
        )


@dataclass(frozen=True)
class Refusal:
    """A site or a kind that was declined, and why."""

    site: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Menu:
    """All that may be done with one site: keep it dense, or take one option of a ladder."""

    site: str
    dense: Option
    ladders: Sequence[Ladder]

    def least(self, resource: Resource) -> float:
        """The least cost of any of its options."""
        return min([self.dense.cost.get(resource), *(float(ladder.cost(resource).min()) for ladder in self.ladders)])

    def option(self, position: int) -> Option:
        """One of all options: 0 is "keep dense", then come those of each ladder in turn."""
        starts = np.cumsum([1, *(len(ladder) for ladder in self.ladders)])
        index = int(starts.searchsorted(position, "right")) - 1
        return self.dense if index < 0 else self.ladders[index].option(position - int(starts[index]))


@dataclass(frozen=True)
class Plan:
    """The chosen option per site.

    Attributes:
        options: site name -> option ("dense" included), in the order of the menus.
        level: the largest error of any option taken (epsilon of the minimax objective).
        distortion: the options' summed error, where that is the objective.
        bound: no plan within the limits has a smaller sum, where that is known.
        refusals: what was declined, with reasons.
        sensitivity: what masks of each group of activations did to the network with its weights, for reports
            (`activations.sensitivity.Curve.to_json`).
    """

    options: Mapping[str, Option]
    level: float
    distortion: float | None = None
    bound: float | None = None
    refusals: Sequence[Refusal] = field(default_factory=tuple)
    sensitivity: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    def total(self, resource: Resource) -> float:
        """Summed cost of all sites in `resource`."""
        return sum(option.cost.get(resource) for option in self.options.values())

    @property
    def summed_error(self) -> float:
        """The errors of all options together: what `total` makes least."""
        return float(sum(option.error for option in self.options.values()))

    @property
    def changed(self) -> dict[str, Option]:
        """The sites that do not stay dense."""
        return {site: option for site, option in self.options.items() if option.kind != "dense"}
