"""What `lissom recover` says, as data: the result of a call and the JSON of the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lissom.report.schema import Environment, LatencyEntry, TrainingEntry


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScoreEntry(_Entry):
    """A score of three models on the same samples.

    Attributes:
        metric: name of the score.
        n: samples.
        data: where they came from.
        original, compressed, recovered: the score of the model that was learned from, of the one that was given and of
            the result.
    """

    metric: str
    n: int
    data: str
    original: float
    compressed: float
    recovered: float


class Recovery(_Entry):
    """What `lissom recover --json` writes.

    Attributes:
        status: "missed" when the distortion did not fall.
        model, reference: name and SHA-256 of the compressed model and of the original.
        distortion_before, distortion_after: of the outputs on the held-out samples, of the compressed model and of the
            recovered one: nats of a classifier, else relative squared error. Where labels are learned, mixed with their
            cross-entropy in the asked share.
        bytes_before, bytes_after: of the compressed model and of the result.
        scores: of all three models.
        latency: the result (`compressed`) against the compressed model (`original`); only their weights differ, unless
            one has packed weights and the other dense ones.
    """

    schema_version: Literal[1] = 1
    status: Literal["met", "missed"]
    model: Mapping[str, str]
    reference: Mapping[str, str]
    environment: Environment
    input_shapes: Mapping[str, Sequence[int]]
    remarks: Sequence[str]
    training: TrainingEntry
    distortion_before: float
    distortion_after: float
    bytes_before: int
    bytes_after: int
    scores: Sequence[ScoreEntry]
    latency: LatencyEntry


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `Recovery`, as published in `docs/recovery.schema.json`."""
    return Recovery.model_json_schema()
