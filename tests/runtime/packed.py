"""Packed weights for tests of both readers, and everything that can be wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom_runtime.packing import Packed, pack

Array = npt.NDArray[np.float32]


def random_weight(seed: int, shape: tuple[int, ...], block: int, orientation: str, density: float) -> Array:
    """Small integers other than zero in blocks kept with probability `density`; first row empty, last row full."""
    generator = np.random.default_rng(seed)
    rows, depth = shape[0], int(np.prod(shape[1:]))
    high, wide = (block, 1) if orientation == "output" else (1, block)
    kept = generator.random((rows // high, depth // wide)) < density
    kept[0], kept[-1] = False, True
    signs = generator.choice([-1, 1], (rows, depth))
    weight = signs * generator.integers(1, 9, (rows, depth)) * np.kron(kept, np.ones((high, wide)))
    return weight.astype(np.float32).reshape(shape)


def example(columns: str = "u16") -> Packed:
    """Four rows of eleven columns: three blocks, none, all, two."""
    weight = np.zeros((4, 11), np.float32)
    weight[0, [0, 3, 10]], weight[2], weight[3, [5, 6]] = 1, 2, 3
    return pack(weight, format=columns)


def changed(array: npt.NDArray[Any], **at: int) -> npt.NDArray[Any]:
    """A copy of array[n] with other elements: `_3=7` makes element 3 a 7."""
    copy = array.copy()
    for index, value in at.items():
        copy[int(index[1:])] = value
    return copy


def _bad_row_ptr(**at: int) -> Packed:
    return replace(example(), row_ptr=changed(example().row_ptr, **at))


def _bad_columns(columns: str, **at: int) -> Packed:
    return replace(example(columns), columns=changed(example(columns).columns, **at))


def _bad_block(block: int, **fields: Any) -> Packed:
    return replace(example(), values=np.zeros((16, block), np.float32), **fields)


def _wide(columns: str) -> Packed:
    weight = np.zeros((2, 65537), np.float32)
    weight[:, 7] = 1
    packed = pack(weight, format="u32")
    return replace(packed, format=columns, columns=packed.columns.astype(np.uint16))


# What both readers see. row_ptr of the example is [0, 3, 3, 14, 16].
VIOLATIONS: list[tuple[str, Callable[[], Packed]]] = [
    ("UnknownOrientation", lambda: replace(example(), orientation="diagonal")),
    ("UnknownFormat", lambda: replace(example(), format="u8")),
    ("WrongShape", lambda: replace(example(), shape=(0, 11))),
    ("WrongShape", lambda: replace(example(), shape=(4, 0))),
    ("WrongShape", lambda: replace(example(), shape=(-4, 11))),
    ("WrongShape", lambda: replace(example(), shape=(4, -11))),
    ("WrongShape", lambda: replace(example(), shape=(2**31, 1))),
    ("WrongShape", lambda: replace(example(), shape=(1, 2**31))),
    ("WrongShape", lambda: replace(example(), shape=(2**32, 2**32))),
    ("UnknownBlock", lambda: _bad_block(0)),
    ("UnknownBlock", lambda: _bad_block(3)),
    ("UnknownBlock", lambda: _bad_block(32)),
    ("IndivisibleBlock", lambda: _bad_block(8)),
    ("IndivisibleBlock", lambda: _bad_block(2, orientation="input")),
    ("RowPtrLength", lambda: replace(example(), row_ptr=example().row_ptr[:-1])),
    ("RowPtrLength", lambda: replace(example(), row_ptr=example().row_ptr[:0])),
    ("RowPtrLength", lambda: replace(example(), shape=(8, 11))),
    ("RowPtrStart", lambda: _bad_row_ptr(_0=1)),
    ("RowPtrStart", lambda: _bad_row_ptr(_0=-1)),
    ("RowPtrDescends", lambda: _bad_row_ptr(_2=2)),
    ("RowPtrDescends", lambda: _bad_row_ptr(_1=2**31 - 1, _2=-(2**31))),
    ("RowPtrEnd", lambda: _bad_row_ptr(_4=15)),
    ("RowPtrEnd", lambda: _bad_row_ptr(_4=2**31 - 1)),
    ("RowPtrEnd", lambda: replace(example(), values=example().values[:-1])),
    ("FormatTooNarrow", lambda: _wide("u16")),
    ("ColumnsLength", lambda: replace(example(), columns=example().columns[:-1])),
    ("ColumnsLength", lambda: replace(example("u32"), columns=example("u32").columns[:0])),
    ("ColumnsLength", lambda: replace(example("delta8"), columns=np.zeros(17, np.uint8))),
    ("ColumnsLength", lambda: replace(example("bitmap"), columns=example("bitmap").columns[:-1])),
    ("ColumnsLength", lambda: replace(example("bitmap"), columns=np.zeros(7, np.uint8))),
    ("BitmapPadding", lambda: _bad_columns("bitmap", _5=0x80)),
    ("BitmapCount", lambda: _bad_columns("bitmap", _0=0)),
    ("BitmapCount", lambda: _bad_columns("bitmap", _0=0x01, _1=0x0C)),  # as many in all, but one in the empty row
    ("ColumnOutOfRange", lambda: _bad_columns("u16", _2=11)),
    ("ColumnOutOfRange", lambda: _bad_columns("u32", _15=2**32 - 1)),
    ("ColumnOutOfRange", lambda: _bad_columns("delta8", _2=7)),
    ("ColumnOutOfRange", lambda: _bad_columns("delta8", _3=255)),
    ("ColumnsNotAscending", lambda: _bad_columns("u16", _1=0)),
    ("ColumnsNotAscending", lambda: _bad_columns("u32", _14=6, _15=5)),
]
