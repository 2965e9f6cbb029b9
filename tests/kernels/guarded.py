"""Arrays that end, or begin, at a page that no one may touch: an access beyond them kills the process."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

PROT_NONE, PROT_READ = 0, 1

_libc = ctypes.CDLL(None, use_errno=True)


def guarded(array: npt.NDArray[Any], *, front: bool = False, writable: bool = True) -> npt.NDArray[Any]:
    """A copy of `array` flush against a guard page.

    Args:
        array: what to copy, of at least 0 elements.
        front: the data begin right after a guard page; otherwise they end right before one.
        writable: otherwise writing to the data is fatal too.
    """
    page = mmap.PAGESIZE
    inside = max(page, -(-array.nbytes // page) * page)
    memory = mmap.mmap(-1, inside + 2 * page)
    start = page if front else page + inside - array.nbytes
    copy = np.frombuffer(memory, array.dtype, array.size, start).reshape(array.shape)
    copy[...] = array
    base = np.frombuffer(memory, np.uint8).ctypes.data
    _protect(base, page, PROT_NONE)
    _protect(base + page + inside, page, PROT_NONE)
    if not writable:
        _protect(base + page, inside, PROT_READ)
    return copy


def _protect(address: int, size: int, protection: int) -> None:
    if _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection):
        raise OSError(ctypes.get_errno(), "mprotect failed")
