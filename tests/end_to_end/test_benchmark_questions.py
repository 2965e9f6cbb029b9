"""The arithmetic of the benchmarks that answer questions: standings, correlations, random plans, bounds by network."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom import pipeline
from lissom.graph.geometry import Geometry
from lissom.options import Cost, Ladder, Menu, Option, Parameters
from lissom.recipe import read_recipe
from lissom_runtime.accuracy import Score
from lissom_runtime.latency import Samples, Verdict
from lissom_runtime.providers import ProviderRequest

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks import subjects
from benchmarks.foldings import BASE, Entry, largest_within, standings
from benchmarks.mac_latency import Point, correlation, is_aligned, sampled
from benchmarks.mac_scatter import SIZE, drawn, place
from benchmarks.prediction import Timed, random_plan, row
from benchmarks.quantisation import quantise
from benchmarks.results import cases
from benchmarks.stacking import Contestant, read_bounds, rows
from benchmarks.subjects import Ruler, Subject, open_subject, output_error, title, with_weight, write_results

NAMES = (BASE, "folding 1", "tucker")
figures = st.dictionaries(st.sampled_from(NAMES), st.floats(1e-6, 1.0), min_size=1)


def entries(races: list[dict[str, float]]) -> list[Entry]:
    return [
        Entry("net", f"layer{number}", "params 0.5", name, {}, 0.9, figure, figure**2)
        for number, race in enumerate(races)
        for name, figure in race.items()
    ]


@given(st.lists(figures, min_size=1, max_size=6))
def test_all_places_are_given_away_and_each_race_has_one_win_to_share(races: list[dict[str, float]]) -> None:
    found = standings(entries(races), "error")
    count = len({name for race in races for name in race})
    assert sum(one.won for one in found) == pytest.approx(1)
    assert sum(one.rank for one in found) == pytest.approx(count * (count + 1) / 2)
    assert [one.rank for one in found] == sorted(one.rank for one in found)


@given(st.lists(figures, min_size=1, max_size=6))
def test_the_judges_agree_on_places_where_one_figure_grows_with_the_other(races: list[dict[str, float]]) -> None:
    by_error, by_distortion = (standings(entries(races), judge) for judge in ("error", "distortion"))
    assert {one.contestant: one.rank for one in by_error} == {one.contestant: one.rank for one in by_distortion}


def test_an_absent_contestant_is_last_and_has_no_part_in_the_ratio() -> None:
    races = [{BASE: 0.2, "folding 1": 0.1}, {BASE: 0.2, "folding 1": 0.4}, {BASE: 0.2}]
    of = {one.contestant: one for one in standings(entries(races), "error")}
    assert (of[BASE].layers, of["folding 1"].layers) == (3, 2)
    assert [of[BASE].rank, of["folding 1"].rank] == pytest.approx([4 / 3, 5 / 3])
    assert of["folding 1"].ratio == pytest.approx(math.sqrt(0.5 * 2))
    assert of[BASE].ratio == pytest.approx(1)


def ladder(params: list[float], kind: str = "low-rank") -> Ladder:
    costs = np.array(params, np.float64)
    steps = np.arange(1, len(costs) + 1)
    shared: Parameters = {"folding": 0, "side": "input", "groups": 1}
    return Ladder("site", kind, shared, "rank", steps, 1 / steps, 1.0, costs, 4 * costs, 10 * costs, "whitened")


def menu(params: list[float], dense: float = 100.0) -> Menu:
    kept = Option("site", "dense", {}, Cost(dense, 4 * dense, 10 * dense), 0.0, "whitened")
    return Menu("site", kept, [ladder(params)])


rungs = st.lists(st.floats(1, 200), min_size=1, max_size=8, unique=True).map(sorted)


@given(rungs, st.floats(0.5, 250))
def test_the_largest_option_within_a_limit_fits_and_the_next_does_not(params: list[float], limit: float) -> None:
    index = largest_within(ladder(params), "params", limit)
    following = 0 if index is None else index + 1
    assert index is None or params[index] <= limit
    assert following == len(params) or params[following] > limit


@pytest.mark.parametrize(
    ("kind", "parameters", "with_groups", "words"),
    [
        ("low-rank", {"folding": 2, "side": "input", "groups": 1}, True, "folding 2"),
        ("low-rank", {"folding": 0, "side": "output", "groups": 4}, True, "folding 0, 4 groups of outputs"),
        ("low-rank", {"folding": 0, "side": "output", "groups": 4}, False, "folding 0, groups of outputs"),
        ("tucker", {"anchor_in": 3}, True, "tucker"),
        ("tiles", {"inputs": 2, "outputs": 4, "order": "consecutive"}, True, "tiles 2×4"),
        ("block-sparse", {"pattern": "columns", "width": 4}, True, "sparse 4×1"),
    ],
)
def test_an_option_is_named_by_what_it_is(kind: str, parameters: Any, with_groups: bool, words: str) -> None:
    assert title(kind, parameters, with_groups) == words


def test_the_output_error_is_that_of_the_outputs() -> None:
    rng = np.random.default_rng(0)
    weight, other = rng.standard_normal((2, 4, 6)).astype(np.float32)
    columns = rng.standard_normal((50, 6))
    layer: Any = SimpleNamespace(folded=weight)
    expected = np.linalg.norm(columns @ (weight - other).T) / np.linalg.norm(columns @ weight.T)
    assert output_error(layer, other, columns.T @ columns / 50) == pytest.approx(expected, rel=1e-6)


def point(macs: float, latency: float, verdict: Verdict = "faster") -> Point:
    return Point("net", "layer", "folding 0", True, {}, macs, latency, verdict, 10.0)


@given(st.lists(st.floats(0.05, 0.95), min_size=3, max_size=20, unique_by=lambda value: round(value, 3)))
def test_a_power_law_is_perfectly_correlated_on_ranks_and_logarithms(macs: list[float]) -> None:
    found = correlation([point(value, 2 * value**0.7) for value in macs])
    assert [found.spearman, found.pearson] == pytest.approx([1, 1])


def test_only_points_with_clearly_fewer_multiply_accumulates_count_as_slower() -> None:
    points = [point(0.5, 0.6), point(0.7, 1.2, "slower"), point(0.75, 1.01, "no significant change"), point(0.9, 2.0)]
    found = correlation(points)
    assert [found.slower, found.surely_slower] == pytest.approx([2 / 3, 1 / 3])


def test_equal_ratios_have_no_correlation() -> None:
    assert math.isnan(correlation([point(0.5, latency) for latency in (0.4, 0.5, 0.6)]).spearman)


@pytest.mark.parametrize(("rank", "groups", "aligned"), [(8, 1, True), (12, 1, False), (8, 2, True), (16, 4, False)])
def test_a_pair_is_aligned_when_rank_and_channels_per_group_come_in_blocks(
    rank: int, groups: int, aligned: bool
) -> None:
    parameters: Parameters = {"folding": 0, "side": "input", "groups": groups, "rank": rank}
    option = Option("site", "low-rank", parameters, Cost(1, 4, 1), 0.1, "frobenius")
    assert is_aligned(option, Geometry(32, 16, (3, 3), (1, 1), (1, 1), (1,) * 4), 8) == aligned


def test_samples_are_nearest_to_the_shares_once_with_any_rank_and_once_in_blocks() -> None:
    params = [5.0 * step for step in range(1, 25)]  # multiply-accumulates 0.05, 0.10, … 1.2 of the dense layer's
    assert sampled(ladder(params), 1000.0, (0.3,), block=8) == [5, 7]
    assert sampled(ladder([150.0]), 1000.0, (0.3,), block=8) == []


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_a_point_on_the_diagonal_costs_what_its_work_says_and_one_further_up_takes_longer(a: float, b: float) -> None:
    (x, y), (other_x, other_y) = place(a, a), place(a, b)
    assert x + y == pytest.approx(SIZE)
    assert other_x == x
    assert (other_y <= y) or b <= a
    assert 0 <= other_y <= SIZE


def test_every_point_is_drawn_once_in_the_panel_of_its_family() -> None:
    kinds = [("folding 0", True), ("folding 1", False), ("cp", None), ("sparse 4×1", None), ("tiles", None)]
    points = [
        {"network": f"net{i % 2}", "pattern": pattern, "aligned": aligned, "macs": 0.5, "latency": 0.1 * (i + 1)}
        for i, (pattern, aligned) in enumerate(kinds)
    ]
    picture = drawn([{"providers": ["CPU & more"], "threads": 1, "points": points}] * 2)
    elements = list(ElementTree.fromstring(picture).iter())
    paths = [element.attrib["d"] for element in elements if element.tag.endswith("path")]
    assert sum(path.count("h0") for path in paths) == 2 * len(points)
    texts = [element.text for element in elements if element.tag.endswith("text")]
    for name, count in (("pairs, channels in blocks", 1), ("chains and tiles", 2), ("sparse", 1)):
        assert texts.count(f"{name} ({count})") == 2


@given(rungs, st.floats(0.1, 1.0), st.integers(0, 99))
def test_a_random_plan_is_reproducible_and_never_grows_a_site(params: list[float], share: float, seed: int) -> None:
    menus = [replace(menu(params), site=f"site{number}") for number in range(4)]
    plan, again = (random_plan(menus, share, np.random.default_rng(seed)) for _ in range(2))
    assert plan == again
    assert list(plan.options) == [one.site for one in menus]
    assert plan.total("params") <= 400
    assert plan.summed_error == pytest.approx(sum(option.error for option in plan.options.values()))


def test_random_plans_follow_the_share() -> None:
    menus = [replace(menu([float(step) for step in range(1, 100)]), site=f"site{number}") for number in range(50)]
    totals = [random_plan(menus, share, np.random.default_rng(0)).total("params") for share in (0.4, 0.6, 0.8, 2.0)]
    assert totals[0] == pytest.approx(0.4 * 5000, rel=0.15)
    assert totals == sorted(totals)
    assert totals[-1] == 5000


def test_a_model_that_is_faster_than_predicted_has_a_positive_error() -> None:
    timed = [Timed("total", 0.5, measured, 0.4, 0.6) for measured in (0.5, 0.4)]
    assert [one.error for one in timed] == pytest.approx([0.0, 0.25])
    assert row("net", timed, [])[1:5] == ["2", "0.50", "0.125", "0.250"]


def test_bounds_are_read_by_network_and_others_are_refused() -> None:
    words = ["vgg-small:keep_macs=0.5", "resnet20 (CIFAR-10 JPEG):latency_ratio=0.8", "vgg-small:keep_params=0.7"]
    assert read_bounds(words) == {
        "vgg-small": {"keep_macs": 0.5, "keep_params": 0.7},
        "resnet20 (CIFAR-10 JPEG)": {"latency_ratio": 0.8},
    }
    for word in ("vgg-small", "keep_macs=0.5", "vgg-small:keep_macs"):
        with pytest.raises(ValueError, match="expected NETWORK:BOUND=VALUE"):
            read_bounds([word])


def test_sizes_are_shares_of_the_original() -> None:
    samples = Samples(np.array([10.0, 10.0]), 1, 1.0)
    models = [
        Contestant(name, size, Score(0.9, 100, "top1"), samples, 0.5, 0.4, 0.6)
        for name, size in (("a", 1000), ("b", 250))
    ]
    first, second = rows("net", models)
    assert (first[4], first[6]) == ("1.000", "1")
    assert (second[4], second[6]) == ("0.250", "0.500 [0.400, 0.600]")


def test_results_carry_the_circumstances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "REPORTS", tmp_path)
    arguments = argparse.Namespace(fast=True, cifar=tmp_path)
    write_results("question", ProviderRequest(threads=2), arguments, {"rows": [1]})
    found = json.loads((tmp_path / "question-fast.json").read_text(encoding="utf-8"))
    assert (found["threads"], found["rows"], found["arguments"]["cifar"]) == (2, [1], str(tmp_path))
    assert {"cpu", "onnxruntime"} <= set(found["machine"])


@pytest.mark.parametrize(
    ("only", "name"), [(None, "question"), ("rec", "question-rec"), ("20 (CIFAR", "question-20-CIFAR")]
)
def test_results_of_a_part_of_the_networks_leave_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: str | None, name: str
) -> None:
    monkeypatch.setattr(subjects, "REPORTS", tmp_path)
    write_results("question", ProviderRequest(), argparse.Namespace(fast=False, only=only), {})
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.json"]


@pytest.fixture(scope="module")
def subject() -> Subject:
    (case,) = [case for case in cases(Path(), None) if case.name == "lenet5"]
    return open_subject(case, 48, 32)


@pytest.mark.ort
def test_a_ruler_sees_nothing_where_nothing_changed_and_more_where_more_is_gone(subject: Subject) -> None:
    study = pipeline.propose_menus(subject.canonical, read_recipe("minimax"), 8, subject.moments)
    layer, ruler = subject.canonical.layers[0], Ruler(subject)
    same, less, none = (ruler(with_weight(study, layer, factor * layer.weight)) for factor in (1.0, 0.9, 0.0))
    assert same < 1e-9
    assert 1e-6 < less < none


@pytest.mark.ort
def test_static_int8_has_quantised_weights_and_keeps_the_outputs(subject: Subject, tmp_path: Path) -> None:
    quantise(subject.case.model, tmp_path / "int8.onnx", subject.calibration)
    quantised = onnx.load(tmp_path / "int8.onnx")
    assert any(tensor.data_type == onnx.TensorProto.INT8 for tensor in quantised.graph.initializer)
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]
