"""Which channel groups a model has, and what each may keep.

A group is offered when

1. its channels can be cut (`lissom.graph.channels`, `nodes.groups`);
2. the user's regular expressions find every layer that gives them;
3. some layer reads them, and all that do have float32 weights and, for a method that needs data, a known moment.

Counts keep channels in multiples of the target's block; all of them always may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

from lissom.asked import not_asked_for
from lissom.canonical import Canonical
from lissom.graph.channels.coupling import Coupling, couple, tensors_with_shapes
from lissom.graph.layers import Layer, activations, geometry_of
from lissom.graph.model import Node
from lissom.nodes.between import between
from lissom.nodes.groups import KIND, ChannelGroup, find_groups
from lissom.nodes.readers import Reader, find_readers
from lissom.nodes.scores import NORMS, Method, Ranking, rank
from lissom.nodes.widths import KEPT, Part, Widths, site_of
from lissom.observe import Moment, observe_shapes
from lissom.options import Cost, Ladder, Menu, Option, Refusal
from lissom.parallel import SERIAL, Workers, map_in_parallel, within
from lissom.progress import Progress, silent


@dataclass(frozen=True)
class Found:
    """The channel groups of a model, before anything is known of their inputs.

    Attributes:
        coupling: which channels are one.
        readers: the layers of the groups, by name.
        groups: the groups that the user asked for.
        shapes: shapes of the model's tensors.
        refusals: what was declined.
    """

    coupling: Coupling
    readers: Mapping[str, Reader]
    groups: Sequence[ChannelGroup]
    shapes: Mapping[str, tuple[int, ...]]
    refusals: Sequence[Refusal]

    @property
    def layers(self) -> list[Layer]:
        """The layers whose inputs' moments count."""
        return [reader.layer for reader in self.readers.values()]


def survey(canonical: Canonical, include: str | None = None, exclude: str | None = None) -> Found:
    """Finds the channel groups of a model.

    Args:
        canonical: the model.
        include: regular expression; every layer that gives a group's channels must match.
        exclude: regular expression; none of them may.
    """
    model = canonical.model
    shapes = observe_shapes(model, [*tensors_with_shapes(model), *activations(model)], canonical.feeds)
    coupling = couple(model, shapes)
    found = find_groups(coupling)
    groups, refusals = [], list(found.refusals)
    for group in found.groups:
        reasons = [not_asked_for(layer, include, exclude) for layer in (*group.rows, *group.through)]
        reason = next((reason for reason in reasons if reason is not None), None)
        if reason is None and not group.columns:
            reason = "no layer reads its channels"
        if reason is None:
            groups.append(group)
        else:
            refusals.append(Refusal(group.name, KIND, reason))
    return Found(coupling, find_readers(model, coupling, canonical.layers), groups, shapes, refusals)


def offer_widths(
    canonical: Canonical,
    found: Found,
    menus: Sequence[Menu],
    moments: Mapping[str, Moment],
    method: Method,
    block: int,
    workers: Workers = SERIAL,
    progress: Progress = silent,
) -> tuple[Widths, list[Refusal]]:
    """Ranks the groups, and offers what each may keep.

    Args:
        canonical: the model.
        found: its groups.
        menus: those of its layers.
        moments: mean and second moment of the readers' inputs.
        method: how indices are ranked.
        block: channels are kept in multiples of this.
        workers: who ranks, where they are threads of this process; the rankings are the same whoever does.
        progress: shows the groups as they are done.

    Returns:
        The widths, with the menus of layers and groups, and what was declined.
    """
    groups, refusals = {}, list(found.refusals)
    for group in found.groups:
        lacking = _lacking(group, found, moments, method)
        if lacking is None:
            groups[site_of(group)] = group
        else:
            refusals.append(Refusal(group.name, KIND, lacking))
    parts = _parts(canonical, found, groups, menus)
    rankings, offered = {}, []
    sizes = {site: len(group) for site, group in groups.items()}
    ranked = map_in_parallel(partial(_rank, found.readers, moments, method), groups.values(), within(workers))
    for (site, group), ranking in zip(progress(list(groups.items()), "ranking channels"), ranked, strict=True):
        rankings[site] = ranking
        offered.append(_menu(site, group, rankings[site], block, parts, sizes))
    everything = (*menus, *offered)
    others = between(canonical.model, found.coupling, groups, found.shapes)
    return Widths(found.coupling, found.readers, groups, rankings, moments, parts, everything, others), refusals


def _rank(readers: Mapping[str, Reader], moments: Mapping[str, Moment], method: Method, group: ChannelGroup) -> Ranking:
    return rank(group, readers, moments, method)


def _lacking(group: ChannelGroup, found: Found, moments: Mapping[str, Moment], method: Method) -> str | None:
    for layer in group.columns:
        if layer not in found.readers:
            return f"{layer!r} reads it, whose weight is no float32 constant"
        if method not in NORMS and layer not in moments:
            return f"{layer!r} reads it, whose second moment is beyond the memory for all of them"
    return None


def _share(part: Part, site: str, sizes: Mapping[str, int]) -> float:
    """The share of a layer without a menu that one index of a group bears (`widths`)."""
    others = 1.0 - sum(share * sizes[own] for own, share in part.rows.items())
    return part.rows.get(site, 0.0) + others * part.columns.get(site, 0.0)


def _menu(
    site: str, group: ChannelGroup, ranking: Ranking, block: int, parts: Mapping[str, Part], sizes: Mapping[str, int]
) -> Menu:
    """What a group may keep; costs are those of the layers that it bears."""
    everything = len(group)
    steps = group.counts(block)
    steps = steps[steps < everything]
    each = [part.cost.times(_share(part, site, sizes)) for part in parts.values() if not part.charged]
    one = Cost(sum(cost.params for cost in each), sum(cost.bytes for cost in each), sum(cost.macs for cost in each))
    dense = one.times(everything)
    ladder = Ladder(
        site=site,
        kind=KIND,
        parameters={},
        step_name=KEPT,
        steps=steps,
        error=ranking.errors[everything - steps],
        error_at_zero=float(ranking.errors[-1]),
        params=np.float64(one.params) * steps,
        bytes=np.float64(one.bytes) * steps,
        macs=np.float64(one.macs) * steps,
        metric="output_energy",
    )
    kept = Option(site, "dense", {}, dense, 0.0, "output_energy")
    return Menu(site, kept, (ladder,) if len(steps) else ())


def _parts(
    canonical: Canonical, found: Found, groups: Mapping[str, ChannelGroup], menus: Sequence[Menu]
) -> dict[str, Part]:
    """The layers that are in some group."""
    charged = {menu.site: menu.dense.cost for menu in menus}
    known = {layer.name: layer for layer in canonical.layers}
    parts = {}
    for node in canonical.model.graph.nodes:
        roles = (found.coupling.rows, found.coupling.through, found.coupling.columns)
        if not any(node.name in role for role in roles):
            continue
        rows, columns = {}, {}
        for site, group in groups.items():
            for own, role in ((group.rows, found.coupling.rows), (group.through, found.coupling.through)):
                if node.name in own:
                    rows[site] = own[node.name].shape[1] / len(role[node.name])
            if node.name in group.columns:
                columns[site] = group.columns[node.name].shape[1] / len(found.coupling.columns[node.name])
        cost = charged.get(node.name) or _cost(node, found.shapes)
        timed = None if node.name in charged else known.get(node.name) or _in_groups(node, found.shapes)
        parts[node.name] = Part(cost, rows, columns, node.name in charged, timed)
    return parts


def _in_groups(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> Layer | None:
    """A convolution in groups as it is timed; None for what is none."""
    if node.op != "Conv":
        return None
    weight, source, target = node.inputs[1].values, shapes[node.inputs[0].name], shapes[node.outputs[0].name]
    return Layer(node.name, node.op, node, weight, geometry_of(node, weight, source, target), weight.ndim)


def _cost(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> Cost:
    """What a layer that is no site costs."""
    weight = node.inputs[1].values
    seen = node.inputs[0] if node.op == "ConvTranspose" else node.outputs[0]
    shape = shapes[seen.name]
    axes = weight.ndim - 2
    positions = prod(shape[:-1]) if axes <= 0 else shape[0] * prod(shape[2:])
    return Cost(float(np.count_nonzero(weight)), 4.0 * weight.size, float(weight.size * positions))
