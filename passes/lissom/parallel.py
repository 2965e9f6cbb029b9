"""Runs independent work on threads, one BLAS thread each.

A fixed number of BLAS threads per piece of work makes results independent of how many
pieces run at once, and small matrices are faster so: two threads that wait for each other
on a busy machine were measured to be 19 times slower (see benchmarks/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Value = TypeVar("Value")


def one_blas_thread() -> AbstractContextManager[object]:
    """While this context is open, BLAS runs on one thread."""
    limits: AbstractContextManager[object] = threadpool_limits(limits=1)
    return limits


def map_in_parallel(function: Callable[[Item], Value], items: Sequence[Item], jobs: int) -> Iterator[Value]:
    """Yields ``function(item)`` in the order of `items`, with `jobs` of them at work at once."""
    with one_blas_thread(), ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(function, items)
