"""Targets and shapes for tests, small ones, that other processes can import too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lissom.lowering import price
from lissom.target import measure, rates
from lissom.target.schema import BlockTimes, LayerShape, MeasuredShape, Target
from lissom_runtime.latency import Schedule

SMALL = (
    LayerShape(name="conv", op="Conv", weight=(16, 16, 3, 3), input=(1, 16, 32, 32)),
    LayerShape(name="depthwise", op="Conv", weight=(16, 1, 3, 3), input=(1, 16, 32, 32), group=16),
    LayerShape(name="gemm", op="Gemm", weight=(512, 512), input=(1, 512)),
)
"""One of each kind, timed in a moment, and of so much work that it shows on a busy machine."""

SHRUNK: Sequence[tuple[Any, str, object]] = (
    (measure, "SHAPES", SMALL),
    (measure, "FAST", ("conv", "gemm")),
    (rates, "BYTES", 2**20),
    (rates, "GATHERED", 2**12),
    (rates, "SCHEDULE", Schedule(warmup=1, min_pairs=2, max_pairs=2)),
    (price, "SCHEDULE", Schedule(warmup=1, min_pairs=20, max_pairs=20)),
    (price, "SPAN_US", 100.0),
)
"""What to set, so that a measurement is done in a moment: module, name and value."""


def measured(
    op: str = "Conv", crossover: float | None = None, memory_bound: bool = False, widths: Sequence[int] = (1, 8)
) -> MeasuredShape:
    """A shape whose widest blocks have that crossover, and the others none."""
    blocks = [
        BlockTimes(width=width, densities=(0.5,), us=(1.0,), crossover=crossover if width == max(widths) else None)
        for width in widths
    ]
    return MeasuredShape(
        name="a shape",
        op=op,
        weight=(8, 8, 1, 1) if op == "Conv" else (8, 8),
        input=(1, 8, 1, 1) if op == "Conv" else (1, 8),
        dense_us=1.0,
        memory_bound=memory_bound,
        blocks=tuple(blocks),
    )


def target(**changes: Any) -> Target:
    """A target of a processor that was not measured, with `changes`."""
    facts = {"version": 1, "name": "a test", "parallelism": "high", "simd_width": 8, "channel_block": 8}
    return Target.model_validate(facts | changes)
