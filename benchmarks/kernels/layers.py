"""Sparse layers against ONNX Runtime's dense ones, shape by shape.

For each shape of `shapes.txt` (or a 4096 × 4096 Gemm), each block and each density three engines are timed in the same
rounds: "dense", ONNX Runtime's convolution; "op", the sparse operator in ONNX Runtime; "kernel", the sparse kernel
alone, on one thread. What a layer is, and what is taken off, is in `chains.py`.

Of each: microseconds; the ratio to dense with its 99 % interval; GFLOP/s of the arithmetic that is done, and of what
dense would do in that time; GB/s of the bytes that must move (activations once, weights as the engine stores them); the
share of the roofline, which is the least time for that arithmetic and these bytes over the time taken. Two files in
build/results: layers.tsv, and crossover.tsv with the density at which each shape takes as long as dense.

    python benchmarks/kernels/layers.py [--network resnet50] [--layer pointwise] [--block 4] [--density 0.1] [--fast]
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from lissom_runtime import intervals, library
from lissom_runtime.contract import BLOCKS
from lissom_runtime.errors import LoadError
from lissom_runtime.latency import Feeds, Runnable, Samples, Schedule, compare_many
from lissom_runtime.packing import Packed, pack
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session
from lissom_runtime.target import Machine

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.kernels import chains, estimates, native, roofline
from benchmarks.kernels.chains import Timed
from benchmarks.kernels.shapes import ConvShape, read
from benchmarks.kernels.sparsity import FloatArray, sparse_weight

RESULTS = Path("build/results")
DENSITIES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
GEMM = (4096, 4096)
GEMM_BATCHES = (1, 64)
MEASURED = ("stem", "pointwise", "spatial")
"""Layer classes that can be sparse: depthwise ones have one channel a filter, squeeze-excite works on one pixel."""

FAST_LABELS = ("64→256 1×1 @56", "256→256 3×3 @14")
FAST_DENSITIES = (0.1, 0.5)

_FLOAT32 = 4
Run = tuple[Runnable, Feeds]
Weights = list[tuple[Packed, FloatArray]]


@dataclass(frozen=True)
class Row:
    """One engine on one shape, block and density; "dense" has density 1 and block 0.

    Attributes:
        density: share of the weights that the engine multiplies.
        us: median over blocks of rounds, microseconds.
        ratio, low, high: of `us` to dense's, with the interval.
        gflops, dense_gflops: arithmetic done, and arithmetic of the dense layer, per time.
        gbps: bytes that must move per time.
        roofline: share of it.
        bound: what sets the roofline.
    """

    network: str
    shape: str
    count: int
    engine: str
    block: int
    density: float
    us: float
    ratio: float
    low: float
    high: float
    gflops: float
    dense_gflops: float
    gbps: float
    roofline: float
    bound: str


@dataclass(frozen=True)
class Work:
    """A layer apart from its engines.

    Attributes:
        macs: multiply-accumulates, dense.
        weights: elements of the weight.
        activation_bytes: input, output and residual.
        copies: in the long chain; 1: the layer is a model of its own.
    """

    network: str
    label: str
    count: int
    macs: int
    weights: int
    activation_bytes: int
    copies: int


class Bench:
    """What all measurements of a call share."""

    def __init__(self, threads: int, schedule: Schedule, confidence: float, kernels: Path | None) -> None:
        self.request = ProviderRequest(threads=threads)
        self.schedule, self.confidence = schedule, confidence
        self.path = kernels
        self.notes: dict[str, None] = {}

    @cached_property
    def limits(self) -> roofline.Roofline:
        """The roofline of this processor."""
        return roofline.measure(self.request.threads)

    @cached_property
    def kernels(self) -> ctypes.CDLL | None:
        """The kernel library, or None and a note."""
        try:
            return library.load() if self.path is None else ctypes.CDLL(str(self.path.resolve()))
        except LoadError as error:
            self.notes[f"no kernels: {error}"] = None
            return None

    @cached_property
    def with_library(self) -> ProviderRequest:
        """The request that registers the operators."""
        path = self.path or library.get_library_path()
        return replace(self.request, custom_op_libraries=(path,))

    def dense(self, timed: Timed) -> Run:
        """A session on ONNX Runtime alone."""
        return open_session(timed.model, self.request), timed.feeds

    def op(self, timed: Timed) -> Run | None:
        """A session with the operators, or None and a note."""
        try:
            return open_session(timed.model, self.with_library), timed.feeds
        except LoadError as error:
            self.notes[f"no operators: {error}"] = None
            return None


def conv_rows(bench: Bench, shape: ConvShape, block: int, densities: Sequence[float]) -> list[Row]:
    """All engines on a convolution at all densities, in the same rounds."""
    copies = chains.copies(shape)
    work = Work(
        *(shape.network, shape.label, shape.count, shape.macs, shape.weights, shape.activation_bytes), copies=copies
    )
    dense = [bench.dense(chains.dense_chain(shape, count)) for count in (copies, 1)]
    trials: list[_Trial] = []
    for density in densities:
        weights = _weights(shape.weight_shape, density, block, copies)
        packed = weights[0][0]
        op = [bench.op(chains.sparse_chain(shape, weights[:count])) for count in (copies, 1)]
        if op[0] and op[1]:
            trials.append(_Trial("op", packed.density, packed.nbytes, [op[0], op[1]]))
        if kernels := _conv_kernels(bench, shape, weights):
            trials.append(_Trial("kernel", packed.density, _kernel_bytes(packed), [(kernel, {}) for kernel in kernels]))
    return _measured(bench, work, block, dense, trials)


def gemm_rows(bench: Bench, batch: int, block: int, densities: Sequence[float]) -> list[Row]:
    """All engines on x[batch, 4096] times a 4096 × 4096 weight at all densities, in the same rounds."""
    rows, depth = GEMM
    size = rows * depth
    activations = _FLOAT32 * batch * (rows + depth)
    work = Work("gemm", f"{depth}→{rows} ×{batch}", 1, batch * size, size, activations, 1)
    rng = np.random.default_rng(0)
    weight, bias = sparse_weight(GEMM, 1.0, 1, rng), rng.standard_normal(rows, np.float32)
    dense = [bench.dense(chains.dense_gemm(batch, weight, bias))]
    trials: list[_Trial] = []
    for density in densities:
        ((packed, bias),) = _weights(GEMM, density, block, 1)
        if (op := bench.op(chains.sparse_gemm(batch, packed, bias))) is not None:
            trials.append(_Trial("op", packed.density, packed.nbytes, [op]))
        if (kernel := _gemm_kernel(bench, batch, packed, bias)) is not None:
            trials.append(_Trial("kernel", packed.density, _kernel_bytes(packed), [(kernel, {})]))
    return _measured(bench, work, block, dense, trials)


@dataclass(frozen=True)
class _Trial:
    """A sparse engine: its runs are the long chain and the short one, or one that is the layer itself."""

    engine: str
    density: float
    weight_bytes: int
    runs: list[Run]


def _measured(bench: Bench, work: Work, block: int, dense: list[Run], trials: list[_Trial]) -> list[Row]:
    samples = iter(compare_many([*dense, *(run for trial in trials for run in trial.runs)], schedule=bench.schedule))
    dense_times = _times(work, [next(samples) for _ in dense])
    reference = _Trial("dense", 1.0, _FLOAT32 * work.weights, dense)
    rows = [_row(bench, work, 0, reference, dense_times, dense_times)]
    for trial in trials:
        times = _times(work, [next(samples) for _ in trial.runs])
        rows.append(_row(bench, work, block, trial, dense_times, times))
    return rows


def _times(work: Work, samples: list[Samples]) -> intervals.FloatArray:
    long, *short = samples
    return estimates.layer_times(long, short[0] if short else None, work.copies if short else 1)


def _row(
    bench: Bench,
    work: Work,
    block: int,
    trial: _Trial,
    dense: intervals.FloatArray,
    times: intervals.FloatArray,
) -> Row:
    us = float(np.median(times))
    flops = 2 * work.macs * trial.density
    size = work.activation_bytes + trial.weight_bytes
    least, bound = bench.limits.bound(flops, size)
    found = estimates.ratio(dense, times, bench.confidence)
    return Row(
        network=work.network,
        shape=work.label,
        count=work.count,
        engine=trial.engine,
        block=block,
        density=trial.density,
        us=us,
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        gflops=flops / us / 1e3,
        dense_gflops=2 * work.macs / us / 1e3,
        gbps=size / us / 1e3,
        roofline=least / us,
        bound=bound,
    )


@cache
def _weights(shape: tuple[int, ...], density: float, block: int, count: int) -> Weights:
    """`count` packed weights with biases."""
    rng = np.random.default_rng(0)
    return [
        (pack(sparse_weight(shape, density, block, rng), block), rng.standard_normal(shape[0], np.float32))
        for _ in range(count)
    ]


def _kernel_bytes(packed: Packed) -> int:
    """Bytes of a weight as the kernels read it: with int32 columns."""
    return packed.values.nbytes + packed.row_ptr.nbytes + _FLOAT32 * len(packed.values)


def _conv_kernels(bench: Bench, shape: ConvShape, weights: Weights) -> list[Runnable]:
    """All copies and one; nothing where there are no kernels."""
    if bench.kernels is None or bench.request.threads > 1:
        return []
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, shape.in_channels, shape.height, shape.width), np.float32)
    added = rng.standard_normal((1, shape.out_channels, *shape.out_spatial), np.float32) if shape.residual else None
    read_weights = [native.Weight.of(*weight) for weight in weights]
    try:
        return [native.conv(bench.kernels, shape, part, x, added) for part in (read_weights, read_weights[:1])]
    except LoadError as error:
        bench.notes[f"no kernels: {error}"] = None
        return []


def _gemm_kernel(bench: Bench, batch: int, packed: Packed, bias: FloatArray) -> Runnable | None:
    if bench.kernels is None or bench.request.threads > 1:
        return None
    x = np.random.default_rng(1).standard_normal((batch, GEMM[1]), np.float32)
    try:
        return native.gemm(bench.kernels, native.Weight.of(packed, bias), x)
    except LoadError as error:
        bench.notes[f"no kernels: {error}"] = None
        return None


def crossovers(rows: Sequence[Row]) -> Iterator[tuple[Row, float]]:
    """For each shape, engine and block: a row of it, and the density at which it takes as long as dense."""
    groups: dict[tuple[str, str, str, int], list[Row]] = {}
    for row in rows:
        if row.engine != "dense":
            groups.setdefault((row.network, row.shape, row.engine, row.block), []).append(row)
    for group in groups.values():
        yield group[0], estimates.crossover([row.density for row in group], [row.ratio for row in group])


def _tsv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join("\t".join(f"{v:.5g}" if isinstance(v, float) else str(v) for v in row) for row in rows)
    path.write_text(text + "\n", encoding="utf-8")


def _line(row: Row) -> str:
    return (
        f"{row.shape:24} {row.engine:6} {row.block:>3} {row.density:>7.3f} {row.us:>9.1f} µs {row.ratio:>7.3f} "
        f"[{row.low:.3f}, {row.high:.3f}] {row.gflops:>7.1f} {row.dense_gflops:>8.1f} GFLOP/s {row.gbps:>6.1f} GB/s "
        f"{row.roofline:>5.0%} of {row.bound}"
    )


def _chosen(arguments: argparse.Namespace) -> list[ConvShape]:
    """The shapes asked for, without those that differ in nothing that is measured (the network and the count)."""
    shapes = [shape for shape in read() if shape.layer in (arguments.layer or MEASURED)]
    if arguments.network:
        shapes = [shape for shape in shapes if shape.network in arguments.network]
    if arguments.fast:
        shapes = [shape for shape in shapes if shape.label in FAST_LABELS]
    once = {replace(shape, network="", count=0, layer=""): shape for shape in reversed(shapes)}
    return list(reversed(once.values()))


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints a line for each engine, and writes both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", help="only its shapes, or gemm")
    parser.add_argument("--layer", action="append", choices=MEASURED)
    parser.add_argument("--block", action="append", type=int, choices=BLOCKS)
    parser.add_argument("--density", action="append", type=float)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each shape and block")
    parser.add_argument("--library", type=Path, help="another build of the kernel library")
    parser.add_argument("--fast", action="store_true", help="two shapes and a Gemm, 1 s each: does it work?")
    arguments = parser.parse_args(argv)
    densities = arguments.density or (FAST_DENSITIES if arguments.fast else DENSITIES)
    blocks = arguments.block or ((4,) if arguments.fast else BLOCKS)
    shapes, batches = _chosen(arguments), _batches(arguments)
    if not shapes and not batches:
        parser.error("expected at least one shape, but got none: --fast knows two, of resnet50")
    seconds = min(arguments.seconds, 1.0) if arguments.fast else arguments.seconds
    schedule = Schedule(warmup=2, min_pairs=16 if arguments.fast else 24, max_pairs=2000, max_seconds=seconds)
    bench = Bench(arguments.threads, schedule, estimates.CONFIDENCE, arguments.library)
    machine = Machine.here()
    print(f"{machine.cpu}, {machine.cores} cores, onnxruntime {machine.onnxruntime}, {arguments.threads} threads")
    print(
        f"{bench.limits.peak_gflops:.0f} GFLOP/s from registers, copying {bench.limits.gbps(2**19):.0f} GB/s at ",
        end="",
    )
    print(f"512 KiB and {bench.limits.gbps(2**28):.0f} GB/s at 256 MiB")
    rows: list[Row] = []
    for found in _all_rows(bench, shapes, batches, blocks, densities):
        rows += found
        print("\n".join(map(_line, found)), flush=True)
    names = [field.name for field in fields(Row)]
    suffix = "" if arguments.threads == 1 else f"-{arguments.threads}threads"
    _tsv(RESULTS / f"layers{suffix}.tsv", [names, *(list(asdict(row).values()) for row in rows)])
    crossing = [
        (row.network, row.shape, row.count, row.engine, row.block, density) for row, density in crossovers(rows)
    ]
    header = ("network", "shape", "count", "engine", "block", "crossover")
    _tsv(RESULTS / f"crossover{suffix}.tsv", [header, *crossing])
    for note in bench.notes:
        print(note)


def _batches(arguments: argparse.Namespace) -> Sequence[int]:
    asked = not arguments.network or "gemm" in arguments.network
    return GEMM_BATCHES if asked and not arguments.layer else ()


def _all_rows(
    bench: Bench, shapes: Sequence[ConvShape], batches: Sequence[int], blocks: Sequence[int], densities: Sequence[float]
) -> Iterator[list[Row]]:
    for shape in shapes:
        for block in blocks:
            if shape.out_channels % block:
                bench.notes[f"{shape.label}: {shape.out_channels} channels are no multiple of block {block}"] = None
                continue
            yield conv_rows(bench, shape, block, densities)
            _weights.cache_clear()
    for batch in batches:
        for block in blocks:
            yield gemm_rows(bench, batch, block, densities)
            _weights.cache_clear()


if __name__ == "__main__":
    main()
