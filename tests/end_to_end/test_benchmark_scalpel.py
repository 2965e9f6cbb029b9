"""Scalpel's table: speeds are inverse ratios, rows keep their columns, kernels are those that were asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import lissom_models
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom.lowering.lower import lower
from lissom_runtime.intervals import Interval

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.interleaved import compare_apart
from benchmarks.scalpel import COLUMNS, Row, speed

SHAPE = (1, 1, 28, 28)

parts = st.floats(0.1, 10)


@given(parts, parts, parts)
def test_a_speed_is_the_inverse_of_a_ratio_and_so_are_its_ends(low: float, width: float, height: float) -> None:
    ratio = Interval(low + width, low, low + width + height, 0.99)
    middle, ends = speed(ratio).split(" ", 1)
    slow, fast = (float(end) for end in ends.strip("[]").split(", "))
    assert slow <= float(middle) <= fast
    assert float(middle) == pytest.approx(1 / ratio.ratio, abs=0.006)
    assert speed(None) == "not measured"


def test_every_row_has_all_columns_whether_there_is_a_result_or_not() -> None:
    found = Row("net", "gpu", "scalpel", "", 0.5, 0.4, 0.3, 0.91, 0.90)
    assert found.words()[3:7] == ["50", "0.400", "0.300", "0.9100 → 0.9000, 1.00"]
    declined = Row("net", "gpu", "scalpel", "nothing is that small")
    assert declined.words()[2:4] == ["scalpel (missed)", "nothing is that small"]
    assert len(found.words()) == len(declined.words()) == len(COLUMNS)


@pytest.mark.native
@pytest.mark.ort
def test_another_process_runs_the_kernels_that_it_is_told_to() -> None:
    path = lissom_models.path("lenet-300-100")
    lowered = lower(path, shapes={"image": SHAPE}, max_density=1.0, measured=False).model
    found = compare_apart([onnx.load(path), lowered], {"image": np.zeros(SHAPE, np.float32)}, 0.2, isa="scalar")
    assert found.kernels == "scalar"
    (interval,) = found.intervals
    assert 0 < interval.low <= interval.ratio <= interval.high
