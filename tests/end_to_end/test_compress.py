"""The command and the Python call do the same, keep their bounds, and prove what they say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import lissom
import lissom_models
import numpy as np
import onnx
import pytest
from graph.onnx_text import floats, model
from lissom.cli import main
from lissom.graph.count import count_parameters
from lissom.graph.load import load
from lissom.report.schema import Report, json_schema

pytestmark = pytest.mark.ort

NETWORK = "lenet5"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first 200 calibration images of the zoo."""
    with np.load(lissom_models.calibration(NETWORK)) as arrays:
        path = tmp_path_factory.mktemp("data") / "data.npz"
        np.savez(path, image=arrays["image"][:200], labels=arrays["labels"][:200])
    return str(path)


def command(*words: str, code: int = 0) -> None:
    assert main(["compress", str(lissom_models.path(NETWORK)), *words]) == code


def report_of(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.validate(loaded, json_schema())
    return loaded


@pytest.mark.parametrize(
    ("recipe", "flag", "field", "slack"),
    [
        ("alds", "--keep-params", "params", 1.005),
        ("minimax", "--keep-params", "params", 1.0),
        ("minimax", "--keep-macs", "macs", 1.0),
    ],
)
def test_a_budget_holds_in_the_written_file(
    tmp_path: Path, data: str, recipe: str, flag: str, field: str, slack: float
) -> None:
    out, told = tmp_path / "out.onnx", tmp_path / "report.json"
    command("-o", str(out), "--recipe", recipe, flag, "0.5", "--calibration", data, "--json", str(told))
    report = report_of(told)
    assert report["status"] == "met"
    assert report["after"][field] <= 0.5 * slack * report["before"][field]
    assert count_parameters(load(out)) == report["after"]["params"]
    assert out.stat().st_size == report["after"]["bytes"]


def test_a_byte_budget_holds_in_the_written_file(tmp_path: Path, data: str) -> None:
    out = tmp_path / "out.onnx"
    command("-o", str(out), "--max-bytes", "800000", "--calibration", data)
    assert 700_000 < out.stat().st_size <= 800_000


def test_the_command_and_the_call_write_the_same_file(tmp_path: Path, data: str) -> None:
    by_command, by_call = tmp_path / "command.onnx", tmp_path / "call.onnx"
    command("-o", str(by_command), "--keep-params", "0.4", "--calibration", data)
    result = lissom.compress(lissom_models.path(NETWORK), by_call, bounds={"keep_params": 0.4}, calibration=data)
    assert by_command.read_bytes() == by_call.read_bytes()
    assert onnx.load(by_call) == result.model


def test_a_plan_by_measured_distortions_is_the_same_file_whoever_looks_at_the_layers_and_its_bound_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options, distortions and refit: nothing of them depends on who does the work, or on the other's cache."""
    text = """
    net (float[N, 4, 6, 6] x) => (float[N, 5] y) {
        a = Conv<pads = [1, 1, 1, 1]> (x, w0)
        r = Relu(a)
        b = Conv<pads = [1, 1, 1, 1]> (r, w1)
        p = GlobalAveragePool(b)
        f = Flatten(p)
        y = MatMul(f, w2)
    }
    """
    loaded = model(text, w0=floats(0, 8, 4, 3, 3), w1=floats(1, 12, 8, 3, 3), w2=floats(2, 12, 5))
    onnx.save(loaded.to_proto(), tmp_path / "in.onnx")
    np.savez(tmp_path / "data.npz", x=floats(3, 48, 4, 6, 6))
    words = ["--recipe", "lowrank", "--keep-params", "0.5", "--calibration", str(tmp_path / "data.npz")]
    written = []
    for jobs in ("1", "2"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / f"cache{jobs}"))
        out = tmp_path / f"{jobs}.onnx"
        assert main(["compress", str(tmp_path / "in.onnx"), "-o", str(out), *words, "--jobs", jobs]) == 0
        assert (tmp_path / f"cache{jobs}").exists()
        written.append(out.read_bytes())
        told = re.search(
            r"summed distortion (\S+); no plan within the limits has less than (\S+)\n", capsys.readouterr().out
        )
        assert told is not None
        assert 0 < float(told[2]) <= float(told[1])
    assert written[0] == written[1]


def test_the_interface_of_the_network_is_kept(tmp_path: Path, data: str) -> None:
    out = tmp_path / "out.onnx"
    command("-o", str(out), "--keep-params", "0.5", "--calibration", data)
    before, after = onnx.load(lissom_models.path(NETWORK)), onnx.load(out)
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)
    assert (before.ir_version, list(before.opset_import)) == (after.ir_version, list(after.opset_import))


def test_a_dry_run_writes_nothing_and_plans_what_a_run_does(tmp_path: Path, data: str) -> None:
    words = ["--keep-params", "0.5", "--calibration", data, "-o", str(tmp_path / "out.onnx")]
    command(*words, "--dry-run", "--json", str(tmp_path / "dry.json"))
    assert not (tmp_path / "out.onnx").exists()
    command(*words, "--json", str(tmp_path / "real.json"))
    dry, real = report_of(tmp_path / "dry.json"), report_of(tmp_path / "real.json")
    assert dry["layers"] == real["layers"]
    assert (dry["status"], dry["after"], dry["latency"]) == ("dry-run", None, None)


def test_a_prediction_of_size_and_work_is_what_the_file_has(tmp_path: Path, data: str) -> None:
    words = ["--shape", "image:1,1,28,28", "--validation", data, "--json", str(tmp_path / "report.json")]
    command("-o", str(tmp_path / "out.onnx"), "--keep-params", "0.5", *words)
    report = report_of(tmp_path / "report.json")
    assert report["predicted"]["macs"] == report["after"]["macs"]
    assert report["predicted"]["params"] == report["after"]["params"]


def test_a_goal_is_held_on_the_validation_data_and_the_steps_are_told(tmp_path: Path, data: str) -> None:
    command("-o", str(tmp_path / "out.onnx"), "--max-drop", "0.05", "--calibration", data,
            "--json", str(tmp_path / "report.json"))  # fmt: skip
    report = report_of(tmp_path / "report.json")
    top1 = report["accuracy"][0]
    assert (top1["metric"], top1["n"]) == ("top1", 200)
    assert top1["drop"] <= 0.05
    assert report["after"]["params"] < report["before"]["params"]
    assert any(step["met"] for step in report["tries"])
    assert all(step["drop"] <= 0.05 for step in report["tries"] if step["met"])


def test_a_missed_goal_writes_nothing_unless_asked_to(tmp_path: Path, data: str) -> None:
    out, told = tmp_path / "out.onnx", tmp_path / "report.json"
    words = ["-o", str(out), "--keep-params", "0.1", "--max-drop", "0.001", "--calibration", data, "--json", str(told)]
    command(*words, code=1)
    assert not out.exists()
    assert report_of(told)["status"] == "missed"
    command(*words, "--keep-anyway", code=1)
    assert out.exists()


def test_excluded_layers_stay_and_say_so(tmp_path: Path, data: str) -> None:
    told = tmp_path / "report.json"
    first = lissom.compress(lissom_models.path(NETWORK), bounds={"keep_params": 0.9}, calibration=data, dry_run=True)
    name = first.report.layers[0].site
    command("--dry-run", "--keep-params", "0.5", "--calibration", data, "--exclude", f"^{name}$", "--json", str(told))
    report = report_of(told)
    assert name not in {layer["site"] for layer in report["layers"]}
    assert any(refusal["site"] == name and "--exclude" in refusal["reason"] for refusal in report["refusals"])


def test_json_on_stdout_is_nothing_but_json(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    command("--dry-run", "--keep-params", "0.5", "--calibration", data, "--json", "-")
    jsonschema.validate(json.loads(capsys.readouterr().out), json_schema())


def test_a_report_holds_what_a_reader_needs_to_repeat_it(tmp_path: Path, data: str) -> None:
    command("-o", str(tmp_path / "out.onnx"), "--keep-params", "0.5", "--calibration", data,
            "--json", str(tmp_path / "report.json"))  # fmt: skip
    report = report_of(tmp_path / "report.json")
    assert len(report["model"]["sha256"]) == 64
    assert report["environment"]["threads"] == 1
    assert report["environment"]["machine"]["cpu"]
    assert report["environment"]["versions"]["onnxruntime"]
    latency = report["latency"]
    assert latency["low"] <= latency["ratio"] <= latency["high"]
    assert len(latency["original"]["samples_us"]) == len(latency["compressed"]["samples_us"]) >= 40


def test_the_published_schema_is_the_one_in_force() -> None:
    published = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
    assert published == json_schema()
    assert Report.model_fields["schema_version"].default == 1


@pytest.fixture
def tied() -> onnx.ModelProto:
    """Three products with one weight."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 64] x) => (float[N, 64] y) {
            a = MatMul(x, w)
            b = Relu(a)
            c = MatMul(b, w)
            d = Relu(c)
            y = MatMul(d, w)
        }"""
    )
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32) / 8
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return proto


@pytest.mark.parametrize("keep", [1.0, 0.75, 0.5])
def test_a_weight_that_layers_share_counts_once_and_stays_shared(tied: onnx.ModelProto, keep: float) -> None:
    result = lissom.compress(tied, bounds={"keep_params": keep}, shapes={"x": (2, 64)})
    assert result.report.before.params == 64 * 64
    assert result.report.after is not None
    assert result.report.after.params == pytest.approx(result.report.predicted.params)
    assert 0.25 * keep * 64 * 64 <= result.report.after.params <= keep * 64 * 64
    assert bool(result.plan.changed) == (keep < 1)


def test_keeping_everything_is_always_within_reach(data: str) -> None:
    for bounds in ({"keep_params": 1.0}, {"keep_macs": 1.0}, {"latency_ratio": 1.0}):
        result = lissom.compress(lissom_models.path(NETWORK), bounds=bounds, calibration=data, dry_run=True)
        assert result.report.status == "dry-run"


def test_a_model_without_anything_to_cut_says_so() -> None:
    relu = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[N, 8] x) => (float[N, 8] y) { y = Relu(x) }'
    )
    with pytest.raises(lissom.UsageError, match="with params to cut, but it has none"):
        lissom.compress(relu, bounds={"keep_params": 0.5}, shapes={"x": (2, 8)})


def test_a_single_output_is_no_classifier(tmp_path: Path) -> None:
    head = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 64] x) => (float[N, 1] y) {
            t = MatMul(x, w)
            y = MatMul(t, v)
        }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in (("w", (64, 64)), ("v", (64, 1))):
        values = rng.standard_normal(shape).astype(np.float32)
        head.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    result = lissom.compress(head, bounds={"keep_params": 0.6}, shapes={"x": (2, 64)})
    assert [score.metric for score in result.report.accuracy] == ["output"]
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((8, 64)).astype(np.float32))
    with pytest.raises(lissom.UsageError, match="expected a score with a scale of its own"):
        lissom.compress(head, bounds={"max_drop": 0.1}, calibration=str(tmp_path / "data.npz"))


@pytest.fixture
def quantised() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 8] x) => (float[N, 8] y) {
            w = DequantizeLinear(q, scale, zero)
            t = MatMul(x, w)
            y = Relu(t)
        }"""
    )
    constants = {"q": rng.integers(-99, 99, (8, 8)).astype(np.int8), "scale": np.float32(0.01), "zero": np.int8(0)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items())
    return proto


@pytest.fixture
def half() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float16[N, 8] x) => (float16[N, 8] y) { y = MatMul(x, w) }'
    )
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float16)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return proto


@pytest.mark.parametrize(("kind", "reason"), [("quantised", "DequantizeLinear"), ("half", "float16")])
def test_quantised_and_half_precision_layers_pass_through(
    request: pytest.FixtureRequest, kind: str, reason: str
) -> None:
    proto = request.getfixturevalue(kind)
    result = lissom.compress(proto, bounds={"keep_params": 1.0}, shapes={"x": (2, 8)})
    assert result.report.layers == []
    assert reason in result.report.refusals[0].reason
    assert result.model is not None
    assert [node.op_type for node in result.model.graph.node] == [node.op_type for node in proto.graph.node]
    assert list(result.model.graph.initializer) == list(proto.graph.initializer)


@pytest.mark.parametrize("spoil", [lambda words: [*words, "--verbose"], lambda words: [*words, "--quiet"]])
def test_verbosity_changes_what_is_printed_and_not_what_is_done(
    data: str, capsys: pytest.CaptureFixture[str], spoil: Callable[[list[str]], list[str]]
) -> None:
    words = ["--dry-run", "--keep-params", "0.5", "--calibration", data]
    command(*spoil(words))
    printed = capsys.readouterr().out
    assert ("rank=" in printed) == ("--verbose" in spoil([]))
