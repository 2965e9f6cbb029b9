"""What `lissom sweep` says, as data: the result of a call and the JSON of the command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from lissom.report.schema import AccuracyEntry, Environment, Report


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StudyEntry(_Entry):
    """What one recipe needed before any bound: statistics, menus, prices.

    Attributes:
        recipe: its name.
        seconds: how long that took.
    """

    recipe: str
    seconds: float


class RowEntry(_Entry):
    """One recipe under one bound.

    Attributes:
        recipe: its name.
        bound: in words, as in the file's name ("max-drop 0.01").
        status: whether the bound holds.
        reason: why it does not, or "".
        seconds: search, measurements and scores; the study is not in it.
        on_front: whether the result is on the Pareto front of the rows that met their bounds and the original.
        file: what was written, or null.
        test: scores on the separate test data.
        report: what `lissom compress` would report of it; null when no plan is as small as the bound.
    """

    recipe: str
    bound: str
    status: Literal["met", "missed"]
    reason: str
    seconds: float
    on_front: bool
    file: str | None
    test: Sequence[AccuracyEntry]
    report: Report | None


class Sweep(_Entry):
    """What `lissom sweep --json` writes.

    Attributes:
        status: "met" when every row is.
        model: name and SHA-256 of the input file.
        studies: one a recipe.
        rows: recipe by recipe, in the order of the bounds.
    """

    schema_version: Literal[1] = 1
    status: Literal["met", "missed"]
    model: Mapping[str, str]
    environment: Environment
    studies: Sequence[StudyEntry]
    rows: Sequence[RowEntry]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `Sweep`, as published in `docs/sweep.schema.json`."""
    return Sweep.model_json_schema()
