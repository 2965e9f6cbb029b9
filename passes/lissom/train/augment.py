"""Light changes to images that a network should not mind."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def augment(images: Array, shift: int, flip: bool, rng: np.random.Generator) -> Array:
    """Shifts each image at random, its edge repeated, and flips half of them from left to right.

    Args:
        images: images[n, channels, height, width].
        shift: largest shift in pixels, each way and each axis.
        flip: whether any are flipped.
        rng: draws shifts and flips.

    Returns:
        An array of the same shape.
    """
    count, _, height, width = images.shape
    if shift:
        down, right = rng.integers(-shift, shift + 1, (2, count, 1))
        rows = (np.arange(height) + down).clip(0, height - 1)
        columns = (np.arange(width) + right).clip(0, width - 1)
        images = images[np.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].transpose(0, 3, 1, 2)
    if flip:
        images = np.where(rng.random((count, 1, 1, 1)) < 0.5, images[..., ::-1], images)
    return np.ascontiguousarray(images)
