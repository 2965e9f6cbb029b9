"""Weights as matrices: four foldings, and two sides on which a matrix is sliced.

A low-rank pair is encoder ∘ decoder (the encoder runs first, without bias). Each kernel
axis of weight[f, c, κ1, κ2] belongs to exactly one of the two, and the choice is the folding:

    folding             decoder owns    matrix[rows, columns]    encoder    decoder
    0 kernel-encode     no axis         [f, c κ1 κ2]             κ1 × κ2    1 × 1
    1 kernel-split-1    axis 0          [f κ1, c κ2]             1 × κ2     κ1 × 1
    2 kernel-split-2    axis 1          [f κ2, c κ1]             κ1 × 1     1 × κ2
    3 kernel-decode     every axis      [f κ1 κ2, c]             1 × 1      κ1 × κ2

The channel is the slowest index of rows and of columns, so that consecutive channels are
contiguous blocks. The sides, with `groups` = k:

    "input"     k blocks of columns, c/k input channels each: grouped encoder, ungrouped decoder
    "output"    k blocks of rows, f/k output channels each: ungrouped encoder, grouped decoder

With k = 1 the sides are the same pair.

Which foldings a kernel has: 1 and 2 need exactly two kernel axes; a linear layer has 0 only.
Two foldings give the same matrix when their decoders own the same axes of extent above 1;
then only the lower number is offered. Its encoder owns the more axes, so it strides
earlier and never costs more.

Source: Liebenwein et al., "Compressing Neural Networks: Towards Determining the Optimal
Layer-wise Decomposition" (ALDS), section 2.1 and appendix, for folding and input side.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np
import numpy.typing as npt

from lissom.options import Parameters

Side = Literal["input", "output"]
SIDES: tuple[Side, ...] = get_args(Side)

Array = npt.NDArray[np.floating[Any]]
Scalar = TypeVar("Scalar", bound=np.floating[Any])


@dataclass(frozen=True)
class Scheme:
    """How a weight is cut into low-rank parts; all but the rank.

    Attributes:
        folding: 0 to 3.
        side: which channels are sliced.
        groups: number of slices, a divisor of the channels of that side.
    """

    folding: int = 0
    side: Side = "input"
    groups: int = 1

    @classmethod
    def of(cls, parameters: Parameters) -> Scheme:
        """The scheme that an option's parameters name.

        Raises:
            KeyError: the parameters are not those of a low-rank option.
        """
        return cls(int(parameters["folding"]), cast("Side", parameters["side"]), int(parameters["groups"]))


def decoder_axes(folding: int, axes: int) -> tuple[int, ...]:
    """The kernel axes, of `axes`, that the decoder owns.

    Raises:
        ValueError: there is no such folding for that number of kernel axes.
    """
    if folding == 0:
        return ()
    if folding == 3 and axes > 0:
        return tuple(range(axes))
    if folding in (1, 2) and axes == 2:
        return (folding - 1,)
    raise ValueError(f"folding {folding} does not exist for {axes} kernel axes")


def foldings_of(kernel_shape: Sequence[int]) -> tuple[int, ...]:
    """The foldings that give different matrices for this kernel, ascending."""
    axes = len(kernel_shape)
    candidates = (0,) if axes == 0 else (0, 1, 2, 3) if axes == 2 else (0, 3)
    first: dict[tuple[int, ...], int] = {}
    for folding in candidates:
        owned = tuple(axis for axis in decoder_axes(folding, axes) if kernel_shape[axis] > 1)
        first.setdefault(owned, folding)
    return tuple(first.values())


def divisors(channels: int) -> list[int]:
    """All divisors of `channels`, ascending: the numbers of groups that can be had."""
    return [groups for groups in range(1, channels + 1) if channels % groups == 0]


def nearest(candidates: Collection[int], wished: int) -> int:
    """The candidate nearest to the one that is wished for; of two, the larger."""
    return min(candidates, key=lambda candidate: (abs(candidate - wished), -candidate))


def axis_order(folding: int, axes: int) -> tuple[int, ...]:
    """Axes of weight[f, c, *kernel] in the order of the folded matrix: rows, then columns."""
    owned = decoder_axes(folding, axes)
    rest = (axis for axis in range(axes) if axis not in owned)
    return (0, *(2 + axis for axis in owned), 1, *(2 + axis for axis in rest))


def fold(weight: npt.NDArray[Scalar], folding: int) -> npt.NDArray[Scalar]:
    """The folded matrix[rows, columns] of weight[f, c, *kernel].

    Raises:
        ValueError: the kernel has no such folding.
    """
    axes = weight.ndim - 2
    rows = weight.shape[0] * prod(weight.shape[2 + axis] for axis in decoder_axes(folding, axes))
    return weight.transpose(axis_order(folding, axes)).reshape(rows, -1)


def unfold(matrix: npt.NDArray[Scalar], folding: int, shape: Sequence[int]) -> npt.NDArray[Scalar]:
    """The weight of `shape` = [f, c, *kernel] whose folded matrix[rows, columns] this is."""
    order = axis_order(folding, len(shape) - 2)
    return matrix.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


def slices(matrix: npt.NDArray[Scalar], side: Side, groups: int) -> npt.NDArray[Scalar]:
    """The slices[groups, rows, columns] of a folded matrix: blocks of columns or of rows.

    Raises:
        ValueError: `groups` does not divide the matrix.
    """
    rows, columns = matrix.shape
    extent = columns if side == "input" else rows
    if extent % groups:
        raise ValueError(f"{groups} groups do not divide the {extent} folded {side} indices")
    if side == "input":
        return matrix.reshape(rows, groups, columns // groups).swapaxes(0, 1)
    return matrix.reshape(groups, rows // groups, columns)
