"""Networks of blocks that can be one operator each: lowered they compute the same, and can be lowered again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import lissom
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from end_to_end.chain_networks import INPUT, mobilenet, resnet
from lissom.cli import main
from lissom.lowering import decide
from lissom.lowering import lower as driver
from lissom.lowering.price import Speed, native_obstacle
from lissom_runtime.contract import operator_names
from lissom_runtime.latency import Samples
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session
from onnx import numpy_helper

pytestmark = pytest.mark.ort

SHAPE = f"image:{','.join(map(str, INPUT))}"
NETWORKS = {"mobilenet": mobilenet, "resnet": resnet}
CHAINS = {
    "mobilenet": {
        "SparseChain_depthwise_separable_bitmap_clip_clip": 1,
        "SparseChain_inverted_residual_bitmap_clip_clip": 2,
        "SparseChain_inverted_residual_bitmap_clip_add": 2,
        "SparseChain_expanded_depthwise_bitmap_hard_swish_hard_swish": 1,
    },
    "resnet": {"SparseChain_bottleneck_bitmap_clip_add_relu": 3},
}


@pytest.fixture(params=sorted(NETWORKS))
def name(request: pytest.FixtureRequest) -> str:
    """Of the network."""
    return str(request.param)


@pytest.fixture
def network(name: str, tmp_path: Path) -> Path:
    """The network with the weakest blocks of its sparse layers zeroed."""
    path = tmp_path / f"{name}.onnx"
    onnx.save(NETWORKS[name](), path)
    return path


def run(path: Path, batch: int) -> npt.NDArray[np.float32]:
    images = np.random.default_rng(batch).standard_normal((batch, *INPUT[1:])).astype(np.float32)
    (output,) = open_session(path.read_bytes()).run(None, {"image": images})
    return np.asarray(output)


def chains(path: Path) -> dict[str, int]:
    """How many nodes there are of each chain."""
    return dict(Counter(node.op_type for node in onnx.load(path).graph.node if node.op_type.startswith("SparseChain")))


def test_blocks_become_chains_that_compute_the_same_at_any_batch(tmp_path: Path, network: Path, name: str) -> None:
    out, told = tmp_path / "out.onnx", tmp_path / "report.json"
    words = ["-o", str(out), "--shape", SHAPE, "--no-measure", "--json", str(told)]
    assert main(["lower", str(network), *words]) == 0
    assert chains(out) == CHAINS[name]
    onnx.checker.check_model(onnx.load(out), full_check=True)
    for batch in (1, 3):
        wanted = run(network, batch)
        np.testing.assert_allclose(run(out, batch), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())
    layers = json.loads(told.read_text(encoding="utf-8"))["layers"]
    named = {layer["chain"]["node"]: layer["operator"] for layer in layers if layer["chain"] is not None}
    assert Counter(named.values()) == CHAINS[name]
    assert named == {n.name: n.op_type for n in onnx.load(out).graph.node if n.op_type.startswith("SparseChain")}


def test_a_file_with_chains_can_be_inspected_and_lowered_again(tmp_path: Path, network: Path, name: str) -> None:
    first, second, told = tmp_path / "first.onnx", tmp_path / "second.onnx", tmp_path / "inspect.json"
    words = ["--shape", SHAPE, "--no-measure"]
    assert main(["lower", str(network), "-o", str(first), *words]) == 0
    assert main(["inspect", str(first), "--shape", SHAPE, "--json", str(told)]) == 0
    assert json.loads(told.read_text(encoding="utf-8"))
    assert main(["lower", str(first), "-o", str(second), *words]) == 0
    assert chains(second) == CHAINS[name]
    names = [node.name for node in onnx.load(second).graph.node]
    assert len(set(names)) == len(names)
    third = lissom.lower(second, shapes={"image": INPUT}, measured=False, exclude="")
    assert Counter(n.op_type for n in third.model.graph.node if n.op_type.startswith("SparseChain")) == CHAINS[name]
    wanted = run(network, 2)
    np.testing.assert_allclose(run(second, 2), wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_the_dense_weights_of_a_chain_are_read_back(tmp_path: Path, network: Path) -> None:
    out, back = tmp_path / "out.onnx", tmp_path / "back.onnx"
    lissom.lower(network, out, shapes={"image": INPUT}, measured=False)
    result = lissom.lower(out, shapes={"image": INPUT}, measured=False, max_density=0.0)
    assert result.missed
    onnx.save(result.model, back)
    held = [sorted(w.tobytes() for w in weights(path)) for path in (network, back)]
    assert held[0] == held[1]


def weights(path: Path) -> list[npt.NDArray[np.float32]]:
    """Of the convolutions, zeros without a sign."""
    proto = onnx.load(path)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    return [arrays[node.input[1]] + np.float32(0) for node in proto.graph.node if node.op_type == "Conv"]


def test_the_table_says_which_layer_of_which_chain(
    tmp_path: Path, network: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speeds = [Speed(100.0, 0.75, "faster"), Speed(100.0, 0.5, "faster")]
    samples = [Samples(us * (1 + np.arange(40) / 4000), 1, 1.0) for us in (100.0, 60.0)]
    monkeypatch.setattr(driver, "native", lambda request: request)
    monkeypatch.setattr(driver, "compare_many", lambda runs: [samples[0], *samples[1:] * (len(runs) - 1)])
    monkeypatch.setattr(decide, "operators", lambda: frozenset(operator_names()))
    monkeypatch.setattr(decide, "measure", lambda _, __, ways, ___: speeds[-len(ways) :])
    assert main(["lower", str(network), "-o", str(tmp_path / "out.onnx"), "--shape", SHAPE]) == 0
    table = capsys.readouterr().out
    shape = {"mobilenet": "inverted_residual", "resnet": "bottleneck"}[name]
    rows = [line for line in table.splitlines() if f"{shape} 1/3" in line or f"{shape} 3/3" in line]
    assert len(rows) == 2 * sum(count for operator, count in CHAINS[name].items() if shape in operator)
    assert all("chain: 100 µs × 0.50" in row for row in rows)


def test_single_layers_that_are_not_asked_for_become_no_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(decide, "find_chain", lambda *_: None)
        single = lissom.lower(resnet(), shapes={"image": INPUT}, measured=False).model
    again = lissom.lower(single, shapes={"image": INPUT}, measured=False, include="^nothing$").model
    kinds = [[node.op_type for node in model.graph.node if node.domain] for model in (single, again)]
    assert kinds[0] == kinds[1]
    assert len(kinds[0]) > 3


@pytest.mark.native
@pytest.mark.skipif(native_obstacle(ProviderRequest()) is not None, reason=str(native_obstacle(ProviderRequest())))
def test_a_chain_is_timed_against_dense_and_single_layers_on_its_kernels() -> None:
    result = lissom.lower(resnet(), shapes={"image": INPUT}, include="Conv_[246]$")
    assert [layer.site for layer in result.report.layers] == ["Conv_2", "Conv_4", "Conv_6"]
    for layer in result.report.layers:
        assert layer.chain is not None and layer.chain.speed is not None and layer.chain.singly is not None
        assert layer.chain.speed.dense_us == layer.chain.singly.dense_us > 0
        assert (layer.chain.node is None) == (layer.speed is not None)
    assert result.report.verified_natively is not None
