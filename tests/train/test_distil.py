"""A damaged network learns to give the original's outputs, never gets worse, and can be stopped and resumed."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lissom_models
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from graph.onnx_text import floats, parse, run
from lissom.data import Dataset
from lissom_runtime.errors import UsageError

pytest.importorskip("torch", reason="torch is not installed (pip install 'lissom[recover]')")

from lissom.train import loop
from lissom.train.distil import Distilled, distil
from lissom.train.torch_graph import TorchGraph
from lissom.training import Training
from train.runs import Killed, killed_after, of_arrays

pytestmark = pytest.mark.ort

SHAPES = {"w": (4, 3, 3, 3), "b": (4,), "v": (5, 4), "u": (5,)}
TEXT = """net (float[{batch}, 3, 6, 6] x) => (float[{batch}, 5] y) {{
    c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    {last} = Gemm <transB = 1> (f, v, u)
    {rest}
}}"""
TRAINING = Training(epochs=3, batch=16, rate=0.01, shift=1, flip=True)


def original(batch: str = "N", last: str = "y", rest: str = "") -> onnx.ModelProto:
    constants = {name: floats(seed, *shape) for seed, (name, shape) in enumerate(SHAPES.items())}
    return parse(TEXT.format(batch=batch, last=last, rest=rest), **constants)


def damaged(proto: onnx.ModelProto) -> onnx.ModelProto:
    """With noise in the weights, and zeros in every third of them."""
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    for seed, tensor in enumerate(found.graph.initializer):
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim > 1:
            noisy = values + 0.3 * values.std() * floats(50 + seed, *values.shape)
            noisy[np.arange(values.size).reshape(values.shape) % 3 == 0] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(noisy, tensor.name))
    return found


def dataset(count: int = 80) -> Dataset:
    return of_arrays({"x": floats(7, count, 3, 6, 6)})


def learned(**options: Any) -> Distilled:
    return distil(original(), damaged(original()), **({"data": dataset(), "training": TRAINING} | options))


def test_a_damaged_network_of_the_zoo_gets_nearer_to_the_original_on_held_out_images() -> None:
    proto = onnx.load(lissom_models.path("lenet5"))
    images = np.load(lissom_models.calibration("lenet5"))["image"][:400]
    found = distil(proto, damaged(proto), of_arrays({"image": images}), Training(epochs=3, batch=32))
    assert found.before > 0.01
    assert found.after < 0.5 * found.before


@pytest.mark.parametrize(
    ("last", "rest"),
    [("y", ""), ("s", "y = Softmax(s)"), ("s", "a = Unsqueeze(s, one) y = Relu(a)")],
    ids=["scores", "probabilities", "no classifier"],
)
def test_networks_of_every_kind_get_nearer(last: str, rest: str) -> None:
    proto = original(last=last, rest=rest)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "one"))
    if "Unsqueeze" in rest:
        proto.graph.output[0].type.tensor_type.shape.dim.add(dim_value=1)
    found = distil(proto, damaged(proto), dataset(), Training(epochs=6, batch=16, rate=0.02))
    assert found.after < 0.7 * found.before
    assert found.best_epoch > 0


def test_zeros_of_weights_stay_zero() -> None:
    before, after = (
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        for proto in (damaged(original()), learned().proto)
    )
    for name in ("w", "v"):
        np.testing.assert_array_equal(after[name] == 0, before[name] == 0)
        assert (after[name] != before[name]).any()


def test_labels_that_the_original_does_not_know_are_learned_in_the_asked_share() -> None:
    images = {"x": floats(7, 160, 3, 6, 6)}
    labels = (images["x"].mean(axis=(1, 2, 3)) > 0).astype(np.int32)
    proto, hits = original(), []
    for share in (0.0, 1.0):
        training = Training(epochs=12, batch=16, rate=0.02, labels=share, patience=12)
        found = distil(proto, damaged(proto), of_arrays(images, labels), training)
        assert found.after < found.before
        hits.append(np.mean(run(found.proto, images)[0].argmax(axis=1) == labels))
    assert hits[1] > hits[0] + 0.2


def test_what_is_measured_is_mixed_in_the_asked_share() -> None:
    labels = np.arange(80) % 5
    before = [
        distil(
            original(),
            damaged(original()),
            of_arrays({"x": floats(7, 80, 3, 6, 6)}, labels),
            Training(epochs=1, labels=share),
        ).before
        for share in (0.0, 0.25, 1.0)
    ]
    assert before[1] == pytest.approx(0.75 * before[0] + 0.25 * before[2])
    assert before[0] == learned().before


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "'made up' has none"),
        (np.zeros(80), "80 whole numbers as labels, but 'made up' has float64"),
        (np.arange(80), "labels from 0 to 4, but got 0 to 79"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: npt.NDArray[Any] | None, message: str) -> None:
    data = of_arrays({"x": floats(7, 80, 3, 6, 6)}, labels)
    with pytest.raises(UsageError, match=message):
        learned(data=data, training=Training(labels=0.5))


@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_a_model_that_training_makes_worse_comes_back_as_it_was(rate: float) -> None:
    found = learned(training=Training(epochs=2, batch=16, rate=rate))
    assert found.proto.SerializeToString() == damaged(original()).SerializeToString()
    assert found.after == found.before
    assert found.best_epoch == 0


def test_a_rate_that_is_too_high_is_cut_until_it_helps(tmp_path: Path) -> None:
    training = Training(epochs=8, batch=16, rate=2.0)
    found = learned(training=training)
    assert found.best_epoch > 2
    assert found.after < 0.9 * found.before
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        learned(training=training, checkpoint=path, progress=killed_after(12))
    assert learned(training=training, checkpoint=path, resume=True) == found


def test_training_stops_when_it_does_not_help() -> None:
    assert learned(training=Training(epochs=50, batch=16, rate=1e3, patience=2)).epochs == 2


def test_two_runs_give_the_same_bytes_and_another_seed_others() -> None:
    first, second = learned(), learned()
    other = learned(training=Training(epochs=3, batch=16, rate=0.01, shift=1, flip=True, seed=1))
    assert first == second
    assert first.proto.SerializeToString() != other.proto.SerializeToString()


def test_a_model_with_a_fixed_batch_is_trained_in_batches_of_it() -> None:
    proto = original(batch="4")
    found = distil(proto, damaged(proto), dataset(), TRAINING)
    assert found.after < found.before
    with pytest.raises(UsageError, match=r"at least 32 samples, .* 'made up' has 28"):
        distil(proto, damaged(proto), dataset(28), TRAINING)


@pytest.mark.parametrize("steps", [1, 4, 5, 6, 13])
def test_a_killed_run_that_is_resumed_ends_as_an_unbroken_one(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    unbroken = learned()
    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        learned(checkpoint=path, progress=killed_after(steps))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    taken: list[int] = []

    def progress(items: Sequence[int], _: str) -> Iterable[int]:
        taken.extend(items)
        return items

    assert learned(checkpoint=path, resume=True, progress=progress) == unbroken
    assert taken == list(range(steps, 15))


def test_a_run_that_has_ended_gives_its_result_again(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    for training in (TRAINING, Training(epochs=50, batch=16, rate=1e3, patience=2)):
        first = learned(training=training, checkpoint=path)
        assert learned(training=training, checkpoint=path, resume=True) == first


def test_a_signal_waits_for_the_checkpoint_and_then_takes_its_course(tmp_path: Path) -> None:
    path, came = tmp_path / "run.safetensors", list[int]()
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    stopped = 7

    def progress(items: Sequence[int], _: str) -> Iterable[int]:
        for item in items:
            if item == stopped:
                signal.raise_signal(signal.SIGTERM)
                assert not came
            yield item

    try:
        learned(checkpoint=path, progress=progress)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [signal.SIGTERM]
    taken: list[int] = []
    resumed = learned(checkpoint=path, resume=True, progress=lambda items, _: taken.extend(items) or items)
    assert taken[0] == stopped + 1
    assert resumed == learned()


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="expected a checkpoint of lissom"):
        learned(checkpoint=path, resume=True)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    learned(checkpoint=path)
    for other in (
        {"training": Training(epochs=4)},
        {"training": TRAINING, "data": dataset(88)},
        {"training": TRAINING, "compressed": original()},
    ):
        given = {"original": original(), "compressed": damaged(original()), "data": dataset()} | other
        with pytest.raises(UsageError, match="expected the checkpoint of this run"):
            distil(**given, checkpoint=path, resume=True)


def test_a_checkpoint_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected to write the checkpoint"):
        learned(checkpoint=tmp_path / "nowhere" / "run.safetensors")


def test_networks_that_do_not_belong_together_are_refused() -> None:
    other = parse("net (float[N, 3, 6, 6] x) => (float[N, 3, 6, 6] z) { z = Mul(x, w) }", w=floats(0, 1))
    with pytest.raises(UsageError, match=r"the outputs \['y'\] of the original"):
        distil(original(), other, dataset(), TRAINING)
    with pytest.raises(UsageError, match="the compressed model has none"):
        distil(other, other, dataset(), TRAINING)


def test_a_model_whose_outputs_are_not_finite_is_refused_before_it_is_trained() -> None:
    broken = damaged(original())
    broken.graph.initializer[3].CopyFrom(onnx.numpy_helper.from_array(np.full(5, np.inf, np.float32), "u"))
    with pytest.raises(UsageError, match="expected finite outputs"):
        distil(original(), broken, dataset(), TRAINING, progress=killed_after(0))


def test_shifts_are_refused_where_there_are_no_images() -> None:
    proto = parse("net (float[N, 4] x) => (float[N, 5] y) { y = MatMul(x, v) }", v=floats(0, 4, 5))
    with pytest.raises(UsageError, match="no input has four axes"):
        distil(proto, proto, of_arrays({"x": floats(0, 16, 4)}), TRAINING)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs to be 1 or more, but got 0"),
        ({"rate": float("nan")}, "rate to be above 0, but got nan"),
        ({"temperature": 0}, "temperature to be above 0"),
        ({"labels": 1.5}, "share of the loss, 0 to 1, but got 1.5"),
        ({"warmup": 1.0}, "share of the steps below 1, but got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Training(**wrong)


def test_the_original_is_not_trained() -> None:
    before = original().SerializeToString()
    proto = original()
    distil(proto, damaged(proto), dataset(), TRAINING)
    assert proto.SerializeToString() == before
    assert TorchGraph(proto).write_back(proto).SerializeToString() == before
