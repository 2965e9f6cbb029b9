"""Spectra: the Gram route gives what the singular value decomposition gives."""

from __future__ import annotations

import numpy as np
import pytest
from lissom.lowrank.foldings import SIDES, Scheme, divisors, fold, foldings_of, slices
from lissom.lowrank.spectra import spectrum


@pytest.mark.parametrize("shape", [(6, 4), (3, 16, 3), (6, 8, 3, 2), (16, 2, 3, 3), (4, 6, 2, 3, 2)])
def test_the_spectrum_of_every_slice_is_its_singular_values(shape: tuple[int, ...]) -> None:
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    for folding in foldings_of(shape[2:]):
        for side in SIDES:
            for groups in divisors(shape[1] if side == "input" else shape[0]):
                parts = slices(fold(weight.astype(np.float64), folding), side, groups)
                wanted = np.linalg.svd(parts, compute_uv=False)
                got = spectrum(weight, Scheme(folding, side, groups))
                assert got.shape == wanted.shape
                np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-7)


def test_both_sides_have_the_same_spectrum_without_groups() -> None:
    weight = np.random.default_rng(2).standard_normal((5, 7, 3, 3))
    np.testing.assert_array_equal(spectrum(weight, Scheme(1, "input")), spectrum(weight, Scheme(1, "output")))


def test_a_weight_of_low_rank_has_no_negative_and_no_nan_singular_values() -> None:
    rng = np.random.default_rng(3)
    weight = (rng.standard_normal((20, 2)) @ rng.standard_normal((2, 30))).astype(np.float32)
    sigma = spectrum(weight, Scheme())[0]
    assert np.all(np.diff(sigma) <= 0)
    assert np.all(sigma >= 0)
    assert np.all(sigma[2:] < 1e-6 * sigma[0])
