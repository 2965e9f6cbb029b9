"""The engines that run a whole network, each opened once: how long that takes, and by how much the process grows."""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom_runtime.latency import Feeds, Runnable
from lissom_runtime.library import get_library_path
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session

FloatArray = npt.NDArray[np.float32]

STATM = Path("/proc/self/statm")
"""Linux's sizes of this process, in pages."""

_PAGE = 4096
_M_TRIM = "malloc_trim"


@dataclass(frozen=True)
class Contestant:
    """An engine with a network, ready to run.

    Attributes:
        name: of the row, the same for all numbers of threads.
        threads: that it was told to use.
        create_seconds: from the file to a session that has run once.
        resident_mib: growth of the process over that time; NaN where the system does not tell.
        file_mib: size of the model file.
        output: of that run.
    """

    name: str
    threads: int
    run: Runnable
    create_seconds: float
    resident_mib: float
    file_mib: float
    output: FloatArray


def opened(name: str, model: Path, threads: int, start: Callable[[], Runnable], feeds: Feeds) -> Contestant:
    """Calls `start`, runs once, and notes time and memory.

    Raises:
        LissomError: as `start` does.
    """
    before, began = resident_mib(), time.perf_counter()
    runnable = start()
    (output,) = runnable.run(None, feeds)
    seconds = time.perf_counter() - began
    return Contestant(
        name, threads, runnable, seconds, resident_mib() - before, model.stat().st_size / 2**20, np.asarray(output)
    )


def ort(model: Path, threads: int, *, with_library: bool = False) -> Runnable:
    """ONNX Runtime's processor provider, with the sparse operators or without.

    Raises:
        LoadError: the model or the library cannot be loaded.
    """
    libraries = (get_library_path(),) if with_library else ()
    session: Runnable = open_session(model, ProviderRequest(custom_op_libraries=libraries, threads=threads))
    return session


def openvino_plugin(model: Path, threads: int, *, as_it_comes: bool = False) -> Runnable:
    """OpenVINO's plugin provider in ONNX Runtime, in float32 or in what it takes for itself (bfloat16 if it has AMX).

    Raises:
        LoadError: it is not installed, or offers no device for this processor.
    """
    words = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    options = [] if as_it_comes else [f"load_config={json.dumps({'CPU': words})}"]
    session: Runnable = open_session(model, ProviderRequest.parse(["openvino"], options, threads=threads))
    return session


class OpenvinoPython:
    """OpenVINO's own Python package, which is not the plugin: for processors on which that offers no device."""

    def __init__(self, model: Path, threads: int) -> None:
        openvino = importlib.import_module("openvino")
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        # Its default on some processors is half precision.
        options["INFERENCE_PRECISION_HINT"] = "f32"
        compiled = openvino.Core().compile_model(str(model), "CPU", options)
        self._request = compiled.create_infer_request()

    @staticmethod
    def installed() -> bool:
        """Whether the package is."""
        return importlib.util.find_spec("openvino") is not None

    def run(self, output_names: Sequence[str] | None, input_feed: Feeds) -> list[npt.NDArray[Any]]:
        """All outputs."""
        self._request.infer(dict(input_feed), share_inputs=True, share_outputs=True)
        return [np.asarray(tensor.data) for tensor in self._request.output_tensors]


def resident_mib() -> float:
    """Resident memory of this process, MiB, freed memory given back first; NaN where the system does not tell."""
    gc.collect()
    if not sys.platform.startswith("linux"):
        return float("nan")
    libc = ctypes.CDLL(None)
    if hasattr(libc, _M_TRIM):
        libc.malloc_trim(0)
    return int(STATM.read_text(encoding="ascii").split()[1]) * _PAGE / 2**20
