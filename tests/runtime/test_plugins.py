"""Plugin providers: what is common to all on fakes, and OpenVINO's, where its package is installed."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lissom_runtime import plugins
from lissom_runtime.errors import LoadError, UsageError
from lissom_runtime.latency import Schedule, measure
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import nodes_by_provider, open_session
from runtime.models import batch, network

OPENVINO = "OpenVINOExecutionProvider"
PACKAGE = plugins.PACKAGES[OPENVINO]

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed (pip install 'lissom[openvino]')"
)


class Options:
    """Notes the device and the options that are added."""

    def __init__(self) -> None:
        self.added: list[tuple[list[Any], dict[str, str]]] = []

    def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
        self.added.append((devices, options))


def offer(*types: str) -> list[Any]:
    return [SimpleNamespace(index=i, device=SimpleNamespace(type=SimpleNamespace(name=t))) for i, t in enumerate(types)]


@pytest.mark.parametrize(
    ("types", "asked", "chosen"),
    [
        (("GPU", "CPU", "CPU"), {}, 1),
        (("NPU", "GPU"), {}, 0),
        (("CPU", "GPU"), {"device": "gpu"}, 1),
        (("CPU", "GPU"), {"device": "GPU"}, 1),
    ],
    ids=["the CPU first", "or the first", "the asked one", "in any case"],
)
def test_the_device_chosen(types: tuple[str, ...], asked: dict[str, str], chosen: int) -> None:
    options = Options()
    plugins.add(options, "OtherExecutionProvider", offer(*types), {**asked, "key": "value"}, threads=1)
    ((devices, passed),) = options.added
    assert [device.index for device in devices] == [chosen]
    assert passed == {"key": "value"}


def test_a_device_that_is_not_offered_is_an_error_that_names_the_offered() -> None:
    with pytest.raises(UsageError, match="among cpu, npu, got gpu"):
        plugins.add(Options(), "OtherExecutionProvider", offer("CPU", "NPU"), {"device": "gpu"}, threads=1)


def test_openvino_is_told_its_threads_and_the_user_has_the_last_word() -> None:
    options = Options()
    plugins.add(options, OPENVINO, offer("CPU"), {}, threads=3)
    plugins.add(options, OPENVINO, offer("CPU"), {"load_config": "mine"}, threads=3)
    (_, told), (_, overridden) = options.added
    assert json.loads(told["load_config"]) == {"CPU": {"INFERENCE_NUM_THREADS": 3}}
    assert overridden == {"load_config": "mine"}


@pytest.mark.ort
def test_a_library_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "empty.so"
    path.write_bytes(b"")
    with pytest.raises(LoadError, match=r"expected a plugin provider library at .*empty\.so, got: "):
        plugins.register("empty", path)


@pytest.fixture(scope="module")
def library() -> Path:
    return Path(importlib.import_module(PACKAGE).get_library_path())


@pytest.fixture(scope="module")
def offered(library: Path) -> int:
    """How many devices OpenVINO's plugin offers here: it takes processors of one vendor only."""
    plugins.register(PACKAGE, library)
    return len(plugins.devices(OPENVINO))


@pytest.mark.plugin_ep
@needs_package
def test_registering_again_is_harmless(library: Path, offered: int) -> None:
    plugins.register(PACKAGE, library)
    plugins.register("another name", library.parent / ".." / library.parent.name / library.name)
    assert len(plugins.devices(OPENVINO)) == offered


@pytest.mark.plugin_ep
@needs_package
def test_a_machine_without_a_device_says_so_and_one_with_runs_the_key_nodes(offered: int) -> None:
    in_float32 = 'load_config={"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}'
    request = ProviderRequest.parse(["openvino"], [in_float32])
    if not offered:
        with pytest.raises(LoadError, match=f"expected a device for {OPENVINO}.* offers none on this machine"):
            open_session(network(), request)
        return
    session = open_session(network(), request)
    assert {"Conv", "MatMul"} <= {node.operator for node in nodes_by_provider(session)[OPENVINO]}
    np.testing.assert_allclose(session.run(None, batch())[0], open_session(network()).run(None, batch())[0], rtol=1e-3)


@pytest.mark.plugin_ep
@needs_package
def test_one_thread_means_one_thread(offered: int) -> None:
    if not offered:
        pytest.skip("OpenVINO's plugin offers no device on this processor")
    session = open_session(network(), ProviderRequest.parse(["openvino"], threads=1))
    samples = measure(session, batch(512), schedule=Schedule(max_pairs=40))
    assert samples.busy_threads < 1.3


@pytest.mark.plugin_ep
@needs_package
def test_an_option_that_it_cannot_read_is_an_error(offered: int) -> None:
    if not offered:
        pytest.skip("OpenVINO's plugin offers no device on this processor")
    with pytest.raises(LoadError, match=f"expected {OPENVINO} to accept|expected the model to load"):
        open_session(network(), ProviderRequest.parse(["openvino"], ["load_config=no JSON"]))
