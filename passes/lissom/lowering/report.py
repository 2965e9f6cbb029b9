"""What `lissom lower` says, as data: the result of a call and the JSON of the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from lissom.report.schema import Environment, LatencyEntry, RefusalEntry


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SpeedEntry(_Entry):
    """A lowered layer against itself dense, in a chain of copies."""

    dense_us: float
    ratio: float
    verdict: Literal["faster", "slower", "no significant change"]


class LoweredLayer(_Entry):
    """One layer that was sparse enough to be looked at; bytes are those of its weight."""

    site: str
    op: str
    weight_shape: Sequence[int]
    density: float
    block: int
    orientation: str
    columns: str
    fused: Sequence[str]
    decision: Literal["lowered", "dense"]
    operator: str
    bytes_before: int
    bytes_after: int
    speed: SpeedEntry | None


class Lowering(_Entry):
    """What `lissom lower --json` writes."""

    schema_version: int = 1
    status: Literal["met", "missed"]
    model: Mapping[str, str]
    environment: Environment
    input_shapes: Mapping[str, Sequence[int]]
    remarks: Sequence[str]
    bytes_before: int
    bytes_after: int
    verified: float
    verified_natively: float | None
    latency: LatencyEntry | None
    layers: Sequence[LoweredLayer]
    refusals: Sequence[RefusalEntry]
