"""Channels that never win, removed with all that makes them.

A layer *hears* an input channel if that is other than zero in some calibration sample, with masks on, and a weight for
it is. Channels that are one in a `Coupling` and that no layer hears are cut: no output on the calibration data changes.
On other data one of them might have won, so few samples remove nothing. What stays:

1. channels that the graph needs (`Coupling.pins`), and the last one of a tensor;
2. those of nodes that the user left out, and of layers whose zeros lie in patterns along their columns;
3. parts of a block of output channels;
4. all of them where a mask is dynamic: its threshold is found among a sample's activations, silent ones too.

What is left must compute what the network does whose weights for the channels are zero, without a mask on either: so no
decision of a mask can hide a defect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from lissom_runtime.errors import VerificationError

from lissom.activations.accounting import Bools
from lissom.activations.insert import Dynamic, Mask, Static
from lissom.activations.prove import like, on_some
from lissom.activations.sites import ActivationSite
from lissom.activations.survey import Found
from lissom.canonical import Canonical
from lissom.data import Feeds
from lissom.graph.channels.coupling import Coupling, couple, tensors_with_shapes
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.observe import observe_shapes, run_batches
from lissom.options import Option
from lissom.rewrite import in_copy, replace_weight
from lissom.sparse.blocks import Blocks
from lissom.sparse.propose import KIND as SPARSE
from lissom.verify import require_same

LEAST_SAMPLES = 128
"""Calibration samples in which a channel must never have won."""


@dataclass(frozen=True)
class Removed:
    """A network without the channels that never win.

    Attributes:
        edited, expected: as they were given, without those channels.
        found: its activations.
        masks: their masks.
        layers: the layers with all channels, whose weights for those that are gone are zero.
        gone: which channels of an activation are gone, as gone[channels], by tensor.
    """

    edited: Model
    expected: Model
    found: Found
    masks: Mapping[str, Mask]
    layers: Sequence[Layer]
    gone: Mapping[str, Bools]


def remove_silent(
    whole: Canonical,
    found: Found,
    masks: Mapping[str, Mask],
    edited: Model,
    expected: Model,
    options: Mapping[str, Option],
    batches: Sequence[Feeds],
) -> Removed | None:
    """Cuts the channels that never win; None where there are none.

    Args:
        whole: the network with its masks.
        found: its activations.
        masks: the masks.
        edited: the network after surgery, without masks; it is not changed.
        expected: what it must compute, without masks; it is not changed.
        options: the plan's options for the layers.
        batches: calibration samples, batch by batch.

    Raises:
        VerificationError: the network computes something else without them (a defect of the rules).
    """
    samples = sum(len(next(iter(feeds.values()))) for feeds in batches)
    if samples < LEAST_SAMPLES or any(isinstance(mask, Dynamic) for mask in masks.values()):
        return None
    coupling = _couple(expected, whole.feeds)
    heard = {layer.name: _weighed(layer) & wins for layer, wins in _winning(whole, batches)}
    gone = silent_roots(coupling, whole.layers, heard, options, found.left_out)
    if not gone.any():
        return None
    layers = [_without(layer, coupling, gone) for layer in whole.layers]
    narrow, copy = (_cut(model, coupling, gone, whole.feeds) for model in (edited, expected))
    _require_unheard(layers, expected, copy, like(whole.feeds, batches))
    tensors = [site.tensor for site in found.sites.sites]
    leaves = {
        site.tensor: gone_of for site in found.sites.sites if (gone_of := _leaves(site, found, coupling, gone)).any()
    }
    shapes = observe_shapes(copy, tensors, whole.feeds)
    return Removed(
        narrow,
        copy,
        replace(found, shapes=shapes),
        {name: _narrowed(mask, leaves[name]) if name in leaves else mask for name, mask in masks.items()},
        layers,
        leaves,
    )


def silent_roots(
    coupling: Coupling,
    layers: Sequence[Layer],
    heard: Mapping[str, Bools],
    options: Mapping[str, Option],
    left_out: Collection[str],
) -> Bools:
    """Which channels can go, as gone[atoms], true at their roots.

    Args:
        coupling: which channels are one.
        layers: the layers.
        heard: heard[in channels] of each, by name; what else reads channels hears them all.
        options: the plan's options for the layers.
        left_out: names of the nodes that are not asked for.
    """
    gone = np.zeros(len(coupling.roots), np.bool_)
    for roots in coupling.columns.values():
        gone[roots] = True
    gone[list(coupling.pins)] = False
    for name, roots in coupling.columns.items():
        gone[roots[heard.get(name, np.ones(len(roots), np.bool_))]] = False
    stay = set(left_out)
    heights: dict[str, int] = {}
    for layer in layers:
        option = options.get(layer.name)
        if option is not None and option.kind == SPARSE:
            blocks = Blocks.named(layer.geometry, option.parameters)
            heights[layer.name] = blocks.height
            if blocks.width > 1 or blocks.few is not None:
                stay.add(layer.name)
    for places in (coupling.rows, coupling.columns, coupling.through):
        for name in stay & places.keys():
            gone[places[name]] = False
    left = -1
    while left != (left := int(np.count_nonzero(gone))):
        for name, roots in coupling.rows.items():
            blocks_of = roots.reshape(-1, heights.get(name, 1))
            gone[blocks_of[~gone[blocks_of].all(axis=1)]] = False
        for channels in coupling.tensors.values():
            roots = coupling.roots[channels.atoms]
            if len(roots) and gone[roots].all():
                gone[roots[0]] = False
    return gone


def _couple(model: Model, feeds: Feeds) -> Coupling:
    return couple(model, observe_shapes(model, tensors_with_shapes(model), feeds))


def _weighed(layer: Layer) -> Bools:
    """Which input channels have a weight other than zero."""
    found: Bools = (np.moveaxis(layer.weight, 1, 0) != 0).reshape(layer.weight.shape[1], -1).any(axis=1)
    return found


def _winning(whole: Canonical, batches: Sequence[Feeds]) -> list[tuple[Layer, Bools]]:
    """Which input channels of each layer are other than zero somewhere."""
    won = {layer.name: np.zeros(layer.weight.shape[1], np.bool_) for layer in whole.layers}
    names = list(dict.fromkeys(layer.source.name for layer in whole.layers))
    for values in run_batches(whole.model, names, batches):
        for layer in whole.layers:
            axis = 1 if layer.geometry.kernel_shape else -1
            kept = np.moveaxis(values[layer.source.name] != 0, axis, 0)
            won[layer.name] |= kept.reshape(len(kept), -1).any(axis=1)
    return [(layer, won[layer.name]) for layer in whole.layers]


def _without(layer: Layer, coupling: Coupling, gone: Bools) -> Layer:
    """A layer whose weights for what is gone are zero."""
    weight = layer.weight.copy()
    if layer.name in coupling.rows:
        weight[gone[coupling.rows[layer.name]]] = 0
    if layer.name in coupling.columns:
        weight[:, gone[coupling.columns[layer.name]]] = 0
    return replace(layer, weight=weight)


def _cut(model: Model, coupling: Coupling, gone: Bools, feeds: Feeds) -> Model:
    """A copy of a model, which has the same nodes as the one that was coupled, without some channels."""
    copy = model.copy()
    own = _couple(copy, feeds)
    if not np.array_equal(own.roots, coupling.roots):
        raise VerificationError("expected the channels of one network before and after surgery, but they differ")
    own.remove(copy, np.flatnonzero(gone))
    return copy


def _require_unheard(layers: Sequence[Layer], expected: Model, narrow: Model, inputs: Iterable[Feeds]) -> None:
    """Compares a network without channels with the one whose weights for them are zero, as `prove` does."""
    zeroed = expected.copy()
    for layer in layers:
        replace_weight(in_copy(zeroed, layer), layer.weight)
    on_some(lambda feeds: require_same(zeroed, narrow, feeds, "the model without the channels that never win"), inputs)


def _leaves(site: ActivationSite, found: Found, coupling: Coupling, gone: Bools) -> Bools:
    """Which channels of an activation go: none where its channels are not those that are coupled."""
    channels = coupling.tensors.get(site.tensor)
    if channels is None or channels.axis != site.axis % len(found.shapes[site.tensor]):
        return np.zeros(0, np.bool_)
    return gone[coupling.roots[channels.atoms]]


def _narrowed(mask: Mask, leaves: Bools) -> Mask:
    """The mask of an activation without some channels; one of a single channel lets NaN pass as that of many did."""
    if not isinstance(mask, Static) or len(mask.thresholds) == 1:
        return mask
    return replace(mask, thresholds=mask.thresholds[~leaves], keeps_nan=True)
