"""Who works on the layers changes nothing: not a bit of the menus, not the order, not the failure that is raised."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import lissom
import lissom_models
import numpy as np
import pytest
from distributed import LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom import parallel, pipeline
from lissom.canonical import Canonical, canonicalise
from lissom.cli import main
from lissom.graph.load import load
from lissom.kinds import KINDS
from lissom.observe import Moment, observe_moments
from lissom.options import Menu
from lissom.parallel import AHEAD, SERIAL, Workers, map_in_parallel, one_blas_thread, open_workers
from lissom.price.cache import Cache
from lissom.price.distortion import DistortionTable
from lissom.recipe import Recipe
from lissom.recipe_tables import LowRank
from lissom_runtime.errors import UsageError
from passes.parallel_work import blas_threads, refuse_odd, square_late
from threadpoolctl import threadpool_limits

pytestmark = pytest.mark.xdist_group("cluster")  # all in one process: they share the cluster

ASKED = {
    "frobenius": LowRank(foldings=(0, 1, 2, 3), sides=("input", "output"), metric="frobenius"),
    "whitened": LowRank(foldings=(0, 1), metric="whitened", rank_multiple="target"),
}
"""The options, by metric."""

WIDE, NARROW = "block1", "stage2_block1"
"""Layers: those of the first blocks, which are of every width, and the three of one of them."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Dask scheduler with two workers, each a process of its own."""
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as running:
        yield running.scheduler_address


@pytest.fixture(scope="module")
def processes() -> Iterator[Workers]:
    """Two processes, begun afresh."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield Workers(pool, 2)


@cache
def resnet20() -> tuple[Canonical, dict[str, Moment]]:
    """ResNet-20, and the moments of its layers' inputs over 32 images."""
    model = load(lissom_models.path("resnet20"))
    with np.load(lissom_models.calibration("resnet20")) as arrays:
        feeds = {"image": arrays["image"][:32]}
    canonical = canonicalise(model, feeds)
    return canonical, observe_moments(canonical.model, canonical.layers, [feeds])


def menus(metric: str, workers: Workers) -> Sequence[Menu]:
    canonical, moments = resnet20()
    recipe = Recipe(name="a test", low_rank=ASKED[metric])
    return pipeline.propose_menus(canonical, recipe, 8, moments, WIDE, workers=workers).menus


@cache
def serial_menus(metric: str) -> Sequence[Menu]:
    return menus(metric, SERIAL)


def exact(offered: Sequence[Menu]) -> list[object]:
    """All that menus hold, numbers as their bytes."""
    found: list[object] = []
    for menu in offered:
        found.append(menu.dense)
        for ladder in menu.ladders:
            arrays = (ladder.steps, ladder.error, ladder.params, ladder.bytes, ladder.macs)
            found += [ladder.site, ladder.kind, dict(ladder.parameters), ladder.metric, ladder.error_at_zero.hex()]
            found += [array.tobytes() for array in arrays]
    return found


@pytest.mark.ort
@pytest.mark.parametrize("metric", ASKED)
@pytest.mark.parametrize("jobs", [2, 4])
def test_menus_are_the_same_to_the_last_bit_on_threads(metric: str, jobs: int) -> None:
    with open_workers(jobs, jobs) as workers:
        assert workers.jobs == jobs
        assert exact(menus(metric, workers)) == exact(serial_menus(metric))


@pytest.mark.ort
@pytest.mark.parametrize("metric", ASKED)
def test_menus_are_the_same_to_the_last_bit_on_a_cluster(metric: str, cluster: str) -> None:
    with open_workers(1, None, cluster) as workers:
        assert workers.jobs == 2
        assert exact(menus(metric, workers)) == exact(serial_menus(metric))


@pytest.mark.ort
def test_menus_are_the_same_to_the_last_bit_in_processes(processes: Workers) -> None:
    assert exact(menus("frobenius", processes)) == exact(serial_menus("frobenius"))


def distortions(workers: Workers, folder: Path) -> Sequence[Menu]:
    """Measured menus of the layers of one block of ResNet-20."""
    canonical, moments = resnet20()
    recipe = Recipe(name="a test", low_rank=ASKED["whitened"])
    study = pipeline.propose_menus(canonical, recipe, 8, moments, NARROW)
    with np.load(lissom_models.calibration("resnet20")) as arrays:
        batches = [{"image": arrays["image"][first : first + 4]} for first in (0, 4, 8)]
    approximate = {name: kind.approximate for name, kind in KINDS.items()}
    table = DistortionTable(canonical.model, batches, approximate, Cache(folder))
    return pipeline.price_distortion(study, table, workers).menus


@pytest.mark.ort
def test_distortions_are_the_same_to_the_last_bit_whoever_measures_them(
    cluster: str, processes: Workers, tmp_path: Path
) -> None:
    serial = exact(distortions(SERIAL, tmp_path / "serial"))
    with open_workers(2, 2) as threads, open_workers(1, None, cluster) as dask:
        for number, workers in enumerate((threads, processes, dask)):
            assert exact(distortions(workers, tmp_path / str(number))) == serial
    assert exact(distortions(SERIAL, tmp_path / "0")) == serial  # of what threads have kept


@pytest.mark.ort
def test_the_command_plans_the_same_on_a_cluster(cluster: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for words in (["--jobs", "1"], ["--jobs", "2"], ["--cluster", cluster], ["--cluster", cluster, "--jobs", "1"]):
        path = str(lissom_models.path("lenet5"))
        asked = ["--shape", "image:1,1,28,28", "--keep-params", "0.5", "--dry-run", "--json", "-"]
        assert main(["compress", path, *asked, *words]) == 0
        told.append(capsys.readouterr().out)
    assert told[0].startswith("{")
    assert len(set(told)) == 1


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3), max_size=20), st.integers(1, 4))
def test_values_come_in_the_order_of_the_items_whichever_is_done_first(delays: list[int], jobs: int) -> None:
    items = [(number, delay / 2000) for number, delay in enumerate(delays)]
    with open_workers(jobs, jobs) as workers:
        assert list(map_in_parallel(square_late, items, workers)) == [number**2 for number in range(len(items))]


def test_a_cluster_gives_values_in_the_order_of_the_items(cluster: str) -> None:
    items = [(number, 0.02 * (number % 3 == 0)) for number in range(20)]
    with open_workers(1, None, cluster) as workers:
        assert list(map_in_parallel(square_late, items, workers)) == [number**2 for number in range(20)]


def test_an_item_larger_than_dask_likes_travels_without_a_warning(cluster: str) -> None:
    with open_workers(1, None, cluster) as workers:
        assert list(map_in_parallel(np.ndarray.sum, [np.ones(2_000_000)], workers)) == [2e6]


def test_blas_has_one_thread_in_a_piece_of_work_and_gets_its_threads_back(cluster: str, processes: Workers) -> None:
    with threadpool_limits(limits=2, user_api="blas"):
        with open_workers(2, 2) as threads, open_workers(1, None, cluster) as dask:
            for workers in (SERIAL, threads, processes, dask):
                assert list(map_in_parallel(blas_threads, range(4), workers)) == [1] * 4
        assert blas_threads() == 2


def test_blas_keeps_one_thread_while_any_piece_of_work_runs() -> None:
    inside, leave = threading.Event(), threading.Event()
    seen = []

    def stay() -> None:
        with one_blas_thread():
            inside.set()
            leave.wait()
            seen.append(blas_threads())

    with threadpool_limits(limits=2, user_api="blas"):
        other = threading.Thread(target=stay)
        with one_blas_thread():
            other.start()
            inside.wait()
        assert blas_threads() == 1  # the first has left
        with one_blas_thread():
            assert blas_threads() == 1
        leave.set()
        other.join()
        assert seen == [1]
        assert blas_threads() == 2


def test_the_failure_is_the_one_of_a_serial_run(cluster: str, processes: Workers) -> None:
    def first_failure(workers: Workers) -> tuple[list[int], str]:
        seen: list[int] = []
        with pytest.raises(UsageError) as caught:
            seen.extend(map_in_parallel(refuse_odd, [0, 2, 4, 7, 6, 9], workers))
        return seen, str(caught.value)

    with open_workers(2, 2) as threads, open_workers(1, None, cluster) as dask:
        failures = [first_failure(workers) for workers in (SERIAL, threads, processes, dask)]
    assert failures == [([0, 2, 4], "expected an even number, but got 7")] * 4


def test_no_piece_of_work_is_handed_out_after_a_failure() -> None:
    failed, begun = threading.Event(), []

    def second_fails(number: int) -> int:
        begun.append(number)
        if number == 1:
            failed.set()
            raise UsageError("the second")
        if number == 0:
            failed.wait()
            threading.Event().wait(0.05)  # others could begin now
        return number

    with open_workers(2, 2) as workers, pytest.raises(UsageError, match="the second"):
        list(map_in_parallel(second_fails, range(100), workers))
    assert max(begun) < 2 * AHEAD + 2


@pytest.mark.parametrize("jobs", [2, 3])
def test_items_are_taken_only_as_far_ahead_as_there_are_jobs(jobs: int) -> None:
    done: list[int] = []
    taken: list[int] = []
    lead: list[int] = []

    def items() -> Iterator[int]:
        for number in range(30):
            taken.append(number)
            lead.append(len(taken) - len(done))
            yield number

    with open_workers(jobs, jobs) as workers:
        assert len(list(map_in_parallel(done.append, items(), workers))) == 30
    assert max(lead) <= AHEAD * jobs


@pytest.mark.parametrize("stop", [KeyboardInterrupt, GeneratorExit])
def test_who_stops_early_leaves_the_rest_undone(stop: type[BaseException]) -> None:
    begun, go_on = [], threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        if number:
            go_on.wait()
        return number

    def take_one(workers: Workers) -> None:
        values = map_in_parallel(work, range(100), workers)
        assert next(values) == 0
        threading.Timer(0.05, go_on.set).start()
        raise stop

    with pytest.raises(stop), open_workers(2, 2) as workers:
        take_one(workers)
    assert len(begun) <= 3


def test_no_more_layers_are_worked_on_at_once_than_there_are_cores() -> None:
    with open_workers(2, 64) as workers:
        assert workers.jobs == 2
    with open_workers(2) as workers:
        assert workers.jobs == 2
    with open_workers(1) as workers:
        assert workers is SERIAL


def test_an_executor_of_the_callers_is_used_and_left_open() -> None:
    with ThreadPoolExecutor(1) as pool:
        given: Executor = pool
        with open_workers(2, 3, given) as workers:
            assert (workers.executor, workers.jobs) == (pool, 3)
        assert pool.submit(refuse_odd, 2).result() == 2


def test_less_than_one_job_is_refused() -> None:
    with pytest.raises(UsageError, match="expected at least 1 job, but got 0"):
        lissom.compress(
            str(lissom_models.path("lenet5")), bounds={"keep_params": 0.5}, shapes={"image": (1, 1, 28, 28)}, jobs=0
        )


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'lissom\[cluster\]'"), open_workers(2, None, "tcp://10.0.0.1:1"):
        pass


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://somewhere", ""])
def test_a_scheduler_that_does_not_answer_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "WAIT_SECONDS", 0.2)
    with pytest.raises(UsageError, match=f"expected a Dask scheduler at '{address}'"), open_workers(2, None, address):
        pass


def test_a_cluster_without_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "WAIT_SECONDS", 1)
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(UsageError, match=r"expected a Dask scheduler at .* with workers"),
        open_workers(2, None, empty.scheduler_address),
    ):
        pass


def test_workers_of_another_version_are_refused(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "__version__", "0.0.1")
    with pytest.raises(UsageError, match=r"lissom 0\.0\.1, .* but tcp.* has lissom"), open_workers(2, None, cluster):
        pass


def test_workers_without_lissom_are_refused() -> None:
    with pytest.raises(UsageError, match="on every worker, but tcp://there has none that it can tell: No module"):
        parallel._require_same_versions({"tcp://there": ModuleNotFoundError("No module named 'lissom'")})


def test_a_cluster_that_is_lost_is_no_defect_of_lissom(cluster: str) -> None:
    with pytest.raises(UsageError, match=f"expected the workers of '{cluster}' to stay"), open_workers(2, 1, cluster):
        raise CancelledError
