"""The blocks of a weight are read from its zeros."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom.lowering.pattern import Pattern, pattern
from lissom_runtime.contract import BLOCKS, ORIENTATIONS, Orientation
from lissom_runtime.packing import pack


def blocked(
    block: int, orientation: Orientation, density: float, rows: int = 64, columns: int = 96
) -> npt.NDArray[np.float32]:
    """A weight[rows, columns] whose zeros are drawn in blocks."""
    shape = (rows // block, columns) if orientation == "output" else (rows, columns // block)
    kept = (np.random.default_rng(0).random(shape) < density).astype(np.float32)
    return np.repeat(kept, block, axis=0 if orientation == "output" else 1)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block > 1])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_blocks_that_zeros_were_drawn_in_are_found(block: int, orientation: Orientation) -> None:
    weight = blocked(block, orientation, 0.3)
    found = pattern(weight)
    assert (found.block, found.orientation) == (block, orientation)
    assert found.density == np.count_nonzero(weight) / weight.size


def test_zeros_that_stand_alone_give_blocks_of_one() -> None:
    assert pattern(blocked(1, "output", 0.3)).block == 1


def test_a_few_zeros_inside_blocks_do_not_break_them_up() -> None:
    weight = blocked(8, "output", 0.3)
    weight[np.random.default_rng(1).random(weight.shape) < 0.05] = 0
    assert pattern(weight).block == 8
    weight[np.random.default_rng(2).random(weight.shape) < 0.3] = 0
    assert pattern(weight).block < 8


def test_blocks_of_output_channels_do_not_straddle_groups() -> None:
    weight = blocked(16, "output", 0.3, columns=91).reshape(64, 7, 13, 1)  # no block of columns fits
    assert pattern(weight, group=2).block == 16
    assert pattern(weight, group=8).block == 8


def test_a_weight_of_zeros_has_density_zero() -> None:
    assert pattern(np.zeros((8, 4), np.float32)) == Pattern(1, "output", 0.0)


@given(st.integers(0, 10**6), st.sampled_from(BLOCKS), st.sampled_from(ORIENTATIONS), st.floats(0, 1))
def test_the_density_is_that_of_the_packed_weight(
    seed: int, block: int, orientation: Orientation, share: float
) -> None:
    weight = blocked(block, orientation, share, 16, 32)
    weight[np.random.default_rng(seed).random(weight.shape) < 0.1] = 0
    found = pattern(weight)
    assert pack(weight, found.block, found.orientation).density == pytest.approx(found.density)
