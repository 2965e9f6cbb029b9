"""What the recipe `lowrank` loses at a budget, beside the published method ("Without labels" in docs/results.md).

    python benchmarks/prepare_data.py --cifar ../shared/data/cifar10-jpeg --ocr OCR_MODELS --out build/data
    python benchmarks/lowrank.py --cifar ../shared/data/cifar10-jpeg [--ocr OCR_MODELS] [--only NAME] [--keep 0.7 0.5]

Statistics, distortions and refit see the first 512 calibration samples and no label; scores are of all test samples.
`alds` has a parameter budget only. Each row is one `lissom compress` in this process, on one thread; its report is kept
in `build/results`. Seconds are those of the whole command, scores and latency of the result included.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lissom

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import Case, cases, compress, row

BUDGETS = {"keep_params": "params", "keep_macs": "macs"}


def measure(case: Case, recipe: str, budget: str, keep: float) -> str:
    """One row, with the seconds that it took."""
    words = f"--recipe {recipe} --{budget.replace('_', '-')} {keep:g}"
    bounds: dict[str, Any] = {budget: keep}
    began = time.perf_counter()
    try:
        report = compress(case, f"{recipe}-{BUDGETS[budget]}-{keep:g}", recipe=recipe, bounds=bounds)
    except lissom.GoalMissed as missed:
        return f"| {case.name} | `{words}` | exit 1: {missed} | | | | | | |"
    return f"{row(case, words, report)} {time.perf_counter() - began:.0f} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--ocr", type=Path)
    parser.add_argument("--only", help="only networks whose name contains this")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.7, 0.5])
    parser.add_argument("--recipe", nargs="+", default=["alds", "lowrank"])
    arguments = parser.parse_args(argv)
    print("| network | flags | layers | params | bytes | MACs | score | latency | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in cases(arguments.cifar, arguments.ocr):
        if arguments.only is not None and arguments.only not in case.name:
            continue
        for keep in arguments.keep:
            for recipe in arguments.recipe:
                for budget in ("keep_params",) if recipe == "alds" else BUDGETS:
                    print(measure(case, recipe, budget, keep), flush=True)


if __name__ == "__main__":
    main()
