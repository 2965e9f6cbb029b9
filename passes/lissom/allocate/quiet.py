"""Keeps the solver from writing between a caller's JSON."""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STANDARD_OUTPUT = threading.Lock()


@contextmanager
def without_notes() -> Iterator[None]:
    """Holds back standard output meanwhile and then writes it, without the notes of HiGHS.

    HiGHS 1.12 (in SciPy 1.17) prints "HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();"
    there, whatever it is told (github.com/ERGO-Code/HiGHS/issues/2783), and a caller may be writing JSON.
    """
    with _STANDARD_OUTPUT, tempfile.TemporaryFile() as held:
        try:
            standard = os.dup(1)
        except OSError:  # a process without standard output
            yield
            return
        os.dup2(held.fileno(), 1)
        try:
            yield
        finally:
            ctypes.CDLL("ucrtbase" if os.name == "nt" else None).fflush(None)
            os.dup2(standard, 1)
            os.close(standard)
            held.seek(0)
            kept = [line for line in held if not line.startswith(b"HighsMipSolverData::")]
            if kept:
                with open(1, "wb", closefd=False) as output:
                    output.writelines(kept)
