"""Channels that never win on the calibration data, cut out of the finished network.

A channel that is zero behind its mask in every calibration sample adds nothing to what is read of it, so that all that
makes it and all that reads it can go (`graph.channels`), and no output on the calibration data changes. On other data
it might have won. Channels that are one in a `Coupling` go together, and stay if

1. a layer reads one of them from an activation in which it was heard, or from what is no site;
2. a depthwise convolution reads it: what that gives is its bias, not zero;
3. it is pinned, or the last channel of a tensor;
4. a mask is dynamic: with fewer channels it would look at others.

What is left must compute what the network with all channels does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lissom.activations.accounting import Account, account
from lissom.activations.finish import Finish, Masked, counted, finished
from lissom.activations.insert import Dynamic, Mask, Static, insert
from lissom.activations.prove import like, on_some
from lissom.activations.sites import find_sites
from lissom.activations.survey import Found
from lissom.canonical import Canonical, canonical_of
from lissom.data import Feeds
from lissom.graph.channels.coupling import Coupling, couple, tensors_with_shapes
from lissom.graph.layers import Layer, activations
from lissom.graph.model import Model
from lissom.observe import observe_shapes, run_batches
from lissom.options import IntArray
from lissom.verify import require_same


def without_silent(
    canonical: Canonical,
    found: Found,
    put: Masked,
    edited: Model,
    expected: Model,
    finish: Finish,
    batches: Sequence[Feeds],
) -> Masked:
    """A network with masks without the channels that never win; the same one where there are none.

    Args:
        canonical: the model before all surgery.
        found: its activations.
        put: the network with masks and all channels.
        edited: the network after surgery, without masks; it is not changed.
        expected: what it must compute, without masks; it is not changed.
        finish: does what comes after.
        batches: calibration samples, batch by batch; all of them are heard.

    Raises:
        VerificationError: the network computes something else without them (a defect of the rules).
    """
    if any(isinstance(mask, Dynamic) for mask in put.masks.values()):
        return put
    model = canonical.model
    shapes = observe_shapes(model, [*tensors_with_shapes(model), *activations(model)], canonical.feeds)
    coupling = couple(model, shapes)
    gone = silent_roots(coupling, found, put.expected, batches)
    if not len(gone):
        return put
    narrow, copy = edited.copy(), expected.copy()
    for changed in (narrow, copy):
        coupling.remove(changed, gone)
    masks = {name: _narrowed(mask, name, coupling, gone) for name, mask in put.masks.items()}
    tensors = [site.tensor for site in found.sites.sites]
    narrower = replace(found, shapes=observe_shapes(copy, tensors, canonical.feeds))
    done, refusals = finished(narrower, masks, narrow, finish)
    insert(copy, found.sites.sites, masks, narrower.shapes)
    inputs = like(canonical.feeds, batches)
    on_some(lambda feeds: require_same(put.expected, copy, feeds, "the model without silent channels"), inputs)
    return replace(
        put, edited=done, expected=copy, account=_account(canonical, coupling, gone, put, batches), refusals=refusals
    )


def silent_roots(coupling: Coupling, found: Found, masked: Model, batches: Sequence[Feeds]) -> IntArray:
    """The channels that can go, by their roots, ascending.

    Args:
        coupling: which channels are one.
        found: the activations.
        masked: the network with masks.
        batches: what it is run on.
    """
    silent = {name: set(np.unique(roots)) for name, roots in _silent(coupling, found, masked, batches).items()}
    heard = {int(root) for roots in coupling.through.values() for root in roots} | set(coupling.pins)
    for layer, columns in coupling.columns.items():
        heard |= set(columns.tolist()) - silent.get(found.sites.read.get(layer, ""), set())
    gone = set().union(*silent.values()) - heard
    for channels in coupling.tensors.values():
        roots = coupling.roots[channels.atoms]
        if gone.issuperset(roots.tolist()):
            gone.discard(int(roots[0]))
    return np.array(sorted(gone), np.int64)


def _silent(coupling: Coupling, found: Found, masked: Model, batches: Sequence[Feeds]) -> Mapping[str, IntArray]:
    """The roots of the channels of each activation that are zero in every sample, by tensor."""
    names = [site.tensor for site in found.sites.sites if site.tensor in coupling.tensors]
    loud: dict[str, set[int]] = {name: set() for name in names}
    for values in run_batches(masked, names, batches):
        for name in names:
            channels = coupling.tensors[name]
            kept = np.moveaxis(values[name] != 0, channels.axis, 0)
            some = kept.reshape(len(kept), -1).any(axis=1)
            loud[name].update(coupling.roots[channels.atoms][some].tolist())
    found_roots = {name: coupling.roots[coupling.tensors[name].atoms] for name in names}
    return {name: roots[~np.isin(roots, list(loud[name]))] for name, roots in found_roots.items()}


def _narrowed(mask: Mask, tensor: str, coupling: Coupling, gone: IntArray) -> Mask:
    """The mask of an activation without some channels."""
    if not isinstance(mask, Static) or len(mask.thresholds) == 1:
        return mask
    return replace(mask, thresholds=mask.thresholds[~_is_gone(coupling, tensor, gone)])


def _is_gone(coupling: Coupling, tensor: str, gone: IntArray) -> npt.NDArray[np.bool_]:
    """Which channels of a tensor go."""
    return np.isin(coupling.roots[coupling.tensors[tensor].atoms], gone)


def _account(
    canonical: Canonical, coupling: Coupling, gone: IntArray, put: Masked, batches: Sequence[Feeds]
) -> Account:
    """What is left of the dense layers: the weights that went with a channel count as zeros."""
    whole = canonical_of(put.expected, canonical)
    sites = find_sites(whole.model, whole.layers)
    left = account(whole.model, [_zeroed(layer, coupling, gone) for layer in whole.layers], sites, counted(batches))
    removed = {name: int(_is_gone(coupling, name, gone).sum()) for name in left.silent if name in coupling.tensors}
    return replace(left, silent={name: count - removed.get(name, 0) for name, count in left.silent.items()})


def _zeroed(layer: Layer, coupling: Coupling, gone: IntArray) -> Layer:
    weight = layer.weight.copy()
    if layer.name in coupling.rows:
        weight[np.isin(coupling.rows[layer.name], gone)] = 0
    if layer.name in coupling.columns:
        weight[:, np.isin(coupling.columns[layer.name], gone)] = 0
    return replace(layer, weight=weight)
