"""Data, plans and measures for tests of the refit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from graph.onnx_text import floats, run
from lissom import applying
from lissom.applying import Candidate
from lissom.canonical import canonicalise
from lissom.graph.model import Model
from lissom.lowrank.propose import KIND
from lissom.options import Cost, Option, Plan
from lissom.pipeline import Study
from lissom.recipe import Recipe
from lissom.recipe_tables import Refit

Array = npt.NDArray[Any]


def images(seed: int, *shape: int) -> Array:
    """Smooth random images: neighbours are alike, as in photographs."""
    noise = floats(seed, *shape)
    return np.asarray((noise + np.roll(noise, 1, 2) + np.roll(noise, 1, 3) + np.roll(noise, (1, 1), (2, 3))) / 2)


def batches(count: int, *shape: int, first: int = 100) -> list[dict[str, Array]]:
    return [{"x": images(first + i, *shape)} for i in range(count)]


IMAGES = batches(10, 24, 3, 8, 8)


def low_rank(site: str, rank: int) -> Option:
    parameters: dict[str, int | float | str] = {"folding": 0, "side": "input", "groups": 1, "rank": rank}
    return Option(site, KIND, parameters, Cost(0, 0, 0), 0.0, "code")


def study_of(loaded: Model, calibration: Sequence[Mapping[str, Array]], enabled: bool = True, **asked: Any) -> Study:
    recipe = Recipe(name="test", refit=Refit(enabled=enabled, **asked))
    return Study(canonicalise(loaded, calibration[0]), recipe, (), (), {}, calibration=calibration)


def plan_of(study: Study, ranks: Mapping[str, int]) -> Plan:
    """Low rank where a rank is given, dense elsewhere."""
    names = [layer.name for layer in study.canonical.layers]
    dense = {name: Option(name, "dense", {}, Cost(0, 0, 0), 0.0, "code") for name in names}
    return Plan(dense | {name: low_rank(name, rank) for name, rank in ranks.items()}, 0.0)


def applied(
    loaded: Model,
    ranks: Mapping[str, int],
    calibration: Sequence[Mapping[str, Array]],
    enabled: bool = True,
    **ask: Any,
) -> Candidate:
    study = study_of(loaded, calibration, enabled, **ask)
    return applying.apply(study, plan_of(study, ranks))


def output_error(loaded: Model, candidate: Candidate, feeds: Mapping[str, Array]) -> float:
    """Relative squared error of the outputs."""
    (wanted,), (got,) = run(loaded, feeds), run(candidate.model, feeds)
    return float(((got - wanted) ** 2).sum() / (wanted**2).sum())


UNSEEN = {"x": images(999, 64, 3, 8, 8)}
