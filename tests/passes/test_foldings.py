"""Foldings: a change of shape and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom.lowrank.foldings import SIDES, Scheme, decoder_axes, divisors, fold, foldings_of, slices, unfold

KERNELS = st.lists(st.integers(1, 3), min_size=0, max_size=3).map(tuple)


def counting(f: int, c: int, kernel: tuple[int, ...]) -> np.ndarray:
    """A weight whose entries are all different."""
    shape = (f, c, *kernel)
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


@given(f=st.integers(1, 4), c=st.integers(1, 4), kernel=KERNELS)
def test_unfold_inverts_fold(f: int, c: int, kernel: tuple[int, ...]) -> None:
    weight = counting(f, c, kernel)
    for folding in foldings_of(kernel):
        np.testing.assert_array_equal(unfold(fold(weight, folding), folding, weight.shape), weight)


@pytest.mark.parametrize(
    ("folding", "shape"), [(0, (4, 3 * 2 * 5)), (1, (4 * 2, 3 * 5)), (2, (4 * 5, 3 * 2)), (3, (4 * 2 * 5, 3))]
)
def test_each_folding_has_the_stated_matrix_shape(folding: int, shape: tuple[int, int]) -> None:
    assert fold(counting(4, 3, (2, 5)), folding).shape == shape


@pytest.mark.parametrize("folding", [0, 1, 2, 3])
def test_slices_hold_consecutive_channels_of_their_side(folding: int) -> None:
    weight = counting(4, 6, (2, 3))
    by_input = slices(fold(weight, folding), "input", 3)
    by_output = slices(fold(weight, folding), "output", 2)
    for i in range(3):
        np.testing.assert_array_equal(by_input[i], fold(weight[:, 2 * i : 2 * i + 2], folding))
    for i in range(2):
        np.testing.assert_array_equal(by_output[i], fold(weight[2 * i : 2 * i + 2], folding))


@pytest.mark.parametrize(
    ("kernel", "foldings"),
    [
        ((), (0,)),
        ((3,), (0, 3)),
        ((1,), (0,)),
        ((3, 3), (0, 1, 2, 3)),
        ((1, 1), (0,)),
        ((3, 1), (0, 1)),
        ((1, 3), (0, 2)),
        ((3, 3, 3), (0, 3)),
        ((1, 1, 1), (0,)),
    ],
)
def test_the_foldings_of_a_kernel(kernel: tuple[int, ...], foldings: tuple[int, ...]) -> None:
    assert foldings_of(kernel) == foldings


@given(kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)))
def test_a_folding_is_offered_or_equals_one_that_is(kernel: tuple[int, int]) -> None:
    weight = counting(2, 3, kernel)
    offered = [fold(weight, folding) for folding in foldings_of(kernel)]
    for folding in range(4):
        assert sum(np.array_equal(fold(weight, folding), matrix) for matrix in offered) == 1


@given(channels=st.integers(1, 200))
def test_divisors_are_all_divisors_ascending(channels: int) -> None:
    found = divisors(channels)
    assert found == sorted(found)
    assert [n for n in range(1, channels + 1) if n not in found and channels % n == 0] == []
    assert all(channels % n == 0 for n in found)


@pytest.mark.parametrize(("folding", "axes"), [(1, 1), (2, 3), (3, 0), (4, 2), (-1, 2)])
def test_a_folding_that_a_kernel_does_not_have_is_refused(folding: int, axes: int) -> None:
    with pytest.raises(ValueError, match=f"folding {folding} does not exist for {axes}"):
        decoder_axes(folding, axes)


@pytest.mark.parametrize("side", SIDES)
def test_groups_that_do_not_divide_are_refused(side: str) -> None:
    with pytest.raises(ValueError, match="5 groups do not divide"):
        slices(np.zeros((6, 8)), side, 5)  # type: ignore[arg-type]  # parametrised over the literals


def test_a_scheme_is_read_back_from_the_parameters_of_an_option() -> None:
    assert Scheme.of({"folding": 2, "side": "output", "groups": 4, "rank": 7}) == Scheme(2, "output", 4)
