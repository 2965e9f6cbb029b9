"""Which folding of the 4-D kernel, which side of the groups, Tucker-2 or CP: at equal parameters and at equal latency.

    python benchmarks/prepare_data.py --cifar ../shared/data/cifar10-jpeg --ocr OCR_MODELS --out build/data
    python benchmarks/foldings.py --cifar ../shared/data/cifar10-jpeg --ocr OCR_MODELS [--only NAME]
    python benchmarks/foldings.py --fast

Every layer with a kernel of more than one tap is a race. A contestant runs with its largest rank that keeps at most a
share of the layer's parameters, or of the dense layer's latency (measured in chains on the execution provider; only
what the latency table measures competes: ranks in channel blocks). Judged by the relative error of the layer's output
(`whitened`) and by the distortion of the network's output with that layer alone replaced. A contestant that has no such
rank comes last, tied. `kept` is the mean share of what was allowed that a contestant used: ranks are whole numbers.

Factors are fitted to the calibration data as `lissom` fits them: under the second moment of the layer's input for one
group and for folding 0; groups of foldings 1 to 3 have plain ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from lissom import pipeline
from lissom.cli.console import progress
from lissom.lowrank.foldings import SIDES, foldings_of
from lissom.options import FloatArray, Ladder, Menu, Parameters, Resource
from lissom.pipeline import Study
from lissom.price.latency import LatencyTable
from lissom.recipe import Recipe
from lissom.recipe_tables import Cp, LowRank, Tucker
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.target import Machine
from scipy.stats import rankdata

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.subjects import (
    Ruler,
    Subject,
    approximation,
    arguments_of,
    chosen_cases,
    command,
    latency_table,
    markdown,
    open_subject,
    output_error,
    title,
    with_weight,
    write_results,
)

GROUPS = (1, 2, 4)
SHARES: Mapping[Resource, Sequence[float]] = {"params": (0.5, 0.3), "latency_us": (0.75, 0.5)}
"""What a contestant may keep of the dense layer."""

SMOKE_GROUPS = (1,)
SMOKE_SHARES: Mapping[Resource, Sequence[float]] = {"params": (0.5,), "latency_us": (0.75,)}
"""Those of `--fast`."""

BASE = "folding 0"
"""The contestant that the others are compared with: the paper's folding, one group."""

Judge = Literal["error", "distortion"]
COLUMNS = ("at", "contestant", "layers", "kept", "error: rank", "won", "× base", "distortion: rank", "won", "× base")


@dataclass(frozen=True)
class Entry:
    """One contestant in one race.

    Attributes:
        network: the network.
        layer: the layer; with the network and the budget, the race.
        budget: what is equal, "params 0.5" for example.
        contestant: which option, without its rank.
        parameters: the option.
        kept: what it costs as a share of what the budget allows.
        error: relative error of the layer's output.
        distortion: distortion of the network's output.
    """

    network: str
    layer: str
    budget: str
    contestant: str
    parameters: Parameters
    kept: float
    error: float
    distortion: float


@dataclass(frozen=True)
class Standing:
    """How a contestant did over several races.

    Attributes:
        contestant: which.
        layers: races that it took part in.
        kept: mean of what it kept.
        rank: mean place, from 1; those that are absent are tied for the last.
        won: share of all races that it won.
        ratio: geometric mean of its figure over that of `BASE`, where both took part.
    """

    contestant: str
    layers: int
    kept: float
    rank: float
    won: float
    ratio: float


def standings(entries: Sequence[Entry], judge: Judge) -> list[Standing]:
    """The standings of all contestants, the best mean place first.

    Args:
        entries: of races with one budget, in any order.
        judge: which figure counts.
    """
    names = list(dict.fromkeys(entry.contestant for entry in entries))
    races = list(dict.fromkeys((entry.network, entry.layer) for entry in entries))
    figures: FloatArray = np.full((len(races), len(names)), np.inf)
    kept: FloatArray = np.full_like(figures, np.nan)
    for entry in entries:
        place = races.index((entry.network, entry.layer)), names.index(entry.contestant)
        figures[place], kept[place] = getattr(entry, judge), entry.kept
    places = rankdata(figures, axis=1)
    winners = figures == figures.min(axis=1, keepdims=True)
    base = figures[:, names.index(BASE)] if BASE in names else np.full(len(races), np.inf)

    def standing(column: int) -> Standing:
        own = figures[:, column]
        both = np.isfinite(own) & np.isfinite(base) & (own > 0) & (base > 0)
        ratio = float(np.exp(np.log(own[both] / base[both]).mean())) if both.any() else float("nan")
        won = (winners[:, column] / winners.sum(axis=1)).mean()
        took_part = np.isfinite(own)
        mean_kept = float(kept[took_part, column].mean())
        return Standing(names[column], int(took_part.sum()), mean_kept, places[:, column].mean(), float(won), ratio)

    return sorted((standing(column) for column in range(len(names))), key=lambda found: found.rank)


def largest_within(ladder: Ladder, resource: Resource, limit: float) -> int | None:
    """Index of the largest option that costs at most `limit`, or None."""
    (fits,) = np.nonzero(ladder.cost(resource) <= limit)
    return int(fits[-1]) if len(fits) else None


def race(study: Study, menu: Menu, resource: Resource, share: float, ruler: Ruler, network: str) -> Iterator[Entry]:
    """The contestants of one layer."""
    layer = next(layer for layer in study.canonical.layers if layer.name == menu.site)
    limit = share * menu.dense.cost.get(resource)
    for ladder in menu.ladders:
        if (index := largest_within(ladder, resource, limit)) is None:
            continue
        option = ladder.option(index)
        weight = approximation(study, layer, option)
        yield Entry(
            network,
            layer.name,
            f"{resource} {share:g}",
            title(ladder.kind, ladder.parameters),
            option.parameters,
            option.cost.get(resource) / limit,
            output_error(layer, weight, study.moments[layer.name]),
            ruler(with_weight(study, layer, weight)),
        )


def races(
    subject: Subject, groups: Sequence[int], shares: Mapping[Resource, Sequence[float]], table: LatencyTable
) -> list[Entry]:
    """All races of a network."""
    recipe = Recipe(
        name="foldings",
        low_rank=LowRank(foldings=(0, 1, 2, 3), sides=SIDES, metric="whitened", groups=tuple(groups)),
        tucker=Tucker(enabled=True, metric="whitened"),
        cp=Cp(enabled=True, metric="whitened"),
    )
    study = pipeline.propose_menus(subject.canonical, recipe, Machine.here().block(), subject.moments)
    kernels = {layer.name for layer in study.canonical.layers if len(foldings_of(layer.geometry.kernel_shape)) > 1}
    of_kernels = [menu for menu in study.menus if menu.site in kernels]
    asked = [Menu(menu.site, menu.dense, _with_groups(menu.ladders, groups)) for menu in of_kernels]
    layers = {layer.name: layer for layer in study.canonical.layers}
    ruler = Ruler(subject)
    found: list[Entry] = []
    for menu in progress(asked, subject.case.name):
        for resource, wanted in shares.items():
            offered = table.price(layers[menu.site], menu) if resource == "latency_us" else menu
            for share in wanted:
                found += race(study, offered, resource, share, ruler, subject.case.name)
    return found


def _with_groups(ladders: Sequence[Ladder], groups: Sequence[int]) -> list[Ladder]:
    """The ladders without those that stand in for a number of groups that the layer does not have."""
    return [ladder for ladder in ladders if ladder.parameters.get("groups", 1) in groups]


def rows(entries: Sequence[Entry]) -> list[list[str]]:
    """The table, budget by budget, over all networks."""
    lines = []
    for budget in dict.fromkeys(entry.budget for entry in entries):
        of_budget = [entry for entry in entries if entry.budget == budget]
        by_distortion = {found.contestant: found for found in standings(of_budget, "distortion")}
        for error in standings(of_budget, "error"):
            figures = [
                f"{value:.2f}"
                for found in (error, by_distortion[error.contestant])
                for value in (found.rank, found.won, found.ratio)
            ]
            lines.append([budget, error.contestant, str(error.layers), f"{error.kept:.2f}", *figures])
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the races, prints the standings and writes the entries."""
    parser = command(__doc__)
    parser.add_argument("--ep", action="append", default=[], help="execution provider")
    parser.add_argument("--threads", type=int, default=1)
    arguments = arguments_of(parser, argv)
    provider = ProviderRequest.parse(arguments.ep, threads=arguments.threads)
    with TemporaryDirectory() as folder:
        table = latency_table(provider, Path(folder) if arguments.fast else arguments.cache)
        entries = list(_all_entries(arguments, table))
    print(markdown(COLUMNS, rows(entries)))
    networks = dict.fromkeys(entry.network for entry in entries)
    by_network = {name: rows([entry for entry in entries if entry.network == name]) for name in networks}
    content = {"entries": [asdict(entry) for entry in entries], "columns": COLUMNS, "rows_by_network": by_network}
    write_results("foldings", provider, arguments, content)


def _all_entries(arguments: argparse.Namespace, table: LatencyTable) -> Iterator[Entry]:
    groups, shares = (SMOKE_GROUPS, SMOKE_SHARES) if arguments.fast else (GROUPS, SHARES)
    for case in chosen_cases(arguments):
        yield from races(open_subject(case, arguments.samples, arguments.held_out), groups, shares, table)


if __name__ == "__main__":
    main()
