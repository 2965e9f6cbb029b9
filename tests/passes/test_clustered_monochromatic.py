"""Monochromatic stems: one colour a filter is each filter's best, few colours lose more, and surgery is exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from graph.onnx_text import floats, model, run
from hypothesis import given
from hypothesis import strategies as st
from lissom import applying
from lissom.clustered.monochromatic.apply import approximate
from lissom.clustered.monochromatic.factors import RIDGE, Stem, convolutions, stem
from lissom.clustered.monochromatic.propose import ladders
from lissom.graph.geometry import Geometry
from lissom.recipe import Recipe, read_recipe
from passes.surgery_cases import CONV, CONVOLUTIONS, moment_of, plan_of, random_outputs, relative_error, study_of

METRICS = ["frobenius", "whitened"]
GEOMETRY = Geometry(12, 3, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "NOTSET", (8, 8), (4, 4))


def error(weight: np.ndarray, found: Stem, moment: np.ndarray | None = None) -> float:
    """The relative error of the weight that is meant, or of the layer's output."""
    return relative_error(weight, found.dense(), moment)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """A stem of any number of kernel axes, and a number of colours."""
    colours = draw(st.integers(1, 4))
    kernel = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    shape = colours * draw(st.integers(1, 3)), draw(st.integers(2, 4)), *kernel
    return floats(draw(st.integers(0, 99)), *shape), colours


def of_one_colour(filters: int, colours: int, seed: int) -> np.ndarray:
    """A weight[filters, 3, 3, 3] whose filters look at `colours` mixtures, in random order."""
    rng = np.random.default_rng(seed)
    mixtures = rng.standard_normal((colours, 3))[rng.permutation(filters) % colours]
    return np.einsum("fc,fhw->fchw", mixtures, rng.standard_normal((filters, 3, 3)))


@pytest.mark.parametrize("colours", [1, 2, 4, 12])
@pytest.mark.parametrize("seed", range(3))
def test_filters_of_few_colours_are_found_exactly(colours: int, seed: int) -> None:
    weight = of_one_colour(12, colours, seed)
    found = stem(weight, colours)
    assert error(weight, found) < 1e-6
    assert found.encoder.shape == (colours, 3, 1, 1)
    assert found.decoder.shape == (12, 1, 3, 3)


@given(case=cases())
def test_one_colour_a_filter_is_the_best_of_rank_one_for_each(case: tuple[np.ndarray, int]) -> None:
    weight, _ = case
    sigma = [np.linalg.svd(w.reshape(len(w), -1).astype(np.float64), compute_uv=False) for w in weight]
    lost = sum((s[1:] ** 2).sum() for s in sigma)
    found = stem(weight, len(weight))
    assert error(weight, found) ** 2 == pytest.approx(lost / (weight.astype(np.float64) ** 2).sum(), abs=1e-5)


@given(case=cases())
def test_one_colour_for_all_is_the_leading_direction_of_the_colours(case: tuple[np.ndarray, int]) -> None:
    weight, _ = case
    colours = np.moveaxis(weight, 1, 0).reshape(weight.shape[1], -1).astype(np.float64)
    sigma = np.linalg.svd(colours, compute_uv=False)
    assert error(weight, stem(weight, 1)) ** 2 == pytest.approx((sigma[1:] ** 2).sum() / (sigma**2).sum(), abs=1e-5)


@given(case=cases(), metric=st.sampled_from(METRICS))
def test_filters_share_the_colours_evenly(case: tuple[np.ndarray, int], metric: str) -> None:
    weight, colours = case
    moment = moment_of(weight[0].size) if metric == "whitened" else None
    found, again = (stem(weight, colours, moment) for _ in range(2))
    assert sorted(found.order) == list(range(len(weight)))
    np.testing.assert_array_equal(found.order, again.order)
    size = len(weight) // colours
    for place, number in enumerate(found.order):
        mixture, kernel = found.encoder[place // size].reshape(-1), found.decoder[place, 0]
        np.testing.assert_allclose(found.dense()[number], np.multiply.outer(mixture, kernel), rtol=1e-4, atol=1e-5)


@given(case=cases(), rows=st.sampled_from([3, 200]))
def test_kernels_fitted_under_the_moment_are_never_worse_there(case: tuple[np.ndarray, int], rows: int) -> None:
    weight, colours = case
    moment = moment_of(weight[0].size, rows)
    plain, better = (stem(weight, colours, m) for m in (None, moment))
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    ridge = RIDGE * np.trace(moment) / len(moment) * (flat**2).sum() / np.trace(flat @ moment @ flat.T)
    assert error(weight, better, moment) ** 2 <= error(weight, plain, moment) ** 2 + ridge + 1e-5
    np.testing.assert_array_equal(plain.encoder, better.encoder)


def test_a_moment_of_zeros_changes_nothing_and_one_of_another_size_is_refused() -> None:
    weight = floats(0, 12, 3, 3, 3)
    np.testing.assert_array_equal(stem(weight, 4).dense(), stem(weight, 4, np.zeros((27, 27))).dense())
    with pytest.raises(ValueError, match="expected a moment of shape"):
        stem(weight, 4, np.eye(5))


def test_colours_that_do_not_divide_the_filters_are_refused() -> None:
    with pytest.raises(ValueError, match="5 clusters do not divide 12 items"):
        stem(floats(0, 12, 3, 3, 3), 5)


@pytest.mark.parametrize("metric", METRICS)
def test_every_step_has_its_true_cost_and_errors_fall(metric: str) -> None:
    weight = floats(0, 12, 3, 3, 3)
    moment = moment_of(27) if metric == "whitened" else None
    (found,) = ladders("a", weight, GEOMETRY, metric, moment)
    assert list(found.steps) == [1, 2, 3, 4, 6, 12]
    np.testing.assert_array_equal(found.params, 3 * found.steps + 108)
    np.testing.assert_array_equal(found.macs, 64 * 3 * found.steps + 16 * 108)
    np.testing.assert_array_equal(found.bytes, 4 * found.params + 8 * 12)
    assert np.all(np.diff(found.error) <= 0)
    for step, promised in zip(found.steps, found.error, strict=True):
        real = relative_error(weight, stem(weight, int(step), moment).dense(), moment)
        assert real <= promised + 1e-6


def test_colours_that_cost_more_than_the_layer_are_left_out() -> None:
    """Of 2 input channels and 2 taps one colour a filter costs as much as the layer."""
    narrow = replace(GEOMETRY, in_channels=2, kernel_shape=(1, 2), strides=(1, 1), in_spatial=(4, 4))
    (found,) = ladders("a", floats(0, 12, 2, 1, 2), narrow, "frobenius")
    assert list(found.steps) == [1, 2, 3, 4, 6]


def test_layers_without_colours_are_offered_nothing() -> None:
    for channels in (1, 5):
        geometry = replace(GEOMETRY, in_channels=channels)
        assert ladders("a", floats(0, 12, channels, 3, 3), geometry, "frobenius") == []
    point = replace(GEOMETRY, kernel_shape=(1, 1), pads=(0, 0, 0, 0))
    assert ladders("a", floats(0, 12, 3, 1, 1), point, "frobenius") == []
    assert ladders("a", np.zeros((12, 3, 3, 3)), GEOMETRY, "frobenius") == []
    assert ladders("a", floats(0, 12, 3), Geometry(12, 3), "frobenius") == []


def test_the_whitened_metric_needs_a_moment() -> None:
    with pytest.raises(ValueError, match="'whitened' needs the second moment"):
        ladders("a", floats(0, 12, 3, 3, 3), GEOMETRY, "whitened")


def only_stems(**words: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": "mine", "low_rank": {"enabled": False}, "monochromatic": {"enabled": True, **words}}
    )


@pytest.mark.ort
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attributes", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_a_stem_of_few_colours_is_replaced_exactly(attributes: str, bias: bool) -> None:
    text = CONV.format(c=3, f=12, attributes=attributes, b=", b" if bias else "")
    constants = {"b": floats(1, 12)} if bias else {}
    loaded = model(text, w=of_one_colour(12, 4, 0).astype(np.float32), **constants)
    study = study_of(loaded, (2, 3, 9, 7), only_stems())
    candidate = applying.apply(study, plan_of(study, colours=4))
    assert [node.op for node in candidate.model.graph.nodes] == ["Conv", "Conv", "Gather"]
    feeds = {"x": floats(8, 2, 3, 9, 7)}
    np.testing.assert_allclose(run(candidate.model, feeds)[0], run(loaded, feeds)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.ort
@pytest.mark.parametrize("metric", METRICS)
def test_the_stem_computes_what_its_approximate_weight_says(metric: str) -> None:
    text = CONV.format(c=3, f=12, attributes="strides = [2, 1], pads = [1, 1, 1, 1]", b=", b")
    loaded = model(text, w=floats(0, 12, 3, 3, 3), b=floats(1, 12))
    study = study_of(loaded, (4, 3, 9, 7), only_stems(metric=metric))
    plan = plan_of(study, colours=4)
    candidate, (layer,) = applying.apply(study, plan), study.canonical.layers
    assert candidate.max_difference < 1e-4
    assert candidate.totals.params == 3 * 4 + 12 * 9 + 12
    assert candidate.totals.macs == sum(factor.macs for factor in convolutions(layer.geometry, 4))
    dense = approximate(layer, plan.options[layer.name].parameters, study.moments.get(layer.name))
    assert 0.05 < relative_error(layer.weight, dense) < 1


@pytest.mark.ort
def test_random_stems_run() -> None:
    text = CONV.format(c=3, f=12, attributes="pads = [1, 1, 1, 1]", b=", b")
    study = study_of(model(text, w=floats(0, 12, 3, 3, 3), b=floats(1, 12)), (1, 3, 9, 7), only_stems())
    assert np.isfinite(random_outputs(study, plan_of(study, colours=4))).all()


def test_the_preset_offers_stems_alone() -> None:
    recipe = read_recipe("monochromatic")
    assert (recipe.low_rank.enabled, recipe.tiles.enabled, recipe.monochromatic.enabled) == (False, False, True)
