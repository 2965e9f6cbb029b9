"""The statistics of paired latencies, on simulated samples: no clock is read here."""

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lissom_runtime.intervals import hodges_lehmann, ratio_interval, signed_rank_cut

FloatArray = npt.NDArray[np.float64]
positive = arrays(np.float64, 24, elements=st.floats(1.0, 1e6))


def autoregressive(generator: np.random.Generator, count: int, correlation: float) -> FloatArray:
    """Unit-variance noise with the given correlation between neighbours."""
    state, noise = generator.standard_normal(), generator.standard_normal(count)
    values = np.empty(count)
    for index in range(count):
        state = correlation * state + np.sqrt(1 - correlation**2) * noise[index]
        values[index] = state
    return values


def machine(seed: int, count: int) -> tuple[FloatArray, FloatArray]:
    """Samples of two equal sessions on a noisy machine: common drift, spikes, and correlated noise of their own."""
    generator = np.random.default_rng(seed)
    drift = 0.1 * autoregressive(generator, count, 0.99)
    own = 0.03 * np.stack([autoregressive(generator, count, 0.8) for _ in range(2)])
    spikes = (generator.random((2, count)) < 0.05) * generator.exponential(1.0, (2, count))
    a, b = 1000 * np.exp(drift + own + spikes)
    return a, b


def test_equal_sessions_on_a_noisy_machine_are_told_apart_in_at_most_one_of_fifty() -> None:
    covered = sum(ratio_interval(*machine(seed, 200)).covers_one for seed in range(100))
    assert covered >= 98


def test_a_difference_of_a_tenth_is_found_on_the_same_machine() -> None:
    found = 0
    for seed in range(20):
        a, b = machine(seed, 200)
        found += ratio_interval(a, 0.9 * b).high < 1
    assert found == 20


def test_going_first_and_linear_drift_cancel() -> None:
    times = np.arange(800).reshape(200, 4)
    drift = 100 + 0.1 * times
    a, b = drift[:, [0, 3]] * [1.05, 1], drift[:, [1, 2]] * [1, 1.05]
    interval = ratio_interval(a.ravel(), b.ravel())
    np.testing.assert_allclose([interval.low, interval.ratio, interval.high], 1, rtol=2e-3)


def test_spikes_in_the_longer_one_do_not_pull_the_ratio() -> None:
    generator = np.random.default_rng(0)
    a = 1000 * np.where(generator.random(400) < 0.35, 5.0, 1.0) * generator.uniform(1, 1.01, 400)
    b = 200 * np.where(generator.random(400) < 0.1, 5.0, 1.0) * generator.uniform(1, 1.01, 400)
    assert ratio_interval(a, b).ratio == pytest.approx(0.2, rel=0.02)


@given(a=positive, b=positive)
def test_swapping_the_sessions_inverts_the_interval(a: FloatArray, b: FloatArray) -> None:
    forward, backward = ratio_interval(a, b), ratio_interval(b, a)
    np.testing.assert_allclose(
        [forward.ratio, forward.low, forward.high],
        [1 / backward.ratio, 1 / backward.high, 1 / backward.low],
        rtol=1e-9,
    )


@given(a=positive, b=positive, scale=st.floats(0.1, 10))
def test_scaling_one_session_scales_the_interval(a: FloatArray, b: FloatArray, scale: float) -> None:
    plain, scaled = ratio_interval(a, b), ratio_interval(a, scale * b)
    np.testing.assert_allclose(scaled.low, scale * plain.low, rtol=1e-9)
    np.testing.assert_allclose(scaled.high, scale * plain.high, rtol=1e-9)


@given(a=positive, b=positive)
def test_the_ratio_lies_inside_and_more_confidence_is_wider(a: FloatArray, b: FloatArray) -> None:
    likely, sure = ratio_interval(a, b, 0.9), ratio_interval(a, b, 0.99)
    assert sure.low <= likely.low <= likely.ratio <= likely.high <= sure.high


@pytest.mark.parametrize("n", range(5, 11))
@pytest.mark.parametrize("confidence", [0.8, 0.9])
def test_the_cut_is_the_largest_with_that_coverage(n: int, confidence: float) -> None:
    sums = [sum(c) for size in range(n + 1) for c in combinations(range(1, n + 1), size)]

    def coverage(cut: int) -> float:
        return 1 - 2 * sum(total <= cut for total in sums) / len(sums)

    cut = signed_rank_cut(n, confidence)
    assert coverage(cut) >= confidence > coverage(cut + 1)


def test_the_estimate_ignores_a_wild_observation() -> None:
    centre, low, high = hodges_lehmann(np.array([*np.linspace(-1, 1, 19), 1e9]), 0.99)
    assert -1 <= low <= 0 <= high <= 1.2
    assert abs(centre) < 0.2


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.ones(24), np.ones(26), "equally long"),
        (np.ones(25), np.ones(25), "whole rounds"),
        (np.ones(24), np.zeros(24), "positive samples"),
        (np.ones(24), np.full(24, np.nan), "positive samples"),
        (np.ones(6), np.ones(6), "enough observations for 99.0% confidence, got 3"),
    ],
)
def test_unusable_samples_are_refused(a: FloatArray, b: FloatArray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ratio_interval(a, b)
