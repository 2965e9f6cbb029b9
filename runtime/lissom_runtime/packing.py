"""Packed weights: blocks that are all zero are not stored. docs/packed-format.md specifies the format.

A weight[O, ...] is folded into [O, K], K the product of its other axes, and cut into blocks of b weights: b consecutive
output channels of one column (orientation "output") or b consecutive columns of one output channel ("input"). They make
the blocks[R, P, b] of a pattern matrix [R, P]; the stored ones are listed row by row, their columns ascending.

`check` finds every violation that the native reader (runtime/kernels/packed) finds, in the same order: its message
begins with the name of the class that is raised here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from lissom_runtime.contract import BLOCKS, COLUMNS, ORIENTATIONS, Columns, Orientation
from lissom_runtime.errors import UsageError

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

Dtype = Literal["float32"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

LARGEST = 2**31 - 1
"""Elements that the dense weight may have."""

WIDEST_GAP = 255
"""Columns that "delta8" can skip between two blocks."""

WIDEST_U16 = 2**16
"""Columns of a pattern that "u16" can tell apart."""

_COLUMN_TYPES: dict[Columns, type[np.unsignedinteger[Any]]] = {
    "bitmap": np.uint8,
    "delta8": np.uint8,
    "u16": np.uint16,
    "u32": np.uint32,
}


class PackingError(UsageError):
    """A packed weight violates its format, or a dense one cannot be packed as asked; one subclass a violation."""


class UnknownDtype(PackingError):
    """The element type of the values is none of `DTYPES`."""


class UnexpectedScales(PackingError):
    """Scales or zero points come with float32 values."""


class UnknownOrientation(PackingError):
    """The orientation is none of `contract.ORIENTATIONS`."""


class UnknownFormat(PackingError):
    """The format of the columns is none of `contract.COLUMNS`."""


class WrongArray(PackingError):
    """An array has another element type or another number of axes than the format says."""


class WrongShape(PackingError):
    """The dense weight has not 2 or 4 axes, or not 1 to `LARGEST` elements."""


class UnknownBlock(PackingError):
    """The block is none of `contract.BLOCKS`."""


class IndivisibleBlock(PackingError):
    """The axis along which blocks run is not a multiple of the block."""


class RowPtrLength(PackingError):
    """`row_ptr` has not one element more than the pattern has rows."""


class RowPtrStart(PackingError):
    """`row_ptr` does not start at 0."""


class RowPtrDescends(PackingError):
    """An element of `row_ptr` is smaller than the one before it."""


class RowPtrEnd(PackingError):
    """`row_ptr` does not end at the number of stored blocks."""


class FormatTooNarrow(PackingError):
    """The pattern has columns, or gaps between them, that the format cannot express."""


class ColumnsLength(PackingError):
    """`columns` has not as many elements as its format and the stored blocks ask for."""


class BitmapPadding(PackingError):
    """A bit of the bitmap behind the last block is set."""


class BitmapCount(PackingError):
    """A row of the bitmap has not as many set bits as `row_ptr` counts."""


class ColumnOutOfRange(PackingError):
    """A column lies beyond the width of the pattern."""


class ColumnsNotAscending(PackingError):
    """A column is not greater than the one before it in its row."""


@dataclass(frozen=True, eq=False)
class Packed:
    """A weight in the packed format.

    Attributes:
        shape: the dense weight's, (O, C/group, kh, kw) or (O, I).
        orientation: whether blocks run along output channels or along the columns of the folded weight.
        format: how `columns` is stored.
        row_ptr: int32[R + 1], where each row of the pattern begins among the stored blocks.
        columns: uint8[ceil(R·P/8)] for "bitmap", else [stored blocks] of uint8 ("delta8"), uint16 or uint32.
        values: float32[stored blocks, block].
        dtype: of the values.
        scales: for integer values, of which there are none yet.
        zero_points: as `scales`.
    """

    shape: tuple[int, ...]
    orientation: Orientation
    format: Columns
    row_ptr: npt.NDArray[np.int32]
    columns: npt.NDArray[np.unsignedinteger[Any]]
    values: FloatArray
    dtype: Dtype = "float32"
    scales: FloatArray | None = None
    zero_points: npt.NDArray[np.int8] | None = None

    @property
    def block(self) -> int:
        """Weights that share one column index."""
        return int(self.values.shape[1])

    @property
    def density(self) -> float:
        """Stored weights per weight of the dense one."""
        return self.values.size / math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of `row_ptr`, `columns` and `values`."""
        return self.row_ptr.nbytes + self.columns.nbytes + self.values.nbytes

    @property
    def pattern(self) -> tuple[int, int]:
        """Rows and columns of the pattern matrix, [R, P]."""
        return _pattern(self.shape, self.block, self.orientation)


def pack(
    weight: FloatArray,
    block: int = 1,
    orientation: Orientation = "output",
    format: Columns | None = None,  # noqa: A002  # the name of the field that it sets
) -> Packed:
    """Packs a weight, dropping the blocks that are all zero (of either sign).

    Args:
        weight: weight[O, C/group, kh, kw] or weight[O, I].
        block: weights that share one column index.
        orientation: "output": `block` consecutive output channels; "input": `block` consecutive columns.
        format: how columns are stored; None takes the smallest that can express them, the first of equals.

    Raises:
        UnknownDtype: the weight is not float32.
        UnknownOrientation, UnknownFormat, WrongShape, UnknownBlock, IndivisibleBlock: see there.
        FormatTooNarrow: `format` cannot express the columns.
    """
    if weight.dtype != np.float32:
        raise UnknownDtype(f"expected a weight of {', '.join(DTYPES)}, but got {weight.dtype}")
    _check_words(orientation, COLUMNS[0] if format is None else format)
    _check_sizes(weight.shape, block, orientation)
    blocks = _to_blocks(weight, block, orientation)
    stored = (blocks != 0).any(axis=2)
    row_ptr = np.concatenate([[0], np.cumsum(np.count_nonzero(stored, axis=1))]).astype(np.int32)
    row, column = np.nonzero(stored)
    gaps = _gaps(row, column)
    chosen = _choose(format, stored.shape, gaps)
    return Packed(weight.shape, orientation, chosen, row_ptr, _encode(chosen, stored, column, gaps), blocks[stored])


def unpack(packed: Packed) -> FloatArray:
    """The dense weight; weights that are not stored are +0.

    Raises:
        PackingError: as `check`.
    """
    check(packed)
    blocks = np.zeros((*packed.pattern, packed.block), np.float32)
    blocks[_block_rows(packed), block_columns(packed)] = packed.values
    if packed.orientation == "output":
        blocks = blocks.transpose(0, 2, 1)
    return blocks.reshape(packed.shape)


def block_columns(packed: Packed) -> IntArray:
    """The column of each stored block of a packed weight that passed `check`, row after row."""
    if packed.format == "bitmap":
        rows, width = packed.pattern
        return np.flatnonzero(_bits(packed)[: rows * width]) % width
    if packed.format == "delta8":
        return _undo_gaps(packed)
    return packed.columns.astype(np.int64)


def check(packed: Packed) -> None:
    """Makes sure that a packed weight is one: all that docs/packed-format.md demands.

    Raises:
        PackingError: the subclass named after the first violation.
    """
    if packed.dtype not in DTYPES:
        raise UnknownDtype(f"expected values of {', '.join(DTYPES)}, but got {packed.dtype}")
    if packed.scales is not None or packed.zero_points is not None:
        raise UnexpectedScales(f"expected neither scales nor zero points with {packed.dtype}, but got some")
    _check_words(packed.orientation, packed.format)
    _check_array("row_ptr", packed.row_ptr, np.int32, 1)
    _check_array("columns", packed.columns, _COLUMN_TYPES[packed.format], 1)
    _check_array("values", packed.values, np.float32, 2)
    _check_sizes(packed.shape, packed.block, packed.orientation)
    _check_row_ptr(packed)
    _check_columns(packed)


def _pattern(shape: tuple[int, ...], block: int, orientation: Orientation) -> tuple[int, int]:
    rows, depth = shape[0], math.prod(shape[1:])
    return (rows // block, depth) if orientation == "output" else (rows, depth // block)


def _to_blocks(weight: FloatArray, block: int, orientation: Orientation) -> FloatArray:
    """blocks[R, P, block] of a dense weight."""
    rows, width = _pattern(weight.shape, block, orientation)
    if orientation == "output":
        return weight.reshape(rows, block, width).transpose(0, 2, 1)
    return weight.reshape(rows, width, block)


def _gaps(row: IntArray, column: IntArray) -> IntArray:
    """Columns skipped before each block, from the one before it in its row or from the row's start."""
    before = np.concatenate([[-1], column[:-1]])[: len(column)]
    before[1:][row[1:] != row[:-1]] = -1
    gaps: IntArray = column - before - 1
    return gaps


def _undo_gaps(packed: Packed) -> IntArray:
    steps = np.concatenate([[0], np.cumsum(packed.columns.astype(np.int64) + 1)])
    columns: IntArray = steps[1:] - 1 - np.repeat(steps[packed.row_ptr[:-1]], np.diff(packed.row_ptr))
    return columns


def _choose(wanted: Columns | None, pattern: tuple[int, ...], gaps: IntArray) -> Columns:
    widest = int(gaps.max(initial=0))
    unable = {"delta8": widest > WIDEST_GAP, "u16": pattern[1] > WIDEST_U16}
    if wanted is None:
        able = [name for name in COLUMNS if not unable.get(name, False)]
        return min(able, key=lambda name: _length(name, pattern, len(gaps)) * np.dtype(_COLUMN_TYPES[name]).itemsize)
    if unable.get(wanted, False):
        raise FormatTooNarrow(
            f"expected gaps of at most {WIDEST_GAP} columns for delta8 and at most {WIDEST_U16} columns for u16, "
            f"but got gaps of up to {widest} and {pattern[1]} columns for {wanted}"
        )
    return wanted


def _length(name: Columns, pattern: tuple[int, ...], blocks: int) -> int:
    """Elements of `columns`."""
    return -(-math.prod(pattern) // 8) if name == "bitmap" else blocks


def _encode(name: Columns, stored: BoolArray, column: IntArray, gaps: IntArray) -> npt.NDArray[np.unsignedinteger[Any]]:
    if name == "bitmap":
        return np.packbits(stored, bitorder="little")
    return (gaps if name == "delta8" else column).astype(_COLUMN_TYPES[name])


def _bits(packed: Packed) -> npt.NDArray[np.uint8]:
    return np.unpackbits(packed.columns.astype(np.uint8, copy=False), bitorder="little")


def _block_rows(packed: Packed) -> IntArray:
    return np.repeat(np.arange(len(packed.row_ptr) - 1), np.diff(packed.row_ptr))


def _check_words(orientation: str, name: str) -> None:
    if orientation not in ORIENTATIONS:
        raise UnknownOrientation(f"expected an orientation of {', '.join(ORIENTATIONS)}, but got {orientation!r}")
    if name not in COLUMNS:
        raise UnknownFormat(f"expected a format of columns of {', '.join(COLUMNS)}, but got {name!r}")


def _check_array(name: str, array: npt.NDArray[Any], dtype: type[np.generic], axes: int) -> None:
    if array.dtype != dtype or array.ndim != axes:
        raise WrongArray(
            f"expected {name} of {np.dtype(dtype)} with axes: {axes}, but got {array.dtype} with axes: {array.ndim}"
        )


def _check_sizes(shape: tuple[int, ...], block: int, orientation: Orientation) -> None:
    if len(shape) not in {2, 4} or min(shape) < 1 or math.prod(shape) > LARGEST:
        raise WrongShape(f"expected a weight with 2 or 4 axes and 1 to {LARGEST} elements, but got {list(shape)}")
    if block not in BLOCKS:
        raise UnknownBlock(f"expected a block of {', '.join(map(str, BLOCKS))}, but got {block}")
    axis, name = (shape[0], "output channels") if orientation == "output" else (math.prod(shape[1:]), "columns")
    if axis % block:
        raise IndivisibleBlock(f"expected a multiple of {block}, the block, as number of {name}, but got {axis}")


def _check_row_ptr(packed: Packed) -> None:
    row_ptr, rows = packed.row_ptr, packed.pattern[0]
    if len(row_ptr) != rows + 1:
        raise RowPtrLength(f"expected row_ptr[{rows + 1}] for {rows} rows, but got row_ptr[{len(row_ptr)}]")
    if row_ptr[0] != 0:
        raise RowPtrStart(f"expected row_ptr to start at 0, but got {row_ptr[0]}")
    descends = row_ptr[1:] < row_ptr[:-1]
    if descends.any():
        r = int(descends.argmax())
        raise RowPtrDescends(f"expected row_ptr[{r + 1}] to be at least {row_ptr[r]}, but got {row_ptr[r + 1]}")
    if row_ptr[-1] != len(packed.values):
        raise RowPtrEnd(f"expected row_ptr to end at {len(packed.values)}, the stored blocks, but got {row_ptr[-1]}")


def _check_columns(packed: Packed) -> None:
    width = packed.pattern[1]
    if packed.format == "u16" and width > WIDEST_U16:
        raise FormatTooNarrow(f"expected at most {WIDEST_U16} columns for u16, but got {width}")
    length = _length(packed.format, packed.pattern, len(packed.values))
    if len(packed.columns) != length:
        raise ColumnsLength(f"expected columns[{length}] as {packed.format}, but got columns[{len(packed.columns)}]")
    if packed.format == "bitmap":
        _check_bitmap(packed)
        return
    columns, row = block_columns(packed), _block_rows(packed)
    beyond = columns >= width
    if beyond.any():
        n = int(beyond.argmax())
        raise ColumnOutOfRange(f"expected columns below {width} in row {row[n]}, but got {columns[n]}")
    still = (columns[1:] <= columns[:-1]) & (row[1:] == row[:-1])
    if still.any():
        n = int(still.argmax())
        raise ColumnsNotAscending(f"expected a column above {columns[n]} in row {row[n]}, but got {columns[n + 1]}")


def _check_bitmap(packed: Packed) -> None:
    rows, width = packed.pattern
    bits = _bits(packed)
    if bits[rows * width :].any():
        ones = np.count_nonzero(bits[rows * width :])
        raise BitmapPadding(f"expected 0 set bits behind the last block, but got {ones}")
    counts, listed = np.count_nonzero(bits[: rows * width].reshape(rows, width), axis=1), np.diff(packed.row_ptr)
    wrong = counts != listed
    if wrong.any():
        r = int(wrong.argmax())
        raise BitmapCount(f"expected {listed[r]} set bits in row {r} of the bitmap, but got {counts[r]}")
