"""The rules of a WinnerMask that models are made by: how many win, out of which sample."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom_runtime.contract import require_sample, sample_stride, winner_count
from lissom_runtime.errors import UsageError


@pytest.mark.parametrize(
    ("rate", "size", "count"), [(0.1, 25, 2), (0.1, 35, 4), (0.3, 10, 3), (1.0, 7, 7), (0.01, 10, 1), (0.5, 1, 1)]
)
def test_halves_are_rounded_to_even_and_at_least_one_wins(rate: float, size: int, count: int) -> None:
    assert winner_count(rate, size) == count


@given(st.floats(0, 1, exclude_min=True), st.integers(1, 10**7))
def test_the_count_is_within_a_half_of_the_share_or_one(rate: float, size: int) -> None:
    count = winner_count(rate, size)
    assert 1 <= count <= size
    assert abs(count - rate * size) <= 0.5 or count == 1


@pytest.mark.parametrize(("alpha", "stride"), [(0.1, 10), (1.0, 1), (0.7, 1), (0.5, 2), (0.3, 3), (1 / 3, 3)])
def test_the_sample_has_at_least_the_asked_share(alpha: float, stride: int) -> None:
    assert sample_stride(alpha) == stride
    for size in (1, 9, 10, 11, 1000):
        assert math.ceil(size / stride) >= alpha * size * 0.999999


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, math.nan, math.inf])
def test_shares_beyond_the_whole_are_refused(value: float) -> None:
    with pytest.raises(UsageError, match="expected a winner rate above 0 and up to 1, got"):
        winner_count(value, 10)
    with pytest.raises(UsageError, match="expected a share of the activations above 0 and up to 1, got"):
        sample_stride(value)


def test_a_sample_in_which_less_than_one_wins_is_refused() -> None:
    require_sample(0.1, 0.1, 100)
    require_sample(0.1, 0.1, 91)
    with pytest.raises(
        UsageError, match=r"expected at least 10 sampled activations for a winner rate of 0\.1, got 9 of 90"
    ):
        require_sample(0.1, 0.1, 90)
    with pytest.raises(UsageError, match="expected a winner rate"):
        require_sample(0.0, 0.1, 100)
