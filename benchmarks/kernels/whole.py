"""Whole networks: the sparse operators against dense engines, all in one process and in the same rounds.

Rows: ONNX Runtime dense; its static INT8 (see int8.py); OpenVINO's plugin where it offers a device, in float32 and in
the precision that it takes for itself (bfloat16 on processors with AMX); for each density
and block the lowered network with the library, and without it ("portable": function bodies folded while loading, which
is to take at most 5 % longer than dense).

With several numbers of threads the rows of all are in the same rounds. Processor time must be near wall time times the
threads: more means that an engine does not keep to its threads, less that the machine was busy with something else.
Either is said, and the exit status is 1. One line a row; build/results/whole-<network>.json and .md.

    python benchmarks/kernels/whole.py --network resnet50 --density 0.2 0.1 --block 4 [--threads 1 2] [--fast]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
from lissom_runtime.contract import BLOCKS
from lissom_runtime.errors import LissomError
from lissom_runtime.latency import PairedLatency, Runnable, Samples, Schedule, compare_many
from lissom_runtime.target import Machine

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.kernels.builder import Pruning, Which
from benchmarks.kernels.contestants import Contestant, OpenvinoPython, opened, openvino_plugin, ort
from benchmarks.kernels.int8 import quantise
from benchmarks.kernels.networks import NETWORKS, POINTWISE, build, image

RESULTS = Path("build/results")
DENSE, INT8 = "ONNX Runtime dense", "ONNX Runtime INT8"
PLUGIN, PACKAGE = "OpenVINO plugin dense", "openvino (Python package, not the plugin) dense"
AS_IT_COMES = "OpenVINO plugin dense, precision as it comes"
RIVALS = (DENSE, PLUGIN, PACKAGE)
"""Dense float32 engines; the fastest of them is the one to beat."""

BUSY = 0.1
"""Processor time over wall time may differ from the threads by this share."""

SAME = 1e-3
"""Outputs of one network may differ by this share of the largest between engines."""

COLUMNS = (
    *("engine", "threads", "median ms", "× ONNX Runtime dense", "× best dense", "× fewest threads", "busy"),
    *("create s", "resident MiB", "file MiB"),
)
"""Of the table; × is how many times as fast, with the 99 % interval."""

PORTABLE_LIMIT = 1.05
"""The lowered file without the library may take this much of dense's time."""


@dataclass(frozen=True)
class Row:
    """A contestant with its samples."""

    contestant: Contestant
    samples: Samples

    @property
    def label(self) -> str:
        """For a table: the name, with the threads."""
        return f"{self.contestant.name}, {self.contestant.threads} threads"

    @property
    def is_float(self) -> bool:
        """Whether outputs are to be exact to rounding."""
        return self.contestant.name not in (INT8, AS_IT_COMES)


class Field:
    """The contestants on one network, and lines about those that did not start."""

    def __init__(self, network: str, folder: Path, threads: Sequence[int]) -> None:
        self.network, self.folder, self.threads = network, folder, threads
        self.feeds = {"image": image()}
        self.contestants: list[Contestant] = []
        self.notes: list[str] = []

    def add(self, name: str, model: Path, start: Callable[[Path, int], Runnable]) -> None:
        """Opens `start(model, threads)` for each number of threads; one that cannot start leaves a line."""
        for threads in self.threads:
            try:
                contestant = opened(name, model, threads, partial(start, model, threads), self.feeds)
            except LissomError as error:
                self.notes.append(f"{name}: {error}")
                return
            self.contestants.append(contestant)

    def add_dense(self, with_package: bool) -> None:
        """The dense engines."""
        path = self.folder / "dense.onnx"
        onnx.save(build(self.network), path)
        opened(DENSE, path, self.threads[0], partial(ort, path, self.threads[0]), self.feeds)  # what is paid only once
        self.add(DENSE, path, ort)
        self.add(PLUGIN, path, openvino_plugin)
        self.add(AS_IT_COMES, path, partial(openvino_plugin, as_it_comes=True))
        if with_package and OpenvinoPython.installed():
            self.add(PACKAGE, path, OpenvinoPython)
        elif with_package:
            self.notes.append(f"{PACKAGE}: expected the package openvino, but it is not installed")
        quantised = self.folder / "int8.onnx"
        self.notes.append(f"{INT8}: {quantise(path, quantised)}")
        self.add(INT8, quantised, ort)

    def add_sparse(self, pruning: Pruning, measured: bool) -> None:
        """The lowered network with the library and without."""
        name = sparse_name(pruning)
        source, lowered = self.folder / f"{name}.onnx", self.folder / f"{name}.lowered.onnx"
        onnx.save(build(self.network, pruning), source)
        try:
            self.notes.append(f"{name}: {lower(source, lowered, measured)}")
        except LissomError as error:
            self.notes.append(f"{name}: {error}")
            return
        self.add(name, lowered, partial(ort, with_library=True))
        self.add(portable_name(pruning), lowered, ort)


def sparse_name(pruning: Pruning) -> str:
    """Of the row of a lowered network."""
    return f"sparse {pruning.density:g} in {pruning.block}×1"


def portable_name(pruning: Pruning) -> str:
    """Of the row of a lowered network without the library."""
    return f"portable {pruning.density:g} in {pruning.block}×1"


def lower(source: Path, target: Path, measured: bool) -> str:
    """Lowers the pruned network at `source` to sparse operators; returns what became of the layers.

    A result that is no better than the original is written too: this benchmark shows by how much.

    Raises:
        LissomError: lissom declines it.
    """
    from lissom import lower as lowering  # only here: the rest of the benchmark needs the runtime alone

    result = lowering(source, measured=measured)
    onnx.save(result.model, target)
    layers = result.report.layers
    lowered = sum(layer.decision == "lowered" for layer in layers)
    missed = f"; {result.missed}" if result.missed else ""
    return f"{lowered} of {len(layers)} sparse layers lowered, {'as' if measured else 'not'} measured{missed}"


def faults(rows: Sequence[Row]) -> list[str]:
    """What must not be: threads that were not kept to, outputs that differ, a slow portable path."""
    found = []
    for row in rows:
        threads, busy = row.contestant.threads, row.samples.busy_threads
        if threads == 1 and abs(busy - 1) > BUSY:
            found.append(
                f"{row.label}: expected processor time within {BUSY:.0%} of wall time, but got {busy:.2f} of it"
            )
        elif busy > threads * (1 + BUSY):
            found.append(f"{row.label}: expected at most {threads} busy threads, but got {busy:.2f}")
    return found + _differing(rows) + _slow_portables(rows)


def _differing(rows: Sequence[Row]) -> list[str]:
    """Engines that give the same network another output: dense against dense, sparse against its portable run."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.is_float:
            key = DENSE if row.contestant.name in RIVALS else row.contestant.name.partition(" ")[2]
            groups.setdefault(key, []).append(row)
    found = []
    for first, *others in groups.values():
        scale = float(np.abs(first.contestant.output).max())
        for row in others:
            error = float(np.abs(row.contestant.output - first.contestant.output).max()) / scale
            if not error <= SAME:
                found.append(f"{row.label}: expected the output of {first.label}, but it differs by {error:.2g} of it")
    return found


def _slow_portables(rows: Sequence[Row]) -> list[str]:
    found = []
    for row in rows:
        if row.contestant.name.startswith("portable"):
            ratio = PairedLatency(_row(rows, DENSE, row.contestant.threads).samples, row.samples).interval
            if ratio.low > PORTABLE_LIMIT:
                found.append(
                    f"{row.label}: expected at most {PORTABLE_LIMIT} of dense's time, but got {ratio.ratio:.3f}"
                )
    return found


def _row(rows: Sequence[Row], name: str, threads: int) -> Row:
    return next(row for row in rows if (row.contestant.name, row.contestant.threads) == (name, threads))


def best_rival(rows: Sequence[Row], threads: int) -> Row:
    """The fastest dense float32 engine with so many threads."""
    rivals = [row for row in rows if row.contestant.name in RIVALS and row.contestant.threads == threads]
    return min(rivals, key=lambda row: row.samples.median)


def table(rows: Sequence[Row]) -> str:
    """Markdown, a line a row."""
    lines = [
        "| " + " | ".join(COLUMNS) + " |",
        "|---|" + "---:|" * (len(COLUMNS) - 1),
    ]
    for row in rows:
        one, threads = row.contestant, row.contestant.threads
        alone = min(other.contestant.threads for other in rows)
        lines.append(
            f"| {one.name} | {threads} | {row.samples.median / 1000:.2f} "
            f"| {_speedup(_row(rows, DENSE, threads), row)} | {_speedup(best_rival(rows, threads), row)} "
            f"| {_speedup(_row(rows, one.name, alone), row)} | {row.samples.busy_threads:.2f} "
            f"| {one.create_seconds:.2f} | {one.resident_mib:.0f} | {one.file_mib:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _speedup(base: Row, row: Row) -> str:
    if base is row:
        return "1"
    interval = PairedLatency(row.samples, base.samples).interval
    return f"{interval.ratio:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def report(network: str, rows: Sequence[Row], notes: Sequence[str], problems: Sequence[str]) -> dict[str, Any]:
    """All of it with raw samples; ratios are times over that of ONNX Runtime dense and of the best dense engine."""
    return {
        "network": network,
        "machine": Machine.here().to_json(),
        "notes": list(notes),
        "faults": list(problems),
        "rows": [
            {
                "engine": row.contestant.name,
                "threads": row.contestant.threads,
                "create_seconds": row.contestant.create_seconds,
                "resident_mib": row.contestant.resident_mib,
                "file_mib": row.contestant.file_mib,
                "over_dense": _interval(_row(rows, DENSE, row.contestant.threads), row),
                "over_best_dense": _interval(best_rival(rows, row.contestant.threads), row),
                **row.samples.to_json(),
            }
            for row in rows
        ],
    }


def _interval(base: Row, row: Row) -> list[float]:
    interval = PairedLatency(base.samples, row.samples).interval
    return [interval.ratio, interval.low, interval.high]


def measure(network: str, prunings: Sequence[Pruning], arguments: argparse.Namespace) -> bool:
    """Measures one network, prints its table and writes the files; whether nothing was at fault."""
    with tempfile.TemporaryDirectory(prefix="lissom-whole-") as folder:
        field = Field(network, Path(folder), sorted(set(arguments.threads)))
        field.add_dense(arguments.openvino_python)
        for pruning in prunings:
            field.add_sparse(pruning, not (arguments.all_layers or arguments.fast))
        seconds, pairs = (1.0, 16) if arguments.fast else (arguments.seconds, 40)
        schedule = Schedule(
            warmup=2, min_pairs=pairs, max_pairs=2000, max_seconds=seconds, settle=int(arguments.settled)
        )
        samples = compare_many([(one.run, field.feeds) for one in field.contestants], schedule=schedule)
    rows = [Row(one, found) for one, found in zip(field.contestants, samples, strict=True)]
    problems = faults(rows)
    lines = [*field.notes, *(f"FAULT {problem}" for problem in problems)]
    text = f"## {network}\n\n{table(rows)}\n" + "".join(f"- {line}\n" for line in lines)
    print(text, flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"whole-{network}.md").write_text(text, encoding="utf-8")
    found = report(network, rows, field.notes, problems)
    (RESULTS / f"whole-{network}.json").write_text(json.dumps(found), encoding="utf-8")
    return not problems


def main(argv: Sequence[str] | None = None) -> int:
    """Measures the networks asked for; 1 if something was at fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=list(NETWORKS))
    parser.add_argument("--density", nargs="+", type=float)
    parser.add_argument("--block", nargs="+", type=int, choices=BLOCKS, default=[4])
    parser.add_argument("--which", choices=get_args(Which), help="default: pointwise where that is nearly all")
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--seconds", type=float, default=60.0, help="of each network")
    parser.add_argument("--all-layers", action="store_true", help="lower also the layers that are slower for it")
    parser.add_argument(
        "--settled", action="store_true", help="run each engine once before each sample, as in a process of its own"
    )
    parser.add_argument("--openvino-python", action="store_true", help="also time the Python package openvino")
    parser.add_argument("--fast", action="store_true", help="mobilenetv2 for about 1 s: does it work?")
    arguments = parser.parse_args(argv)
    networks = arguments.network or (["mobilenetv2"] if arguments.fast else list(NETWORKS))
    machine = Machine.here()
    print(f"{machine.cpu}, {machine.cores} cores, onnxruntime {machine.onnxruntime}\n")
    sound = True
    for network in networks:
        which: Which = arguments.which or ("pointwise" if network in POINTWISE else "all but first")
        densities = arguments.density or ([0.2] if arguments.fast else [0.2, 0.1])
        prunings = [Pruning(density, block, which) for block in arguments.block for density in densities]
        sound &= measure(network, prunings, arguments)
    return int(not sound)


if __name__ == "__main__":
    raise SystemExit(main())
