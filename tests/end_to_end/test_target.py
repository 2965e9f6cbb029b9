"""`lissom target` writes what it measured, here or in another process, and refuses what it cannot do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, Nanny, Scheduler, SpecCluster
from end_to_end import board
from lissom.cli import main
from lissom.cli import target as command
from lissom.target.schema import read_target, require_here
from lissom_runtime.errors import UsageError
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.target import Machine
from passes.target_cases import SHRUNK, target

pytestmark = pytest.mark.ort


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a scheduler with two workers, of which one is tagged a board."""
    tagged = {"resources": {"board": 1}, "preload": [board.__file__]}
    workers = {number: {"cls": Nanny, "options": {"nthreads": 1, **more}} for number, more in enumerate(({}, tagged))}
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": ":0"}}
    with SpecCluster(workers=workers, scheduler=scheduler) as running:
        yield running.scheduler_address


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes, arrays and schedules so small that all is done in a moment."""
    for module, name, value in SHRUNK:
        monkeypatch.setattr(module, name, value)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence that a call is refused with."""
    assert main(["target", *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.count("\n") == 1
    return told


def test_what_was_measured_here_is_written_shown_and_read(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "here.toml"
    path.write_text("mine")
    assert "--overwrite replaces it" in refused(capsys, "-o", str(path), "--fast")
    assert path.read_text() == "mine"
    assert main(["target", "-o", str(path), "--fast", "--overwrite", "--json", str(tmp_path / "here.json")]) == 0
    told = capsys.readouterr().out
    found = read_target(str(path))
    require_here(found, Machine.here(), ProviderRequest())
    assert found.name == "here"
    assert json.loads((tmp_path / "here.json").read_text()) == json.loads(found.model_dump_json())
    assert f"{found.parallelism} parallelism" in told
    for shape in found.shapes:
        assert shape.name in told
    assert f"written: {path}" in told


def test_a_worker_with_the_tag_measures_its_own_processor(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(cluster, set_as_default=False) as client:
        processes = client.run(lambda dask_worker: (__import__("os").getpid(), dict(dask_worker.state.total_resources)))
    (there,) = [process for process, tags in processes.values() if "board" in tags]
    path = tmp_path / "board.toml"
    assert main(["target", "-o", str(path), "--fast", "--cluster", cluster, "--resource", "board"]) == 0
    found = read_target(str(path))
    assert found.processor is not None
    assert found.processor.cpu == f"board of process {there}"
    assert {shape.name for shape in found.shapes} == {"conv", "gemm"}
    with pytest.raises(UsageError, match=rf"but 'board' was measured on board of process {there} "):
        require_here(found, Machine.here(), ProviderRequest())


def test_a_tag_that_no_worker_has_is_refused(cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "board.toml"
    told = refused(capsys, "-o", str(path), "--cluster", cluster, "--resource", "bord")
    assert f"expected a worker of {cluster!r} with the resource 'bord', but its 2 have: board" in told
    assert not path.exists()


@pytest.mark.parametrize("words", [["--cluster", "tcp://127.0.0.1:1"], ["--resource", "board"]])
def test_a_cluster_and_a_tag_go_together(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "-o", str(tmp_path / "board.toml"), *words)
    assert "expected --cluster and --resource together, but got one without the other" in told


def test_a_busy_processor_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for busy in (0.95, 0.2):
        rates = {"stream_gbps": 9.0, "gather_gbps": 1.0, "gmacs": 40.0, "busy_threads": 2 * busy}
        found = target(
            processor=Machine.here().to_json(), provider={"names": ["CPUExecutionProvider"], "threads": 2}, rates=rates
        )
        monkeypatch.setattr(command, "measure", lambda *_, found=found: found)
        assert main(["target", "-o", str(tmp_path / "busy.toml"), "--overwrite"]) == 0
        told.append(capsys.readouterr().out)
    assert "note" not in told[0]
    assert "note: 0.40 of 2 thread(s) ran, because other programs ran too: latencies are too long" in told[1]


def test_a_provider_that_is_not_here_is_refused(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "here.toml"
    assert main(["target", "-o", str(path), "--fast", "--ep", "qnn"]) == 3
    assert "got QNNExecutionProvider" in capsys.readouterr().err
    assert not path.exists()


def test_the_report_goes_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "here.toml")
    assert "expected a report apart from the models" in refused(capsys, "-o", path, "--json", path)
