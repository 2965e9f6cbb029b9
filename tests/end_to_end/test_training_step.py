"""`lissom compress` trains what it found before it writes it, where the recipe says so: never to the worse."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import lissom
import lissom_models
import numpy as np
import onnx
import pytest
from lissom.cli import main
from lissom.recipe import Recipe, read_recipe
from lissom.report.schema import json_schema

pytestmark = pytest.mark.ort

NETWORK = "lenet5"
ORIGINAL = lissom_models.path(NETWORK)
SETTINGS = {"epochs": 2, "batch": 32, "rate": 5e-4}
SHAPE = ["--shape", "image:1,1,28,28"]
TABLE = "[train]\nenabled = true\n" + "".join(f"{name} = {value}\n" for name, value in SETTINGS.items())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Images to train on, and others to score, of which only these have labels."""
    folder = tmp_path_factory.mktemp("data")
    with np.load(lissom_models.calibration(NETWORK)) as arrays:
        np.savez(folder / "calibration.npz", image=arrays["image"][:240])
        np.savez(folder / "validation.npz", image=arrays["image"][240:440], labels=arrays["labels"][240:440])
    return str(folder / "calibration.npz"), str(folder / "validation.npz")


def trained(name: str, **settings: Any) -> Recipe:
    """A preset that trains."""
    recipe = read_recipe(name)
    asked = {"enabled": True, **SETTINGS, **settings}
    return recipe.model_copy(update={"train": dataclasses.replace(recipe.train, **asked)})


def compressed(recipe: Recipe | str, data: tuple[str, str], **bounds: float) -> lissom.Result:
    return lissom.compress(ORIGINAL, recipe=recipe, bounds=bounds, calibration=data[0], validation=data[1])


def scores(result: lissom.Result) -> dict[str, float]:
    return {score.metric: score.after for score in result.report.accuracy}


def nodes(result: lissom.Result) -> list[tuple[str, str]]:
    assert result.model is not None
    return [(node.op_type, node.name) for node in result.model.graph.node]


@pytest.mark.usefixtures("trains")
def test_the_command_trains_what_it_found_and_says_so(
    tmp_path: Path, data: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out, told = tmp_path / "svd.toml", tmp_path / "out.onnx", tmp_path / "report.json"
    recipe.write_text('[low_rank]\nmetric = "frobenius"\n[allocate]\nobjective = "constant"\n' + TABLE)
    words = ["compress", str(ORIGINAL), "-o", str(out), "--keep-params", "0.3", "--json", str(told)]
    assert main([*words, "--recipe", str(recipe), "--calibration", data[0], "--validation", data[1]]) == 0
    assert "trained: 2 epochs of 240 samples" in capsys.readouterr().out
    report = json.loads(told.read_text(encoding="utf-8"))
    jsonschema.validate(report, json_schema())
    training = report["training"]
    assert training["kept"]
    assert training["distortion_after"] < 0.8 * training["distortion_before"]
    assert (training["samples"], training["epochs"], training["settings"]["batch"]) == (240, 2, 32)
    assert set(training["settings"]).isdisjoint({"enabled", "device", "slack"})
    assert report["verified"] < 1e-3
    assert report["after"]["bytes"] == out.stat().st_size
    before = compressed(
        read_recipe(str(recipe)).model_copy(update={"train": lissom.recipe.Train()}), data, keep_params=0.3
    )
    assert before.report.training is None
    assert nodes(before) == [(node.op_type, node.name) for node in onnx.load(out).graph.node]
    found = {score["metric"]: score["after"] for score in report["accuracy"]}
    assert found["output"] > scores(before)["output"] + 1
    assert found["agreement"] > scores(before)["agreement"]


@pytest.mark.usefixtures("trains")
def test_sparse_layers_are_trained_before_they_are_packed_and_keep_their_zeros(data: tuple[str, str]) -> None:
    before, after = (compressed(recipe, data, keep_params=0.2) for recipe in ("magnitude", trained("magnitude")))
    assert nodes(after) == nodes(before)
    assert any(node.domain == "ai.lissom" for node in after.model.graph.node)
    assert after.report.after == before.report.after
    assert after.report.training.distortion_after < after.report.training.distortion_before
    assert scores(after)["output"] > scores(before)["output"] + 1
    packed = [
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in result.model.graph.initializer}
        for result in (before, after)
    ]
    integers = [name for name, values in packed[0].items() if values.dtype.kind in "iu"]
    assert integers
    for name in integers:
        np.testing.assert_array_equal(packed[0][name], packed[1][name])


@pytest.mark.usefixtures("trains")
def test_a_result_that_training_makes_worse_is_written_untrained(data: tuple[str, str]) -> None:
    before, after = (
        compressed(recipe, data, keep_params=0.3) for recipe in ("svd", trained("svd", rate=1.0, epochs=1))
    )
    assert after.missed == ""
    assert not after.report.training.kept
    assert after.report.training.distortion_after == after.report.training.distortion_before
    assert after.model == before.model
    assert after.report.accuracy == before.report.accuracy


@pytest.mark.usefixtures("trains")
def test_a_goal_is_judged_after_the_training_and_slack_makes_the_result_smaller(data: tuple[str, str]) -> None:
    strict, slack = (compressed(trained("svd", slack=slack), data, max_drop=0.05) for slack in (0.0, 0.2))
    for result in (strict, slack):
        drop = result.report.accuracy[0].drop
        assert (result.missed == "") == (drop <= 0.05)
        assert max(step.drop for step in result.report.tries if step.met) <= 0.05 + (0.2 if result is slack else 0)
    assert strict.missed == ""
    assert slack.report.after.params < strict.report.after.params


@pytest.mark.usefixtures("trains")
def test_a_goal_that_is_not_reached_by_training_either_is_missed(data: tuple[str, str]) -> None:
    result = compressed(trained("svd", slack=1.0, rate=1e-9, epochs=1), data, max_drop=0.01)
    assert "expected to lose at most 0.01" in result.missed
    assert "after its training" in result.missed
    assert result.report.status == "missed"


@pytest.mark.usefixtures("trains")
def test_every_row_of_a_sweep_is_trained_and_one_plan_once(data: tuple[str, str]) -> None:
    bounds = [{"keep_params": 0.3}, {"keep_params": 0.3, "max_drop": 0.9}]
    rows = lissom.sweep(
        ORIGINAL, [trained("svd", epochs=1)], bounds, calibration=data[0], validation=data[1]
    ).report.rows
    assert all(row.report.training is not None for row in rows)
    alone = compressed(trained("svd", epochs=1), data, keep_params=0.3)
    assert rows[0].report.training.distortion_after == alone.report.training.distortion_after


def expect(capsys: pytest.CaptureFixture[str], code: int, sentence: str) -> None:
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, "one sentence on one line"
    assert sentence in captured.err


def command(tmp_path: Path, table: str, *words: str) -> int:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('[low_rank]\nmetric = "frobenius"\n' + table)
    given = [
        "compress",
        str(ORIGINAL),
        "-o",
        str(tmp_path / "out.onnx"),
        "--recipe",
        str(recipe),
        "--keep-params",
        "0.5",
    ]
    return main([*given, *words])


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("lissom.train.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize(("table", "words"), [(TABLE, []), ("", ["--train", "1"])], ids=["table", "flag"])
def test_without_torch_the_extra_is_named_before_any_work(
    tmp_path: Path, data: tuple[str, str], capsys: pytest.CaptureFixture[str], table: str, words: list[str]
) -> None:
    code = command(tmp_path, table, "--calibration", data[0], *words)
    expect(capsys, code, "(pip install 'lissom[recover]')")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.usefixtures("without_torch")
def test_a_dry_run_trains_nothing_and_needs_no_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path, TABLE, *SHAPE, "--dry-run") == 0
    assert "trained" not in capsys.readouterr().out


@pytest.mark.usefixtures("trains")
@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("", "expected --calibration data for the training, but got none"),
        ("labels = 0.5\n", "has none"),
        ("blocks = 0.5\nblock_names = ['nowhere']\n", "but none gives 'nowhere'"),
    ],
    ids=["data", "labels", "blocks"],
)
def test_what_cannot_be_trained_is_refused_before_any_work(
    tmp_path: Path, data: tuple[str, str], capsys: pytest.CaptureFixture[str], table: str, sentence: str
) -> None:
    words = ["--calibration", data[0]] if table else SHAPE
    expect(capsys, command(tmp_path, TABLE + table, *words), sentence)


def test_no_time_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expect(capsys, command(tmp_path, "", "--train", "0"), "expected minutes to be above 0, but got 0.0")


def test_a_recipe_with_masks_is_not_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(lissom.UsageError, match="expected a recipe without winners"):
        read_recipe("integral").trained_for(1.0)
    expect(capsys, command(tmp_path, TABLE + "[winners]\nenabled = true\n"), "train expects a recipe without winners")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("epochs = 0", "mine.toml' expected epochs to be 1 or more, but got 0"),
        ("epochs = 'many'", "train.epochs = 'many'"),
        ("minutes = 0.0", "expected minutes to be above 0, but got 0.0"),
        ("blocks = 2.0", "expected blocks to be a share of the loss, 0 to 1, but got 2.0"),
        ("slack = -0.1", "expected slack to be 0 or more, but got -0.1"),
        ("device = 'tpu'", "train.device = 'tpu'"),
        ("epoch = 3", "train.epoch = 3"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, sentence: str
) -> None:
    expect(capsys, command(tmp_path, f"[train]\n{line}\n"), sentence)
