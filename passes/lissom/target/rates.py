"""What memory gives: a large copy, and elements taken from random places.

Both are NumPy's own loops over arrays of `BYTES`, beyond the caches of one core, a share of them for each thread. The
stream rate counts each byte twice (read and written) and not the reads before a write that a cache may add; the gather
rate counts the elements that were wanted, and not the rest of their cache lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from lissom_runtime.latency import Feeds, Schedule, compare_many

BYTES = 2**26
"""Of each array that is read or written."""

GATHERED = 2**20
"""Elements that are taken from random places of such an array."""

SCHEDULE = Schedule(warmup=2, min_pairs=8, max_pairs=40, max_seconds=0.5)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Memory:
    """What memory gives, 10⁹ bytes a second.

    Attributes:
        stream_gbps: read and written by a large copy.
        gather_gbps: elements read from random places.
        busy_threads: threads that really ran during the copy.
    """

    stream_gbps: float
    gather_gbps: float
    busy_threads: float


class _Task:
    """A piece of work on each of some shares, timed as a session is."""

    def __init__(self, executor: Executor, work: Callable[[int], None], shares: int) -> None:
        self._executor, self._work, self._shares = executor, work, shares

    def run(self, output_names: Sequence[str] | None, input_feed: Feeds) -> Sequence[npt.NDArray[np.float32]]:
        """Does the work once."""
        del output_names, input_feed
        list(self._executor.map(self._work, range(self._shares)))
        return []


def memory_rates(threads: int) -> Memory:
    """Measures what memory gives to `threads` threads."""
    source: Floats = np.ones(BYTES // 4, np.float32)
    target: Floats = np.zeros_like(source)
    places = np.random.default_rng(0).integers(0, len(source), GATHERED)
    taken: Floats = np.zeros(GATHERED, np.float32)
    reads, writes = np.array_split(source, threads), np.array_split(target, threads)
    indices, gathered = np.array_split(places, threads), np.array_split(taken, threads)

    def copy(share: int) -> None:
        np.copyto(writes[share], reads[share])

    def gather(share: int) -> None:
        np.take(source, indices[share], out=gathered[share], mode="clip")  # any other mode copies the result

    with ThreadPoolExecutor(threads) as executor:
        copying, gathering = (_Task(executor, work, threads) for work in (copy, gather))
        streamed, picked = compare_many([(copying, {}), (gathering, {})], schedule=SCHEDULE)
    return Memory(
        stream_gbps=2 * source.nbytes / streamed.median / 1e3,
        gather_gbps=taken.nbytes / picked.median / 1e3,
        busy_threads=streamed.busy_threads,
    )
