"""The batches that a network is trained on, epoch by epoch.

Order and augmentation of an epoch follow from seed, epoch and position alone, so that a run that goes on from a
checkpoint sees what an unbroken one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lissom_runtime.errors import UsageError

from lissom.train.augment import augment
from lissom.train.node import Tensor
from lissom.train.samples import Samples

Array = npt.NDArray[Any]


class Feeder:
    """Draws batches of the samples that are not held out.

    Args:
        samples: all samples.
        seed: of order and augmentation.
        shift: images are shifted by up to so many pixels.
        flip: images are flipped from left to right.
        device: where torch runs.

    Attributes:
        steps: batches of an epoch.

    Raises:
        UsageError: there are no images to shift or flip.
    """

    def __init__(self, samples: Samples, seed: int, shift: int, flip: bool, device: str) -> None:
        if (shift or flip) and not any(values.ndim == 4 for values in samples.arrays.values()):
            raise UsageError("expected images to shift or flip, but no input has four axes")
        self.steps = -(-len(samples.fitted) // samples.batch)
        self._samples, self._seed, self._shift, self._flip, self._device = samples, seed, shift, flip, device
        self._order: tuple[int, Array] | None = None

    def batch(self, step: int) -> tuple[dict[str, Tensor], Tensor | None]:
        """Feeds and labels of a step, counted from the first epoch."""
        epoch, number = divmod(step, self.steps)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self._seed, epoch)).permutation(self._samples.fitted)
        size = self._samples.batch
        arrays, labels = self._samples.take(self._order[1][number * size : (number + 1) * size])
        rng = np.random.default_rng((self._seed, epoch, number + 1))
        feeds = {
            name: augment(values, self._shift, self._flip, rng) if values.ndim == 4 else values
            for name, values in arrays.items()
        }
        return self.tensors(feeds), None if labels is None else self.tensor(labels)

    def tensors(self, arrays: Mapping[str, Array]) -> dict[str, Tensor]:
        """Arrays by name for torch."""
        return {name: self.tensor(values) for name, values in arrays.items()}

    def tensor(self, values: Array) -> Tensor:
        """The array for torch; of images the channels lie together, as convolutions like them."""
        layout = torch.channels_last if values.ndim == 4 else torch.contiguous_format
        return torch.from_numpy(values).to(self._device, memory_format=layout)
