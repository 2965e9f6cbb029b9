"""Thresholds from streamed counts are the quantiles of all activations, to within a bin."""

from __future__ import annotations

import numpy as np
import pytest
from graph.onnx_text import floats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from lissom.activations.thresholds import FINEST, MOST_BYTES, Magnitudes, observe_magnitudes
from lissom_runtime.contract import winner_count
from lissom_runtime.errors import UsageError
from passes.activation_cases import PLAIN, case

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
VALUES = arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=3, max_side=12), elements=FINITE)
RATES = st.floats(0.001, 1)


@settings(max_examples=30)
@given(VALUES, RATES, st.integers(0, FINEST))
def test_theta_is_the_winner_of_least_magnitude_to_within_a_bin(values: np.ndarray, rate: float, mantissa: int) -> None:
    counted = Magnitudes.of(1, 8 * (0x7F800000 >> (23 - mantissa)))
    assert counted.mantissa == mantissa
    counted.add(values.reshape(1, -1), 0)
    (theta,) = counted.thresholds(rate)
    exact = float(np.sort(np.abs(values).ravel())[-winner_count(rate, values.size)])
    least_normal = float(np.finfo(np.float32).tiny)
    assert theta <= exact
    assert exact < float(theta) * (1 + 2.0**-mantissa) or exact < least_normal
    assert np.count_nonzero(np.abs(values) >= theta) >= winner_count(rate, values.size)


@settings(max_examples=30)
@given(VALUES, RATES, RATES)
def test_a_lower_rate_has_no_lower_threshold(values: np.ndarray, one: float, other: float) -> None:
    counted = Magnitudes.of(1)
    counted.add(values.reshape(1, -1), 0)
    assert counted.thresholds(min(one, other)) >= counted.thresholds(max(one, other))


@settings(max_examples=30)
@given(VALUES, st.integers(1, 4), RATES)
def test_batches_do_not_matter_and_channels_are_told_apart(values: np.ndarray, parts: int, rate: float) -> None:
    axis = values.ndim - 1
    whole, cut = Magnitudes.of(values.shape[axis]), Magnitudes.of(values.shape[axis])
    whole.add(values, axis)
    for part in np.array_split(values, parts):
        cut.add(part, axis)
    np.testing.assert_array_equal(whole.counts, cut.counts)
    apart = []
    for channel in range(values.shape[axis]):
        alone = Magnitudes.of(1)
        alone.add(values[..., channel].reshape(1, -1), 0)
        apart.extend(alone.thresholds(rate))
    np.testing.assert_array_equal(whole.thresholds(rate), np.array(apart))


@pytest.mark.parametrize("channels", [1, 64, 2048, 100_000])
def test_memory_is_bounded(channels: int) -> None:
    counted = Magnitudes.of(channels)
    assert counted.counts.nbytes <= MOST_BYTES or counted.mantissa == 0


def test_a_rate_above_the_share_that_is_not_zero_has_the_threshold_zero() -> None:
    counted = Magnitudes.of(1)
    counted.add(np.array([[0, 0, 0, 1, 2]], np.float32), 0)
    assert counted.thresholds(0.6)[0] == 0
    assert counted.thresholds(0.4)[0] == 1
    assert counted.thresholds(0.2)[0] == 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_activations_without_an_order_are_refused(value: float) -> None:
    with pytest.raises(UsageError, match="expected finite activations, but got one that is NaN or infinite"):
        Magnitudes.of(1).add(np.array([[1, value]], np.float32), 0)


def test_no_activations_at_all_are_refused() -> None:
    with pytest.raises(UsageError, match="expected calibration activations for a threshold, but got none"):
        Magnitudes.of(1).thresholds(0.5)


@pytest.mark.ort
@pytest.mark.parametrize("per_channel", [False, True])
def test_activations_of_a_network_are_counted_over_all_batches(per_channel: bool) -> None:
    known = case(PLAIN)
    batches = [{"x": floats(seed, 2, 3, 8, 8)} for seed in range(3)]
    found = observe_magnitudes(known.model, known.sites.sites, batches, per_channel)
    assert {name: counted.counts.shape[0] for name, counted in found.items()} == (
        {"a1": 4, "a2": 6} if per_channel else {"a1": 1, "a2": 1}
    )
    assert found["a1"].size * found["a1"].counts.shape[0] == 3 * 2 * 4 * 8 * 8


@pytest.mark.ort
def test_a_network_that_gives_nan_is_refused_by_the_tensors_name() -> None:
    known = case(PLAIN)
    with pytest.raises(UsageError, match="NaN or infinite in 'a1'"):
        observe_magnitudes(known.model, known.sites.sites, [{"x": np.full((1, 3, 8, 8), np.inf, np.float32)}])
