"""Which execution provider runs a model: what the user asked for, checked against what is here.

A provider is *built in* (compiled into the installed onnxruntime) or a *plugin*: a library of its own that registers
into a stock onnxruntime and offers devices. `plugins` holds what is particular to the latter.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnxruntime

from lissom_runtime import plugins
from lissom_runtime.errors import LoadError, UsageError
from lissom_runtime.ort_errors import reported

CPU = "CPUExecutionProvider"

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "cpu": CPU,
        "cuda": "CUDAExecutionProvider",
        "tensorrt": "TensorrtExecutionProvider",
        "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
        "openvino": "OpenVINOExecutionProvider",
        "dnnl": "DnnlExecutionProvider",
        "xnnpack": "XnnpackExecutionProvider",
        "coreml": "CoreMLExecutionProvider",
        "dml": "DmlExecutionProvider",
        "qnn": "QNNExecutionProvider",
        "migraphx": "MIGraphXExecutionProvider",
        "webgpu": "WebGpuExecutionProvider",
        "nnapi": "NnapiExecutionProvider",
        "vitisai": "VitisAIExecutionProvider",
        "acl": "ACLExecutionProvider",
        "cann": "CANNExecutionProvider",
    }
)
"""Short names of execution providers; any full name is accepted too."""

THREAD_OPTIONS: Mapping[str, str] = MappingProxyType(
    {"XnnpackExecutionProvider": "intra_op_num_threads", "OpenVINOExecutionProvider": "num_of_threads"}
)
"""Built-in providers with a thread pool of their own -> the option that sizes it."""


def full_name(name: str) -> str:
    """The full name of the provider that `name` (an alias in any case, or a full name) means."""
    return ALIASES.get(name.lower(), name)


@dataclass(frozen=True)
class ProviderRequest:
    """What the user asked for.

    Attributes:
        names: full provider names in priority order. A node that none of them takes runs on the CPU provider, which is
            an error for the nodes that matter unless the CPU provider is named too (see `session.check_placement`).
        options: full provider name -> its options. For a plugin, `device` (cpu, gpu or npu) picks among its devices.
        libraries: registration name -> path, plugin providers to register.
        custom_op_libraries: custom operator libraries to register, in this order.
        threads: threads within an operator, at least 1.
    """

    names: tuple[str, ...] = (CPU,)
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    libraries: Mapping[str, Path] = field(default_factory=dict)
    custom_op_libraries: tuple[Path, ...] = ()
    threads: int = 1

    @classmethod
    def parse(
        cls,
        names: Iterable[str] = (),
        options: Iterable[str] = (),
        libraries: Iterable[str] = (),
        custom_op_libraries: Iterable[str | Path] = (),
        threads: int = 1,
    ) -> ProviderRequest:
        """A request from the words of a command line.

        Args:
            names: aliases or full names in priority order; none means the CPU provider.
            options: `KEY=VALUE` for the first provider, or `EP:KEY=VALUE`.
            libraries: `NAME=PATH` of plugin providers.
            custom_op_libraries: paths.
            threads: threads within an operator.

        Raises:
            UsageError: a word has another form, names a provider that was not asked for, or `threads` is below 1.
        """
        asked = tuple(dict.fromkeys(full_name(name) for name in names)) or (CPU,)
        if threads < 1:
            raise UsageError(f"expected at least 1 thread, got {threads}")
        chosen: dict[str, dict[str, str]] = {}
        for word in options:
            key, value = _pair(word, "KEY=VALUE or EP:KEY=VALUE")
            alias, _, key = key.rpartition(":")
            owner = full_name(alias) if alias else asked[0]
            if owner not in asked:
                raise UsageError(f"expected an option of {', '.join(asked)}, got {word!r} for {owner}")
            chosen.setdefault(owner, {})[key] = value
        paths = {name: Path(path) for name, path in (_pair(word, "NAME=PATH") for word in libraries)}
        return cls(asked, chosen, paths, tuple(Path(path) for path in custom_op_libraries), threads)


def available() -> list[str]:
    """Full names of the providers that can be asked for now, in onnxruntime's order, registered plugins included."""
    return [name for name in onnxruntime.get_available_providers() if name != "AzureExecutionProvider"]


def configure(options: Any, request: ProviderRequest) -> list[tuple[str, dict[str, str]]]:
    """Registers the libraries of `request` and adds its providers to `options`, an `onnxruntime.SessionOptions`.

    Returns:
        The providers to hand to `onnxruntime.InferenceSession`, with their options. Empty when a plugin is among them:
        then all are in `options` already, because onnxruntime reads only one of the two places.

    Raises:
        LoadError: a library cannot be loaded, or a provider is absent, has no device here or refuses an option.
    """
    for name, path in request.libraries.items():
        plugins.register(name, path)
    for path in request.custom_op_libraries:
        with reported(f"expected a custom operator library at {path}"):
            options.register_custom_ops_library(os.fspath(path.resolve()))
    offers = {name: _devices_or_built_in(name) for name in request.names}
    if not any(offers.values()):
        return [(name, _built_in_options(name, request)) for name in request.names]
    for name, devices in offers.items():
        asked = request.options.get(name, {})
        with reported(f"expected {name} to accept the options {dict(asked)}"):
            if devices:
                plugins.add(options, name, devices, asked, request.threads)
            else:
                options.add_provider(name, _built_in_options(name, request))
    return []


def _devices_or_built_in(name: str) -> list[Any]:
    """The devices that the plugin `name` offers, or nothing for a built-in provider.

    Raises:
        LoadError: the provider is not available, or its plugin offers no device here.
    """
    if name not in available():
        plugins.register_package(name)
    if name not in available():
        raise LoadError(f"expected one of the available providers {', '.join(available())}, got {name}")
    return [] if name == CPU else plugins.devices(name)


def _built_in_options(name: str, request: ProviderRequest) -> dict[str, str]:
    threads = {THREAD_OPTIONS[name]: str(request.threads)} if name in THREAD_OPTIONS else {}
    return {**threads, **request.options.get(name, {})}


def _pair(word: str, form: str) -> tuple[str, str]:
    """The two sides of the first "=" in `word`.

    Raises:
        UsageError: one of them is missing.
    """
    left, _, right = word.partition("=")
    if not left or not right:
        raise UsageError(f"expected {form}, got {word!r}")
    return left, right
