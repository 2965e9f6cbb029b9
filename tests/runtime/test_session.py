"""Opening sessions: the options, where nodes run, and one sentence for whatever goes wrong."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx.parser
import pytest
from lissom_runtime.errors import LoadError
from lissom_runtime.providers import CPU, ProviderRequest
from lissom_runtime.session import PlacedNode, check_placement, nodes_by_provider, open_session
from runtime.models import batch, network

pytestmark = pytest.mark.ort


def test_bytes_and_path_give_the_same_session(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(network())
    (a,), (b,) = open_session(network()).run(None, batch()), open_session(path).run(None, batch())
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_set_within_operators_only(threads: int) -> None:
    options = open_session(network(), ProviderRequest(threads=threads)).get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_every_node_is_placed_on_the_cpu() -> None:
    placed = nodes_by_provider(open_session(network()))
    assert list(placed) == [CPU]
    assert {node.operator for node in placed[CPU]} == {"Conv", "Relu", "Flatten", "MatMul"}
    assert PlacedNode("Conv_0", "Conv", "") in placed[CPU]


def text(body: str, imports: str = '"": 17') -> bytes:
    return onnx.parser.parse_model(
        f"<ir_version: 8, opset_import: [{imports}]> g (float[1, 8] x, float[3, 3] z) => (float[1, 3] y) {{ {body} }}"
    ).SerializeToString()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (b"", "No graph was found in the protobuf"),
        (b"not a model", "protobuf parsing failed"),
        (text("y = other.Nope(x, z)", '"": 17, "other": 1'), "other:Nope"),
        (text("y = MatMul(x, z)"), "Incompatible dimensions"),
        (Path("absent.onnx"), "File doesn't exist"),
    ],
    ids=["empty", "garbage", "unknown operator", "bad shapes", "no file"],
)
def test_a_broken_model_is_one_sentence(model: bytes | Path, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LoadError, match=said) as caught:
        open_session(model)
    message = str(caught.value)
    assert message.startswith("expected ")
    assert "\n" not in message
    assert "ONNXRuntimeError" not in message
    assert capfd.readouterr() == ("", "")


def test_an_absent_provider_is_named_with_those_available() -> None:
    with pytest.raises(LoadError, match=r"available providers .*CPUExecutionProvider.*, got NoSuchExecutionProvider"):
        open_session(network(), ProviderRequest(names=("NoSuchExecutionProvider",)))


def test_a_custom_operator_library_that_is_none_is_named(tmp_path: Path) -> None:
    library = tmp_path / "empty.so"
    library.write_bytes(b"")
    with pytest.raises(LoadError, match=r"expected a custom operator library at .*empty\.so, got: "):
        open_session(network(), ProviderRequest(custom_op_libraries=(library,)))


class Placed:
    """A session that claims where its nodes run."""

    def __init__(self, nodes: dict[str, list[str]], providers: list[str]) -> None:
        self.nodes, self.providers = nodes, providers

    def get_providers(self) -> list[str]:
        return self.providers

    def get_provider_graph_assignment_info(self) -> list[Any]:
        def part(provider: str, operators: list[str]) -> Any:
            nodes = [SimpleNamespace(name=f"my_{op}", op_type=op, domain="") for op in operators]
            return SimpleNamespace(ep_name=provider, get_nodes=lambda: nodes)

        return [part(provider, operators) for provider, operators in self.nodes.items()]


CUDA = "CUDAExecutionProvider"


def test_key_nodes_that_fell_back_are_an_error_that_names_them() -> None:
    session = Placed({CUDA: ["Conv"], CPU: ["Shape", "MatMul", "Gemm"]}, [CUDA, CPU])
    with pytest.raises(LoadError, match=rf"run on {CUDA}, got 2 on the CPU: my_MatMul \(MatMul\), my_Gemm \(Gemm\)"):
        check_placement(session, ProviderRequest(names=(CUDA,)))


def test_small_nodes_may_fall_back() -> None:
    check_placement(Placed({CUDA: ["Conv"], CPU: ["Shape"]}, [CUDA, CPU]), ProviderRequest(names=(CUDA,)))


def test_naming_the_cpu_too_accepts_a_fallback() -> None:
    check_placement(Placed({CPU: ["Conv"]}, [CUDA, CPU]), ProviderRequest(names=(CUDA, CPU)))


def test_a_provider_that_did_not_start_is_an_error() -> None:
    with pytest.raises(LoadError, match=f"{CUDA} to start, got {CPU}"):
        check_placement(Placed({CPU: ["Conv"]}, [CPU]), ProviderRequest(names=(CUDA, CPU)))


def test_an_onnxruntime_that_cannot_tell_is_an_error_unless_the_cpu_is_named() -> None:
    old = SimpleNamespace(get_providers=lambda: [CUDA, CPU])
    with pytest.raises(LoadError, match="ask for the CPU provider as well"):
        check_placement(old, ProviderRequest(names=(CUDA,)))
    check_placement(old, ProviderRequest(names=(CUDA, CPU)))
