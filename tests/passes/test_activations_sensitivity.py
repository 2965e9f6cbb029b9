"""The sensitivity check: one group at a time, and the strongest pruning before the first drop that is too large."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from graph.onnx_text import floats
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom.activations import sensitivity
from lissom.activations.insert import Dynamic, Static, insert
from lissom.activations.judge import Judge, Verdict
from lissom.activations.sensitivity import check_sensitivity, chosen_masks, dynamic_masks, static_masks
from lissom.activations.sites import by_stage
from lissom.activations.thresholds import observe_magnitudes
from lissom.graph.model import Model
from lissom_runtime.errors import UsageError
from passes.activation_cases import PLAIN, RESIDUAL, case

pytestmark = pytest.mark.ort

NETWORK = case(PLAIN)
GROUPS = [[site] for site in NETWORK.sites.sites]


def scored(scores: Mapping[float, float]) -> Callable[[Model], Verdict]:
    """A score that depends on the rate of the first dynamic mask of a model."""

    def judge(pruned: Model) -> Verdict:
        masks = [node for node in pruned.graph.nodes if node.op == "WinnerMask"]
        assert len(masks) <= 1
        score = scores[float(masks[0].inputs[1].values)] if masks else 1.0
        return Verdict(score, 1 - score)

    return judge


def check(scores: Mapping[float, float], most_drop: float = 0.02) -> list[sensitivity.Curve]:
    return check_sensitivity(
        NETWORK.model, GROUPS, NETWORK.shapes, dynamic_masks(1.0), scored(scores), list(scores), most_drop
    )


def test_every_group_is_swept_alone_and_the_curve_is_kept() -> None:
    curves = check({0.5: 0.99, 0.2: 0.985, 0.1: 0.9})
    assert [curve.tensors for curve in curves] == [("a1",), ("a2",)]
    for curve in curves:
        assert [(point.rate, point.score) for point in curve.points] == [(0.5, 0.99), (0.2, 0.985), (0.1, 0.9)]
        assert (curve.before, curve.rate) == (Verdict(1.0, 0.0), 0.2)
    told = json.loads(json.dumps(curves[0].to_json()))
    assert told["points"][1] == {"rate": 0.2, "score": 0.985, "distortion": pytest.approx(0.015)}
    assert told["before"] == {"score": 1.0, "distortion": 0.0}


def test_a_lucky_point_behind_a_collapse_is_not_chosen() -> None:
    assert check({0.5: 0.99, 0.2: 0.9, 0.1: 0.99})[0].rate == 0.5


def test_what_drops_at_once_stays_whole() -> None:
    curves = check({0.5: 0.5, 0.2: 0.5})
    assert [curve.rate for curve in curves] == [1.0, 1.0]
    assert chosen_masks(curves, dynamic_masks()) == {}


@settings(max_examples=25)
@given(st.dictionaries(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.floats(0, 1), min_size=1), st.floats(0.01, 1))
def test_all_rates_down_to_the_chosen_one_stay_below_the_limit_and_the_next_does_not(
    scores: dict[float, float], limit: float
) -> None:
    curve = check(scores, limit)[0]
    drops = {point.rate: 1.0 - point.score for point in curve.points}
    assert all(drop < limit for rate, drop in drops.items() if rate >= curve.rate)
    lower = [rate for rate in drops if rate < curve.rate]
    assert not lower or drops[max(lower)] >= limit


def test_a_larger_limit_never_prunes_less() -> None:
    scores = {0.5: 0.99, 0.2: 0.95, 0.1: 0.8}
    rates = [check(scores, limit)[0].rate for limit in (0.001, 0.02, 0.1, 0.5)]
    assert rates == [1.0, 0.5, 0.2, 0.1]


def test_stages_are_pruned_together() -> None:
    known = case(RESIDUAL)
    groups = by_stage(known.model, known.sites.sites, known.shapes)
    seen = []

    def judge(pruned: Model) -> Verdict:
        seen.append(sum(node.op == "WinnerMask" for node in pruned.graph.nodes))
        return Verdict(1.0, 0.0)

    check_sensitivity(known.model, groups, known.shapes, dynamic_masks(1.0), judge, [0.5])
    assert seen == [0, 3, 1, 1]


def test_static_masks_at_the_chosen_rates_leave_that_share_of_the_calibration_activations() -> None:
    batches = [{"x": floats(seed, 4, 3, 8, 8)} for seed in range(3)]
    sites = NETWORK.sites.sites
    mask_at = static_masks(observe_magnitudes(NETWORK.model, sites, batches))
    judge = Judge(NETWORK.model, [(batches[0], None)])
    curves = check_sensitivity(NETWORK.model, GROUPS, NETWORK.shapes, mask_at, judge, [0.8, 0.3, 0.1], 1e9)
    assert [point.distortion == curve.before.distortion for curve in curves for point in curve.points][1:3] == [
        False,
        False,
    ]
    masks = chosen_masks(curves, mask_at)
    assert {name: type(mask) for name, mask in masks.items()} == {"a1": Static, "a2": Static}
    pruned = NETWORK.model.copy()
    assert insert(pruned, sites, masks, NETWORK.shapes) == []
    (counted,) = observe_magnitudes(pruned, sites[:1], batches).values()
    kept = 1 - counted.counts[0, 0] / counted.size
    assert 0.1 <= kept <= 0.105


def test_masks_that_are_declined_are_scored_as_the_whole_network() -> None:
    calls = []

    def judge(pruned: Model) -> Verdict:
        calls.append(pruned)
        return Verdict(1.0, 0.0)

    def keep_everything(tensor: str, rate: float) -> Static:
        return Static(np.zeros(1, np.float32))

    curves = check_sensitivity(NETWORK.model, GROUPS, NETWORK.shapes, keep_everything, judge, [0.5, 0.2])
    assert len(calls) == 1
    assert [point.score for point in curves[0].points] == [1.0, 1.0]


@pytest.mark.parametrize("rates", [[], [0.0, 0.5], [1.0], [1.5], [-0.1]])
def test_rates_beyond_the_whole_are_refused(rates: list[float]) -> None:
    with pytest.raises(UsageError, match="expected winner rates above 0 and below 1, got"):
        check_sensitivity(NETWORK.model, GROUPS, NETWORK.shapes, dynamic_masks(), lambda _: Verdict(1.0, 0.0), rates)


def test_dynamic_masks_have_the_asked_share() -> None:
    assert dynamic_masks(0.2)("a1", 0.3) == Dynamic(0.3, 0.2)
