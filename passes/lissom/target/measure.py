"""Measures the processor that this runs on.

1. A shape is timed between neighbours, dense and with zeros in the same rounds (`lowering.price`), for each width by
   itself. What is kept are ratios; a latency with zeros is the ratio times the dense latency, the median of all.
2. That is done `ROUNDS` times, and the medians count: an episode of noise lasts longer than one round.
3. Where the operators with zeros do not run (another execution provider, no kernel library) only the dense latency is
   measured, no width is faster at any density, and the description says why.
4. The memory rates come first (`rates`), the rate of arithmetic is that of the fastest dense shape.
5. Numbers are kept to `DIGITS` digits: more would be noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from lissom_runtime import library
from lissom_runtime.errors import UsageError
from lissom_runtime.packing import Packed
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.target import Machine

from lissom.graph.model import Model
from lissom.lowering import price
from lissom.lowering.apply import apply
from lissom.lowering.chains import Link
from lissom.lowering.price import Lower, Speed, native, native_obstacle
from lissom.parallel import map_in_parallel, open_workers
from lissom.progress import Progress, silent
from lissom.target.classify import crossover, fitting, parallelism
from lissom.target.rates import memory_rates
from lissom.target.roofline import is_memory_bound
from lissom.target.schema import (
    VERSION,
    BlockTimes,
    LayerShape,
    MeasuredShape,
    Processor,
    Provider,
    Rates,
    Sparse,
    Target,
    Width,
)
from lissom.target.shapes import FAST, SHAPES, network, sparse_weight

WIDTHS: tuple[Width, ...] = (1, 4, 8, 16)
"""Output channels of a block that are timed."""

DENSITIES = (0.1, 0.2, 0.3, 0.5, 0.7)
"""Shares of the blocks that are kept; above the largest no crossover is claimed."""

ROUNDS = 3

DIGITS = 4

VECTORS: Mapping[str, int] = {"scalar": 1, "neon": 4, "avx2": 8, "avx512": 16}
"""float32 elements of a vector, by instruction set of the kernels."""

_FLAGS: Mapping[str, int] = {"avx512f": 16, "avx": 8, "sse2": 4, "asimd": 4, "neon": 4}
"""The same by flag of the processor, widest first."""


@dataclass(frozen=True)
class Asked:
    """What is to be measured; picklable, so that another process can do it.

    Attributes:
        provider: where.
        fast: a first look: the shapes of `FAST` once, with blocks as wide as a vector.
    """

    provider: ProviderRequest
    fast: bool = False


def measure(asked: Asked, progress: Progress = silent) -> Target:
    """Measures the machine that this process runs on.

    Args:
        asked: what is measured.
        progress: shows the shapes as they are done.

    Raises:
        LoadError: the execution provider is not available.
        UsageError: the machine is so busy that a layer's latency does not show.
    """
    machine, natively, obstacle = Machine.here(), native(asked.provider), native_obstacle(asked.provider)
    kernels = None if natively is None else library.instruction_set()
    simd_width = vector_width(machine, kernels)
    memory = memory_rates(asked.provider.threads)
    shapes: Sequence[LayerShape] = SHAPES
    widths, rounds = WIDTHS, ROUNDS
    if asked.fast:
        shapes, rounds = [shape for shape in SHAPES if shape.name in FAST], 1
        widths = tuple(width for width in WIDTHS if width == fitting(WIDTHS, simd_width))
    if natively is None:
        widths = ()
    measured = [
        measure_shape(shape, widths, rounds, natively or asked.provider, memory.stream_gbps)
        for shape in progress(shapes, "measuring")
    ]
    return Target(
        version=VERSION,
        description="" if obstacle is None else f"Zeros were not timed: {obstacle}.",
        parallelism=parallelism(measured, simd_width),
        simd_width=simd_width,
        channel_block=machine.block(),
        kernels=kernels,
        processor=Processor.model_validate(machine.to_json()),
        provider=Provider(names=asked.provider.names, threads=asked.provider.threads),
        sparse=Sparse(widths=tuple(width for width in widths if any(shape.crossover(width) for shape in measured))),
        rates=Rates(
            stream_gbps=_rounded(memory.stream_gbps),
            gather_gbps=_rounded(memory.gather_gbps),
            gmacs=_rounded(max(shape.macs / shape.dense_us for shape in measured) / 1e3),
            busy_threads=_rounded(memory.busy_threads),
        ),
        shapes=tuple(measured),
    )


def measure_there(asked: Asked, cluster: str, resource: str) -> Target:
    """Measures the machine of a Dask worker.

    Args:
        asked: what is measured; paths are those of the worker's machine.
        cluster: address of the scheduler.
        resource: tag of the worker, one unit of which the measurement takes: what else asks for it waits.

    Raises:
        LoadError: the execution provider is not available there.
        UsageError: the scheduler does not answer, no worker has the resource, or as `measure`.
    """
    with open_workers(1, 1, cluster, resource) as workers:
        (found,) = map_in_parallel(measure, [asked], workers)
    return found


def vector_width(machine: Machine, kernels: str | None) -> int:
    """float32 elements of a vector: of the kernels that run, or without them of the processor.

    Args:
        machine: the processor.
        kernels: instruction set of the kernels, or None.
    """
    if kernels is not None:
        return VECTORS[kernels]
    return next((width for flag, width in _FLAGS.items() if flag in machine.isa), 1)


def measure_shape(
    shape: LayerShape, widths: Sequence[Width], rounds: int, provider: ProviderRequest, stream_gbps: float
) -> MeasuredShape:
    """Times one shape dense, and with zeros in blocks of each width.

    Args:
        shape: the layer; a depthwise one is timed dense only.
        widths: of the blocks.
        rounds: how often.
        provider: where, with the kernel library if there are widths.
        stream_gbps: what memory gives, 10⁹ bytes a second.

    Raises:
        UsageError: the machine is so busy that the layer's latency does not show.
    """
    model, link = network(shape)
    packed: dict[Width, list[Packed]] = {}
    if not link.site.is_depthwise:
        packed = {width: [sparse_weight(link.site.weight, width, d) for d in DENSITIES] for width in widths}
    times: dict[Width, list[list[Speed]]] = {width: [] for width in packed}
    dense: list[float] = []
    for _ in range(rounds):
        for width, weights in packed.items():
            times[width].append(price.measure(model, [link], [_lower(weight) for weight in weights], provider))
            dense.append(times[width][-1][0].dense_us)
        if not packed:
            dense.append(price.measure(model, [link], [_leave], provider)[0].dense_us)
    dense_us = float(np.median(dense))
    if dense_us <= 0:
        raise UsageError(f"expected a latency of {shape.name} above the noise, but got {dense_us:g} µs")
    return MeasuredShape(
        **dict(shape),
        dense_us=_rounded(dense_us),
        memory_bound=is_memory_bound(shape.moved_bytes, dense_us, stream_gbps),
        blocks=tuple(_block_times(width, found, dense_us) for width, found in times.items()),
    )


def _block_times(width: Width, found: Sequence[Sequence[Speed]], dense_us: float) -> BlockTimes:
    """What the rounds found[rounds][densities] of one width come to; what is lost in the noise is taken as no gain."""
    ratios = np.median([[speed.ratio for speed in speeds] for speeds in found], axis=0)
    ratios = np.where(np.isfinite(ratios) & (ratios > 0), ratios, 1.0)
    edge = crossover(DENSITIES, ratios.tolist())
    return BlockTimes(
        width=width,
        densities=DENSITIES,
        us=tuple(_rounded(ratio * dense_us) for ratio in ratios),
        crossover=None if edge is None else _rounded(edge),
    )


def _lower(weight: Packed) -> Lower:
    """Puts the operator with `weight` in the place of a layer."""

    def lower(model: Model, links: Sequence[Link]) -> None:
        for link in links:
            apply(model, link.site, weight, link.behind)

    return lower


def _leave(_model: Model, _links: Sequence[Link]) -> None:
    """Leaves a layer as it is."""


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
