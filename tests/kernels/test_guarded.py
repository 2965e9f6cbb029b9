"""The guard pages themselves: a test of a kernel proves nothing unless an access beyond its arrays is fatal."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kernels.guarded import guarded

TOUCH = """
import ctypes, sys
import numpy as np
from guarded import guarded
front, writable, offset, write = map(int, sys.argv[1:])
array = guarded(np.arange(5, dtype=np.float32), front=bool(front), writable=bool(writable))
element = ctypes.c_float.from_address(array.ctypes.data + 4 * offset)
if write:
    element.value = 1.0
else:
    assert element.value == offset
"""


def _exit_code(*arguments: int) -> int:
    command = [sys.executable, "-c", TOUCH, *map(str, map(int, arguments))]
    return subprocess.run(command, cwd=Path(__file__).parent, check=False).returncode


@pytest.mark.parametrize(
    ("front", "writable", "offset", "write"),
    [(False, True, 5, False), (False, True, 5, True), (True, True, -1, False), (False, False, 0, True)],
    ids=["read after the end", "write after the end", "read before the start", "write to read-only data"],
)
def test_an_access_outside_is_fatal(front: bool, writable: bool, offset: int, write: bool) -> None:
    assert _exit_code(front, writable, offset, write) == -signal.SIGSEGV


@pytest.mark.parametrize("offset", [0, 4])
def test_an_access_inside_is_not(offset: int) -> None:
    assert _exit_code(False, True, offset, False) == 0


@pytest.mark.parametrize("size", [0, 1, 1024, 1025, 5000])
@pytest.mark.parametrize("front", [False, True])
def test_the_copy_is_equal_and_independent(size: int, front: bool) -> None:
    array = np.arange(size, dtype=np.float32)
    copy = guarded(array, front=front)
    np.testing.assert_array_equal(copy, array)
    copy += 1
    np.testing.assert_array_equal(array, np.arange(size, dtype=np.float32))
