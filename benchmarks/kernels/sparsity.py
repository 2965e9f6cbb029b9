"""Random weights with an exact share of zeros in blocks, and how blocks fit a number of channels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from lissom_runtime.contract import BLOCKS

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]


def fitting_block(block: int, out_channels: int) -> int:
    """The largest legal block, at most `block`, that divides `out_channels`."""
    return max(size for size in BLOCKS if size <= block and out_channels % size == 0)


def pattern(rows: int, columns: int, density: float, rng: np.random.Generator) -> BoolArray:
    """pattern[rows, columns] with exactly round(density · rows · columns) entries set, at least 1, chosen at random."""
    count = rows * columns
    kept = np.zeros(count, np.bool_)
    kept[rng.permutation(count)[: max(1, round(density * count))]] = True
    return kept.reshape(rows, columns)


def block_mask(shape: tuple[int, ...], density: float, block: int, rng: np.random.Generator) -> BoolArray:
    """mask[shape], equal for `block` consecutive output channels (the first axis); True where a weight is kept.

    Raises:
        ValueError: `block` does not divide the output channels, or `density` is outside (0, 1].
    """
    if shape[0] % block:
        raise ValueError(f"expected output channels in multiples of {block}, but got {shape[0]}")
    if not 0 < density <= 1:
        raise ValueError(f"expected a density above 0 and at most 1, but got {density}")
    kept = pattern(shape[0] // block, int(np.prod(shape[1:])), density, rng)
    return np.repeat(kept, block, axis=0).reshape(shape)


def sparse_weight(
    shape: tuple[int, ...], density: float, block: int, rng: np.random.Generator, moment: float = 1.0
) -> FloatArray:
    """weight[shape], normal where it is kept and zero elsewhere.

    Each output channel is scaled to the norm with which inputs of mean square `moment` give sums of variance 1,
    whatever the density.

    Raises:
        ValueError: as `block_mask`.
    """
    weight = rng.standard_normal(shape, np.float32)
    if density < 1:
        weight *= block_mask(shape, density, block, rng)
    rows = weight.reshape(shape[0], -1)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(norms > 0, norms, 1) * np.float32(np.sqrt(moment))
    return weight
