"""The masks of a plan: their thresholds, found on the network that they go into.

A mask changes what the masks behind it see. So static thresholds are found in `SWEEPS` passes over the data, each with
the thresholds of the last one in place: those of the first are of the network without masks. A dynamic mask finds its
own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lissom.activations.insert import Dynamic, Mask, Static, insert, whole_name
from lissom.activations.survey import Found
from lissom.activations.thresholds import Magnitudes, observe_magnitudes
from lissom.data import Feeds
from lissom.graph.model import Model
from lissom.recipe_tables import Winners

SWEEPS = 2
"""Passes over the calibration data."""


def find_masks(
    model: Model, found: Found, rates: Mapping[str, float], asked: Winners, batches: Sequence[Feeds]
) -> dict[str, Mask]:
    """The masks at some winner rates, by tensor.

    Args:
        model: the network that they go into, without masks.
        found: its activations.
        rates: winner rate of each tensor that is masked.
        asked: which masks.
        batches: calibration samples, batch by batch.

    Raises:
        UsageError: an activation is NaN or infinite.
    """
    if asked.form == "dynamic":
        return {tensor: Dynamic(rate, asked.alpha) for tensor, rate in rates.items()}
    masks: dict[str, Mask] = {}
    for _ in range(SWEEPS if rates else 0):
        known = _observe_before(model, found, rates, masks, asked, batches)
        masks = {tensor: Static(known[tensor].thresholds(rate), asked.keeps_nan) for tensor, rate in rates.items()}
    return masks


def _observe_before(
    model: Model,
    found: Found,
    rates: Mapping[str, float],
    masks: Mapping[str, Mask],
    asked: Winners,
    batches: Sequence[Feeds],
) -> dict[str, Magnitudes]:
    """The magnitudes of activations in front of their masks."""
    copy = model.copy()
    apart = {name: replace(mask, keeps_nan=True) for name, mask in masks.items() if isinstance(mask, Static)}
    declined = {refusal.site for refusal in insert(copy, found.sites.sites, apart, found.shapes)}
    names = {name: whole_name(name) if name in apart and name not in declined else name for name in rates}
    sites = [replace(site, tensor=names[site.tensor]) for site in found.sites.sites if site.tensor in rates]
    known = observe_magnitudes(copy, sites, batches, asked.per_channel)
    return {name: known[seen] for name, seen in names.items()}
