"""The low-rank family: every preset does what its source says, told apart from lissom in a few lines of numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from graph.onnx_text import floats, model, run
from hypothesis import assume, given
from hypothesis import strategies as st
from lissom import applying, pipeline
from lissom.allocate.minimax import minimax
from lissom.canonical import canonicalise
from lissom.graph.model import Model
from lissom.lowrank.energies import RULES, sensitivity_curve
from lissom.lowrank.errors import error_curve
from lissom.lowrank.foldings import SIDES, Scheme, divisors, foldings_of, nearest
from lissom.observe import observe_moments
from lissom.options import Cost, Ladder, Menu, Option, Plan, Resource
from lissom.pipeline import Study
from lissom.recipe import read_recipe
from lissom_runtime.errors import GoalMissed

NETWORK = """net (float[N, 3, 8, 8] x) => (float[N, 5] y) {
    a = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w0, b0)
    a_relu = Relu (a)
    b = Conv <pads = [1, 1, 1, 1]> (a_relu, w1, b1)
    b_relu = Relu (b)
    c = Conv (b_relu, w2, b2)
    pooled = GlobalAveragePool (c)
    flat = Flatten (pooled)
    y = Gemm <transB = 1> (flat, w3)
}"""
SHAPES = {"Conv_a": (8, 3, 3, 3), "Conv_b": (10, 8, 3, 3), "Conv_c": (12, 10, 1, 1), "Gemm_y": (5, 12)}
POSITIONS = {"Conv_a": 16, "Conv_b": 16, "Conv_c": 16, "Gemm_y": 1}
KEEPS = [0.35, 0.5, 0.7]

Scores = Mapping[str, np.ndarray]
"""score[max_rank] of each layer: what is lost at rank 0, 1, …"""


def weights() -> dict[str, np.ndarray]:
    """Weights whose singular values fall, each layer's in another way and on another scale."""
    made = {}
    for n, (name, shape) in enumerate(SHAPES.items()):
        left, _, right = np.linalg.svd(floats(n, *shape).reshape(shape[0], -1), full_matrices=False)
        sigma = (1.0 + np.arange(len(right))) ** -(0.5 + 0.3 * n)
        made[name] = (2.0**n * (left * sigma) @ right).reshape(shape).astype(np.float32)
    return made


WEIGHTS = weights()
SIZES = {name: weight.size for name, weight in WEIGHTS.items()}
UNITS = {name: len(weight) + weight[0].size for name, weight in WEIGHTS.items()}
SPECTRA = {
    name: np.linalg.svd(weight.reshape(len(weight), -1).astype(np.float64), compute_uv=False)
    for name, weight in WEIGHTS.items()
}


def network() -> Model:
    numbers = {f"w{n}": weight for n, weight in enumerate(WEIGHTS.values())}
    biases = {f"b{n}": 3 * floats(20 + n, shape[0]) for n, shape in enumerate(SHAPES.values()) if len(shape) > 2}
    return model(NETWORK, **numbers, **biases)


def calibration() -> list[dict[str, np.ndarray]]:
    return [{"x": 1 + floats(30 + n, 16, 3, 8, 8)} for n in range(2)]


@cache
def study(preset: str) -> Study:
    recipe = read_recipe(preset)
    canonical = canonicalise(network(), {"x": floats(9, 1, 3, 8, 8)})
    assert [layer.name for layer in canonical.layers] == list(SHAPES)
    moments = observe_moments(canonical.model, canonical.layers, calibration()) if recipe.needs_moments else {}
    return pipeline.propose_menus(canonical, recipe, 16, moments)


def planned(preset: str, keep: float, resource: Resource = "params") -> tuple[Plan, float]:
    """The preset's plan, and the limit that it was made for."""
    found = study(preset)
    limit = keep * sum(menu.dense.cost.get(resource) for menu in found.menus)
    return pipeline.allocate(found, {resource: limit}), limit


def ranks(plan: Plan) -> dict[str, int]:
    """The rank of every layer; 0 where it stays dense."""
    return {site: int(option.parameters.get("rank", 0)) for site, option in plan.options.items()}


def thresholded(
    scores: Scores, limit: float, units: Mapping[str, int] = UNITS, sizes: Mapping[str, int] = SIZES
) -> dict[str, int]:
    """#{r: score > τ}, at least 1, for the least τ within the limit; a layer that its pair would not shrink: 0."""

    def at(threshold: float) -> dict[str, int]:
        counts = {name: max(int((score > threshold).sum()), 1) for name, score in scores.items()}
        return {name: j if j * units[name] < sizes[name] else 0 for name, j in counts.items()}

    def size(found: Mapping[str, int]) -> float:
        return sum(j * units[name] if j else sizes[name] for name, j in found.items())

    levels = sorted({0.0, *(float(value) for score in scores.values() for value in score)})
    return next(found for found in map(at, levels) if size(found) <= limit)


def remaining(energies: np.ndarray) -> np.ndarray:
    """The share that is lost at rank 0, 1, … of energies[max_rank]."""
    return np.cumsum(energies[::-1])[::-1] / energies.sum()


ONE_GROUP: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "svd-energy": lambda sigma: remaining(sigma**2),
    "svd-nuclear": remaining,
    "svd-error": lambda sigma: sigma / sigma[0],
}


@pytest.mark.ort
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("preset", ONE_GROUP)
def test_one_threshold_on_what_every_layer_loses_gives_the_ranks(preset: str, keep: float) -> None:
    plan, limit = planned(preset, keep)
    assert ranks(plan) == thresholded({name: ONE_GROUP[preset](sigma) for name, sigma in SPECTRA.items()}, limit)
    assert {option.parameters["groups"] for option in plan.changed.values()} == {1}


@pytest.mark.ort
def test_the_rules_disagree_on_this_network() -> None:
    found = [ranks(planned(preset, 0.5)[0]) for preset in (*ONE_GROUP, "svd", "pca")]
    assert all(a != b for n, a in enumerate(found) for b in found[:n])


@pytest.mark.ort
@pytest.mark.parametrize("keep", KEEPS)
def test_svd_gives_every_layer_the_same_share_of_its_size(keep: float) -> None:
    plan, limit = planned("svd", keep)

    def at(share: float) -> dict[str, int]:
        return {name: max(int(share * SIZES[name] / UNITS[name] + 1e-9), 1) for name in SHAPES}

    shares = {j * UNITS[name] / SIZES[name] for name, sigma in SPECTRA.items() for j in range(1, len(sigma) + 1)}
    fitting = [a for a in shares if a < 1 and sum(j * UNITS[name] for name, j in at(a).items()) <= limit]
    assert ranks(plan) == at(max(fitting))


def sliced(weight: np.ndarray, groups: int) -> np.ndarray:
    """Singular values[groups, max_rank] of slices of consecutive input channels."""
    parts = np.stack([part.reshape(len(weight), -1) for part in np.split(weight, groups, axis=1)])
    return np.linalg.svd(parts.astype(np.float64), compute_uv=False)


def unit(weight: np.ndarray, groups: int) -> int:
    return groups * len(weight) + weight[0].size


def groups_of(plan: Plan) -> dict[str, int]:
    return {site: int(option.parameters["groups"]) for site, option in plan.changed.items()}


@pytest.mark.ort
@pytest.mark.parametrize("keep", KEEPS)
def test_alds_error3_thresholds_the_first_value_dropped_by_any_of_three_groups(keep: float) -> None:
    wanted = {"Conv_a": 3, "Conv_b": 4, "Conv_c": 2, "Gemm_y": 3}  # of the divisors 2 and 4 of 8 the larger
    plan, limit = planned("alds-error3", keep)
    scores = {name: sliced(w, wanted[name]).max(axis=0) / SPECTRA[name][0] for name, w in WEIGHTS.items()}
    assert ranks(plan) == thresholded(scores, limit, {name: unit(w, wanted[name]) for name, w in WEIGHTS.items()})
    assert groups_of(plan).items() <= wanted.items()


@pytest.mark.ort
@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize(
    ("preset", "wanted"),
    [
        ("alds-simple3", {"Conv_a": 3, "Conv_b": 4, "Conv_c": 2, "Gemm_y": 3}),
        ("alds-simple5", {"Conv_a": 3, "Conv_b": 4, "Conv_c": 5, "Gemm_y": 6}),
    ],
)
def test_alds_simple_gives_every_layer_the_same_relative_rank(
    preset: str, wanted: Mapping[str, int], keep: float
) -> None:
    plan, limit = planned(preset, keep)
    most = {name: sliced(weight, wanted[name]).shape[1] for name, weight in WEIGHTS.items()}
    units = {name: unit(weight, wanted[name]) for name, weight in WEIGHTS.items()}

    def at(share: float) -> dict[str, int]:
        found = {name: max(int(np.ceil(share * most[name] - 1e-9)), 1) for name in SHAPES}
        return {name: j if j * units[name] < SIZES[name] else 0 for name, j in found.items()}

    def size(found: Mapping[str, int]) -> int:
        return sum(j * units[name] if j else SIZES[name] for name, j in found.items())

    shares = sorted({j / rank for rank in most.values() for j in range(1, rank + 1)}, reverse=True)
    assert ranks(plan) == next(found for found in map(at, shares) if size(found) <= limit)
    assert groups_of(plan).items() <= wanted.items()


@pytest.mark.ort
@pytest.mark.parametrize("keep", KEEPS)
def test_alds_optk_takes_the_groups_of_least_error_within_a_common_share(keep: float) -> None:
    plan, _ = planned("alds-optk", keep)
    share = max(o.cost.params / SIZES[site] for site, o in plan.changed.items())
    for site, option in plan.changed.items():
        weight, best = WEIGHTS[site], np.inf
        for groups in divisors(weight.shape[1]):
            sigma = np.append(sliced(weight, groups).max(axis=0), 0) / SPECTRA[site][0]
            rank = min(int(share * SIZES[site] / unit(weight, groups) + 1e-9), len(sigma) - 1)
            best = min(best, sigma[rank] if rank else np.inf)
        assert option.error == pytest.approx(best, rel=1e-6)


@pytest.mark.ort
@pytest.mark.parametrize("price", [1e-5, 1e-4, 1e-3, 1e-2])
def test_l_rank_finds_what_the_c_step_finds_at_the_same_work(price: float) -> None:
    """At a price per multiply-accumulate each layer takes the rank of least price × work + energy dropped, or stays."""
    energy, work = 0.0, 0.0
    for name, sigma in SPECTRA.items():
        dropped = np.append(np.append(np.cumsum(sigma[::-1] ** 2)[::-1], 0)[1:], 0)  # rank 1, 2, …, and dense
        macs = POSITIONS[name] * np.append(UNITS[name] * np.arange(1, len(sigma) + 1), SIZES[name])
        least = np.argmin(price * macs + dropped)
        energy, work = energy + dropped[least], work + macs[least]
    plan = pipeline.allocate(study("l-rank"), {"macs": work})
    assert plan.distortion == pytest.approx(energy, rel=1e-4)
    assert plan.total("macs") <= work


@pytest.mark.ort
def test_the_energy_of_a_plan_is_that_of_the_weights_that_it_changes() -> None:
    found = study("l-rank")
    plan = pipeline.allocate(found, {"macs": 0.5 * sum(menu.dense.cost.macs for menu in found.menus)})
    lost = sum(float((SPECTRA[site][rank:] ** 2).sum()) for site, rank in ranks(plan).items() if rank)
    assert plan.changed
    assert plan.distortion == pytest.approx(lost, rel=1e-5)


def outputs(name: str) -> np.ndarray:
    """Outputs[rows, channels] of one layer on the calibration data, bias included."""
    edited = canonicalise(network(), {"x": floats(9, 1, 3, 8, 8)}).model.to_proto()
    edited.graph.output[0].name = name
    edited.graph.output[0].ClearField("type")
    batches = [run(edited, feeds)[0] for feeds in calibration()]
    return np.concatenate([np.moveaxis(values, 1, -1).reshape(-1, values.shape[1]) for values in batches])


@pytest.mark.ort
@pytest.mark.parametrize("keep", KEEPS)
def test_pca_thresholds_the_relative_variance_lost_per_multiply_accumulate(keep: float) -> None:
    plan, limit = planned("pca", keep)
    scores = {}
    for name in SHAPES:
        values = outputs(name.partition("_")[2]).astype(np.float64)
        variances = np.linalg.eigvalsh(np.cov(values.T, bias=True))[::-1][: len(SPECTRA[name])]
        scores[name] = variances / np.cumsum(variances) / (UNITS[name] * POSITIONS[name])
    assert ranks(plan) == thresholded(scores, limit)


@pytest.mark.ort
def test_pca_puts_the_mean_of_the_output_into_the_bias() -> None:
    """y = U Uᵀ (y − ȳ) + ȳ with U the leading eigenvectors of the covariance of y, for a layer with a bias."""
    text = "net (float[N, 6, H, W] x) => (float[N, 9, H, W] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w, b) }"
    loaded = model(text, w=floats(0, 9, 6, 3, 3), b=5 * floats(1, 9))
    feeds = {"x": 2 + floats(2, 8, 6, 7, 7)}
    canonical = canonicalise(loaded, feeds)
    moments = observe_moments(canonical.model, canonical.layers, [feeds])
    found = pipeline.propose_menus(canonical, read_recipe("pca"), 16, moments)
    (ladder,) = found.menus[0].ladders
    option = ladder.option(3)
    candidate = applying.apply(found, Plan({option.site: option}, option.error))

    (y,), (got,) = run(loaded, feeds), run(candidate.model, feeds)
    rows = np.moveaxis(y, 1, -1).reshape(-1, 9).astype(np.float64)
    mean = rows.mean(axis=0)
    leading = np.linalg.eigh(np.cov(rows.T))[1][:, ::-1][:, :4]
    wanted = (rows - mean) @ leading @ leading.T + mean
    np.testing.assert_allclose(np.moveaxis(got, 1, -1).reshape(-1, 9), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.ort
@pytest.mark.parametrize("keep", [0.5, 0.7])
def test_the_asymmetric_form_of_pca_takes_the_same_ranks_and_fits_them_to_the_output(keep: float) -> None:
    """Zhang's second step: each layer is fitted to the original's response on the inputs that it really gets."""
    plain, limit = planned("pca", keep)
    found = replace(study("pca-asymmetric"), calibration=calibration())
    plan = pipeline.allocate(found, {"params": limit})
    assert ranks(plan) == ranks(plain)
    fitted, unfitted = applying.apply(found, plan), applying.apply(study("pca"), plain)
    assert {site for site, judged in fitted.judged.items() if judged.kept} >= {"Conv_b", "Conv_c"}
    assert not unfitted.judged
    fresh = {"x": 1 + floats(40, 64, 3, 8, 8)}
    (wanted,) = run(network(), fresh)
    lost, kept = (float(((run(c.model, fresh)[0] - wanted) ** 2).sum()) for c in (unfitted, fitted))
    assert kept < 0.9 * lost


@st.composite
def variances(draw: st.DrawFn) -> list[tuple[list[float], int]]:
    """Falling eigenvalues, and multiply-accumulates per rank, of a few layers."""
    made = []
    for _ in range(draw(st.integers(1, 4))):
        values = draw(st.lists(st.integers(1, 1000), min_size=1, max_size=6, unique=True))
        made.append((sorted((float(v) for v in values), reverse=True), draw(st.integers(1, 7))))
    return made


@given(layers=variances(), share=st.floats(0.1, 1.0))
def test_the_sensitivity_rule_is_zhangs_greedy_choice(layers: list[tuple[list[float], int]], share: float) -> None:
    """He takes away, rank by rank, what loses the least share of a layer's kept variance for the work that it saves."""
    limit = share * sum(len(values) * macs for values, macs in layers)
    kept = [len(values) for values, _ in layers]

    def lost(n: int) -> float:
        values, macs = layers[n]
        return values[kept[n] - 1] / sum(values[: kept[n]]) / macs

    while sum(j * macs for j, (_, macs) in zip(kept, layers, strict=True)) > limit:
        removable = [n for n in range(len(layers)) if kept[n] > 1]
        if not removable:
            break
        kept[min(removable, key=lost)] -= 1
    menus = []
    for n, (values, macs) in enumerate(layers):
        left = np.sqrt(np.append(np.cumsum(values[::-1])[::-1], 0))
        error, steps = sensitivity_curve(left) / macs, np.arange(1, len(values) + 1)
        cost = (steps * macs).astype(np.float64)
        ladder = Ladder(str(n), "low-rank", {}, "rank", steps, error[1:], error[0], cost, cost, cost, "sensitivity")
        menus.append(Menu(str(n), Option(str(n), "dense", {}, Cost(1e9, 1e9, 1e9), 0.0, "sensitivity"), [ladder]))
    try:
        plan = minimax(menus, "macs", limit)
    except GoalMissed:
        assert kept == [1] * len(layers)
        return
    assume(all(kept[n] == 1 or abs(lost(n) - plan.level) > 1e-12 for n in range(len(layers))))  # no tie at the end
    assert list(ranks(plan).values()) == kept


@pytest.mark.ort
@pytest.mark.parametrize("keep", [0.6, 0.8])
def test_spatial_pairs_are_the_best_k_by_1_and_1_by_k_convolutions(keep: float) -> None:
    plan, limit = planned("spatial", keep)
    assert set(plan.changed) <= {"Conv_a", "Conv_b"}
    assert plan.changed
    for site, option in plan.changed.items():
        weight, rank = WEIGHTS[site].astype(np.float64), int(option.parameters["rank"])
        order = (0, 2, 1, 3) if option.parameters["folding"] == 1 else (0, 3, 1, 2)
        matrix = weight.transpose(order).reshape(3 * len(weight), -1)
        sigma = np.linalg.svd(matrix, compute_uv=False)
        assert option.error == pytest.approx(np.linalg.norm(sigma[rank:]) / np.linalg.norm(sigma), rel=1e-5)
        assert option.cost.params == rank * sum(matrix.shape)
    kernels = [
        tuple(node.attrs["kernel_shape"])
        for node in applying.apply(study("spatial"), plan).model.graph.nodes
        if "lissom" in node.name
    ]
    assert set(kernels) == {(3, 1), (1, 3)}
    assert plan.total("params") <= limit


SCHEMES = [
    Scheme(folding, side, groups)
    for folding in foldings_of((3, 2))
    for side in SIDES
    for groups in divisors(8 if side == "input" else 6)
]


@pytest.mark.parametrize("metric", RULES)
def test_scores_never_rise_and_end_at_zero_for_every_pair(metric: str) -> None:
    weight, rows = floats(0, 6, 8, 3, 2), floats(1, 100, 48)
    for scheme in SCHEMES:
        curve = error_curve(weight, scheme, metric, rows.T @ rows)
        assert np.all(np.diff(curve) <= 0)
        assert curve[-1] == 0
        assert curve[0] > 0


@pytest.mark.parametrize("metric", ["nuclear", "rank", "sensitivity"])
def test_relative_scores_do_not_depend_on_the_scale_of_the_weight(metric: str) -> None:
    weight, rows = floats(0, 6, 8, 3, 2).astype(np.float64), floats(1, 100, 48)
    for scheme in SCHEMES:
        small, large = (error_curve(s * weight, scheme, metric, rows.T @ rows) for s in (1.0, 16.0))
        np.testing.assert_allclose(small, large, rtol=1e-9, atol=1e-9)


def test_energy_is_absolute() -> None:
    weight = floats(0, 6, 8).astype(np.float64)
    small, large = (error_curve(s * weight, Scheme(0, "input", 2), "energy") for s in (1.0, 4.0))
    np.testing.assert_allclose(16 * small, large, rtol=1e-12)
    assert small[0] == pytest.approx((weight**2).sum())


@given(channels=st.integers(1, 200), wished=st.integers(1, 250))
def test_the_nearest_divisor_is_a_divisor_and_none_is_nearer(channels: int, wished: int) -> None:
    found = nearest(divisors(channels), wished)
    assert channels % found == 0
    assert all((abs(found - wished), -found) <= (abs(other - wished), -other) for other in divisors(channels))
