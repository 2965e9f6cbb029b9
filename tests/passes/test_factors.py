"""Factors: a pair of full rank is the layer, and a shorter one is the best of its kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom.lowrank.factors import factors, recompose, terms
from lissom.lowrank.foldings import SIDES, Scheme, Side, divisors, fold, foldings_of, slices

SHAPES = [(6, 4), (6, 4, 3), (6, 8, 3, 2), (4, 6, 1, 3), (4, 6, 2, 3, 2), (12, 2, 1, 1)]


def random_weight(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def random_moment(columns: int, samples: int) -> np.ndarray:
    """Second moment of `samples` correlated patches of unequal scale."""
    rng = np.random.default_rng(columns)
    patches = rng.standard_normal((samples, columns)) @ rng.standard_normal((columns, columns))
    patches *= np.exp(rng.standard_normal(columns))
    return patches.T @ patches / samples


def every_scheme(shape: tuple[int, ...]) -> list[Scheme]:
    return [
        Scheme(folding, side, groups)
        for folding in foldings_of(shape[2:])
        for side in SIDES
        for groups in divisors(shape[1] if side == "input" else shape[0])
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_full_rank_factors_recompose_to_the_weight(shape: tuple[int, ...]) -> None:
    weight = random_weight(shape)
    for scheme in every_scheme(shape):
        rank = terms(weight, scheme).scale.shape[1]
        dense = recompose(*factors(weight, scheme, rank), scheme.side, scheme.groups)
        np.testing.assert_allclose(dense, weight, atol=2e-5, err_msg=str(scheme))


@pytest.mark.parametrize("shape", SHAPES)
def test_terms_are_orthonormal_on_the_left_and_add_up_to_the_slices(shape: tuple[int, ...]) -> None:
    weight = random_weight(shape)
    moment = random_moment(weight[0].size, 3)
    for scheme in every_scheme(shape):
        for given_moment in (None, moment) if scheme.folding == 0 else (None,):
            left, scale, right = terms(weight, scheme, given_moment)
            parts = slices(fold(weight, scheme.folding), scheme.side, scheme.groups)
            np.testing.assert_allclose((left * scale[:, None]) @ right, parts, atol=1e-12)
            np.testing.assert_allclose(left.swapaxes(1, 2) @ left - np.eye(left.shape[2]), 0, atol=1e-12)


@pytest.mark.parametrize("samples", [3, 200])
@pytest.mark.parametrize("shape", SHAPES)
def test_factors_of_full_rank_under_a_moment_recompose_to_the_weight(shape: tuple[int, ...], samples: int) -> None:
    """Also under a singular one, where a fit alone would leave the unseen part of the weight open."""
    weight = random_weight(shape)
    moment = random_moment(weight[0].size, samples)
    for scheme in every_scheme(shape):
        rank = terms(weight, scheme).scale.shape[1]
        dense = recompose(*factors(weight, scheme, rank, moment), scheme.side, scheme.groups)
        np.testing.assert_allclose(dense, weight, atol=2e-5, err_msg=str(scheme))


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("samples", [3, 100])
def test_whitened_slices_have_the_least_possible_whitened_error(side: Side, samples: int) -> None:
    """The optimum of rank j is the tail of the singular values of W_i Σ^{1/2}, also for a singular Σ."""
    weight = random_weight((6, 4, 3))
    moment = random_moment(12, samples)
    scheme = Scheme(0, side, 2)
    left, scale, right = terms(weight, scheme, moment)
    parts = slices(fold(weight.astype(np.float64), 0), side, 2)
    for i in range(2):
        seen = moment if side == "output" else moment[6 * i : 6 * i + 6, 6 * i : 6 * i + 6]
        values, vectors = np.linalg.eigh(seen)
        root = vectors * np.sqrt(np.maximum(values, 0))
        optimum = np.linalg.svd(parts[i] @ root, compute_uv=False)
        for rank in range(scale.shape[1]):
            residual = parts[i] - (left[i, :, :rank] * scale[i, :rank]) @ right[i, :rank]
            error = np.sqrt(max(np.trace(residual @ seen @ residual.T), 0))
            assert error == pytest.approx(np.linalg.norm(optimum[rank:]), abs=1e-6 * optimum[0])


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_energy_that_one_group_discards_is_the_output_error_and_of_more_only_the_full_moment_gives_it(
    groups: int,
) -> None:
    """E‖(W − Ŵ) x‖² over the rows of the moment: slices of the inputs correlate, so their energies do not add up."""
    rng = np.random.default_rng(groups)
    weight = random_weight((6, 8, 3))
    patches = rng.standard_normal((200, 24)) @ rng.standard_normal((24, 24)) + 1
    moment = patches.T @ patches / len(patches)
    scheme = Scheme(0, "input", groups)
    for rank in range(1, terms(weight, scheme).scale.shape[1]):
        dense = recompose(*factors(weight, scheme, rank, moment), "input", groups)
        missing = (weight.astype(np.float64) - dense).reshape(6, 24)
        measured = float(((patches @ missing.T) ** 2).sum(axis=1).mean())
        discarded, width = 0.0, 24 // groups
        for first in range(0, 24, width):
            columns = slice(first, first + width)
            own = np.linalg.cholesky(moment[columns, columns])
            sigma = np.linalg.svd(weight.reshape(6, 24)[:, columns].astype(np.float64) @ own, compute_uv=False)
            discarded += float((sigma[rank:] ** 2).sum())
        assert float(np.trace(missing @ moment @ missing.T)) == pytest.approx(measured, rel=1e-9)
        assert (discarded == pytest.approx(measured, rel=1e-4)) == (groups == 1)


def test_whitening_helps_where_it_is_measured_and_nowhere_else() -> None:
    weight = random_weight((6, 8, 3, 2))
    moment = random_moment(48, 200)
    scheme = Scheme(0, "output", 2)

    def residual(given_moment: np.ndarray | None) -> np.ndarray:
        pair = factors(weight, scheme, 1, given_moment)
        return (weight - recompose(*pair, "output", 2)).reshape(6, -1).astype(np.float64)

    plain, whitened = residual(None), residual(moment)
    assert np.trace(whitened @ moment @ whitened.T) < 0.99 * np.trace(plain @ moment @ plain.T)
    assert np.linalg.norm(plain) < 0.99 * np.linalg.norm(whitened)


@pytest.mark.parametrize("folding", [1, 2, 3])
def test_a_moment_lowers_the_error_of_one_group_and_leaves_more_groups_plain(folding: int) -> None:
    weight, moment = random_weight((6, 8, 3, 2)), random_moment(48, 200)

    def error(scheme: Scheme, given_moment: np.ndarray | None) -> float:
        pair = factors(weight, scheme, 2, given_moment)
        residual = (weight - recompose(*pair, scheme.side, scheme.groups)).reshape(6, -1).astype(np.float64)
        return float(np.trace(residual @ moment @ residual.T))

    assert error(Scheme(folding), moment) < 0.95 * error(Scheme(folding), None)
    for side in SIDES:
        assert error(Scheme(folding, side, 2), moment) == error(Scheme(folding, side, 2), None)


@given(scale=st.floats(1e-3, 1e3), fitted=st.booleans())
def test_both_factors_carry_the_same_scale(scale: float, fitted: bool) -> None:
    weight = random_weight((6, 8, 3, 2)) * np.float32(scale)
    if fitted:
        encoder, decoder = factors(weight, Scheme(1), 8, random_moment(48, 200))
    else:
        encoder, decoder = factors(weight, Scheme(0, "input", 4), 2)
    rows = np.linalg.norm(encoder.reshape(8, -1), axis=1)
    columns = np.linalg.norm(decoder.swapaxes(0, 1).reshape(8, -1), axis=1)
    np.testing.assert_allclose(rows, columns, rtol=1e-5)


def test_a_rank_outside_the_range_is_refused() -> None:
    for rank in (0, 5):
        with pytest.raises(ValueError, match=f"expected a rank in 1 .. 4, got {rank}"):
            factors(random_weight((6, 4)), Scheme(), rank)
        with pytest.raises(ValueError, match=f"expected a rank in 1 .. 4, got {rank}"):
            factors(random_weight((6, 4, 3)), Scheme(3), rank, np.eye(12))


def test_a_moment_that_does_not_fit_is_refused() -> None:
    weight = random_weight((6, 4, 3))
    for scheme in (Scheme(), Scheme(3), Scheme(3, "input", 2)):
        with pytest.raises(ValueError, match=r"expected a moment of shape \(12, 12\), got \(4, 4\)"):
            factors(weight, scheme, 1, np.eye(4))
    with pytest.raises(ValueError, match="whitened terms need folding 0, got folding 3"):
        terms(weight, Scheme(3), np.eye(12))


def test_factors_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="the encoder has 3 output channels, the decoder takes 2"):
        recompose(np.zeros((3, 4)), np.zeros((6, 2)), "input", 1)
