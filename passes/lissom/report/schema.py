"""The report of a run as versioned data; `schema_version` changes when a field changes its meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Literal[1] = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Versions(_Part):
    """What ran."""

    lissom: str
    onnx: str
    onnxruntime: str
    numpy: str
    python: str


class Environment(_Part):
    """Where it ran.

    Attributes:
        machine: processor, instruction set, cores, operating system.
        providers: execution providers asked for, in priority order.
        threads: threads within an operator.
    """

    versions: Versions
    machine: Mapping[str, Any]
    providers: Sequence[str]
    threads: int


class Size(_Part):
    """A model's size and work: non-zero parameters, bytes of the file, multiply-accumulates."""

    params: int
    bytes: int
    macs: int


class CostEntry(_Part):
    """Cost of one site: non-zero parameters, bytes of weights, multiply-accumulates, microseconds (or null)."""

    params: float
    bytes: float
    macs: float
    latency_us: float | None


class TargetEntry(_Part):
    """The processor profile that options were made for."""

    name: str
    parallelism: str


class RefitEntry(_Part):
    """What came of the refit of a layer.

    Attributes:
        kept: whether the layer got the refitted weight.
        error_before, error_after: relative squared error of the layer on held-out calibration samples, in the
            compressed network, without and with the refit.
    """

    kept: bool
    error_before: float
    error_after: float


class StorageEntry(_Part):
    """Bytes of a sparse layer's weight as the Scalpel paper counts them (float32, 16-bit indices, 32-bit pointers).

    Attributes:
        dense, csr, grouped: without and with one index a weight, and with one a block.
        csr_break_even, grouped_break_even: densities above which the dense weight is smaller; 0 where it always is.
    """

    dense: int
    csr: int
    grouped: int
    csr_break_even: float
    grouped_break_even: float


CHANNELS = "channels"
"""The operator that a channel group has in a report."""


class LayerEntry(_Part):
    """One site: what it is, and what was chosen for it.

    Attributes:
        site: name of the node.
        op: its operator, or "channels" for a group of them.
        weight_shape: [out_channels, in_channels, *kernel], or how many indices a group has.
        kind: "dense" or the kind of the option.
        parameters: of the option.
        error: of the option, in `metric`.
        before, after: cost of the dense layer and of the option.
        options: how many options the site was offered.
        refit: what came of its refit, or null where none was tried.
        storage: what it takes to store where it is sparse, else null.
    """

    site: str
    op: str
    weight_shape: Sequence[int]
    kind: str
    parameters: Mapping[str, int | float | str]
    error: float
    metric: str
    before: CostEntry
    after: CostEntry
    options: int
    refit: RefitEntry | None = None
    storage: StorageEntry | None = None


class RefusalEntry(_Part):
    """A site or kind that was declined, and why."""

    site: str
    kind: str
    reason: str


class StepEntry(_Part):
    """An exact rewrite and how many places it changed."""

    name: str
    changes: int


class AccuracyEntry(_Part):
    """A score before and after, on the same samples.

    Attributes:
        metric: name of the score.
        n: samples.
        data: where they came from.
        before, after: the score of the original and of the compressed model.
        drop: before - after.
    """

    metric: str
    n: int
    data: str
    before: float
    after: float
    drop: float


class LatencyEntry(_Part):
    """A paired measurement.

    Attributes:
        ratio: compressed / original.
        low, high: its interval at `confidence`.
        verdict: "faster", "slower" or "no significant change".
        input_shapes: shape of each input.
        original, compressed: median_us, p90_us, p95_us and the raw samples_us.
    """

    ratio: float
    low: float
    high: float
    confidence: float
    verdict: str
    input_shapes: Mapping[str, Sequence[int]]
    original: Mapping[str, Any]
    compressed: Mapping[str, Any]


class TryEntry(_Part):
    """One candidate that was built on the way to a bound or a goal.

    Attributes:
        budget: the resource that was cut.
        ratio: share of it that was allowed.
        met: whether all bounds and the goal held.
        drop: loss on the validation data, when a goal asked for it.
        note: why it was not kept.
    """

    budget: str
    ratio: float
    met: bool
    drop: float | None = None
    note: str = ""


class Report(_Part):
    """What `compress` decided and measured.

    Attributes:
        status: "met", "missed" (a bound or the goal was not reached) or "dry-run".
        model: name and SHA-256 of the input file.
        target: the processor that options were made for, where the user told it.
        level: largest error of any option taken.
        distortion: summed error of the options, where that is the objective.
        bound: no plan within the limits has a smaller sum, where that is known.
        resource: what was limited: params, macs, bytes or latency_us.
        least_share: the smallest share of it that any choice of options would keep, as predicted.
        predicted: what the plan adds up to.
        verified: largest difference between the compressed model and the plan, relative to the largest output.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    status: Literal["met", "missed", "dry-run"]
    model: Mapping[str, str]
    environment: Environment
    recipe: Mapping[str, Any]
    bounds: Mapping[str, Any]
    target: TargetEntry | None = None
    seed: int
    input_shapes: Mapping[str, Sequence[int]]
    remarks: Sequence[str]
    steps: Sequence[StepEntry]
    level: float
    distortion: float | None = None
    bound: float | None = None
    resource: str
    least_share: float
    before: Size
    predicted: CostEntry
    after: Size | None = None
    verified: float | None = None
    accuracy: Sequence[AccuracyEntry] = Field(default_factory=tuple)
    latency: LatencyEntry | None = None
    layers: Sequence[LayerEntry]
    refusals: Sequence[RefusalEntry]
    tries: Sequence[TryEntry] = Field(default_factory=tuple)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `Report`, as published in `docs/report.schema.json`."""
    return Report.model_json_schema()
