"""Predictions against measurements: the latency of whole networks, and the order of their distortions.

    python benchmarks/prediction.py --cifar ../shared/data/cifar10-jpeg --ocr OCR_MODELS [--plans 50] [--only NAME]
    python benchmarks/prediction.py --fast

1. Latency. Plans of least summed distortion at several shares of the latency, and random ones, on menus with measured
   latencies. Predicted is what the search goes by: what the original takes, less what the options save. All finished
   models and the original are then timed in the same rounds; the error is that of the predicted share of the
   original's latency against the measured one.
2. Distortion. Random plans that keep from 0.95 down to 0.4 of the parameters (`--shares`), on menus with measured
   distortions: each site has a random share near that of the plan, and its best option within it (`--any-ladder`: that
   of a random ladder). Predicted is the sum over the sites, from calibration samples; real is the distortion of the
   finished model on held-out samples. What counts is the rank correlation.

The options are those of the recipe `lowrank`, without the refit: it changes no latency, and distortions are predicted
before it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from lissom import applying, pipeline
from lissom.cli.console import progress
from lissom.kinds import KINDS
from lissom.options import Menu, Option, Plan
from lissom.pipeline import Study
from lissom.price.cache import Cache
from lissom.price.distortion import DistortionTable
from lissom.recipe import read_recipe
from lissom.recipe_tables import LowRank, Refit
from lissom_runtime.errors import GoalMissed
from lissom_runtime.latency import PairedLatency, Schedule, compare_many, measure
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session
from lissom_runtime.target import Machine
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.subjects import (
    NETWORKS,
    Ruler,
    Subject,
    arguments_of,
    chosen_cases,
    command,
    latency_table,
    markdown,
    open_subject,
    write_results,
)

LATENCY_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Of the original's latency, for plans of least summed distortion; those that cannot be reached are left out."""

RANDOM_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Of the parameters, for random plans that are timed."""

SHARES = (0.95, 0.4)
"""Of the parameters, the first and the last of the random plans whose distortion is measured."""

SPREAD = 0.3
"""How far the share of one site may lie from that of its plan."""

WITHIN = 0.15
"""The relative error of a latency that is good enough."""

COLUMNS = (
    "network",
    "latency plans",
    f"within {WITHIN:.0%}",
    "median error",
    "worst",
    "distortion plans",
    "Spearman",
)


Chooser = Literal["total", "random"]


@dataclass(frozen=True)
class Timed:
    """A plan whose latency was predicted and measured, both as shares of the original's.

    Attributes:
        chooser: who made the plan.
        predicted: by the study.
        measured: on the finished model, with its interval.
        low, high: that interval.
    """

    chooser: Chooser
    predicted: float
    measured: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """Relative: above 0 the model is faster than predicted."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Judged:
    """A random plan with its share of the parameters, and its distortion as predicted and as it is."""

    params: float
    predicted: float
    real: float


def random_plan(menus: Sequence[Menu], share: float, rng: np.random.Generator, any_ladder: bool = False) -> Plan:
    """A random share of the parameters near `share` for each site, and what is best within it: least error.

    With `any_ladder` the best option is one of a random ladder's, mostly one that no allocator would take. A site stays
    dense where its share is 1 or more, or no option is that small.
    """

    def draw(menu: Menu) -> Option:
        limit = (share + SPREAD * rng.uniform(-1, 1)) * menu.dense.cost.params
        if not menu.ladders or limit >= menu.dense.cost.params:
            return menu.dense
        ladders = [menu.ladders[int(rng.integers(len(menu.ladders)))]] if any_ladder else menu.ladders
        fitting = [(ladder, np.flatnonzero(ladder.params <= limit)) for ladder in ladders]
        options = [ladder.option(int(fits[-1])) for ladder, fits in fitting if len(fits)]
        return min(options, key=lambda option: option.error, default=menu.dense)

    options = {menu.site: draw(menu) for menu in menus}
    return Plan(options, level=max((option.error for option in options.values()), default=0.0))


def predict_latency(subject: Subject, study: Study, arguments: argparse.Namespace, cache: Path | None) -> list[Timed]:
    """Plans with predicted and measured latencies."""
    provider = ProviderRequest()
    session = open_session(subject.original, provider)
    whole = measure(session, subject.canonical.feeds).median
    study = with_distortions(subject, pipeline.price_latency(study, latency_table(provider, cache), progress), cache)
    study = pipeline.fit_latency(study, whole)
    plans = list(_latency_plans(study, whole, arguments.fast))
    models = [applying.apply(study, plan).model.to_proto().SerializeToString() for _, plan in plans]
    sessions = [session, *(open_session(model, provider) for model in models)]
    schedule = Schedule(max_pairs=1000, max_seconds=arguments.seconds)
    original, *others = compare_many([(each, subject.canonical.feeds) for each in sessions], schedule=schedule)
    found = []
    for (chooser, plan), samples in zip(plans, others, strict=True):
        interval = PairedLatency(original, samples).interval
        predicted = 1 - (study.cost("latency_us") - plan.total("latency_us")) / whole
        found.append(Timed(chooser, predicted, interval.ratio, interval.low, interval.high))
    return found


def _latency_plans(study: Study, whole: float, fast: bool) -> Iterator[tuple[Chooser, Plan]]:
    """The plans that are timed, of a network that takes `whole` microseconds."""
    for share in LATENCY_SHARES[:1] if fast else LATENCY_SHARES:
        try:
            yield "total", pipeline.allocate(study, {"latency_us": study.cost("latency_us") - (1 - share) * whole})
        except GoalMissed as missed:
            print(f"({share:g} of the latency: {missed})", flush=True)
    for seed, share in enumerate(RANDOM_SHARES[:1] if fast else RANDOM_SHARES):
        yield "random", random_plan(study.menus, share, np.random.default_rng(seed))


def predict_distortion(
    subject: Subject, study: Study, count: int, between: Sequence[float], any_ladder: bool, cache: Path | None
) -> list[Judged]:
    """Random plans, of evenly spaced shares of the parameters, with predicted and real distortions."""
    study, ruler = with_distortions(subject, study, cache), Ruler(subject)
    original = subject.canonical.original.params
    found = []
    shares = np.linspace(*between, count).tolist()
    for seed, share in enumerate(progress(shares, subject.case.name)):
        plan = random_plan(study.menus, share, np.random.default_rng(seed), any_ladder)
        candidate = applying.apply(study, plan)
        found.append(Judged(candidate.totals.params / original, plan.summed_error, ruler(candidate.model)))
    return found


def with_distortions(subject: Subject, study: Study, cache: Path | None) -> Study:
    """The study with distortions measured on the calibration samples."""
    approximate = {name: kind.approximate for name, kind in KINDS.items()}
    table = DistortionTable(subject.canonical.model, subject.calibration, approximate, Cache(cache, "distortion"))
    return pipeline.price_distortion(study, table, progress=progress)


def row(network: str, timed: Sequence[Timed], judged: Sequence[Judged]) -> list[str]:
    """One line of the table."""
    errors = np.abs([plan.error for plan in timed])
    rank = spearmanr([plan.predicted for plan in judged], [plan.real for plan in judged]).statistic
    figures = [f"{(errors <= WITHIN).mean():.2f}", f"{np.median(errors):.3f}", f"{errors.max():.3f}"]
    return [network, str(len(timed)), *figures, str(len(judged)), f"{rank:.3f}"]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints a line a network and writes all plans' figures."""
    parser = command(__doc__)
    parser.add_argument("--plans", type=int, default=50, help="random plans whose distortion is measured")
    parser.add_argument("--shares", type=float, nargs=2, default=list(SHARES), help="of the parameters that they keep")
    parser.add_argument("--any-ladder", action="store_true", help="not the best options: those of random ladders")
    parser.add_argument("--seconds", type=float, default=40.0, help="of the timing of all models of a network")
    arguments = arguments_of(parser, argv)
    if arguments.fast:
        arguments.plans, arguments.seconds = 6, 1.0
    recipe = read_recipe("lowrank").model_copy(update={"refit": Refit(enabled=False)})
    if arguments.fast:
        recipe = recipe.model_copy(update={"low_rank": LowRank(metric="whitened", groups=(1,))})
    lines: list[list[str]] = []
    networks: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        cache = Path(folder) if arguments.fast else arguments.cache
        for case in chosen_cases(arguments, (*NETWORKS, "ch_ppocr_mobile_v2.0_cls_infer")):
            subject = open_subject(case, arguments.samples, arguments.held_out)
            study = pipeline.propose_menus(subject.canonical, recipe, Machine.here().block(), subject.moments)
            timed = predict_latency(subject, study, arguments, cache)
            judged = predict_distortion(subject, study, arguments.plans, arguments.shares, arguments.any_ladder, cache)
            lines.append(row(case.name, timed, judged))
            entries = {"latency": [{**asdict(plan), "error": plan.error} for plan in timed]}
            networks[case.name] = {**entries, "distortion": [asdict(plan) for plan in judged]}
    print(markdown(COLUMNS, lines))
    write_results("prediction", ProviderRequest(), arguments, {"networks": networks})


if __name__ == "__main__":
    main()
