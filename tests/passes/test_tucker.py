"""Tucker-2: exact at full ranks, never worse than HOSVD, ranks above the noise, the same outputs after surgery."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from graph.onnx_text import floats, model, run
from hypothesis import given
from hypothesis import strategies as st
from lissom import applying, pipeline
from lissom.graph.geometry import Geometry
from lissom.options import Ladder
from lissom.recipe import Recipe, read_recipe
from lissom.tucker.apply import approximate
from lissom.tucker.factors import RIDGE, Through, Tucker, fitted, hooi, hosvd, modes
from lissom.tucker.propose import KIND, STEPS, anchors, chain_of, ladders, limits, ranks_of
from lissom.tucker.ranks import significant
from lissom_runtime.errors import UsageError
from passes.surgery_cases import CONV, CONVOLUTIONS, moment_of, plan_of, random_outputs, relative_error, study_of
from pydantic import ValidationError

GEOMETRY = Geometry(12, 8, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "NOTSET", (8, 8), (4, 4))


def planted(seed: int, rows: int, columns: int, rank: int, noise: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    return signal + noise * rng.standard_normal((rows, columns))


def significant_in(matrix: np.ndarray) -> int:
    sigma = np.linalg.svd(matrix, compute_uv=False)
    return significant(sigma**2, max(matrix.shape))


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (64, 576), (30, 30)])
@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_the_rank_of_a_noisy_product_is_found(shape: tuple[int, int], rank: int, seed: int) -> None:
    assert significant_in(planted(seed, *shape, rank, 0.3)) == rank


@pytest.mark.parametrize("shape", [(40, 60), (64, 576)])
@pytest.mark.parametrize("seed", range(5))
def test_noise_has_rank_zero(shape: tuple[int, int], seed: int) -> None:
    assert significant_in(planted(seed, *shape, 1, 0.0) * 0 + floats(seed, *shape)) == 0


@pytest.mark.parametrize("rank", [1, 5])
def test_a_product_without_noise_has_its_rank(rank: int) -> None:
    assert significant_in(planted(0, 40, 60, rank, 0.0)) == rank


@given(scale=st.floats(1e-3, 1e3))
def test_the_rank_does_not_depend_on_the_scale(scale: float) -> None:
    assert significant_in(scale * planted(0, 20, 30, 4, 0.2)) == 4


def test_strong_noise_hides_components() -> None:
    found = [significant_in(planted(1, 40, 60, 8, noise)) for noise in (0.1, 3.0, 50.0)]
    assert found[0] == 8 > found[1] > found[2] == 0


def test_the_rank_of_nothing_is_zero() -> None:
    assert significant(np.zeros(5), 7) == 0
    assert significant(np.ones(1), 9) == 0


def error(weight: np.ndarray, found: Tucker, moment: np.ndarray | None = None) -> float:
    """The relative error of the weight that is meant, or of the layer's output."""
    return relative_error(weight, found.dense(), moment)


def kernel_of(weight: np.ndarray) -> np.ndarray:
    return modes(weight).kernel


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    """A weight of any number of kernel axes, and ranks."""
    f, c = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    kernel = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    weight = floats(draw(st.integers(0, 9)), f, c, *kernel)
    taps = int(np.prod(kernel))
    return weight, draw(st.integers(1, min(c, f * taps))), draw(st.integers(1, min(f, c * taps)))


@given(case=cases())
def test_hooi_is_never_worse_than_hosvd(case: tuple[np.ndarray, int, int]) -> None:
    weight, rank_in, rank_out = case
    start = modes(weight)
    first, last = hosvd(start, rank_in, rank_out), hooi(start, rank_in, rank_out)
    assert error(weight, last) <= error(weight, first) + 1e-9
    assert last.core.shape[1:] == (rank_out, rank_in)
    assert last.error == pytest.approx(error(weight, last), abs=1e-7)
    for basis in (last.out, last.inp):
        np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-9)


def test_hooi_is_better_than_hosvd_where_that_is_not_optimal() -> None:
    weight = floats(0, 12, 10, 3, 3)
    start = modes(weight)
    assert error(weight, hooi(start, 3, 3)) < error(weight, hosvd(start, 3, 3)) - 1e-3


@given(case=cases())
def test_full_ranks_give_the_weight_back(case: tuple[np.ndarray, int, int]) -> None:
    weight, _, _ = case
    f, c, *kernel = weight.shape
    taps = int(np.prod(kernel))
    ranks = min(c, f * taps), min(f, c * taps)
    for through in (None, Through(kernel_of(weight), moment_of(c * taps))):
        found = fitted(modes(weight), *ranks, through)
        np.testing.assert_allclose(found.dense().reshape(weight.shape), weight, atol=1e-5)


def test_a_kernel_of_low_rank_is_found_exactly() -> None:
    rng = np.random.default_rng(0)
    made = Tucker(rng.standard_normal((9, 2)), rng.standard_normal((9, 2, 3)), rng.standard_normal((8, 3)), 0.0)
    weight = made.dense().reshape(9, 8, 3, 3)
    assert error(weight, hooi(modes(weight), 3, 2)) < 1e-7


@given(case=cases(), rows=st.sampled_from([3, 200]))
def test_what_is_fitted_under_the_moment_is_never_worse_there(case: tuple[np.ndarray, int, int], rows: int) -> None:
    weight, rank_in, rank_out = case
    moment, start = moment_of(weight[0].size, rows), modes(weight)
    plain, better = (fitted(start, rank_in, rank_out, t) for t in (None, Through(kernel_of(weight), moment)))
    flat = weight.reshape(len(weight), -1)
    ridge = RIDGE * np.trace(moment) / len(moment) * (flat**2).sum() / np.trace(flat @ moment @ flat.T)
    assert (
        error(weight, better, moment) ** 2
        <= error(weight, plain, moment) ** 2 + ridge * error(weight, plain) ** 2 + 1e-9
    )
    assert better.error == pytest.approx(error(weight, better, moment), abs=1e-6)
    np.testing.assert_array_equal(better.inp, plain.inp)


def test_without_input_ranks_the_fit_is_the_best_output_error_of_that_rank() -> None:
    """tr E Σ Eᵀ is what the eigenvalues of W Σ Wᵀ beyond the rank add up to."""
    weight = floats(0, 10, 3, 3, 3)
    moment = moment_of(27)
    flat = weight.reshape(10, 27).astype(np.float64)
    energies = np.linalg.eigvalsh(flat @ moment @ flat.T)[::-1]
    for rank in range(1, 10):
        found = fitted(modes(weight), 0, rank, Through(kernel_of(weight), moment))
        assert found.inp is None
        assert error(weight, found, moment) == pytest.approx(np.sqrt(energies[rank:].sum() / energies.sum()), rel=1e-4)


def test_a_moment_of_zeros_changes_nothing() -> None:
    weight = floats(0, 6, 5, 3, 3)
    start = modes(weight)
    plain, same = (fitted(start, 2, 3, t) for t in (None, Through(kernel_of(weight), np.zeros((45, 45)))))
    np.testing.assert_array_equal(plain.dense(), same.dense())


def test_a_moment_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a moment of shape"):
        Through(kernel_of(floats(0, 6, 5, 3, 3)), np.eye(5))


def ladder(metric: str = "frobenius", **more: Any) -> Ladder:
    moment = moment_of(72) if metric == "whitened" else None
    (found,) = ladders("a", floats(0, 12, 8, 3, 3), GEOMETRY, metric, moment=moment, **more)
    return found


@pytest.mark.parametrize("metric", ["frobenius", "whitened"])
def test_every_step_has_its_true_cost_and_error(metric: str) -> None:
    weight, found = floats(0, 12, 8, 3, 3), ladder(metric)
    moment = moment_of(72) if metric == "whitened" else None
    through = None if moment is None else Through(kernel_of(weight), moment)
    assert 1 < len(found) <= STEPS
    wanted = []
    for n in range(len(found)):
        option = found.option(n)
        rank_in, rank_out = ranks_of(GEOMETRY, option.parameters)
        made = fitted(modes(weight), rank_in, rank_out, through)
        wanted.append(error(weight, made, moment))
        params = 8 * rank_in + 9 * rank_in * rank_out + 12 * rank_out
        assert option.cost.params == params
        assert option.cost.bytes == 4 * params
        assert option.cost.macs == 64 * 8 * rank_in + 16 * (9 * rank_in * rank_out + 12 * rank_out)
        assert option.cost.params < GEOMETRY.weight_size or option.cost.macs < GEOMETRY.macs
    np.testing.assert_allclose(found.error, np.maximum.accumulate(wanted[::-1])[::-1], atol=1e-6)
    assert np.all(np.diff(found.error) <= 0)


def low_rank_kernel(rank_in: int, rank_out: int, noise: float) -> np.ndarray:
    rng = np.random.default_rng(3)
    out, core, inp = (rng.standard_normal(shape) for shape in ((32, rank_out), (9, rank_out, rank_in), (24, rank_in)))
    made = Tucker(out, core, inp, 0.0)
    return made.dense().reshape(32, 24, 3, 3) + noise * rng.standard_normal((32, 24, 3, 3))


WIDE = Geometry(32, 24, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), "NOTSET", (8, 8), (8, 8))


def test_vbmf_offers_the_ranks_of_a_noisy_kernel_and_no_others() -> None:
    weight = low_rank_kernel(4, 6, 0.5)
    assert anchors(WIDE, modes(weight)) == {"anchor_in": 4, "anchor_out": 6}
    (found,) = ladders("a", weight, WIDE, "frobenius", only_anchor=True)
    assert [ranks_of(WIDE, found.option(n).parameters) for n in range(len(found))] == [(4, 6)]
    (rounded,) = ladders("a", weight, WIDE, "frobenius", only_anchor=True, rank_multiple=8)
    assert [ranks_of(WIDE, rounded.option(n).parameters) for n in range(len(rounded))] == [(8, 8)]


@given(
    anchor_in=st.integers(1, 24), anchor_out=st.integers(1, 32), step=st.integers(1, 200), multiple=st.integers(1, 8)
)
def test_both_ranks_grow_with_the_step_in_the_ratio_of_the_anchors(
    anchor_in: int, anchor_out: int, step: int, multiple: int
) -> None:
    shared = {"anchor_in": anchor_in, "anchor_out": anchor_out, "multiple": multiple}
    found, more = (ranks_of(WIDE, {**shared, "rank": n}) for n in (step, step + 1))
    largest = max(anchor_in, anchor_out)
    for rank, next_rank, anchor, limit in zip(found, more, (anchor_in, anchor_out), limits(WIDE), strict=True):
        exact = step * anchor / largest
        assert 1 <= rank <= next_rank <= limit
        assert rank == limit or (rank % multiple == 0 and exact <= rank < exact + multiple)
    assert ranks_of(WIDE, {**shared, "multiple": 1, "rank": largest}) == (anchor_in, anchor_out)


def test_a_stem_keeps_its_input_channels() -> None:
    stem = replace(GEOMETRY, in_channels=3)
    (found,) = ladders("a", floats(0, 12, 3, 3, 3), stem, "frobenius")
    assert found.parameters["anchor_in"] == 0
    for n in range(len(found)):
        option = found.option(n)
        rank_in, rank_out = ranks_of(stem, option.parameters)
        assert rank_in == 0
        assert option.cost.params == rank_out * (27 + 12)
        sigma = np.linalg.svd(floats(0, 12, 3, 3, 3).reshape(12, -1), compute_uv=False)
        assert option.error == pytest.approx(np.linalg.norm(sigma[rank_out:]) / np.linalg.norm(sigma), rel=1e-4)


def test_matrices_and_zeros_are_offered_nothing() -> None:
    linear = Geometry(8, 6)
    point = replace(GEOMETRY, kernel_shape=(1, 1), pads=(0, 0, 0, 0))
    assert ladders("a", floats(0, 8, 6), linear, "frobenius") == []
    assert ladders("a", floats(0, 12, 8, 1, 1), point, "frobenius") == []
    assert ladders("a", np.zeros((12, 8, 3, 3), np.float32), GEOMETRY, "frobenius") == []


def test_the_whitened_metric_needs_a_moment() -> None:
    with pytest.raises(ValueError, match="'whitened' needs the second moment"):
        ladders("a", floats(0, 12, 8, 3, 3), GEOMETRY, "whitened")


def only_tucker(**tucker: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": "mine", "low_rank": {"enabled": False}, "tucker": {"enabled": True, **tucker}}
    )


@pytest.mark.ort
@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("attributes", CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())
def test_a_convolution_is_replaced_exactly_at_full_ranks(attributes: str, channels: int) -> None:
    text = CONV.format(c=channels, f=10, attributes=attributes, b=", b")
    loaded = model(text, w=floats(0, 10, channels, 3, 3), b=floats(1, 10))
    study = study_of(loaded, (2, channels, 9, 7), only_tucker())
    candidate = applying.apply(study, plan_of(study, rank=1000))
    assert [node.op for node in candidate.model.graph.nodes] == ["Conv"] * (2 if channels == 3 else 3)
    feeds = {"x": floats(8, 2, channels, 9, 7)}
    np.testing.assert_allclose(run(candidate.model, feeds)[0], run(loaded, feeds)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.ort
@pytest.mark.parametrize("kernel", [(3,), (3, 1), (2, 3, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_kernels_of_other_ranks_are_replaced_exactly(kernel: tuple[int, ...], bias: bool) -> None:
    dims = ", ".join(["5"] * len(kernel))
    out = ", ".join("HWD"[: len(kernel)])
    text = f"net (float[N, 6, {dims}] x) => (float[N, 10, {out}] y) {{ y = Conv (x, w{', b' if bias else ''}) }}"
    constants = {"b": floats(1, 10)} if bias else {}
    loaded = model(text, w=floats(0, 10, 6, *kernel), **constants)
    shape = (2, 6, *(5,) * len(kernel))
    study = study_of(loaded, shape, only_tucker())
    candidate = applying.apply(study, plan_of(study, rank=1000))
    feeds = {"x": floats(8, *shape)}
    np.testing.assert_allclose(run(candidate.model, feeds)[0], run(loaded, feeds)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.ort
@pytest.mark.parametrize("metric", ["frobenius", "whitened"])
@pytest.mark.parametrize("rank", [2, 4])
def test_the_chain_computes_what_its_approximate_weight_says(metric: str, rank: int) -> None:
    """`applying.apply` verifies the surgery against that weight; the sizes are those that were promised."""
    text = CONV.format(c=8, f=10, attributes="strides = [2, 1], pads = [1, 1, 1, 1]", b=", b")
    loaded = model(text, w=floats(0, 10, 8, 3, 3), b=floats(1, 10))
    study = study_of(loaded, (4, 8, 9, 7), only_tucker(metric=metric))
    plan = plan_of(study, rank=rank)
    candidate = applying.apply(study, plan)
    assert candidate.max_difference < 1e-4
    layer, option = study.canonical.layers[0], next(iter(plan.changed.values()))
    chained = chain_of(layer.geometry, *ranks_of(layer.geometry, option.parameters))
    assert candidate.totals.params == sum(each.weight_size for each in chained) + 10
    assert candidate.totals.macs == sum(each.macs for each in chained)
    dense = approximate(layer, option.parameters, study.moments.get(layer.name))
    assert 0.05 < np.linalg.norm(dense - layer.weight) / np.linalg.norm(layer.weight) < 1


@pytest.mark.ort
def test_random_chains_run() -> None:
    text = CONV.format(c=8, f=10, attributes="pads = [1, 1, 1, 1]", b=", b")
    study = study_of(model(text, w=floats(0, 10, 8, 3, 3), b=floats(1, 10)), (1, 8, 9, 7), only_tucker())
    assert np.isfinite(random_outputs(study, plan_of(study))).all()


@pytest.mark.ort
def test_pairs_and_chains_compete_for_one_layer() -> None:
    recipe = Recipe.model_validate(
        {"name": "both", "low_rank": {"metric": "frobenius"}, "tucker": {"enabled": True}, "allocate": {}}
    )
    weight = low_rank_kernel(4, 6, 0.0).astype(np.float32)
    text = "net (float[N, 24, 8, 8] x) => (float[N, 32, 8, 8] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"
    study = study_of(model(text, w=weight), (1, 24, 8, 8), recipe)
    assert {ladder.kind for ladder in study.menus[0].ladders} == {"low-rank", KIND}
    plan = pipeline.allocate(study, {"params": 0.1 * weight.size})
    assert [option.kind for option in plan.changed.values()] == [KIND]  # a pair of rank 6 costs twice as much
    assert plan.level < 1e-6
    assert applying.apply(study, plan).totals.params <= 0.1 * weight.size


def test_the_preset_offers_one_chain_per_layer() -> None:
    recipe = read_recipe("tucker")
    assert (recipe.low_rank.enabled, recipe.tucker.enabled, recipe.tucker.ranks) == (False, True, "vbmf")
    assert recipe.metric == "frobenius"


def test_kinds_of_different_metrics_are_refused(tmp_path: Any) -> None:
    path = tmp_path / "mixed.toml"
    path.write_text('[low_rank]\nmetric = "code"\n[tucker]\nenabled = true\n')
    with pytest.raises(UsageError, match='one metric for all kinds, but found low_rank "code" and tucker "frobenius"'):
        read_recipe(str(path))


def test_a_recipe_without_any_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="but none is"):
        Recipe.model_validate({"name": "none", "low_rank": {"enabled": False}})
