"""`Recipe` and `Bounds`: what the user asks for.

A recipe says which kinds of options are offered, how their error is measured and how
one is chosen; it is a TOML file or the name of a preset in `lissom/recipes`. Bounds say
how small or fast the result must be and how much it may lose.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from lissom_runtime.errors import UsageError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lissom.clustered.tiles.factors import OrderName
from lissom.lowrank.energies import MOMENT_METRICS
from lissom.lowrank.errors import Metric
from lissom.lowrank.foldings import Side
from lissom.nodes.scores import Method
from lissom.presets import names_in, read_toml
from lissom.sparse.blocks import few_of
from lissom.sparse.importance import Importance

PRESETS = "recipes"
"""Where the recipes are that ship with lissom."""

Objective = Literal["alds", "minimax", "total", "constant"]
"""How one option per site is chosen: the published iteration, the least largest error, the least summed error, or the
same relative size everywhere."""

Budget = Literal["params", "macs", "bytes", "latency_us"]
"""The resource that is cut to reach a goal."""

Ratio = Annotated[float, Field(gt=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LowRank(_Strict):
    """Offers encoder/decoder pairs (ALDS, NeurIPS 2021).

    Attributes:
        enabled: whether they are offered.
        foldings: which foldings of the kernel are tried (0 is the paper's).
        sides: which side the groups split: "input" (the paper's) or "output".
        metric: what the error of a pair is.
        rank_multiple: ranks are multiples of this; "target" asks the processor's channel block.
        groups: numbers of groups that are tried; in the place of one that does not divide the channels comes the
            nearest that does, of two the larger. None tries all.
    """

    enabled: bool = True
    foldings: tuple[Annotated[int, Field(ge=0, le=3)], ...] = (0,)
    sides: tuple[Side, ...] = ("input",)
    metric: Metric = "code"
    rank_multiple: Annotated[int, Field(ge=1)] | Literal["target"] = 1
    groups: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = None


class Tucker(_Strict):
    """Offers Tucker-2 chains: 1×1, a smaller k×k and 1×1 (Kim et al., ICLR 2016).

    Attributes:
        enabled: whether they are offered.
        ranks: "vbmf": those that are not noise, one option per layer; "ladder": others in the same ratio too.
        metric: what the error of a chain is.
        rank_multiple: as for pairs.
    """

    enabled: bool = False
    ranks: Literal["vbmf", "ladder"] = "ladder"
    metric: Literal["frobenius", "whitened"] = "frobenius"
    rank_multiple: Annotated[int, Field(ge=1)] | Literal["target"] = 1


class Cp(_Strict):
    """Offers CP chains: 1×1, a depthwise convolution and 1×1 (Lebedev et al., ICLR 2015).

    Attributes:
        enabled: whether they are offered.
        metric: what the error of a chain is.
        rank_multiple: as for pairs.
    """

    enabled: bool = False
    metric: Literal["frobenius", "whitened"] = "frobenius"
    rank_multiple: Annotated[int, Field(ge=1)] | Literal["target"] = 1


class Tiles(_Strict):
    """Offers blocks of a kernel, each of low rank (Lee et al., 2019; Denton et al., NeurIPS 2014).

    Attributes:
        enabled: whether they are offered.
        inputs: numbers of blocks of input channels that are tried; in the place of one that does not divide them
            comes the nearest that does, of two the larger.
        outputs: the same of output channels.
        order: which channels are in a block: "consecutive" ones, or "clustered" ones, which are similar.
        metric: what the error of the blocks is.
    """

    enabled: bool = False
    inputs: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (2, 4)
    outputs: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (2, 4)
    order: OrderName = "consecutive"
    metric: Literal["frobenius", "whitened"] = "frobenius"


class Monochromatic(_Strict):
    """Offers stems whose filters look at few mixtures of the colours (Denton et al., NeurIPS 2014).

    Attributes:
        enabled: whether they are offered.
        metric: what the error of a stem is.
    """

    enabled: bool = False
    metric: Literal["frobenius", "whitened"] = "frobenius"


class Sparse(_Strict):
    """Offers weights of which only some blocks are kept (Yu et al., ISCA 2017; Frantar et al., NeurIPS 2022).

    Attributes:
        enabled: whether they are offered.
        pattern: blocks of output channels that share a column ("columns"), of consecutive columns in a row ("rows"), or
            single weights, of which every M consecutive ones of a row keep N ("N:M").
        widths: weights of a block; 1 is unstructured.
        importance: what decides which blocks are kept: "obs" (second order, what is left makes good for what goes),
            "rms" or "magnitude".
        metric: what the error of a weight is.
        densities: shares of the blocks that are offered; None: a grid of two dozen.
        threshold: least importance of a kept block, in the place of densities: one option per layer.
        damping: how much "obs" holds the weights, in units of the mean variance of their inputs.
    """

    enabled: bool = False
    pattern: str = "columns"
    widths: Annotated[tuple[Literal[1, 2, 4, 8, 16], ...], Field(min_length=1)] = (4,)
    importance: Importance = "obs"
    metric: Literal["frobenius", "whitened"] = "whitened"
    densities: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)] | None = None
    threshold: Annotated[float, Field(gt=0)] | None = None
    damping: Annotated[float, Field(gt=0)] = 0.01

    @model_validator(mode="after")
    def _words_fit_together(self) -> Sparse:
        if self.pattern not in ("columns", "rows"):
            few_of(self.pattern)
            if self.widths not in ((1,), Sparse.model_fields["widths"].default):
                raise ValueError(f"expected widths [1] for the pattern {self.pattern}, but got {list(self.widths)}")
            if self.densities is not None or self.threshold is not None:
                raise ValueError(
                    f"expected neither densities nor a threshold for the pattern {self.pattern}, but got one"
                )
        if self.densities is not None and self.threshold is not None:
            raise ValueError("expected densities or a threshold, but got both")
        if self.importance == "obs" and self.metric != "whitened":
            raise ValueError(f'expected the metric "whitened" for the importance "obs", but got "{self.metric}"')
        if self.importance == "obs" and self.threshold is not None:
            raise ValueError('expected the importance "rms" or "magnitude" for a threshold, but got "obs"')
        return self


class Nodes(_Strict):
    """Offers narrower layers: whole channels are removed (Yu et al., ISCA 2017).

    Attributes:
        enabled: whether they are offered.
        method: what decides which channels go: "second-order" (those whose loss the others make good best), "l1" or
            "l2" (norms of what gives them) or "wanda" (of what reads them, by the size of its inputs).
        metric: what the error of a group is.
        multiple: channels are kept in multiples of this; "target" asks the processor's channel block.
    """

    enabled: bool = False
    method: Method = "second-order"
    metric: Literal["whitened"] = "whitened"
    multiple: Annotated[int, Field(ge=1)] | Literal["target"] = "target"


class Allocate(_Strict):
    """Chooses one option per site.

    Attributes:
        objective: "minimax" (the least largest error), "total" (the least summed one), "constant" (the same share of
            every layer) or "alds" (the published iteration).
        error: what options are compared by: the error of their weights, or the measured distortion of the network's
            outputs (needs calibration data).
        budget: the resource that a goal cuts when no bound names one.
        seed: of the random starts of "alds".
    """

    objective: Objective = "minimax"
    error: Literal["weights", "outputs"] = "weights"
    budget: Budget = "params"
    seed: int = 0


class Refit(_Strict):
    """Gives changed layers, and the dense ones behind them, weights fitted to what the original network computes.

    Attributes:
        enabled: whether that is done (it needs calibration data).
        rounds: how often a layer before a ReLU or Clip is fitted again to what can be seen behind it.
        ridge: how much a weight is held to the original one, in units of the mean variance of its inputs; "held-out"
            chooses, per layer, what is best on held-out samples.
    """

    enabled: bool = False
    rounds: Annotated[int, Field(ge=0)] = 3
    ridge: Annotated[float, Field(gt=0)] | Literal["held-out"] = 0.01


class Recipe(_Strict):
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
        allocate: the choice.
        refit: what is done after it.
        by_target: whether a layer has only the kind that the target favours for it: zeros in blocks or whole channels.
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
    allocate: Allocate = Allocate()
    refit: Refit = Refit()
    by_target: bool = False

    @property
    def metric(self) -> Metric:
        """What the errors of the options measure."""
        return next(iter(self._metrics.values()))

    @property
    def _kinds(self) -> dict[str, LowRank | Tucker | Cp | Tiles | Monochromatic | Sparse | Nodes]:
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
        return {name: kind.metric for name, kind in self._kinds.items() if kind.enabled}

    @property
    def needs_moments(self) -> bool:
        """Whether that metric needs the moments of the layers' inputs."""
        return self.metric in MOMENT_METRICS

    @model_validator(mode="after")
    def _kinds_share_a_metric(self) -> Recipe:
        if not self._metrics:
            raise ValueError(f"expected one of {', '.join(self._kinds)} to be enabled, but none is")
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
    def _a_target_decides_between_two(self) -> Recipe:
        if self.by_target and not (self.sparse.enabled and self.nodes.enabled):
            raise ValueError("by_target expects both sparse and nodes to be enabled: it decides between them")
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


class Bounds(_Strict):
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
