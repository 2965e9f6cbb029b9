"""The image of a network that the program reads (`network.h`), and the formats of its weights.

    dense   values[f, P], a zero behind an odd P
    csr     one value and one column a weight
    grouped Scalpel's, of width 2: two values and one index for each pair of consecutive columns that is not all zero

with int16 values, uint16 indices and, in the last two, uint32 pointers to where each row begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from benchmarks.microcontroller.fixed import FixedNetwork, Int16Array

Format = Literal["dense", "csr", "grouped"]
FORMATS: tuple[Format, ...] = get_args(Format)
"""In the order of the constants of network.h."""

MAGIC, MOST_LAYERS, MOST_ACTIVATIONS, MOST_COLUMNS, MOST_BYTES = 0x5343414C, 8, 16384, 1024, 3 * 2**20
"""What network.h and board.ld have room for, in layers, elements, columns of a convolution, and bytes."""

_HEADER, _LAYER = 5, 14
"""Words of `mcu_image` and of `mcu_layer`."""


@dataclass(frozen=True, eq=False)
class Stored:
    """A weight in one of the formats.

    Attributes:
        format: which.
        values: values[rows, columns], or the values of the entries.
        index: column, or pair of columns, of each entry; empty for `dense`.
        row_ptr: row_ptr[rows + 1], where each row of entries begins; empty for `dense`.
    """

    format: Format
    values: Int16Array
    index: npt.NDArray[np.uint16]
    row_ptr: npt.NDArray[np.uint32]

    @property
    def nbytes(self) -> int:
        """Bytes of all three."""
        return self.values.nbytes + self.index.nbytes + self.row_ptr.nbytes


def store(weight: Int16Array, format_: Format) -> Stored:
    """Stores weight[f, P] in a format.

    Raises:
        ValueError: an index does not fit in 16 bits.
    """
    f, columns = weight.shape
    even = np.pad(weight, ((0, 0), (0, columns % 2)))
    if format_ == "dense":
        return Stored(format_, even, np.empty(0, np.uint16), np.empty(0, np.uint32))
    units = even.reshape(f, -1, 2) if format_ == "grouped" else weight[:, :, None]
    if units.shape[1] > 2**16:
        raise ValueError(f"expected at most {2**16} entries a row for an index of 16 bits, but got {units.shape[1]}")
    kept = units.any(axis=2)
    row_ptr = np.concatenate([[0], kept.sum(axis=1).cumsum()])
    return Stored(format_, units[kept].ravel(), np.nonzero(kept)[1].astype(np.uint16), row_ptr.astype(np.uint32))


def restore(stored: Stored, columns: int) -> Int16Array:
    """The weight[f, P] that a format stands for.

    Args:
        stored: what `store` gave.
        columns: P.
    """
    if stored.format == "dense":
        return stored.values[:, :columns]
    rows = len(stored.row_ptr) - 1
    width = 2 if stored.format == "grouped" else 1
    units = np.zeros((rows, -(-columns // width), width), np.int16)
    row = np.searchsorted(stored.row_ptr, np.arange(len(stored.index)), side="right") - 1
    units[row, stored.index] = stored.values.reshape(-1, width)
    return units.reshape(rows, -1)[:, :columns]


def image_of(network: FixedNetwork, weights: Sequence[Stored], x: Int16Array) -> bytes:
    """The image of a network, with one input.

    Args:
        network: in fixed point.
        weights: those of its stages, in any formats.
        x: the input X[channels, height, width].

    Raises:
        ValueError: the program has no room for it.
    """
    _require_room(network, x)
    words: list[int] = []
    arrays: list[bytes] = []
    end = 4 * (_HEADER + _LAYER * len(weights))

    def offset(array: npt.NDArray[np.integer]) -> int:
        nonlocal end
        begin = end
        content = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
        arrays.append(content + bytes(-len(content) % 4))
        end += len(arrays[-1])
        return begin

    outputs = len(network.stages[-1].bias)
    words += [MAGIC, len(weights), x.size, offset(x), outputs]
    for fixed, stored in zip(network.stages, weights, strict=True):
        stage = fixed.stage
        words += [
            FORMATS.index(stored.format),
            *fixed.weight.shape,
            fixed.shift,
            -int(stage.relu),
            stage.kernel,
            *stage.shape,
            stage.pool,
            *(offset(array) for array in (stored.values, stored.index, stored.row_ptr, fixed.bias)),
        ]
    if end > MOST_BYTES:
        raise ValueError(f"expected an image of at most {MOST_BYTES} bytes, but got {end}")
    return np.asarray(words, "<i4").tobytes() + b"".join(arrays)


def _require_room(network: FixedNetwork, x: Int16Array) -> None:
    """Raises ValueError where the constants of network.h are too small."""
    stages = [fixed.stage for fixed in network.stages]
    if len(stages) > MOST_LAYERS:
        raise ValueError(f"expected at most {MOST_LAYERS} layers, but got {len(stages)}")
    for name, elements in [("the input", x.size), *((stage.name, int(np.prod(stage.out_shape))) for stage in stages)]:
        if elements >= MOST_ACTIVATIONS:
            raise ValueError(f"expected fewer than {MOST_ACTIVATIONS} activations, but {name} has {elements}")
    for stage in stages:
        if stage.kernel and stage.weight.shape[1] >= MOST_COLUMNS:
            columns = stage.weight.shape[1]
            raise ValueError(f"expected fewer than {MOST_COLUMNS} columns, but {stage.name} has {columns}")
