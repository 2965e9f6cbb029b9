"""Error curves: equal to the error of pairs that were made and multiplied back."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom.lowrank.errors import GRID, NORMS, Metric, error_curve, grid
from lissom.lowrank.factors import factors, is_fitted, recompose, terms
from lissom.lowrank.foldings import SIDES, Scheme, divisors, fold, foldings_of, slices

SHAPES = [(6, 4), (6, 4, 3), (6, 8, 3, 2), (4, 6, 1, 3), (4, 6, 2, 3, 2)]
ROUNDING = 2e-6  # the factors are float32


@cache
def random_weight(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@cache
def random_moment(columns: int) -> np.ndarray:
    rng = np.random.default_rng(columns)
    patches = rng.standard_normal((3 * columns, columns)) * np.exp(rng.standard_normal(columns))
    patches[:, 1:] += patches[:, :-1]
    return patches.T @ patches


def every_scheme(shape: tuple[int, ...]) -> list[Scheme]:
    return [
        Scheme(folding, side, groups)
        for folding in foldings_of(shape[2:])
        for side in SIDES
        for groups in divisors(shape[1] if side == "input" else shape[0])
    ]


def curve(shape: tuple[int, ...], scheme: Scheme, metric: Metric) -> np.ndarray:
    moment = random_moment(int(np.prod(shape[1:]))) if metric == "whitened" else None
    return error_curve(random_weight(shape), scheme, metric, moment)


def residuals(weight: np.ndarray, scheme: Scheme, moment: np.ndarray | None = None) -> list[np.ndarray]:
    """W − Ŵ for rank 0, 1, …, from factors as they would be written into a model."""
    exact = weight.astype(np.float64)
    pairs = (factors(weight, scheme, j, moment) for j in range(1, terms(weight, scheme).scale.shape[1] + 1))
    return [exact, *(exact - recompose(*pair, scheme.side, scheme.groups) for pair in pairs)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_plain_metrics_are_the_errors_of_recomposed_pairs(shape: tuple[int, ...]) -> None:
    weight = random_weight(shape)
    for scheme in every_scheme(shape):
        errors = [fold(error, scheme.folding) for error in residuals(weight, scheme)]
        blocks = [np.linalg.norm(slices(error, scheme.side, scheme.groups), 2, axis=(1, 2)) for error in errors]
        top = np.linalg.norm(errors[0], 2)
        wanted = {
            "spectral": [np.linalg.norm(error, 2) / top for error in errors],
            "frobenius": [np.linalg.norm(error) / np.linalg.norm(weight) for error in errors],
            "code": [block.max() / top for block in blocks],
            "theorem": [np.sqrt(scheme.groups) * block.max() / top for block in blocks],
        }
        for metric, values in wanted.items():
            got = curve(shape, scheme, metric)
            tolerance = ROUNDING * np.sqrt(scheme.groups)
            np.testing.assert_allclose(got, values, rtol=0, atol=tolerance, err_msg=f"{scheme} {metric}")


@pytest.mark.parametrize("shape", SHAPES)
def test_the_whitened_metric_is_the_error_of_the_output(shape: tuple[int, ...]) -> None:
    """Measured with the factors that the folding would get; a later, larger error counts for earlier ranks."""
    weight = random_weight(shape)
    moment = random_moment(int(np.prod(shape[1:])))
    for scheme in every_scheme(shape):
        if is_fitted(scheme):
            continue
        flat = [e.reshape(len(e), -1) for e in residuals(weight, scheme, moment)]
        energy = np.array([np.trace(e @ moment @ e.T) for e in flat])
        wanted = np.maximum.accumulate(np.sqrt(energy / energy[0])[::-1])[::-1]
        np.testing.assert_allclose(curve(shape, scheme, "whitened"), wanted, rtol=0, atol=ROUNDING, err_msg=str(scheme))


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) > 2])
def test_the_whitened_metric_of_fitted_pairs_is_near_their_error_and_below_that_of_plain_ones(
    shape: tuple[int, ...],
) -> None:
    """Where it is exact is tested with the fit. Pairs with more values than the weight have the last smaller one's."""
    weight = random_weight(shape)
    moment = random_moment(int(np.prod(shape[1:])))
    for folding in foldings_of(shape[2:])[1:]:
        got = curve(shape, Scheme(folding), "whitened")
        flat = [[e.reshape(len(e), -1) for e in residuals(weight, Scheme(folding), m)] for m in (moment, None)]
        energy = np.array([[np.trace(e @ moment @ e.T) for e in errors] for errors in flat])
        fitted, plain = np.sqrt(energy / energy[0, 0])
        useful = np.arange(len(got)) * sum(fold(weight, folding).shape) <= weight.size
        np.testing.assert_allclose(got[useful], fitted[useful], rtol=0.2)
        assert np.all(got[useful] <= np.maximum.accumulate(plain[::-1])[::-1][useful] + ROUNDING)
        assert np.all(got[~useful] >= fitted[~useful] - ROUNDING)


def test_a_whitened_error_that_rises_counts_for_the_ranks_before_it() -> None:
    """Two plain terms cancel on the one patch there is: dropping one of them is worse than dropping both."""
    weight = np.zeros((1, 4, 2))  # [f, c, κ]
    weight[0, 0, 0], weight[0, 1, 1] = 2.0, -1.9
    patch = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])  # sees 2.0 − 1.9
    curve = error_curve(weight, Scheme(3, "input", 2), "whitened", np.outer(patch, patch))
    np.testing.assert_allclose(curve, [19, 19, 0], atol=1e-9)


@pytest.mark.parametrize("metric", NORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_curves_never_rise_and_end_at_zero(shape: tuple[int, ...], metric: Metric) -> None:
    for scheme in every_scheme(shape):
        errors = curve(shape, scheme, metric)
        assert np.all(np.diff(errors) <= 0)
        assert errors[-1] == 0
        assert errors[-2] > 0


@pytest.mark.parametrize("metric", NORMS)
def test_dropping_everything_has_error_one_without_groups(metric: Metric) -> None:
    for shape in SHAPES:
        assert curve(shape, Scheme(), metric)[0] == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_code_is_below_spectral_and_theorem_above(shape: tuple[int, ...]) -> None:
    for scheme in every_scheme(shape):
        code, spectral, theorem = (curve(shape, scheme, metric) for metric in ("code", "spectral", "theorem"))
        assert np.all(code <= spectral + 1e-9)
        assert np.all(spectral <= theorem + 1e-9)


@pytest.mark.parametrize(("side", "axis"), [("input", 1), ("output", 0)])
def test_the_theorem_is_attained_by_equal_blocks(side: str, axis: int) -> None:
    weight = np.concatenate([random_weight((6, 4))] * 3, axis=axis)
    scheme = Scheme(0, side, 3)
    theorem, spectral = error_curve(weight, scheme, "theorem"), error_curve(weight, scheme, "spectral")
    np.testing.assert_allclose(theorem, spectral, rtol=1e-6)


@pytest.mark.parametrize("scheme", [Scheme(0, "input", 2), Scheme(0, "output", 2)])
@pytest.mark.parametrize("shape", [(104, 100), (150, 100)])
def test_the_spectral_metric_is_an_upper_bound_and_exact_on_its_grid(shape: tuple[int, int], scheme: Scheme) -> None:
    weight = random_weight(shape).astype(np.float64)
    left, scale, right = terms(weight, scheme)
    errors = error_curve(weight, scheme, "spectral")
    ranks = scale.shape[1]
    assert ranks > GRID
    kept = [(left[:, :, :j] * scale[:, None, :j]) @ right[:, :j] for j in range(ranks + 1)]
    whole = slices(weight, scheme.side, scheme.groups)
    join = np.hstack if scheme.side == "input" else np.vstack
    exact = np.array([np.linalg.norm(join(list(whole - part)), 2) for part in kept]) / np.linalg.norm(weight, 2)
    assert np.all(errors >= exact - 1e-12)
    points = grid(ranks)
    np.testing.assert_allclose(errors[points], exact[points], rtol=0, atol=1e-9)


@given(maximum=st.integers(1, 5000))
def test_the_grid_is_small_and_has_both_ends_and_rank_one(maximum: int) -> None:
    points = grid(maximum)
    assert len(points) <= GRID
    assert np.all(np.diff(points) > 0)
    assert {0, 1, maximum} <= set(points.tolist())


@pytest.mark.parametrize("metric", NORMS)
def test_a_weight_of_zeros_has_no_error(metric: Metric) -> None:
    moment = np.eye(6) if metric == "whitened" else None
    np.testing.assert_array_equal(error_curve(np.zeros((4, 6)), Scheme(0, "input", 2), metric, moment), 0)


def test_the_whitened_metric_needs_a_moment() -> None:
    with pytest.raises(ValueError, match="'whitened' needs the second moment"):
        error_curve(np.ones((4, 6)), Scheme(), "whitened")
