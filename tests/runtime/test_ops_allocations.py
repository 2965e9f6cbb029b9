"""Once an input shape was run, no operator allocates any more."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from lissom_runtime import library
from runtime.chain_models import Chain, chain_model, signature_of
from runtime.mask_models import mask_model
from runtime.ops_models import Node, sparse_model, sparse_weight

NATIVE = Path(__file__).parent / "native"
COMPILER = shutil.which("c++") or shutil.which("g++")

pytestmark = [
    pytest.mark.native,
    pytest.mark.ort,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
    pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="needs a C++ compiler on Linux"),
    pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="something else is preloaded"),
]

Extents = tuple[int, ...]
MODELS: Mapping[str, tuple[onnx.ModelProto, Extents, Extents]] = {
    "convolution": (
        sparse_model(Node(sparse_weight(0, 16, 8, 3, 3, block=4), 4, activation="relu", pads=(1, 1, 1, 1))),
        (1, 8, 20, 20),
        (3, 8, 31, 9),
    ),
    "product": (sparse_model(Node(sparse_weight(0, 64, 96), activation="silu")), (1, 96), (5, 96)),
    "chain": (
        chain_model(Chain(signature_of("expanded_depthwise"), (8, 16, 16))),
        (1, 8, 20, 20),
        (2, 8, 9, 31),
    ),
    "mask": (mask_model(0.3, 7), (1, 8, 20, 20), (3, 8, 31, 9)),
}


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that counts."""
    built = tmp_path_factory.mktemp("counter") / "allocations.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC"]
    subprocess.run([str(COMPILER), *flags, str(NATIVE / "allocations.cc"), "-o", str(built), "-ldl"], check=True)
    return built


@pytest.mark.parametrize("name", MODELS)
def test_only_the_first_run_of_a_shape_allocates(name: str, counter: Path, tmp_path: Path) -> None:
    """On one thread: others get their scratch when ONNX Runtime first gives them a task."""
    proto, *shapes = MODELS[name]
    rng = np.random.default_rng(0)
    onnx.save(proto, tmp_path / "model.onnx")
    given = [(rng.standard_normal(shape) * (rng.random(shape) < 0.1)).astype(np.float32) for shape in shapes]
    np.savez(tmp_path / "inputs.npz", *given)
    child = [sys.executable, NATIVE / "count_allocations.py", tmp_path / "model.onnx", tmp_path / "inputs.npz"]
    finished = subprocess.run(
        [str(word) for word in child],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LD_PRELOAD": str(counter)},
    )
    assert finished.returncode == 0, finished.stderr
    first, later = map(int, finished.stdout.split())
    assert first > 0
    assert later == 0
