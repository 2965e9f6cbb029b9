"""How far multiply-accumulates predict latency: the ratio of both to the dense layer's, layer by layer.

    python benchmarks/mac_latency.py --cifar ../shared/data/cifar10-jpeg --ocr OCR_MODELS [--ep openvino] [--threads 2]
    python benchmarks/mac_latency.py --fast

Options of every kind with random weights, near some shares of the dense layer's multiply-accumulates: any rank, and
the nearest one in channel blocks; sparse layers with random zeros in blocks of output channels, on the CPU provider
with the kernel library only. Each is timed in a chain of copies (`lissom.price.chain`) in the same rounds as the dense
layer, and its latency is a difference to the network of one copy. A layer of the same geometry is timed once per
network. Where a dense layer cannot be told from noise, it is left out, and said so.

Rank correlation (Spearman) and correlation of the logarithms (Pearson) are over all points of a pattern. `slower` is
the share of the points with less than 0.8 of the multiply-accumulates that take longer than the dense layer; in
brackets those that do so significantly. All points are in the JSON.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from lissom.canonical import Canonical
from lissom.cli.console import progress
from lissom.graph.geometry import Geometry
from lissom.graph.layers import Layer
from lissom.kinds import KINDS, Site, offer
from lissom.lowering.price import native
from lissom.lowrank.foldings import SIDES, Scheme
from lissom.lowrank.pairs import sliced_channels
from lissom.lowrank.propose import KIND as LOW_RANK
from lissom.options import Ladder, Option, Parameters
from lissom.price.chain import Emit, chain
from lissom.price.latency import AT_ONCE, MOST_COPIES, MOST_WEIGHT_BYTES, ROUGH_MACS_PER_US, SCHEDULE, SPAN_US
from lissom.recipe import Recipe
from lissom.recipe_tables import Cp, LowRank, Monochromatic, Sparse, Tiles, Tucker
from lissom_runtime.latency import PairedLatency, Verdict, compare_many
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session
from lissom_runtime.target import Machine
from scipy.stats import pearsonr, spearmanr

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.foldings import GROUPS
from benchmarks.subjects import arguments_of, chosen_cases, command, markdown, open_canonical, title, write_results

SHARES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
"""Of the dense layer's multiply-accumulates, near which options are timed."""

TILES = (2, 4)
"""Numbers of blocks of input and of output channels."""

WIDTHS: Sequence[Literal[1, 4]] = (4, 1)
"""Consecutive output channels that share zeros."""

FEWER = 0.8
"""An option with less than this share of the multiply-accumulates ought to be faster."""

COLUMNS = ("pattern", "points", "layers", "Spearman", "Pearson of logs", f"slower, MACs < {FEWER:g}")


@dataclass(frozen=True)
class Point:
    """One option of one layer, against the dense layer.

    Attributes:
        network: the network.
        layer: the first layer of this geometry.
        pattern: what replaces it.
        aligned: whether the channels of a pair (of each group) come in the target's blocks; None for others.
        parameters: the option.
        macs: ratio of multiply-accumulates.
        latency: ratio of latencies.
        verdict: what may be said of the two chains of copies.
        dense_us: latency of the dense layer, microseconds.
    """

    network: str
    layer: str
    pattern: str
    aligned: bool | None
    parameters: Parameters
    macs: float
    latency: float
    verdict: Verdict
    dense_us: float


@dataclass(frozen=True)
class Correlation:
    """What a set of points says of multiply-accumulates as a predictor."""

    points: int
    layers: int
    spearman: float
    pearson: float
    slower: float
    surely_slower: float


def correlation(points: Sequence[Point]) -> Correlation:
    """Over all of `points`; NaN where there are too few, or all have the same ratio."""
    macs, latency = (np.array([getattr(point, name) for point in points]) for name in ("macs", "latency"))
    varied = len(points) > 2 and len(set(macs)) > 1 and len(set(latency)) > 1
    positive = bool((macs > 0).all() and (latency > 0).all())
    fewer = [point for point in points if point.macs < FEWER]
    return Correlation(
        points=len(points),
        layers=len({(point.network, point.layer) for point in points}),
        spearman=float(spearmanr(macs, latency).statistic) if varied else float("nan"),
        pearson=float(pearsonr(np.log(macs), np.log(latency)).statistic) if varied and positive else float("nan"),
        slower=_share(fewer, lambda point: point.latency > 1),
        surely_slower=_share(fewer, lambda point: point.verdict == "slower"),
    )


def _share(points: Sequence[Point], holds: Callable[[Point], bool]) -> float:
    return sum(map(holds, points)) / len(points) if points else float("nan")


def is_aligned(option: Option, geometry: Geometry, block: int) -> bool | None:
    """Whether all channels that a pair introduces, and those of each of its groups, come in blocks; None for others."""
    if option.kind != LOW_RANK:
        return None
    scheme, rank = Scheme.of(option.parameters), int(option.parameters["rank"])
    sliced = sliced_channels(geometry, scheme.side) // scheme.groups
    return rank % block == 0 and (scheme.groups == 1 or sliced % block == 0)


def sampled(ladder: Ladder, dense_macs: float, shares: Sequence[float], block: int) -> list[int]:
    """Indices of the options nearest to each share of the multiply-accumulates, and of the nearest in blocks."""
    ratios = ladder.macs / dense_macs
    smaller = np.flatnonzero(ratios < 1)
    in_blocks = smaller[ladder.steps[smaller] % block == 0]
    found = {
        int(among[np.abs(ratios[among] - share).argmin()])
        for among in (smaller, in_blocks)
        if len(among)
        for share in shares
    }
    return sorted(found)


def every_kind(shares: Sequence[float], groups: Sequence[int], runs_sparse: bool) -> Recipe:
    """A recipe that offers all kinds, without data.

    Args:
        shares: densities of the sparse layers.
        groups: numbers of groups of the pairs.
        runs_sparse: whether the sparse operators run where latency is measured.
    """
    return Recipe(
        name="mac-latency",
        low_rank=LowRank(foldings=(0, 1, 2, 3), sides=SIDES, metric="frobenius", groups=tuple(groups)),
        tucker=Tucker(enabled=True),
        cp=Cp(enabled=True),
        tiles=Tiles(enabled=True, inputs=TILES, outputs=TILES),
        monochromatic=Monochromatic(enabled=True),
        sparse=Sparse(
            enabled=runs_sparse,
            widths=tuple(WIDTHS),
            importance="magnitude",
            metric="frobenius",
            densities=tuple(shares),
        ),
    )


def points_of(
    network: str, layer: Layer, recipe: Recipe, shares: Sequence[float], provider: ProviderRequest
) -> Iterator[Point]:
    """The options of a layer; none where the dense layer cannot be told from noise."""
    block = Machine.here().block()
    menu = offer(recipe, block, (Site.of(layer), None))
    dense_macs = menu.dense.cost.macs
    options = [ladder.option(index) for ladder in menu.ladders for index in sampled(ladder, dense_macs, shares, block)]
    for start in range(0, len(options), AT_ONCE):
        yield from _timed(network, layer, options[start : start + AT_ONCE], provider)


def _timed(network: str, layer: Layer, options: Sequence[Option], provider: ProviderRequest) -> Iterator[Point]:
    """Options timed in the same rounds as the dense layer."""
    copies = _copies(layer.geometry)
    chains = [chain(layer, 1, None), chain(layer, copies, None)]
    chains += [chain(layer, copies, _emit(option)) for option in options]
    runs = [(open_session(content, provider), feeds) for content, feeds in chains]
    base, dense, *others = compare_many(runs, schedule=SCHEDULE)
    if PairedLatency(base, dense).verdict != "slower":
        print(f"({network}: {layer.name} cannot be told from noise)", flush=True)
        return
    span = dense.median - base.median
    for option, samples in zip(options, others, strict=True):
        yield Point(
            network,
            layer.name,
            title(option.kind, option.parameters, with_groups=False),
            is_aligned(option, layer.geometry, Machine.here().block()),
            option.parameters,
            option.cost.macs / layer.geometry.macs,
            (samples.median - base.median) / span,
            PairedLatency(dense, samples).verdict,
            span / (copies - 1),
        )


def _emit(option: Option) -> Emit:
    """Puts an option with random weights in the place of a layer."""
    return lambda model, layer, rng: KINDS[option.kind].emit_random(model, layer, option.parameters, rng)


def _copies(geometry: Geometry) -> int:
    """How many copies make the difference to one copy about `SPAN_US` long, as far as their weights are affordable."""
    wanted = 1 + int(np.ceil(SPAN_US * ROUGH_MACS_PER_US / geometry.macs))
    return max(2, min(wanted, 1 + int(MOST_WEIGHT_BYTES // (4 * geometry.weight_size)), MOST_COPIES))


def distinct_layers(canonical: Canonical, most: int) -> list[Layer]:
    """The first layer of each geometry, at most `most`, evenly spaced by their multiply-accumulates."""
    first: dict[tuple[str, Geometry], Layer] = {}
    for layer in canonical.layers:
        first.setdefault((layer.op, layer.geometry), layer)
    ordered = sorted(first.values(), key=lambda layer: layer.geometry.macs)
    places = np.unique(np.rint(np.linspace(0, len(ordered) - 1, min(most, len(ordered)))).astype(int))
    return [ordered[place] for place in places]


def rows(points: Sequence[Point]) -> list[list[str]]:
    """The table: every pattern, pairs in blocks and not, and all."""
    sets = {name: [point for point in points if point.pattern == name] for name in sorted({p.pattern for p in points})}
    sets["all pairs, channels in blocks"] = [point for point in points if point.aligned is True]
    sets["all pairs, other channels"] = [point for point in points if point.aligned is False]
    sets["all"] = list(points)
    lines = []
    for name, members in sets.items():
        found = correlation(members)
        share = f"{found.slower:.2f} ({found.surely_slower:.2f})"
        figures = [f"{found.spearman:.2f}", f"{found.pearson:.2f}", share]
        lines.append([name, str(found.points), str(found.layers), *figures])
    return lines


def measured(arguments: argparse.Namespace, provider: ProviderRequest) -> Iterator[Point]:
    """All points of the asked-for networks."""
    shares, groups = ((0.3, 0.6), (1,)) if arguments.fast else (SHARES, GROUPS)
    natively = native(provider)
    if natively is None:
        print("(no sparse points: the runtime operators do not run natively on this provider)", flush=True)
    recipe = every_kind(shares, groups, natively is not None)
    for case in chosen_cases(arguments):
        layers = distinct_layers(open_canonical(case), 2 if arguments.fast else arguments.layers)
        for layer in progress(layers, case.name):
            yield from points_of(case.name, layer, recipe, shares, natively or provider)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the correlations and writes the points."""
    parser = command(__doc__)
    parser.add_argument("--layers", type=int, default=12, help="most geometries of a network")
    parser.add_argument("--ep", action="append", default=[], help="execution provider")
    parser.add_argument("--threads", type=int, default=1)
    arguments = arguments_of(parser, argv)
    provider = ProviderRequest.parse(arguments.ep, threads=arguments.threads)
    points = list(measured(arguments, provider))
    print(markdown(COLUMNS, rows(points)))
    name = "-".join(["mac_latency", *arguments.ep, *([f"{arguments.threads}threads"] if arguments.threads > 1 else [])])
    write_results(name, provider, arguments, {"points": [asdict(point) for point in points]})


if __name__ == "__main__":
    main()
