"""Lowering knows the memory that a chain takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernels.chain_shapes import chains
from kernels.chains import (
    Chain,
    plan_of,
)
from lissom.lowering.emit import Convolution
from lissom.lowering.scratch import Middle, of_chain
from lissom_runtime import library
from lissom_runtime.contract import MOST_SCRATCH_BYTES

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]

SMALL_TILE = 40 * 1024
"""Elements of x that a chain expands at a time on processors with small caches."""


@settings(max_examples=60, deadline=None, derandomize=True)
@given(chain=chains(), reach=st.integers(1, 3000))
def test_lowering_knows_the_scratch_of_one_row(chain: Chain, reach: int) -> None:
    assume(chain.spatial is not None or chain.middle > 1)  # one channel is no depthwise layer to lowering
    pad = reach * (chain.kernel[0] - 1)
    tall = replace(chain, dilation=(reach, 1), pads=(pad, chain.pads[1] + 5, pad, chain.pads[3]))
    plan = plan_of(tall, tall.layers(np.random.default_rng(0)))
    groups = 1 if tall.spatial else tall.middle
    middle = Middle(
        Convolution(tall.stride, tall.pads, tall.dilation, groups),
        (tall.given, tall.middle // groups, *tall.kernel),
        tall.expand and (tall.channels, tall.expand[1]),
        tall.project is not None,
    )
    if plan.band == 1:
        told, span = of_chain(middle, tall.size), pad + 1
        assert told >= 4 * plan.scratch
        if tall.spatial is None or tall.channels * tall.size[1] * span <= SMALL_TILE:
            assert told == 4 * plan.scratch
    else:
        assert 4 * plan.scratch < MOST_SCRATCH_BYTES // 100
