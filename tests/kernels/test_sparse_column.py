"""sparse_column: a product with a vector of many zeros, exactly, by the columns of what is not zero."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kernels.guarded import guarded
from kernels.variants import variants
from kernels.weights import Epilogue, Floats, SparseStruct, Weight, epilogue, sparse, within_rounding
from lissom_runtime import library
from lissom_runtime.contract import ACTIVATIONS, BLOCKS, Activation

POINTER, INT = ctypes.c_void_p, ctypes.c_int64


class ColumnsStruct(ctypes.Structure):
    """`lissom_f32_columns`."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("block", ctypes.c_int64),
        ("column_ptr", ctypes.c_void_p),
        ("block_rows", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
    )


SIGNATURE = ctypes.CFUNCTYPE(
    None, ctypes.POINTER(ColumnsStruct), POINTER, POINTER, INT, POINTER, POINTER, POINTER, POINTER,
    ctypes.POINTER(Epilogue),
)  # fmt: skip

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]
every_variant = pytest.mark.parametrize("kernel", variants("f32_sparse_column", SIGNATURE))
every_block = pytest.mark.parametrize("block", BLOCKS)


@dataclass(frozen=True)
class Part:
    """Rows of a weight, column after column.

    Attributes:
        first: its first row.
        struct: what a kernel takes.
    """

    first: int
    struct: ColumnsStruct


def columns(weight: Weight, count: int) -> tuple[list[Part], Sequence[npt.NDArray[Any]]]:
    """A weight in `count` parts, and the arrays that they point into."""
    function = library.load().lissom_f32_sparse_columns
    function.restype, function.argtypes = None, [ctypes.POINTER(SparseStruct), INT, POINTER, POINTER, POINTER]
    block, depth = weight.struct.block, weight.struct.depth
    rows = weight.struct.rows // block
    row_ptr = weight.arrays[0]
    pointers = guarded(np.full((count, depth + 1), -1, np.int32))
    block_rows = guarded(np.full(row_ptr[-1], -1, np.int32))
    values = guarded(np.full((row_ptr[-1], block), np.nan, np.float32))
    function(weight.struct, count, pointers.ctypes.data, block_rows.ctypes.data, values.ctypes.data)
    parts = []
    for part in range(count):
        first, last = rows * part // count, rows * (part + 1) // count
        skipped = int(row_ptr[first])
        struct = ColumnsStruct(
            (last - first) * block,
            block,
            pointers.ctypes.data + 4 * part * (depth + 1),
            block_rows.ctypes.data + 4 * skipped,
            values.ctypes.data + 4 * skipped * block,
        )
        parts.append(Part(first * block, struct))
    return parts, (pointers, block_rows, values)


def run(
    kernel: Any, weight: Weight, x: Floats, activation: Epilogue, residual: Floats | None = None, count: int = 1
) -> Floats:
    parts, arrays = columns(weight, count)
    index = guarded(np.flatnonzero(x).astype(np.int32), writable=False)
    source, y = guarded(x, writable=False), guarded(np.full(weight.struct.rows, np.nan, np.float32))
    bias = guarded(weight.bias, writable=False)
    added = None if residual is None else guarded(residual, writable=False)
    for part in parts:
        sums, skipped = guarded(np.zeros(part.struct.rows, np.float32)), 4 * part.first
        address = None if added is None else added.ctypes.data + skipped
        kernel(
            part.struct, source.ctypes.data, index.ctypes.data, len(index), bias.ctypes.data + skipped, address,
            sums.ctypes.data, y.ctypes.data + skipped, activation,
        )  # fmt: skip
    assert len(arrays) == 3
    return y


def with_zeros(rng: np.random.Generator, x: npt.NDArray[Any]) -> Floats:
    return np.where(rng.random(x.shape) < 0.3, x, 0).astype(np.float32)


@every_variant
@every_block
@pytest.mark.parametrize(("block_rows", "count"), [(1, 1), (3, 2), (16, 5), (17, 16), (100, 7)])
def test_whole_numbers_are_exact(kernel: Any, block: int, block_rows: int, count: int) -> None:
    rng = np.random.default_rng(block_rows)
    weight = sparse(rng.random((block_rows, 31)) < 0.3, block, rng)
    x = with_zeros(rng, rng.integers(-4, 5, 31))
    residual = rng.integers(-4, 5, block_rows * block).astype(np.float32)
    expected = weight.dense @ x + weight.bias
    np.testing.assert_array_equal(run(kernel, weight, x, epilogue(), count=count), expected)
    np.testing.assert_array_equal(
        run(kernel, weight, x, epilogue("relu"), residual, count), np.maximum(expected + residual, 0)
    )


@every_variant
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_within_rounding(kernel: Any, activation: Activation) -> None:
    rng = np.random.default_rng(5)
    weight = sparse(rng.random((20, 60)) < 0.5, 2, rng, whole=False)
    x = with_zeros(rng, rng.standard_normal(60))
    a, b = (-1.5, 2.5) if activation == "clip" else (0.25, 0.0)
    got = run(kernel, weight, x, epilogue(activation, a, b))
    assert within_rounding(got, weight, x, activation, a, b)


@every_variant
@every_block
def test_no_sum_depends_on_the_parts(kernel: Any, block: int) -> None:
    rng = np.random.default_rng(8)
    weight = sparse(rng.random((9, 50)) < 0.5, block, rng, whole=False)
    x = with_zeros(rng, rng.standard_normal(50))
    whole = run(kernel, weight, x, epilogue())
    for count in (2, 5, 9):
        np.testing.assert_array_equal(run(kernel, weight, x, epilogue(), count=count), whole)


@pytest.mark.parametrize("n", [0, 1, 2, 15, 16, 17, 100])
def test_places_of_nonzeros_are_told_where_they_are_few_enough(n: int) -> None:
    function = library.load().lissom_f32_nonzero
    function.restype, function.argtypes = INT, [POINTER, INT, INT, POINTER]
    rng = np.random.default_rng(n)
    x = with_zeros(rng, rng.choice([1.0, -2.0, np.nan, np.inf, 1e-45, -0.0], n))
    expected = np.flatnonzero(x)
    for most in range(max(0, len(expected) - 1), len(expected) + 2):
        source, index = guarded(x, writable=False), guarded(np.full(most + 1, -1, np.int32))
        assert function(source.ctypes.data, n, most, index.ctypes.data) == len(expected)
        if len(expected) <= most:
            np.testing.assert_array_equal(index[: len(expected)], expected)
