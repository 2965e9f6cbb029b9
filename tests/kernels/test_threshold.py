"""threshold: y = |x| > theta ? x : +0, exactly, touching nothing else."""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from kernels.guarded import guarded
from kernels.variants import variants

Array = npt.NDArray[np.float32]

FLOATS = ctypes.c_void_p
SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_int64, FLOATS, FLOATS, ctypes.c_float)
SIZES = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025]

pytestmark = pytest.mark.native
every_variant = pytest.mark.parametrize("kernel", variants("f32_threshold", SIGNATURE))


def reference(x: Array, theta: float) -> Array:
    return np.where(np.abs(x) > np.float32(theta), x, np.float32(0))


def run(kernel: Any, x: Array, y: Array, theta: float) -> None:
    kernel(x.size, x.ctypes.data, y.ctypes.data, theta)


def assert_same_bits(actual: Array, expected: Array) -> None:
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))


@every_variant
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("front", [False, True], ids=["guard behind", "guard before"])
def test_every_size_is_exact_and_stays_inside_its_arrays(kernel: Any, size: int, front: bool) -> None:
    values = np.random.default_rng(size).integers(-4, 5, size).astype(np.float32)
    x = guarded(values, front=front, writable=False)
    y = guarded(np.full(size, np.nan, np.float32), front=front)
    run(kernel, x, y, 2.0)
    assert_same_bits(y, reference(values, 2.0))


@every_variant
def test_in_place_gives_the_same(kernel: Any) -> None:
    values = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
    x = guarded(values)
    run(kernel, x, x, 0.5)
    assert_same_bits(x, reference(values, 0.5))


@every_variant
@given(
    x=arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32)),
    theta=st.floats(min_value=0, width=32, allow_nan=False),
)
def test_every_float_is_kept_or_becomes_positive_zero(kernel: Any, x: Array, theta: float) -> None:
    y = np.full_like(x, np.nan)
    run(kernel, x, y, theta)
    assert_same_bits(y, reference(x, theta))


@every_variant
def test_the_threshold_itself_nan_and_negative_zero_become_positive_zero(kernel: Any) -> None:
    x = np.array([0.5, -0.5, np.nan, -0.0, 0.75, -np.inf], np.float32)
    y = np.full_like(x, np.nan)
    run(kernel, x, y, 0.5)
    assert_same_bits(y, np.array([0, 0, 0, 0, 0.75, -np.inf], np.float32))
