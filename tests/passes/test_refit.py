"""A refit gives layers back what the compression took, on data it has not seen, or leaves them as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lissom
import lissom_models
import numpy as np
import pytest
from graph.onnx_text import floats, model, run
from lissom import applying
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.options import Plan
from lissom.pipeline import Study
from lissom.price.probing import Approximate
from lissom.recipe import Recipe, read_recipe
from lissom.recipe_tables import Allocate, Refit
from lissom.refitting import refit as refits
from lissom.refitting.fit import Dense, Rows, joined
from lissom.refitting.refit import Refitted, refit
from lissom_runtime.errors import UsageError
from passes.refit_cases import IMAGES, UNSEEN, Array, applied, images, output_error, plan_of, study_of

pytestmark = pytest.mark.ort

RESIDUAL = """net (float[N, 3, 8, 8] x) => (float[N, 5] y) {
    s = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    sr = Relu(s)
    a = Conv <pads = [1, 1, 1, 1]> (sr, w1, b1)
    ar = Relu(a)
    b = Conv <pads = [1, 1, 1, 1]> (ar, w2, b2)
    sum = Add(b, sr)
    r = Relu(sum)
    c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (r, w3, b3)
    cr = Relu(c)
    p = GlobalAveragePool(cr)
    f = Flatten(p)
    y = Gemm <transB = 1> (f, w4, b4)
}"""


def residual() -> Model:
    shapes = [(8, 3, 3, 3), (8, 8, 3, 3), (8, 8, 3, 3), (12, 8, 3, 3), (5, 12)]
    weights = {f"w{i}": floats(i, *s) * np.float32(1.5 / np.sqrt(np.prod(s[1:]))) for i, s in enumerate(shapes)}
    return model(RESIDUAL, **weights, **{f"b{i}": 0.1 * floats(9 + i, s[0]) for i, s in enumerate(shapes)})


RANKS = {"Conv_a": 4, "Conv_b": 4, "Conv_c": 6}


def test_outputs_on_unseen_samples_are_nearer_with_refit() -> None:
    loaded = residual()
    plain = output_error(loaded, applied(loaded, RANKS, IMAGES, enabled=False), UNSEEN)
    better = output_error(loaded, applied(loaded, RANKS, IMAGES), UNSEEN)
    assert plain > 1e-3
    assert better < 0.5 * plain


def test_rounds_for_the_activation_bring_the_seen_outputs_nearer_than_plain_least_squares() -> None:
    study = study_of(residual(), IMAGES)
    plan = plan_of(study, RANKS)
    errors = []
    for rounds in (0, 3):
        found = applying.apply(replace(study, recipe=Recipe(name="t", refit=Refit(enabled=True, rounds=rounds))), plan)
        errors.append(found.judged["Conv_a"].after)
    assert errors[1] < 0.95 * errors[0]


def test_a_pair_of_full_rank_reproduces_the_network() -> None:
    loaded = residual()
    candidate = applied(loaded, {"Conv_a": 8, "Conv_b": 8, "Conv_c": 12}, IMAGES)
    np.testing.assert_allclose(run(candidate.model, UNSEEN)[0], run(loaded, UNSEEN)[0], rtol=1e-4, atol=1e-4)


def test_two_runs_give_the_same_bytes() -> None:
    first, second = (applied(residual(), RANKS, IMAGES, ridge="held-out").model.to_proto() for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_every_refitted_layer_is_in_the_proof_dense_ones_with_their_bias() -> None:
    loaded = residual()
    candidate = applied(loaded, {"Conv_s": 3}, IMAGES)
    assert candidate.max_difference < 1e-5
    assert candidate.judged["Conv_a"].kept
    stored = {node.name: node for node in candidate.model.graph.nodes}["Conv_a"]
    assert np.abs(stored.inputs[2].values - 0.1 * floats(10, 8)).max() > 1e-3


def test_layers_before_the_first_changed_one_stay_and_so_do_those_that_are_no_sites() -> None:
    study = study_of(residual(), IMAGES)
    plan = plan_of(study, {"Conv_b": 3})
    kept = Plan({name: option for name, option in plan.options.items() if name != "Conv_c"}, 0.0)
    assert list(applying.apply(study, kept).judged) == ["Conv_b", "Gemm_y"]


# ---- one layer behind another


def distorted(loaded: Model, feeds: Sequence[Mapping[str, Array]], how: Array, **asked: Any) -> tuple[Study, Refitted]:
    """A refit where the option of the first layer multiplies its weight by `how`[out, out]."""
    study = study_of(loaded, feeds)
    first = study.canonical.layers[0]

    def approximate(layer: Layer, parameters: Mapping[str, Any], moment: Array | None) -> Array:
        del parameters, moment
        return np.tensordot(how, layer.weight, 1).astype(np.float32)

    options = dict(plan_of(study, {}).options)
    options[first.name] = replace(options[first.name], kind="distortion")
    table: dict[str, Approximate] = {"distortion": approximate}
    start = {first.name: Dense(approximate(first, {}, None), None)}
    canonical = study.canonical
    return study, refit(canonical.model, canonical.layers, options, start, feeds, table, **asked)


def test_a_dense_layer_absorbs_a_linear_distortion_before_it_exactly() -> None:
    text = "net (float[N, 6] x) => (float[N, 4] y) { h = Gemm(x, w1, b1) y = Gemm(h, w2, b2) }"
    loaded = model(text, w1=floats(0, 6, 6), w2=floats(1, 6, 4), b1=floats(2, 6), b2=floats(3, 4))
    feeds = [{"x": 1 + floats(50 + i, 16, 6)} for i in range(9)]
    how = np.eye(6) + 0.3 * floats(7, 6, 6)
    study, found = distorted(loaded, feeds, how, ridge=1e-10)
    first, second = study.canonical.layers
    got, before = found.fits[second.name].target, found.fits[first.name].result.bias
    np.testing.assert_allclose(got.weight, second.weight @ np.linalg.inv(how), rtol=1e-3, atol=1e-4)
    assert got.bias is not None
    assert before is not None
    shift = second.weight @ (floats(2, 6) - np.linalg.solve(how, before))
    np.testing.assert_allclose(got.bias, floats(3, 4) + shift, rtol=1e-3, atol=1e-3)
    assert found.judged[second.name].after < 1e-6 < found.judged[second.name].before


def test_a_product_absorbs_a_linear_distortion_exactly_before_a_constant_that_is_added() -> None:
    text = "net (float[N, T, 6] x) => (float[N, T, 4] y) { h = MatMul(x, w1) k = MatMul(h, w2) y = Add(b, k) }"
    loaded = model(text, w1=floats(0, 6, 6), w2=floats(1, 6, 4), b=floats(2, 4))
    feeds = [{"x": 1 + floats(50 + i, 4, 5, 6)} for i in range(9)]
    how = np.eye(6) + 0.3 * floats(7, 6, 6)
    study, found = distorted(loaded, feeds, how, ridge=1e-10)
    second = study.canonical.layers[1]
    expected = second.weight @ np.linalg.inv(how)
    np.testing.assert_allclose(found.fits[second.name].target.weight, expected, rtol=1e-3, atol=1e-4)
    assert found.fits[second.name].target.bias is None


def test_a_layer_that_adds_a_computed_bias_is_left_alone_and_says_so() -> None:
    text = """net (float[N, 6] x) => (float[N, 4] y) {
        h = MatMul(x, w1) c = ReduceMean <axes = [0], keepdims = 0> (h) d = MatMul(c, w3) y = Gemm(h, w2, d) }"""
    loaded = model(text, w1=floats(0, 6, 6), w2=floats(1, 6, 4), w3=floats(2, 6, 4))
    feeds = [{"x": floats(50 + i, 16, 6)} for i in range(3)]
    _, found = distorted(loaded, feeds, np.eye(6) * 2)
    assert "Gemm_y" not in found.judged
    assert any(refusal.site == "Gemm_y" and "is computed" in refusal.reason for refusal in found.refusals)


def test_layers_that_share_a_weight_keep_it() -> None:
    text = "net (float[N, 6] x) => (float[N, 6] y) { h = MatMul(x, w1) k = MatMul(h, w2) y = MatMul(k, w2) }"
    loaded = model(text, w1=floats(0, 6, 6), w2=floats(1, 6, 6))
    feeds = [{"x": floats(50 + i, 16, 6)} for i in range(3)]
    _, found = distorted(loaded, feeds, np.eye(6) * 2)
    assert list(found.judged) == ["MatMul_h"]
    assert {refusal.site for refusal in found.refusals if "share its weight" in refusal.reason} == {
        "MatMul_k",
        "MatMul_y",
    }


def test_zeros_of_a_dense_weight_stay_zeros() -> None:
    sparse = floats(1, 6, 4) * (floats(2, 6, 4) > 0)
    text = "net (float[N, 6] x) => (float[N, 4] y) { h = MatMul(x, w1) y = MatMul(h, w2) }"
    feeds = [{"x": floats(50 + i, 16, 6)} for i in range(3)]
    _, found = distorted(model(text, w1=floats(0, 6, 6), w2=sparse), feeds, np.eye(6) + 0.3 * floats(7, 6, 6))
    weight = found.fits["MatMul_y"].target.weight
    assert (weight[sparse.T == 0] == 0).all()
    assert np.abs(weight - sparse.T).max() > 1e-2


# ---- where it declines


def test_a_layer_whose_held_out_error_does_not_fall_keeps_its_numbers_and_says_so() -> None:
    feeds = [{"x": floats(50 + i, 16, 6)} for i in range(9)]
    text = "net (float[N, 6] x) => (float[N, 4] y) { h = MatMul(x, w1) y = MatMul(h, w2) }"
    loaded = model(text, w1=floats(0, 6, 6), w2=floats(1, 6, 4))
    _, found = distorted(loaded, feeds, np.zeros((6, 6)))  # nothing is left for any refit to use
    assert not found.judged["MatMul_h"].kept
    assert any(r.site == "MatMul_h" and r.kind == "refit" and "held-out error" in r.reason for r in found.refusals)


def test_a_refit_that_makes_the_outputs_worse_is_dropped_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = residual()
    plain = applied(loaded, RANKS, IMAGES, enabled=False).model.to_proto()
    measured = iter([0.1, 0.1])
    monkeypatch.setattr(refits, "distortion", lambda *_: next(measured))
    candidate = applied(loaded, RANKS, IMAGES)
    assert candidate.model.to_proto() == plain
    assert not any(judged.kept for judged in candidate.judged.values())
    reasons = [refusal.reason for refusal in candidate.plan.refusals if refusal.kind == "refit"]
    assert "the held-out distortion of the outputs would go from 0.1 to 0.1" in reasons


# ---- little data, and bad data


def test_no_more_batches_are_used_than_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    fewer = applied(residual(), RANKS, IMAGES[:1])
    monkeypatch.setattr(refits, "KEPT_BYTES", 1)
    capped = applied(residual(), RANKS, IMAGES)
    assert capped.model.to_proto() == fewer.model.to_proto()


def test_no_more_rows_are_used_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(refits, "ROWS", 100)

    def counted(parts: Sequence[Rows]) -> Rows:
        seen.append(sum(len(rows.x) for rows in parts))
        return joined(parts)

    monkeypatch.setattr(refits, "joined", counted)
    applied(residual(), RANKS, IMAGES)
    assert {20, 80} <= set(seen)  # of ten batches two are held out
    assert max(seen) == 80


@pytest.mark.parametrize(
    "calibration",
    [
        [{"x": images(5, 1, 3, 8, 8)}],
        [{"x": np.ones((1, 3, 8, 8), np.float32)}] * 3,
        [{"x": np.zeros((2, 3, 8, 8), np.float32)}],
        [{"x": images(5, 1, 3, 8, 8)}, {"x": images(6, 1, 3, 8, 8)}],
    ],
    ids=["one image", "constant", "zeros", "two images"],
)
@pytest.mark.parametrize("ridge", [0.01, "held-out"])
def test_little_data_never_make_a_network_that_is_not_finite(calibration: list[dict[str, Array]], ridge: Any) -> None:
    loaded = residual()
    candidate = applied(loaded, RANKS, calibration, ridge=ridge)
    error = output_error(loaded, candidate, UNSEEN)
    assert error < 1.1 * output_error(loaded, applied(loaded, RANKS, calibration, enabled=False), UNSEEN)


def test_activations_that_are_not_finite_are_an_error_that_names_the_layer() -> None:
    text = "net (float[N, 3] x) => (float[N, 2] y) { t = Log(x) y = MatMul(t, w) }"
    loaded = model(text, w=floats(0, 3, 2))
    feeds = [{"x": np.ones((2, 3), np.float32)}, {"x": -np.ones((2, 3), np.float32)}]
    with pytest.raises(UsageError, match="'MatMul_y' are NaN or infinite"):
        distorted(loaded, feeds, np.eye(2))


def test_a_refit_without_samples_is_a_usage_error() -> None:
    study = study_of(residual(), IMAGES)
    with pytest.raises(UsageError, match="calibration samples for the refit"):
        applying.apply(replace(study, calibration=()), plan_of(study, RANKS))


def test_a_recipe_with_refit_asks_for_calibration_data_and_reports_each_layer(tmp_path: Path) -> None:
    recipe = Recipe(name="t", allocate=Allocate(objective="minimax"), refit=Refit(enabled=True))
    path, data = lissom_models.path("lenet5"), str(tmp_path / "data.npz")
    with np.load(lissom_models.calibration("lenet5")) as arrays:
        np.savez(data, image=arrays["image"][:200], labels=arrays["labels"][:200])
    with pytest.raises(UsageError, match="--calibration data for the refit"):
        lissom.compress(path, recipe=recipe, bounds={"keep_params": 0.3}, shapes={"image": (1, 1, 28, 28)})
    result = lissom.compress(path, recipe=recipe, bounds={"keep_params": 0.1}, calibration=data)
    entries = [layer.refit for layer in result.report.layers if layer.refit is not None]
    assert any(entry.kept for entry in entries)
    assert all(entry.error_after < entry.error_before for entry in entries if entry.kept)


def test_a_recipe_says_how_a_refit_is_done_and_only_that(tmp_path: Path) -> None:
    assert read_recipe("lowrank").refit == Refit(enabled=True, rounds=3, ridge="held-out")
    assert not read_recipe("minimax").refit.enabled
    for wrong in ("ridge = 0", 'ridge = "best"', "rounds = -1", "steps = 3"):
        path = tmp_path / "wrong.toml"
        path.write_text(f"[refit]\n{wrong}\n", encoding="utf-8")
        with pytest.raises(UsageError, match=f"refit.{wrong.split()[0]}"):
            read_recipe(str(path))
