"""CP chains: planted terms found, no round worse than the one before, fitted outputs, and exact surgery."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from graph.onnx_text import floats, model, run
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom import applying
from lissom.cp.apply import approximate
from lissom.cp.factors import RIDGE, Terms, cp
from lissom.cp.propose import STEPS, WORK, convolutions, ladders
from lissom.graph.geometry import Geometry
from lissom.recipe import Recipe, read_recipe
from passes.surgery_cases import CONV, CONVOLUTIONS, moment_of, plan_of, random_outputs, relative_error, study_of

METRICS = ["frobenius", "whitened"]
GEOMETRY = Geometry(12, 8, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "NOTSET", (8, 8), (4, 4))


def error(weight: np.ndarray, found: Terms, moment: np.ndarray | None = None) -> float:
    """The relative error of the weight that is meant, or of the layer's output."""
    return relative_error(weight, found.dense(), moment)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """A weight of any number of kernel axes, and a rank."""
    kernel = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    shape = draw(st.integers(1, 6)), draw(st.integers(1, 6)), *kernel
    return floats(draw(st.integers(0, 99)), *shape), draw(st.integers(1, 8))


def planted(seed: int, f: int, c: int, terms: int) -> np.ndarray:
    """A weight[f, c, 3, 3] that is a sum of few terms."""
    rng = np.random.default_rng(seed)
    made = Terms(*(rng.standard_normal((extent, terms)) for extent in (f, 9, c)))
    return made.dense().reshape(f, c, 3, 3)


@pytest.mark.parametrize("seed", range(5))
def test_planted_terms_are_found(seed: int) -> None:
    """With twice as many terms as there are, so that no start is a bad one."""
    weight = planted(seed, 12, 10, 3)
    assert error(weight, cp(weight, 6, rounds=500)) < 0.02
    assert error(weight, cp(weight, 2)) > 0.05


@settings(max_examples=40)
@given(case=cases())
def test_the_weight_is_the_sum_of_even_terms(case: tuple[np.ndarray, int]) -> None:
    weight, rank = case
    found = cp(weight, rank)
    np.testing.assert_allclose(found.dense(), np.einsum("fr,kr,cr->fck", *found).reshape(len(weight), -1), atol=1e-9)
    assert found.out.shape == (len(weight), rank)
    lengths = [np.linalg.norm(factor, axis=0) for factor in found]
    np.testing.assert_allclose(lengths[0], lengths[1], atol=1e-9)
    np.testing.assert_allclose(lengths[0], lengths[2], atol=1e-9)


@settings(max_examples=40)
@given(case=cases(), rounds=st.integers(1, 12))
def test_more_rounds_are_never_worse(case: tuple[np.ndarray, int], rounds: int) -> None:
    weight, rank = case
    fewer, more = (error(weight, cp(weight, rank, rounds=n)) for n in (rounds, rounds + 1))
    assert more <= fewer + 1e-4
    assert more <= 1 + 1e-6


def test_one_term_of_a_matrix_is_its_leading_singular_pair() -> None:
    weight = floats(0, 7, 5, 1)
    sigma = np.linalg.svd(weight[:, :, 0].astype(np.float64), compute_uv=False)
    wanted = np.linalg.norm(sigma[1:]) / np.linalg.norm(sigma)
    assert error(weight, cp(weight, 1, rounds=500)) == pytest.approx(wanted, abs=1e-3)


@settings(max_examples=40)
@given(case=cases(), rows=st.sampled_from([3, 200]))
def test_what_is_fitted_under_the_moment_is_never_worse_there(case: tuple[np.ndarray, int], rows: int) -> None:
    weight, rank = case
    moment = moment_of(weight[0].size, rows)
    plain, better = (cp(weight, rank, m) for m in (None, moment))
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    ridge = RIDGE * np.trace(moment) / len(moment) * (flat**2).sum() / np.trace(flat @ moment @ flat.T)
    assert error(weight, better, moment) ** 2 <= error(weight, plain, moment) ** 2 + ridge + 1e-6


def test_the_fit_under_the_moment_is_the_least_squares_solution() -> None:
    weight, moment = floats(0, 8, 5, 3, 3), moment_of(45)
    plain, found = cp(weight, 6), cp(weight, 6, moment)
    rows = plain.rows()
    best = np.linalg.lstsq(np.linalg.cholesky(moment).T @ rows, (weight.reshape(8, -1) @ np.linalg.cholesky(moment)).T)
    wanted = relative_error(weight, best[0].T @ rows.T, moment)
    assert error(weight, found, moment) == pytest.approx(wanted, rel=1e-3)
    assert wanted < error(weight, plain, moment)


def test_a_moment_of_zeros_changes_nothing_and_one_of_another_size_is_refused() -> None:
    weight = floats(0, 8, 5, 3, 3)
    np.testing.assert_array_equal(cp(weight, 4).dense(), cp(weight, 4, np.zeros((45, 45))).dense())
    with pytest.raises(ValueError, match="expected a moment of shape"):
        cp(weight, 4, np.eye(5))


@pytest.mark.parametrize("metric", METRICS)
def test_every_step_has_its_true_cost_and_errors_fall(metric: str) -> None:
    weight = floats(0, 12, 8, 3, 3)
    moment = moment_of(72) if metric == "whitened" else None
    (found,) = ladders("a", weight, GEOMETRY, metric, moment)
    assert 1 < len(found) <= STEPS
    np.testing.assert_array_equal(found.params, found.steps * (8 + 9 + 12))
    np.testing.assert_array_equal(found.bytes, 4 * found.params)
    np.testing.assert_array_equal(found.macs, found.steps * (64 * 8 + 16 * (9 + 12)))
    assert np.all(np.diff(found.error) <= 0)
    for rank, promised in zip(found.steps, found.error, strict=True):
        assert error(weight, cp(weight, int(rank), moment), moment) <= promised + 1e-9
        assert found.params[-1] < GEOMETRY.weight_size or found.macs[-1] < GEOMETRY.macs


def test_ranks_are_multiples_and_not_beyond_what_a_fit_may_take() -> None:
    weight = floats(0, 12, 8, 3, 3)
    (found,) = ladders("a", weight, GEOMETRY, "frobenius", rank_multiple=4)
    assert set(found.steps % 4) == {0}
    large = replace(GEOMETRY, out_channels=4096, in_channels=16384)
    assert 2 * large.weight_size > WORK
    assert ladders("a", np.ones((1, 1, 1, 1)), large, "frobenius") == []


def test_matrices_and_zeros_are_offered_nothing() -> None:
    point = replace(GEOMETRY, kernel_shape=(1, 1), pads=(0, 0, 0, 0))
    assert ladders("a", floats(0, 8, 6), Geometry(8, 6), "frobenius") == []
    assert ladders("a", floats(0, 12, 8, 1, 1), point, "frobenius") == []
    assert ladders("a", np.zeros((12, 8, 3, 3)), GEOMETRY, "frobenius") == []


def test_the_whitened_metric_needs_a_moment() -> None:
    with pytest.raises(ValueError, match="'whitened' needs the second moment"):
        ladders("a", floats(0, 12, 8, 3, 3), GEOMETRY, "whitened")


def only_cp(**words: Any) -> Recipe:
    return Recipe.model_validate({"name": "mine", "low_rank": {"enabled": False}, "cp": {"enabled": True, **words}})


@pytest.mark.ort
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attributes", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_the_chain_computes_the_weight_that_it_means(attributes: str, bias: bool) -> None:
    constants = {"b": floats(1, 9)} if bias else {}
    weight = floats(0, 9, 6, 3, 3)
    text = CONV.format(c=6, f=9, attributes=attributes, b=", b" if bias else "")
    study = study_of(model(text, w=weight, **constants), (2, 6, 9, 7), only_cp())
    plan = plan_of(study, rank=5)
    candidate, (layer,) = applying.apply(study, plan), study.canonical.layers
    assert [node.op for node in candidate.model.graph.nodes] == ["Conv"] * 3
    dense = approximate(layer, plan.options[layer.name].parameters, None)
    assert 0.05 < relative_error(weight, dense) < 1
    feeds = {"x": floats(8, 2, 6, 9, 7)}
    wanted = run(model(text, w=dense, **constants), feeds)[0]
    np.testing.assert_allclose(run(candidate.model, feeds)[0], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.ort
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kernel", [(3,), (3, 1), (2, 3, 2)])
def test_kernels_of_other_ranks_have_their_true_sizes(kernel: tuple[int, ...], metric: str) -> None:
    dims, out = ", ".join(["5"] * len(kernel)), ", ".join("HWD"[: len(kernel)])
    text = f"net (float[N, 6, {dims}] x) => (float[N, 8, {out}] y) {{ y = Conv (x, w, b) }}"
    study = study_of(
        model(text, w=floats(0, 8, 6, *kernel), b=floats(1, 8)), (2, 6, *(5,) * len(kernel)), only_cp(metric=metric)
    )
    candidate, (layer,) = applying.apply(study, plan_of(study, rank=2)), study.canonical.layers
    assert candidate.max_difference < 1e-4
    assert candidate.totals.params == 2 * (6 + layer.geometry.taps + 8) + 8
    assert candidate.totals.macs == sum(factor.macs for factor in convolutions(layer.geometry, 2))


@pytest.mark.ort
def test_random_chains_run() -> None:
    text = CONV.format(c=8, f=10, attributes="pads = [1, 1, 1, 1]", b=", b")
    study = study_of(model(text, w=floats(0, 10, 8, 3, 3), b=floats(1, 10)), (1, 8, 9, 7), only_cp())
    assert np.isfinite(random_outputs(study, plan_of(study, rank=4))).all()


def test_the_preset_offers_chains_alone() -> None:
    recipe = read_recipe("cp")
    assert (recipe.low_rank.enabled, recipe.cp.enabled, recipe.metric) == (False, True, "frobenius")
