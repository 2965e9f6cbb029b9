"""The tables of a recipe: each kind of options, the choice among them, and what is done after it.

A recipe (`recipe.py`) has one field a table; a table that is left out has its defaults.
"""

from __future__ import annotations

from typing import Annotated, Literal

from lissom_runtime.contract import SAMPLE_SHARE
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lissom.activations.sensitivity import MOST_DROP, RATES
from lissom.clustered.tiles.factors import OrderName
from lissom.lowrank.errors import Metric
from lissom.lowrank.foldings import Side
from lissom.nodes.scores import Method
from lissom.sparse.blocks import few_of
from lissom.sparse.importance import Importance

Objective = Literal["alds", "minimax", "total", "constant"]
"""How one option per site is chosen: the published iteration, the least largest error, the least summed error, or the
same relative size everywhere."""

Budget = Literal["params", "macs", "bytes", "latency_us"]
"""The resource that is cut to reach a goal."""


class Table(BaseModel):
    """A table of a recipe: words that are not known are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LowRank(Table):
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


class Tucker(Table):
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


class Cp(Table):
    """Offers CP chains: 1×1, a depthwise convolution and 1×1 (Lebedev et al., ICLR 2015).

    Attributes:
        enabled: whether they are offered.
        metric: what the error of a chain is.
        rank_multiple: as for pairs.
    """

    enabled: bool = False
    metric: Literal["frobenius", "whitened"] = "frobenius"
    rank_multiple: Annotated[int, Field(ge=1)] | Literal["target"] = 1


class Tiles(Table):
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


class Monochromatic(Table):
    """Offers stems whose filters look at few mixtures of the colours (Denton et al., NeurIPS 2014).

    Attributes:
        enabled: whether they are offered.
        metric: what the error of a stem is.
    """

    enabled: bool = False
    metric: Literal["frobenius", "whitened"] = "frobenius"


class Sparse(Table):
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


class Nodes(Table):
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


class Winners(Table):
    """Offers masks behind activations: only the largest reach the next layer (Integral Pruning, 2019).

    Attributes:
        enabled: whether they are offered.
        form: "static" (thresholds from calibration data) or "dynamic" (one for each sample, when the model runs).
        rates: shares of an activation that may be kept; all of it always may.
        per_channel: whether each channel has a static threshold of its own.
        keeps_nan: whether a static threshold lets NaN pass.
        alpha: share of a sample's activations that a dynamic threshold is found from.
        most_drop: share by which the score may drop with one group of activations pruned, where the calibration data
            have labels; rates beyond are not offered.
        keep_thresholds: whether masks stay that do not make the network faster.
        remove_silent: whether channels go that are zero, with masks on, in all of 128 calibration samples or more.
    """

    enabled: bool = False
    form: Literal["static", "dynamic"] = "static"
    rates: Annotated[tuple[Annotated[float, Field(ge=0.001, lt=1)], ...], Field(min_length=1)] = RATES
    per_channel: bool = False
    keeps_nan: bool = False
    alpha: Annotated[float, Field(gt=0, le=1)] = SAMPLE_SHARE
    most_drop: Annotated[float, Field(gt=0)] = MOST_DROP
    keep_thresholds: bool = False
    remove_silent: bool = True

    @model_validator(mode="after")
    def _words_fit_together(self) -> Winners:
        if self.form == "dynamic" and (self.per_channel or self.keeps_nan):
            raise ValueError('expected the form "static" for per_channel and keeps_nan, but got "dynamic"')
        fine = [rate for rate in self.rates if abs(1000 * rate - round(1000 * rate)) > 1e-6]
        if fine:
            raise ValueError(f"expected rates in thousandths, but got {fine[0]}")
        return self


class Allocate(Table):
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


class Refit(Table):
    """Gives changed layers, and the dense ones behind them, weights fitted to what the original network computes.

    Attributes:
        enabled: whether that is done (it needs calibration data).
        rounds: how often a layer before a ReLU or Clip is fitted again to what can be seen behind it.
        ridge: how much a weight is held to the original one, in units of the mean variance of its inputs, at least
            1e-5; "held-out" chooses, per layer, what is best on held-out samples.
    """

    enabled: bool = False
    rounds: Annotated[int, Field(ge=0)] = 3
    ridge: Annotated[float, Field(ge=1e-5)] | Literal["held-out"] = 0.01
