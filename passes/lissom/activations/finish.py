"""The finished network of a plan with masks, what it must compute, and what is left of it.

Masks go into the network behind surgery, before its layers are packed, so that an operator takes in the threshold
behind it. The same masks go into the original graph with the plan's weights: the two must compute the same, and in the
second one everything is counted, because its layers are still layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lissom.activations.accounting import Account, account
from lissom.activations.insert import Mask, insert
from lissom.activations.silent import Removed, remove_silent
from lissom.activations.sites import find_sites
from lissom.activations.survey import Found
from lissom.canonical import Canonical, canonical_of
from lissom.data import Feeds
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.options import Option, Refusal

COUNTED_SAMPLES = 128
"""Calibration samples that multiplications are counted on, in whole batches, at least one, evenly spaced."""

Finish = Callable[[Model], Sequence[Refusal]]
"""What is done to a network in place behind surgery; gives what was declined."""


@dataclass(frozen=True)
class Masked:
    """A network with masks.

    Attributes:
        edited: finished.
        expected: what it must compute, in layers.
        masks: the masks, by tensor.
        slow: the groups whose masks were left out because they do not make the network faster (`worth`).
        layers: the layers of `expected`.
        account: what is left of the layers, those of channels that were removed among them.
        refusals: what was declined.
    """

    edited: Model
    expected: Model
    masks: Mapping[str, Mask]
    slow: frozenset[str]
    layers: Sequence[Layer]
    account: Account
    refusals: Sequence[Refusal]


def put_masks(
    canonical: Canonical,
    found: Found,
    masks: Mapping[str, Mask],
    edited: Model,
    expected: Model,
    options: Mapping[str, Option],
    finish: Finish,
    batches: Sequence[Feeds],
    removes: bool,
) -> Masked:
    """Puts masks into a network, removes the channels that never win, and finishes it.

    Args:
        canonical: the model before all surgery.
        found: its activations.
        masks: what is masked, by tensor.
        edited: the network after surgery; it is not changed.
        expected: what it must compute; it is not changed.
        options: the plan's options for the layers.
        finish: does what comes after.
        batches: calibration samples, batch by batch.
        removes: whether channels that never win go.

    Raises:
        VerificationError: without those channels it computes something else (a defect of the rules).
    """
    copy = expected.copy()
    declined = {refusal.site for refusal in insert(copy, found.sites.sites, masks, found.shapes)}
    inserted = {name: mask for name, mask in masks.items() if name not in declined}
    whole = canonical_of(copy, canonical)
    removed = remove_silent(whole, found, masks, edited, expected, options, batches) if removes else None
    left = _account(whole, removed, batches)
    if removed is None:
        done, refusals = finished(found, masks, edited, finish)
        return Masked(done, copy, inserted, frozenset(), whole.layers, left, refusals)
    found, masks = removed.found, removed.masks
    done, refusals = finished(found, masks, removed.edited, finish)
    declined = {refusal.site for refusal in insert(removed.expected, found.sites.sites, masks, found.shapes)}
    inserted = {name: mask for name, mask in masks.items() if name not in declined}
    layers = canonical_of(removed.expected, canonical).layers
    return Masked(done, removed.expected, inserted, frozenset(), layers, left, refusals)


def finished(found: Found, masks: Mapping[str, Mask], edited: Model, finish: Finish) -> tuple[Model, list[Refusal]]:
    """A network after surgery with masks, finished, and what was declined; `edited` is not changed."""
    copy = edited.copy()
    refusals = insert(copy, found.sites.sites, masks, found.shapes)
    return copy, [*refusals, *finish(copy)]


def _account(whole: Canonical, removed: Removed | None, batches: Sequence[Feeds]) -> Account:
    """What is left of the layers of a network with masks and all channels."""
    layers, gone = (whole.layers, {}) if removed is None else (removed.layers, removed.gone)
    return account(whole.model, layers, find_sites(whole.model, whole.layers), counted(batches), gone)


def counted(batches: Sequence[Feeds]) -> list[Feeds]:
    """The batches that multiplications are counted on: evenly spaced over those that are given."""
    size = len(next(iter(batches[0].values())))
    most = min(max(COUNTED_SAMPLES // size, 1), len(batches))
    return [batches[number * len(batches) // most] for number in range(most)]
