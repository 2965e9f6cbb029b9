"""Channel groups as sites: what plans that cut them cost, how one is chosen, and that it becomes the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from graph.onnx_text import floats
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom import applying, pipeline
from lissom.allocate.successive import successive
from lissom.allocate.total import total
from lissom.graph.model import PROVENANCE_KEY
from lissom.nodes.narrow import narrow
from lissom.nodes.price import price_widths
from lissom.nodes.survey import offer_widths, survey
from lissom.observe import observe_moments
from lissom.options import Menu, Plan, Resource
from lissom.parallel import open_workers
from lissom.price.cache import Cache
from lissom.price.outputs import distortion
from lissom.recipe import Recipe, read_recipe
from lissom_runtime.errors import GoalMissed, UsageError
from lissom_runtime.session import open_session, run_session
from passes.width_cases import (
    BODIES,
    LEFT_OUT,
    RESOURCES,
    SHARES,
    STUDIES,
    chosen,
    network,
    plan_of,
    study_of,
    widths_of,
)


@pytest.mark.ort
@pytest.mark.parametrize("left_out", [False, True], ids=["every layer a site", "some layers left out"])
@pytest.mark.parametrize("body", BODIES)
@settings(max_examples=5)
@given(shares=SHARES)
def test_a_plan_costs_what_the_narrow_model_has(body: str, left_out: bool, shares: Sequence[float]) -> None:
    study = (LEFT_OUT if left_out else STUDIES)[body]
    widths = widths_of(study)
    plan, _ = widths.settle(plan_of(study, shares), widths.start())
    outside = study.canonical.totals.macs - study.cost("macs")
    assert narrow(study.canonical, widths, plan).canonical.totals.macs == pytest.approx(outside + plan.total("macs"))


@pytest.mark.ort
@pytest.mark.parametrize("body", BODIES)
@settings(max_examples=20)
@given(shares=SHARES, other=st.floats(0, 1), which=st.integers(0, 5))
def test_costs_about_a_plan_are_exact_for_a_change_of_one_site(
    body: str, shares: Sequence[float], other: float, which: int
) -> None:
    study = STUDIES[body]
    widths = widths_of(study)
    _, point = widths.settle(plan_of(study, shares), widths.start())
    menus = {menu.site: menu for menu in widths.linear(point)}
    plan = chosen(menus, widths, point)
    group = list(widths.groups)[which % len(widths.groups)]
    ladder = menus[group].ladders[0]
    plan[group] = ladder.option(int(other * (len(ladder) - 1)))
    settled, _ = widths.settle(Plan(plan, 0.0), point)
    for resource in RESOURCES:
        assert sum(option.cost.get(resource) for option in plan.values()) == pytest.approx(settled.total(resource))


@pytest.mark.ort
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
def test_the_chosen_plan_is_within_the_limits_by_its_true_cost(body: str, share: float) -> None:
    study = STUDIES[body]
    limit = study.least("macs") + share * (study.cost("macs") - study.least("macs"))
    plan = pipeline.allocate(study, {"macs": limit, "bytes": study.cost("bytes")})
    assert plan.total("macs") <= limit
    assert plan.changed
    assert plan.bound is None
    assert plan.distortion == pytest.approx(sum(option.error for option in plan.options.values()))


@pytest.mark.ort
def test_no_plan_of_two_groups_within_the_limit_is_better_by_more_than_a_fifth() -> None:
    study = STUDIES["inverted"]
    widths = widths_of(study)
    menus = [menu for menu in study.menus if menu.site in widths.groups]
    start = widths.start()
    limit = 0.5 * study.cost("macs")
    best = np.inf
    for counts in np.ndindex(*(len(menu.ladders[0]) + 1 for menu in menus)):
        options = {menu.site: menu.option(0) for menu in study.menus}
        options |= {menu.site: menu.option(count) for menu, count in zip(menus, counts, strict=True)}
        plan, _ = widths.settle(Plan(options, 0.0), start)
        if plan.total("macs") <= limit:
            best = min(best, sum(option.error for option in options.values()))
    found = pipeline.allocate(study, {"macs": limit})
    assert found.distortion is not None
    assert best <= found.distortion <= 1.2 * best


@pytest.mark.ort
def test_a_limit_below_the_least_is_missed_and_says_so() -> None:
    study = STUDIES["residual"]
    with pytest.raises(GoalMissed, match="limit"):
        pipeline.allocate(study, {"macs": 0.9 * study.least("macs")})
    pipeline.allocate(study, {"macs": 1.001 * study.least("macs")})


@pytest.mark.ort
def test_where_costs_do_not_depend_on_one_another_the_plan_is_the_allocators() -> None:
    widths = widths_of(STUDIES["residual"])
    menus = widths.linear(widths.start())

    class Apart:
        def start(self) -> None: ...

        def linear(self, point: None) -> Sequence[Menu]:
            del point
            return menus

        def settle(self, plan: Plan, point: None) -> tuple[Plan, None]:
            return plan, point

    limits: dict[Resource, float] = {"macs": 0.7 * STUDIES["residual"].cost("macs")}

    def choose(offered: Sequence[Menu], aims: Mapping[Resource, float]) -> Plan:
        return total(offered, aims).plan

    found = successive(Apart(), choose, limits, {"macs": STUDIES["residual"].cost("macs")})
    assert found.options == total(menus, limits).plan.options


@pytest.mark.ort
@pytest.mark.parametrize("body", BODIES)
def test_a_plan_becomes_a_model_that_is_verified_and_tells_what_was_cut(body: str) -> None:
    study = STUDIES[body]
    plan = pipeline.allocate(study, {"macs": 0.6 * study.cost("macs")})
    candidate = applying.apply(study, plan)
    assert candidate.max_difference < 1e-5
    assert candidate.totals.macs < study.canonical.totals.macs
    told = json.loads(candidate.model.metadata[PROVENANCE_KEY])
    assert told
    assert {entry["kind"] for entry in told.values()} == {"nodes"}


@pytest.mark.ort
def test_sparse_layers_are_cut_from_what_is_left() -> None:
    recipe = Recipe.model_validate(
        {
            "name": "both",
            "low_rank": {"enabled": False},
            "nodes": {"enabled": True, "multiple": 1},
            "sparse": {"enabled": True, "widths": [1], "densities": [0.5]},
            "allocate": {"objective": "total", "error": "outputs"},
            "refit": {"enabled": True},
        }
    )
    study = study_of("residual", recipe)
    widths = widths_of(study)
    plan = plan_of(study, [0.5] * 6)
    options = dict(plan.options)
    for menu in widths.linear(widths.start()):
        if menu.site in widths.parts and menu.ladders:
            options[menu.site] = menu.ladders[0].option(0)
    mixed, _ = widths.settle(Plan(options, 0.0), widths.start())
    candidate = applying.apply(study, mixed)
    assert candidate.max_difference < 1e-4
    assert candidate.totals.params < narrow(study.canonical, widths, plan).canonical.totals.params
    assert mixed.total("params") < widths.settle(plan, widths.start())[0].total("params")


@pytest.mark.ort
@pytest.mark.parametrize("body", ["inverted", "enlarged", "grouped"])
def test_the_refit_brings_the_outputs_nearer_to_the_originals(body: str) -> None:
    study = study_of(body)
    widths = widths_of(study)
    plan = plan_of(study, [0.6] * 6)
    session = open_session(study.canonical.model.to_proto().SerializeToString())

    def lost(calibration: Sequence[Mapping[str, np.ndarray]]) -> float:
        cut = narrow(study.canonical, widths, plan, calibration).canonical.model
        changed = open_session(cut.to_proto().SerializeToString())
        unseen = [{"image": floats(90, 64, 3, 4, 4)}]
        return distortion([(run_session(session, x), run_session(changed, x)) for x in unseen], classifies=False)

    assert lost([{"image": floats(60 + number, 64, 3, 4, 4)} for number in range(4)]) < lost(())


@pytest.mark.ort
@pytest.mark.parametrize("body", BODIES)
def test_without_moments_channels_are_cut_and_nothing_else_changes(body: str) -> None:
    study = STUDIES[body]
    widths = replace(widths_of(study), moments={})
    cut = narrow(study.canonical, widths, plan_of(study, [0.5] * 6))
    assert cut.max_difference < 1e-5
    assert any("no moment of its input" in refusal.reason for refusal in cut.refusals)


@pytest.mark.ort
def test_measured_distortions_rise_as_channels_go_and_are_kept(tmp_path) -> None:  # type: ignore[no-untyped-def]
    study = STUDIES["residual"]
    _, batches = network("residual")
    cache = Cache(tmp_path, "distortion")
    menus = price_widths(study.canonical, widths_of(study), batches, cache)
    files = sorted(tmp_path.rglob("*.json"))
    assert files
    for menu in menus:
        for ladder in menu.ladders:
            assert ladder.metric == "output_kl"
            assert (np.diff(ladder.error) <= 1e-12).all()
    again = price_widths(study.canonical, widths_of(study), batches, cache)
    assert sorted(tmp_path.rglob("*.json")) == files
    for first, second in zip(menus, again, strict=True):
        for a, b in zip(first.ladders, second.ladders, strict=True):
            np.testing.assert_array_equal(a.error, b.error)


@pytest.mark.ort
def test_threads_rank_and_measure_as_one_thread_does(tmp_path: Path) -> None:
    study = STUDIES["gated"]
    canonical, batches = network("gated")
    with open_workers(2, jobs=2) as workers:
        found = survey(canonical)
        moments = observe_moments(canonical.model, found.layers, batches)
        layers = [menu for menu in study.menus if menu.site not in widths_of(study).groups]
        widths, _ = offer_widths(canonical, found, layers, moments, "second-order", 1, workers)
        many = price_widths(canonical, widths, batches, Cache(tmp_path / "many"), workers)
    one = price_widths(study.canonical, widths_of(study), batches, Cache(tmp_path / "one"))
    for a, b in zip(many, one, strict=True):
        assert a.site == b.site
        for first, second in zip(a.ladders, b.ladders, strict=True):
            np.testing.assert_array_equal(first.error, second.error)


@pytest.mark.ort
def test_only_groups_whose_layers_were_asked_for_are_offered() -> None:
    canonical, batches = network("residual")
    everything = survey(canonical)
    first = everything.groups[0]
    fewer = survey(canonical, exclude=f"^{next(iter(first.rows))}$")
    assert first.name not in [group.name for group in fewer.groups]
    assert any("--exclude" in refusal.reason for refusal in fewer.refusals)
    moments = observe_moments(canonical.model, everything.layers[:-1], batches)
    widths, refusals = offer_widths(canonical, everything, [], moments, "second-order", 1)
    assert any("second moment" in refusal.reason for refusal in refusals)
    assert len(widths.groups) < len(everything.groups)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"low_rank": {"metric": "whitened"}}, "no other kind beside them than sparse, but low_rank is enabled"),
        ({"low_rank": {"enabled": False}, "allocate": {}}, 'nodes expect objective "total"'),
        ({"low_rank": {"enabled": False}, "nodes": {"enabled": True, "multiple": 0}}, "greater than or equal to 1"),
        ({"low_rank": {"enabled": False}, "nodes": {"enabled": True, "method": "best"}}, "second-order"),
    ],
)
def test_a_recipe_of_channels_is_read_strictly(tmp_path, tables: Mapping[str, object], message: str) -> None:  # type: ignore[no-untyped-def]
    whole = {"nodes": {"enabled": True}, "allocate": {"objective": "total", "error": "outputs"}, **tables}
    path = tmp_path / "mine.toml"
    lines = []
    for table, entries in whole.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in dict(entries).items())]  # type: ignore[call-overload]
    path.write_text("\n".join(lines))
    with pytest.raises(UsageError, match=message):
        read_recipe(str(path))
