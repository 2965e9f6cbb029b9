"""The smallest or fastest result that holds a loss, for each network and recipe ("Within a loss" in docs/results.md).

    python benchmarks/prepare_data.py --cifar ../shared/data/cifar10-jpeg --ocr OCR_MODELS --out build/data
    python benchmarks/pareto.py --cifar ../shared/data/cifar10-jpeg [--ocr OCR_MODELS] [--only NAME] [--recipe NAME ...]

Each network is one `lissom sweep` in this process, on one thread, nothing else running. Statistics are of the first 512
calibration samples, without labels; a goal is held on labelled validation samples of the training data; the score in
the table is of the test data, which no decision sees (`--calibrated N`, `--validated N`, `--tested N`: the first N of
each). A recipe cuts the resource that it names as its budget, or the one that `--budget` names. The reports are kept in
`build/results`. A row has a star where it is on the Pareto front of score, latency and bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import lissom
from lissom.recipe import Recipe, read_recipe
from lissom.report.sweep import RowEntry

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import DATA, REPORTS, Case, cases, first
from benchmarks.subjects import file_words

DROPS = (0.02, 0.01, 0.005)


def goal_data(case: Case) -> str:
    """The samples that goals are held on: labelled, of the training data, and not among those of the statistics."""
    return str(DATA / Path(case.validation).name.replace("_test", "_validation"))


def recipe_of(name: str, budget: str | None) -> Recipe:
    """A preset, cutting another resource than its own if `budget` says so."""
    recipe = read_recipe(name)
    if budget is None or recipe.allocate.objective == "alds":  # that one has a budget of parameters only
        return recipe
    return recipe.model_copy(update={"allocate": recipe.allocate.model_copy(update={"budget": budget})})


def measure(
    case: Case,
    recipes: Sequence[Recipe],
    drops: Sequence[float],
    target: str | None = None,
    calibrated: int | None = None,
    validated: int | None = None,
    tested: int | None = None,
) -> list[str]:
    """The rows of one network; the last three: how many samples of each part are used (None: all)."""
    swept = lissom.sweep(
        case.model,
        recipes,
        [{"max_drop": drop} for drop in drops],
        calibration=first(case.calibration, calibrated),
        validation=first(goal_data(case), validated),
        test=first(case.validation, tested),
        metric=case.metric,
        target=target,
        keep_anyway=True,
    )
    REPORTS.mkdir(parents=True, exist_ok=True)
    told = "-".join(f"{recipe.name}-{recipe.allocate.budget}" for recipe in recipes)
    path = REPORTS / f"{file_words(case.name)}-{told}-sweep.json"
    path.write_text(json.dumps(swept.report.model_dump(mode="json")), encoding="utf-8")
    return [row(case, entry) for entry in swept.report.rows]


def row(case: Case, entry: RowEntry) -> str:
    """One line of the table."""
    words = f"{'★ ' if entry.on_front else ''}{entry.status}"
    head = f"| {case.name} | `--recipe {entry.recipe} --{entry.bound}` | {words} "
    report = entry.report
    if report is None or report.after is None or report.latency is None:
        return f"{head}| {entry.reason} | | | | | {entry.seconds:.0f} |"
    before, after, latency, score = report.before, report.after, report.latency, entry.test[0]
    return (
        f"{head}| {after.params / before.params:.3f} | {after.bytes / before.bytes:.3f} "
        f"| {after.macs / before.macs:.3f} | {latency.ratio:.3f} [{latency.low:.3f}, {latency.high:.3f}] "
        f"| {score.metric.split(':')[-1]} {score.before:.4f} → {score.after:.4f} (n={score.n}) | {entry.seconds:.0f} |"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True, help="folder of the CIFAR-10 (JPEG) ResNet-20")
    parser.add_argument("--ocr", type=Path, help="folder of the PP-OCR networks")
    parser.add_argument("--only", help="only networks whose name contains this")
    parser.add_argument("--recipe", nargs="+", default=["alds", "lowrank"])
    parser.add_argument("--budget", choices=["params", "macs", "bytes", "latency_us"], help="what is cut")
    parser.add_argument("--target", help="the processor, for recipes that ask for it")
    parser.add_argument("--calibrated", type=int, help="samples of the statistics")
    parser.add_argument("--validated", type=int, help="samples that goals are held on")
    parser.add_argument("--tested", type=int, help="samples of the score in the table")
    parser.add_argument("--max-drop", type=float, nargs="+", default=list(DROPS))
    arguments = parser.parse_args(argv)
    recipes = [recipe_of(name, arguments.budget) for name in arguments.recipe]
    print("| network | flags | | params | bytes | MACs | latency | score on the test data | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in cases(arguments.cifar, arguments.ocr):
        if arguments.only is None or arguments.only in case.name:
            goals, samples = arguments.max_drop, (arguments.calibrated, arguments.validated, arguments.tested)
            print(*measure(case, recipes, goals, arguments.target, *samples), sep="\n", flush=True)


if __name__ == "__main__":
    main()
