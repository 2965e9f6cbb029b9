"""sparse_gemm: y = activation(x W^T + bias + residual), exactly, for one row as for many."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import pytest
from kernels.planned import run_tasks
from kernels.weights import Epilogue, Floats, SparseStruct, Weight, epilogue, sparse
from lissom.lowering.scratch import of_product
from lissom_runtime import library
from lissom_runtime.contract import BLOCKS

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]


class Plan(ctypes.Structure):
    """`lissom_gemm_plan`."""

    _fields_ = tuple(
        (name, ctypes.c_int64) for name in ("m", "tasks", "scratch", "offsets", "tile", "panels", "row_parts", "pitch")
    )


@cache
def kernels() -> Any:
    loaded = library.load()
    loaded.lissom_f32_sparse_gemm_plan.restype = ctypes.c_int32
    loaded.lissom_f32_sparse_gemm_plan.argtypes = [
        ctypes.c_int64,
        ctypes.POINTER(SparseStruct),
        ctypes.POINTER(Plan),
    ]
    return loaded


def plan_of(m: int, weight: Weight) -> Plan:
    plan = Plan()
    assert kernels().lissom_f32_sparse_gemm_plan(m, weight.struct, plan) == 0
    return plan


def run(
    weight: Weight, x: Floats, residual: Floats | None = None, activation: Epilogue | None = None, *, back: bool = False
) -> Floats:
    plan = plan_of(len(x), weight)
    order = sorted(range(plan.tasks), reverse=back)
    return run_tasks("sparse_gemm", plan, weight, x, (len(x), weight.struct.rows), residual, activation, order)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 15, 16, 17, 33, 64, 65, 130])
def test_whole_numbers_are_exact_with_residual_and_activation(m: int, block: int) -> None:
    rng = np.random.default_rng(m)
    weight = sparse(rng.random((70 // block + 1, 37)) < 0.4, block, rng)
    x = rng.integers(-4, 5, (m, 37)).astype(np.float32)
    residual = rng.integers(-4, 5, (m, weight.struct.rows)).astype(np.float32)
    expected = x @ weight.dense.T + weight.bias
    np.testing.assert_array_equal(run(weight, x), expected)
    np.testing.assert_array_equal(run(weight, x, residual, epilogue("relu")), np.maximum(expected + residual, 0))


@pytest.mark.parametrize("m", [1, 40, 100])
def test_tasks_may_run_in_any_order_on_one_scratch(m: int) -> None:
    rng = np.random.default_rng(1)
    weight = sparse(rng.random((200, 2000)) < 0.5, 4, rng, whole=False)
    x = rng.standard_normal((m, 2000)).astype(np.float32)
    assert plan_of(m, weight).tasks > 1
    np.testing.assert_array_equal(run(weight, x), run(weight, x, back=True))


@pytest.mark.parametrize("m", [1, 16])
def test_random_floats_stay_within_the_bound_of_their_depth(m: int) -> None:
    rng = np.random.default_rng(2)
    weight = sparse(rng.random((20, 700)) < 0.5, 4, rng, whole=False)
    x = rng.standard_normal((m, 700)).astype(np.float32)
    expected = x.astype(np.float64) @ weight.dense.T + weight.bias
    magnitude = np.abs(x).astype(np.float64) @ np.abs(weight.dense.T) + np.abs(weight.bias)
    assert (np.abs(run(weight, x) - expected) <= 701 * np.finfo(np.float32).eps * magnitude).all()


@pytest.mark.parametrize("m", [1, 3, 4, 31, 32, 33, 100, 4096])
def test_lowering_knows_the_scratch_of_a_product_that_does_not_fit_the_caches(m: int) -> None:
    weight = sparse(np.ones((1, 8000), np.bool_), 4, np.random.default_rng(0))
    assert of_product(m, 8000) == 4 * plan_of(m, weight).scratch


@pytest.mark.parametrize("m", [0, -1, 1 << 31, 1 << 62])
def test_a_size_that_cannot_be_counted_is_refused(m: int) -> None:
    weight = sparse(np.ones((1, 3), np.bool_), 4, np.random.default_rng(0))
    assert kernels().lissom_f32_sparse_gemm_plan(m, weight.struct, Plan()) == -1
