"""Plugin execution providers: libraries that register into a stock onnxruntime (1.23 or newer) and offer devices."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnxruntime

from lissom_runtime.errors import LoadError, UsageError
from lissom_runtime.ort_errors import plain

PACKAGES: Mapping[str, str] = MappingProxyType({"OpenVINOExecutionProvider": "onnxruntime_ep_openvino"})
"""Full provider name -> Python package that carries it, so that asking for the provider is enough."""

_registered: set[Path] = set()


def register(name: str, path: Path) -> None:
    """Registers the library at `path` under `name`; a library that is registered already is left as it is.

    Raises:
        LoadError: onnxruntime is too old, or the library cannot be loaded.
    """
    path = path.resolve()
    if path in _registered:
        return
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        raise LoadError(f"expected onnxruntime 1.23 or newer for plugin providers, got {onnxruntime.__version__}")
    try:
        onnxruntime.register_execution_provider_library(name, os.fspath(path))
    except Exception as error:  # onnxruntime's errors have no narrower common base
        if "already registered" not in str(error):  # the program around us did it
            raise LoadError(f"expected a plugin provider library at {path}, got: {plain(error)}") from error
    _registered.add(path)


def register_package(provider: str) -> None:
    """Registers the Python package that carries `provider`, if there is one and it is installed.

    Raises:
        LoadError: its library cannot be loaded, or offers no device on this machine.
    """
    package = PACKAGES.get(provider)
    if package is None or importlib.util.find_spec(package) is None:
        return
    register(package, Path(importlib.import_module(package).get_library_path()))
    if not devices(provider):
        raise LoadError(f"expected a device for {provider}, but its plugin {package} offers none on this machine")


def devices(provider: str) -> list[Any]:
    """The devices that the plugin `provider` offers: none if it is built in, and no virtual ones, which cannot run."""
    if not hasattr(onnxruntime, "get_ep_devices"):
        return []
    offered = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]
    plugin = [device for device in offered if "library_path" in device.ep_metadata]
    return [device for device in plugin if device.device.metadata.get("is_virtual") != "1"]


def add(options: Any, provider: str, offered: Sequence[Any], asked: Mapping[str, str], threads: int) -> None:
    """Adds one of the devices `offered` by `provider` to `options`, an `onnxruntime.SessionOptions`.

    The device is the first of the type that `asked["device"]` names (cpu, gpu or npu); without that the first CPU, or
    else the first of all.

    Raises:
        UsageError: no device of the asked type is offered.
    """
    types = [str(device.device.type.name).lower() for device in offered]
    wanted = asked.get("device", "cpu" if "cpu" in types else types[0]).lower()
    if wanted not in types:
        raise UsageError(f"expected a device of {provider} among {', '.join(dict.fromkeys(types))}, got {wanted}")
    others = {key: value for key, value in asked.items() if key != "device"}
    options.add_provider_for_devices([offered[types.index(wanted)]], {**thread_options(provider, threads), **others})


def thread_options(provider: str, threads: int) -> dict[str, str]:
    """How a plugin is told its number of threads: OpenVINO's ignores `num_of_threads` and the session's setting."""
    if provider == "OpenVINOExecutionProvider":
        return {"load_config": json.dumps({"CPU": {"INFERENCE_NUM_THREADS": threads}})}
    return {}
