"""Independent work, on this machine or on a cluster, with the same results everywhere.

1. A piece of work is ``function(item)``: it depends on nothing else, and changes nothing. What other processes are to
   run must be picklable: a function of a module (with `functools.partial`, not a closure) and items of plain data.
2. BLAS has one thread within a piece of work, wherever it runs, a run without any workers included. A matrix product
   is summed in another order by two threads than by one, so a number of threads that depended on how many pieces run
   at once would change the last bits of the result. One is also faster for small matrices: two threads that wait for
   each other on a busy machine were measured to be 19 times slower (see benchmarks/LOG.md). With at most as many
   pieces at work as there are cores, jobs × threads ≤ cores.
3. Values come in the order of the items, and so does the first failure: what is raised is what a serial run raises.
4. Items may be large (the second moments of the inputs), values are small. So at most `AHEAD` pieces a job are on
   their way at once, and finished values wait for their turn.

The limit on BLAS belongs to the process and not to the thread that sets it. So the first who needs it sets it, and the
last who leaves gives back what was there before; a limit that each piece sets and takes back itself would be lifted by
the first piece that ends while another still runs. OpenMP's limit belongs to the thread, and each piece has its own.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
import scipy
from lissom_runtime.errors import UsageError
from threadpoolctl import ThreadpoolController

from lissom.version import __version__

AHEAD = 2
"""Pieces of work a job that are handed out at once: one is worked on, one waits so that nobody is idle."""

WAIT_SECONDS = 30.0
"""How long a scheduler may take to answer, and its first worker to come."""

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Workers:
    """Who works on independent pieces.

    Attributes:
        executor: what they are handed to; None: the calling thread, one by one.
        jobs: how many are worked on at once.
    """

    executor: Executor | None = None
    jobs: int = 1


SERIAL = Workers()
"""No workers: the calling thread does it all."""


@contextmanager
def open_workers(
    cores: int, jobs: int | None = None, cluster: str | Executor | None = None, resource: str | None = None
) -> Iterator[Workers]:
    """Workers for the time of the context; what they have not begun when it ends is not done.

    Args:
        cores: processors of this machine that may be used; more jobs than these are not begun here.
        jobs: pieces at work at once; None: one a core (of the cluster, where there is one).
        cluster: address of a Dask scheduler, or an executor of the caller's, which is left open; None: threads of this
            process. An executor should have as many workers as `jobs`.
        resource: tag of the workers of a Dask cluster that work; each piece takes one unit of it. None: all work.

    Raises:
        UsageError: `jobs` is not positive, Dask is not installed, the scheduler or its workers do not answer, none has
            the resource, or they have other versions than this process.
    """
    if jobs is not None and jobs < 1:
        raise UsageError(f"expected at least 1 job, but got {jobs}")
    if isinstance(cluster, str):
        with _dask(cluster, jobs, resource) as workers:
            yield workers
        return
    if isinstance(cluster, Executor):
        yield Workers(cluster, jobs or cores)
        return
    at_once = min(jobs or cores, cores)
    if at_once == 1:
        yield SERIAL
        return
    pool = ThreadPoolExecutor(at_once)
    try:
        yield Workers(pool, at_once)
    finally:
        pool.shutdown(cancel_futures=True)


def within(workers: Workers) -> Workers:
    """The same workers where they are threads of this process; none for work that cannot be sent to others."""
    return workers if isinstance(workers.executor, ThreadPoolExecutor) else SERIAL


def map_in_parallel(
    function: Callable[[Item], Value], items: Iterable[Item], workers: Workers = SERIAL
) -> Iterator[Value]:
    """Yields ``function(item)`` in the order of `items`, which are taken as they are needed.

    After a failure nothing more is handed out. It is raised when the items before it are done, and what has not begun
    by then is cancelled, as it is when the caller stops.

    Args:
        function: picklable where the workers are other processes.
        items: the same.
        workers: who does it.

    Raises:
        Exception: whatever `function` raises for the first item for which it does.
    """
    alone = partial(_alone, function)
    if workers.executor is None:
        yield from map(alone, items)
        return
    left = iter(items)
    queue: deque[Future[Value]] = deque()  # in the order of the items
    try:
        while True:
            if not any(_failed(future) for future in queue):
                room = AHEAD * workers.jobs - sum(not future.done() for future in queue)
                queue.extend(workers.executor.submit(alone, item) for item in islice(left, room))
            if not queue:
                return
            if queue[0].done():
                yield queue.popleft().result()
            else:
                wait([future for future in queue if not future.done()], return_when=FIRST_COMPLETED)
    finally:
        for future in queue:
            future.cancel()


def _alone(function: Callable[[Item], Value], item: Item) -> Value:
    """``function(item)`` on one BLAS thread, in whatever process this runs."""
    with one_blas_thread():
        return function(item)


def _failed(future: Future[Value]) -> bool:
    return future.done() and (future.cancelled() or future.exception() is not None)


def one_blas_thread() -> AbstractContextManager[object]:
    """While this context is open, BLAS runs on one thread (in the whole process, whoever else asks for it)."""
    return _one_blas_thread()


class _Shared:
    """The limit on BLAS of this process, for as long as anybody needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._restore: Callable[[], None] = _nothing

    def enter(self, controller: ThreadpoolController) -> None:
        """One more who needs it."""
        with self._lock:
            if self._users == 0:
                _let_any_thread_set(controller)
                limit = controller.limit(limits=1)  # not as a context: another thread may be the one to end it
                self._restore = limit.restore_original_limits
            self._users += 1

    def leave(self, controller: ThreadpoolController) -> None:
        """One less; after the last, BLAS has the threads that it had before the first."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                _let_any_thread_set(controller)
                self._restore()
                _let_any_thread_set(controller)


def _nothing() -> None:
    """What there is to restore at first."""


def _let_any_thread_set(controller: ThreadpoolController) -> None:
    """From 3.8 on, threadpoolctl obeys the first thread that limits OpenBLAS, and no other while that one lives."""
    for library in controller.lib_controllers:
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


_BLAS = _Shared()


@contextmanager
def _one_blas_thread() -> Iterator[None]:
    controller = ThreadpoolController()
    # `select`, because a limit gives back the threads of all libraries of its controller, whichever it limited.
    blas = controller.select(user_api="blas")
    with controller.select(user_api="openmp", threading_layer="openmp").limit(limits=1):
        _BLAS.enter(blas)
        try:
            yield
        finally:
            _BLAS.leave(blas)


@contextmanager
def _dask(address: str, jobs: int | None, resource: str | None) -> Iterator[Workers]:
    """The workers of a Dask cluster. Items travel inside their tasks: one whose worker dies is done again elsewhere."""
    try:
        import dask
        import distributed
    except ImportError as error:
        raise UsageError(f"expected Dask for a cluster (pip install 'lissom[cluster]'), but got: {error}") from error
    with ExitStack() as stack:
        # Dask warns of large tasks, because scattered data would travel only once. Ours do anyway.
        stack.enter_context(dask.config.set({"distributed.admin.large-graph-warning-threshold": "1PB"}))
        try:
            client = stack.enter_context(
                distributed.Client(address, timeout=WAIT_SECONDS, set_as_default=False, name="lissom")
            )
            client.wait_for_workers(1, timeout=WAIT_SECONDS)
            # A lambda travels by value, so that a worker without lissom answers too.
            tags = client.run(lambda dask_worker: frozenset(dask_worker.state.total_resources))
            found = client.run(_versions, workers=_tagged(address, tags, resource), on_error="return")
        except (OSError, ValueError, ImportError) as error:
            raise UsageError(f"expected a Dask scheduler at {address!r} with workers, but got: {error}") from error
        _require_same_versions(found)
        taken = {} if resource is None else {"resources": {resource: 1}}
        executor = client.get_executor(pure=False, **taken)
        stack.callback(executor.shutdown, wait=False)
        try:
            yield Workers(executor, jobs or sum(client.nthreads(workers=list(found)).values()))
        except (CancelledError, distributed.KilledWorker) as error:
            raise UsageError(f"expected the workers of {address!r} to stay, but lost them: {error!r}") from error


def _tagged(address: str, tags: Mapping[str, frozenset[str]], resource: str | None) -> list[str]:
    """The workers of a cluster that have a resource, of all workers and their tags.

    Raises:
        UsageError: none has.
    """
    found = [worker for worker, told in tags.items() if resource is None or resource in told]
    if not found:
        others = ", ".join(sorted(frozenset[str]().union(*tags.values()))) or "none"
        raise UsageError(
            f"expected a worker of {address!r} with the resource {resource!r}, but its {len(tags)} have: {others}"
        )
    return found


def _versions() -> dict[str, str]:
    """What decides on the last bits of a result, in the process that this runs in."""
    return {"lissom": __version__, "numpy": np.__version__, "scipy": scipy.__version__}


def _require_same_versions(found: Mapping[str, dict[str, str] | Exception]) -> None:
    """Every worker has what this process has; `found` says what, or why it cannot tell (lissom is not installed).

    Raises:
        UsageError: one has not.
    """
    here = _versions()
    for worker, versions in found.items():
        if versions != here:
            raise UsageError(f"expected {_told(here)} on every worker, but {worker} has {_told(versions)}")


def _told(versions: dict[str, str] | Exception) -> str:
    if isinstance(versions, Exception):
        return f"none that it can tell: {versions}"
    return ", ".join(f"{name} {version}" for name, version in versions.items())
