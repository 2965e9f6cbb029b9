"""Counts what pruned networks execute on a Cortex-M4: dense, in CSR, and in Scalpel's groups of two weights.

    apt-get install gcc-arm-none-eabi qemu-system-arm
    python benchmarks/microcontroller/run.py [--network lenet5]

Weights are pruned without training (`pruning`), networks run in 16-bit fixed point (`fixed`), and instructions are
counted in an emulator (`emulator`): no time, no accuracy. Each run must give what the fixed-point network gives, to the
bit. docs/microcontroller.md says what the columns mean.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import lissom_models
import numpy as np
from lissom.canonical import canonicalise
from lissom.data import first_feeds, input_specs
from lissom.graph.load import load
from lissom.sparse.storage import storage

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.microcontroller.chain import Array, Stage, read_chain
from benchmarks.microcontroller.emulator import compile_program, run, versions
from benchmarks.microcontroller.fixed import FixedNetwork, fix
from benchmarks.microcontroller.image import FORMATS, Format, image_of, store
from benchmarks.microcontroller.pruning import (
    SCALPEL,
    TRADITIONAL,
    WIDTH,
    blocks_of,
    by_magnitude,
    in_pairs,
    in_pairs_over,
)
from benchmarks.subjects import markdown

SAMPLES = 64
"""Calibration samples that the fixed point has room for."""

UNPRUNED, MAGNITUDE, THRESHOLD, PAIRS = "not", "weights", "pairs, one threshold", "pairs"
"""How a network is pruned."""

SPARSE: tuple[Format, ...] = ("csr", "grouped")
"""The formats with an index."""

SHOWN: tuple[tuple[str, Format], ...] = (
    *((UNPRUNED, format_) for format_ in FORMATS),
    (MAGNITUDE, "csr"),
    (THRESHOLD, "grouped"),
    *((PAIRS, format_) for format_ in FORMATS),
)
"""What is run of each network: how it is pruned, and its format."""

COLUMNS = ("network", "pruned", "format", "kept %", "instructions", "dense / these", "bytes", "removed %, fp32")
LAYER_COLUMNS = ("layer, in pairs", "kept %", "dense", "dense / csr", "dense / grouped", "csr below", "grouped below")

PUBLISHED = (
    ("*published: time, mean of five networks*", MAGNITUDE, "csr", "", "", "1.90", "", ""),
    ("*published: time, mean of five networks*", "pairs", "grouped", "", "", "3.54", "", "88"),
)
"""Rows of the first table with the paper's figures."""


@dataclass(frozen=True)
class Count:
    """One network in one format.

    Attributes:
        density: weights other than zero, a share.
        densities: those of each layer.
        layers: instructions of each layer.
        total: instructions of one inference.
        nbytes: bytes of the weights.
        removed: share of the bytes that is saved, as the paper counts them.
    """

    density: float
    densities: Sequence[float]
    layers: Sequence[int]
    total: int
    nbytes: int
    removed: float


Counts = dict[tuple[str, Format], Count]


def prunings(name: str, stages: Sequence[Stage]) -> dict[str, Sequence[Stage]]:
    """What is left of a network, by how it is pruned."""
    return {
        UNPRUNED: stages,
        MAGNITUDE: by_magnitude(stages, TRADITIONAL[name]),
        THRESHOLD: in_pairs_over(stages, SCALPEL[name]),
        PAIRS: in_pairs(stages, TRADITIONAL[name]),
    }


def count(program: Path, network: FixedNetwork, format_: Format, x: Array) -> Count:
    """Runs a network once.

    Args:
        program: of `compile_program`.
        network: in fixed point.
        format_: of all its weights.
        x: the input[channels, height, width], in float.

    Raises:
        ValueError: the microcontroller gives another output than the fixed-point network.
    """
    taken = network.take_in(x)
    stored = [store(fixed.weight, format_) for fixed in network.stages]
    found = run(program, image_of(network, stored, taken))
    expected = network.infer(taken).tolist()
    if found.outputs != expected:
        raise ValueError(f"expected the outputs {expected} in the format {format_}, but got {found.outputs}")
    weights = [fixed.weight for fixed in network.stages]
    blocks = [blocks_of(fixed.stage, WIDTH) for fixed in network.stages]
    papers = [asdict(storage(weight, one)) for weight, one in zip(weights, blocks, strict=True)]
    return Count(
        density=sum(np.count_nonzero(weight) for weight in weights) / sum(weight.size for weight in weights),
        densities=[np.count_nonzero(weight) / weight.size for weight in weights],
        layers=found.layers,
        total=found.total,
        nbytes=sum(one.nbytes for one in stored),
        removed=1 - sum(paper[format_] for paper in papers) / sum(paper["dense"] for paper in papers),
    )


def measure(name: str, program: Path) -> tuple[list[Stage], Counts]:
    """The layers of a network of the zoo, and what it executes on one test image."""
    model = load(lissom_models.path(name))
    calibration = lissom_models.calibration(name)
    stages = read_chain(canonicalise(model, first_feeds(input_specs(model.inputs), str(calibration), {})))
    with np.load(calibration) as data:
        samples = list(data["image"][:SAMPLES])
    with np.load(lissom_models.test(name)) as data:
        x = data["image"][0]
    networks = {pruned: fix(left, samples) for pruned, left in prunings(name, stages).items()}
    return stages, {(pruned, format_): count(program, networks[pruned], format_, x) for pruned, format_ in SHOWN}


def by_network(name: str, counts: Counts) -> list[list[str]]:
    """Rows of one network."""
    dense = counts[UNPRUNED, "dense"].total
    return [
        [
            *(name, pruned, format_, f"{100 * one.density:.1f}", f"{one.total:,}", f"{dense / one.total:.2f}"),
            *(f"{one.nbytes:,}", f"{100 * one.removed:.0f}"),
        ]
        for (pruned, format_), one in counts.items()
    ]


def by_layer(name: str, stages: Sequence[Stage], counts: Counts) -> list[list[str]]:
    """Rows of one network's layers, in all formats with the same weights, and where each format becomes the shorter."""
    rows = []
    for number, stage in enumerate(stages):
        kept = counts[PAIRS, "dense"].densities[number]
        dense = counts[PAIRS, "dense"].layers[number]
        ratios = [dense / counts[PAIRS, format_].layers[number] for format_ in SPARSE]
        shorter = [
            crossover(_point(counts[PAIRS, format_], number), _point(counts[UNPRUNED, format_], number), dense)
            for format_ in SPARSE
        ]
        figures = [f"{figure:.2f}" for figure in (*ratios, *shorter)]
        rows.append([f"{name} {stage.name}", f"{100 * kept:.0f}", f"{dense:,}", *figures])
    return rows


def crossover(low: tuple[float, int], high: tuple[float, int], dense: int) -> float:
    """The density at which the straight line through two points (density, instructions) is at `dense`."""
    return low[0] + (dense - low[1]) * (high[0] - low[0]) / (high[1] - low[1])


def _point(one: Count, number: int) -> tuple[float, int]:
    """Density and instructions of a layer."""
    return one.densities[number], one.layers[number]


def main(argv: Sequence[str] | None = None) -> None:
    """Counts and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=sorted(TRADITIONAL), nargs="+", default=sorted(TRADITIONAL))
    arguments = parser.parse_args(argv)
    print(*versions(), sep="\n", end="\n\n")
    networks: list[Sequence[str]] = []
    layers: list[Sequence[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        program = compile_program(Path(folder))
        for name in arguments.network:
            stages, counts = measure(name, program)
            networks += by_network(name, counts)
            layers += by_layer(name, stages, counts)
    print(markdown(COLUMNS, [*networks, *PUBLISHED]), end="\n\n")
    print(markdown(LAYER_COLUMNS, layers))


if __name__ == "__main__":
    main()
