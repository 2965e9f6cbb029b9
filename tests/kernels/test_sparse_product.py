"""sparse_product: y = activation(bias + W x + residual), exactly, touching nothing else."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kernels.guarded import guarded
from kernels.variants import variants
from kernels.weights import Epilogue, SparseStruct, Weight, activate, epilogue, sparse
from lissom_runtime.contract import ACTIVATIONS, BLOCKS, Activation

Floats = npt.NDArray[np.float32]

POINTER, INT = ctypes.c_void_p, ctypes.c_int64
SIGNATURE = ctypes.CFUNCTYPE(
    None, ctypes.POINTER(SparseStruct), INT, INT, POINTER, POINTER, INT, POINTER, POINTER, INT, ctypes.POINTER(Epilogue)
)
MULTIPLE = 16
"""LISSOM_PANEL_MULTIPLE: rows of x are readable up to a multiple of it."""

SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 24, 25, 47, 48, 49, 95, 96, 97, 111, 112, 113, 200]
EPS = float(np.finfo(np.float32).eps)

pytestmark = pytest.mark.native
every_variant = pytest.mark.parametrize("kernel", variants("f32_sparse_product", SIGNATURE))
every_block = pytest.mark.parametrize("block", BLOCKS)


def panel(x: Floats) -> tuple[Floats, npt.NDArray[np.int32]]:
    """x[depth, n] as a guarded panel, filled up with NaN, and the offsets of its rows."""
    depth, n = x.shape
    pitch = -(-n // MULTIPLE) * MULTIPLE
    filled = np.full((depth, pitch), np.nan, np.float32)
    filled[:, :n] = x
    return guarded(filled, writable=False), guarded(np.arange(depth, dtype=np.int32) * pitch, writable=False)


def run(
    kernel: Any, weight: Weight, x: Floats, activation: Epilogue, residual: Floats | None = None, gap: int = 0
) -> Floats:
    """The product with all rows of `weight`; rows of y are `gap` elements apart, which must stay as they were."""
    rows, n = weight.struct.rows, x.shape[1]
    source, offset = panel(x)
    ldy = n + gap
    buffer = guarded(np.full((rows - 1) * ldy + n, 7.0, np.float32))
    added = None
    if residual is not None:
        spread = np.full((rows, ldy), 9.0, np.float32)
        spread[:, :n] = residual
        added = guarded(spread.reshape(-1)[: buffer.size], writable=False)
    kernel(
        weight.struct,
        0,
        rows // weight.struct.block,
        offset.ctypes.data,
        source.ctypes.data,
        n,
        None if added is None else added.ctypes.data,
        buffer.ctypes.data,
        ldy,
        activation,
    )
    whole = np.concatenate([buffer, np.full(gap, 7.0, np.float32)]).reshape(rows, ldy)
    assert (whole[:, n:] == 7.0).all()
    return whole[:, :n]


def whole_numbers(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.integers(-4, 5, shape).astype(np.float32)


@every_variant
@every_block
@pytest.mark.parametrize("n", SIZES)
def test_whole_numbers_are_exact_at_every_size(kernel: Any, block: int, n: int) -> None:
    rng = np.random.default_rng(n * 100 + block)
    weight = sparse(rng.random((3, 21)) < 0.4, block, rng)
    x = whole_numbers(rng, 21, n)
    expected = weight.dense @ x + weight.bias[:, None]
    np.testing.assert_array_equal(run(kernel, weight, x, epilogue(), gap=n % 3), expected)


@every_variant
@every_block
@pytest.mark.parametrize("n", [13, 64])
def test_a_residual_is_added_before_the_activation(kernel: Any, block: int, n: int) -> None:
    rng = np.random.default_rng(n + block)
    weight = sparse(rng.random((4, 9)) < 0.5, block, rng)
    x, residual = whole_numbers(rng, 9, n), whole_numbers(rng, 4 * block, n)
    expected = np.maximum(weight.dense @ x + weight.bias[:, None] + residual, 0)
    np.testing.assert_array_equal(run(kernel, weight, x, epilogue("relu"), residual, gap=5), expected)


@every_variant
@every_block
def test_rows_without_weights_give_the_bias(kernel: Any, block: int) -> None:
    rng = np.random.default_rng(block)
    pattern = np.zeros((4, 6), np.bool_)
    pattern[2] = True
    weight = sparse(pattern, block, rng)
    x = whole_numbers(rng, 6, 40)
    np.testing.assert_array_equal(run(kernel, weight, x, epilogue()), weight.dense @ x + weight.bias[:, None])


@every_variant
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n", [5, 50])
def test_every_activation_within_rounding(kernel: Any, activation: Activation, n: int) -> None:
    rng = np.random.default_rng(n)
    weight = sparse(rng.random((2, 12)) < 0.7, 4, rng)
    x = (3 * rng.standard_normal((12, n))).astype(np.float32)
    a, b = (-1.5, 2.5) if activation == "clip" else (0.25, 0.0)
    sums = weight.dense.astype(np.float64) @ x + weight.bias[:, None]
    expected = activate(sums, activation, a, b)
    magnitude = np.abs(weight.dense).astype(np.float64) @ np.abs(x) + np.abs(weight.bias[:, None])
    bound = 16 * EPS * (magnitude + 1)
    actual = run(kernel, weight, x, epilogue(activation, a, b))
    if activation in ("thresholded_relu", "shrink"):  # rounding tips a sum at the threshold to the other side
        near = np.abs(np.abs(sums) - a) < bound
        actual, expected, bound = actual[~near], expected[~near], bound[~near]
    assert (np.abs(actual - expected) <= bound).all()


@every_variant
@every_block
def test_random_floats_stay_within_the_bound_of_their_depth(kernel: Any, block: int) -> None:
    rng = np.random.default_rng(7)
    depth, n = 500, 61
    weight = sparse(rng.random((2, depth)) < 0.5, block, rng, whole=False)
    x = rng.standard_normal((depth, n)).astype(np.float32)
    expected = weight.dense.astype(np.float64) @ x + weight.bias[:, None]
    magnitude = np.abs(weight.dense).astype(np.float64) @ np.abs(x) + np.abs(weight.bias[:, None])
    terms = (weight.dense != 0).sum(axis=1, keepdims=True) + 1
    assert (np.abs(run(kernel, weight, x, epilogue()) - expected) <= terms * EPS * magnitude).all()


@every_variant
def test_a_pruned_weight_contributes_nothing_and_a_stored_one_passes_on_what_it_reads(kernel: Any) -> None:
    rng = np.random.default_rng(0)
    pattern = np.array([[True, False], [False, True]])
    weight = sparse(pattern, 4, rng)
    weight.arrays[2].setflags(write=False)
    x = np.zeros((2, 20), np.float32)
    x[1, :3] = np.nan, np.inf, np.float32(1e-45)
    first, second = np.split(run(kernel, weight, x, epilogue()), 2)
    np.testing.assert_array_equal(first, np.broadcast_to(weight.bias[:4, None], first.shape))
    stored = weight.dense[4:, 1:] != 0
    assert np.isnan(second[:, :1][stored]).all()
    assert np.isinf(second[:, 1:2][stored]).all()


@every_variant
def test_denormals_are_kept(kernel: Any) -> None:
    weight = sparse(np.ones((1, 1), np.bool_), 1, np.random.default_rng(0))
    tiny = np.float32(1e-45)
    struct_values, bias = np.ones((1, 1), np.float32), np.zeros(1, np.float32)
    weight.struct.values, weight.struct.bias = struct_values.ctypes.data, bias.ctypes.data
    assert (run(kernel, weight, np.full((1, 9), tiny), epilogue()) == tiny).all()


@every_variant
@pytest.mark.parametrize("activation", ["none", "relu", "clip", "leaky_relu", "hard_swish", "silu"])
def test_nan_passes_through_activations(kernel: Any, activation: Activation) -> None:
    weight = sparse(np.ones((1, 1), np.bool_), 1, np.random.default_rng(1))
    assert np.isnan(run(kernel, weight, np.full((1, 9), np.nan, np.float32), epilogue(activation, 0.1, 6.0))).all()


@every_variant
@every_block
def test_a_sum_does_not_depend_on_how_the_work_is_cut(kernel: Any, block: int) -> None:
    rng = np.random.default_rng(3)
    weight = sparse(rng.random((5, 40)) < 0.6, block, rng, whole=False)
    x = rng.standard_normal((40, 130)).astype(np.float32)
    at_once = run(kernel, weight, x, epilogue("silu"))
    parts = [run(kernel, weight, x[:, i : i + 37], epilogue("silu")) for i in range(0, 130, 37)]
    np.testing.assert_array_equal(at_once, np.concatenate(parts, axis=1))
