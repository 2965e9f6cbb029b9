"""Compiles the C++ programs of the benchmarks for this very processor, into `build/benchmarks`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from lissom_runtime.errors import LoadError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "build" / "benchmarks"

_OPTIONS = ("-std=c++17", "-O3", "-march=native", "-pthread", f"-I{ROOT / 'runtime' / 'kernels'}")


def compiled(name: str, *, shared: bool = False) -> Path:
    """The program, or the shared library, made of `<name>.cc`.

    Raises:
        LoadError: there is no C++ compiler, or it rejects the source.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise LoadError(f"expected a C++ compiler to build {name}.cc, but got no {os.environ.get('CXX', 'g++')}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    target = FOLDER / (f"lib{name}.so" if shared else name)
    kind = ("-shared", "-fPIC") if shared else ()
    command = [compiler, *_OPTIONS, *kind, str(HERE / f"{name}.cc"), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # no shell, own words
    if done.returncode:
        raise LoadError(f"expected {name}.cc to compile, but {compiler} said: {done.stderr.strip()}")
    return target
