"""`Recipe` and `Bounds`: what the user asks for.

A recipe says which kinds of options are offered, how their error is measured and how
one is chosen; it is a TOML file or the name of a preset in `lissom/recipes`. Bounds say
how small or fast the result must be and how much it may lose.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from lissom_runtime.errors import UsageError
from pydantic import Field, ValidationError, model_validator

from lissom.lowrank.energies import MOMENT_METRICS
from lissom.lowrank.errors import Metric
from lissom.presets import names_in, read_toml
from lissom.recipe_tables import (
    Allocate,
    Cp,
    LowRank,
    Monochromatic,
    Nodes,
    Refit,
    Sparse,
    Table,
    Tiles,
    Tucker,
    Winners,
)
from lissom.training import Train

PRESETS = "recipes"
"""Where the recipes are that ship with lissom."""

Method = Literal["sparse", "nodes"]
"""Zeros in blocks, or whole channels cut."""

Ratio = Annotated[float, Field(gt=0, le=1)]


class Recipe(Table):
    """A whole recipe.

    Attributes:
        name: as it appears in reports.
        description: one sentence for `lissom compress --help` readers.
        low_rank: the low-rank options.
        tucker: the Tucker-2 options.
        cp: the CP chains.
        tiles: the tiles.
        monochromatic: the monochromatic stems.
        sparse: the block-sparse weights.
        nodes: the narrower layers.
        winners: the masks behind activations.
        allocate: the choice.
        refit: what is done after it.
        train: what is done with the result.
        by_target: whether a layer has only the kind that the target favours for it: zeros in blocks or whole channels.
        methods: regular expressions of layers, and what they have in the place of what the target favours; the first
            that finds a layer's name counts.
    """

    name: str
    description: str = ""
    low_rank: LowRank = LowRank()
    tucker: Tucker = Tucker()
    cp: Cp = Cp()
    tiles: Tiles = Tiles()
    monochromatic: Monochromatic = Monochromatic()
    sparse: Sparse = Sparse()
    nodes: Nodes = Nodes()
    winners: Winners = Winners()
    allocate: Allocate = Allocate()
    refit: Refit = Refit()
    train: Train = Train()
    by_target: bool = False
    methods: Mapping[str, Method] = {}

    @property
    def metric(self) -> Metric:
        """What the errors of the options measure."""
        return next(iter(self._metrics.values()))

    @property
    def kinds(self) -> dict[str, LowRank | Tucker | Cp | Tiles | Monochromatic | Sparse | Nodes]:
        """The tables of kinds, by name."""
        return {
            "low_rank": self.low_rank,
            "tucker": self.tucker,
            "cp": self.cp,
            "tiles": self.tiles,
            "monochromatic": self.monochromatic,
            "sparse": self.sparse,
            "nodes": self.nodes,
        }

    @property
    def _metrics(self) -> dict[str, Metric]:
        """What the errors of each kind that is offered measure, by the name of its table."""
        return {name: kind.metric for name, kind in self.kinds.items() if kind.enabled}

    @property
    def needs_moments(self) -> bool:
        """Whether that metric needs the moments of the layers' inputs."""
        return self.metric in MOMENT_METRICS

    def keeping_thresholds(self, keep: bool) -> Recipe:
        """The recipe that keeps masks that do not make the network faster, or leaves them out.

        Raises:
            UsageError: it offers no masks.
        """
        if not self.winners.enabled:
            raise UsageError(f"expected a recipe with winners for keep_thresholds, but {self.name!r} offers none")
        return self.model_copy(update={"winners": self.winners.model_copy(update={"keep_thresholds": keep})})

    def trained_for(self, minutes: float) -> Recipe:
        """The recipe that trains its result for so many minutes at most.

        Raises:
            UsageError: it offers masks, or there is no time.
        """
        if self.winners.enabled:
            raise UsageError(f"expected a recipe without winners to train its result, but {self.name!r} has them")
        return self.model_copy(update={"train": dataclasses.replace(self.train, enabled=True, minutes=minutes)})

    @model_validator(mode="after")
    def _masks_are_not_trained(self) -> Recipe:
        if self.train.enabled and self.winners.enabled:
            raise ValueError("train expects a recipe without winners, but they are enabled")
        return self

    @model_validator(mode="after")
    def _kinds_share_a_metric(self) -> Recipe:
        if not self._metrics:
            raise ValueError(f"expected one of {', '.join(self.kinds)} to be enabled, but none is")
        if len(set(self._metrics.values())) > 1:
            found = " and ".join(f'{name} "{metric}"' for name, metric in self._metrics.items())
            raise ValueError(f"expected one metric for all kinds, but found {found}")
        return self

    @model_validator(mode="after")
    def _a_sum_is_of_distortions(self) -> Recipe:
        allocate = self.allocate
        if allocate.objective == "total" and allocate.error != "outputs" and self.metric != "energy":
            raise ValueError('objective "total" expects error "outputs" or metric "energy": other errors do not add up')
        return self

    @model_validator(mode="after")
    def _channels_go_with_sums_and_zeros(self) -> Recipe:
        if not self.nodes.enabled:
            return self
        if (self.allocate.objective, self.allocate.error) != ("total", "outputs"):
            raise ValueError(
                'nodes expect objective "total" and error "outputs", but got '
                f'"{self.allocate.objective}" and "{self.allocate.error}"'
            )
        others = self._metrics.keys() - {"nodes", "sparse"}
        if others:
            raise ValueError(f"nodes expect no other kind beside them than sparse, but {sorted(others)[0]} is enabled")
        return self

    @model_validator(mode="after")
    def _masks_go_with_sums_and_zeros(self) -> Recipe:
        if not self.winners.enabled:
            return self
        if (self.allocate.objective, self.allocate.error) != ("total", "outputs"):
            raise ValueError(
                'winners expect objective "total" and error "outputs", but got '
                f'"{self.allocate.objective}" and "{self.allocate.error}"'
            )
        if set(self._metrics) != {"sparse"}:
            raise ValueError(f"winners expect sparse alone beside them, but {', '.join(self._metrics)} is enabled")
        return self

    @model_validator(mode="after")
    def _a_target_decides_between_two(self) -> Recipe:
        if self.by_target and not (self.sparse.enabled and self.nodes.enabled):
            raise ValueError("by_target expects both sparse and nodes to be enabled: it decides between them")
        if self.methods and not self.by_target:
            raise ValueError("methods expect by_target: they take the place of what the target favours")
        for pattern in self.methods:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"expected a regular expression in methods, but got {pattern!r}: {error}") from error
        return self

    @model_validator(mode="after")
    def _alds_is_the_published_iteration(self) -> Recipe:
        published = LowRank(metric="code")
        others = len(self._metrics) > 1 or self.allocate.error != "weights"
        if self.allocate.objective == "alds" and (self.low_rank != published or others):
            raise ValueError(
                'objective "alds" expects foldings [0], sides ["input"], metric "code", rank_multiple 1 and error '
                '"weights"'
            )
        return self


class Bounds(Table):
    """Upper limits, and at most one goal.

    Attributes:
        keep_params: non-zero parameters kept, as a share of the model's.
        keep_macs: multiply-accumulates kept, as a share of the model's.
        max_bytes: size of the written file in bytes.
        latency_ratio: measured compressed/original.
        max_drop: goal: the smallest result that loses at most this much on the validation data.
        drop: whether `max_drop` is a difference of scores or a share of the original's.
    """

    keep_params: Ratio | None = None
    keep_macs: Ratio | None = None
    max_bytes: Annotated[int, Field(gt=0)] | None = None
    latency_ratio: Ratio | None = None
    max_drop: Annotated[float, Field(ge=0)] | None = None
    drop: Literal["absolute", "relative"] = "absolute"

    @property
    def budgets(self) -> dict[str, float]:
        """The upper limits that were asked for, by the name of their field."""
        names = ("keep_params", "keep_macs", "max_bytes", "latency_ratio")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _something_is_asked(self) -> Bounds:
        if not self.budgets and self.max_drop is None:
            raise ValueError("none of keep_params, keep_macs, max_bytes, latency_ratio and max_drop was given")
        return self


def preset_names() -> list[str]:
    """Names of the presets that ship with lissom."""
    return names_in(PRESETS)


def read_recipe(name_or_path: str) -> Recipe:
    """Reads a preset by name, or a recipe file.

    Raises:
        UsageError: there is no such recipe, or it is malformed.
    """
    try:
        return Recipe.model_validate(read_toml(name_or_path, PRESETS, "recipe"))
    except ValidationError as error:
        raise UsageError(f"expected a valid recipe, but in {name_or_path!r} {first_problem(error)}") from error
    except UsageError as error:  # of a table that checks itself
        raise UsageError(f"expected a valid recipe, but in {name_or_path!r} {error}") from error


def make_bounds(**values: Any) -> Bounds:
    """Bounds from keyword arguments.

    Raises:
        UsageError: a value is out of range, or nothing was asked for.
    """
    try:
        return Bounds(**values)
    except ValidationError as error:
        raise UsageError(f"expected valid bounds, but {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """The first problem that pydantic found, as a clause."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{where} = {problem['input']!r}: {message}" if where else message
