"""Pieces of work that other processes can import."""

from __future__ import annotations

import time

from lissom_runtime.errors import UsageError
from threadpoolctl import threadpool_info


def blas_threads(_: object = None) -> int:
    """The most threads that a BLAS of this process would take."""
    return max(info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas")


def square_late(item: tuple[int, float]) -> int:
    """The square of a number, after some seconds."""
    number, seconds = item
    time.sleep(seconds)
    return number**2


def refuse_odd(number: int) -> int:
    """The number, if it is even.

    Raises:
        UsageError: it is odd.
    """
    if number % 2:
        raise UsageError(f"expected an even number, but got {number}")
    return number
