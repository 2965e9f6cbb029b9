"""Rounds of pruning and training: what goes stays gone, budgets are met, and a killed run goes on where it was."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graph.onnx_text import floats, run
from lissom.graph.load import from_proto
from lissom.lowrank.propose import KIND
from lissom.recipe import read_recipe
from lissom.sparse.blocks import Blocks
from lissom_runtime.errors import UsageError

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'lissom[recover]')")

from lissom.train import loop
from lissom.train.cascade import decompose
from lissom.train.layering import Layered, layered
from lissom.train.normalising import with_norms
from lissom.train.projection import Projection
from lissom.train.pruning import global_magnitude, simd_blocks
from lissom.train.rounds import Change, Round, in_rounds
from lissom.train.schedule import Schedule
from lissom.train.scratch import randomised
from lissom.train.tuning import Tuning, tune
from train.networks import plain, residual
from train.runs import Killed, killed_after, separable

pytestmark = pytest.mark.ort

DATA = separable(120, (2, 6, 6), 3)
FEEDS = {"x": floats(5, 4, 2, 6, 6)}
ONE = {"x": FEEDS["x"][:1]}
TUNING = Tuning(Schedule(2, 0.02), batch=16, held=6)


def rounds(proto: onnx.ModelProto, changes: list[Change], **options: Any) -> list[Round]:
    return list(in_rounds(proto, **({"data": DATA, "changes": changes, "tuning": TUNING} | options)))


def blocks_of(found: Layered, width: int) -> list[tuple[Any, Any]]:
    """Of each layer √(mean w²) of its blocks, and what belongs to none."""
    parts = []
    for layer in found.layers:
        blocks = Blocks.of(layer.geometry, "rows", width)
        split = blocks.split(layer.folded)
        parts.append((np.sqrt((split**2).mean(axis=(1, 3))), layer.folded[:, blocks.removable :]))
    return parts


def test_blocks_below_the_threshold_go_and_no_others() -> None:
    before = blocks_of(layered(plain(), ONE), 4)
    changed = simd_blocks(0.2, 4, ONE)(plain())
    gone = total = 0
    for (sizes, rest), (after, same) in zip(before, blocks_of(layered(changed.proto, ONE), 4), strict=True):
        np.testing.assert_array_equal(after, np.where(sizes < 0.2, 0, sizes))
        np.testing.assert_array_equal(same, rest)
        gone += 4 * np.count_nonzero(sizes < 0.2)
        total += sizes.size * 4 + rest.size
    assert 0 < gone < total
    assert changed.facts["removed"] == pytest.approx(gone / total)


def test_a_threshold_that_rises_removes_more_and_what_is_gone_stays_gone() -> None:
    found = rounds(plain(), [simd_blocks(threshold, 4, ONE) for threshold in (0.1, 0.2, 0.3)])
    removed = [one.facts["removed"] for one in found]
    assert removed == sorted(set(removed))
    zeros = [np.concatenate([layer.weight.ravel() == 0 for layer in layered(one.proto, ONE).layers]) for one in found]
    assert [zero.mean() for zero in zeros] == pytest.approx(removed)
    for earlier, later in pairwise(zeros):
        assert later[earlier].all()


def test_each_round_removes_the_share_of_the_weights_that_are_left_over_the_whole_network() -> None:
    found = rounds(plain(), [global_magnitude(0.2, ONE)] * 3)
    size = sum(layer.weight.size for layer in layered(plain(), ONE).layers)
    assert [1 - one.facts["removed"] for one in found] == pytest.approx([0.8, 0.8**2, 0.8**3], abs=3 / size)
    weights = np.concatenate([np.abs(layer.weight).ravel() for layer in layered(plain(), ONE).layers])
    assert found[0].facts["limit"] == np.sort(weights)[int(0.2 * size)]


@pytest.mark.parametrize("steps", [5, 20])
def test_killed_rounds_that_are_resumed_end_as_unbroken_ones(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    changes = [simd_blocks(0.1, 4, ONE), global_magnitude(0.2, ONE)]
    with pytest.raises(Killed):
        rounds(plain(), changes, folder=tmp_path, progress=killed_after(steps))
    resumed = rounds(plain(), changes, folder=tmp_path, resume=True)
    assert resumed == rounds(plain(), changes)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "samples.npz"
    np.savez(path, **DATA.read(0, 32)[0])
    return path


def test_a_cascade_recomposes_pairs_before_it_decomposes_them_and_meets_every_budget(calibration: Path) -> None:
    recipe = read_recipe("alds")
    found = rounds(residual(), [decompose(keep, recipe, calibration, [FEEDS]) for keep in (0.8, 0.6)])
    for one, keep in zip(found, (0.8, 0.6), strict=True):
        assert one.facts["params"] <= 1.005 * keep
        assert 0 < one.facts["error"] < 1
        told = [from_proto(one.proto).provenance(node) for node in from_proto(one.proto).graph.nodes]
        assert sum(entry.get("kind") == KIND for entry in told) >= 2 * one.facts["pairs"]
    assert found[0].facts["recomposed"] == 0
    assert found[1].facts["recomposed"] == found[0].facts["pairs"] > 0
    convolutions = [node.op_type for node in found[1].proto.graph.node].count("Conv")
    assert convolutions <= 6  # three layers, each one pair at most


def test_normalisations_that_are_put_back_change_nothing_and_are_not_put_twice() -> None:
    model = from_proto(plain())
    for node in model.graph.nodes:
        node.name = node.name or node.outputs[0].name
    before = run(model, FEEDS)
    assert with_norms(model, [FEEDS]) == ["c", "d"]
    for got, wanted in zip(run(model, FEEDS), before, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    assert with_norms(model, [FEEDS]) == []
    assert [node.op for node in model.graph.nodes][:3] == ["Conv", "BatchNormalization", "Relu"]


def test_statistics_that_move_while_nothing_is_learned_leave_a_normalised_network_what_it_was() -> None:
    learned = tune(plain(), DATA, Tuning(Schedule(6, 0.05), batch=16, held=6)).proto
    model = layered(learned, ONE).model
    with_norms(model, [DATA.read(0, DATA.size)[0]])
    still = Tuning(Schedule(4, 1e-12), batch=40, held=6, decay=0, statistics="updated")
    found = tune(model.to_proto(), DATA, still)
    assert found.after.loss == pytest.approx(found.before.loss, abs=0.05)
    assert found.after.accuracy == found.before.accuracy > 0.8


def test_random_weights_keep_the_structure_and_forget_the_rest() -> None:
    proto = residual()
    drawn, again, other = randomised(proto, 1), randomised(proto, 1), randomised(proto, 2)
    assert drawn == again != other
    assert [(node.op_type, list(node.input)) for node in drawn.graph.node] == [
        (node.op_type, list(node.input)) for node in proto.graph.node
    ]
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in drawn.graph.initializer}
    for name, weight in ((tensor.name, onnx.numpy_helper.to_array(tensor)) for tensor in proto.graph.initializer):
        assert values[name].shape == weight.shape
        if weight.ndim > 1:
            fan_in = weight[0].size if weight.ndim == 4 else len(weight)
            assert abs(np.corrcoef(values[name].ravel(), weight.ravel())[0, 1]) < 0.5
            assert values[name].std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.4)
        else:
            np.testing.assert_array_equal(values[name], 1 if name in ("gamma", "variance") else 0)


def test_a_network_that_is_trained_with_projections_bears_the_decomposition_better() -> None:
    learned = tune(plain(), DATA, Tuning(Schedule(5, 0.05), batch=16, held=6)).proto
    pairs = {name: {"folding": 0, "side": "input", "groups": 1, "rank": 1} for name in ("Conv_d", "Gemm_g")}
    losses = []
    for every in (None, 2):
        found = layered(learned, ONE)
        companions = [] if every is None else [Projection(found, pairs, every)]
        proto = tune(found.model.to_proto(), DATA, TUNING, companions).proto
        again = Projection(layered(proto, ONE), pairs, 1)
        losses.append(tune(proto, DATA, Tuning(Schedule(1, 1e-12), batch=16, held=6), [again]).after.loss)
    assert losses[1] < losses[0]


def test_projected_weights_have_the_rank_of_their_pairs() -> None:
    pairs = {"Conv_d": {"folding": 1, "side": "input", "groups": 1, "rank": 2}}
    pairs["Gemm_y"] = {"folding": 0, "side": "output", "groups": 3, "rank": 1}
    found = layered(plain(), ONE)
    proto = tune(found.model.to_proto(), DATA, TUNING, [Projection(found, pairs, 14)]).proto  # the last step of 14
    weights = {layer.name: layer.weight for layer in layered(proto, ONE).layers}
    folded = weights["Conv_d"].transpose(0, 2, 1, 3).reshape(15, 12)
    assert np.linalg.matrix_rank(folded, tol=1e-4) == 2
    assert weights["Gemm_y"].shape == (3, 8)  # three slices of one row: rank 1 is all of it
    assert np.linalg.matrix_rank(weights["Conv_c"].reshape(4, -1), tol=1e-4) == 4


def test_what_cannot_be_done_is_refused(tmp_path: Path) -> None:
    for wrong, message in (
        (lambda: simd_blocks(0, 8, ONE), "a threshold above 0 and a width of 1 or more, but got 0 and 8"),
        (lambda: global_magnitude(1.0, ONE), "a share above 0 and below 1, but got 1.0"),
        (
            lambda: Projection(layered(plain(), ONE), {"nowhere": {}}),
            "the name of a layer to project, but got 'nowhere'",
        ),
        (lambda: Projection(layered(plain(), ONE), {}, 0), "1 step or more between projections, but got 0"),
        (
            lambda: Projection(layered(plain(), ONE), {layered(plain(), ONE).layers[0].name: {"rank": 2}}),
            "expected a pair for .* but got {'rank': 2}",
        ),
        (
            lambda: decompose(0.5, read_recipe("cp"), tmp_path / "x.npz"),
            "expected a recipe of pairs alone, which become layers again, but it has cp",
        ),
        (lambda: rounds(plain(), [], folder=tmp_path / "nowhere"), "a folder for checkpoints"),
    ):
        with pytest.raises(UsageError, match=message):
            wrong()
