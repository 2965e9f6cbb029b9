"""The benchmarks of zeros in activations: what they count, what they mask, and that all their products are equal."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from graph.onnx_text import Arrays, floats, run
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom.canonical import canonicalise
from lissom.graph.geometry import Geometry
from lissom_runtime import library
from lissom_runtime.contract import BLOCKS
from lissom_runtime.packing import pack
from passes.activation_cases import RESIDUAL, case

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks import activations_latency, zero_vectors
from benchmarks.kernels import skipping
from benchmarks.kernels.native import Weight
from benchmarks.kernels.sparsity import sparse_weight

needs_compiler = pytest.mark.skipif(
    not library.available() or shutil.which("g++") is None, reason="needs the kernel library and g++"
)


@settings(max_examples=30)
@given(
    size=st.tuples(st.integers(3, 7), st.integers(3, 7)),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    pad=st.integers(1, 2),
    stretch=st.sampled_from([1, 3, 8, 100]),
    seed=st.integers(0, 99),
)
def test_the_share_of_zero_vectors_is_that_of_the_definition(
    size: tuple[int, int], stride: int, dilation: int, pad: int, stretch: int, seed: int
) -> None:
    nonzero = np.random.default_rng(seed).random((2, 3, *size)) < 0.3
    geometry = Geometry(4, 3, (3, 2), (stride, stride), (dilation, dilation), (pad,) * 4)
    out = [(s + 2 * pad - (k - 1) * dilation - 1) // stride + 1 for s, k in zip(size, (3, 2), strict=True)]
    zero = total = 0
    for sample, channel, kh, kw in np.ndindex(2, 3, 3, 2):
        reads = []
        for oh, ow in np.ndindex(*out):
            row, column = oh * stride + kh * dilation - pad, ow * stride + kw * dilation - pad
            inside = 0 <= row < size[0] and 0 <= column < size[1]
            reads.append(inside and bool(nonzero[sample, channel, row, column]))
        for first in range(0, len(reads), stretch):
            vector = reads[first : first + stretch]
            zero += 0 if any(vector) else len(vector)
            total += len(vector)
    assert zero_vectors.zero_vectors(nonzero, geometry, stretch) == pytest.approx(zero / total)


@pytest.mark.ort
@pytest.mark.parametrize(("rate", "kept"), [(0.2, 1), (0.5, 2), (1.0, 4)])
def test_masks_of_whole_channels_keep_the_largest_of_each_sample(rate: float, kept: int) -> None:
    found = case(RESIDUAL)
    canonical = canonicalise(found.model, found.feeds)
    site = found.sites.sites[:1]
    model = zero_vectors.masked(canonical, site, "whole channels", rate, [])
    name = site[0].tensor
    whole, masked = (_tensor(proto, tensor, found.feeds) for proto, tensor in ((model, name), (model, f"{name}/kept")))
    sums = np.abs(whole).sum(axis=(2, 3))
    order = np.argsort(-sums, axis=1)
    for sample, places in enumerate(order):
        np.testing.assert_array_equal(masked[sample, places[:kept]], whole[sample, places[:kept]])
        assert not masked[sample, places[kept:]].any()


def _tensor(model: zero_vectors.Model, name: str, feeds: Arrays) -> np.ndarray:
    proto = model.to_proto()
    del proto.graph.output[:]
    proto.graph.output.add(name=name)
    return np.asarray(run(proto, feeds)[0])


@pytest.mark.native
@needs_compiler
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("zero", [0.0, 0.5, 1.0])
def test_every_product_of_the_crossover_is_exact(block: int, zero: float) -> None:
    rng = np.random.default_rng(block)
    dense = np.sign(sparse_weight((32, 40), 0.3, block, rng))
    weight = Weight.of(pack(dense, block), np.full(32, -1, np.float32))
    stretch = skipping.tile_of(block)
    x = skipping.panel_of(40, 2 * stretch, stretch, zero, rng)
    assert (x == 0).mean() == zero
    for mode in get_args(skipping.Mode):
        (y,) = skipping.Panel(weight, x, mode).run(None, {})
        np.testing.assert_array_equal(y, np.maximum(dense @ x - 1, 0))


def test_the_crossover_is_where_the_ratio_passes_one() -> None:
    def row(zero: float, ratio: float) -> skipping.Row:
        return skipping.Row("", 4, 0.2, 24, zero, "counted", 1.0, ratio, ratio, ratio)

    assert skipping.crossover([row(0.2, 2.0), row(0.6, 0.5)], "counted") == pytest.approx(0.4)
    assert skipping.crossover([row(0.2, 2.0), row(0.6, 1.5)], "counted") == 1


@pytest.mark.ort
def test_the_network_wins_at_the_published_rates() -> None:
    inputs = [{"x": floats(seed, 1, activations_latency.FEATURES[0])} for seed in range(8)]
    calibration = {"x": floats(99, 256, activations_latency.FEATURES[0])}
    _, found = activations_latency.pruned(activations_latency.network(4, 0.1), calibration, inputs)
    assert found[0] == 1
    np.testing.assert_allclose(found[1:], activations_latency.RATES, rtol=0.25)


def test_inputs_come_in_turn_and_have_exactly_their_share() -> None:
    class Echo:
        def run(self, _: object, feeds: Arrays) -> list[np.ndarray]:
            return [feeds["x"]]

    inputs = [{"x": activations_latency.with_zeros(share, np.random.default_rng(0))} for share in (0.1, 0.2)]
    engine = activations_latency.Cycle(Echo(), inputs)
    seen = [np.count_nonzero(engine.run(None, {})[0]) for _ in range(4)]
    assert seen == [round(share * activations_latency.WIDTH) for share in (0.2, 0.1, 0.2, 0.1)]
