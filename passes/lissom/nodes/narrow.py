"""A plan's channels removed from the canonical model, proven.

1. What reads the channels that go is refitted to do without them (`nodes.apply.refit`): its weights for them become 0,
   all shapes stay.
2. With calibration samples, all layers are then fitted one after another to what the original network computes, on what
   the changed one gives (`refitting.refit`); zeros stay.
3. The channels are cut. The narrow model must compute what the one with zeros did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lissom.canonical import Canonical, canonical_of
from lissom.data import Feeds
from lissom.graph.model import Model
from lissom.nodes.apply import refit as without_channels
from lissom.nodes.apply import removed
from lissom.nodes.groups import KIND
from lissom.nodes.widths import Widths
from lissom.options import Option, Plan, Refusal
from lissom.refitting.fit import Dense, Ridge
from lissom.refitting.norms import put_norms
from lissom.refitting.refit import Judged, Refitted, refit
from lissom.rewrite import own_bias
from lissom.verify import require_same
from lissom.version import __version__


@dataclass(frozen=True)
class Narrow:
    """The model with a plan's channels removed.

    Attributes:
        canonical: the narrow model, to whose layers the plan's other options can be applied.
        max_difference: to the model with zeros in their place, relative to the largest output.
        refusals: what was declined.
        judged: what came of the refit of each layer that was tried.
    """

    canonical: Canonical
    max_difference: float
    refusals: Sequence[Refusal]
    judged: Mapping[str, Judged] = field(default_factory=dict)


def narrow(
    canonical: Canonical,
    widths: Widths,
    plan: Plan,
    batches: Sequence[Feeds] = (),
    rounds: int = 3,
    ridge: Ridge = 0.01,
) -> Narrow:
    """Removes the channels that a plan does not keep.

    Args:
        canonical: the model.
        widths: its channel groups.
        plan: what is kept of each.
        batches: calibration samples for the refit of all layers; without any there is none.
        rounds: how often the refit's bound is renewed where a layer's tail clips.
        ridge: how much a refitted weight is held to what it was, as `refitting.refit.refit` takes it.

    Raises:
        UsageError: an activation is NaN or infinite.
        VerificationError: the narrow model computes something else (a defect of the rules).
    """
    groups = list(widths.groups.values())
    gone, refusals = removed(groups, widths.kept(plan))
    zeroed = canonical.model.copy()
    refusals += without_channels(zeroed, groups, gone, widths.readers, widths.moments)
    done = _fitted(canonical, zeroed, widths, batches, rounds, ridge) if batches else Refitted()
    cut = zeroed.copy()
    roots = [group.roots[gone[group.name]] for group in groups if group.name in gone]
    widths.coupling.remove(cut, np.concatenate(roots))
    difference = require_same(zeroed, cut, canonical.feeds, "the model without channels")
    _tell(cut, canonical.model, widths)
    return Narrow(canonical_of(cut, canonical), difference, [*refusals, *done.refusals], done.judged)


def _fitted(
    canonical: Canonical, zeroed: Model, widths: Widths, batches: Sequence[Feeds], rounds: int, ridge: Ridge
) -> Refitted:
    """Fits the layers of the model with zeros, in place, to the original."""
    now = {layer.name: layer for layer in canonical_of(zeroed, canonical).layers}
    layers = [replace(layer, weight=now[layer.name].weight) for layer in canonical.layers]
    start = {
        layer.name: Dense(now[layer.name].weight, own_bias(now[layer.name]))
        for layer in canonical.layers
        if not np.array_equal(now[layer.name].weight, layer.weight)
    }
    known = [layer.name for layer in layers if layer.name in widths.readers]
    options = {name: Option(name, "dense", {}, widths.parts[name].cost, 0.0, "") for name in known}
    before = {node.name: node for node in canonical.model.graph.nodes}
    elsewhere = [
        node.outputs[0].name
        for node in zeroed.graph.nodes
        if node.name in widths.readers
        and node.name not in now
        and not np.array_equal(node.inputs[1].values, before[node.name].inputs[1].values)
    ]
    done = refit(canonical.model, layers, options, start, batches, {}, rounds, ridge, zeroed, elsewhere)
    for name, found in done.fits.items():
        numbers = found.result
        widths.readers[name].write(now[name].node, numbers.weight.reshape(len(numbers.weight), -1), numbers.bias)
    put_norms(zeroed, done.norms)
    return done


def _tell(cut: Model, before: Model, widths: Widths) -> None:
    """Notes at every layer that became narrower how wide it was."""
    shapes = {node.name: node.inputs[1].shape for node in before.graph.nodes if node.name in widths.parts}
    for node in cut.graph.nodes:
        old = shapes.get(node.name)
        if old is not None and node.inputs[1].shape != old:
            size = "×".join(str(extent) for extent in old)
            cut.set_provenance(
                node, {"kind": KIND, "from": node.name, "parameters": {"weight": size}, "lissom": __version__}
            )
