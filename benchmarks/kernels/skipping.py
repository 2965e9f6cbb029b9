"""The share of zero vectors from which a sparse convolution would gain by passing over them: why it does not.

A tile of the product (`sparse_product`) multiplies a stretch of outputs by the same stretch of each stored column of
the panel. `skipping.cc` has a product of the same tiles that passes over columns that are zero in the stretch: it looks
at every column of a stretch once, lists for each block row the stored blocks that are left, and multiplies by those.
Both are timed in the same rounds, on one thread, on panels of which a share of vectors is zero at random places.

The crossover is the share at which both take as long. `counted` looks at the columns; `known` is given what was found,
and stands for a panel that is packed with that knowledge at no cost. Where that is no gain, none is to be had this way.
Results are compared on whole numbers first.

    python benchmarks/kernels/skipping.py [--density 0.1 0.2] [--seconds 3] [--fast]

Writes build/results/skipping.tsv. `benchmarks/zero_vectors.py` counts the zero vectors of networks.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from lissom_runtime import library
from lissom_runtime.contract import BLOCKS
from lissom_runtime.latency import Feeds, PairedLatency, Schedule, compare_many
from lissom_runtime.packing import pack
from lissom_runtime.target import Machine

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.kernels import estimates
from benchmarks.kernels.compiler import compiled
from benchmarks.kernels.native import Sparse, Weight
from benchmarks.kernels.sparsity import FloatArray, pattern, sparse_weight

RESULTS = Path("build/results")
SHAPES = {
    "64→64 3×3 (ResNet-20)": (64, 576),
    "128→128 3×3 (vgg-small)": (128, 1152),
    "256→256 3×3 (ResNet-50)": (256, 2304),
    "1024→256 1×1 (ResNet-50)": (256, 1024),
}
"""Rows and columns of folded weights."""

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
OUTPUTS = 192
"""Of a panel, about: a multiple of the tile."""

REPEATS = 8
"""Products of one run: all but the first find the panel in the caches, as after packing."""

Mode = Literal["product", "counted", "known"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True)
class Row:
    """One product on one shape, block, density and share of zero vectors.

    Attributes:
        density: of the weight.
        stretch: outputs of a vector.
        zero: share of the vectors that are zero.
        us: median of a product, microseconds.
        ratio, low, high: of the time to that of `sparse_product`, with the 99 % interval.
    """

    shape: str
    block: int
    density: float
    stretch: int
    zero: float
    mode: Mode
    us: float
    ratio: float
    low: float
    high: float


class Panel:
    """A weight and a panel, multiplied in one of the modes; `latency.compare_many` times it as it times a session.

    Args:
        weight: the weight.
        x: panel[depth, outputs], outputs a multiple of the tile.
        mode: which product.
    """

    def __init__(self, weight: Weight, x: FloatArray, mode: Mode) -> None:
        depth, outputs = x.shape
        self._weight, self._mode, self._outputs = weight, mode, outputs
        # Apart as in the library: an odd number of vectors, and as many elements as a product may read beyond.
        self._pitch = 8 * (-(-outputs // 8) | 1)
        panel = np.zeros(depth * self._pitch + 16, np.float32)
        panel[: depth * self._pitch].reshape(depth, -1)[:, :outputs] = x
        self._arrays = (
            np.arange(depth, dtype=np.int32) * np.int32(self._pitch),
            panel,
            np.zeros((weight.struct.rows, outputs), np.float32),
            np.zeros((outputs // tile_of(weight.struct.block), depth), np.uint8),
            np.zeros(2 * (depth + 1), np.int32),
        )
        self._pointers = tuple(array.ctypes.data for array in self._arrays)
        if mode == "known":
            self._call("counted", 1)

    def run(self, output_names: Sequence[str] | None, input_feed: Feeds) -> list[npt.NDArray[Any]]:
        """y[rows, outputs], in the same memory each time; the input is what the constructor was given."""
        self._call(self._mode, REPEATS)
        return [self._arrays[2]]

    def _call(self, mode: Mode, repeats: int) -> None:
        offset, x, y, nonzero, steps = self._pointers
        _skipping().skipping_run(
            *(_product(), self._weight.struct, offset, x, self._outputs, y, nonzero, steps),
            *(MODES.index(mode), repeats),
        )


def tile_of(block: int) -> int:
    """Outputs that are multiplied at once with a weight in blocks of `block` rows."""
    return int(_skipping().skipping_tile(block))


def panel_of(depth: int, outputs: int, stretch: int, zero: float, rng: np.random.Generator) -> FloatArray:
    """x[depth, outputs] of whole numbers, of whose vectors of `stretch` the share `zero` is zero, at random places."""
    x = rng.integers(1, 5, (depth, outputs // stretch, stretch)).astype(np.float32)
    if zero > 0:
        x[pattern(depth, outputs // stretch, zero, rng)] = 0
    return x.reshape(depth, outputs)


def measure(
    name: str, block: int, density: float, shares: Sequence[float], schedule: Schedule, seed: int = 0
) -> list[Row]:
    """All modes at all shares of zero vectors, in the same rounds.

    Raises:
        ValueError: the products differ.
    """
    rng = np.random.default_rng(seed)
    rows, depth = SHAPES[name]
    values = np.sign(sparse_weight((rows, depth), density, block, rng))
    weight = Weight.of(pack(values, block), np.zeros(rows, np.float32))
    stretch = tile_of(block)
    outputs = stretch * max(1, round(OUTPUTS / stretch))
    runs: list[tuple[Panel, Feeds]] = []
    for zero in shares:
        x = panel_of(depth, outputs, stretch, zero, rng)
        panels = [Panel(weight, x, mode) for mode in MODES]
        expected, *others = (panel.run(None, {})[0] for panel in panels)
        if any((other != expected).any() for other in others):
            raise ValueError(f"expected equal products at a share of {zero} zero vectors, but {name} has others")
        runs += [(panel, {}) for panel in panels]
    samples = iter(compare_many(runs, schedule=schedule))
    found = []
    for zero in shares:
        dense, *skips = (next(samples) for _ in MODES)
        for mode, times in zip(MODES, (dense, *skips), strict=True):
            interval = PairedLatency(dense, times).interval
            figures = (times.median / REPEATS, interval.ratio, interval.low, interval.high)
            found.append(Row(name, block, density, stretch, zero, mode, *figures))
    return found


def crossover(rows: Sequence[Row], mode: Mode) -> float:
    """The share of zero vectors from which a mode gains; 1: it never does."""
    chosen = [row for row in rows if row.mode == mode]
    return 1 - estimates.crossover([1 - row.zero for row in chosen], [row.ratio for row in chosen])


def line(rows: Sequence[Row]) -> str:
    """Of one shape, block and density: both crossovers, and how many times as fast at each share, counted."""
    first = rows[0]
    speeds = " ".join(f"{1 / row.ratio:5.2f}" for row in rows if row.mode == "counted")
    crossings = " ".join(f"{crossover(rows, mode):>8.2f}" for mode in ("counted", "known"))
    return f"{first.shape:26} {first.block:>5} {first.density:>8.2f} {first.stretch:>7} {crossings}   {speeds}"


@cache
def _skipping() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(compiled("skipping", shared=True)))
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    loaded.skipping_tile.restype, loaded.skipping_tile.argtypes = integer, [integer]
    loaded.skipping_run.restype = None
    loaded.skipping_run.argtypes = [
        *(pointer, ctypes.POINTER(Sparse), pointer, pointer, integer, pointer, pointer, pointer),
        *(ctypes.c_int32, integer),
    ]
    return loaded


@cache
def _product() -> int | None:
    """Address of the library's product."""
    return ctypes.cast(library.load().lissom_f32_sparse_product, ctypes.c_void_p).value


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints a line for each shape, block and density, and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--density", nargs="+", type=float, default=[0.2])
    parser.add_argument("--block", nargs="+", type=int, choices=BLOCKS, default=list(BLOCKS))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each shape, block and density")
    parser.add_argument("--fast", action="store_true", help="one shape, three shares, 1 s each: does it work?")
    arguments = parser.parse_args(argv)
    shapes = list(SHAPES)[:1] if arguments.fast else list(SHAPES)
    shares = (0.0, 0.4, 0.8) if arguments.fast else SHARES
    seconds = min(arguments.seconds, 1.0) if arguments.fast else arguments.seconds
    schedule = Schedule(warmup=2, min_pairs=16, max_pairs=2000, max_seconds=seconds)
    machine = Machine.here()
    print(f"{machine.cpu}, {machine.cores} cores, one thread; crossover: share of zero vectors from which it gains")
    told = " ".join(f"{share:5.1f}" for share in shares)
    print(f"{'shape':26} block  density stretch  counted    known   × as fast, counted, at {told}")
    everything: list[Row] = []
    for name in shapes:
        for block in arguments.block:
            for density in arguments.density:
                rows = measure(name, block, density, shares, schedule)
                everything += rows
                print(line(rows), flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    lines = [[field.name for field in fields(Row)], *(list(map(str, astuple(row))) for row in everything)]
    (RESULTS / "skipping.tsv").write_text("\n".join("\t".join(words) for words in lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
