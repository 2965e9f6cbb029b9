"""Every row of a sweep is what `compress` finds, and what one bound needed serves the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import lissom
import lissom_models
import numpy as np
import onnx
import pytest
from lissom import applying, workbench
from lissom.cli import main
from lissom.recipe import make_bounds
from lissom.report.sweep import Sweep, json_schema
from lissom.sweeping import words_of
from lissom_runtime.latency import PairedLatency, Samples

pytestmark = pytest.mark.ort

NETWORK = "lenet5"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three disjoint slices of the zoo's calibration images."""
    folder = tmp_path_factory.mktemp("data")
    paths = {}
    with np.load(lissom_models.calibration(NETWORK)) as arrays:
        for place, name in enumerate(("calibration", "validation", "test")):
            part = slice(200 * place, 200 * (place + 1))
            path = folder / f"{name}.npz"
            np.savez(path, image=arrays["image"][part], labels=arrays["labels"][part])
            paths[name] = str(path)
    return paths


def command(data: dict[str, str], *words: str, code: int = 0) -> None:
    slices = [word for name, path in data.items() for word in (f"--{name}", path)]
    assert main(["sweep", str(lissom_models.path(NETWORK)), *slices, *words]) == code


def sweep(data: dict[str, str], recipes: list[str], *bounds: dict[str, Any], **arguments: Any) -> lissom.Swept:
    return lissom.sweep(lissom_models.path(NETWORK), recipes, bounds, **data, **arguments)


def without_latency(report: Any) -> dict[str, Any]:
    """A report but for what the machine's mood changes."""
    kept: dict[str, Any] = report.model_dump(mode="json")
    del kept["latency"]
    return kept


def test_a_row_is_what_compress_finds(data: dict[str, str]) -> None:
    bounds = [{"max_drop": 0.05}, {"keep_params": 0.4}, {"max_drop": 0.02}]
    swept = sweep(data, ["minimax", "alds"], *bounds)
    rows = iter(zip(swept.report.rows, swept.models, strict=True))
    for recipe in ("minimax", "alds"):
        for asked in bounds:
            row, found = next(rows)
            single = lissom.compress(
                lissom_models.path(NETWORK),
                recipe=recipe,
                bounds=asked,
                calibration=data["calibration"],
                validation=data["validation"],
            )
            assert found == single.model
            assert row.report is not None
            assert without_latency(row.report) == without_latency(single.report)


def test_the_command_writes_what_the_call_finds_and_tells_it_as_published(tmp_path: Path, data: dict[str, str]) -> None:
    told, folder = tmp_path / "sweep.json", tmp_path / "out"
    command(data, "--recipe", "alds", "--recipe", "minimax", "--keep-params", "0.5", "--keep-params", "0.7",
            "--out-dir", str(folder), "--json", str(told))  # fmt: skip
    report = json.loads(told.read_text(encoding="utf-8"))
    jsonschema.validate(report, json_schema())
    swept = sweep(data, ["alds", "minimax"], {"keep_params": 0.5}, {"keep_params": 0.7})
    names = [f"lenet5-{recipe}-keep-params-{keep}.onnx" for recipe in ("alds", "minimax") for keep in ("0.5", "0.7")]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert [Path(row["file"]).name for row in report["rows"]] == names
    assert [onnx.load(folder / name) for name in names] == list(swept.models)
    assert report["status"] == "met"
    assert [study["recipe"] for study in report["studies"]] == ["alds", "minimax"]


def test_the_results_are_scored_on_data_that_no_decision_sees(tmp_path: Path, data: dict[str, str]) -> None:
    folder = tmp_path / "out"
    swept = sweep(data, ["minimax"], {"keep_params": 0.3}, output=folder)
    (row,) = swept.report.rows
    assert row.report is not None
    assert row.file is not None
    assert row.report.accuracy[0].data == data["validation"]
    found = row.test[0]
    assert (found.metric, found.n, found.data) == ("top1", 200, data["test"])
    assert found.drop == found.before - found.after
    words = ["check", str(lissom_models.path(NETWORK)), row.file, "--data", data["test"]]
    assert main([*words, "--json", str(tmp_path / "check.json")]) == 0
    checked = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    assert checked["accuracy"][0]["after"] == found.after


@pytest.mark.parametrize("kept_bytes", [workbench.KEPT_BYTES, 0])
def test_goals_share_the_candidates_that_were_built_and_scored(
    monkeypatch: pytest.MonkeyPatch, data: dict[str, str], kept_bytes: int
) -> None:
    built, scored = [], []
    build, score = applying.apply, workbench.Scorer.goal
    monkeypatch.setattr(applying, "apply", lambda study, plan: built.append(plan) or build(study, plan))
    monkeypatch.setattr(workbench.Scorer, "goal", lambda scorer, model: scored.append(model) or score(scorer, model))
    monkeypatch.setattr(workbench, "KEPT_BYTES", kept_bytes)
    bounds = [{"max_drop": drop} for drop in (0.1, 0.05, 0.02)]
    swept = sweep(data, ["minimax"], *bounds)
    tries = [entry for row in swept.report.rows if row.report is not None for entry in row.report.tries]
    different = len({entry.ratio for entry in tries})
    assert different < len(tries) - 2
    assert len(scored) <= different
    assert len(built) <= (different if kept_bytes else len(tries))


def test_a_missed_row_is_told_and_not_written_and_the_others_are(
    tmp_path: Path, data: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    told, folder = tmp_path / "sweep.json", tmp_path / "out"
    command(data, "--keep-params", "0.00001", "--keep-params", "0.5", "--out-dir", str(folder),
            "--json", str(told), code=1)  # fmt: skip
    report = json.loads(told.read_text(encoding="utf-8"))
    missed, met = report["rows"]
    assert (report["status"], missed["status"], met["status"]) == ("missed", "missed", "met")
    assert missed["report"] is None
    assert "can reach is" in missed["reason"]
    assert not missed["on_front"]
    assert [path.name for path in folder.iterdir()] == ["lenet5-minimax-keep-params-0.5.onnx"]
    captured = capsys.readouterr()
    assert "1 of 2 rows miss their bound" in captured.err
    assert "keep-params 0.5" in captured.out


def slow(*_: Any) -> PairedLatency:
    return PairedLatency(Samples(np.full(40, 100.0), 1, 1.0), Samples(np.full(40, 120.0), 1, 1.0))


def test_a_goal_that_cuts_latency_is_missed_by_a_model_that_is_measured_slower(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: dict[str, str]
) -> None:
    monkeypatch.setattr(workbench, "compare", slow)
    swept = sweep(data, ["fast"], {"max_drop": 0.05}, output=tmp_path)
    (row,) = swept.report.rows
    assert row.report is not None
    assert row.report.latency is not None
    assert row.report.latency.ratio > 1
    assert (row.status, row.report.status, row.report.latency.verdict) == ("missed", "missed", "slower")
    assert "expected a faster model" in row.reason
    assert not row.on_front
    assert not list(tmp_path.iterdir())


def test_a_row_that_the_original_dominates_is_not_on_the_front(
    monkeypatch: pytest.MonkeyPatch, data: dict[str, str]
) -> None:
    swept = sweep(data, ["minimax"], {"keep_params": 1.0}, {"keep_params": 0.5})
    unchanged, smaller = swept.report.rows
    assert unchanged.report is not None
    assert unchanged.report.after is not None
    assert unchanged.report.after.bytes > unchanged.report.before.bytes, "names of nodes; nothing was gained"
    assert not unchanged.on_front
    assert smaller.on_front


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "expected a bound (--keep-params, --keep-macs, --max-bytes, --latency-ratio, --max-drop), got none"),
        (["--max-drop", "0.1", "--max-drop", "0.10"], "expected each bound once, but got 'max-drop 0.1' 2 times"),
        (["--recipe", "alds", "--recipe", "alds", "--max-drop", "0.1"], "expected each recipe once, but got 'alds'"),
        (["--recipe", "alds", "--keep-macs", "0.5"], 'expected keep_params for the objective "alds"'),
        (["--recipe", "none", "--max-drop", "0.1"], "or a TOML file, but got 'none'"),
        (["--keep-params", "1.5"], "expected valid bounds, but keep_params = 1.5"),
        (["--keep-params", "0.5", "--out-dir", "IN/some/where"], "expected a folder that can be written"),
        (["--keep-params", "0.5", "--out-dir", "IN"], "expected a folder for the results, but"),
        (["--keep-params", "0.5", "--test", "absent.npz"], "expected readable data, but absent.npz gave"),
    ],
    ids=["no bound", "bound twice", "recipe twice", "unfit", "unknown", "range", "no folder", "a file", "no data"],
)
def test_bad_arguments_are_refused_before_any_work(
    data: dict[str, str], capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    command(data, *[word.replace("IN", data["test"]) for word in words], code=2)
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_labels_of_the_test_data_that_are_no_classes_are_refused_before_any_work(
    tmp_path: Path, data: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lissom.study.canonicalise", None)
    with np.load(data["test"]) as arrays:
        np.savez(tmp_path / "test.npz", image=arrays["image"], labels=arrays["labels"] + 10)
    with pytest.raises(lissom.UsageError, match="label"):
        sweep({**data, "test": str(tmp_path / "test.npz")}, ["minimax"], {"keep_params": 0.5}, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_exists_is_not_replaced_unasked(
    tmp_path: Path, data: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "lenet5-minimax-keep-params-0.5.onnx"
    taken.write_text("mine", encoding="utf-8")
    words = ["--keep-params", "0.5", "--out-dir", str(tmp_path)]
    command(data, *words, code=2)
    assert "(--overwrite replaces it)" in capsys.readouterr().err
    assert taken.read_text(encoding="utf-8") == "mine"
    command(data, *words, "--overwrite")
    onnx.checker.check_model(onnx.load(taken))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"keep_params": 0.5}, "keep-params 0.5"),
        ({"max_bytes": 800000}, "max-bytes 800000"),
        ({"max_drop": 0.005}, "max-drop 0.005"),
        ({"max_drop": 0.005, "drop": "relative"}, "max-drop 0.005 relative"),
        ({"latency_ratio": 0.7, "max_drop": 0.01}, "latency-ratio 0.7 max-drop 0.01"),
    ],
)
def test_a_bound_is_called_by_its_flags(asked: dict[str, Any], words: str) -> None:
    assert words_of(make_bounds(**asked)) == words


def test_the_published_schema_is_the_one_in_force() -> None:
    published = json.loads((ROOT / "docs" / "sweep.schema.json").read_text(encoding="utf-8"))
    assert published == json_schema()
    assert Sweep.model_fields["schema_version"].default == 1
