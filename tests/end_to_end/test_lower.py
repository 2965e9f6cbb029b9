"""`lissom lower` writes what computes the same, keeps what is not measured faster, and says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lissom
import lissom_models
import numpy as np
import onnx
import onnxruntime
import pytest
from lissom.cli import main
from lissom.lowering import decide
from lissom.lowering import lower as driver
from lissom.lowering.price import Speed, native_obstacle
from lissom.lowering.report import Lowering, json_schema
from lissom_runtime.contract import operator_names
from lissom_runtime.latency import Samples, Verdict
from lissom_runtime.providers import ProviderRequest
from onnx import numpy_helper

pytestmark = pytest.mark.ort

ROOT = Path(__file__).parents[2]
NETWORK = "resnet20"
SHAPE = "image:1,1,28,28"
DENSITY = 0.2


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network with the weakest blocks of four output channels of each convolution zeroed."""
    proto = onnx.load(lissom_models.path(NETWORK))
    weights = {node.input[1] for node in proto.graph.node if node.op_type == "Conv"}
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            weight = numpy_helper.to_array(tensor).copy()
            blocks = weight.reshape(len(weight) // 4, 4, -1)
            strength = np.abs(blocks).sum(axis=1)
            blocks *= (strength > np.quantile(strength, 1 - DENSITY))[:, None]
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    path = tmp_path_factory.mktemp("models") / "pruned.onnx"
    onnx.save(proto, path)
    return path


def command(model: Path, *words: str, code: int = 0) -> None:
    assert main(["lower", str(model), "--shape", SHAPE, *words]) == code


def run(path: Path, batch: int) -> Any:
    images = np.random.default_rng(0).standard_normal((batch, 1, 28, 28)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


def test_the_file_is_smaller_and_computes_the_same_at_any_batch(tmp_path: Path, pruned: Path) -> None:
    out, told = tmp_path / "out.onnx", tmp_path / "report.json"
    command(pruned, "-o", str(out), "--no-measure", "--json", str(told))
    report = json.loads(told.read_text(encoding="utf-8"))
    assert out.stat().st_size == report["bytes_after"] < 0.3 * report["bytes_before"]
    for batch in (1, 3):
        np.testing.assert_allclose(run(out, batch), run(pruned, batch), rtol=1e-3, atol=1e-3)
    before, after = onnx.load(pruned), onnx.load(out)
    onnx.checker.check_model(after, full_check=True)
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)
    assert before.opset_import[0] == after.opset_import[0]
    assert {node.domain for node in after.graph.node if node.op_type.startswith("Sparse")} == {"ai.lissom"}
    assert "Conv" not in {node.op_type for node in after.graph.node}


def test_blocks_residuals_and_activations_are_found_in_a_network(pruned: Path) -> None:
    layers = lissom.lower(pruned, shapes={"image": (1, 1, 28, 28)}, measured=False).report.layers
    assert {layer.block for layer in layers} == {4}
    assert sum(layer.operator.endswith("_add_relu") for layer in layers) == 9


def test_the_command_and_the_call_write_the_same_file(tmp_path: Path, pruned: Path) -> None:
    command(pruned, "-o", str(tmp_path / "a.onnx"), "--no-measure", "--include", "stage1")
    result = lissom.lower(
        pruned, tmp_path / "b.onnx", shapes={"image": (1, 1, 28, 28)}, measured=False, include="stage1"
    )
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert onnx.load(tmp_path / "b.onnx") == result.model
    assert all("stage1" in layer.site for layer in result.report.layers)
    assert any("--include" in refusal.reason for refusal in result.report.refusals)


def time_as(monkeypatch: pytest.MonkeyPatch, layer: Verdict, whole: float) -> None:
    """Lets layers be measured with a verdict, and the whole model with a latency ratio."""
    samples = [Samples(us * (1 + np.arange(40) / 4000), 1, 1.0) for us in (100.0, 100.0 * whole)]
    monkeypatch.setattr(driver, "native", lambda request: request)
    monkeypatch.setattr(decide, "operators", lambda: frozenset(operator_names()))
    monkeypatch.setattr(decide, "measure", lambda _, __, ways, ___: [Speed(10.0, 0.9, layer)] * len(ways))
    monkeypatch.setattr(driver, "compare_many", lambda runs: [samples[0], *samples[1:] * (len(runs) - 1)])


def test_layers_that_are_measured_faster_are_lowered(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time_as(monkeypatch, "faster", 0.8)
    result = lissom.lower(pruned, shapes={"image": (1, 1, 28, 28)}, include="stage3_block3")
    assert [layer.decision for layer in result.report.layers] == ["lowered", "lowered"]
    assert result.report.latency is not None and result.report.latency.verdict == "faster"
    assert result.missed == ""


@pytest.mark.parametrize("verdict", ["slower", "no significant change"])
def test_layers_that_are_not_measured_faster_stay_dense(
    tmp_path: Path, pruned: Path, monkeypatch: pytest.MonkeyPatch, verdict: Verdict
) -> None:
    time_as(monkeypatch, verdict, 1.0)
    out = tmp_path / "out.onnx"
    result = lissom.lower(pruned, out, shapes={"image": (1, 1, 28, 28)}, include="stage3_block3")
    assert [layer.decision for layer in result.report.layers] == ["dense", "dense"]
    assert sum(verdict in refusal.reason for refusal in result.report.refusals) == 2
    assert "at least 1 layer" in result.missed
    assert not out.exists()


@pytest.mark.parametrize(("every", "lowered"), [(70.0, 2), (120.0, 0)])
def test_every_candidate_is_lowered_where_the_whole_model_is_faster_so(
    pruned: Path, monkeypatch: pytest.MonkeyPatch, every: float, lowered: int
) -> None:
    time_as(monkeypatch, "no significant change", 1.0)
    samples = [Samples(us * (1 + np.arange(40) / 4000), 1, 1.0) for us in (100.0, 100.0, every)]
    monkeypatch.setattr(driver, "compare_many", lambda runs: samples[: len(runs)])
    result = lissom.lower(pruned, shapes={"image": (1, 1, 28, 28)}, include="stage3_block3")
    assert sum(layer.decision == "lowered" for layer in result.report.layers) == lowered
    assert any("every candidate" in remark for remark in result.report.remarks) == (lowered > 0)
    assert all(layer.speed is not None for layer in result.report.layers)


def test_a_model_that_is_slower_as_a_whole_is_not_written(
    tmp_path: Path, pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_as(monkeypatch, "faster", 1.2)
    command(pruned, "-o", str(tmp_path / "out.onnx"), "--include", "stage3_block3", code=1)
    assert not (tmp_path / "out.onnx").exists()


def test_the_published_schema_is_the_one_in_force() -> None:
    published = json.loads((ROOT / "docs" / "lowering.schema.json").read_text(encoding="utf-8"))
    assert published == json_schema()
    assert Lowering.model_fields["schema_version"].default == 1


def test_a_model_without_sparse_weights_is_not_written(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    command(lissom_models.path(NETWORK), "-o", str(out), "--no-measure", code=1)
    assert not out.exists()


def test_bad_arguments_are_refused_before_work(tmp_path: Path, pruned: Path) -> None:
    out = tmp_path / "out.onnx"
    command(pruned, "-o", str(pruned), code=2)
    command(pruned, "-o", str(out), "--max-density", "1.5", code=2)
    command(pruned, "-o", str(out), "--include", "(", code=2)
    command(tmp_path / "absent.onnx", "-o", str(out), code=3)
    assert main(["lower", str(pruned), "-o", str(out)]) == 2
    assert not out.exists()


@pytest.mark.native
@pytest.mark.skipif(native_obstacle(ProviderRequest()) is not None, reason=str(native_obstacle(ProviderRequest())))
def test_the_native_kernels_compute_the_same_and_are_timed(pruned: Path) -> None:
    result = lissom.lower(pruned, shapes={"image": (1, 1, 28, 28)}, include="stage3_block[23]")
    assert all(layer.speed is not None for layer in result.report.layers)
    assert result.report.verified_natively is not None
