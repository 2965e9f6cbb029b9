"""The shared library of lissom's own kernels: where it is, and what to say when it is not.

The wheel builds it where a C++ compiler is found. Without it every model still runs, through the function bodies of
its `ai.lissom` nodes on standard operators: that is the portable path.

The environment variable LISSOM_LIBRARY, if it is set and not empty, names the file to use instead of the installed
one: a build with sanitizers, or one under development. It is read when the library is first loaded.

LISSOM_ISA, if it is set and not empty, names the best instruction set that the kernels may use. The library reads it
when the first kernel runs.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path

import onnxruntime

import lissom_runtime
from lissom_runtime.errors import LoadError
from lissom_runtime.ort_errors import reported

OVERRIDE = "LISSOM_LIBRARY"
"""Environment variable that names another build of the library."""

LIMIT = "LISSOM_ISA"
"""Environment variable that names the best instruction set that may be used."""

INSTRUCTION_SETS = {"scalar": 0, "neon": 1, "avx2": 1, "avx512": 2}
"""Instruction sets of the kernels, and how far each reaches; those of one rank are of different processors."""

_NAMES = {"win32": "lissom_runtime.dll", "darwin": "liblissom_runtime.dylib"}

ABI = 3
"""Version of the C interface that this package calls."""


class _Variant(ctypes.Structure):
    """`lissom_variant` of runtime/kernels/abi.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("supported", ctypes.CFUNCTYPE(ctypes.c_int32)),
        ("function", ctypes.c_void_p),
    )


def available() -> bool:
    """Whether the library was built into this installation and can be loaded."""
    try:
        load()
    except LoadError:
        return False
    return True


def get_library_path() -> Path:
    """Where the shared library is, for programs that register it themselves.

    Raises:
        LoadError: this installation has none, or LISSOM_LIBRARY names no file.
    """
    override = os.environ.get(OVERRIDE)
    if override:
        if not Path(override).is_file():
            raise LoadError(f"expected {OVERRIDE} to name a shared library, got {override}, which is no file")
        return Path(override)
    name = _NAMES.get(sys.platform, "liblissom_runtime.so")
    # An editable installation has two directories: the sources, and what was built.
    for root in lissom_runtime.__path__:
        path = Path(root) / "lib" / name
        if path.is_file():
            return path
    raise LoadError(f"expected {name} in lissom_runtime/lib, got an installation built without a C++ compiler")


@cache
def load() -> ctypes.CDLL:
    """The library, loaded once.

    Raises:
        LoadError: it is absent, cannot be loaded, or has another C interface than this package, or LISSOM_ISA names no
            instruction set.
    """
    _most()
    path = get_library_path()
    try:
        library = ctypes.CDLL(str(path))
        abi = int(library.lissom_abi_version())
    except (OSError, AttributeError) as error:
        raise LoadError(f"expected a loadable kernel library at {path}, got: {error}") from error
    if abi != ABI:
        raise LoadError(f"expected version {ABI} of the kernel library's interface at {path}, got {abi}")
    return library


def register(session_options: onnxruntime.SessionOptions) -> None:
    """Makes sessions opened with these options run `ai.lissom` nodes by the native kernels.

    Without it such nodes run too, through their function bodies: a program that prefers that to an error asks
    `available` first.

    Raises:
        LoadError: the library is absent or does not suit this package (see `load`), or onnxruntime refuses it.
    """
    load()
    path = get_library_path()
    with reported(f"expected onnxruntime {onnxruntime.__version__} to register {path}"):
        session_options.register_custom_ops_library(str(path))


def instruction_set() -> str:
    """The instruction set of the kernels that run: the best that the processor has and LISSOM_ISA allows.

    Raises:
        LoadError: the library is absent or does not suit this package (see `load`).
    """
    table = load().lissom_f32_sparse_product_variants
    table.restype, table.argtypes = ctypes.POINTER(_Variant), [ctypes.POINTER(ctypes.c_int64)]
    count = ctypes.c_int64()
    rows = table(ctypes.byref(count))  # slowest first
    most = _most()
    names: list[str] = [row.name.decode().rpartition("__")[2] for row in rows[: count.value] if row.supported()]
    return next(name for name in reversed(names) if INSTRUCTION_SETS[name] <= most)


def _most() -> int:
    """How far an instruction set may reach."""
    limit = os.environ.get(LIMIT)
    if not limit:
        return max(INSTRUCTION_SETS.values())
    if limit not in INSTRUCTION_SETS:
        raise LoadError(f"expected {LIMIT} to be one of {', '.join(INSTRUCTION_SETS)}, got {limit!r}")
    return INSTRUCTION_SETS[limit]


def describe() -> str:
    """One line for the user: the native library that is in use and how, or that the portable path is, and why."""
    try:
        isa = instruction_set()
    except LoadError as error:
        return f"lissom runtime: portable path (standard ONNX operators, no speed-up from sparse kernels): {error}"
    return f"lissom runtime: native kernels ({isa}) from {get_library_path()}"
