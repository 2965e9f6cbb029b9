"""Which activations of a model have one winner rate, and which of them the user asked for.

A group (`sites.by_stage`) is offered when the user's regular expressions find every layer that reads it. The zeros that
an activation has without a mask count for every layer, offered or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lissom.activations.sites import KIND, ActivationSite, Sites, by_stage, find_sites
from lissom.asked import not_asked_for
from lissom.canonical import Canonical
from lissom.observe import observe_shapes
from lissom.options import Refusal

Group = Sequence[ActivationSite]


@dataclass(frozen=True)
class Found:
    """The activations of a model.

    Attributes:
        sites: those that could be pruned.
        groups: those that the user asked for, by the name of their site.
        shapes: shape of each site's tensor at the observed input.
        refusals: what was declined.
        left_out: the nodes that the user did not ask for, layers and others.
    """

    sites: Sites
    groups: Mapping[str, Group]
    shapes: Mapping[str, tuple[int, ...]]
    refusals: Sequence[Refusal]
    left_out: frozenset[str] = frozenset()


def survey(canonical: Canonical, include: str | None = None, exclude: str | None = None) -> Found:
    """Finds the activations of a model.

    Args:
        canonical: the model.
        include: regular expression; every layer that reads a group must match.
        exclude: regular expression; none of them may.
    """
    sites = find_sites(canonical.model, canonical.layers)
    shapes = observe_shapes(canonical.model, [site.tensor for site in sites.sites], canonical.feeds)
    reasons = {node.name: not_asked_for(node.name, include, exclude) for node in canonical.model.graph.nodes}
    groups, refusals = {}, list(sites.refusals)
    for group in by_stage(canonical.model, sites.sites, shapes):
        readers = [layer for site in group for layer in site.readers]
        left_out = [layer for layer in readers if reasons[layer] is not None]
        if not left_out:
            groups[site_of(group)] = group
            continue
        reason = f"{left_out[0]!r} reads it: {reasons[left_out[0]]}"
        refusals += [Refusal(site.tensor, KIND, reason) for site in group]
    return Found(sites, groups, shapes, refusals, frozenset(name for name, why in reasons.items() if why is not None))


def site_of(group: Group) -> str:
    """The name of a group among the sites, where layers have theirs."""
    return f"{group[0].tensor} winners"
