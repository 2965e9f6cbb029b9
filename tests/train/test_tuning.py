"""A network learns labels, is written back as it was but for its numbers, and can be stopped and resumed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from graph.onnx_text import floats, parse, run
from lissom_runtime.errors import UsageError

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'lissom[recover]')")

from lissom.train import loop
from lissom.train.companion import Companion
from lissom.train.dropout import Dropout
from lissom.train.schedule import Schedule
from lissom.train.torch_graph import TorchGraph
from lissom.train.tuning import Tuned, Tuning, tune
from train.networks import plain, residual
from train.runs import Killed, killed_after, of_arrays, separable

pytestmark = pytest.mark.ort

DATA = separable(120, (2, 6, 6), 3)
TUNING = Tuning(Schedule(3, 0.05, warmup=1), batch=16, held=6)


def tuned(proto: onnx.ModelProto | None = None, **options: Any) -> Tuned:
    return tune(proto or plain(), **({"data": DATA, "tuning": TUNING} | options))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adadelta"])
def test_labels_are_learned_with_every_optimizer(optimizer: Any) -> None:
    rate = {"sgd": 0.05, "adamw": 0.01, "adadelta": 1.0}[optimizer]
    tuning = Tuning(Schedule(6, rate, (4,)), optimizer, batch=16, held=6)
    found = tuned(tuning=tuning)
    assert found.epochs == 6
    assert found.after.loss < 0.5 * found.before.loss
    assert found.after.accuracy > 0.8
    assert found.after.count == 20


def test_steps_in_bfloat16_learn_and_leave_float32_weights() -> None:
    plans = [Tuning(Schedule(6, 0.05, (4,)), batch=16, held=6, precision=name) for name in ("float32", "bfloat16")]
    exact, rough = (tuned(tuning=plan) for plan in plans)
    assert rough.before == exact.before  # what is measured is float32
    assert rough.after.loss < 0.5 * rough.before.loss
    weights = [
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in found.proto.graph.initializer}
        for found in (exact, rough)
    ]
    assert [values.dtype for values in weights[1].values()] == [values.dtype for values in weights[0].values()]
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])
    kernel = next(values for values in weights[1].values() if values.ndim == 4)
    assert (kernel.view(np.uint32) & 0xFFFF).any()  # more bits than bfloat16 has


def test_what_is_said_of_the_result_is_what_the_written_model_does() -> None:
    for keeps in ("best", "last"):
        found = tuned(tuning=Tuning(TUNING.schedule, batch=16, held=6, keeps=keeps))
        feeds, labels = DATA.read(0, DATA.size)
        scores = run(found.proto, {"x": feeds["x"][::6]})[0]
        assert labels is not None
        assert np.mean(scores.argmax(axis=1) == labels[::6]) == found.after.accuracy
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        assert -np.mean(logs[np.arange(20), labels[::6]]) == pytest.approx(found.after.loss, rel=1e-4)


def test_a_network_that_gives_probabilities_learns_as_one_that_gives_scores() -> None:
    proto = plain()
    proto.graph.node[-1].output[0] = "scores"
    proto.graph.node.append(onnx.helper.make_node("Softmax", ["scores"], ["y"]))
    found, same = tuned(proto), tuned()
    assert found.after.loss == pytest.approx(same.after.loss, rel=1e-3)
    assert found.after.accuracy == same.after.accuracy


def test_zeros_stay_and_statistics_move_where_that_is_asked_for() -> None:
    proto = residual()
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "w2")
    values = np.array(onnx.numpy_helper.to_array(weight))
    values[:, ::2] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "w2"))
    for statistics in ("frozen", "updated"):
        found = tuned(proto, tuning=Tuning(TUNING.schedule, batch=16, held=6, statistics=statistics))
        after = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in found.proto.graph.initializer}
        before = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        np.testing.assert_array_equal(after["w2"] == 0, values == 0)
        assert (after["w2"] != values).any()
        assert (after["mean"] != before["mean"]).any() == (statistics == "updated")


@pytest.mark.parametrize("steps", [1, 6, 7, 16])
@pytest.mark.parametrize("optimizer", ["sgd", "adadelta"])
def test_a_killed_run_that_is_resumed_ends_as_an_unbroken_one(
    steps: int, optimizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    tuning = Tuning(TUNING.schedule, optimizer=optimizer, batch=16, held=6, shift=1, flip=True, statistics="updated")

    def go(**options: Any) -> Tuned:
        return tuned(residual(), tuning=tuning, companions=[Dropout({"e": 0.3, "s": 0.1}, seed=3)], **options)

    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        go(checkpoint=path, progress=killed_after(steps))
    assert go(checkpoint=path, resume=True).proto == go().proto
    assert go(checkpoint=path, resume=True) == go(checkpoint=path, resume=True)


def test_a_limit_on_the_time_runs_the_whole_schedule_in_the_steps_that_fit() -> None:
    seen: list[tuple[int, int]] = []
    rates: list[float] = []

    class Watch(Companion):
        def after(self, step: int, rate: float) -> None:
            rates.append(rate)

    def progress(items: Sequence[int], _: str) -> Iterable[int]:
        seen.append((items[0], len(items)))
        rates.clear()  # those of the steps that are timed
        return items

    tuning = Tuning(Schedule(2000, 0.05, (1000,)), minutes=0.05, batch=16, held=6)
    found = tuned(tuning=tuning, companions=[Watch()], progress=progress)
    ((first, count),) = seen
    assert first == 0
    assert count < 2000 * 7
    assert found.seconds < 60
    if len(rates) == count:  # a machine that slows down ends at the limit
        assert (rates[0], rates[-1]) == (0.05, pytest.approx(0.005))
        assert sum(rate > 0.01 for rate in rates) == pytest.approx(count / 2, abs=1)


def test_a_checkpoint_of_other_companions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    tuned(checkpoint=path, companions=[Dropout({"r": 0.5})])
    for other in ([], [Dropout({"r": 0.4})], [Dropout({"r": 0.5}, seed=1)]):
        with pytest.raises(UsageError, match="expected the checkpoint of this run"):
            tuned(checkpoint=path, companions=other, resume=True)


def test_what_drops_out_has_the_asked_share_and_keeps_the_mean() -> None:
    graph = TorchGraph(parse("net (float[N, 50] x) => (float[N, 50] y) { y = Relu(x) }"))
    dropout = Dropout({"y": 0.4})
    dropout.attach(graph)
    ones = {"x": torch.ones(200, 50)}
    dropout.before(0)
    found = graph(ones)["y"]
    assert (found == 0).float().mean() == pytest.approx(0.4, abs=0.02)
    assert found.mean() == pytest.approx(1, abs=0.03)
    dropout.before(0)
    assert torch.equal(graph(ones)["y"], found)
    dropout.before(1)
    assert not torch.equal(graph(ones)["y"], found)
    assert torch.equal(graph.eval()(ones)["y"], ones["x"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "'made up' has none"),
        (np.arange(24), "labels from 0 to 2, but got 0 to 23"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(labels: npt.NDArray[Any] | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tuned(data=of_arrays({"x": floats(0, 24, 2, 6, 6)}, labels))


def test_a_network_that_is_no_classifier_is_refused() -> None:
    proto = parse("net (float[N, 2, 6, 6] x) => (float[N, 2, 6, 6] y) { y = Mul(x, w) }", w=floats(0, 6))
    with pytest.raises(UsageError, match="expected a classifier"):
        tuned(proto)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch": 0}, "batch to be 1 or more, but got 0"),
        ({"held": 1}, "held to be 2 or more, but got 1"),
        ({"minutes": 0}, "minutes to be above 0, but got 0"),
        ({"optimizer": "adam"}, "optimizer to be one of sgd, adamw, adadelta, but got 'adam'"),
        ({"statistics": "update"}, "statistics to be one of frozen, updated, but got 'update'"),
        ({"keeps": "first"}, "keeps to be one of last, best, but got 'first'"),
        ({"precision": "float16"}, "precision to be one of float32, bfloat16, but got 'float16'"),
        ({"momentum": 1.0}, "momentum to be 0 or more and below 1, but got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Tuning(Schedule(1, 0.1), **wrong)


def test_a_dropout_rate_out_of_range_is_refused() -> None:
    with pytest.raises(UsageError, match="below 1, but 'r' has 1"):
        Dropout({"r": 1.0})


def test_what_no_node_gives_cannot_be_changed() -> None:
    with pytest.raises(UsageError, match="a node gives, but got 'x'"):
        TorchGraph(plain()).put_behind("x", lambda tensor: tensor)


@pytest.mark.parametrize(("reader", "position"), [("nowhere", 0), ("c", 5)])
def test_what_no_node_reads_cannot_be_changed(reader: str, position: int) -> None:
    with pytest.raises(UsageError, match=f"one node '{reader}' with an input {position}"):
        TorchGraph(plain()).put_before(reader, position, lambda tensor: tensor)


def test_one_number_a_channel_is_normalised_by_the_statistics_of_the_file_and_does_not_move_them() -> None:
    proto = parse("""net (float[N, 2] x) => (float[N, 2] y)
        <float[2] s = {2.0, 3.0}, float[2] b = {1.0, 0.0}, float[2] m = {0.5, 0.0}, float[2] v = {4.0, 1.0}>
        { y = BatchNormalization(x, s, b, m, v) }""")
    graph = TorchGraph(proto, statistics="updated").train()
    one, two = torch.tensor([[2.5, -1.0]]), torch.tensor([[2.5, -1.0], [0.0, 1.0]])
    torch.testing.assert_close(graph({"x": one})["y"], torch.tensor([[3.0, -3.0]]), rtol=1e-4, atol=1e-4)
    assert graph.moved()["m"].tolist() == [0.5, 0.0]
    graph({"x": two})
    assert graph.moved()["m"].tolist() != [0.5, 0.0]


def test_a_checkpoint_in_no_folder_is_refused_before_a_step(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a folder for the checkpoint"):
        tuned(checkpoint=tmp_path / "nowhere" / "run.safetensors")


def test_normalisations_that_share_statistics_which_would_move_are_refused() -> None:
    text = """net (float[N, 4, 3, 3] x) => (float[N, 4, 3, 3] y)
        { a = BatchNormalization(x, s, t, m, v) y = BatchNormalization(a, s, t, m, v) }"""
    ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
    proto = parse(text, s=ones, t=zeros, m=zeros, v=ones)
    with pytest.raises(UsageError, match="statistics of their own, but they share 'm'"):
        TorchGraph(proto, statistics="updated")
