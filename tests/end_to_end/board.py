"""What a Dask worker loads first to pass for another processor, and to measure in a moment."""

from __future__ import annotations

import os
from dataclasses import replace

from lissom_runtime.target import Machine
from passes.target_cases import SHRUNK

HERE = Machine.here()


def dask_setup(_worker: object) -> None:
    """Dask calls this when the worker starts."""
    Machine.here = lambda: replace(HERE, cpu=f"board of process {os.getpid()}")
    for module, name, value in SHRUNK:
        setattr(module, name, value)
