"""Alternating fit: the error that it states is measured on data, never above the plain pair's, never rising."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom.lowrank import alternating
from lissom.lowrank.alternating import ROUNDS, Fitting, fitted_errors
from lissom.lowrank.factors import factors, recompose
from lissom.lowrank.foldings import SIDES, Scheme, foldings_of, unfold

SHAPES = [(6, 4, 3), (6, 8, 3, 2), (4, 6, 2, 3, 2), (5, 7, 1, 3), (9, 3, 3, 3)]
CASES = [(shape, folding) for shape in SHAPES for folding in foldings_of(shape[2:]) if folding]
ROUNDING = 1e-9  # of the squared error of rank 0


@cache
def random_weight(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@cache
def random_patches(columns: int, samples: int) -> np.ndarray:
    """Correlated patches[samples, columns] of unequal scale about a mean that is not 0."""
    rng = np.random.default_rng(columns + samples)
    patches = rng.standard_normal((samples, columns)) * np.exp(rng.standard_normal(columns)) + 1
    patches[:, 1:] += patches[:, :-1]
    return patches


def random_moment(columns: int, samples: int) -> np.ndarray:
    patches = random_patches(columns, samples)
    return patches.T @ patches / samples


def squared_error(weight: np.ndarray, dense: np.ndarray, moment: np.ndarray) -> float:
    residual = (weight.astype(np.float64) - dense).reshape(len(weight), -1)
    return float(np.trace(residual @ moment @ residual.T))


@pytest.mark.parametrize("samples", [4, 300])
@pytest.mark.parametrize(("shape", "folding"), CASES)
def test_the_stated_error_is_the_mean_squared_output_error_on_the_rows_of_the_moment(
    shape: tuple[int, ...], folding: int, samples: int
) -> None:
    weight = random_weight(shape)
    patches = random_patches(weight[0].size, samples)
    fitting = Fitting(weight, folding, random_moment(weight[0].size, samples))
    for rank in {1, fitting.useful, fitting.max_rank}:
        pair = fitting.pair(rank)
        dense = unfold(pair.decoder @ pair.encoder, folding, shape)
        outputs = patches @ (weight - dense).reshape(len(weight), -1).T
        measured = (outputs**2).sum(axis=1).mean()
        assert pair.squared_error == pytest.approx(measured, rel=1e-6, abs=ROUNDING * fitting.energy)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("folding", [0, 1, 2, 3])
def test_the_moment_gives_the_output_error_of_grouped_pairs_too(folding: int, side: str) -> None:
    """Slices see the full moment together, whatever part of it a slice was fitted to."""
    weight, patches, moment = random_weight((6, 8, 3, 2)), random_patches(48, 300), random_moment(48, 300)
    scheme = Scheme(folding, side, 2)
    dense = recompose(*factors(weight, scheme, 2, moment), side, 2).astype(np.float64)
    outputs = patches @ (weight - dense).reshape(6, -1).T
    assert squared_error(weight, dense, moment) == pytest.approx((outputs**2).sum(axis=1).mean(), rel=1e-9)


@pytest.mark.parametrize("samples", [1, 4, 300])
@pytest.mark.parametrize(("shape", "folding"), CASES)
def test_the_fitted_pair_is_never_worse_than_the_plain_one(shape: tuple[int, ...], folding: int, samples: int) -> None:
    weight, moment = random_weight(shape), random_moment(int(np.prod(shape[1:])), samples)
    fitting = Fitting(weight, folding, moment)
    for rank in range(1, fitting.max_rank + 1):
        plain = recompose(*factors(weight, Scheme(folding), rank), "input", 1)
        bound = squared_error(weight, plain, moment) + 1e-8 * fitting.energy
        assert fitting.pair(rank, rounds=1).squared_error <= bound


@pytest.mark.parametrize(("shape", "folding"), CASES)
def test_the_error_never_rises_with_the_rounds_and_falls_with_the_second(shape: tuple[int, ...], folding: int) -> None:
    fitting = Fitting(random_weight(shape), folding, random_moment(int(np.prod(shape[1:])), 300))
    for rank in {1, fitting.useful}:
        errors = [fitting.pair(rank, rounds, gain=0).squared_error for rounds in range(1, ROUNDS + 3)]
        assert np.all(np.diff(errors) <= 0)
        assert errors[1] < errors[0] or rank == fitting.max_rank


@pytest.mark.parametrize(("shape", "folding"), CASES)
def test_many_rounds_come_to_where_no_small_change_of_a_factor_helps(shape: tuple[int, ...], folding: int) -> None:
    weight, moment = random_weight(shape), random_moment(int(np.prod(shape[1:])), 300)
    fitting = Fitting(weight, folding, moment)
    pair = fitting.pair(fitting.useful, rounds=500, gain=0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        decoder = pair.decoder * (1 + 1e-3 * rng.standard_normal(pair.decoder.shape))
        encoder = pair.encoder * (1 + 1e-3 * rng.standard_normal(pair.encoder.shape))
        for other in (decoder @ pair.encoder, pair.decoder @ encoder):
            changed = squared_error(weight, unfold(other, folding, shape), moment)
            assert changed >= pair.squared_error * (1 - 1e-5) - ROUNDING * fitting.energy


def test_uncorrelated_taps_of_equal_scale_have_the_closed_form() -> None:
    """M_de = 0 for d ≠ e and M_dd = S: the error is that of the folded matrix through S, whose optimum is a tail."""
    weight = random_weight((6, 8, 3))
    own = random_moment(8, 50)
    moment = np.einsum("cd,kl->ckdl", own, np.eye(3)).reshape(24, 24)
    matrix = weight.astype(np.float64).transpose(0, 2, 1).reshape(18, 8)
    tail = np.cumsum(np.linalg.eigvalsh(matrix @ own @ matrix.T)[-8:])[::-1]
    fitting = Fitting(weight, 3, moment)
    for rank in range(1, 8):
        assert fitting.pair(rank).squared_error == pytest.approx(tail[rank], rel=1e-6)


@settings(deadline=None)
@given(factor=st.floats(1e-4, 1e4), seed=st.integers(0, 20))
def test_the_scale_of_the_moment_does_not_matter(factor: float, seed: int) -> None:
    weight, moment = random_weight((6, 8, 3, 2)), random_moment(48, 20 + seed)
    one, other = (Fitting(weight, 1, scale * moment).pair(4) for scale in (1.0, factor))
    np.testing.assert_allclose(other.decoder @ other.encoder, one.decoder @ one.encoder, atol=1e-5)


def test_a_moment_of_zero_leaves_the_plain_pair() -> None:
    weight = random_weight((6, 8, 3, 2))
    pair = Fitting(weight, 1, np.zeros((48, 48))).pair(4)
    plain = recompose(*factors(weight, Scheme(1), 4), "input", 1)
    np.testing.assert_allclose(unfold(pair.decoder @ pair.encoder, 1, weight.shape), plain, atol=1e-5)
    assert pair.squared_error == 0


@pytest.mark.parametrize("folding", [1, 2, 3])
def test_a_moment_that_does_not_see_what_the_plain_pair_keeps_is_fitted_all_the_same(folding: int) -> None:
    weight = np.zeros((4, 4, 3, 3))
    weight[0, 0], weight[1, 1] = 100.0, 1.0
    patches = np.zeros((2, 36))
    patches[:, 9:18] = np.random.default_rng(0).standard_normal((2, 9))
    moment = patches.T @ patches / 2
    fitting = Fitting(weight, folding, moment)
    assert fitting.pair(1).squared_error < 1e-8 * fitting.energy
    assert fitted_errors(weight, folding, moment)[1] < 1e-8 * fitting.energy


def test_a_weight_of_zero_has_a_pair_of_zeros() -> None:
    pair = Fitting(np.zeros((6, 8, 3, 2)), 1, random_moment(48, 100)).pair(4)
    np.testing.assert_array_equal(pair.decoder @ pair.encoder, 0)


@pytest.mark.parametrize("samples", [4, 300])
@pytest.mark.parametrize(("shape", "folding"), CASES)
def test_the_curve_is_exact_on_its_grid_and_for_rank_zero_and_not_below_nothing(
    shape: tuple[int, ...], folding: int, samples: int
) -> None:
    weight, moment = random_weight(shape), random_moment(int(np.prod(shape[1:])), samples)
    fitting = Fitting(weight, folding, moment)
    errors = fitted_errors(weight, folding, moment)
    assert len(errors) == fitting.max_rank + 1
    assert errors[0] == pytest.approx(fitting.energy)
    assert errors[-1] == 0
    assert np.all(errors >= 0)
    for rank in fitting.grid():
        if rank < fitting.max_rank:
            got, wanted = errors[rank], fitting.pair(rank).squared_error
            assert got == pytest.approx(wanted, rel=1e-6, abs=1e-8 * fitting.energy)


@pytest.mark.parametrize(("shape", "folding"), CASES)
def test_the_first_round_is_known_for_all_ranks_at_once(shape: tuple[int, ...], folding: int) -> None:
    fitting = Fitting(random_weight(shape), folding, random_moment(int(np.prod(shape[1:])), 300))
    at_once = fitting.first_round()
    one_by_one = [fitting.pair(rank, rounds=1).squared_error for rank in range(1, fitting.useful + 1)]
    np.testing.assert_allclose(at_once[1:], one_by_one, rtol=1e-6, atol=1e-8 * fitting.energy)
    assert np.all(np.diff(at_once) <= 0)


def test_two_fits_are_identical() -> None:
    weight, moment = random_weight((6, 8, 3, 2)), random_moment(48, 100)
    one, other = (factors(weight, Scheme(2), 5, moment) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("samples", [1, 4, 300])
@pytest.mark.parametrize(("shape", "folding"), CASES)
def test_products_in_float32_are_near_those_in_float64(
    shape: tuple[int, ...], folding: int, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, moment = random_weight(shape), random_moment(int(np.prod(shape[1:])), samples)
    exact = Fitting(weight, folding, moment)
    monkeypatch.setattr(alternating, "SINGLE", 1)
    single = Fitting(weight, folding, moment)
    for rank in range(1, exact.max_rank + 1):
        wanted, pair = exact.pair(rank), single.pair(rank)
        assert pair.seen.dtype == np.float32
        assert pair.decoder.dtype == pair.encoder.dtype == np.float64
        dense = unfold(pair.decoder @ pair.encoder, folding, shape)
        measured = squared_error(weight, dense, moment)
        assert measured <= wanted.squared_error * 1.02 + 1e-3 * exact.energy
        assert pair.squared_error == pytest.approx(measured, rel=1e-2, abs=1e-5 * exact.energy)


def test_layers_of_many_columns_are_fitted_in_float32_and_others_are_not() -> None:
    narrow, wide = (Fitting(np.ones((2, channels, 3, 3)), 3, np.eye(9 * channels)) for channels in (113, 114))
    assert [fitting.pair(1).seen.dtype for fitting in (narrow, wide)] == [np.float64, np.float32]


@pytest.mark.parametrize(("shape", "folding"), CASES)
def test_what_a_pair_knows_of_the_moment_belongs_to_its_encoder(shape: tuple[int, ...], folding: int) -> None:
    """It is carried along from step to step instead of being computed anew."""
    fitting = Fitting(random_weight(shape), folding, random_moment(int(np.prod(shape[1:])), 300))
    pair = fitting.pair(fitting.useful, rounds=5, gain=0)
    anew = fitting._through(pair.encoder)
    np.testing.assert_allclose(pair.seen, anew, rtol=1e-9, atol=1e-9 * np.abs(anew).max())
