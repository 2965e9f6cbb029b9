"""The recipes of channels and zeros through the whole compiler, on the shipped LeNet-5."""

from __future__ import annotations

import json
from pathlib import Path

import lissom
import lissom_models
import numpy as np
import onnx
import pytest
from lissom.cli import main
from lissom.job import open_job
from lissom.recipe import make_bounds, read_recipe
from lissom.recipe_tables import Refit
from lissom.report.schema import TargetEntry
from lissom.workbench import Workbench
from lissom_runtime.errors import UsageError
from lissom_runtime.session import open_session, run_session

MODEL = lissom_models.path("lenet5")
DATA = str(lissom_models.calibration("lenet5"))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first 128 calibration images."""
    path = tmp_path_factory.mktemp("data") / "few.npz"
    with np.load(DATA) as whole:
        np.savez(path, **{name: whole[name][:128] for name in whole.files})
    return str(path)


@pytest.mark.ort
@pytest.mark.parametrize("recipe", ["nodes", "scalpel"])
def test_channels_are_cut_and_what_is_left_is_dense(recipe: str, few: str, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    target = "gpu" if recipe == "scalpel" else None
    found = lissom.compress(MODEL, output, recipe=recipe, bounds={"keep_macs": 0.6}, calibration=few, target=target)
    report = found.report
    assert report.status == "met"
    assert report.after is not None
    assert report.after.macs <= 0.6 * report.before.macs
    assert report.predicted.macs == pytest.approx(report.after.macs)
    changed = [layer for layer in report.layers if layer.kind != "dense"]
    assert {layer.kind for layer in changed} == {"nodes"}
    assert {layer.op for layer in changed} == {"channels"}
    written = onnx.load(output)
    assert {node.domain for node in written.graph.node} == {""}
    assert report.after.params < report.before.params
    assert report.target == (None if target is None else TargetEntry(name="gpu", parallelism="high"))
    (value,) = run_session(open_session(output), {written.graph.input[0].name: np.zeros((1, 1, 28, 28), np.float32)})
    assert value.shape == (1, 10)


@pytest.mark.ort
def test_a_microcontroller_gets_groups_along_the_rows(few: str) -> None:
    found = lissom.compress(
        MODEL, recipe="scalpel", bounds={"keep_params": 0.3}, calibration=few, target="microcontroller"
    )
    changed = [layer for layer in found.report.layers if layer.kind != "dense"]
    assert {layer.kind for layer in changed} == {"block-sparse"}
    assert {layer.parameters["pattern"] for layer in changed} == {"rows"}
    for layer in changed:
        assert layer.storage is not None
        assert layer.storage.dense == layer.before.bytes
        assert (layer.storage.grouped < layer.storage.dense) == (
            layer.after.params / layer.before.params < layer.storage.grouped_break_even
        )
    assert found.report.after is not None
    assert found.report.after.params <= 0.3 * found.report.before.params


@pytest.mark.ort
def test_a_target_that_is_needed_and_not_given_is_asked_for(few: str) -> None:
    with pytest.raises(UsageError, match=r"expected --target NAME\|FILE for the recipe 'scalpel'"):
        lissom.compress(MODEL, recipe="scalpel", bounds={"keep_macs": 0.6}, calibration=few)


@pytest.mark.ort
def test_latency_is_not_measured_here_for_a_target_that_is_elsewhere(
    few: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compress", str(MODEL), "-o", "none.onnx", "--recipe", "scalpel", "--calibration", few]
    assert main([*words, "--target", "gpu", "--latency-ratio", "0.5"]) == 2
    assert "was measured on none: it is a class of processors" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "--target", "nowhere.toml", "--keep-macs", "0.5"]) == 2
    assert "nowhere.toml" in capsys.readouterr().err


@pytest.mark.ort
def test_a_sweep_takes_a_target_too(few: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    words = ["sweep", str(MODEL), "--recipe", "scalpel", "--target", "gpu", "--keep-macs", "0.7", "--calibration", few]
    assert main([*words, "--json", str(path)]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert row["report"]["target"] == {"name": "gpu", "parallelism": "high"}


@pytest.mark.ort
def test_a_bound_that_is_asked_for_twice_has_one_answer(few: str) -> None:
    recipe = read_recipe("scalpel").model_copy(update={"by_target": False, "refit": Refit()})
    job = open_job(MODEL, calibration=few)
    bench = Workbench(job, recipe, job.scorer(job.validation))
    first, second = (bench.answer(make_bounds(keep_params=0.06)).report for _ in range(2))
    assert {"nodes", "block-sparse"} <= {layer.kind for layer in first.layers}
    assert first.layers == second.layers
    assert first.latency == second.latency
