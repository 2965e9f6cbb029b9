"""`check` tells whether one model does the work of another; `inspect` tells what is in one."""

from __future__ import annotations

import json
from pathlib import Path

import lissom_models
import numpy as np
import onnx
import pytest
from lissom.cli import main

pytestmark = pytest.mark.ort

SHAPE = ["--shape", "image:1,1,28,28"]


@pytest.fixture
def original() -> str:
    return str(lissom_models.path("lenet5"))


@pytest.fixture
def changed(tmp_path: Path, original: str) -> str:
    proto = onnx.load(original)
    weight = proto.graph.initializer[0]
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(values), weight.name))
    path = tmp_path / "changed.onnx"
    onnx.save(proto, path)
    return str(path)


def test_a_model_agrees_with_itself(tmp_path: Path, original: str) -> None:
    told = tmp_path / "check.json"
    assert main(["check", original, original, *SHAPE, "--max-drop", "0", "--json", str(told)]) == 0
    report = json.loads(told.read_text())
    (score,) = report["accuracy"]
    assert (score["metric"], score["n"], score["after"]) == ("output", 16, 200.0)


def test_a_model_that_lost_more_than_allowed_fails(original: str, changed: str) -> None:
    data = str(lissom_models.calibration("lenet5"))
    assert main(["check", original, changed, "--data", data, "--max-drop", "0.5"]) == 1
    assert main(["check", original, changed, "--data", data]) == 0


def test_another_interface_fails_verification(
    tmp_path: Path, original: str, capsys: pytest.CaptureFixture[str]
) -> None:
    proto = onnx.load(original)
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = "renamed"
    onnx.save(proto, tmp_path / "renamed.onnx")
    assert main(["check", original, str(tmp_path / "renamed.onnx"), *SHAPE]) == 4
    assert "renamed" in capsys.readouterr().err


@pytest.mark.plugin_ep
def test_a_compressed_model_passes_on_a_plugin_execution_provider(
    tmp_path: Path, original: str, openvino: None
) -> None:
    out = str(tmp_path / "out.onnx")
    assert main(["compress", original, "-o", out, "--keep-params", "0.7", *SHAPE]) == 0
    for ep in ("cpu", "openvino"):
        told = tmp_path / f"{ep}.json"
        data = str(lissom_models.calibration("lenet5"))
        assert main(["check", original, out, "--data", data, "--ep", ep, "--json", str(told)]) == 0
        report = json.loads(told.read_text())
        assert report["environment"]["providers"] != []
        assert report["accuracy"][0]["n"] == 2000


def test_inspect_lists_layers_and_refusals(tmp_path: Path) -> None:
    told = tmp_path / "inspect.json"
    model = str(lissom_models.path("mobilenet-small"))
    assert main(["inspect", model, *SHAPE, "--json", str(told)]) == 0
    report = json.loads(told.read_text())
    assert report["totals"]["params"] > 0
    assert {layer["op"] for layer in report["layers"]} >= {"Conv"}
    assert any("groups; expected 1" in refusal["reason"] for refusal in report["refusals"])
    assert sum(layer["macs"] for layer in report["layers"]) < report["totals"]["macs"]


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("lissom ")
