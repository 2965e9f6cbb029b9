"""sparse_vector: y = activation(bias + W x + residual) for one vector, exactly, touching nothing else."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from kernels.guarded import guarded
from kernels.variants import variants
from kernels.weights import Epilogue, Floats, SparseStruct, Weight, epilogue, sparse, within_rounding
from lissom_runtime.contract import ACTIVATIONS, BLOCKS, Activation

POINTER, INT = ctypes.c_void_p, ctypes.c_int64
SIGNATURE = ctypes.CFUNCTYPE(
    None, ctypes.POINTER(SparseStruct), INT, INT, POINTER, POINTER, POINTER, ctypes.POINTER(Epilogue)
)

pytestmark = pytest.mark.native
every_variant = pytest.mark.parametrize("kernel", variants("f32_sparse_vector", SIGNATURE))
every_block = pytest.mark.parametrize("block", BLOCKS)


def run(kernel: Any, weight: Weight, x: Floats, activation: Epilogue, residual: Floats | None = None) -> Floats:
    rows = weight.struct.rows
    source, y = guarded(x, writable=False), guarded(np.full(rows, np.nan, np.float32))
    added = None if residual is None else guarded(residual, writable=False)
    address = None if added is None else added.ctypes.data
    kernel(weight.struct, 0, rows // weight.struct.block, source.ctypes.data, address, y.ctypes.data, activation)
    return y


@every_variant
@every_block
@pytest.mark.parametrize("block_rows", [1, 3, 16, 17, 300])
def test_whole_numbers_are_exact(kernel: Any, block: int, block_rows: int) -> None:
    rng = np.random.default_rng(block_rows)
    weight = sparse(rng.random((block_rows, 31)) < 0.3, block, rng)
    x = rng.integers(-4, 5, 31).astype(np.float32)
    residual = rng.integers(-4, 5, block_rows * block).astype(np.float32)
    expected = weight.dense @ x + weight.bias
    np.testing.assert_array_equal(run(kernel, weight, x, epilogue()), expected)
    np.testing.assert_array_equal(
        run(kernel, weight, x, epilogue("relu"), residual), np.maximum(expected + residual, 0)
    )


@every_variant
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_within_rounding(kernel: Any, activation: Activation) -> None:
    rng = np.random.default_rng(5)
    weight = sparse(rng.random((20, 60)) < 0.5, 2, rng, whole=False)
    x = rng.standard_normal(60).astype(np.float32)
    a, b = (-1.5, 2.5) if activation == "clip" else (0.25, 0.0)
    got = run(kernel, weight, x, epilogue(activation, a, b))
    assert within_rounding(got, weight, x, activation, a, b)


@every_variant
@every_block
def test_only_the_asked_rows_are_written_and_no_sum_depends_on_the_cut(kernel: Any, block: int) -> None:
    rng = np.random.default_rng(8)
    weight = sparse(rng.random((9, 50)) < 0.5, block, rng, whole=False)
    x = guarded(rng.standard_normal(50).astype(np.float32), writable=False)
    whole = run(kernel, weight, x, epilogue())
    part = guarded(np.full(9 * block, 7.0, np.float32))
    kernel(weight.struct, 2, 5, x.ctypes.data, None, part.ctypes.data, epilogue())
    expected = np.full(9 * block, 7.0, np.float32)
    expected[2 * block : 5 * block] = whole[2 * block : 5 * block]
    np.testing.assert_array_equal(part, expected)
