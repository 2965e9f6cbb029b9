"""Weights and winner rates in one plan: costs are products, masks are measured on pruned weights, all is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from graph.onnx_text import floats, run
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom import applying, pipeline
from lissom.activations.insert import Static
from lissom.activations.rates import Limits, choose_together, rate_of
from lissom.allocate.choose import choose as chosen
from lissom.graph.model import Model
from lissom.pipeline import Study
from lissom_runtime.errors import GoalMissed, UsageError
from lissom_runtime.latency import PairedLatency, Samples
from passes.activation_cases import PLAIN, RESIDUAL, activations_of, masked_of, planned, recipe, study_of

pytestmark = pytest.mark.ort

STUDIES = {"plain": study_of(PLAIN), "residual": study_of(RESIDUAL)}


def limit(study: Study, share: float) -> float:
    """A limit on the sites' multiply-accumulates between the least and all."""
    return study.least("macs") + share * (study.cost("macs") - study.least("macs"))


SHARES = st.lists(st.floats(0, 1), min_size=10, max_size=10)


@pytest.mark.parametrize("net", STUDIES)
@settings(max_examples=10)
@given(shares=SHARES)
def test_a_layer_costs_its_weights_times_what_is_left_of_what_it_reads(net: str, shares: Sequence[float]) -> None:
    study = STUDIES[net]
    found = activations_of(study)
    offered = found.rates.offered()
    rates = {
        site: some[round(share * (len(some) - 1))] for (site, some), share in zip(offered.items(), shares, strict=False)
    }
    menus = {menu.site: menu for menu in found.rates.at(rates)}
    assert [rate_of(menus[site].dense) for site in rates] == list(rates.values())
    assert all(menus[site].ladders == () for site in rates)
    for layer, share in zip(study.canonical.layers, shares[5:], strict=False):
        tensor, menu = found.found.sites.read[layer.name], menus[layer.name]
        density = found.rates.densities.get(tensor, 1.0)
        for site, group in found.found.groups.items():
            if tensor in [member.tensor for member in group]:
                density = min(density, rates[site])
        option = menu.option(round(share * sum(len(ladder) for ladder in menu.ladders)))
        weights = int(option.parameters.get("blocks", layer.geometry.weight_size))
        assert option.cost.macs == pytest.approx(weights * layer.geometry.out_positions * density)
        assert option.cost.params == pytest.approx(weights / layer.readers)
    assert sum(menu.least("macs") for menu in menus.values()) >= found.rates.least("macs") * (1 - 1e-9)


@pytest.mark.parametrize(("net", "share"), [("plain", 0.5), ("residual", 0.3)])
def test_no_plan_of_one_rate_everywhere_is_better(net: str, share: float) -> None:
    study = STUDIES[net]
    rates = activations_of(study).rates
    limits: Limits = {"macs": limit(study, share)}
    choose = partial(chosen, study.recipe.allocate)
    plan = choose_together(rates, choose, limits)
    assert plan.total("macs") <= limits["macs"]
    for rate in (1.0, 0.8, 0.6, 0.4):
        uniform = {site: min(r for r in offered if r >= rate) for site, offered in rates.offered().items()}
        assert plan.summed_error <= choose(rates.at(uniform), limits).summed_error


@pytest.mark.parametrize(("net", "share"), [("plain", 0.3), ("residual", 0.3)])
def test_a_plan_is_within_its_limits_and_a_finished_model_near_what_it_predicts(net: str, share: float) -> None:
    study = STUDIES[net]
    plan = pipeline.allocate(study, {"macs": limit(study, share)})
    assert plan.total("macs") <= limit(study, share)
    assert {option.kind for option in plan.changed.values()} >= {"winners"}
    candidate = applying.apply(study, plan)
    outside = study.canonical.totals.macs - study.cost("macs")
    assert candidate.totals.macs == pytest.approx(outside + plan.total("macs"), rel=0.15)
    left = masked_of(candidate).account
    assert candidate.totals.macs == pytest.approx(outside + left.paper * study.cost("macs"), abs=1)
    for layer in left.layers:
        assert layer.paper == pytest.approx(layer.weights * layer.read)


def test_without_a_limit_on_multiply_accumulates_no_mask_is_chosen() -> None:
    study = STUDIES["plain"]
    plan = pipeline.allocate(study, {"params": 0.3 * study.cost("params")})
    assert {option.kind for option in plan.changed.values()} == {"block-sparse"}
    assert masked_of(applying.apply(study, plan)).masks == {}


def test_the_least_that_can_be_asked_is_reached_and_less_is_refused() -> None:
    study = STUDIES["plain"]
    with pytest.raises(GoalMissed):
        pipeline.allocate(study, {"macs": 0.9 * study.least("macs")})


@pytest.mark.parametrize("words", ["", 'form = "dynamic"\nalpha = 1.0', "keeps_nan = true", "per_channel = true"])
@pytest.mark.parametrize("refit", [False, True], ids=["as cut", "refitted"])
def test_every_mask_keeps_its_rate_of_what_reaches_it(words: str, refit: bool) -> None:
    study = study_of(PLAIN, recipe(words, refit))
    rates = {"a1": 0.25, "a2": 0.4}
    candidate = applying.apply(study, planned(study, [0.7, 0.5, 0.5], list(rates.values())))
    masked = masked_of(candidate)
    assert masked.masks.keys() == rates.keys()
    for tensor, rate in rates.items():
        slack = 0.05 if "per_channel" in words else 0.02
        assert masked.account.densities[tensor] == pytest.approx(rate, rel=slack)
    assert bool(candidate.judged) == refit


def test_a_stage_of_a_residual_network_has_one_rate_and_each_activation_its_own_threshold() -> None:
    study = STUDIES["residual"]
    masked = masked_of(applying.apply(study, planned(study, [0.5] * 6, [0.25] * 3)))
    group = activations_of(study).found.groups["a1 winners"]
    thresholds = []
    for member in group:
        mask = masked.masks[member.tensor]
        assert isinstance(mask, Static)
        thresholds.append(float(mask.thresholds[0]))
    assert len(set(thresholds)) == len(group) == 3


def test_labels_bound_the_rates_and_without_them_all_are_offered() -> None:
    def offered(study: Study) -> list[int]:
        groups = activations_of(study).found.groups
        return [sum(len(ladder) for ladder in menu.ladders) for menu in study.menus if menu.site in groups]

    bounded = offered(study_of(PLAIN, recipe("most_drop = 0.001"), labels=True))
    assert sum(bounded) < sum(offered(STUDIES["plain"]))
    assert offered(study_of(PLAIN, recipe("most_drop = 1.1"), labels=True)) == offered(STUDIES["plain"])


def test_the_curves_of_a_plan_are_those_of_its_weights_and_go_into_the_report() -> None:
    study = STUDIES["plain"]
    (first, second) = pipeline.allocate(study, {"macs": limit(study, 0.3)}).sensitivity
    assert first["tensors"] == ["a1"]
    assert second["tensors"] == ["a2"]
    assert first["metric"] == "agreement"
    assert first["before"]["distortion"] > 0
    assert [point["rate"] for point in first["points"]] == [0.8, 0.6, 0.4, 0.25, 0.1]


def test_layers_that_are_left_out_take_the_activations_that_they_read_with_them() -> None:
    study = study_of(PLAIN, exclude="Conv_c2")
    assert list(activations_of(study).found.groups) == ["a2 winners"]
    (refusal,) = [refusal for refusal in study.refusals if refusal.site == "a1"]
    assert "'Conv_c2' reads it: --exclude" in refusal.reason


def test_activations_that_are_zero_everywhere_cost_nothing_and_are_offered_nothing() -> None:
    silent = study_of(PLAIN.replace("a1 = Relu (c1)", "n1 = Abs (c1) m1 = Neg (n1) a1 = Relu (m1)"))
    assert activations_of(silent).rates.densities["a1"] <= 1e-5
    (menu,) = [menu for menu in silent.menus if menu.site == "a1 winners"]
    assert menu.ladders == ()
    candidate = applying.apply(silent, pipeline.allocate(silent, {"macs": 0.5 * silent.cost("macs")}))
    left = {layer.layer: layer for layer in masked_of(candidate).account.layers}
    assert left["Conv_c2"].paper == left["Conv_c2"].counted == 0
    assert masked_of(candidate).account.silent["a1"] == 4


def test_a_network_that_gives_nan_is_refused() -> None:
    study = STUDIES["plain"]
    broken = [({"x": np.full((4, 3, 8, 8), np.nan, np.float32)}, None)]
    with pytest.raises(UsageError, match="expected finite"):
        pipeline.price_activations(study, broken)


@pytest.mark.parametrize(("words", "passes"), [("", False), ("keeps_nan = true", True)])
def test_nan_pass_the_finished_model_where_it_is_asked_for(words: str, passes: bool) -> None:
    study = study_of(PLAIN.replace("a2 = LeakyRelu <alpha = 0.25> (c2)", "a2 = Identity (c2)"), recipe(words))
    finished = masked_of(applying.apply(study, planned(study, [1.0, 0.5, 1.0], [0.6, 0.6]))).expected
    x = floats(1, 1, 3, 8, 8)
    x[0, :, 3, 3] = np.nan
    assert np.isnan(run(finished, {"x": x})[0]).any() == passes


def test_a_dynamic_rate_that_a_sample_is_too_small_for_is_not_offered() -> None:
    def lowest(alpha: float) -> list[float]:
        plain = recipe()
        words = {"form": "dynamic", "alpha": alpha, "rates": (0.4, 0.02)}
        asked = plain.model_copy(update={"winners": plain.winners.model_copy(update=words)})
        return [offered[-1] for offered in activations_of(study_of(PLAIN, asked)).rates.offered().values()]

    assert lowest(1.0) == [0.02, 0.02]
    assert lowest(0.1) == [0.4, 0.4]


def test_an_activation_that_the_network_gives_out_stays_whole() -> None:
    study = study_of(PLAIN.replace("float[N, 5] y)", "float[N, 5] y, float[N, 4, 8, 8] a1)"))
    assert list(activations_of(study).found.groups) == ["a2 winners"]
    assert "it is an output of the network" in [refusal.reason for refusal in study.refusals if refusal.site == "a1"]


def slow_for(tensor: str) -> Callable[[Model, Model], PairedLatency]:
    """A stopwatch to which the network with one activation masked is slow, and any other one fast."""

    def compare(without: Model, masked: Model) -> PairedLatency:
        given = ({node.outputs[0].name for node in model.graph.nodes} for model in (without, masked))
        lacks, has = (f"{tensor}/lissom_whole" in names for names in given)
        us = np.full(40, 10.0) + np.linspace(0, 0.1, 40)
        return PairedLatency(Samples(us, 1, 1.0), Samples(us * (2.0 if has and not lacks else 0.5), 1, 1.0))

    return compare


def test_the_refit_sees_the_masks_that_stay_and_no_others() -> None:
    study = study_of(PLAIN, recipe(refit=True))
    plan = planned(study, [0.7, 0.5, 0.5], [0.25, 0.4])
    timed = replace(study, activations=replace(activations_of(study), compare=slow_for("a2")))
    found = applying.apply(timed, plan)
    assert masked_of(found).slow == {"a2 winners"}
    assert masked_of(found).masks.keys() == {"a1"}
    (whole,) = [menu.dense for menu in study.menus if menu.site == "a2 winners"]
    alone = applying.apply(study, replace(plan, options={**plan.options, "a2 winners": whole}))
    assert found.model.to_proto().SerializeToString() == alone.model.to_proto().SerializeToString()
    both = applying.apply(study, plan)
    assert found.judged != both.judged
