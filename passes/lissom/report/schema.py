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

ACTIVATIONS = "activations"
"""The operator that a group of activations has in a report."""


class LayerEntry(_Part):
    """One site: what it is, and what was chosen for it.

    Attributes:
        site: name of the node.
        op: its operator, or "channels" or "activations" for a group of them.
        weight_shape: [out_channels, in_channels, *kernel], how many indices a group of channels has, or the shape of
            the first activation of a group without the batch.
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


class LayerMacsEntry(_Part):
    """What is left of the multiply-accumulates of one layer; shares are from 0 to 1.

    Attributes:
        layer: name of the node.
        macs: of the dense layer.
        weights, read: shares of its weights, and of the activation that it reads, that are not zero.
        given: the same of the activation that its output becomes; 1 for the output layer.
        paper: share of the multiply-accumulates that is left as the paper counts: weights times read.
        counted: share of them whose factors are both not zero.
    """

    layer: str
    macs: int
    weights: float
    read: float
    given: float
    paper: float
    counted: float


class MaskEntry(_Part):
    """A mask behind an activation, or one that was planned and left out.

    Attributes:
        tensor: the activation.
        group: the site that its rate was chosen for.
        form: "static" or "dynamic".
        rate: winner rate.
        threshold: the static threshold, or null where there is none or one for each channel.
        inserted: whether the mask is in the model; if not, a refusal says why.
    """

    tensor: str
    group: str
    form: str
    rate: float
    threshold: float | None
    inserted: bool


class CurvePointEntry(_Part):
    """A winner rate, and the score and the distortion with one group of activations pruned to it."""

    rate: float
    score: float
    distortion: float


class CurveEntry(_Part):
    """What masks of one group do to the network, its weights pruned and its other activations whole.

    Attributes:
        tensors: the activations.
        metric: of the scores: "top1", "agreement" (with the original), or "output" (minus the distortion).
        before: score and distortion without the masks.
        points: mildest rate first.
        rate: the least rate that the sensitivity check accepts; 1 where there is none.
    """

    tensors: Sequence[str]
    metric: str
    before: Mapping[str, float]
    points: Sequence[CurvePointEntry]
    rate: float


class AccountEntry(_Part):
    """What is left of all multiply-accumulates, on calibration samples.

    Attributes:
        layers: in topological order.
        weights, activations: shares of all weights of the layers, and of the activations between them, that are not 0.
        paper, counted: as of the layers, weighted by their multiply-accumulates.
        densities: share of each activation that is not zero, by tensor.
        silent: how many of its channels were zero in every sample, by tensor.
        removed: how many were removed because no layer reads anything but zeros of them, by tensor.
    """

    layers: Sequence[LayerMacsEntry]
    weights: float
    activations: float
    paper: float
    counted: float
    densities: Mapping[str, float]
    silent: Mapping[str, int]
    removed: Mapping[str, int] = Field(default_factory=dict)


class ActivationsEntry(_Part):
    """What was done to the activations: the masks, the curves that they were chosen by, and what is left."""

    masks: Sequence[MaskEntry]
    sensitivity: Sequence[CurveEntry]
    account: AccountEntry


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


class TrainingEntry(_Part):
    """How the model was trained.

    Attributes:
        settings: as in `docs/recovery.md`.
        device: where torch ran.
        torch: its version.
        data: where the samples came from.
        samples: how many there are; every eighth is held out.
        epochs: epochs that were trained, those before a resumed run stopped included; where the time was limited, the
            last one in part.
        best_epoch: the epoch whose values are in the result; 0: those that were given.
        seconds: what training took in this call.
    """

    settings: Mapping[str, int | float | bool | tuple[str, ...] | None]
    device: str
    torch: str
    data: str
    samples: int
    epochs: int
    best_epoch: int
    seconds: float


class TrainedEntry(TrainingEntry):
    """What came of the training of the result.

    Attributes:
        kept: whether the result is the trained model; else it is what was found before.
        distortion_before, distortion_after: of the outputs on the held-out samples, without and with the training.
    """

    kept: bool
    distortion_before: float
    distortion_after: float


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
        verified: largest difference between the compressed model and the plan, relative to the largest output; of a
            trained model, between its weights packed and dense.
        training: what came of the training, or null where the recipe asks for none.
        activations: masks and what they leave, where the recipe offers masks: `after.macs` is then as the paper counts.
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
    training: TrainedEntry | None = None
    activations: ActivationsEntry | None = None
    layers: Sequence[LayerEntry]
    refusals: Sequence[RefusalEntry]
    tries: Sequence[TryEntry] = Field(default_factory=tuple)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `Report`, as published in `docs/report.schema.json`."""
    return Report.model_json_schema()
