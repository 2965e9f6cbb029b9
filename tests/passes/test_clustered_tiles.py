"""Tiles: the error of their blocks, the cost of their convolutions, and the same outputs after surgery."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph.onnx_text import floats, model, run
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom import applying, pipeline
from lissom.canonical import canonicalise
from lissom.clustered.tiles.apply import approximate
from lissom.clustered.tiles.factors import SHARE, Order, Tiling, order, residuals, tiles
from lissom.clustered.tiles.propose import WIDEST, ladders
from lissom.graph.geometry import Geometry
from lissom.lowrank.errors import residual_curve
from lissom.lowrank.foldings import Scheme
from lissom.options import Ladder
from lissom.recipe import Recipe, read_recipe
from lissom_runtime.errors import UsageError
from passes.surgery_cases import CONV, CONVOLUTIONS, moment_of, plan_of, random_outputs, relative_error, study_of

ORDERS = ["consecutive", "clustered"]
METRICS = ["frobenius", "whitened"]
GEOMETRY = Geometry(12, 8, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "NOTSET", (8, 8), (4, 4))


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, Tiling]:
    """A weight of any number of kernel axes, and a tiling of it."""
    blocks_in, blocks_out = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    f, c = blocks_out * draw(st.integers(1, 3)), blocks_in * draw(st.integers(1, 3))
    kernel = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    weight = floats(draw(st.integers(0, 99)), f, c, *kernel)
    return weight, Tiling(blocks_in, blocks_out, draw(st.sampled_from(ORDERS)))


def blocks(weight: np.ndarray, tiling: Tiling, places: Order) -> list[np.ndarray]:
    """Every block[f/H, cκ/G] of a weight, by plain indexing."""
    kernel = weight.reshape(*weight.shape[:2], -1).astype(np.float64)
    return [
        kernel[np.ix_(rows, columns)].reshape(len(rows), -1)
        for rows in np.split(places.outputs, tiling.outputs)
        for columns in np.split(places.inputs, tiling.inputs)
    ]


@settings(max_examples=40)
@given(case=cases())
def test_the_error_is_the_energy_that_the_blocks_lose(case: tuple[np.ndarray, Tiling]) -> None:
    weight, tiling = case
    norms = residuals(weight, tiling, "frobenius", None)
    spectra = [np.linalg.svd(b, compute_uv=False) for b in blocks(weight, tiling, order(weight, tiling))]
    wanted = [np.sqrt(sum((sigma[rank:] ** 2).sum() for sigma in spectra)) for rank in range(len(norms))]
    np.testing.assert_allclose(norms, wanted, atol=1e-5)
    assert norms[0] == pytest.approx(np.linalg.norm(weight), rel=1e-6)


@settings(max_examples=40)
@given(case=cases(), metric=st.sampled_from(METRICS), data=st.data())
def test_the_error_is_that_of_the_factors(case: tuple[np.ndarray, Tiling], metric: str, data: st.DataObject) -> None:
    weight, tiling = case
    moment = moment_of(weight[0].size) if metric == "whitened" else None
    norms = residuals(weight, tiling, metric, moment)
    rank = data.draw(st.integers(1, len(norms) - 1))
    dense = tiles(weight, tiling, rank, moment).dense(tiling)
    assert relative_error(weight, dense, moment) == pytest.approx(norms[rank] / norms[0], abs=1e-4)


@settings(max_examples=40)
@given(case=cases(), metric=st.sampled_from(METRICS))
def test_full_rank_gives_the_weight_back(case: tuple[np.ndarray, Tiling], metric: str) -> None:
    weight, tiling = case
    f, c, *kernel = weight.shape
    moment = moment_of(weight[0].size) if metric == "whitened" else None
    rank = tiling.max_rank(Geometry(f, c, tuple(kernel)))
    found = tiles(weight, tiling, rank, moment)
    np.testing.assert_allclose(found.dense(tiling), weight, atol=1e-4)
    assert found.encoder.shape == (tiling.inputs * tiling.outputs * rank, c // tiling.inputs, *kernel)
    assert found.decoder.shape == (f, tiling.inputs * rank, *[1] * len(kernel))


@settings(max_examples=40)
@given(case=cases())
def test_clustered_channels_are_a_permutation_and_the_same_every_time(case: tuple[np.ndarray, Tiling]) -> None:
    weight, tiling = case
    found, again = (order(weight, Tiling(tiling.inputs, tiling.outputs, "clustered")) for _ in range(2))
    for places, same, channels in zip(found, again, weight.shape[1::-1], strict=True):
        assert sorted(places) == list(range(channels))
        np.testing.assert_array_equal(places, same)


@settings(max_examples=40)
@given(case=cases())
def test_clusters_lose_no_more_than_consecutive_blocks_at_their_rank(case: tuple[np.ndarray, Tiling]) -> None:
    weight, tiling = case
    plain, better = (
        residuals(weight, Tiling(tiling.inputs, tiling.outputs, name), "frobenius", None) for name in ORDERS
    )
    rank = max(1, (len(plain) - 1) // SHARE)
    assert better[rank] <= plain[rank] * (1 + 1e-5) + 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_blocks_of_low_rank_are_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(24).reshape(3, 8), rng.permutation(16).reshape(2, 8)
    kernel = np.zeros((24, 16, 9))
    for row in rows:
        for column in columns:
            block = rng.standard_normal((8, 2)) @ rng.standard_normal((2, 72))
            kernel[np.ix_(row, column)] = block.reshape(8, 8, 9)
    weight = kernel.reshape(24, 16, 3, 3)
    plain, found = (tiles(weight, Tiling(2, 3, name), 2).dense(Tiling(2, 3, name)) for name in ORDERS)
    assert relative_error(weight, plain) > 0.5
    assert relative_error(weight, found) < 1e-5


@pytest.mark.parametrize("blocks_out", [2, 3])
def test_with_one_block_of_inputs_the_fit_is_the_best_output_error(blocks_out: int) -> None:
    """Blocks of outputs do not interact: each loses the eigenvalues of W Σ Wᵀ beyond the rank."""
    weight, moment = floats(0, 12, 4, 3, 3), moment_of(36)
    flat = weight.reshape(12, 36).astype(np.float64)
    norms = residuals(weight, Tiling(1, blocks_out), "whitened", moment)
    energies = [np.linalg.eigvalsh(rows @ moment @ rows.T)[::-1] for rows in np.split(flat, blocks_out)]
    wanted = [np.sqrt(sum(e[rank:].sum() for e in energies)) for rank in range(len(norms) - 1)]
    np.testing.assert_allclose(norms[:-1], wanted, rtol=1e-4)


@pytest.mark.parametrize("side", ["input", "output"])
def test_blocks_along_one_side_are_the_pair_with_groups_there(side: Any) -> None:
    """Which is why consecutive ones are not offered."""
    weight = floats(0, 12, 8, 3, 3)
    tiling = Tiling(4, 1) if side == "input" else Tiling(1, 4)
    pair = residual_curve(weight.astype(np.float64), Scheme(0, side, 4), "frobenius")
    np.testing.assert_allclose(residuals(weight, tiling, "frobenius", None), pair, atol=1e-6)
    (found,) = ladders("a", weight, GEOMETRY, "frobenius", [2], [3], "consecutive")
    assert (found.parameters["inputs"], found.parameters["outputs"]) == (2, 3)
    assert ladders("a", weight, GEOMETRY, "frobenius", [tiling.inputs], [tiling.outputs], "consecutive") == []
    assert len(ladders("a", weight, GEOMETRY, "frobenius", [tiling.inputs], [tiling.outputs], "clustered")) == 1


def offered(name: str, metric: str = "frobenius") -> list[Ladder]:
    moment = moment_of(72) if metric == "whitened" else None
    return ladders("a", floats(0, 12, 8, 3, 3), GEOMETRY, metric, [2, 4], [2, 4], name, moment)  # type: ignore[arg-type]  # a name of ORDERS


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("metric", METRICS)
def test_every_step_has_its_true_cost_and_errors_fall(name: str, metric: str) -> None:
    found = offered(name, metric)
    assert len(found) == 4
    for ladder in found:
        g, h = int(ladder.parameters["inputs"]), int(ladder.parameters["outputs"])
        assert list(ladder.steps) == list(range(1, min(12 // h, 72 // g) + 1))
        params = ladder.steps * (h * 72 + g * 12)
        np.testing.assert_array_equal(ladder.params, params)
        np.testing.assert_array_equal(ladder.macs, 16 * params)
        indices = ladder.steps * g * h + (20 if name == "clustered" else 0)
        np.testing.assert_array_equal(ladder.bytes, 4 * params + 8 * indices)
        assert np.all(np.diff(ladder.error) <= 0)
        assert ladder.error_at_zero == pytest.approx(1)
        assert ladder.error[-1] == pytest.approx(0, abs=1e-6)


def test_blocks_that_do_not_divide_are_the_nearest_that_do() -> None:
    found = ladders("a", floats(0, 12, 8, 3, 3), GEOMETRY, "frobenius", [3, 5], [5], "consecutive")
    assert [(ladder.parameters["inputs"], ladder.parameters["outputs"]) for ladder in found] == [(4, 6)]


def test_linear_layers_zeros_and_wide_layers_are_offered_nothing() -> None:
    assert ladders("a", floats(0, 8, 6), Geometry(8, 6), "frobenius", [2], [2], "clustered") == []
    assert ladders("a", np.zeros((12, 8, 3, 3)), GEOMETRY, "frobenius", [2], [2], "consecutive") == []
    wide = floats(0, 2, WIDEST + 2, 1, 1)
    geometry = Geometry(2, WIDEST + 2, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), "NOTSET", (4, 4), (4, 4))
    assert ladders("a", wide, geometry, "frobenius", [2], [2], "clustered") == []
    assert len(ladders("a", wide, geometry, "frobenius", [2], [2], "consecutive")) == 1


def test_the_whitened_metric_needs_a_moment_of_the_right_shape() -> None:
    with pytest.raises(ValueError, match="'whitened' needs the second moment"):
        ladders("a", floats(0, 12, 8, 3, 3), GEOMETRY, "whitened", [2], [2], "clustered")
    with pytest.raises(ValueError, match="expected a moment of shape"):
        tiles(floats(0, 12, 8, 3, 3), Tiling(2, 2), 1, np.eye(5))


def only_tiles(**words: Any) -> Recipe:
    return Recipe.model_validate({"name": "mine", "low_rank": {"enabled": False}, "tiles": {"enabled": True, **words}})


@pytest.mark.ort
@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("attributes", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_a_convolution_is_replaced_exactly_at_full_rank(attributes: str, name: str) -> None:
    text = CONV.format(c=6, f=9, attributes=attributes, b=", b")
    loaded = model(text, w=floats(0, 9, 6, 3, 3), b=floats(1, 9))
    study = study_of(loaded, (2, 6, 9, 7), only_tiles(order=name, inputs=[2], outputs=[3]))
    candidate = applying.apply(study, plan_of(study, rank=3))
    feeds = {"x": floats(8, 2, 6, 9, 7)}
    np.testing.assert_allclose(run(candidate.model, feeds)[0], run(loaded, feeds)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.ort
@pytest.mark.parametrize("kernel", [(3,), (3, 1), (2, 3, 2)])
@pytest.mark.parametrize("bias", ["none", "constant", "computed"])
def test_kernels_of_other_ranks_and_every_bias_are_replaced_exactly(kernel: tuple[int, ...], bias: str) -> None:
    dims, out = ", ".join(["5"] * len(kernel)), ", ".join("HWD"[: len(kernel)])
    given = ", float[8] p" if bias == "computed" else ""
    computed = "b = Neg (p)" if bias == "computed" else ""
    text = (
        f"net (float[N, 6, {dims}] x{given}) => (float[N, 8, {out}] y) "
        f"{{ {computed} y = Conv (x, w{', b' if bias != 'none' else ''}) }}"
    )
    constants = {"b": floats(1, 8)} if bias == "constant" else {}
    loaded = model(text, w=floats(0, 8, 6, *kernel), **constants)
    feeds = {"x": floats(8, 2, 6, *(5,) * len(kernel))} | ({"p": floats(7, 8)} if bias == "computed" else {})
    canonical = canonicalise(loaded, feeds)
    study = pipeline.propose_menus(canonical, only_tiles(order="clustered", inputs=[2], outputs=[2]), 16, {})
    candidate = applying.apply(study, plan_of(study, rank=4))
    assert [node.op for node in candidate.model.graph.nodes if node.op == "Gather"]
    np.testing.assert_allclose(run(candidate.model, feeds)[0], run(loaded, feeds)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.ort
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ORDERS)
def test_the_tiles_compute_what_their_approximate_weight_says(name: str, metric: str) -> None:
    text = CONV.format(c=6, f=9, attributes="strides = [2, 1], pads = [1, 1, 1, 1]", b=", b")
    loaded = model(text, w=floats(0, 9, 6, 3, 3), b=floats(1, 9))
    study = study_of(loaded, (4, 6, 9, 7), only_tiles(order=name, metric=metric, inputs=[2], outputs=[3]))
    plan = plan_of(study, rank=2)
    candidate, (layer,) = applying.apply(study, plan), study.canonical.layers
    option = plan.options[layer.name]
    assert candidate.max_difference < 1e-4
    assert candidate.totals.params == 2 * (3 * 54 + 2 * 9) + 9
    assert candidate.totals.macs == 2 * (3 * 54 + 2 * 9) * layer.geometry.out_positions
    dense = approximate(layer, option.parameters, study.moments.get(layer.name))
    assert 0.05 < relative_error(layer.weight, dense) < 1
    if metric == "frobenius":
        expected = model(text, w=dense, b=floats(1, 9))
        feeds = {"x": floats(8, 2, 6, 9, 7)}
        np.testing.assert_allclose(run(candidate.model, feeds)[0], run(expected, feeds)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.ort
def test_channels_are_gathered_only_where_they_move() -> None:
    text = CONV.format(c=6, f=9, attributes="pads = [1, 1, 1, 1]", b="")
    for words, gathers in (
        ({"order": "consecutive", "inputs": [2], "outputs": [3]}, 1),
        ({"order": "clustered", "inputs": [2], "outputs": [3]}, 3),
        ({"order": "clustered", "inputs": [2], "outputs": [1]}, 1),
        ({"order": "clustered", "inputs": [1], "outputs": [3]}, 1),
    ):
        study = study_of(model(text, w=floats(0, 9, 6, 3, 3)), (1, 6, 9, 7), only_tiles(**words))
        ops = [node.op for node in applying.apply(study, plan_of(study, rank=1)).model.graph.nodes]
        assert (ops.count("Gather"), ops.count("Conv")) == (gathers, 2)


@pytest.mark.ort
@pytest.mark.parametrize("name", ORDERS)
def test_random_tiles_run(name: str) -> None:
    text = CONV.format(c=8, f=10, attributes="pads = [1, 1, 1, 1]", b=", b")
    study = study_of(model(text, w=floats(0, 10, 8, 3, 3), b=floats(1, 10)), (1, 8, 9, 7), only_tiles(order=name))
    assert np.isfinite(random_outputs(study, plan_of(study))).all()


@pytest.mark.parametrize(("preset", "name"), [("tiling", "consecutive"), ("biclustering", "clustered")])
def test_the_presets_offer_tiles_alone(preset: str, name: str) -> None:
    recipe = read_recipe(preset)
    assert (recipe.low_rank.enabled, recipe.tiles.enabled, recipe.tiles.order) == (False, True, name)
    assert recipe.metric == "frobenius"


def test_a_metric_without_a_rule_for_tiles_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[low_rank]\nenabled = false\n[tiles]\nenabled = true\nmetric = "spectral"\n')
    with pytest.raises(UsageError, match=r"tiles\.metric = 'spectral'"):
        read_recipe(str(path))
