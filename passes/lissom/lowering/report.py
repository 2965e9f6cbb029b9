"""What `lissom lower` says, as data: the result of a call and the JSON of the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lissom.report.schema import Environment, LatencyEntry, RefusalEntry


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SpeedEntry(_Entry):
    """A lowered layer, or a chain of them, against itself dense, between copies of itself."""

    dense_us: float
    ratio: float
    verdict: Literal["faster", "slower", "no significant change"]


class ChainEntry(_Entry):
    """A chain that a layer is part of, or could have been.

    Attributes:
        shape: which layers it has.
        layers: their names, dense depthwise ones included.
        operator: what it is.
        node: its name in the file; None when its layers were decided one by one.
        speed: the chain against its layers dense.
        singly: its layers lowered one by one against its layers dense.
    """

    shape: str
    layers: Sequence[str]
    operator: str
    node: str | None
    speed: SpeedEntry | None
    singly: SpeedEntry | None


class LoweredLayer(_Entry):
    """One layer that was sparse enough to be looked at.

    Attributes:
        density: stored weights over all weights.
        fused: the nodes behind it that its operator takes in.
        asked: whether it was asked for; what was not was sparse in the file, and is again.
        operator: what it became, or is part of.
        bytes_before: of its dense weight.
        bytes_after: of its packed weight.
        speed: of the layer by itself; None for part of a chain, and where nothing was timed.
        chain: what it is part of, or was timed as part of.
    """

    site: str
    op: str
    weight_shape: Sequence[int]
    density: float
    block: int
    orientation: str
    columns: str
    fused: Sequence[str]
    asked: bool
    decision: Literal["lowered", "dense"]
    operator: str
    bytes_before: int
    bytes_after: int
    speed: SpeedEntry | None
    chain: ChainEntry | None = None


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


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `Lowering`, as published in `docs/lowering.schema.json`."""
    return Lowering.model_json_schema()
