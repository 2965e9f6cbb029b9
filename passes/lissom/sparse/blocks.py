"""Which weights of a layer are kept or removed together: its *blocks*.

The weight is folded to [f, P], f output channels and P = in_channels · taps columns. Patterns:

`columns`   b consecutive output channels of one column: what the kernels of the runtime like best.
`rows`      w consecutive columns of one output channel, aligned: Scalpel's own. Where w does not divide P the last
            columns of each row belong to no block and are never removed.
`N:M`       single weights, of which every M consecutive ones of a row keep N; the last P mod M are never removed.

Blocks of one weight are either pattern of width 1. Where b does not divide f, the largest block of the packed format
that does takes its place.

With `columns` and `rows` a layer is stored packed (`lissom_runtime.packing`), where its weight has 2 or 4 axes. Where w
does not divide P, the packed blocks are as large as the largest power of two that divides both. Every other layer keeps
a dense weight with zeros in it.

Source: Yu et al., "Scalpel: Customizing DNN Pruning to the Underlying Hardware Parallelism", ISCA 2017 (`rows`, and the
authors' program for the last columns).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom_runtime.contract import BLOCKS, Orientation

from lissom.graph.geometry import Geometry
from lissom.options import IntArray, Parameters

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

PACKED_AXES = (0, 2)
"""Kernel axes of the layers that can be packed: linear ones, and convolutions over images."""


@dataclass(frozen=True)
class Blocks:
    """The blocks[rows, groups] of a folded weight [f, P], each of height × width weights.

    Attributes:
        height: consecutive output channels of a block.
        width: consecutive columns of a block.
        rows: rows of blocks, f / height.
        columns: P.
        few: of how many consecutive blocks of a row how many are kept, (N, M); None leaves that free.
    """

    height: int
    width: int
    rows: int
    columns: int
    few: tuple[int, int] | None = None

    @classmethod
    def of(cls, geometry: Geometry, pattern: str, width: int) -> Blocks:
        """The blocks of a layer: as asked, or smaller where that many output channels do not fit."""
        f, columns = geometry.out_channels, geometry.columns
        if pattern == "columns":
            height = max(block for block in BLOCKS if block <= width and f % block == 0)
            return cls(height, 1, f // height, columns)
        if pattern == "rows":
            return cls(1, width, f, columns)
        return cls(1, 1, f, columns, few_of(pattern))

    @classmethod
    def named(cls, geometry: Geometry, parameters: Parameters) -> Blocks:
        """The blocks that an option's parameters name."""
        return cls.of(geometry, str(parameters["pattern"]), int(parameters["width"]))

    @property
    def groups(self) -> int:
        """Blocks of one row."""
        return self.removable // self.width

    @property
    def count(self) -> int:
        """All blocks."""
        return self.rows * self.groups

    @property
    def removable(self) -> int:
        """Columns that belong to a block; those behind them are never removed."""
        unit = self.width if self.few is None else self.few[1]
        return self.columns // unit * unit

    @property
    def least(self) -> int:
        """Blocks that are kept at least: one, or what N of M leaves."""
        return 1 if self.few is None else self.count // self.few[1] * self.few[0]

    @property
    def packed(self) -> tuple[int, Orientation]:
        """Block and orientation of the packed format that hold these blocks."""
        along = gcd(self.width, self.columns)
        return (along, "input") if along > 1 else (self.height, "output")

    def of_part(self, folded: Array) -> Blocks:
        """The same blocks of folded[f, P], which has lost rows of blocks or columns."""
        return replace(self, rows=len(folded) // self.height, columns=folded.shape[1])

    def weights(self, kept: IntArray) -> IntArray:
        """Weights that are left of kept[n] blocks."""
        behind = self.rows * self.height * (self.columns - self.removable)
        weights: IntArray = kept * (self.height * self.width) + behind
        return weights

    def split(self, folded: Array) -> Array:
        """parts[rows, height, groups, width] of what belongs to blocks in folded[f, P]."""
        return folded[:, : self.removable].reshape(self.rows, self.height, self.groups, self.width)

    def spread(self, kept: Mask) -> Mask:
        """mask[f, P] of the weights that are left when the blocks kept[rows, groups] are."""
        mask = np.ones((self.rows * self.height, self.columns), np.bool_)
        mask[:, : self.removable] = np.repeat(np.repeat(kept, self.height, axis=0), self.width, axis=1)
        return mask


def few_of(pattern: str) -> tuple[int, int]:
    """N and M of the pattern "N:M".

    Raises:
        ValueError: it is no such pattern, or N is not between 0 and M.
    """
    parts = pattern.split(":")
    if len(parts) == 2 and all(part.isdecimal() for part in parts) and 0 < int(parts[0]) < int(parts[1]):
        return int(parts[0]), int(parts[1])
    raise ValueError(f'expected the pattern "columns", "rows" or "N:M" with 0 < N < M, but got {pattern!r}')


def is_packed(geometry: Geometry, pattern: str) -> bool:
    """Whether a layer of this pattern is stored packed, or dense with zeros in it."""
    return pattern in ("columns", "rows") and len(geometry.kernel_shape) in PACKED_AXES
