"""The front keeps what nothing on it dominates, and leaves out nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom.pareto import Point, dominates, front


@st.composite
def points(draw: st.DrawFn) -> Point:
    """Few different values, so that ties and overlaps are common."""
    low = draw(st.integers(1, 9)) / 10
    return Point(draw(st.integers(0, 4)) / 4, low, low + draw(st.integers(0, 4)) / 10, draw(st.integers(1, 4)))


many = st.lists(points(), max_size=12)


@given(many)
def test_no_point_on_the_front_dominates_another_and_every_other_point_is_dominated_from_it(given: list[Point]) -> None:
    marks = front(given)
    kept = [point for point, mark in zip(given, marks, strict=True) if mark]
    left_out = [point for point, mark in zip(given, marks, strict=True) if not mark]
    assert not any(dominates(one, other) for one in kept for other in kept)
    assert all(any(dominates(one, other) for one in kept) for other in left_out)


@given(many)
def test_the_front_does_not_depend_on_the_order(given: list[Point]) -> None:
    assert front(given[::-1]) == front(given)[::-1]


@given(many)
def test_what_is_left_out_can_go_without_changing_the_front(given: list[Point]) -> None:
    kept = [point for point, mark in zip(given, front(given), strict=True) if mark]
    assert all(front(kept))


@given(points(), points())
def test_two_points_never_dominate_each_other(one: Point, other: Point) -> None:
    assert not (dominates(one, other) and dominates(other, one))


@pytest.mark.parametrize(
    ("other", "dominated"),
    [
        (Point(0.9, 0.7, 0.8, 100), False),  # equal in all
        (Point(0.9, 0.75, 0.9, 100), False),  # intervals overlap: nothing was shown
        (Point(0.9, 0.81, 0.9, 100), True),  # slower, the rest ties
        (Point(0.9, 0.75, 0.9, 101), True),  # larger, latency ties
        (Point(0.8, 0.7, 0.8, 100), True),  # less accurate, the rest ties
        (Point(0.8, 0.5, 0.6, 200), False),  # faster, though worse in all else
    ],
)
def test_ties_need_one_thing_that_is_better(other: Point, dominated: bool) -> None:
    assert dominates(Point(0.9, 0.7, 0.8, 100), other) == dominated


def test_a_point_is_not_left_out_for_one_that_is_left_out_itself() -> None:
    """The middle one loses to the large fast one in nothing; it loses to the small slow one, whose latency ties."""
    slow, middle, fast = Point(0.9, 0.9, 1.1, 1), Point(0.9, 0.75, 0.95, 2), Point(0.9, 0.6, 0.8, 3)
    assert dominates(slow, middle) and dominates(middle, fast) and not dominates(slow, fast)
    assert front([slow, middle, fast]) == [True, False, True]
