"""The examples of docs/deploy.md, in Python and in C++, give what the session of a test gives."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from lissom_runtime import library
from runtime.ops_models import Node, dense_model, session, sparse_model, sparse_weight

EXAMPLES = Path(__file__).parents[2] / "examples"
COMPILER = shutil.which("c++") or shutil.which("g++")
ONNXRUNTIME = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
NODE = Node(sparse_weight(0, 16, 8, 3, 3, block=4), 4, activation="relu", pads=(1, 1, 1, 1))
EXTENTS = (1, 8, 1, 1)

pytestmark = [
    pytest.mark.native,
    pytest.mark.ort,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(sparse_model(NODE), path)
    return path


def output_of(*command: str) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def mean() -> str:
    y = session(dense_model(NODE)).run(None, {"x": np.ones(EXTENTS, np.float32)})[0]
    return f"mean {y.mean():.6g}"


def test_the_python_example_runs_natively(model: Path) -> None:
    printed = output_of(sys.executable, str(EXAMPLES / "deploy.py"), str(model))
    assert "native kernels" in printed
    assert f"y [1, 16, 1, 1] {mean()}" in printed


@pytest.mark.skipif(COMPILER is None or ONNXRUNTIME is None, reason="needs a C++ compiler and libonnxruntime.so")
def test_the_c_plus_plus_example_runs_with_and_without_the_kernels(model: Path, tmp_path: Path) -> None:
    program = tmp_path / "deploy"
    assert COMPILER is not None
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror"]
    output_of(COMPILER, *flags, str(EXAMPLES / "deploy.cc"), "-o", str(program), "-ldl")
    for kernels in (str(library.get_library_path()), "-"):
        arguments = [str(ONNXRUNTIME), kernels, str(model), "x", "y", *map(str, EXTENTS)]
        assert output_of(str(program), *arguments) == f"y 16 elements, {mean()}\n"
