"""Distortions are what the changed network's outputs say, measured on few options and kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from graph.onnx_text import floats, model, run
from lissom.graph.layers import Layer, activations, find_layers
from lissom.graph.model import Model
from lissom.kinds import menu
from lissom.lowrank import apply as surgery
from lissom.lowrank.propose import KIND, ladders
from lissom.observe import observe_shapes
from lissom.options import Menu, Parameters
from lissom.price.cache import Cache
from lissom.price.distortion import FLOOR, PROBES, DistortionTable, distortion
from lissom.rewrite import in_copy, replace_weight
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
ALL = {"x": np.concatenate([feeds["x"] for feeds in BATCHES])}


def net(text: str, **other: npt.NDArray[np.float32]) -> Model:
    weights = WEIGHTS | other
    return model(text, **{name: values for name, values in weights.items() if f"{name})" in text or f"{name}," in text})


def sites(loaded: Model) -> list[tuple[Layer, Menu]]:
    """The layers, named, with all their low-rank options."""
    for number, node in enumerate(loaded.graph.nodes):
        node.name = f"n{number}"
    layers = find_layers(loaded, observe_shapes(loaded, activations(loaded), BATCHES[0])).layers
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
        priced = table.price(layer, offered, None)
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


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    loaded = net(CLASSIFIER)
    (layer, offered), *_ = sites(loaded)
    cache = Cache(tmp_path, "distortion")
    first = DistortionTable(loaded, BATCHES, {KIND: surgery.approximate}, cache).price(layer, offered, None)

    def refuse(*_: object) -> npt.NDArray[Any]:
        raise AssertionError("measured again")

    again = DistortionTable(loaded, BATCHES, {KIND: refuse}, cache).price(layer, offered, None)
    for a, b in zip(first.ladders, again.ladders, strict=True):
        np.testing.assert_array_equal(a.error, b.error)
    with pytest.raises(AssertionError, match="measured again"):
        DistortionTable(loaded, BATCHES[:2], {KIND: refuse}, cache).price(layer, offered, None)


def test_a_layer_that_the_output_hardly_depends_on_has_little_distortion(tmp_path: Path) -> None:
    weak = net(IMAGES, w1=1e-3 * WEIGHTS["w1"])
    table = DistortionTable(weak, BATCHES, {KIND: surgery.approximate}, Cache(tmp_path, "distortion"))
    strong, faint = (table.price(layer, offered, None) for layer, offered in sites(weak))
    assert faint.ladders[0].error[0] < 1e-3 * strong.ladders[0].error[0]


def test_samples_that_do_not_fit_the_memory_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lissom.price.distortion.KEPT_BYTES", 1)
    loaded = net(CLASSIFIER)
    (layer, offered), *_ = sites(loaded)
    few = DistortionTable(loaded, BATCHES, {KIND: surgery.approximate}, Cache(tmp_path / "a")).price(
        layer, offered, None
    )
    one = DistortionTable(loaded, BATCHES[:1], {KIND: surgery.approximate}, Cache(tmp_path / "b")).price(
        layer, offered, None
    )
    np.testing.assert_array_equal(few.ladders[0].error, one.ladders[0].error)


def test_probabilities_are_taken_as_they_are() -> None:
    scores = [floats(1, 7, 4), floats(2, 7, 4)]
    chances = [np.exp(log_softmax(values, axis=1)) for values in scores]
    as_scores = distortion(scores[:1], scores[1:], classifies=True)
    assert distortion(chances[:1], chances[1:], classifies=True) == pytest.approx(as_scores, rel=1e-5)
    assert distortion(scores[:1], scores[:1], classifies=True) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    loaded = net(CLASSIFIER)
    (layer, offered), *_ = sites(loaded)
    broken: Mapping[str, npt.NDArray[Any]] = {"x": np.full((4, 6, 8, 8), bad, np.float32)}
    table = DistortionTable(loaded, [broken], {KIND: surgery.approximate}, Cache(tmp_path))
    with pytest.raises(UsageError, match="finite outputs"):
        table.price(layer, offered, None)


def test_a_distortion_below_rounding_counts_as_rounding(tmp_path: Path) -> None:
    dead = net(CLASSIFIER, w2=np.zeros((12, 5), np.float32))
    (layer, offered), *_ = sites(dead)
    priced = DistortionTable(dead, BATCHES, {KIND: surgery.approximate}, Cache(tmp_path)).price(layer, offered, None)
    assert priced.ladders[0].error.max() == pytest.approx(FLOOR)
