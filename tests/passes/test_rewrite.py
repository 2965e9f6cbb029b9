"""A layer's bias takes up the mean error of what replaces its weight."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graph.onnx_text import floats, model, run
from lissom import applying, pipeline
from lissom.canonical import Canonical, canonicalise
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.lowrank.propose import KIND
from lissom.observe import observe_moments
from lissom.options import Cost, Option, Plan
from lissom.pipeline import Study
from lissom.recipe import read_recipe
from lissom.rewrite import corrected_bias, own_bias, replace_bias

pytestmark = pytest.mark.ort

CONV = "net (float[N, 4, 9, 7] x) => (float[N, 6, H, W] y) {{ y = Conv <pads = [1, 1, 1, 1]> (x, {operands}) }}"
GEMM = "net (float[N, 8] x) => (float[N, 6] y) {{ y = Gemm <alpha = 0.5, beta = {beta}, transB = 1> (x, {operands}) }}"


def only_layer(loaded: Model, x: np.ndarray) -> tuple[Canonical, Layer]:
    canonical = canonicalise(loaded, {"x": x})
    return canonical, canonical.layers[0]


def study_under_moments(loaded: Model, x: np.ndarray) -> tuple[Study, Layer]:
    canonical, layer = only_layer(loaded, x)
    moments = observe_moments(canonical.model, [layer], [{"x": x}])
    study = pipeline.propose_menus(canonical, read_recipe("lowrank"), 1, moments)
    return replace(study, recipe=read_recipe("minimax")), layer  # which does not refit


def plan_of(layer: Layer, folding: int, groups: int = 1) -> Plan:
    parameters = {"folding": folding, "side": "output", "groups": groups, "rank": 1}
    return Plan({layer.name: Option(layer.name, KIND, parameters, Cost(0, 0, 0), 0.0, "whitened")}, 0.0)


def networks() -> dict[str, tuple[Model, np.ndarray]]:
    image, row = floats(3, 5, 4, 9, 7) + np.float32(1), floats(4, 40, 8) + np.float32(1)
    conv, matrix, bias = floats(0, 6, 4, 3, 3), floats(1, 6, 8), floats(2, 6)
    return {
        "conv with bias": (model(CONV.format(operands="w, b"), w=conv, b=bias), image),
        "conv without": (model(CONV.format(operands="w"), w=conv), image),
        "gemm with bias": (model(GEMM.format(operands="w, b", beta=2.0), w=matrix, b=bias), row),
        "gemm with one bias for all": (model(GEMM.format(operands="w, b", beta=1.0), w=matrix, b=bias[:1]), row),
        "gemm without": (model(GEMM.format(operands="w", beta=1.0), w=matrix), row),
    }


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", list(networks()))
def test_the_mean_output_error_of_a_pair_is_zero(name: str, groups: int) -> None:
    loaded, x = networks()[name]
    study, layer = study_under_moments(loaded, x)
    for folding in (0, 1, 2, 3) if layer.op == "Conv" else (0,):
        candidate = applying.apply(study, plan_of(layer, folding, groups))
        error = run(candidate.model, {"x": x})[0] - run(loaded, {"x": x})[0]
        axes = tuple(axis for axis in range(error.ndim) if axis != 1)
        np.testing.assert_allclose(error.mean(axis=axes), 0, atol=2e-5)
        assert np.abs(error).max() > 0.1


def test_the_squared_error_of_a_pair_is_what_its_menu_says() -> None:
    loaded, x = networks()["conv with bias"]
    study, layer = study_under_moments(loaded, x)
    about_mean = float(np.trace(layer.folded @ study.moments[layer.name] @ layer.folded.T))
    for ladder in study.menus[0].ladders:
        parameters = ladder.parameters
        if ladder.kind == KIND and parameters["groups"] == 1 and ladder.steps[0] == 1:
            candidate = applying.apply(study, plan_of(layer, int(parameters["folding"])))
            error = (run(candidate.model, {"x": x})[0] - run(loaded, {"x": x})[0]) ** 2
            assert error.sum(axis=1).mean() == pytest.approx(ladder.error[0] ** 2 * about_mean, rel=1e-4)


def test_a_product_without_a_bias_keeps_its_moment_about_zero_and_gets_none() -> None:
    loaded = model("net (float[N, 8] x) => (float[N, 6] y) { y = MatMul(x, w) }", w=floats(0, 8, 6))
    x = floats(1, 40, 8) + np.float32(1)
    study, layer = study_under_moments(loaded, x)
    assert own_bias(layer) is None
    assert layer.name not in study.means
    np.testing.assert_allclose(study.moments[layer.name], x.T @ x / len(x), rtol=1e-5)
    candidate = applying.apply(study, plan_of(layer, 0))
    assert [node.op for node in candidate.model.graph.nodes] == ["MatMul", "MatMul"]


@pytest.mark.parametrize("name", list(networks()))
def test_a_bias_that_is_replaced_by_itself_changes_nothing(name: str) -> None:
    loaded, x = networks()[name]
    canonical, layer = only_layer(loaded, x)
    before = run(canonical.model, {"x": x})[0]
    bias = own_bias(layer)
    assert bias is not None
    replace_bias(layer, bias)
    np.testing.assert_allclose(run(canonical.model, {"x": x})[0], before, atol=1e-6)
    replace_bias(layer, bias + 1)
    np.testing.assert_allclose(run(canonical.model, {"x": x})[0], before + 1, atol=1e-5)


def test_a_bias_that_is_not_one_value_a_channel_cannot_be_replaced() -> None:
    by_row = "net (float[3, 8] x) => (float[3, 6] y) { y = Gemm (x, w, b) }"
    computed = "net (float[N, 8] x, float[6] c) => (float[N, 6] y) { b = Relu(c) y = Gemm (x, w, b) }"
    for text, feeds, constants in (
        (by_row, {"x": floats(0, 3, 8)}, {"b": floats(2, 3, 6)}),
        (by_row, {"x": floats(0, 3, 8)}, {"b": floats(2, 3, 1)}),
        (computed, {"x": floats(0, 3, 8), "c": floats(3, 6)}, {}),
    ):
        layer = canonicalise(model(text, w=floats(1, 8, 6), **constants), feeds).layers[0]
        assert own_bias(layer) is None
        assert corrected_bias(layer, layer.weight, np.zeros(8)) is None
        with pytest.raises(ValueError, match=f"constant bias or none, but '{layer.name}' has another"):
            replace_bias(layer, np.zeros(6))
