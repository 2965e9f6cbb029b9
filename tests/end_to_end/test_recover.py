"""`lissom recover` writes a model that is nearer to the original or none, and says what came of it."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import lissom
import lissom_models
import numpy as np
import onnx
import pytest
from lissom.cli import main
from lissom.cli import recover as command_line
from lissom.report.recovery import Recovery, json_schema
from onnx import numpy_helper

pytestmark = pytest.mark.ort

ROOT = Path(__file__).parents[2]
ORIGINAL = lissom_models.path("lenet5")
SETTINGS = {"epochs": 2, "batch": 32, "rate": 3e-4}
WORDS = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
STEPS = 14
"""Of the 240 samples 210 are trained on: 7 steps an epoch."""
STOPPED = 9
"""The step in which a run is told to stop."""


def changed(change: Callable[[int, np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """The network with other weights."""
    proto = onnx.load(ORIGINAL)
    for seed, tensor in enumerate(proto.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim > 1:
            tensor.CopyFrom(numpy_helper.from_array(change(seed, values).astype(np.float32), tensor.name))
    return proto


def noisy(seed: int, weight: np.ndarray) -> np.ndarray:
    return weight + 0.6 * weight.std() * np.random.default_rng(seed).standard_normal(weight.shape)


def pruned(_: int, weight: np.ndarray) -> np.ndarray:
    """With the weakest blocks of two outputs zeroed; a first layer of few inputs is left alone."""
    if weight[0].size < 50:
        return weight
    blocks = weight.copy().reshape(len(weight) // 2, 2, -1)
    strength = np.abs(blocks).sum(axis=1)
    blocks *= (strength > np.quantile(strength, 0.7))[:, None]
    return blocks.reshape(weight.shape)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(changed(noisy), tmp_path / "compressed.onnx")
    with np.load(lissom_models.calibration("lenet5")) as arrays:
        np.savez(tmp_path / "calibration.npz", image=arrays["image"][:240])
        np.savez(tmp_path / "validation.npz", image=arrays["image"][240:440], labels=arrays["labels"][240:440])
    return tmp_path


def words_of(folder: Path, *words: str) -> list[str]:
    paths = {"--reference": ORIGINAL, "-o": folder / "out.onnx", "--calibration": folder / "calibration.npz"}
    given = [str(word) for pair in paths.items() for word in pair if pair[0] not in words]
    return ["recover", str(folder / "compressed.onnx"), *given, *WORDS, *words]


def command(folder: Path, *words: str) -> int:
    return main(words_of(folder, *words))


def call(folder: Path, **options: Any) -> lissom.Recovered:
    given = {"calibration": str(folder / "calibration.npz"), "training": SETTINGS} | options
    return lissom.recover(folder / "compressed.onnx", ORIGINAL, **given)


def left(folder: Path) -> set[str]:
    """What a call added to its folder."""
    return {path.name for path in folder.iterdir()} - {"compressed.onnx", "calibration.npz", "validation.npz"}


def without_numbers(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        tensor.ClearField("raw_data")
    return copy


@pytest.mark.usefixtures("trains")
def test_the_written_model_is_nearer_to_the_original_and_has_the_same_structure(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = folder / "report.json"
    assert command(folder, "--validation", str(folder / "validation.npz"), "--json", str(told)) == 0
    assert "held-out samples" in capsys.readouterr().out
    out = onnx.load(folder / "out.onnx")
    assert without_numbers(out) == without_numbers(onnx.load(folder / "compressed.onnx"))
    report = json.loads(told.read_text(encoding="utf-8"))
    jsonschema.validate(report, json_schema())
    assert report["status"] == "met"
    assert report["remarks"] == []
    assert report["distortion_after"] < 0.7 * report["distortion_before"]
    assert (report["training"]["samples"], report["training"]["epochs"]) == (240, 2)
    assert report["training"]["best_epoch"] > 0
    assert report["bytes_after"] == report["bytes_before"] == (folder / "out.onnx").stat().st_size
    scores = {score["metric"]: score for score in report["scores"]}
    assert list(scores) == ["top1", "agreement", "output"]
    assert scores["agreement"]["original"] == 1
    assert scores["agreement"]["recovered"] > scores["agreement"]["compressed"]
    assert all(score["n"] == 200 for score in scores.values())
    words = ["check", str(ORIGINAL), str(folder / "out.onnx"), "--data", str(folder / "validation.npz")]
    assert main([*words, "--json", str(folder / "check.json")]) == 0
    for found in json.loads((folder / "check.json").read_text(encoding="utf-8"))["accuracy"]:
        assert found["after"] == scores[found["metric"]]["recovered"]


@pytest.mark.usefixtures("trains")
def test_a_run_in_limited_time_that_matches_blocks_too_is_better(folder: Path) -> None:
    told = folder / "report.json"
    assert command(folder, "--minutes", "60", "--blocks", "0.3", "--json", str(told)) == 0
    report = json.loads(told.read_text(encoding="utf-8"))
    jsonschema.validate(report, json_schema())
    settings = report["training"]["settings"]
    assert (settings["minutes"], settings["blocks"], settings["block_names"]) == (60, 0.3, [])
    assert report["training"]["epochs"] == SETTINGS["epochs"]
    assert report["distortion_after"] < 0.7 * report["distortion_before"]


@pytest.mark.usefixtures("trains")
def test_a_call_with_models_in_memory_leaves_them_and_says_what_its_scores_are_of(folder: Path) -> None:
    protos = [onnx.load(path) for path in (folder / "compressed.onnx", ORIGINAL)]
    before = [proto.SerializeToString() for proto in protos]
    found = lissom.recover(*protos, calibration=str(folder / "calibration.npz"), training=SETTINGS)
    assert found.missed == ""
    assert any("--validation" in remark for remark in found.report.remarks)
    assert [proto.SerializeToString() for proto in protos] == before
    assert left(folder) == set()


@pytest.mark.usefixtures("trains")
def test_a_model_that_training_makes_worse_is_not_written_unless_it_is_to_be_kept(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = ["--rate", "1", "--epochs", "1", "--json", str(folder / "report.json")]
    assert command(folder, *worse) == 1
    assert "expected training to lower the distortion" in capsys.readouterr().err
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["status"] == "missed"
    assert left(folder) == {"report.json"}
    assert command(folder, *worse, "--keep-anyway") == 1
    assert "nothing was written" not in capsys.readouterr().err
    assert onnx.load(folder / "out.onnx") == onnx.load(folder / "compressed.onnx")


@pytest.mark.usefixtures("trains")
@pytest.mark.parametrize("lower", [False, True], ids=["dense", "lowered"])
def test_packed_weights_come_back_dense_or_packed_again_with_their_zeros(folder: Path, lower: bool) -> None:
    packed = lissom.lower(changed(pruned), shapes={"image": (1, 1, 28, 28)}, measured=False)
    assert packed.missed == ""
    onnx.save(packed.model, folder / "compressed.onnx")
    report = call(folder, output=folder / "out.onnx", lower=lower, training=SETTINGS | {"epochs": 1}).report
    assert report.status == "met"
    assert any("lowered again" in remark if lower else "`lissom lower`" in remark for remark in report.remarks)
    wanted, got = (
        [node.op_type for node in proto.graph.node if node.domain == "ai.lissom"]
        for proto in (packed.model, onnx.load(folder / "out.onnx"))
    )
    assert wanted
    assert got == (wanted if lower else [])
    assert (report.bytes_after < 1.1 * report.bytes_before) == lower


@pytest.mark.usefixtures("trains")
def test_a_result_without_sparse_layers_stays_as_it_is_and_says_so(folder: Path) -> None:
    report = call(folder, lower=True, training=SETTINGS | {"epochs": 1}).report
    assert any("the result was not lowered: expected at least 1 layer" in remark for remark in report.remarks)
    assert report.bytes_after == report.bytes_before


def stopping(number: int) -> Any:
    """A progress that sends this process a signal in a step of the training."""

    def progress(items: Sequence[Any], what: str) -> Iterable[Any]:
        for item in items:
            if (what, item) == ("distilling", STOPPED):
                signal.raise_signal(number)
            yield item

    return progress


@pytest.mark.usefixtures("trains")
def test_an_interrupted_run_exits_with_130_and_ends_as_an_unbroken_one_when_it_is_resumed(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "progress", stopping(signal.SIGINT))
    assert command(folder) == 130
    assert "no model was written" in capsys.readouterr().err
    assert left(folder) == set()
    state = ["--checkpoint", str(folder / "run.safetensors")]
    assert command(folder, *state) == 130
    assert "--resume goes on from" in capsys.readouterr().err
    assert left(folder) == {"run.safetensors"}
    taken: list[int] = []

    def progress(items: Sequence[Any], what: str) -> Iterable[Any]:
        taken.extend(items if what == "distilling" else ())
        return items

    monkeypatch.setattr(command_line, "progress", progress)
    assert command(folder, *state, "--resume") == 0
    assert taken == list(range(STOPPED + 1, STEPS))
    assert onnx.load(folder / "out.onnx") == call(folder).model


class Terminated(BaseException):
    """What SIGTERM raises here, in the place of ending the tests."""


@pytest.mark.usefixtures("trains")
def test_a_terminated_run_leaves_its_state_and_the_signal_takes_its_course(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: Any) -> None:
        raise Terminated

    monkeypatch.setattr(command_line, "progress", stopping(signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(Terminated):
            command(folder, "--checkpoint", str(folder / "run.safetensors"))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert left(folder) == {"run.safetensors"}


def expect(folder: Path, capsys: pytest.CaptureFixture[str], code: int, sentence: str) -> None:
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1, "one sentence on one line"
    assert sentence in captured.err
    assert not (folder / "out.onnx").exists()
    assert not list(folder.glob(".lissom-*"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--resume"], "expected --checkpoint FILE to resume from, but got none"),
        (["-o", "IN/compressed.onnx"], "expected an output other than the input"),
        (["-o", str(ORIGINAL), "--overwrite"], "expected an output other than the input"),
        (["-o", "IN/validation.npz"], "(--overwrite replaces it)"),
        (["--checkpoint", "IN/compressed.onnx"], "expected a checkpoint apart from the models"),
        (["--checkpoint", "IN/out.onnx"], "expected a checkpoint apart from the models"),
        (["--checkpoint", "IN/some/where"], "expected a folder that can be written"),
        (["--checkpoint", "IN/validation.npz"], "(--resume goes on from it, --overwrite replaces it)"),
        (["--json", "IN/compressed.onnx"], "expected a report apart from the models"),
    ],
    ids=["resume", "itself", "original", "taken", "model", "output", "no folder", "a file", "json"],
)
def test_paths_that_do_not_fit_are_refused_before_any_work(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    expect(folder, capsys, command(folder, *[word.replace("IN", str(folder)) for word in words]), sentence)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_without_torch_the_extra_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("lissom.train.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    expect(folder, capsys, command(folder), "(pip install 'lissom[recover]')")


def renamed(old: str, new: str) -> bytes:
    """The original with another name of an input or output."""
    proto = onnx.load(ORIGINAL)
    for value in (*proto.graph.input, *proto.graph.output):
        value.name = new if value.name == old else value.name
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    return proto.SerializeToString()


def coloured() -> bytes:
    proto = onnx.load(ORIGINAL)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    return proto.SerializeToString()


@pytest.mark.usefixtures("trains")
@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (lambda: renamed("image", "picture"), "expected the inputs picture float32[?, 1, 28, 28] of the original"),
        (lambda: renamed("logits", "scores"), "expected the outputs scores float32[1, 10] of the original"),
        (coloured, "expected the inputs image float32[?, 3, 28, 28] of the original"),
    ],
    ids=["inputs", "outputs", "extents"],
)
def test_an_original_with_another_interface_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], other: Callable[[], bytes], sentence: str
) -> None:
    (folder / "other.onnx").write_bytes(other())
    expect(folder, capsys, command(folder, "--reference", str(folder / "other.onnx")), sentence)


@pytest.mark.usefixtures("trains")
@pytest.mark.parametrize(
    ("count", "value", "sentence"),
    [(1, 0.0, "has 1"), (16, np.nan, "16 that are NaN or infinite"), (16, np.inf, "16 that are NaN or infinite")],
)
def test_data_that_cannot_be_trained_on_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], count: int, value: float, sentence: str
) -> None:
    images = np.zeros((count, 1, 28, 28), np.float32)
    images[:, 0, 3, 4] = value
    np.save(folder / "bad.npy", images)
    expect(folder, capsys, command(folder, "--calibration", str(folder / "bad.npy")), sentence)


@pytest.mark.usefixtures("trains")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--epochs", "0"], "expected epochs to be 1 or more, but got 0"),
        (["--rate", "nan"], "expected rate to be above 0, but got nan"),
        (["--minutes", "0"], "expected minutes to be above 0, but got 0.0"),
        (["--blocks", "1.5"], "expected blocks to be a share of the loss, 0 to 1, but got 1.5"),
        (["--device", "tpu"], "expected the device cpu or cuda, but got 'tpu'"),
        (["--metric", "top1"], "expected labels for the metric 'top1'"),
        (["--labels", "0.5"], "label"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    expect(folder, capsys, command(folder, *words), sentence)


@pytest.mark.usefixtures("trains")
def test_a_setting_that_is_not_known_is_refused(folder: Path) -> None:
    with pytest.raises(lissom.UsageError, match=r"among epochs, .* but got 'epoch'"):
        call(folder, training={"epoch": 1})


@pytest.mark.usefixtures("trains")
def test_a_device_that_is_not_there_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a device of CUDA")
    expect(folder, capsys, command(folder, "--device", "cuda"), "expected a device of CUDA")


@pytest.mark.usefixtures("trains")
def test_a_checkpoint_of_another_run_is_refused_and_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = folder / "run.safetensors"
    words = ["--epochs", "1", "--checkpoint", str(state)]
    assert command(folder, *words) == 0
    (folder / "out.onnx").unlink()
    capsys.readouterr()
    before = state.read_bytes()
    expect(folder, capsys, command(folder, *words, "--resume", "--seed", "1"), "expected the checkpoint of this run")
    assert state.read_bytes() == before


def test_the_published_schema_is_the_one_in_force() -> None:
    published = json.loads((ROOT / "docs" / "recovery.schema.json").read_text(encoding="utf-8"))
    assert published == json_schema()
    assert Recovery.model_fields["schema_version"].default == 1
