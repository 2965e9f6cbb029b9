"""What masks cost in distortion, measured on a network whose weights are pruned already.

Each group is swept alone (`sensitivity`); D is the distortion of the outputs against the network that nothing was done
to. What a rate is charged is

    error(rate) = max over milder rates of D(weights and mask) - D(weights),    at least `FLOOR`,

so that what weights and masks do to each other counts as the mask's, and a ladder never falls. Where the samples have
labels, rates at and beyond which the score has dropped too far are not offered.

1. A rate is not offered at which a group has fewer zeros than without a mask.
2. A dynamic rate is not offered where less than one activation of a sample would win (`contract.require_sample`).
3. A sweep of all groups runs on at most `WORK` multiply-accumulates, and on `LEAST_SAMPLES` samples whatever they take.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from lissom_runtime.contract import require_sample
from lissom_runtime.errors import UsageError

from lissom.activations.judge import Judge, Sample
from lissom.activations.rates import PER_MILLE, Rates
from lissom.activations.sensitivity import Curve, MaskAt, check_sensitivity, dynamic_masks, static_masks
from lissom.activations.sites import KIND
from lissom.activations.survey import Found, Group
from lissom.activations.thresholds import Magnitudes, observe_magnitudes
from lissom.graph.model import Model
from lissom.nodes.widths import untimed
from lissom.options import Cost, FloatArray, Ladder, Menu, Option
from lissom.price.outputs import FLOOR
from lissom.recipe_tables import Winners

WORK = 5 * 10**11
"""Multiply-accumulates of a sweep of all groups."""

LEAST_SAMPLES = 16
"""Samples that a sweep sees whatever it costs, where there are as many."""

Magnitude = Mapping[str, Magnitudes]


@dataclass(frozen=True)
class Priced:
    """The winner rates of a network with measured distortions.

    Attributes:
        rates: the sites.
        curves: what was measured, by group.
    """

    rates: Rates
    curves: Sequence[Curve]


def judged_samples(samples: Sequence[Sample], macs: int, groups: int, rates: int) -> list[Sample]:
    """The batches that a sweep runs on: evenly spaced over those that are given.

    Args:
        samples: what there is.
        macs: multiply-accumulates of the network for one sample.
        groups: groups that are swept.
        rates: rates of a sweep.
    """
    size = len(next(iter(samples[0][0].values())))
    most = max(WORK // max(macs * groups * rates, 1), LEAST_SAMPLES)
    batches = min(max(most // size, 1), len(samples))
    return [samples[number * len(samples) // batches] for number in range(batches)]


def price_rates(model: Model, found: Found, menus: Sequence[Menu], asked: Winners, judge: Judge) -> Priced:
    """Sweeps every group on a network.

    Args:
        model: the canonical model with other weights.
        found: its activations.
        menus: those of its layers.
        asked: which rates and masks.
        judge: what the original network's outputs are, and the samples.

    Raises:
        UsageError: an activation or an output is NaN or infinite.
    """
    feeds = [sample[0] for sample in judge.samples]
    known = observe_magnitudes(model, found.sites.sites, feeds, asked.per_channel)
    limit = asked.most_drop if judge.metric == "top1" else math.inf
    densities = {name: density_of(magnitudes) for name, magnitudes in known.items()}
    groups, curves, offered = list(found.groups.values()), [], []
    if groups:
        mask_at = mask_maker(asked, known)
        curves = check_sensitivity(model, groups, found.shapes, mask_at, judge, asked.rates, limit)
    metric = "output_error" if judge.metric == "output" else "output_kl"
    timed = any(menu.dense.cost.latency_us is not None for menu in menus)
    for (site, group), curve in zip(found.groups.items(), curves, strict=True):
        offer = _menu(site, curve, _possible(group, found.shapes, densities, asked), asked.form, metric)
        offered.append(untimed(offer) if timed else offer)
    return Priced(Rates(found.groups, found.sites.read, densities, (*menus, *offered)), curves)


def mask_maker(asked: Winners, known: Magnitude) -> MaskAt:
    """What makes the masks that a recipe asks for, from the magnitudes that were observed."""
    return static_masks(known, asked.keeps_nan) if asked.form == "static" else dynamic_masks(asked.alpha)


def unmeasured(found: Found, menus: Sequence[Menu]) -> Rates:
    """The sites before anything is measured: without options, and without zeros."""
    groups = [Menu(site, _whole(site, ""), ()) for site in found.groups]
    return Rates(found.groups, found.sites.read, {}, (*menus, *groups))


def density_of(magnitudes: Magnitudes) -> float:
    """The share of the magnitudes that are not zero."""
    return 1.0 - float(magnitudes.counts[:, 0].sum()) / max(int(magnitudes.counts.sum()), 1)


def _possible(
    group: Group, shapes: Mapping[str, tuple[int, ...]], densities: Mapping[str, float], asked: Winners
) -> set[float]:
    """The rates that leave fewer of some activation of a group than it has, and that a dynamic mask can find."""
    most = max(densities[site.tensor] for site in group)
    found = {rate for rate in asked.rates if rate < most}
    if asked.form == "dynamic":
        sizes = [math.prod(shapes[site.tensor][1:]) for site in group if len(shapes[site.tensor]) > 1]
        found = {rate for rate in found if any(_can_be_sampled(rate, asked.alpha, size) for size in sizes)}
    return found


def _can_be_sampled(rate: float, alpha: float, size: int) -> bool:
    try:
        require_sample(rate, alpha, size)
    except UsageError:
        return False
    return True


def _menu(site: str, curve: Curve, possible: set[float], form: str, metric: str) -> Menu:
    """What a group may keep; its costs are those of its readers (`rates`)."""
    points = [point for point in curve.points if point.rate >= curve.rate]
    charged = np.maximum.accumulate([max(p.distortion - curve.before.distortion, FLOOR) for p in points] or [FLOOR])
    error = {point.rate: float(worst) for point, worst in zip(points, charged, strict=False)}
    rates = sorted(rate for rate in error if rate in possible)
    whole = _whole(site, metric)
    if not rates:
        return Menu(site, whole, ())
    nothing: FloatArray = np.zeros(len(rates))
    errors: FloatArray = np.array([error[rate] for rate in rates])
    ladder = Ladder(
        site=site,
        kind=KIND,
        parameters={"form": form},
        step_name=PER_MILLE,
        steps=np.array([round(1000 * rate) for rate in rates]),
        error=errors,
        error_at_zero=float(errors[0]),
        params=nothing,
        bytes=nothing,
        macs=nothing,
        metric=metric,
    )
    return Menu(site, whole, (ladder,))


def _whole(site: str, metric: str) -> Option:
    """No mask."""
    return Option(site, "dense", {}, Cost(0.0, 0.0, 0.0), 0.0, metric)
