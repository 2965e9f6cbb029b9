"""What block sparsity offers: true costs, errors that never rise, partial groups that stay, N of every M."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from graph.onnx_text import floats
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom.graph.geometry import Geometry
from lissom.options import Ladder
from lissom.sparse.apply import approximate
from lissom.sparse.blocks import Blocks, few_of, is_packed
from lissom.sparse.choice import Choice
from lissom.sparse.importance import own_importance, ranked
from lissom.sparse.propose import DENSITIES, ladders
from lissom.sparse.storage import packed_bytes, storage
from lissom_runtime.packing import pack

CONV = Geometry(12, 5, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), "NOTSET", (7, 7), (7, 7), rows=2)
LINEAR = Geometry(12, 46, rows=3)
PATTERNS = [("columns", 1), ("columns", 4), ("columns", 8), ("rows", 2), ("rows", 8), ("rows", 16)]


def moment_of(columns: int) -> np.ndarray:
    x = np.random.default_rng(columns).standard_normal((4 * columns, columns))
    x[:, 1:] += x[:, :-1]
    return x.T @ x / len(x)


def weight_of(geometry: Geometry, seed: int = 0) -> np.ndarray:
    return floats(seed, geometry.out_channels, geometry.in_channels, *geometry.kernel_shape)


def ladder(geometry: Geometry, pattern: str, width: int, importance: Any = "obs", **more: Any) -> Ladder:
    metric = more.pop("metric", "whitened")
    moment = moment_of(geometry.columns) if metric == "whitened" else None
    (found,) = ladders("a", weight_of(geometry), geometry, pattern, (width,), importance, metric, moment, **more)
    return found


class Bare:
    """What `approximate` asks of a layer."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry, self.weight = geometry, weight_of(geometry)
        self.folded = self.weight.reshape(len(self.weight), -1)


@pytest.mark.parametrize("importance", ["obs", "rms", "magnitude"])
@pytest.mark.parametrize("geometry", [CONV, LINEAR], ids=["conv", "linear"])
@pytest.mark.parametrize(("pattern", "width"), PATTERNS)
def test_every_step_has_its_true_cost_and_error(geometry: Geometry, pattern: str, width: int, importance: str) -> None:
    found, moment = ladder(geometry, pattern, width, importance), moment_of(geometry.columns)
    assert (np.diff(found.error) <= 0).all()
    assert found.error_at_zero >= found.error[0]
    whole = Bare(geometry).folded.astype(np.float64)
    blocks = Blocks.of(geometry, pattern, width)
    for n in range(0, len(found), 5):
        option = found.option(n)
        weight = approximate(Bare(geometry), option.parameters, moment)  # type: ignore[arg-type]
        assert np.count_nonzero(weight) == option.cost.params
        assert option.cost.bytes == pack(weight, *blocks.packed).nbytes
        assert option.cost.macs == option.cost.params * geometry.out_positions
        left = whole - weight.reshape(whole.shape)
        true = np.sqrt(np.trace(left @ moment @ left.T) / np.trace(whole @ moment @ whole.T))
        if importance == "obs":  # under the damped moment
            assert 0.999 * true <= option.error < true + 0.02
        else:
            assert option.error >= true - 1e-6


def test_without_data_the_error_is_that_of_the_weight() -> None:
    found = ladder(CONV, "columns", 4, "rms", metric="frobenius")
    weight = weight_of(CONV)
    for n in (0, 10, len(found) - 1):
        left = weight - approximate(Bare(CONV), found.option(n).parameters, None)  # type: ignore[arg-type]
        assert found.error[n] == pytest.approx(np.linalg.norm(left) / np.linalg.norm(weight), rel=1e-5)
    assert found.error_at_zero == pytest.approx(1)


@given(
    f=st.sampled_from([1, 4, 6, 8]),
    columns=st.integers(2, 40),
    pattern=st.sampled_from(PATTERNS),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_packed_bytes_are_those_of_the_packed_weight(
    f: int, columns: int, pattern: tuple[str, int], share: float, seed: int
) -> None:
    blocks = Blocks.of(Geometry(f, columns), *pattern)
    kept = np.random.default_rng(seed).random((blocks.rows, blocks.groups)) < share
    weight = (np.abs(floats(seed, f, columns)) + 1) * blocks.spread(kept)
    assert packed_bytes(kept, blocks) == pack(weight, *blocks.packed).nbytes


@given(columns=st.integers(1, 60), width=st.sampled_from([2, 4, 8, 16]), seed=st.integers(0, 9))
def test_the_partial_group_at_the_end_of_a_row_is_kept(columns: int, width: int, seed: int) -> None:
    geometry = Geometry(3, columns)
    weight = floats(seed, 3, columns)
    weight[:, columns // width * width :] *= 1e-6  # the least important by far
    for found in ladders("a", weight, geometry, "rows", (width,), "rms", "frobenius"):
        layer = Bare(geometry)
        layer.folded = layer.weight = weight
        for n in range(0, len(found), 7):
            mask = approximate(layer, found.option(n).parameters, None) != 0  # type: ignore[arg-type]
            assert mask[:, columns // width * width :].all()
            groups = mask[:, : columns // width * width].reshape(3, -1, width)
            assert (groups.all(axis=2) == groups.any(axis=2)).all()


@pytest.mark.parametrize("importance", ["obs", "rms", "magnitude"])
@pytest.mark.parametrize(("pattern", "few", "of"), [("2:4", 2, 4), ("1:4", 1, 4), ("3:5", 3, 5)])
def test_every_m_weights_of_a_row_keep_n(pattern: str, few: int, of: int, importance: str) -> None:
    found = ladder(LINEAR, pattern, 1, importance)
    assert len(found) == 1
    layer = Bare(LINEAR)
    mask = approximate(layer, found.option(0).parameters, moment_of(46)) != 0  # type: ignore[arg-type]
    inside = 46 // of * of
    assert (mask[:, :inside].reshape(12, -1, of).sum(axis=2) == few).all()
    assert mask[:, inside:].all()
    assert found.params[0] == mask.sum()
    assert (found.bytes[0], found.macs[0]) == (4 * LINEAR.weight_size, LINEAR.macs)  # zeros in a dense weight


def test_n_of_m_keeps_the_largest_of_each_m() -> None:
    weight = np.array([[1, 5, 2, 4, 9, 8, 7, 6.5]])
    kept = ranked(own_importance(weight, Blocks.of(Geometry(1, 8), "2:4", 1), "magnitude")) < 4
    np.testing.assert_array_equal(kept, [[0, 1, 0, 1, 1, 1, 0, 0]])


def test_scalpels_threshold_is_on_the_root_mean_square_of_a_group() -> None:
    weight = floats(0, 6, 20)
    rms = np.sqrt((weight[:, :16].reshape(6, 2, 8) ** 2).mean(axis=2))
    limit = float(np.median(rms))
    (found,) = ladders("a", weight, Geometry(6, 20), "rows", (8,), "rms", "frobenius", threshold=limit)
    assert found.steps.tolist() == [np.count_nonzero(rms >= limit)]
    layer = Bare(Geometry(6, 20))
    layer.folded = layer.weight = weight
    pruned = approximate(layer, found.option(0).parameters, None)  # type: ignore[arg-type]
    np.testing.assert_array_equal(pruned[:, :16].reshape(6, 2, 8).any(axis=2), rms >= limit)
    np.testing.assert_array_equal(pruned[pruned != 0], weight[pruned != 0])


@pytest.mark.parametrize(("threshold", "steps"), [(1e-9, []), (1e9, [1])])
def test_a_threshold_keeps_at_least_one_block_and_offers_nothing_that_keeps_all(
    threshold: float, steps: list[int]
) -> None:
    found = ladders("a", floats(0, 6, 16), Geometry(6, 16), "rows", (8,), "rms", "frobenius", threshold=threshold)
    assert [step for one in found for step in one.steps] == steps


def test_blocks_that_do_not_divide_the_channels_are_smaller() -> None:
    classifier = Geometry(10, 32)
    assert Blocks.of(classifier, "columns", 16).height == 2
    (found,) = ladders("a", floats(0, 10, 32), classifier, "columns", (2, 4, 16), "rms", "frobenius")
    assert Blocks.named(classifier, found.parameters).height == 2
    assert (
        len(ladders("a", floats(0, 8, 32), replace(classifier, out_channels=8), "columns", (2, 4), "rms", "frobenius"))
        == 2
    )


def test_zeros_and_single_blocks_are_offered_nothing() -> None:
    assert ladders("a", np.zeros((4, 8), np.float32), Geometry(4, 8), "columns", (4,), "rms", "frobenius") == []
    assert ladders("a", floats(0, 4, 1), Geometry(4, 1), "columns", (4,), "rms", "frobenius") == []
    assert ladders("a", floats(0, 1, 9), Geometry(1, 9), "rows", (16,), "rms", "frobenius") == []


def test_kernels_that_cannot_be_packed_cost_what_dense_ones_do() -> None:
    line = Geometry(4, 6, (3,), (1,), (1,), (1, 1), "NOTSET", (9,), (9,))
    assert not is_packed(line, "columns")
    (found,) = ladders("a", floats(0, 4, 6, 3), line, "columns", (4,), "rms", "frobenius")
    assert set(found.bytes) == {4.0 * line.weight_size}
    assert set(found.macs) == {float(line.macs)}
    assert (np.diff(found.params) > 0).all()


def test_the_densities_are_shares_of_the_blocks() -> None:
    found = ladder(CONV, "columns", 4, densities=(0.5, 0.25))
    assert found.steps.tolist() == [33, 67]  # of 135
    assert len(DENSITIES) == 24
    assert max(DENSITIES) < 1
    assert min(DENSITIES) > 0


@pytest.mark.parametrize("importance", ["obs", "rms"])
def test_the_whitened_metric_needs_a_moment(importance: Any) -> None:
    with pytest.raises(ValueError, match="'whitened' needs the second moment"):
        ladders("a", weight_of(CONV), CONV, "columns", (4,), importance, "whitened")


def test_an_unknown_importance_is_refused() -> None:
    with pytest.raises(ValueError, match="expected the importance rms or magnitude, but got 'luck'"):
        ladders("a", weight_of(CONV), CONV, "columns", (4,), "luck", "frobenius")  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["4:2", "0:4", "2:2", "diagonal", "2:4:8", "-1:4"])
def test_patterns_that_are_none_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match='expected the pattern "columns", "rows" or "N:M"'):
        few_of(pattern)


@given(count=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_what_is_kept_is_kept_at_every_higher_density(count: int, seed: int) -> None:
    blocks = Blocks.of(Geometry(4, 11), "columns", 1)
    choice = Choice(floats(seed, 4, 11), blocks, "obs", moment_of(11), 0.01)
    fewer, more = choice.kept(count)[0], choice.kept(count + 1)[0]
    assert (fewer <= more).all()
    assert more.sum() == fewer.sum() + 1 == count + 1


def test_storage_is_counted_as_in_the_paper() -> None:
    """At w = 8 with 4-byte values and 2-byte indices: 6 and 4.25 bytes a kept weight, break-even at .67 and .94."""
    rows, columns = 1000, 4096
    blocks = Blocks.of(Geometry(rows, columns), "rows", 8)
    kept = np.random.default_rng(0).random((rows, columns // 8)) < 0.25
    weight = (np.abs(floats(0, rows, columns)) + 1) * blocks.spread(kept)
    found, weights = storage(weight, blocks), 8 * int(kept.sum())
    assert found.dense == 4 * rows * columns
    assert found.csr == 6 * weights + 4 * (rows + 1)
    assert found.grouped == 4.25 * weights + 4 * (rows + 1)
    assert found.csr_break_even == pytest.approx(2 / 3, abs=2e-3)
    assert found.grouped_break_even == pytest.approx(32 / 34, abs=2e-3)


def test_blocks_over_channels_are_stored_with_one_index_each() -> None:
    blocks = Blocks.of(Geometry(8, 30), "columns", 4)
    weight = np.zeros((8, 30), np.float32)
    weight[:4, 7] = weight[4:, [2, 29]] = 1
    assert storage(weight, blocks).grouped == 3 * (16 + 2) + 3 * 4
    tail = Blocks.of(Geometry(2, 10), "rows", 4)
    assert storage(np.ones((2, 10), np.float32), tail).grouped == 6 * (16 + 2) + 3 * 4
