"""Chains of any shape, for laws."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume
from hypothesis import strategies as st
from kernels.chains import (
    CLIP,
    After,
    Chain,
)
from lissom_runtime.contract import BLOCKS

NONE, RELU = After(), After("relu")

SHAPES = {
    "inverted_residual": Chain(),
    "expanded_depthwise": Chain(project=None),
    "depthwise_separable": Chain(expand=None),
    "bottleneck": Chain(spatial=(2, 4)),
    "depthwise": Chain(expand=None, project=None),
}


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    def layer(most: int) -> tuple[int, int]:
        block = draw(st.sampled_from(BLOCKS))
        return draw(st.integers(1, max(1, most // block))), block

    shape = draw(st.sampled_from(list(SHAPES.values())))
    chain = replace(
        shape,
        channels=draw(st.integers(1, 40)),
        expand=shape.expand and layer(40),
        spatial=shape.spatial and layer(16),
        project=shape.project and layer(40),
        batch=draw(st.integers(1, 3)),
        size=draw(st.sampled_from([pair(1, 12), pair(1, 60)])),
        kernel=draw(st.sampled_from([(1, 1), (3, 3), (5, 5), (3, 1), (1, 3), (2, 4)])),
        stride=pair(1, 4),
        dilation=draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 3), (5, 1)])),
        pads=(*pair(0, 4), *pair(0, 4)),
        density=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        after=(draw(st.sampled_from([CLIP, RELU, NONE])), CLIP, draw(st.sampled_from([CLIP, RELU, NONE]))),
    )
    assume(min(chain.out) >= 1)
    return chain
