"""Block-sparse layers compute what was planned, are packed where the runtime can, and count as what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph.onnx_text import floats, model, run
from lissom import applying, pipeline
from lissom.canonical import canonicalise
from lissom.graph.model import PROVENANCE_KEY, Model
from lissom.observe import observe_moments
from lissom.options import Plan
from lissom.pipeline import Study
from lissom.recipe import Recipe, read_recipe
from lissom.sparse.apply import approximate
from lissom.sparse.propose import KIND
from lissom_runtime.errors import UsageError
from passes.surgery_cases import random_outputs, study_of
from pydantic import ValidationError

CONV = "net (float[N, 6, 9, 7] x) => (float[N, 12, H, W] y) {{ c = Conv <{attributes}> (x, w{b}) y = Relu (c) }}"
CONVOLUTIONS = {
    "plain": "pads = [1, 1, 1, 1]",
    "strided": "strides = [2, 3], pads = [1, 0, 1, 2]",
    "dilated": "dilations = [2, 1], pads = [2, 1, 2, 1]",
    "same upper": 'auto_pad = "SAME_UPPER"',
    "valid": 'auto_pad = "VALID"',
}
LINEAR = {
    "gemm": "net (float[N, 18] x) => (float[N, 12] y) { y = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (x, w, b) }",
    "gemm without bias": "net (float[N, 18] x) => (float[N, 12] y) { y = Gemm <transB = 1> (x, w) }",
    "matmul": "net (float[N, 5, 18] x) => (float[N, 5, 12] y) { y = MatMul (x, w) }",
}


def only_sparse(**sparse: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": "mine", "low_rank": {"enabled": False}, "sparse": {"enabled": True, **sparse}}
    )


def plan_of(study: Study, share: float = 0.4) -> Plan:
    """The step of each site that keeps about a share of its weights."""
    options = {}
    for menu in study.menus:
        ladder = menu.ladders[0]
        nearest = int(np.abs(ladder.params - share * menu.dense.cost.params).argmin())
        options[menu.site] = ladder.option(nearest)
    return Plan(options, 0.0)


def conv(attributes: str, bias: bool = True) -> Model:
    constants = {"b": floats(1, 12)} if bias else {}
    text = CONV.format(attributes=attributes, b=", b" if bias else "")
    return model(text, w=floats(0, 12, 6, 3, 3), **constants)


PATTERNS = [("columns", 4), ("columns", 1), ("rows", 8), ("rows", 2)]


@pytest.mark.ort
@pytest.mark.parametrize(("pattern", "width"), PATTERNS)
@pytest.mark.parametrize("attributes", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_a_convolution_computes_its_approximate_weight_packed(attributes: str, pattern: str, width: int) -> None:
    """`applying.apply` verifies against that weight, with the function body and on the kernels."""
    study = study_of(conv(attributes), (3, 6, 9, 7), only_sparse(pattern=pattern, widths=[width]))
    plan = plan_of(study)
    candidate = applying.apply(study, plan)
    (node,) = candidate.model.graph.nodes
    assert node.op.startswith("SparseConv_")
    assert node.op.endswith("_relu")
    (option,) = plan.options.values()
    assert candidate.totals.params == option.cost.params + 12
    assert candidate.totals.macs == option.cost.macs
    layer = study.canonical.layers[0]
    weight = approximate(layer, option.parameters, study.moments[layer.name])
    missing = (layer.weight - weight).reshape(12, -1) @ study.means[layer.name]
    bias = floats(1, 12) + missing.astype(np.float32)
    twin = model(CONV.format(attributes=attributes, b=", b"), w=weight, b=bias)
    feeds = {"x": floats(8, 2, 6, 9, 7)}
    np.testing.assert_allclose(run(candidate.model, feeds)[0], run(twin, feeds)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.ort
@pytest.mark.parametrize("text", LINEAR.values(), ids=LINEAR.keys())
@pytest.mark.parametrize("importance", ["obs", "rms"])
def test_linear_layers_are_packed(text: str, importance: str) -> None:
    weight = floats(0, 18, 12) if "MatMul" in text else floats(0, 12, 18)
    constants = {"b": floats(1, 12)} if ", b)" in text else {}
    shape = (40, 5, 18) if "MatMul" in text else (40, 18)
    study = study_of(model(text, w=weight, **constants), shape, only_sparse(importance=importance))
    candidate = applying.apply(study, plan_of(study))
    assert [node.op.split("_")[0] for node in candidate.model.graph.nodes] == ["SparseGemm"]
    assert candidate.max_difference < 1e-4


@pytest.mark.ort
def test_n_of_m_stays_a_dense_layer_with_zeros() -> None:
    study = study_of(conv("pads = [1, 1, 1, 1]"), (3, 6, 9, 7), only_sparse(pattern="2:4"))
    candidate = applying.apply(study, plan_of(study))
    assert [node.op for node in candidate.model.graph.nodes] == ["Conv", "Relu"]
    assert candidate.totals.macs == study.canonical.totals.macs
    assert candidate.totals.params == 12 * (26 + 2) + 12  # 54 columns: 13 fours, and two that belong to none


@pytest.mark.ort
def test_kernels_of_one_axis_stay_dense_with_zeros() -> None:
    text = "net (float[N, 6, 9] x) => (float[N, 12, L] y) { y = Conv (x, w) }"
    study = study_of(model(text, w=floats(0, 12, 6, 3)), (9, 6, 9), only_sparse())
    plan = plan_of(study)
    candidate = applying.apply(study, plan)
    assert [node.op for node in candidate.model.graph.nodes] == ["Conv"]
    assert candidate.totals.params == plan.total("params") + 12  # the bias that takes up the mean error


@pytest.mark.ort
def test_a_residual_goes_into_the_layer_and_the_file_says_so() -> None:
    text = (
        "net (float[2, 6, 9, 7] x) => (float[2, 6, 9, 7] y)"
        " { c = Conv <pads = [1, 1, 1, 1]> (x, w, b) s = Add (c, x) y = Relu (s) }"
    )
    loaded = model(text, ir=10, opset=18, w=floats(0, 6, 6, 3, 3), b=floats(1, 6))
    study = study_of(loaded, (2, 6, 9, 7), only_sparse(widths=[2]))
    candidate = applying.apply(study, plan_of(study))
    (node,) = candidate.model.graph.nodes
    assert "_add_relu" in node.op
    (written,) = candidate.model.to_proto().graph.node
    told = json.loads(next(entry.value for entry in written.metadata_props if entry.key == PROVENANCE_KEY))
    assert told["kind"] == KIND
    assert len(told["from"]) == 3
    assert told["parameters"]["importance"] == "obs"


@pytest.mark.ort
def test_refitted_layers_keep_their_density_and_are_packed() -> None:
    text = (
        "net (float[N, 6, 9, 7] x) => (float[N, 8, 9, 7] y)"
        " { c = Conv <pads = [1, 1, 1, 1]> (x, w, b) r = Relu (c) y = Conv <pads = [1, 1, 1, 1]> (r, v, d) }"
    )
    loaded = model(text, w=floats(0, 12, 6, 3, 3), b=floats(1, 12), v=floats(2, 8, 12, 3, 3), d=floats(3, 8))
    recipe = only_sparse().model_copy(update={"refit": read_recipe("obs").refit})
    feeds = [{"x": 1 + floats(n, 6, 6, 9, 7)} for n in range(9)]
    canonical = canonicalise(loaded, feeds[0])
    moments = observe_moments(canonical.model, canonical.layers, feeds)
    study = pipeline.propose_menus(canonical, recipe, 16, moments)
    study = Study(**{**vars(study), "calibration": feeds})
    plan = plan_of(study)
    candidate = applying.apply(study, plan)
    refitted = [name for name, judged in candidate.judged.items() if judged.kept]
    written = candidate.model.to_proto()
    told = json.loads(next(entry.value for entry in written.metadata_props if entry.key == PROVENANCE_KEY))
    assert told.keys() == {node.name for node in written.graph.node}
    assert refitted
    assert {done["from"][0] for done in told.values() if done.get("refit")} == set(refitted)
    assert [node.op.split("_")[0] for node in candidate.model.graph.nodes] == ["SparseConv", "SparseConv"]
    assert candidate.totals.params == plan.total("params") + 12 + 8


@pytest.mark.ort
@pytest.mark.parametrize("pattern", ["columns", "rows", "2:4"])
def test_random_blocks_run(pattern: str) -> None:
    for loaded, shape in [
        (conv('auto_pad = "SAME_LOWER", strides = [2, 2]'), (1, 6, 9, 7)),
        (model(LINEAR["matmul"], w=floats(0, 18, 12)), (1, 5, 18)),
    ]:
        study = study_of(loaded, shape, only_sparse(pattern=pattern, importance="rms"))
        assert np.isfinite(random_outputs(study, plan_of(study))).all()


@pytest.mark.parametrize("name", ["obs", "magnitude", "scalpel-simd"])
def test_the_presets_offer_sparse_weights_only(name: str) -> None:
    recipe = read_recipe(name)
    assert (recipe.sparse.enabled, recipe.low_rank.enabled) == (True, False)
    assert recipe.needs_moments == (recipe.sparse.importance == "obs")


@pytest.mark.parametrize(
    ("sparse", "message"),
    [
        ({"importance": "luck"}, "input should be 'obs', 'rms' or 'magnitude'"),
        ({"widths": [3]}, "input should be 1, 2, 4, 8 or 16"),
        ({"widths": []}, "should have at least 1 item"),
        ({"densities": [0.0]}, "greater than 0"),
        ({"densities": [0.5, 1.0]}, "less than 1"),
        ({"pattern": "4:2"}, 'expected the pattern "columns", "rows" or "N:M" with 0 < N < M, but got \'4:2\''),
        ({"pattern": "2:4", "densities": [0.5]}, "expected neither densities nor a threshold for the pattern 2:4"),
        ({"pattern": "2:4", "widths": [8]}, r"expected widths \[1\] for the pattern 2:4, but got \[8\]"),
        ({"metric": "frobenius"}, 'expected the metric "whitened" for the importance "obs", but got "frobenius"'),
        ({"threshold": 0.1}, 'expected the importance "rms" or "magnitude" for a threshold, but got "obs"'),
        (
            {"importance": "rms", "threshold": 0.1, "densities": [0.5]},
            "expected densities or a threshold, but got both",
        ),
        ({"damping": 0}, "greater than 0"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(sparse: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=f"(?i){message}"):
        only_sparse(**sparse)


def test_the_published_iteration_does_not_take_sparse_weights(tmp_path: Path) -> None:
    path = tmp_path / "mixed.toml"
    path.write_text('[allocate]\nobjective = "alds"\n[sparse]\nenabled = true\n')
    with pytest.raises(UsageError):
        read_recipe(str(path))
