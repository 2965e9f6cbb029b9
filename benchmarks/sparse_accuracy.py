"""What block sparsity loses without labels and without training, at uniform densities and at allocated ones.

    python benchmarks/prepare_data.py --cifar ../shared/data/cifar10-jpeg --out build/data
    python benchmarks/sparse_accuracy.py --cifar ../shared/data/cifar10-jpeg [--only NAME] [--densities 0.5 0.4 0.3 0.2]

All layers but the first keep a share of their blocks. *Uniform*: the same in each. *Allocated*: as many weights in all,
the densities being those of least summed distortion (`total`). Statistics, distortions and refit see 512 calibration
samples and no label; scores are of all test samples (`--calibrated N`, `--tested N`: the first N of them). The
importances `rms` and `magnitude` are also given without the refit: the weights that are left as they were.
`--uniform` leaves the allocated densities out, for which every layer's distortions would have to be measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from lissom import applying, pipeline, study
from lissom.canonical import canonicalise
from lissom.job import Job, open_job, require_data
from lissom.options import Plan
from lissom.pipeline import Study
from lissom.recipe import Recipe, make_bounds
from lissom.recipe_tables import Allocate, LowRank, Refit, Sparse
from lissom.scoring import Scorer
from lissom.sparse.importance import Importance
from lissom.sparse.propose import DENSITIES

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import Case, cases, first


def recipe_of(importance: Importance, pattern: str, width: int, densities: Sequence[float], refit: bool) -> Recipe:
    """Blocks of one size by one importance, chosen by the least summed distortion."""
    offered = tuple(sorted({*DENSITIES, *densities}))
    return Recipe(
        name=f"{importance}-{pattern}-{width}",
        low_rank=LowRank(enabled=False),
        sparse=Sparse(enabled=True, importance=importance, pattern=pattern, widths=(width,), densities=offered),
        allocate=Allocate(objective="total", error="outputs"),
        refit=Refit(enabled=refit),
    )


def uniform(offered: Study, density: float) -> Plan:
    """The same density in every site: the largest step that it allows."""
    options = {}
    for menu in offered.menus:
        ladder = menu.ladders[0]
        most = density * menu.dense.cost.params + 1e-6
        options[menu.site] = ladder.option(max(int((ladder.params <= most).sum()) - 1, 0))
    return Plan(options, 0.0)


def top1(scorer: Scorer, offered: Study, plan: Plan) -> float:
    """The first score of a plan's model, percent."""
    candidate = applying.apply(offered, plan)
    return 100 * scorer.goal(candidate.model.to_proto().SerializeToString())[1].value


def rows(job: Job, scorer: Scorer, recipe: Recipe, densities: Sequence[float], allocated: bool = True) -> Iterator[str]:
    """One line a density: kept weights, scores without and with refit and with allocated densities, seconds."""
    proposed = study.propose(job, recipe)
    refitted = replace(proposed, calibration=list(job.samples()))
    priced = study.price(job, proposed, timed=False) if allocated else None
    for density in densities:
        began = time.perf_counter()
        plan = uniform(proposed, density)
        kept = plan.total("params")
        scores = [
            top1(scorer, replace(proposed, recipe=replace_refit(recipe, enabled=False)), plan),
            top1(scorer, refitted, plan),
        ]
        if priced is not None:
            scores.append(top1(scorer, priced, pipeline.allocate(priced, {"params": kept})))
        told = " | ".join([*(f"{score:.1f}" for score in scores), *[""] * (3 - len(scores))])
        yield f"| {recipe.name} | {density:g} | {told} | {time.perf_counter() - began:.0f} |"


def replace_refit(recipe: Recipe, *, enabled: bool) -> Recipe:
    """The recipe with or without refit."""
    return recipe.model_copy(update={"refit": Refit(enabled=enabled)})


def measure(case: Case, arguments: argparse.Namespace) -> None:
    """Prints the table of one network."""
    with tempfile.TemporaryDirectory() as cache:
        job = open_job(
            case.model,
            calibration=first(case.calibration, arguments.calibrated),
            validation=first(case.validation, arguments.tested),
            metric=case.metric,
            exclude=first_layer(case),
            cache=Path(cache),
        )
        scorer = job.scorer(job.validation)
        print(f"\n{case.name}: {100 * scorer.goal(job.original)[0].value:.1f}, all layers but {job.exclude}\n")
        print("| importance, pattern, width | density | uniform | uniform, refit | allocated, refit | s |")
        print("|---|---|---|---|---|---|")
        for importance in arguments.importance:
            recipe = recipe_of(importance, arguments.pattern, arguments.width, arguments.densities, refit=True)
            require_data(job, recipe, make_bounds(keep_params=1.0))
            for row in rows(job, scorer, recipe, arguments.densities, not arguments.uniform):
                print(row, flush=True)


def first_layer(case: Case) -> str:
    """A regular expression for the name of the first layer."""
    job = open_job(case.model, calibration=case.calibration)
    return f"^{canonicalise(job.model, job.feeds).layers[0].name}$"


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", type=Path, required=True)
    parser.add_argument("--ocr", type=Path)
    parser.add_argument("--only", default="CIFAR", help="only networks whose name contains this")
    parser.add_argument("--densities", type=float, nargs="+", default=[0.5, 0.4, 0.3, 0.2])
    parser.add_argument("--importance", nargs="+", default=["obs", "rms", "magnitude"])
    parser.add_argument("--pattern", default="columns")
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--uniform", action="store_true", help="without the allocated densities")
    parser.add_argument("--calibrated", type=int, help="samples of the statistics, the distortions and the refit")
    parser.add_argument("--tested", type=int, help="test samples of the scores")
    arguments = parser.parse_args(argv)
    for case in cases(arguments.cifar, arguments.ocr):
        if arguments.only in case.name:
            measure(case, arguments)


if __name__ == "__main__":
    main()
