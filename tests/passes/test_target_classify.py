"""What latencies mean: crossovers are where the curve says, and classes follow the paper's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom.price.latency import LEAST_GAIN
from lissom.target.classify import DENSITY, crossover, fitting, parallelism, wins
from lissom.target.measure import DENSITIES
from lissom.target.roofline import estimated_us, is_memory_bound
from lissom.target.schema import MeasuredShape
from passes.target_cases import measured

RATIOS = st.lists(st.floats(0.01, 3), min_size=len(DENSITIES), max_size=len(DENSITIES))
POSITIVE = st.floats(1e-3, 1e9)


def test_the_crossover_of_a_straight_line_is_where_it_meets_the_level() -> None:
    level = 1 - LEAST_GAIN
    assert crossover((0.1, 0.2, 0.3, 0.5), [level - 0.3, level - 0.2, level - 0.1, level + 0.1]) == pytest.approx(0.4)


def test_nothing_is_claimed_outside_of_what_was_measured() -> None:
    assert crossover((0.1, 0.5), [0.1, 0.2]) == 0.5
    assert crossover((0.1, 0.5), [1.0, 0.2]) is None  # a dip behind it is noise


@given(RATIOS)
def test_the_crossover_is_where_the_monotone_curve_reaches_the_level(ratios: list[float]) -> None:
    found, curve = crossover(DENSITIES, ratios), np.maximum.accumulate(ratios)
    if found is None:
        assert curve[0] >= 1 - LEAST_GAIN
    elif found < DENSITIES[-1]:
        assert np.interp(found, DENSITIES, curve) == pytest.approx(1 - LEAST_GAIN)
    else:
        assert curve[-1] <= 1 - LEAST_GAIN + 1e-9


@given(RATIOS, st.floats(0.1, 1))
def test_a_faster_kernel_has_no_lower_crossover(ratios: list[float], share: float) -> None:
    slow, fast = crossover(DENSITIES, ratios), crossover(DENSITIES, [share * ratio for ratio in ratios])
    assert slow is None or (fast is not None and fast >= slow - 1e-12)


@given(POSITIVE, POSITIVE, POSITIVE, POSITIVE)
def test_a_layer_is_memory_bound_when_moving_takes_longer_than_computing(
    macs: float, moved: float, stream: float, gmacs: float
) -> None:
    moving, computing = moved / (1e3 * stream), macs / (1e3 * gmacs)
    if not np.isclose(moving, computing):
        bound = is_memory_bound(moved, estimated_us(macs, moved, stream, gmacs), stream)
        assert bound == (moving > computing)


@pytest.mark.parametrize(("simd_width", "width"), [(1, 1), (2, 1), (4, 4), (8, 8), (16, 16), (64, 16)])
def test_blocks_are_as_wide_as_a_vector_holds(simd_width: int, width: int) -> None:
    assert fitting((1, 4, 8, 16), simd_width) == width


def test_a_shape_wins_with_blocks_that_fit_in_a_vector() -> None:
    shape = measured(crossover=DENSITY, widths=(1, 8))
    assert wins(shape, 8)
    assert not wins(shape, 4)  # of the blocks only those of 1 fit
    assert not wins(measured(crossover=DENSITY - 0.01), 8)


WON, LOST = 0.4, 0.2
CLASSES = {
    "all win": ([measured("Conv", WON), measured("Gemm", WON)], "low"),
    "most of each win": ([measured(op, edge) for op in ("Conv", "Gemm") for edge in (WON, LOST, WON)], "low"),
    "half of the convolutions": ([measured("Conv", WON), measured("Conv", LOST), measured("Gemm", WON)], "high"),
    "matrix times vector": ([measured("Conv", LOST), measured("Gemm", WON, True), measured("Gemm", LOST)], "moderate"),
    "only what is bound by arithmetic": ([measured("Conv", WON), measured("Gemm", LOST, True)], "high"),
    "none": ([measured("Conv"), measured("Gemm", None, True)], "high"),
    "convolutions alone": ([measured("Conv", WON)], "high"),
    "nothing": ([], "high"),
}


@pytest.mark.parametrize(("shapes", "expected"), CLASSES.values(), ids=CLASSES.keys())
def test_the_class_is_where_zeros_pay(shapes: list[MeasuredShape], expected: str) -> None:
    assert parallelism(shapes, 8) == expected


def test_shapes_without_sparse_latencies_do_not_count() -> None:
    dense = measured("Conv").model_copy(update={"blocks": (), "memory_bound": True})
    assert parallelism([measured("Conv", WON), measured("Gemm", WON), dense, dense], 8) == "low"
    assert parallelism([dense], 8) == "high"
