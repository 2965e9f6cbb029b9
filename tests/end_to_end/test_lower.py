"""`lissom lower` writes what computes the same, keeps what is not measured faster, and says why."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import lissom
import lissom_models
import numpy as np
import numpy.typing as npt
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
from lissom_runtime.session import open_session
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


def test_sparse_layers_that_are_not_asked_for_stay_sparse_whatever_is_measured(
    pruned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = {"image": (1, 1, 28, 28)}
    first = lissom.lower(pruned, shapes=shapes, measured=False, include="stage3_block3").model
    time_as(monkeypatch, "slower", 1.0)
    result = lissom.lower(first, shapes=shapes, include="stage1_block1", max_density=0.1)
    told = [(layer.decision, layer.speed, layer.asked) for layer in result.report.layers]
    assert told == [("lowered", None, False)] * 2
    assert "at least 1 layer" in result.missed  # nothing of what was asked for
    assert sum(node.op_type.startswith("SparseConv") for node in result.model.graph.node) == 2
    again = lissom.lower(result.model, shapes=shapes, measured=False, exclude="stage3_block3.a").model
    assert sum(node.op_type.startswith("SparseConv") for node in again.graph.node) == 21


def test_sparse_layers_without_names_stay_sparse_and_dense_ones_beside_them_dense(pruned: Path) -> None:
    shapes = {"image": (1, 1, 28, 28)}
    first = lissom.lower(pruned, shapes=shapes, measured=False, include="stage3_block3.b").model
    named, unnamed = (onnx.ModelProto.FromString(first.SerializeToString()) for _ in range(2))
    for node in unnamed.graph.node:
        node.name = ""
    (sparse,) = [node for node in named.graph.node if node.domain]
    for node in named.graph.node:
        if node.name == "stage3_block3.a.conv":
            node.name = f"{sparse.name}/beside"
    for model in (named, unnamed):
        again = lissom.lower(model, shapes=shapes, measured=False, include="^nothing$")
        assert sum(node.op_type.startswith("SparseConv") for node in again.model.graph.node) == 1
        assert again.report.model["sha256"] == hashlib.sha256(model.SerializeToString()).hexdigest()


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


def drawn(seed: int, *shape: int, density: float = 1.0) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * (rng.random(shape) < density)).astype(np.float32)


def test_a_model_of_another_tool_with_norms_and_weights_in_nodes_is_lowered(tmp_path: Path) -> None:
    text = """<ir_version: 7, opset_import: ["" : 13]> net (float[batch, 8, 12, 12] image) => (float[batch, 10] y) {
        c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 1>(image, weight)
        n = BatchNormalization<epsilon = 0.00001>(c, scale, shift, mean, var)
        r = Relu(n) p = GlobalAveragePool(r) f = Flatten(p) w = Identity(fc) y = Gemm<transB = 1>(f, w, bias) }"""
    proto = onnx.parser.parse_model(text)
    constants = {name: drawn(place, 16) for place, name in enumerate(("scale", "shift", "mean"))}
    constants |= {"var": drawn(3, 16) ** 2 + 1, "weight": drawn(4, 16, 8, 3, 3, density=0.1), "bias": drawn(5, 10)}
    proto.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
    fc = numpy_helper.from_array(drawn(6, 10, 16, density=0.1))
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["fc"], value=fc))
    theirs, ours = tmp_path / "theirs.onnx", tmp_path / "ours.onnx"
    onnx.save(proto, theirs)
    result = lissom.lower(theirs, ours, shapes={"image": (1, 8, 12, 12)}, measured=False)
    assert [layer.operator for layer in result.report.layers] == ["SparseConv_delta8_relu", "SparseGemm_delta8"]
    feeds = {"image": drawn(7, 3, 8, 12, 12)}
    before, after = (open_session(path.read_bytes()).run(None, feeds)[0] for path in (theirs, ours))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


def test_a_layer_whose_scratch_no_kernel_takes_is_refused_and_the_rest_lowered(tmp_path: Path) -> None:
    weights = {"wide": drawn(0, 8, 512, 3, 3, density=0.1), "small": drawn(1, 8, 8, 3, 3, density=0.1)}
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N, 512, 1, 9] image) => (float[N, 8, H, W] y) {
        t = Conv<dilations = [13000, 1], pads = [13000, 1, 13000, 1]>(image, wide)
        y = Conv<pads = [1, 1, 1, 1]>(t, small) }"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in weights.items())
    result = lissom.lower(proto, tmp_path / "out.onnx", shapes={"image": (1, 512, 1, 9)}, measured=False)
    assert [layer.weight_shape for layer in result.report.layers] == [[8, 8, 3, 3]]
    assert ["bytes of scratch" in refusal.reason for refusal in result.report.refusals] == [True]


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
