"""Data for trainings, and what ends them from without."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom.data import Dataset


def of_arrays(arrays: dict[str, npt.NDArray[Any]], labels: npt.NDArray[Any] | None = None) -> Dataset:
    """Samples in memory."""

    def read(start: int, stop: int) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[Any] | None]:
        return {k: v[start:stop] for k, v in arrays.items()}, None if labels is None else labels[start:stop]

    return Dataset("made up", len(next(iter(arrays.values()))), read)


def separable(count: int, shape: tuple[int, ...], classes: int, seed: int = 0) -> Dataset:
    """Samples x of classes that are a pattern each, in noise."""
    rng = np.random.default_rng(seed)
    patterns, labels = rng.standard_normal((classes, *shape)), rng.integers(classes, size=count)
    noise = 0.7 * rng.standard_normal((count, *shape))
    return of_arrays({"x": (patterns[labels] + noise).astype(np.float32)}, labels)


class Killed(Exception):
    """What ends a run from without."""


def killed_after(steps: int) -> Any:
    """A progress that ends the run after so many steps of all its loops."""
    taken = [0]

    def progress(items: Sequence[int], _: str) -> Iterable[int]:
        for item in items:
            if taken[0] == steps:
                raise Killed
            taken[0] += 1
            yield item

    return progress
