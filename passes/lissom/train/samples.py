"""Calibration samples in memory, some of them held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom_runtime.errors import UsageError

from lissom.data import Dataset, Feeds, InputSpec

Array = npt.NDArray[Any]

HELD_OUT = 8
"""One sample of so many is held out."""


@dataclass(frozen=True)
class Samples:
    """Inputs of a network and, where they are asked for, labels.

    Attributes:
        arrays: values[n, ...] by name of the input.
        labels: classes[n], or None.
        held: positions of the samples that are held out.
        fitted: positions of the others.
        batch: samples that are run at once.
    """

    arrays: Mapping[str, Array]
    labels: Array | None
    held: Array
    fitted: Array
    batch: int

    def batches(self, chosen: Array) -> Iterator[tuple[dict[str, Array], Array | None]]:
        """Feeds and labels of the samples at the positions `chosen`, batch by batch."""
        for start in range(0, len(chosen), self.batch):
            yield self.take(chosen[start : start + self.batch])

    def take(self, chosen: Array) -> tuple[dict[str, Array], Array | None]:
        """Feeds and labels of the samples at the positions `chosen`."""
        feeds = {name: values[chosen] for name, values in self.arrays.items()}
        return feeds, None if self.labels is None else self.labels[chosen]


def read_samples(
    data: Dataset, specs: Sequence[InputSpec], batch: int, labelled: bool, held_out: int = HELD_OUT
) -> Samples:
    """All samples of `data`.

    Args:
        data: where they are.
        specs: the inputs of the network. Where they fix the batch, held and fitted samples are multiples of it.
        batch: samples that are run at once where the network leaves it free.
        labelled: whether labels are read.
        held_out: one sample of so many is held out.

    Raises:
        UsageError: there are too few samples, or no labels, or labels that are no whole numbers, one a sample.
    """
    fixed = specs[0].shape[0] if specs and specs[0].shape else None
    unit = fixed or 1
    if data.size < held_out * unit:
        raise UsageError(
            f"expected at least {held_out * unit} samples, so that {unit} can be held out, but {data.name!r} has "
            f"{data.size}"
        )
    parts = list(data.batches(fixed or batch))
    arrays = {spec.name: np.concatenate([feeds[spec.name] for feeds, _ in parts]) for spec in specs}
    positions = np.arange(data.size)
    held, fitted = positions[::held_out], positions[positions % held_out != 0]
    held, fitted = (part[: len(part) // unit * unit] for part in (held, fitted))
    return Samples(arrays, _labels(parts, data) if labelled else None, held, fitted, fixed or batch)


def require_classes(labels: Array, classes: int) -> None:
    """Refuses labels that are no classes of a network.

    Raises:
        UsageError: one is below 0 or above the last class.
    """
    if labels.min() < 0 or labels.max() >= classes:
        raise UsageError(f"expected labels from 0 to {classes - 1}, but got {labels.min()} to {labels.max()}")


def _labels(parts: Sequence[tuple[Feeds, Array | None]], data: Dataset) -> Array:
    """The labels of all samples as int64."""
    found = [labels for _, labels in parts if labels is not None]
    if not found:
        raise UsageError(f"expected labels to learn them, but {data.name!r} has none")
    labels = np.concatenate(found)
    if labels.size != data.size or labels.dtype.kind not in "iu":
        raise UsageError(
            f"expected {data.size} whole numbers as labels, but {data.name!r} has {labels.dtype} of {labels.shape}"
        )
    return labels.reshape(-1).astype(np.int64)
