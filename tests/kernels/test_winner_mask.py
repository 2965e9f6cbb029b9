"""winner_mask: the threshold is an order statistic of every s-th magnitude, and what is below it becomes zero."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from kernels.guarded import guarded
from kernels.variants import variants
from kernels.weights import Floats
from lissom_runtime import library

POINTER, INT, FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
SIGNATURE = ctypes.CFUNCTYPE(None, POINTER, INT, FLOAT, POINTER)
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, 3e38]

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]
every_variant = pytest.mark.parametrize("kernel", variants("f32_winner_mask", SIGNATURE))


def magnitude(x: Floats) -> Floats:
    """|x|, infinity for a NaN."""
    return np.where(np.isnan(x), np.float32(np.inf), np.abs(x))


def threshold(x: Floats, stride: int, winners: int) -> float:
    function = library.load().lissom_f32_winner_threshold
    function.restype, function.argtypes = FLOAT, [POINTER, INT, INT, INT, POINTER]
    source = guarded(x, writable=False)
    scratch = guarded(np.zeros(-(-len(x) // stride), np.int32))
    theta: float = function(source.ctypes.data, len(x), stride, winners, scratch.ctypes.data)
    return theta


@every_variant
@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("front", [False, True])
def test_what_is_below_the_threshold_becomes_zero_and_nothing_else_is_touched(kernel: Any, n: int, front: bool) -> None:
    x = np.random.default_rng(n).permutation(np.resize(np.array(SPECIAL, np.float32), n))
    for theta in (0.0, 1e-45, 1.0, 2.0, np.inf):
        source, y = guarded(x, front=front, writable=False), guarded(np.full(n, 7.0, np.float32), front=front)
        kernel(source.ctypes.data, n, theta, y.ctypes.data)
        expected = np.where(magnitude(x) < np.float32(theta), np.float32(0), x)
        assert y.tobytes() == expected.tobytes()


@every_variant
def test_a_mask_may_be_written_over_its_input(kernel: Any) -> None:
    x = np.random.default_rng(0).standard_normal(99).astype(np.float32)
    y = guarded(x)
    kernel(y.ctypes.data, 99, 0.5, y.ctypes.data)
    np.testing.assert_array_equal(y, np.where(np.abs(x) < 0.5, 0, x))


@given(
    arrays.arrays(np.float32, st.integers(1, 60), elements=st.floats(width=32) | st.sampled_from(SPECIAL[:5])),
    st.integers(1, 70),
    st.data(),
)
def test_the_threshold_is_the_one_of_a_sort(x: Floats, stride: int, data: st.DataObject) -> None:
    sample = np.sort(magnitude(x[::stride]))[::-1]
    winners = data.draw(st.integers(1, len(sample)))
    assert threshold(x, stride, winners) == sample[winners - 1]
