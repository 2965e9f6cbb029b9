"""The recipe of weights and activations through the whole compiler, on a small network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lissom
import numpy as np
import onnx
import pytest
from graph.onnx_text import floats
from lissom import search, study
from lissom.cli import main
from lissom.recipe import read_recipe
from lissom.report.schema import Report
from lissom_runtime.errors import UsageError
from lissom_runtime.latency import PairedLatency, Samples
from lissom_runtime.session import open_session, run_session
from passes.activation_cases import PLAIN, case, recipe

pytestmark = pytest.mark.ort


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small network of a ReLU and a leaky one, as a file."""
    known = case(PLAIN, w3=0.1 * floats(5, 5, 96))
    path = tmp_path_factory.mktemp("model") / "plain.onnx"
    onnx.save(known.model.to_proto(), path)
    return str(path)


@pytest.fixture(scope="module")
def data(network: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Samples, labelled as the network names them."""
    x = floats(7, 96, 3, 8, 8)
    (scores,) = run_session(open_session(network), {"x": x})
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x=x, labels=scores.argmax(axis=1))
    return str(path)


@pytest.fixture(scope="module")
def made(network: str, data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A third of the multiply-accumulates: the file and its report."""
    output = tmp_path_factory.mktemp("integral") / "out.onnx"
    told = output.with_suffix(".json")
    words = ["compress", network, "-o", str(output), "--recipe", "integral", "--keep-macs", "0.3"]
    assert main([*words, "--calibration", data, "--json", str(told), "--quiet"]) == 0
    return output, Report.model_validate_json(told.read_text())


def test_weights_and_activations_are_pruned_within_the_budget(made: tuple[Path, Report]) -> None:
    _, report = made
    assert report.status == "met"
    assert report.after is not None
    assert report.activations is not None
    assert report.after.macs <= 0.3 * report.before.macs
    kinds = {layer.op: layer.kind for layer in report.layers if layer.kind != "dense"}
    assert kinds["Conv"] == "block-sparse"
    assert kinds["activations"] == "winners"
    assert report.accuracy[0].drop < 0.1


def test_layers_that_are_not_offered_count_with_what_they_read(network: str, data: str) -> None:
    layers = [layer.name for layer in case(PLAIN).layers]
    answers = lissom.compress(
        network, recipe="integral", bounds={"keep_macs": 0.9}, calibration=data, exclude=f"^({layers[1]})$"
    )
    report = answers.report
    assert report.predicted is not None
    assert report.after is not None
    assert report.after.macs == pytest.approx(report.predicted.macs, rel=0.02)


def test_what_is_left_is_told_layer_by_layer_and_adds_up(made: tuple[Path, Report]) -> None:
    _, report = made
    assert report.activations is not None
    assert report.after is not None
    left = report.activations.account
    assert [layer.layer for layer in left.layers] == [e.site for e in report.layers if e.op != "activations"]
    for layer in left.layers:
        assert layer.paper == pytest.approx(layer.weights * layer.read)
        assert 0 < layer.counted < 1
    assert left.layers[0].read == left.layers[-1].given == 1.0
    assert report.after.macs == pytest.approx(left.paper * sum(layer.macs for layer in left.layers), abs=1)
    assert sum(layer.after.macs for layer in report.layers) == pytest.approx(report.after.macs, rel=0.1)
    weights = sum(layer.after.params for layer in report.layers) / sum(layer.before.params for layer in report.layers)
    assert weights == pytest.approx(left.weights, rel=1e-3)


def test_the_written_file_has_the_masks_and_the_zeros_that_are_told(
    made: tuple[Path, Report], network: str, data: str
) -> None:
    output, report = made
    assert report.activations is not None
    masks = [mask for mask in report.activations.masks if mask.inserted]
    assert masks
    written = onnx.load(output)
    named = [node.op_type.lower() for node in written.graph.node]
    assert sum("thresholded" in name or "shrink" in name for name in named) == len(masks)
    onnx.checker.check_model(written, full_check=True)
    written.graph.output.extend(onnx.ValueInfoProto(name=mask.tensor) for mask in masks)
    with np.load(data) as samples:
        x = samples["x"]
    values = run_session(open_session(written.SerializeToString()), {"x": x}, [mask.tensor for mask in masks])
    for mask, value in zip(masks, values, strict=True):
        assert mask.threshold is not None
        assert np.abs(value[value != 0]).min() >= mask.threshold
        told = report.activations.account.densities[mask.tensor]
        assert np.count_nonzero(value) / value.size == pytest.approx(told, rel=1e-3)


def test_curves_are_in_the_report_and_bound_the_rates_that_were_chosen(made: tuple[Path, Report]) -> None:
    _, report = made
    assert report.activations is not None
    curves = {curve.tensors[0]: curve for curve in report.activations.sensitivity}
    assert {curve.metric for curve in curves.values()} == {"top1"}
    for mask in report.activations.masks:
        assert mask.rate >= curves[mask.tensor].rate


def test_dynamic_masks_go_the_same_way(network: str, data: str) -> None:
    asked = recipe('form = "dynamic"\nalpha = 1.0')
    found = lissom.compress(network, recipe=asked, bounds={"keep_macs": 0.3}, calibration=data, keep_thresholds=True)
    assert found.model is not None
    assert found.report.status == "met"
    assert "WinnerMask" in {node.op_type for node in found.model.graph.node}


def test_a_goal_is_met_by_masks_and_weights(network: str, data: str) -> None:
    found = lissom.compress(network, recipe="integral", bounds={"max_drop": 0.05}, calibration=data, dry_run=True)
    kinds = {layer.kind for layer in found.report.layers}
    assert found.report.resource == "macs"
    assert {"block-sparse", "winners"} <= kinds


def slower(*_: Any, **__: Any) -> PairedLatency:
    """The masked network takes twice as long."""
    us = np.full(40, 10.0) + np.linspace(0, 0.1, 40)
    first, second = (Samples(us * factor, 1, 1.0) for factor in (1.0, 2.0))
    return PairedLatency(first, second)


def test_masks_that_are_not_faster_are_left_out_and_named(
    network: str, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "compare", slower)
    monkeypatch.setattr(search, "REPLANS", 0)
    found = lissom.compress(
        network,
        recipe=recipe(),
        bounds={"keep_macs": 0.5},
        calibration=data,
        keep_thresholds=False,
        keep_anyway=True,
    )
    assert found.model is not None
    assert found.report.activations is not None
    masks = found.report.activations.masks
    assert masks
    assert not any(mask.inserted for mask in masks)
    assert not any(
        word in node.op_type.lower() for node in found.model.graph.node for word in ("thresholded", "shrink")
    )
    told = {refusal.site: refusal.reason for refusal in found.report.refusals if refusal.kind == "winners"}
    for mask in masks:
        assert "of the latency with its mask: not faster (--keep-thresholds keeps it)" in told[mask.tensor]
    assert "winners" not in {layer.kind for layer in found.report.layers}


def test_masks_that_are_faster_stay(network: str, data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def faster(*_: Any, **__: Any) -> PairedLatency:
        paired = slower()
        return PairedLatency(paired.b, paired.a)

    monkeypatch.setattr(study, "compare", faster)
    found = lissom.compress(network, recipe=recipe(), bounds={"keep_macs": 0.5}, calibration=data)
    assert found.report.activations is not None
    assert found.report.activations.masks
    assert all(mask.inserted for mask in found.report.activations.masks)


def test_inspect_tells_curves_and_what_is_left(
    network: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "inspect.json"
    words = ["inspect", network, "--sensitivity", "--calibration", data, "--json", str(told)]
    assert main(words) == 0
    found = json.loads(told.read_text())
    assert [curve["metric"] for curve in found["sensitivity"]] == ["top1"] * len(found["sensitivity"])
    for curve in found["sensitivity"]:
        safe = [point for point in curve["points"] if point["rate"] >= curve["rate"]]
        assert all(curve["before"]["score"] - point["score"] < 0.02 for point in safe)
    assert found["account"]["weights"] == pytest.approx(1.0, abs=1e-3)
    assert 0 < found["account"]["paper"] < 1
    assert any(refusal["reason"] == "an input of the network is not pruned" for refusal in found["refusals"])
    printed = capsys.readouterr().out
    assert "MAC % counted" in printed
    assert found["sensitivity"][0]["tensors"][0] in printed


def test_a_sensitivity_check_needs_data(network: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", network, "--shape", "x:1,3,8,8", "--sensitivity"]) == 2
    assert "expected --calibration data for --sensitivity" in capsys.readouterr().err


def test_masks_need_data_and_a_recipe_that_offers_them(network: str, data: str) -> None:
    with pytest.raises(UsageError, match="expected --calibration data"):
        lissom.compress(network, recipe="integral", bounds={"keep_macs": 0.5}, shapes={"x": (1, 3, 8, 8)})
    with pytest.raises(UsageError, match="expected a recipe with winners for keep_thresholds, but 'obs' offers none"):
        lissom.compress(network, recipe="obs", bounds={"keep_macs": 0.5}, calibration=data, keep_thresholds=True)


INTEGRAL = (Path(lissom.__file__).parent / "recipes" / "integral.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[winners]", "[winners]\nrates = [0.0]", "greater than or equal to 0.001"),
        ("[winners]", "[winners]\nrates = [1.5]", "less than 1"),
        ("[winners]", "[winners]\nrates = []", "at least 1 item"),
        ("[winners]", "[winners]\nrates = [0.12345]", "expected rates in thousandths, but got 0.12345"),
        ("[winners]", "[winners]\nalpha = 0.0", "greater than 0"),
        ('form = "static"', 'form = "dynamic"\nkeeps_nan = true', 'expected the form "static" for per_channel and'),
        ('objective = "total"', 'objective = "minimax"', 'winners expect objective "total" and error "outputs"'),
        ('[low_rank]\nenabled = false', '[low_rank]\nmetric = "whitened"', "winners expect sparse alone beside them"),
    ],
    ids=["none", "beyond the whole", "no rates", "finer", "no sample", "dynamic", "objective", "kinds"],
)  # fmt: skip
def test_a_table_of_winners_that_means_nothing_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(INTEGRAL.replace(old, new), encoding="utf-8")
    with pytest.raises(UsageError, match="expected a valid recipe") as refused:
        read_recipe(str(path))
    assert message in str(refused.value)


@pytest.mark.parametrize("form", ["static", "dynamic"])
def test_black_calibration_images_still_give_a_network(network: str, tmp_path: Path, form: str) -> None:
    """All that is known is what the biases give; bounds are met, and other inputs have finite outputs."""
    np.savez(tmp_path / "black.npz", x=np.zeros((8, 3, 8, 8), np.float32))
    found = lissom.compress(
        network,
        recipe=recipe(f'form = "{form}"'),
        bounds={"keep_macs": 0.5},
        calibration=str(tmp_path / "black.npz"),
        keep_thresholds=True,
    )
    assert found.report.status == "met"
    assert found.model is not None
    (y,) = run_session(open_session(found.model.SerializeToString()), {"x": floats(1, 4, 3, 8, 8)})
    assert np.isfinite(y).all()
    assert y.std() > 0


def test_an_activation_that_is_nan_on_the_calibration_data_is_refused_by_name(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = case(
        PLAIN.replace("c1 = Conv <pads = [1, 1, 1, 1]> (x,", "l1 = Log (x) c1 = Conv <pads = [1, 1, 1, 1]> (l1,")
    )
    onnx.save(broken.model.to_proto(), tmp_path / "broken.onnx")
    words = ["compress", str(tmp_path / "broken.onnx"), "-o", str(tmp_path / "out.onnx"), "--recipe", "integral"]
    assert main([*words, "--keep-macs", "0.5", "--calibration", data]) == 2
    assert "NaN" in capsys.readouterr().err
    assert not (tmp_path / "out.onnx").exists()
    words = ["inspect", str(tmp_path / "broken.onnx"), "--sensitivity", "--calibration", data]
    assert main(words) == 2
    assert "expected finite activations, but got one that is NaN or infinite in 'a1'" in capsys.readouterr().err
