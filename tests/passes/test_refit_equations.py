"""Least squares near a known weight: the same by columns and by rows, and with the zeros that stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from graph.onnx_text import floats
from hypothesis import given
from hypothesis import strategies as st
from lissom.refitting.equations import Equations, least_squares

Array = npt.NDArray[Any]


def moments(seed: int, rows: int, columns: int, out: int) -> tuple[Array, Array, Array]:
    """E[x xᵀ], E[y xᵀ] and a start."""
    x, y = floats(seed, rows, columns).astype(np.float64), floats(seed + 1, rows, out).astype(np.float64)
    return x.T @ x / rows, y.T @ x / rows, floats(seed + 2, out, columns).astype(np.float64)


@given(st.integers(0, 99), st.integers(1, 12), st.floats(1e-3, 10))
def test_the_gradient_vanishes_on_the_support_and_the_weight_outside(seed: int, rows: int, ridge: float) -> None:
    xx, yx, start = moments(seed, rows, 7, 5)
    support = np.random.default_rng(seed).random((5, 7)) < 0.6
    for free in (None, support):
        weight = least_squares(xx, yx, start, ridge, free)
        gradient = weight @ xx - yx + ridge * np.trace(xx) / 7 * (weight - start)
        where = np.ones((5, 7), bool) if free is None else free
        np.testing.assert_allclose(gradient[where], 0, atol=1e-9)
        assert (weight[~where] == 0).all()


def test_a_support_of_everything_changes_nothing_and_a_strong_ridge_keeps_the_start() -> None:
    xx, yx, start = moments(3, 30, 7, 5)
    np.testing.assert_array_equal(least_squares(xx, yx, start, 0.1), least_squares(xx, yx, start, 0.1, start != 0))
    support = np.arange(35).reshape(5, 7) % 3 > 0
    np.testing.assert_allclose(least_squares(xx, yx, start, 1e9, support), start * support, atol=1e-6)
    np.testing.assert_array_equal(least_squares(np.zeros((7, 7)), np.zeros((5, 7)), start, 0.1), start)


COLUMNS = 12


def data(seed: int, rows: int) -> tuple[Array, Array, Array]:
    """x[rows, columns] and y[rows, out] about no mean of 0, and a start."""
    return 1 + floats(seed, rows, COLUMNS), 2 + floats(seed + 1, rows, 5), floats(seed + 2, 5, COLUMNS)


def expected(x: Array, y: Array, start: Array, ridge: float, centre: bool, support: Array | None = None) -> Array:
    """The solution from moments in float64."""
    x, y = (values.astype(np.float64) - (values.mean(axis=0, dtype=np.float64) if centre else 0) for values in (x, y))
    return least_squares(x.T @ x / len(x), y.T @ x / len(x), start.astype(np.float64), ridge, support)


@pytest.mark.parametrize("centre", [True, False])
@given(st.integers(0, 99), st.integers(2, 30), st.sampled_from([1e-4, 1e-2, 1.0]))
def test_fewer_rows_than_columns_and_more_solve_the_same_equations(
    centre: bool, seed: int, rows: int, ridge: float
) -> None:
    x, y, start = data(seed, rows)
    equations = Equations(start, x, centre, keep_zeros=False)
    for other in (1e-3, ridge):  # a factor that was kept is of its ridge only
        found = equations.solve(equations.goal(y), other)
        np.testing.assert_allclose(found, expected(x, y, start, other, centre), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rows", [6, 30])
def test_columns_of_zeros_take_no_part_and_other_zeros_stay(rows: int) -> None:
    x, y, start = data(0, rows)
    start[:, [1, 4, 5, 9]] = 0
    left = np.flatnonzero(start.any(axis=0))
    equations = Equations(start, x, True, keep_zeros=True)
    found = equations.solve(equations.goal(y), 0.01)
    np.testing.assert_allclose(
        found[:, left], expected(x[:, left], y, start[:, left], 0.01, True), rtol=1e-3, atol=1e-3
    )
    assert not np.delete(found, left, axis=1).any()
    start[2, 0] = 0
    equations = Equations(start, x, True, keep_zeros=True)
    found, support = equations.solve(equations.goal(y), 0.01), start != 0
    reference = expected(x[:, left], y, start[:, left], 0.01, True, support[:, left])
    np.testing.assert_allclose(found[:, left], reference, rtol=1e-3, atol=1e-3)
    assert not found[~support].any()


def test_a_weight_of_zeros_that_stay_is_its_own_solution() -> None:
    x, y, _ = data(0, 9)
    equations = Equations(np.zeros((5, COLUMNS)), x, True, keep_zeros=True)
    assert not equations.solve(equations.goal(y), 0.01).any()


def test_what_a_weight_gives_comes_with_the_mean_and_the_bias_that_belongs_to_it() -> None:
    x, y, start = data(0, 9)
    equations = Equations(start, x, True, keep_zeros=False)
    level = equations.goal(y).level
    bias = equations.bias(start, level)
    assert bias is not None
    np.testing.assert_allclose(equations.given(start, level), x @ start.T + bias, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(equations.given(start, level).mean(axis=0), y.mean(axis=0), rtol=1e-4)
    assert Equations(start, x, False, keep_zeros=False).bias(start, level) is None
