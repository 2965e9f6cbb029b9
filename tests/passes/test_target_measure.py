"""What is timed is the shape that is named, dense and with the zeros that are named; what is found is put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from graph.onnx_text import run
from hypothesis import given
from hypothesis import strategies as st
from lissom.lowering import price
from lissom.lowering.price import Speed
from lissom.target import measure as measuring
from lissom.target import rates
from lissom.target.measure import DENSITIES, WIDTHS, Asked, measure, measure_shape, vector_width
from lissom.target.schema import LayerShape, Target
from lissom.target.shapes import FAST, SHAPES, network, sparse_weight
from lissom_runtime import library
from lissom_runtime.contract import BLOCKS
from lissom_runtime.errors import UsageError
from lissom_runtime.packing import unpack
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.target import Machine
from passes.target_cases import SHRUNK, SMALL

native_only = pytest.mark.skipif(not library.available(), reason=library.describe())


@pytest.mark.ort
@pytest.mark.parametrize("shape", [*SMALL, *SHAPES], ids=lambda shape: shape.name)
def test_the_network_of_a_shape_has_its_extents_and_its_work(shape: LayerShape) -> None:
    model, link = network(shape)
    assert link.site.is_depthwise == (shape.group > 1)
    assert link.site.weight.shape == shape.weight
    assert link.site.rows * link.site.weight.size == shape.macs
    if shape in SMALL:
        (output,) = run(model, {"x": np.ones(shape.input, np.float32)})
        assert output.shape == shape.output


def test_the_shapes_are_told_apart_and_a_fast_look_has_each_operator() -> None:
    assert len({shape.name for shape in SHAPES}) == len(SHAPES)
    assert {shape.op for shape in SHAPES if shape.name in FAST} == {"Conv", "Gemm"}
    assert len(FAST) == 2
    assert set(WIDTHS) <= set(BLOCKS)
    assert all(shape.group > 1 or shape.weight[0] % max(WIDTHS) == 0 for shape in SHAPES)


@given(st.sampled_from(WIDTHS), st.floats(0.01, 0.99))
def test_the_share_of_the_blocks_that_is_asked_for_is_kept_whole(width: int, density: float) -> None:
    weight = np.random.default_rng(0).standard_normal((32, 3, 3, 3)).astype(np.float32)
    packed = sparse_weight(weight, width, density)
    left = unpack(packed)
    blocks = (left != 0).reshape(-1, width, 27)
    assert (blocks.all(axis=1) == blocks.any(axis=1)).all()
    assert np.count_nonzero(blocks.any(axis=1)) == max(1, round(density * 27 * 32 / width))
    np.testing.assert_array_equal(left[left != 0], weight[left != 0])
    assert (packed.block, packed.orientation) == (width, "output")


@pytest.mark.parametrize(
    ("architecture", "isa", "kernels", "width"),
    [
        ("x86_64", {"avx512f", "avx", "sse2"}, "avx512", 16),
        ("x86_64", {"avx512f", "avx", "sse2"}, "avx2", 8),  # LISSOM_ISA holds the kernels back
        ("x86_64", {"avx512f", "avx", "sse2"}, None, 16),
        ("x86_64", {"avx", "sse2"}, None, 8),
        ("x86_64", {"sse2"}, None, 4),
        ("aarch64", {"asimd"}, None, 4),
        ("riscv64", set(), None, 1),
        ("x86_64", {"avx2"}, "scalar", 1),
    ],
)
def test_a_vector_is_as_wide_as_that_of_what_runs(architecture: str, isa: set[str], kernels: str, width: int) -> None:
    machine = replace(Machine.here(), architecture=architecture, isa=frozenset(isa))
    assert vector_width(machine, kernels) == width


def test_every_instruction_set_of_the_kernels_has_a_width() -> None:
    assert measuring.VECTORS.keys() == library.INSTRUCTION_SETS.keys()


class Rounds:
    """Gives the speeds of one round after the other in the place of measurements, and counts what was asked for."""

    def __init__(self, dense: Sequence[float], ratios: Sequence[float]) -> None:
        self.dense, self.ratios = iter(dense), ratios
        self.ways: list[int] = []

    def measure(self, _model: object, _links: object, ways: Sequence[object], _provider: object) -> list[Speed]:
        self.ways.append(len(ways))
        dense_us = next(self.dense)
        return [Speed(dense_us, ratio, "faster") for ratio, _ in zip(self.ratios, ways, strict=False)]


def test_a_latency_is_a_ratio_times_the_median_of_the_dense_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = Rounds([100, 300, 5000, 200, 100, 200], [0.2, 0.4, 0.6, 1.2, 1.6])
    monkeypatch.setattr(price, "measure", rounds.measure)
    found = measure_shape(SMALL[0], (1, 8), 3, ProviderRequest(), stream_gbps=2.0)
    assert rounds.ways == [5] * 6
    assert found.dense_us == 200
    assert [times.width for times in found.blocks] == [1, 8]
    assert found.blocks[0].us == (40, 80, 120, 240, 320)
    assert found.crossover(8) == pytest.approx(0.3 + 0.2 * (0.98 - 0.6) / 0.6, rel=1e-3)
    assert found.crossover(4) is None
    assert not found.memory_bound  # 140,288 bytes take 70 µs


def test_a_depthwise_layer_is_timed_dense_only(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = Rounds([30], [1.0])
    monkeypatch.setattr(price, "measure", rounds.measure)
    found = measure_shape(SMALL[1], (1, 8), 1, ProviderRequest(), stream_gbps=1.0)
    assert (found.dense_us, found.blocks, rounds.ways) == (30, (), [1])


def test_a_latency_that_is_lost_in_noise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(price, "measure", Rounds([0.0], [float("inf")] * len(DENSITIES)).measure)
    with pytest.raises(UsageError, match="expected a latency of conv above the noise, but got 0 µs"):
        measure_shape(SMALL[0], (8,), 1, ProviderRequest(), stream_gbps=1.0)


def test_the_rates_are_bytes_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "BYTES", 2**16)
    monkeypatch.setattr(rates, "GATHERED", 1000)
    told: list[object] = []

    def compare_many(runs: Sequence[tuple[rates._Task, object]], **_: object) -> list[object]:
        for task, feeds in runs:
            told.append(task.run(None, feeds))
        return [type("Samples", (), {"median": us, "busy_threads": us / 5})() for us in (10.0, 4.0)]

    monkeypatch.setattr(rates, "compare_many", compare_many)
    found = rates.memory_rates(3)
    assert found.stream_gbps == pytest.approx(2 * 2**16 / 10e3)
    assert found.gather_gbps == pytest.approx(4 * 1000 / 4e3)
    assert found.busy_threads == 2.0
    assert told == [[], []]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes, arrays and schedules so small that all is done in a moment."""
    for module, name, value in SHRUNK:
        monkeypatch.setattr(module, name, value)


@pytest.mark.ort
@pytest.mark.native
@native_only
def test_a_fast_look_measures_its_shapes_here_with_blocks_as_wide_as_a_vector(small: None) -> None:
    found = measure(Asked(ProviderRequest(), fast=True))
    machine, isa = Machine.here(), library.instruction_set()
    assert found.processor is not None
    assert found.processor.cpu == machine.cpu
    assert set(found.processor.isa) == machine.isa
    assert (found.kernels, found.simd_width, found.channel_block) == (isa, measuring.VECTORS[isa], machine.block())
    assert [shape.name for shape in found.shapes] == ["conv", "gemm"]
    for shape in found.shapes:
        (times,) = shape.blocks
        assert (times.width, times.densities) == (found.simd_width, DENSITIES)
    assert found.description == ""
    faster = any(shape.crossover(found.simd_width) for shape in found.shapes)
    assert found.sparse.widths == ((found.simd_width,) if faster else ())
    assert Target.model_validate(found.model_dump()) == found


@pytest.mark.ort
def test_where_the_kernels_do_not_run_zeros_pay_nowhere(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "native", lambda _: None)
    monkeypatch.setattr(measuring, "native_obstacle", lambda _: "there is no library")
    monkeypatch.setattr(measuring, "ROUNDS", 1)
    monkeypatch.setattr(price, "measure", Rounds([30, 10, 5], [1.0]).measure)
    found = measure(Asked(ProviderRequest(threads=2)))
    assert (found.kernels, found.sparse.widths, found.parallelism) == (None, (), "high")
    assert found.description == "Zeros were not timed: there is no library."
    assert [(shape.name, shape.blocks) for shape in found.shapes] == [(shape.name, ()) for shape in SMALL]
    assert found.provider is not None
    assert found.provider.threads == 2
    assert found.rates is not None
    assert found.rates.gmacs == pytest.approx(
        max(shape.macs / shape.dense_us for shape in found.shapes) / 1e3, rel=1e-3
    )
