"""Networks in fixed point, as the program for the microcontroller runs them, and what they must give.

With a, s and b fraction bits of a layer's input, weight and output, x = X 2⁻ᵃ, w = W 2⁻ˢ and y = Y 2⁻ᵇ,

    Y = saturate((B + Σ W X) >> (a + s − b)),     B = round(bias 2ᵃ⁺ˢ) + 2ᵃ⁺ˢ⁻ᵇ⁻¹

the last term being that which rounds. W, X and Y are int16, B and the sum int32.

1. a and b are the largest at which what was observed fits in int16; beyond it values saturate.
2. s is the largest at which W fits in int16 and no input, observed or not, makes a sum leave ±2³⁰:
   Σ |W| 2¹⁵ + |B| ≤ 2³⁰ for each row. The instruction does not saturate.
3. b is at most a + s: a shift is never to the left.

One scale serves a whole layer. A weight that rounds to 0 is one that is not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.microcontroller.chain import Array, Stage, columns_of, infer, pooled

LARGEST = 2**15 - 1
"""Largest activation and weight."""

SUM = 2**30
"""Largest sum."""

MOST_BITS = 24
"""Most fraction bits of anything: what is always 0 could have any number."""

Int16Array = npt.NDArray[np.int16]
Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class FixedStage:
    """A stage in fixed point.

    Attributes:
        stage: the stage in float; its weight and bias are not used any more.
        weight: W[f, P].
        bias: B[f], with the half that rounds.
        shift: a + s − b.
    """

    stage: Stage
    weight: Int16Array
    bias: Int32Array
    shift: int


@dataclass(frozen=True, eq=False)
class FixedNetwork:
    """A network in fixed point.

    Attributes:
        stages: in order.
        bits: fraction bits of the input.
    """

    stages: Sequence[FixedStage]
    bits: int

    def take_in(self, x: Array) -> Int16Array:
        """X[channels, height, width] of an input in float."""
        scaled = np.rint(np.asarray(x, np.float64) * 2.0**self.bits)
        return np.clip(scaled, -LARGEST - 1, LARGEST).astype(np.int16)

    def infer(self, x: Int16Array) -> Int16Array:
        """The output Y of an input X: what the microcontroller must give, to the bit."""
        flow = x.astype(np.int64)
        for fixed in self.stages:
            sums = fixed.weight.astype(np.int64) @ columns_of(fixed.stage, flow) + fixed.bias[:, None]
            lowest = 0 if fixed.stage.relu else -LARGEST - 1
            flow = pooled(fixed.stage, np.clip(sums >> fixed.shift, lowest, LARGEST))
        return flow.astype(np.int16)


def fix(stages: Sequence[Stage], samples: Sequence[Array]) -> FixedNetwork:
    """A network in fixed point.

    Args:
        stages: the network in float.
        samples: inputs[channels, height, width] that it must have room for.
    """
    runs = [infer(stages, sample) for sample in samples]
    first = bits = _bits(max(abs(sample).max() for sample in samples))
    found = []
    for number, stage in enumerate(stages):
        wanted = _bits(max(abs(run[number]).max() for run in runs))
        fixed, bits = _fix_stage(stage, bits, wanted)
        found.append(fixed)
    return FixedNetwork(found, first)


def _fix_stage(stage: Stage, bits: int, wanted: int) -> tuple[FixedStage, int]:
    """A stage whose input has `bits` fraction bits, and those of its output: `wanted`, or fewer."""
    scale = _bits(abs(stage.weight).max())
    while True:
        weight = np.rint(stage.weight * 2.0**scale)
        bias = np.rint(stage.bias * 2.0 ** (bits + scale))
        out = min(wanted, bits + scale)
        shift = bits + scale - out
        bias += 2.0 ** (shift - 1) if shift else 0
        if (abs(weight).sum(axis=1) * (LARGEST + 1) + abs(bias)).max() <= SUM:
            return FixedStage(stage, weight.astype(np.int16), bias.astype(np.int32), shift), out
        scale -= 1


def _bits(largest: float) -> int:
    """The most fraction bits at which `largest` fits in int16."""
    return MOST_BITS if largest == 0 else min(int(np.floor(np.log2(LARGEST / largest))), MOST_BITS)
