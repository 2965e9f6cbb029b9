"""Scalpel's table for three classes of processors, rebuilt: size removed, speed, accuracy, beside traditional pruning.

    python benchmarks/prepare_data.py --out build/data
    lissom target -o this.toml
    python benchmarks/scalpel.py --target this.toml [--only NAME] [--fast]

Classes: the presets `microcontroller` and `gpu`, and a measured target, whatever class it found. *Scalpel* is the least
result of the recipe `scalpel` that loses at most `--max-drop` on the validation data, which nothing was fitted to: in
parameters for the microcontroller, in multiply-accumulates for the GPU, in latency for the measured processor.
*Traditional* is the recipe `magnitude`: as many parameters in all, single weights, the same density in every layer, in
compressed sparse rows (blocks of 1 × 1). Nothing is trained. Scores are of the test data, which no decision sees.

Speeds are those of this machine, one thread, batch 1, above 1 is faster: *kernels*, with the operators of the runtime,
against ONNX Runtime's dense layers; *scalar*, with every layer on the kernels and LISSOM_ISA=scalar, against the dense
weights on those kernels: what zeros are worth to a processor without vectors. No GPU is timed: its rows have no speeds.

The paper's speeds are of processors of the three classes, each against the dense network there, after training.
Source: Yu et al., "Scalpel", ISCA 2017, means of five networks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import lissom
import onnx
from lissom.data import Feeds, first_feeds, input_specs
from lissom.graph.load import load
from lissom.lowering.lower import lower
from lissom.report.sweep import RowEntry
from lissom.target.schema import Target, read_target
from lissom_runtime.intervals import Interval

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.interleaved import Compared, compare_apart
from benchmarks.pareto import goal_data, recipe_of
from benchmarks.results import REPORTS, Case, cases
from benchmarks.subjects import markdown

NETWORKS = ("lenet-300-100", "lenet5", "vgg-small", "resnet20", "mobilenet-small")

SMOKE = "lenet-300-100"
SMOKE_SECONDS = 1.0
"""The network of `--fast` where `--only` names none, and how long one is timed."""

CONTROLLER, GPU = "microcontroller", "gpu"

BUDGETS = {CONTROLLER: "params", GPU: "macs"}
"""What is cut for a class of processors; for a measured one it is the latency."""

COLUMNS = (
    "network",
    "target",
    "by",
    "size removed %",
    "parameters",
    "MACs",
    "score, drop",
    "× kernels [99 %]",
    "× scalar [99 %]",
)

PUBLISHED = (
    ("microcontroller", 3.54, 1.90, 88),
    ("CPU", 2.61, 1.06, 82),
    ("GPU", 1.25, 0.41, 53),
)
"""Class, speed of Scalpel and of the traditional pruning over the dense network, and size removed by Scalpel, %."""


@dataclass(frozen=True)
class Row:
    """One way to prune one network for one target.

    Attributes:
        network, target, by: which.
        missed: which bound it misses, or why there is no such result; "" when none.
        removed: share of the file's bytes that is gone; 1 where there is no result.
        params, macs: shares that are left.
        before, after: scores on the test data.
        kernels, scalar: how much faster, with the interval; None where that is not measured.
    """

    network: str
    target: str
    by: str
    missed: str
    removed: float = 1.0
    params: float = 1.0
    macs: float = 1.0
    before: float = 0.0
    after: float = 0.0
    kernels: Interval | None = None
    scalar: Interval | None = None

    def words(self) -> list[str]:
        """One line of the table."""
        head = [self.network, self.target, f"{self.by} (missed)" if self.missed else self.by]
        if self.removed == 1:
            return [*head, self.missed, *[""] * (len(COLUMNS) - len(head) - 1)]
        sizes = [f"{100 * self.removed:.0f}", f"{self.params:.3f}", f"{self.macs:.3f}"]
        score = f"{self.before:.4f} → {self.after:.4f}, {100 * (self.before - self.after):.2f}"
        return [*head, *sizes, score, speed(self.kernels), speed(self.scalar)]


def speed(ratio: Interval | None) -> str:
    """How much faster a ratio of latencies is."""
    if ratio is None:
        return "not measured"
    return f"{1 / ratio.ratio:.2f} [{1 / ratio.high:.2f}, {1 / ratio.low:.2f}]"


def compressed(
    case: Case, recipe: str, budget: str | None, bound: dict[str, float], target: Target | None
) -> tuple[RowEntry, onnx.ModelProto | None]:
    """What a recipe makes of a network within a bound."""
    swept = lissom.sweep(
        case.model,
        [recipe_of(recipe, budget)],
        [bound],
        calibration=case.calibration,
        validation=goal_data(case),
        test=case.validation,
        metric=case.metric,
        target=target,
        keep_anyway=True,
    )
    return swept.report.rows[0], swept.models[0]


def measure(case: Case, name: str, target: Target, drop: float, seconds: float) -> Iterator[Row]:
    """The two rows of one network and target."""
    entry, ours = compressed(case, "scalpel", BUDGETS.get(name, "latency_us"), {"max_drop": drop}, target)
    row = described(case, name, "scalpel", entry)
    if ours is None or entry.report is None or entry.report.after is None:
        yield row
        return
    share = entry.report.after.params / entry.report.before.params
    other, theirs = compressed(case, "magnitude", None, {"keep_params": share}, None)
    rows = [row, described(case, name, "traditional", other)]
    models = [model for model in (ours, theirs) if model is not None]
    speeds = [] if name == GPU else list(timed(case, models, seconds))
    for number, found in enumerate(rows):
        if number < len(speeds):
            native, scalar = speeds[number]
            found = replace(found, kernels=native, scalar=scalar)
        yield found


def described(case: Case, name: str, by: str, entry: RowEntry) -> Row:
    """A result without its speed."""
    report = entry.report
    if report is None or report.after is None:
        return Row(case.name, name, by, entry.reason)
    before, after, score = report.before, report.after, entry.test[0]
    sizes = (1 - after.bytes / before.bytes, after.params / before.params, after.macs / before.macs)
    return Row(case.name, name, by, entry.reason, *sizes, score.before, score.after)


def timed(case: Case, models: Sequence[onnx.ModelProto], seconds: float) -> Iterator[tuple[Interval, Interval]]:
    """Ratios of the latencies of some results to the dense network's: native, and on scalar kernels only."""
    specs = input_specs(load(case.model).inputs)
    feeds: Feeds = first_feeds(specs, case.calibration, {})
    original = onnx.load(case.model)
    native = compare_apart([original, *models], feeds, seconds)
    shapes = {name: values.shape for name, values in feeds.items()}
    every = [lower(model, shapes=shapes, max_density=1.0, measured=False).model for model in (original, *models)]
    scalar: Compared = compare_apart(every, feeds, seconds, isa="scalar")
    return zip(native.intervals, scalar.intervals, strict=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", metavar="FILE", help="this machine, as `lissom target` wrote it")
    parser.add_argument("--only", help="only networks whose name contains this")
    parser.add_argument("--max-drop", type=float, default=0.01, help="accepted loss on the validation data")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the two measurements of speed")
    parser.add_argument(
        "--fast", action="store_true", help=f"{SMOKE} or what --only names, timed for a second: does it work?"
    )
    arguments = parser.parse_args(argv)
    seconds = SMOKE_SECONDS if arguments.fast else arguments.seconds
    wanted = (SMOKE,) if arguments.fast and arguments.only is None else NETWORKS
    targets = {CONTROLLER: read_target(CONTROLLER)}
    if arguments.target:
        targets["this processor"] = read_target(arguments.target)
    targets[GPU] = read_target(GPU)
    print(markdown(COLUMNS, []), flush=True)
    rows: list[Row] = []
    for case in cases(Path(), None):
        if case.name not in wanted or (arguments.only or "") not in case.name:
            continue
        for name, target in targets.items():
            for row in measure(case, name, target, arguments.max_drop, seconds):
                print("| " + " | ".join(row.words()) + " |", flush=True)
                rows.append(row)
    for name, ours, theirs, removed in PUBLISHED:
        for by, times, size in (("scalpel", ours, str(removed)), ("traditional", theirs, "")):
            print(f"| *published, mean of five* | {name} | {by} | {size} | | | | *{times:.2f} there* | |", flush=True)
    REPORTS.mkdir(parents=True, exist_ok=True)
    told = {"rows": [asdict(row) for row in rows], "targets": {name: one.parallelism for name, one in targets.items()}}
    (REPORTS / "scalpel.json").write_text(json.dumps(told, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
