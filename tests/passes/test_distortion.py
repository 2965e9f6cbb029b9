"""Distortions are what the changed network's outputs say, measured on few options and kept."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from graph.onnx_text import floats, model, run
from hypothesis import given
from hypothesis import strategies as st
from lissom.graph.layers import Layer, activations, find_layers
from lissom.graph.model import Model
from lissom.kinds import menu
from lissom.lowrank import apply as surgery
from lissom.lowrank.propose import KIND, ladders
from lissom.observe import observe_shapes
from lissom.options import Menu, Parameters
from lissom.price.cache import Cache
from lissom.price.curve import PROBES
from lissom.price.distortion import DistortionTable
from lissom.price.outputs import FLOOR, distortion
from lissom.price.probing import Apart, Approximate, Behind, probe, refine
from lissom.rewrite import in_copy, own_bias, replace_weight
from lissom_runtime.errors import UsageError
from scipy.special import log_softmax

pytestmark = pytest.mark.ort

CLASSIFIER = """
net (float[N, 6, 8, 8] x) => (float[N, 5] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w0, b0)
    r = Relu(a)
    s = Conv<pads = [1, 1, 1, 1]>(r, w1)
    t = Add(s, r)
    p = GlobalAveragePool(t)
    f = Flatten(p)
    y = MatMul(f, w2)
}
"""
IMAGES = """
net (float[N, 6, 8, 8] x) => (float[N, 12, 8, 8] y) {
    a = Conv<pads = [1, 1, 1, 1]>(x, w0, b0)
    r = Relu(a)
    s = Conv<pads = [1, 1, 1, 1]>(r, w1)
    y = Add(s, r)
}
"""
WEIGHTS = {"w0": floats(1, 12, 6, 3, 3), "b0": floats(2, 12), "w1": floats(3, 12, 12, 3, 3), "w2": floats(4, 12, 5)}
BATCHES = [{"x": floats(10 + n, 4, 6, 8, 8)} for n in range(3)]
LINES = {"x": floats(9, 5, 6)}
ALL = {"x": np.concatenate([feeds["x"] for feeds in BATCHES])}


def net(text: str, **other: npt.NDArray[np.float32]) -> Model:
    weights = WEIGHTS | other
    return model(text, **{name: values for name, values in weights.items() if f"{name})" in text or f"{name}," in text})


def sites(loaded: Model, feeds: Mapping[str, npt.NDArray[Any]] = BATCHES[0]) -> list[tuple[Layer, Menu]]:
    """The layers, named, with all their low-rank options."""
    for number, node in enumerate(loaded.graph.nodes):
        node.name = f"n{number}"
    layers = find_layers(loaded, observe_shapes(loaded, activations(loaded), feeds)).layers
    offers = [ladders(layer.name, layer.weight, layer.geometry, "frobenius", (0, 3)) for layer in layers]
    return [
        (layer, menu(layer.name, layer.weight, layer.geometry, "frobenius", offer))
        for layer, offer in zip(layers, offers, strict=True)
    ]


def with_option(loaded: Model, layer: Layer, parameters: Parameters) -> dict[str, npt.NDArray[Any]]:
    """The first output of the whole network with one option in it, on all samples."""
    copy = loaded.copy()
    replace_weight(in_copy(copy, layer), surgery.approximate(layer, parameters, None))
    return {"y": run(copy, ALL)[0]}


def kl(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> float:
    a, b = (log_softmax(scores.astype(np.float64), axis=1) for scores in (before, after))
    return float((np.exp(a) * (a - b)).sum(axis=1).mean())


def energy(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> float:
    return float(((after - before) ** 2).sum() / (before.astype(np.float64) ** 2).sum())


MEASURES = {"output_kl": (CLASSIFIER, kl), "output_error": (IMAGES, energy)}


@pytest.mark.parametrize("metric", MEASURES)
def test_probes_are_measured_on_the_outputs_of_the_whole_network(tmp_path: Path, metric: str) -> None:
    text, measure = MEASURES[metric]
    loaded = net(text)
    before = run(loaded, ALL)[0]
    asked: list[Parameters] = []

    def approximate(layer: Layer, parameters: Parameters, moment: Any) -> npt.NDArray[Any]:
        asked.append(parameters)
        return surgery.approximate(layer, parameters, moment)

    table = DistortionTable(loaded, BATCHES, {KIND: approximate}, Cache(tmp_path, "distortion"))
    for layer, offered in sites(loaded):
        asked.clear()
        (priced,) = table.price([(layer, offered)])
        assert 1 < len(asked) <= PROBES
        for parameters in asked:
            (value,) = (
                ladder.error[list(ladder.steps).index(parameters["rank"])]
                for ladder in priced.ladders
                if ladder.parameters.items() <= parameters.items()
            )
            wanted = measure(before, with_option(loaded, layer, parameters)["y"])
            assert value == pytest.approx(wanted, rel=1e-3, abs=1e-9) or value > wanted  # made monotone upwards
        for ladder, unpriced in zip(priced.ladders, offered.ladders, strict=True):
            assert ladder.metric == metric
            assert (np.diff(ladder.error) <= 0).all()
            np.testing.assert_array_equal(ladder.error == 0, unpriced.error == 0)
        assert priced.dense.error == 0


def test_only_what_depends_on_the_layer_runs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = net(CLASSIFIER)
    run_again: list[list[str]] = []

    def seen(approximate: Mapping[str, Approximate], behind: Behind) -> list[dict[int, float]]:
        run_again.append([node.op_type for node in onnx.load_from_string(behind.proto).graph.node])
        return probe(approximate, behind)

    monkeypatch.setattr("lissom.price.distortion.probe", seen)
    list(DistortionTable(loaded, BATCHES, {KIND: surgery.approximate}, Cache(tmp_path)).price(sites(loaded)))
    behind = ["Conv", "Add", "GlobalAveragePool", "Flatten", "MatMul"]
    assert run_again == [["Conv", "Relu", *behind], behind, ["MatMul"]]


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    loaded = net(CLASSIFIER)
    asked = sites(loaded)
    cache = Cache(tmp_path, "distortion")
    first = list(DistortionTable(loaded, BATCHES, {KIND: surgery.approximate}, cache).price(asked))

    def refuse(*_: object) -> npt.NDArray[Any]:
        raise AssertionError("measured again")

    again = list(DistortionTable(loaded, BATCHES, {KIND: refuse}, cache).price(asked))
    for one, other in zip(first, again, strict=True):
        for a, b in zip(one.ladders, other.ladders, strict=True):
            np.testing.assert_array_equal(a.error, b.error)
    with pytest.raises(AssertionError, match="measured again"):
        next(DistortionTable(loaded, BATCHES[:2], {KIND: refuse}, cache).price(asked))


def test_a_layer_that_the_output_hardly_depends_on_has_little_distortion(tmp_path: Path) -> None:
    weak = net(IMAGES, w1=1e-3 * WEIGHTS["w1"])
    table = DistortionTable(weak, BATCHES, {KIND: surgery.approximate}, Cache(tmp_path, "distortion"))
    strong, faint = table.price(sites(weak))
    assert faint.ladders[0].error[0] < 1e-3 * strong.ladders[0].error[0]


@pytest.mark.parametrize(
    ("limit", "value", "seen"), [("KEPT_BYTES", 1, [0]), ("SAMPLES", 8, [0, 1]), ("SAMPLES", 1, [0]), ("WORK", 1, [0])]
)
def test_samples_beyond_a_limit_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, seen: list[int]
) -> None:
    loaded = net(CLASSIFIER)
    asked = sites(loaded)
    wanted = list(
        DistortionTable(loaded, [BATCHES[i] for i in seen], {KIND: surgery.approximate}, Cache(tmp_path / "a")).price(
            asked
        )
    )
    monkeypatch.setattr("lissom.price.distortion.LEAST_SAMPLES", 4)
    monkeypatch.setattr(f"lissom.price.distortion.{limit}", value)
    few = list(DistortionTable(loaded, BATCHES, {KIND: surgery.approximate}, Cache(tmp_path / "b")).price(asked))
    for one, other in zip(few, wanted, strict=True):
        np.testing.assert_array_equal(one.ladders[0].error, other.ladders[0].error)


def test_probabilities_are_taken_as_they_are() -> None:
    scores = [floats(1, 7, 4), floats(2, 7, 4)]
    chances = [np.exp(log_softmax(values, axis=1)) for values in scores]
    as_scores = distortion([(scores[:1], scores[1:])], classifies=True)
    assert distortion([(chances[:1], chances[1:])], classifies=True) == pytest.approx(as_scores, rel=1e-5)
    assert distortion([(scores[:1], scores[:1])], classifies=True) == 0


@pytest.mark.parametrize("classifies", [False, True])
def test_batches_make_no_difference(classifies: bool) -> None:
    before, after = [floats(1, 7, 4)], [floats(2, 7, 4)]
    parts = [slice(0, 3), slice(3, 4), slice(4, 7)]
    apart = [([before[0][rows]], [after[0][rows]]) for rows in parts]
    assert distortion(apart, classifies) == pytest.approx(distortion([(before, after)], classifies), rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    loaded = net(CLASSIFIER)
    broken: Mapping[str, npt.NDArray[Any]] = {"x": np.full((4, 6, 8, 8), bad, np.float32)}
    table = DistortionTable(loaded, [broken], {KIND: surgery.approximate}, Cache(tmp_path))
    with pytest.raises(UsageError, match="finite outputs"):
        next(table.price(sites(loaded)))


def test_a_distortion_below_rounding_counts_as_rounding(tmp_path: Path) -> None:
    dead = net(CLASSIFIER, w2=np.zeros((12, 5), np.float32))
    priced, *_ = DistortionTable(dead, BATCHES, {KIND: surgery.approximate}, Cache(tmp_path)).price(sites(dead))
    assert priced.ladders[0].error.max() == pytest.approx(FLOOR)


def test_a_weight_of_zeros_costs_no_run_and_has_no_distortion(tmp_path: Path) -> None:
    loaded = net(IMAGES, w1=np.zeros((12, 12, 3, 3), np.float32))

    def refuse(*_: object) -> npt.NDArray[Any]:
        raise AssertionError("measured")

    (_, nothing) = sites(loaded)
    (priced,) = DistortionTable(loaded, BATCHES, {KIND: refuse}, Cache(tmp_path)).price([nothing])
    assert all((ladder.error == 0).all() and ladder.metric == "output_error" for ladder in priced.ladders)


# ---- which candidates are measured


def test_a_straight_curve_takes_three_runs_and_a_bend_is_followed() -> None:
    error = np.geomspace(0.02, 1, 8)
    asked: list[int] = []

    def straight(index: int) -> float:
        asked.append(index)
        return float(error[index] ** 2)

    assert list(refine(error, straight)) == asked == [0, 7, 3]
    step = refine(error, lambda index: straight(index) * (100 if index > 4 else 1))
    assert set(step) == {0, 1, 3, 4, 5, 6, 7}
    assert refine(error[:1], straight) == {0: straight(0)}
    assert set(refine(error[:2], straight)) == {0, 1}


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(1e-9, 10)), min_size=1, max_size=PROBES))
def test_what_is_measured_is_so_once_and_always_the_ends(points: list[tuple[float, float]]) -> None:
    error = np.cumsum([step for step, _ in points])
    asked: list[int] = []

    def measure(index: int) -> float:
        asked.append(index)
        return points[index][1]

    found = refine(error, measure)
    assert len(asked) == len(set(asked))
    assert found == {index: points[index][1] for index in asked}
    assert {0, len(points) - 1} <= set(found)
    for low, high in pairwise(sorted(found)):  # what was not measured lies in a piece whose middle would have been
        assert high - low < 4 or len(found) == 3


# ---- a layer without its graph


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("y = Conv<pads = [1, 1, 1, 1]>(x, w0, b0)", ("w0", "b0")),
        ("y = Conv(x, w0)", ("w0",)),
    ],
)
def test_a_layer_apart_is_as_it_was_and_travels(text: str, weights: tuple[str, ...]) -> None:
    loaded = model(
        f"net (float[N, 6, 8, 8] x) => (float[N, 12, h, w] y) {{ {text} }}", **{name: WEIGHTS[name] for name in weights}
    )
    ((layer, _),) = sites(loaded)
    apart = Apart.of(layer)
    assert len(pickle.dumps(apart)) < layer.weight.nbytes + 10_000
    twin = pickle.loads(pickle.dumps(apart)).layer()
    np.testing.assert_array_equal(twin.weight, layer.weight)
    np.testing.assert_array_equal(own_bias(twin), own_bias(layer))
    assert (twin.name, twin.op, twin.geometry, twin.readers) == (layer.name, layer.op, layer.geometry, layer.readers)
    assert dict(twin.node.attrs) == dict(layer.node.attrs)


def test_a_gemm_apart_keeps_its_scaled_bias_and_one_that_is_computed_stays_unknown() -> None:
    scaled = "net (float[N, 6] x) => (float[N, 4] y) { y = Gemm <beta = 2.0> (x, w, b) }"
    mean = "c = ReduceMean <axes = [0], keepdims = 0> (x) d = MatMul(c, w)"
    computed = f"net (float[N, 6] x) => (float[N, 4] y) {{ {mean} y = Gemm(x, v, d) }}"
    weights = {"w": floats(0, 6, 4), "b": floats(1, 4)}
    ((layer, _),) = sites(model(scaled, **weights), LINES)
    np.testing.assert_array_equal(own_bias(Apart.of(layer).layer()), 2 * weights["b"])
    loaded = model(computed, w=floats(0, 6, 4), v=floats(2, 6, 4))
    layer = next(layer for layer, _ in sites(loaded, LINES) if layer.op == "Gemm")
    assert own_bias(Apart.of(layer).layer()) is None
